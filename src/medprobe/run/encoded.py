"""The cases of a question as its head sees them: features from the store, streamed or given, and whole images."""

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, MedprobeError
from medprobe.features.bank import Bank, StoredBank, StreamedBank
from medprobe.features.encode import Pipeline, Preprocessing, decoders, plane_facts
from medprobe.features.planes import PlaneStore
from medprobe.features.reduce import reduce_named
from medprobe.features.samples import EncodedSamples, Item
from medprobe.features.store import Encoding, Entry
from medprobe.files import advice_on
from medprobe.imaging import recipes
from medprobe.run import reading
from medprobe.run.groups import Group, why_streamed
from medprobe.run.loading import device_of
from medprobe.run.question import Question
from medprobe.run.request import Request
from medprobe.types import Case, Features

Progress = Callable[[int, int, str], None]


def open_bank(group: Group, request: Request, cache: Path, progress: Progress) -> Bank:
    """The features of a group: from the store, completing it; or streamed where they exceed the budget."""
    if hasattr(group.encoder, "features_of"):
        return GivenBank(group.encoder)
    if group.encoder is None:
        return ImageBank(group, progress)
    pipeline = _pipeline(group, group.preprocessing, group.missing, request, cache)
    entries = list(group.entries.values())
    if why_streamed(group, request, cache):
        return StreamedBank(pipeline, group.sources, entries, progress, request.max_ram)
    return _stored(group, group.encoding, pipeline, entries, cache, progress)


def open_views(group: Group, request: Request, cache: Path, progress: Progress) -> dict[str, Bank]:
    """The features of flipped and turned planes that heads of the group learn from, by the name of the view."""
    banks: dict[str, Bank] = {}
    for view, entries in group.views.items():
        preprocessing, encoding = group.of_view(view)
        pipeline = _pipeline(group, preprocessing, [entry.key for entry in entries], request, cache)
        banks[view.name] = _stored(group, encoding, pipeline, entries, cache, progress)
    return banks


def _pipeline(
    group: Group, preprocessing: Preprocessing, keys: Iterable[str], request: Request, cache: Path
) -> Pipeline:
    """What encodes the planes of these entries."""
    device = device_of(request.device)
    batch = request.batch_size or (16 if device == "cpu" else 128)
    workers = decoders(device) if group.missing_planes > 4 * batch else 0
    planes = PlaneStore(cache, plane_facts(preprocessing), group.planes_budget)
    planes.look_for(keys)
    return Pipeline(group.encoder, preprocessing, group.grids, batch, workers, planes)


def _stored(
    group: Group, encoding: Encoding, pipeline: Pipeline, entries: Sequence[Entry],
    cache: Path, progress: Progress,
) -> Bank:  # fmt: skip
    sources = {entry.key: group.sources[entry.key] for entry in entries}
    try:
        return StoredBank(encoding, pipeline, sources, entries, progress)
    except OSError as error:
        less = ", or keep less with --cache-budget" if error.errno == errno.ENOSPC else ""
        raise MedprobeError(
            f"{cache}: features could not be written ({error.strerror or error}); what was written is kept: "
            f"{advice_on(error)}, or choose another --cache{less}, and run the same command again"
        ) from error


class GivenBank:
    """Features made elsewhere, by case id."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.unreadable: Mapping[str, str] = {}

    def features(self, key: str) -> Features:
        return self._encoder.features_of(key)


class ImageBank:
    """No features: cases are looked at as whole images, each of which is read once to know that it can be."""

    def __init__(self, group: Group, progress: Progress) -> None:
        self.unreadable: dict[str, str] = {}
        questions = {id(cell.question): cell.question for cell in group.cells}
        entries = {entry.key: sources for question in questions.values() for each in question.entries(True).values() for entry, sources in each}
        for number, (key, sources) in enumerate(entries.items()):
            try:
                recipes.image(sources, group.preprocessing.window)
            except CaseError as error:
                self.unreadable[key] = str(error)
            progress(number + 1, len(entries), "reading images")

    def features(self, key: str) -> Features:
        raise MedprobeError("expected an encoder of planes, found none; name one")


@dataclass(frozen=True)
class Readable:
    """The cases of a question that can be read, as its head sees them: made once, and cut into the parts of each fold."""

    samples: EncodedSamples
    of_case: Mapping[int, range]
    """Position of a case → its samples."""
    unreadable: list[str]

    def part(self, indices: Sequence[int]) -> EncodedSamples:
        return self.samples.subset([place for index in indices for place in self.of_case.get(index, ())])


def readable_of(
    question: Question, group: Group, bank: Bank, request: Request, vectors: dict[tuple, np.ndarray],
    views: Mapping[str, Bank] | None = None,
) -> Readable:  # fmt: skip
    """`vectors`: those pooled before, of any question of the group. Raises CaseError where more cases cannot be read than are allowed."""
    good, unreadable = _readable(question, group, bank, request)
    good = [index for index in good if question.cases[index].target is not None]
    borders = np.cumsum([0, *(_count(question.cases[index], question) for index in good)]).tolist()
    samples = replace(samples_of(question, group, bank, good, vectors), views=views or {})
    return Readable(samples.located() if "pooled" in question.head.needs else samples, dict(zip(good, map(range, borders[:-1], borders[1:]), strict=True)), unreadable)


def samples_of(question: Question, group: Group, bank: Bank, indices: Sequence[int], vectors: dict[tuple, np.ndarray]) -> EncodedSamples:
    """The samples of these cases, as a head sees them; planes are samples of their own where the dataset scores planes."""
    given, needs = hasattr(group.encoder, "features_of"), question.head.needs
    entries = {} if given or group.encoder is None else question.entries(group.encoder.channels is None)
    describe = group.loaded.apart[1] if question.dataset.kind == "registration" and "grid" in needs else ()
    images = "image" in needs or "foreground" in (question.task.reduce or "")
    items: list[Item] = []
    for index in indices:
        case = question.cases[index]
        keys = {} if group.encoder is None else {role: (case.id,) if given else tuple(entry.key for entry, _ in entries[case.id, role]) for role in case.images}
        asked = replace(case, target=reading.target(question.task, case))
        if images or describe:
            asked = replace(asked, images=reading.images(question.task, case))
        items += _items(asked, keys, question)
    return EncodedSamples(
        items, bank, question.task.window, question.task.planes, images, reduce_named(question.task.reduce), question.masks,
        describe, question.dataset.dims, reading.regrid(question.task, question.dataset), None if group.loaded.grids == question.grids else question.levels, vectors=vectors,
    )  # fmt: skip


def _count(case: Case, question: Question) -> int:
    return 1 if question.dataset.unit == "case" else sum(target is not None for target in case.target)


def _items(case: Case, keys: Mapping[str, tuple[str, ...]], question: Question) -> list[Item]:
    if question.dataset.unit == "case":
        sized = question.task.spacing is not None
        spacing = reading.spacing(case) if sized else None
        return [Item(case.id, case.patient, keys, case.images, case.target, spacing=spacing)]
    return [
        Item(f"{case.id}/{plane:06d}", case.patient, keys, case.images, target, plane)
        for plane, target in enumerate(case.target)
        if target is not None
    ]


def _readable(question: Question, group: Group, bank: Bank, request: Request) -> tuple[list[int], list[str]]:
    """Positions of the cases that can be used, and a sentence per case that cannot. Too many fail the cell."""
    unreadable: list[str] = []
    good: list[int] = []
    entries = question.entries(group.encoder is None or group.encoder.channels is None) if bank.unreadable else {}
    looked_at = {case.id for case in question.looked_at}
    for index, case in enumerate(question.cases):
        if case.id not in looked_at:
            continue
        reasons = [bank.unreadable[entry.key] for role in case.images for entry, _ in entries.get((case.id, role), []) if entry.key in bank.unreadable]
        if reasons:
            unreadable.append(f"{case.id}: {reasons[0]}")
        else:
            good.append(index)
    if len(unreadable) > request.skip_unreadable:
        shown = "; ".join(unreadable[:3])
        raise CaseError(
            f"{len(unreadable)} of {len(looked_at)} cases cannot be read ({shown}); mend or remove "
            f"these files, or allow them with --skip-unreadable {len(unreadable)}"
        )
    return good, unreadable
