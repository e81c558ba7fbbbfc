"""`vnet`: MONAI's V-Net, on the volume itself: a supervised baseline, a head on the encoder `pixels`.

Channels must divide 16, as published; trained from nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads.networks import VolumeNetwork, monai
from medprobe.registry import HEADS


@dataclass(frozen=True)
class VNet(VolumeNetwork):
    multiple: ClassVar[int] = 16

    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        return monai("vnet", "VNet")(spatial_dims=3, in_channels=channels, out_channels=outputs)


HEADS.register("vnet")(VNet)
