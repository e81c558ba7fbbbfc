"""`conv2d`: shallow convolutions with bilinear upsampling on frozen grids, for segmentation of pictures (paper, Section 3.2).

The last grid is projected to 256 channels (several grids, where `task.layers` asks for them, to equal shares of 256 at the
size of the last), then up to three blocks of [bilinear x 2, 3 x 3 convolution, batch normalisation, ReLU] with 256, 128
and 64 channels, as long as that is no finer than the side of the training masks, and a 1 x 1 convolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medprobe.heads._dense import Segmenter
from medprobe.registry import HEADS

WIDTHS = (256, 128, 64)


@dataclass(frozen=True)
class Conv2D(Segmenter):
    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        import torch
        from torch import nn
        from torch.nn.functional import interpolate

        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.project = nn.ModuleList([nn.Conv2d(width, WIDTHS[0] // len(widths), 1) for width in widths])
                before, finest = WIDTHS[0] // len(widths) * len(widths), max(grid)
                self.blocks, self.scales = nn.ModuleList(), []
                for width in WIDTHS:
                    self.scales.append(2 if finest * 2 <= side else 1)
                    finest *= self.scales[-1]
                    self.blocks.append(nn.Sequential(nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()))
                    before = width
                self.cell = nn.Conv2d(before, outputs, 1)

            def forward(self, grids: Any) -> Any:
                size = grids[-1].shape[2:]
                made = [interpolate(project(one), size=size, mode="bilinear", align_corners=False) for project, one in zip(self.project, grids, strict=True)]
                x = torch.cat(made, dim=1)
                for scale, block in zip(self.scales, self.blocks, strict=True):
                    if scale > 1:
                        x = interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
                    x = block(x)
                return self.cell(x)

        return Decoder()


HEADS.register("conv2d")(Conv2D)
