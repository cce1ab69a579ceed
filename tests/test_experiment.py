"""`medaug run`: its results, no work done twice, the same scores after kills, and its messages after failures."""
import csv
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.metadata import version

import pandas as pd
import psutil
import pytest
from conftest import CHECKOUT
from slurm import missing_programs, slurm

from medaug.experiment.folder import KILLED

RESOURCES = """resources:
  prepare: {threads: 2}
  train_gan: {threads: 1}
  generate: {threads: 1}
  train_unet: {threads: 1}
  compare: {threads: 1}
"""
EXPERIMENT = """
dataset: d-heart
phantom: {patients: 14, size: 32, depth: 6}
patients: [8]
resolution: 16
generated: [2, 3]
pipelines: [bl, mc-sg]
augmentation: [with]
gan:
  {kimg: 0.4, batch: 8, channel_base: 128, channel_max: 8, z_dim: 8, w_dim: 8, mapping_layers: 2,
   snapshot_kimg: 0.2, ada_kimg: 1.0}
unet: {epochs: 3, batch: 8, width: 4, depth: 2, learning_rate: 0.01}
statistics: {test: rest}
""" + RESOURCES
PATIENCE = 900      # seconds that any step may take on a slow or busy machine
SUB_DATASET = "D-HEART-8"
pytestmark = pytest.mark.xdist_group("experiment")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment")/"small.yaml"
    path.write_text(EXPERIMENT)
    return path


def medaug(*words, python=sys.executable, **options):
    clean = {key: value for key, value in os.environ.items() if python == sys.executable or key != "PYTHONPATH"}
    command = [python, "-m", "medaug.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **{"env": clean, **options})


@pytest.fixture(scope="module")
def finished(experiment, installed, tmp_path_factory):
    """The folder of an undisturbed run, by the package as installed from its wheel, outside the checkout."""
    folder = tmp_path_factory.mktemp("finished")
    done = medaug("run", experiment, "--out", folder/"out", python=installed, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder/"out"


def test_what_a_run_leaves(finished):
    generated = f"generated/{SUB_DATASET}-seed0/mc-sg"
    for name in ("scores.csv", "fid.csv", "faithfulness.csv", "manifest.json", f"{generated}/memorisation.png",
                 f"{generated}/patient_0003/image.nii.gz", "report/index.html", "report/table2.csv",
                 f"report/table3-{SUB_DATASET}.csv", "report/figure4.png", "report/figure5.png",
                 f"report/critical-difference-{SUB_DATASET}.png", f"gans/{SUB_DATASET}-seed0/c-sg/checkpoint.pt",
                 f"unets/{SUB_DATASET}-seed0/mc-sg-w-3/checkpoint.pt"):
        assert (finished/name).is_file() and (finished/name).stat().st_size, name
    runs = {path.stem for path in (finished/"plan").glob("*.json")}
    assert {path.stem for path in (finished/"notebooks").glob("*.ipynb")} == runs and len(runs) == 8
    for path in (finished/"notebooks").glob("*.ipynb"):
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert not [cell for cell in code if cell["execution_count"] is None]


# the pictures in the executed notebook of each stage
PICTURES = {"prepare": 1, "train_gan": 2, "generate": 3, "train_unet": 2, "compare": 1}


def test_every_executed_notebook_shows_its_pictures_and_one_line_of_progress(finished):
    for path in (finished/"notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        shown = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(shown) == PICTURES[path.stem.split("-")[0]], path.stem
        printed = ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]
        words = [*printed, *("".join(output["data"].get("text/plain", "")) for output in outputs if "data" in output)]
        assert not [text for text in words if "<Figure" in text], path.stem
        bars = [line for text in printed for line in text.splitlines() if "it/s" in line or "/s]" in line]
        assert all("100%" in bar for bar in bars), bars       # the last line of each bar, and no other
        assert "skip_exec" not in "".join("".join(cell["source"]) for cell in cells)


def test_scores_of_every_method_on_every_test_patient(finished):
    scores = pd.read_csv(finished/"scores.csv")
    assert list(scores) == ["dataset", "patients", "seed", "method", "patient", "class", "dsc", "hd95", "nsd", "split",
                            "fold", "shift"]
    split = json.loads((finished/"manifest.json").read_text())["splits"][f"{SUB_DATASET}-seed0"]
    assert {key: len(ids) for key, ids in split.items()} == {"train": 4, "validation": 2, "test": 8}
    assert scores["dsc"].between(0, 1).all()
    for method, rows in scores.groupby("method"):
        assert sorted(rows["patient"]) == sorted(split["test"]), method
    table = pd.read_csv(finished/"report"/"table2.csv", index_col=0)
    assert list(table.index) == ["BL + w.", "MC-SG + w. + 2", "MC-SG + w. + 3"]


def test_every_run_says_with_which_versions_it_was_computed(finished):
    manifest = json.loads((finished/"manifest.json").read_text())
    assert manifest["versions"]["torch"] == version("torch") and len(manifest["runs"]) == 7
    assert all(run["versions"] == manifest["versions"] for run in manifest["runs"].values())


def test_no_number_of_unknown_features_is_called_fid(finished):
    rows = list(csv.DictReader(open(finished/"fid.csv")))
    assert rows and {row["pipeline"] for row in rows} == {"mc-sg"}
    assert all(("FID" in row["measure"]) == ("inception" in row["features"].lower()) for row in rows)


def _times(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_second_time_it_does_nothing_and_says_so(experiment, finished):
    before = _times(finished)
    again = medaug("run", experiment, "--out", finished)
    assert again.returncode == 0 and again.stdout.startswith("nothing to do"), again.stdout + again.stderr
    assert _times(finished) == before


def test_a_changed_parameter_repeats_what_depends_on_it_and_nothing_else(experiment, finished, tmp_path):
    changed = tmp_path/"changed.yaml"
    changed.write_text(EXPERIMENT.replace("epochs: 3", "epochs: 4"))
    printed = medaug("run", changed, "--out", finished, "--dry-run", "--verbose").stdout
    left = [line.partition(":")[0] for line in printed.splitlines() if ": about " in line and "; " in line]
    unets = [f"train_unet-{SUB_DATASET}-seed0-{method}" for method in ("bl-w", "mc-sg-w-2", "mc-sg-w-3")]
    assert left == [*unets, "compare"]


def _left(experiment, out):
    """The runs that a dry run lists as not done."""
    printed = medaug("run", experiment, "--out", out, "--dry-run", "--verbose").stdout
    return [line.partition(":")[0] for line in printed.splitlines() if ": about " in line and "; " in line]


def test_lost_and_edited_results_are_noticed_and_made_again(experiment, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path/"out")
    assert _left(experiment, out) == []
    (out/"fid.csv").unlink()
    scores = out/"unets"/f"{SUB_DATASET}-seed0"/"bl-w"/"scores.csv"
    scores.write_text(scores.read_text().replace("0.", "1.", 1))    # as long as before
    assert _left(experiment, out) == [f"train_unet-{SUB_DATASET}-seed0-bl-w", "compare"]
    next((out/"store").rglob("images.npy")).unlink()
    assert _left(experiment, out)[0] == "prepare-d-heart"
    again = medaug("run", experiment, "--out", out)
    assert again.returncode == 0, again.stdout + again.stderr
    _same_results(out, finished)
    assert len(list((out/"store").rglob("images.npy"))) == 14


def test_other_versions_are_told_before_they_mix(finished, tmp_path):
    out, more = shutil.copytree(finished, tmp_path/"out"), tmp_path/"more.yaml"
    more.write_text(EXPERIMENT.replace("[with]", "[without, with]"))
    for path in (out/"done").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "versions": {**record["versions"], "numpy": "1.0"}}))
    process = _start(more, out, stdout=subprocess.PIPE, text=True)
    try:
        assert any(f"numpy 1.0 → {version('numpy')}" in line for line in process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(experiment):
    refused = medaug("run", experiment, "--out", experiment)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "could not be written" in refused.stderr


FOLDS = """
dataset: d-heart
phantom: {patients: 20, size: 32, depth: 4}
patients: [20]
folds: 5
resolution: 16
generated: [2]
pipelines: [bl, b-sg]
augmentation: [with]
gan: {kimg: 0.1, batch: 8, channel_base: 128, channel_max: 8, z_dim: 8, w_dim: 8, mapping_layers: 2, ada_kimg: 1.0}
unet: {steps: 10, looks: 2, batch: 8, width: 4, depth: 2, learning_rate: 0.01}
""" + RESOURCES


@pytest.mark.xdist_group("folds")
def test_five_folds_test_every_patient_once_and_a_killed_run_ends_with_the_same_scores(tmp_path):
    experiment, out = tmp_path/"folds.yaml", tmp_path/"out"
    experiment.write_text(FOLDS)
    process = _start(experiment, out)
    _wait_until(lambda: len(_done(out)) > 6)
    process.kill()
    process.wait(PATIENCE)
    _wait_until(lambda: not _processes_in(out))
    kept = _done(out)
    done = medaug("run", experiment, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept.items() <= _done(out).items()
    scores, splits = pd.read_csv(out/"scores.csv"), _splits(out)
    assert len(splits) == 5 and scores.groupby("method")["patient"].agg(["size", "nunique"]).eq(20).all(axis=None)
    for fold, split in enumerate(splits.values(), 1):
        assert sorted(scores.patient[scores.fold == fold].unique()) == sorted(split["test"])
    for path in (out/"generated").glob("*/b-sg/generated.json"):
        seen = json.loads(path.read_text())["gans"]["b-sg"]["training_patients"]
        assert seen == splits[path.parts[-3]]["train"] and not {*seen} & {*splits[path.parts[-3]]["test"]}
    first = (out/"scores.csv").read_bytes()
    shutil.rmtree(sorted((out/"unets").iterdir())[1])       # train the U-Nets of a fold again
    (out/"scores.csv").unlink()
    assert medaug("run", experiment, "--out", out).returncode == 0
    assert (out/"scores.csv").read_bytes() == first


def _splits(out):
    return json.loads((out/"manifest.json").read_text())["splits"]


def _start(experiment, out, *more, command="run", **options):
    # a background process of a shell ignores Ctrl-C, and so would everything that it starts
    accept = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = [sys.executable, "-m", "medaug.cli", command, str(experiment), "--out", str(out), *more]
    return subprocess.Popen(words, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **options},
                            start_new_session=True, preexec_fn=accept)


KINDS = {"driver": "medaug.cli run", "snakemake": "-m snakemake", "run": "medaug.engine.execute",
         "kernel": "start_kernel", "worker": "popen_loky_posix"}


def _processes_in(folder):
    """The processes that name `folder` or work in it: process id → one of `KINDS`, or its command line."""
    found = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            where = os.readlink(f"/proc/{process}/cwd")
            words = open(f"/proc/{process}/cmdline").read().replace("\0", " ")
        except OSError:
            continue
        if str(folder) in where + words and int(process) != os.getpid():
            found[int(process)] = next((kind for kind, mark in KINDS.items() if mark in words), words)
    return found


def _wait_until(true):
    deadline = time.monotonic() + PATIENCE
    while not (answer := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return answer


def _done(out):
    """The date of each record; hidden files are those of records that are being written."""
    return {path.name: path.stat().st_mtime_ns for path in (out/"done").glob("[!.]*.json")}


def _numbers_of(kind, out):
    return sorted(number for number, what in _processes_in(out).items() if what == kind)


def _kill(kind, chance, out):
    """Send SIGKILL to a process of that kind at work in `out`; whether there was one."""
    for number in chance.sample(numbers := _numbers_of(kind, out), len(numbers)):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
            return True
    return False


def test_killed_at_twenty_random_moments_it_ends_with_the_same_scores(experiment, finished, tmp_path):
    """SIGKILL ends workers, runs, kernels, drivers and Snakemake; no done run is repeated, and no process stays."""
    chance, kinds, process = random.Random(0), ["worker", *["run", "driver", "kernel", "snakemake"]*5][:20], None
    out, written, completed = tmp_path/"out0", {}, 0
    while kinds or process.poll() is None or process.returncode:
        if process is not None and process.poll() == 0:     # it ended before all kills: go on in another folder
            completed += 1
            assert completed < 20, f"no {kinds[0]} was found in time"
            _same_results(out, finished)
            out, written = tmp_path/f"out{completed}", {}
        if process is None or process.poll() is not None:
            _wait_until(lambda: not _processes_in(out))
            process = _start(experiment, out)
        _wait_until(lambda: process.poll() is not None or kinds and _numbers_of(kinds[0], out))
        time.sleep(chance.uniform(0, 1) / 2**completed)     # on a fast machine a process may end before a longer wait
        if kinds and _kill(kinds[0], chance, out) and kinds.pop(0) in ("driver", "snakemake"):
            process.wait(PATIENCE)
        assert _done(out).items() >= written.items(), "a run that was done was done again"
        written = _done(out)
    _wait_until(lambda: not _processes_in(out))
    _same_results(out, finished)


def _same_results(out, finished):
    for name in ("scores.csv", "fid.csv"):
        assert (out/name).read_bytes() == (finished/name).read_bytes()


@contextmanager
def _full_disk(folder):
    """A disk of 16 kB in place of `folder` for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def _package_with(cell, folder):
    """The environment of a copy of the package whose notebook train_unet runs `cell` once it knows its method."""
    package = shutil.copytree(CHECKOUT/"medaug", folder/"medaug", ignore=shutil.ignore_patterns("__pycache__"))
    path = package/"runs"/"train_unet.ipynb"
    notebook = json.loads(path.read_text())
    sources = ["".join(one["source"]) for one in notebook["cells"]]
    index = next(index for index, source in enumerate(sources) if "method = Method(" in source)
    fault = {"cell_type": "code", "id": "fault", "metadata": {}, "execution_count": None, "outputs": [], "source": cell}
    notebook["cells"].insert(index + 1, fault)
    path.write_text(json.dumps(notebook))
    return {**os.environ, "PYTHONPATH": str(folder)}


FAULT = """import os, signal
if method.slug == "bl-w": raise ValueError("this cell raises")
if method.slug == "mc-sg-w-2": os.kill(os.getpid(), signal.SIGKILL)"""


@pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="only root can make a small disk")
def test_a_full_disk_a_raising_notebook_and_a_killed_kernel_are_reported_and_repaired(experiment, finished, tmp_path):
    lost = shutil.ignore_patterns("unets", "compare*", "train_unet-*", f"train_gan-{SUB_DATASET}-seed0-m-sg.json")
    out = shutil.copytree(finished, tmp_path/"out", ignore=lost)
    with _full_disk(out/"unets"/f"{SUB_DATASET}-seed0"/"mc-sg-w-3"):
        failed = medaug("run", experiment, "--out", out, env=_package_with(FAULT, tmp_path/"faulty"))
    assert failed.returncode == 1
    status = medaug("status", out).stdout
    for method, reason in (("BL + w.", "ValueError: this cell raises"), ("MC-SG + w. + 2", KILLED.partition(":")[0]),
                           ("MC-SG + w. + 3", "the disk is full")):
        assert f"failed   train U-Net {method} on {SUB_DATASET}: {reason}" in status, status
        assert f"train U-Net {method} on {SUB_DATASET}: failed: {reason}" in failed.stdout
    for method, error in (("bl-w", "ValueError"), ("mc-sg-w-2", "DeadKernelError")):
        notebook = json.loads((out/"notebooks"/f"train_unet-{SUB_DATASET}-seed0-{method}.ipynb").read_text())
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert [output["ename"] for output in outputs if output["output_type"] == "error"] == [error]
    assert (out/"done"/f"train_gan-{SUB_DATASET}-seed0-m-sg.json").is_file(), "everything else finishes"
    assert medaug("run", experiment, "--out", out).returncode == 0
    assert (out/"scores.csv").read_bytes() == (finished/"scores.csv").read_bytes()


def _kernel_of(name):
    """The processes that the run of that name has started."""
    runs = [process for process in psutil.process_iter(["cmdline"]) if name in (process.info["cmdline"] or ())]
    return [child for run in runs for child in run.children(recursive=True)]


@pytest.mark.skipif(bool(missing_programs() or os.geteuid()) and "CI" not in os.environ,
                    reason="needs root and Debian's slurm-wlm and munge")
def test_on_a_slurm_cluster_the_scores_are_the_same_and_a_job_that_runs_out_of_time_is_reported(finished, tmp_path):
    """Each run is a job of its own; SLURM's time limit ends the job of C-SG, because the test moves the limit.

    The slices, M-SG and the baseline are those of the undisturbed run.
    """
    experiment, out, impatient = tmp_path/"small.yaml", tmp_path/"out", tmp_path/"impatient"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("c-sg", "mc-sg*", "*c-sg.json", "generate-*",
                                                                 "train_unet-*mc-sg*", "compare*"))
    (out/"scores.csv").unlink()
    impatient.mkdir()
    profile = CHECKOUT/"medaug"/"workflow"/"profiles"/"slurm-without-accounting"/"config.v9+.yaml"
    (impatient/profile.name).write_text(profile.read_text().replace("checks: 5", "checks: 1"))
    resources = "train_gan: {threads: 1, partition: test, minutes: 30, memory_mb: 1000}"
    experiment.write_text(EXPERIMENT.replace("train_gan: {threads: 1}", resources))
    c_sg = f"train_gan-{SUB_DATASET}-seed0-c-sg"
    with slurm(tmp_path/"slurm") as cluster:
        squeue = ["squeue", "-h", "-t", "R", "-o", "%i %k"]
        first = _start(experiment, out, "--profile", "slurm-without-accounting", env=cluster)
        for process in _wait_until(lambda: _kernel_of(c_sg)):
            process.suspend()       # so that it cannot end before its time
        jobs = subprocess.run(squeue, env=cluster, capture_output=True, text=True).stdout.splitlines()
        number = next(line.split()[0] for line in jobs if "c-sg" in line)
        subprocess.run(["scontrol", "update", f"JobId={number}", "EndTime=now+1"], env=cluster, check=True)
        assert first.wait(PATIENCE) == 1
        status = medaug("status", out).stdout
        reason = "SLURM ended the job at its time limit: give train_gan more minutes"
        assert f"failed   train C-SG on {SUB_DATASET}: {reason}" in status, status
        again = _start(experiment, out, "--profile", str(impatient), env=cluster)
        assert again.wait(PATIENCE) == 0, "with the user's own profile"
    assert (out/"scores.csv").read_bytes() == (finished/"scores.csv").read_bytes()


def test_two_at_once_on_one_folder(experiment, tmp_path):
    first = _start(experiment, tmp_path/"out")
    try:
        _wait_until((tmp_path/"out"/"plan"/"todo").exists)
        second = medaug("run", experiment, "--out", tmp_path/"out")
        assert second.returncode == 2 and second.stderr.count("\n") == 1
        assert f"in use by process {first.pid}" in second.stderr
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 1
    assert not _processes_in(tmp_path/"out")
