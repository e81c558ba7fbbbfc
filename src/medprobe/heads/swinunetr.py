"""`swinunetr`: MONAI's Swin UNETR, on the volume itself: a supervised baseline, a head on the encoder `pixels`.

Width 24 and windows of 7 voxels; trained from nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads.networks import VolumeNetwork, monai
from medprobe.registry import HEADS


@dataclass(frozen=True)
class SwinUNETR(VolumeNetwork):
    multiple: ClassVar[int] = 32

    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        return monai("swin_unetr", "SwinUNETR")(in_channels=channels, out_channels=outputs, feature_size=24, spatial_dims=3)


HEADS.register("swinunetr")(SwinUNETR)
