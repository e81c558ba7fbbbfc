"""Which numbers predicted label maps hold: the mask values of the data, or class indices. One decision for all files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError, RequestError
from medprobe.features.digests import file_sha256
from medprobe.files import dump_json, write_atomically
from medprobe.imaging.labels import LabelMap, meaning_of, numbers_of, read_labels, stated_meaning
from medprobe.types import Case, Dataset, Source

NAMES = ("values", "indices")
NOTE = "labels.json"
"""Beside what a run predicts: what its numbers are, where they could be taken for others."""


@dataclass(frozen=True)
class Reading:
    """How the numbers of predictions become class indices. `member`: what those of a picture stand for."""

    name: str
    values: tuple[int, ...] | None = None
    ignore: int | None = None
    member: str | None = None

    def __call__(self, dataset: Dataset, files: Sequence[Path], as_stored: bool) -> LabelMap:
        """Class indices, 0 where a prediction holds the number that is ignored. CaseError: not these numbers."""
        found = read_labels(
            [stated_meaning(Source(file), self.member) for file in files], dims=dataset.dims, classes=dataset.classes,
            values=self.values, ignore=self.ignore, multilabel=dataset.multilabel, as_stored=as_stored,
        )  # fmt: skip
        return LabelMap(np.maximum(found.labels, 0), found.spacing, found.affine, found.multilabel)

    def of(self, dataset: Dataset, numbers: np.ndarray, file: Path) -> np.ndarray | None:
        """What these numbers of one file mean; None where one means nothing."""
        classes = ("absent", "present") if dataset.multilabel else dataset.classes
        try:
            found = meaning_of(numbers, classes, self.values, self.ignore, stated_meaning(Source(file), self.member))
        except CaseError:
            return None
        return np.maximum(found, 0)


INDICES = Reading("indices")


def by_values(dataset: Dataset, cases: Sequence[Case]) -> Reading | None:
    """As the references are written; None where that is what class indices are."""
    members = {case.target[0].member if len(case.target) == 1 else None for case in cases}
    member = next(iter(members)) if len(members) == 1 else None
    member = member if stated_meaning(Source(Path("mask.png")), member).member else None
    values = None if dataset.multilabel else dataset.values
    plain = values is None or values == tuple(range(len(dataset.classes)))
    return None if plain and dataset.ignore is None and member is None else Reading("values", values, dataset.ignore, member)


def write_note(dataset: Dataset, cases: Sequence[Case], folder: Path) -> None:
    """Say that a run's own predictions are class indices, where that is not plain."""
    if by_values(dataset, cases) is not None:
        write_atomically(folder / NOTE, dump_json({"labels": "indices"}))


def reading(
    dataset: Dataset, cases: Sequence[Case], files: Mapping[str, Sequence[Path]], asked: str | None
) -> tuple[Reading, bool]:
    """How to read all files, and whether it matters. RequestError: both ways are possible and differ, and none is asked."""
    values = None if dataset.kind != "segmentation" else by_values(dataset, cases)
    if values is None:
        return INDICES, False
    if asked is not None:
        return (values if asked == "values" else INDICES), True
    found = [each for group in files.values() for each in _numbers(dataset, group)]
    meanings = [[each.of(dataset, numbers, file) for numbers, file in found] for each in (values, INDICES)]
    possible = [all(one is not None for one in each) for each in meanings]
    if all(possible):
        same = all(np.array_equal(*pair) for pair in zip(*meanings, strict=True))
        if same:
            return INDICES, False
        folder = next(iter(files.values()))[0].parent
        noted = "values" if _are_references(cases, files) else _noted(folder, dataset)
        if noted is not None:
            return (values if noted == "values" else INDICES), True
        shown = sorted({int(number) for numbers, _ in found for number in numbers})
        raise RequestError(
            f"{folder}: expected numbers that can be read in one way, found {', '.join(map(str, shown[:8]))}, which are "
            "mask values of the data as well as class indices, and mean other classes; give --labels values (as the "
            "references are written) or --labels indices (0, 1, 2 in the order of the classes)"
        )
    return (values if possible[0] else INDICES), True


def _numbers(dataset: Dataset, files: Sequence[Path]) -> list[tuple[np.ndarray, Path]]:
    """The numbers of every file of a case; none of one that cannot be read, which is said where it is scored."""
    try:
        return [(numbers_of(Source(file), dataset.dims, dataset.multilabel), file) for file in files]
    except CaseError:
        return []


def _are_references(cases: Sequence[Case], files: Mapping[str, Sequence[Path]]) -> bool:
    """Whether all predictions are copies of the references: what scores 1 if all is read rightly."""
    pairs = [([source.path for source in case.target], files[case.id]) for case in cases]
    return all([*map(file_sha256, paths)] == [*map(file_sha256, given)] for paths, given in pairs)


def _noted(folder: Path, dataset: Dataset) -> str | None:
    """What the folder says of its numbers: in the note of a run, or in nnU-Net's dataset.json, class by class."""
    said = _json(folder / NOTE).get("labels")
    if said in NAMES:
        return str(said)
    numbers = _json(folder / "dataset.json").get("labels")
    if not isinstance(numbers, dict):
        return None
    given = tuple(numbers.get(name) for name in dataset.classes)
    return "values" if given == dataset.values else "indices" if given == tuple(range(len(given))) else None


def _json(file: Path) -> dict:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
