"""`linear3d`: one linear layer on every cell of the last grid (1 x 1 x 1 convolution), for segmentation of volumes.

The rows "Linear Probing" of the paper's Tables 12 to 14, read by the letter: dropout 0.1, batch normalisation, a convolution of
weights N(0, 0.01), and in-plane bilinear interpolation to the pixels; planes stay where they are (methods sheet 5.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medprobe.heads._dense import VolumeSegmenter
from medprobe.registry import HEADS


@dataclass(frozen=True)
class Linear3D(VolumeSegmenter):
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    dropout: float = 0.1

    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        from torch import nn

        class Linear(nn.Module):
            def __init__(self, dropout: float) -> None:
                super().__init__()
                self.drop, self.norm, self.cell = nn.Dropout3d(dropout), nn.BatchNorm3d(widths[-1]), nn.Conv3d(widths[-1], outputs, 1)
                nn.init.normal_(self.cell.weight, std=0.01)
                nn.init.zeros_(self.cell.bias)  # type: ignore[arg-type]

            def forward(self, grids: Any) -> Any:
                return self.cell(self.norm(self.drop(grids[-1])))

        return Linear(self.dropout)


HEADS.register("linear3d")(Linear3D)
