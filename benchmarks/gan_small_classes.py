"""Do the masks of M-SG and B-SG hold the small classes as often as real ones, with and without a softmax?

    python benchmarks/gan_small_classes.py FOLDER PART [--resolution 64] [--kimg 5] [--seeds 0 1 2]
    [--trainings NAME…] [--precision bf16-mixed]

Phantoms of BraTS20, 36 training patients, as in `gan_phantom.py`; batch 8, γ 2. Of 480 generated masks
of each training: the share of slices that show each class, and the mean area of each class, both divided by those of
the real slices. `-foreground`: slices with a small class are drawn three times as often, and generation takes that back
by keeping only a third of the masks that show one. `-short average`: `ema_kimg` 1 in place of 10, `ema_rampup` 0.02.
Writes results/gan_small_classes.json, below the name PART, after each training; a second run in the same FOLDER goes
on.
"""
import argparse
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from gan_phantom import NETWORKS, PATIENTS, prepared
from machine import machine, write_part

import medaug.gan.training as training
from medaug.data.datasets import find_dataset
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.gan.checkpoints import load_checkpoint
from medaug.gan.config import GanConfig
from medaug.seeds import numpy_generator, torch_generator

GAN = dict(
    batch=8,
    ada=False,
    r1_gamma=2.0,
    path_length_weight=0.2,
    **NETWORKS,
)
TRAININGS = {
    "m-sg-softmax": {},
    "m-sg-plain": {"mask_softmax": False},
    "m-sg-softmax-short average": {"ema_kimg": 1.0, "ema_rampup": 0.02},
    "m-sg-softmax-foreground": {},
    "b-sg-softmax": {},
    "b-sg-plain": {"mask_softmax": False},
}
OFTEN = 3


def shares(labels, classes):
    """For each class the share of the maps (N, R, R) that show it, and its mean part of the pixels."""
    shown = [(labels == number).flatten(1).float().mean(1) for number in range(1, len(classes) + 1)]
    return {name: ((one > 0).float().mean().item(), one.mean().item()) for name, one in zip(classes, shown)}


def small_classes(labels):
    """Which of the maps (N, R, R) show the first or the third class, the rare ones."""
    return ((labels == 1) | (labels == 3)).flatten(1).any(1)


def generated(gan, count=480, taken_back=False):
    """Label maps (N, R, R) of a trained GAN; with `taken_back`, a small class only counts every third time."""
    maps = []
    while sum(map(len, maps)) < count:
        number = len(maps)
        z = torch.randn(48, gan.config.z_dim, generator=torch_generator("masks", number))
        labels = gan.images(z, generator=torch_generator("noise", number))[1]
        if taken_back:
            chance = torch.rand(len(labels), generator=torch_generator("kept", number))
            labels = labels[~small_classes(labels) | (chance < 1/OFTEN)]
        maps.append(labels)
    return torch.cat(maps)[:count]


def stored(folder, resolution):
    """(store, split) of the phantoms with slices of a resolution."""
    store, _ = prepared(folder)
    if resolution != store.resolution:
        row = find_dataset("brats20")
        path = folder/f"store-{resolution}"
        store = prepare_dataset(row, folder/"raw", path, resolution=resolution, iterations=(20, 20), progress_bar=False)
    return store, split_patients(store.patients, PATIENTS, 0)


def trained(folder, store, split, name, seed, kimg, precision):
    """The checkpoint of a training and its seconds of one core."""
    gan, _, how = name.partition("-sg")
    sizes = dict(resolution=store.resolution, kimg=kimg, snapshot_kimg=kimg)
    config = GanConfig(f"{gan}-sg", **GAN | TRAININGS[name] | sizes, seed=seed, precision=precision)
    slices = training.training_slices(store, split)
    if how.endswith("foreground"):
        rare = small_classes(store.batch(slices)[1]).numpy()
        slices = numpy_generator("often").permutation(np.repeat(slices, np.where(rare, OFTEN, 1)))
    begin = time.process_time()
    with patch.object(training, "training_slices", lambda *_: slices):
        path = training.train_gan(store, split, config, folder/f"{name}-{store.resolution}-{seed}-{kimg:g}")
    return path, time.process_time() - begin


def measure(folder, part, names, resolution, seeds, kimg, precision):
    torch.set_num_threads(1)
    store, split = stored(folder, resolution)
    real = shares(store.batch(store.slices(split.train))[1], store.classes)
    told = {**machine("torch"), "resolution": resolution, "kimg": kimg, "settings": GAN, "precision": precision,
            "real": rounded(real)}
    told["trainings"] = []
    for seed in seeds:
        for name in names:
            path, seconds = trained(folder, store, split, name, seed, kimg, precision)
            made = shares(generated(load_checkpoint(path), taken_back=name.endswith("foreground")), store.classes)
            ratios = {key: [a/b for a, b in zip(made[key], real[key])] for key in real}
            sign = float((path.parent/"curves.csv").read_text().splitlines()[-1].split(",")[3])
            told["trainings"].append(
                {
                    "training": name,
                    "seed": seed,
                    "core seconds": round(seconds),
                    "slices and area": rounded(made),
                    "divided by real": rounded(ratios, 2),
                    "real sign": round(sign, 3),
                }
            )
            write_part(__file__, part, told)


def rounded(pairs, digits=4):
    return {key: [round(value, digits) for value in pair] for key, pair in pairs.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("part")
    arguments.add_argument("--resolution", type=int, default=64)
    arguments.add_argument("--kimg", type=float, default=5.0)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    arguments.add_argument("--precision", default="bf16-mixed")
    given = arguments.parse_args()
    measure(given.folder, given.part, given.trainings, given.resolution, given.seeds, given.kimg, given.precision)


if __name__ == "__main__":
    main()
