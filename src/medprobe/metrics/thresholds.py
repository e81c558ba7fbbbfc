"""From a probability to yes or no: the threshold rules, each with a name that says what it was chosen on.

A case is called positive when its probability is at least the threshold. `*_val` rules are chosen on the validation
part, one threshold per label; `*_test` rules are chosen on the very labels they are then scored on: oracles, for
comparison with published numbers that were made so, never for a headline.

    fixed_0.5            0.5
    youden               the observed probability with the largest TPR - FPR
    f1                   the observed probability with the largest F1 of the positive class
    closest_topleft      of linspace(0, 1, 100), the one nearest to the corner of the ROC curve in Euclidean distance,
                         calling positive what is strictly above it: the rule of CT-CLIP (methods sheet 3.2)

Of equally good thresholds (to 1e-12, so that rounding decides nothing) the highest is taken. A rule is undefined (NaN)
for a label with one outcome.
"""

from collections.abc import Callable

import numpy as np

from medprobe.errors import RequestError

VAL_RULES = ("youden_val", "f1_val", "closest_topleft_val")
ORACLES = ("youden_test", "closest_topleft_test")
RULES = (*VAL_RULES, "fixed_0.5", *ORACLES)

GRID = np.nextafter(np.linspace(0.0, 1.0, 100), np.inf)
"""At least the next number above t = strictly above t."""
ROUNDING = 1e-12
"""Qualities closer than this are equal."""


def is_oracle(key: str) -> bool:
    """Whether a score key names a rule chosen on the labels it is scored on."""
    return key.rpartition("@")[2] in ORACLES


def rates(outcome: np.ndarray, score: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of true and of false positives at each threshold (a case is called at score >= threshold)."""

    def called(scores: np.ndarray) -> np.ndarray:
        return len(scores) - np.searchsorted(np.sort(scores), thresholds, "left")

    return called(score[outcome]), called(score[~outcome])


def _youden(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    return tpr - fpr


def _closest_topleft(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    return -np.hypot(1 - tpr, fpr)


def choose(rule: str, outcome: np.ndarray, score: np.ndarray) -> float:
    """The threshold of `rule` (with or without `_val`, `_test`) for one label: outcome (m,) bool, score (m,)."""
    if rule == "fixed_0.5":
        return 0.5
    name = rule.removesuffix("_val").removesuffix("_test")
    if name not in ("youden", "f1", "closest_topleft"):
        raise RequestError(f"no threshold rule named {rule!r}; there are: {', '.join(RULES)}")
    positives, negatives = int(outcome.sum()), int((~outcome).sum())
    if not positives or not negatives:
        return float("nan")
    thresholds = GRID if name == "closest_topleft" else np.unique(score)
    true, false = rates(outcome, score, thresholds)
    if name == "f1":
        quality = 2 * true / (true + false + positives)
    else:
        judge: Callable = _youden if name == "youden" else _closest_topleft
        quality = judge(true / positives, false / negatives)
    best = np.flatnonzero(quality >= quality.max() - ROUNDING)
    return float(thresholds[best[-1]])
