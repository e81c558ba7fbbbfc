"""NIfTI through nibabel: axes turned to the nearest of right, anterior, superior; axial slices are planes.

`array[z, y, x]`, z up, y to the front, x to the patient's right, as the affine says; header scaling applied, integers that
have none stay integers. Images, masks and fields come through `volume`, so that what lies together in files lies together here.
Of a fourth axis (channels of one scan) a source's `member` names the entry, counted from 0.
"""

import importlib
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
    _entry(_entries(volume.shape, source.path), source.member, source.path)
    return int((*volume.shape, 1, 1)[up.index(2)])


def channels(source: Source) -> int:
    return 1


def read(source: Source, start: int, stop: int | None) -> Raw:
    raws = _volumes(source.path, stamp(source.path))
    raw = raws[_entry(len(raws), source.member, source.path)]
    places = chosen(source, raw.pixels.shape[1], start, stop)
    pixels = raw.pixels[:, places.start : places.stop] if isinstance(places, range) else raw.pixels[:, list(places)]
    return Raw(pixels, raw.full_range, spacing=raw.spacing, affine=raw.affine)


@lru_cache(maxsize=1)
def _volumes(path: Path, changed: int) -> tuple[Raw, ...]:
    """The whole file, a volume for each entry of the fourth axis: compressed files cannot be read in pieces, so the last one is kept."""
    array, spacing, affine, _ = volume(path, further_axes=True)
    entries = np.moveaxis(array.reshape(*array.shape[:3], _entries(array.shape, path)), -1, 0)
    return tuple(Raw(entry[None], range_of(entry), spacing=spacing, affine=affine) for entry in entries)


def volume(path: Path, *, as_stored: bool = False, further_axes: bool = False, member: str | None = None) -> Volume:
    """The whole file. `as_stored`: voxels in the order of the file, for use beside arrays that have no affine.

    `further_axes`: whatever follows z is kept; else `member` must name the entry of a fourth axis that has several.
    """
    import nibabel

    file = _opened(path)
    shape = (*file.shape, 1, 1, 1)[: max(3, len(file.shape))]
    entry = None if further_axes else _entry(_entries(shape, path), member, path)
    turned = np.array([[0, 1], [1, 1], [2, 1]]) if as_stored else _orientation(file.affine, path)
    stored = np.asanyarray(file.dataobj).reshape(shape)
    stored = stored if entry is None else stored.reshape((*shape, 1)[:4])[..., entry]
    array = nibabel.orientations.apply_orientation(stored, turned)
    affine = _millimetres(file) @ file.affine @ nibabel.orientations.inv_ornt_aff(turned, shape[:3])
    x, y, z = (float(size) for size in nibabel.affines.voxel_sizes(affine))
    return Volume(array.transpose(2, 1, 0, *range(3, array.ndim)), (z, y, x), affine, turned.astype(int))


def _opened(path: Path) -> Any:
    """The file with its voxels within reach; of a compressed one every byte is read, so that its checksum is compared."""
    import nibabel

    if not path.name.lower().endswith(".gz"):
        return nibabel.load(path)
    data = _gzip().decompress(path.read_bytes())
    kind = nibabel.Nifti2Image if int.from_bytes(data[:4], "little") == 540 or int.from_bytes(data[:4], "big") == 540 else nibabel.Nifti1Image
    return kind.from_bytes(data)


def _gzip() -> Any:
    """The fast gzip of isal where it is installed, else Python's own."""
    try:
        return importlib.import_module("isal.igzip")
    except ImportError:
        return importlib.import_module("gzip")


def _millimetres(file: Any) -> np.ndarray:
    """4x4 from the file's unit of length to mm: headers may count in metres or microns."""
    factor = {"meter": 1e3, "micron": 1e-3}.get(file.header.get_xyzt_units()[0], 1.0)
    return np.diag([factor, factor, factor, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray | None, spacing: tuple[float, float, float] | None, intent: str = "none") -> None:
    """(z, y, x, ...) to .nii or .nii.gz, whole or not at all; sform and qform say the same, in mm.

    Without an affine the voxels lie at 0 along the axes, `spacing` (or 1) apart, under the code `aligned`.
    """
    import nibabel

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
    write_atomically(path, _gzip().compress(data, 2, mtime=0) if path.name.lower().endswith(".gz") else data)


def _orientation(affine: np.ndarray, path: Path) -> np.ndarray:
    import nibabel

    turned = nibabel.orientations.io_orientation(affine)
    if np.isnan(turned).any():
        raise CaseError(f"{path}: expected an affine that gives every axis a direction, found {np.round(affine[:3, :3], 6).tolist()}; correct the header")
    return turned


def _entries(shape: tuple[int, ...], path: Path) -> int:
    """Of the fourth axis, 1 where there is none."""
    if any(size != 1 for size in shape[4:]):
        raise CaseError(f"{path}: expected a volume of three axes, or channels as a fourth, found shape {shape}; split its frames into files")
    return shape[3] if len(shape) > 3 else 1


def _entry(total: int, member: str | None, path: Path) -> int:
    """Place on the fourth axis that `member` names; an axis of one entry needs no name."""
    named = (member or "").strip("/") or ("0" if total == 1 else "")
    if not named.isdecimal() or int(named) >= total:
        raise CaseError(f"{path}: expected a volume of three axes, or the name of one of {total} on the fourth, {', '.join(map(str, range(min(total, 4))))}{', …' if total > 4 else ''}, found {member or 'none'}; name one, or split them into files")
    return int(named)
