"""What a segmenter learns from: pieces of grids and masks, drawn epoch by epoch; grids stay where they are until a batch asks for them.

A picture is one piece. A volume is cut along its planes into pieces of `depth`, planes whole; one third of them hold a class
other than the background, where there is any (as nnU-Net does).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_high
from typing import Any

import numpy as np

from medprobe.errors import RequestError
from medprobe.heads._mirror import UNKNOWN, axes_of
from medprobe.types import Context, Features, Frame, Sample, Samples

IGNORED = -1
FOREGROUND = 1 / 3
"""Share of pieces that are put where something is."""


@dataclass(frozen=True)
class Case:
    """`masks`: of each plane, compressed: int16 (side, side), or (K, side, side) where classes overlap."""

    features: Features
    masks: tuple[bytes, ...]
    filled: np.ndarray
    """Planes that hold a class."""
    axes: tuple[str, ...] = UNKNOWN
    """Which axes of the body those of a piece, ([depth,] height, width), run along."""
    stretch: float = 1.0
    """Height of the grid's plane over its width, in mm (in pixels of the source where it has no spacing)."""
    views: Mapping[str, Features] = field(default_factory=dict)
    """Features of the plane flipped or turned, by the name of the view."""

    def seen(self, view: str) -> Features:
        return self.views[view] if view else self.features

    @property
    def box(self) -> tuple[float, float, float, float]:
        return box_of(self.features.frame, self.features.grids[-1].shape)


@dataclass(frozen=True)
class Crops:
    """The training part. `side`: at which logits and masks are compared; `depth` in planes, None for pictures."""

    cases: tuple[Case, ...]
    side: int
    depth: int | None
    classes: int
    multilabel: bool

    def __len__(self) -> int:
        return sum(pieces_of(len(case.masks), self.depth) for case in self.cases)

    @property
    def widths(self) -> list[int]:
        return [int(grid.shape[1]) for grid in self.cases[0].features.grids]

    @property
    def grid(self) -> tuple[int, int]:
        return int(self.cases[0].features.grids[-1].shape[2]), int(self.cases[0].features.grids[-1].shape[3])

    @classmethod
    def read(cls, train: Samples, side: int | None, depth: int | None, ctx: Context) -> "Crops":
        """RequestError: no samples, volumes where pictures are expected, or grids that differ in shape."""
        if not len(train):
            raise RequestError("the training part is empty; give it cases")
        cases: list[Case] = []
        for number, sample in enumerate(train):
            case = _whole(sample, depth, ctx)
            shapes = [grid.shape[1:] for grid in case.features.grids]
            if cases and shapes != (known := [grid.shape[1:] for grid in cases[0].features.grids]):
                raise RequestError(f"{sample.id}: expected grids of one shape for all cases, found {shapes} and {known}; give --image-size")
            cases.append(case)
            ctx.progress(number + 1, len(train), "reading masks")
        if side is None:
            cells = max(cases[0].features.grids[-1].shape[2:])
            side = side_of(cells, median_high(_own_side(case) for case in cases), depth)
        small = tuple(_at_side(case, side, ctx) for case in cases)
        return cls(small, side, depth, len(ctx.classes), ctx.multilabel)

    def with_views(self, train: Samples, views: Sequence[str], ctx: Context) -> "Crops":
        """The same with the features of these views of the same samples."""
        seen = {view: [one.features["image"] for one in train.augmented(view, ctx.rng)] for view in views}
        cases = [
            replace(case, views={view: features[number] for view, features in seen.items()})
            for number, case in enumerate(self.cases)
        ]
        return replace(self, cases=tuple(cases))

    def drawn(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(case, first plane) of every piece of an epoch, in random order."""
        pieces = []
        for number, case in enumerate(self.cases):
            last = max(0, len(case.masks) - (self.depth or 1))
            for _ in range(pieces_of(len(case.masks), self.depth)):
                start = int(rng.integers(0, last + 1))
                if self.depth is not None and rng.random() < FOREGROUND and len(case.filled):
                    start = int(np.clip(rng.choice(case.filled) - self.depth // 2, 0, last))
                pieces.append((number, start))
        return [pieces[place] for place in rng.permutation(len(pieces))]

    def batch(self, pieces: Sequence[tuple[int, int]], views: Sequence[str] = ()) -> tuple[list[Any], Any, np.ndarray]:
        """Grids (N, D_l, [d,] h, w), masks (N, [K,] [d,] side, side) and boxes (N, 4); planes past the last repeat it, ignored.
        `views`: the one that the grids of each piece are taken from; masks and boxes are those of the plane as it is."""
        import torch

        cases = [self.cases[number] for number, _ in pieces]
        seen = [case.seen(view) for case, view in zip(cases, views or [""] * len(cases), strict=True)]
        grids = [
            torch.stack([planes_of(one.grids[level], start, self.depth) for one, (_, start) in zip(seen, pieces, strict=True)])
            for level in range(len(self.widths))
        ]
        masks = torch.stack([self._mask(case, start) for case, (_, start) in zip(cases, pieces, strict=True)])
        return grids, masks, np.array([case.box for case in cases])

    def _mask(self, case: Case, start: int) -> Any:
        """int64 ([K,] [d,] side, side)."""
        import torch

        shape = (self.classes, self.side, self.side) if self.multilabel else (self.side, self.side)
        stop = min(start + (self.depth or 1), len(case.masks))
        planes = [np.frombuffer(zlib.decompress(mask), np.int16).reshape(shape) for mask in case.masks[start:stop]]
        if self.depth is None:
            return torch.as_tensor(planes[0].astype(np.int64))
        planes += [np.full(shape, IGNORED, np.int16)] * (self.depth - len(planes))
        return torch.as_tensor(np.stack(planes, axis=-3).astype(np.int64))


def pieces_of(planes: int, depth: int | None) -> int:
    """How many pieces a case gives in an epoch."""
    return 1 if depth is None else max(1, round(planes / depth))


def planes_of(grid: Any, start: int, depth: int | None) -> Any:
    """Planes start…start + depth of a grid (planes, D, h, w) as (D, depth, h, w), the last repeated where it ends; (D, h, w) of a picture."""
    import torch

    part = np.array(grid[start : start + (depth or 1)], dtype=np.float32)
    if depth is None:
        return torch.as_tensor(part[0])
    if len(part) < depth:
        part = np.concatenate([part, np.repeat(part[-1:], depth - len(part), axis=0)])
    return torch.as_tensor(part).movedim(0, 1)


def _whole(sample: Sample, depth: int | None, ctx: Context) -> Case:
    """A case with its masks on the pixels of their source."""
    features, target = sample.features["image"], sample.target
    if not features.grids:
        raise RequestError(f"{sample.id}: expected grids, found none; this encoder has no dense features")
    grid = features.grids[-1].shape
    if depth is None and grid[0] != 1:
        raise RequestError(f"{sample.id}: expected the grid of one plane, found {grid[0]}; this head is for pictures")
    labels = np.asarray(target.labels)
    classes = len(labels) if ctx.multilabel else 1
    planes = np.moveaxis(labels.reshape(classes, -1, *labels.shape[-2:]), 0, 1)  # (D, K or 1, H, W)
    if len(planes) != grid[0]:
        raise RequestError(f"{sample.id}: expected a mask of {grid[0]} planes like its image, found {len(planes)}; write the mask on the image's grid")
    size = tuple(planes.shape[-2:])
    if features.frame is not None and size != tuple(features.frame.shape):
        raise RequestError(f"{sample.id}: expected a mask of {' x '.join(map(str, features.frame.shape))} pixels like its image, found {' x '.join(map(str, size))}; write the mask on the image's pixels")
    masks = tuple(zlib.compress(plane.astype(np.int16).tobytes(), 1) for plane in planes)
    filled = np.flatnonzero([bool((plane > 0).any()) for plane in planes])
    top, left, bottom, right = box_of(features.frame, grid)
    y, x = (1.0, 1.0) if target.spacing is None else target.spacing[-2:]
    stretch = (y * size[0] / (bottom - top) * grid[-2]) / (x * size[1] / (right - left) * grid[-1])
    axes = axes_of(target.affine, 2 if depth is None else 3)
    return Case(features, masks, filled, axes, stretch)


def _at_side(case: Case, side: int, ctx: Context) -> Case:
    """The case with its masks at the side of training."""
    import torch
    from torch.nn.functional import interpolate

    shape = case.features.grids[-1].shape
    unseen = _unseen(case.box, shape[-2:], side)
    classes = len(ctx.classes) if ctx.multilabel else 1
    height, width = case.features.frame.shape if case.features.frame is not None else shape[-2:]
    masks = []
    for mask in case.masks:
        plane = np.frombuffer(zlib.decompress(mask), np.int16).reshape(classes, height, width)
        whole = torch.as_tensor(plane.astype(np.float32))[None]
        small = interpolate(whole, size=(side, side), mode="nearest-exact")[0].to(torch.int16)
        small[:, unseen] = IGNORED
        masks.append(zlib.compress((small if ctx.multilabel else small[0]).numpy().tobytes(), 1))
    return replace(case, masks=tuple(masks))


def _own_side(case: Case) -> int:
    """The longer side of a source in pixels."""
    frame = case.features.frame
    return max(case.features.grids[-1].shape[2:] if frame is None else frame.shape)


LARGEST_PICTURE, LARGEST_PLANE = 256, 512


def side_of(cells: float, own: int, depth: int | None) -> int:
    """The side for training, from the longer side of a grid and the usual longer side of a source's plane in pixels (`own`: the
    median of all training cases, the higher of two).

    Pictures: eight times the grid's, 256 at most, never less than the grid's. Volumes: the smaller of the source's own and of
    sixteen times the grid's, 512 at most.
    """
    if depth is None:
        return int(max(cells, min(8 * cells, LARGEST_PICTURE)))
    return int(min(own, 16 * cells, LARGEST_PLANE))


def _unseen(box: Sequence[float], grid: Sequence[int], side: int) -> np.ndarray:
    """(side, side) bool: pixels of a mask that lie outside the grid, since the plane was cut."""
    middles = (np.arange(side) + 0.5) / side
    rows, columns = box[0] + (box[2] - box[0]) * middles, box[1] + (box[3] - box[1]) * middles
    return ((rows < 0) | (rows > grid[0]))[:, None] | ((columns < 0) | (columns > grid[1]))[None]


def box_of(frame: Frame | None, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Where the source's plane lies in its grid: top, left, bottom, right in cells."""
    return (0.0, 0.0, float(shape[-2]), float(shape[-1])) if frame is None else frame.box
