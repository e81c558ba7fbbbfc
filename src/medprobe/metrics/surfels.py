"""Surfaces weighted by area, as in DeepMind's surface-distance (Nikolov et al., JMIR 23:e26151, 2021).

A surface element lies between the voxels of each 2 x 2 x 2 block (2 x 2 in 2D) that is neither empty nor full; its area
(length) follows from which of the voxels are set and from the spacing. Distances run between elements and are weighted by
area. These numbers are not those of `metrics/surface.py`, which counts border voxels: `hd95_surfel` of two spheres was
5.59 where hd95 is 6.19 (docs/metrics.md).

The tables of areas and lengths are MONAI's (imported when first asked for).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.metrics._checks import check_masks, check_spacing


@dataclass(frozen=True)
class Surfels:
    """Distances in ascending order with the areas of their elements, from true to pred and from pred to true."""

    to_pred: np.ndarray
    area_true: np.ndarray
    to_true: np.ndarray
    area_pred: np.ndarray

    def hd95(self, percent: float = 95) -> float:
        """The larger of the two directed distances at which `percent` of the area is covered."""
        return max(_covered(self.to_pred, self.area_true, percent), _covered(self.to_true, self.area_pred, percent))

    def asd(self) -> tuple[float, float]:
        """(true to pred, pred to true): area-weighted mean distances."""
        return (
            float((self.to_pred * self.area_true).sum() / self.area_true.sum()),
            float((self.to_true * self.area_pred).sum() / self.area_pred.sum()),
        )

    def surface_dice(self, tolerance: float) -> float:
        """The share of both surfaces that lies within `tolerance` of the other."""
        near = self.area_true[self.to_pred <= tolerance].sum() + self.area_pred[self.to_true <= tolerance].sum()
        return float(near / (self.area_true.sum() + self.area_pred.sum()))


def _covered(distance: np.ndarray, area: np.ndarray, percent: float) -> float:
    share = np.cumsum(area) / area.sum()
    return float(distance[min(int(np.searchsorted(share, percent / 100)), len(distance) - 1)])


def hd95_surfel(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> float:
    """Robust Hausdorff distance of surface-distance, of two masks (H, W) or (D, H, W); NaN if one is empty."""
    found = surfels(pred, true, spacing)
    return float("nan") if found is None else found.hd95()


def surface_dice(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Surface Dice of two masks at a tolerance, in the unit of `spacing` (array order); NaN if one is empty."""
    found = surfels(pred, true, spacing)
    return float("nan") if found is None else found.surface_dice(tolerance)


def surfels(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> Surfels | None:
    """The surface elements of two masks (H, W) or (D, H, W) with their distances; None if one is empty."""
    from scipy.ndimage import find_objects

    from medprobe.metrics import _loops

    pred, true = check_masks(pred, true)
    sizes = check_spacing(spacing, pred.ndim)
    if not pred.any() or not true.any():
        return None
    table = _areas(sizes)
    box = find_objects((pred | true).view(np.uint8))[0]
    codes = [_codes(mask[box]) for mask in (true, pred)]
    borders = [(code != 0) & (code != len(table) - 1) for code in codes]
    flat = (1.0, *sizes) if pred.ndim == 2 else sizes
    sides: list[np.ndarray] = []
    for here, there in ((0, 1), (1, 0)):
        query, target = (border[None] if pred.ndim == 2 else border for border in (borders[here], borders[there]))
        distance = np.empty(np.count_nonzero(query))
        _loops.distances(target, query, flat, distance)
        area = table[codes[here][borders[here]]]
        order = np.lexsort((area, distance))
        sides += [distance[order], area[order]]
    return Surfels(*sides)


def _codes(mask: np.ndarray) -> np.ndarray:
    """Which voxels of the block at each corner are set, as bits: the first voxel is the highest."""
    padded = np.pad(mask, 1).astype(np.uint8)
    blocks = [padded[tuple(slice(step, size - 1 + step) for step, size in zip(place, padded.shape, strict=True))] for place in np.ndindex(*(2,) * mask.ndim)]
    code: np.ndarray = np.zeros(blocks[0].shape, np.uint8)
    for block in blocks:
        code = (code << np.uint8(1)) | block
    return code


def _areas(sizes: tuple[float, ...]) -> np.ndarray:
    from monai.metrics import utils

    make = utils.create_table_neighbour_code_to_surface_area if len(sizes) == 3 else utils.create_table_neighbour_code_to_contour_length
    return np.asarray(make(sizes)[0], dtype=np.float64)
