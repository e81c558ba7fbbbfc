"""What makes the features of an encoder wrong whatever it has learned: numbers of other units, answers that change."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medprobe.types import Features

TWICE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest difference between two calls on the same planes, relative to the largest feature."""
TOGETHER = {"fp32": 1e-2, "bf16": 1e-1}
"""The same between a plane alone and beside others: products of other shapes add up in another order."""
LITTLE = 0.02
"""Features of unlike planes differ by more, in some part."""


def of_transform(transform: dict[str, Any]) -> list[str]:
    """What is wrong with mean and std for planes from 0 to 1."""
    return [
        *(said for part in transform.get("parts", ()) for said in of_transform(part)),
        *_of_numbers("mean", transform.get("mean"), lambda value: 0 <= value <= 1),
        *_of_numbers("std", transform.get("std"), lambda value: 0 < value <= 1),
    ]


def _of_numbers(name: str, numbers: Sequence[float] | None, holds: Any) -> list[str]:
    if numbers is None or all(math.isfinite(value) and holds(value) for value in numbers):
        return []
    found = ", ".join(f"{value:g}" for value in numbers)
    wide = any(value > 1 for value in numbers)
    cure = "divide them by 255" if wide else "correct them"
    lowest = "0 and 1" if name == "mean" else "0 (not 0 itself) and 1"
    return [f"expected {name} of planes from 0 to 1, so between {lowest}, found {found}; {cure}"]


def sees_little(encoder: Any, planes: Any) -> str | None:
    """What is wrong where black, white and these planes are nearly one: mean and std may be of other units inside the code."""
    made = encoder(np.concatenate([np.zeros_like(planes[:1]), np.ones_like(planes[:1]), planes[:1]]))
    change = max(relative(row(made, i), row(made, j)) for i, j in ((0, 1), (0, 2)))
    if change > LITTLE:
        return None
    return (
        f"black, white and noise give features that differ by {change:.1g} of the largest; planes are from 0 to 1: let its code "
        "neither take off a mean of 0 to 255, nor divide by 255"
    )


def row(made: Features, index: int) -> Features:
    """Of one plane."""

    def one(value: Any) -> Any:
        return None if value is None else value[index : index + 1]

    return Features(one(made.cls), one(made.patch_mean), tuple(one(grid) for grid in made.grids))


def relative(one: Features, other: Features) -> float:
    """The largest difference over all parts, relative to the largest magnitude; NaN counts as infinite."""
    worst = 0.0
    for (_, a), (_, b) in zip(parts(one), parts(other), strict=True):
        a, b = (np.asarray(values, dtype=np.float64) for values in (a, b))
        with np.errstate(invalid="ignore"):
            change = np.abs(a - b).max(initial=0.0) / max(float(np.abs(b).max(initial=0.0)), 1e-12)
        worst = max(worst, float(change) if np.isfinite(change) else math.inf)
    return worst


def parts(made: Features) -> list[tuple[str, Any]]:
    named = [("cls", made.cls), ("patch_mean", made.patch_mean), *((f"grid {i}", grid) for i, grid in enumerate(made.grids))]
    return [(name, value) for name, value in named if value is not None]


class Watch:
    """Looks whether an encoder answers the same planes alike: when it sees the first ones, and in the end."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.precision = encoder.precision
        self.planes: Any = None
        self.answer: Features | None = None

    def first(self, planes: Any) -> str | None:
        """What is wrong, if anything, by the first two of these planes; of later ones nothing is looked at."""
        if self.answer is not None:
            return None
        import torch

        self.planes = torch.as_tensor(planes[:2]).clone()
        answer = self._ask(self.planes)
        if not all(np.isfinite(np.asarray(values)).all() for _, values in parts(answer)):
            return None  # which is said of the images it is of
        self.answer = answer
        again = max(relative(self._ask(self.planes), self.answer) for _ in range(2))
        if again > TWICE[self.precision]:
            return self._changed(again, "the same planes twice differ")
        alone = max(relative(self._ask(self.planes[i : i + 1]), row(self.answer, i)) for i in range(len(self.planes)))
        if len(self.planes) > 1 and alone > TOGETHER[self.precision]:
            return (
                f"{self.encoder.spec}: a plane alone and beside another differ by {alone:.1g} of the largest feature, so that "
                "features would depend on the batch; let batch normalisation use its running statistics (eval mode), and "
                "normalise each plane for itself"
            )
        return None

    def last(self) -> str | None:
        """What is wrong, if anything, now that other planes were encoded."""
        if self.answer is None:
            return None
        again = relative(self._ask(self.planes), self.answer)
        wrong = again > TWICE[self.precision]
        return self._changed(again, "the first planes encoded again in the end differ") if wrong else None

    def _ask(self, planes: Any) -> Features:
        """The answer to a copy: a network may write into its planes."""
        made: Features = self.encoder(planes.clone())
        return made

    def _changed(self, by: float, what: str) -> str:
        return (
            f"{self.encoder.spec}: {what} by {by:.1g} of the largest feature, so its features mean nothing; switch off dropout "
            "and other random numbers, and let it keep nothing from call to call"
        )
