"""`convexadam`: a displacement between the feature images of a pair without learning (Siebert et al., convexAdam; Tables 15 and 16).

A coupled convex search over whole shifts, made inverse consistent, then Adam on a coarse grid (_convex_adam.py). Features are the
descriptors of a pair as they are, and maps of an encoder of planes after the task's joint PCA, scaled (_pairs.py).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medprobe.heads import _pooled
from medprobe.heads._pairs import Registration, feature_images
from medprobe.registry import HEADS
from medprobe.types import Context, Sample, State


@dataclass(frozen=True)
class ConvexAdam(Registration):
    """`grid_sp`: spacing in voxels of the search's grid, a number or one for each axis (z, y, x); `disp_hw`: steps of it that are searched
    to each side; 0: as methods 7.3 has it for 2D (2 and 6) and 3D (3 and 3). `alpha`: size of an encoder's maps beside descriptors (0.1 as
    anatomix has it); alone they have size 1."""

    needs: ClassVar[frozenset[str]] = frozenset({"grid"})
    reduce: ClassVar[str] = "joint-pca:24"
    grid_sp: int | tuple[int, ...] = 0
    disp_hw: int = 0
    lambda_weight: float = 1.25
    niter: int = 80
    grid_sp_adam: int = 2
    inverse_consistent: bool = True
    selected_smooth: int = 0
    learning_rate: float = 1.0
    alpha: float = 0.1
    reference_scaling: bool = False

    def __post_init__(self) -> None:
        steps = self.grid_sp if isinstance(self.grid_sp, tuple | list) else (self.grid_sp,)
        whole = all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in steps)
        _pooled.require(whole and len(steps) in (1, 2, 3), "convexadam", "grid_sp", "a whole number >= 0, or one for each axis", self.grid_sp)
        for name in ("disp_hw", "niter", "selected_smooth"):
            value = getattr(self, name)
            _pooled.require(value == 0 or _pooled.is_count(value), "convexadam", name, "a whole number >= 0", value)
        _pooled.require(_pooled.is_count(self.grid_sp_adam), "convexadam", "grid_sp_adam", "a whole number >= 1", self.grid_sp_adam)
        for name in ("inverse_consistent", "reference_scaling"):
            _pooled.require(isinstance(getattr(self, name), bool), "convexadam", name, "true or false", getattr(self, name))
        for name in ("lambda_weight", "learning_rate", "alpha"):
            value = getattr(self, name)
            _pooled.require(_pooled.is_number(value) and value > 0, "convexadam", name, "a number above 0", value)

    def displacement(self, state: State, sample: Sample, ctx: Context) -> np.ndarray:
        from medprobe.heads._convex_adam import convex_adam

        fixed, moving = feature_images(sample, ctx.dims, self.alpha)
        spacing, reach = ((2, 6), (3, 3))[ctx.dims - 2]
        return convex_adam(
            fixed, moving, grid_sp=tuple(self.grid_sp) if isinstance(self.grid_sp, list) else self.grid_sp or spacing, disp_hw=self.disp_hw or reach, lambda_weight=self.lambda_weight,
            niter=self.niter, grid_sp_adam=self.grid_sp_adam, ic=self.inverse_consistent, selected_smooth=self.selected_smooth,
            learning_rate=self.learning_rate, reference_scaling=self.reference_scaling,
        )  # fmt: skip


HEADS.register("convexadam")(ConvexAdam)
