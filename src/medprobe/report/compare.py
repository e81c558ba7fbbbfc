"""Is one model better than another? Paired differences over the same patients, with intervals and Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import paired
from medprobe.registry import did_you_mean
from medprobe.report.read import Row, Tree, measures, read_tree
from medprobe.report.tables import MARK, SMALL, few_text, heading

ALPHA = 0.05


def difference(row: Row, other: Row, key: str | None = None, family: int = 1) -> dict[str, Any]:
    """A score (the main one) of `row` minus that of `other` over what is defined in both, averaged over folds and shared
    seeds; or why there is none (`error`), or no interval (`reason`).

    `charged` is the same with missed classes charged, where something was left out. `family`: how many comparisons p is
    corrected for: so many random swaps are drawn that a corrected p can still be small.
    """
    key = key or row.main
    ours, theirs = measures(row), measures(other)
    pairs = _shared(ours, theirs)
    result: dict[str, Any] = {"task": row.task_name, "model": row.label, "baseline": other.label, "baseline_head": other.task["head"], "metric": key}
    if not pairs:
        return {**result, "error": "no seed with the same folds in both"}
    if row.fingerprints != other.fingerprints:
        return {**result, "error": "other images, labels or parts, or masks read in another way: the dataset changed between the two; run both again on one state of it"}
    sides = [([ours[a][fold] for fold in folds], [theirs[b][fold] for fold in folds]) for a, b, folds in pairs]
    flips = max(paired.FLIPS, int(10 * family / ALPHA))
    try:
        found = paired.difference(sides, key, flips=flips)
        charged = paired.difference(sides, key, charged=True, flips=flips) if any(found.n_undefined) else None
    except MedprobeError as error:
        return {**result, "error": str(error)}
    known = charged is not None and (math.isnan(charged.value) or charged.n_entries > found.n_entries)
    return {**result, **_facts(found), "n_seeds": len(pairs), "charged": _facts(charged) if charged is not None and known else None}


def _facts(found: paired.Difference) -> dict[str, Any]:
    facts = asdict(found)
    undefined = dict(zip(("model", "baseline", "both"), facts.pop("n_undefined"), strict=True))
    return {"difference": facts.pop("value"), **facts, "n_undefined": undefined}


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
    asked = [
        (row, base) for base, others in _baselines(tree, baseline) for row in others
        if row is not base and row.summary and base.summary and (metric is None or (row.score(metric) and base.score(metric)))
    ]  # fmt: skip
    rows = [{**difference(row, base, metric, len(asked)), "heading": heading([row], metric or row.main)} for row, base in asked]
    if metric is not None and not rows:
        main = sorted({row.main for row in tree.rows if row.score()})
        every = {key for row in tree.rows if row.summary for key in row.summary["scores"]}
        known = [*main, *sorted(every - {*main})]
        raise RequestError(f"no score named {metric!r} in two results of one task; {did_you_mean(metric, known)}")
    charged = [row.get("charged") or {} for row in rows]
    for each in (rows, charged):
        for one, p in zip(each, paired.holm([one.get("p", math.nan) for one in each]), strict=True):
            if one:
                one["p_holm"] = p
    return rows


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
    """The rows as a console table, each followed by its charged reading where it has one."""
    from rich.table import Table

    title = (
        f"difference to {baseline}, paired by patient (p: the two models swapped patient by patient; "
        "p (Holm): corrected for the number of rows)"
    )
    table = Table(title=title, title_justify="left", caption="\n".join(_notes(rows)), caption_justify="left")
    for name in ("task", "model", "metric"):
        table.add_column(name)
    for name in ("difference", "95 % interval", "p", "p (Holm)", "patients", "left out"):
        table.add_column(name, justify="right")
    for row in rows:
        if "error" in row:
            table.add_row(row["task"], row["model"], row["heading"], "—", row["error"], "", "", "", "")
            continue
        table.add_row(row["task"], row["model"], row["heading"], *_cells(row), left_out_text(row))
        if row["charged"]:
            table.add_row("", "", "  missed classes charged", *_cells(row["charged"]), "")
    return table


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    interval = f"{one['low']:+.3f} to {one['high']:+.3f}" if math.isfinite(one["low"]) else f"— ({one['reason']})"
    mark = f" {MARK}" if one["small"] else ""
    return _signed(one["difference"]), interval, _p_text(one["p"]), _p_text(one["p_holm"]), f"{one['n_patients']}{mark}"


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the marks of a table mean, below it."""
    few = any(one.get("small") for row in rows for one in (row, row.get("charged") or {}))
    left_out = any(left_out_text(row) for row in rows if "error" not in row)
    charged = any(row.get("charged") for row in rows)
    return [
        *([SMALL] if few else []),
        *(["left out: values undefined in the model, in the baseline, in both; the difference is of the others"] if left_out else []),
        *(["missed classes charged: a distance counts the diagonal of the image, a fraction 0"] if charged else []),
    ]  # fmt: skip


def left_out_text(one: dict[str, Any]) -> str:
    """6 + 0 + 2 of 40, and patients of whom nothing is left; nothing where all was compared."""
    counts = [one["n_undefined"][side] for side in ("model", "baseline", "both")]
    if not any(counts):
        return ""
    lost = one["n_patients_left_out"]
    patients = f", {lost} patient{'s' if lost > 1 else ''}" if lost else ""
    return f"{' + '.join(map(str, counts))} of {sum(counts) + one['n_entries']}{patients}"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "—"


def _p_text(p: float) -> str:
    if math.isnan(p):
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _rank(rival: Row, row: Row) -> tuple[float, bool, str]:
    """By value; of equal ones, such as `constant` of every model, a control model names it."""
    value = row.sign * (_value(rival, row.main) or 0.0)
    return value, bool(rival.model["control"]), rival.label


def flags(tree: Tree) -> list[dict[str, Any]]:
    """Models whose paired interval over the best control of their dataset is not on the better side of 0, each with a sentence.

    Controls are the models `pixels` and `mean-rgb` under any head, and the heads `constant` and `identity`; the best of
    a dataset is the one with the best value of the model's main score. Where classes were missed,
    the reading that charges them must agree.
    """
    found = []
    for row, rivals in controlled(tree):
        if not rivals:
            continue
        best = max(rivals, key=lambda other: _rank(other, row))
        change = difference(row, best)
        name = f"{best.label}/{best.task['head']}" if best.task["head"] != row.task["head"] else best.label
        sentence = _flag(row, name, change)
        if sentence:
            found.append({**change, "control": name, "sentence": sentence})
    return found


def controlled(tree: Tree) -> list[tuple[Row, list[Row]]]:
    """Every result of a model, with the controls of its dataset that have its main score, and its folds if under another head."""
    ours = [row for row in tree.rows if not row.control and _value(row, row.main) is not None]
    return [(row, [other for other in tree.rows if _controls(other, row)]) for row in ours]


def _controls(control: Row, row: Row) -> bool:
    if not control.control or control.task["dataset"] != row.task["dataset"] or _value(control, row.main) is None:
        return False
    return control.task["head"] in (row.task["head"], "constant", "identity") or control.folds == row.folds


def _flag(row: Row, control: str, change: dict[str, Any]) -> str | None:
    """What is said of a model that is not above its control; None where it is."""
    if "error" in change:
        return f"{row.label} on {row.task_name}: not compared with the control {control} ({change['error']})"
    for one, more in ((change, ""), (change["charged"], " with missed classes charged")):
        if one is None or (math.isnan(one["difference"]) and more):
            continue
        worst, best = sorted((row.sign * one["low"], row.sign * one["high"]))
        if worst > 0:
            continue
        if not math.isfinite(one["low"]):
            return f"{row.label} is not told apart from the control {control} on {row.task_name}{more}: {_said(row, one)}"
        below = best < 0
        verb = ("is below" if below else "is not above") if row.sign > 0 else ("is above (worse than)" if below else "is not below")
        return f"{row.label} {verb} the control {control} on {row.task_name}{more}: {_said(row, one)}"
    return None


def _said(row: Row, one: dict[str, Any]) -> str:
    """auroc difference +0.034 [-0.010, +0.080], what was left out, and what is too few."""
    if math.isfinite(one["low"]):
        said = f"{_signed(one['difference'])} [{one['low']:+.3f}, {one['high']:+.3f}]"
    else:
        said = f"{_signed(one['difference'])}, without interval ({one['reason']})"
    left_out = f"; left out as undefined: {left_out_text(one)}" if left_out_text(one) else ""
    return f"{row.main} difference {said}{left_out}{few_text(one)}"


def _value(row: Row, key: str) -> float | None:
    score = row.score(key)
    return None if score is None else score["value"]
