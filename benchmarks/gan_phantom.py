"""Do the GANs learn phantom brain tumours at 64 × 64 within an hour on two cores? Do images show their masks, and does
training bring them closer to real ones?

    python benchmarks/gan_phantom.py [FOLDER] [--trainings b-sg c-sg c-sg-bf16 m-sg c-sg-12-patients
    c-sg-12-patients-ada]

Phantoms of BraTS20, split 60/20/20 into training, validation and test patients. Each GAN is trained in one process with
one thread, two at a time. The judge is a U-Net trained on the real training slices; mask faithfulness is its DSC on
generated images against the masks that they were made with (C-SG: the label maps of the real test patients, and those
of M-SG where that was trained; B-SG: its own), beside its DSC on the real test patients. The Fréchet distance is one of
random CNN features (no FID), from generated to training slices, of the first weights and of the trained ones; training
to held-out slices tells how far real slices are. M-SG is judged as MC-SG, with C-SG's images for its masks. C-SG is
trained in float32 and in bf16, for the same number of slices. On 12 patients C-SG is trained with and without ADA, with
a weak R1, so that the discriminator can learn the slices by heart: γ = 0.0256, what StyleGAN2's rule
0.0002·resolution²/batch gives for a batch of 32. A second run in the same FOLDER goes on where the first stopped.
Writes results/gan_phantom.json and the pictures nbs/images/gan-phantom-*.png.
"""
import argparse
import csv
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import torch
from machine import machine, write_results

from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset, store_generated
from medaug.data.splits import split_patients
from medaug.data.store import SliceStore
from medaug.data.volumes import slices_to_volume
from medaug.evaluation.features import random_features
from medaug.evaluation.fid import distances_to_real
from medaug.evaluation.fidelity import mask_faithfulness
from medaug.gan.checkpoints import load_checkpoint
from medaug.gan.config import GanConfig
from medaug.gan.generate import generate_mc_sg, generate_patients
from medaug.gan.training import CURVE_COLUMNS, train_gan
from medaug.gan.watch import progress_figure
from medaug.seg.config import UNetConfig
from medaug.seg.predict import load_unet
from medaug.seg.training import train_unet

SIZE, DEPTH, PATIENTS, GENERATED = 64, 20, 60, 24
NETWORKS = {"channel_base": 1024, "channel_max": 64, "z_dim": 64, "w_dim": 128, "mapping_layers": 4}
GAN = dict(
    resolution=SIZE,
    kimg=60,
    batch=8,
    ada=False,
    r1_gamma=5.0,
    path_length_weight=0.2,
    **NETWORKS,
    snapshot_kimg=10.0,
)
BF16 = {"precision": "bf16-mixed"}
# B-SG and M-SG must learn the small classes, so they need more channels and slices than C-SG, which gets masks
WIDER, FEW = {**BF16, "kimg": 120, "r1_gamma": 2.0, "channel_base": 2048}, {**BF16, "kimg": 50, "r1_gamma": 0.0256}
# name → (GAN, how many of the training patients it sees, what is set otherwise)
TRAININGS = {
    "b-sg": ("b-sg", None, WIDER),
    "c-sg": ("c-sg", None, {}),
    "c-sg-bf16": ("c-sg", None, BF16),
    "m-sg": ("m-sg", None, WIDER | {"kimg": 40}),
    "c-sg-12-patients": ("c-sg", 12, FEW),
    "c-sg-12-patients-ada": ("c-sg", 12, FEW | {"ada": True}),
}
JUDGE = UNetConfig(epochs=30, batch=16, width=16, depth=4, learning_rate=1e-3, augmentation=True)
PICTURES = Path(__file__).parent.parent/"nbs"/"images"


def prepared(folder):
    """(store, split) of the phantoms."""
    row = find_dataset("brats20")
    if not (folder/"raw").is_dir():
        write_phantom(row, folder/"raw.partial", patients=PATIENTS, size=SIZE, depth=DEPTH, progress_bar=False)
        (folder/"raw.partial").rename(folder/"raw")
    store = prepare_dataset(row, folder/"raw", folder/"store", resolution=SIZE, iterations=(20, 20), progress_bar=False)
    return store, split_patients(store.patients, PATIENTS, 0)


def training_split(split, name):
    """The split with as many training patients as the training of that name has."""
    return replace(split, train=split.train[:TRAININGS[name][1]])


def trained(folder, name):
    """Trains in a process of its own with one thread, and leaves the minutes of the processor that it took; then the
    same with a single step."""
    torch.set_num_threads(1)
    gan, _, changes = TRAININGS[name]
    store = SliceStore(folder/"store")
    split, config, begin = (
        training_split(split_patients(store.patients, PATIENTS, 0), name),
        GanConfig(gan, **GAN | changes),
        time.process_time(),
    )
    begun = (folder/name).exists()
    train_gan(store, split, config, folder/name)
    if not begun:       # the minutes of an interrupted training are unknown
        (folder/name/"minutes.json").write_text(json.dumps(round((time.process_time() - begin)/60, 1)))
    train_gan(store, split, replace(config, kimg=config.batch/1000), folder/f"{name}-first")


def label_maps(store, patients, folder):
    """A folder of the label maps of real patients in the store's grid, for C-SG."""
    folder.mkdir(exist_ok=True)
    for patient in map(store.patient, patients):
        volume = slices_to_volume(np.asarray(patient.labels), patient.slice_axis)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder/f"{patient.id}.nii.gz")
    return folder


def generated(folder, name, checkpoint, store, masks):
    """A store of patients that the GAN of a checkpoint makes; C-SG for the label maps in `masks`, each once."""
    of_masks = {"masks_from": masks} if load_checkpoint(checkpoint).config.gan == "c-sg" else {}
    made = generate_patients(
        checkpoint, folder / f"{name}-patients", len(list(masks.iterdir())) if of_masks else GENERATED, **of_masks
    )
    return store_generated(made, folder/f"{name}-store", store, progress_bar=False)


def distance(store, split, made):
    """The Fréchet distances of a store of generated patients to the training and to the held-out slices, mean over
    modalities."""
    table = distances_to_real(store, split.train, made, split.test, [random_features()])
    means = table[table.modality == "mean"].set_index("measure").value.round(4)
    return {
        "generated to training": means.iloc[0],
        "training to held-out": means.iloc[1],
        "generated to held-out": means.iloc[2],
    }


def shares(store, patients):
    """The share of the patients' slices that show each class: class → share."""
    labels = store.batch(store.slices(patients))[1].flatten(1)
    return {
        name: round((labels == number).any(1).float().mean().item(), 3) for number, name in enumerate(store.classes, 1)
    }


def curves(folder, name):
    """The rows of the curves that a training wrote, each a list of `CURVE_COLUMNS`."""
    with open(folder/name/"curves.csv") as file:
        return [[float(value or "nan") for value in row] for row in list(csv.reader(file))[1:]]


def picture(folder, name):
    """The curves over the last samples, as the notebook of the training showed them."""
    rows, last = curves(folder, name), max((folder/name).glob("samples-*.png"), key=lambda path: path.stat().st_mtime)
    progress_figure(rows, plt.imread(last), 0.6 if "ada" in name else None).savefig(PICTURES/f"gan-phantom-{name}.png")


def report(folder, name, store, split, judge, masks):
    """The results of one trained GAN."""
    gan = load_checkpoint(folder/name/"checkpoint.pt")
    taken = folder/name/"minutes.json"
    told = {
        "training patients": len(split.train),
        "training slices": len(store.slices(split.train)),
        "kimg": round(gan.kimg, 1),
        "set otherwise": TRAININGS[name][2],
        "curves": [dict(zip(CURVE_COLUMNS, row)) for row in curves(folder, name)],
        "minutes of one core": json.loads(taken.read_text())
        if taken.is_file()
        else "not known: it was stopped in between",
    }
    picture(folder, name)
    made = generated(folder, name, folder/name/"checkpoint.pt", store, masks)
    told["slices that show the class"] = shares(made, made.patients)
    if gan.config.gan == "m-sg":
        return told
    first = generated(folder, f"{name}-first", folder/f"{name}-first"/"checkpoint.pt", store, masks)
    return {
        **told,
        "distance with the first weights": distance(store, split, first),
        "distance after training": distance(store, split, made),
        "mask faithfulness": faithfulness(judge, made, store, split),
    }


def faithfulness(judge, made, store, split):
    table = mask_faithfulness(judge, made, store, split.test).set_index("class").round(3)
    return {name: dict(row) for name, row in table.iterrows()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", type=Path)
    arguments.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    given = arguments.parse_args()
    if given.folder:
        measure(given.folder, given.trainings)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.trainings)


def mc_sg(folder, ending, store):
    """A store of MC-SG's patients, by the trained networks, or by the initial ones for names ending in '-first'."""
    m_sg, c_sg = (folder/f"{name}{ending}"/"checkpoint.pt" for name in ("m-sg", "c-sg"))
    return store_generated(
        generate_mc_sg(m_sg, c_sg, folder / f"mc-sg{ending}-patients", GENERATED),
        folder / f"mc-sg{ending}-store",
        store,
        progress_bar=False,
    )


def measure(folder, names):
    store, split = prepared(folder)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(trained, folder), names))
    torch.set_num_threads(2)
    judge = load_unet(train_unet(store, split, JUDGE, folder/"judge"))
    masks = label_maps(store, split.test, folder/"masks")
    told = {name: report(folder, name, store, training_split(split, name), judge, masks) for name in names}
    if {"m-sg", "c-sg"} <= set(names):
        first, made = (mc_sg(folder, ending, store) for ending in ("-first", ""))
        told["mc-sg"] = {
            "distance with the first weights": distance(store, split, first),
            "distance after training": distance(store, split, made),
            "mask faithfulness": faithfulness(judge, made, store, split),
        }
    write_results(
        __file__,
        {
            **machine("torch"),
            "slice": f"{SIZE} × {SIZE}",
            "patients": {"training": len(split.train), "validation": len(split.validation), "test": len(split.test)},
            "features": random_features().name,
            "slices that show the class": shares(store, split.train),
            "GAN": GAN,
            "the judge's epochs": JUDGE.epochs,
            **told,
        },
    )


if __name__ == "__main__":
    main()
