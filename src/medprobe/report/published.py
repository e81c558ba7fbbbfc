"""Our numbers beside the paper's: Tables 2, 5 and 6, with a verdict only where the two answer the same question."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

from medprobe.report.read import Row, Tree
from medprobe.tasks.models import NAMED

DATASETS = {"nih14": "NIH-14", "rsna": "RSNA-Pneumonia", "kvasir-capsule": "Kvasir-Capsule", "autolaparo": "AutoLaparo"}
METRICS = {
    "2": {"auc": "auroc", "accuracy": "accuracy@youden_val", "precision": "precision@youden_val", "recall": "recall@youden_val"},
    "5": {"accuracy": "accuracy", "precision_macro": "precision.macro", "recall_macro": "recall.macro", "f1_macro": "f1.macro", "precision_weighted": "precision.weighted", "recall_weighted": "recall.weighted", "f1_weighted": "f1.weighted"},
    "6": {"accuracy": "accuracy.video", "precision": "precision.phase", "recall": "recall.phase", "jaccard": "jaccard.phase"},
}  # fmt: skip
"""Table → their metric → our score key."""
NIH = {"accuracy": "accuracy.subset_nofinding@youden_val", "precision": "precision.samples_nofinding@youden_val", "recall": "recall.samples_nofinding@youden_val"}
TOLERANCE = {"2": 0.01, "5": 0.02, "6": 0.02}
"""How far our value may lie from the printed one and still count as reproduced, in fractions: one point of AUC, two of the others."""


@cache
def published() -> tuple[dict[str, str], ...]:
    """The 911 printed numbers."""
    with (Path(__file__).parent / "published.csv").open(newline="") as file:
        return tuple(csv.DictReader(file))


def beside(tree: Tree) -> list[dict[str, Any]]:
    """One row per printed number of an encoder of ours, for the tasks of this run that ask a table's question: theirs, ours, verdict."""
    names = {method: name for name, model in NAMED.items() for method in model.methods}
    lines = []
    asked = dict.fromkeys((row.task["dataset"], str(row.task["config"].get("table"))) for row in tree.rows)
    for dataset, table in asked:
        for cell in published():
            if cell["dataset"] != DATASETS.get(dataset) or cell["table"] != table or table not in METRICS or cell["method"] not in names:
                continue
            label = names[cell["method"]]
            key = METRICS[cell["table"]][cell["metric"]]
            if dataset == "nih14":
                key = NIH.get(cell["metric"], key)
            row = next((row for row in tree.rows if row.task["dataset"] == dataset and str(row.task["config"].get("table")) == table and row.model["name"] == label), None)
            theirs = float(cell["value"]) / (100 if cell["unit"] == "percent" else 1)
            score = None if row is None else row.score(key)
            lines.append({"table": cell["table"], "dataset": cell["dataset"], "method": cell["method"], "metric": cell["metric"], "score": key, "published": theirs, "ours": score, "verdict": verdict(row, score, theirs, cell["table"], cell["metric"])})
    return lines


def verdict(row: Row | None, score: Any, theirs: float, table: str, metric: str) -> str:
    """Reproduced, or the difference; or why no verdict is given."""
    if row is None or score is None or score["value"] is None:
        return "not run"
    reason = not_comparable(row)
    if reason:
        return f"no verdict: {reason}"
    if row.task["dataset"] == "nih14" and metric != "auc":
        return "no verdict: the printed reading is not decidable (docs/protocols.md)"
    if (score["low"] is not None and score["low"] <= theirs <= score["high"]) or abs(score["value"] - theirs) <= TOLERANCE[table]:
        return "reproduced"
    return f"differs by {score['value'] - theirs:+.3f}: splits or optimiser settings the paper does not state (docs/protocols.md)"


def not_comparable(row: Row) -> str | None:
    """Why this row may not be held against a printed number, if so."""
    release = sum(row.task.get("counts", {}).values())
    if row.model["random"]:
        return "random weights"
    if "limit" in row.options:
        return "--limit was used"
    if "image-size" in row.options or row.task["config"].get("image_size") != row.model["image_size"]:
        return f"image size {row.model['image_size']} instead of {row.task['config'].get('image_size')}"
    if row.options:
        return "settings differ from the task's: " + ", ".join(sorted(row.options))
    if release and row.task.get("n_cases", release) < 0.9 * release:
        return f"{row.task.get('n_cases')} of {release} cases: a twin or a part"
    return None
