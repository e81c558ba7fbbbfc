"""What is asked: a task with its cases in hand, and every result it is answered by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets._layout import fingerprint
from medprobe.encoders import code_of
from medprobe.errors import CaseError
from medprobe.features.digests import source_key
from medprobe.features.encode import PRODUCTS
from medprobe.features.store import Entry
from medprobe.files import digest_of
from medprobe.heads._augment import View
from medprobe.heads._dense import Segmenter
from medprobe.heads._mirror import axes_of
from medprobe.imaging.formats import count_planes
from medprobe.imaging.resample import turned_grid
from medprobe.registry import HEADS
from medprobe.run import reading, results, splits
from medprobe.run.loading import LAST, Grids, Loaded
from medprobe.run.references import Masks
from medprobe.types import Case, Dataset, Source, Task

PIXELS = "pixels"
PARTS = ("train", "val", "test")


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
    def views(self) -> tuple[View, ...]:
        """How planes are flipped and turned before they are encoded once more, for the head to learn from."""
        if not isinstance(self.head, Segmenter):
            return ()
        dims, axial = self.dataset.dims, np.eye(4)
        _, affine = turned_grid(None, axial, self.task.axis)
        return self.head.views(self.dataset.classes, [axes_of(affine, dims), axes_of(None, dims)])

    @property
    def levels(self) -> int | None:
        """How many grids at even distances the head wants, the last among them; None where they are named by number."""
        layers, levels = self.grids
        return levels if layers is None else None

    def entries(self, joint_channels: bool, cases: Sequence[Case] | None = None) -> dict[tuple[str, str], list[tuple[Entry, tuple[Source, ...]]]]:
        """(case, role) → what is decoded as one: each channel alone, or all channels together for encoders that take any. Of `cases`,
        or of those that the head looks at."""
        joint = joint_channels or self.task.channels == "rgb"
        if cases is None and joint in self._entries:
            return self._entries[joint]
        found = {}
        for case in self.looked_at if cases is None else cases:
            for role, sources in reading.images(self.task, case).items():
                groups = [sources] if joint else [(source,) for source in sources]
                found[case.id, role] = [(self._entry(group), group) for group in groups]
        if cases is None:
            self._entries[joint] = found
        return found

    @cached_property
    def _entries(self) -> dict[bool, dict[tuple[str, str], list[tuple[Entry, tuple[Source, ...]]]]]:
        """What `entries` found, by whether channels are joint."""
        return {}

    def _entry(self, sources: tuple[Source, ...]) -> Entry:
        try:
            return Entry(source_key(sources, self.digests), count_planes(sources[0]))
        except CaseError:
            return Entry(f"unreadable-{digest_of(repr(sources))}"[:32], 1)


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
            "precision": PRODUCTS.get(self.precision, self.precision), "dataset_fingerprint": self.question.fingerprint, "limit": self.limit,
            "seed": self.seed, "fold": self.fold, "schema": results.SCHEMA, **results.mask_facts(self.question.dataset, self.question.cases),
            **code_facts(self.question.head),
        }  # fmt: skip


def code_facts(head: Any) -> dict[str, str]:
    """The digest of the code of a head of another package; ours is known by the schema."""
    kind = type(head)
    return {} if kind.__module__.partition(".")[0] == "medprobe" else {"head_code": code_of(kind)}


def config_of(head: Any) -> dict[str, Any]:
    return asdict(head)
