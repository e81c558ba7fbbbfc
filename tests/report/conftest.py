"""Whole rows of results, written as a run leaves them, with any scores and any flaw."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medprobe.encoders import parts_of
from medprobe.files import dump_json
from medprobe.registry import DATASETS, TASKS
from medprobe.run import results
from medprobe.run.splits import FOLDS
from medprobe.tasks.models import NAMED
from medprobe.tasks.suites import default_task

NARROW = 0.00004
"""Half an interval that is narrower than the tolerance of every column."""


def official(model: str) -> list[str]:
    """A digest that begins as that of the official file does, for each part."""
    return [(NAMED[part].digests[0] if part in NAMED and NAMED[part].digests else "").ljust(64, "0") for part in parts_of(model)]


def write_row(
    out: Path, name: str, model: str, scores: Mapping[str, float | None], *, width: float = NARROW, per_class: Mapping[str, float] | None = None,
    table: int | None = None, options: Mapping[str, Any] | None = None, digest: str | None = None, spec: str | None = None, random: bool = False, size: int | None = None,
    folds: Sequence[int] | None = None, seeds: Sequence[int] = (0,), unreadable: int = 0, n_cases: int | None = None, n_patients: int = 400, small: str | None = None, whole: int | None = None,
) -> Path:  # fmt: skip
    """A finished row of a registered task: a document for each seed and fold, and their summary. By default nothing is
    wrong with it: official weights, all cases and folds, the task's own settings, intervals of ± `width`."""
    dataset_name, _, head = name.partition("/")
    dataset = DATASETS.get(dataset_name)
    task = TASKS.get(name) if name in TASKS else default_task(dataset, head)
    counts = dict(dataset.counts)
    of_folds = [number for part, number in counts.items() if part.startswith("fold")] or ([counts["cases"] // FOLDS] * FOLDS if "cases" in counts else [])
    release = counts.get("test") or sum(of_folds)
    places: list[int | None] = [*(range(len(of_folds)) if folds is None else folds)] or [None]
    options = dict(options or {})
    about = {
        "name": name, "dataset": dataset_name, "head": head, "kind": dataset.kind, "config": {**task.config(), "table": table or task.table}, "classes": list(dataset.classes),
        "multilabel": dataset.multilabel, "unit": dataset.unit, "n_cases": whole or sum(counts.values()), "counts": counts, "licence": "none",
    }  # fmt: skip
    asked = options.get("image-size") or size or (None if dataset.kind == "registration" and model in ("pixels", "mind") else task.image_size)
    described = {"name": model, "spec": spec or model, "params": 1, "dim": 1, "image_size": asked, "random": random, "control": False, "licence": None}
    parts = [digest] if digest else official(model)
    stored = {"weights_sha256": "c" * 64, "parts_sha256": parts} if len(parts) > 1 else {"weights_sha256": parts[0]}
    named = {**options, **({"weights": digest[:8]} if digest else {})}
    for seed in seeds:
        for fold in places:
            tested = (release if fold is None else of_folds[fold]) - unreadable
            document = {
                "schema": 1, "key": "k", "facts": {}, "options": options, "warnings": [], "seed": seed, "fold": fold, "status": "done", "task": about, "model": described,
                "cases": {"train": 1, "val": 1, "test": tested, "unlabelled": 0, "unreadable": [f"c{number}: damaged" for number in range(unreadable)]},
                "provenance": {"medprobe": "0", **stored, "dataset_fingerprint": "f" * 64, "libraries": {}, "device": "cpu", "written": ""},
            }  # fmt: skip
            path = out / "results" / results.stem(dataset_name, head, model, named, seed, fold)
            results.write_result(path, document)
    done = sum(release if fold is None else of_folds[fold] for fold in places) - unreadable
    each = {
        key: {
            "value": value, "low": None if value is None else value - width, "high": None if value is None else value + width, "unit": None, "higher_is_better": True,
            "n_cases": n_cases if n_cases is not None else done, "n_patients": release if dataset.unit == "plane" else n_patients, "n_undefined": 0, "per_class": per_class or {}, "seed_sd": None, "small": small,
        }
        for key, value in scores.items()
    }  # fmt: skip
    summary = {"schema": 1, "task": about, "model": described, "seeds": list(seeds), "folds": places, "seeds_without_all_folds": [], "scores": each}
    (path.parent / "summary.json").write_text(dump_json(summary))
    return path.parent


@pytest.fixture
def forge(tmp_path: Path) -> Callable[..., Path]:
    """`write_row` into `tmp_path`."""

    def write(name: str, model: str, scores: Mapping[str, float | None], **more: Any) -> Path:
        return write_row(tmp_path, name, model, scores, **more)

    return write


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """The lines beside the printed numbers, of those that have these values."""
    from medprobe.report.published import beside
    from medprobe.report.read import read_tree

    def of(**wanted: str) -> list[dict[str, Any]]:
        return [line for line in beside(read_tree(tmp_path)) if all(line[key] == value for key, value in wanted.items())]

    return of
