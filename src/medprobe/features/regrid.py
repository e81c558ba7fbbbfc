"""The grid on which a pair is registered, where it is not the image's own.

A search over cells and a mean over three of them need several cells along each axis: a heart of
eight thick slices has too few. Images and maps are brought to a finer grid before descriptors are
made and heads look at them; displacements come back to the image's own grid (`Sample.shape`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.resample import stretched
from medprobe.types import Features, Image, Sample

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Regrid:
    """`spacing` (z, y, x) in mm: voxels of that size, as nearly as whole numbers of them allow; None
    keeps those of the image. Then no axis of more than one voxel has fewer than `min_slices`."""

    min_slices: int = 0
    spacing: Spacing | None = None

    def shape(self, own: Sequence[int], spacing: Sequence[float] | None = None) -> Shape:
        """(z, y, x) for an image of `own` voxels (z, y, x), of `spacing` mm each.

        CaseError: a spacing is asked for, and the image has none.
        """
        sides = list(own)
        if self.spacing is not None:
            if spacing is None:
                raise CaseError(
                    "expected a spacing, for task.spacing, found none in the file; add a column "
                    "spacing to the table, or use task.min_slices"
                )
            steps = zip(own, spacing, self.spacing, strict=True)
            sides = [max(1, round(side * size / wanted)) for side, size, wanted in steps]
        depth, height, width = (
            side if before == 1 else max(side, self.min_slices)
            for side, before in zip(sides, own, strict=True)
        )
        return depth, height, width

    def __call__(self, sample: Sample, spacing: Spacing | None) -> Sample:
        """The sample with its images and maps on the new grid; `shape` keeps the one they had."""
        own = _own_shape(sample)
        try:
            shape = self.shape(own, spacing)
        except CaseError as error:
            raise CaseError(f"{sample.id}: {error}") from error
        if shape == own:
            return sample
        images = {role: _image(image, shape) for role, image in sample.images.items()}
        features = {role: _features(maps, shape) for role, maps in sample.features.items()}
        return replace(sample, images=images, features=features, shape=own)


def _own_shape(sample: Sample) -> Shape:
    if sample.images:
        depth, height, width = sample.images["fixed"].pixels.shape[1:]
        return depth, height, width
    features = sample.features["fixed"]
    if features.frame is None:
        raise CaseError(
            f"{sample.id}: expected features that say the size of their image, found none; "
            "leave out task.min_slices and task.spacing"
        )
    return len(features.grid), *features.frame.shape


def _image(image: Image, shape: Shape) -> Image:
    spacing = image.spacing
    if spacing is not None:
        depth, height, width = np.multiply(spacing, image.pixels.shape[1:]) / shape
        spacing = float(depth), float(height), float(width)
    return Image(stretched(image.pixels, shape), spacing)


def _features(features: Features, shape: Shape) -> Features:
    """Maps of more or fewer planes; in the plane their cells stay, and lie on pixels of another size."""
    assert features.frame is not None
    grids = []
    for grid in features.grids:
        planes = np.moveaxis(np.asarray(grid, dtype=np.float32), 1, 0)
        cells = (shape[0], *planes.shape[2:])
        grids.append(np.moveaxis(stretched(planes, cells), 0, 1))
    frame = replace(features.frame, shape=shape[1:])
    return Features(grids=tuple(grids), frame=frame)
