"""MetaImage (.mhd, .mha) and NRRD (.nrrd, .nhdr) through SimpleITK (extra `volumes`), turned as NIfTI is (canonical.py).

Components of a voxel, or a fourth axis, are entries that a source's `member` names, counted from 0. The voxels of a header
of its own (.mhd, .nhdr) must be one file beside it. SimpleITK does not compare the checksum of compressed voxels: it is
compared here.
"""

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, ExtraError
from medprobe.imaging.canonical import Grid, Volume, entries, entry, from_lps, grid_of, planes_of, raws_of, volume_of
from medprobe.imaging.raw import Raw, range_of_picture, said_plainly, stamp
from medprobe.types import Source

HEADER = 1 << 20
"""Bytes in which the text of a header must end."""
ANY_STREAM = 47
"""Window bits of zlib that take a zlib or a gzip stream, as its first bytes say."""
PART = 1 << 20
SCALED = r"^(ElementToIntensityFunction(?:Slope|Offset)|old (?:min|max))\s*[=:]\s*(\S+)\s*$"
UNSCALED = {"elementtointensityfunctionslope": 1.0, "elementtointensityfunctionoffset": 0.0}
"""Fields that stand for a scaling of the voxels, and the numbers under which there is none."""


def count(source: Source) -> int:
    reader = _header(source.path)
    if not _is_colour(reader, source):
        entry(entries(_shape(reader, source.path), source.path), source.member, source.path)
    return grid(source).shape[0]


def channels(source: Source) -> int:
    return 3 if _is_colour(_header(source.path), source) else 1


def read(source: Source, start: int, stop: int | None) -> Raw:
    changed = max(stamp(path) for path in files_of(source.path))
    raws = _volumes(source.path, changed)
    if not _is_colour(_header(source.path), source):
        return planes_of(raws, source, start, stop)
    colours = [replace(source, member=str(number)) for number in range(3)]
    planes = [planes_of(raws, colour, start, stop) for colour in colours]
    limits = range_of_picture(np.concatenate([raw.pixels for raw in raws[:3]]))
    pixels = np.concatenate([plane.pixels for plane in planes])
    return replace(planes[0], pixels=pixels, full_range=limits)


def _is_colour(reader: Any, source: Source) -> bool:
    """Whether the three or four components of a voxel are the colours of a picture."""
    return source.plane and not source.member and reader.GetNumberOfComponents() in (3, 4)


def grid(source: Source) -> Grid:
    """Where the voxels lie, without reading them."""
    reader = _header(source.path)
    return grid_of(_shape(reader, source.path), _affine(reader), source.path)


@lru_cache(maxsize=1)
def _volumes(path: Path, changed: int) -> tuple[Raw, ...]:
    return raws_of(volume(path, further_axes=True), path)


def volume(path: Path, *, as_stored: bool = False, further_axes: bool = False, member: str | None = None) -> Volume:
    """The whole file; the options are those of `canonical.volume_of`."""
    reader = _header(path)
    shape = _shape(reader, path)
    _check_scaling(path)
    _check_stream(path)
    with _said_plainly(path, EOFError):  # a good header without the voxels that it promises
        array = _simpleitk().GetArrayFromImage(reader.Execute())
    stored = array.T  # the first axis of SimpleITK is the last of its arrays, but for components
    if reader.GetNumberOfComponents() > 1:
        stored = np.moveaxis(stored, 0, -1)
    return volume_of(stored.reshape(shape), _affine(reader), path, as_stored=as_stored, further_axes=further_axes, member=member)


def files_of(path: Path) -> tuple[Path, ...]:
    """The header, and the file of its voxels where that is another one."""
    text, _ = _text(path)
    field = r"^ElementDataFile\s*=\s*(.*?)\s*$" if _is_meta(path) else r"^data ?file:\s*(.*?)\s*$"
    found = re.search(field, text, re.MULTILINE | re.IGNORECASE)
    name = found[1] if found else "LOCAL"
    if name.upper() == "LOCAL":
        return (path,)
    if name.upper().startswith("LIST") or re.search(r"%\d*d", name):
        raise CaseError(f"{path}: expected the voxels in one file, found a list of files; write the volume as .mha or .nrrd")
    if Path(name).name != name.removeprefix("./"):
        raise CaseError(f"{path}: expected the file of the voxels beside its header, found {name}; move it there and correct the header, or write the volume as .mha or .nrrd")
    data = path.with_name(Path(name).name)
    if not data.is_file():
        raise CaseError(f"{path}: expected its voxels in {data.name} beside it, found no such file; fetch it too")
    return path, data


def _is_meta(path: Path) -> bool:
    """MetaImage, not NRRD, whatever the suffix says."""
    with path.open("rb") as file:
        return file.read(4) != b"NRRD"


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise ExtraError("SimpleITK", "volumes", "reading MetaImage and NRRD files") from error
    return SimpleITK


def _header(path: Path) -> Any:
    """A reader that knows what the header says."""
    reader = _simpleitk().ImageFileReader()
    files_of(path)
    with _said_plainly(path):
        reader.SetImageIO("MetaImageIO" if _is_meta(path) else "NrrdImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    return reader


def _shape(reader: Any, path: Path) -> tuple[int, ...]:
    """(x, y, z) and the entries of a fourth axis."""
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) > 4 or (len(size) == 4 and components > 1):
        raise CaseError(f"{path}: expected a volume of three axes, or channels as a fourth, found size {size} of {components} components; split its frames into files")
    return (*size, 1)[: max(3, len(size))] + ((components,) if components > 1 else ())


def _affine(reader: Any) -> np.ndarray:
    """From stored (x, y, z) indices to right, anterior, superior in mm."""
    dims = reader.GetDimension()
    direction = np.eye(max(3, dims))
    direction[:dims, :dims] = np.reshape(reader.GetDirection(), (dims, dims))
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] * (*reader.GetSpacing(), 1.0)[:3]
    affine[:3, 3] = (*reader.GetOrigin(), 0.0)[:3]
    return from_lps(affine)


@contextmanager
def _said_plainly(path: Path, kind: type[Exception] = ValueError) -> Iterator[None]:
    """What SimpleITK raises, without its own file and line, as an error of another kind."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        with said_plainly(path):
            raise kind(lines[-1][-200:]) from error


def _text(path: Path) -> tuple[str, int]:
    """The header, and where it ends in the file."""
    with path.open("rb") as file:
        data = file.read(HEADER)
    meta = _is_meta(path)
    end = re.search(rb"^ElementDataFile[^\n]*(\n|\Z)" if meta else rb"\r?\n\r?\n", data, re.MULTILINE)
    stop = end.end() if end else len(data)
    return os.fsdecode(data[:stop]), stop


def _check_scaling(path: Path) -> None:
    """CaseError where a header says that the voxels are not the values, which SimpleITK passes
    over."""
    text, _ = _text(path)
    for name, value in re.findall(SCALED, text, re.MULTILINE | re.IGNORECASE):
        if float(value) != UNSCALED.get(name.lower()):
            raise CaseError(
                f"{path}: expected voxels that are the values themselves, found {name} {value}, "
                "which "
                "programs apply or pass over; write the values"
            )


def _check_stream(path: Path) -> None:
    """CaseError where compressed voxels are not what was compressed."""
    text, stop = _text(path)
    packed = re.search(r"^CompressedData\s*=\s*True|^encoding:\s*gz", text, re.MULTILINE | re.IGNORECASE)
    if not packed or re.search(r"^(HeaderSize\s*=|(line|byte) ?skip:)\s*-?[1-9]", text, re.MULTILINE | re.IGNORECASE):
        return
    data = files_of(path)[-1]
    stream = _zlib().decompressobj(ANY_STREAM)
    with data.open("rb") as file:
        file.seek(stop if data == path else 0)
        try:
            while not stream.eof and (part := file.read(PART)):
                stream.decompress(part)
        except Exception as error:
            raise CaseError(f"{path}: expected a whole volume, found that {data.name} is damaged ({error}); fetch it again") from error
    if not stream.eof:
        raise CaseError(f"{path}: expected a whole volume, found that {data.name} ends early; fetch it again")


def _zlib() -> Any:
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return importlib.import_module("zlib")
