"""`unet3d`: MONAI's U-Net in 3D, on the volume itself: a supervised baseline, a head on the encoder `pixels`.

Four levels of 16 to 128 channels with two residual units each; trained from nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads.networks import VolumeNetwork, monai
from medprobe.registry import HEADS


@dataclass(frozen=True)
class UNet3D(VolumeNetwork):
    multiple: ClassVar[int] = 8

    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        return monai("unet", "UNet")(3, channels, outputs, (16, 32, 64, 128), (2, 2, 2), num_res_units=2)


HEADS.register("unet3d")(UNet3D)
