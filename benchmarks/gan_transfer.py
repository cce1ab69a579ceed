"""Does a GAN of twelve real patients that starts from another GAN's weights need a shorter training?

    python benchmarks/gan_transfer.py ROOT FOLDER PART [--gans b-sg c-sg] [--kimg 5 10 20] [--first 20]
    [--seeds 0 1 2] [--precision bf16-mixed]

ROOT is the Decathlon's Task04_Hippocampus (`medaug fetch d-hippocampus`); slices of 32 x 32, networks and settings of
`gan_patients.py`. Three starts: first weights ("nothing"); a GAN of 40 phantoms of the same layout ("phantoms"); a GAN
of twelve other real patients ("patients"), who are in neither the test nor the validation part. Both GANs to start from
are trained once, for `--first` thousand slices. After each length of `--kimg`: the Fréchet distance of 60 generated
patients to the held-out slices, and the faithfulness of their masks, both as in `gan_patients.py`. At length 0 stands
what the GAN to start from makes. Writes results/gan_transfer.json, below the name PART, after each length; a second run
in the same FOLDER goes on.
"""
import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import torch
from gan_patients import GAN, faithfulness, generated, trained, unet
from gan_phantom import distance
from machine import machine, write_part

from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import Split, split_patients

RESOLUTION, PHANTOMS, OTHERS = 32, 40, 12
STARTS = ("nothing", "phantoms", "patients")


def first_splits(given, row):
    """(store, split) of the real patients, and start → (store, split) of what the GANs to start from are trained on."""
    folder = given.folder
    store = prepare_dataset(row, given.root, folder/"store", resolution=RESOLUTION)
    split = split_patients(store.patients, 20, 0, test="rest")
    others, held_out = split.test[:OTHERS], split.test[OTHERS:]
    write_phantom(row, folder/"phantoms", patients=PHANTOMS, progress_bar=False)
    phantoms = prepare_dataset(row, folder/"phantoms", folder/"phantom-store", resolution=RESOLUTION)
    train, validation, test = split_patients(phantoms.patients, PHANTOMS, 0).to_dict().values()
    unused = split.train[:1], split.train[1:]       # a split has three parts, and a GAN sees the first alone
    return store, replace(split, test=held_out), {
        "phantoms": (phantoms, Split((*train, *validation[1:], *test[1:]), validation[:1], test[:1])),
        "patients": (store, Split(others, *unused))}


def measure(given):
    torch.set_num_threads(1)
    store, split, firsts = first_splits(given, find_dataset("d-hippocampus"))
    judge = unet(store, split, given.folder/"judge", 0, given.precision)
    found = {**machine("torch"), "resolution": RESOLUTION, "GAN": GAN, "precision": given.precision,
             "first GANs, thousand slices": given.first, "training patients": len(split.train), "lengths": []}

    def note(folder, checkpoint, trained_on=store, **what):
        made = generated(folder, checkpoint, trained_on, what["gan"])
        found["lengths"].append({**what, "distance": distance(store, split, made),
                                 "faithfulness": faithfulness(judge, made, store, split)})
        write_part(__file__, given.part, found)

    for gan, start in itertools.product(given.gans, STARTS):
        options = {"precision": given.precision}
        if start in firsts:
            first = trained(given.folder/f"first-{gan}-{start}", *firsts[start], gan, [given.first], False, **options)
            options["init"] = first/f"checkpoint-{given.first:g}.pt"
            made = given.folder/f"first-{gan}-{start}-made"
            note(made, options["init"], firsts[start][0], gan=gan, start=start, kimg=0)
        for seed in given.seeds:
            out = given.folder/f"{gan}-{start}-{seed}"
            trained(out, store, split, gan, given.kimg, False, seed=seed, **options)
            for kimg in given.kimg:
                note(given.folder/f"{out.name}-made-{kimg:g}", out/f"checkpoint-{kimg:g}.pt", gan=gan, start=start,
                     seed=seed, kimg=kimg)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("root", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("part")
    arguments.add_argument("--gans", nargs="+", default=["b-sg", "c-sg"])
    arguments.add_argument("--kimg", type=float, nargs="+", default=[5.0, 10.0, 20.0])
    arguments.add_argument("--first", type=float, default=20.0)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--precision", default="bf16-mixed")
    measure(arguments.parse_args())


if __name__ == "__main__":
    main()
