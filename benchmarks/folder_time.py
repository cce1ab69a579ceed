"""How long do `medaug status` and `medaug report` take on a planned BraTS20 matrix of 157 runs, without its figures?

The script writes the plan and what each run leaves (phantom results: nothing is trained), and runs both commands. A
second process runs the report's command with clocks around its imports, its figures and its statistics; they count
processor seconds, which a busy machine does not change much. Results: results/folder_time.json.

    python benchmarks/folder_time.py
"""
import functools
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from machine import machine, median_and_range, run_in_folder, write_results

from medaug.data.store import write_index, write_stored_patient
from medaug.experiment.folder import ExperimentFolder
from medaug.experiment.plan import Experiment
from medaug.experiment.results import DISTANCE_COLUMNS, SCORE_COLUMNS, write_part
from medaug.experiment.runs import plan_runs
from medaug.files import write_text
from medaug.gan.training import CURVE_COLUMNS

CLASSES = ("whole tumour", "tumour core", "enhancing tumour")
MODALITIES = ("T1w", "T1c", "T2w", "FLAIR")


def _write_store(path, ids):
    images, labels = np.zeros((2, 4, 16, 16), np.float32), np.zeros((2, 16, 16), np.uint8)
    for id in ids:
        write_stored_patient(path, id, images, labels, np.zeros((16, 16, 2), np.uint8), np.eye(4))
    write_index(path, "brats20", list(MODALITIES), list(CLASSES), 16, ids)


def _write_scores(path, run, chance):
    rows = [(f"p{number}", kind, round(float(chance.normal(0.7, 0.05)), 4), 4.0, 0.8)
            for number in range(10) for kind in CLASSES]
    table = pd.DataFrame(rows, columns=["patient", "class", "dsc", "hd95", "nsd"])
    drawn = {key: run.parameters[key] for key in ("patients", "seed")}
    write_part(table, path, SCORE_COLUMNS, dataset="brats20", method=run.method.name, **drawn)


def _write_curves(path, columns, chance):
    values = np.column_stack([np.arange(1, 51), chance.random((50, len(columns) - 1))])
    write_text(path, pd.DataFrame(values, columns=columns).to_csv(index=False))


def write_matrix(path):
    """Write the experiment of the paper's BraTS20 matrix, of which every run but the comparison is done."""
    experiment = Experiment(dataset="brats20", phantom={"patients": 369, "size": 16, "depth": 4}, resolution=16)
    folder, chance = ExperimentFolder(path, plan_runs(experiment)), np.random.default_rng(0)
    folder.write_plan(folder.plan)
    write_text(folder.experiment_file, "dataset: brats20\n")
    for run in folder.plan[:-1]:
        for output in run.outputs:
            write_text(folder.path/output, "x")
        if run.stage == "prepare":
            _write_store(folder.store_path(run), [f"BraTS20_Training_{number:03d}" for number in range(369)])
        if run.stage == "generate":
            _write_store(folder.store_path(run), ["patient_0001", "patient_0002"])
            write_text(folder.part(run), ",".join(DISTANCE_COLUMNS) + "\n")
        if run.stage == "train_gan":
            _write_curves(folder.curves(run), CURVE_COLUMNS, chance)
        if run.stage == "train_unet":
            _write_scores(folder.part(run), run, chance)
            _write_curves(folder.curves(run), ("epoch", "loss", "validation_dsc", *CLASSES), chance)
        folder.write_record(run, seconds=30.0, device="a processor")
    return folder


def _command(*words):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "medaug.cli", *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - start


def _clock(spent, name, function):
    """`function` with a clock; calls inside a call of the same kind are not counted twice."""
    @functools.wraps(function)
    def timed(*arguments, **options):
        start, before = time.process_time(), sum(spent.values())
        result = function(*arguments, **options)
        spent[name] += time.process_time() - start - (sum(spent.values()) - before)
        return result
    return timed


def print_parts(path):
    """Run the report's command here; print its processor seconds as JSON."""
    from medaug.cli import main
    from medaug.report import build, chapters, figures, page, pictures
    spent = {"imports": time.process_time(), "figures": 0.0, "statistics": 0.0}
    build.compare_available = _clock(spent, "statistics", build.compare_available)
    for module in (chapters, figures, page, pictures):
        for name, function in vars(module).copy().items():
            if name in ("save_figure", "write_diagrams") or name.endswith("_figure") and name[0] != "_":
                setattr(module, name, _clock(spent, "figures", function))
    start, before = time.process_time(), sum(spent.values())
    main(["report", path])
    spent["rest"] = time.process_time() - start - (sum(spent.values()) - before)
    print(json.dumps(spent))


def _parts(path):
    command = [sys.executable, __file__, "--parts", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main(path):
    facts, folder = machine(), write_matrix(path)
    assert len(ExperimentFolder(path).done) == len(folder.plan) - 1
    repeated = range(3)
    parts = pd.DataFrame([_parts(path) for _ in repeated])
    above = parts[["statistics", "rest"]].sum(axis=1)
    times = {"status, s": median_and_range([_command("status", path) for _ in repeated], 2),
             "report, s": median_and_range([_command("report", path) for _ in repeated], 2),
             "parts of the report, processor s": {name: median_and_range(parts[name], 2) for name in parts},
             "report without imports and figures, processor s": median_and_range(above, 2)}
    write_results(__file__, {**facts, "runs": len(folder.plan), "repetitions": len(repeated), **times})


if __name__ == "__main__":
    print_parts(sys.argv[2]) if sys.argv[1:2] == ["--parts"] else run_in_folder(main)
