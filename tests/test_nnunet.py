"""nnU-Net as the segmenter: one plan for all methods, a killed training continues, and its scores are ours."""
import json
import signal
import subprocess
import sys
from dataclasses import asdict

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from medaug.cli import main
from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.data.store import SliceStore
from medaug.data.volumes import write_nifti
from medaug.errors import UserError
from medaug.seg.config import NnUNetConfig
from medaug.seg.dice import dice_score
from medaug.seg.nnunet import load_nnunet, nnunet_probabilities, train_nnunet
from medaug.seg.nnunet_plan import DATASET, PLANS, case_name, plan_nnunet
from medaug.seg.predict import load_unet, predict_original, write_prediction

pytestmark = pytest.mark.xdist_group("nnunet")
TINY = NnUNetConfig(epochs=2, iterations=3, validation_iterations=1)
TRAIN = """
import json, os, signal, sys
from medaug import snapshots
from medaug.data.splits import Split
from medaug.data.store import SliceStore
from medaug.seg.nnunet import train_nnunet
from medaug.seg.config import NnUNetConfig

def write_and_die(path, request, content, write=snapshots.write_snapshot):
    write(path, request, content)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given["die"]:
        snapshots.write_snapshot = write_and_die
    train_nnunet(SliceStore(given["store"]), Split(**given["split"]), NnUNetConfig(**given["config"]), given["plan"],
                 given["out"])
"""


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Prepared phantom hearts, six of them, their split, three more as synthetic patients, and nnU-Net's plan."""
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed")
    folder, row = tmp_path_factory.mktemp("nnunet"), find_dataset("d-heart")
    stores = []
    for name, patients, seed in (("real", 6, 0), ("synthetic", 3, 1)):
        write_phantom(row, folder/f"{name} files", patients=patients, size=32, depth=8, seed=seed, progress_bar=False)
        stores.append(prepare_dataset(row, folder/f"{name} files", folder/name, resolution=32, processes=1,
                                      progress_bar=False))
    split = split_patients(stores[0].patients, 6, seed=0)
    return {"store": stores[0], "synthetic": stores[1], "split": split,
            "plan": plan_nnunet(stores[0], split, folder/"plan"), "folder": folder}


def plans_of(folder):
    return (folder/"preprocessed"/DATASET/f"{PLANS}.json").read_bytes()


@pytest.fixture(scope="module")
def methods(hearts):
    """The folders of the baseline and of a method with three synthetic patients, half of each batch."""
    configs = {"bl": TINY, "mixed": NnUNetConfig(**{**asdict(TINY), "generated": 3, "fraction": 0.5})}
    for name, config in configs.items():
        train_nnunet(hearts["store"], hearts["split"], config, hearts["plan"], hearts["folder"]/name,
                     hearts["synthetic"])
    return {name: hearts["folder"]/name for name in configs}


def test_all_methods_have_one_plan(hearts, methods):
    assert {plans_of(folder) for folder in methods.values()} == {plans_of(hearts["plan"])}


def test_synthetic_patients_are_in_training_only(hearts, methods):
    """Neither the plan nor validation has them; test patients are nowhere."""
    split, synthetic = hearts["split"], {case_name(id, synthetic=True) for id in hearts["synthetic"].patients}
    cases = lambda folder: {path.stem for path in (folder/"preprocessed"/DATASET).glob("nnUNetPlans_*/*.pkl")}
    real = {case_name(id) for id in (*split.train, *split.validation)}
    assert cases(hearts["plan"]) == cases(methods["bl"]) == real
    assert cases(methods["mixed"]) == real | synthetic


def test_synthetic_patients_change_the_network(methods):
    first, second = (torch.load(folder/"checkpoint.pt", weights_only=True)["network"] for folder in methods.values())
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_killed_training_continues_to_the_same_bits(hearts, methods, tmp_path):
    """SIGKILL right after the first snapshot; the weights are those of the training that nobody disturbed."""
    given = {"store": str(hearts["store"].path), "split": hearts["split"].to_dict(), "config": asdict(TINY),
             "plan": str(hearts["plan"]), "out": str(tmp_path/"out")}
    script = tmp_path/"train.py"
    script.write_text(TRAIN)
    for die, status in ((True, -signal.SIGKILL), (False, 0)):
        ended = subprocess.run([sys.executable, script, json.dumps({**given, "die": die})], capture_output=True)
        assert ended.returncode == status, ended.stderr
        assert (tmp_path/"out"/"checkpoint.pt").is_file() is not die
    resumed, whole = (torch.load(folder/"checkpoint.pt", weights_only=True)
                      for folder in (tmp_path/"out", methods["bl"]))
    assert resumed["request"] == whole["request"]
    assert all(torch.equal(resumed["network"][name], value) for name, value in whole["network"].items())
    assert not (tmp_path/"out"/"snapshot.pt").exists()


def test_our_dsc_is_that_of_nnunets_evaluation(hearts, methods, tmp_path):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
    store, trained = hearts["store"], load_nnunet(methods["mixed"]/"checkpoint.pt")
    ours = {}
    for id in hearts["split"].test:
        labels, predicted = store.patient(id).labels, nnunet_probabilities(trained, store, id).argmax(1)
        predicted[labels == 1] = (torch.arange(int((labels == 1).sum())) % 3 > 0).long()  # never empty
        ours[id] = dice_score(predicted, labels, 1).item()
        for folder, slices in (("true", labels), ("predicted", predicted)):
            write_nifti(tmp_path/folder/f"{id}.nii.gz", slices.numpy().astype(np.uint8), np.eye(4))
    compute_metrics_on_folder_simple(str(tmp_path/"true"), str(tmp_path/"predicted"), (1,), num_processes=1)
    summary = json.loads((tmp_path/"predicted"/"summary.json").read_text())
    theirs = {case["reference_file"].split("/")[-1].removesuffix(".nii.gz"): case["metrics"]["1"]["Dice"]
              for case in summary["metric_per_case"]}
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_a_plan_of_other_patients_is_refused(hearts):
    other = split_patients(hearts["store"].patients, 6, seed=1)
    with pytest.raises(UserError, match="other patients"):
        plan_nnunet(hearts["store"], other, hearts["plan"])
    with pytest.raises(UserError, match="not for 3d_fullres"):
        config = NnUNetConfig(**{**asdict(TINY), "configuration": "3d_fullres"})
        train_nnunet(hearts["store"], hearts["split"], config, hearts["plan"], hearts["folder"]/"3d")


def test_too_few_synthetic_patients_and_a_plan_of_another_split_are_refused(hearts):
    """Before anything is written."""
    store, split, plan = hearts["store"], hearts["split"], hearts["plan"]
    out = hearts["folder"]/"refused"
    with pytest.raises(UserError, match="3 synthetic patients were asked for and there are 0"):
        train_nnunet(store, split, NnUNetConfig(**{**asdict(TINY), "generated": 3}), plan, out)
    with pytest.raises(UserError, match="plan of other patients"):
        train_nnunet(store, split_patients(store.patients, 6, seed=1), TINY, plan, out)
    assert not out.exists()


def test_predict_overlays_a_scan_with_the_dsc_of_the_experiment(hearts, methods, tmp_path):
    """`medaug predict` takes nnU-Net's checkpoint as it takes a U-Net's."""
    id, store, row = hearts["split"].test[0], hearts["store"], find_dataset("d-heart")
    scan = next(hearts["folder"].glob(f"real files/**/imagesTr/{id}.nii.gz"))
    checkpoint, out = methods["bl"]/"checkpoint.pt", tmp_path/"predicted.nii.gz"
    assert main(["predict", str(checkpoint), str(scan), str(out)]) == 0
    predicted, image = nibabel.load(out), nibabel.load(scan)
    np.testing.assert_allclose(predicted.affine, image.affine, atol=1e-4)
    expected = write_prediction(predict_original(load_unet(checkpoint), store, id), store.patient(id),
                                tmp_path/"expected.nii.gz", row)
    np.testing.assert_array_equal(predicted.get_fdata(), nibabel.load(expected).get_fdata())


def test_a_store_that_differs_is_refused(hearts, methods, tmp_path):
    trained = load_nnunet(methods["bl"]/"checkpoint.pt")
    small = prepare_dataset(find_dataset("d-heart"), hearts["folder"]/"real files", tmp_path/"small", resolution=16,
                            processes=1, progress_bar=False)
    with pytest.raises(UserError, match="resolution"):
        nnunet_probabilities(trained, SliceStore(small.path), small.patients[0])


def test_an_experiment_trains_both_segmenters_to_the_report(hearts, tmp_path):
    """`medaug run` from the YAML to scores of both on the same patients."""
    path = tmp_path/"both.yaml"
    threads = ", ".join(f"{stage}: {{threads: 1}}" for stage in ("prepare", "train_unet", "compare"))
    path.write_text(f"""
dataset: d-heart
phantom: {{patients: 5, size: 16, depth: 4}}
patients: [5]
resolution: 16
pipelines: [bl]
augmentation: [strong]
segmenter: [unet, nnunet]
unet: {{steps: 2, looks: 1, width: 8, depth: 2, batch: 8}}
nnunet: {{epochs: 1, iterations: 1, validation_iterations: 1}}
resources: {{{threads}}}
""")
    assert main(["run", str(path), "--out", str(tmp_path/"both")]) == 0
    scores = pd.read_csv(tmp_path/"both"/"scores.csv")
    assert scores.groupby("method")["patient"].nunique().to_dict() == {"BL + s.": 1, "BL (nnunet) + s.": 1}
    assert (tmp_path/"both"/"report"/"index.html").is_file()
