"""How far two outlines lie apart: Hausdorff distance, its 95th percentile, average surface distance. Exact, 2D and 3D.

The border of a mask is the mask without its erosion by the cross (connectivity 1), where outside the array counts as
background; distances run between border voxels. These are the definitions of medpy, and the numbers have the
same bits, means (asd, assd) the same to 1e-14, since they may be summed in another order:

    hd      the largest distance of either direction
    hd95    the 95th percentile of the distances of both directions pooled
    asd     the mean distance from the border of pred to that of true: directed
    assd    the mean of the distances of both directions pooled

Other libraries mean other things by the same words; their conventions have names of their own: `hd95_monai` (the larger
of the two directed percentiles), and `metrics/surfels.py` for area-weighted surfaces. With either mask empty nothing is
defined: NaN, for the caller to count.

Several classes share the pass that finds their boxes; each border and each distance is computed once for all measures.
Nearest border voxels are found on an exact distance map of the box of both masks, or, where the box is large and the
borders are small, with a kd-tree. Where two border voxels are equally far, rounding may differ on the tree by 2 ulp.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medprobe.errors import RequestError
from medprobe.metrics._checks import check_labels, check_masks, check_spacing

Search = Literal["auto", "map", "tree"]
MAP_COST, TREE_COST = 40.0, 1500.0
"""Nanoseconds per voxel of the box, and per border voxel, on two server cores: only their ratio counts."""
MAP_SIDE = 2**15
"""The distance map keeps indices in 16 bits."""


@dataclass(frozen=True)
class Distances:
    """Distances between two borders, in the unit of the spacing, in C order of the voxels they start from.

    `to_true` (n,): from each border voxel of pred to the nearest of true; `to_pred` (m,): the other way round.
    """

    to_true: np.ndarray
    to_pred: np.ndarray

    def hd(self) -> float:
        return float(max(self.to_true.max(), self.to_pred.max()))

    def hd95(self) -> float:
        return float(np.percentile(np.concatenate([self.to_true, self.to_pred]), 95))

    def hd95_monai(self) -> float:
        return float(max(np.percentile(self.to_true, 95), np.percentile(self.to_pred, 95)))

    def asd(self) -> float:
        return float(self.to_true.mean())

    def assd(self) -> float:
        return float(np.concatenate([self.to_true, self.to_pred]).mean())

    def nsd(self, tolerance: float) -> float:
        """The share of all border voxels that lie within `tolerance` of the other border (MONAI's SurfaceDiceMetric)."""
        near = (self.to_true <= tolerance).sum() + (self.to_pred <= tolerance).sum()
        return float(near / (len(self.to_true) + len(self.to_pred)))


MEASURES: Mapping[str, Callable[[Distances], float]] = {
    "hd": Distances.hd, "hd95": Distances.hd95, "asd": Distances.asd, "assd": Distances.assd,
    "hd95_monai": Distances.hd95_monai,
}  # fmt: skip


def hd(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> float:
    """Hausdorff distance of two masks (H, W) or (D, H, W), in the unit of `spacing` (array order); NaN if one is empty."""
    return _of_masks(pred, true, spacing, "hd")


def hd95(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the pooled two-way border distances of two masks (H, W) or (D, H, W), in the unit of `spacing` (array order:
    z, y, x); NaN if one is empty."""
    return _of_masks(pred, true, spacing, "hd95")


def asd(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> float:
    """Average surface distance from pred to true (directed) of two masks, in the unit of `spacing` (z, y, x); NaN if one is empty."""
    return _of_masks(pred, true, spacing, "asd")


def assd(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance of two masks over the pooled distances, in the unit of `spacing` (z, y, x); NaN if one is empty."""
    return _of_masks(pred, true, spacing, "assd")


def hd95_monai(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles of two masks, MONAI's convention; NaN if one is empty."""
    return _of_masks(pred, true, spacing, "hd95_monai")


def nsd(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Share of border voxels of two masks within `tolerance` of the other border; NaN if one is empty."""
    found = distances(pred, true, spacing)
    return float("nan") if found is None else found.nsd(tolerance)


def _of_masks(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float], measure: str) -> float:
    found = distances(pred, true, spacing)
    return float("nan") if found is None else MEASURES[measure](found)


def distances(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float], path: Search = "auto") -> Distances | None:
    """Border distances of two masks (H, W) or (D, H, W), bool or 0/1; None if one is empty. RequestError: bad input."""
    pred, true = check_masks(pred, true)
    return distances_by_class(pred.view(np.uint8), true.view(np.uint8), spacing, (1,), path)[0]


def measure_surface(
    pred: np.ndarray,
    true: np.ndarray,
    spacing: Sequence[float],
    classes: Sequence[int],
    measures: Sequence[str] = ("hd95", "asd"),
) -> dict[str, np.ndarray]:
    """Measure → (len(classes),) values of two label maps (H, W) or (D, H, W) of integers; NaN where a class is empty in one."""
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise RequestError(f"no surface measure named {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    found = distances_by_class(pred, true, spacing, classes)
    return {name: np.array([np.nan if one is None else MEASURES[name](one) for one in found]) for name in measures}


def distances_by_class(
    pred: np.ndarray, true: np.ndarray, spacing: Sequence[float], classes: Sequence[int], path: Search = "auto"
) -> list[Distances | None]:
    """Border distances of every class of two label maps, None for a class that is empty in one. RequestError: bad input.

    `path` forces the distance map or the kd-tree; "auto" takes the one that is expected to be faster.
    """
    pred, true = check_labels(pred, true)
    spacing = check_spacing(spacing, pred.ndim)
    if not len(classes) or len(set(classes)) < len(classes):
        raise RequestError(f"expected classes to measure, each once, found {list(classes)}; correct the list")
    if path not in ("auto", "map", "tree"):
        raise RequestError(f"path must be auto, map or tree, found {path!r}; choose one")
    flat = pred.ndim == 2
    if flat:
        pred, true, spacing = pred[None], true[None], (1.0, *spacing)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        spans = list(pool.map(lambda labels: _boxes(labels, classes), (pred, true)))
        pairs = [_Pair(pred, true, number, both, flat) for number, both in zip(classes, zip(*spans, strict=True), strict=True)]
        jobs = [(pair, way) for pair in pairs if not pair.empty for way in (0, 1)]
        jobs.sort(key=lambda job: -job[0].voxels)
        found = dict(zip(((id(pair), way) for pair, way in jobs), pool.map(lambda job: job[0].distances(job[1], spacing, path), jobs), strict=True))
    return [None if pair.empty else Distances(found[id(pair), 0], found[id(pair), 1]) for pair in pairs]


def _boxes(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """(K, 6) first and last z, y, x of every class; first > last where it is absent."""
    from medprobe.metrics import _loops

    low = min(classes)
    table = np.full(max(classes) - low + 1, -1, np.int64)
    table[np.asarray(classes) - low] = np.arange(len(classes))
    found = np.tile(np.array([np.iinfo(np.int64).max, -1] * 3), (len(classes), 1))
    _loops.boxes(labels, (table, low), found)
    return found


class _Pair:
    """One class in both label maps, cropped to the box of both; borders are made when first asked for."""

    def __init__(self, pred: np.ndarray, true: np.ndarray, number: int, spans: tuple[np.ndarray, np.ndarray], flat: bool) -> None:
        self.empty = bool(spans[0][1] < 0 or spans[1][1] < 0)
        if self.empty:
            return
        first, last = np.minimum(*spans)[::2], np.maximum(*spans)[1::2]
        box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        self.borders, self.sizes = [], []
        from medprobe.metrics import _loops

        for labels in (pred, true):
            mask = np.ascontiguousarray(labels[box] == number)
            out = np.empty_like(mask)
            self.sizes.append(_loops.border(mask, flat, out))
            self.borders.append(out)

    @property
    def voxels(self) -> int:
        return self.borders[0].size

    def distances(self, way: int, spacing: Sequence[float], path: Search) -> np.ndarray:
        """From the border of pred to that of true (way 0), or back (1)."""
        query, target = self.borders[way], self.borders[1 - way]
        if path == "auto":
            cheap = TREE_COST * sum(self.sizes) < MAP_COST * self.voxels or max(query.shape) >= MAP_SIDE
            path = "tree" if cheap else "map"
        out = np.empty(self.sizes[way])
        if path == "map":
            from medprobe.metrics import _loops

            _loops.distances(target, query, tuple(float(step) for step in spacing), out)
            return out
        return _by_tree(target, query, np.asarray(spacing, dtype=np.float64), out)


def _by_tree(target: np.ndarray, query: np.ndarray, spacing: np.ndarray, out: np.ndarray) -> np.ndarray:
    """As the distance map: the same formula on the offset to the nearest voxel, which of equally far ones excepted."""
    from scipy.spatial import cKDTree

    points = np.argwhere(query)
    shared = target[query]
    out[shared] = 0.0
    points = points[~shared]
    if len(points):
        nodes = np.argwhere(target)
        _, nearest = cKDTree(nodes * spacing, balanced_tree=False, compact_nodes=False).query(points * spacing)
        offset = (nodes[nearest] - points) * spacing
        offset *= offset
        out[~shared] = np.sqrt((offset[:, 0] + offset[:, 1]) + offset[:, 2])
    return out
