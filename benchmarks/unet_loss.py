"""Does a U-Net learn small classes, with the loss by class, with cross-entropy beside it, and with the summed loss?

Phantoms of KiTS19 (kidney, tumour) and U-PRO (prostate, bladder, rectum), 64 × 64: 12 training patients, 25 epochs, the
DSC of each class on 16 test patients. The summed form of equation (5) has a constant denominator (medaug.seg.dice).
Writes results/unet_loss.json.

    python benchmarks/unet_loss.py [--seeds 0 1 2]
"""
import argparse
import tempfile
from pathlib import Path

from machine import machine, median_and_range, write_results

from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.evaluation.scores import score_test_patients
from medaug.seg.config import LOSSES, UNetConfig
from medaug.seg.predict import load_unet
from medaug.seg.training import train_unet

SETTINGS = {"epochs": 25, "batch": 16, "width": 8, "depth": 3, "learning_rate": 0.01}


def class_scores(store, split, row, folder, loss, seed):
    """The mean DSC over the test patients of each class."""
    config = UNetConfig(loss=loss, seed=seed, **SETTINGS)
    trained = load_unet(train_unet(store, split, config, folder/f"{loss}-{seed}"))
    return score_test_patients(trained, store, split, row.tolerance).groupby("class")["dsc"].mean()


def measure(name, folder, seeds):
    row = find_dataset(name)
    write_phantom(row, folder/"raw", patients=32, size=64, depth=16, progress_bar=False)
    store = prepare_dataset(row, folder/"raw", folder/"store", resolution=64, progress_bar=False)
    split = split_patients(store.patients, 20, 0, "rest")
    found = {}
    for loss in LOSSES:
        scores = [class_scores(store, split, row, folder, loss, seed) for seed in seeds]
        found[loss] = {kind: median_and_range([one[kind] for one in scores], 3) for kind in store.classes}
        found[loss]["mean"] = median_and_range([one.mean() for one in scores], 3)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds, found = parser.parse_args().seeds, {}
    for name in ("kits19", "u-pro"):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, Path(folder), seeds)
    results = {"question": __doc__.splitlines()[0], **machine("torch"), "seeds": seeds, "settings": SETTINGS, **found}
    write_results(__file__, results)


if __name__ == "__main__":
    main()
