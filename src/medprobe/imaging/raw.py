"""Decoded planes as they come from a file, and what every format's reader needs to make them."""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, MedprobeError
from medprobe.files import kind_of
from medprobe.types import Source

WHITE = 255.0
MAX_PLANE = 178_956_970
"""Pixels of the largest plane that is decoded, Pillow's own limit: a header that claims more is a bomb or a slide."""
DAMAGE = (EOFError, zlib.error, struct.error)
SIGNS_OF_DAMAGE = re.compile(
    r"truncat|ends? early|ended before|less than expected|got \d+ bytes|failed to read|greater than file size"
    r"|\bcrc|checksum|corrupt|broken|premature|not enough|filter returned failure|unexpected end|end of file"
    r"|could not create decoder object",
    re.IGNORECASE,
)
"""What decoders raise and say of files that end early or hold other bytes than were written. All else is a file of a kind
that is not read, or without what a reader needs: fetching it again would bring the same bytes."""


@dataclass(frozen=True)
class Units:
    """`name` of the unit; of activities the `uptake` that 1 of it is, or why that is not known."""

    name: str
    uptake: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Curve:
    """How a file shows its values where that is no straight line: `shown` gives 0 (black) to 1
    (white), float32. `key` tells curves apart."""

    key: tuple[Any, ...]
    shown: Callable[[np.ndarray], np.ndarray] = field(compare=False)


@dataclass(frozen=True)
class Raw:
    """Decoded planes: `pixels` (C, D, H, W) in the file's number type; C is 1 (grey) or 3 (RGB), any number in arrays.

    `full_range` are the values that mean black and white, the same whichever planes were asked for. `inverted`: low
    values are bright (MONOCHROME1, MINISWHITE). `spacing` is (z, y, x) in mm, `affine` (4, 4) from (x, y, z) indices to
    world; None where a file has none. `units` are those that the file states, `curve` is how it is shown.
    """

    pixels: np.ndarray
    full_range: tuple[float, float]
    inverted: bool = False
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None
    units: Units | None = None
    curve: Curve | None = None


def range_of(array: np.ndarray) -> tuple[float, float]:
    """Black and white of an array: its type's for bool and unsigned 8 and 16 bit, 0 and 1 for floats that keep to them,
    else its own extremes."""
    if array.dtype == np.bool_:
        return 0.0, 1.0
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return 0.0, float(np.iinfo(array.dtype).max)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    return (0.0, 1.0) if array.dtype.kind == "f" and low >= 0 and high <= 1 else (low, high)


def range_of_picture(pixels: np.ndarray) -> tuple[float, float]:
    """Black and white of planes (C, D, H, W) that may be colours, all channels alike: colours of
    other than unsigned 8 and 16 bit that exceed 1 and lie within 0 to 255 count from 0 to 255."""
    low, high = range_of(pixels)
    pictured = len(pixels) == 3 and not typed_range(pixels.dtype) and low >= 0 and 1 < high <= WHITE
    return (0.0, WHITE) if pictured else (low, high)


def typed_range(dtype: np.dtype) -> bool:
    """Whether `range_of` needs no look at the values."""
    return dtype == np.bool_ or (dtype.kind == "u" and dtype.itemsize <= 2)


def chosen(source: Source, total: int, start: int, stop: int | None) -> Sequence[int]:
    """Indices in the file, which holds `total` planes, of planes start…stop of the source."""
    if source.frames is None:
        return range(total)[start:stop]
    places = source.frames[start:stop]
    if places and (min(places) < 0 or max(places) >= total):
        wrong = next(place for place in places if not 0 <= place < total)
        raise CaseError(f"{source.path}: expected plane {wrong}, found {total} planes, 0 to {total - 1}; the file may be partial")
    return places


def stamp(path: Path) -> int:
    """The modification time: with it, what was kept for a path is not used for other bytes of the same name."""
    return path.stat().st_mtime_ns


def check_size(path: Path, height: int, width: int) -> None:
    """Before anything of a plane is decoded: CaseError where it has no pixels, or more than can be one image."""
    if not 0 < height * width <= MAX_PLANE:
        raise CaseError(f"{path}: expected a plane of 1 to {MAX_PLANE} pixels, found {height} x {width}; cut slides into tiles, fetch other files again")


def check_finite(pixels: np.ndarray, path: Path) -> None:
    """CaseError for NaN and infinities, and for numbers that are no pixels at all."""
    kind = pixels.dtype.kind
    if kind not in "buif":
        raise CaseError(f"{path}: expected real numbers as pixels, found {pixels.dtype}; store integers or floats")
    if kind == "f" and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise CaseError(f"{path}: expected finite pixels, found {bad} of {pixels.size} NaN or infinite; correct the file")


@contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Whatever a decoder raises, as one sentence that names the file; only what shows damage is called so."""
    try:
        yield
    except MedprobeError:
        raise
    except Exception as error:
        raise CaseError(f"{path}: {_said(path, error)}") from error


def _said(path: Path, error: Exception) -> str:
    if not path.exists():
        return "expected an image, found nothing there; check the path"
    if isinstance(error, PermissionError):
        return "expected a readable file, found that this user may not read it; change its permissions"
    if path.is_file() and not path.stat().st_size:
        return "expected an image, found an empty file; fetch it again"
    said = " ".join(str(error).split()).replace(str(path), path.name) or type(error).__name__
    if isinstance(error, OSError) and error.errno:
        return f"expected a file that can be read now, found {said[:200]}; close what holds it or mend its disk, and run again"
    kind = kind_of(path) if path.is_file() else None
    cut = isinstance(error, zipfile.BadZipFile) and kind in (None, "a ZIP archive")
    if cut or isinstance(error, DAMAGE) or SIGNS_OF_DAMAGE.search(said.replace(path.name, "")):
        return f"expected a whole image, found a damaged one ({said[:200]}); fetch it again"
    begins = f"; it begins as {kind}" if kind else ""
    return (
        f"expected an image that can be read, found one that its decoder does not take ({said[:200]}){begins}; "
        "correct its name or its header, or write it in a plainer form"
    )
