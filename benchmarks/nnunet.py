"""Our U-Net with strong augmentation beside nnU-Net in two dimensions, on real patients with the same slices and steps.

    python benchmarks/nnunet.py ROOT [--steps 500] [--trainings 3] [--folder FOLDER]

ROOT is the Decathlon's Task04_Hippocampus. 20 patients at 32 × 32: 12 for training, 4 for validation; all others are
test patients. Both segmenters take as many optimisation steps, each with the batch that it would choose. Every training
is a process of its own, so that its memory is its own. Writes results/nnunet.json.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine, peak_memory, write_results

from medaug.data.datasets import find_dataset
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.data.store import SliceStore
from medaug.evaluation.scores import score_test_patients
from medaug.seg.config import NnUNetConfig, UNetConfig
from medaug.seg.nnunet import train_nnunet
from medaug.seg.nnunet_plan import DATASET, PLANS, plan_nnunet
from medaug.seg.predict import load_unet
from medaug.seg.training import train_unet

STEPS_OF_AN_EPOCH = 50


def train(kind, folder, steps, seed):
    """Train one segmenter on the store in `folder`, score it, and print its figures as JSON."""
    store, out = SliceStore(folder/"store"), folder/f"{kind}-{seed}"
    split = split_patients(store.patients, 20, 0, "rest")
    start, before = time.perf_counter(), sum(os.times()[:4])
    if kind == "nnU-Net 2d":
        config = NnUNetConfig(epochs=steps//STEPS_OF_AN_EPOCH, iterations=STEPS_OF_AN_EPOCH, validation_iterations=2,
                              seed=seed)
        checkpoint = train_nnunet(store, split, config, folder/"plan", out)
    else:
        config = UNetConfig(epochs=None, steps=steps, looks=10, batch=32, width=16, depth=3, learning_rate=3e-3,
                            augmentation="strong", seed=seed)
        checkpoint = train_unet(store, split, config, out, flip=False)
    seconds, processor = time.perf_counter() - start, sum(os.times()[:4]) - before
    memory = peak_memory()
    scores = score_test_patients(load_unet(checkpoint), store, split, find_dataset(store.dataset).tolerance)
    print(json.dumps({"DSC": scores.dsc.mean(), "HD95 in mm": scores.hd95.mean(), "seconds": seconds,
                      "processor seconds": processor,
                      "memory in GiB": memory/2**30, "test patients": len(split.test)}))


def figures(kind, folder, steps, trainings):
    """The figures of all trainings of one segmenter."""
    runs = []
    for seed in range(trainings):
        command = [sys.executable, __file__, "--train", kind, str(folder), str(steps), str(seed)]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(ended.stdout.splitlines()[-1]))
        print(kind, runs[-1], flush=True)
    return {"test patients": runs[0]["test patients"], **{
        name: [round(run[name], 4 if name == "DSC" else 2) for run in runs]
        for name in ("DSC", "HD95 in mm", "seconds", "processor seconds", "memory in GiB")}, "mean DSC": round(
            float(np.mean([run["DSC"] for run in runs])), 4)}


def main():
    if sys.argv[1:2] == ["--train"]:
        return train(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("root")
    options.add_argument("--steps", type=int, default=500)
    options.add_argument("--trainings", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where the trainings stay; by default they are deleted")
    options = options.parse_args()
    facts = machine("torch", "nnunetv2")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        store = prepare_dataset(find_dataset("d-hippocampus"), options.root, folder/"store", 32, progress_bar=False)
        split = split_patients(store.patients, 20, 0, "rest")
        plan = plan_nnunet(store, split, folder/"plan")/"preprocessed"/DATASET/f"{PLANS}.json"
        planned = json.loads(plan.read_text())["configurations"]["2d"]
        found = {kind: figures(kind, folder, options.steps, options.trainings)
                 for kind in ("U-Net, strong augmentation", "nnU-Net 2d")}
    write_results(__file__, {
        "machine": facts, "steps": options.steps, "nnU-Net's plan": {
            name: planned[name] for name in ("patch_size", "batch_size", "spacing")}, **found})


if __name__ == "__main__":
    main()
