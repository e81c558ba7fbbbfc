"""NIfTI through nibabel: axes turned to the nearest of right, anterior, superior; axial slices are planes (canonical.py).

Header scaling is applied, integers that have none stay integers. Images, masks and fields come through `volume`.
Of a fourth axis (channels of one scan) a source's `member` names the entry, counted from 0. Voxels of type RGB24 or RGBA32
are colours, without alpha.
"""

import importlib
import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.files import write_atomically
from medprobe.imaging.canonical import (
    Grid,
    Volume,
    check_shape,
    entries,
    entry,
    grid_of,
    orientation,
    planes_of,
    raws_of,
    volume_of,
)
from medprobe.imaging.raw import Raw, stamp
from medprobe.types import Source

SUFFIXES = (".nii", ".nii.gz")
SCANNER, ALIGNED = 1, 2
LONGEST = 32767
"""Voxels along an axis: the header counts in 16 bit."""
GZIP = 31
"""Window bits of zlib that ask for a gzip stream and its checksum."""
DENSEST = 1032
"""Bytes that one byte of a deflated stream can stand for."""


def count(source: Source) -> int:
    file = _header(source.path)
    entry(entries(file.shape, source.path), source.member, source.path)
    return grid(source).shape[0]


def channels(source: Source) -> int:
    return 3 if _header(source.path).get_data_dtype().names else 1


def read(source: Source, start: int, stop: int | None) -> Raw:
    return planes_of(_volumes(source.path, stamp(source.path)), source, start, stop)


def grid(source: Source) -> Grid:
    """Where the voxels lie, without reading them."""
    file = _header(source.path)
    return grid_of(file.shape, _millimetres(file) @ file.affine, source.path)


@lru_cache(maxsize=2)
def _volumes(path: Path, changed: int) -> tuple[Raw, ...]:
    """The whole file: compressed files cannot be read in pieces, so the last two are kept, as CT and PET are read in turns."""
    found = volume(path, further_axes=True)
    if _header(path).get_data_dtype().names:
        pixels = np.moveaxis(found.array, -1, 0)
        return (Raw(pixels, (0.0, 255.0), spacing=found.spacing, affine=found.affine),)
    return raws_of(found, path)


def volume(path: Path, *, as_stored: bool = False, further_axes: bool = False, member: str | None = None) -> Volume:
    """The whole file, which may be memory that cannot be written to; the options are those of `canonical.volume_of`."""
    _check_alone(path)
    file = _opened(path)
    check_shape(file.shape, path)
    return volume_of(_colours_last(_voxels(file)), _millimetres(file) @ file.affine, path, as_stored=as_stored, further_axes=further_axes, member=member)


def _header(path: Path) -> Any:
    import nibabel

    _check_alone(path)
    return nibabel.load(path) if _is_named_so(path) else _opened(path)


def _check_alone(path: Path) -> None:
    """CaseError for a .nii beside a .nii.gz of its name: programs differ in which of the two they read."""
    name = path.name
    if not name.lower().endswith(SUFFIXES):
        return
    twin = path.with_name(name[:-3] if name.lower().endswith(".gz") else f"{name}.gz")
    if twin.exists():
        plain, packed = sorted((name, twin.name), key=len)
        raise CaseError(f"{path}: expected one file of this name, found {plain} beside {packed}, of which programs read one or the other; remove {plain}, or rename it if it is another volume")


def _opened(path: Path) -> Any:
    """The file with its voxels within reach; of a compressed one every byte is read, so that its checksum is compared."""
    import nibabel

    if not _is_packed(path):
        return nibabel.load(path) if _is_named_so(path) else _parsed(path.read_bytes())
    packed = path.read_bytes()
    file = _parsed(_first_part(packed))
    proxy = file.dataobj
    whole = int(proxy.offset) + math.prod(proxy.shape) * proxy.dtype.itemsize
    return file if len(proxy.file_like.getvalue()) >= whole else _parsed(_fast("gzip").decompress(packed))


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _is_named_so(path: Path) -> bool:
    """Whether the name says what nibabel needs to know: that it is NIfTI, and packed or not."""
    return path.name.lower().endswith(".nii.gz" if _is_packed(path) else ".nii")


def _parsed(data: bytes) -> Any:
    import nibabel

    kind = nibabel.Nifti2Image if int.from_bytes(data[:4], "little") == 540 or int.from_bytes(data[:4], "big") == 540 else nibabel.Nifti1Image
    return kind.from_bytes(data)


def _first_part(packed: bytes) -> bytes:
    """What is unpacked in one go, into as many bytes as the last four say; nearly all files are a single part."""
    size = int.from_bytes(packed[-4:], "little")
    if 0 < size <= DENSEST * len(packed):
        data: bytes = _fast("zlib").decompress(packed, GZIP, size)
        if len(data) == size:
            return data
    whole: bytes = _fast("gzip").decompress(packed)
    return whole


def _fast(name: str) -> Any:
    """zlib or gzip of isal where it is installed, else Python's own."""
    try:
        return importlib.import_module({"zlib": "isal.isal_zlib", "gzip": "isal.igzip"}[name])
    except ImportError:
        return importlib.import_module(name)


def _voxels(file: Any) -> np.ndarray:
    """(x, y, z, ...) with header scaling; without it the bytes that were read, uncopied."""
    proxy = file.dataobj
    if not isinstance(proxy.file_like, io.BytesIO) or (proxy.slope, proxy.inter) != (1, 0):
        return np.asanyarray(proxy)
    return np.ndarray(proxy.shape, proxy.dtype, proxy.file_like.getvalue(), int(proxy.offset), order="F")


def _colours_last(voxels: np.ndarray) -> np.ndarray:
    """(x, y, z, 3) of voxels that are red, green and blue; others as they are."""
    names = voxels.dtype.names
    return np.stack([voxels[name] for name in names[:3]], axis=-1) if names else voxels


def _millimetres(file: Any) -> np.ndarray:
    """4x4 from the file's unit of length to mm: headers may count in metres or microns."""
    factor = {"meter": 1e3, "micron": 1e-3}.get(file.header.get_xyzt_units()[0], 1.0)
    return np.diag([factor, factor, factor, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray | None, spacing: tuple[float, float, float] | None, intent: str = "none", like: Path | None = None) -> None:
    """(z, y, x, ...) to .nii or .nii.gz, whole or not at all; sform and qform say the same, in mm.

    Without an affine the voxels lie at 0 along the axes, `spacing` (or 1) apart, under the code `aligned`. `like`: a NIfTI file
    of this grid, whose order of axes is taken, so that arrays lie on arrays.
    """
    import nibabel

    if max(array.shape) > LONGEST:
        raise CaseError(f"{path}: expected axes of at most {LONGEST} voxels in NIfTI, found shape {array.shape}; write .h5 or .png")
    code = ALIGNED if affine is None else SCANNER
    placed = np.diag([*(spacing or (1.0, 1.0, 1.0))[::-1], 1.0]) if affine is None else np.asarray(affine, float)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0, *range(3, array.ndim)), placed, dtype=array.dtype)
    if like is not None and affine is not None:
        turn = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(placed), orientation(_header(like).affine, like))
        image = image.as_reoriented(turn)
        placed = image.affine
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    image.set_sform(placed, code)
    image.set_qform(placed, code, strip_shears=True)
    data = image.to_bytes()
    write_atomically(path, _fast("gzip").compress(data, 2, mtime=0) if path.name.lower().endswith(".gz") else data)
