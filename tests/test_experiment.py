"""`medaug run`: what it leaves, that it does nothing twice, that being killed at any moment costs nothing but time, and what it says when something fails."""
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
from pathlib import Path

import pandas as pd
import psutil
import pytest

from conftest import CHECKOUT
from slurm import missing_programs, slurm

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
resources: {prepare: {threads: 2}, train_gan: {threads: 1}, generate: {threads: 1}, train_unet: {threads: 1}, compare: {threads: 1}}
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
    return subprocess.run([python, "-m", "medaug.experiment.cli", *map(str, words)], capture_output=True, text=True, **{"env": clean, **options})


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


def _start(experiment, out, *more, **options):
    # where the tests run in the background of a shell, they and all that they start would ignore Ctrl-C
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-m", "medaug.experiment.cli", "run", str(experiment), "--out", str(out), *more],
                            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=heed, **options)


KINDS = {"driver": "medaug.experiment.cli run", "snakemake": "-m snakemake", "run": "medaug.experiment.execute", "kernel": "start_kernel", "worker": "multiprocessing.spawn"}


def _processes_in(folder):
    """All processes that name `folder` or work in it: number → which of `KINDS`, or its command line."""
    found = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            where, words = os.readlink(f"/proc/{process}/cwd"), open(f"/proc/{process}/cmdline").read().replace("\0", " ")
        except OSError:
            continue
        if str(folder) in where + words and int(process) != os.getpid():
            found[int(process)] = next((kind for kind, mark in KINDS.items() if mark in words), words)
    return found


def _wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return answer


def _done(out):
    return {path.name: path.stat().st_mtime_ns for path in (out/"done").glob("*.json")}


def _numbers_of(kind, out):
    return sorted(number for number, what in _processes_in(out).items() if what == kind)


def _kill(kind, chance, out):
    """SIGKILL to a process of that kind at work in `out`; whether there was one."""
    for number in chance.sample(numbers := _numbers_of(kind, out), len(numbers)):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
            return True
    return False


def test_killed_at_twenty_random_moments_it_ends_with_the_same_scores(experiment, finished, tmp_path):
    """SIGKILL to a worker, a run, a kernel, the driver and Snakemake in turn; what had ended before a kill is never done again, and nothing is left running."""
    chance, kinds, process = random.Random(0), ["worker", *["run", "driver", "kernel", "snakemake"]*5][:20], None
    out, written = tmp_path/"out0", {}
    while kinds or process.poll() is None or process.returncode:
        if process is not None and process.poll() == 0:     # it ended in spite of everything: once more in another folder
            _same_results(out, finished)
            out, written = tmp_path/f"out{len(kinds)}", {}
        if process is None or process.poll() is not None:
            _wait_until(lambda: not _processes_in(out), 15)
            process = _start(experiment, out)
        _wait_until(lambda: process.poll() is not None or kinds and _numbers_of(kinds[0], out), 300)
        time.sleep(chance.uniform(0, 1))
        if kinds and _kill(kinds[0], chance, out) and kinds.pop(0) in ("driver", "snakemake"):
            process.wait(30)
        assert _done(out).items() >= written.items(), "a run that was done was done again"
        written = _done(out)
    _wait_until(lambda: not _processes_in(out), 15)
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
    place = next(place for place, one in enumerate(notebook["cells"]) if "method = Method(" in "".join(one["source"]))
    notebook["cells"].insert(place + 1, {"cell_type": "code", "id": "fault", "metadata": {}, "execution_count": None, "outputs": [], "source": cell})
    path.write_text(json.dumps(notebook))
    return {**os.environ, "PYTHONPATH": str(folder)}


FAULT = """import os, signal
if method.slug == "bl-w": raise ValueError("this cell raises")
if method.slug == "mc-sg-w-2": os.kill(os.getpid(), signal.SIGKILL)"""


@pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="only root can make a small disk")
def test_a_full_disk_a_raising_notebook_and_a_killed_kernel_are_told_and_mended(experiment, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path/"out", ignore=shutil.ignore_patterns("unets", "compare*", "train_unet-*", f"train_gan-{SUB_DATASET}-seed0-m-sg.json"))
    with _full_disk(out/"unets"/f"{SUB_DATASET}-seed0"/"mc-sg-w-3"):
        failed = medaug("run", experiment, "--out", out, env=_package_with(FAULT, tmp_path/"faulty"))
    assert failed.returncode == 1
    status = medaug("status", out).stdout
    for method, reason in (("BL + w.", "ValueError: this cell raises"), ("MC-SG + w. + 2", "it was killed from outside (SIGKILL), most likely by the system for want of memory"),
                           ("MC-SG + w. + 3", "the disk is full")):
        assert f"failed   train U-Net {method} on {SUB_DATASET}: {reason}" in status, status
        assert f"train U-Net {method} on {SUB_DATASET}: failed: {reason}" in failed.stdout
    for method, error in (("bl-w", "ValueError"), ("mc-sg-w-2", "DeadKernelError")):
        notebook = json.loads((out/"notebooks"/f"train_unet-{SUB_DATASET}-seed0-{method}.ipynb").read_text())
        assert [output["ename"] for cell in notebook["cells"] for output in cell.get("outputs", []) if output["output_type"] == "error"] == [error]
    assert (out/"done"/f"train_gan-{SUB_DATASET}-seed0-m-sg.json").is_file(), "everything else finishes"
    assert medaug("run", experiment, "--out", out).returncode == 0
    assert (out/"scores.csv").read_bytes() == (finished/"scores.csv").read_bytes()


def _kernel_of(name):
    """The processes that the run of that name has started."""
    runs = [process for process in psutil.process_iter(["cmdline"]) if name in (process.info["cmdline"] or ())]
    return [child for run in runs for child in run.children(recursive=True)]


@pytest.mark.skipif(bool(missing_programs() or os.geteuid()) and "CI" not in os.environ, reason="needs root and Debian's slurm-wlm and munge")
def test_on_a_slurm_cluster_the_scores_are_the_same_and_a_job_that_runs_out_of_time_is_told(finished, tmp_path):
    """Each run is a job of its own; C-SG's is ended by SLURM's time limit, of which its last second is set to now."""
    experiment, out, impatient = tmp_path/"small.yaml", tmp_path/"out", tmp_path/"impatient"
    impatient.mkdir()
    profile = CHECKOUT/"medaug"/"workflow"/"profiles"/"slurm-without-accounting"/"config.v9+.yaml"
    (impatient/profile.name).write_text(profile.read_text().replace("checks: 5", "checks: 1"))
    experiment.write_text(EXPERIMENT.replace("train_gan: {threads: 1}", "train_gan: {threads: 1, partition: test, minutes: 30, memory_mb: 1000}"))
    c_sg = f"train_gan-{SUB_DATASET}-seed0-c-sg"
    with slurm(tmp_path/"slurm") as cluster:
        job = lambda: subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i %k"], env=cluster, capture_output=True, text=True).stdout
        first = _start(experiment, out, "--profile", "slurm-without-accounting", env=cluster)
        for process in _wait_until(lambda: _kernel_of(c_sg), 120):
            process.suspend()       # so that it cannot end before its time
        number = next(line.split()[0] for line in job().splitlines() if "c-sg" in line)
        subprocess.run(["scontrol", "update", f"JobId={number}", "EndTime=now+1"], env=cluster, check=True)
        assert first.wait(300) == 1
        status = medaug("status", out).stdout
        assert f"failed   train C-SG on {SUB_DATASET}: SLURM ended the job at its time limit: give train_gan more minutes" in status, status
        assert _start(experiment, out, "--profile", str(impatient), env=cluster).wait(300) == 0, "with a profile of one's own"
    assert (out/"scores.csv").read_bytes() == (finished/"scores.csv").read_bytes()


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
