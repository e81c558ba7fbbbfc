"""What is too few: a score of fewer patients (videos) has no interval, or one that is marked.

Below `LEAST` patients there is no interval, since nothing says how much patients differ; below `FEW`, or with fewer
than `FEW_OF_CLASS` patients with (or without) a scored class, 95 % is a name. How far it is from the truth is measured
by `coverage` and stated in docs/metrics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.metrics.measure import Measure

LEAST, FEW, FEW_OF_CLASS = 5, 20, 10
LEAST_OF_FOLD = 2
"""Patients of a fold below which the spread between its patients is unknown."""


@dataclass(frozen=True)
class Support:
    """Patients behind a score, folds together: all, those of the smallest fold, and those of each part by its name."""

    patients: int
    fold: int
    parts: dict[str, int]

    @classmethod
    def of(cls, folds: Sequence[Measure], key: str) -> "Support":
        """Patients count once, in however many folds they are."""
        each = [fold.patients(key) for fold in folds]
        parts = {name: _count([parts[name] for _, parts in each if name in parts]) for name in each[0][1]}
        return cls(_count([patients for patients, _ in each]), min(len(np.unique(fold.groups)) for fold in folds), parts)

    @property
    def none(self) -> bool:
        """Whether there is no interval at all."""
        return self.patients < LEAST or self.fold < LEAST_OF_FOLD

    @property
    def mark(self) -> str | None:
        """What is too few: "7 patients; 3 with COVID"; None where nothing is."""
        few = [_patients(self.patients)] if self.patients < FEW else []
        if self.fold < min(LEAST, self.patients):
            few.append(f"{self.fold} in a fold")
        parts = {name: count for name, count in self.parts.items() if count < min(FEW_OF_CLASS, self.patients)}
        if parts:
            least = min(parts, key=lambda name: parts[name])
            others = f" ({len(parts) - 1} more below {FEW_OF_CLASS})" if len(parts) > 1 else ""
            few.append(f"{parts[least] if few else _patients(parts[least])} {least}{others}")
        return ("no interval: " if self.none else "") + "; ".join(few) if few else None


def _patients(number: int) -> str:
    return f"{number} patient{'s' if number != 1 else ''}"


def _count(names: Sequence[np.ndarray]) -> int:
    return len(np.unique(np.concatenate(names))) if names else 0
