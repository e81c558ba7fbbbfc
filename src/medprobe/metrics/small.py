"""What is too few: a score of fewer patients (videos) has no interval, or one that is marked.

Below `LEAST` patients there is no interval, since nothing says how much patients differ; below `FEW`, or with fewer
than `FEW_OF_CLASS` patients with (or without) a scored class, 95 % is a name. How far it is from the truth is measured
by `coverage` and stated in docs/metrics.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medprobe.metrics.measure import Measure

LEAST, FEW, FEW_OF_CLASS = 5, 20, 10
LEAST_OF_FOLD = 2
"""Patients of a fold below which the spread between its patients is unknown."""


ALIKE = 0.3
"""Correlation that cases of one patient are taken to have where nothing shows it, since all of them are right."""


@dataclass(frozen=True)
class Support:
    """What stands behind a score, folds together: patients of all, of the smallest fold, and of each part by its name.

    `evidence` is the number of independent cases of each part, of all under "", for cases that are correlated (`ALIKE`).
    `by_class`: whether every class counts alike, however rare.
    """

    patients: int
    fold: int
    parts: dict[str, int]
    evidence: Mapping[str, float] = field(default_factory=dict)
    by_class: bool = True

    @classmethod
    def of(cls, folds: Sequence[Measure], key: str) -> "Support":
        """Patients count once, in however many folds they are."""
        behind = [fold.behind(key) for fold in folds]
        parts = {name: [each[name] for _, each in behind if name in each] for name in behind[0][1]}
        every = {"": [clusters for clusters, _ in behind], **parts}
        count = {name: len(np.unique(np.concatenate([one.names for one in each]))) for name, each in every.items()}
        evidence = {name: float(sum(independent(one.cases) for one in each)) for name, each in every.items()}
        smallest = min(len(np.unique(fold.groups)) for fold in folds)
        return cls(count.pop(""), smallest, count, evidence, key not in folds[0].overall)

    @property
    def none(self) -> bool:
        """Whether there is no interval at all."""
        return self.patients < LEAST or self.fold < LEAST_OF_FOLD

    def of_class(self, name: str) -> float:
        """Independent cases of the rarer outcome of a class; of all cases where it has no part of its own."""
        return min([self.evidence[part] for part in self.evidence if part.partition(" ")[2] == name] or [self.evidence[""]])

    @property
    def rarest(self) -> float:
        """Independent cases of the rarest part, if the score asks for parts; else of all."""
        return min(self.evidence.values()) if self.by_class else self.evidence[""]

    @property
    def mark(self) -> str | None:
        """What is too few: "7 patients; 3 with COVID"; None where nothing is."""
        return self.said(self.none)

    def said(self, without_interval: bool) -> str | None:
        """The mark, of a score that may have no interval for another reason too."""
        few = [_patients(self.patients)] if self.patients < FEW else []
        if self.fold < min(LEAST, self.patients):
            few.append(f"{self.fold} in a fold")
        parts = {name: count for name, count in self.parts.items() if count < min(FEW_OF_CLASS, self.patients)}
        if parts:
            least = min(parts, key=lambda name: parts[name])
            others = f" ({len(parts) - 1} more below {FEW_OF_CLASS})" if len(parts) > 1 else ""
            few.append(f"{parts[least] if few else _patients(parts[least])} {least}{others}")
        return ("no interval: " if without_interval else "") + "; ".join(few) if few else None


def _patients(number: int) -> str:
    return f"{number} patient{'s' if number != 1 else ''}"


def independent(cases: np.ndarray) -> np.ndarray:
    """(patients, …) cases to the number of independent ones, (…): of one patient never more than 1 / `ALIKE`."""
    return np.asarray((cases / (1 + np.maximum(cases - 1, 0) * ALIKE)).sum(axis=0))
