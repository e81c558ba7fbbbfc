"""Which results share features: cells that look at the same planes with the same model are one group, encoded once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medprobe import encoders
from medprobe.errors import Faults, MedprobeError, MissingError, RequestError
from medprobe.features.encode import Preprocessing, decoded, encoding_facts, plane_facts
from medprobe.features.planes import KEPT
from medprobe.features.store import Encoding, Entry
from medprobe.heads._augment import View
from medprobe.imaging.recipes import windows_of
from medprobe.run import costs, results
from medprobe.run.loading import Loaded
from medprobe.run.question import PIXELS, Cell, Question
from medprobe.run.request import Request
from medprobe.types import Case, Source

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Group:
    """Cells that share one encoder and one way of encoding one dataset, or are served by it."""

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
    bytes_decoded: int = 0
    """Of the planes that are kept when they are decoded; 0 where they exceed what may be kept."""
    fits: Mapping[str, float] = field(default_factory=dict)
    """Seconds to fit, predict, score and draw all cells of a task."""
    streamed: str | None = None
    """Why grids are not kept, if they are not."""
    views: Mapping[View, tuple[Entry, ...]] = field(default_factory=dict)
    """Those in which planes are encoded once more, and which of the entries: those that heads learn from."""
    missing_views: int = 0
    """Planes of them that are not yet encoded."""

    @property
    def fit_seconds(self) -> float:
        return sum(self.fits.values())

    @property
    def missing_planes(self) -> int:
        """To encode, views among them."""
        return sum(self.entries[key].planes for key in self.missing) + self.missing_views

    @property
    def all_planes(self) -> int:
        """Encoded and to encode, views among them."""
        several = [tuple(self.entries.values()), *self.views.values()]
        return sum(entry.planes for entries in several for entry in entries)

    def of_view(self, view: View) -> tuple[Preprocessing, Encoding]:
        """How planes of a view reach the encoder, and where their features are kept."""
        preprocessing = replace(self.preprocessing, view=view)
        facts = {**self.encoding.facts, "view": view.name}
        return preprocessing, Encoding(self.encoding.cache, facts)

    @property
    def to_decode(self) -> int:
        return sum(self.entries[key].planes for key in self.undecoded)


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


def grouped(questions: Sequence[Question], loaded: Sequence[Loaded], request: Request, cache: Path, faults: Faults, progress: Progress) -> tuple[list[Group], list[Cell]]:
    """The groups with something to compute, and the cells that are done."""
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
                task = question.task
                seen = (task.axis, task.orientation, task.stride)
                place = (id(one), encoder is None, encoding.key, id(question.cases), *seen, question.reads)
                if place not in collected:
                    collected[place] = {"loaded": one, "encoder": encoder, "preprocessing": preprocessing, "grids": grids, "encoding": encoding, "question": question, "cells": []}
                collected[place]["cells"] += todo
    if request.cache_budget is None:  # with one, a narrow encoding may be kept where a wide one is streamed
        _merge(collected)
    groups: list[Group] = []
    scoring: dict[int, tuple[float, float]] = {}
    unfinished = [parts for parts in collected.values() if parts["cells"]]
    for number, parts in enumerate(unfinished):
        progress(number, len(unfinished), "measuring what the run will take")
        group = _group(request=request, **parts)
        before = sum(each.missing_planes * each.bytes_per_plane for each in groups if each.streamed is None)
        streamed = why_streamed(group, request, cache, before)
        if streamed and group.views:
            faults.found.append(RequestError(f"{group.dataset}: views of planes are kept, and {streamed}; raise --cache-budget, or use head.augment=grids"))
        groups.append(replace(group, streamed=streamed, fits=costs.of_group(group, scoring)))
    return _decoding(groups, _spare(groups, request, cache), cache), done


def _decoding(groups: Sequence[Group], budget: int, cache: Path) -> list[Group]:
    """The groups in order, each with what those before it do not leave decoded, as far as that fits into the budget."""
    found, planned, left = [], set[tuple[str, str]](), budget
    for group in groups:
        decoding = Encoding(cache, plane_facts(group.preprocessing), KEPT).key
        group = replace(group, undecoded=tuple(key for key in group.undecoded if (decoding, key) not in planned), planes_budget=budget)
        wanted = group.to_decode * group.bytes_per_decoded
        if wanted <= left and group.streamed is None:
            left -= wanted
            planned |= {(decoding, key) for key in group.undecoded}
            group = replace(group, bytes_decoded=wanted)
        found.append(group)
    return found


def _merge(collected: Mapping[tuple, dict[str, Any]]) -> None:
    """Cells whose features those of others contain join them, so that no plane is encoded twice."""
    moved: set[tuple] = set()
    for place, narrow in collected.items():
        for other, wide in collected.items():
            same = place != other and other not in moved and place[3:-1] == other[3:-1] and place[-1] <= other[-1] and narrow["encoder"] is not None and wide["encoder"] is not None
            if same and contains(wide["encoding"].facts, narrow["encoding"].facts) and _worthwhile(wide, narrow):
                wide["cells"] += narrow["cells"]
                narrow["cells"] = []
                moved.add(place)
                break


def _worthwhile(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether a wide encoding is there, or to be made anyway, and its last grid is all that the narrow one has."""
    if narrow["grids"] and getattr(narrow["encoder"], "own_grids", False):
        return False
    if wide["cells"]:
        return True
    keys = {entry.key for group in wide["question"].entries(wide["encoder"].channels is None).values() for entry, _ in group}
    return len(wide["encoding"].find(keys)) == len(keys)


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
    views = _views(cells, entries, encoder)
    cost, each = (0, 0.0), 0
    undecoded: tuple[str, ...] = ()
    if missing or views:
        first = next(iter(missing or entries))
        made = sum(map(len, windows_of(sources[first], preprocessing.window)))
        cost = costs.of_encoding(encoder, preprocessing, grids, made)
        kept = Encoding(encoding.cache, plane_facts(preprocessing), KEPT).find(missing, complete=True)
        undecoded = tuple(key for key in missing if key not in kept)
        each = _bytes_decoded(sources[undecoded[0]], preprocessing) if undecoded else 0
    whole = Group(loaded, encoder, preprocessing, grids, encoding, entries, sources, missing, *cost, tuple(cells), question.dataset.name, undecoded, each)
    return _with_views(whole, views)


def _views(cells: Sequence[Cell], entries: Mapping[str, Entry], encoder: Any) -> dict[View, tuple[Entry, ...]]:
    """The views that heads of these cells learn from, each of the entries of their training cases."""
    found: dict[View, dict[str, Entry]] = {}
    for cell in cells:
        question = cell.question
        if not question.views:
            continue
        if hasattr(encoder, "features_of"):
            raise RequestError(f"{question.task.name}: head.augment=views encodes flipped planes, which features made elsewhere do not have; use grids or none")
        train = {question.cases[place].id for place in question.parts[cell.fold].train}
        each = [entry for (case, _), group in question.entries(encoder.channels is None).items() if case in train for entry, _ in group]
        for view in question.views:
            found.setdefault(view, {}).update({entry.key: entry for entry in each})
    return {view: tuple(several.values()) for view, several in found.items()}


def _with_views(group: Group, views: Mapping[View, tuple[Entry, ...]]) -> Group:
    missing = 0
    for view, several in views.items():
        there = group.of_view(view)[1].find([entry.key for entry in several])
        missing += sum(entry.planes for entry in several if entry.key not in there)
    return replace(group, views=views, missing_views=missing)


def _bytes_decoded(sources: tuple[Source, ...], preprocessing: Preprocessing) -> int:
    """Bytes of a plane as it is kept, by the first of a case; 0 if it cannot be read, which is met when all are decoded."""
    try:
        return decoded(sources, preprocessing.narrow, stop=1).pixels[0].nbytes
    except MedprobeError:
        return 0
