"""`dynunet`: MONAI's DynUNet, the architecture of nnU-Net without its planning, on the volume itself: a supervised baseline, a head on the encoder `pixels`.

Five levels of 32 to 320 channels; trained from nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads.networks import VolumeNetwork, monai
from medprobe.registry import HEADS


@dataclass(frozen=True)
class DynUNet(VolumeNetwork):
    multiple: ClassVar[int] = 16

    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        return monai("dynunet", "DynUNet")(3, channels, outputs, (3,) * 5, (1, 2, 2, 2, 2), (2,) * 4, (32, 64, 128, 256, 320), norm_name=("INSTANCE", {"affine": True}))


HEADS.register("dynunet")(DynUNet)
