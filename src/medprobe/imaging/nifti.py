"""NIfTI through nibabel: axes turned to the nearest of right, anterior, superior; axial slices are planes.

`array[z, y, x]`, z up, y to the front, x to the patient's right, as the affine says; header scaling applied, integers that
have none stay integers. Images, masks and fields come through `volume`, so that what lies together in files lies together here.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medprobe.errors import CaseError
from medprobe.files import write_atomically
from medprobe.imaging.raw import Raw, chosen, range_of, stamp
from medprobe.types import Source

SUFFIXES = (".nii", ".nii.gz")
SCANNER, ALIGNED = 1, 2
LONGEST = 32767
"""Voxels along an axis: the header counts in 16 bit."""


class Volume(NamedTuple):
    """`array` (z, y, x, ...) in the file's numbers, `spacing` (z, y, x) in mm, `affine` from (x, y, z) indices to world.

    `turned[a]` is the axis (0 is x) that the a-th stored axis became, and -1 where it was turned round.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    turned: np.ndarray


def count(source: Source) -> int:
    import nibabel

    volume: Any = nibabel.load(source.path)
    up = _orientation(volume.affine, source.path)[:, 0].tolist()
    shape = _three_axes(volume.shape, source.path)
    return int(shape[up.index(2)])


def channels(source: Source) -> int:
    return 1


def read(source: Source, start: int, stop: int | None) -> Raw:
    raw = _volume(source.path, stamp(source.path))
    places = chosen(source, raw.pixels.shape[1], start, stop)
    pixels = raw.pixels[:, places.start : places.stop] if isinstance(places, range) else raw.pixels[:, list(places)]
    return Raw(pixels, raw.full_range, spacing=raw.spacing, affine=raw.affine)


@lru_cache(maxsize=1)
def _volume(path: Path, changed: int) -> Raw:
    """The whole volume: compressed files cannot be read in pieces, so the last one is kept."""
    array, spacing, affine, _ = volume(path)
    return Raw(array[None], range_of(array), spacing=spacing, affine=affine)


def volume(path: Path, *, as_stored: bool = False, further_axes: bool = False) -> Volume:
    """The whole file. `as_stored`: voxels in the order of the file, for use beside arrays that have no affine.

    `further_axes`: whatever follows z is kept; else a fourth axis of more than one entry is a CaseError.
    """
    import nibabel

    file: Any = nibabel.load(path)
    shape = (*file.shape, 1, 1, 1)[: max(3, len(file.shape))] if further_axes else _three_axes(file.shape, path)
    turned = np.array([[0, 1], [1, 1], [2, 1]]) if as_stored else _orientation(file.affine, path)
    stored = np.asanyarray(file.dataobj).reshape(shape)
    array = nibabel.orientations.apply_orientation(stored, turned)
    affine = file.affine @ nibabel.orientations.inv_ornt_aff(turned, shape[:3])
    x, y, z = (float(size) for size in nibabel.affines.voxel_sizes(affine))
    return Volume(array.transpose(2, 1, 0, *range(3, array.ndim)), (z, y, x), affine, turned.astype(int))


def save(path: Path, array: np.ndarray, affine: np.ndarray | None, spacing: tuple[float, float, float] | None, intent: str = "none") -> None:
    """(z, y, x, ...) to .nii or .nii.gz, whole or not at all; sform and qform say the same, in mm.

    Without an affine the voxels lie at 0 along the axes, `spacing` (or 1) apart, under the code `aligned`.
    """
    import nibabel
    from isal import igzip

    if max(array.shape) > LONGEST:
        raise CaseError(f"{path}: expected axes of at most {LONGEST} voxels in NIfTI, found shape {array.shape}; write .h5 or .png")
    code = ALIGNED if affine is None else SCANNER
    placed = np.diag([*(spacing or (1.0, 1.0, 1.0))[::-1], 1.0]) if affine is None else np.asarray(affine, float)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0, *range(3, array.ndim)), placed, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    image.set_sform(placed, code)
    image.set_qform(placed, code, strip_shears=True)
    data = image.to_bytes()
    write_atomically(path, igzip.compress(data, 2, mtime=0) if path.name.lower().endswith(".gz") else data)


def _orientation(affine: np.ndarray, path: Path) -> np.ndarray:
    import nibabel

    turned = nibabel.orientations.io_orientation(affine)
    if np.isnan(turned).any():
        raise CaseError(f"{path}: expected an affine that gives every axis a direction, found {np.round(affine[:3, :3], 6).tolist()}; correct the header")
    return turned


def _three_axes(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    wanted = (*shape, 1, 1, 1)[:3]
    if any(size != 1 for size in shape[3:]):
        raise CaseError(f"{path}: expected a volume of three axes, found shape {shape}; split its channels or frames into files")
    return wanted
