"""Does the memory of a training process stay flat, for 20 and for 200 patients?

For each number of patients (16 slices of 4 × 256 × 256) a new process reads 40 shuffled batches of 64 out of the store
and prints its resident memory before the first and after the last, and the peak in between. Peer in the same run: the
same files mapped into memory. Writes results/store_memory.json, MiB.

    python benchmarks/store_memory.py [FOLDER]
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from machine import machine, run_in_folder, write_results

from medaug.data.store import SliceStore, write_index, write_stored_patient

DEPTH, BATCH, BATCHES = 16, 64, 40


def build(path, patients):
    images = np.random.default_rng(0).standard_normal((DEPTH, 4, 256, 256), dtype=np.float32)
    labels = (images[:, 0] > 1).astype(np.uint8)
    for patient in range(patients):
        write_stored_patient(path, f"p{patient:03d}", np.roll(images, patient, axis=0), labels, labels[:2], np.eye(4))
    write_index(path, "noise", tuple("abcd"), ("one",), 256, [f"p{patient:03d}" for patient in range(patients)])


def resident(kind="VmRSS"):
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(told[kind].split()[0])/1024)


def mapped(store):
    """A reader that maps every patient's files once."""
    maps = [
        [np.load(store.path / "patients" / id / name, mmap_mode="r") for name in ("images.npy", "labels.npy")]
        for id in store.patients
    ]

    def read(batch):
        return tuple(torch.from_numpy(np.stack([maps[n//DEPTH][part][n % DEPTH] for n in batch]).astype(kind))
                     for part, kind in enumerate((np.float32, np.uint8)))
    return read


def measure(path, how):
    store = SliceStore(path)
    read = store.batch if how == "read" else mapped(store)
    rng = np.random.default_rng(1)
    read(rng.integers(0, len(store), BATCH))
    before = resident()
    for _ in range(BATCHES):
        read(rng.integers(0, len(store), BATCH))
    print(json.dumps({"before": before, "after": resident(), "peak": resident("VmHWM")}))


def main(folder):
    found = {}
    for patients in (20, 200):
        build(folder/str(patients), patients)
        for how in ("read", "mapped"):
            told = subprocess.run(
                [sys.executable, __file__, folder / str(patients), how], check=True, capture_output=True, text=True
            ).stdout
            found[f"{how}, {patients} patients"] = json.loads(told)
    write_results(
        __file__,
        {
            **machine("torch", "numpy"),
            "slices a patient": DEPTH,
            "batches": BATCHES,
            "MiB": found,
            "ratio of the peaks, 200 to 20 patients": {
                how: round(found[f"{how}, 200 patients"]["peak"] / found[f"{how}, 20 patients"]["peak"], 2)
                for how in ("read", "mapped")
            },
        },
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        measure(Path(sys.argv[1]), sys.argv[2])
    else:
        run_in_folder(main)
