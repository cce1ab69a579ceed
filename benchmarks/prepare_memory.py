"""How much memory does `prepare` need for the longest patient of KiTS19, 512 × 512 × 1059 voxels?

One phantom patient of that size in KiTS19's layout, axes and types is prepared at 256 × 256 by one process of its own.
The peak is that of the whole process, Python and its libraries included. Writes results/prepare_memory.json.

    python benchmarks/prepare_memory.py [FOLDER]
"""
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from machine import machine, run_in_folder, write_results

SHAPE = (1059, 512, 512)  # as in the files of KiTS19, whose first axis is the slices'
PREPARE = """
import json, sys
from machine import peak_memory
from medaug.data.datasets import DATASETS
from medaug.data.prepare import prepare_dataset
prepare_dataset(DATASETS["kits19"], sys.argv[1], sys.argv[2], 256, processes=1, progress_bar=False)
print(json.dumps(peak_memory()))
"""


def write_patient(folder, id="case_00000"):
    """A patient of blocks of noise, whose label maps hold a kidney and a tumour, written slice by slice."""
    random = np.random.default_rng(0)
    affine = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1.0]])
    tile = random.integers(-200, 400, (SHAPE[0], 64, 64), dtype=np.int16)
    for name, kind in (("imaging", np.int16), ("segmentation", np.uint8)):
        header = nib.Nifti1Header()
        header.set_data_dtype(kind)
        header.set_data_shape(SHAPE)
        header.set_sform(affine, 1)
        header.set_xyzt_units("mm")
        header["vox_offset"], header["magic"] = 352, b"n+1"
        path = folder/"data"/id/f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            for column in range(SHAPE[2]):  # Fortran order: the first axis is the fastest
                if name == "imaging":
                    plane = np.tile(tile[:, :, column % 64], (1, SHAPE[1]//64))
                else:
                    plane = np.zeros(SHAPE[:2], np.uint8)
                    if 200 <= column < 260:
                        plane[300:420, 150:220], plane[340:370, 170:200] = 1, 2
                file.write(np.asfortranarray(plane, dtype=kind).tobytes(order="F"))
    return folder/"data"


def main(folder):
    root, start = write_patient(folder), time.perf_counter()
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", PREPARE, str(root), str(folder/"store")], check=True,
                          cwd=Path(__file__).parent, capture_output=True, text=True).stdout
    peak, voxels = json.loads(told.splitlines()[-1]), int(np.prod(SHAPE))
    write_results(__file__, {
        "question": " ".join(__doc__.splitlines()[0].split()), **machine("numpy", "nibabel"), "voxels": voxels,
        "peak memory GB": round(peak/1e9, 2), "bytes a voxel": round(peak/voxels, 1),
        "seconds": round(time.perf_counter() - start)})


if __name__ == "__main__":
    run_in_folder(main)
