"""`regnet`: a U-Net trained without labels to predict a displacement from frozen features (Section 3.3 of the paper).

It sees the maps of both images, projected on principal components of the training pairs and brought to the pixels, and is
trained as `voxelmorph` is, on the likeness of the images and `beta` times the mean squared difference of the maps. The basis is the
head's own and part of its state: one that a task makes for each pair (`task.reduce=joint-pca:24`) would give a channel another
meaning in each pair. Descriptors (`mind`, `anatomix`) are taken as they are, beside the components.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from medprobe.errors import CaseError
from medprobe.heads import _pooled
from medprobe.heads._flows import Flow, mean_square, warped
from medprobe.heads._pairs import feature_images
from medprobe.registry import HEADS
from medprobe.types import Context, Features, Sample, Samples


@dataclass(frozen=True)
class RegNet(Flow):
    """`components` of the covariance of all cells of all training pairs are kept, or as many as there are channels."""

    needs: ClassVar[frozenset[str]] = frozenset({"grid", "image"})
    widths: ClassVar[tuple[int, int, int, int]] = (32, 64, 64, 64)
    beta: float = 0.1
    components: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        _pooled.require(_pooled.is_number(self.beta) and self.beta >= 0, "regnet", "beta", "a number >= 0", self.beta)
        _pooled.require(_pooled.is_count(self.components), "regnet", "components", "a whole number >= 1", self.components)

    def prepare(self, train: Samples, ctx: Context) -> dict[str, np.ndarray]:
        """`pca.mean` (D,) and `pca.basis` (D, components), float64; nothing where there are descriptors only."""
        grids = (features.grid for sample in train for features in sample.features.values())
        found = principal(grids, self.components)
        return {} if found is None else dict(zip(("pca.mean", "pca.basis"), found, strict=True))

    def reduced(self, sample: Sample, tensors: dict[str, np.ndarray]) -> Sample:
        def projected(features: Features) -> Features:
            grid = np.asarray(features.grid, dtype=np.float64)
            made = np.tensordot(tensors["pca.basis"], grid - tensors["pca.mean"].reshape(1, -1, *[1] * (grid.ndim - 2)), axes=(0, 1))
            return Features(grids=(np.moveaxis(made, 0, 1).astype(np.float32),), frame=features.frame)

        return replace(sample, features={role: projected(features) for role, features in sample.features.items()})

    def seen(self, sample: Sample, images: tuple[Any, Any], ctx: Context) -> tuple[Any, Any]:
        import torch

        maps = feature_images(sample, ctx.dims)
        if maps[0].shape[1:] != images[0].shape[2:]:
            raise CaseError(f"{sample.id}: expected features of every plane of the image, {tuple(images[0].shape[2:])}, found {maps[0].shape[1:]}; encode all planes (task.stride=1)")
        fixed, moving = (torch.as_tensor(one)[None].to(ctx.device) for one in maps)
        return fixed, moving

    def loss(self, images: tuple[Any, Any], maps: tuple[Any, Any], flow: Any, displacement: Any) -> Any:
        fixed, moving = maps
        return super().loss(images, maps, flow, displacement) + self.beta * mean_square(warped(moving, displacement), fixed)


def principal(grids: Iterable[Any], components: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean (D,) and first principal directions (D, components) of all cells of grids (N, D, h, w), float64; None of no grids.

    Eigen-decomposition of their covariance; in each direction the loading of largest size is positive.
    """
    count, total, products = 0, np.zeros(0), np.zeros((0, 0))
    origin = None
    for grid in grids:
        rows = np.moveaxis(np.asarray(grid, dtype=np.float64), 1, -1).reshape(-1, grid.shape[1])
        if origin is None:
            origin, total, products = rows.mean(axis=0), np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        rows = rows - origin  # near the mean, sums of squares lose no digits
        count, total, products = count + len(rows), total + rows.sum(axis=0), products + rows.T @ rows
    if origin is None:
        return None
    mean = total / count
    _values, basis = np.linalg.eigh(products / count - np.outer(mean, mean))
    basis = basis[:, ::-1][:, :components]
    largest = np.abs(basis).argmax(axis=0)
    return origin + mean, basis * np.sign(basis[largest, np.arange(basis.shape[1])])


HEADS.register("regnet")(RegNet)
