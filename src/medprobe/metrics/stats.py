"""How sure a number is: patient-clustered bootstrap, paired differences, Holm's correction, folds and seeds.

Patients (videos), not cases, are drawn with replacement, since the cases of one patient are alike; a drawn patient
brings all her cases, as case weights. Thresholds stay what they were for the point estimate: the interval is that of
the decisions as made. Intervals are percentiles of the replicates in which the number is defined; with fewer than two
patients in a part there is nothing to draw from, and the interval is NaN.

Folds are combined as the mean over folds, with patients drawn inside each fold; seeds as mean and standard deviation.
The two answer different questions (which patients? which luck?) and are never mixed.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.metrics.measure import Measure, mean_defined
from medprobe.types import Score

CHUNK_ENTRIES = 2**21
"""Case weights held at a time: 16 MiB."""


def bootstrap_weights(
    groups: np.ndarray, resamples: int, seed: int | Sequence[int], chunk: int | None = None
) -> Iterator[np.ndarray]:
    """(b, n) case weights of `resamples` draws of patients with replacement, b at a time.

    The draws depend on `seed` and on the patients' names, not on the order of cases nor on `chunk`.
    """
    patients, patient = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    chunk = chunk or _chunk(len(patient))
    for start in range(0, resamples, chunk):
        counts = np.empty((len(patients), min(chunk, resamples - start)))
        for draw in range(counts.shape[1]):
            drawn = rng.integers(len(patients), size=len(patients))
            counts[:, draw] = np.bincount(drawn, minlength=len(patients))
        yield counts[patient].T


def _chunk(cases: int) -> int:
    return max(1, min(256, CHUNK_ENTRIES // max(1, cases)))


def replicates(
    sides: Sequence[Sequence[Measure]], keys: Collection[str], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Key -> (sides, folds, resamples) values under drawn patients; every side sees the same draws.

    A side is one model's folds, a single test part being one fold. All NaN if a fold has fewer than two patients.
    """
    folds = sides[0]
    if any(len(np.unique(fold.groups)) < 2 for fold in folds):
        return {key: np.full((len(sides), len(folds), resamples), np.nan) for key in keys}
    chunk = _chunk(max(len(fold.groups) for fold in folds))
    draws = [bootstrap_weights(fold.groups, resamples, (seed, number), chunk) for number, fold in enumerate(folds)]
    parts: dict[str, list[np.ndarray]] = {key: [np.empty((len(sides), len(folds), 0))] for key in keys}
    for weights in zip(*draws, strict=True):
        values = [[fold(drawn, keys) for fold, drawn in zip(side, weights, strict=True)] for side in sides]
        for key in keys:
            parts[key].append(np.array([[fold[key] for fold in side] for side in values]))
    return {key: np.concatenate(chunks, axis=2) for key, chunks in parts.items()}


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of the values that are not NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    tail = 50 * (1 - confidence)
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def shared_keys(measures: Sequence[Measure], keys: Collection[str] | None = None) -> list[str]:
    """The keys asked for, else those that every measure has, in the order of the first."""
    if not measures:
        raise MedprobeError("expected the predictions of at least one fold, found none; score a finished run")
    if keys is not None:
        return list(keys)
    return [key for key in measures[0].metrics if all(key in each.metrics for each in measures)]


def combine_folds(
    folds: Sequence[Measure],
    *,
    keys: Collection[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Score]:
    """Scores with intervals of one test part (one fold), or of k folds as their mean.

    Cases and undefined values are summed over folds, patients counted once. A fold in which a number is undefined is
    left out of its mean (it is counted in `n_undefined`).
    """
    keys = shared_keys(folds, keys)
    draws = replicates([folds], keys, resamples, seed)
    points = [fold.scores(keys) for fold in folds]
    patients = _patients(folds)
    return {
        key: _combined([point[key] for point in points], mean_defined(draws[key][0].T), confidence, patients)
        for key in keys
    }


def _patients(folds: Sequence[Measure]) -> int:
    return len(np.unique(np.concatenate([fold.groups[fold.cases] for fold in folds])))


def _combined(scores: list[Score], draws: np.ndarray, confidence: float, patients: int) -> Score:
    low, high = interval(draws, confidence)
    if len(scores) == 1:
        return replace(scores[0], low=low, high=high)
    return Score(
        value=_mean([score.value for score in scores]),
        low=low,
        high=high,
        n_cases=sum(score.n_cases for score in scores),
        n_patients=min(patients, sum(score.n_patients for score in scores)),
        n_undefined=sum(score.n_undefined for score in scores),
        per_class={name: _mean([score.per_class[name] for score in scores]) for name in scores[0].per_class},
    )


def _mean(values: list[float]) -> float:
    return float(mean_defined(np.array(values)))


@dataclass(frozen=True)
class Difference:
    """A minus B with its interval and two-sided bootstrap p; NaN where undefined."""

    value: float
    low: float
    high: float
    p: float
    n_cases: int
    n_patients: int


def paired_difference(
    a: Sequence[Measure],
    b: Sequence[Measure],
    *,
    keys: Collection[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Difference]:
    """Score of A minus score of B over the same cases, as the mean over folds, under the same draws of patients.

    p = 2 (1 + the smaller count of replicates on either side of 0, ties on both) / (1 + replicates), at most 1.
    Raises MedprobeError unless both have the same folds with the same patients, case by case.
    """
    keys = shared_keys([*a, *b], keys)
    if len(a) != len(b) or any(not np.array_equal(one.groups, other.groups) for one, other in zip(a, b, strict=False)):
        raise MedprobeError(
            "expected the same cases in the same order in every fold of both models, found other patients or "
            f"{_sizes(a)} and {_sizes(b)} cases per fold; run both models on the same folds without --limit"
        )
    patients = _patients(a)
    draws = replicates([a, b], keys, resamples, seed)
    points = [[fold.scores(keys) for fold in side] for side in (a, b)]
    differences = {}
    for key in keys:
        one, other = ([fold[key] for fold in side] for side in points)
        value = _mean([x.value - y.value for x, y in zip(one, other, strict=True)])
        changes = mean_defined((draws[key][0] - draws[key][1]).T)
        low, high = interval(changes, confidence)
        p = float("nan") if np.isnan(value) else two_sided_p(changes)
        differences[key] = Difference(value, low, high, p, sum(score.n_cases for score in one), patients)
    return differences


def _sizes(folds: Sequence[Measure]) -> str:
    return "+".join(str(len(fold.groups)) for fold in folds)


def two_sided_p(changes: np.ndarray) -> float:
    """How often bootstrap replicates of a difference fall on the rarer side of 0, twice; NaN without replicates."""
    known = changes[~np.isnan(changes)]
    if not len(known):
        return float("nan")
    rarer = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(known))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given; NaN stays NaN and does not count as a comparison."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted.tolist()


@dataclass(frozen=True)
class SeedSummary:
    """A score over seeds: mean and standard deviation (ddof 1) of the `n` values that are not NaN, and all values."""

    mean: float
    sd: float
    n: int
    values: tuple[float, ...]


def combine_seeds(values: Sequence[float]) -> SeedSummary:
    """Mean and spread over seeds; the standard deviation is NaN with fewer than two defined values."""
    array = np.asarray(values, dtype=float)
    known = array[~np.isnan(array)]
    mean = float(known.mean()) if len(known) else float("nan")
    sd = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return SeedSummary(mean, sd, len(known), tuple(array.tolist()))
