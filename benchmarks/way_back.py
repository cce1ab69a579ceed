"""What do labels by majority, and predictions that return as probabilities, change in scores on the original grid?

Discs of 16, 24 and 40 pixels in 512 × 512: the best DSC and HD95 (pixels) that a network at 256 × 256 can reach when
the most probable class is taken before resizing by nearest neighbour, and when probabilities are resized first. Then
U-Nets at 32 × 32 on phantoms of KiTS19 and U-PRO of 64 × 64, 12 training patients, 25 epochs: DSC and HD95 (mm) on 16
test patients, for labels resized by nearest neighbour (which shifts them by half a pixel) and by majority, each
prediction brought back in both ways. Writes results/way_back.json.

    python benchmarks/way_back.py [--seeds 0 1 2]
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
from machine import machine, median_and_range, write_results

from medaug.data.datasets import find_dataset
from medaug.data.phantom import write_phantom
from medaug.data.prepare import prepare_dataset
from medaug.data.resize import labels_on_grid, resize_images
from medaug.data.splits import split_patients
from medaug.data.store import SliceStore, to_original, write_index, write_stored_patient
from medaug.data.volumes import nearest_indices, slices_to_volume, volume_to_slices, voxel_size
from medaug.evaluation.scores import score_patient, surface_scores
from medaug.seg.config import UNetConfig
from medaug.seg.dice import dice_score
from medaug.seg.predict import load_unet
from medaug.seg.training import predict_probabilities, train_unet

SETTINGS = {"epochs": 25, "batch": 16, "width": 8, "depth": 3, "learning_rate": 0.01,
            "loss": "dice-cross-entropy"}
WAYS = ("argmax, then nearest", "resized, then argmax")


def by_nearest(labels, shape):
    """Label maps (N, rows, columns) resized to `shape` by nearest neighbour."""
    rows, columns = (nearest_indices(old, new) for old, new in zip(labels.shape[-2:], shape))
    return labels[:, rows[:, None], columns]


def both_ways(probabilities, patient):
    """The label map (X, Y, Z) of probabilities (D, K + 1, R, R) by each of `WAYS`."""
    shape = volume_to_slices(np.broadcast_to(0, patient.original_shape), patient.slice_axis).shape[-2:]
    hard = by_nearest(probabilities.argmax(1).astype(np.uint8), shape)
    return slices_to_volume(hard, patient.slice_axis), to_original(probabilities, patient)


def discs(size=512, resolution=256, repetitions=30):
    """Diameter → way → the mean DSC and HD95 of discs at random places, from a perfect network."""
    random, axis, found = np.random.default_rng(0), np.arange(size) + 0.5, {}
    for diameter in (16, 24, 40):
        rows = {way: [] for way in WAYS}
        for place in size/2 + random.uniform(-20, 20, (repetitions, 2)):
            truth = (np.hypot(axis[:, None] - place[0], axis - place[1]) < diameter/2)[None]
            soft = resize_images(truth, resolution)
            maps = (by_nearest(by_nearest(truth, (resolution,)*2), (size,)*2),
                    labels_on_grid(np.stack([1 - soft, soft], axis=1), (size, size)) > 0)
            for way, labels in zip(WAYS, maps):
                hd95, _ = surface_scores(labels, truth, (1.0, 1.0, 1.0), 1.0)
                rows[way].append((dice_score(labels.astype(np.uint8), truth.astype(np.uint8), 1).item(), hd95))
        found[f"{diameter} pixels"] = {
            way: dict(zip(("dsc", "hd95"), np.mean(values, axis=0).round(3).tolist())) for way, values in rows.items()}
    return found


def with_nearest_labels(store, path):
    """A copy of a store whose labels are resized by nearest neighbour."""
    for id in store.patients:
        patient = store.patient(id)
        slices = volume_to_slices(patient.original_labels, patient.slice_axis)
        labels = by_nearest(slices, (store.resolution,)*2)
        write_stored_patient(path, id, patient.images, labels, patient.original_labels, patient.affine,
                             patient.source_affine, patient.slice_axis)
    write_index(path, store.dataset, store.modalities, store.classes, store.resolution, store.patients)
    return SliceStore(path)


def scores_of(store, split, row, checkpoint):
    """Way → (mean DSC, mean HD95) of a trained U-Net over the test patients and classes."""
    trained, tables = load_unet(checkpoint), {way: [] for way in WAYS}
    for id in split.test:
        patient = store.patient(id)
        parts = [part.numpy() for part in predict_probabilities(trained.unet, store, store.slices([id]))]
        for way, labels in zip(WAYS, both_ways(np.concatenate(parts), patient)):
            spacing = tuple(voxel_size(patient.affine))
            table = score_patient(labels, patient.original_labels, spacing, store.classes, row.tolerance)
            tables[way].append(table[["dsc", "hd95"]].mean())
    return {way: np.mean(rows, axis=0) for way, rows in tables.items()}


def measure(name, folder, seeds):
    row, found = find_dataset(name), {}
    write_phantom(row, folder/"raw", patients=32, size=64, depth=16, progress_bar=False)
    majority = prepare_dataset(row, folder/"raw", folder/"store", resolution=32, progress_bar=False)
    split = split_patients(majority.patients, 20, 0, "rest")
    stores = {"labels by nearest neighbour": with_nearest_labels(majority, folder/"nearest"),
              "labels by majority": majority}
    for labels, store in stores.items():
        scores = []
        for seed in seeds:
            out = folder/labels.replace(" ", "-")/str(seed)
            checkpoint = train_unet(store, split, UNetConfig(seed=seed, **SETTINGS), out)
            scores.append(scores_of(store, split, row, checkpoint))
        found[labels] = {
            way: {what: median_and_range([one[way][number] for one in scores], 4)
                  for number, what in enumerate(("dsc", "hd95"))} for way in WAYS}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    results = {"question": __doc__.splitlines()[0], **machine("torch"), "seeds": seeds, "settings": SETTINGS,
               "discs in 512 × 512, a network at 256 × 256": discs()}
    for name in ("kits19", "u-pro"):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, Path(folder), seeds)
    write_results(__file__, results)


if __name__ == "__main__":
    main()
