"""nnU-Net (integrity check and planning) and MONAI (Decathlon loader) accept what `medaug generate` writes for them."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from medaug.cli import main
from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.gan.channels import make_networks
from medaug.gan.checkpoints import save_checkpoint
from medaug.gan.config import GanConfig
from medaug.gan.training import describe_data

pytestmark = pytest.mark.xdist_group("exports")
TINY = GanConfig("b-sg", 16, channel_base=128, channel_max=8, z_dim=8, w_dim=8, mapping_layers=2)

# nnU-Net's processes are forked here, because each one that is spawned imports all of it again
PLAN = """
import multiprocessing
forked = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda kind: forked
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

if __name__ == "__main__":
    extract_fingerprints([501, 502], num_processes=1, check_dataset_integrity=True)
    for dataset in (501, 502):
        plan_experiments([dataset])
"""


class Source:
    """Prepared phantom patients of a dataset, and the checkpoint of an untrained GAN for their training patients."""

    def __init__(self, name, folder):
        self.name, self.row, self.folder = name, find_dataset(name), folder
        write_phantom(self.row, folder/"phantom", patients=6, size=24, depth=8, progress_bar=False)
        self.store = prepare_dataset(self.row, folder/"phantom", folder/"store", resolution=16, iterations=(5,),
                                     processes=1, progress_bar=False)
        self.split, self.checkpoint = split_patients(self.store.patients, 6, seed=0), folder/"gan.pt"
        data = describe_data(self.store, self.split)
        save_checkpoint(self.checkpoint, *make_networks(TINY, len(data.modalities), len(data.classes)), TINY, data, 0.0)

    def generate(self, format, *words):
        out = self.folder/format
        assert main(["generate", str(self.checkpoint), str(out), "--patients", "3", "--format", format, *words]) == 0
        return out

    def together(self, format):
        return self.generate(format, "--real", str(self.store.path))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """MRI in four modalities, and CT stored slices first, which keeps its own place in the patient's coordinates."""
    return [Source(name, tmp_path_factory.mktemp(name)) for name in ("brats20", "kits19")]


def test_nnunet_checks_and_plans(sources, tmp_path):
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed")
    raw = tmp_path/"raw"
    raw.mkdir()
    for number, source in zip((501, 502), sources):
        dataset = next(source.together("nnunet").iterdir())
        dataset.rename(raw/f"Dataset{number}_{dataset.name.partition('_')[2]}")
    (tmp_path/"plan.py").write_text(PLAN)
    folders = {"nnUNet_raw": raw, "nnUNet_preprocessed": tmp_path/"preprocessed", "nnUNet_results": tmp_path/"results"}
    environment = os.environ | {name: str(path) for name, path in folders.items()}
    planning = subprocess.run([sys.executable, tmp_path/"plan.py"], capture_output=True, text=True, env=environment)
    assert planning.returncode == 0, planning.stdout + planning.stderr
    assert planning.stdout.count("verify_dataset_integrity Done") == 2, planning.stdout
    assert "WARNING" not in planning.stdout, planning.stdout
    for source, planned in zip(sources, sorted((tmp_path/"preprocessed").iterdir())):
        plans = json.loads((planned/"nnUNetPlans.json").read_text())
        assert {"2d", "3d_fullres"} <= set(plans["configurations"])
        column, row, thickness = source.store.patient(source.store.patients[0]).spacing
        spacing = plans["original_median_spacing_after_transp"]
        np.testing.assert_allclose(sorted(spacing), sorted((column, row, thickness)), rtol=1e-4)
        fold, = json.loads((planned/"splits_final.json").read_text())
        assert sorted(fold["val"]) == sorted(source.split.validation)
        synthetic = [f"patient_{number:04d}" for number in (1, 2, 3)]
        assert sorted(fold["train"]) == sorted([*source.split.train, *synthetic])
        assert json.loads((planned/"dataset_fingerprint.json").read_text())["shapes_after_crop"]


def test_monai_loads_the_decathlon_folder(sources):
    from monai.data import load_decathlon_datalist, load_decathlon_properties
    from monai.transforms import LoadImaged
    load = LoadImaged(keys=("image", "label"), ensure_channel_first=True)
    for source in sources:
        listing = str(source.together("msd")/"dataset.json")
        labels = load_decathlon_properties(listing, ["modality", "labels"])["labels"]
        assert labels == {str(k): name for k, name in enumerate(("background", *source.store.classes))}
        training, validation = (load_decathlon_datalist(listing, True, key) for key in ("training", "validation"))
        assert len(training) == 3 + len(source.split.train) and len(validation) == len(source.split.validation)
        for one in map(load, training + validation):
            assert one["image"].shape == (len(source.store.modalities), *one["label"].shape[1:])
            np.testing.assert_allclose(one["image"].affine, one["label"].affine, atol=1e-4)
            assert set(np.unique(one["label"])) <= set(range(len(source.store.classes) + 1))


def test_a_real_patient_lies_where_the_scan_lies(sources):
    """Its centre of mass in the scanner's millimetres is that of the dataset's own label map, to a voxel."""
    import nibabel

    from medaug.data.datasets import find_patients

    def centre(path):
        image = nibabel.load(path)
        inside = np.argwhere(np.asarray(image.dataobj) > 0)
        return nibabel.affines.apply_affine(image.affine, inside).mean(0)

    for source in sources:
        out = source.together("msd")
        files = {patient.id: patient for patient in find_patients(source.row, source.folder/"phantom")}
        voxel = max(source.store.patient(source.store.patients[0]).spacing)
        for id in source.split.train:
            assert np.abs(centre(files[id].label) - centre(out/"labelsTr"/f"{id}.nii.gz")).max() < voxel


def test_synthetic_patients_apart_have_no_real_ones_beside_them(sources, tmp_path):
    source = sources[0]
    out = tmp_path/"apart"
    assert main(["generate", str(source.checkpoint), str(out), "--patients", "2", "--format", "msd"]) == 0
    assert {path.name for path in (out/"labelsTr").iterdir()} == {"patient_0001.nii.gz", "patient_0002.nii.gz"}
    assert not (out/"imagesTs").exists() and json.loads((out/"dataset.json").read_text())["validation"] == []


def test_a_split_of_other_patients_is_refused(sources, capsys):
    source = sources[0]
    words = ["generate", str(source.checkpoint), str(source.folder/"leak"), "--patients", "1", "--format", "msd",
             "--real", str(source.store.path)]
    assert main([*words, "--split-seed", "1"]) == 2
    assert "not for training" in capsys.readouterr().err
