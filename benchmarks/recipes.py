"""Do patients made from real ones help a U-Net on real hippocampi, against augmentation that costs nothing?

    python benchmarks/recipes.py ROOT FOLDER [--jobs N] [--seeds 0 1 2 3 4]

ROOT is Task04_Hippocampus of the Medical Segmentation Decathlon. Two sub-datasets of its real patients at 32 × 32: one
has 6 training patients, the other 12, and every patient outside is a test patient. All methods take the same number of
steps, and each training has generators of its own. Baselines on 24 and 48 training patients, in as many steps and with
three trainings each, are the ceiling. The score is the DSC of a patient and class on the grid of the scans. A method
is held against the baseline of its augmentation, and against the method without a generator that has the highest DSC
on the validation patients. Both verdicts account for patients and trainings. A stopped benchmark continues in FOLDER.
Writes results/recipes.json.
"""
import argparse
import itertools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from machine import machine, write_results

from medaug.data.competitors import COMPETITORS, make_patients
from medaug.data.datasets import find_dataset
from medaug.data.prepare import prepare_dataset, store_generated
from medaug.data.splits import split_patients
from medaug.data.store import SliceStore
from medaug.data.strengths import Warps
from medaug.files import write_text
from medaug.gan.config import GanConfig
from medaug.gan.generate import generate_patients
from medaug.gan.training import train_gan
from medaug.methods import Method
from medaug.seg.config import UNetConfig
from medaug.seg.dice import dice_score
from medaug.seg.predict import load_unet, predict_original
from medaug.seg.training import train_unet
from medaug.stats.score_table import checked_table
from medaug.stats.trainings import training_effects, training_table

SIZES, LARGER = (20, 10), (40, 80)
BASELINES = ("BL + w.", "BL + s.")
METHODS = (
    *BASELINES, "BL + e.",
    *(name.format(kind) for kind in ("w.", "s.") for name in (
        "WARP (balanced 0.25) + {} + 48", "CUTMIX (balanced 0.25) + {} + 48",
        "B-SG (balanced 0.25; style patient) + {} + 48", "WC-SG (balanced 0.25; style patient) + {} + 48",
        "WC-SG (pretrain; style patient) + {} + 48")))
UNET = {"steps": 300, "looks": 10, "batch": 32, "width": 16, "depth": 3, "learning_rate": 3e-3,
        "loss": "dice-cross-entropy", "precision": "bf16-mixed"}
GAN = {"batch": 8, "ada": False, "precision": "bf16-mixed", "learning_rate": 3e-3, "channel_base": 1024,
       "channel_max": 64, "z_dim": 32, "w_dim": 64, "mapping_layers": 2, "kimg": 15.0, "snapshot_kimg": 5.0}


def added_patients(method, seed, store, split, work):
    """The store of the patients that a method adds, or None."""
    if not method.generated:
        return None
    out = work/method.pipeline
    if method.pipeline in COMPETITORS:
        return make_patients(method.pipeline, store, split, out, method.generated, seed, progress_bar=False)
    gan = "c-sg" if method.pipeline == "wc-sg" else method.pipeline
    checkpoint = train_gan(store, split, GanConfig(gan, resolution=store.resolution, seed=seed, **GAN), work/gan)
    warped = {"masks_from": store.path, "warps": Warps()} if gan == "c-sg" else {}
    generate_patients(checkpoint, out/"patients", method.generated, seed=seed, style=method.style, **warped)
    return store_generated(out/"patients", out/"store", store, progress_bar=False)


def test_scores(checkpoint, store, split):
    """The DSC of a U-Net on the grid of the scans: a row a test patient and class."""
    trained, rows = load_unet(checkpoint), []
    for id in split.test:
        found, true = predict_original(trained, store, id), store.patient(id).original_labels
        dsc = dice_score(torch.as_tensor(found), torch.as_tensor(true), len(store.classes)).tolist()
        rows += [(id, name, value) for name, value in zip(store.classes, dsc)]
    return pd.DataFrame(rows, columns=["patient", "class", "dsc"])


def score(method, seed, store, split, work):
    """The DSC of one training: a row a test patient and class; and the DSC on the validation patients."""
    path = work/"scores"/f"{method.slug}.csv"
    if path.is_file():
        return
    added = added_patients(method, seed, store, split, work)
    config = UNetConfig(augmentation=method.augmentation, generated=method.generated, recipe=method.recipe, seed=seed,
                        fraction=method.fraction, **UNET)
    folder = work/"unets"/method.slug
    table = test_scores(train_unet(store, split, config, folder, added), store, split)
    validation = pd.read_csv(folder/"curves.csv")["validation_dsc"].max()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.assign(method=method.name, seed=seed, validation=validation).to_csv(index=False))
    print(f"{len(split.train)} training patients, {method.name}, training {seed}: {table.dsc.mean():.4f}", flush=True)


def train(folder, seed, size):
    """All methods on one sub-dataset with one seed."""
    torch.set_num_threads(1)
    store = SliceStore(folder/"store")
    split = split_patients(store.patients, size, 0, test="rest")
    for name in METHODS if size in SIZES else BASELINES:
        method = Method.parse(name)
        assert method.kind != "foreign", name
        score(method, seed, store, split, folder/f"{size}-{seed}")


def scores_of(folder, size, seeds):
    """The long table of a sub-dataset."""
    names = [Method.parse(name).slug for name in (METHODS if size in SIZES else BASELINES)]
    paths = [folder/f"{size}-{seed}/scores/{name}.csv" for seed in seeds for name in names]
    tables = pd.concat([pd.read_csv(path, dtype={"patient": str}) for path in paths], ignore_index=True)
    return tables.assign(dataset=f"D-HIPPOCAMPUS-{size}")


def effects(table, against):
    """The gains of methods over others: method → gain, interval, corrected p-value, verdict."""
    found = training_effects(table, against, families=dict.fromkeys(against, 0))
    return found[["baseline", "difference", "low", "high", "holm", "verdict"]].round(4).T.to_dict()


def figures(scores, size):
    """What is found on one sub-dataset."""
    checked = checked_table(scores.drop(columns="validation"))
    table = training_table(checked, checked["dataset"].iloc[0])
    means, methods = table.groupby(level="seed").mean(), {name: Method.parse(name) for name in table.columns}
    validation = scores.groupby("method")["validation"].mean()
    made = [name for name in methods if methods[name].generated]
    free = validation[[name for name in methods if methods[name].kind in ("baseline", "free")]].idxmax()
    return {
        "training patients": size - 2*round(size/5),
        "test patients": table.index.get_level_values("patient").nunique(),
        "mean DSC": means.mean().round(4).to_dict(),
        "of each training": means.round(4).to_dict("list"),
        "over the baseline": effects(table, {name: methods[name].baseline.name for name in made}),
        "best without a generator, by validation": free,
        "over it": effects(table, {name: free for name, one in methods.items() if one.kind == "synthetic"})}


def ceiling(tables):
    """Mean DSC of the baselines by the number of training patients, on the test patients that all sizes share."""
    scores = pd.concat(tables)
    scores = scores[scores["method"].isin(BASELINES)]
    shared = set.intersection(*(set(part["patient"]) for _, part in scores.groupby("dataset")))
    scores = scores[scores["patient"].isin(shared)]
    size = scores["dataset"].str.rsplit("-", n=1).str[1].astype(int).map(lambda size: size - 2*round(size/5))
    means = scores.groupby(["method", size.rename("size"), "seed"])["dsc"].mean().groupby(level=[0, 1]).mean().round(4)
    return {"test patients": len(shared), "trainings": int(scores.groupby("dataset")["seed"].nunique().min()),
            "mean DSC by training patients": json.loads(means.unstack(0).to_json())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    facts = machine("torch")
    prepare_dataset(find_dataset("d-hippocampus"), args.root, args.folder/"store", 32, progress_bar=False)
    tasks = itertools.chain(itertools.product(args.seeds, SIZES), itertools.product(args.seeds[:3], LARGER))
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as workers:
        list(workers.map(train, itertools.repeat(args.folder), *zip(*tasks)))
    tables = {size: scores_of(args.folder, size, args.seeds[:3] if size in LARGER else args.seeds)
              for size in (*SIZES, *LARGER)}
    write_results(__file__, {"machine": facts, "U-Net": UNET, "GAN": GAN, "seeds": args.seeds,
                             **{f"{size} patients": figures(tables[size], size) for size in SIZES},
                             "ceiling": ceiling(tables.values())})


if __name__ == "__main__":
    main()
