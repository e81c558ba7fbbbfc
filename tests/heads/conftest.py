"""Samples of pooled features from arrays, and a context that keeps what a head warns of."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from medprobe.heads import _fits
from medprobe.imaging.labels import LabelMap
from medprobe.metrics.overlap import overlap
from medprobe.types import Context, Features, Head, Sample, SampleList, State


@pytest.fixture(scope="session")
def samples_of() -> Callable[[np.ndarray, np.ndarray], SampleList]:
    """(n, D) features and (n,) or (n, C) targets as samples of one plane each."""

    def make(x: np.ndarray, y: np.ndarray) -> SampleList:
        x = np.asarray(x, dtype=np.float32)
        targets = [tuple(row) if np.ndim(row) else int(row) for row in y]
        return SampleList(
            [Sample(str(i), str(i), {"image": Features(cls=x[i : i + 1])}, target=targets[i]) for i in range(len(x))]
        )

    return make


@dataclass
class Recorded:
    """A context's warnings and its kept states, in order."""

    warnings: list[str] = field(default_factory=list)

    def context(self, **kwargs: object) -> Context:
        return Context(**{"seed": 0, "warn": self.warnings.append, **kwargs})  # type: ignore[arg-type]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


CLASSES = ("background", "a", "b")


def _dice(pred: np.ndarray, true: LabelMap) -> float:
    return float(np.nanmean(overlap(pred, true.labels, len(CLASSES), ignore=-1).dice[1:]))


@pytest.fixture(scope="session")
def dice_of() -> Callable[[np.ndarray, LabelMap], float]:
    """Mean Dice of one label map over the classes a and b."""
    return _dice


@pytest.fixture(scope="session")
def context() -> Callable[..., Context]:
    """A context of the three classes background, a and b, with `dice_of` as its monitor."""
    return lambda **more: Context(0, classes=CLASSES, monitor=_dice, **more)


class Stopping:
    """A checkpoint that stops the fit after some saves."""

    def __init__(self, stop_after: int) -> None:
        self.state: State | None = None
        self.left = stop_after

    def load(self) -> State | None:
        return self.state

    def save(self, state: State) -> None:
        self.state, self.left = state, self.left - 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> type[Stopping]:
    """Checkpoints that are written after every epoch."""
    monkeypatch.setattr(_fits, "SAVE_AFTER", 0.0)
    return Stopping


@pytest.fixture
def goes_on(stopping: type[Stopping], context: Callable[..., Context]) -> Callable[..., tuple[State, Stopping]]:
    """Fits a head whole, and again with a stop after its second checkpoint: facts and weights must be equal. Returns the whole fit and the checkpoint."""

    def check(head: Head, train: SampleList, val: SampleList | None) -> tuple[State, Stopping]:
        undisturbed, memory = head.fit(train, val, context()), stopping(2)
        with pytest.raises(KeyboardInterrupt):
            head.fit(train, val, context(checkpoint=memory))
        resumed = head.fit(train, val, context(checkpoint=memory))
        assert resumed.meta == undisturbed.meta
        assert set(resumed.tensors) == set(undisturbed.tensors)
        for tensor, value in undisturbed.tensors.items():
            np.testing.assert_array_equal(resumed.tensors[tensor], value)
        return undisturbed, memory

    return check
