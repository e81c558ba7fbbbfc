"""`constant`: the control that looks at no feature.

Every sample gets the training prevalence of each label (multilabel, over the labelled samples), or the training
frequency of each class, so that the most frequent class is predicted. In segmentation every voxel gets the share of training
masks that have a class there (on 64 cells a side in 2D, 32 in 3D, stretched to the size of each case): the mean mask,
called where it passes the threshold of best Dice on validation. An encoder that does not beat it has shown nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medprobe.errors import RequestError
from medprobe.heads import _pooled
from medprobe.registry import HEADS
from medprobe.types import Context, Kind, Sample, Samples, State

SIDE = {2: 64, 3: 32}
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True)
class Constant:
    needs: ClassVar[frozenset[str]] = frozenset()
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "segmentation"})

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        if not len(train):
            raise RequestError("constant: the training part is empty; give it cases")
        if hasattr(train[0].target, "labels"):
            return self._mean_mask(train, val, ctx)
        y = train.targets
        return State({"probability": _pooled.prevalence(_pooled.indicators(y, _pooled.n_classes(y, ctx)))})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(C,) float64 per sample, the same for all; label maps (H, W) or (C, H, W) in segmentation."""
        if "mask" in state.tensors:
            for sample in samples:
                yield _stretched(state.tensors["mask"], float(state.meta["threshold"]), _size(sample, state.tensors["mask"].ndim - 1), ctx.multilabel)
            return
        for _ in range(len(samples)):
            yield state.tensors["probability"].copy()

    def _mean_mask(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        first = train[0].target.labels
        dims = first.ndim - ctx.multilabel
        total = np.zeros((len(ctx.classes) - (not ctx.multilabel), *(SIDE[dims],) * dims))
        for sample in train:
            labels = sample.target.labels
            cells = labels[(..., *np.ix_(*(((np.arange(SIDE[dims]) + 0.5) * side / SIDE[dims]).astype(int) for side in labels.shape[-dims:])))]
            total += cells == 1 if ctx.multilabel else np.stack([cells == number for number in range(1, len(ctx.classes))])
        mask = (total / len(train)).astype(np.float32)
        scores: list[float] = []
        if val is not None and len(val) and ctx.monitor is not None:
            each = [[ctx.monitor(_stretched(mask, threshold, _size(sample, dims), ctx.multilabel), sample.target) for threshold in THRESHOLDS] for sample in val]
            scores = np.nanmean(np.array(each), axis=0).tolist()
        threshold = THRESHOLDS[int(np.argmax(scores))] if scores else 0.5
        return State({"mask": mask}, {"threshold": threshold, "monitor": _pooled.or_none(scores)})


def _size(sample: Sample, dims: int) -> tuple[int, ...]:
    """(H, W) or (D, H, W) of the image: the target is not looked at."""
    features = sample.features["image"]
    assert features.frame is not None
    planes = next(values for values in (features.cls, features.patch_mean, *features.grids) if values is not None)
    return features.frame.shape if dims == 2 else (len(planes), *features.frame.shape)


def _stretched(mask: np.ndarray, threshold: float, size: tuple[int, ...], multilabel: bool) -> np.ndarray:
    """The mean masks (K, cells...) at a size: 0 and 1 for each class, or the likeliest class where any passes."""
    full = mask[(..., *np.ix_(*((np.arange(side) * cells / side).astype(int) for side, cells in zip(size, mask.shape[1:], strict=True))))]
    if multilabel:
        return (full >= threshold).astype(np.uint8)
    return np.where(full.max(axis=0) >= threshold, full.argmax(axis=0) + 1, 0).astype(np.uint8)


HEADS.register("constant")(Constant)
