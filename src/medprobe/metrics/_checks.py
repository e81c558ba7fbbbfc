"""What two label maps must be to be compared: one sentence for each way in which they are not."""

import math
from collections.abc import Sequence

import numpy as np

from medprobe.errors import RequestError


def check_labels(pred: np.ndarray, true: np.ndarray, *, negative: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of integers (bool becomes uint8), of one shape, 2D or 3D, neither empty.

    Floats that are whole numbers are taken as integers. `negative` allows values below 0.
    """
    pred, true = _whole(pred, "pred", negative), _whole(true, "true", negative)
    if pred.shape != true.shape:
        raise RequestError(f"expected pred and true of one shape, found {pred.shape} and {true.shape}; resample one onto the grid of the other")
    if pred.ndim not in (2, 3):
        raise RequestError(f"expected label maps of shape (H, W) or (D, H, W), found {pred.shape}; pass one case at a time")
    if not pred.size:
        raise RequestError(f"expected label maps with voxels, found the shape {pred.shape}; leave the case out")
    return pred, true


def _whole(labels: np.ndarray, name: str, negative: bool) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype == bool:
        return labels.view(np.uint8)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise RequestError(f"expected whole numbers as labels of {name}, found {np.count_nonzero(~np.isfinite(labels))} NaN or infinite voxels; write the label map again")
        rounded = labels.astype(np.int64)
        if (rounded != labels).any():
            raise RequestError(f"expected whole numbers as labels of {name}, found {np.count_nonzero(rounded != labels)} fractions such as {labels[rounded != labels].flat[0]:g}; threshold or round it first, and resample labels with nearest")
        labels = rounded
    labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    if labels.dtype.kind not in "iu":
        raise RequestError(f"expected integers as labels of {name}, found {labels.dtype}; convert it")
    if not negative and labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise RequestError(f"expected labels of {name} from 0 on, found {labels.min()}; give ignored voxels through ignore, or renumber")
    return labels


def check_masks(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool arrays of one shape; values other than 0 and 1 are refused."""
    pred, true = check_labels(pred, true)
    for name, mask in (("pred", pred), ("true", true)):
        if mask.dtype != np.uint8 or mask.max() > 1:
            largest = mask.max()
            if largest > 1:
                raise RequestError(f"expected a mask of 0 and 1 as {name}, found values up to {largest}; compare one class at a time: {name} == class")
    return pred.astype(bool), true.astype(bool)


def check_spacing(spacing: Sequence[float], dims: int) -> tuple[float, ...]:
    """The voxel sizes as floats: one per axis, finite and above 0."""
    try:
        sizes = tuple(float(size) for size in spacing)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != dims or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise RequestError(f"expected a spacing of {dims} sizes above 0 in array order (z, y, x), found {spacing!r}; use (1,) * {dims} for distances in voxels")
    return sizes
