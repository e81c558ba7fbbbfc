"""`linear2d`: one linear layer on every cell of the last grid (1 x 1 convolution), for segmentation of pictures.

As DINOv3's linear segmentation head: dropout 0.1, batch normalisation, a 1 x 1 convolution of weights N(0, 0.01), AdamW with
learning rate 1e-3 and weight decay 1e-3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medprobe.heads._dense import Segmenter, linear_cells
from medprobe.registry import HEADS


@dataclass(frozen=True)
class Linear2D(Segmenter):
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    dropout: float = 0.1

    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        return linear_cells(2, widths[-1], outputs, self.dropout)


HEADS.register("linear2d")(Linear2D)
