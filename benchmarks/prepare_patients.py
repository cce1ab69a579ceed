"""How many patients a minute does `prepare` do, on one core and on two?

Phantoms of BraTS20 (4 modalities with N4) and of D-HEART. On one core this process does all patients, on two a pool of two processes,
whose start is part of the time.
Writes results/prepare_patients.json: patients a minute, median and range of the repetitions, and the ratio of two cores to one.

    python benchmarks/prepare_patients.py [FOLDER]
"""
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, median_and_range, write_results

from medaug.data.datasets import DATASETS
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset

SETS = {"brats20": dict(patients=6, size=96, depth=32), "d-heart": dict(patients=20, size=192, depth=48)}
REPETITIONS = 3


def patients_a_minute(row, root, store, processes, patients):
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    prepare_dataset(row, root, store, 256, processes, progress_bar=False)
    return 60*patients/(time.perf_counter() - start)


def on_cores(cores, measure):
    """`measure()` while this process and those that it starts may use the first `cores` of its cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        return measure()
    finally:
        os.sched_setaffinity(0, allowed)


def main(folder):
    told = {**machine("numpy", "simpleitk")}
    for name, settings in SETS.items():
        row, root = DATASETS[name], write_phantom(DATASETS[name], folder/name, progress_bar=False, **settings)
        rates = {cores: [] for cores in (1, 2)}
        for _ in range(REPETITIONS):  # by turns, so that what else the machine does meets both alike
            for cores in rates:
                rates[cores].append(on_cores(cores, lambda: patients_a_minute(row, root, folder/"store", cores, settings["patients"])))
        told[name] = {**settings, **{f"patients a minute, {cores} core{'s' if cores > 1 else ''}": median_and_range(values, 1) for cores, values in rates.items()}}
        told[name]["two cores to one"] = median_and_range([two/one for one, two in zip(rates[1], rates[2])], 2)
    write_results(__file__, told)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
