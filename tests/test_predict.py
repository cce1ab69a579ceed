"""`medaug predict` on the folders of a clinic: its label maps overlay the scans, and score as the experiment does."""
import csv
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medaug.cli import main
from medaug.data.datasets import DATASETS
from medaug.data.dicom_phantom import mask_outlines, write_series, write_structures
from medaug.data.phantom import phantom_patient
from medaug.experiment.checkpoints import trained_checkpoints
from medaug.seg.dice import dice_score

ROW = """\
name: our-pelvis
title: Our pelvis CT
type: CT
modalities: [CT]
classes: [prostate, bladder, rectum]
labels: [10, 20, 30]
window: [-160, 240]
flip: true
epochs: 12
structures: {prostate: 10, bladder: 20, rectum: 30}
layout: {images: ["{id}"], label: "{id}", patients: "patient_*"}
"""
EXPERIMENT = """\
dataset: ROW
root: ROOT
patients: [8]
resolution: 32
seeds: [0, 1]
generated: [4]
pipelines: [bl]
augmentation: [without, with]
unet: {epochs: 12, batch: 8, width: 8, depth: 2, learning_rate: 0.01}
resources:
  prepare: {threads: 1}
  train_unet: {threads: 1, memory_mb: 1000, minutes: 10}
  compare: {threads: 1, memory_mb: 1000, minutes: 10}
"""


def oblique(spacing):
    """An affine (RAS) whose axes are turned by about ten degrees against the patient's."""
    turn = np.linalg.qr(np.array([[1, 0.1, -0.1], [-0.12, 1, 0.08], [0.1, -0.05, 1]]))[0]
    turn *= np.sign(np.diag(turn)) * [-1, -1, 1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, (30, 40, 12)
    return affine


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """The folder of an experiment on eight patients of a clinic, and what was drawn: {id: (affine, labels)}."""
    folder, drawn = tmp_path_factory.mktemp("clinic"), {}
    for number in range(1, 9):
        images, classes, spacing = phantom_patient(DATASETS["u-pro"], seed=3, patient=number, size=40, depth=10)
        ct, labels = images[0][::-1, ::-1], classes[::-1, ::-1]
        affine, id = oblique(spacing), f"patient_{number:04d}"
        series = write_series(folder/"archive"/id/"CT", ct, affine, enhanced=number % 2 == 0)
        organs = {name: list(mask_outlines(labels == index, affine))
                  for index, name in enumerate(("Prostate", "Bladder", "Rectum"), 1)}
        write_structures(folder/"archive"/id/"RS.dcm", organs, series)
        drawn[id] = affine, labels.copy()
    (folder/"row.yaml").write_text(ROW)
    text = EXPERIMENT.replace("ROW", str(folder/"row.yaml")).replace("ROOT", str(folder/"archive"))
    (folder/"pelvis.yaml").write_text(text)
    command = [sys.executable, "-m", "medaug.cli", "run", folder/"pelvis.yaml", "--out", folder/"out", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, drawn


def scores_of(folder, drawn, predictions):
    """{(patient, class): DSC} of label maps that `medaug predict` wrote, against what was drawn."""
    found = {}
    for id in predictions:
        image, (affine, labels) = nib.load(predictions[id]), drawn[id]
        assert np.allclose(image.affine, affine, atol=1e-4) and image.shape == labels.shape
        values = np.asarray(image.dataobj)
        assert set(np.unique(values)) <= {0, 10, 20, 30}
        for name, dsc in zip(("prostate", "bladder", "rectum"), dice_score(values // 10, labels, 3).tolist()):
            found[id, name] = dsc
    return found


def test_a_prediction_overlays_its_series_and_scores_as_in_the_experiment(clinic, tmp_path):
    folder, drawn = clinic
    with open(folder/"out"/"scores.csv") as file:
        rows = [row for row in csv.DictReader(file) if (row["seed"], row["method"]) == ("0", "BL + w.o.")]
    tested = sorted({row["patient"] for row in rows})
    checkpoint = trained_checkpoints(folder/"out", "BL + w.o.")[0]
    scans = [folder/"archive"/id/"CT" for id in tested]
    assert main(["predict", str(checkpoint), *map(str, scans), str(tmp_path/"out")]) == 0
    predictions = {id: tmp_path/"out"/f"{id}-CT.nii.gz" for id in tested}
    ours = scores_of(folder, drawn, predictions)
    theirs = {(row["patient"], row["class"]): float(row["dsc"]) for row in rows}
    assert ours.keys() == theirs.keys() and len(ours) >= 6
    assert all(abs(ours[key] - theirs[key]) < 1e-5 for key in ours), (ours, theirs)
    assert np.mean(list(ours.values())) > 0.3, "so short a training finds something, or this test shows nothing"


def test_all_trainings_of_a_method_are_an_ensemble(clinic, tmp_path, capsys):
    folder, drawn = clinic
    assert main(["predict", str(folder/"out"), str(folder/"archive"/"patient_0001"), str(tmp_path/"a.nii.gz"),
                 "--method", "BL + w.o."]) == 0
    both = trained_checkpoints(folder/"out", "bl-wo")
    assert len(both) == 2
    scan = str(folder/"archive"/"patient_0001"/"CT")
    assert main(["predict", *map(str, both), scan, str(tmp_path/"b.nii.gz")]) == 0
    assert main(["predict", str(both[0]), scan, str(tmp_path/"one.nii.gz")]) == 0
    a, b, one = (np.asarray(nib.load(tmp_path/f"{name}.nii.gz").dataobj) for name in ("a", "b", "one"))
    assert (a == b).all() and (a != one).any()
    capsys.readouterr()
    assert main(["predict", str(folder/"out"), scan, str(tmp_path/"c.nii.gz")]) == 2
    assert main(["predict", str(both[0]), scan, str(tmp_path/"a.nii.gz")]) == 2
    told = capsys.readouterr().err
    assert "holds trainings of several methods" in told and "exists already" in told and told.count("\n") == 2
