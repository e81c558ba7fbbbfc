"""`unetr`: MONAI's UNETR, on the volume itself: a supervised baseline, a head on the encoder `pixels`.

A transformer of 12 layers, width 768, over patches of 16 voxels, and a convolutional decoder; trained from nothing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads.networks import VolumeNetwork, monai
from medprobe.registry import HEADS


@dataclass(frozen=True)
class UNETR(VolumeNetwork):
    multiple: ClassVar[int] = 16

    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        return monai("unetr", "UNETR")(channels, outputs, patch)


HEADS.register("unetr")(UNETR)
