"""Does the verdict find an effect that is there, and does it see through a generator that has learnt noise?

    python benchmarks/planted.py [FOLDER] [--jobs N]

Phantom kidneys whose shapes differ much between patients; 6 of them are for training. WC-SG makes images for their
label maps, moved by warps, so it adds the shapes that 6 patients do not show. NOISE does the same with a C-SG of the
same length that was trained on label maps of other phantoms, and noise in place of the images. `medaug run` trains
every method five times in the same number of steps; each training of WC-SG has a GAN of its own. Then `medaug search`
chooses between the baseline, WARP and NOISE. In the recipe pretrain the added patients are seen in the first half of
the steps only: WC-SG must be better, and NOISE worse or undecided. In balanced they are half of each batch to the end.
A stopped benchmark continues in FOLDER. Writes results/planted.json.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from machine import ONE_THREAD_EACH, machine, write_results

from medaug.data.datasets import find_dataset, find_patients
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.splits import split_patients
from medaug.data.strengths import Warps
from medaug.data.volumes import write_nifti
from medaug.engine.search_run import search_experiment
from medaug.engine.workflow import run_experiment
from medaug.experiment.folder import ExperimentFolder
from medaug.experiment.search import SearchFolder
from medaug.files import write_text
from medaug.gan.config import GanConfig
from medaug.gan.generate import generate_patients
from medaug.gan.training import train_gan
from medaug.methods import Method
from medaug.seeds import numpy_generator
from medaug.stats import compare, verdict
from medaug.stats.trainings import training_effects

PATIENTS, SIZE, DEPTH, RESOLUTION, DRAWN, GENERATED = 40, 48, 8, 32, 10, 24
GAN = {"batch": 8, "ada": False, "precision": "bf16-mixed", "learning_rate": 3e-3, "channel_base": 1024,
       "channel_max": 64, "z_dim": 32, "w_dim": 64, "mapping_layers": 2, "snapshot_kimg": 5.0}
KIMG = 15
EXPERIMENT = """\
dataset: kits19
phantom: {{patients: {patients}, size: {size}, depth: {depth}}}
patients: [{drawn}]
resolution: {resolution}
seeds: {seeds}
generated: [{generated}]
pipelines: {pipelines}
synthetic: {{noise: {{root: {noise}}}}}
augmentation: [without]
recipes: [balanced, pretrain]
{style}gan: {{{gan}, c-sg: {{kimg: {kimg}}}}}
unet: {{steps: 300, batch: 16, width: 8, depth: 3, learning_rate: 3.0e-3, loss: dice-cross-entropy}}
statistics: {{alpha: 0.05, test: rest}}
"""


def noise_patients(folder):
    """The folder of the patients of a C-SG that was trained on label maps of other phantoms and images of noise."""
    out, row = folder/"noise", find_dataset("kits19")
    if out.is_dir():
        return out
    random = numpy_generator("noise")
    for patient in find_patients(row, write_phantom(row, folder/"noisy", PATIENTS, SIZE, DEPTH, seed=100)):
        for path in patient.images:
            image = nib.load(path)
            write_nifti(path, random.normal(100, 30, image.shape).astype(np.float32), image.affine)
    store = prepare_dataset(row, folder/"noisy", folder/"noisy-store", RESOLUTION, progress_bar=False)
    checkpoint = train_gan(store, split_patients(store.patients, DRAWN, 0),
                           GanConfig("c-sg", resolution=RESOLUTION, kimg=KIMG, **GAN), folder/"noisy-gan")
    generate_patients(checkpoint, folder/"noise.partial", GENERATED, masks_from=store.path, warps=Warps(),
                      style="patient")
    # another group's patients come without a record; this one names other phantoms, which have the same names as ours
    (folder/"noise.partial/generated.json").unlink()
    return (folder/"noise.partial").rename(out)


def written(folder, name, **values):
    """The path of an experiment's file."""
    path = folder/f"{name}.yaml"
    gan = ", ".join(f"{key}: {str(value).lower()}" for key, value in GAN.items())
    write_text(path, EXPERIMENT.format(patients=PATIENTS, size=SIZE, depth=DEPTH, drawn=DRAWN, resolution=RESOLUTION,
                                       generated=GENERATED, gan=gan, kimg=KIMG, **values) + ONE_THREAD_EACH)
    return path


def measure(folder, jobs):
    facts, noise = machine("torch"), noise_patients(folder).resolve()
    path = written(folder, "planted", seeds=[0, 1, 2, 3, 4], pipelines="[bl, warp, wc-sg]", noise=noise,
                   style="style: patient\n")
    if status := run_experiment(path, folder/"planted", jobs):
        sys.exit(status)
    scores = pd.read_csv(ExperimentFolder(folder/"planted").scores, dtype={"patient": str})
    comparison = compare(scores)
    gains, warp = comparison.datasets[0].gains, {}
    for name in gains.index:
        if Method.parse(name).kind == "synthetic" or name.startswith("NOISE"):
            warp[name] = next(one for one in gains.index if one.startswith("WARP") and Method.parse(one).recipe in name)
    over = training_effects(comparison.datasets[0].trainings, warp)
    means = scores.groupby(["method", "seed"])["dsc"].mean().round(4)
    path = written(folder, "search-noise", seeds=[0, 1, 2], pipelines="[bl, warp]", noise=noise, style="")
    if status := search_experiment(path, folder/"search", jobs):
        sys.exit(status)
    choice = SearchFolder(folder/"search").choice
    write_results(__file__, {
        "machine": facts, "GAN": GAN | {"kimg": KIMG}, "test patients": comparison.datasets[0].patients,
        "of each training": {name: means[name].tolist() for name in gains.index.union(gains.baseline)},
        "gains": gains[["baseline", "difference", "low", "high", "holm", "verdict"]].round(4).T.to_dict(),
        "over WARP": over[["baseline", "difference", "low", "high", "holm", "verdict"]].round(4).T.to_dict(),
        "sentence": verdict(comparison).sentence,
        "search": choice.to_dict() | {"sentence": choice.sentence}})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--jobs", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder, args.jobs)


if __name__ == "__main__":
    main()
