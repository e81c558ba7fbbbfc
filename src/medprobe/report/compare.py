"""Is one model better than another? Paired differences over the same patients, with intervals and Holm's correction."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import paired, stats
from medprobe.metrics.measure import mean_defined
from medprobe.registry import did_you_mean
from medprobe.report.read import Row, Tree, measures, read_tree
from medprobe.report.tables import few_text, heading

RESAMPLES = 1000
FEW = 10
"""Patients below which a bootstrap promises more than it can hold."""


def difference(row: Row, other: Row, key: str | None = None) -> dict[str, Any]:
    """A score (the main one) of `row` minus that of `other` on what both have done, averaged over shared seeds; or why there is none.

    Under each draw of patients the difference is averaged over folds, then over seeds.
    """
    key = key or row.main
    ours, theirs = measures(row), measures(other)
    pairs = _shared(ours, theirs)
    result: dict[str, Any] = {"task": row.task_name, "model": row.label, "baseline": other.label, "baseline_head": other.task["head"], "metric": key}
    if not pairs:
        return {**result, "error": "no seed with the same folds in both"}
    if row.fingerprints != other.fingerprints:
        return {**result, "error": "other images, labels or parts: the dataset changed between the two; run both again on one state of it"}
    try:
        sides = [([ours[a][fold] for fold in folds], [theirs[b][fold] for fold in folds]) for a, b, folds in pairs]
        each = [paired.paired_difference(one, two, keys=[key], resamples=RESAMPLES)[key] for one, two in sides]
        draws = [stats.replicates([one, two], [key], RESAMPLES, 0)[key] for one, two in sides] if len(sides) > 1 else []
    except MedprobeError as error:
        return {**result, "error": str(error)}
    low, high, p = each[0].low, each[0].high, each[0].p
    if draws:
        changes = mean_defined(np.array([mean_defined((draw[0] - draw[1]).T) for draw in draws]).T)
        low, high = stats.interval(changes)
        p = paired.two_sided_p(changes)
    value = float(np.mean([one.value for one in each]))
    return {**result, "difference": value, "low": low, "high": high, "p": p, "n_cases": each[0].n_cases, "n_patients": each[0].n_patients, "n_seeds": len(each)}


def _shared(ours: dict, theirs: dict) -> list[tuple[int, int, list]]:
    """(our seed, their seed, folds): the same seed; a control with one seed stands for all."""
    pairs = []
    for seed, folds in sorted(ours.items()):
        other = seed if seed in theirs else next(iter(theirs)) if len(theirs) == 1 else None
        if other is not None and set(folds) == set(theirs[other]):
            pairs.append((seed, other, sorted(folds, key=lambda fold: -1 if fold is None else fold)))
    return pairs


def comparisons(results: Path, baseline: str, metric: str | None = None) -> list[dict[str, Any]]:
    """Every model against the baseline, task by task, by the main score or `metric`; `p_holm` is corrected over all rows.

    A baseline MODEL/HEAD, such as pixels/identity, stands against every model and head of its datasets.
    RequestError: unknown baseline, or a metric that no task has.
    """
    tree = read_tree(results)
    rows = []
    for base, others in _baselines(tree, baseline):
        for row in others:
            if row is not base and row.summary and base.summary and (metric is None or (row.score(metric) and base.score(metric))):
                rows.append({**difference(row, base, metric), "heading": heading([row], metric or row.main)})
    if metric is not None and not rows:
        known = sorted({key for row in tree.rows if row.summary for key in row.summary["scores"]})
        raise RequestError(f"no score named {metric!r} in two results of one task; {did_you_mean(metric, known)}")
    corrected = paired.holm([row.get("p", float("nan")) for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]


def _baselines(tree: Tree, baseline: str) -> list[tuple[Row, list[Row]]]:
    """Results of the baseline, each with those that it is compared with: of its task, or of its dataset where a head is named. A model is
    known by its label, and by its name on tasks where it has one result."""
    found = []
    for task in tree.tasks:
        of_task = [row for row in tree.rows if row.task_name == task]
        named = [row for row in of_task if row.label == baseline] or [row for row in of_task if row.model["name"] == baseline]
        if len(named) == 1:
            found.append((named[0], of_task))
    if found:
        return found
    across = [row for row in tree.rows if f"{row.label}/{row.task['head']}" == baseline]
    alike = [row for row in tree.rows if f"{row.model['name']}/{row.task['head']}" == baseline] or [row for row in tree.rows if row.model["name"] == baseline]
    by_dataset = {row.task["dataset"]: row for row in across or alike}
    if not by_dataset or (not across and len(by_dataset) < len(alike)):
        labels = sorted({f"{row.label}/{row.task['head']}" for row in alike})
        raise RequestError(f"{len(alike)} results are of {baseline}; name one of them: {', '.join(map(repr, labels))}" if labels else f"no results of a model named {baseline!r}; {did_you_mean(baseline, tree.models)}")
    return [(base, [row for row in tree.rows if row.task["dataset"] == dataset]) for dataset, base in by_dataset.items()]


def comparison_table(rows: Sequence[dict[str, Any]], baseline: str) -> Any:
    """The rows as a console table."""
    from rich.table import Table

    few = any(row.get("n_patients", FEW) < FEW for row in rows)
    said = f"; with fewer than {FEW} patients, p and intervals of resampling are too small" if few else ""
    table = Table(title=f"difference to {baseline} (paired, patients resampled; p by Holm{said})", title_justify="left")
    for name in ("task", "model", "metric"):
        table.add_column(name)
    for name in ("difference", "95 % interval", "p", "p (Holm)", "patients"):
        table.add_column(name, justify="right")
    for row in rows:
        if "error" in row:
            table.add_row(row["task"], row["model"], row["heading"], "—", row["error"], "", "", "")
        else:
            table.add_row(row["task"], row["model"], row["heading"], f"{row['difference']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}", _p_text(row["p"], row["p"]), _p_text(row["p_holm"], row["p"]), str(row["n_patients"]))
    return table


def _p_text(shown: float, p: float) -> str:
    """0.034; ≤ where no draw lay on the other side, so that p is what a thousand draws can tell at most."""
    return f"≤ {shown:.3f}" if p <= 2 / (1 + RESAMPLES) + 1e-9 else f"{shown:.3f}"


def flags(tree: Tree) -> list[dict[str, Any]]:
    """Models whose paired interval over the best control of their dataset is not on the better side of 0, each with a sentence.

    Controls are the models `pixels` and `mean-rgb` under any head, and the heads `constant` and `identity`; the best of
    a dataset is the one with the best value of the model's main score.
    """
    found = []
    for row, rivals in controlled(tree):
        if not rivals:
            continue
        best = max(rivals, key=lambda other: (row.sign * (_value(other, row.main) or 0.0), other.label))
        change = difference(row, best)
        name = f"{best.label}/{best.task['head']}" if best.task["head"] != row.task["head"] else best.label
        sentence = _flag(row, name, change)
        if sentence:
            found.append({**change, "control": name, "sentence": sentence + few_text(row.score())})
    return found


def controlled(tree: Tree) -> list[tuple[Row, list[Row]]]:
    """Every result of a model, with the controls of its dataset that have its main score, and its folds if under another head."""
    ours = [row for row in tree.rows if not row.control and _value(row, row.main) is not None]
    return [(row, [other for other in tree.rows if _controls(other, row)]) for row in ours]


def _controls(control: Row, row: Row) -> bool:
    if not control.control or control.task["dataset"] != row.task["dataset"] or _value(control, row.main) is None:
        return False
    return control.task["head"] in (row.task["head"], "constant", "identity") or control.folds == row.folds


def _flag(row: Row, control: str, change: Mapping[str, Any]) -> str | None:
    """What to say of a difference to a control; None where the interval lies on the better side of 0."""
    if "error" in change:
        return f"{row.label} on {row.task_name}: not compared with the control {control} ({change['error']})"
    low, high = (change["low"], change["high"]) if row.sign > 0 else (-change["high"], -change["low"])
    if low > 0:
        return None
    said = f"{row.main} difference {change['difference']:+.3f}"
    if math.isnan(low) or math.isnan(high):
        return f"{row.label} is not told apart from the control {control} on {row.task_name}: {said}, without interval"
    verb = ("is below" if high < 0 else "is not above") if row.sign > 0 else ("is above (worse than)" if high < 0 else "is not below")
    return f"{row.label} {verb} the control {control} on {row.task_name}: {said} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _value(row: Row, key: str) -> float | None:
    score = row.score(key)
    return None if score is None else score["value"]
