"""Intervals of scores, from leaving patients out: the same for every score, however few the patients of a class.

Each patient (video) in turn is left out with all her cases; how far the score moves is her influence. Influences give
the variance (Tukey's jackknife, which for a mean is the usual one), and how unequal they are gives its degrees of
freedom: where a few patients decide, as with a rare class, Student's t is wide.

A fraction is looked at on the logit scale, what has no upper limit on the log scale, so that no end lies outside what
is possible; towards a side without limit the end is moved out for skewness (Johnson 1978). A mean over classes takes
its interval from those of the classes and their correlation (MOVER, Zou and Donner 2008), so that a rare class cannot
cost more than its share. Where leaving patients out says nothing, since a class has one patient or no error at all,
Wilson's interval (1927) of its independent cases is added.
"""

from collections.abc import Callable, Sequence

import numpy as np

from medprobe.metrics.measure import mean_defined

Bounds = tuple[float, float]
"""What a score lies between."""
ANYTHING: Bounds = (-np.inf, np.inf)
NOTHING: Bounds = (float("nan"), float("nan"))
ROUNDING = 1e-12
"""Relative: sums of the same numbers in another order differ by less, and then count as equal."""
LEAST_FREEDOM = 6.0
"""Below, t would widen intervals that are already skewed by their scale: coverage falls from there on, see the table."""


def influences(points: np.ndarray, left_out: Sequence[np.ndarray]) -> np.ndarray:
    """(patients, K) influences on the means over folds of K values, such that their squares add up to the variance.

    points: (folds, K) values; left_out: for each fold its (patients, K) values without each patient in turn. A fold in
    which a value is undefined, or becomes so, is left out of its mean. NaN where the mean itself becomes undefined.
    """
    found = []
    for fold, without in enumerate(left_out):
        parts = np.repeat(points[None], len(without), axis=0)
        parts[:, fold] = without
        means = mean_defined(np.moveaxis(parts, 1, 2))
        found.append(np.sqrt(1 - 1 / len(without)) * (mean_defined(means.T) - means))
    return np.concatenate(found)


def quantile(influence: np.ndarray, folds: int, confidence: float = 0.95) -> float:
    """Student's t with Satterthwaite's degrees of freedom, 2 V² / Var(V), with Var(V) from fourth powers."""
    from scipy.special import stdtrit

    most = max(len(influence) - folds, 1)
    variance = (influence**2).sum()
    unequal = ((influence**2 / variance) ** 2).sum() - 1 / len(influence) if variance else 0.0
    freedom = most if unequal <= 2 / most else min(most, max(2 / unequal, LEAST_FREEDOM))
    return float(stdtrit(freedom, (1 + confidence) / 2))


def ends(point: float, influence: np.ndarray, t: float, bounds: Bounds = ANYTHING) -> Bounds:
    """The interval of one value by the influences of patients; the value itself where all patients agree."""
    low, high = bounds
    error = float(np.sqrt((influence**2).sum()))
    if error <= ROUNDING * abs(point) or at_limit(point, bounds):
        return point, point
    scaled, back, slope = _scale(bounds)
    tail = float((influence**3).sum()) / error**3 * (1 + 2 * t * t) / 6
    lower = scaled(point) - error * slope(point) * (t + (max(-tail, 0.0) if np.isinf(low) else 0.0))
    upper = scaled(point) + error * slope(point) * (t + (max(tail, 0.0) if np.isinf(high) else 0.0))
    return back(lower), back(upper)


def at_limit(value: float, bounds: Bounds) -> bool:
    """Whether a fraction is all or nothing."""
    low, high = bounds
    return bool(np.isfinite(high - low) and min(value - low, high - value) <= ROUNDING * (high - low))


def wilson(value: float, cases: float, t: float, bounds: Bounds) -> Bounds:
    """The interval of a share of independent cases, one at least, here of a fraction between `bounds`."""
    low, high = bounds
    share, weight = (value - low) / (high - low), t * t / max(cases, 1.0)
    middle, half = share + weight / 2, np.sqrt(weight * (share * (1 - share) + weight / 4))
    lower, upper = ((middle + sign * half) / (1 + weight) for sign in (-1, 1))
    return low + (high - low) * float(lower), low + (high - low) * float(upper)


def of_value(point: float, influence: np.ndarray, t: float, bounds: Bounds, cases: float) -> Bounds:
    """The interval of one value. NaN where it is undefined without one of the patients."""
    if np.isnan(point) or np.isnan(influence).any():
        return NOTHING
    return wilson(point, cases, t, bounds) if at_limit(point, bounds) else ends(point, influence, t, bounds)


def of_mean(point: float, values: np.ndarray, influence: np.ndarray, t: float, bounds: Bounds, cases: np.ndarray) -> Bounds:
    """The interval of a mean of fractions: values (K,), influence (patients, K), cases (K,) independent ones."""
    if np.isnan(point):
        return NOTHING
    known = np.nan_to_num(influence)
    lost = np.isnan(influence).any(axis=0) | [at_limit(value, bounds) for value in values]
    found = np.array([ends(value, column, t, bounds) for value, column in zip(values, known.T, strict=True)])
    alone = np.array([wilson(value, some, t, bounds) for value, some in zip(values, cases, strict=True)])
    error = np.sqrt((known**2).sum(axis=0))
    unit = np.divide(known, error, out=np.zeros_like(known), where=error > 0)
    moved = []
    for side in (0, 1):
        far, more = np.abs(found[:, side] - values), np.where(lost, alone[:, side] - values, 0.0)
        squared = far @ (unit.T @ unit) @ far + (more**2).sum()
        moved.append(float(np.sqrt(max(squared, 0.0))) / len(values))
    return max(point - moved[0], bounds[0]), min(point + moved[1], bounds[1])


Function = Callable[[float], float]


def _scale(bounds: Bounds) -> tuple[Function, Function, Function]:
    """To the scale, back from it, and the derivative of the first: logit, log, or as it is."""
    low, high = bounds
    if np.isfinite(high):
        return (
            lambda value: float(np.log((value - low) / (high - value))),
            lambda scaled: float(low + (high - low) / (1 + np.exp(-np.clip(scaled, -700, 700)))),
            lambda value: float((high - low) / ((value - low) * (high - value))),
        )
    if np.isfinite(low):
        return (
            lambda value: float(np.log(value - low)),
            lambda scaled: float(low + np.exp(min(scaled, 700.0))),
            lambda value: 1 / (value - low),
        )
    return float, float, lambda value: 1.0
