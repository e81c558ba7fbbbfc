"""Random flips and turns of the pieces a segmenter learns from: the same for frozen grids as for the planes themselves.

Of `grids` (the default) a grid is flipped or turned with its mask. That is exact for `pixels`; of an encoder's grid it stands for
encoding the flipped image, from which it differs by what the encoder knows of places and directions. With `views` the encoder sees
the flipped and turned planes: a finite number of views, kept like all features. Turns of grids are rigid in mm, about the middle of
the grid, whatever the spacing and whether the plane was squashed; those of views are of the square that the encoder sees, by one of
three angles of the same variance. What comes in from outside repeats the rim and is not learned from.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np

from medprobe.heads import _mirror
from medprobe.heads._crops import IGNORED, Crops
from medprobe.heads._mirror import Flip

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])
ROWS, COLUMNS = (0, 2), (1, 3)
PLANE = (-2, -1)
"""Axes along which a flip is another plane; along the depth it is another order of planes."""
POLICIES = ("grids", "views", "none")
SWAPS = (
    "flips left-right are left out: classes swap, and an encoder that knows left from right "
    "still says so in a grid that was flipped; head.augment=views encodes flipped planes"
)


@dataclass(frozen=True)
class View:
    """A plane as an encoder may see it: flipped along `axes`, then turned."""

    axes: tuple[int, ...] = ()
    degrees: float = 0.0

    @property
    def name(self) -> str:
        """Empty for the plane as it is; part of the key of features."""
        flips = [("vertical", "horizontal")[axis] for axis in self.axes]
        return ", ".join([*flips, *([f"{self.degrees:+.6g} degrees"] if self.degrees else [])])

    def __call__(self, planes: Any) -> Any:
        """(N, C, H, W)."""
        planes = planes.flip(self.axes) if self.axes else planes
        return rotated(planes, self.degrees, 1.0, "bilinear") if self.degrees else planes


AS_IT_IS = View()


def views(axes: Iterable[int], rotate: float) -> tuple[View, ...]:
    """All but the plane as it is."""
    places = sorted(set(axes) & set(PLANE))
    several = chain.from_iterable(combinations(places, number) for number in range(len(places) + 1))
    every = [View(flipped, degrees) for flipped in several for degrees in angles(rotate)]
    return tuple(view for view in every if view.name)


def angles(rotate: float) -> tuple[float, ...]:
    """Three of the variance of angles drawn evenly from -rotate to rotate."""
    return (0.0, -rotate / math.sqrt(2), rotate / math.sqrt(2)) if rotate else (0.0,)


@dataclass(frozen=True)
class Draw:
    """What becomes of a piece. `seen`: its grids were encoded so, and are not flipped and turned again."""

    flips: tuple[Flip, ...] = ()
    degrees: float = 0.0
    stretch: float = 1.0
    seen: bool = False

    @property
    def view(self) -> str:
        """The name of the view that its grids are taken from."""
        axes = tuple(flip.axis for flip in self.flips if flip.axis in PLANE)
        return View(axes, self.degrees).name if self.seen else ""


@dataclass(frozen=True)
class Augmentation:
    """`flips` and `stretches` of each case: those that may be drawn, and the height of a grid's plane over its width, in mm."""

    flips: tuple[tuple[Flip, ...], ...]
    stretches: tuple[float, ...]
    rotate: float
    multilabel: bool
    views: bool = False

    @classmethod
    def of(
        cls, data: Crops, flips: str, pairs: str, rotate: float, classes: Sequence[str],
        policy: str, warn: Callable[[str], None],
    ) -> "Augmentation":  # fmt: skip
        """What the cases allow; `warn` hears which flips are left out, and why. `policy`: `exact` of planes, else of `POLICIES`."""
        found = {
            axes: _mirror.flips_of(flips, pairs, classes, axes)
            for axes in dict.fromkeys(case.axes for case in data.cases)
        }
        for sentence in dict.fromkeys(each for _, left_out in found.values() for each in left_out):
            warn(sentence)
        allowed = {axes: drawn for axes, (drawn, _) in found.items()}
        if policy == "grids" and any(flip.swaps for drawn in allowed.values() for flip in drawn):
            warn(SWAPS)
            allowed = {
                axes: tuple(flip for flip in drawn if not flip.swaps)
                for axes, drawn in allowed.items()
            }
        drawn = tuple(allowed[case.axes] for case in data.cases)
        stretches = tuple(case.stretch for case in data.cases)
        return cls(drawn, stretches, rotate, data.multilabel, policy == "views")

    @property
    def encoded(self) -> tuple[str, ...]:
        """The names of the views that are drawn from, beside the plane itself."""
        axes = [flip.axis for flips in self.flips for flip in flips]
        return tuple(view.name for view in views(axes, self.rotate)) if self.views else ()

    @property
    def facts(self) -> dict[str, Any]:
        """What was drawn from, for the result."""
        each = sorted({(flip.axis, flip.classes) for flips in self.flips for flip in flips})
        swapped = sorted(
            {(place, to) for _, classes in each for place, to in enumerate(classes) if place < to}
        )
        return {"flipped_axes": sorted({axis for axis, _ in each}), "swapped_classes": swapped}

    def drawn(self, cases: Sequence[int], rng: np.random.Generator) -> list[Draw]:
        """A draw for each piece, of these cases."""
        mirror = rng.random((len(cases), 3)) < 0.5
        turns = rng.uniform(-1, 1, len(cases))
        found = []
        for place, case in enumerate(cases):
            flips = tuple(flip for flip in self.flips[case] if mirror[place, flip.axis])
            if self.views:
                several = angles(self.rotate)
                degrees = several[int((turns[place] + 1) / 2 * len(several))]
                found.append(Draw(flips, degrees, 1.0, seen=True))
            else:
                found.append(Draw(flips, turns[place] * self.rotate, self.stretches[case]))
        return found

    def __call__(
        self, grids: list[Any], masks: Any, boxes: np.ndarray, draws: Sequence[Draw]
    ) -> tuple[list[Any], Any, np.ndarray]:
        """Each piece under its draw."""
        boxes = boxes.copy()
        height, width = grids[-1].shape[-2:]
        for place, draw in enumerate(draws):
            for flip in draw.flips:
                masks[place] = flipped(masks[place], flip, self.multilabel)
                boxes[place] = _flipped_box(boxes[place], flip.axis, grids[-1].shape)
                for grid in grids if not draw.seen or flip.axis not in PLANE else ():
                    grid[place] = grid[place].flip(flip.axis)
            if not draw.degrees:
                continue
            box = boxes[place] / [height, width, height, width]
            turned = rotated(masks[place].float() - IGNORED, draw.degrees, draw.stretch, "nearest", box)
            masks[place] = turned.round().long() + IGNORED
            for grid in grids if not draw.seen else ():
                grid[place] = rotated(grid[place], draw.degrees, draw.stretch, "bilinear")
        return grids, masks, boxes


def flipped(mask: Any, flip: Flip, multilabel: bool) -> Any:
    """A mask ([K,] [d,] h, w) under a flip, its classes those of the mirror; what is ignored stays so."""
    import torch

    turned = mask.flip(flip.axis)
    if not flip.swaps:
        return turned
    classes = torch.as_tensor(flip.classes)
    if multilabel:
        return turned[classes]
    return torch.where(turned == IGNORED, turned, classes[turned.clamp(min=0)])


def _flipped_box(box: np.ndarray, axis: int, shape: Sequence[int]) -> np.ndarray:
    """Where the source's plane lies in a flipped grid."""
    if axis == -3:
        return box
    box, ends = box.copy(), list(ROWS if axis == -2 else COLUMNS)
    box[ends] = shape[axis] - box[ends[::-1]]
    return box


def rotated(planes: Any, degrees: float, stretch: float, mode: str, box: np.ndarray = WHOLE) -> Any:
    """(..., h, w) turned about the middle of the grid, whose height is `stretch` times its width in mm.

    `box`: where in the grid these planes lie, as shares of it (top, left, bottom, right). What comes in from outside is 0 of
    masks (`nearest`), the rim of others.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cosine, -sine * stretch], [sine / stretch, cosine]])
    scale = np.array([box[3] - box[1], box[2] - box[0]])
    centre = np.array([box[1] + box[3], box[0] + box[2]]) - 1
    inner = turn * scale / scale[:, None]
    shift = (turn @ centre - centre) / scale
    matrix = torch.as_tensor(np.column_stack([inner, shift])[None], dtype=planes.dtype)
    flat = planes.reshape(1, -1, *planes.shape[-2:])
    places = affine_grid(matrix, list(flat.shape), align_corners=False)
    outside = "zeros" if mode == "nearest" else "border"
    made = grid_sample(flat, places, mode=mode, padding_mode=outside, align_corners=False)
    return made.reshape(planes.shape)
