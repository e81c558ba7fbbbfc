"""`linear3d`: one linear layer on every cell of the last grid (1 x 1 x 1 convolution), for segmentation of volumes.

The rows "Linear Probing" of the paper's Tables 12 to 14, read by the letter: dropout 0.1, batch normalisation, a convolution of
weights N(0, 0.01), and in-plane bilinear interpolation to the pixels; planes stay where they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medprobe.heads._dense import VolumeSegmenter, linear_cells
from medprobe.registry import HEADS


@dataclass(frozen=True)
class Linear3D(VolumeSegmenter):
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    dropout: float = 0.1

    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        return linear_cells(3, widths[-1], outputs, self.dropout)


HEADS.register("linear3d")(Linear3D)
