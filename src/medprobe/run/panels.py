"""Planes with the labels on them as panels, and panels side by side as one PNG: the same bytes for the same content."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("#17bebb", "#e4572e", "#ffc914", "#76b041", "#b388eb", "#f78da7", "#4d9de0", "#9c6644")
"""Of class 1, 2, …, over again after the eighth."""
FILL = 0.3
OUTLINE = 2
SIDES = (("R", "L"), ("A", "P"), ("S", "I"))
"""Letters of the left and the right side, by the world axis that runs across a panel."""
UNSEEN = 225
"""Grey of what lies outside the grid, where a plane was cut."""
MARGIN, GAP, LINE, NARROWEST = 10, 6, 18, 420
LETTER, LARGE = 6.2, 7.4
"""Width in pixels that a letter takes at most on average, of notes and of the title."""


@dataclass(frozen=True)
class View:
    """How the planes of a case lie in their panels: `size` (height, width) in pixels, after `flip` of (rows, columns).

    `sides` are the letters of what is on the left and on the right, where that is known.
    """

    size: tuple[int, int]
    flip: tuple[bool, bool] = (False, False)
    sides: tuple[str, str] | None = None

    def turned(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, ...) as it is seen."""
        return np.flip(pixels, tuple(axis for axis, turn in enumerate(self.flip) if turn))


@dataclass(frozen=True)
class Panel:
    """`pixels` (height, width, 3) uint8; `caption` stands above, `corner` in the lower left, `sides` at the left and right."""

    pixels: np.ndarray
    caption: str = ""
    corner: str = ""
    sides: tuple[str, str] | None = None


def view_of(shape: tuple[int, int], spacing: Sequence[float], affine: np.ndarray | None, side: int) -> View:
    """Planes (H, W) of `spacing` (y, x) in a square of `side` pixels; slices of known place as radiologists look at them:
    the patient's right (of sagittal ones the front) on the left, the front (else the head) above."""
    height, width = shape[0] * spacing[0], shape[1] * spacing[1]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if affine is None:
        return View(size)
    columns, rows = (int(np.abs(affine[:3, axis]).argmax()) for axis in (0, 1))
    return View(size) if columns == rows else View(size, (bool(affine[rows, 1] > 0), bool(affine[columns, 0] > 0)), SIDES[columns])


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` places from first to last, evenly spaced: each the middle one of its share."""
    total = last - first + 1
    return list(range(first, last + 1)) if total <= count else [first + int((number + 0.5) * total / count) for number in range(count)]


def layers(labels: np.ndarray, multilabel: bool) -> list[np.ndarray]:
    """Labels (H, W), or masks (K, H, W) that may overlap, as maps (H, W) to lay over each other: 0 nothing, k of colour k."""
    return [(mask > 0) * (number + 1) for number, mask in enumerate(labels)] if multilabel else [np.maximum(labels, 0)]


def plane_of(channels: np.ndarray, colour: bool) -> np.ndarray:
    """(C, H, W) in [0, 1] → what is shown of it: (H, W, 3) of a colour picture, else the first channel (H, W)."""
    return np.moveaxis(channels, 0, -1) if colour else channels[0]


def drawn(plane: np.ndarray, view: View, labels: Sequence[np.ndarray] = (), fill: float = FILL) -> np.ndarray:
    """A plane (H, W) or (H, W, 3) in [0, 1] in its panel, the labels on it as an outline within their border and a tint of strength `fill`."""
    from PIL import Image
    from scipy.ndimage import maximum_filter, minimum_filter

    grey = Image.fromarray((np.clip(plane, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    pixels = np.asarray(grey.resize(view.size[::-1], Image.Resampling.BICUBIC)).astype(np.float64)
    for layer in labels:
        shrunk = max(1, *(old // new for old, new in zip(layer.shape, view.size, strict=True)))
        layer = maximum_filter(layer, shrunk) if shrunk > 1 else layer
        rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(layer.shape, view.size, strict=True))
        there = layer[np.ix_(rows, columns)]
        around = 2 * OUTLINE + 1
        edge = (there > 0) & (minimum_filter(there, around, mode="constant") != maximum_filter(there, around, mode="constant"))
        colours = palette(there)
        pixels = np.where((there > 0)[..., None], (1 - fill) * pixels + fill * colours, pixels)
        pixels = np.where(edge[..., None], colours, pixels)
    return view.turned(pixels.round().astype(np.uint8))


def palette(labels: np.ndarray) -> np.ndarray:
    """The colours of labels, 0…255 along a new last axis."""
    table = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in COLOURS])
    return table[(labels.astype(np.int64) - 1) % len(table)]


def cells(colours: np.ndarray, box: tuple[float, float, float, float], view: View) -> np.ndarray:
    """Colours (h, w, 3) in [0, 1] of a grid in the panel of their plane, which is the `box` (top, left, bottom, right) of the grid."""
    pixels = np.full((*view.size, 3), UNSEEN, np.uint8)
    (rows, columns) = (
        np.floor(low + (np.arange(size) + 0.5) / size * (high - low)).astype(int)
        for size, low, high in zip(view.size, box[:2], box[2:], strict=True)
    )
    inside = [(places >= 0) & (places < size) for places, size in zip((rows, columns), colours.shape, strict=False)]
    pixels[np.ix_(*inside)] = (colours[np.ix_(rows[inside[0]], columns[inside[1]])] * 255).round()
    return view.turned(pixels)


def sheet(title: str, lines: Sequence[Sequence[Panel]], legend: Sequence[tuple[str, str]] = (), notes: Sequence[str] = ()) -> bytes:
    """Lines of panels under a title as one PNG; below them (colour, name) of what is marked, and notes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from PIL import Image

    width = max(NARROWEST, *(sum(panel.pixels.shape[1] + GAP for panel in line) - GAP for line in lines)) + 2 * MARGIN
    letters = int((width - 2 * MARGIN) / LETTER)
    texts: list[tuple[float, float, str, dict]] = []
    places: list[tuple[int, int, np.ndarray]] = []
    inside = {"color": "white", "fontsize": 8, "path_effects": [withStroke(linewidth=2, foreground="black")]}
    y = MARGIN
    for row in textwrap.wrap(title, int((width - 2 * MARGIN) / LARGE)):
        texts.append((MARGIN, y + LINE / 2, row, {"fontsize": 9}))
        y += LINE
    for line in lines:
        x, height = MARGIN, max(panel.pixels.shape[0] for panel in line)
        if any(panel.caption for panel in line):
            y += LINE
        for number, panel in enumerate(line):
            rows, columns = panel.pixels.shape[:2]
            alone = not any(other.caption for other in line[number + 1 :])
            places.append((y, x, panel.pixels))
            texts.append((x, y - LINE / 2, _cut(panel.caption, width - MARGIN - x if alone else columns), {"fontsize": 8}))
            texts.append((x + 3, y + rows - LINE / 2, panel.corner, inside))
            for letter, at in zip(panel.sides or (), (x + 3, x + columns - 10), strict=False):
                texts.append((at, y + rows / 2, letter, inside))
            x += columns + GAP
        y += height + GAP
    for row_of_names in _flowing(legend, width - 2 * MARGIN):
        for x, colour, name in row_of_names:
            places.append((y + 4, MARGIN + x, np.full((10, 10, 3), palette(np.array(COLOURS.index(colour) + 1)), np.uint8)))
            texts.append((MARGIN + x + 14, y + LINE / 2, name, {"fontsize": 8}))
        y += LINE
    for note in notes:
        for row in textwrap.wrap(note, letters):
            texts.append((MARGIN, y + LINE / 2, row, {"fontsize": 8, "color": "#616e7c"}))
            y += LINE
    canvas = np.full((y + MARGIN, width, 3), 255, np.uint8)
    for top, left, pixels in places:
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    figure = Figure(figsize=(width / 100, len(canvas) / 100), dpi=100)
    figure.figimage(canvas, origin="upper")
    for across, down, text, style in texts:
        if text:
            figure.text(across / width, 1 - down / len(canvas), text, va="center", parse_math=False, **style)
    surface = FigureCanvasAgg(figure)
    surface.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(surface.buffer_rgba())[..., :3]).save(buffer, "PNG")
    return buffer.getvalue()


def _cut(text: str, width: float) -> str:
    """What fits into `width` pixels."""
    fitting = int(width / LETTER)
    return text if len(text) <= fitting else f"{text[: max(0, fitting - 1)]}…"


def _flowing(legend: Sequence[tuple[str, str]], width: float) -> Iterator[list[tuple[int, str, str]]]:
    """(x, colour, name) in rows no wider than `width` pixels."""
    row: list[tuple[int, str, str]] = []
    x = 0
    for colour, name in legend:
        taken = int(len(name) * LETTER) + 30
        if row and x + taken > width:
            yield row
            row, x = [], 0
        row.append((x, colour, name))
        x += taken
    if row:
        yield row


def legend_of(names: Sequence[str], labels: Sequence[np.ndarray], multilabel: bool) -> list[tuple[str, str]]:
    """(colour, name) of the classes that are on any of these label arrays; `names` are those of label 1, 2, … or of the masks."""
    def present(number: int) -> bool:
        return any((one[..., number, :, :] > 0).any() if multilabel else (one == number + 1).any() for one in labels)

    return [(COLOURS[number % len(COLOURS)], name) for number, name in enumerate(names) if present(number)]
