"""Arrays to images to planes: named intensity windows, the size rule and its filters. Imports no torch: decode workers run this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medprobe.errors import CaseError, RequestError
from medprobe.imaging.formats import Raw, count_planes, read
from medprobe.registry import did_you_mean
from medprobe.types import Frame, Image, Source

FitRule = Literal["squash", "pad", "crop"]
Resize = Literal["bicubic", "bilinear", "area"]


def _between(low: float, high: float) -> Callable[[Raw], np.ndarray]:
    return lambda raw: _scale(raw.pixels, low, high)


def _scale(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """low…high → 0…1, cut there; a constant image is 0."""
    width = np.float32(high - low) or np.float32(1)
    return np.clip((pixels.astype(np.float32) - np.float32(low)) / width, 0, 1)


def _percentile(raw: Raw) -> np.ndarray:
    low, high = np.percentile(raw.pixels, [1, 99])
    return _scale(raw.pixels, float(low), float(high))


WINDOWS: Mapping[str, Callable[[Raw], np.ndarray]] = {
    "full-range": lambda raw: _scale(raw.pixels, *raw.full_range),
    "max": lambda raw: _scale(raw.pixels, 0.0, float(raw.pixels.max())),
    "minmax": lambda raw: _scale(raw.pixels, float(raw.pixels.min()), float(raw.pixels.max())),
    "percentile": _percentile,
    "lung": _between(-1350, 150), "mediastinum": _between(-160, 240), "bone": _between(-500, 1300), "ct": _between(-1000, 1000),
}  # fmt: skip
"""Name → rule. full-range: what the file says is black and white. max: the image's own maximum is white (MGCA's rule
for RSNA). percentile: 1st to 99th. lung, mediastinum, bone, ct: Hounsfield units. MONOCHROME1 is inverted afterwards."""
RELATIVE = ("max", "minmax", "percentile")
"""Windows that look at the whole source, however few of its planes are asked for."""


def windowed(raw: Raw, window: str) -> np.ndarray:
    """(C, D, H, W) float32 in [0, 1]."""
    if window not in WINDOWS:
        raise RequestError(f"no window named {window!r}; {did_you_mean(window, list(WINDOWS))}")
    values = WINDOWS[window](raw)
    return 1 - values if raw.inverted else values


def image(channels: tuple[Source, ...], window: str) -> Image:
    """All planes of a case's channels, at their own size."""
    raws = [read(source) for source in channels]
    _same_shape(channels, raws)
    return Image(np.concatenate([windowed(raw, window) for raw in raws]), raws[0].spacing, raws[0].affine)


@dataclass(frozen=True)
class Planes:
    """`pixels` (n, C, H, W): uint8 0…255, or float32 in [0, 1]. `frame.box` is in pixels of these planes."""

    pixels: np.ndarray
    frame: Frame


def planes(
    channels: tuple[Source, ...], *, window: str, size: tuple[int, int] | int | None, fit_rule: FitRule = "squash",
    resize: Resize = "bicubic", start: int = 0, stop: int | None = None,
    crop: Callable[[np.ndarray], np.ndarray] | None = None, colour: Literal[1, 3] | None = None,
) -> Planes:  # fmt: skip
    """Planes start…stop of a case, windowed and resized.

    Several sources are channels, stacked along C. `size` (height, width), one side of a square, or None for the
    file's own. `squash` goes straight to the size; `pad` fits the longer side and pads with zeros around the centre;
    `crop` fits the shorter side and cuts the centre. All filters are antialiased. `crop` is a dataset's spatial
    recipe for frames of a raw video. `colour` 1 turns colour planes grey (ITU-R 601), 3 repeats grey ones.
    8-bit files under `full-range` stay 8-bit, and equal what Pillow's own resize gives.
    """
    raws = [_part(source, window, start, stop) for source in channels]
    if crop is not None and all(source.path.is_file() for source in channels):
        raws = [_cropped(raw, crop) for raw in raws]
    _same_shape(channels, raws)
    exact = window == "full-range" and all(raw.pixels.dtype == np.uint8 and raw.full_range == (0.0, 255.0) and not raw.inverted for raw in raws)
    stacks = [raw.pixels if exact or raw.windowed else windowed(raw, window) for raw in raws]
    pixels = np.concatenate([_coloured(stack, colour) for stack in stacks]) if len(stacks) > 1 else _coloured(stacks[0], colour)
    shape = (pixels.shape[2], pixels.shape[3])
    target = shape if size is None else (size, size) if isinstance(size, int) else size
    resized, box = _resized(np.moveaxis(pixels, 1, 0), target, fit_rule, resize)
    return Planes(resized, Frame(shape, box))


def _part(source: Source, window: str, start: int, stop: int | None) -> Raw:
    """Planes start…stop; under a relative window already windowed by the whole source."""
    if window not in RELATIVE or count_planes(source) == 1:
        return read(source, start, stop)
    raw = read(source)
    return Raw(windowed(raw, window)[:, start:stop], (0.0, 1.0), windowed=True, spacing=raw.spacing, affine=raw.affine)


def _same_shape(channels: tuple[Source, ...], raws: list[Raw]) -> None:
    shapes = {raw.pixels.shape[1:] for raw in raws}
    if len(shapes) > 1:
        names = " and ".join(f"{source.path.name} {raw.pixels.shape[1:]}" for source, raw in zip(channels, raws, strict=True))
        raise CaseError(f"{channels[0].path.parent}: expected channels of one shape (planes, height, width), found {names}; resample them to one grid")


def _cropped(raw: Raw, crop: Callable[[np.ndarray], np.ndarray]) -> Raw:
    frames = np.stack([crop(np.ascontiguousarray(frame)) for frame in np.moveaxis(raw.pixels, 0, -1)])
    return Raw(np.moveaxis(frames, -1, 0), raw.full_range, raw.inverted)


def _coloured(stack: np.ndarray, colour: int | None) -> np.ndarray:
    """(C, D, H, W) with C as asked; only between grey and RGB."""
    if colour == 3 and stack.shape[0] == 1:
        return np.repeat(stack, 3, axis=0)
    if colour == 1 and stack.shape[0] == 3:
        if stack.dtype == np.uint8:
            from PIL import Image as Pillow

            return np.stack([np.asarray(Pillow.fromarray(np.ascontiguousarray(np.moveaxis(plane, 0, -1))).convert("L")) for plane in np.moveaxis(stack, 1, 0)])[None]
        return np.tensordot(np.float32([0.299, 0.587, 0.114]), stack, axes=1)[None]
    return stack


def _resized(stack: np.ndarray, target: tuple[int, int], fit_rule: FitRule, resize: Resize) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """(n, C, H, W) → (n, C, *target), and where the whole source plane lies in the result (outside it when cut)."""
    height, width = stack.shape[2:]
    if fit_rule == "squash":
        inner = target
    elif fit_rule in ("pad", "crop"):
        scales = (target[0] / height, target[1] / width)
        scale = min(scales) if fit_rule == "pad" else max(scales)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    else:
        raise RequestError(f"no size rule named {fit_rule!r}; {did_you_mean(fit_rule, ['squash', 'pad', 'crop'])}")
    scaled = np.stack([_resize_plane(plane, inner, resize) for plane in stack])
    top, left = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
    box = (float(top), float(left), float(top + inner[0]), float(left + inner[1]))
    if inner == target:
        return scaled, box
    result = np.zeros((*stack.shape[:2], *target), stack.dtype)
    rows, columns = slice(max(top, 0), max(top, 0) + min(inner[0], target[0])), slice(max(left, 0), max(left, 0) + min(inner[1], target[1]))
    from_rows, from_columns = slice(max(-top, 0), max(-top, 0) + min(inner[0], target[0])), slice(max(-left, 0), max(-left, 0) + min(inner[1], target[1]))
    result[:, :, rows, columns] = scaled[:, :, from_rows, from_columns]
    return result, box


def _resize_plane(plane: np.ndarray, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """(C, H, W) → (C, *size) with Pillow's antialiased filters; float planes are cut to [0, 1]."""
    from PIL import Image as Pillow

    filters = {"bicubic": Pillow.Resampling.BICUBIC, "bilinear": Pillow.Resampling.BILINEAR, "area": Pillow.Resampling.BOX}
    if resize not in filters:
        raise RequestError(f"no resize filter named {resize!r}; {did_you_mean(resize, list(filters))}")
    if plane.shape[1:] == size:
        return np.ascontiguousarray(plane)
    wanted = size[::-1]
    if plane.dtype == np.uint8 and plane.shape[0] == 3:
        picture = Pillow.fromarray(np.ascontiguousarray(np.moveaxis(plane, 0, -1)))
        return np.ascontiguousarray(np.moveaxis(np.asarray(picture.resize(wanted, filters[resize])), -1, 0))
    parts = [np.asarray(Pillow.fromarray(np.ascontiguousarray(part)).resize(wanted, filters[resize])) for part in plane]
    stacked = np.stack(parts)
    return stacked if stacked.dtype == np.uint8 else np.clip(stacked, 0, 1)
