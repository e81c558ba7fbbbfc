"""Results as tables: on the console, and as .md, .csv and .tex with the same cells."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.files import write_atomically
from medprobe.metrics.small import FEW, FEW_OF_CLASS, LEAST
from medprobe.report.read import Row, Tree, read_tree

SECONDARY = {
    "auroc": ("ap", "accuracy@youden_val", "accuracy", "balanced_accuracy", "f1@youden_val", "f1.macro", "accuracy.label@youden_val"),
    "f1.macro": ("accuracy", "f1.weighted", "precision.macro", "recall.macro", "auroc"),
    "dice": ("hd95", "dice.unregistered", "folding_fraction", "iou", "asd"),
    "dice.present": ("hd95", "precision.zero.present", "false_positive_volume"), "dice.tumour": ("hd95.tumour", "dice.aggregated_mm3"),
    "challenge_iou": ("binary_iou", "iou"),
    "voi": ("arand", "ap"),
    "jaccard.phase": ("accuracy.video", "precision.phase", "recall.phase", "f1.phase"),
}
"""Main score → what stands beside it on the page; everything is in scores.csv."""


@dataclass(frozen=True)
class Sheet:
    """A table: a title, column names and rows of text, and the notes under it."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


MARK = "†"
SMALL = (
    f"{MARK} few patients: read the interval with care (marked below {FEW} patients, and below "
    f"{FEW_OF_CLASS} with a class or without it; below {LEAST} there is no interval)"
)


def interval_text(score: Any, digits: int = 3) -> str:
    """0.912 [0.880, 0.941] †, with how many values were undefined and left out; undefined where the score is."""
    if score is None:
        return "not run"
    if score["value"] is None:
        return f"undefined ({score['n_undefined']})"
    mark = f" {MARK}" if score.get("small") else ""
    left_out = f" ({score['n_undefined']} undefined)" if score.get("n_undefined") else ""
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:.{digits}f}{mark}{left_out}"
    return f"{score['value']:.{digits}f} [{score['low']:.{digits}f}, {score['high']:.{digits}f}]{mark}{left_out}"


def few_of(score: Any) -> str:
    """What is too few for the interval of a score: 7 patients; simulated coverage 0.91. Empty where nothing is."""
    if not score or not score.get("small"):
        return ""
    covered = score.get("coverage")
    return score["small"] + ("" if covered is None else f"; simulated coverage {covered:.2f}")


def few_text(score: Any) -> str:
    """The same after a sentence: " († 7 patients)"."""
    return f" ({MARK} {few_of(score)})" if few_of(score) else ""


def heading(rows: Sequence[Row], key: str) -> str:
    """hd95 (mm, lower is better)."""
    score = next((row.score(key) for row in rows if row.score(key)), None) or {}
    said = [*filter(None, [score.get("unit")]), *(["lower is better"] if score.get("higher_is_better") is False else [])]
    return f"{key} ({', '.join(said)})" if said else key


def row_text(row: Row | None, key: str | None = None) -> str:
    """The combined score, or failed, not run, or unfinished: cells whose run has not yet combined them."""
    if row is None:
        return "not run"
    score = row.score(key)
    if row.summary is None and not row.failed:
        return "unfinished"
    return "failed" if score is None and row.failed else interval_text(score)


def score_sheets(tree: Tree) -> list[Sheet]:
    """One sheet per task: models by main score, controls after them."""
    sheets = []
    for task in tree.tasks:
        rows = [row for row in tree.rows if row.task_name == task]
        main = rows[0].main
        present = [key for key in SECONDARY.get(main, ()) if any(row.score(key) for row in rows)][: 3 if rows[0].task["kind"] == "registration" else 2]
        rows.sort(key=lambda row: row.order)
        body = []
        for row in rows:
            score = row.score() or {}
            sd = score.get("seed_sd")
            body.append((
                row.label + (" (control)" if row.control else ""), row_text(row), *(row_text(row, key) for key in present),
                str(score.get("n_cases", "")), str(score.get("n_patients", "")), few_of(score), _parts(row), "" if sd is None else f"{sd:.3f}",
            ))  # fmt: skip
        heads = (heading(rows, key) for key in (main, *present))
        name = re.sub("[^a-z0-9-]+", "-", task)
        columns = ("model", *heads, "cases", "patients", f"few {MARK}", "folds×seeds", "seed sd")
        notes = (SMALL,) if any(MARK in cell for cells in body for cell in cells) else ()
        sheets.append(Sheet(f"scores-{name}", task, columns, tuple(body), notes))
        sheets += _per_class(rows, name)
    return [*_methods(tree), *sheets]


def _methods(tree: Tree) -> list[Sheet]:
    """Of every dataset of pairs, all models and heads in one table: there the heads are what is compared."""
    sheets = []
    for dataset in dict.fromkeys(row.task["dataset"] for row in tree.rows if row.task["kind"] == "registration"):
        rows = sorted((row for row in tree.rows if row.task["dataset"] == dataset), key=lambda row: row.order[1:])
        if len({row.task["head"] for row in rows}) > 1:
            keys = [key for key in (rows[0].main, "hd95", "asd", "folding_fraction") if any(row.score(key) for row in rows)]
            body = tuple((row.label, row.task["head"], *(row_text(row, key) for key in keys)) for row in rows)
            sheets.append(Sheet(f"methods-{dataset}", f"{dataset}: all methods", ("model", "head", *(heading(rows, key) for key in keys)), body))
    return sheets


def _per_class(rows: Sequence[Row], name: str) -> list[Sheet]:
    """Main score, Dice and HD95 of every class of a dense task with several."""
    found = []
    for key in dict.fromkeys((rows[0].main, "dice", "hd95")):
        scored = [(row, (row.score(key) or {}).get("per_class") or {}) for row in rows]
        classes = list(dict.fromkeys(one for _, each in scored for one in each))
        if rows[0].task["kind"] not in ("segmentation", "registration") or len(classes) < 2:
            continue
        body = tuple((row.label + (" (control)" if row.control else ""), *("undefined" if each.get(one) is None else f"{each[one]:.3f}" for one in classes)) for row, each in scored if each)
        found.append(Sheet(f"classes-{key}-{name}", f"{rows[0].task_name}: {heading(rows, key)} by class", ("model", *classes), body))
    return found


def _parts(row: Row) -> str:
    if row.summary is None:
        return ""
    return f"{len(row.summary['folds'])}×{len(row.summary['seeds'])}"


def full_sheet(tree: Tree) -> Sheet:
    """Every score of every row, one per line."""
    lines = []
    for row in tree.rows:
        for key, score in (row.summary or {"scores": {}})["scores"].items():
            numbers = ["" if score[name] is None else repr(score[name]) for name in ("value", "low", "high", "seed_sd")]
            lines.append((row.task_name, row.label, "yes" if row.control else "no", key, score["unit"] or "", "higher" if score["higher_is_better"] else "lower", *numbers, *(str(score[name]) for name in ("n_cases", "n_patients", "n_undefined")), score.get("small") or "", "" if score.get("coverage") is None else repr(score["coverage"])))
    return Sheet("scores", "All scores", ("task", "model", "control", "score", "unit", "better", "value", "low", "high", "seed_sd", "n_cases", "n_patients", "n_undefined", "small", "coverage"), tuple(lines))


def write_sheet(sheet: Sheet, folder: Path) -> None:
    """<name>.md, .csv and .tex; notes stand under the table in .md and .tex."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([sheet.columns, *sheet.rows])
    write_atomically(folder / f"{sheet.name}.csv", buffer.getvalue())
    write_atomically(folder / f"{sheet.name}.md", markdown(sheet))
    write_atomically(folder / f"{sheet.name}.tex", latex(sheet))


def markdown(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(re.sub(r"([\\|`*_<>\[\]])", r"\\\1", cell).replace("\n", " ") for cell in cells) + " |"

    table = [line(sheet.columns), "|" + "---|" * len(sheet.columns), *map(line, sheet.rows)]
    return "\n".join([*table, *(f"\n{note}" for note in sheet.notes)]) + "\n"


def latex(sheet: Sheet) -> str:
    special = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MARK: r"\textdagger{}"}

    def text(cell: str) -> str:
        return "".join(special.get(letter, letter) for letter in cell).replace("\n", " ")

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(text, cells)) + r" \\"

    body = "\n".join(map(line, sheet.rows))
    notes = "".join(f"\n\\par\\footnotesize {text(note)}\n" for note in sheet.notes)
    return f"\\begin{{tabular}}{{{'l' * len(sheet.columns)}}}\n\\hline\n{line(sheet.columns)}\n\\hline\n{body}\n\\hline\n\\end{{tabular}}\n{notes}"


def console_table(results: Path) -> Any:
    """The main score of every model on every task, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    tree = read_tree(results)
    few = any((row.score() or {}).get("small") for row in tree.rows)
    title = f"main score of everything in {results}, with its 95 % interval over patients"
    table = Table(title=title, title_justify="left", caption=SMALL if few else None, caption_justify="left")
    for name in ("task", "model", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("score", "cases", "patients"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in tree.tasks:
        rows = sorted((row for row in tree.rows if row.task_name == task), key=lambda row: row.order)
        for place, row in enumerate(rows):
            score = row.score() or {}
            shown = Text(row.label + (" (control)" if row.control else ""))
            table.add_row(Text(task if place == 0 else ""), shown, heading([row], row.main), row_text(row), str(score.get("n_cases", "")), str(score.get("n_patients", "")), end_section=place == len(rows) - 1)
    return table
