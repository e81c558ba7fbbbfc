"""From what the user typed to tasks: `DATASET/HEAD` with globs, suites, and manifests of the user's own data."""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import Faults, RequestError
from medprobe.imaging.recipes import WINDOWS, check_window
from medprobe.metrics.thresholds import RULES
from medprobe.registry import DATASETS, HEADS, TASKS, did_you_mean
from medprobe.types import Dataset, Task

DEFAULT_HEAD: Mapping[tuple[str, int], str] = {("classification", 2): "logreg", ("classification", 3): "logreg", ("segmentation", 2): "conv2d", ("segmentation", 3): "conv3d", ("registration", 2): "convexadam", ("registration", 3): "convexadam"}
"""The head of a manifest that is named without one."""
PREDICTIONS = "predictions"
"""Stands where the head is in the name of a task whose predictions were made elsewhere."""
MAIN: Mapping[str, str] = {"segmentation": "dice", "instances": "voi", "registration": "dice"}
"""The main score by kind, where it is not AUROC."""


def suites() -> Mapping[str, list[str]]:
    """Suite → task names: `paper` is every task of a table, `paper/tableN` one table."""
    found: dict[str, list[str]] = {}
    for name, task in sorted(TASKS.items(), key=lambda item: (item[1].table or 0, item[0])):
        if task.table is not None:
            found.setdefault("paper", []).append(name)
            found.setdefault(f"paper/table{task.table}", []).append(name)
    return found


def tasks_named(text: str, made_elsewhere: bool = False) -> list[tuple[Task, Dataset]]:
    """Every task the text stands for, in order and once, with its dataset. RequestError names all that is unknown.

    A head must be one there is and answer the kind of its dataset; not so where the predictions are `made_elsewhere`.
    """
    found: dict[tuple[str, Path | None], tuple[Task, Dataset]] = {}
    manifests: dict[Path, Dataset] = {}
    faults = Faults()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        with faults.collected():
            for task, dataset in _expand(part, manifests, made_elsewhere):
                found.setdefault((task.name, dataset.root), (task, dataset))
    faults.raise_if_any()
    if not found:
        raise RequestError("expected at least one task after --task, found none; see: medprobe list tasks")
    return list(found.values())


def _expand(part: str, manifests: dict[Path, Dataset], made_elsewhere: bool) -> list[tuple[Task, Dataset]]:
    if part in (known := suites()):
        return [(TASKS.get(name), DATASETS.get(TASKS.get(name).dataset)) for name in known[part]]
    name, slash, head = part.rpartition("/")
    if part.endswith(".toml"):
        name, slash, head = part, "/", ""
    if not slash and made_elsewhere and part in DATASETS:
        name, slash, head = part, "/", ""
    if not slash:
        raise RequestError(f"a task is DATASET/HEAD or MANIFEST.toml/HEAD, found {part!r}; for example {part if part in DATASETS else 'nih14'}/linear, or a suite: {', '.join(known)}")
    if name.endswith(".toml"):
        path = Path(name).resolve()
        datasets = [manifests.setdefault(path, manifests.get(path) or load_manifest(Path(name)))]
    else:
        datasets = [DATASETS.get(one) for one in _matching("dataset", name, DATASETS.names())]
    return [(default_task(dataset, each), dataset) for dataset in datasets for each in _heads(head, dataset, made_elsewhere)]


def _heads(head: str, dataset: Dataset, made_elsewhere: bool) -> list[str]:
    """The heads a name or glob stands for, among those that answer the dataset's kind; the usual one without a name."""
    fitting = [name for name, one in HEADS.items() if dataset.kind in getattr(one, "kinds", ("classification",)) and dataset.dims in getattr(one, "dims", (2, 3))]
    if made_elsewhere and dataset.kind != "classification":
        if head in HEADS and head not in fitting:
            raise RequestError(f"{dataset.name} is of kind {dataset.kind}, which the head {head} does not answer; leave the head out")
        if head and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", head):
            raise RequestError(f"a task is DATASET/HEAD, found {head!r} as its head; use small letters, digits and hyphens")
        return [head or PREDICTIONS]
    if not fitting:
        raise RequestError(f"{dataset.name} is of kind {dataset.kind} in {dataset.dims}D, for which there is no head in this version; predictions made elsewhere are scored by: medprobe score")
    if head in HEADS and head not in fitting:
        raise RequestError(f"{dataset.name} is of kind {dataset.kind} in {dataset.dims}D, which the head {head} does not answer; {did_you_mean(head, fitting)}")
    return _matching("head", head or DEFAULT_HEAD[dataset.kind, dataset.dims], fitting)


def _matching(kind: str, pattern: str, known: Sequence[str]) -> list[str]:
    if pattern in known:
        return [pattern]
    matches = fnmatch.filter(known, pattern)
    if not matches:
        raise RequestError(f"no {kind} named {pattern!r}; {did_you_mean(pattern, list(known))}")
    return matches


def default_task(dataset: Dataset, head: str) -> Task:
    """The task of a table where one is registered; else the dataset's task with this head; else plain defaults.

    A network trained from pixels stays of the dataset's table, which prints such networks too, though no suite names it, and is
    trained as the table's own decoder is, as far as the paper says how.
    """
    name = f"{dataset.name}/{head}"
    if dataset.root is None:
        if name in TASKS:
            return TASKS.get(name)
        for _, task in TASKS.items():
            if task.dataset == dataset.name:
                supervised = head in HEADS and getattr(HEADS.get(head), "supervised", False)
                config = _training(task, head) if supervised else {}
                return replace(task, head=head, head_config=config, reduce=_reduce(head, task.reduce), table=task.table if supervised else None)
    main = MAIN.get(dataset.kind, "auroc")
    slices = getattr(HEADS.get(head), "min_slices", 0) if head in HEADS and dataset.dims == 3 else 0
    return Task(
        dataset.name, head, window=dataset.recipe, reduce=_reduce(head, None), main=main,
        monitor=main, min_slices=slices,
    )  # fmt: skip


def _training(task: Task, head: str) -> dict[str, Any]:
    """The settings of a table's own head that another has too."""
    fields = {field.name for field in dataclasses.fields(HEADS.get(head))}
    return {name: value for name, value in task.head_config.items() if name in fields}


def _reduce(head: str, otherwise: str | None) -> str | None:
    """The reduction that a head of pairs wants of an encoder's maps, which it may not."""
    one = HEADS.get(head) if head in HEADS else None
    return getattr(one, "reduce", None) if "registration" in getattr(one, "kinds", ()) else otherwise


def with_settings(task: Task, settings: Mapping[str, Any]) -> Task:
    """The task under `--set task.FIELD=V` and `--set head.FIELD=V`; unknown fields and wrong types are named."""
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


CHOICES: Mapping[str, Sequence[str]] = {
    "fit_rule": ("squash", "pad", "crop"), "resize": ("bicubic", "bilinear", "area"),
    "pooling": ("cls", "patch_mean", "cls_patch_mean"), "planes": ("mean", "max"),
    "channels": ("late", "rgb"), "axis": ("axial", "coronal", "sagittal"),
    "orientation": ("radiological", "canonical"), "warp": ("nearest", "linear"), "threshold": RULES,
}  # fmt: skip


def _fitting(field: str, value: Any) -> Any:
    if field in CHOICES and value not in CHOICES[field]:
        raise RequestError(f"--set task.{field}: expected one of {', '.join(CHOICES[field])}, found {value!r}; {did_you_mean(str(value), list(CHOICES[field]))}")
    if field == "window":
        try:
            check_window(str(value))
        except RequestError as error:
            raise RequestError(f"--set task.window: expected one of {', '.join(WINDOWS)}, one for each channel such as ct+suv, or three such as lung|mediastinum|bone; {error}") from None
        return str(value)
    if field == "layers" and value is not None:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if field == "spacing" and value is not None:
        return _spacing(value)
    least = {"image_size": 1, "stride": 1, "split_seed": 0, "min_slices": 0}.get(field)
    if least is not None and (isinstance(value, bool) or not (isinstance(value, int) and value >= least)):
        raise RequestError(f"--set task.{field}: expected a whole number, found {value!r}; give one")
    return value


def _spacing(value: Any) -> tuple[float, ...]:
    """One size in mm for all axes, or one for each: 1.5, [3, 1.5, 1.5] or "3 1.5 1.5"."""
    sizes = value.split() if isinstance(value, str) else value
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes] * 3
    try:
        spacing = tuple(float(size) for size in sizes)
    except (TypeError, ValueError):
        spacing = ()
    if len(spacing) != 3 or not all(0 < size < math.inf for size in spacing):
        raise RequestError(
            "--set task.spacing: expected millimetres, one number or three (z, y, x) such as "
            f"[3, 1.5, 1.5], found {value!r}; give them"
        )
    return spacing
