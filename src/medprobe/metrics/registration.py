"""What a displacement does: labels carried along, landmarks, and how the field bends.

A displacement (3, D, H, W) with components z, y, x, or (2, H, W) with y, x, is in voxels and lives on the fixed grid:
the moving image, which may have another shape, is sampled at x + u(x). Overlap and distances of warped labels are those
of the segmentation metrics; here is what they need first, and what only registration has:

    warp_labels        moving labels on the fixed grid
    landmark_error     target registration error, one distance in mm per landmark
    folding_fraction   share of voxels with det(I + grad u) <= 0
    sdlogj             population standard deviation of log(clip(det(I + grad u) + 3, 1e-9, 1e9))

Gradients are central differences, with two voxels cut off every side; both and the 3 are those of the Learn2Reg
evaluation (methods sheet 7.8). The determinant is the same in voxels and in mm, whatever the spacing.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

import numpy as np

from medprobe.errors import RequestError
from medprobe.metrics._checks import check_spacing
from medprobe.registry import did_you_mean

BLOCK = 2**17
"""Voxels worked on at a time: beyond input and output, memory stays below about 50 MB."""
CROP = 2
"""Voxels of the field cut off every side before its determinant is judged."""
RIMS = ("voxel", "centre")
TIE = 1e-9
"""Shares of two labels that differ by less are equal: they are sums of products in another order."""


def warp_labels(
    labels: np.ndarray,
    displacement: np.ndarray,
    order: Literal["nearest", "linear"] = "nearest",
    rim: Literal["voxel", "centre"] = "voxel",
) -> np.ndarray:
    """Labels (D, H, W) or (H, W) of the moving image on the fixed grid, in their own dtype (integers or bool).

    `nearest` takes voxel floor(x + u + 0.5) along each axis: a half rounds up, and a voxel reaches half a voxel around
    its centre. `linear` interpolates every label's mask and takes the largest share, the lower label at a tie. Outside
    the moving image lies background, 0, which also counts in the shares.

    `rim` says where the moving image ends: with its outermost voxels ("voxel", as in SimpleITK), or
    already at their centres ("centre", as in scipy.ndimage.map_coordinates with mode "constant"),
    which cuts half a voxel off every side: of eight slices an eighth.
    """
    labels, displacement = np.asarray(labels), _displacement(displacement)
    samplers = {"nearest": _nearest, "linear": _linear}
    if order not in samplers:
        raise RequestError(f"no order named {order!r} to warp labels; {did_you_mean(order, list(samplers))}")
    if rim not in RIMS:
        raise RequestError(
            f"no rim named {rim!r} to warp labels; {did_you_mean(rim, list(RIMS))}"
        )
    if labels.dtype.kind not in "biu":
        raise RequestError(
            f"expected labels to warp as integers or bool, found {labels.dtype}; "
            "convert them, and warp images by interpolation"
        )
    if labels.ndim != len(displacement) or not labels.size:
        raise RequestError(
            f"expected labels of {len(displacement)} axes with voxels for a displacement of {len(displacement)} "
            f"components, found the shape {labels.shape}; pass one case at a time"
        )
    padded = np.pad(labels.view(np.uint8) if labels.dtype == bool else labels, 1)
    warped = np.empty(displacement.shape[1:], padded.dtype)
    for rows in _rows(warped.shape):
        position = displacement[:, rows].astype(np.float64)
        for axis, side in enumerate(warped.shape):
            along = np.arange(side)[rows] if axis == 0 else np.arange(side)
            position[axis] += along.reshape(-1, *[1] * (labels.ndim - 1 - axis))
        warped[rows] = samplers[order](padded, position)
        if rim == "centre":
            warped[rows][~_between_centres(list(position), labels.shape)] = 0
    return warped.view(labels.dtype)


def between_centres(displacement: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Where x + u lies between the outermost voxel centres of a moving image of this shape: bool."""
    displacement = _displacement(displacement)
    places = np.ix_(*(np.arange(side) for side in displacement.shape[1:]))
    position = [u + along for u, along in zip(displacement, places, strict=True)]
    return _between_centres(position, shape)


def _between_centres(position: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    inside = np.ones(position[0].shape, bool)
    for x, side in zip(position, shape, strict=True):
        inside &= (x >= 0) & (x <= side - 1)
    return inside


def _rows(shape: Sequence[int]) -> Iterator[slice]:
    """Slices along the first axis, of about BLOCK voxels each."""
    step = max(1, BLOCK // int(np.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _nearest(padded: np.ndarray, position: np.ndarray) -> np.ndarray:
    """`padded` has a rim of background one voxel wide, on which everything outside lands."""
    sides = [side - 2 for side in padded.shape]
    nearest = [np.clip(np.floor(x + 0.5), -1, side) + 1 for x, side in zip(position, sides, strict=True)]
    return padded[tuple(index.astype(np.intp) for index in nearest)]


def _linear(padded: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Compares the labels of the corners around each position with each other, so time and memory know no classes."""
    flat, corner = np.zeros(position.shape[1:], np.intp), np.zeros(1, np.intp)
    fractions = []
    for x, side in zip(position, padded.shape, strict=True):
        inside = np.clip(x, -1, side - 2)
        below = np.minimum(np.floor(inside), side - 3)
        fractions.append(inside - below)
        flat = flat * side + (below.astype(np.intp) + 1)
        corner = (corner[:, None] * side + [0, 1]).ravel()
    found = padded.ravel()[flat + corner.reshape(-1, *[1] * flat.ndim)]
    warped = found[0]
    mixed = (found != warped).any(axis=0)
    found, fraction = found[:, mixed], np.array([part[mixed] for part in fractions])
    sides = product((False, True), repeat=len(position))
    weight = np.array([np.where(np.array(above)[:, None], fraction, 1 - fraction).prod(axis=0) for above in sides])
    share = np.array([(weight * (found == one)).sum(axis=0) for one in found])
    highest = np.iinfo(padded.dtype).max
    warped[mixed] = np.where(share >= share.max(axis=0) - TIE, found, highest).min(axis=0)
    return warped


def landmark_error(
    fixed_points: np.ndarray, moving_points: np.ndarray, displacement: np.ndarray, spacing: Sequence[float]
) -> np.ndarray:
    """(n,) distances in mm between fixed point + u(fixed point) and moving point; NaN, to count, outside the grid.

    Points are (n, 3) z, y, x or (n, 2) y, x in voxels, 0 at the centre of the first. u is interpolated linearly between
    voxel centres, so the grid ends at the outermost ones. `spacing` (array order) is that of the moving image, in whose
    voxels both ends of the distance lie.
    """
    displacement = _displacement(displacement)
    dims, shape = len(displacement), displacement.shape[1:]
    fixed, moving = np.asarray(fixed_points, dtype=np.float64), np.asarray(moving_points, dtype=np.float64)
    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1] != dims:
        raise RequestError(
            f"expected fixed and moving points of one shape (n, {dims}), found {fixed.shape} and {moving.shape}; "
            "give one row per pair of landmarks, in array order"
        )
    bad = np.count_nonzero(~np.isfinite(np.concatenate([fixed, moving], axis=1)).all(axis=1))
    if bad:
        raise RequestError(
            f"expected finite landmarks, found NaN or infinite ones in {bad} of {len(fixed)} pairs; leave them out"
        )
    sizes = check_spacing(spacing, dims)
    from scipy.ndimage import map_coordinates

    moved = fixed + np.array([map_coordinates(u, fixed.T, np.float64, order=1, mode="nearest") for u in displacement]).T
    inside = ((fixed >= 0) & (fixed <= np.array(shape) - 1)).all(axis=1)
    return np.where(inside, np.sqrt((((moved - moving) * sizes) ** 2).sum(axis=1)), np.nan)


def jacobian_determinant(displacement: np.ndarray) -> np.ndarray:
    """det(I + grad u) of the voxels at least two from every side, float64, (D-4, H-4, W-4) or (H-4, W-4)."""
    displacement = _displacement(displacement)
    if min(displacement.shape[1:]) <= 2 * CROP:
        raise RequestError(
            f"expected a displacement of at least {2 * CROP + 1} voxels a side, found {displacement.shape[1:]}; "
            "two voxels are cut off every side, so judge a single slice as a 2D displacement"
        )
    determinant = np.empty([side - 2 * CROP for side in displacement.shape[1:]])
    for rows in _rows(determinant.shape):
        part = displacement[:, rows.start : rows.stop + 2 * CROP].astype(np.float64)
        m = [[_slope(u, axis) + (axis == component) for axis in range(len(part))] for component, u in enumerate(part)]
        if len(part) == 2:
            determinant[rows] = m[0][0] * m[1][1] - m[0][1] * m[1][0]
        else:
            determinant[rows] = (
                m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
                - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
                + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
            )
    return determinant


def _slope(u: np.ndarray, axis: int) -> np.ndarray:
    """Central difference of one component along an axis, cut by CROP on every side."""
    ahead, behind = ([slice(CROP, side - CROP) for side in u.shape] for _ in range(2))
    ahead[axis] = slice(CROP + 1, u.shape[axis] - CROP + 1)
    behind[axis] = slice(CROP - 1, u.shape[axis] - CROP - 1)
    return (u[tuple(ahead)] - u[tuple(behind)]) / 2


def folding_fraction(displacement: np.ndarray) -> float:
    """Share (0-1, lower is better) of voxels with det(I + grad u) <= 0, where the field folds space."""
    return float((jacobian_determinant(displacement) <= 0).mean())


def sdlogj(displacement: np.ndarray) -> float:
    """SDlogJ of Learn2Reg: standard deviation (ddof 0) of log(clip(det + 3, 1e-9, 1e9)); lower is smoother.

    0 for an affine field. Because of the 3, values are about a quarter of those of papers that take log(det) alone.
    """
    return float(np.log(np.clip(jacobian_determinant(displacement) + 3, 1e-9, 1e9)).std())


def _displacement(displacement: np.ndarray) -> np.ndarray:
    displacement = np.asarray(displacement)
    shape = displacement.shape
    if displacement.dtype.kind not in "fiu" or len(shape) not in (3, 4) or shape[0] != len(shape) - 1 or not min(shape):
        raise RequestError(
            f"expected a displacement (3, D, H, W) or (2, H, W) of numbers, found {displacement.dtype} {shape}; "
            "put the components z, y, x first"
        )
    if not np.isfinite(displacement).all():
        bad = np.count_nonzero(~np.isfinite(displacement).all(axis=0))
        raise RequestError(
            f"expected a finite displacement, found NaN or infinity in {bad} of {displacement[0].size} voxels; "
            "check the registration that made it"
        )
    return displacement
