"""How many patients a minute does `prepare` do, on one core and on two?

Phantoms of BraTS20 (4 modalities with N4) and of D-HEART. On one core one process does all patients, on two a pool of
two processes, whose start is part of the time. Processor seconds of all
processes are measured too: they show the extra cost of two processes even on a busy machine.
Writes results/prepare_patients.json: patients a minute, median and range of the repetitions, and the ratio of two cores
to one.

    python benchmarks/prepare_patients.py [FOLDER]
"""
import multiprocessing
import os
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor

from machine import machine, median_and_range, run_in_folder, write_results

from medaug.data.datasets import DATASETS
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset

SETS = {"brats20": dict(patients=8, size=128, depth=64), "d-heart": dict(patients=80, size=192, depth=48)}
REPETITIONS = 3


def processor_seconds():
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(row, root, store, processes, patients):
    """(patients a minute, processor seconds a patient) of one run into an empty store."""
    shutil.rmtree(store, ignore_errors=True)
    start, used = time.perf_counter(), processor_seconds()
    prepare_dataset(row, root, store, 256, processes, progress_bar=False)
    return 60*patients/(time.perf_counter() - start), (processor_seconds() - used)/patients


def on_cores(cores, work, *arguments):
    """`work(*arguments)` in a process of its own that may use the first `cores` of this one's cores, threads
    included."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()
    finally:
        os.sched_setaffinity(0, allowed)


def main(folder):
    told = {**machine("numpy", "simpleitk")}
    for name, settings in SETS.items():
        row, root = DATASETS[name], write_phantom(DATASETS[name], folder/name, progress_bar=False, **settings)
        runs = {cores: [] for cores in (1, 2)}
        for _ in range(REPETITIONS):  # in turns, so that other load affects both alike
            for cores in runs:
                runs[cores].append(on_cores(cores, measure, row, root, folder/"store", cores, settings["patients"]))
        told[name] = dict(settings)
        for cores, found in runs.items():
            told[name][f"patients a minute, {cores} core{'s' * (cores > 1)}"] = median_and_range(
                [rate for rate, _ in found], 1
            )
            told[name][f"processor seconds a patient, {cores} core{'s' * (cores > 1)}"] = median_and_range(
                [used for _, used in found], 2
            )
        told[name]["two cores to one"] = median_and_range([two/one for (one, _), (two, _) in zip(runs[1], runs[2])], 2)
    write_results(__file__, told)


if __name__ == "__main__":
    run_in_folder(main)
