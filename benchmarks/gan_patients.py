"""Does ADA help on twelve real patients, and from which length on does a GAN's training pay?

    python benchmarks/gan_patients.py ROOT FOLDER PART [--resolution 32] [--gans b-sg c-sg] [--kimg 20 60 120 240]
    [--ada no yes] [--seeds 0 1 2] [--unets 3] [--precision bf16-mixed]

ROOT is the Decathlon's Task04_Hippocampus (`medaug fetch d-hippocampus`). Twelve training patients, four for
validation, all others for testing. Small networks, batch 16, StyleGAN2's own γ (0.0002·resolution²/batch). A training
is as long as the last of `--kimg`, and its averaged generator is kept at the other lengths. Of each length: the Fréchet
distance of 60 generated patients to the held-out slices with the features of an untrained network, beside that of the
training slices; how well a U-Net of the real training patients finds the masks in the generated slices; how many
generated slices are closer to a training slice than the closest 1 % of the held-out ones; and the test DSC of `--unets`
U-Nets that train as in `recipes.py` with a quarter of generated slices in each batch (`recipe: balanced`), beside that
of the real slices alone. C-SG makes images for warped label maps of the training patients. Writes
results/gan_patients.json, below the name PART, after each length, and at the end samples of the first training of each
kind to nbs/images; a second run in the same FOLDER goes on.
"""
import argparse
import itertools
import time
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from gan_phantom import NETWORKS, PICTURES, distance
from machine import machine, write_part
from matplotlib.figure import Figure
from recipes import UNET, test_scores

import medaug.gan.training as training
from medaug.data.datasets import find_dataset
from medaug.data.pictures import store_sheet
from medaug.data.prepare import prepare_dataset, store_generated
from medaug.data.splits import split_patients
from medaug.data.store import SliceStore
from medaug.data.strengths import Warps
from medaug.evaluation.features import random_features
from medaug.evaluation.fidelity import mask_faithfulness
from medaug.evaluation.memorisation import memorisation_audit
from medaug.gan.config import GanConfig
from medaug.gan.generate import generate_patients
from medaug.seg.config import UNetConfig
from medaug.seg.predict import load_unet
from medaug.seg.training import train_unet

GAN = dict(batch=16, **NETWORKS)
PATIENTS = 60


def unet(store, split, folder, seed, precision, made=None):
    """The checkpoint of a U-Net, with a quarter of slices of `made` in each batch."""
    mixed = {} if made is None else {"generated": PATIENTS, "recipe": "balanced", "fraction": 0.25}
    settings = {**UNET, **mixed, "augmentation": True, "precision": precision}
    return train_unet(store, split, UNetConfig(**settings, seed=seed), folder, made)


def dsc(path, store, split):
    """The mean DSC over test patients and classes of a U-Net."""
    return round(float(test_scores(path, store, split)["dsc"].mean()), 4)


def faithfulness(judge, made, store, split):
    """The mean DSC over classes of a U-Net of real patients, on all slices of generated patients."""
    table = mask_faithfulness(load_unet(judge), made, store, split.test)
    return table.set_index("class").loc["mean", ["generated", "real"]].round(4).to_dict()


class KeptLengths(training._CurvePoint):
    """Also keeps the averaged generator at each length of `kimg`."""
    kimg = ()

    def __call__(self, state, means, config):
        super().__call__(state, means, config)
        if (seen := state.step*config.batch/1000) in self.kimg:
            self.save(f"checkpoint-{seen:g}.pt")


def trained(folder, store, split, gan, kimg, ada, **others):
    """The folder of a training with the generators of all lengths `kimg`."""
    KeptLengths.kimg, point = kimg, min(kimg)
    config = GanConfig(gan, store.resolution, **GAN, kimg=max(kimg), ada=ada, snapshot_kimg=point, **others)
    begin, new = time.process_time(), not folder.exists()
    with patch.object(training, "_CurvePoint", KeptLengths):
        training.train_gan(store, split, config, folder)
    if new:       # the seconds of an interrupted training are unknown
        (folder/"seconds").write_text(f"{time.process_time() - begin:.0f}")
    return folder


def strength(out, kimg):
    """ADA's p after `kimg` thousand slices of the training in the folder `out`."""
    curves = pd.read_csv(out/"curves.csv").set_index("kimg")
    return round(float(curves.loc[kimg, "p"]), 3)


def generated(folder, checkpoint, store, gan):
    """The store of the patients that a generator makes."""
    masks = {"masks_from": store.path, "warps": Warps()} if gan == "c-sg" else {}
    generate_patients(checkpoint, folder/"patients", PATIENTS, **masks)
    return store_generated(folder/"patients", folder/"store", store, progress_bar=False)


def memorised(made, store, split):
    """The shares of generated slices that are closer to a training slice than 1 % of held-out slices, and than any."""
    audit = memorisation_audit(store, split.train, made, split.test)
    shares = {"than 1 %": audit.closer_than_quantile, "than any": audit.closer_than_any}
    return {name: round(count/len(audit.generated), 4) for name, count in shares.items()}


def draw_samples(folders, store, split, path):
    """Draw eight generated slices, without and with their masks, for each of `folders`: length → folder."""
    figure = Figure((7.2, 1.9*len(folders)), layout="constrained")
    for axes, (kimg, folder) in zip(figure.subplots(len(folders), squeeze=False).ravel(), folders.items()):
        axes.imshow(store_sheet(SliceStore(folder/"store"), scale=3, intensities=(store, split.train)))
        axes.set_title(f"{kimg:g} thousand slices", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=100)


def measure(given):
    torch.set_num_threads(1)
    folder, row = given.folder, find_dataset("d-hippocampus")
    store = prepare_dataset(row, given.root, folder/f"store-{given.resolution}", resolution=given.resolution)
    split = split_patients(store.patients, 20, 0, test="rest")
    folder = folder/str(given.resolution)
    folder.mkdir(exist_ok=True)
    found = {**machine("torch"), "resolution": given.resolution, "GAN": GAN, "U-Net": UNET, "patients": PATIENTS}
    found["precision of both"] = given.precision
    found["features"] = random_features().name
    found |= {"training patients": len(split.train), "test patients": len(split.test)}
    baselines = [unet(store, split, folder/f"baseline-{number}", number, given.precision)
                 for number in range(given.unets)]
    found["baseline DSC"] = [dsc(path, store, split) for path in baselines]
    found["lengths"] = []
    for seed, gan, ada in itertools.product(given.seeds, given.gans, given.ada):
        out = folder/f"{gan}-{max(given.kimg):g}-{ada}-{seed}"
        trained(out, store, split, gan, given.kimg, ada == "yes", seed=seed, precision=given.precision)
        for kimg in given.kimg:
            here = folder/f"{out.name}-made-{kimg:g}"
            made = generated(here, out/f"checkpoint-{kimg:g}.pt", store, gan)
            unets = [unet(store, split, here/f"unet-{number}", number, given.precision, made)
                     for number in range(given.unets)]
            length = {"gan": gan, "kimg": kimg, "ada": ada, "seed": seed, "p": strength(out, kimg),
                      "distance": distance(store, split, made),
                      "faithfulness": faithfulness(baselines[0], made, store, split),
                      "closer to a training slice": memorised(made, store, split),
                      "DSC": [dsc(path, store, split) for path in unets]}
            seconds = out/"seconds"
            if seconds.is_file():
                length["core seconds of the longest"] = int(seconds.read_text())
            found["lengths"].append(length)
            write_part(__file__, given.part, found)
    for gan, ada in itertools.product(given.gans, given.ada):
        name = f"{gan}-{max(given.kimg):g}-{ada}-{given.seeds[0]}"
        made = {kimg: folder/f"{name}-made-{kimg:g}" for kimg in given.kimg}
        picture = f"gan-patients-{gan}-{given.resolution}" + ("-ada" if ada == "yes" else "")
        draw_samples(made, store, split, PICTURES/f"{picture}.png")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("root", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("part")
    arguments.add_argument("--resolution", type=int, default=32)
    arguments.add_argument("--gans", nargs="+", default=["b-sg", "c-sg"], choices=["b-sg", "c-sg"])
    arguments.add_argument("--kimg", type=float, nargs="+", default=[20.0, 60.0, 120.0, 240.0])
    arguments.add_argument("--ada", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--unets", type=int, default=3)
    arguments.add_argument("--precision", default="bf16-mixed", choices=["bf16-mixed", "32-true"])
    measure(arguments.parse_args())


if __name__ == "__main__":
    main()
