"""A folder of pictures as the frames of one source: all of one size, number type and range.

Frames come in natural order (2 before 10), without the leavings of other programs. DICOM files among them are refused; a
folder of nothing else is a series (series.py).
"""

import re
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import pictures, tiff
from medprobe.imaging.kinds import NOUNS, SUFFIXES, identify
from medprobe.imaging.raw import Raw, chosen, said_plainly, stamp
from medprobe.types import Source

IGNORED = (".DS_Store", "Thumbs.db", "__MACOSX")
DICOM = SUFFIXES["dicom"]


def pictures_in(folder: Path) -> list[Path]:
    """The image files of a folder in natural order; DICOM files, one image each, are among them."""
    files = [path for path in folder.iterdir() if path.name not in IGNORED and not path.name.startswith("._")]
    known = (*pictures.SUFFIXES, *tiff.SUFFIXES, *DICOM)
    return sorted((path for path in files if path.suffix.lower() in known), key=natural)


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorting key in which 2 comes before 10."""
    parts = [part for part in re.split(r"([0-9]+)", path.name) if part]
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def count(source: Source) -> int:
    return len(_frames(source.path, stamp(source.path)))


def channels(source: Source) -> int:
    first = _frames(source.path, stamp(source.path))[0]
    with said_plainly(first):
        return _reader(first).channels(Source(first))


def read(source: Source, start: int, stop: int | None) -> Raw:
    changed = stamp(source.path)
    files = _frames(source.path, changed)
    first = _first(source.path, changed)
    parts = []
    for place in chosen(source, len(files), start, stop):
        part = _frame(files[place])
        if _facts(part) != first:
            raise CaseError(f"{files[place]}: expected a frame like {files[0].name}, {_words(first)}, found {_words(_facts(part))}; convert the frames to one size and type")
        parts.append(part.pixels)
    pixels = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0, *first[1]))
    return Raw(pixels, first[3], first[4])


_Facts = tuple[int, tuple[int, int], str, tuple[float, float], bool]


def _facts(raw: Raw) -> _Facts:
    """(channels, (height, width), number type, range, inverted): what all frames must share."""
    count, _, height, width = raw.pixels.shape
    return count, (height, width), raw.pixels.dtype.name, raw.full_range, raw.inverted


def _words(facts: _Facts) -> str:
    count, (height, width), dtype, (low, high), _ = facts
    return f"{count} x {height} x {width} {dtype} from {low:g} to {high:g}"


def _frame(path: Path) -> Raw:
    with said_plainly(path):
        raw = _reader(path).read(Source(path), 0, None)
    if raw.pixels.shape[1] != 1:
        raise CaseError(f"{path}: expected one plane in a frame, found {raw.pixels.shape[1]}; split the file into frames")
    return raw


def _reader(path: Path) -> ModuleType:
    kind = identify(path)
    if kind not in ("pictures", "tiff"):
        raise CaseError(
            f"{path}: expected a picture as frame, found {NOUNS[kind]}; put it elsewhere"
        )
    return tiff if kind == "tiff" else pictures


@lru_cache(maxsize=16)
def _frames(folder: Path, changed: int) -> tuple[Path, ...]:
    files = tuple(pictures_in(folder))
    if not files:
        raise CaseError(f"{folder}: expected a folder of image files, found none in it; check the path")
    series = [path.name for path in files if path.suffix.lower() in DICOM]
    if series:
        raise CaseError(f"{folder}: expected pictures as frames, found DICOM files among them such as {series[0]}; put either into a folder of its own")
    return files


@lru_cache(maxsize=16)
def _first(folder: Path, changed: int) -> _Facts:
    return _facts(_frame(_frames(folder, changed)[0]))
