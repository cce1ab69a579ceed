"""What the widgets are tried on: a store of 256 × 256, raw files, generators that nobody has trained, and the folder
of an experiment that has ended.
"""
import itertools

import numpy as np
import pandas as pd
import torch

from medaug.data.datasets import DATASETS
from medaug.data.phantom import phantom_patient, write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.resize import resize_images, resize_labels
from medaug.data.store import write_index, write_stored_patient
from medaug.data.volumes import volume_to_slices
from medaug.experiment.folder import ExperimentFolder
from medaug.experiment.plan import read_experiment
from medaug.experiment.results import SCORE_COLUMNS
from medaug.experiment.runs import plan_runs
from medaug.files import write_text
from medaug.gan.channels import make_networks
from medaug.gan.checkpoints import DataDescription, save_checkpoint
from medaug.gan.config import GanConfig
from medaug.seg.unet import UNet

BRAINS, HEART = DATASETS["brats20"], DATASETS["d-heart"]


def brain_store(path, resolution, patients=2, slices=6):
    """A store of four modalities, from small phantom patients made large."""
    ids = [f"brain_{k}" for k in range(patients)]
    for k, id in enumerate(ids):
        images, labels, _ = phantom_patient(BRAINS, 0, k, 64, slices + 6)
        images, labels = (volume_to_slices(volume)[3:-3] for volume in (images, labels))
        sharp = resize_images(images/images.max(), resolution)*4 - 1
        write_stored_patient(
            path,
            id,
            sharp,
            resize_labels(labels, resolution),
            np.zeros((4, 4, slices), np.uint8),
            np.eye(4),
        )
    return write_index(path, "brats20", BRAINS.modalities, BRAINS.classes, resolution, ids)


def generator_checkpoint(path, gan, store, **widths):
    """A GAN with its first weights, but whose noise counts."""
    config = GanConfig(gan, store.resolution, **widths)
    spans = ((-1.0, 3.0),)*len(store.modalities)
    data = DataDescription(
        store.dataset,
        store.modalities,
        store.classes,
        store.resolution,
        spans,
        6,
        (3.0, 3.0, 5.0),
        2,
        store.patients,
        store.fingerprint,
    )
    generator, discriminator = make_networks(config, len(store.modalities), len(store.classes))
    for name, weights in generator.named_parameters():
        if name.endswith("noise_strength"):
            weights.data.fill_(0.2)
    return save_checkpoint(path, generator, discriminator, config, data, 0.0)


EXPERIMENT = """
dataset: d-heart
phantom: {patients: 8, size: 32, depth: 6}
patients: [6]
resolution: 32
generated: [2]
pipelines: [bl, mc-sg]
augmentation: [without]
unet: {width: 4, depth: 2, epochs: 2}
statistics: {test: rest}
"""


def ended_experiment(folder):
    """The folder of an experiment all of whose runs are done: with its store, U-Nets of first weights, and scores."""
    (folder.parent/"experiment.yaml").write_text(EXPERIMENT)
    runs = plan_runs(read_experiment(folder.parent/"experiment.yaml"))
    ExperimentFolder(folder).write_plan(runs)
    write_phantom(HEART, folder/"phantom", patients=8, size=32, depth=6, progress_bar=False)
    store = prepare_dataset(HEART, folder/"phantom", folder/runs[0].out, resolution=32, processes=1, progress_bar=False)
    scores = _scores(store)
    for run in runs:
        for output in run.outputs:
            if not (folder/output).exists():
                write_text(folder/output, "{}\n")
        if run.stage == "train_unet":
            _unet(folder/run.out, store, len(run.name))
            own = scores[scores["method"] == run.method.name]
            own.to_csv(ExperimentFolder(folder).part(run), index=False)
        ExperimentFolder(folder).write_record(run)
    scores.to_csv(folder/"scores.csv", index=False)
    return folder


def _unet(folder, store, seed):
    torch.manual_seed(seed)
    torch.save(
        {
            "config": {"epochs": 2, "width": 4, "depth": 2},
            "unet": UNet(1, 1, 4, 2).state_dict(),
            "dataset": store.dataset,
            "modalities": list(store.modalities),
            "classes": list(store.classes),
            "resolution": store.resolution,
            "training_patients": [],
            "epoch": 2,
            "dsc": 0.5,
        },
        folder / "checkpoint.pt",
    )
    (folder/"curves.csv").write_text("epoch,loss,validation_dsc,dsc left atrium\n1,-0.5,0.2,0.2\n2,-1.0,0.5,0.5\n")


def _scores(store):
    chance = np.random.default_rng(0)
    rows = [
        (
            "d-heart",
            6,
            0,
            method,
            id,
            "left atrium",
            round(float(np.clip(0.5 + 0.04 * k + gain + chance.normal(0, 0.02), 0, 1)), 4),
            5.0 + k,
            0.5,
            0,
            1,
            "",
        )
        for (method, gain), (k, id) in itertools.product(
            (("BL + w.o.", 0.0), ("MC-SG + w.o. + 2", 0.05)), enumerate(store.patients[:6])
        )
    ]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)
