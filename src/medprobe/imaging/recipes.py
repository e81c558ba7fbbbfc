"""Arrays to images to planes: named intensity windows, the size rule and its filters. Imports no torch: decode workers run this."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from medprobe.errors import CaseError, RequestError
from medprobe.imaging.formats import changed, count_planes, identify, read
from medprobe.imaging.raw import Raw
from medprobe.imaging.units import HU, SUV, measured
from medprobe.registry import did_you_mean
from medprobe.types import Frame, Image, Source

FitRule = Literal["squash", "pad", "crop"]
Resize = Literal["bicubic", "bilinear", "area"]
FIT_RULES = ("squash", "pad", "crop")
FILTERS = {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "area": "BOX"}
"""Resize filter → its name in Pillow. All are antialiased."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# --------------------------------------------------------------------------------------- intensity


def _fixed(low: float, high: float) -> Callable[[Iterable[np.ndarray]], tuple[float, float]]:
    return lambda parts: (low, high)


def _max(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    return 0.0, max(float(part.max()) for part in parts)


def _minmax(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    ends = [(float(part.min()), float(part.max())) for part in parts]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _percentile(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate([part.ravel() for part in parts]), [1, 99])
    return float(low), float(high)


def _percentile_foreground(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([part.ravel() for part in parts])
    lowest = values.min()
    above = values[values > lowest]
    low, high = np.percentile(above, [0.5, 99.5]) if above.size else (lowest, lowest)
    return float(low), float(high)


WINDOWS: Mapping[str, Callable[[Iterable[np.ndarray]], tuple[float, float]] | None] = {
    "full-range": None,
    "max": _max, "minmax": _minmax, "percentile": _percentile, "percentile-foreground": _percentile_foreground,
    "lung": _fixed(-1350, 150), "mediastinum": _fixed(-160, 240), "bone": _fixed(-500, 1300), "ct": _fixed(-1000, 1000),
    "suv": _fixed(0, 15),
}  # fmt: skip
"""Window → which values are black and white, from the pixels of one source in parts. What lies outside is cut.

full-range: what the file says (the range of its number type, the display window of a DICOM file). max: 0 and the greatest
value (the rule of MGCA for RSNA). minmax: the extremes. percentile: the 1st and 99th. percentile-foreground: the 0.5th and 99.5th
of what lies above the lowest value. These four look at the whole source, so that a plane is the same whichever planes are read with it.
lung, mediastinum, bone, ct: Hounsfield units. suv: standardised uptake values 0 to 15.

`ct+suv` gives each channel its own, in order; `lung|mediastinum|bone` makes three channels of one.
"""
UNITS = {"lung": HU, "mediastinum": HU, "bone": HU, "ct": HU, "suv": SUV}
"""Window → the unit that it is of. What says how to show values (MONOCHROME1, VOI tables) does not
act under it."""
RELATIVE = ("max", "minmax", "percentile", "percentile-foreground")
PART = 64
"""Planes that are read at a time to find a relative window of a long source."""


def scale(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32: low…high → 0…1, cut there. Where high is not above low, the distance counts as 1."""
    distance = float(high) - float(low)
    if distance > float(np.finfo(np.float32).max) / 2:  # beyond what float32 holds
        return np.clip((pixels.astype(np.float64) - low) / distance, 0, 1).astype(np.float32)
    width = np.float32(high - low) if high > low else np.float32(1)
    scaled = pixels.astype(np.float32)
    scaled -= np.float32(low)
    scaled /= width
    return np.clip(scaled, 0, 1, out=scaled)


def windowed(raw: Raw, window: str, limits: tuple[float, float] | None = None) -> np.ndarray:
    """(C, D, H, W) float32 in [0, 1]; inverted where low values are bright, but for windows of units.

    `limits`: of the whole source, if this is a part.
    """
    if window not in WINDOWS:
        raise RequestError(f"no window named {window!r}; {did_you_mean(window, list(WINDOWS))}")
    rule = WINDOWS[window]
    low, high = limits or (raw.full_range if rule is None else rule([raw.pixels]))
    shown = raw.curve if rule is None else None
    values = shown.shown(raw.pixels) if shown else scale(raw.pixels, low, high)
    return np.subtract(1, values, out=values) if raw.inverted and window not in UNITS else values


def with_windows(channels: tuple[Source, ...], window: str) -> tuple[Source, ...]:
    """Channels that know their own window, where `window` has one for each: then each is prepared, and keyed, by its own alone."""
    if "+" not in window:
        return channels
    return tuple(replace(source, window="|".join(names)) for source, names in zip(channels, windows_of(channels, window), strict=True))


def windows_of(channels: tuple[Source, ...], window: str) -> list[tuple[str, ...]]:
    """The one or three windows of each channel: its own, else its part of `window`. RequestError: other numbers, unknown names."""
    own = [check_window(source.window)[0] for source in channels if source.window]
    found = own if len(own) == len(channels) else check_window(window)
    if len(found) not in (1, len(channels)):
        raise RequestError(f"window {window!r}: expected one for all, or one for each of the {len(channels)} channels of an image, found {len(found)}; correct task.window")
    return found if len(found) == len(channels) else found * len(channels)


def check_window(window: str) -> list[tuple[str, ...]]:
    """The names in `window`, channel by channel. RequestError for one there is not, and for channels that become unlike."""
    found = [tuple(part.split("|")) for part in window.split("+")]
    unknown = [name for names in found for name in names if name not in WINDOWS]
    if unknown:
        raise RequestError(f"no window named {unknown[0]!r}; {did_you_mean(unknown[0], list(WINDOWS))}")
    if {len(names) for names in found} not in ({1}, {3}):
        raise RequestError(f"window {window!r}: expected one window or three joined by |, as many for every channel, found {' and '.join(map(str, map(len, found)))}; write for example lung|mediastinum|bone")
    return found


def _windowed(source: Source, raw: Raw, names: tuple[str, ...], part: bool) -> np.ndarray:
    """(C, D, H, W) under one window, (3, D, H, W) of one channel under three. `part`: these may not be all planes of the source."""
    if len(names) > 1 and len(raw.pixels) > 1:
        raise CaseError(f"{source.path}: expected one channel to make three of, found {len(raw.pixels)}; name one window")
    part = part and count_planes(source) > 1
    stacks = []
    for name in names:
        own = measured(raw, UNITS[name], name, source.path) if name in UNITS else raw
        limits = _limits(source, name, changed(source)) if part and name in RELATIVE else None
        stacks.append(windowed(own, name, limits))
    return stacks[0] if len(stacks) == 1 else np.concatenate(stacks)


@lru_cache(maxsize=1024)
def _limits(source: Source, window: str, changed: tuple[int, ...]) -> tuple[float, float]:
    """Black and white of a whole source under a relative window, its planes read in parts."""
    rule, total = WINDOWS[window], count_planes(source)
    assert rule is not None
    return rule(read(source, start, start + PART).pixels for start in range(0, total, PART))


def image(channels: tuple[Source, ...], window: str) -> Image:
    """All planes of a case's channels, stacked along C, at their own size: float32 (C, D, H, W) in [0, 1]."""
    raws = [read(source) for source in channels]
    _same_shape(channels, raws)
    stacks = [_windowed(*each, part=False) for each in zip(channels, raws, windows_of(channels, window), strict=True)]
    return Image(np.concatenate(stacks), raws[0].spacing, raws[0].affine)


# ------------------------------------------------------------------------------------------ planes


@dataclass(frozen=True)
class Planes:
    """`pixels` (n, C, H, W): uint8 0…255, or float32 in [0, 1].

    `frame.shape` (height, width) is of the source plane, `frame.box` where that whole plane lies in these, in their
    pixels: inside them where they were padded, reaching beyond them where they were cut.
    """

    pixels: np.ndarray
    frame: Frame


def planes(
    channels: tuple[Source, ...], *, window: str, size: tuple[int, int] | int | None, fit_rule: FitRule = "squash",
    resize: Resize = "bicubic", start: int = 0, stop: int | None = None,
    crop: Callable[[np.ndarray], np.ndarray] | None = None, colour: Literal[1, 3] | None = None, rgb: bool = False,
) -> Planes:  # fmt: skip
    """Planes start…stop of a case, windowed and resized. Several sources are channels, stacked along C.

    `size` (height, width), one side of a square, or None for the file's own. `squash` goes straight to the size; `pad` fits
    the longer side and pads with zeros around the centre (the rule of MGCA); `crop` fits the shorter side and cuts the
    centre. `crop` is a dataset's spatial recipe for the frames of a video file. `colour` 1 turns colour planes grey (ITU-R
    601), 3 repeats grey ones. `rgb` makes one image of three channels: of two grey ones the first, the second and their
    mean. 8-bit sources under `full-range` stay 8-bit, and equal Pillow's `convert` and `resize`;
    others are resized as float32, and what a filter overshoots is cut to [0, 1].
    """
    if fit_rule not in FIT_RULES:
        raise RequestError(f"no size rule named {fit_rule!r}; {did_you_mean(fit_rule, list(FIT_RULES))}")
    if resize not in FILTERS:
        raise RequestError(f"no resize filter named {resize!r}; {did_you_mean(resize, list(FILTERS))}")
    windows = windows_of(channels, window)
    if rgb and len(channels) > 1:
        colour = 1
    raws = [read(source, start, stop) for source in channels]
    if crop is not None:
        raws = [_cropped(raw, crop) if identify(source.path) == "video" else raw for source, raw in zip(channels, raws, strict=True)]
    _same_shape(channels, raws)
    height, width = raws[0].pixels.shape[2:]
    shape = (height, width)
    target = shape if size is None else (size, size) if isinstance(size, int) else size
    inner, corner = _fitted(shape, target, fit_rule)
    eight_bit = set(windows) == {("full-range",)} and all(map(_is_eight_bit, raws))
    stacks = []
    for source, raw, names in zip(channels, raws, windows, strict=True):
        if eight_bit:
            stack = 255 - raw.pixels if raw.inverted else raw.pixels
        else:
            stack = _windowed(source, raw, names, part=True)
        placed = _placed(_resized(_grey(stack) if colour == 1 and len(names) == 1 else stack, inner, resize), target, corner)
        stacks.append(np.repeat(placed, 3, axis=1) if colour == 3 and placed.shape[1] == 1 else placed)
    (top, left), (bottom, right) = corner, (corner[0] + inner[0], corner[1] + inner[1])
    pixels = stacks[0] if len(stacks) == 1 else np.concatenate(stacks, axis=1)
    if rgb and pixels.shape[1] == 2:
        mean = pixels.mean(axis=1, keepdims=True, dtype=np.float32)
        pixels = np.concatenate([pixels, np.rint(mean).astype(np.uint8) if pixels.dtype == np.uint8 else mean], axis=1)
    return Planes(pixels, Frame(shape, (float(top), float(left), float(bottom), float(right))))


def _is_eight_bit(raw: Raw) -> bool:
    return raw.pixels.dtype == np.uint8 and raw.full_range == (0, 255) and raw.curve is None


def _same_shape(channels: tuple[Source, ...], raws: list[Raw]) -> None:
    if len({raw.pixels.shape[1:] for raw in raws}) > 1:
        names = " and ".join(f"{source.path.name} {raw.pixels.shape[1:]}" for source, raw in zip(channels, raws, strict=True))
        raise CaseError(f"{channels[0].path.parent}: expected channels of one shape (planes, height, width), found {names}; resample them to one grid")


def _cropped(raw: Raw, crop: Callable[[np.ndarray], np.ndarray]) -> Raw:
    """A dataset's recipe on each (H, W, 3) frame; it gives all frames one size."""
    frames = np.stack([crop(np.ascontiguousarray(frame)) for frame in np.moveaxis(raw.pixels, 0, -1)])
    return replace(raw, pixels=np.moveaxis(frames, -1, 0))


def _grey(stack: np.ndarray) -> np.ndarray:
    """(1, D, H, W) from RGB, by Pillow's rule for 8 bit; other numbers of channels as they are."""
    if stack.shape[0] != 3:
        return stack
    if stack.dtype != np.uint8:
        return np.minimum(np.tensordot(LUMA, stack, axes=1)[None], 1)
    from PIL import Image as Pillow

    return np.stack([np.asarray(Pillow.fromarray(np.ascontiguousarray(plane)).convert("L")) for plane in np.moveaxis(stack, 0, -1)])[None]


def _fitted(shape: tuple[int, int], target: tuple[int, int], fit_rule: FitRule) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size a plane is resized to, and the (row, column) of its corner in the target.

    The free side is rounded down, as MGCA and torchvision do. `pad` puts the odd row at the end (MGCA); `crop` cuts from
    row round(excess / 2), ties to even (torchvision's CenterCrop).
    """
    if fit_rule == "squash":
        return target, (0, 0)
    (height, width), (rows, columns) = shape, target
    by_height = (rows * width <= columns * height) == (fit_rule == "pad")
    inner = (rows, max(1, width * rows // height)) if by_height else (max(1, height * columns // width), columns)
    if fit_rule == "pad":
        return inner, ((rows - inner[0]) // 2, (columns - inner[1]) // 2)
    return inner, (-round((inner[0] - rows) / 2), -round((inner[1] - columns) / 2))


def _placed(stack: np.ndarray, target: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """(n, C, *target): planes padded with zeros, or cut."""
    (top, left), (height, width) = corner, stack.shape[2:]
    if (height, width) == target:
        return stack
    if top < 0 or left < 0 or height > target[0] or width > target[1]:
        return np.ascontiguousarray(stack[:, :, -top : target[0] - top, -left : target[1] - left])
    result = np.zeros((*stack.shape[:2], *target), stack.dtype)
    result[:, :, top : top + height, left : left + width] = stack
    return result


def _resized(stack: np.ndarray, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """(C, D, H, W) → a new (D, C, *size) by Pillow's antialiased filters; float planes are cut to [0, 1]."""
    if stack.shape[2:] == size:
        return np.moveaxis(stack, 1, 0).copy()
    from PIL import Image as Pillow

    method, wanted = Pillow.Resampling[FILTERS[resize]], size[::-1]
    result = np.empty((stack.shape[1], stack.shape[0], *size), stack.dtype)
    for plane, to in zip(np.moveaxis(stack, 1, 0), result, strict=True):
        if stack.dtype == np.uint8 and len(plane) == 3:
            picture = Pillow.fromarray(np.ascontiguousarray(np.moveaxis(plane, 0, -1)))
            to[...] = np.moveaxis(np.asarray(picture.resize(wanted, method)), -1, 0)
        else:
            for channel, place in zip(plane, to, strict=True):
                place[...] = np.asarray(Pillow.fromarray(np.ascontiguousarray(channel)).resize(wanted, method))
    return result if stack.dtype == np.uint8 else np.clip(result, 0, 1, out=result)
