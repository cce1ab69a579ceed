"""Does the U-Net beat thresholds on phantom patients, and do augmentation, patients and epochs help as expected?

    python benchmarks/unet_phantom.py [--datasets brats20 d-heart] [--seeds 0 1 2] [--size 64]

20 patients of 64 × 64 slices: 12 for training, 4 for validation, 4 for test, and 12 more test patients outside the
sub-dataset.  The peer is, for each class, the modality and the interval of intensities that find it best in
the training patients. Each number is the mean DSC over test patients and classes; `least` and `greatest` are those of
the seeds. Fewer patients are trained for as many steps as all 12. Writes results/unet_phantom.json.
"""
import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import machine, median_and_range, write_results

from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import Split, split_patients
from medaug.evaluation.scores import score_test_patients
from medaug.seg.config import UNetConfig
from medaug.seg.dice import dice_score
from medaug.seg.predict import load_unet
from medaug.seg.training import train_unet

PLAIN = UNetConfig(epochs=18, batch=16, width=8, depth=3, learning_rate=0.01)


def best_thresholds(store, patients):
    """For each class the (modality, lowest, highest intensity) that find it best in the training patients, of 41
    quantiles each."""
    images, labels = (part.numpy() for part in store.batch(store.slices(patients)))
    chosen = []
    for index in range(1, len(store.classes) + 1):
        candidates = [
            _best_interval(images[:, modality].ravel(), labels.ravel() == index)
            for modality in range(len(store.modalities))
        ]
        modality = max(range(len(candidates)), key=lambda modality: candidates[modality][0])
        chosen.append((modality, *candidates[modality][1:]))
    return chosen


def _best_interval(intensities, inside):
    """(DSC, low, high) of the interval of intensities that overlaps best with the voxels `inside`, from counts at each
    quantile."""
    levels = np.unique(np.quantile(intensities, np.linspace(0, 1, 41)))
    counts = lambda values: (
        np.searchsorted(np.sort(values), levels, "right")[None]
        - np.searchsorted(np.sort(values), levels, "left")[:, None]
    )
    found, hit = counts(intensities), counts(intensities[inside])
    dsc = np.triu(2*hit/np.maximum(found + inside.sum(), 1), 1)
    low, high = np.unravel_index(dsc.argmax(), dsc.shape)
    return dsc[low, high], levels[low], levels[high]


def threshold_dsc(store, split):
    """The mean DSC over test patients and classes of the best thresholds of the training patients."""
    chosen, scores = best_thresholds(store, split.train), []
    for id in split.test:
        patient = store.patient(id)
        for index, (modality, low, high) in enumerate(chosen, start=1):
            found = (patient.images[:, modality] >= low) & (patient.images[:, modality] <= high)
            scores.append(dice_score(found.byte(), (patient.labels == index).byte(), 1).item())
    return float(np.mean(scores))


def unet_dsc(store, split, out, config):
    """The mean DSC over test patients and classes, in the original geometry, and the seconds of training."""
    start = time.perf_counter()
    trained = load_unet(train_unet(store, split, config, out))
    seconds = time.perf_counter() - start
    return score_test_patients(trained, store, split, find_dataset(store.dataset).tolerance).dsc.mean(), seconds


def variants(split):
    """The trainings: name → (split, config)."""
    third = Split(split.train[:4], split.validation, split.test)
    return {
        "12 patients, 18 epochs": (split, PLAIN),
        "with augmentation": (split, replace(PLAIN, augmentation=True)),
        "4 patients, as many steps": (third, replace(PLAIN, epochs=3 * PLAIN.epochs)),
        "4 patients, as many steps, with augmentation": (
            third,
            replace(PLAIN, epochs=3 * PLAIN.epochs, augmentation=True),
        ),
        "6 epochs": (split, replace(PLAIN, epochs=6)),
        "2 epochs": (split, replace(PLAIN, epochs=2)),
    }


def measure(name, folder, size, seeds):
    row = find_dataset(name)
    write_phantom(row, folder/name, patients=32, size=size, depth=16, progress_bar=False)
    store = prepare_dataset(row, folder/name, folder/f"{name}-store", resolution=size, progress_bar=False)
    split = split_patients(store.patients, 20, 0, "rest")
    found = {"best thresholds": round(threshold_dsc(store, split), 3)}
    for what, (chosen, config) in variants(split).items():
        pairs = [unet_dsc(store, chosen, folder/f"{name}-{what}-{seed}", replace(config, seed=seed)) for seed in seeds]
        found[what] = {
            "dsc": median_and_range([dsc for dsc, _ in pairs], 3),
            "training seconds": round(float(np.median([seconds for _, seconds in pairs]))),
        }
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--datasets", nargs="+", default=["brats20", "d-heart"])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--size", type=int, default=64)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measure(name, Path(folder), given.size, given.seeds) for name in given.datasets}
    write_results(
        __file__,
        {
            "question": __doc__.splitlines()[0],
            **machine("torch"),
            "seeds": given.seeds,
            "slice": f"{given.size} × {given.size}",
            "config": {key: value for key, value in vars(PLAIN).items()},
            **found,
        },
    )


if __name__ == "__main__":
    main()
