"""What a number of ours and a printed one say together: one of three words, or the reason why there is none.

    agrees            difference and interval within the tolerance (`printed.tolerance`)
    differs           the difference beyond it, and the printed number outside our interval
    too wide to tell  everything between, no interval, and an interval of few patients

A word needs the question to be the same: the task's own settings, official weights, the whole test part, all folds, the
declared reading of the printed number.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from medprobe.encoders import parts_of
from medprobe.metrics.small import FEW
from medprobe.report.printed import SD, Cell, column_of, step_of, text_of, tolerance, value_of
from medprobe.report.read import PREDICTIONS, Row
from medprobe.run.splits import FOLDS
from medprobe.tasks.models import NAMED

AGREES, WIDE, DIFFERS = "agrees", "too wide to tell", "differs"
WORDS = (AGREES, WIDE, DIFFERS)
ROUNDING = 1e-9
ENOUGH = 0.99
"""The share of the release's cases that must be there and measured."""
WITH_SIZE = ("2",)
"""The tables for which the paper names an image size."""
SIZE_OPTIONS = ("image-size", "image_size")
WITHOUT_WEIGHTS = ("pixels", "mean-rgb", "mind")
UNSTATED = {
    "7": "the decoder's size and training", "9": "the window, k and which volumes",
    "10": "the folds, the window and which classes count",
    "11": "the folds, the window and which classes count",
    "14": "the split, which studies or classes count, and whether whole volumes were scored",
    "15": "the classes, the reading of HD and the settings of the optimisation",
    "16": "the classes, the reading of HD and the settings of the optimisation",
}  # fmt: skip
"""Table → what the paper does not say; of the others: splits or optimiser settings."""
SPECS = Counter(model.spec for model in NAMED.values())
NAMES = {model.spec: model.name for model in NAMED.values() if SPECS[model.spec] == 1}
"""Spec → the one named model that it is of."""


def word_of(value: float, low: float | None, high: float | None, theirs: float, within: float) -> str:
    """One of the three words. An interval that does not hold its own value says nothing."""
    if low is None or high is None or not low - ROUNDING <= value <= high + ROUNDING:
        return WIDE
    if max(abs(value - theirs), theirs - low, high - theirs) <= within:
        return AGREES
    return DIFFERS if abs(value - theirs) > within and not low <= theirs <= high else WIDE


def judged(row: Row, score: Any, cell: Cell, declared: bool) -> dict[str, Any]:
    """`verdict` and `why` of our score beside a printed number, the `tolerance`, and whether the two are `comparable`."""
    within = tolerance(cell)
    found = {"verdict": "not run", "why": "", "tolerance": within, "comparable": False}
    if score is None:
        return found
    reason = "ours is undefined" if score["value"] is None else None
    reason = reason or not_comparable(row, score) or undecidable(row.task["dataset"], cell)
    if reason is None and not declared:
        reason = "another reading than the declared one"
    return {**found, **_held(score, cell, within, reason)}


def judged_average(rows: list[Row], score: Any, cell: Cell, reason: str | None) -> dict[str, Any]:
    """The same of an average over several tasks."""
    against = (not_comparable(row, row.score("dice") or {}) for row in rows)
    reason = reason or next(filter(None, against), None)
    within = tolerance(cell)
    return {"tolerance": within, "comparable": False, **_held(score, cell, within, reason)}


def _held(score: Any, cell: Cell, within: float, reason: str | None) -> dict[str, Any]:
    theirs = value_of(cell)
    apart = "" if score["value"] is None else f"{score['value'] - theirs:+.4f}"
    if reason is not None:
        return {"verdict": f"no verdict: {reason}", "why": apart}
    if not within:
        said = f"{text_of(cell)} is printed too near to another size to be told from it"
        return {"verdict": f"no verdict: {said}", "why": apart, "comparable": True}
    few = few_patients(score)
    word = WIDE if few else word_of(score["value"], score["low"], score["high"], theirs, within)
    why = f"{apart}, tolerance {within:.4f}" + (f"; {few}" if few else "")
    if word == DIFFERS:
        open_ = UNSTATED.get(cell["table"], "splits or optimiser settings")
        why += f"; the paper does not state {open_} (docs/protocols.md)"
    return {"verdict": word, "why": why, "comparable": True}


def few_patients(score: Mapping[str, Any]) -> str | None:
    """What is too few for the interval to be trusted, if so."""
    patients = score.get("n_patients", FEW)
    return score.get("small") or (f"{patients} patients" if patients < FEW else None)


def undecidable(dataset: str, cell: Cell) -> str | None:
    """Why a printed number cannot be held against any of ours, if so."""
    table, metric = cell["table"], cell["metric"]
    if dataset == "nih14" and metric != "auc":
        return "the printed reading is not decidable (docs/protocols.md)"
    if table == "8":
        return "the table states neither a split nor how Dice is averaged, and the release has no official split"
    if table == "9" and metric != "auc":
        return (
            "the threshold rule is not stated; the linear rows fit one threshold for each label, chosen on the "
            "reported labels (as here), the k-NN rows no common rule"
        )
    if table == "14" and metric == "hd95":
        return "the printed unit is not stated, and in no unit can a distance in a body be up to 25,476"
    return None


def not_comparable(row: Row, score: Mapping[str, Any]) -> str | None:
    """Why this row may not be held against a printed number, if so."""
    if not row.finished:
        return "no finished result stands behind it"
    if row.model["random"]:
        return "random weights"
    if row.model["spec"] == PREDICTIONS:
        return "predictions made elsewhere"
    if "limit" in row.options:
        return "--limit was used"
    settings = settings_of(row)
    if settings:
        return "settings differ from the task's: " + ", ".join(settings)
    return _other_size(row) or unverified(row) or _missing_cases(row, score) or _missing_folds(row)


def settings_of(row: Row) -> list[str]:
    """The options, but for the image size, in which a row differs from its task."""
    return sorted(key for key in row.options if key not in SIZE_OPTIONS)


def _other_size(row: Row) -> str | None:
    config, size = row.task["config"], row.model["image_size"]
    if str(config.get("table")) not in WITH_SIZE:
        return None
    chosen = [row.options[key] for key in SIZE_OPTIONS if key in row.options]
    if not chosen and size == config.get("image_size"):
        return None
    return f"image size {size or chosen[0]}, where the paper names 256"


def names_of(row: Row) -> tuple[str, ...]:
    """The named models that a row is of: by name, or by a spec that is of one of them alone."""
    return tuple(part if part in NAMED else NAMES.get(part, part) for part in parts_of(row.model["name"]))


def unverified(row: Row) -> str | None:
    """Why the weights are not known to be the official ones, if so."""
    names = names_of(row)
    for cell in row.finished:
        provenance = cell["provenance"]
        digests = provenance.get("parts_sha256") or [provenance.get("weights_sha256")]
        if len(digests) != len(names):
            return "unverified weights (the digests of the parts are not stored)"
        for name, digest in zip(names, digests, strict=True):
            if name not in WITHOUT_WEIGHTS and (digest or "")[:8] not in NAMED[name].digests:
                known = "is no official digest" if NAMED[name].digests else "no official digest is known"
                return f"unverified weights ({name} {(digest or 'without digest')[:8]}: {known})"
    return None


def _missing_cases(row: Row, score: Mapping[str, Any]) -> str | None:
    """The release's test part, against what was measured of it: unreadable cases are missing ones."""
    counts = row.task.get("counts", {})
    folds = [number for part, number in counts.items() if part.startswith("fold")]
    release = counts.get("test") or sum(folds) or counts.get("cases", 0)
    if not release:
        return "how many cases the release tests is not stored"
    whole = sum(counts.values())
    if row.task.get("n_cases", 0) < ENOUGH * whole:
        return f"{row.task.get('n_cases', 0):,} of {whole:,} cases: a twin or a part"
    lost = max((len(cell.get("cases", {}).get("unreadable", ())) for cell in row.finished), default=0)
    tested = min(_tested(row, score), release - lost)
    if tested < ENOUGH * release:
        unreadable = f", {lost:,} unreadable" if lost else ""
        return f"{max(tested, 0):,} of {release:,} test cases{unreadable}"
    return None


def _tested(row: Row, score: Mapping[str, Any]) -> int:
    """The cases (videos) behind a score, and no more than the cells of any seed say."""
    if row.task.get("unit") == "plane":
        return int(score.get("n_patients", 0))
    each = [
        sum(cell["cases"]["test"] for cell in row.finished if cell["seed"] == seed)
        for seed in row.seeds
        if all("cases" in cell for cell in row.finished)
    ]
    return min([int(score.get("n_cases", 0)), *each])


def _missing_folds(row: Row) -> str | None:
    counts = row.task.get("counts", {})
    folds = sum(part.startswith("fold") for part in counts) or (FOLDS if "cases" in counts else 0)
    return f"{len(row.folds)} of {folds} folds" if len(row.folds) < folds else None


# --------------------------------------------------------------------------------------------- ranks


def concordance(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Pairs of our rows in the printed order, over the pairs of each column that the print tells apart; None without one.

    A pair counts where the printed numbers differ by more than the tolerance of either and a unit of the last digit.
    """
    columns: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["comparable"] and not line["metric"].endswith(SD):
            columns.setdefault(column_of(line["cell"]), []).append(line)
    right = wrong = pairs = 0
    for column in columns.values():
        for one, other in combinations(column, 2):
            apart = max(one["tolerance"], other["tolerance"], step_of(one["cell"]) + 1e-9)
            printed = one["published"] - other["published"]
            if abs(printed) > apart:
                ours = one["ours"]["value"] - other["ours"]["value"]
                pairs, right, wrong = pairs + 1, right + (printed * ours > 0), wrong + (printed * ours < 0)
    return {"pairs": pairs, "concordant": right, "kendall": (right - wrong) / pairs} if pairs else None
