"""What a request means, found out before anything is computed: tasks, cases, encoders, cells; and everything that is wrong.

All faults are collected and raised at once: a wrong request is status 2, something missing is status 3, and 2 wins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medprobe import encoders
from medprobe.datasets._layout import fingerprint, locate, paths_of
from medprobe.errors import CaseError, Faults, MedprobeError, MissingError, RequestError
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import Preprocessing, decoded, encoding_facts, measure, plane_facts
from medprobe.features.planes import KEPT
from medprobe.features.reduce import reduce_named
from medprobe.features.store import Encoding, Entry
from medprobe.imaging import formats
from medprobe.imaging.formats import count_planes
from medprobe.imaging.recipes import windows_of
from medprobe.registry import HEADS, did_you_mean
from medprobe.run import costs, reading, results, splits
from medprobe.run.loading import LAST, Grids, Loaded, load_models
from medprobe.run.references import Masks, check_on_image, check_pair
from medprobe.run.request import Request, check_options, default_cache
from medprobe.tasks.suites import tasks_named, with_settings
from medprobe.types import Case, Dataset, Source, Task

Progress = Callable[[int, int, str], None]
PIXELS = "pixels"
PARTS = ("train", "val", "test")
WITH_MASKS = ("segmentation", "registration")


@dataclass(frozen=True)
class Question:
    """A task with its cases in hand."""

    task: Task
    dataset: Dataset
    cases: tuple[Case, ...]
    digests: Mapping[Path, str]
    options: Mapping[str, Any]
    masks: Masks | None = None
    """Reads the targets of dense datasets, for every question of one dataset the same."""

    @property
    def folds(self) -> list[int | None]:
        return splits.folds_of(self.cases)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.cases, self.digests)

    @cached_property
    def head(self) -> Any:
        return HEADS.get(self.task.head)(**self.task.head_config)

    @cached_property
    def parts(self) -> dict[int | None, splits.Parts]:
        return {fold: splits.parts_of(self.cases, fold, self.task.split_seed) for fold in self.folds}

    def encoder_of(self, loaded: Loaded) -> Any:
        """What encodes the planes of these cases, None if nothing has to: pairs are described as whole images where that is possible."""
        return loaded.apart[0] if self.dataset.kind == "registration" else loaded.encoder

    @property
    def on_pixels(self) -> bool:
        """Whether the head looks at images alone, so that it runs with the model `pixels` and no other."""
        return getattr(self.head, "supervised", False) or self.head.needs == {"image"}

    @property
    def reads(self) -> frozenset[str]:
        """The parts the head looks at: all, unless it says that it learns nothing."""
        return getattr(self.head, "reads", frozenset(PARTS))

    @cached_property
    def looked_at(self) -> tuple[Case, ...]:
        """The cases of these parts, of any fold."""
        if self.reads == frozenset(PARTS):
            return self.cases
        places = {place for parts in self.parts.values() for part in self.reads for place in getattr(parts, part)}
        return tuple(self.cases[place] for place in sorted(places))

    @property
    def grids(self) -> Grids:
        """Which grids the head wants of an encoder: (layers by number, or None; how many at even distances then)."""
        return (self.task.layers, getattr(self.head, "levels", 1)) if "grid" in self.head.needs else LAST

    @property
    def levels(self) -> int | None:
        """How many grids at even distances the head wants, the last among them; None where they are named by number."""
        layers, levels = self.grids
        return levels if layers is None else None

    def entries(self, joint_channels: bool, cases: Sequence[Case] | None = None) -> dict[tuple[str, str], list[tuple[Entry, tuple[Source, ...]]]]:
        """(case, role) → what is decoded as one: each channel alone, or all channels together for encoders that take any. Of `cases`,
        or of those that the head looks at."""
        found = {}
        for case in self.looked_at if cases is None else cases:
            for role, sources in reading.images(self.task, case).items():
                groups = [sources] if joint_channels or self.task.channels == "rgb" else [(source,) for source in sources]
                found[case.id, role] = [(self._entry(group), group) for group in groups]
        return found

    def _entry(self, sources: tuple[Source, ...]) -> Entry:
        try:
            return Entry(source_key(sources, dict(self.digests)), count_planes(sources[0]))
        except CaseError:
            return Entry(f"unreadable-{abs(hash(sources)):x}"[:32], 1)


@dataclass(frozen=True)
class Cell:
    """One result to be: a model asked a question, with one seed, on one fold."""

    loaded: Loaded
    question: Question
    seed: int
    fold: int | None
    size: int | None
    precision: str
    limit: int | None

    @property
    def stem(self) -> str:
        options = self.options
        if self.loaded.weights_file is not None:
            options["weights"] = self.loaded.encoder.weights_sha256[:8]
        return results.stem(self.question.dataset.name, self.question.task.head, self.loaded.name, options, self.seed, self.fold)

    @property
    def options(self) -> dict[str, Any]:
        """Those of the question that this cell has; whole images have no size to choose."""
        whole = self.question.dataset.kind == "registration" and self.size is None
        return {key: value for key, value in self.question.options.items() if not (whole and key == "image-size")}

    @property
    def facts(self) -> dict[str, Any]:
        """Everything the scores depend on."""
        encoder = self.loaded.encoder
        return {
            "task": self.question.task.config(), "head": config_of(self.question.head), "model": self.loaded.spec,
            "weights_sha256": encoder.weights_sha256, "transform": encoder.transform, "image_size": self.size,
            "precision": self.precision, "dataset_fingerprint": self.question.fingerprint, "limit": self.limit,
            "seed": self.seed, "fold": self.fold, "schema": results.SCHEMA, **results.mask_facts(self.question.dataset),
        }  # fmt: skip


def config_of(head: Any) -> dict[str, Any]:
    return asdict(head)


@dataclass(frozen=True)
class Group:
    """Cells that share one encoder and one way of encoding one dataset."""

    loaded: Loaded
    encoder: Any
    """What takes the planes; None where nothing does, and cases are looked at as whole images."""
    preprocessing: Preprocessing
    grids: bool
    encoding: Encoding
    entries: Mapping[str, Entry]
    sources: Mapping[str, tuple[Source, ...]]
    missing: tuple[str, ...]
    bytes_per_plane: int
    seconds_per_plane: float
    cells: tuple[Cell, ...]
    dataset: str
    undecoded: tuple[str, ...] = ()
    """Those of `missing` whose planes no other encoder leaves decoded."""
    bytes_per_decoded: int = 0
    planes_budget: int = 0
    """Bytes of decoded planes that the cache may hold."""
    fit_seconds: float = 0.0
    streamed: str | None = None
    """Why grids are not kept, if they are not."""

    @property
    def missing_planes(self) -> int:
        return sum(self.entries[key].planes for key in self.missing)

    @property
    def to_decode(self) -> int:
        return sum(self.entries[key].planes for key in self.undecoded)

    @property
    def bytes_decoded(self) -> int:
        """Of the planes that are kept when they are decoded; 0 where they exceed what may be kept."""
        wanted = self.to_decode * self.bytes_per_decoded
        return wanted if wanted <= self.planes_budget else 0


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
                    "planes": sum(entry.planes for entry in group.entries.values()), "planes_missing": group.missing_planes,
                    "bytes": group.missing_planes * group.bytes_per_plane,
                    "planes_to_decode": group.to_decode, "bytes_decoded": group.bytes_decoded,
                    "minutes": (group.missing_planes * group.seconds_per_plane + group.fit_seconds) / 60,
                    "minutes_encoding": group.missing_planes * group.seconds_per_plane / 60, "streamed": group.streamed,
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
    _check_cells(questions, request, faults)
    if not tolerant or any(isinstance(error, RequestError) for error in faults.found):
        faults.raise_if_any()
    groups, done = _grouped(questions, loaded, request, cache, faults)
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
        everything = splits.with_folds(sorted(dataset.cases(root), key=lambda case: case.id), task.split_seed)
        cases = tuple(splits.limited(everything, request.limit, task.split_seed))
        found = digests.of(paths_of(cases), progress)
        masks = Masks(dataset) if dataset.kind in WITH_MASKS else None
    options = options_of(default, task, request)
    for setting in sorted({"task.main", "task.monitor"} & set(request.settings)):
        known_scores = results.score_keys(dataset, "case" if setting == "task.monitor" else dataset.unit)
        if (asked := request.settings[setting]) not in known_scores:
            raise RequestError(f"--set {setting}: {task.name} has no score named {asked!r}; {did_you_mean(str(asked), known_scores)}")
    question = Question(task, dataset, cases, found, options, masks)
    _ = question.head
    reduce_named(task.reduce)
    reading.check(task, dataset, cases)
    if same is None:
        _check_masks(dataset, cases)
    return question


def _check_masks(dataset: Dataset, cases: Sequence[Case]) -> None:
    """CaseError for masks that do not lie on their images, as far as headers say; the count and the first."""
    if dataset.kind not in ("segmentation", "instances", "registration"):
        return
    wrong = []
    for case in cases:
        if case.target is not None:
            try:
                for role, sources in case.target.items() if isinstance(case.target, Mapping) else [("image", case.target)]:
                    check_on_image(dataset, case, sources, role)
                if dataset.kind == "registration":
                    check_pair(case)
            except CaseError as error:
                wrong.append(str(error))
    if wrong:
        raise CaseError(wrong[0] if len(wrong) == 1 else f"{dataset.name}: {len(wrong)} of {len(cases)} masks do not lie on their images, the first is {wrong[0]}")


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
    if any(term in dataset.licence for term in ("NC", "non-commercial", "competition")):
        notes.append(f"{dataset.name}: licence {dataset.licence}")
    return notes


def _check_cells(questions: Sequence[Question], request: Request, faults: Faults) -> None:
    for question in questions:
        name, dataset = question.task.name, question.dataset
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
                    raise RequestError(f"{name}: expected labelled cases to train and to test{'' if fold is None else f' in fold {fold}'}, found none to {' or '.join(empty)}; check the split column and the {'masks' if dataset.kind == 'registration' else 'targets'}, or raise --limit")


def preprocessing_of(question: Question, encoder: Any) -> Preprocessing:
    """How this question's planes reach this encoder: the user's size, the encoder's, the task's, the encoder's default."""
    task, dataset = question.task, question.dataset
    size = encoders.fit_size(encoder, task.image_size)
    one_source = all(len(sources) == 1 for case in question.cases for sources in case.images.values())
    any_channels = encoder.channels is None
    colour: Any = None
    if dataset.grey:
        colour = 1
    elif encoder.channels == 3 or (any_channels and one_source and not _all_grey(question)):
        colour = 3
    return Preprocessing(task.window, (size, size), task.fit_rule, task.resize, colour, dataset.crop, task.channels)


def _all_grey(question: Question) -> bool:
    """Whether every image is grey, by its header: decides how many channels `pixels` has."""
    from medprobe.imaging.formats import is_grey

    return all(is_grey(sources[0]) for case in question.cases for sources in case.images.values())


def _grouped(questions: Sequence[Question], loaded: Sequence[Loaded], request: Request, cache: Path, faults: Faults) -> tuple[list[Group], list[Cell]]:
    collected: dict[tuple, dict[str, Any]] = {}
    done: list[Cell] = []
    stems: dict[str, Mapping[str, Any]] = {}
    for one in loaded:
        for question in questions:
            if one.grids != question.grids or (one.spec != PIXELS and question.on_pixels):
                continue
            with faults.collected():
                encoder = question.encoder_of(one) if "grid" in question.head.needs or question.dataset.kind != "registration" else None
                _check_encoder(one, question)
                if hasattr(encoder, "features_of"):
                    preprocessing, grids = Preprocessing(question.task.window, None), False
                    _check_covered(one, question)
                elif encoder is None:
                    preprocessing, grids = Preprocessing(question.task.window, None), False
                else:
                    preprocessing, grids = preprocessing_of(question, encoder), "grid" in question.head.needs
                facts = encoding_facts(encoder or one.encoder, preprocessing, grids, request.precision)
                size = preprocessing.size[0] if preprocessing.size else None
                folds = question.folds if request.folds is None else [fold for fold in question.folds if fold in request.folds]
                cells = [Cell(one, question, seed, fold, size, request.precision, request.limit) for seed in one.seeds for fold in folds]
                todo: list[Cell] = []
                for cell in cells:
                    if stems.setdefault(cell.stem, cell.facts) != cell.facts:
                        raise RequestError(f"two of the tasks asked for would write the same result, {cell.stem}; give the manifests different names, or run them one by one with an --out each")
                    with faults.collected():
                        (done if results.finished(request.out / "results" / cell.stem, cell.facts, request.skip_unreadable) else todo).append(cell)
                encoding = Encoding(cache, facts)
                place = (id(one), encoder is None, encoding.key, id(question.cases), question.task.axis, question.task.stride, question.reads)
                if place not in collected:
                    collected[place] = {"loaded": one, "encoder": encoder, "preprocessing": preprocessing, "grids": grids, "encoding": encoding, "question": question, "cells": []}
                collected[place]["cells"] += todo
    _merge(collected)
    groups: list[Group] = []
    planned: set[tuple[str, str]] = set()
    for parts in (parts for parts in collected.values() if parts["cells"]):
        group = _group(request=request, **parts)
        decoding = Encoding(cache, plane_facts(group.preprocessing), KEPT).key
        group = replace(group, undecoded=tuple(key for key in group.undecoded if (decoding, key) not in planned))
        planned |= {(decoding, key) for key in group.undecoded}
        before = sum(each.missing_planes * each.bytes_per_plane for each in groups if each.streamed is None)
        groups.append(replace(group, streamed=why_streamed(group, request, cache, before), fit_seconds=costs.of_group(group)))
    spare = _spare(groups, request, cache)
    return [replace(group, planes_budget=spare) for group in groups], done


def _merge(collected: Mapping[tuple, dict[str, Any]]) -> None:
    """Cells whose features those of others contain join them, so that no plane is encoded twice."""
    moved: set[tuple] = set()
    for place, narrow in collected.items():
        for other, wide in collected.items():
            same = place != other and other not in moved and place[3:-1] == other[3:-1] and place[-1] <= other[-1] and narrow["encoder"] is not None and wide["encoder"] is not None
            if same and contains(wide["encoding"].facts, narrow["encoding"].facts):
                wide["cells"] += narrow["cells"]
                narrow["cells"] = []
                moved.add(place)
                break


def contains(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether one encoding holds what another does: vectors are in every one, the last grid in every one with grids at even distances."""
    if wide == narrow:
        return True
    ways = {"layers", "grids"}
    if any(wide.get(name) != narrow.get(name) for name in (wide.keys() | narrow.keys()) - ways) or narrow["layers"] is not None or not wide["grids"]:
        return False
    return not narrow["grids"] if wide["layers"] is None else str(wide["layers"]).endswith("levels")


def _spare(groups: Sequence[Group], request: Request, cache: Path) -> int:
    """Bytes that decoded planes may take: their own budget, and what features leave of that of the cache."""
    if request.cache_budget is None:
        return request.planes_budget
    planned = sum(group.missing_planes * group.bytes_per_plane for group in groups if group.streamed is None)
    return max(0, min(request.planes_budget, request.cache_budget - _held(cache) - planned))


def _held(cache: Path) -> int:
    """Bytes of the features in a cache."""
    return sum(file.stat().st_size for file in (cache / "features").rglob("*.npy"))


def why_streamed(group: Group, request: Request, cache: Path, planned: int = 0) -> str | None:
    """A sentence where the features of a group would exceed the budget beside what is kept, and `planned` bytes more."""
    if request.cache_budget is None or not group.missing_planes:
        return None
    held = _held(cache) + planned
    more = group.missing_planes * group.bytes_per_plane
    if held + more <= request.cache_budget:
        return None
    return f"{more / 1e9:.2f} GB beside {held / 1e9:.2f} GB exceed --cache-budget {request.cache_budget / 1e9:.2f} GB"


def _check_encoder(one: Loaded, question: Question) -> None:
    """RequestError where an encoder does not give what the head of this dataset needs."""
    pairs = question.dataset.kind == "registration"
    if pairs and hasattr(one.encoder, "features_of"):
        raise RequestError(f"{question.task.name}: {one.name} holds one set of features for each case, and a pair has two images; name an encoder")
    if not pairs and getattr(one.encoder, "dims", 2) == 3:
        raise RequestError(f"{question.task.name}: {one.name} encodes whole volumes, which only registration uses; name an encoder of planes")
    parts = getattr(one.encoder, "parts", ()) or (one.encoder,)
    if "pooled" in question.head.needs and any(getattr(part, "describe", None) is not None and part.spec != PIXELS for part in parts):
        raise RequestError(f"{question.task.name}: {one.name} describes voxels and has no vector for {question.task.head}; use it for registration or segmentation")


def _check_covered(one: Loaded, question: Question) -> None:
    absent = [case.id for case in question.looked_at if case.target is not None and not one.encoder.covers(case.id)]
    if absent:
        raise MissingError(f"{one.name}: expected features of the {len(question.cases)} cases of {question.dataset.name}, found none for {len(absent)} (first {', '.join(absent[:3])}); add them, named by case id")


def group_of(loaded: Loaded, question: Question, request: Request, cache: Path, only: Case | None = None) -> Group:
    """The encoding of one question by one encoder, without cells: features only; of one of its cases with grids, if given."""
    encoder = question.encoder_of(loaded) or loaded.encoder
    preprocessing, grids = preprocessing_of(question, encoder), only is not None or "grid" in question.head.needs
    encoding = Encoding(cache, encoding_facts(encoder, preprocessing, grids, request.precision))
    question = question if only is None else replace(question, cases=(only,))
    return _group(loaded, encoder, preprocessing, grids, encoding, question, [], request, question.cases)


def _group(
    loaded: Loaded, encoder: Any, preprocessing: Preprocessing, grids: bool, encoding: Encoding, question: Question, cells: list[Cell], request: Request,
    cases: Sequence[Case] | None = None,
) -> Group:  # fmt: skip
    entries: dict[str, Entry] = {}
    sources: dict[str, tuple[Source, ...]] = {}
    if encoder is not None and not hasattr(encoder, "features_of"):
        for group in question.entries(encoder.channels is None, cases).values():
            for entry, channels in group:
                entries[entry.key] = entry
                sources.setdefault(entry.key, channels)
    found = encoding.find(entries)
    missing = tuple(key for key in entries if key not in found)
    cost, each = (0, 0.0), 0
    undecoded: tuple[str, ...] = ()
    if missing:
        made = sum(map(len, windows_of(sources[missing[0]], preprocessing.window)))
        cost = measure(encoder, preprocessing, grids, made)
        kept = Encoding(encoding.cache, plane_facts(preprocessing), KEPT).find(missing)
        undecoded = tuple(key for key in missing if key not in kept)
        each = _bytes_decoded(sources[undecoded[0]], preprocessing) if undecoded else 0
    return Group(loaded, encoder, preprocessing, grids, encoding, entries, sources, missing, *cost, tuple(cells), question.dataset.name, undecoded, each)


def _bytes_decoded(sources: tuple[Source, ...], preprocessing: Preprocessing) -> int:
    """Bytes of a plane as it is kept, by the first of a case; 0 if it cannot be read, which is met when all are decoded."""
    try:
        return decoded(sources, preprocessing.narrow, stop=1).pixels[0].nbytes
    except MedprobeError:
        return 0
