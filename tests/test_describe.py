"""`medaug describe` on folders that others have arranged: with its row `check` is clean, or a comment asks."""
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medaug.cli import main
from medaug.data.check import check_dataset
from medaug.data.datasets import find_dataset, find_patients
from medaug.data.dicom_phantom import write_series, write_structures
from medaug.data.patients import read_patient

SHAPE, AFFINE = (20, 18, 10), np.diag([-1.0, -1.0, 3.0, 1.0])


def voxels(seed, values=(1, 2), ct=False):
    """An image and a label map of a patient."""
    random, labels = np.random.default_rng(seed), np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        labels[4:12, 4 + 5*number:8 + 5*number, 2:7] = value
    image = random.normal(100, 10, SHAPE) + 50*(labels > 0)
    return (np.where(image > 80, image, -1000) if ct else np.abs(image)).round().astype(np.int16), labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def box_outline(mask, z):
    """The outline (4, 3) in mm of a box on the slice z."""
    inside = np.argwhere(mask[:, :, z])
    (a, b), (c, d) = inside.min(0) - 0.4, inside.max(0) + 0.4
    return np.array([AFFINE @ [x, y, z, 1] for x, y in ((a, b), (c, b), (c, d), (a, d))])[:, :3]


def bids(root):
    for k in (1, 2, 3):
        image, labels = voxels(k)
        save(root/f"sub-{k:02d}"/"anat"/f"sub-{k:02d}_T1w.nii.gz", image)
        save(root/f"sub-{k:02d}"/"anat"/f"sub-{k:02d}_FLAIR.nii.gz", image + 5)
        save(root/"derivatives"/"manual"/f"sub-{k:02d}"/"anat"/f"sub-{k:02d}_dseg.nii.gz", labels)
    (root/"derivatives"/"manual"/"dseg.tsv").write_text("index\tname\n1\tcore\n2\toedema\n")
    return {"modalities": 2, "classes": ("core", "oedema")}


def bids_of_two_sessions(root):
    for k in (1, 2, 3):
        for session in ("pre", "post"):
            image, labels = voxels(10*k + len(session))
            stem = f"sub-{k:02d}_ses-{session}"
            anat = root/f"sub-{k:02d}"/f"ses-{session}"/"anat"
            save(anat/f"{stem}_T1w.nii.gz", image)
            save(anat/f"{stem}_label-lesion_mask.nii.gz", (labels > 0)*np.uint8(1))
    return {"says": "of several sessions only one is taken here"}


def decathlon(root):
    for k in (1, 4, 7):
        image, labels = voxels(k, ct=True)
        save(root/"imagesTr"/f"liver_{k}.nii.gz", image)
        save(root/"labelsTr"/f"liver_{k}.nii.gz", labels)
    save(root/"imagesTs"/"liver_9.nii.gz", image)
    training = [{"image": f"./imagesTr/liver_{k}.nii.gz", "label": f"./labelsTr/liver_{k}.nii.gz"} for k in (1, 4, 7)]
    (root/"dataset.json").write_text(json.dumps({
        "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}, "training": training}))
    return {"classes": ("liver", "cancer"), "type": "CT"}


def nnunet_raw(root, version):
    for k in (3, 8, 11):
        image, labels = voxels(k)
        for channel in range(2):
            save(root/"imagesTr"/f"case_{k:03d}_{channel:04d}.nii.gz", image + channel)
        save(root/"labelsTr"/f"case_{k:03d}.nii.gz", labels)
    save(root/"imagesTs"/"case_099_0000.nii.gz", image)
    content = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "gland": 1, "tumour": 2}}
    if version == 1:
        files = [{"image": f"./imagesTr/case_{k:03d}.nii.gz", "label": f"./labelsTr/case_{k:03d}.nii.gz"}
                 for k in (3, 8, 11)]
        content = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "gland", "2": "tumour"},
                   "training": files}
    (root/"dataset.json").write_text(json.dumps(content))
    return {"modalities": 2, "names": ("T2", "ADC"), "classes": ("gland", "tumour"),
            "says": "left out, without label maps"}


def nnunet_v1(root):
    return nnunet_raw(root, 1)


def nnunet_v2(root):
    return nnunet_raw(root, 2)


def image_and_mask(root):
    for k in range(3):
        image, labels = voxels(k, (255,))
        save(root/"image"/f"img{k:03d}.nii.gz", image)
        save(root/"mask"/f"mask{k:03d}.nii.gz", labels)
    return {"labels": (255,), "says": "say what the value 255 stand for"}


def a_folder_a_patient(root):
    for name in ("Anna", "Bert", "Carl"):
        image, labels = voxels(len(name) + ord(name[0]), (3, 7))
        save(root/name/"T1.nii", image)
        save(root/name/"T2.nii", image + 3)
        save(root/name/"segmentation.nii", labels)
    save(root/"atlas"/"template.nii", image)
    return {"modalities": 2, "labels": (3, 7), "says": "could not explain 1 file: atlas/template.nii"}


def names_without_words(root):
    for k in range(3):
        image, labels = voxels(k)
        save(root/"a"/f"{k}x.nii.gz", image)
        save(root/"b"/f"{k}x.nii.gz", labels)
    return {"labels": (1, 2)}


def masks_beside_images(root):
    for k in range(1, 4):
        image, labels = voxels(k)
        save(root/f"{k:02d}.nii", image)
        save(root/f"{k:02d}_seg.nii", labels)
    return {"labels": (1, 2), "says": "# 3 patients with all files: 01, 02, 03"}


def one_file_of_four_modalities(root):
    for k in range(3):
        image, labels = voxels(k)
        save(root/f"p{k}"/f"p{k}_all.nii.gz", np.stack([image + channel for channel in range(4)], -1))
        save(root/f"p{k}"/f"p{k}_seg.nii.gz", labels)
    return {"modalities": 4}


def dicom_with_rtstruct(root):
    for k in range(3):
        image, labels = voxels(k, ct=True)
        image[0, 0, k] = 7
        series = write_series(root/f"case{k}", image, AFFINE)
        outlines = {name: [box_outline(labels == value, z) for z in range(2, 7)]
                    for value, name in enumerate(("bladder", "rectum"), 1)}
        write_structures(root/f"case{k}"/"rs.dcm", outlines, series)
    return {"classes": ("bladder", "rectum"), "type": "CT"}


def dicom_without_its_first_part(root):
    """Files as some archives write them: without the 128 bytes, the letters DICM and the group that follows."""
    expected = dicom_with_rtstruct(root)
    for path in root.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        pydicom.Dataset(dict(header.items())).save_as(path, implicit_vr=True, little_endian=True,
                                                      enforce_file_format=False)
    return expected


def linked(layout, root):
    """The folders of a layout in an archive, and in `root` only links to them."""
    expected = layout(root.parent/"archive")
    root.mkdir()
    for folder in (root.parent/"archive").iterdir():
        (root/folder.name).symlink_to(folder)
    return expected


def links_to_bids(root):
    return linked(bids, root)


def links_to_dicom(root):
    return linked(dicom_with_rtstruct, root)


LAYOUTS = (bids, bids_of_two_sessions, decathlon, nnunet_v1, nnunet_v2, image_and_mask, a_folder_a_patient,
           names_without_words, masks_beside_images, one_file_of_four_modalities, dicom_with_rtstruct,
           dicom_without_its_first_part, links_to_bids, links_to_dicom)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_row_of_a_foreign_folder_is_clean(layout, tmp_path, capsys):
    root = tmp_path/"study"
    expected = layout(root)
    assert main(["describe", str(root)]) == 0
    text = capsys.readouterr().out
    (tmp_path/"row.yaml").write_text(text)
    row = find_dataset(tmp_path/"row.yaml")
    problems = [problem for problem in check_dataset(row, root, processes=1, progress_bar=False) if not problem.remark]
    assert not problems, text
    files = find_patients(row, root)
    assert len(files) >= 3
    patient = read_patient(row, files[0])
    assert patient.images.shape[0] == expected.get("modalities", 1) and patient.labels.any()
    assert row.modalities == expected.get("names", row.modalities)
    assert row.labels == expected.get("labels", row.labels) and row.type == expected.get("type", "MRI")
    assert row.classes == expected.get("classes", row.classes)
    assert expected.get("says", "") in text


def test_a_folder_without_label_maps_is_asked_for_them(tmp_path, capsys):
    for k in range(3):
        save(tmp_path/f"scan{k}.nii.gz", voxels(k)[0])
    assert main(["describe", str(tmp_path)]) == 0
    assert "no label map was found: fill in the pattern of its files" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("img", "mask"), ("T1", "T2", "seg"), ("a_t1", "a_t1ce", "a_t2", "a_seg")],
                         ids=lambda names: names[0])
def test_one_patient_shows_no_rule(names, tmp_path, capsys):
    for k, name in enumerate(names):
        save(tmp_path/"001"/f"{name}.nii.gz", voxels(k)["mask" in name or "seg" in name])
    assert main(["describe", str(tmp_path)]) == 2
    assert "a rule shows from two patients on" in capsys.readouterr().err


def test_files_of_other_kinds_are_named(tmp_path, capsys):
    Path(tmp_path/"scan.nrrd").touch()
    assert main(["describe", str(tmp_path)]) == 2
    assert "neither NIfTI nor DICOM files of patients (1 × .nrrd)" in capsys.readouterr().err
