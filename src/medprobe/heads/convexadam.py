"""`convexadam`: a displacement between the feature images of a pair without learning (Siebert et al., convexAdam; Tables 15 and 16).

A coupled convex search over whole shifts, made inverse consistent, then Adam on a coarse grid (_convex_adam.py). Features are the
descriptors of a pair as they are, and maps of an encoder of planes after the task's joint PCA, scaled (_pairs.py).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from medprobe.heads import _pooled
from medprobe.heads._pairs import Registration, feature_images
from medprobe.registry import HEADS
from medprobe.types import Context, Sample, State


@dataclass(frozen=True)
class ConvexAdam(Registration):
    """`grid_sp`: spacing in voxels of the search's grid, a number or one for each axis (z, y, x), as is
    `grid_sp_adam` of the grid of Adam; `disp_hw`: steps of the search's that are searched to each side; 0: as methods 7.3 has it for 2D (2 and 6) and 3D (3 and 3). `alpha`: size of an encoder's maps beside descriptors (0.1 as
    anatomix has it); alone they have size 1."""

    needs: ClassVar[frozenset[str]] = frozenset({"grid"})
    reduce: ClassVar[str] = "joint-pca:24"
    min_slices: ClassVar[int] = 18
    """Three cells of 6, the package's own spacing."""
    grid_sp: int | tuple[int, ...] = 0
    disp_hw: int = 0
    lambda_weight: float = 1.25
    niter: int = 80
    grid_sp_adam: int | tuple[int, ...] = 2
    inverse_consistent: bool = True
    selected_smooth: int = 0
    learning_rate: float = 1.0
    alpha: float = 0.1
    reference_scaling: bool = False

    def __post_init__(self) -> None:
        for name, least in (("grid_sp", 0), ("grid_sp_adam", 1)):
            value = getattr(self, name)
            needed = f"a whole number >= {least}, or one for each axis"
            _pooled.require(_are_steps(value, least), "convexadam", name, needed, value)
        for name in ("disp_hw", "niter", "selected_smooth"):
            value = getattr(self, name)
            _pooled.require(value == 0 or _pooled.is_count(value), "convexadam", name, "a whole number >= 0", value)
        for name in ("inverse_consistent", "reference_scaling"):
            _pooled.require(isinstance(getattr(self, name), bool), "convexadam", name, "true or false", getattr(self, name))
        for name in ("lambda_weight", "learning_rate", "alpha"):
            value = getattr(self, name)
            _pooled.require(_pooled.is_number(value) and value > 0, "convexadam", name, "a number above 0", value)

    def check_axes(self, dims: int) -> None:
        for name in ("grid_sp", "grid_sp_adam"):
            value = getattr(self, name)
            fits = not isinstance(value, tuple | list) or len(value) == dims
            needed = f"a number, or one for each of the {dims} axes of the images"
            _pooled.require(fits, "convexadam", name, needed, value)

    def displacement(self, state: State, sample: Sample, ctx: Context) -> np.ndarray:
        from medprobe.heads._convex_adam import convex_adam

        fixed, moving = feature_images(sample, ctx.dims, self.alpha)
        spacing, reach = ((2, 6), (3, 3))[ctx.dims - 2]
        return convex_adam(
            fixed, moving, grid_sp=self.grid_sp or spacing, disp_hw=self.disp_hw or reach, lambda_weight=self.lambda_weight,
            niter=self.niter, grid_sp_adam=self.grid_sp_adam, ic=self.inverse_consistent, selected_smooth=self.selected_smooth,
            learning_rate=self.learning_rate, reference_scaling=self.reference_scaling,
        )  # fmt: skip


def _are_steps(value: Any, least: int) -> bool:
    """A whole number, or two or three of them for the axes, none below `least` (of several: 1)."""
    if isinstance(value, tuple | list):
        return len(value) in (2, 3) and all(_pooled.is_count(step) for step in value)
    return value == 0 == least or _pooled.is_count(value)


HEADS.register("convexadam")(ConvexAdam)
