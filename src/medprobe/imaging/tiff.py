"""TIFF through tifffile: 8 and 16 bit, float, RGB, several pages. What it needs an optional codec
for goes through Pillow.

Samples of a pixel are channels (alpha dropped), every other axis but rows and columns, flattened
in order, is planes. All pages of one size and kind are one part, however they were written; of
several parts the largest is read where the others are previews (at most half its pixels, or marked
as reduced), else the one that a source's `member` names, counted from 0. Of a pyramid the full
resolution is read. Every page is turned as its Orientation says, masks too. MINISWHITE is kept as
a fact, palettes become RGB, in masks (`read_indices`) they do not.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import pictures
from medprobe.imaging.raw import Raw, check_size, chosen, range_of_picture, typed_range
from medprobe.types import Source

SUFFIXES = (".tif", ".tiff")
MINISWHITE, RGB, PALETTE = 0, 2, 3
WITHOUT_ALPHA = {2: 1, 4: 3}
PREVIEW = 0.5
"""Share of the pixels of the largest page up to which another one is a preview of it."""


def _open(path: Path) -> Any:
    import tifffile

    return tifffile.TiffFile(path)


def count(source: Source) -> int:
    with _open(source.path) as file:
        return sum(map(_planes_of, _part(file, source)))


def channels(source: Source) -> int:
    with _open(source.path) as file:
        series = _part(file, source)[0]
        return 3 if series.keyframe.photometric > RGB else _samples(series)


def size(source: Source) -> tuple[int, int]:
    """(H, W) of a plane as it is shown."""
    with _open(source.path) as file:
        page = _part(file, source)[0].keyframe
        height, width = int(page.imagelength), int(page.imagewidth)
        return (width, height) if _orientation(page) >= 5 else (height, width)


def notes(source: Source) -> tuple[str, ...]:
    """What of the file is not read."""
    with _open(source.path) as file:
        parts = _parts(file)
        part = _named(parts, source)
        left = " and ".join(_said(one) for one in parts if one is not part and not source.member)
    return (f"{source.path}: {_said(part)} read, {left} left out as previews",) if left else ()


def read(source: Source, start: int, stop: int | None) -> Raw:
    return _read(source, start, stop, in_colour=RGB)


def read_indices(source: Source) -> Raw:
    """All planes of the source as numbers: of a palette the indices, not the colours."""
    return _read(source, 0, None, in_colour=PALETTE)


def _read(source: Source, start: int, stop: int | None, in_colour: int) -> Raw:
    """`in_colour`: photometric interpretations beyond this one are turned into RGB."""
    with _open(source.path) as file:
        part = _part(file, source)
        page = part[0].keyframe
        check_size(source.path, page.imagelength, page.imagewidth)
        for series in part:
            if not "".join(_long_axes(series)[0]).replace("S", "").endswith("YX"):
                raise CaseError(
                    f"{source.path}: expected rows and columns as the last axes, "
                    f"found {series.axes}; write the stack plane by plane"
                )
        total = sum(map(_planes_of, part))
        places = chosen(source, total, start, stop)
        whole = not typed_range(page.dtype)
        wanted = range(total) if whole else places
        inverted = page.photometric == MINISWHITE
        try:
            planes = None if page.photometric > in_colour else _planes(part, wanted)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            planes = None
        if planes is None:  # colours that tifffile hands over as stored, or an optional codec
            planes, inverted = _through_pillow(source.path, part, wanted, in_colour), False
        pixels = _stacked(planes, source.path)
        limits = range_of_picture(pixels)
        if whole or not places:
            pixels = pixels[:, list(places)]
        return Raw(pixels, limits, inverted)


# ---------------------------------------- parts


def _parts(file: Any) -> list[list[Any]]:
    """The pictures of a file, series or pages, those of one size and kind together."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    pieces = [piece for series in file.series for piece in _pieces(file, series)]
    own = [one for one in pieces if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
    for series in own or pieces:
        page = series.keyframe
        kind = page.imagelength, page.imagewidth, _samples(series), page.dtype, page.photometric
        found.setdefault((*kind, series.shape if file.is_ome else ()), []).append(series)
    return list(found.values())


def _pieces(file: Any, series: Any) -> list[Any]:
    """A series, or, where tifffile takes pages for alike by a look at some of them, each page."""
    if series.kind not in ("uniform", "generic") or len(series.levels) > 1:
        return [series]
    return [file.pages.get(page.index, aspage=True) for page in series.pages]


def _pages(piece: Any) -> list[Any]:
    import tifffile

    return list(piece.pages) if isinstance(piece, tifffile.TiffPageSeries) else [piece]


def _part(file: Any, source: Source) -> list[Any]:
    return _named(_parts(file), source)


def _named(parts: list[list[Any]], source: Source) -> list[Any]:
    """The part that a source names, else the largest where the others are previews."""
    named = (source.member or "").strip("/")
    if named.isdecimal() and int(named) < len(parts):
        return parts[int(named)]
    areas = [part[0].keyframe.imagelength * part[0].keyframe.imagewidth for part in parts]
    order = np.argsort(areas)[::-1]
    if not named.isdecimal() and (len(parts) == 1 or areas[order[1]] <= PREVIEW * areas[order[0]]):
        return parts[order[0]]
    said = ", ".join(f"{number} ({_said(part)})" for number, part in enumerate(parts[:6]))
    raise CaseError(
        f"{source.path}: expected pages of one size and kind, or the name of one of {len(parts)} "
        "parts, "
        f"{said}, found {named or 'none'}; write {source.path.name}:/NUMBER, or split the file"
    )


def _said(part: Sequence[Any]) -> str:
    page, number = part[0].keyframe, sum(map(_planes_of, part))
    pages = "page" if number == 1 else "pages"
    return f"{number} {pages} of {page.imagelength} x {page.imagewidth} {page.dtype}"


def _samples(series: Any) -> int:
    samples = series.shape[series.axes.index("S")] if "S" in series.axes else 1
    return WITHOUT_ALPHA.get(samples, samples)


def _long_axes(series: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Without axes of length 1 besides rows, columns and colours: masks are written as (H, W, 1)."""
    axes = zip(series.axes, series.shape, strict=True)
    names, sizes = zip(*((axis, size) for axis, size in axes if size > 1 or axis in "YXS"))
    return names, sizes


def _planes_of(series: Any) -> int:
    axes = zip(series.shape, series.axes, strict=True)
    return prod(size for size, axis in axes if axis not in "YXS")


# ---------------------------------------- planes


def _planes(part: Sequence[Any], places: Sequence[int]) -> list[np.ndarray]:
    """(C, 1, H, W) each, turned; page by page where planes are pages. Without any, the first."""
    found: dict[int, np.ndarray] = {}
    start = 0
    for series in part:
        stop = start + _planes_of(series)
        own = sorted({place - start for place in places or [0] if start <= place < stop})
        if own:
            pages = zip(own, _of_series(series, own), strict=True)
            found |= {start + place: plane for place, plane in pages}
        start = stop
    return [found[place] for place in places or [0]]


def _of_series(series: Any, places: Sequence[int]) -> list[np.ndarray]:
    pages = _pages(series)
    if len(pages) == _planes_of(series):
        pages = [pages[place] for place in places]
        axes = series.keyframe.axes
        return [turned(_first(page.asarray(), axes), _orientation(page)) for page in pages]
    axes, shape = _long_axes(series)
    stack = _first(series.asarray().reshape(shape), "".join(axes))
    stack = turned(stack, _orientation(series.keyframe))
    return [stack[:, place : place + 1] for place in places]


def _stacked(planes: Sequence[np.ndarray], path: Path) -> np.ndarray:
    sizes = {plane.shape[-2:] for plane in planes}
    if len(sizes) > 1:
        said = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise CaseError(
            f"{path}: expected pages that are shown in one size, found {said}, as their "
            "Orientation "
            "turns them; write all pages upright"
        )
    return np.concatenate(planes, axis=1)


def _first(array: np.ndarray, axes: str) -> np.ndarray:
    """(C, D, H, W), channels first, without alpha."""
    array = np.moveaxis(array, axes.index("S"), 0) if "S" in axes else array[None]
    array = array[: WITHOUT_ALPHA.get(len(array))]
    return array.reshape(len(array), -1, *array.shape[-2:])


def _orientation(page: Any) -> int:
    tag = page.keyframe.tags.get(pictures.ORIENTATION)
    return int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """(..., H, W) as it is to be shown, by the number that TIFF and EXIF give its first row
    and column."""
    if orientation >= 5:
        array = array.swapaxes(-1, -2)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        orientation, (1, 1)
    )
    return array[..., ::rows, ::columns]


def _through_pillow(
    path: Path, part: Sequence[Any], places: Sequence[int], in_colour: int
) -> list[np.ndarray]:
    """As `_planes`, MINISWHITE already turned round, pages already turned."""
    pages = [page for series in part for page in _pages(series)]
    planes = []
    # mapped into memory, Pillow turns uncompressed pages wrongly
    with path.open("rb") as data, pictures.opened(path, data) as file:
        for place in places or [0]:
            file.seek(pages[place].index)
            indices = in_colour == PALETTE and file.mode == "P"
            plane = np.array(file) if indices else pictures.plain(file)
            planes.append(_first(plane, "YXS"[: plane.ndim])[:, :1])
    return planes
