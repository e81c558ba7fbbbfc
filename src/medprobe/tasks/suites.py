"""From what the user typed to tasks: `DATASET/HEAD` with globs, suites, and manifests of the user's own data."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import Faults, RequestError
from medprobe.registry import DATASETS, HEADS, TASKS, did_you_mean
from medprobe.types import Dataset, Task

DEFAULT_HEAD = "logreg"


def suites() -> Mapping[str, list[str]]:
    """Suite → task names: `paper` is every task of a table, `paper/tableN` one table."""
    found: dict[str, list[str]] = {}
    for name, task in TASKS.items():
        if task.table is not None:
            found.setdefault("paper", []).append(name)
            found.setdefault(f"paper/table{task.table}", []).append(name)
    return found


def tasks_named(text: str) -> list[tuple[Task, Dataset]]:
    """Every task the text stands for, in order and once, with its dataset. RequestError names all that is unknown."""
    found: dict[tuple[str, Path | None], tuple[Task, Dataset]] = {}
    manifests: dict[Path, Dataset] = {}
    faults = Faults()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        with faults.collected():
            for task, dataset in _expand(part, manifests):
                found.setdefault((task.name, dataset.root), (task, dataset))
    faults.raise_if_any()
    if not found:
        raise RequestError("expected at least one task after --task, found none; see: medprobe list tasks")
    return list(found.values())


def _expand(part: str, manifests: dict[Path, Dataset]) -> list[tuple[Task, Dataset]]:
    if part in (known := suites()):
        return [(TASKS.get(name), DATASETS.get(TASKS.get(name).dataset)) for name in known[part]]
    name, slash, head = part.rpartition("/")
    if part.endswith(".toml"):
        name, slash, head = part, "/", DEFAULT_HEAD
    if not slash:
        raise RequestError(f"a task is DATASET/HEAD, found {part!r}; for example {part if part in DATASETS else 'nih14'}/linear, or a suite: {', '.join(known)}")
    if name.endswith(".toml"):
        path = Path(name).resolve()
        dataset = manifests.setdefault(path, manifests.get(path) or load_manifest(Path(name)))
        return [(default_task(dataset, one), dataset) for one in _matching("head", head, HEADS.names())]
    return [
        (default_task(DATASETS.get(one), each), DATASETS.get(one))
        for one in _matching("dataset", name, DATASETS.names())
        for each in _matching("head", head, HEADS.names())
    ]


def _matching(kind: str, pattern: str, known: Sequence[str]) -> list[str]:
    if pattern in known:
        return [pattern]
    matches = fnmatch.filter(known, pattern)
    if not matches:
        raise RequestError(f"no {kind} named {pattern!r}; {did_you_mean(pattern, list(known))}")
    return matches


def default_task(dataset: Dataset, head: str) -> Task:
    """The task of a table where one is registered; else the dataset's task with this head; else plain defaults."""
    name = f"{dataset.name}/{head}"
    if dataset.root is None:
        if name in TASKS:
            return TASKS.get(name)
        for _, task in TASKS.items():
            if task.dataset == dataset.name:
                return replace(task, head=head, head_config={}, table=None)
    return Task(dataset.name, head, window=dataset.recipe)


def with_settings(task: Task, settings: Mapping[str, Any]) -> Task:
    """The task under `--set task.FIELD=V` and `--set head.FIELD=V`; unknown fields and wrong types are named."""
    import dataclasses

    head_class = HEADS.get(task.head)
    fields = {field.name for field in dataclasses.fields(Task)} - {"dataset", "head", "head_config", "table", "protocol"}
    head_fields = {field.name for field in dataclasses.fields(head_class)}
    for key, value in settings.items():
        where, _, field = key.partition(".")
        if where == "head" and field in head_fields:
            task = replace(task, head_config={**task.head_config, field: value})
        elif where == "task" and field in fields:
            task = replace(task, **{field: _fitting(field, value)})
        else:
            known = [f"head.{name}" for name in sorted(head_fields)] + [f"task.{name}" for name in sorted(fields)]
            raise RequestError(f"--set {key}: {task.name} has no such setting; {did_you_mean(key, known)}")
    return task


CHOICES: Mapping[str, tuple[str, ...]] = {
    "fit_rule": ("squash", "pad", "crop"), "resize": ("bicubic", "bilinear", "area"),
    "pooling": ("cls", "patch_mean", "cls_patch_mean"), "planes": ("mean", "max"),
}  # fmt: skip


def _fitting(field: str, value: Any) -> Any:
    if field in CHOICES and value not in CHOICES[field]:
        raise RequestError(f"--set task.{field}: expected one of {', '.join(CHOICES[field])}, found {value!r}; choose one of them")
    if field == "layers" and value is not None:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if field in ("image_size", "split_seed") and not (isinstance(value, int) and value >= (1 if field == "image_size" else 0)):
        raise RequestError(f"--set task.{field}: expected a whole number, found {value!r}; give one")
    return value
