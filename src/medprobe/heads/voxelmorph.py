"""`voxelmorph`: VoxelMorph through MONAI, trained without labels on the images themselves; diffeomorphic, or plain with `int_steps=0`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads._flows import Flow
from medprobe.registry import HEADS
from medprobe.types import Context, Sample


@dataclass(frozen=True)
class VoxelMorph(Flow):
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    supervised: ClassVar[bool] = True

    def seen(self, sample: Sample, images: tuple[Any, Any], ctx: Context) -> tuple[Any, Any]:
        return images


HEADS.register("voxelmorph")(VoxelMorph)
