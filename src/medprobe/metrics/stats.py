"""How sure a number is: intervals over patients, folds and seeds.

Patients (videos), not cases, are left out or drawn, since the cases of one patient are alike; a patient goes with all
her cases, as case weights. Thresholds stay what they were for the point estimate: the interval is that of the decisions
as made. Intervals come from leaving patients out (`intervals`); or on request from drawing them with replacement, as
percentiles of the replicates in which the number is defined, or those that BCa corrects for bias and skewness. With
fewer than five patients there is none (`small`).

Folds are combined as the mean over folds, with patients left out (drawn) inside each fold; seeds as mean and standard
deviation. The two answer different questions (which patients? which luck?) and are never mixed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import intervals
from medprobe.metrics.measure import Measure, mean_defined
from medprobe.metrics.small import Support
from medprobe.types import Score

Method = Literal["jackknife", "percentile", "bca"]

CHUNK_ENTRIES = 2**21
"""Case weights held at a time: 16 MiB."""
LEFT_OUT = 500
"""Patients left out one by one; what more of them would add to the precision of a standard error is under 3 %."""


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


def leave_out_weights(groups: np.ndarray, chunk: int | None = None) -> Iterator[np.ndarray]:
    """(b, n) case weights with one patient after another, in the order of their names, left out, b at a time.

    More than `LEFT_OUT` patients are left out in so many groups of equal size, by a fixed draw.
    """
    patients, patient = np.unique(np.asarray(groups), return_inverse=True)
    parts = min(len(patients), LEFT_OUT)
    if parts < len(patients):
        patient = (np.random.default_rng(0).permutation(len(patients)) % parts)[patient]
    chunk = chunk or _chunk(len(patient))
    for start in range(0, parts, chunk):
        left_out = np.arange(start, min(start + chunk, parts))
        yield (patient != left_out[:, None]).astype(np.float64)


def jackknife(sides: Sequence[Sequence[Measure]], keys: Collection[str]) -> dict[str, list[np.ndarray]]:
    """Key -> for each fold the (sides, patients) values of that fold without each of its patients in turn."""
    return {key: [fold[..., 0] for fold in folds] for key, folds in _left_out(sides, keys).items()}


def _left_out(sides: Sequence[Sequence[Measure]], keys: Collection[str]) -> dict[str, list[np.ndarray]]:
    """As `jackknife`, with the values of the classes: (sides, patients, 1 + classes)."""
    left_out: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for folds in zip(*sides, strict=True):
        parts: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        for weights in leave_out_weights(folds[0].groups):
            values = [fold.columns(weights, keys) for fold in folds]
            for key in keys:
                parts[key].append(np.array([value[key] for value in values]))
        for key in keys:
            left_out[key].append(np.concatenate(parts[key], axis=1))
    return left_out


def mean_intervals(
    sides: Sequence[Sequence[Measure]], keys: Collection[str], confidence: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Key -> interval of the mean over sides (seeds) and folds, by `intervals`; NaN where there is none.

    A patient is left out of all sides at once, so that the luck of a seed is no part of it.
    """
    left_out = _left_out(sides, keys)
    points = [[fold.columns(np.ones((1, len(fold.groups))), keys) for fold in side] for side in sides]
    found = {}
    for key in keys:
        values = _mean_of_sides(np.array([[fold[key][0] for fold in side] for side in points]))
        without = [_mean_of_sides(fold) for fold in left_out[key]]
        support = Support.of(sides[0], key)
        if support.none:
            found[key] = intervals.NOTHING
            continue
        one = sides[0][0]
        bounds = one.bounds.get(key, intervals.ANYTHING)
        found[key] = _interval_of(values, without, support, one.classes, bounds, confidence)
    return found


def _mean_of_sides(values: np.ndarray) -> np.ndarray:
    return mean_defined(np.moveaxis(values, 0, -1))


def _interval_of(
    values: np.ndarray,
    without: Sequence[np.ndarray],
    support: Support,
    classes: Sequence[str],
    bounds: intervals.Bounds,
    confidence: float,
) -> intervals.Bounds:
    """Of (folds, 1 + classes) values: from the classes where these are fractions, else from the score itself."""
    means, influence = mean_defined(values.T), intervals.influences(values, without)
    there = [place for place, mean in enumerate(means[1:]) if not np.isnan(mean)]
    if not there or not np.isfinite(bounds[1]):
        t = intervals.quantile(influence[:, 0], len(values), confidence)
        return intervals.of_value(float(means[0]), influence[:, 0], t, bounds, support.rarest)
    means, each = means[1:][there], influence[:, 1:][:, there]
    t = intervals.quantile(np.nan_to_num(each).mean(axis=1), len(values), confidence)
    cases = np.array([support.of_class(classes[place]) for place in there])
    return intervals.of_mean(float(mean_defined(values[:, 0])), means, each, t, bounds, cases)


def bca_interval(
    values: np.ndarray, points: np.ndarray, left_out: Sequence[np.ndarray], confidence: float = 0.95
) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron 1987) of a mean over folds.

    values: (R,) replicates; points: (folds,) estimates; left_out: for each fold its (P,) estimates without each patient
    in turn. The bias comes from the share of replicates below the estimate, ties counted half; the acceleration from
    the jackknife, in which folds are separate samples (as in scipy.stats.bootstrap).

    It is NaN, never a percentile interval under another name, where a correction is undefined: without an estimate;
    with fewer than three patients in a fold (two always have skewness 0); if the number is undefined without some
    patient; if it is the same without any, or all replicates lie on one side of the estimate, unless all replicates are
    equal: then so is every percentile of them; and where the two corrections together pass the pole of the formula.
    """
    nothing = float("nan"), float("nan")
    known, point = values[~np.isnan(values)], float(mean_defined(points))
    if not len(known) or np.isnan(point) or any(len(each) < 3 for each in left_out):
        return nothing
    influences = []
    for fold, each in enumerate(left_out):
        if np.isnan(each).any() and not np.isnan(points[fold]):
            return nothing
        parts = np.repeat(points[None], len(each), axis=0)
        parts[:, fold] = each
        means = mean_defined(parts)
        influences.append((len(each) - 1) / len(each) * (means.mean() - means))
    rounding = intervals.ROUNDING * max(abs(point), float(np.abs(known).max()))
    if np.ptp(known) <= rounding:
        return interval(known, confidence)
    influence = np.concatenate(influences)
    if np.abs(influence).max() <= rounding:
        return nothing
    from scipy.special import ndtr, ndtri

    acceleration = (influence**3).sum() / (influence**2).sum() ** 1.5 / 6
    tied = np.abs(known - point) <= rounding
    bias = ndtri(((known < point) & ~tied).mean() + tied.mean() / 2)
    if np.isinf(bias):
        return nothing
    shifted = bias + ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    if (acceleration * shifted >= 1).any():
        return nothing
    low, high = np.percentile(known, 100 * ndtr(bias + shifted / (1 - acceleration * shifted)))
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
    method: Method = "jackknife",
) -> dict[str, Score]:
    """Scores with intervals of one test part (one fold), or of k folds as their mean.

    Cases and undefined values are summed over folds, patients counted once. A fold in which a number is undefined is
    left out of its mean (it is counted in `n_undefined`). `method` "percentile" and "bca" take `resamples` draws of
    patients, by `seed`; "jackknife" draws nothing.
    """
    keys = shared_keys(folds, keys)
    check_method(method)
    points = [fold.scores(keys) for fold in folds]
    if method == "jackknife":
        found = mean_intervals([folds], keys, confidence)
    else:
        found = _resampled(folds, points, keys, resamples, seed, confidence, method)
    patients = patients_of(folds)
    return {key: _combined(folds, key, [point[key] for point in points], found[key], patients) for key in keys}


def _resampled(
    folds: Sequence[Measure],
    points: Sequence[Mapping[str, Score]],
    keys: Collection[str],
    resamples: int,
    seed: int,
    confidence: float,
    method: Method,
) -> dict[str, tuple[float, float]]:
    draws = replicates([folds], keys, resamples, seed)
    left_out = jackknife([folds], keys) if method == "bca" else {}
    found = {}
    for key in keys:
        values = mean_defined(draws[key][0].T)
        estimates = np.array([point[key].value for point in points])
        if Support.of(folds, key).none:
            found[key] = float("nan"), float("nan")
        elif method == "bca":
            found[key] = bca_interval(values, estimates, [fold[0] for fold in left_out[key]], confidence)
        else:
            found[key] = interval(values, confidence)
    return found


def check_method(method: str) -> None:
    if method not in get_args(Method):
        raise RequestError(f"no interval method named {method!r}; there are: {', '.join(get_args(Method))}")


def patients_of(folds: Sequence[Measure]) -> int:
    return len(np.unique(np.concatenate([fold.groups[fold.cases] for fold in folds])))


def _combined(
    folds: Sequence[Measure], key: str, scores: list[Score], ends: tuple[float, float], patients: int
) -> Score:
    low, high = ends
    small = Support.of(folds, key).said(bool(np.isnan(low)))
    if len(scores) == 1:
        return replace(scores[0], low=low, high=high, small=small)
    facts = {(score.unit, score.higher_is_better) for score in scores}
    if len(facts) > 1:
        raise MedprobeError(
            f"expected {key} in one unit and direction in every fold, found {sorted(map(str, facts))}; "
            "score all folds in the same way"
        )
    return replace(
        scores[0],
        value=_mean([score.value for score in scores]),
        low=low,
        high=high,
        n_cases=sum(score.n_cases for score in scores),
        n_patients=min(patients, sum(score.n_patients for score in scores)),
        n_undefined=sum(score.n_undefined for score in scores),
        per_class={name: _mean([score.per_class[name] for score in scores]) for name in scores[0].per_class},
        small=small,
    )


def _mean(values: list[float]) -> float:
    return float(mean_defined(np.array(values)))


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
