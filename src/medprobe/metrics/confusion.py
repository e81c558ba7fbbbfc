"""Numbers from decisions: precision, recall, F1, Jaccard and accuracies, per label and averaged every way people do.

scikit-learn's definitions with zero_division=0: a label whose fraction is 0/0 in the data counts as 0 and is counted in
`undefined`. A label that loses its last true case when patients are left out or drawn is left out of that mean instead,
as is one whose fraction becomes 0/0: a 0 there would say something about the draw, not about the model.
"""

from typing import NamedTuple

import numpy as np

from medprobe.metrics.measure import Columns, Value, Weighted, divide, mean_defined

NAMES = ("precision", "recall", "f1", "jaccard")


class Counts(NamedTuple):
    """Weights, each (B, L): truly positive and called so, called positive, positive, all."""

    true: np.ndarray
    called: np.ndarray
    positive: np.ndarray
    total: np.ndarray

    def of_negatives(self) -> "Counts":
        """The same decisions with the two outcomes exchanged."""

        def rest(part: np.ndarray) -> np.ndarray:
            left = self.total - part
            return np.where(left > 1e-12 * self.total, left, 0.0)

        negative, called = rest(self.positive), rest(self.called)
        return Counts(rest(self.positive + self.called - self.true), called, negative, self.total)

    def summed(self) -> "Counts":
        """Over labels, (B, 1); labels without a decision left out."""
        return Counts(*(np.nansum(part, axis=1, keepdims=True) for part in self))

    def fraction(self, name: str) -> np.ndarray:
        """Precision, recall, F1 or Jaccard, NaN at 0/0."""
        if name == "precision":
            return divide(self.true, self.called)
        if name == "recall":
            return divide(self.true, self.positive)
        if name == "f1":
            return divide(2 * self.true, self.called + self.positive)
        return divide(self.true, self.called + self.positive - self.true)


class Truth:
    """What is so: `truth` and `known`, both (n, L) bool. Exclusive classes come one-hot."""

    def __init__(self, truth: np.ndarray, known: np.ndarray) -> None:
        self.truth, self.known = truth & known, known
        self.complete: np.ndarray = np.all(known, axis=1)
        self.unit = Weighted(np.ones((1, len(truth))))
        self._columns = Columns(np.concatenate([self.truth, known], axis=1))

    def __call__(self, w: Weighted) -> tuple[np.ndarray, np.ndarray]:
        positive, total = np.split(w.of(self._columns), 2, axis=1)
        return positive, total


class Table:
    """Decisions against the truth: `called` (n, L) bool; `decided` (L,) bool, False where a label has no threshold."""

    def __init__(self, truth: Truth, called: np.ndarray, decided: np.ndarray | None = None) -> None:
        self.truth, self.called = truth, called & truth.known
        self.decided = np.ones(called.shape[1], dtype=bool) if decided is None else decided
        self._columns = Columns(np.concatenate([self.called & truth.truth, self.called], axis=1))

    def __call__(self, w: Weighted) -> Counts:
        true, called = np.split(w.of(self._columns), 2, axis=1)
        positive, total = w.of(self.truth)
        return Counts(*(np.where(self.decided, part, np.nan) for part in (true, called, positive, total)))

    def labels(self, w: Weighted, name: str, negatives: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """One fraction per label (B, L), with 0/0 in the data as 0; and which labels (L,) are undefined in the data."""
        counts, data = w.of(self), self.truth.unit.of(self)
        if negatives:
            counts, data = counts.of_negatives(), data.of_negatives()
        undefined = np.isnan(data.fraction(name)[0])
        zero = undefined & (data.total[0] > 0)
        lost = (data.positive > 0) & (counts.positive == 0)
        return np.where(lost, np.nan, np.where(zero, 0.0, counts.fraction(name))), undefined

    def single(self, w: Weighted, name: str, negatives: bool = False) -> Value:
        """The only label of a binary task."""
        values, undefined = self.labels(w, name, negatives)
        return Value(values[:, 0], int(undefined.sum()))

    def macro(self, w: Weighted, name: str) -> Value:
        values, undefined = self.labels(w, name)
        return Value(mean_defined(values), int(undefined.sum()), values)

    def weighted(self, w: Weighted, name: str) -> Value:
        """By the number of positives."""
        values, undefined = self.labels(w, name)
        return Value(mean_defined(values, w.of(self).positive), int(undefined.sum()))

    def macro_2class(self, w: Weighted, name: str) -> Value:
        """Each label's mean over its two outcomes, then the mean over labels."""
        positives, undefined = self.labels(w, name)
        negatives, also_undefined = self.labels(w, name, negatives=True)
        return Value(mean_defined((positives + negatives) / 2), int(undefined.sum() + also_undefined.sum()))

    def micro(self, w: Weighted, name: str) -> Value:
        """All labels' decisions in one table."""
        data, counts = self.truth.unit.of(self).summed(), w.of(self).summed()
        undefined = np.isnan(data.fraction(name)[0, 0])
        values = np.zeros(len(counts.true)) if undefined and data.total[0, 0] > 0 else counts.fraction(name)[:, 0]
        return Value(values, int(undefined) + int((~self.decided).sum()))

    def accuracy(self, w: Weighted) -> Value:
        """Share of right decisions of each label, mean over labels."""
        counts = w.of(self)
        values = divide(counts.true + counts.of_negatives().true, counts.total)
        return Value(mean_defined(values), np.isnan(values).sum(axis=1))

    def balanced_accuracy(self, w: Weighted) -> Value:
        """Mean recall over the classes there are: both outcomes of a binary task, or all exclusive classes."""
        counts = w.of(self)
        recall = counts.fraction("recall")
        if recall.shape[1] > 1:
            return Value(mean_defined(recall), np.isnan(recall).sum(axis=1), recall)
        recall = np.concatenate([recall, counts.of_negatives().fraction("recall")], axis=1)
        return Value(mean_defined(recall), np.isnan(recall).sum(axis=1))

    def mcc(self, w: Weighted) -> Value:
        """Matthews correlation of exclusive classes; 0 where one side never varies."""

        def correlation(counts: Counts) -> np.ndarray:
            total, right = counts.positive.sum(axis=1), counts.true.sum(axis=1)
            shared = right * total - (counts.called * counts.positive).sum(axis=1)
            spread = (total**2 - (counts.called**2).sum(axis=1)) * (total**2 - (counts.positive**2).sum(axis=1))
            return divide(shared, np.sqrt(np.maximum(spread, 0.0)))

        constant = bool(np.isnan(correlation(self.truth.unit.of(self))[0]))
        return Value(np.zeros(len(w.by_case.T)) if constant else correlation(w.of(self)), int(constant))


class CaseTable:
    """Multilabel decisions judged case by case, over the cases whose labels are all known.

    `no_finding` adds a class that is true, or called, when no other is: then a normal case can be right instead of 0/0.
    """

    def __init__(self, table: Table, no_finding: bool = False) -> None:
        truth, called = table.truth.truth, table.called
        if no_finding:
            truth, called = (np.column_stack([part, ~part.any(axis=1)]) for part in (truth, called))
        self._complete = table.truth.complete & table.decided.all()
        counts = Counts(*(part.sum(axis=1).astype(float) for part in (truth & called, called, truth, truth | ~truth)))
        per_case = np.stack([(truth == called).all(axis=1), *(counts.fraction(name) for name in NAMES)], axis=1)
        per_case[~self._complete] = np.nan
        self._undefined = dict(zip(("subset", *NAMES), np.isnan(per_case).sum(axis=0).tolist(), strict=True))
        self._columns = Columns(np.column_stack([self._complete, np.nan_to_num(per_case)]))

    def value(self, w: Weighted, name: str) -> Value:
        """`subset`: share of cases with every label right; else the mean over cases of the case's own fraction."""
        sums = w.of(self._columns)
        column = 1 + ("subset", *NAMES).index(name)
        return Value(divide(sums[:, column], sums[:, 0]), self._undefined[name], cases=self._complete)
