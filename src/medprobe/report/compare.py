"""Is one model better than another? Paired differences over the same patients, with intervals and Holm's correction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import stats
from medprobe.metrics.measure import mean_defined
from medprobe.registry import did_you_mean
from medprobe.report.read import Row, Tree, measures, read_tree
from medprobe.report.tables import heading

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
        each = [stats.paired_difference(one, two, keys=[key], resamples=RESAMPLES)[key] for one, two in sides]
        draws = [stats.replicates([one, two], [key], RESAMPLES, 0)[key] for one, two in sides] if len(sides) > 1 else []
    except MedprobeError as error:
        return {**result, "error": str(error)}
    low, high, p = each[0].low, each[0].high, each[0].p
    if draws:
        changes = mean_defined(np.array([mean_defined((draw[0] - draw[1]).T) for draw in draws]).T)
        low, high = stats.interval(changes)
        p = stats.two_sided_p(changes)
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
    for base in _baselines(tree, baseline):
        across = base.label != baseline
        for row in tree.rows:
            same = row.task["dataset"] == base.task["dataset"] if across else row.task_name == base.task_name
            if same and row is not base and row.summary and base.summary and (metric is None or (row.score(metric) and base.score(metric))):
                rows.append({**difference(row, base, metric), "heading": heading([row], metric or row.main)})
    if metric is not None and not rows:
        known = sorted({key for row in tree.rows if row.summary for key in row.summary["scores"]})
        raise RequestError(f"no score named {metric!r} in two results of one task; {did_you_mean(metric, known)}")
    corrected = stats.holm([row.get("p", float("nan")) for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)]


def _baselines(tree: Tree, baseline: str) -> list[Row]:
    if baseline in tree.models:
        return [base for task in tree.tasks if (base := tree.get(task, baseline)) is not None]
    found = [row for row in tree.rows if f"{row.label}/{row.task['head']}" == baseline]
    if not found:
        raise RequestError(f"no results of a model named {baseline!r}; {did_you_mean(baseline, tree.models)}")
    return found


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
            table.add_row(row["task"], row["model"], row["heading"], f"{row['difference']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}", _p_text(row["p"], len(rows)), _p_text(row["p_holm"], len(rows)), str(row["n_patients"]))
    return table


def _p_text(p: float, comparisons: int) -> str:
    """0.034; where no draw lay on the other side, what a thousand draws can tell at most."""
    least = 2 / (1 + RESAMPLES)
    return f"≤ {p:.3f}" if any(abs(p - least * factor) < 1e-9 for factor in range(1, comparisons + 1)) else f"{p:.3f}"


def flags(tree: Tree) -> list[dict[str, Any]]:
    """Models whose paired interval over the best control of their dataset is not on the better side of 0, each with a sentence.

    Controls are the models `pixels` and `mean-rgb` under the same head, and the heads `constant` and `identity` with the same
    encoder or any; the best is the one with the best main score.
    """
    found = []
    for row in tree.rows:
        ours = row.score()
        if row.control or ours is None or ours["value"] is None:
            continue
        rivals = [other for other in tree.rows if other.control and other.task["dataset"] == row.task["dataset"] and other.task["head"] in (row.task["head"], "constant", "identity") and _value(other, row.main) is not None]
        if not rivals:
            continue
        best = max(rivals, key=lambda other: (row.sign * (_value(other, row.main) or 0.0), other.label))
        change = difference(row, best)
        name = f"{best.label}/{best.task['head']}" if best.task["head"] != row.task["head"] else best.label
        if "error" in change:
            sentence = f"{row.label} on {row.task_name}: not compared with the control {name} ({change['error']})"
        elif (change["low"] if row.sign > 0 else -change["high"]) > 0:
            continue
        else:
            worse = (change["high"] if row.sign > 0 else -change["low"]) < 0
            verb = ("is below" if worse else "is not above") if row.sign > 0 else ("is above (worse than)" if worse else "is not below")
            sentence = f"{row.label} {verb} the control {name} on {row.task_name}: {row.main} difference {change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        found.append({**change, "control": name, "sentence": sentence})
    return found


def _value(row: Row, key: str) -> float | None:
    score = row.score(key)
    return None if score is None else score["value"]
