"""`unet2d`: MONAI's U-Net on the plane itself: the supervised baseline, a head on the encoder `pixels`.

Five levels of 16 to 256 channels with two residual units each (fewer where the plane is smaller than 32), trained from
nothing with flips. On another encoder's grid
it is a decoder of many parameters; the paper's rows are on pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads._dense import Segmenter
from medprobe.registry import HEADS

CHANNELS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class UNet2D(Segmenter):
    supervised: ClassVar[bool] = True
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    flips: bool = True

    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.networks.nets.unet import UNet
        from torch import nn
        from torch.nn.functional import pad

        channels = CHANNELS[: max(2, min(len(CHANNELS), min(grid).bit_length() - 1))]
        multiple = 2 ** (len(channels) - 1)

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unet = UNet(2, widths[-1], outputs, channels, (2,) * (len(channels) - 1), num_res_units=2)

            def forward(self, grids: Any) -> Any:
                height, width = grids[-1].shape[2:]
                padded = pad(grids[-1], (0, -width % multiple, 0, -height % multiple))
                return self.unet(padded)[:, :, :height, :width]

        return Network()


HEADS.register("unet2d")(UNet2D)
