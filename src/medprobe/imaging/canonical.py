"""Volumes on canonical axes, whatever file they come from: `array[z, y, x]`, z up, y to the front, x to the patient's right.

Axes are turned to the nearest of right, anterior, superior, as the affine says, so that what lies together in files of
different formats lies together here. Readers hand over voxels (x, y, z, ...) as stored, and an affine to right, anterior,
superior in mm; DICOM and ITK count left, posterior, superior (`from_lps`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medprobe.errors import CaseError, ShapeError
from medprobe.imaging.raw import Raw, chosen, range_of
from medprobe.types import Source

AS_STORED = np.array([[0, 1], [1, 1], [2, 1]])


class Volume(NamedTuple):
    """`array` (z, y, x, ...) in the file's numbers, `spacing` (z, y, x) in mm, `affine` from (x, y, z) indices to world.

    `turned[a]` is the axis (0 is x) that the a-th stored axis became, and -1 where it was turned round.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    turned: np.ndarray


class Grid(NamedTuple):
    """Where the voxels of a file lie, from its header: what `Volume` says, with `shape` (z, y, x). `turned`: in another order than stored."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    turned: bool


def from_lps(affine: np.ndarray) -> np.ndarray:
    """4x4 to right, anterior, superior, from one to left, posterior, superior."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def orientation(affine: np.ndarray, path: Path) -> np.ndarray:
    """(3, 2): what `Volume.turned` holds."""
    import nibabel

    turned = nibabel.orientations.io_orientation(affine) if np.isfinite(affine).all() else np.array(np.nan)
    if np.isnan(turned).any():
        raise CaseError(f"{path}: expected an affine that gives every axis a direction, found {np.round(affine[:3, :3], 6).tolist()}; correct the header")
    return turned.astype(int)


def volume_of(stored: np.ndarray, affine: np.ndarray, path: Path, *, as_stored: bool = False, further_axes: bool = False, member: str | None = None) -> Volume:
    """Voxels (x, y, z, ...) turned; a view. `as_stored`: left in the order of the file, for use beside arrays that have no affine.

    `further_axes`: whatever follows z is kept; else `member` must name the entry of a fourth axis that has several.
    """
    import nibabel

    if stored.dtype.kind not in "buif":
        raise CaseError(f"{path}: expected real numbers as voxels, found {stored.dtype}; store integers or floats")
    shape = (*stored.shape, 1, 1, 1)[: max(3, stored.ndim)]
    stored = stored.reshape(shape)
    if not further_axes:
        stored = stored.reshape((*shape, 1)[:4])[..., entry(entries(shape, path), member, path)]
    turned = AS_STORED if as_stored else orientation(affine, path)
    array = nibabel.orientations.apply_orientation(stored, turned)
    affine = affine @ nibabel.orientations.inv_ornt_aff(turned, shape[:3])
    return Volume(array.transpose(2, 1, 0, *range(3, array.ndim)), _spacing(affine), affine, turned)


def grid_of(shape: Sequence[int], affine: np.ndarray, path: Path) -> Grid:
    """The grid of a stored shape (x, y, z, ...)."""
    import nibabel

    check_shape(shape, path)
    turned = orientation(affine, path)
    sizes = (*shape, 1, 1, 1)[:3]
    affine = affine @ nibabel.orientations.inv_ornt_aff(turned, sizes)
    x, y, z = (int(sizes[axis]) for axis in np.argsort(turned[:, 0]))
    return Grid((z, y, x), _spacing(affine), affine, not np.array_equal(turned, AS_STORED))


def check_shape(shape: Sequence[int], path: Path) -> None:
    """CaseError for a header that leaves no voxels."""
    if not len(shape) or min(shape) < 1:
        raise CaseError(f"{path}: expected voxels along every axis, found shape {tuple(map(int, shape))}; correct the header, or fetch the file again")


def entries(shape: Sequence[int], path: Path) -> int:
    """Of the fourth axis, 1 where there is none."""
    if any(size != 1 for size in shape[4:]):
        raise ShapeError(f"{path}: expected a volume of three axes, or channels as a fourth, found shape {tuple(shape)}; split its frames into files")
    return int(shape[3]) if len(shape) > 3 else 1


def entry(total: int, member: str | None, path: Path) -> int:
    """Place on the fourth axis that `member` names; an axis of one entry needs no name."""
    named = (member or "").strip("/") or ("0" if total == 1 else "")
    if not named.isdecimal() or int(named) >= total:
        there = ", ".join(map(str, range(min(total, 4)))) + (", …" if total > 4 else "")
        raise ShapeError(
            f"{path}: expected a volume of three axes, or the name of one of {total} on the "
            f"fourth, {there}, found {member or 'none'}; write {path.name}:/0 for the first, or "
            "split them into files"
        )
    return int(named)


def raws_of(volume: Volume, path: Path) -> tuple[Raw, ...]:
    """A volume for each entry of the fourth axis."""
    array = volume.array
    parts = np.moveaxis(array.reshape(*array.shape[:3], entries(array.shape, path)), -1, 0)
    return tuple(Raw(part[None], range_of(part), spacing=volume.spacing, affine=volume.affine) for part in parts)


def planes_of(raws: Sequence[Raw], source: Source, start: int, stop: int | None) -> Raw:
    """Planes start…stop of the entry that the source names."""
    raw = raws[entry(len(raws), source.member, source.path)]
    places = chosen(source, raw.pixels.shape[1], start, stop)
    pixels = raw.pixels[:, places.start : places.stop] if isinstance(places, range) else raw.pixels[:, list(places)]
    return Raw(pixels, raw.full_range, spacing=raw.spacing, affine=raw.affine)


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return z, y, x
