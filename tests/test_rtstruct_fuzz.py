"""Five hundred structure sets with random levels, orders, duplicates and orientations: read exactly, or refused."""
import warnings
from collections import Counter

import numpy as np
import pytest

from medaug.data.datasets import DATASETS
from medaug.data.dicom_phantom import write_series, write_structures
from medaug.data.structures import read_structures
from medaug.errors import UserError

SETS, SEED, SHAPE = 500, 20261126, (22, 18, 7)
ROW = DATASETS["u-pro"]
SURE = 1e-3  # voxels: a centre closer to an edge than that may be rounded to either side


def random_affine(rng):
    """Voxel sizes, a rotation and an origin; every third one is a plain axial scan."""
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation[:, 2] *= np.linalg.det(rotation)  # right-handed, as DICOM's slices are sorted
    if rng.random() < 1/3:
        rotation = np.diag([-1.0, -1, 1])
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform([0.5, 0.5, 0.8], [2, 2, 5])
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return affine


class Solid:
    """A convex polygon that grows and moves along the stack, from one level to another; levels are in slices."""

    def __init__(self, rng, outer=None):
        turns = rng.uniform(0, 1, rng.integers(4, 9))
        self.angles = 2*np.pi*(np.arange(len(turns)) + 0.8*turns)/len(turns)
        self.start, self.end = np.sort(rng.uniform(-0.4, SHAPE[2] - 0.6, 2))
        self.centre = rng.uniform([7, 6], [15, 12])
        self.radius, self.growth, self.drift = rng.uniform(3, 9), rng.uniform(-0.3, 0.3), rng.uniform(-0.4, 0.4, 2)
        if outer:  # a hole: the same, smaller
            self.__dict__.update(outer.__dict__)
            self.radius, self.growth = outer.radius*0.5, outer.growth*0.5

    def polygon(self, level):
        """The corners (n, 2), in indices."""
        radius = max(self.radius + self.growth*level, 1.0)
        corners = radius*np.stack([np.cos(self.angles), np.sin(self.angles)], axis=1)
        return self.centre + self.drift*level + corners

    def inside(self, level):
        """Whether each voxel centre of a slice lies inside, and whether that is sure, by the polygon's half-planes."""
        corners = self.polygon(level)
        centres = np.stack(np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij"), axis=-1).astype(float)
        edges = np.roll(corners, -1, axis=0) - corners
        offsets = centres[..., None, :] - corners
        left = (edges[:, 0]*offsets[..., 1] - edges[:, 1]*offsets[..., 0])/np.linalg.norm(edges, axis=1)
        return left.min(axis=-1) > 0, np.abs(left).min(axis=-1) > SURE


def random_levels(rng, solid):
    """Where a structure is drawn: on its slices, more densely, for slices of another series, or with gaps."""
    kind = rng.choice(["slices", "halves", "thirds", "dense", "jitter", "other", "offset", "gap"],
                      p=[0.25, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    low, high = int(np.ceil(solid.start)), int(np.floor(solid.end))
    step = {"halves": 1/2, "thirds": 1/3, "dense": 1/rng.integers(4, 13), "other": 2/3, "gap": 2.0}.get(kind, 1.0)
    levels = low + step*np.arange(int((high - low)/step + 1e-9) + 1)
    if kind in ("halves", "thirds", "dense"):
        levels = np.r_[low - step*(low - step > solid.start), levels, levels[-1] + step*(levels[-1] + step < solid.end)]
    levels = levels + {"offset": 0.3}.get(kind, 0) + (rng.uniform(-0.04, 0.04, len(levels)) if kind == "jitter" else 0)
    return kind, np.unique(levels)


def turned(rng, points):
    """The same polygon from another point on, in either direction, some with the first point repeated at the end."""
    points = np.roll(points, rng.integers(len(points)), axis=0)[::rng.choice([-1, 1])]
    return np.r_[points, points[:1]] if rng.random() < 0.2 else points


def drawn(rng, solid, hole, level):
    """The outlines (kind, points) of one level: with a hole as a second outline or a keyhole, some of them twice."""
    flat = lambda polygon: np.c_[polygon, np.full(len(polygon), level)]
    outer = turned(rng, flat(solid.polygon(level)))
    kind = rng.choice(["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
    outlines = [(kind, outer)]
    if hole:
        inner = flat(hole.polygon(level))
        if rng.random() < 0.5:
            outlines.append((kind, turned(rng, inner)))
        else:
            outer = flat(solid.polygon(level))
            outlines = [(kind, np.r_[outer, outer[:1], inner[:1], inner[::-1]])]
    if rng.random() < 0.2:
        kind, points = outlines[rng.integers(len(outlines))]
        outlines.append((kind, points if len(points) > 9 else turned(rng, points)))
    if rng.random() < 0.1:
        outlines.append(("OPEN_PLANAR", flat(solid.polygon(level) + 3)))
    return outlines


def structure(rng):
    """A random structure: its outlines in indices, the levels' kind, the true mask, and which voxels are sure."""
    solid = Solid(rng)
    while np.floor(solid.end) < np.ceil(solid.start):
        solid = Solid(rng)
    hole = Solid(rng, solid) if rng.random() < 0.4 else None
    kind, levels = random_levels(rng, solid)
    outlines = [outline for level in levels for outline in drawn(rng, solid, hole, level)]
    rng.shuffle(outlines)
    mask, sure = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    for k in range(SHAPE[2]):
        level = levels[np.abs(levels - k).argmin()]
        if abs(level - k) < 0.05:
            mask[..., k], sure[..., k] = solid.inside(level)
            if hole:
                inside, certain = hole.inside(level)
                mask[..., k] &= ~inside
                sure[..., k] &= certain
    return outlines, kind, mask, sure


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each set: (kind, read or refused, what was told, voxels that differ)."""
    rng, folder, found = np.random.default_rng(SEED), tmp_path_factory.mktemp("sets"), []
    for number in range(SETS):
        if number % 20 == 0:
            affine, images = random_affine(rng), folder/f"series{number}"
            series = write_series(images, rng.integers(-1000, 1000, SHAPE), affine)
        parts = {name: structure(rng) for name in ROW.structures}
        place = folder/f"set{number}"
        place.mkdir()
        in_mm = {name: [(kind, points @ affine[:3, :3].T + affine[:3, 3]) for kind, points in part[0]]
                 for name, part in parts.items()}
        write_structures(place/"RS.dcm", in_mm, series)
        truth, sure = np.zeros(SHAPE), np.ones(SHAPE, bool)
        for label, (_, _, mask, certain) in zip(ROW.structures.values(), parts.values()):
            truth[mask], sure = label, sure & certain
        kinds = {part[1] for part in parts.values()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                labels = read_structures(place, images, ROW).array
                differ = int((labels != truth)[sure].sum())
                found.append((kinds, "read", [str(one.message) for one in caught], differ, sure.mean()))
            except UserError as error:
                found.append((kinds, "refused", [str(error)], 0, 1))
    return found


def test_each_set_is_read_exactly_or_refused(outcomes):
    assert len(outcomes) == SETS and min(one[4] for one in outcomes) > 0.98
    wrong = [(number, one) for number, one in enumerate(outcomes) if one[3]]
    assert not wrong, wrong[:5]


def test_only_structures_drawn_for_other_slices_are_refused(outcomes):
    counts = Counter(outcome for _, outcome, *_ in outcomes)
    assert counts["read"] > SETS/3 and counts["refused"] > SETS/10, counts
    for kinds, outcome, told, *_ in outcomes:
        if outcome == "refused":
            assert kinds & {"other", "offset"} and "between the slices" in told[0], (kinds, told)
        if "offset" in kinds:
            assert outcome == "refused", kinds


def test_what_is_left_out_is_told_with_the_structures_name(outcomes):
    told = [text for _, outcome, texts, *_ in outcomes if outcome == "read" for text in texts]
    for words in ("stands twice", "there is no outline", "enclose nothing"):
        assert sum(words in text for text in told) > 10, words
    assert all(text.split(": ")[1] in ROW.structures for text in told)
