"""Random flips and turns of the pieces a segmenter learns from: the same of frozen grids as of the planes themselves.

A grid is flipped or turned with its mask. That is exact for `pixels`; of an encoder's grid it stands for encoding the flipped
image, from which it differs by what the encoder knows of places and directions. Turns are rigid in mm, about the middle of the
grid, whatever the spacing and whether the plane was squashed; what comes in from outside repeats the rim and is not learned from.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medprobe.heads import _mirror
from medprobe.heads._crops import IGNORED, Crops
from medprobe.heads._mirror import Flip

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])
ROWS, COLUMNS = (0, 2), (1, 3)
SWAPS = (
    "flips left-right are left out: classes swap, and an encoder that knows left from right "
    "still says so in a grid that was flipped"
)


@dataclass(frozen=True)
class Augmentation:
    """`flips` and `stretches` of each case: those that may be drawn, and the height of a grid's plane over its width, in mm."""

    flips: tuple[tuple[Flip, ...], ...]
    stretches: tuple[float, ...]
    rotate: float
    multilabel: bool

    @classmethod
    def of(
        cls, data: Crops, flips: str, pairs: str, rotate: float, classes: Sequence[str],
        frozen: bool, warn: Callable[[str], None],
    ) -> "Augmentation":  # fmt: skip
        """What the cases allow; `warn` hears which flips are left out, and why. `frozen`: the grids are an encoder's."""
        found = {
            axes: _mirror.flips_of(flips, pairs, classes, axes)
            for axes in dict.fromkeys(case.axes for case in data.cases)
        }
        for sentence in dict.fromkeys(each for _, left_out in found.values() for each in left_out):
            warn(sentence)
        if frozen and any(flip.swaps for drawn, _ in found.values() for flip in drawn):
            warn(SWAPS)
            found = {axes: (tuple(flip for flip in drawn if not flip.swaps), said) for axes, (drawn, said) in found.items()}
        cases = data.cases
        drawn, stretches = [found[case.axes][0] for case in cases], [case.stretch for case in cases]
        return cls(tuple(drawn), tuple(stretches), rotate, data.multilabel)

    @property
    def facts(self) -> dict[str, Any]:
        """What was drawn from, for the result."""
        each = sorted({(flip.axis, flip.classes) for flips in self.flips for flip in flips})
        swapped = sorted(
            {(place, to) for _, classes in each for place, to in enumerate(classes) if place < to}
        )
        return {"flipped_axes": sorted({axis for axis, _ in each}), "swapped_classes": swapped}

    def __call__(
        self, grids: list[Any], masks: Any, boxes: np.ndarray, cases: Sequence[int],
        rng: np.random.Generator,
    ) -> tuple[list[Any], Any, np.ndarray]:  # fmt: skip
        """Each piece under a draw of its own; `cases`: the case of each."""
        boxes = boxes.copy()
        mirror = rng.random((len(masks), 3)) < 0.5
        angles = rng.uniform(-self.rotate, self.rotate, len(masks))
        for place, case in enumerate(cases):
            for flip in self.flips[case]:
                if mirror[place, flip.axis]:
                    for grid in grids:
                        grid[place] = grid[place].flip(flip.axis)
                    masks[place] = flipped(masks[place], flip, self.multilabel)
                    boxes[place] = _flipped_box(boxes[place], flip.axis, grids[-1].shape)
            if self.rotate:
                height, width = grids[-1].shape[-2:]
                box, stretch = boxes[place] / [height, width, height, width], self.stretches[case]
                turned = rotated(masks[place].float() - IGNORED, angles[place], stretch, "nearest", box)
                masks[place] = turned.round().long() + IGNORED
                for grid in grids:
                    grid[place] = rotated(grid[place], angles[place], stretch, "bilinear")
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
