"""Named steps between features and head: their names, with their parameters, are part of the task."""

from dataclasses import dataclass, replace

import numpy as np

from medprobe.errors import RequestError
from medprobe.types import Features, Reduce, Sample


@dataclass(frozen=True)
class JointPCA:
    """One principal basis for all grids of a sample (fixed and moving together), so that their maps are comparable; of fewer
    channels than `components` all are kept.

    Covariance eigen-decomposition in float64; in each component the loading of largest size is positive.
    `center` subtracts the joint mean before projecting. With `foreground` mean and basis are those of the cells that show
    something (`foreground_of` the images), though all are projected. Source: methods of DINO-Reg, made deterministic.
    Samples without features of planes are left as they are.
    """

    components: int = 24
    center: bool = True
    foreground: bool = False

    def __call__(self, sample: Sample) -> Sample:
        from scipy.linalg import eigh

        if not sample.features:
            return sample
        rows = {role: _rows(features) for role, features in sample.features.items()}
        chosen = [values[_shows(sample, role)] if self.foreground else values for role, values in rows.items()]
        together = np.concatenate(chosen).astype(np.float64)
        mean = together.mean(axis=0)
        covariance = np.atleast_2d(np.cov(together - mean, rowvar=False))
        _values, basis = eigh(covariance, subset_by_index=(max(0, len(covariance) - self.components), len(covariance) - 1))
        basis = basis[:, ::-1]
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


def _shows(sample: Sample, role: str) -> np.ndarray:
    """(positions,) bool: the cells of a grid whose middle lies in the foreground of the image; all where that is nowhere."""
    features, image = sample.features[role], sample.images[role].pixels.mean(axis=0)
    there, (planes, _, rows, columns) = foreground_of(image), features.grid.shape
    top, left, bottom, right = features.frame.box if features.frame is not None else (0.0, 0.0, float(rows), float(columns))
    down, across = (
        np.floor((np.arange(cells) + 0.5 - low) / (high - low) * side).astype(int)
        for cells, low, high, side in ((rows, top, bottom, image.shape[1]), (columns, left, right, image.shape[2]))
    )
    inside = ((down >= 0) & (down < image.shape[1]))[:, None] & ((across >= 0) & (across < image.shape[2]))
    found = there[:, down.clip(0, image.shape[1] - 1)][:, :, across.clip(0, image.shape[2] - 1)] & inside
    return found.reshape(planes * rows * columns) if found.any() else np.ones(planes * rows * columns, bool)


def foreground_of(image: np.ndarray) -> np.ndarray:
    """(D, H, W) bool: the largest connected part above the threshold that separates an image (D, H, W) in [0, 1] best (Otsu)."""
    from scipy.ndimage import label

    counts, edges = np.histogram(image, 256)
    middles, total = (edges[:-1] + edges[1:]) / 2, counts.sum()
    below, sums = counts.cumsum(), (counts * middles).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / total - sums) ** 2 / (below * (total - below))
    parts, count = label(image > edges[1:][np.nan_to_num(between).argmax()])
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count else np.zeros(image.shape, bool)


NAMES = "'half' or 'joint-pca:N', N a whole number above 0, with ',uncentred' or ',foreground' behind it"


def reduce_named(name: str | None) -> Reduce | None:
    """`joint-pca:24`, `joint-pca:24,uncentred,foreground`, `half`, or None."""
    if name in (None, "none"):
        return None
    assert name is not None
    step, *options = name.split(",")
    kind, _, argument = step.partition(":")
    if kind == "half" and not argument and not options:
        return Half()
    if kind == "joint-pca" and (not argument or (argument.isdigit() and int(argument) > 0)) and set(options) <= {"uncentred", "foreground"}:
        return JointPCA(int(argument or 24), "uncentred" not in options, "foreground" in options)
    raise RequestError(f"task.reduce must be {NAMES}, found {name!r}")
