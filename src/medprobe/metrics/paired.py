"""Is one model better than another? Paired differences over the same patients, signed ranks, Holm's correction."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.metrics import stats
from medprobe.metrics.measure import Measure, mean_defined


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
    method: stats.Method = "percentile",
) -> dict[str, Difference]:
    """Score of A minus score of B over the same cases, as the mean over folds, under the same draws of patients.

    p = 2 (1 + the smaller count of replicates on either side of 0, ties on both) / (1 + replicates), at most 1. It
    belongs to the percentile interval; `method` "bca" corrects the interval only, so near 0 the two can disagree.
    Raises MedprobeError unless both have the same folds with the same patients, case by case.
    """
    keys = stats.shared_keys([*a, *b], keys)
    stats.check_method(method)
    if len(a) != len(b) or any(not np.array_equal(one.groups, other.groups) for one, other in zip(a, b, strict=False)):
        raise MedprobeError(
            "expected the same cases in the same order in every fold of both models, found other patients or "
            f"{_sizes(a)} and {_sizes(b)} cases per fold; run both models on the same cases"
        )
    patients = stats.patients_of(a)
    draws = stats.replicates([a, b], keys, resamples, seed)
    left_out = stats.jackknife([a, b], keys) if method == "bca" else {}
    points = [[fold.scores(keys) for fold in side] for side in (a, b)]
    differences = {}
    for key in keys:
        one, other = ([fold[key] for fold in side] for side in points)
        estimates = np.array([x.value - y.value for x, y in zip(one, other, strict=True)])
        value = float(mean_defined(estimates))
        changes = mean_defined((draws[key][0] - draws[key][1]).T)
        if method == "bca":
            without = [fold[0] - fold[1] for fold in left_out[key]]
            low, high = stats.bca_interval(changes, estimates, without, confidence)
        else:
            low, high = stats.interval(changes, confidence)
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


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test: the smaller rank sum and two-sided p; `n_zero` of the patients showed no difference.

    `n_undefined` cases, undefined in either model, were left out.
    """

    statistic: float
    p: float
    n_patients: int
    n_zero: int
    n_undefined: int


def wilcoxon(a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> SignedRank:
    """Paired Wilcoxon signed-rank test of two models on the same cases: a, b (n,) per-case values, NaN undefined.

    Ranked are patients, by their mean of a - b over the cases defined in both: `groups` (n,) is the patient of each
    case. The rest is scipy.stats.wilcoxon's default: zeros are dropped; exact for at most 50 patients without ties or
    zeros, else by permutation or normal approximation. Differences that agree to 1e-12 of the largest value are ties.
    If no patient shows a difference nothing is left to rank: statistic and p are NaN.
    """
    a, b, groups = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), np.asarray(groups)
    if a.ndim != 1 or a.shape != b.shape or a.shape != groups.shape:
        raise MedprobeError(
            f"expected two values and a patient for each case, found {a.shape}, {b.shape} and {groups.shape}; "
            "compare one metric of one class on the same cases"
        )
    if np.isinf(a).any() or np.isinf(b).any():
        raise MedprobeError("expected finite values, or NaN where undefined, found infinite ones; give them as NaN")
    known = ~(np.isnan(a) | np.isnan(b))
    patients, patient = np.unique(groups[known], return_inverse=True)
    change = (a - b)[known]
    means = np.bincount(patient, change, len(patients)) / np.bincount(patient, minlength=len(patients))
    largest = max(np.abs(a[known]).max(initial=0.0), np.abs(b[known]).max(initial=0.0))
    ranked = np.round(means / (largest or 1.0), 12)
    zeros = int((ranked == 0).sum())
    statistic = p = float("nan")
    if zeros < len(ranked):
        from scipy.stats import wilcoxon as signed_rank

        statistic, p = map(float, signed_rank(ranked))
    return SignedRank(statistic, p, len(patients), zeros, int((~known).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given; NaN stays NaN and does not count as a comparison."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted.tolist()
