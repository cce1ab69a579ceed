"""Preparing patients: files to store and back in each layout, agreement with MONAI, a user's own row, repeated and
killed runs."""
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage, NormalizeIntensity, Orientation, Resize
from scipy import ndimage

from medaug.data.check import check_dataset
from medaug.data.datasets import DATASETS, find_dataset, find_patients
from medaug.data.intensities import scale_intensity
from medaug.data.patients import read_patient
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.resize import resize_images
from medaug.data.store import SliceStore, stored_description, to_original, to_source
from medaug.data.volumes import label_values, read_volume, to_canonical, volume_to_slices
from medaug.errors import UserError
from medaug.files import content_hash

SIZE, QUICK = 48, {"processes": 1, "iterations": (2,), "progress_bar": False}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A phantom tree of each of the six datasets, two patients each."""
    folder = tmp_path_factory.mktemp("trees")
    return {
        name: write_phantom(row, folder / name, patients=2, size=SIZE, depth=10, seed=5, progress_bar=False)
        for name, row in DATASETS.items()
    }


def values_out_of(store, files, row):
    """The label file's values as they come back out of the store, in the file's own order of axes; and those in the
    file."""
    patient = store.patient(files.id)
    stored = np.asarray(nib.load(files.label).dataobj)
    back = label_values(to_source(to_original(patient.labels, patient), patient), row)
    return back, stored.reshape(stored.shape[:3])


@pytest.mark.parametrize("name", DATASETS)
def test_labels_come_back_voxel_by_voxel_where_nothing_is_resized(name, trees, tmp_path):
    row = DATASETS[name]
    store = prepare_dataset(row, trees[name], tmp_path, SIZE, **QUICK)
    for files in find_patients(row, trees[name]):
        back, stored = values_out_of(store, files, row)
        assert set(np.unique(stored)) == {0, *row.labels}
        np.testing.assert_array_equal(back, stored)
        np.testing.assert_allclose(store.patient(files.id).source_affine, nib.load(files.label).affine, atol=1e-5)


@pytest.mark.parametrize("resolution", [32, 24, 80])
@pytest.mark.parametrize("name", DATASETS)
def test_resized_labels_come_back_out_of_the_store_within_one_voxel_of_the_surface(name, resolution, trees, tmp_path):
    """Every changed voxel has a neighbour in the plane with its new class."""
    row = replace(DATASETS[name], n4=False)  # slow, and labels do not depend on it
    store = prepare_dataset(row, trees[name], tmp_path, resolution, **QUICK)
    for id in store.patients:
        patient = store.patient(id)
        assert patient.labels.shape[1:] == (resolution, resolution)
        truth, back = patient.original_labels, to_original(patient.labels, patient)
        for value in range(len(row.classes) + 1):
            near = ndimage.binary_dilation(truth == value, np.ones((3, 3, 1)))
            assert near[back == value].all()
        assert (back == truth).mean() > (0.98 if resolution > SIZE else 0.9)


@pytest.mark.parametrize("name", DATASETS)
def test_reorientation_agrees_with_monai(name, trees):
    for path in find_patients(DATASETS[name], trees[name])[0].all:
        ours = to_canonical(read_volume(path))
        loaded = LoadImage(image_only=True, ensure_channel_first=True)(path)
        theirs = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(loaded)
        np.testing.assert_array_equal(ours.array, theirs.numpy().reshape(ours.array.shape))
        np.testing.assert_allclose(ours.affine, theirs.affine.numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [48, 64, 96, 130])
def test_resampling_agrees_with_monai(size, trees):
    """Where a slice grows; where it shrinks ours averages, as torch's antialiased interpolation does, with which the
    volumes chapter compares it."""
    patient = read_patient(DATASETS["brats20"], find_patients(DATASETS["brats20"], trees["brats20"])[0])
    images = volume_to_slices(patient.images)[:, 0]
    linear = Resize((size, size), mode="bilinear", align_corners=False)(images.copy()).numpy()
    np.testing.assert_allclose(resize_images(images, size), linear, atol=1e-5*np.abs(images).max())


@pytest.mark.parametrize("name", ["brats20", "ibsr18", "d-heart", "kits19", "u-pro"])
def test_z_score_agrees_with_monai(name, trees):
    row = DATASETS[name]
    for image in read_patient(row, find_patients(row, trees[name])[0]).images:
        ours = scale_intensity(image, row)
        theirs = NormalizeIntensity(nonzero=row.type == "MRI")(np.clip(image, *(row.window or (None, None)))).numpy()
        seen = image > 0 if row.type == "MRI" else np.ones(image.shape, bool)
        np.testing.assert_allclose(ours[seen], theirs[seen], atol=2e-4)


ROW = """\
name: liver
title: Our liver
type: CT
modalities: [CT]
classes: [liver]
labels: [7]                     # the value in the label files
window: [-100, 200]
flip: false
epochs: 50
layout:
  images: ["scans/{id}.nii.gz"]
  label: "masks/{id}_liver.nii.gz"
"""


def test_a_row_of_ones_own_goes_the_whole_way(trees, tmp_path):
    (tmp_path/"liver.yaml").write_text(ROW)
    row, root = find_dataset(tmp_path/"liver.yaml"), tmp_path/"data"
    for folder in ("scans", "masks"):
        (root/folder).mkdir(parents=True)
    for files in find_patients(DATASETS["d-spleen"], trees["d-spleen"]):
        shutil.copy(files.images[0], root/"scans"/f"{files.id}.nii.gz")
        label = nib.load(files.label)
        nib.save(
            nib.Nifti1Image(np.asarray(label.dataobj) * np.uint8(7), label.affine),
            root / "masks" / f"{files.id}_liver.nii.gz",
        )
    assert check_dataset(row, root, processes=1, progress_bar=False) == []
    store = prepare_dataset(row, root, tmp_path/"store", SIZE, **QUICK)
    assert (store.dataset, store.classes, len(store.patients)) == ("liver", ("liver",), 2)
    for files in find_patients(row, root):
        back, stored = values_out_of(store, files, row)
        np.testing.assert_array_equal(back, stored)
        assert back.max() == 7
    (tmp_path/"liver.yaml").write_text(ROW.replace("[7]", "[1]"))
    problems = check_dataset(find_dataset(tmp_path/"liver.yaml"), root, processes=1, progress_bar=False)
    assert ["label value 7" in problem.what for problem in problems] == [True, True]


def dates(store):
    """The date of each finished patient; hidden folders are those of patients that are being written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("patients/[!.]*/images.npy")}


def test_a_second_run_does_what_is_new_or_changed_and_no_more(tmp_path, capfd):
    heart, root, store = DATASETS["d-heart"], tmp_path/"heart", tmp_path/"store"
    write_phantom(heart, root, patients=3, size=32, depth=8, progress_bar=False)
    prepare_dataset(heart, root, store, 32, processes=1)
    assert "Preparing D-HEART" in capfd.readouterr().err
    before = dates(store)
    write_phantom(heart, root, patients=4, size=32, depth=8, progress_bar=False)
    first = find_patients(heart, root)[0]
    shutil.copy(first.images[0], tmp_path/"copy.nii.gz")
    first.images[0].unlink()
    shutil.move(tmp_path/"copy.nii.gz", first.images[0])  # the same content with another date
    prepare_dataset(heart, root, store, 32, processes=1)
    told = capfd.readouterr().err
    assert "1/1" in told or "1.00/1.00" in told, told
    after = dates(store)
    assert {id: date for id, date in after.items() if id in before} == before and len(after) == 4
    prepare_dataset(heart, root, store, 32, processes=1)
    assert capfd.readouterr().err == ""
    prepare_dataset(heart, root, store, 16, processes=1, progress_bar=False)
    assert not set(dates(store).values()) & set(after.values()), "another resolution is other work"


def test_a_killed_run_leaves_nothing_half_written_and_is_continued(tmp_path):
    heart, root, store = DATASETS["d-heart"], tmp_path/"heart", tmp_path/"store"
    write_phantom(heart, root, patients=12, size=96, depth=40, progress_bar=False)
    program = (
        "import sys\nfrom medaug.data.datasets import DATASETS\nfrom medaug.data.prepare import prepare_dataset\n"
        "if __name__ == '__main__': prepare_dataset(DATASETS['d-heart'], sys.argv[1], "
        "sys.argv[2], 128, processes=2, progress_bar=False)"
    )
    (tmp_path/"program.py").write_text(program)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", root, store], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(dates(store)) < 3 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.005)
    run.kill()
    run.wait()
    with pytest.raises(UserError, match="not a finished slice store"):
        SliceStore(store)
    while time.monotonic() < deadline:  # its workers notice this within two seconds and end
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(run.pid, signal.SIGKILL)
        pytest.fail("the workers of a killed run stay behind")
    done = dates(store)
    whole = {id for id in done if not id.startswith(".")}
    assert 3 <= len(whole) < 12
    for id in whole:
        folder = store/"patients"/id
        assert stored_description(store, id)["hash"] == content_hash(
            *(folder / name for name in ("images.npy", "labels.npy", "original_labels.nii.gz"))
        )
    finished = prepare_dataset(heart, root, store, 128, processes=1, progress_bar=False)
    assert len(finished.patients) == 12 and {id: date for id, date in dates(store).items() if id in whole} == {
        id: done[id] for id in whole
    }
    assert not [path for path in store.rglob("*") if ".partial" in path.name]
