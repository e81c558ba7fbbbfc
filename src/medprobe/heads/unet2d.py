"""`unet2d`: MONAI's U-Net on the plane itself: the supervised baseline of pictures, a head on the encoder `pixels`.

Five levels of 16 to 256 channels with two residual units each (fewer where the plane is smaller than 32), trained from
nothing. On another encoder's grid it is a decoder of many parameters; the paper's rows are on pixels.
"""

from dataclasses import dataclass
from typing import Any

from medprobe.heads.networks import PixelNetwork, monai
from medprobe.registry import HEADS

CHANNELS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class UNet2D(PixelNetwork):
    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        levels = CHANNELS[: max(2, min(len(CHANNELS), min(patch).bit_length() - 1))]
        return monai("unet", "UNet")(2, channels, outputs, levels, (2,) * (len(levels) - 1), num_res_units=2)


HEADS.register("unet2d")(UNet2D)
