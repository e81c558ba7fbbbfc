"""Named steps between features and head: their names, with their parameters, are part of the task."""

from dataclasses import dataclass, replace

import numpy as np

from medprobe.errors import RequestError
from medprobe.types import Features, Reduce, Sample


@dataclass(frozen=True)
class JointPCA:
    """One principal basis for all grids of a sample (fixed and moving together), so that their maps are comparable.

    Covariance eigen-decomposition in float64; in each component the loading of largest size is positive.
    `center` subtracts the joint mean before projecting. Source: methods of DINO-Reg, made deterministic.
    """

    components: int = 24
    center: bool = True

    def __call__(self, sample: Sample) -> Sample:
        rows = {role: _rows(features) for role, features in sample.features.items()}
        together = np.concatenate(list(rows.values())).astype(np.float64)
        if self.components > together.shape[1]:
            raise RequestError(f"joint-pca:{self.components} asks for more components than the {together.shape[1]} feature channels; lower the number")
        mean = together.mean(axis=0)
        _values, basis = np.linalg.eigh(np.atleast_2d(np.cov(together - mean, rowvar=False)))
        basis = basis[:, ::-1][:, : self.components]
        largest = np.abs(basis).argmax(axis=0)
        basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
        offset = mean if self.center else np.zeros_like(mean)
        reduced = {
            role: replace(sample.features[role], grids=(_grid((values - offset) @ basis, sample.features[role]),))
            for role, values in rows.items()
        }
        return replace(sample, features=reduced)


@dataclass(frozen=True)
class Half:
    """Features rounded to half precision, as a store of half the size would give them."""

    def __call__(self, sample: Sample) -> Sample:
        def rounded(features: Features) -> Features:
            def half(values):
                return None if values is None else np.asarray(values).astype(np.float16).astype(np.float32)

            return replace(features, cls=half(features.cls), patch_mean=half(features.patch_mean), grids=tuple(map(half, features.grids)))

        return replace(sample, features={role: rounded(features) for role, features in sample.features.items()})


def _rows(features: Features) -> np.ndarray:
    """Grid (N, D, ...) → (positions, D)."""
    grid = np.asarray(features.grid)
    return np.moveaxis(grid, 1, -1).reshape(-1, grid.shape[1])


def _grid(rows: np.ndarray, features: Features) -> np.ndarray:
    grid = np.asarray(features.grid)
    shape = (grid.shape[0], *grid.shape[2:], rows.shape[1])
    return np.moveaxis(rows.reshape(shape), -1, 1).astype(np.float32)


def reduce_named(name: str | None) -> Reduce | None:
    """`joint-pca:24`, `half`, or None."""
    if name is None:
        return None
    kind, _, argument = name.partition(":")
    if kind == "half" and not argument:
        return Half()
    if kind == "joint-pca" and (not argument or (argument.isdigit() and int(argument) > 0)):
        return JointPCA(int(argument or 24))
    raise RequestError(f"task.reduce must be 'half' or 'joint-pca:N' with N a whole number above 0, found {name!r}")
