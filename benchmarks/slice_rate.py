"""How many slices a second come out of the store, shuffled, in batches of 64 slices of 4 × 256 × 256?

Peers in the same run, giving the same tensors from caches of the same slices: MONAI's PersistentDataset (one cached
file a slice, which is its best case, and one a patient, as it is mostly used) and CacheDataset (all in memory), each in
torch's DataLoader without and with two workers; and the disk, read from beginning to end. "cold": the system's cache
was emptied of these files before. Writes results/slice_rate.json: slices a second, median and range of the repetitions.

    python benchmarks/slice_rate.py [FOLDER]
"""
import os
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from machine import machine, median_and_range, run_in_folder, write_results
from monai.data import CacheDataset, PersistentDataset

from medaug.data.store import read_ahead, write_index, write_stored_patient

PATIENTS, DEPTH, SHAPE, BATCH, REPETITIONS = 8, 48, (4, 256, 256), 64, 3


def prepared(patient):
    """The prepared images (D, M, R, R), float32, and label maps (D, R, R), uint8, of a patient."""
    images, labels = _noise()
    return np.roll(images, patient, axis=0), np.roll(labels, patient, axis=0)


@cache
def _noise():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((DEPTH, *SHAPE), dtype=np.float32).astype(np.float16).astype(np.float32)
    return images, rng.integers(0, 4, (DEPTH, *SHAPE[1:]), dtype=np.uint8)


def build_store(path):
    for patient in range(PATIENTS):
        images, labels = prepared(patient)
        write_stored_patient(path, f"p{patient:03d}", images, labels, labels[:2], np.eye(4))
    return write_index(
        path, "noise", tuple("abcd"), ("x", "y", "z"), SHAPE[-1], [f"p{patient:03d}" for patient in range(PATIENTS)]
    )


class Prepare:
    """MONAI's deterministic part: from an item to its tensors; keeps the last patient, because the cache is filled in
    order."""
    patient, tensors = None, None

    def of(self, patient):
        if patient != self.patient:
            self.patient, self.tensors = patient, tuple(torch.from_numpy(array) for array in prepared(patient))
        return self.tensors

    def __call__(self, item):
        images, labels = self.of(item["patient"])
        return (
            (images[item["slice"]].clone(), labels[item["slice"]].clone())
            if "slice" in item
            else (images.clone(), labels.clone())
        )


class SlicesOfPatients(torch.utils.data.Dataset):
    """Single slices of a dataset of patients."""

    def __init__(self, patients):
        self.patients = patients

    def __len__(self):
        return PATIENTS*DEPTH

    def __getitem__(self, index):
        images, labels = self.patients[index//DEPTH]
        return images[index % DEPTH], labels[index % DEPTH]


def forget(folder):
    """Drop the files of a folder from the system's cache."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(batches, limit=PATIENTS*DEPTH):
    """Slices a second through `batches`, until `limit` slices have come."""
    start, count = time.perf_counter(), 0
    for images, labels in batches:
        count += len(images)
        assert images.dtype == torch.float32 and images.shape[1:] == SHAPE
        if count >= limit:
            break
    return count/(time.perf_counter() - start)


def shuffled(seed):
    return np.random.default_rng(seed).permutation(PATIENTS*DEPTH).reshape(-1, BATCH)


def sequential(folder):
    """The same bytes read from beginning to end, as slices a second."""
    start = time.perf_counter()
    for path in sorted(folder.rglob("*.npy")):
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 23):
                pass
    return PATIENTS*DEPTH/(time.perf_counter() - start)


def repeat(measure, before=lambda: None):
    def once(seed):
        before()
        return measure(seed)
    return median_and_range([once(seed) for seed in range(REPETITIONS)])


def main(folder):
    torch.set_num_threads(1)
    store = build_store(folder/"store")
    items = [{"patient": patient, "slice": slice} for patient in range(PATIENTS) for slice in range(DEPTH)]
    by_slice = PersistentDataset(items, Prepare(), cache_dir=folder/"by-slice")
    by_patient = SlicesOfPatients(
        PersistentDataset(
            [{"patient": patient} for patient in range(PATIENTS)], Prepare(), cache_dir=folder / "by-patient"
        )
    )
    for dataset in (by_slice, by_patient.patients):
        for index in range(len(dataset)):
            dataset[index]
    in_memory = CacheDataset(items, Prepare(), progress=False)
    images, labels = store.batch([5, 300])
    assert all(
        torch.equal(images[i], by_slice[n][0]) and torch.equal(labels[i], by_slice[n][1])
        for i, n in enumerate((5, 300))
    )

    load = lambda dataset, workers: torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, shuffle=True, num_workers=workers
    )
    found = {
        "store": repeat(lambda seed: rate(store.batch(batch) for batch in shuffled(seed))),
        "store, read ahead in a thread": repeat(lambda seed: rate(read_ahead(store.batch, shuffled(seed)))),
        "store, cold": repeat(
            lambda seed: rate(store.batch(batch) for batch in shuffled(seed)), lambda: forget(folder / "store")
        ),
        "disk, from beginning to end, cold": repeat(
            lambda seed: sequential(folder / "store"), lambda: forget(folder / "store")
        ),
        "disk, from beginning to end, cached": repeat(lambda seed: sequential(folder / "store")),
        "MONAI PersistentDataset, a file a slice": repeat(lambda seed: rate(load(by_slice, 0))),
        "MONAI PersistentDataset, a file a slice, 2 workers": repeat(lambda seed: rate(load(by_slice, 2))),
        "MONAI PersistentDataset, a file a slice, cold": repeat(
            lambda seed: rate(load(by_slice, 0)), lambda: forget(folder / "by-slice")
        ),
        "MONAI PersistentDataset, a file a patient": repeat(lambda seed: rate(load(by_patient, 0), BATCH)),
        "MONAI CacheDataset": repeat(lambda seed: rate(load(in_memory, 0))),
    }
    ours = found["store"]["median"]
    write_results(
        __file__,
        {
            **machine("torch", "monai", "numpy"),
            "slices": len(store),
            "batch": BATCH,
            "shape": SHAPE,
            "slices a second": found,
            "ratios of the medians, store to": {
                name: round((found["store, cold"]["median"] if "cold" in name else ours) / told["median"], 2)
                for name, told in found.items()
                if not name.startswith("store")
            },
        },
    )


if __name__ == "__main__":
    run_in_folder(main)
