"""What a run left behind, as one object: finished and failed cells, summaries, and what is missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medprobe.errors import RequestError
from medprobe.files import dump_json
from medprobe.metrics.small import Support
from medprobe.run.results import SCHEMA, current, folds_by_seed, read_summary, state_of, summary_of

PREDICTIONS = "predictions"
"""The spec of a model whose predictions were made elsewhere."""


@dataclass(frozen=True)
class Row:
    """One model on one task, folds and seeds combined. `options` are those that differ from the task's default, `shown`
    those of them, and of its weights, that its label says."""

    folder: Path
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    label: str
    options: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    cells: tuple[Mapping[str, Any], ...]
    shown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        return [cell for cell in self.cells if cell["status"] == "done"]

    @property
    def folds(self) -> list[int]:
        """The folds behind its scores; none where the task has no folds."""
        found = {cell["fold"] for cell in self.finished if self.summary is None or cell["fold"] in self.summary["folds"]}
        return sorted(fold for fold in found if fold is not None)

    @property
    def seeds(self) -> list[int]:
        """The seeds behind its scores: those with every fold."""
        return sorted({cell["seed"] for cell in self.finished if self.summary is None or cell["seed"] in self.summary["seeds"]})

    @property
    def task_name(self) -> str:
        return str(self.task["name"])

    @property
    def control(self) -> bool:
        return bool(self.model["control"]) or self.task["head"] == "constant"

    @property
    def main(self) -> str:
        return str(self.task["config"]["main"])

    @property
    def failed(self) -> list[str]:
        return [str(cell["error"]["message"]) for cell in self.cells if cell["status"] == "failed"]

    def score(self, key: str | None = None) -> Mapping[str, Any] | None:
        """The combined score of a key (the main one), or None where it is missing."""
        return None if self.summary is None else self.summary["scores"].get(key or self.main)

    @property
    def fingerprints(self) -> set[str]:
        """The states of the dataset that its finished cells saw: one, unless it changed in between."""
        return {state_of(cell) for cell in self.finished}

    @property
    def sign(self) -> int:
        """1 where a higher main score is better, -1 where a lower one is."""
        return -1 if (self.score() or {}).get("higher_is_better") is False else 1

    @property
    def order(self) -> tuple[bool, float, str]:
        """Sorts the models of a task: the best first, those without a score last, controls after all."""
        value = (self.score() or {}).get("value")
        return self.control, float("inf") if value is None else -self.sign * value, self.label


@dataclass(frozen=True)
class Tree:
    """All rows under one folder of results, in order of path, and the files that could not be read."""

    root: Path
    rows: tuple[Row, ...]
    unreadable: tuple[str, ...]

    @cached_property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(row.task_name for row in self.rows))

    @cached_property
    def models(self) -> list[str]:
        """Labels of models, controls last."""
        rows = sorted(self.rows, key=lambda row: (bool(row.model["control"]), row.label))
        return list(dict.fromkeys(row.label for row in rows))

    def get(self, task: str, label: str) -> Row | None:
        return next((row for row in self.rows if row.task_name == task and row.label == label), None)


def read_tree(results: Path) -> Tree:
    """Everything under OUT (or OUT/results). RequestError when there is no result at all."""
    root = results / "results" if (results / "results").is_dir() else results
    unreadable: list[str] = []
    found: dict[Path, list[tuple[Path, dict[str, Any]]]] = {}
    for file in sorted(root.glob("*/*/*/seed*.json")):
        document = _document(file)
        if document is None:
            unreadable.append(str(file.relative_to(root)))
        else:
            found.setdefault(file.parent, []).append((file.with_suffix(""), document))
    firsts = [(folder.parent, cells[0][1]) for folder, cells in found.items()]
    differing = _differing([(task, cell["model"]["name"], cell.get("options", {})) for task, cell in firsts])
    rows = []
    for folder, everything in sorted(found.items()):
        cells = [document for _, document in current(everything)]
        summary = _summary(folder, cells)
        if summary is None and (folder / "summary.json").exists():
            unreadable.append(str((folder / "summary.json").relative_to(root)))
        first = cells[0]
        name, options = str(first["model"]["name"]), dict(first.get("options", {}))
        shown = {key: value for key, value in options.items() if key == "limit" or key in differing[name]}
        if len({weights_of(cell) for _, cell in firsts if cell["model"]["name"] == name} - {None}) > 1:
            shown["weights"] = (weights_of(first) or "unknown")[:8]
        label = label_of(name, shown)
        rows.append(Row(folder, first["task"], first["model"], label, options, summary, tuple(cells), shown))
    if not rows:
        raise RequestError(f"{results}: expected the results of a run, found {'only unreadable files: ' + ', '.join(unreadable[:3]) if unreadable else 'none'}; give the folder that was --out")
    return Tree(root, tuple(rows), tuple(unreadable))


def label_of(name: str, shown: Mapping[str, Any]) -> str:
    """dinov3-s (image-size=64, weights=08c60483)."""
    said = ", ".join(f"{key}={value}" for key, value in sorted(shown.items()))
    return f"{name} ({said})" if said else name


def weights_of(cell: Mapping[str, Any]) -> str | None:
    """The digest of the weights behind a cell; None where they are drawn, or predictions were made elsewhere."""
    if cell["model"]["random"] or cell["model"]["spec"] == PREDICTIONS:
        return None
    return cell["provenance"].get("weights_sha256")


def _summary(folder: Path, cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The summary on disk, or one made anew where a run that was interrupted left finished cells out of it, or an earlier
    version wrote it, which knew no marks of few patients."""
    summary = read_summary(folder)
    done = {(cell["seed"], cell["fold"]) for cell in cells if cell["status"] == "done"}
    if done and (summary is None or not _holds(summary, done)):
        try:
            anew = summary_of(folder)
            return summary if anew is None else json.loads(dump_json(anew))
        except RequestError:  # its predictions are not here
            return summary and {**summary, "scores": {key: _marked(score) for key, score in summary["scores"].items()}}
    return summary


def _holds(summary: Mapping[str, Any], done: set[tuple[int, int | None]]) -> bool:
    seeds = {*summary["seeds"], *summary.get("seeds_without_all_folds", [])}
    cells = seeds == {seed for seed, _ in done} and set(summary["folds"]) == {fold for _, fold in done}
    return cells and all("small" in score for score in summary["scores"].values())


def _marked(score: Mapping[str, Any]) -> Mapping[str, Any]:
    """A score with the mark that its number of patients alone gives, where it has none."""
    if "small" in score:
        return score
    support = Support(score["n_patients"], score["n_patients"], {})
    ends = {"low": None, "high": None} if support.none else {}
    return {**score, **ends, "small": support.mark}


def _differing(asked: Sequence[tuple[Path, str, Mapping[str, Any]]]) -> dict[str, set[str]]:
    """Model → the options in which it was run more than one way on any one task, so that it has one label on all."""
    found: dict[str, set[str]] = {name: set() for _, name, _ in asked}
    for task, name in {(task, name) for task, name, _ in asked}:
        ways = [options for where, what, options in asked if (where, what) == (task, name)]
        found[name] |= {key for way in ways for key in way if any(other.get(key) != way[key] for other in ways)}
    return found


def _document(file: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(file.read_text())
        if document["schema"] != SCHEMA or not isinstance(document["task"]["name"], str):
            return None
        _ = document["model"]["control"], document["task"]["config"]["main"], document["provenance"]["dataset_fingerprint"]
        return document
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measures(row: Row) -> dict[int, dict[int | None, Any]]:
    """seed → fold → scores, from the saved predictions."""
    return folds_by_seed(row.folder)
