"""What could have been run and was not: pairs of models and tasks without any file, and folds or seeds that others have."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from medprobe.encoders import parts_of
from medprobe.registry import HEADS
from medprobe.report.read import PREDICTIONS, Row, Tree

PIXELS, IMAGE_SIZE = "pixels", "image-size"
OF_VOXELS = ("mind", "anatomix")
"""Encoders that give no vector, which heads of vectors need."""
OF_VOLUMES = ("anatomix",)
"""Those of them that look at whole volumes, which only registration does."""


def missing(tree: Tree) -> list[str]:
    """`MODEL on TASK`, or one of its folds or seeds, of all that can be run."""
    found = []
    for task in tree.tasks:
        rows = [row for row in tree.rows if row.task_name == task]
        cells = {(cell["seed"], cell["fold"]) for row in rows for cell in row.cells}
        for label in tree.models:
            row = tree.get(task, label)
            if row is not None:
                found += _cells_missing(row, cells)
            elif can_run(next(row for row in tree.rows if row.label == label), rows):
                found.append(f"{label} on {task}")
    return found


def _cells_missing(row: Row, cells: set[tuple[int, int | None]]) -> list[str]:
    """Of what others of the task have; predictions made elsewhere have no seeds."""
    have = {(cell["seed"], cell["fold"]) for cell in row.cells}
    if row.model["spec"] == PREDICTIONS:
        cells = {(0, fold) for _, fold in cells}
    return [
        f"{row.label} on {row.task_name}, seed {seed}" + ("" if fold is None else f", fold {fold}")
        for seed, fold in sorted(cells - have, key=str)
    ]


def can_run(model: Row, of_task: Sequence[Row]) -> bool:
    """Whether the model of a row can be run, in the way its label says, on a task that has these rows."""
    head, kind = of_task[0].task["head"], of_task[0].task["kind"]
    spec = model.model["spec"]
    if spec == PREDICTIONS or head not in HEADS:
        return False
    head_class = HEADS.get(head)
    return (
        _fits(spec, head_class, kind)
        and _has_settings(model.shown, head_class)
        and not (IMAGE_SIZE in model.shown and _whole(model, of_task))
    )


def _fits(spec: str, head: Any, kind: str) -> bool:
    if not head.needs:
        return False  # it looks at no model, so that the row that is there stands for all
    if head.needs == {"image"} or getattr(head, "supervised", False):
        return spec == PIXELS
    parts = [part.removeprefix("random:") for part in parts_of(spec)]
    if kind == "registration":
        return not any(part.startswith("features:") for part in parts)
    without = OF_VOXELS if "pooled" in head.needs else OF_VOLUMES
    return not any(part in without for part in parts)


def _has_settings(shown: Any, head: Any) -> bool:
    """Whether the head has the settings that the label names."""
    own = {field.name for field in fields(head)}
    return all(key.removeprefix("head.") in own for key in shown if key.startswith("head."))


def _whole(model: Row, of_task: Sequence[Row]) -> bool:
    """Whether the same model saw whole images here, which have no size to choose."""
    name = model.model["name"]
    return any(row.model["name"] == name and row.model["image_size"] is None for row in of_task)
