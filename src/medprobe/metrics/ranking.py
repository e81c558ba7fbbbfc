"""How well scores order cases: area under the ROC curve, average precision; exact with ties, for any case weights."""

import numpy as np

from medprobe.metrics.measure import Value, Weighted, divide, mean_defined


class Ranking:
    """One outcome (m,) bool against one score (m,); `case` (m,) says to which of the n weighted cases an entry belongs.

    Only the scores of positives matter as cut points: between two of them all negatives are alike. So each negative
    has a slot (below the first such score, tied with it, between it and the next, ...), and a bootstrap replicate
    costs one weighted sum per slot instead of a sort.
    """

    def __init__(self, outcome: np.ndarray, score: np.ndarray, case: np.ndarray, n: int) -> None:
        from scipy.sparse import csr_array

        levels, level = np.unique(score[outcome], return_inverse=True)
        below, upto = (np.searchsorted(levels, score[~outcome], side) for side in ("left", "right"))
        self._positives = csr_array((np.ones(len(level)), (level, case[outcome])), shape=(len(levels), n))
        slots = 2 * len(levels) + 1
        self._negatives = csr_array((np.ones(len(below)), (below + upto, case[~outcome])), shape=(slots, n))

    def __call__(self, w: Weighted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Area under the ROC curve, average precision and weight of the positives, each (B,).

        The first two are NaN with one outcome only. Ties count one half in the area; the average precision is the step
        sum over distinct scores, not interpolated, as scikit-learn has it.
        """
        positives = self._positives @ w.by_case
        upto = np.cumsum(self._negatives @ w.by_case, axis=0)
        below, with_ties, all_negatives = upto[:-1:2], upto[1::2], upto[-1]
        all_positives = positives.sum(axis=0)
        area = divide((positives * (below + with_ties)).sum(axis=0), 2 * all_positives * all_negatives)
        true = np.cumsum(positives[::-1], axis=0)[::-1]
        called = true + (all_negatives - below)
        steps = np.divide(positives * true, called, out=np.zeros_like(called), where=positives > 0)
        precision = np.where(all_negatives > 0, divide(steps.sum(axis=0), all_positives), np.nan)
        return area, precision, all_positives


class Rankings:
    """Every column of `truth` (n, L) bool against its column of `score` (n, L), where `known` (n, L)."""

    def __init__(self, truth: np.ndarray, known: np.ndarray, score: np.ndarray) -> None:
        rows = [np.flatnonzero(column) for column in known.T]
        self._each = [Ranking(truth[row, i], score[row, i], row, len(truth)) for i, row in enumerate(rows)]

    def __call__(self, w: Weighted) -> dict[str, np.ndarray]:
        """`auroc`, `ap` and `positives`, each (B, L)."""
        auroc, ap, positives = (np.stack(part, axis=1) for part in zip(*(each(w) for each in self._each), strict=True))
        return {"auroc": auroc, "ap": ap, "positives": positives}

    def macro(self, w: Weighted, name: str) -> Value:
        """Mean over columns; those with one outcome are skipped and counted."""
        values = w.of(self)[name]
        return Value(mean_defined(values), np.isnan(values).sum(axis=1), values)

    def weighted(self, w: Weighted, name: str) -> Value:
        """Mean over columns by their number of positives."""
        values = w.of(self)[name]
        return Value(mean_defined(values, w.of(self)["positives"]), np.isnan(values).sum(axis=1))


class MicroRanking:
    """All columns thrown together: one ranking of the (case, class) pairs."""

    def __init__(self, truth: np.ndarray, known: np.ndarray, score: np.ndarray) -> None:
        case, _ = np.nonzero(known)
        self._all = Ranking(truth[known], score[known], case, len(truth))

    def value(self, w: Weighted, name: str) -> Value:
        values = w.of(self._all)[{"auroc": 0, "ap": 1}[name]]
        return Value(values, np.isnan(values).astype(int))
