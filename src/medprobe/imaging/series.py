"""A DICOM series: a folder of files of one plane each, under any names, as one volume (extra `dicom`), turned as NIfTI is.

Planes are put in order by where they lie along their common normal, never by name or instance number, and each is what
dicom.py makes of its file. What is no volume is refused: several series, planes of several sizes or directions, two at one
place, a place without one. Planes that are unevenly spaced or that lie on a tilted line are read, and `notes` says so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import dicom, pictures, tiff
from medprobe.imaging.canonical import Grid, from_lps, grid_of, orientation, volume_of
from medprobe.imaging.raw import Raw, chosen, said_plainly, stamp
from medprobe.types import Source

SUFFIXES = (".dcm", ".dicom", ".ima")
PICTURES = (*pictures.SUFFIXES, *tiff.SUFFIXES)
INDEX = "DICOMDIR"
TOLERANCE = 0.01
"""How far from even a volume is read without a note: gaps, of the median gap; sideways, of the length of the stack."""
ROUNDED = 0.015
"""mm that a gap may be off because positions are written to two decimals."""
SAME, MISSING = 0.25, 1.5
"""Gaps, in median gaps, up to which two planes are at one place, and from which on a plane is missing."""
PARALLEL = 1e-3
"""How far the components of directions, and sizes of pixels in mm, may differ in one volume."""
TAGS = (
    "SeriesInstanceUID", "NumberOfFrames", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth",
)  # fmt: skip


@dataclass(frozen=True)
class _Series:
    """`files` in order along the third axis, which is never turned round; `shape` and `affine` of stored (x, y, z) indices."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    full_range: tuple[float, float]
    inverted: bool
    notes: tuple[str, ...]


@lru_cache(maxsize=1024)
def is_series(folder: Path, changed: int) -> bool:
    """Whether a folder holds DICOM files and no pictures."""
    files = _files(folder)
    return not any(path.suffix.lower() in PICTURES for path in files) and any(_named_so(path) or _begins_so(path) for path in files)


def files_in(folder: Path) -> list[Path]:
    """The DICOM files of a folder: those that begin as such, and those named so, which must be."""
    return [path for path in _files(folder) if _named_so(path) or _begins_so(path)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != INDEX and not path.name.startswith(".") and path.is_file())


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
    series = _series(source.path, stamp(source.path))
    return grid_of(series.shape, series.affine, source.path)


def notes(source: Source) -> tuple[str, ...]:
    """A sentence for each thing in which the planes differ from an even, upright stack."""
    return _series(source.path, stamp(source.path)).notes


def read(source: Source, start: int, stop: int | None) -> Raw:
    changed = stamp(source.path)
    series, place = _series(source.path, changed), grid(source)
    places = chosen(source, place.shape[0], start, stop)
    if orientation(series.affine, source.path)[2, 0] == 2:  # planes are files: no other need be decoded
        pixels = _decoded(source.path, series, [series.files[number] for number in places])
    else:
        pixels = _whole(source.path, changed)[:, list(places)]
    return Raw(pixels, series.full_range, series.inverted, place.spacing, place.affine)


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
    x, y, _ = series.shape
    stack = np.concatenate(planes) if planes else np.zeros((0, y, x))
    return volume_of(stack.T, series.affine, folder).array[None]


# ------------------------------------------------------------------------------------------------ order


@lru_cache(maxsize=64)
def _series(folder: Path, changed: int) -> _Series:
    files = files_in(folder)
    headers = [_header(file) for file in files]
    _check_one_volume(folder, files, headers)
    first = headers[0]
    directions = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    normal = np.cross(*directions)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [files[place] for place in order], positions[order]
    _check_gaps(folder, files, positions @ normal)
    y, x = (float(size) for size in first.PixelSpacing)
    if len(files) > 1:
        step = (positions[-1] - positions[0]) / (len(files) - 1)
    else:
        step = normal * float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0)
    affine = _affine(directions[0] * x, directions[1] * y, step, positions[0])
    if orientation(affine, folder)[2, 1] < 0:
        files, affine = files[::-1], _affine(directions[0] * x, directions[1] * y, -step, positions[-1])
    limits = [dicom.limits_of(header) for header in headers]
    full_range = min(low for low, _ in limits), max(high for _, high in limits)
    shape = int(first.Columns), int(first.Rows), len(files)
    return _Series(tuple(files), shape, affine, full_range, first.get("PhotometricInterpretation") == "MONOCHROME1", _notes(folder, positions, normal))


def _affine(x: np.ndarray, y: np.ndarray, z: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.stack([x, y, z, origin], axis=1)
    return from_lps(affine)


def _header(file: Path) -> Any:
    with said_plainly(file):
        header = dicom.header_of(file, TAGS)
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise CaseError(f"{file}: expected one plane in each file of a series, found {header.NumberOfFrames} frames; name the file itself as the image")
        for name in ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not header.get(name):
                raise CaseError(f"{file}: expected {name}, which says where a plane of a series lies, found none; name files that are no planes of one volume one by one")
        if not dicom.is_grey(header):
            raise CaseError(f"{file}: expected grey planes in a series, found {header.get('PhotometricInterpretation')}; name colour files one by one")
    return header


def _check_one_volume(folder: Path, files: Sequence[Path], headers: Sequence[Any]) -> None:
    """CaseError: planes of different series, sizes, kinds or directions."""
    numbers = {str(header.get("SeriesInstanceUID") or "") for header in headers}
    if len(numbers) > 1:
        raise CaseError(f"{folder}: expected one DICOM series, found {len(numbers)} in {len(files)} files; put each into a folder of its own")
    for file, header in zip(files, headers, strict=True):
        one, other = _kind(headers[0]), _kind(header)
        if one != other:
            raise CaseError(f"{folder}: expected planes of one size and kind, found {one} in {files[0].name} and {other} in {file.name}; put each volume into a folder of its own")
        if not np.allclose(_directions(header), _directions(headers[0]), rtol=0, atol=PARALLEL):
            raise CaseError(f"{folder}: expected parallel planes with pixels of one size, found others in {file.name} than in {files[0].name}; put each volume into a folder of its own")


def _kind(header: Any) -> str:
    return f"{header.Rows} x {header.Columns} {header.get('PhotometricInterpretation') or 'of no named kind'}"


def _directions(header: Any) -> list[float]:
    return [float(value) for value in (*header.ImageOrientationPatient, *header.PixelSpacing)]


def _check_gaps(folder: Path, files: Sequence[Path], heights: np.ndarray) -> None:
    """CaseError: two planes at one place, or a place without one."""
    gaps = np.diff(heights)
    if not len(gaps):
        return
    usual, near, far = float(np.median(gaps)), int(np.argmin(gaps)), int(np.argmax(gaps))
    if gaps[near] <= SAME * usual:
        raise CaseError(f"{folder}: expected every plane at a place of its own, found {files[near].name} and {files[near + 1].name} {gaps[near]:.4g} mm apart; put each phase, echo or copy into a folder of its own")
    if gaps[far] >= MISSING * usual:
        raise CaseError(f"{folder}: expected a plane every {usual:.4g} mm, found none for {gaps[far]:.4g} mm between {files[far].name} and {files[far + 1].name}; fetch the missing files, or resample the series")


def _notes(folder: Path, positions: np.ndarray, normal: np.ndarray) -> tuple[str, ...]:
    found: list[str] = []
    if len(positions) < 2:
        return ()
    line = positions[-1] - positions[0]
    steps = np.diff(positions, axis=0)
    usual = np.median(steps, axis=0)
    gaps = steps @ normal
    off = np.linalg.norm(steps - usual, axis=1)
    if off.max() > max(TOLERANCE * float(np.linalg.norm(usual)), ROUNDED):
        even = float(np.linalg.norm(line)) / len(steps)
        found.append(f"{folder}: its planes are not evenly spaced ({gaps.min():.4g} to {gaps.max():.4g} mm apart, mostly {float(np.median(gaps)):.4g}) and are read as if {even:.4g} mm apart")
    height = float(line @ normal)
    sideways = float(np.linalg.norm(line - height * normal))
    if sideways > max(TOLERANCE * height, ROUNDED):
        found.append(f"{folder}: its planes are tilted by {np.degrees(np.arctan2(sideways, height)):.1f} degrees against the line they lie on, as with a tilted gantry, and are read as they are: the affine holds the shear")
    return tuple(found)
