"""Samples of pooled features from arrays, and a context that keeps what a head warns of."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from medprobe.types import Context, Features, Sample, SampleList


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
