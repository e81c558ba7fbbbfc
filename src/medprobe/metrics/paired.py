"""Is one model better than another? Paired differences over the same patients, signed ranks, Holm's correction.

Paired is meant to the last entry: a value that is undefined in one model (HD95 of a class it missed) is left out of both,
or else who misses the hard cases would win. What is left out is counted, and the charged reading counts it as a miss.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.metrics import stats
from medprobe.metrics.intervals import ROUNDING
from medprobe.metrics.measure import Entries, Measure, Value, Weighted, mean_defined
from medprobe.metrics.small import LEAST, Support

FLIPS = 9_999
EXACT = 14
"""Patients up to which every way of swapping the models is tried; of more, random ways are drawn."""
GROUPS = 1000
"""Patients are left out one by one up to this number, of more in so many groups."""
NO_CHARGE = "what a missed class costs is not in these results; run or score again"

Folds = Sequence[Measure]


@dataclass(frozen=True)
class Difference:
    """A minus B over what is defined in both, with its interval and two-sided p; NaN where undefined, for a `reason`.

    An entry is a class in a case, or a phase in a video: `n_entries` are compared; `n_undefined` were left out as
    undefined in A alone, in B alone, in both; all over folds and seeds. `n_patients_left_out` have no entry left.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")
    n_cases: int = 0
    n_patients: int = 0
    n_patients_left_out: int = 0
    n_entries: int = 0
    n_undefined: tuple[int, int, int] = (0, 0, 0)
    per_class: Mapping[str, float] = field(default_factory=dict)
    small: str | None = None
    """What is too few for all to hang on it: "7 patients"."""
    reason: str = ""


def paired_difference(
    a: Folds, b: Folds, *, keys: Collection[str] | None = None, flips: int = FLIPS, seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Difference]:  # fmt: skip
    """Score of A minus score of B on the same cases, as the mean over folds: `difference` of every key."""
    keys = stats.shared_keys([*a, *b], keys)
    return {key: difference([(a, b)], key, flips=flips, seed=seed, confidence=confidence) for key in keys}


def difference(
    pairs: Sequence[tuple[Folds, Folds]], key: str, *, charged: bool = False, flips: int = FLIPS, seed: int = 0,
    confidence: float = 0.95,
) -> Difference:  # fmt: skip
    """Score of A minus score of B, as the mean over folds, then over seeds (a pair each), on entries defined in both.

    The test swaps the two models patient by patient: a patient's share of the difference (known from leaving her out)
    changes its sign, in every way or in `flips` random ones, and p says how often the difference becomes as large as
    it is. The interval holds the differences that this test does not reject at 1 - `confidence`: the two agree.

    `charged`: an entry that one model missed counts as the worst there is, a distance as the diagonal of the image.
    MedprobeError unless both models have the same folds with the same cases.
    """
    seeds = [[_Fold(one, other, key, charged) for one, other in _alike(a, b)] for a, b in pairs]
    every = [fold for folds in seeds for fold in folds]
    defined = [[fold for fold in folds if not np.isnan(fold.value)] for folds in seeds]
    names = {name for folds in defined for fold in folds for name in fold.patients}
    a_alone, b_alone, both = np.sum([fold.n_undefined for fold in every], axis=0).tolist()
    found = Difference(
        float(mean_defined(np.array([mean_defined(np.array([fold.value for fold in folds])) for folds in seeds]))),
        n_cases=sum(fold.n_cases for fold in seeds[0]),
        n_patients=len(names),
        n_patients_left_out=len({name for fold in every for name in fold.groups.tolist()} - names),
        n_entries=sum(fold.n_entries for fold in every),
        n_undefined=(a_alone, b_alone, both),
        per_class=_mean_of_classes(every),
        small=Support(len(names), len(names), _patients_of_parts(every)).mark,
    )
    if charged and any(fold.unknown for fold in every):
        return replace(found, value=float("nan"), per_class={}, reason=NO_CHARGE)
    if np.isnan(found.value):
        return replace(found, reason="no case is defined in both" if not found.n_cases else "undefined in one or both")
    if len(names) < LEAST:
        said = f"{len(names)} patient{'' if len(names) == 1 else 's'}; below {LEAST} there is no interval and no p"
        return replace(found, reason=said)
    low, high, p = swapped(*_shares(defined, sorted(names)), flips, seed, confidence)
    if np.isinf(low):
        return replace(found, p=p, reason="the difference hangs on too few patients for this interval")
    return replace(found, low=low, high=high, p=p)


class _Fold:
    """One fold of one seed of two models: their difference as a function of case weights."""

    def __init__(self, a: Measure, b: Measure, key: str, charged: bool) -> None:
        one, other = a.metric(key), b.metric(key)
        self.groups, self.n_entries, self.unknown = a.groups, 0, False
        self.n_undefined: tuple[int, ...] = (0, 0, 0)
        self.parts, alike = a.parts, False
        if isinstance(one, Entries) and isinstance(other, Entries):
            mine, yours = one.known, other.known
            self.n_undefined = tuple(int(some.sum()) for some in (~mine & yours, mine & ~yours, ~mine & ~yours))
            kept = mine & yours
            if charged:
                all_of_one, all_of_other = one.charged(), other.charged()
                if all_of_one is None or all_of_other is None:
                    self.unknown = True
                else:
                    one, other = all_of_one, all_of_other
                    kept = one.known | other.known
            self.n_entries = int(kept.sum())
            self.parts = _parts_of(one, kept, a)
            one, other = one.kept(kept), other.kept(kept)
            alike = len(kept) < len(self.groups)
        self._models = (one, other)
        self._counts = 1 / _cases_of_patient(self.groups) if alike else np.ones(len(self.groups))
        unit = [model(Weighted(np.ones((1, len(self.groups))))) for model in self._models]
        each = _by_class(unit)[0]
        self._classes = ~np.isnan(each)
        self.value = float(mean_defined(each))
        self.per_class = {} if unit[0].per_class is None else dict(zip(a.classes, each.tolist(), strict=True))
        cases = a.cases if unit[0].cases is None else unit[0].cases
        self.n_cases, self.patients = int(cases.sum()), np.unique(self.groups[cases])

    def changes(self, weights: np.ndarray) -> np.ndarray:
        """(B, n) case weights to (B, K) differences of the classes that are defined in both, one where there are none."""
        w = Weighted(weights)
        return _by_class([model(w) for model in self._models])[:, self._classes]

    def shares(self, group: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups of patients, the part of the whole that each stands for, and her share of the difference.

        Shares add up to the difference: what leaving a group out changes, and of the difference itself her part of the
        whole. They are exact for means over cases. A class that a group takes along differs by nothing without it.
        """
        of_case = np.array([group.get(name, -1) for name in self.groups])
        there = np.unique([group[name] for name in self.patients])
        rows = [np.empty((0, int(self._classes.sum())))]
        for some in np.array_split(there, max(1, len(there) * len(of_case) // stats.CHUNK_ENTRIES)):
            rows.append(self.changes((of_case != some[:, None]).astype(np.float64)))
        whole = self.changes(np.ones((1, len(of_case))))
        change = whole - np.nan_to_num(np.concatenate(rows))
        share = self._spread(change - change.mean(axis=0), whole[0], np.searchsorted(there, of_case), np.isin(of_case, there))
        change *= 1 - share
        change += share * (whole - change.sum(axis=0))
        return there, share.mean(axis=1), change.mean(axis=1)

    def _spread(self, change: np.ndarray, whole: np.ndarray, place: np.ndarray, some: np.ndarray) -> np.ndarray:
        """(groups, K): how the difference of each class, `whole` (K,), is spread over the groups of patients.

        Evenly over the cases of a part (with a class, without it), and over parts as they change the difference. What
        is normalised within a part hangs on its patients as a whole: where five of a hundred patients are ill, an AUC
        hangs on five, however alike these are. `place` (n,) is the group of each case, `some` whether it is one of these.
        """
        parts = list(self.parts.values()) or [np.ones(len(self.groups), dtype=bool)]
        masks = np.unique(np.stack([*parts, *(~part for part in parts)]) & some, axis=0)
        masks = masks[masks.any(axis=1)]
        members = np.zeros((len(change), len(masks)))
        for column, cases in enumerate(masks):
            np.add.at(members[:, column], place[cases], self._counts[cases])
        members /= members.sum(axis=0)
        twice = np.isclose(self.changes(1.0 + masks), whole, rtol=0, atol=1e-9)
        own = twice & np.isnan(self.changes(1.0 - masks))
        weight = (members > 0).T @ change**2 + own * whole**2 * (members**2).sum(axis=0)[:, None]
        weight = np.where(own | ~own.any(axis=0), weight, 0.0)
        total = weight.sum(axis=0)
        even = np.full_like(weight, 1 / len(masks))
        return members @ np.where(total > 0, weight / np.where(total > 0, total, 1.0), even)


def _cases_of_patient(groups: np.ndarray) -> np.ndarray:
    _, patient, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[patient]


def _parts_of(metric: Entries, kept: np.ndarray, measure: Measure) -> dict[str, np.ndarray]:
    """The cases (n,) bool with an entry of each class."""
    columns = kept.reshape(len(kept), -1).shape[1]
    names = measure.classes if columns == len(measure.classes) else range(columns)
    found: dict[str, np.ndarray] = {}
    for place, name in enumerate(names):
        only = kept & (np.arange(columns) == place) if kept.ndim == 2 else kept
        cases = metric.kept(only)(Weighted(np.ones((1, len(measure.groups))))).cases
        found[f"for {name}"] = measure.cases if cases is None else cases
    return found


def _patients_of_parts(folds: Sequence[_Fold]) -> dict[str, int]:
    """How many patients each part has, over all folds; of a single part there is nothing more to say."""
    names: dict[str, set] = {}
    for fold in folds:
        for name, cases in fold.parts.items():
            names.setdefault(name, set()).update(fold.groups[cases].tolist())
    return {name: len(patients) for name, patients in names.items()} if len(names) > 1 else {}


def _by_class(models: Sequence[Value]) -> np.ndarray:
    """(B, K) differences, class by class where both are means over classes, else of the values."""
    values = [model.value[:, None] if model.per_class is None else model.per_class for model in models]
    return values[0] - values[1]


def _mean_of_classes(folds: Sequence[_Fold]) -> dict[str, float]:
    names = folds[0].per_class
    return {name: float(mean_defined(np.array([fold.per_class[name] for fold in folds]))) for name in names}


def _alike(a: Folds, b: Folds) -> Iterator[tuple[Measure, Measure]]:
    if len(a) != len(b) or any(not np.array_equal(one.groups, other.groups) for one, other in zip(a, b, strict=False)):
        raise MedprobeError(
            "expected the same cases in the same order in every fold of both models, found other patients or "
            f"{_sizes(a)} and {_sizes(b)} cases per fold; run both models on the same cases"
        )
    for one, other in zip(a, b, strict=True):
        if one.names is not None and other.names is not None and not np.array_equal(one.names, other.names):
            place = int(np.argmax(one.names != other.names))
            raise MedprobeError(
                "expected the same cases in the same order in both models, found "
                f"{one.names[place]} beside {other.names[place]}; run both models on the same cases"
            )
        yield one, other


def _sizes(folds: Folds) -> str:
    return "+".join(str(len(fold.groups)) for fold in folds)


def _shares(seeds: Sequence[Sequence[_Fold]], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of each patient, or group of patients, her part of all and of the difference, over folds and seeds."""
    order = np.random.default_rng(0).permutation(len(names)) if len(names) > GROUPS else np.arange(len(names))
    group = {name: int(place) % GROUPS for name, place in zip(names, order, strict=True)}
    share, change = np.zeros((2, min(len(names), GROUPS)))
    some = [folds for folds in seeds if folds]
    for folds in some:
        for fold in folds:
            there, number, value = fold.shares(group)
            share[there] += number / len(folds) / len(some)
            change[there] += value / len(folds) / len(some)
    return share, change


def swapped(
    share: np.ndarray, change: np.ndarray, flips: int = FLIPS, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Interval and two-sided p of a sum of changes whose signs are exchanged; the `share` (n,) of each adds up to 1.

    Changing signs leaves a sum at least as large as it is exactly where 0 lies between the means of the changed and of
    the unchanged (Hartigan 1969), so the means of random halves give the interval too. It is infinite with too few ways
    to change signs: 2^(n-1), below 20 for 95 %.
    """
    low, high, as_large = (np.concatenate(part) for part in zip(*_halves(share, change, flips, seed), strict=True))
    beyond = int(np.floor((1 - confidence) * len(low) + 1e-9))
    return float(np.partition(low, beyond)[beyond]), float(-np.partition(-high, beyond)[beyond]), float(as_large.mean())


def _halves(share: np.ndarray, change: np.ndarray, flips: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """For every way to halve the patients the smaller and the larger mean of the halves, infinite where one is empty
    (the first), and whether changing the signs of one leaves the sum as large as it is."""
    n, rng, whole = len(share), np.random.default_rng(seed), change.sum()
    ways = 2 ** (n - 1) if n <= EXACT else flips + 1
    rounding = ROUNDING * np.abs(change).sum()
    for start in range(0, ways, size := max(1, stats.CHUNK_ENTRIES // n)):
        numbers = np.arange(start, min(start + size, ways))
        if n <= EXACT:
            half = numbers[:, None] >> np.arange(n) & 1
        else:
            half = rng.integers(0, 2, (len(numbers), n), dtype=np.int8) * (numbers > 0)[:, None]
        weight, total = half @ share, half @ change
        empty = (weight < ROUNDING) | (weight > 1 - ROUNDING)
        weight = np.where(empty, 0.5, weight)
        sums = np.stack([total, whole - total])
        means = np.where(np.abs(sums) <= rounding, 0.0, sums) / [weight, 1 - weight]
        ends = np.where(empty, -np.inf, means.min(axis=0)), np.where(empty, np.inf, means.max(axis=0))
        yield *ends, np.abs(whole - 2 * total) >= abs(whole) - 2 * rounding


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
