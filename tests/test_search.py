"""`medaug search`: it chooses without test patients, refuses noise, continues after a kill, and confirms once."""
import os
import signal
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_experiment import RESOURCES, _done, _processes_in, _start, _wait_until, medaug

from medaug.data.datasets import DATASETS, find_patients
from medaug.data.phantom import write_phantom
from medaug.data.splits import split_patients
from medaug.experiment.search import SearchFolder
from medaug.report.search_report import build_search_report

SEARCH = """
dataset: kits19
phantom: {patients: 24, size: 48, depth: 8}
patients: [6]
resolution: 32
seeds: [0, 1]
generated: [12]
pipelines: [bl]
synthetic: {noise: {root: ROOT/noise}, twin: {root: ROOT/twin}}
augmentation: [without]
unet: {steps: 200, looks: 2, batch: 8, width: 8, depth: 3, learning_rate: 0.003}
statistics: {test: rest}
search: {folds: [1, 2]}
""" + RESOURCES
MADE = 12
pytestmark = pytest.mark.xdist_group("search")


def _write(folder, number, affine, image, label):
    for name, voxels in (("image", image), ("label", label)):
        path = folder/f"made_{number}"/f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, affine), path)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment with a source that must help and one that must not: more patients of the same kind, and noise.

    Every voxel of the noise is kidney.
    """
    folder = tmp_path_factory.mktemp("search")
    random, row = np.random.default_rng(0), DATASETS["kits19"]
    twins = find_patients(row, write_phantom(row, folder/"phantom", MADE, 48, 8, seed=100))
    for number, twin in enumerate(twins):
        image, label = (nib.load(path) for path in (*twin.images, twin.label))
        _write(folder/"twin", number, image.affine, np.asarray(image.dataobj), np.asarray(label.dataobj))
        noise = random.normal(100, 30, image.shape).astype(np.float32)
        _write(folder/"noise", number, image.affine, noise, np.ones(image.shape, np.uint8))
    path = folder/"planted.yaml"
    path.write_text(SEARCH.replace("ROOT", str(folder)))
    return path


@pytest.fixture(scope="module")
def searched(experiment):
    """The folder of a search that was killed on the way, and what the second command printed."""
    out = experiment.parent/"first"
    process = _start(experiment, out, command="search")
    _wait_until(lambda: len(_done(out/"search")) > 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_until(lambda: not _processes_in(out))
    kept = _done(out/"search")
    done = medaug("search", experiment, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept.items() <= _done(out/"search").items()
    return out, done.stdout


def test_patients_that_must_help_are_chosen_and_noise_is_not(searched):
    out, printed = searched
    choice = SearchFolder(out).choice
    first = choice.rungs[0].means
    assert min(first, key=first.get) == "NOISE + w.o. + 12" and "NOISE + w.o. + 12" not in choice.methods, first
    assert choice.chosen == "TWIN + w.o. + 12" and choice.against == "BL + w.o.", choice
    assert choice.sentence in printed and choice.hash[:16] in printed
    assert f"{choice.chosen} gains +" in printed and "In the search the gain was" in printed


def test_no_test_patient_is_used_before_the_choice_is_written(searched):
    folder = SearchFolder(searched[0])
    store = folder.search.store
    split = split_patients(store.patients, 6, 0, "rest")
    scores = pd.read_csv(folder.search.scores)
    assert set(scores.patient) <= {*split.train, *split.validation} and scores.fold.max() == 2
    for inner in folder.search.splits.values():
        assert not {*inner.train, *inner.validation, *inner.test} & {*split.test}
    written = folder.choice_file.stat().st_mtime_ns
    trained = [path.stat().st_mtime_ns for path in (folder.path/"confirmation").rglob("checkpoint.pt")]
    assert trained and written < min(trained)


def test_the_choice_is_confirmed_on_the_test_patients_alone(searched):
    folder = SearchFolder(searched[0])
    scores, choice = pd.read_csv(folder.confirmation.scores), folder.choice
    test = set(split_patients(folder.search.store.patients, 6, 0, "rest").test)
    assert set(scores.method) == {*choice.methods} and set(scores.patient) == test and set(scores.seed) == {0, 1}
    assert folder.confirmation.report_page.is_file()
    page = folder.report_page.read_text()
    assert choice.hash in page and "No other confirmation beside this folder" in page
    assert "The confirmation</h2>" in page and "is not done yet" not in page
    # the slices were prepared once
    assert os.stat(next(folder.search.store_path(folder.search.plan[0]).rglob("images.npy"))).st_nlink > 1


def test_the_same_command_does_nothing_again_and_a_changed_choice_is_refused(searched, experiment):
    out, _ = searched
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    again = medaug("search", experiment, "--out", out)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stdout + again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    status = medaug("status", out).stdout
    assert "search\n" in status and "confirmation\n" in status
    file = SearchFolder(out).choice_file
    text = file.read_text()
    try:
        file.write_text(text.replace('"baseline": "BL', '"baseline": "ZL'))
        refused = medaug("search", experiment, "--out", out)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert "was changed after it was written" in refused.stderr
    finally:
        file.write_text(text)


def test_the_confirmation_of_an_earlier_choice_is_not_shown_as_that_of_a_new_one(searched):
    folder = SearchFolder(searched[0])
    choice = folder.choice
    folder.write_choice(replace(choice, rungs=choice.rungs[:-1]))
    try:
        page = build_search_report(searched[0]).read_text()
        assert "The confirmation on the test patients is not done yet" in page and "The confirmation</h2>" not in page
    finally:
        folder.write_choice(choice)
    assert "The confirmation</h2>" in build_search_report(searched[0]).read_text()


def test_another_search_on_the_same_patients_is_counted(searched, experiment):
    out, _ = searched
    folder, other = SearchFolder(out), SearchFolder(out.parent/"second")
    test = split_patients(folder.search.store.patients, 6, 0, "rest").test
    other.note_confirmation(folder.choice, folder.search.row.title, test[:1])
    build_search_report(out)
    assert "1 other confirmation used test patients" in folder.report_page.read_text()


def test_what_cannot_be_searched_is_refused_in_one_line(experiment, tmp_path):
    path = tmp_path/"sizes.yaml"
    path.write_text(experiment.read_text().replace("patients: [6]", "patients: [6, 10]"))
    refused = medaug("search", path, "--out", tmp_path/"out")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "one sub-dataset" in refused.stderr
    assert not (tmp_path/"out").exists()
    shown = medaug("search", experiment, "--out", tmp_path/"out", "--dry-run")
    assert shown.returncode == 0 and "3 candidates, of which 2 need a generator" in shown.stdout, shown.stderr
    assert not (tmp_path/"out").exists()
