"""TIFF through tifffile: 8 and 16 bit, float, RGB, several pages. What it needs an optional codec for goes through Pillow.

Samples of a pixel are channels (alpha dropped), every other axis but rows and columns, flattened in order, is planes. Of a
pyramid the full resolution is read. MINISWHITE is kept as a fact, palettes become RGB, in masks (`read_indices`) they do not.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import pictures
from medprobe.imaging.raw import Raw, check_size, chosen, range_of, typed_range
from medprobe.types import Source

SUFFIXES = (".tif", ".tiff")
MINISWHITE, RGB, PALETTE = 0, 2, 3
WITHOUT_ALPHA = {2: 1, 4: 3}


def _open(path: Path) -> Any:
    import tifffile

    return tifffile.TiffFile(path)


def count(source: Source) -> int:
    with _open(source.path) as file:
        return _planes_of(file.series[0])


def channels(source: Source) -> int:
    with _open(source.path) as file:
        series = file.series[0]
        samples = series.shape[series.axes.index("S")] if "S" in series.axes else 1
        return 3 if series.keyframe.photometric > RGB else WITHOUT_ALPHA.get(samples, samples)


def read(source: Source, start: int, stop: int | None) -> Raw:
    return _read(source, start, stop, in_colour=RGB)


def read_indices(source: Source) -> Raw:
    """All planes of the source as numbers: of a palette the indices, not the colours."""
    return _read(source, 0, None, in_colour=PALETTE)


def _read(source: Source, start: int, stop: int | None, in_colour: int) -> Raw:
    """`in_colour`: photometric interpretations beyond this one are turned into RGB."""
    with _open(source.path) as file:
        series = file.series[0]
        page = series.keyframe
        check_size(source.path, page.imagelength, page.imagewidth)
        if not series.axes.replace("S", "").endswith("YX"):
            raise CaseError(f"{source.path}: expected rows and columns as the last axes, found {series.axes}; write the stack plane by plane")
        total = _planes_of(series)
        places = chosen(source, total, start, stop)
        whole = not typed_range(series.dtype)
        inverted = page.photometric == MINISWHITE
        try:
            pixels = None if page.photometric > in_colour else _pixels(series, range(total) if whole else places)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            pixels = None
        if pixels is None:  # colours that tifffile hands over as they are stored, or compressed by an optional codec
            pixels, inverted = _through_pillow(source.path, [series.pages[place].index for place in (range(total) if whole else places)], in_colour), False
        limits = range_of(pixels)
        return Raw(pixels[:, list(places)] if whole else pixels, limits, inverted)


def _planes_of(series: Any) -> int:
    return prod(size for size, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXS")


def _pixels(series: Any, places: Sequence[int]) -> np.ndarray:
    """(C, D, H, W) of some planes; page by page where planes are pages."""
    if places and len(series.pages) == _planes_of(series):
        axes = series.keyframe.axes
        return np.concatenate([_channels_first(series.pages[place].asarray(), axes) for place in places], axis=1)
    return _channels_first(series.asarray(), series.axes)[:, list(places)]


def _channels_first(array: np.ndarray, axes: str) -> np.ndarray:
    """(C, D, H, W), without alpha."""
    array = np.moveaxis(array, axes.index("S"), 0) if "S" in axes else array[None]
    array = array[: WITHOUT_ALPHA.get(len(array))]
    return array.reshape(len(array), -1, *array.shape[-2:])


def _through_pillow(path: Path, pages: Sequence[int], in_colour: int) -> np.ndarray:
    """(C, D, H, W), MINISWHITE already turned round."""
    planes = []
    with pictures.opened(path) as file:
        for page in pages:
            file.seek(page)
            planes.append(np.array(file) if in_colour == PALETTE and file.mode == "P" else pictures.plain(file))
    stack = np.stack(planes)
    return stack[None] if stack.ndim == 3 else np.moveaxis(stack, -1, 0)
