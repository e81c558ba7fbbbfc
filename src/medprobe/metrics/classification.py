"""From class probabilities to scores: binary, multiclass and multilabel, every reading under its own name.

Score keys: `<metric>[.<average>][@<threshold rule>]`. All fractions are 0-1 (`mcc` -1 to 1), higher is better.

    binary       auroc, ap; per rule accuracy, balanced_accuracy, precision, recall, specificity, f1, jaccard of the
                 positive class (class 1), and precision|recall|f1|jaccard.macro_2class
    multiclass   auroc, ap one-vs-rest (macro; .weighted by class size; .micro); by argmax (ties: the first class)
                 accuracy, balanced_accuracy, mcc, precision|recall|f1|jaccard .macro .weighted .micro over all classes
    multilabel   auroc, ap over labels (macro; .weighted; .micro); per rule accuracy.label (mean over labels),
                 accuracy.subset (all labels right), precision|recall|f1|jaccard .macro .micro .weighted .samples
                 .macro_2class, and with "no finding" as a class accuracy.subset_nofinding, *.samples_nofinding

An unlabelled entry (NaN) takes no part in its label; a case with one takes no part in the case-wise readings. Averages
skip a label with one outcome in ranking metrics, count 0/0 as 0 in the others, and count both in `n_undefined`.
Threshold rules: see `thresholds`; sources: methods sheet 3.2 and 9, datasets sheet 1, 2, 6.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import thresholds
from medprobe.metrics.confusion import NAMES, CaseTable, Table, Truth
from medprobe.metrics.measure import Measure, Metric, Value
from medprobe.metrics.ranking import MicroRanking, Rankings
from medprobe.metrics.stats import Method, combine_folds
from medprobe.types import Score

Predictions = tuple[np.ndarray, np.ndarray]
"""target and prob."""


@dataclass(frozen=True, eq=False)
class Labels:
    """A table of predictions as yes-or-no questions: `truth`, `known` (n, L) bool and `score` (n, L) float64.

    L = 1 (binary), the number of classes (multiclass, one-hot), or the number of labels (multilabel).
    """

    truth: np.ndarray
    known: np.ndarray
    score: np.ndarray

    @classmethod
    def read(
        cls, target: np.ndarray, prob: np.ndarray, classes: Sequence[str], multilabel: bool, part: str
    ) -> "Labels":
        """Checked; raises MedprobeError naming what is wrong in `part`."""
        target, prob = np.asarray(target), np.asarray(prob, dtype=np.float64)
        if multilabel:
            expected, kind = prob.shape, f"labels (n, {len(classes)})"
        else:
            expected, kind = prob.shape[:1], "class indices (n,)"
        if prob.ndim != 2 or prob.shape[1] != len(classes) or target.shape != expected:
            raise MedprobeError(
                f"{part}: expected probabilities (n, {len(classes)}) and {kind}, found {prob.shape} and "
                f"{target.shape}; give one row per case and one column per class"
            )
        if not len(target):
            raise MedprobeError(f"{part}: expected at least one case, found none; check the split")
        bad = ~np.isfinite(prob)
        if bad.any():
            raise MedprobeError(
                f"{part}: expected finite probabilities, found NaN or infinite ones in {int(bad.any(axis=1).sum())} of "
                f"{len(prob)} cases; check the features of these cases and the learning rate"
            )
        if prob.min() < -1e-6 or prob.max() > 1 + 1e-6:
            raise MedprobeError(
                f"{part}: expected probabilities in [0, 1], found {prob.min():.6g} to {prob.max():.6g}; "
                "apply a sigmoid or softmax first"
            )
        if multilabel:
            target = target.astype(np.float64)
            known = ~np.isnan(target)
            if not np.isin(target[known], (0, 1)).all():
                raise MedprobeError(f"{part}: expected labels of 0, 1 or NaN (unlabelled), found others; convert them")
            return cls(target == 1, known, prob)
        if not np.issubdtype(target.dtype, np.integer) or target.min() < 0 or target.max() >= len(classes):
            raise MedprobeError(
                f"{part}: expected class indices 0 to {len(classes) - 1}, found {target.dtype} values "
                f"{target.min()} to {target.max()}; leave unlabelled cases out"
            )
        truth = target[:, None] == np.arange(len(classes))
        if len(classes) == 2:
            truth, prob = truth[:, 1:], prob[:, 1:]
        return cls(truth, np.ones(truth.shape, dtype=bool), prob)

    def parts(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """(n,) bool: the cases with each of the L labels, and those without."""
        columns = list(zip(names, self.truth.T, self.known.T, strict=True))
        having = {f"with {name}": truth & known for name, truth, known in columns}
        return having | {f"without {name}": ~truth & known for name, truth, known in columns}

    def thresholds(self, rule: str) -> np.ndarray:
        """(L,) thresholds of the rule, chosen on these labels; NaN for a label with one outcome."""
        columns = zip(self.truth.T, self.known.T, self.score.T, strict=True)
        return np.array([thresholds.choose(rule, truth[known], score[known]) for truth, known, score in columns])


def measure(
    target: np.ndarray,
    prob: np.ndarray,
    *,
    classes: Sequence[str],
    multilabel: bool = False,
    groups: np.ndarray | None = None,
    val: Predictions | None = None,
) -> Measure:
    """All scores of one table of predictions, as functions of case weights; each is computed when asked for.

    target: (n,) integers, or (n, L) 0/1/NaN with multilabel. prob: (n, C) probabilities. groups: (n,) patients;
    None = every case its own. val: target and prob of the validation part, without which the `*_val` rules are absent.
    """
    if len(classes) < 2 and not multilabel:
        raise RequestError(f"expected at least two exclusive classes, found {list(classes)}; add one or set multilabel")
    groups = np.arange(len(target)) if groups is None else np.asarray(groups)
    labels = Labels.read(target, prob, classes, multilabel, "test predictions")
    if groups.shape != (len(labels.truth),):
        raise MedprobeError(f"expected one patient per case, found {groups.shape} for {len(labels.truth)} cases")
    chosen = None if val is None else Labels.read(*val, classes, multilabel, "validation predictions")
    if multilabel:
        metrics = {**_ranking(labels), **_multilabel(labels, chosen)}
    elif len(classes) == 2:
        metrics = {**_binary_ranking(labels), **_binary(labels, chosen)}
    else:
        metrics = {**_ranking(labels), **_multiclass(labels)}
    parts = labels.parts(classes if multilabel or len(classes) > 2 else classes[1:])
    bounds = {key: (-1.0 if key == "mcc" else 0.0, 1.0) for key in metrics}
    overall = {key for key in metrics if key.startswith("accuracy") or set(key.split("@")[0].split(".")) & OVERALL}
    some = np.any(labels.known, axis=1)
    calls = None if multilabel or len(classes) == 2 else (labels.truth.argmax(axis=1), labels.score.argmax(axis=1))
    return Measure(metrics, groups, tuple(classes), some, None, parts, bounds, overall, calls)


def evaluate(
    target: np.ndarray,
    prob: np.ndarray,
    *,
    classes: Sequence[str],
    multilabel: bool = False,
    groups: np.ndarray | None = None,
    val: Predictions | None = None,
    keys: Collection[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    method: Method = "jackknife",
) -> dict[str, Score]:
    """Scores with intervals over patients; arguments as of `measure` and `stats.combine_folds`."""
    one = measure(target, prob, classes=classes, multilabel=multilabel, groups=groups, val=val)
    return combine_folds([one], keys=keys, resamples=resamples, seed=seed, confidence=confidence, method=method)


def per_case(
    target: np.ndarray,
    prob: np.ndarray,
    *,
    classes: Sequence[str],
    multilabel: bool = False,
    rule: str = "fixed_0.5",
    val: Predictions | None = None,
) -> dict[str, np.ndarray]:
    """`correct` (0 or 1) and `log_loss` (nats) of every case: (n,), or (n, L) with NaN where unlabelled.

    Binary and multilabel decisions are those of the threshold rule. The log loss of more than two exclusive classes is
    that of the probabilities divided by their sum, since one-vs-rest ones need not add to 1. None is below 2.2e-16.
    """
    labels = Labels.read(target, prob, classes, multilabel, "test predictions")
    smallest = np.finfo(np.float64).eps
    if not multilabel and len(classes) > 2:
        row = np.arange(len(labels.score))
        true = np.argmax(labels.truth, axis=1)
        share = labels.score[row, true] / np.maximum(labels.score.sum(axis=1), smallest)
        correct = np.argmax(labels.score, axis=1) == true
        return {"correct": correct.astype(float), "log_loss": -np.log(np.clip(share, smallest, 1.0))}
    chosen = None if val is None else Labels.read(*val, classes, multilabel, "validation predictions")
    if chosen is None and rule in thresholds.VAL_RULES:
        raise RequestError(f"threshold rule {rule!r} needs validation predictions, found none; use fixed_0.5")
    cut = _thresholds(rule, labels, chosen)
    right = np.where(np.isnan(cut), np.nan, (labels.score >= cut) == labels.truth)
    loss = -np.log(np.clip(np.where(labels.truth, labels.score, 1 - labels.score), smallest, 1.0))
    values = {"correct": right, "log_loss": loss}
    if not multilabel:
        return {name: value[:, 0] for name, value in values.items()}
    return {name: np.where(labels.known, value, np.nan) for name, value in values.items()}


def _thresholds(rule: str, labels: Labels, chosen: Labels | None) -> np.ndarray:
    return (chosen if chosen is not None and rule in thresholds.VAL_RULES else labels).thresholds(rule)


def _rules(chosen: Labels | None) -> tuple[str, ...]:
    return tuple(rule for rule in thresholds.RULES if chosen is not None or rule not in thresholds.VAL_RULES)


def _table(truth: Callable[[], Truth], labels: Labels, chosen: Labels | None, rule: str) -> Table:
    cut = _thresholds(rule, labels, chosen)
    return Table(truth(), labels.score >= cut, ~np.isnan(cut))


AVERAGES = {
    "macro": Table.macro,
    "micro": Table.micro,
    "weighted": Table.weighted,
    "macro_2class": Table.macro_2class,
}


OVERALL = {"micro", "weighted", "samples", "samples_nofinding"}
"""Averages in which a rare class counts for little."""


def _later(make: Callable, method: Callable[..., Value], *arguments: str | bool) -> Metric:
    """The method of what `make` makes; nothing is made before it is asked for."""
    return lambda w: method(make(), w, *arguments)


def _binary_ranking(labels: Labels) -> dict[str, Metric]:
    pooled = cache(lambda: MicroRanking(labels.truth, labels.known, labels.score))
    return {name: _later(pooled, MicroRanking.value, name) for name in ("auroc", "ap")}


def _ranking(labels: Labels) -> dict[str, Metric]:
    each = cache(lambda: Rankings(labels.truth, labels.known, labels.score))
    pooled = cache(lambda: MicroRanking(labels.truth, labels.known, labels.score))
    metrics = {name: _later(each, Rankings.macro, name) for name in ("auroc", "ap")}
    for name in ("auroc", "ap"):
        metrics[f"{name}.weighted"] = _later(each, Rankings.weighted, name)
        metrics[f"{name}.micro"] = _later(pooled, MicroRanking.value, name)
    return metrics


def _binary(labels: Labels, chosen: Labels | None) -> dict[str, Metric]:
    truth = cache(lambda: Truth(labels.truth, labels.known))
    metrics: dict[str, Metric] = {}
    for rule in _rules(chosen):
        table = cache(partial(_table, truth, labels, chosen, rule))
        metrics[f"accuracy@{rule}"] = _later(table, Table.accuracy)
        metrics[f"balanced_accuracy@{rule}"] = _later(table, Table.balanced_accuracy)
        for name in NAMES:
            metrics[f"{name}@{rule}"] = _later(table, Table.single, name)
            if name == "recall":
                metrics[f"specificity@{rule}"] = _later(table, Table.single, "recall", True)
        for name in NAMES:
            metrics[f"{name}.macro_2class@{rule}"] = _later(table, Table.macro_2class, name)
    return metrics


def _multiclass(labels: Labels) -> dict[str, Metric]:
    @cache
    def table() -> Table:
        winner = np.argmax(labels.score, axis=1)
        return Table(Truth(labels.truth, labels.known), winner[:, None] == np.arange(labels.score.shape[1]))

    metrics: dict[str, Metric] = {
        "accuracy": _later(table, Table.micro, "recall"),
        "balanced_accuracy": _later(table, Table.balanced_accuracy),
    }
    for average in ("macro", "weighted", "micro"):
        for name in NAMES:
            metrics[f"{name}.{average}"] = _later(table, AVERAGES[average], name)
    metrics["mcc"] = _later(table, Table.mcc)
    return metrics


def _multilabel(labels: Labels, chosen: Labels | None) -> dict[str, Metric]:
    truth = cache(lambda: Truth(labels.truth, labels.known))
    metrics: dict[str, Metric] = {}
    for rule in _rules(chosen):
        table = cache(partial(_table, truth, labels, chosen, rule))
        cases = cache(lambda table=table: CaseTable(table()))
        with_none = cache(lambda table=table: CaseTable(table(), no_finding=True))
        metrics[f"accuracy.label@{rule}"] = _later(table, Table.accuracy)
        metrics[f"accuracy.subset@{rule}"] = _later(cases, CaseTable.value, "subset")
        for average, method in AVERAGES.items():
            for name in NAMES:
                metrics[f"{name}.{average}@{rule}"] = _later(table, method, name)
        metrics |= {f"{name}.samples@{rule}": _later(cases, CaseTable.value, name) for name in NAMES}
        metrics[f"accuracy.subset_nofinding@{rule}"] = _later(with_none, CaseTable.value, "subset")
        metrics |= {f"{name}.samples_nofinding@{rule}": _later(with_none, CaseTable.value, name) for name in NAMES}
    return metrics
