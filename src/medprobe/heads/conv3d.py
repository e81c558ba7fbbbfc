"""`conv3d`: a 3D decoder with skips over several layers of a frozen encoder of planes (paper, Section 3.2).

The grids of four layers, each projected to 128 channels. From the last one up, stages double the plane (never the number
of planes): a transposed convolution of stride (1, 2, 2), plus the next shallower grid brought to the same size by transposed
convolutions of its own (UNETR's pattern), then twice [3 x 3 x 3 convolution, instance normalisation, leaky ReLU]. The last of
128, 96, 64 and 32 channels, as many as there are stages: they end once the plane reaches the side of the training masks, the
smaller of the source's and the encoder's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from medprobe.heads._dense import VolumeSegmenter
from medprobe.registry import HEADS

PROJECTED = 128
WIDTHS = (128, 96, 64, 32)


@dataclass(frozen=True)
class Conv3D(VolumeSegmenter):
    levels: ClassVar[int] = 4

    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        from torch import nn

        stages = 0
        while stages < len(WIDTHS) and max(grid) * 2**stages < side:
            stages += 1

        def block(width: int) -> Any:
            layers: list[Any] = []
            for _ in range(2):
                layers += [nn.Conv3d(width, width, 3, padding=1, bias=False), nn.InstanceNorm3d(width, affine=True), nn.LeakyReLU(0.01, inplace=True)]
            return nn.Sequential(*layers)

        def doubled(before: int, after: int, times: int) -> Any:
            path = [before] + [after] * times
            return nn.Sequential(*(nn.ConvTranspose3d(*pair, (1, 2, 2), (1, 2, 2)) for pair in pairwise(path)))

        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = block(PROJECTED)
                channels = (PROJECTED, *WIDTHS[len(WIDTHS) - stages :])
                self.up = nn.ModuleList([doubled(*pair, 1) for pair in pairwise(channels)])
                self.skip = nn.ModuleList([doubled(PROJECTED, width, number + 1) for number, width in enumerate(channels[1 : len(widths)])])
                self.project = nn.ModuleList([nn.Conv3d(width, PROJECTED, 1) for width in widths[-1 - len(self.skip) :]])
                self.stage = nn.ModuleList([block(width) for width in channels[1:]])
                self.cell = nn.Conv3d(channels[-1], outputs, 1)

            def forward(self, grids: Any) -> Any:
                x = self.first(self.project[-1](grids[-1]))
                for number, (up, stage) in enumerate(zip(self.up, self.stage, strict=True)):
                    x = up(x)
                    if number < len(self.skip):
                        x = x + self._beside(number, grids, x.shape[2:])
                    for layer in stage.children():  # one at a time, so that what a layer was given goes as soon as it is done
                        x = layer(x)
                return self.cell(x)

            def _beside(self, number: int, grids: Any, size: Sequence[int]) -> Any:
                from torch.nn.functional import interpolate

                made = self.skip[number](self.project[-2 - number](grids[-2 - number]))
                if made.shape[2:] == size:
                    return made
                return interpolate(made, size=size, mode="trilinear", align_corners=False)  # shallow maps of a convolutional network are finer already

        return Decoder()


HEADS.register("conv3d")(Conv3D)
