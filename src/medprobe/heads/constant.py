"""`constant`: the control that looks at no feature.

Every sample gets the training prevalence of each label (multilabel, over the labelled samples), or the training
frequency of each class, so that the most frequent class is predicted. An encoder that does not beat it has shown
nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medprobe.errors import RequestError
from medprobe.heads import _pooled
from medprobe.registry import HEADS
from medprobe.types import Context, Samples, State


@dataclass(frozen=True)
class Constant:
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        if not len(train):
            raise RequestError("constant: the training part is empty; give it cases")
        y = train.targets
        return State({"probability": _pooled.prevalence(_pooled.indicators(y, _pooled.n_classes(y, ctx)))})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(C,) float64 per sample, the same for all."""
        for _ in range(len(samples)):
            yield state.tensors["probability"].copy()


HEADS.register("constant")(Constant)
