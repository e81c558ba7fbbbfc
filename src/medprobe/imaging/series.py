"""A DICOM series: a folder of files of one plane each, under any names, as one volume (extra
`dicom`), turned as NIfTI is.

Planes are put in order by where they lie (stacks.py), and each is what dicom.py makes of its file.
What is no volume is refused: several series, planes of several sizes, kinds, units or directions,
two at one place, a place without one.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import dicom, dicom_units, pictures, tiff
from medprobe.imaging.canonical import Grid
from medprobe.imaging.dicom_files import header_of
from medprobe.imaging.dicom_frames import TAGS, frames_of
from medprobe.imaging.raw import Curve, Raw, Units, chosen, range_of, said_plainly, stamp
from medprobe.imaging.stacks import Stack, stacked
from medprobe.types import Source

SUFFIXES = (".dcm", ".dicom", ".ima")
PICTURES = (*pictures.SUFFIXES, *tiff.SUFFIXES)
INDEX = "DICOMDIR"
APART = "put each volume (series, phase, echo or copy) into a folder of its own"


@dataclass(frozen=True)
class _Series:
    """`files` in the order of `stack`; `limits` are None where the values have to be looked at."""

    files: tuple[Path, ...]
    stack: Stack
    limits: tuple[float, float] | None
    inverted: bool
    units: Units | None
    curve: Curve | None


@lru_cache(maxsize=1024)
def is_series(folder: Path, changed: int) -> bool:
    """Whether a folder holds DICOM files and no pictures."""
    files = _files(folder)
    return not any(path.suffix.lower() in PICTURES for path in files) and any(
        _named_so(path) or _begins_so(path) for path in files
    )


def files_in(folder: Path) -> list[Path]:
    """The DICOM files of a folder: those that begin as such, and those named so, which must be."""
    return [path for path in _files(folder) if _named_so(path) or _begins_so(path)]


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name != INDEX and not path.name.startswith(".") and path.is_file()
    )


def _named_so(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) or re.fullmatch(r"[\d.]+|[^.]*\d[^.]*", name) is not None


def _begins_so(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def count(source: Source) -> int:
    return grid(source).shape[0]


def channels(source: Source) -> int:
    return 1


def grid(source: Source) -> Grid:
    """Where the voxels lie, by the headers of all files."""
    return _series(source.path, stamp(source.path)).stack.grid(source.path)


def notes(source: Source) -> tuple[str, ...]:
    """A sentence for each thing in which the planes differ from an even, upright stack."""
    return _series(source.path, stamp(source.path)).stack.notes


def read(source: Source, start: int, stop: int | None) -> Raw:
    changed = stamp(source.path)
    series, place = _series(source.path, changed), grid(source)
    places = chosen(source, place.shape[0], start, stop)
    if series.stack.along_z(source.path):
        pixels = _decoded(source.path, series, [series.files[number] for number in places])
    else:
        pixels = _whole(source.path, changed)[:, list(places)]
    limits = series.limits or range_of(_whole(source.path, changed))
    return Raw(
        pixels, limits, series.inverted, place.spacing, place.affine, series.units, series.curve
    )


@lru_cache(maxsize=1)
def _whole(folder: Path, changed: int) -> np.ndarray:
    series = _series(folder, changed)
    return _decoded(folder, series, series.files)


def _decoded(folder: Path, series: _Series, files: Sequence[Path]) -> np.ndarray:
    """(1, D, H, W) on canonical axes."""
    planes = []
    for file in files:
        with said_plainly(file):
            planes.append(dicom.read(Source(file), 0, None).pixels[0])
    x, y, _ = series.stack.shape
    return series.stack.volume(np.concatenate(planes) if planes else np.zeros((0, y, x)), folder)


# ---------------------------------------- headers


@lru_cache(maxsize=64)
def _series(folder: Path, changed: int) -> _Series:
    files = files_in(folder)
    headers = [_header(file) for file in files]
    _check_one_volume(folder, files, headers)
    stack = stacked(headers, [file.name for file in files], folder, APART)
    return _Series(
        tuple(files[place] for place in stack.order), stack, dicom_units.limits_of(headers, folder),
        headers[0].get("PhotometricInterpretation") == "MONOCHROME1",
        dicom_units.units_of(headers, folder), dicom_units.curve_of(headers, folder),
    )  # fmt: skip


def _header(file: Path) -> Any:
    with said_plainly(file):
        frames = frames_of(header_of(file, TAGS), file)
        header = frames[0]
        if len(frames) > 1:
            raise CaseError(
                f"{file}: expected one plane in each file of a series, found {len(frames)} "
                "frames; name the file itself as the image"
            )
        for name in (
            "Rows",
            "Columns",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
        ):
            if not header.get(name):
                raise CaseError(
                    f"{file}: expected {name}, which says where a plane of a series lies, found "
                    "none; name files that are no planes of one volume one by one"
                )
        if not dicom.is_grey(header):
            raise CaseError(
                f"{file}: expected grey planes in a series, found "
                f"{header.get('PhotometricInterpretation')}; name colour files one by one"
            )
    return header


def _check_one_volume(folder: Path, files: Sequence[Path], headers: Sequence[Any]) -> None:
    """CaseError: planes of different series, sizes or kinds."""
    counts = Counter(str(header.get("SeriesInstanceUID") or "") for header in headers)
    if len(counts) > 1:
        names = {str(header.get("SeriesInstanceUID") or ""): _named(header) for header in headers}
        said = ", ".join(f"{number} of {names[uid]}" for uid, number in counts.most_common(4))
        raise CaseError(
            f"{folder}: expected one DICOM series, found {len(counts)} in {len(files)} files "
            f"({said}); put each into a folder of its own"
        )
    for file, header in zip(files, headers, strict=True):
        one, other = _kind(headers[0]), _kind(header)
        if one != other:
            raise CaseError(
                f"{folder}: expected planes of one size and kind, found {one} in {files[0].name} "
                f"and {other} in {file.name}; {APART}"
            )


def _named(header: Any) -> str:
    """A series as its scanner calls it."""
    name = str(header.get("SeriesDescription") or header.get("Modality") or "no name")
    return f"{name} (localizer)" if "LOCALIZER" in (header.get("ImageType") or ()) else name


def _kind(header: Any) -> str:
    kind = header.get("PhotometricInterpretation") or "of no named kind"
    said = f"{header.Rows} x {header.Columns} {kind}"
    return f"{said} (localizer)" if "LOCALIZER" in (header.get("ImageType") or ()) else said
