"""What a request means, found out before anything is computed: tasks, cases, encoders, cells; and everything that is wrong.

All faults are collected and raised at once: a wrong request is status 2, something missing is status 3, and 2 wins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medprobe.datasets._layout import cases_of, locate, paths_of
from medprobe.errors import CaseError, Faults, MedprobeError, RequestError
from medprobe.features.digests import Digests
from medprobe.features.reduce import reduce_named
from medprobe.heads._dense import Segmenter
from medprobe.heads._pairs import Registration
from medprobe.imaging import formats
from medprobe.registry import HEADS, did_you_mean
from medprobe.run import reading, results, splits, windows
from medprobe.run.groups import Group, grouped
from medprobe.run.loading import LAST, load_models
from medprobe.run.question import PIXELS, Cell, Question, config_of
from medprobe.run.references import Masks, check_laid, check_on_image, check_pair
from medprobe.run.request import Request, check_options, default_cache
from medprobe.tasks.suites import tasks_named, with_settings
from medprobe.types import Case, Dataset, Task

Progress = Callable[[int, int, str], None]
WITH_MASKS = ("segmentation", "registration")


@dataclass(frozen=True)
class Plan:
    """Everything a run will do. `faults` is empty unless the plan was made with `tolerant`."""

    groups: tuple[Group, ...]
    done: tuple[Cell, ...]
    faults: tuple[MedprobeError, ...]
    notes: tuple[str, ...]
    cache: Path

    def summary(self) -> dict[str, Any]:
        return {
            "cells": {"done": len(self.done), "to_do": sum(len(group.cells) for group in self.groups)},
            "groups": [
                {
                    "model": group.loaded.name, "dataset": group.dataset, "image_size": group.preprocessing.size,
                    "tasks": sorted({cell.question.task.name for cell in group.cells}), "cells": len(group.cells),
                    "seeds": sorted({cell.seed for cell in group.cells}), "planes": group.all_planes, "planes_missing": group.missing_planes,
                    "bytes": group.missing_planes * group.bytes_per_plane,
                    "planes_to_decode": group.to_decode, "bytes_decoded": group.bytes_decoded,
                    "minutes": (group.missing_planes * group.seconds_per_plane + group.fit_seconds) / 60,
                    "minutes_encoding": group.missing_planes * group.seconds_per_plane / 60, "minutes_fits": {task: seconds / 60 for task, seconds in group.fits.items()},
                    "streamed": group.streamed, "views": [view.name for view in group.views],
                    "planes_of_views": group.missing_views,
                }
                for group in self.groups
            ],
            "notes": list(self.notes), "missing": [str(error) for error in self.faults], "cache": str(self.cache),
        }  # fmt: skip


def make(request: Request, progress: Progress, tolerant: bool = False) -> Plan:
    """The plan of a request. Raises everything that is wrong at once; with `tolerant` what is missing is listed instead."""
    faults = Faults()
    notes: list[str] = []
    cache = request.cache or default_cache()
    with faults.collected():
        check_options(request)
    unusable = bool(faults.found)
    pairs: list[tuple[Task, Dataset]] = []
    with faults.collected():
        pairs = tasks_named(request.task)
    if unusable:
        faults.raise_if_any()
    questions: list[Question] = []
    for task, dataset in pairs:
        with faults.collected():
            mine = _settings_of(task, [task for task, _ in pairs], request, notes)
            question = _question(task, dataset, mine, Digests(cache), progress, questions)
            questions.append(question)
            notes += _notes(question)
    loaded = load_models(request, faults, progress, sorted({question.grids for question in questions}, key=str) or [LAST])
    notes += [f"{one.name}: {note}" for one in loaded for note in one.encoder.notes]
    _check_cells(questions, request, faults)
    if any(one.spec != PIXELS for one in loaded):
        notes += [f"{question.task.name}: {question.task.head} looks at the planes themselves, and runs with {PIXELS} alone" for question in questions if question.on_pixels]
    if not tolerant or any(isinstance(error, RequestError) for error in faults.found):
        faults.raise_if_any()
    groups, done = grouped(questions, loaded, request, cache, faults, progress)
    if not tolerant or any(isinstance(error, RequestError) for error in faults.found):
        faults.raise_if_any()
    return Plan(tuple(groups), tuple(done), tuple(faults.found), tuple(dict.fromkeys(notes)), cache)


def _settings_of(task: Task, tasks: Sequence[Task], request: Request, notes: list[str]) -> Request:
    """The request without settings of heads that this task's head lacks and another's has: a control beside a decoder has no epochs."""
    others = {field.name for other in tasks for field in fields(HEADS.get(other.head))}
    own = {field.name for field in fields(HEADS.get(task.head))}
    dropped = [key for key in request.settings if key.startswith("head.") and key[5:] in others - own]
    tuned = {part.partition("=")[0].strip() for part in str(request.settings.get("head.tune", "")).split(",")}
    if "head.tune" in request.settings and tuned <= others and not tuned <= own:
        dropped.append("head.tune")
    notes += [f"{task.name}: {key} is no setting of {task.head}, and left out there" for key in dropped]
    return replace(request, settings={key: value for key, value in request.settings.items() if key not in dropped}) if dropped else request


def _question(task: Task, dataset: Dataset, request: Request, digests: Digests, progress: Progress, known: Sequence[Question]) -> Question:
    default, task = task, with_settings(task, request.settings)
    same = next((each for each in known if each.dataset is dataset and each.task.split_seed == task.split_seed), None)
    if same is not None:
        cases, found, masks = same.cases, same.digests, same.masks
    else:
        root = locate(dataset, request.data)
        everything = splits.with_folds(cases_of(dataset, root), task.split_seed)
        cases = tuple(splits.limited(everything, request.limit, task.split_seed))
        found = digests.of(paths_of(cases), progress)
        masks = Masks(dataset) if dataset.kind in WITH_MASKS else None
    options = options_of(default, task, request)
    for setting in sorted({"task.main", "task.monitor"} & set(request.settings)):
        known_scores = results.score_keys(dataset, "case" if setting == "task.monitor" else dataset.unit)
        if (asked := request.settings[setting]) not in known_scores:
            raise RequestError(f"--set {setting}: {task.name} has no score named {asked!r}; {did_you_mean(str(asked), known_scores)}")
    if not any(formats.lies(source) for case in cases for sources in case.images.values() for source in sources):
        task = replace(task, orientation="canonical")  # nothing says how it lies: pictures are as their files show them
    question = Question(task, dataset, cases, found, options, masks)
    _ = question.head
    reduce_named(task.reduce)
    reading.check(task, dataset, cases)
    if same is None:
        _check_laid(dataset, cases)
    return question


def _check_laid(dataset: Dataset, cases: Sequence[Case]) -> None:
    """CaseError for images and masks of a case that do not lie on one another, as far as headers
    say; the count and the first."""
    masked = dataset.kind in ("segmentation", "instances", "registration")
    chosen = [case for case in cases if case.target is not None] if masked else cases
    wrong = []
    for case in chosen:
        try:
            check_laid(case)
            _check_masks(dataset, case, case.target if masked else ())
        except CaseError as error:
            wrong.append(str(error))
    if wrong:
        what = "the masks" if masked else "the images"
        where = "their images" if masked else "one another"
        kind = "labelled cases" if masked else "cases"
        raise CaseError(
            wrong[0] if len(wrong) == 1 else
            f"{dataset.name}: {what} of {len(wrong)} of {len(chosen)} {kind} do not lie on "
            f"{where}, the first is {wrong[0]}"
        )  # fmt: skip


def _check_masks(dataset: Dataset, case: Case, target: Any) -> None:
    roles = target if isinstance(target, Mapping) else {"image": target}
    for role, sources in roles.items():
        check_on_image(dataset, case, sources, role)
    if dataset.kind == "registration":
        check_pair(case)


def options_of(default: Task, task: Task, request: Request) -> dict[str, Any]:
    """What of a request differs from the default of the task: the options in the names of results."""
    options = {key.removeprefix("task.") if key.startswith("task.") else key: value for key, value in request.settings.items() if not _is_default(default, key, value)}
    if request.limit is not None:
        options["limit"] = request.limit
    if request.image_size is not None and request.image_size != task.image_size:
        options["image-size"] = request.image_size
    if request.precision != "fp32":
        options["precision"] = request.precision
    return options


def _is_default(task: Task, key: str, value: Any) -> bool:
    """Whether a setting says what the task does anyway."""
    where, _, field = key.partition(".")
    if where == "task":
        return bool(getattr(task, field) == value)
    return bool(config_of(HEADS.get(task.head)(**task.head_config))[field] == (tuple(value) if isinstance(value, list) else value))


def _notes(question: Question) -> list[str]:
    dataset, notes = question.dataset, []
    unlabelled = sum(case.target is None for case in question.cases)
    if unlabelled:
        notes.append(f"{dataset.name}: {unlabelled} of {len(question.cases)} cases are unlabelled and left out")
    shared = splits.shared_patients(question.cases)
    for pair, patients in shared.items():
        notes.append(f"{dataset.name}: the official split shares {len(patients)} patients between {pair} ({', '.join(patients[:3])}, …)")
    if dataset.official_leak and not shared:
        notes.append(f"{dataset.name}: {dataset.official_leak}")
    odd = [(case.id, note) for case in question.cases for sources in case.images.values() for source in sources for note in formats.notes(source)]
    if odd:
        notes.append(f"{dataset.name}: {odd[0][1]} (first of {len(odd)} such findings, in {odd[0][0]})")
    notes += [f"{dataset.name}: {said}" for said in windows.findings(question.task.window, question.cases)]
    if any(term in dataset.licence for term in ("NC", "non-commercial", "competition")):
        notes.append(f"{dataset.name}: licence {dataset.licence}")
    return notes


def _check_cells(questions: Sequence[Question], request: Request, faults: Faults) -> None:
    for question in questions:
        name, dataset = question.task.name, question.dataset
        if isinstance(question.head, Segmenter):
            with faults.collected():
                question.head.check(dataset.classes)
        if isinstance(question.head, Registration):
            with faults.collected():
                question.head.check(dataset.dims)
        if question.on_pixels and PIXELS not in request.model.split(","):
            faults.found.append(RequestError(f"{name}: {question.task.head} looks at the planes themselves, so it runs with the model {PIXELS}, found {request.model}; add {PIXELS} to --model"))
        with faults.collected():
            shared = splits.shared_patients(question.cases)
            if shared and dataset.official_leak is None:
                pair, patients = next(iter(shared.items()))
                raise RequestError(f"{dataset.name}: {len(patients)} patients are in both {pair} ({', '.join(patients[:5])}); give every patient one part")
            if request.folds is not None:
                unknown = sorted(set(request.folds) - set(question.folds))
                if unknown:
                    raise RequestError(f"{name} has {'folds ' + ', '.join(map(str, question.folds)) if question.folds != [None] else 'no folds'}, found --folds {','.join(map(str, unknown))}; leave --folds out")
            for fold in question.folds:
                parts = question.parts[fold]
                empty = [part for part in ("train", "test") if not getattr(parts, part) and part in question.reads]
                if getattr(question.head, "tune", "") and not parts.val:
                    raise RequestError(f"{name}: head.tune chooses on labelled validation pairs, found none{'' if fold is None else f' in fold {fold}'}; add some to the split, or leave head.tune out")
                if empty:
                    where = "" if fold is None else f" in fold {fold}"
                    targets = "masks" if dataset.kind == "registration" else "targets"
                    fewer = "" if request.limit is None else ", or raise --limit"
                    raise RequestError(
                        f"{name}: expected labelled cases to train and to test{where}, found none "
                        f"to {' or '.join(empty)}; check their parts and {targets}{fewer}"
                    )
