"""What is said of one method that is trained under eight names, and how steep is the learning curve of real patients?

    python benchmarks/one_method.py ROOT [--trainings 2] [--curve] [--folder FOLDER]

ROOT is the Decathlon's Task04_Hippocampus. 20 patients at 32 × 32: 12 for training, 4 for validation; all others are
test patients. The same baseline is trained several times under each of eight names, with other seeds. Peer in the same
run: Wilcoxon's test with Holm's correction on one training of each name. With --curve, baselines are trained on
sub-datasets of 10 to 80 patients as well, in as many steps, and tested on the patients outside the largest.
Writes results/one_method.json.
"""
import argparse
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from machine import machine, write_results

from medaug.data.datasets import find_dataset
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.data.store import to_original
from medaug.seg.config import UNetConfig
from medaug.seg.dice import dice_score
from medaug.seg.predict import load_unet, predict_patient
from medaug.seg.training import train_unet
from medaug.stats import compare, verdict
from medaug.stats.effects import paired_effects

NAMES = ("BL + w.o.", *(f"B-SG + w.o. + {number}" for number in (1, 2, 3, 4, 5, 6, 7)))
SETTINGS = {"batch": 32, "width": 8, "depth": 3, "learning_rate": 3e-3}
SIZES, EPOCHS = (10, 20, 40, 80), 24


def hippocampus():
    """The row of the Decathlon's Task04."""
    spleen = find_dataset("d-spleen")
    layout = replace(spleen.layout, patients="hippocampus_*")
    return replace(spleen, name="hippocampus", title="D-HIPPOCAMPUS", type="MRI", modalities=("MRI",),
                   classes=("anterior", "posterior"), labels=(1, 2), patients=130, sub_datasets=(20,), window=None,
                   intensity="z-score", tolerance=1.0, layout=layout)


def scores_of(store, split, seed, epochs, folder):
    """The DSC of one training in the original geometry: a row a test patient and class."""
    config = UNetConfig(epochs=epochs, seed=seed, **SETTINGS)
    trained = load_unet(train_unet(store, split, config, folder/f"{len(split.train)}-{seed}", flip=False))
    rows = []
    for id in split.test:
        patient = store.patient(id)
        found = to_original(predict_patient(trained, store, id), patient)
        dsc = dice_score(found, patient.original_labels, len(store.classes)).tolist()
        rows += [(id, name, value) for name, value in zip(store.classes, dsc)]
    return pd.DataFrame(rows, columns=["patient", "class", "dsc"])


def eight_names(store, size, trainings, folder):
    """The long table of one method under eight names; every training has a seed of its own."""
    split, tables = split_patients(store.patients, size, 0, "rest"), []
    for number, (name, training) in enumerate(itertools.product(NAMES, range(trainings))):
        scores = scores_of(store, split, number, EPOCHS, folder)
        tables.append(scores.assign(dataset="D-HIPPOCAMPUS", patients=size, method=name, seed=training))
        print(f"{name}, training {training}: {scores.dsc.mean():.4f}", flush=True)
    return pd.concat(tables, ignore_index=True)


def curve(store, trainings, folder):
    """The long table of baselines on sub-datasets of several sizes, tested on the patients outside the largest."""
    tables = []
    outside = set(split_patients(store.patients, SIZES[-1], 0, "rest").test)
    outside -= set(split_patients(store.patients, SIZES[-1], 0).test)
    for size in SIZES:
        split = replace(split_patients(store.patients, size, 0), test=tuple(sorted(outside)))
        for training in range(trainings):
            epochs = round(EPOCHS*12/len(split.train))
            scores = scores_of(store, split, 1000 + training, epochs, folder)
            tables.append(scores.assign(dataset="D-HIPPOCAMPUS", patients=size, method=NAMES[0], seed=training))
            print(f"{size} patients, training {training}: {scores.dsc.mean():.4f}", flush=True)
    return pd.concat(tables, ignore_index=True)


def claims_of_one_training(table):
    """How many names Wilcoxon's test with Holm's correction calls different, training by training."""
    by_patient = table.groupby(["seed", "patient", "method"]).dsc.mean().unstack()
    return [int((paired_effects(part.droplevel("seed"), NAMES[0]).holm < 0.05).sum())
            for _, part in by_patient.groupby(level="seed")]


def kept(path, measure):
    """The table at `path`, measured first where it is not there."""
    if not path.is_file():
        measure().to_csv(path, index=False)
    return pd.read_csv(path, dtype={"patient": str})


def measured(folder, root, size, trainings, with_curve):
    """The figures, with trainings and tables in `folder`, from where they are taken if they lie there already."""
    store = prepare_dataset(hippocampus(), root, folder/"store", 32, progress_bar=False)
    found = names_figures(kept(folder/"names.csv", lambda: eight_names(store, size, trainings, folder/"names")))
    if with_curve:
        found |= curve_figures(kept(folder/"sizes.csv", lambda: curve(store, trainings, folder/"sizes")))
    return found


def names_figures(names):
    """What is said of all names, and of those of which no training lost a class (a mean DSC below a half)."""
    by_class = names.groupby(["method", "seed", "class"]).dsc.mean().groupby("method").min()
    whole = names[names.method.map(by_class) > 0.5]
    rest = {} if len(whole) == len(names) else {"without names of which a training lost a class": _figures(whole)}
    return _figures(names) | rest


def _figures(names):
    comparison = compare(names)
    found, result = verdict(comparison), comparison.datasets[0]
    means = names.groupby(["method", "seed"]).dsc.mean().unstack()
    means = means.loc[[name for name in NAMES if name in means.index]]
    return {
        "test patients": result.patients, "trainings of each name": means.shape[1],
        "mean DSC of each training": means.round(4).T.to_dict("list"),
        "standard deviation between trainings": round(float(np.sqrt(means.var(axis=1).mean())), 4),
        "verdict": found.kind, "sentence": found.sentence, "by name": result.gains.verdict.to_dict(),
        "gains": result.gains[["difference", "low", "high", "holm"]].round(4).T.to_dict("list"),
        "names called different by Wilcoxon-Holm, training by training": claims_of_one_training(names)}


def curve_figures(sizes):
    by_patient = sizes.groupby(["patients", "seed", "patient"]).dsc.mean()
    return {"learning curve": [
        {"patients": size, "training patients": size - 2*round(size/5),
         "test patients": part.index.get_level_values("patient").nunique(), "mean DSC": round(float(part.mean()), 4),
         "of each training": part.groupby(level="seed").mean().round(4).tolist()}
        for size, part in by_patient.groupby(level="patients")]}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("root")
    options.add_argument("--size", type=int, default=20)
    options.add_argument("--trainings", type=int, default=2)
    options.add_argument("--curve", action="store_true")
    options.add_argument("--folder", type=Path, help="where trainings and tables stay; by default they are deleted")
    options = options.parse_args()
    facts = machine("numpy", "torch", "pandas")
    with tempfile.TemporaryDirectory() as temporary:
        found = measured(options.folder or Path(temporary), options.root, options.size, options.trainings,
                         options.curve)
    write_results(__file__, {"machine": facts, "settings": {**SETTINGS, "epochs": EPOCHS}, **found})


if __name__ == "__main__":
    main()
