"""`demons`: demons registration of SimpleITK (extra `volumes`), the classical floor: no encoder, nothing learned.

Fast symmetric forces or diffeomorphic demons (Vercauteren et al. 2009) from coarse to fine, on the mean of the channels.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from medprobe.errors import ExtraError
from medprobe.heads import _pooled
from medprobe.heads._pairs import Registration, images_of
from medprobe.registry import HEADS
from medprobe.types import Context, Sample, State

SHRINKS = (4, 2, 1)
SMALLEST = 16
"""An axis is shrunk only as far as so many voxels of it are left."""


@dataclass(frozen=True)
class Demons(Registration):
    """`iterations` at each of three resolutions. `standard_deviations`: of the Gaussian that smooths the displacement after each
    of them, in voxels of the resolution; `update_deviations`: of the one that smooths the step (0: none).
    `match_histograms` gives the moving image the intensities of the fixed one first, since the forces
    compare grey levels: of two patients, or two scans, these differ. Turn it off between modalities."""

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    min_slices: ClassVar[int] = 18
    variant: str = "diffeomorphic"
    iterations: int = 50
    standard_deviations: float = 1.5
    update_deviations: float = 0.0
    match_histograms: bool = True

    def __post_init__(self) -> None:
        _pooled.require_one_of("demons", "variant", ("symmetric", "diffeomorphic"), self.variant)
        _pooled.require(_pooled.is_count(self.iterations), "demons", "iterations", "a whole number >= 1", self.iterations)
        for field in ("standard_deviations", "update_deviations"):
            value = getattr(self, field)
            _pooled.require(_pooled.is_number(value) and value >= 0, "demons", field, "a number >= 0", value)
        _pooled.require(isinstance(self.match_histograms, bool), "demons", "match_histograms", "true or false", self.match_histograms)

    def displacement(self, state: State, sample: Sample, ctx: Context) -> np.ndarray:
        """Zero along z where a volume has one plane."""
        fixed, moving = (image.mean(axis=0) for image in images_of(sample, ctx.dims))
        if ctx.dims == 3 and len(fixed) == 1:
            plane = self._found(fixed[0], moving[0])
            return np.concatenate([np.zeros_like(plane[:1]), plane])[:, None]
        return self._found(fixed, moving)

    def _found(self, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """(dims, *sides) float32 of two images of one channel."""
        itk = _simpleitk()
        if np.ptp(fixed) == 0 or np.ptp(moving) == 0 or min(fixed.shape) == 1:
            return np.zeros((fixed.ndim, *fixed.shape), np.float32)
        whole, other = (itk.GetImageFromArray(255 * image) for image in (fixed, moving))  # its thresholds are meant for grey levels
        if self.match_histograms:
            other = itk.HistogramMatching(other, whole, 256, 7, True)
        demons = self._filter(itk)
        field = None
        for shrink in SHRINKS:
            shrinks = [next(one for one in SHRINKS if one == 1 or (one <= shrink and side >= one * SMALLEST)) for side in whole.GetSize()]
            small, small_other = _shrunk(itk, whole, shrinks), _shrunk(itk, other, shrinks)
            field = demons.Execute(small, small_other, *(() if field is None else (_on_grid(itk, field, small),)))
        return np.ascontiguousarray(np.moveaxis(itk.GetArrayFromImage(field), -1, 0)[::-1], dtype=np.float32)

    def _filter(self, itk: Any) -> Any:
        demons = itk.DiffeomorphicDemonsRegistrationFilter() if self.variant == "diffeomorphic" else itk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(self.iterations)
        demons.SetMaximumRMSError(0.0)
        demons.SetSmoothDisplacementField(self.standard_deviations > 0)
        demons.SetSmoothUpdateField(self.update_deviations > 0)
        if self.standard_deviations:
            demons.SetStandardDeviations(self.standard_deviations)
        if self.update_deviations:
            demons.SetUpdateFieldStandardDeviations(self.update_deviations)
        return demons


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise ExtraError("SimpleITK", "volumes", "the head demons") from error
    return SimpleITK


def _shrunk(itk: Any, image: Any, shrinks: list[int]) -> Any:
    """Smoothed by half a new voxel, and thinned."""
    if max(shrinks) == 1:
        return image
    return itk.Shrink(itk.DiscreteGaussian(image, [(shrink / 2) ** 2 if shrink > 1 else 0.0 for shrink in shrinks]), shrinks)


def _on_grid(itk: Any, field: Any, image: Any) -> Any:
    """A displacement on the grid of a finer image; beyond the outermost centres the value stays."""
    resample = itk.ResampleImageFilter()
    resample.SetReferenceImage(image)
    resample.SetInterpolator(itk.sitkLinear)
    resample.SetUseNearestNeighborExtrapolator(True)
    return resample.Execute(field)


HEADS.register("demons")(Demons)
