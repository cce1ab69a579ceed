"""Does a search find the source that helps, drop the one that cannot, and does its choice hold?

    python benchmarks/search.py FOLDER [--root ROOT] [--jobs N]

Without ROOT, phantom kidneys of 6 training patients are searched with two planted sources: twelve more phantoms of
the same kind, which must help, and noise of which every voxel is kidney. ROOT is Task04_Hippocampus of the Medical
Segmentation Decathlon: 20 real patients, 12 of them for training, with all others for the test, and C-SG on warped
real masks. It takes hours. FOLDER holds the search; a stopped benchmark continues there. Writes results/search.json:
every step, the choice with its hash, the confirmation, and the seconds of all runs.
"""
import argparse
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from machine import ONE_THREAD_EACH, machine, write_results

from medaug.data.datasets import find_dataset, find_patients
from medaug.data.phantom import write_phantom
from medaug.data.volumes import write_nifti
from medaug.engine.search_run import search_experiment
from medaug.experiment.search import SearchFolder, confirmed_effects, confirmed_sentence
from medaug.files import write_text
from medaug.report.search_report import build_search_report

PLANTED = """\
# Phantom kidneys: does a search tell more patients of the same kind from noise?
dataset: kits19
phantom: {{patients: 30, size: 48, depth: 8}}
patients: [10]
resolution: 32
seeds: [0, 1, 2]
generated: [6, 12]
pipelines: [bl, warp]
synthetic: {{twin: {{root: {folder}/twin}}, noise: {{root: {folder}/noise}}}}
augmentation: [without]
unet: {{steps: 200, looks: 2, batch: 8, width: 8, depth: 3, learning_rate: 3.0e-3}}
statistics: {{alpha: 0.05, test: rest}}
"""
REAL = """\
# Is there a way in which synthetic patients help on 12 real hippocampi?
dataset: d-hippocampus
root: {root}
patients: [20]
resolution: 32
seeds: [0, 1, 2, 3]
generated: [24]
pipelines: [bl, warp, wc-sg]
augmentation: [with, elastic]
recipes: [balanced, pretrain]
fraction: 0.25
style: patient
gan: {{batch: 8, ada: false, precision: bf16-mixed, r1_gamma: 5.0, learning_rate: 3.0e-3, channel_base: 512,
  channel_max: 64, z_dim: 32, w_dim: 64, mapping_layers: 2, snapshot_kimg: 5, c-sg: {{kimg: 15}}}}
unet: {{steps: 400, batch: 32, width: 16, depth: 3, learning_rate: 2.0e-3, loss: dice-cross-entropy,
  precision: bf16-mixed}}
statistics: {{alpha: 0.05, test: rest}}
"""


def plant(folder):
    """Write twelve more phantom patients of the same kind into folder/twin, and noise into folder/noise."""
    random, row = np.random.default_rng(0), find_dataset("kits19")
    for number, twin in enumerate(find_patients(row, write_phantom(row, folder/"phantom", 12, 48, 8, seed=100))):
        image, label = (nib.load(path) for path in (*twin.images, twin.label))
        noise = random.normal(100, 30, image.shape).astype(np.float32)
        for source, voxels in (("twin", (np.asarray(image.dataobj), np.asarray(label.dataobj))),
                               ("noise", (noise, np.ones(image.shape, np.uint8)))):
            for name, array in zip(("image", "label"), voxels):
                write_nifti(folder/source/f"made_{number}"/f"{name}.nii.gz", array, image.affine)


def _seconds(folder):
    """The sum of the seconds of all runs of an experiment, by stage."""
    stages = {}
    for run in folder.runs:
        stages[run.stage] = round(stages.get(run.stage, 0) + (run.seconds or 0), 1)
    return stages


def collect(path):
    """Everything that results/search.json holds of the search in `path`."""
    folder = SearchFolder(path)
    choice = folder.choice
    found = {"choice": choice.to_dict(), "sentence": choice.sentence,
             "seconds": {"search": _seconds(folder.search)}}
    if choice.methods:
        confirmation = folder.confirmation
        scores = pd.read_csv(confirmation.scores, dtype={"patient": str})
        effects = confirmed_effects(scores, choice)
        columns = ["baseline", "patients", "trainings", "difference", "low", "high", "pvalue", "verdict"]
        means = scores.groupby(["method", "seed"])["dsc"].mean().round(4)
        found["confirmation"] = effects[columns].reset_index().to_dict("records")
        found["confirmed"] = confirmed_sentence(effects, choice)
        found["trainings"] = {name: means[name].tolist() for name in choice.methods}
        found["seconds"]["confirmation"] = _seconds(confirmation)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--jobs", type=int)
    args = parser.parse_args()
    name, text = ("hippocampus", REAL.format(root=args.root.resolve())) if args.root else (
        "planted", PLANTED.format(folder=args.folder.resolve()))
    if not args.root and not (args.folder/"noise").is_dir():
        plant(args.folder)
    experiment = args.folder/f"{name}.yaml"
    write_text(experiment, text + ONE_THREAD_EACH)
    facts, out = machine("torch"), args.folder/f"{name}-search"
    if status := search_experiment(experiment, out, args.jobs):
        sys.exit(status)
    print(build_search_report(out))
    known = Path(__file__).parent/"results"/"search.json"
    known = json.loads(known.read_text()) if known.is_file() else {}
    write_results(__file__, {**known, name: {"machine": facts, **collect(out)}})


if __name__ == "__main__":
    main()
