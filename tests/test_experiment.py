"""`medaug run`: what it leaves, that it does nothing twice, and that being killed at any moment costs nothing but time."""
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

EXPERIMENT = """
dataset: d-heart
phantom: {patients: 14, size: 32, depth: 6}
patients: [8]
resolution: 16
generated: [2, 3]
pipelines: [bl, mc-sg]
augmentation: [with]
gan: {kimg: 0.4, batch: 8, channel_base: 128, channel_max: 8, z_dim: 8, w_dim: 8, mapping_layers: 2, snapshot_kimg: 0.2, ada_kimg: 1.0}
unet: {epochs: 3, batch: 8, width: 4, depth: 2, learning_rate: 0.01}
statistics: {test: rest}
resources: {prepare: {threads: 1}, train_gan: {threads: 1}, generate: {threads: 1}, train_unet: {threads: 1}, compare: {threads: 1}}
"""
SUB_DATASET = "D-HEART-8"
pytestmark = pytest.mark.xdist_group("experiment")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment")/"small.yaml"
    path.write_text(EXPERIMENT)
    return path


def medaug(*words, python=sys.executable, **options):
    clean = {key: value for key, value in os.environ.items() if python == sys.executable or key != "PYTHONPATH"}
    return subprocess.run([python, "-m", "medaug.experiment.cli", *map(str, words)], capture_output=True, text=True, env=clean, **options)


@pytest.fixture(scope="module")
def finished(experiment, installed, tmp_path_factory):
    """The folder of an undisturbed run, by the package as installed from its wheel, outside the checkout."""
    folder = tmp_path_factory.mktemp("finished")
    done = medaug("run", experiment, "--out", folder/"out", python=installed, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder/"out"


def test_what_a_run_leaves(finished):
    for name in ("scores.csv", "fid.csv", "faithfulness.csv", "manifest.json", f"generated/{SUB_DATASET}-seed0/mc-sg/memorisation.png", "report/index.html", "report/table2.csv", f"report/table3-{SUB_DATASET}.csv", "report/figure4.png",
                 "report/figure5.png", f"report/critical-difference-{SUB_DATASET}.png", f"gans/{SUB_DATASET}-seed0/c-sg/checkpoint.pt",
                 f"unets/{SUB_DATASET}-seed0/mc-sg-w-3/checkpoint.pt", f"generated/{SUB_DATASET}-seed0/mc-sg/patient_0003/image.nii.gz"):
        assert (finished/name).is_file() and (finished/name).stat().st_size, name
    runs = {path.stem for path in (finished/"plan").glob("*.json")}
    assert {path.stem for path in (finished/"notebooks").glob("*.ipynb")} == runs and len(runs) == 8
    for path in (finished/"notebooks").glob("*.ipynb"):
        assert not [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code" and cell["execution_count"] is None]


def test_scores_of_every_method_on_every_test_patient(finished):
    scores = pd.read_csv(finished/"scores.csv")
    assert list(scores) == ["dataset", "patients", "seed", "method", "patient", "class", "dsc", "hd95", "nsd"]
    split = json.loads((finished/"manifest.json").read_text())["splits"][f"{SUB_DATASET}-seed0"]
    assert {key: len(ids) for key, ids in split.items()} == {"train": 4, "validation": 2, "test": 8}
    assert scores["dsc"].between(0, 1).all()
    for method, rows in scores.groupby("method"):
        assert sorted(rows["patient"]) == sorted(split["test"]), method
    assert list(pd.read_csv(finished/"report"/"table2.csv", index_col=0).index) == ["BL + w.", "MC-SG + w. + 2", "MC-SG + w. + 3"]


def test_no_number_of_unknown_features_is_called_fid(finished):
    rows = list(csv.DictReader(open(finished/"fid.csv")))
    assert rows and {row["pipeline"] for row in rows} == {"mc-sg"}
    assert all(("FID" in row["measure"]) == ("inception" in row["features"].lower()) for row in rows)


def test_a_second_time_it_does_nothing_and_says_so(experiment, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    again = medaug("run", experiment, "--out", finished)
    assert again.returncode == 0 and again.stdout.startswith("nothing to do"), again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_changed_parameter_repeats_what_depends_on_it_and_nothing_else(experiment, finished, tmp_path):
    changed = tmp_path/"changed.yaml"
    changed.write_text(EXPERIMENT.replace("epochs: 3", "epochs: 4"))
    told = medaug("run", changed, "--out", finished, "--dry-run").stdout
    left = [line.partition(":")[0] for line in told.splitlines() if line.partition(":")[2].startswith(" about ") and "; " in line]
    assert left == [*(f"train_unet-{SUB_DATASET}-seed0-{method}" for method in ("bl-w", "mc-sg-w-2", "mc-sg-w-3")), "compare"]


def _start(experiment, out):
    return subprocess.Popen([sys.executable, "-m", "medaug.experiment.cli", "run", str(experiment), "--out", str(out)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)


def _processes_in(folder):
    """The command lines of all processes that name `folder` or work in it."""
    found = []
    for process in os.listdir("/proc"):
        try:
            where, words = os.readlink(f"/proc/{process}/cwd"), open(f"/proc/{process}/cmdline").read()
        except OSError:
            continue
        if str(folder) in where + words and int(process) != os.getpid():
            found.append(words.replace("\0", " "))
    return found


def test_killed_at_random_moments_it_ends_with_the_same_scores(experiment, finished, tmp_path):
    """SIGKILL to the whole process group of the driver, ten times; what had ended before a kill is never done again."""
    chance, out, written = random.Random(0), tmp_path/"out", {}
    for _ in range(10):
        process = _start(experiment, out)
        try:
            process.wait(chance.uniform(0.5, 9))
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        deadline = time.monotonic() + 10
        while _processes_in(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _processes_in(out), "something was left running"
        now = {path.name: path.stat().st_mtime_ns for path in (out/"done").glob("*.json")}
        assert now.items() >= written.items(), "a run that was done was done again"
        written = now
    assert _start(experiment, out).wait(300) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out/"done").glob("*.json")}.items() >= written.items()
    assert (out/"scores.csv").read_bytes() == (finished/"scores.csv").read_bytes()
    assert (out/"fid.csv").read_bytes() == (finished/"fid.csv").read_bytes()


def test_two_at_once_on_one_folder(experiment, tmp_path):
    first = _start(experiment, tmp_path/"out")
    try:
        while not (tmp_path/"out"/"plan"/"todo").exists():
            time.sleep(0.05)
        second = medaug("run", experiment, "--out", tmp_path/"out")
        assert second.returncode == 2 and f"in use by process {first.pid}" in second.stderr and second.stderr.count("\n") == 1
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(30) == 1
    assert not _processes_in(tmp_path/"out")
