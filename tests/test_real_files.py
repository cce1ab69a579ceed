"""Files as they come from clinics, archives and other programs: what is read, refused, or only remarked on.

Each input is written here. `check`, the preparation and a run refuse the same."""
import gzip
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medaug.data.check import check_dataset, describe_dataset, examine_dataset
from medaug.data.datasets import DATASETS, Dataset, Layout, find_dataset, find_patients
from medaug.data.fetch import DOWNLOADS
from medaug.data.patients import read_patient
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import LeakError, split_patients
from medaug.data.store import SliceStore
from medaug.data.volumes import read_volume, voxel_size
from medaug.errors import Remark, UserError
from medaug.experiment.plan import Experiment, find_experiment, read_experiment
from medaug.experiment.runs import plan_runs
from medaug.gan.training import training_slices
from medaug.seg.recipes import TrainingSlices

SHAPE, AFFINE = (12, 10, 8), np.diag([1.0, 1.5, 2.0, 1.0])
SHARED = Path(__file__).parents[2]/"shared"/"data"/"Task04_Hippocampus"
FLAT = Layout(images=("images/{id}.nii.gz",), label="labels/{id}.nii.gz")
ROW = Dataset("mine", "MINE", "MRI", ("T1w",), ("shell", "kernel"), (1, 2), FLAT, epochs=1, flip=False)


def anatomy(seed):
    """An image and a label map with both classes, different for each seed."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 3:8, 2:6], label[5:7, 4:6, 3:5] = 1, 2
    return (rng.uniform(50, 150, SHAPE) + 200*label).astype(np.float32), label


def save(path, array, affine=AFFINE, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def write_patients(root, count=3, row=ROW):
    for number in range(count):
        image, label = anatomy(number)
        save(root/f"images/p{number}.nii.gz", image)
        save(root/f"labels/p{number}.nii.gz", label)
    return root


def write_listing(root, encoding="utf-8", **content):
    (root/"dataset.json").write_text(json.dumps(content), encoding=encoding)


def decathlon(root, count=3, **content):
    """Patients of ROW in the Decathlon's layout, with a listing that `content` changes."""
    for number in range(count):
        image, label = anatomy(number)
        save(root/f"imagesTr/p{number}.nii.gz", image)
        save(root/f"labelsTr/p{number}.nii.gz", label)
    pairs = [{"image": f"./imagesTr/p{n}.nii.gz", "label": f"./labelsTr/p{n}.nii.gz"} for n in range(count)]
    write_listing(root, **{"modality": {"0": "T1w"}, "labels": {"0": "background", "1": "shell", "2": "kernel"},
                           "numTraining": count, "training": pairs, **content})
    return root


LISTED = replace(ROW, layout=Layout(images=("imagesTr/{id}.nii.gz",), label="labelsTr/{id}.nii.gz",
                                    listing="dataset.json"))


def outcome(call):
    """The text of the refusal of `call()`, or '' if it is accepted, and the remarks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
            refusal = ""
        except UserError as error:
            refusal = str(error)
    return refusal, [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def as_yaml(row, path):
    """The row as the YAML file that an experiment names."""
    fields = {key: value for key, value in vars(row).items() if value not in ((), "", None) and key != "layout"}
    layout = {"images": [list(patterns) for patterns in row.layout.images], "label": list(row.layout.label),
              "listing": row.layout.listing}
    plain = json.loads(json.dumps({**fields, "layout": layout}))
    path.write_text(json.dumps(plain))
    return path


def agreed(row, root, tmp_path):
    """What check, prepare and the planning with the preparation of a run say: (refusals, remarks); they must agree."""
    tmp_path.mkdir(exist_ok=True)
    problems = check_dataset(row, root, processes=1, progress_bar=False)
    refused = [str(problem) for problem in problems if not problem.remark]
    told, remarks = outcome(lambda: prepare_dataset(row, root, tmp_path/"store", 16, 1, progress_bar=False))

    def run():
        file = as_yaml(row, tmp_path/"row.yaml")
        plan_runs(Experiment(dataset=str(file), root=str(root), patients=(5,), pipelines=("bl",), generated=()))
        prepare_dataset(find_dataset(file), root, tmp_path/"run", 16, 1, progress_bar=False)
    in_run, _ = outcome(run)
    assert bool(refused) == bool(told) == bool(in_run), (refused, told, in_run)
    return (refused, told), [*map(str, (problem for problem in problems if problem.remark)), *remarks]


def require_refused(row, root, tmp_path, *words):
    refused, told = agreed(row, root, tmp_path)[0]
    for word in words:
        assert any(word in text for text in refused), (word, refused)
        assert word in told or len(refused) > 1, (word, told)
    assert not (tmp_path/"store"/"index.json").exists()


def require_read(row, root, tmp_path, *remarks):
    (refused, _), told = agreed(row, root, tmp_path)
    assert not refused
    for words in remarks:
        assert sum(words in text for text in told) >= 2, (words, told)     # by check and by prepare
    if not remarks:
        assert not told, told
    return SliceStore(tmp_path/"store")


def test_a_clean_folder_is_read_by_all_three_without_a_word(tmp_path):
    store = require_read(ROW, write_patients(tmp_path/"data"), tmp_path)
    assert store.patients == ("p0", "p1", "p2") and store.voxels["p0"] == (112, 8)


# units and shear

@pytest.mark.parametrize("code, factor", [(1, 0.001), (2, 1), (3, 1000), (0, 1)], ids=["metre", "mm", "micron", "none"])
def test_lengths_in_any_unit_become_millimetres(code, factor, tmp_path):
    path = save(tmp_path/"a.nii.gz", anatomy(0)[0], np.diag([*(AFFINE.diagonal()[:3]*factor), 1]), xyzt_units=code)
    np.testing.assert_allclose(voxel_size(read_volume(path).affine), (1, 1.5, 2), rtol=1e-5)


def test_a_unit_that_gives_a_giant_is_refused(tmp_path):
    root = write_patients(tmp_path/"data")
    save(root/"images/p1.nii.gz", anatomy(1)[0], xyzt_units=1)
    require_refused(ROW, root, tmp_path, "voxels of 1000 × 1500 × 2000 mm, as its unit is the metre")


def sheared(degrees):
    affine = AFFINE.copy()
    affine[1, 2], affine[2, 2] = 2*np.sin(np.radians(degrees)), 2*np.cos(np.radians(degrees))
    return affine


def test_a_sheared_affine_is_refused_as_simpleitk_does(tmp_path):
    root = write_patients(tmp_path/"data")
    tilted = save(root/"images/p1.nii.gz", anatomy(1)[0], sheared(12))
    save(root/"labels/p1.nii.gz", anatomy(1)[1], sheared(12))
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(tilted))
    require_refused(ROW, root, tmp_path, "not at right angles (12° off)")


def test_rounding_in_an_affine_is_no_shear(tmp_path):
    np.testing.assert_allclose(read_volume(save(tmp_path/"a.nii", anatomy(0)[0], sheared(0.3))).affine, sheared(0.3),
                               atol=1e-6)


# listings

def test_classes_are_mapped_by_name(tmp_path):
    root = decathlon(tmp_path/"data", labels={"0": "background", "2": "Shell", "1": "Kernel"})
    for path in (root/"labelsTr").iterdir():
        label = np.asarray(nib.load(path).dataobj)
        save(path, np.choose(label, (0, 2, 1)).astype(np.uint8))
    store = require_read(LISTED, root, tmp_path)
    assert store.voxels["p0"] == (112, 8)
    counts = examine_dataset(LISTED, root, 1, False).counts(LISTED)
    assert "label value 2 (shell): 3 patients, 336 voxels" in counts


def test_channels_are_mapped_by_name(tmp_path):
    two = replace(LISTED, modalities=("T1w", "FLAIR"))
    root = decathlon(tmp_path/"data", modality={"0": "flair", "1": "T1"})
    for number in range(3):
        image, _ = anatomy(number)
        save(root/f"imagesTr/p{number}.nii.gz", np.stack([image + 1000, image], -1))
    read = read_patient(two, find_patients(two, root)[0])
    np.testing.assert_array_equal(read.images[0], anatomy(0)[0])
    assert read.images[1].min() > 1000
    require_read(two, root, tmp_path)


@pytest.mark.parametrize("content, words", [
    ({"labels": {"0": "background", "1": "shell", "2": "core"}}, "names the classes shell, core"),
    ({"labels": {"0": "background", "1": "shell"}}, "names the classes shell"),
    ({"modality": {"0": "T1w", "1": "T2w"}}, "names the channels T1w, T2w"),
    ({"modality": {"0": "CT"}}, "the images are CT"),
    ({"numTraining": 4}, "4 training patients (numTraining) and has 3"),
    ({"labels": {"background": 0, "shell": [1, 2], "kernel": 2}}, "several label values"),   # nnU-Net issue 2762
    ({"file_ending": ".nrrd"}, "end in .nrrd"),
], ids=lambda value: None if isinstance(value, dict) else value)
def test_a_listing_that_does_not_fit_is_refused(content, words, tmp_path):
    require_refused(LISTED, decathlon(tmp_path/"data", **content), tmp_path, words)


def test_a_patient_whom_the_listing_leaves_out_is_told(tmp_path):
    root = decathlon(tmp_path/"data")
    shutil.copy(root/"imagesTr/p0.nii.gz", root/"imagesTr/p9.nii.gz")
    assert not check_dataset(LISTED, root, 1, False)            # an image without a label is none of the training
    save(root/"labelsTr/p9.nii.gz", anatomy(0)[1])
    require_refused(LISTED, root, tmp_path, "p9: has image and label, and dataset.json does not list it")
    require_read(replace(LISTED, exclude=("p9",)), root, tmp_path)


def nnunet(root, version, count=3):
    for number in range(count):
        image, label = anatomy(number)
        for channel in range(2):
            save(root/f"imagesTr/p{number}_{channel:04d}.nii.gz", image + 1000*channel)
        save(root/f"labelsTr/p{number}.nii.gz", label)
    pairs = [{"image": f"./imagesTr/p{n}.nii.gz", "label": f"./labelsTr/p{n}.nii.gz"} for n in range(count)]
    if version == 1:
        write_listing(root, modality={"0": "FLAIR", "1": "T1"}, numTraining=count, training=pairs,
                      labels={"0": "background", "1": "shell", "2": "kernel"})
    else:
        write_listing(root, channel_names={"0": "FLAIR", "1": "T1"}, numTraining=count, file_ending=".nii.gz",
                      labels={"background": 0, "shell": 1, "kernel": 2})
    return root


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_nnunet_is_read(version, tmp_path):
    two = replace(LISTED, modalities=("T1w", "FLAIR"))
    root = nnunet(tmp_path/"data", version)
    first = find_patients(two, root)[0]
    assert [path.name for path in first.images] == ["p0_0001.nii.gz", "p0_0000.nii.gz"]
    assert read_patient(two, first).images[0].min() > 1000
    require_read(two, root, tmp_path)


def test_a_byte_order_mark_and_the_slashes_of_windows_are_read(tmp_path):
    root = decathlon(tmp_path/"data")
    content = json.loads((root/"dataset.json").read_text().replace("/", "\\\\"))
    write_listing(root, "utf-8-sig", **content)
    require_read(LISTED, root, tmp_path)


def test_a_copy_without_its_listing_is_read_by_the_names_of_its_files(tmp_path):
    root = decathlon(tmp_path/"data")
    (root/"dataset.json").unlink()
    require_read(LISTED, root, tmp_path, "holds no dataset.json")


# identity

def test_a_patient_under_a_second_name_is_refused(tmp_path):
    root = write_patients(tmp_path/"data")
    image = nib.load(root/"images/p0.nii.gz")
    flipped = image.as_reoriented([[0, -1], [1, 1], [2, 1]])    # another order, another type, another header
    nib.save(nib.Nifti1Image(np.asarray(flipped.dataobj, dtype=np.float64), flipped.affine), root/"images/p2.nii.gz")
    require_refused(ROW, root, tmp_path, "p2.nii.gz: holds the same voxels as")


def test_a_duplicated_patient_stops_a_run(tmp_path):
    """The whole program, once: the preparation fails with the line that names both files."""
    root = write_patients(tmp_path/"data", 6)
    shutil.copy(root/"images/p0.nii.gz", root/"images/p5.nii.gz")
    as_yaml(ROW, tmp_path/"row.yaml")
    (tmp_path/"mine.yaml").write_text(
        f"dataset: {tmp_path/'row.yaml'}\nroot: {root}\npatients: [5]\nresolution: 16\npipelines: [bl]\n"
        "augmentation: [without, with]\ngenerated: []\nunet: {epochs: 1, width: 4, depth: 2}\n")
    program = "import sys; from medaug.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "run", tmp_path/"mine.yaml", "--out", tmp_path/"out", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "holds the same voxels as" in done.stdout + done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_scans_of_one_person_stay_together_and_the_trainings_guard_them(tmp_path):
    root = tmp_path/"data"
    for number in range(10):
        image, label = anatomy(number)
        save(root/f"images/person{number//2}_{number % 2}.nii.gz", image)
        save(root/f"labels/person{number//2}_{number % 2}.nii.gz", label)
    row = replace(ROW, group=r"person\d+")
    store = require_read(row, root, tmp_path)
    assert store.groups["person3_1"] == "person3"
    for seed in range(10):
        split = split_patients(store.patients, 10, seed, groups=store.groups)
        persons = [{store.groups[id] for id in part} for part in split.to_dict().values()]
        assert sum(map(len, persons)) == len(set().union(*persons)) == 5
        training_slices(store, split), TrainingSlices(store, split)
    blind = [split_patients(store.patients, 10, seed) for seed in range(10)]    # without the groups
    careless = next(split for split in blind if {store.groups[id] for id in split.train}
                    & {store.groups[id] for id in split.test})
    for training in (training_slices, TrainingSlices):
        with pytest.raises(LeakError, match="a scan of the person"):
            training(store, careless)
    require_refused(replace(row, group="patient"), root, tmp_path/"other", "is found in none of the patients' names")


# empty classes

def test_a_class_that_nobody_has_is_refused_and_counted(tmp_path):
    root = write_patients(tmp_path/"data")
    for path in (root/"labels").iterdir():
        save(path, np.minimum(np.asarray(nib.load(path).dataobj), 1))
    require_refused(ROW, root, tmp_path, "no voxel of the class 'kernel' in any of 3 patients")
    assert "label value 2 (kernel): 0 patients, 0 voxels" in examine_dataset(ROW, root, 1, False).counts(ROW)


def test_a_class_that_no_training_patient_has_stops_the_trainings(tmp_path):
    root = write_patients(tmp_path/"data", 5)
    split = split_patients([f"p{n}" for n in range(5)], 5, 0)
    for id in split.train:
        path = root/f"labels/{id}.nii.gz"
        save(path, np.minimum(np.asarray(nib.load(path).dataobj), 1))
    store = require_read(ROW, root, tmp_path)
    for training in (training_slices, TrainingSlices):
        with pytest.raises(UserError, match="no voxel of the class 'kernel' in any of 3 training patients"):
            training(store, split)


def test_an_empty_mask_is_a_remark(tmp_path):
    root = write_patients(tmp_path/"data")
    save(root/"labels/p1.nii.gz", np.zeros(SHAPE, np.uint8))
    problems = check_dataset(ROW, root, 1, False)
    assert [(problem.remark, "the mask is empty" in problem.what) for problem in problems] == [(True, True)]
    assert prepare_dataset(ROW, root, tmp_path/"store", 16, 1, progress_bar=False).voxels["p1"] == (0, 0)


# intensities

def test_a_ct_without_a_window_is_asked_for_one(tmp_path):
    with pytest.raises(ValueError, match="a CT needs a window"):
        replace(ROW, type="CT", modalities=("CT",))
    as_yaml(ROW, tmp_path/"row.yaml")
    (tmp_path/"row.yaml").write_text((tmp_path/"row.yaml").read_text().replace('"MRI"', '"CT"'))
    with pytest.raises(UserError, match="a CT needs a window.*such as"):
        find_dataset(tmp_path/"row.yaml")


def test_a_ct_without_negative_values_is_remarked_on(tmp_path):
    row = replace(ROW, type="CT", modalities=("CT",), window=(0.0, 1300.0))
    root = write_patients(tmp_path/"data")
    for path in (root/"images").iterdir():
        save(path, np.asarray(nib.load(path).dataobj) + 1024)
    require_read(row, root, tmp_path, "may be no Hounsfield units")


def test_a_normalised_mri_is_recognised(tmp_path):
    root = write_patients(tmp_path/"data")
    image = anatomy(1)[0]
    normal = np.where(anatomy(1)[1] > 0, (image - image.mean())/image.std() - 2, 0).astype(np.float32)
    save(root/"images/p1.nii.gz", normal)
    assert normal.min() < -0.3
    require_read(ROW, root, tmp_path, "taken for normalised already")
    ringing = np.where(image > 60, image, -0.5).astype(np.float32)      # what splines leave beside an edge
    save(root/"images/p1.nii.gz", ringing)
    assert not [str(each) for each in check_dataset(ROW, root, 1, False)]


# versions, names and pairs

def test_two_versions_of_one_file_that_differ_are_refused(tmp_path):
    root = write_patients(tmp_path/"data")
    path = root/"labels/p1.nii.gz"
    (root/"labels/p1.nii").write_bytes(gzip.decompress(path.read_bytes()))
    require_read(ROW, root, tmp_path)
    save(root/"labels/p1.nii", np.roll(anatomy(1)[1], 1, axis=0))
    require_refused(ROW, root, tmp_path/"differing", "are versions of one file, and they differ")


def test_patterns_find_each_ending(tmp_path):
    root = write_patients(tmp_path/"data")
    nib.save(nib.Nifti1Pair(anatomy(1)[0], AFFINE), root/"images/p1.hdr")
    (root/"images/p1.nii.gz").unlink()
    (root/"images/p2.nii").write_bytes(gzip.decompress((root/"images/p2.nii.gz").read_bytes()))
    (root/"images/p2.nii.gz").unlink()
    plain = replace(ROW, layout=Layout(images=("images/{id}.nii",), label="labels/{id}.nii"))
    first = find_patients(plain, root)
    assert [files.images[0].name for files in first] == ["p0.nii.gz", "p1.hdr", "p2.nii"]
    assert "p1.img" in [path.name for path in first[1].all]
    require_read(plain, root, tmp_path)
    (root/"images/p1.img").unlink()
    require_refused(plain, root, tmp_path/"cut", "p1.img: is missing: the voxels of the header beside it")


def test_what_macos_adds_is_no_patient(tmp_path):
    root = write_patients(tmp_path/"data")
    for name in ("images/._p7.nii.gz", "__MACOSX/images/p8.nii.gz", "__MACOSX/images/._p0.nii.gz"):
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    require_read(ROW, root, tmp_path)


def test_a_further_image_in_a_flat_folder_is_no_patient(tmp_path):
    row = replace(ROW, layout=Layout(images=("{id}_t1.nii.gz",), label="{id}.nii.gz"))
    root = tmp_path/"data"
    for number in range(3):
        image, label = anatomy(number)
        save(root/f"sub{number:02d}_t1.nii.gz", image)
        save(root/f"sub{number:02d}.nii.gz", label)
    assert [files.id for files in find_patients(row, root)] == ["sub00", "sub01", "sub02"]
    save(root/"sub00_dwi_t1.nii.gz", anatomy(7)[0])
    with pytest.warns(Remark, match="sub00_dwi: is taken for a further file of patient sub00"):
        assert [files.id for files in find_patients(row, root)] == ["sub00", "sub01", "sub02"]
    require_read(row, root, tmp_path, "further file of patient sub00")


def test_a_patient_without_a_label_can_be_left_out(tmp_path):
    root = write_patients(tmp_path/"data")
    (root/"labels/p1.nii.gz").unlink()
    require_refused(ROW, root, tmp_path, "the patient has no label: give one, or leave it out: exclude: [p1]")
    assert require_read(replace(ROW, exclude=("p1",)), root, tmp_path).patients == ("p0", "p2")
    hearts = write_phantom(DATASETS["d-heart"], tmp_path/"hearts", 3, 16, 6, progress_bar=False)
    next(hearts.rglob("labelsTr/la_004*")).unlink()
    with pytest.raises(UserError, match=r"exclude: \[la_004\] in the dataset's row \(like: d-heart\)"):
        find_patients("d-heart", hearts)
    (tmp_path/"hearts.yaml").write_text("like: d-heart\nexclude: [la_004]\n")
    assert len(find_patients(find_dataset(tmp_path/"hearts.yaml"), hearts)) == 2


def test_a_row_may_be_given_by_its_name(tmp_path):
    root = write_phantom("d-heart", tmp_path/"hearts", 2, 16, 6, progress_bar=False)
    files = find_patients("d-heart", root)
    assert read_patient("d-heart", files[0]).labels.any() and not check_dataset("d-heart", root, 1, False)
    store = prepare_dataset("d-heart", root, tmp_path/"store", 16, 1)
    assert describe_dataset("d-heart", root) and len(store.patients) == 2
    with pytest.raises(UserError, match="no such dataset"):
        find_patients("heart", root)


# orientation

def turned(degrees):
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -1.5*sine, 0, 3], [sine, 1.5*cosine, 0, -4], [0, 0, 2, 9], [0, 0, 0, 1]])


@pytest.mark.parametrize("angle", [45, -45, 135])
def test_an_image_and_a_label_at_45_degrees_are_reoriented_by_one_affine(angle, tmp_path):
    root, tenth = write_patients(tmp_path/"data"), np.degrees(1e-4)
    image, label = anatomy(1)
    save(root/"images/p1.nii.gz", image, turned(angle + tenth))
    save(root/"labels/p1.nii.gz", label, turned(angle - tenth))
    require_read(ROW, root, tmp_path)
    patient = read_patient(ROW, find_patients(ROW, root)[1])
    assert sorted(patient.images[0][patient.labels == 2]) == sorted(image[label == 2])


def test_slices_that_lie_along_another_axis_are_told_with_the_axis(tmp_path):
    root = tmp_path/"data"
    for number in range(3):
        image, label = anatomy(number)
        for kind, array in (("images", image), ("labels", label)):
            save(root/f"{kind}/p{number}.nii.gz", array, np.diag([4, 0.5, 0.5, 1.0]))
    (told,) = check_dataset(ROW, root, 1, False)
    assert told.remark and "slice_axis: 0" in told.remedy and "4 mm that lie along the left-right axis" in told.what
    assert check_dataset(replace(ROW, slice_axis=0), root, 1, False) == []


def test_sagittal_slices_are_not_flipped():
    assert not replace(DATASETS["ibsr18"], slice_axis=0).flip and DATASETS["ibsr18"].flip


# labels

def test_labels_that_are_nearly_whole_are_taken_with_a_remark(tmp_path):
    root = write_patients(tmp_path/"data")
    save(root/"labels/p1.nii.gz", anatomy(1)[1]*np.float32(0.9999999))
    require_read(ROW, root, tmp_path, "0.9999999, 1.9999998, taken for 1, 2")
    save(root/"labels/p1.nii.gz", anatomy(1)[1]*np.float32(0.998))
    require_refused(ROW, root, tmp_path/"far", "holds the label value 0.998, 1.996; MINE has 0, 1, 2")


# further inputs from public reports; the comment says which, and what medaug said before

def quaternion(root):
    """fmriprep issue 845: the quaternion's length is above 1 by rounding. Before: 'is truncated or damaged (w2
    should be positive)'."""
    path = save(root/"images/p1.nii.gz", anatomy(1)[0])
    raw = bytearray(gzip.decompress(path.read_bytes()))
    told = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
    told["sform_code"], told["qform_code"], told["pixdim"][0, 0] = 0, 1, 1
    told["quatern_b"], told["quatern_c"], told["quatern_d"] = np.sqrt(1 + 6e-7), 0, 0
    told["qoffset_x"], told["qoffset_y"], told["qoffset_z"] = 0, 13.5, 14
    path.write_bytes(gzip.compress(bytes(raw)))
    affine = np.diag([1, -1.5, -2, 1])
    affine[:3, 3] = 0, 13.5, 14
    save(root/"labels/p1.nii.gz", anatomy(1)[1], affine)


def zero_sform(root):
    """nibabel issue 182: an sform of zeros beside a good qform. Before: 'has an impossible spacing (0 × 0 × 0 mm)'."""
    path = root/"images/p1.nii.gz"
    image = nib.Nifti1Image(anatomy(1)[0], None)
    image.set_qform(AFFINE, 1)
    nib.save(image, path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    told = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
    told["sform_code"] = 1
    for row in "xyz":
        told[f"srow_{row}"] = 0
    path.write_bytes(gzip.compress(bytes(raw)))


def plain_gz(root):
    """nibabel issue 966, kits19 issue 39: not gzipped, but so named. Before: 'download or export the file again'."""
    path = root/"images/p1.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))


def packed_plain(root):
    """nibabel issue 1070: gzipped, but named .nii. Before: 'is not a NIfTI file'."""
    (root/"images/p1.nii.gz").rename(root/"images/p1.nii")


def no_orientation(root):
    """TorchIO issue 469 and others: neither sform nor qform. Before: read without a word."""
    for kind, array in zip(("images", "labels"), anatomy(1)):
        image = nib.Nifti1Image(array, None)
        image.header.set_zooms((1, 1.5, 2))
        nib.save(image, root/f"{kind}/p1.nii.gz")


@pytest.mark.parametrize("plant, remark", [
    (quaternion, None), (zero_sform, "sform of zeros"), (plain_gz, "not gzipped"),
    (packed_plain, "is gzipped"), (no_orientation, "neither sform nor qform")], ids=lambda value: getattr(
        value, "__name__", None))
def test_these_are_read(plant, remark, tmp_path):
    root = write_patients(tmp_path/"data")
    plant(root)
    require_read(ROW, root, tmp_path, *([remark] if remark else []))
    patient = read_patient(ROW, find_patients(ROW, root)[1])
    assert sorted(patient.images[0][patient.labels == 2]) == sorted(anatomy(1)[0][anatomy(1)[1] == 2])


def test_modalities_on_a_fifth_axis_are_read(tmp_path):
    """MONAI issue 3176: ITK writes them so. Before: 'holds 12 × 10 × 8 × 1 × 2 voxels where 2 modalities are'."""
    row, root = replace(ROW, modalities=("T1w", "FLAIR")), write_patients(tmp_path/"data")
    for path in (root/"images").iterdir():
        image = np.asarray(nib.load(path).dataobj)
        save(path, np.stack([image, image + 7], -1)[..., None, :])
    require_read(row, root, tmp_path)
    np.testing.assert_array_equal(read_patient(row, find_patients(row, root)[1]).images[1], anatomy(1)[0] + 7)


@pytest.mark.parametrize("name, content, words", [
    # kits19 issue 5: cloned without Git LFS. Before: 'Not a gzipped file (b've'); download or export the file again'
    ("images/p1.nii.gz", lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    # gzipped by an export and again by an upload. Before: 'convert it to NIfTI'
    ("images/p1.nii.gz", gzip.compress, "is gzipped twice"),
    # bids-validator issue 52: a file of no bytes. Before: 'convert it to NIfTI'
    ("labels/p1.nii.gz", lambda raw: b"", "is empty"),
    # a page that asks for a password, saved as the file. Before: 'Not a gzipped file (b'<!')'
    ("labels/p1.nii.gz", lambda raw: b"<!DOCTYPE html><title>Log in</title>", "download or export the file again"),
    # NRRD under another name. Before: 'Not a gzipped file (b'NR'); download or export the file again'
    ("labels/p1.nii.gz", lambda raw: b"NRRD0004\n# Complete NRRD file", "is not a NIfTI file but NRRD"),
], ids=["lfs", "twice", "nothing", "page", "nrrd"])
def test_these_are_refused_with_what_they_are(name, content, words, tmp_path):
    root = write_patients(tmp_path/"data")
    (root/name).write_bytes(content((root/name).read_bytes()))
    require_refused(ROW, root, tmp_path, words)


def test_an_image_saved_as_the_label_is_refused_with_its_values(tmp_path):
    """nnU-Net issue 1007: a CT among the labels. Before and after: the first values are told."""
    root = write_patients(tmp_path/"data")
    save(root/"labels/p1.nii.gz", np.arange(-1024, -64).reshape(SHAPE).astype(np.int16))
    require_refused(ROW, root, tmp_path, "holds the label value -1024, -1023, -1022")


def test_masks_of_one_class_each_in_one_file_are_refused_with_what_to_do(tmp_path):
    """MONAI issue 7185 and many: labels one-hot on a fourth axis. Before: 'split the file, one volume a modality'."""
    root = write_patients(tmp_path/"data")
    label = anatomy(1)[1]
    save(root/"labels/p1.nii.gz", np.stack([label == value for value in range(3)], -1).astype(np.uint8))
    require_refused(ROW, root, tmp_path, "write one volume of class numbers")


def test_a_link_to_content_that_was_not_fetched_is_told(tmp_path):
    """OpenNeuro's datasets are git-annex repositories. Before: 'is missing; download or unpack the patient again'."""
    root = write_patients(tmp_path/"data")
    (root/"images/p1.nii.gz").unlink()
    (root/"images/p1.nii.gz").symlink_to("../.git/annex/objects/x/MD5E-s1--y.nii.gz")
    require_refused(ROW, root, tmp_path, "a link to ../.git/annex/objects")


def test_a_folder_of_another_format_is_told(tmp_path):
    (tmp_path/"data").mkdir()
    (tmp_path/"data/p0.nrrd").touch()
    require_refused(ROW, tmp_path/"data", tmp_path, "convert its .nrrd files to NIfTI")


# the hippocampus

def test_the_hippocampus_phantom_is_read_and_its_listing_counts(tmp_path):
    row = DATASETS["d-hippocampus"]
    root = write_phantom(row, tmp_path/"data", 6, 32, 12, progress_bar=False)
    store = require_read(row, root, tmp_path)
    assert store.classes == ("anterior", "posterior") and all(min(counts) > 0 for counts in store.voxels.values())
    assert len(store.patients) == 6 and not row.flip and DOWNLOADS[row.name].url.endswith("/Task04_Hippocampus.tar")


def test_the_hippocampus_experiment_is_planned_with_equal_steps_and_several_trainings():
    experiment = read_experiment(find_experiment("hippocampus"))
    assert experiment.row.name == "d-hippocampus" and len(experiment.seeds) >= 3
    runs = plan_runs(experiment.model_copy(update={"root": "nowhere"}))
    steps = [run.parameters["steps"] for run in runs if run.stage == "train_unet"]
    assert len(set(steps)) == 1 and len(steps) == len(experiment.methods)*len(experiment.seeds)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the Decathlon's hippocampus is not here")
def test_the_hippocampus_itself_is_read(tmp_path):
    row = DATASETS["d-hippocampus"]
    found = examine_dataset(row, SHARED, 2, False)
    assert found.problems == [] and len(found.facts) == 130
    assert found.counts(row) == ["label value 1 (anterior): 130 patients, 223,667 voxels",
                                 "label value 2 (posterior): 130 patients, 208,781 voxels"]
    some = [files.id for files in find_patients(row, SHARED)][:12]
    store = prepare_dataset(row, SHARED, tmp_path/"store", 32, 2, some, progress_bar=False)
    images = np.concatenate([store.patient(id).images.numpy() for id in some])
    assert np.isfinite(images).all() and abs(images).max() < 40     # up to 1.6 million before
