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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import catalogue
from medprobe.metrics.measure import Columns, Measure, Metric, Value, Weighted, divide, mean_defined, some_of
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
    metrics: dict[str, Metric] = {}
    for key, each in values.items():
        metrics[key] = each if callable(each) else CaseMean(_checked(key, each, len(groups), classes))
    unit = Weighted(np.ones((1, len(groups))))
    for key, metric in metrics.items():
        per_class = metric(unit).per_class
        if per_class is not None and per_class.shape[1] != len(classes):
            raise MedprobeError(
                f"{key}: expected one column for each of {len(classes)} classes, found {per_class.shape[1]}; "
                "name the classes scored, without the background"
            )
    return Measure(metrics, groups, classes, cases, facts, bounds=catalogue.bounds_of(metrics))


def _checked(key: str, values: np.ndarray, cases: int, classes: tuple[str, ...]) -> np.ndarray:
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
    return values


class CaseMean:
    """Values of cases, (n,) or (n, classes), NaN where undefined: their mean over cases, then over classes.

    `charge`: what an undefined value counts in the reading that charges what was missed; None: not known. `silent`:
    where nothing was there and nothing was called. Both have the shape of the values.
    """

    def __init__(
        self, values: np.ndarray, charge: np.ndarray | None = None, silent: np.ndarray | None = None,
        cases: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.values, self.charge, self.silent, self.cases = values, charge, silent, cases
        self.known = ~np.isnan(values)
        self._sums = _sums(np.where(self.known, values, 0.0), self.known)

    def __call__(self, w: Weighted) -> Value:
        ratios = divide(*_parts(w, self._sums, len(self.values), 2))
        per_class = ratios if self.values.ndim == 2 else None
        return Value(mean_defined(ratios), int((~self.known).sum()), per_class, self.cases, self.known)

    def kept(self, entries: np.ndarray) -> "CaseMean":
        return CaseMean(np.where(entries, self.values, np.nan), cases=some_of(entries))

    def charged(self) -> "CaseMean | None":
        if self.charge is None or self.silent is None:
            return None
        found = CaseMean(np.where(self.known, self.values, self.charge))
        found.known = self.known | ~self.silent
        return found


@dataclass(frozen=True, eq=False)
class SumRatio:
    """Sum over cases of one count divided by that of another, per class, then the mean over the classes not 0/0.

    Both (n,) or (n, classes), over the entries that are `known`. In the reading that charges what was missed, all that
    are `there` count, and a class that is 0/0 counts `absent`. `true`: how much of the class there is; a class that
    loses all of it when cases are left out is left out too.
    """

    above: np.ndarray
    below: np.ndarray
    known: np.ndarray
    there: np.ndarray
    absent: float = float("nan")
    true: np.ndarray | None = None
    cases: np.ndarray | None = None
    _fill: float = float("nan")
    _sums: Columns = field(init=False)

    def __post_init__(self) -> None:
        true = self.below if self.true is None else self.true
        parts = (np.where(self.known, part, 0.0) for part in (self.above, self.below, true))
        object.__setattr__(self, "_sums", _sums(*parts))

    def __call__(self, w: Weighted) -> Value:
        above, below, true = _parts(w, self._sums, len(self.above))
        some = self.known.reshape(len(self.known), -1).any(axis=0)
        ratios = np.where((below == 0) & some, self._fill, divide(above, below))
        ratios[(true == 0) & self._true] = np.nan
        undefined, per_class = np.isnan(ratios).sum(axis=1), ratios if self.above.ndim == 2 else None
        return Value(mean_defined(ratios), undefined, per_class, self.cases, self.known & (self.below > 0))

    @property
    def _true(self) -> np.ndarray:
        """(classes,): whether there is any of the class, and it is asked."""
        if self.true is None:
            return np.zeros(1, dtype=bool)
        return np.asarray(np.where(self.known, self.true, 0.0).reshape(len(self.known), -1).any(axis=0))

    def kept(self, entries: np.ndarray) -> "SumRatio":
        return replace(self, known=entries, cases=some_of(entries))

    def charged(self) -> "SumRatio":
        return replace(self, known=self.there, _fill=self.absent)


def _sums(*parts: np.ndarray) -> Columns:
    return Columns(np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1))


def _parts(w: Weighted, sums: Columns, cases: int, number: int = 3) -> list[np.ndarray]:
    if len(w.by_case) != cases:
        raise MedprobeError(f"expected counts of {len(w.by_case)} cases, found {cases}; give one row per case")
    return np.split(w.of(sums), number, axis=1)


def ratio_of_sums(
    numerator: np.ndarray, denominator: np.ndarray, known: np.ndarray | None = None, there: np.ndarray | None = None,
    absent: float = float("nan"), true: np.ndarray | None = None,
) -> SumRatio:  # fmt: skip
    """Sum over cases of one count divided by that of another, per class, then the mean over classes not 0/0.

    Both (n,), or (n, classes), in voxels, or in mm³ where voxel sizes differ between cases. For `known`, `there`,
    `absent` and `true` see SumRatio; None: all.
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
    everywhere = np.ones(numerator.shape, dtype=bool)
    known, there = (everywhere if part is None else np.broadcast_to(part, numerator.shape) for part in (known, there))
    return SumRatio(numerator, denominator, known, there, absent, true)


class Spread:
    """The standard deviation over cases (ddof 0) of values (n,); those that are NaN are left out and counted."""

    def __init__(self, values: np.ndarray, cases: np.ndarray | None = None) -> None:
        self.values, self.cases = np.asarray(values, dtype=np.float64), cases
        self.known = ~np.isnan(self.values)
        apart = np.where(self.known, self.values - mean_defined(self.values), 0.0)  # so that squares stay small
        self._sums = Columns(np.stack([self.known, apart, apart**2], axis=1))

    def __call__(self, w: Weighted) -> Value:
        count, total, squares = w.of(self._sums).T
        variance = divide(squares, count) - divide(total, count) ** 2
        return Value(np.sqrt(np.maximum(variance, 0.0)), int((~self.known).sum()), cases=self.cases, defined=self.known)

    def kept(self, entries: np.ndarray) -> "Spread":
        return Spread(np.where(entries, self.values, np.nan), entries)

    def charged(self) -> None:
        return None


def aggregated(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> dict[str, SumRatio]:
    """`dice`, `iou`, `precision` and `recall` `.aggregated` from true and false positives and false negatives.

    Counts (n,) or (n, classes) per case, as of `ratio_of_sums`: Dice is 2 sum TP / (2 sum TP + sum FP + sum FN).
    """
    tp, fp, fn = (np.asarray(part, dtype=np.float64) for part in (tp, fp, fn))
    if not tp.shape == fp.shape == fn.shape:
        raise MedprobeError(
            f"expected tp, fp and fn of one shape, found {tp.shape}, {fp.shape} and {fn.shape}; give one row per case"
        )
    called, true, any_ = (part.sum(axis=0) > 0 for part in (tp + fp, tp + fn, tp + fp + fn))
    return {
        "dice.aggregated": ratio_of_sums(2 * tp, 2 * tp + fp + fn, any_, any_, absent=1.0, true=tp + fn),
        "iou.aggregated": ratio_of_sums(tp, tp + fp + fn, any_, any_, absent=1.0, true=tp + fn),
        "precision.aggregated": ratio_of_sums(tp, tp + fp, called, any_, absent=0.0, true=tp + fn),
        "recall.aggregated": ratio_of_sums(tp, tp + fn, true, true),
    }
