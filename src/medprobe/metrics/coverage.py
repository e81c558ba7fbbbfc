"""What "95 %" is worth on this very test set: simulated coverage of the intervals of means over exclusive classes.

Test sets of the same structure are simulated: the same patients with as many cases of each class, whose calls scatter
around the observed confusion, more so between patients than within them, as observed (a Dirichlet for each patient and
class, its correlation pooled over classes). The share of their intervals that holds the score of that confusion is the
coverage. Classes in one or two patients tell little of how patients differ: then the pooled correlation is all there is.
"""

from collections.abc import Collection, Sequence

import numpy as np

from medprobe.metrics import intervals
from medprobe.metrics.confusion import NAMES, Counts
from medprobe.metrics.measure import mean_defined
from medprobe.metrics.small import ALIKE, independent

SIMULATIONS = 200
KEYS = {**{f"{name}.macro": name for name in NAMES}, "balanced_accuracy": "recall"}
"""Score -> the fraction of which it is the mean over classes."""


def simulated(folds: Sequence[np.ndarray], keys: Collection[str], simulations: int = SIMULATIONS) -> dict[str, float]:
    """Key -> coverage, for the keys it is known of. folds: (patients, classes, classes) cases by truth and call."""
    names = {key: KEYS[key] for key in keys if key in KEYS}
    confusion = sum(fold.sum(axis=0) for fold in folds)
    called = _shares(confusion)
    alike = _correlation(np.concatenate(folds))
    cases = [fold.sum(axis=2) for fold in folds]
    evidence = _evidence(cases)
    truth = {name: _mean([_fractions((each.sum(axis=0)[:, None] * called), name) for each in cases]) for name in names.values()}
    rng = np.random.default_rng(0)
    held = dict.fromkeys(truth, 0)
    for _ in range(simulations):
        drawn = [_draw(rng, each, called, alike) for each in cases]
        for name in held:
            low, high = _interval(drawn, name, evidence)
            held[name] += low <= truth[name] <= high
    return {key: held[name] / simulations for key, name in names.items()}


def _shares(confusion: np.ndarray) -> np.ndarray:
    """(classes, classes): how the cases of each class are called; half a case is spread over all calls."""
    total = confusion.sum(axis=1, keepdims=True)
    return (confusion + 0.5 / len(confusion)) / (total + 0.5)


def _correlation(counts: np.ndarray) -> float:
    """Of right calls within a patient and class, from how far patients differ, pooled over classes with two or more."""
    cases, right = counts.sum(axis=2), np.einsum("pcc->pc", counts)
    patients = (cases > 0).sum(axis=0)
    share = right.sum(axis=0) / np.maximum(cases.sum(axis=0), 1)
    used = (cases > 0) & (patients > 1)
    apart = (right / np.maximum(cases, 1) - share) ** 2 * patients / np.maximum(patients - 1, 1)
    chance = share * (1 - share)
    least = chance / np.maximum(cases, 1)
    most = (chance - least)[used].sum()
    return float(np.clip((apart - least)[used].sum() / most, 0.01, 0.9)) if most > 0 else ALIKE


def _evidence(cases: Sequence[np.ndarray]) -> np.ndarray:
    """(classes,) independent cases of the rarer outcome."""
    with_class = [independent(each) for each in cases]
    without = [independent(each.sum(axis=1, keepdims=True) - each) for each in cases]
    return np.minimum(sum(with_class), sum(without))


def _draw(rng: np.random.Generator, cases: np.ndarray, called: np.ndarray, alike: float) -> np.ndarray:
    scatter = rng.gamma(np.broadcast_to(called * (1 - alike) / alike, (len(cases), *called.shape)))
    total = scatter.sum(axis=2, keepdims=True)
    shares = np.where(total > 0, scatter / np.where(total > 0, total, 1), called)
    return rng.multinomial(cases, shares)


def _fractions(confusion: np.ndarray, name: str) -> np.ndarray:
    """(…, classes) of (…, classes, classes): 0/0 counts 0, a class without cases is left out."""
    positive, called = confusion.sum(axis=-1), confusion.sum(axis=-2)
    counts = Counts(np.einsum("...cc->...c", confusion), called, positive, confusion.sum(axis=(-1, -2)))
    return np.where(positive > 0, np.nan_to_num(counts.fraction(name)), np.nan)


def _mean(folds: Sequence[np.ndarray]) -> float:
    return float(mean_defined(np.array([mean_defined(fold) for fold in folds])))


def _interval(folds: Sequence[np.ndarray], name: str, evidence: np.ndarray) -> intervals.Bounds:
    values = np.array([_fractions(fold.sum(axis=0), name) for fold in folds])
    without = [_fractions(fold.sum(axis=0) - fold, name) for fold in folds]
    there = ~np.isnan(values).all(axis=0)
    influence = intervals.influences(values[:, there], [each[:, there] for each in without])
    t = intervals.quantile(np.nan_to_num(influence).mean(axis=1), len(folds))
    means = mean_defined(values[:, there].T)
    return intervals.of_mean(_mean(list(values)), means, influence, t, (0.0, 1.0), evidence[there])
