"""From values per case, or sums over cases, to scores with the same intervals as everything else.

    mean over cases    dice, hd95, ...: per class the mean over the cases in which it is defined, then over the classes
                       defined anywhere; NaN entries are skipped and counted in `n_undefined`
    ratio of sums      dice.aggregated, ...: per class the sum over cases above the sum over cases below, then the mean
                       over the classes whose lower sum is not 0; the others are counted in `n_undefined`
    spread             dice.sd, ...: the standard deviation of the values of cases

The first weighs every case alike and needs a rule for absent classes; in the second large cases count for more, and a
class absent from a case is no problem (HECKTOR ranks by it: 3D datasets sheet 7). All are functions of case weights,
so patients are drawn for all. In a draw that loses all cases of a class, that class is left out of the mean.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics.measure import Columns, Measure, Metric, Value, Weighted, divide, mean_defined
from medprobe.registry import did_you_mean


def measure_cases(
    values: Mapping[str, np.ndarray | Metric],
    groups: np.ndarray,
    classes: Sequence[str] = (),
    *,
    facts: Mapping[str, tuple[str | None, bool]] | None = None,
    cases: np.ndarray | None = None,
) -> Measure:
    """Scores by key, each from values per case (n,) or (n, classes), or a metric such as `ratio_of_sums` gives.

    NaN is undefined. groups (n,): the patient of each case. facts: unit and whether higher is better, for the keys
    where these are not (None, True): {"hd95": ("mm", False)}. cases (n,) bool: those that count at all; None = all.
    """
    groups, classes = np.asarray(groups), tuple(classes)
    for key in facts or {}:
        if key not in values:
            close = did_you_mean(key, list(values))
            raise RequestError(f"a unit or direction is given for {key!r}, which is no score here; {close}")
    metrics: dict[str, Metric] = {
        key: each if callable(each) else _mean_of_cases(key, each, len(groups), classes) for key, each in values.items()
    }
    unit = Weighted(np.ones((1, len(groups))))
    for key, metric in metrics.items():
        per_class = metric(unit).per_class
        if per_class is not None and per_class.shape[1] != len(classes):
            raise MedprobeError(
                f"{key}: expected one column for each of {len(classes)} classes, found {per_class.shape[1]}; "
                "name the classes scored, without the background"
            )
    return Measure(metrics, groups, classes, cases, facts)


def _mean_of_cases(key: str, values: np.ndarray, cases: int, classes: tuple[str, ...]) -> Metric:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) != cases:
        raise MedprobeError(
            f"{key}: expected values ({cases},) or ({cases}, {len(classes)}), found {values.shape}; "
            "give one row per case and one column per class"
        )
    if np.isinf(values).any():
        raise MedprobeError(
            f"{key}: expected finite values, or NaN where undefined, found {np.isinf(values).sum()} infinite ones; "
            "give them as NaN"
        )
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0), known, lambda ratios: int((~known).sum()))


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray) -> Metric:
    """Sum over cases of one count divided by that of another, per class, then the mean over classes not 0/0.

    Both (n,), or (n, classes), in voxels, or in mm³ where voxel sizes differ between cases.
    """
    numerator, denominator = (np.asarray(part, dtype=np.float64) for part in (numerator, denominator))
    if numerator.shape != denominator.shape or numerator.ndim not in (1, 2):
        raise MedprobeError(
            f"expected two tables of counts (n,) or (n, classes), found {numerator.shape} and {denominator.shape}; "
            "give one row per case"
        )
    if not all(np.isfinite(part).all() and (part >= 0).all() for part in (numerator, denominator)):
        raise MedprobeError(
            "expected counts from 0 on, found negative, NaN or infinite ones; leave out cases that were not scored"
        )
    return _ratio(numerator, denominator, lambda ratios: np.isnan(ratios).sum(axis=1))


def spread(values: np.ndarray) -> Metric:
    """The standard deviation over cases (ddof 0) of values (n,); those that are NaN are left out and counted."""
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    apart = np.where(known, values - mean_defined(values), 0.0)  # from the mean of all, so that squares stay small
    sums = Columns(np.stack([known, apart, apart**2], axis=1))

    def metric(w: Weighted) -> Value:
        count, total, squares = w.of(sums).T
        variance = divide(squares, count) - divide(total, count) ** 2
        return Value(np.sqrt(np.maximum(variance, 0.0)), int((~known).sum()))

    return metric


def _ratio(
    numerator: np.ndarray, denominator: np.ndarray, undefined: Callable[[np.ndarray], np.ndarray | int]
) -> Metric:
    cases, split = len(numerator), numerator.ndim == 2
    sums = Columns(np.concatenate([part.reshape(cases, -1) for part in (numerator, denominator)], axis=1))
    defined = denominator > 0

    def metric(w: Weighted) -> Value:
        if len(w.by_case) != cases:
            raise MedprobeError(f"expected counts of {len(w.by_case)} cases, found {cases}; give one row per case")
        ratios = divide(*np.split(w.of(sums), 2, axis=1))
        return Value(mean_defined(ratios), undefined(ratios), ratios if split else None, defined=defined)

    return metric


def aggregated(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> dict[str, Metric]:
    """`dice`, `iou`, `precision` and `recall` `.aggregated` from true and false positives and false negatives.

    Counts (n,) or (n, classes) per case, as of `ratio_of_sums`: Dice is 2 sum TP / (2 sum TP + sum FP + sum FN).
    """
    tp, fp, fn = (np.asarray(part, dtype=np.float64) for part in (tp, fp, fn))
    if not tp.shape == fp.shape == fn.shape:
        raise MedprobeError(
            f"expected tp, fp and fn of one shape, found {tp.shape}, {fp.shape} and {fn.shape}; give one row per case"
        )
    return {
        "dice.aggregated": ratio_of_sums(2 * tp, 2 * tp + fp + fn),
        "iou.aggregated": ratio_of_sums(tp, tp + fp + fn),
        "precision.aggregated": ratio_of_sums(tp, tp + fp),
        "recall.aggregated": ratio_of_sums(tp, tp + fn),
    }
