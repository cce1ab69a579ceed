"""`check` names the file of each of 36 planted faults of 20 kinds; full and read-only disks give a clear message."""
import gzip
import os
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medaug.data.check import check_dataset
from medaug.data.datasets import DATASETS, find_patients
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.store import SliceStore
from medaug.data.volumes import read_volume
from medaug.errors import UserError

BRATS, HEART = DATASETS["brats20"], DATASETS["d-heart"]
ODD = 4  # clean patients that look odd


def spoil(change):
    """A fault that changes (array, affine, header) of a file, given as a function that returns what differs."""
    def plant(path):
        image = nib.load(path)
        new = change(np.asarray(image.dataobj).copy(), image.affine.copy())
        array, affine = new if isinstance(new, tuple) else (new, image.affine)
        nib.save(nib.Nifti1Image(array, affine), path)
    return plant


def header(**fields):
    """A fault in the header's fields, the rest of the file as it is."""
    def plant(path):
        raw = bytearray(gzip.decompress(path.read_bytes()))
        told = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
        for name, value in fields.items():
            told[name] = value
        path.write_bytes(gzip.compress(bytes(raw)))
    return plant


def content(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def put(value, dtype=np.float32, place=np.s_[3, 3, 3]):
    def change(array, affine):
        array = array.astype(dtype)
        array[place] = value
        return array
    return spoil(change)


def moved(offset, scale=1.0):
    def change(array, affine):
        affine[:3, 3] += offset
        affine[:3, 0] *= scale
        return array, affine
    return spoil(change)


def mirrored(array, affine):
    """RAS voxels under an LPS affine: the mixture of two conventions, in one patient."""
    affine[:3, :2] *= -1
    return array, affine


def slope(path):
    """Integers whose slope makes other label values of them."""
    image = nib.load(path)
    scaled = nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine)
    scaled.header.set_slope_inter(2, 1)
    nib.save(scaled, path)


def two_affines(path):
    image = nib.load(path)
    image.set_sform(image.affine, 2)
    image.set_qform(image.affine @ np.diag([-1, -1, 1, 1]), 1)
    nib.save(image, path)


def copy_of(number):
    def plant(path):
        for part in ("t1", "t1ce", "t2", "flair", "seg"):
            shutil.copy(
                path.parent.parent / patient(number) / f"{patient(number)}_{part}.nii.gz",
                path.with_name(f"{path.parent.name}_{part}.nii.gz"),
            )

    return plant


def second_place(path):
    shutil.copytree(path.parent, path.parent.parent/"again"/path.parent.name)


FAULTS = [  # kind, file, words of the message, the function that plants it
    ("truncated gzip", "t1", "is truncated", content(lambda raw: raw[: len(raw) // 2])),
    ("truncated gzip", "seg", "is truncated", content(lambda raw: raw[:-6])),
    ("truncated gzip", "flair", "that can be read", content(lambda raw: raw[:60])),
    (
        "damaged body",
        "t2",
        "is truncated or damaged",
        content(lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 255]) + raw[len(raw) // 2 + 1 :]),
    ),
    ("too short after unpacking", "t1", "truncated", content(lambda raw: gzip.compress(gzip.decompress(raw)[:-500]))),
    ("not NIfTI", "t1ce", "not a NIfTI file", content(lambda raw: b"<html>Please log in</html>")),
    ("not NIfTI", "t2", "not a NIfTI file", content(lambda raw: b"")),
    ("not NIfTI", "seg", "not a NIfTI file", content(lambda raw: gzip.compress(b"\x89PNG" + bytes(2000)))),
    ("shape", "flair", "voxels and", spoil(lambda array, affine: array[1:])),
    ("shape", "seg", "voxels and", spoil(lambda array, affine: array[:, :, :-1])),
    ("affine", "t1", "voxels away from", moved((0, 0, 40))),
    ("affine", "t2", "voxels away from", moved(0, scale=1.5)),
    ("RAS and LPS mixed", "t1ce", "voxels away from", spoil(mirrored)),
    ("two affines", "t1", "an sform and a qform", two_affines),
    ("NaN", "t1", "1 NaN or infinite", put(np.nan)),
    ("infinite", "flair", "2 NaN or infinite", put([np.inf, -np.inf], place=np.s_[3, 3, 3:5])),
    ("unknown label", "seg", "label value 3", put(3, np.uint8)),
    ("unknown label", "seg", "label value 0.5", put(0.5)),
    ("unknown label", "seg", "label value -1", put(-1, np.int16)),
    ("unknown label by slope", "seg", "label value", slope),
    ("missing modality", "t1ce", "is missing", Path.unlink),
    ("missing modality", "flair", "is missing", lambda path: (path.unlink(), path.symlink_to("nowhere.nii.gz"))),
    ("missing label", "seg", "is missing", Path.unlink),
    ("empty mask", "seg", "mask is empty", spoil(lambda array, affine: np.zeros_like(array))),
    ("duplicated patient", "t1", "the same voxels as", copy_of(2)),
    ("duplicated patient", "t1", "a second time", second_place),
    ("zero-sized", "t2", "holds no voxels", header(dim=(3, 16, 0, 6, 1, 1, 1, 1))),
    ("2D", "t1", "is not a 3D volume", spoil(lambda array, affine: array[:, :, 3])),
    ("2D", "seg", "is not a 3D volume", spoil(lambda array, affine: array[:, :, 3:4])),
    ("spacing of zero", "t1", "impossible spacing", header(pixdim=(1, 1, 0, 1, 1, 1, 1, 1))),
    ("affine of NaN", "flair", "NaN or infinite entries", header(srow_x=(np.nan, 0, 0, 0), sform_code=1)),
    ("axes that fall together", "t1", "fall together", header(srow_x=(1, 1, 0, 0), srow_y=(1, 1, 0, 0), sform_code=1)),
    (
        "several frames",
        "t1",
        "where one 3D volume is expected",
        spoil(lambda array, affine: np.stack([array, array], -1)),
    ),
    (
        "10¹² voxels",
        "t2",
        "claims too much (2,000,000,000,000 bytes",
        header(dim=(3, 10_000, 10_000, 10_000, 1, 1, 1, 1)),
    ),
    (
        "colours",
        "t1",
        "holds",
        spoil(lambda array, affine: np.zeros(array.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    ),
    ("one grey", "t2", "the same intensity everywhere", spoil(lambda array, affine: np.ones_like(array))),
]
PATIENTS = ODD + len(FAULTS)


def patient(number):
    return f"BraTS20_Training_{number:03d}"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Patients without a fault, some of them unusual: plain files, a fourth axis, a slope,
    LPS beside RAS."""
    root = write_phantom(
        BRATS, tmp_path_factory.mktemp("Straße 東京"), patients=PATIENTS, size=16, depth=6, progress_bar=False
    )
    base = root/"MICCAI_BraTS2020_TrainingData"
    (base/f"._{patient(1)}").write_bytes(b"\x00\x05\x16\x07 of macOS")
    plain = base/patient(4)/f"{patient(4)}_t1.nii.gz"
    plain.with_suffix("").write_bytes(gzip.decompress(plain.read_bytes()))
    plain.unlink()
    spoil(lambda array, affine: array[..., None])(base/patient(3)/f"{patient(3)}_seg.nii.gz")
    image = nib.load(base/patient(2)/f"{patient(2)}_t2.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("RAS"))
    nib.save(image.as_reoriented(turn), image.get_filename())
    label = nib.load(base/patient(1)/f"{patient(1)}_seg.nii.gz")
    scaled = nib.Nifti1Image((np.asarray(label.dataobj)*4).astype(np.int16), label.affine)
    scaled.header.set_slope_inter(0.25, 0)
    nib.save(scaled, label.get_filename())
    return root


def test_the_clean_tree_has_no_problem(clean):
    assert check_dataset(BRATS, clean, processes=1, progress_bar=False) == []


def test_every_planted_fault_is_told_once_with_its_file(clean, tmp_path):
    root = Path(shutil.copytree(clean, tmp_path/"faulty"))
    planted = []
    for number, (kind, part, words, plant) in enumerate(FAULTS, ODD + 1):
        path = root/"MICCAI_BraTS2020_TrainingData"/patient(number)/f"{patient(number)}_{part}.nii.gz"
        plant(path)
        planted.append((kind, path, words))
    problems = check_dataset(BRATS, root, processes=1, progress_bar=False)
    assert len(planted) >= 30 and len({kind for kind, _, _ in planted}) >= 15
    labels_off_the_grid = sum(part_is_label(path) and words == "voxels and" for _, path, words in planted)
    # the duplicate patient is reported for its place and for its voxels
    assert len(problems) == len(planted) + 3*labels_off_the_grid + 1, sorted(map(str, problems))
    for kind, path, words in planted:
        anywhere_in_the_patient = kind == "duplicated patient"
        told = [problem for problem in problems if words in problem.what and (
            problem.path == str(path) or anywhere_in_the_patient and path.parent.name in problem.path)]
        # a label off the images' grid is told of each image that does not fit it: four files, of which any may be the
        # odd one
        off = [
            problem
            for problem in problems
            if words in problem.what and Path(problem.path).parent == path.parent and path.name in problem.what
        ]
        assert len(told) == 1 or part_is_label(path) and len(off) == 4, (
            f"{kind}: {path.name} {words!r}: "
            f"{[str(problem) for problem in problems if path.parent.name in problem.path]}"
        )
    assert all("\n" not in str(problem) and problem.remedy for problem in problems)
    blamed = {
        name
        for problem in problems
        for name in (Path(problem.path).name, Path(problem.path).parent.name)
        if name.startswith("BraTS")
    }
    assert not {patient(number) for number in range(1, ODD + 1)} & blamed, "a clean patient was blamed"


def part_is_label(path):
    return path.name.endswith("_seg.nii.gz")


def test_a_claim_of_a_trillion_voxels_asks_for_no_memory(tmp_path):
    """The reader must refuse it in a process that could not hold a thousandth of it."""
    path = tmp_path/"giant.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
    header(dim=(3, 10_000, 10_000, 10_000, 1, 1, 1, 1))(path)
    tracemalloc.start()
    with pytest.raises(UserError, match="claims too much"):
        read_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_very_long_path_is_read(tmp_path):
    root = tmp_path
    while len(str(root)) < 2500:
        root = root/("sehr-länger-pfad-" + "x"*200)
    write_phantom(HEART, root, patients=1, size=16, depth=6, progress_bar=False)
    assert check_dataset(HEART, root, processes=1, progress_bar=False) == []


@pytest.mark.parametrize("root", ["x"*300, "x/"*3000, "a\0b", ""])
def test_an_impossible_path_is_one_problem(root):
    problems = check_dataset(HEART, root or "nowhere", processes=1, progress_bar=False)
    assert len(problems) == 1 and "\n" not in str(problems[0])


@contextmanager
def mounted(path, options):
    """A disk in memory at `path` with these mount options; skips the test where that is not allowed."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return write_phantom(HEART, tmp_path_factory.mktemp("hearts"), patients=3, size=32, depth=10, progress_bar=False)


def prepare(root, store):
    return prepare_dataset(HEART, root, store, 32, processes=1, progress_bar=False)


def require_nothing_half_written(store):
    with pytest.raises(UserError, match="not a finished slice store"):
        SliceStore(store)
    for folder in (store/"patients").glob("*"):
        assert (folder/"patient.json").is_file(), f"{folder} was left half-written"


def test_a_full_disk_is_told_and_the_next_run_completes(hearts, tmp_path):
    with mounted(tmp_path/"small", "size=64k") as disk:
        with pytest.raises(UserError, match="No space left.*free some space"):
            prepare(hearts, disk/"store")
        require_nothing_half_written(disk/"store")
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert len(prepare(hearts, disk/"store").patients) == 3


def test_a_read_only_disk_is_told(hearts, tmp_path):
    with mounted(tmp_path/"locked", "ro") as disk:
        with pytest.raises(UserError, match="Read-only.*choose a folder on a writable disk"):
            prepare(hearts, disk/"store")
        with pytest.raises(UserError, match="Read-only"):
            write_phantom(HEART, disk/"phantom", patients=1, size=16, depth=6, progress_bar=False)


def test_a_limit_on_the_size_of_files_is_told(hearts, tmp_path):
    """The system refuses a write in the middle of a file; this needs no root."""
    program = (
        "import resource, sys; from test_data_faults import UserError, prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: prepare(sys.argv[1], sys.argv[2])\nexcept UserError as error: print(error); sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", program, hearts, tmp_path/"store"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])})
    assert done.returncode == 2 and "could not be written (File too large)" in done.stdout, done.stderr
    require_nothing_half_written(tmp_path/"store")


def test_a_store_at_an_impossible_path_is_told(hearts, tmp_path):
    with pytest.raises(UserError, match="choose a shorter path"):
        prepare(hearts, tmp_path/("x"*300))
    (tmp_path/"file").touch()
    with pytest.raises(UserError):
        prepare(hearts, tmp_path/"file"/"store")


def test_clean_patients_are_prepared_from_a_path_that_is_not_ascii(clean, tmp_path):
    chosen = [files.id for files in find_patients(BRATS, clean)][:4]
    store = prepare_dataset(
        BRATS, clean, tmp_path / "størе 店", 16, processes=1, patients=chosen, iterations=(2,), progress_bar=False
    )
    assert store.patients == tuple(chosen)
