"""A thousand damaged NIfTI files: each is read or refused in one line, within limits of time and memory."""
import gzip
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

MUTATIONS, SEED = 1000, 20261124
GIGABYTE = 1 << 30


def originals():
    """Valid files, uncompressed: (name, bytes)."""
    import nibabel as nib
    import numpy as np
    rng = np.random.default_rng(SEED)
    affine = np.array([[0, 0, -0.8, 40], [0, -0.8, 0, 30], [-3, 0, 0, 99], [0, 0, 0, 1.0]])
    scaled = nib.Nifti1Image(rng.integers(-1000, 1000, (12, 16, 9), dtype=np.int16), affine)
    scaled.header.set_slope_inter(0.5, -3)
    yield "int16", scaled.to_bytes()
    yield "float32", nib.Nifti1Image(rng.standard_normal((16, 16, 8, 1), dtype=np.float32), np.eye(4)).to_bytes()
    yield "labels", nib.Nifti1Image(rng.integers(0, 4, (20, 20, 10), dtype=np.uint8), affine).to_bytes()
    swapped = nib.Nifti1Image(
        rng.standard_normal((10, 11, 12)).astype(">f8"), np.eye(4), header=nib.Nifti1Header(endianness=">")
    )
    yield "big-endian", swapped.to_bytes()
    extended = nib.Nifti1Image(rng.integers(0, 9, (8, 8, 8), dtype=np.int32), np.eye(4))
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a note"))
    yield "extension", extended.to_bytes()
    yield "nifti2", nib.Nifti2Image(rng.integers(0, 9, (8, 9, 10), dtype=np.int16), np.eye(4)).to_bytes()


EXTREMES = [
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\x80" + b"\x00" * 7,
    struct.pack("<d", 1e300),
    struct.pack("<f", float("nan")) * 2,
    struct.pack("<f", float("inf")) * 2,
    struct.pack("<h", 32767) * 4,
    struct.pack("<h", -1) * 4,
    struct.pack("<q", 10**12),
    struct.pack(">q", 10**12),
]


def mutate(raw, dice):
    """Damaged bytes: of header fields more often than of voxels, one to four damages at once."""
    raw = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        kind, place = (
            dice.randrange(8),
            dice.randrange(min(len(raw), 360)) if dice.random() < 0.8 else dice.randrange(len(raw)),
        )
        if kind == 0:
            raw[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            raw[place] = dice.randrange(256)
        elif kind in (2, 3):
            value = dice.choice(EXTREMES)[:dice.choice((1, 2, 4, 8))]
            raw[place:place + len(value)] = value
        elif kind == 4:
            struct.pack_into(
                dice.choice("<>") + "8h",
                raw,
                40,
                *(dice.choice((0, 1, 2, 3, 4, 7, 8, 100, 30000, -5)) for _ in range(8)),
            )
        elif kind == 5:
            del raw[place:place + dice.choice((1, 16, 400, 10**6))]
        elif kind == 6:
            raw[place:place] = dice.randbytes(dice.choice((1, 16, 400)))
        else:
            struct.pack_into(
                dice.choice("<>") + "f",
                raw,
                108,
                dice.choice((0, -1e9, 1e30, 352.5, 4e9, float("nan"), float("inf"), 348)),
            )
        if len(raw) < 130:
            break
    return bytes(raw)


def damaged_files(count):
    """`count` pairs (ending, bytes): plain, gzipped after the damage, and damaged as gzip."""
    dice, valid = random.Random(SEED), [raw for _, raw in originals()]
    for number in range(count):
        raw = valid[number % len(valid)]
        if number % 3 == 0:
            yield ".nii", mutate(raw, dice)
        elif number % 3 == 1:
            yield ".nii.gz", gzip.compress(mutate(raw, dice), 1)
        else:
            yield ".nii.gz", mutate(gzip.compress(raw, 1), dice)


def differs_from_nibabel(volume, path):
    import nibabel as nib
    import numpy as np
    nib.imageglobals.logger.disabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = nib.load(path)
            array, affine = np.squeeze(np.asanyarray(theirs.dataobj).astype(np.float32)), theirs.affine
        # of extensions, which the reader skips
        except (
            nib.filebasedimages.ImageFileError,
            nib.spatialimages.HeaderDataError,
            OSError,
            ValueError,
            MemoryError,
        ):
            return False
    return not (np.array_equal(np.squeeze(volume.array), array) and np.array_equal(volume.affine, affine))


def peak_memory():
    """Bytes; of this program alone. `ru_maxrss` also holds the size of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])*1024


def read_all(folder):
    """Reads every damaged file within a limit of memory and of time; prints the outcomes."""
    from medaug.data.volumes import read_volume
    from medaug.errors import Remark, UserError

    warnings.simplefilter("error")  # a warning would be a second line, except a remark on how a file was read
    warnings.simplefilter("ignore", Remark)
    used = int(Path("/proc/self/statm").read_text().split()[0])*os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTE, used + GIGABYTE))
    outcomes, wrong = Counter(), []
    for number, (ending, raw) in enumerate(damaged_files(MUTATIONS)):
        path = Path(folder)/f"damaged{ending}"
        path.write_bytes(raw)
        signal.alarm(10)
        try:
            volume = read_volume(path)
            outcomes["read"] += 1
            if differs_from_nibabel(volume, path):
                wrong.append(f"{number}: read otherwise than nibabel reads it")
        except UserError as error:
            outcomes["refused"] += 1
            if "\n" in str(error) or str(path) not in str(error) or len(str(error)) > 600:
                wrong.append(f"{number}: told badly: {error}")
        except BaseException as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")
        signal.alarm(0)
    print(json.dumps({"outcomes": outcomes, "wrong": wrong, "peak": peak_memory()}))


def test_every_damaged_file_is_read_or_refused_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"the reader crashed or hung ({done.returncode}): {done.stderr[-2000:]}"
    assert not done.stderr, f"something was printed beside the refusals: {done.stderr[:500]}"
    told = json.loads(done.stdout)
    assert not told["wrong"], "\n".join(told["wrong"][:20])
    assert sum(told["outcomes"].values()) == MUTATIONS and told["peak"] < GIGABYTE
    assert told["outcomes"]["refused"] > MUTATIONS/3 and told["outcomes"]["read"] > MUTATIONS/20, told["outcomes"]


if __name__ == "__main__":
    read_all(sys.argv[1])
