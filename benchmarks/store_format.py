"""Which format suits the slice store? Random slices a second, bytes a patient, and their ratio to raw NIfTI.

A phantom patient of BraTS20 in the real size (4 modalities of 240 × 240 × 155, int16), prepared to 256 × 256 without
bias correction, in: NumPy files read with seeks (what the store does) and mapped into memory, Zarr 3 with a chunk a
slice (raw, and with its default compression), and NIfTI as nibabel reads slices of it (plain and gzipped, the slices
then lying one after another in the file). Zarr is no requirement of medaug: pip install zarr.
Writes results/store_format.json: median and range of the repetitions.

    python benchmarks/store_format.py [FOLDER]
"""
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import zarr
from machine import machine, median_and_range, run_in_folder, write_results

from medaug.data.datasets import DATASETS, find_patients
from medaug.data.phantom import phantom_patient
from medaug.data.prepare import prepare_dataset
from medaug.data.volumes import label_values, write_nifti

BATCH, REPETITIONS, SHAPE = 64, 3, (240, 240, 155)
BRATS = replace(DATASETS["brats20"], n4=False)


def write_patient(root):
    """A patient in the real size and type; for speed the phantom is drawn with few slices, which
    are repeated."""
    images, labels, spacing = phantom_patient(BRATS, seed=0, patient=0, size=SHAPE[0], depth=31)
    name = "BraTS20_Training_001"
    for path, volume in zip(("t1", "t1ce", "t2", "flair"), images):
        write_nifti(root/name/f"{name}_{path}.nii.gz", np.repeat(volume, 5, axis=2).astype(np.int16), np.eye(4))
    write_nifti(root/name/f"{name}_seg.nii.gz", np.repeat(label_values(labels, BRATS), 5, axis=2), np.eye(4))
    return root


def size(*paths):
    return sum(
        file.stat().st_size
        for path in paths
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    )


def rate(read, depth, count):
    """Slices a second of `count` batches, each slice by `read(k)` into a float32 batch."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    for _ in range(count):
        np.stack([read(k) for k in rng.integers(0, depth, BATCH)]).astype(np.float32)
    return count*BATCH/(time.perf_counter() - start)


def formats(folder, store):
    """{name: (how to read slice k, the files, batches to time)} of the images of one patient."""
    array = np.load(store.path/"patients"/store.patients[0]/"images.npy")
    chunks = (1, *array.shape[1:])
    packed = zarr.create_array(folder/"packed.zarr", data=array, chunks=chunks)
    raw = zarr.create_array(folder/"raw.zarr", data=array, chunks=chunks, compressors=None)
    mapped = np.load(store.path/"patients"/store.patients[0]/"images.npy", mmap_mode="r")
    slices_last = np.moveaxis(array.astype(np.float32), 0, -1)
    for name in ("image.nii", "image.nii.gz"):
        nib.save(nib.Nifti1Image(slices_last, np.eye(4)), folder/name)
    plain, gzipped = nib.load(folder/"image.nii"), nib.load(folder/"image.nii.gz")
    npy = store.path/"patients"/store.patients[0]/"images.npy"
    return len(array), {
        "NumPy, read with seeks (the store)": (lambda k: store.batch([k])[0][0].numpy(), [npy], 8),
        "NumPy, mapped into memory": (lambda k: mapped[k], [npy], 8),
        "Zarr 3, a chunk a slice, not compressed": (lambda k: raw[k], [folder/"raw.zarr"], 2),
        "Zarr 3, a chunk a slice, compressed": (lambda k: packed[k], [folder/"packed.zarr"], 2),
        "nibabel, NIfTI": (lambda k: np.asarray(plain.dataobj[..., k]), [folder/"image.nii"], 2),
        "nibabel, NIfTI gzipped": (lambda k: np.asarray(gzipped.dataobj[..., k]), [folder/"image.nii.gz"], 0.05),
    }


def main(folder):
    root = write_patient(folder/"raw")
    store = prepare_dataset(BRATS, root, folder/"store", 256, processes=1, progress_bar=False)
    (files,) = find_patients(BRATS, root)
    gzipped, plain = (
        size(*files.all),
        sum(int(np.prod(nib.load(path).shape)) * nib.load(path).get_data_dtype().itemsize for path in files.all),
    )
    whole = size(store.path/"patients")
    depth, candidates = formats(folder, store)
    found = {}
    for name, (read, paths, count) in candidates.items():
        once = lambda: rate(read, depth, int(count)) if count >= 1 else _few(read, depth)
        once()
        found[name] = {
            "slices a second": median_and_range([once() for _ in range(REPETITIONS)], 1),
            "bytes a patient (images)": size(*paths),
        }
    ours = next(iter(found.values()))["slices a second"]["median"]
    write_results(
        __file__,
        {
            **machine("numpy", "zarr", "nibabel"),
            "shape": [depth, 4, 256, 256],
            "formats": found,
            "ratio of the medians, store to": {
                name: round(ours / told["slices a second"]["median"], 2) for name, told in found.items()
            },
            "bytes a patient": {
                "raw NIfTI, gzipped": gzipped,
                "raw NIfTI, not compressed": plain,
                "store, with label maps and geometry": whole,
                "ratio to gzipped": round(whole / gzipped, 2),
                "ratio to not compressed": round(whole / plain, 2),
            },
        },
    )


def _few(read, depth):
    """Three slices, for formats that take seconds for each."""
    start = time.perf_counter()
    for k in (5, depth//2, depth - 5):
        read(k)
    return 3/(time.perf_counter() - start)


if __name__ == "__main__":
    run_in_folder(main)
