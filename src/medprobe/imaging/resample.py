"""Volumes changed as a whole: put on the grid of another file or on a lattice, turned so that other planes are read, rescaled to another unit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.raw import Curve, Raw
from medprobe.types import Axis

PLACES: dict[Axis, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""Axis across the planes → where their (D, H, W) lie in (z, y, x)."""
Spacing = tuple[float, float, float] | None
INTEGERS = (np.int16, np.int32, np.int64)


def on_grid(raw: Raw, shape: tuple[int, int, int], affine: np.ndarray | None, path: Path, grid: Path) -> Raw:
    """A volume on the grid of another, linearly between voxel centres by both affines: float32 (C, *shape).

    A voxel reaches half its size beyond its centre; what lies outside all of them has the lowest value of the volume, air.
    """
    from scipy.ndimage import map_coordinates

    if raw.affine is None or affine is None:
        raise CaseError(f"{path if raw.affine is None else grid}: expected an affine, to put {path.name} on the grid of {grid.name}, found none; write both as NIfTI")
    step, start = _steps(raw.affine, affine)
    size = np.array(raw.pixels.shape[1:])
    fill = raw.pixels.min()
    pixels = np.full((len(raw.pixels), *shape), fill, np.float32)
    rows, columns = (np.arange(length) for length in shape[1:])
    within = step[:, 1, None, None] * rows[:, None] + step[:, 2, None, None] * columns
    volumes = [np.asarray(volume, np.float32) for volume in raw.pixels]
    overlap = False
    for plane in range(shape[0]):
        at = within + (start + step[:, 0] * plane)[:, None, None]
        seen = ((at > -0.5) & (at < (size - 0.5)[:, None, None])).all(axis=0)
        if seen.any():
            overlap = True
            for channel, volume in enumerate(volumes):
                pixels[channel, plane][seen] = map_coordinates(volume, at[:, seen], order=1, mode="nearest")
    if not overlap:
        raise CaseError(f"{path}: expected a volume that overlaps {grid.name}, on whose grid it is read, found it elsewhere; correct the header of one of them")
    z, y, x = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    return replace(raw, pixels=pixels, spacing=(float(z), float(y), float(x)), affine=affine)


def placed_at(shape: tuple[int, int, int], spacing: tuple[float, float, float], affine: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """4x4 of a grid of this shape and spacing (z, y, x) along the axes of `affine`, its middle at index `middle` (z, y, x) of that."""
    sides = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) * spacing[::-1]
    placed = np.eye(4)
    placed[:3, :3] = sides
    placed[:3, 3] = affine[:3, :3] @ middle[::-1] + affine[:3, 3] - sides @ ((np.array(shape[::-1]) - 1) / 2)
    return placed


def divided(raw: Raw, shape: tuple[int, int, int], path: Path) -> Raw:
    """Each whole plane on the last two axes of `shape` (planes, height, width), by Pillow's antialiased bilinear filter: float32."""
    from PIL import Image as Pillow

    if raw.pixels.shape[1] != shape[0]:
        raise CaseError(f"{path}: expected depth {shape[0]}, to divide each plane into {shape[1]} x {shape[2]}, found {raw.pixels.shape[1]}; split the file, or correct the lattice")
    planes = [Pillow.fromarray(np.ascontiguousarray(plane, np.float32)) for channel in raw.pixels for plane in channel]
    resized = [np.asarray(plane.resize((shape[2], shape[1]), Pillow.Resampling.BILINEAR)) for plane in planes]
    return replace(raw, pixels=np.stack(resized).reshape(-1, *shape), spacing=None, affine=None)


def stretched(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(C, D, H, W) on `shape` (z, y, x) over the same extent, linearly between voxel centres: float32.

    Beyond the outermost centres the value stays.
    """
    if array.shape[1:] == shape:
        return np.asarray(array, np.float32)
    import torch

    volume = torch.as_tensor(np.ascontiguousarray(array, np.float32))[None]
    resized = torch.nn.functional.interpolate(
        volume, size=shape, mode="trilinear", align_corners=False
    )
    return resized[0].numpy()


def _steps(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) and (3,) in (z, y, x) order: target index → source index. `source`, `target`: (4, 4) from (x, y, z) to world."""
    between = np.linalg.inv(source) @ target
    return between[2::-1, 2::-1], between[2::-1, 3]


def turned(raw: Raw, axis: Axis) -> Raw:
    """The volume with `axis` across its planes: (C, z, y, x) → (C, y, z, x) coronal, (C, x, z, y) sagittal."""
    spacing, affine = turned_grid(raw.spacing, raw.affine, axis)
    return replace(raw, pixels=turned_array(raw.pixels, axis), spacing=spacing, affine=affine)


def turned_array(array: np.ndarray, axis: Axis, back: bool = False) -> np.ndarray:
    """(..., z, y, x) as `turned` turns pixels, or back; a view."""
    places = np.argsort(PLACES[axis]) if back else PLACES[axis]
    before = array.ndim - 3
    return array.transpose(*range(before), *(before + int(place) for place in places))


def turned_grid(spacing: Spacing, affine: np.ndarray | None, axis: Axis) -> tuple[Spacing, np.ndarray | None]:
    """Spacing and affine of what was turned; None stays None."""
    depth, height, width = PLACES[axis]
    return (
        None if spacing is None else (spacing[depth], spacing[height], spacing[width]),
        None if affine is None else affine[:, [2 - width, 2 - height, 2 - depth, 3]],
    )


def upright(raw: Raw) -> Raw:
    """Planes across any axis as radiologists look at them, from canonical axes: rows from the front
    (else the head) down, columns from the patient's right (of sagittal planes the front) on. Both
    count the other way on canonical axes, so that this is half a turn."""
    affine = upright_grid(raw.pixels.shape[2:], raw.affine)
    return replace(raw, pixels=upright_array(raw.pixels), affine=affine)


def upright_array(array: np.ndarray) -> np.ndarray:
    """(..., H, W) as `upright` turns pixels, or back, which is the same; a view."""
    return array[..., ::-1, ::-1]


def upright_grid(plane: Sequence[int], affine: np.ndarray | None) -> np.ndarray | None:
    """The affine of planes of a size (H, W) that were turned; None stays None."""
    if affine is None:
        return None
    height, width = plane
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:2, 3] = width - 1, height - 1
    return affine @ turn


def flat_axis(shape: Sequence[int]) -> Axis:
    """The first axis along which a volume (z, y, x) is one voxel thick; axial where it is no slice."""
    return next((axis for axis, (across, *_) in PLACES.items() if shape[across] == 1), "axial")


def rescaled(raw: Raw, slope: float, intercept: float) -> Raw:
    """Stored values times slope plus intercept, in the unit of the caller.

    Whole numbers stay so, in the smallest type for all that theirs can hold, others are float32.
    """
    low, high = sorted(value * slope + intercept for value in raw.full_range)
    kind: type = np.float32
    if raw.pixels.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        stored = np.iinfo(raw.pixels.dtype)
        held = [int(slope), int(intercept), *(int(end) * int(slope) + int(intercept) for end in (stored.min, stored.max))]
        kind = next((one for one in INTEGERS if min(held) >= np.iinfo(one).min and max(held) <= np.iinfo(one).max), np.float32)
    pixels: np.ndarray = raw.pixels.astype(kind)
    pixels *= kind(slope)
    pixels += kind(intercept)
    curve = raw.curve
    if curve is not None:
        shown = curve.shown
        curve = Curve((curve.key, slope, intercept), lambda new: shown((new - intercept) / slope))
    return replace(raw, pixels=pixels, full_range=(low, high), units=None, curve=curve)
