"""A metric is a function of case weights.

With all weights 1 it is the point estimate; with the counts of resampled patients it is a bootstrap replicate. So
every metric is written once, over a (B, n) matrix of B weightings of n cases, and nothing is ever copied or re-sorted.
"""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.registry import did_you_mean
from medprobe.types import Score

T = TypeVar("T")


class Weighted:
    """B weightings of n cases, and what was computed from them so far: an ingredient of many metrics is made once."""

    def __init__(self, weights: np.ndarray) -> None:
        self.by_case: np.ndarray = np.ascontiguousarray(np.asarray(weights, dtype=np.float64).T)
        """(n, B), so that adding up cases runs along memory."""
        self._made: dict[Callable, object] = {}

    def of(self, ingredient: Callable[["Weighted"], T]) -> T:
        """ingredient(self), computed at the first question. Ingredients compare by identity."""
        if ingredient not in self._made:
            self._made[ingredient] = ingredient(self)
        return self._made[ingredient]  # type: ignore[return-value]


class Columns:
    """An ingredient: the weighted sum over cases of each column of an (n, K) array, as (B, K)."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __call__(self, w: Weighted) -> np.ndarray:
        return (self.values.T.astype(np.float64) @ w.by_case).T


class Value(NamedTuple):
    """What a metric gives: one number per weighting, and for the point estimate what stands behind it."""

    value: np.ndarray
    """(B,), NaN where undefined."""
    undefined: np.ndarray | int = 0
    """(B,) or one number: how many classes, cases or phases were undefined, be they skipped or counted as 0."""
    per_class: np.ndarray | None = None
    """(B, C), for a mean over classes."""
    cases: np.ndarray | None = None
    """(n,) bool: the cases this metric can look at, where they are fewer than those of the measure."""
    defined: np.ndarray | None = None
    """(n,) or (n, C) bool: the cases with a value, for a mean or sum over cases."""


class Clusters(NamedTuple):
    """Patients (videos) by name, and how many cases each has."""

    names: np.ndarray
    cases: np.ndarray


Metric = Callable[[Weighted], Value]


@runtime_checkable
class Entries(Protocol):
    """A metric of entries (a class in a case, a phase in a video), some of which can be undefined in one model alone."""

    known: np.ndarray
    """Which entries are defined: bool, of one shape for all models on the same cases."""

    def __call__(self, w: Weighted) -> Value: ...

    def kept(self, entries: np.ndarray) -> Self:
        """The same metric of these entries alone; its values say which cases are left."""
        ...

    def charged(self) -> Self | None:
        """The same metric with a value for every entry: the worst there is where something was missed, the best where
        rightly nothing was called (those are not `known`: nothing was missed). None: the worst is not known."""
        ...


class Measure:
    """Everything that can be said about one table of predictions, by score key; computed when asked for.

    `groups` (n,) is the patient (or video) of each case: what the bootstrap draws. `cases` (n,) bool says which cases
    count at all (with at least one known label); None = all. `facts` holds unit and whether higher is better, for the
    keys where these are not (None, True). `parts` (n,) bool are cases of which there should be enough: "with COVID".
    `bounds` are what a score lies between, where anything is known of it; `overall` the scores in which cases, not
    classes, count alike. `calls` are the true and the called class (n,) of each case, where classes are exclusive.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        groups: np.ndarray,
        classes: tuple[str, ...] = (),
        cases: np.ndarray | None = None,
        facts: Mapping[str, tuple[str | None, bool]] | None = None,
        parts: Mapping[str, np.ndarray] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        overall: Collection[str] = (),
        calls: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.metrics, self.classes = dict(metrics), tuple(classes)
        self.groups = np.asarray(groups)
        self.cases = np.ones(len(self.groups), dtype=bool) if cases is None else cases
        self.facts = dict(facts or {})
        self.parts, self.bounds, self.overall = dict(parts or {}), dict(bounds or {}), frozenset(overall)
        self.calls = calls
        self.names: np.ndarray | None = None

    def named(self, names: np.ndarray) -> "Measure":
        """The same, with the ids of its cases, by which another model's are held to be the same."""
        self.names = np.asarray(names)
        return self

    def __call__(self, weights: np.ndarray, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """(B, n) case weights to key -> (B,) values."""
        return {key: value.value for key, value in self._values(weights, keys).items()}

    def columns(self, weights: np.ndarray, keys: Collection[str]) -> dict[str, np.ndarray]:
        """(B, n) case weights to key -> (B, 1 + C): the value, and those of the classes where it is their mean."""
        found = self._values(weights, keys)
        return {key: np.column_stack([each.value, *([] if each.per_class is None else each.per_class.T)]) for key, each in found.items()}

    def _values(self, weights: np.ndarray, keys: Collection[str] | None) -> dict[str, Value]:
        if np.shape(weights)[1:] != self.groups.shape:
            raise MedprobeError(
                f"expected case weights of shape (B, {len(self.groups)}), found {np.shape(weights)}; "
                "give one column per case"
            )
        w = Weighted(weights)
        return {key: self.metric(key)(w) for key in (self.metrics if keys is None else keys)}

    def scores(self, keys: Collection[str] | None = None) -> dict[str, Score]:
        """The point estimates, without intervals."""
        w = Weighted(np.ones((1, len(self.groups))))
        return {key: self._score(key, self.metric(key)(w)) for key in (self.metrics if keys is None else keys)}

    def behind(self, key: str) -> tuple["Clusters", dict[str, "Clusters"]]:
        """The patients that a score looks at, and those of each part of it: "with COVID", or "for COVID" of a mean."""
        value = self.metric(key)(Weighted(np.ones((1, len(self.groups)))))
        if value.defined is None:
            return self._clusters(self.cases if value.cases is None else value.cases), self._parts
        columns = value.defined.reshape(len(self.groups), -1)
        classes = self.classes if columns.shape[1] == len(self.classes) else ()
        parts = {f"for {name}": self._clusters(column) for name, column in zip(classes, columns.T, strict=False)}
        return self._clusters(np.max(columns, axis=1)), {**self._parts, **parts}

    @cached_property
    def _parts(self) -> dict[str, "Clusters"]:
        return {name: self._clusters(part) for name, part in self.parts.items()}

    @cached_property
    def _patient(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(self.groups, return_inverse=True)

    def confusion(self) -> np.ndarray | None:
        """(patients, classes, classes) cases by true and called class, where classes are exclusive."""
        if self.calls is None:
            return None
        names, patient = self._patient
        counts = np.zeros((len(names), len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (patient, *self.calls), 1)
        return counts

    def _clusters(self, cases: np.ndarray) -> "Clusters":
        names, patient = self._patient
        counts = np.bincount(patient[cases], minlength=len(names))
        return Clusters(names[counts > 0], counts[counts > 0])

    def metric(self, key: str) -> Metric:
        """RequestError: there is no such score."""
        if key not in self.metrics:
            raise RequestError(f"no score named {key!r} here; {did_you_mean(key, list(self.metrics))}")
        return self.metrics[key]

    def _score(self, key: str, value: Value) -> Score:
        cases = self.cases if value.cases is None else value.cases
        per_class = {} if value.per_class is None else dict(zip(self.classes, value.per_class[0].tolist(), strict=True))
        unit, higher_is_better = self.facts.get(key, (None, True))
        return Score(
            value=float(value.value[0]),
            unit=unit,
            higher_is_better=higher_is_better,
            n_cases=int(cases.sum()),
            n_patients=len(np.unique(self.groups[cases])),
            n_undefined=int(np.ravel(value.undefined)[0]),
            per_class=per_class,
        )


def some_of(entries: np.ndarray) -> np.ndarray:
    """(n, …) bool to (n,): the rows with any."""
    return np.asarray(entries.reshape(len(entries), -1).any(axis=1))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def mean_defined(values: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Mean over the last axis of the values that are not NaN, NaN where none is."""
    known = ~np.isnan(values)
    weights = np.where(known, weights, 0.0)
    return divide((np.where(known, values, 0.0) * weights).sum(axis=-1), weights.sum(axis=-1))
