"""How long does a run take beyond its work (kernel start, imports, notebook writing)? How long do the dry runs of the
paper's six experiments take?

A run: `python -m medaug.engine.execute`, as Snakemake starts it, one of each stage, on phantoms so small that there is
hardly any work. Peer in the same run: the same notebook's cells one after the other, in one Python process that has
executed them once before. Writes results/run_overhead.json: wall-clock and processor seconds, and the memory
of the largest process, MiB.

    python benchmarks/run_overhead.py
"""
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time

from machine import machine, median_and_range, run_in_folder, write_results

from medaug.engine.execute import template
from medaug.experiment.folder import ExperimentFolder
from medaug.experiment.plan import shipped_experiments

REPETITIONS = 3
PAPER = ("brats20", "d-heart", "d-spleen", "ibsr18", "kits19", "u-pro")
EXPERIMENT = """
dataset: d-heart
phantom: {patients: 10, size: 32, depth: 6}
patients: [10]
resolution: 16
generated: [2]
pipelines: [bl, b-sg]
augmentation: [with]
gan: {kimg: 0.05, batch: 8, channel_base: 64, channel_max: 8, z_dim: 8, w_dim: 8, mapping_layers: 2}
unet: {epochs: 1, batch: 8, width: 4, depth: 2}
resources:
  prepare: {threads: 1}
  train_gan: {threads: 1}
  generate: {threads: 1}
  train_unet: {threads: 1}
  compare: {threads: 1}
"""


def medaug(*words):
    return subprocess.run(
        [sys.executable, "-m", "medaug.cli", *map(str, words)], check=True, capture_output=True, text=True
    )


def timed(work):
    """(seconds of the clock, seconds of the processor here and in children) of a call."""
    def spent():
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages)
    before = spent()
    work()
    return [after - start for after, start in zip(spent(), before)]


def forget(folder, run):
    folder.record_file(run).unlink(missing_ok=True)
    shutil.rmtree(folder.out(run), ignore_errors=True)


def execute(folder, run):
    command = [sys.executable, "-m", "medaug.engine.execute", folder.path, run.name]
    subprocess.run(command, check=True, capture_output=True)


def execute_here(folder, run):
    """The code cells of the run's notebook with its parameters, in this process."""
    cells = [
        "".join(cell["source"])
        for cell in json.loads(template(run.stage).read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    names = {}
    with (
        contextlib.chdir(folder.notebook(run).parent),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        for place, cell in enumerate(cells):
            exec(cell, names)
            if place == 0:
                names.update(run.parameters)


def overhead(folder, run):
    runs, works = [], []
    record = folder.record_file(run).read_bytes()
    forget(folder, run)
    folder.out(run).mkdir(parents=True, exist_ok=True)
    execute_here(folder, run)
    for _ in range(REPETITIONS):
        forget(folder, run)
        runs.append(timed(lambda: execute(folder, run)))
        forget(folder, run)
        folder.out(run).mkdir(parents=True, exist_ok=True)
        works.append(timed(lambda: execute_here(folder, run)))
        folder.record_file(run).write_bytes(record)
    over = [[run - work for run, work in zip(*pair)] for pair in zip(runs, works)]
    return {
        what: {
            "run": median_and_range([run[place] for run in runs], 1),
            "its cells alone": median_and_range([work[place] for work in works], 1),
            "overhead": median_and_range([one[place] for one in over], 1),
        }
        for place, what in enumerate(("clock, s", "processor, s"))
    }


def main(folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    facts = machine("torch", "papermill", "snakemake", "monai")
    assert set(PAPER) <= set(shipped_experiments())
    dry = {
        name: [timed(lambda: medaug("run", name, "--out", folder / name, "--dry-run")) for _ in range(REPETITIONS)]
        for name in PAPER
    }
    (folder/"small.yaml").write_text(EXPERIMENT)
    medaug("run", folder/"small.yaml", "--out", folder/"out", "--jobs", 2)
    small = ExperimentFolder(folder/"out")
    one_each = {run.stage: run for run in small.plan}
    write_results(__file__, {
        **facts, "methods": {"dry runs": "6 commands, 18 sub-datasets × 26 methods", "repetitions": REPETITIONS},
        "dry run of all six, clock, s": round(sum(min(clock for clock, _ in times) for times in dry.values()), 1),
        "slowest of the repetitions, s": round(sum(max(clock for clock, _ in times) for times in dry.values()), 1),
        "a run": {stage: overhead(small, run) for stage, run in one_each.items()},
        "largest process, MiB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024})


if __name__ == "__main__":
    run_in_folder(main)
