"""`identity`: the control that moves nothing, the row "unregistered"."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medprobe.heads._pairs import Registration, images_of
from medprobe.registry import HEADS
from medprobe.types import Context, Sample, State


@dataclass(frozen=True)
class Identity(Registration):
    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def displacement(self, state: State, sample: Sample, ctx: Context) -> np.ndarray:
        fixed, _moving = images_of(sample, ctx.dims)
        return np.zeros((ctx.dims, *fixed.shape[1:]), np.float32)


HEADS.register("identity")(Identity)
