"""The CSV of a manifest: rows to `Case`s, every fault collected with its row. Row 1 is the line of column names."""

import functools
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, cast

from medprobe.datasets._csv import NAMES, sheet_of
from medprobe.datasets._layout import paths_of, refuse_missing
from medprobe.errors import CaseError, RequestError
from medprobe.registry import did_you_mean
from medprobe.types import Case, Dataset, Source, Split

MASKS = ("segmentation", "instances", "registration")
"""Kinds whose targets are files."""
ROLES = ("fixed", "moving")
OPTIONAL = ("split", "fold", "spacing", "frame")
SPLITS = ("train", "val", "test")
MEMBER = re.compile(r"(.+\.(?:h5|hdf5|hdf|npz|nii|nii\.gz|nrrd|nhdr|mha|mhd|tiff?(?=:/+\d+$))):/+(.+)", re.IGNORECASE)
"""A path, and what is named in it: an array of a container, the entry of a fourth axis of a volume."""
FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": math.nan}
SHOWN, ALIKE = 20, 3
"""How many kinds of fault are shown, and how many of each."""


def roles_of(kind: str) -> tuple[str, ...]:
    """The columns of images, each a role of `Case.images`."""
    return ROLES if kind == "registration" else ("image",)


def required(kind: str) -> tuple[str, ...]:
    """The columns that every row fills in."""
    return ("id", "patient", *roles_of(kind))


def _on_first(channels: tuple[Source, ...]) -> tuple[Source, ...]:
    """Channels whose files say that they lie elsewhere than the first are read on its grid; by headers alone."""
    from medprobe.imaging import formats
    from medprobe.imaging.labels import APART, corners_apart

    def grid(source: Source) -> Any:
        try:
            return formats.grid(source)
        except CaseError:  # said where it is decoded
            return None

    first = grid(channels[0]) if len(channels) > 1 else None
    if first is None or first.affine is None:
        return channels
    laid = []
    for source in channels:
        own = grid(source)
        elsewhere = own is not None and own.affine is not None and (own.shape != first.shape or corners_apart(first.shape, own.affine, first.affine) > APART)
        laid.append(replace(source, grid=channels[0].path) if elsewhere else source)
    return tuple(laid)


def refusal(path: Path, what: str, faults: Sequence[str]) -> RequestError:
    if len(faults) == 1:
        return RequestError(f"{path}: {what}: {faults[0]}")
    alike: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        alike[re.sub(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S*\d\S*", "#", fault)].append(fault)
    lines = []
    for kind in list(alike.values())[:SHOWN]:
        lines += kind[:ALIKE] + ([f"... and {len(kind) - ALIKE} more like this"] if len(kind) > ALIKE else [])
    if len(alike) > SHOWN:
        lines.append(f"... and {len(alike) - SHOWN} more kinds of fault")
    listed = "".join(f"\n  {line}" for line in lines)
    return RequestError(f"{path}: {what} has {len(faults)} faults; correct them:{listed}")


def inside(root: Path, text: str, real: Callable[[str], str] = os.path.realpath) -> Path:
    """The path below the manifest's folder; RequestError if it leaves it, also by a symbolic link.

    Backslashes stand between folders, as on Windows, where no file has them in its name.
    """
    if "\\" in text and not PureWindowsPath(text).drive and not os.path.lexists(root / text):
        text = text.replace("\\", "/")
    if Path(text).is_absolute() or PureWindowsPath(text).is_absolute():
        raise RequestError(f"paths are relative to the manifest, so that its folder can be moved; found {text!r}, make it relative")
    path = root / text
    if "\0" in text:
        raise RequestError(f"expected a path, found {text!r}; correct it")
    direct = path.name != ".." and not os.path.islink(path)
    if not Path(real(str(path.parent)) if direct else os.path.realpath(path)).is_relative_to(root):
        raise RequestError(f"expected a path inside the manifest's folder, found {text!r}, which leaves it{' through a link' if '..' not in text else ''}; move or copy the file in")
    return path


def near_to(root: Path, path: str) -> str | None:
    """A file below the root of this name but for capitals, blanks, accents or suffix, if any."""
    folder = root
    *folders, name = Path(path).parts
    for part in folders:
        if (found := _alike(folder, part)) is None:
            return None
        folder = folder / found
    found = _alike(folder, name) or _alike(folder, Path(name).stem, stems=True)
    return str((folder / found).relative_to(root)) if found else None


def _alike(folder: Path, name: str, stems: bool = False) -> str | None:
    """The name in a folder that is this one, or else reads like it."""

    def plain(text: str) -> str:
        text = Path(text).stem if stems else text
        return "".join(unicodedata.normalize("NFKD", text).casefold().split())

    if not stems and os.path.lexists(folder / name):
        return name
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    return next((each for each in there if plain(each) == plain(name)), None)


class Table:
    """The cases of a manifest, of whatever kind; `path` is the manifest, `file` the CSV."""

    def __init__(self, path: Path, file: Path, dataset: Dataset) -> None:
        assert dataset.root is not None
        self.path, self.file, self.dataset, self.root = path, file, dataset, dataset.root
        self.required, self.images, self.targets = required(dataset.kind), roles_of(dataset.kind), ["target"]
        if dataset.kind == "registration":
            self.targets = [f"{role}_target" for role in ROLES]
        elif dataset.multilabel:
            self.targets = list(dataset.classes)
        self.part: Literal["split", "fold"] | None = None
        self.faults: list[str] = []
        self.parts_and_targets_hold = True
        self._real = functools.cache(os.path.realpath)

    def cases(self) -> list[Case]:
        """All cases, or one RequestError with every fault; MissingError when nothing but files is missing."""
        rows = self._rows()
        found = [self._case(number, row) for number, row in rows]
        self._across(rows)
        if self.parts_and_targets_hold:
            self._folds(found)
            if self.dataset.kind not in MASKS:
                self._absences(found)
        paths = {str(path.relative_to(self.root)) for path in paths_of(found)}
        missing = sorted(path for path in paths if not os.path.exists(self.root / path))
        near = near_to(self.root, missing[0]) if missing else None
        hint = (
            f"did you mean {near}? Capitals, blanks, accents and suffixes count"
            if near
            else "correct the paths in the table, or fetch the files"
        )
        if self.faults:
            if missing:
                what = "images and masks" if self.dataset.kind in MASKS else "images"
                self.faults.append(
                    f"{len(missing):,} of {len(paths):,} {what} are missing, "
                    f"first {', '.join(missing[:5])}; {hint}"
                )
            raise refusal(self.path, self.file.name, self.faults)
        refuse_missing(self.dataset.name, missing, len(paths), self.root, hint)
        return found

    def _rows(self) -> list[tuple[int, dict[str, str]]]:
        """(row number, column → text) of every row that has as many values as there are columns."""
        known = [*self.required, *self.targets, *OPTIONAL]
        sheet = sheet_of(self.file, known)
        header = sheet.header
        self._check(header, known)
        rows = []
        for number, values in sheet.rows:
            if len(values) == len(header):
                row = dict(zip(header, values, strict=True))
                rows.append((number, row | {"spacing": sheet.number(row.get("spacing", ""))}))
            else:
                said = f"expected {len(header)} values, found {len(values)}"
                mark = NAMES[sheet.separator]
                self._fault(number, f"{said}; put a value with a {mark} in quotes", decisive=True)
        if not rows and not self.faults:
            self.faults.append("expected at least one case, found none; write one line for each image")
        return rows

    def _check(self, header: list[str], known: list[str]) -> None:
        """Faults of the column names; those without which no row can be understood are raised at once."""
        optional = self.dataset.kind == "registration" and not set(self.targets) & set(header)
        self.faults += [f"no column {name!r}; add it" for name in (*self.required, *(() if optional else self.targets)) if name not in header]
        self.faults += [f"column {name!r} is there {header.count(name)} times; keep one" for name in dict.fromkeys(header) if header.count(name) > 1]
        if {"split", "fold"} <= set(header):
            self.faults.append("both a split and a fold column; keep one")
        undecided = bool(self.faults)
        self.faults += [f"unknown column {name!r}; {did_you_mean(name, known)}" for name in dict.fromkeys(header) if name not in known]
        if undecided:
            raise refusal(self.path, self.file.name, self.faults)
        self.part = "split" if "split" in header else "fold" if "fold" in header else None

    def _fault(self, number: int, said: str, decisive: bool = False) -> None:
        """Keep a fault of a row; after a decisive one, which classes a part lacks cannot be told."""
        self.faults.append(f"row {number}: {said}")
        self.parts_and_targets_hold &= not decisive

    def _case(self, number: int, row: dict[str, str]) -> Case:
        for column in self.required:
            if not row[column]:
                self._fault(number, f"{column} is empty; fill it in")
        if row.get("spacing") and not _is_spacing(row["spacing"]):
            self._fault(number, f'spacing must be three sizes in mm, "z y x", found {row["spacing"]!r}; correct it')
        frame = _whole(row.get("frame", ""))
        if row.get("frame") and frame is None:
            self._fault(number, f"frame must be a whole number from 0 on, found {row['frame']!r}; correct it")
        images = {role: self._sources(number, role, row[role], None if frame is None else (frame,)) for role in self.images}
        if self.dataset.dims == 3:
            images = {role: _on_first(sources) for role, sources in images.items()}
        target = self._masks(number, row) if self.dataset.kind in MASKS else self._label(number, row)
        part = self._part(number, row)
        split, fold = (cast(Split, part), None) if isinstance(part, str) else (None, part)
        return Case(row["id"], row["patient"], images, target, split, fold, {"spacing": row["spacing"]} if row.get("spacing") else {})

    def _part(self, number: int, row: dict[str, str]) -> str | int | None:
        if self.part is None:
            return None
        text = row[self.part]
        if self.part == "fold":
            fold = _whole(text)
            if fold is None:
                self._fault(number, f"fold must be a whole number from 0 on, found {text!r}; correct it", decisive=True)
            return fold
        if text not in SPLITS:
            self._fault(number, f"split must be train, val or test, found {text!r}; {did_you_mean(text.lower(), list(SPLITS))}", decisive=True)
        return text

    def _label(self, number: int, row: dict[str, str]) -> Any:
        """A class index, or 0, 1 and NaN for each class; None where nothing is known."""
        classes = list(self.dataset.classes)
        if self.dataset.multilabel:
            wrong = [name for name in classes if row[name] not in FLAGS]
            for name in wrong:
                self._fault(number, f"{name} must be 0, 1 or empty, found {row[name]!r}; correct it", decisive=True)
            values = tuple(FLAGS.get(row[name], math.nan) for name in classes)
            return None if all(map(math.isnan, values)) else values
        label = row["target"]
        numbered = any(_whole(name) is not None for name in classes)
        index = classes.index(label) if label in classes else None if numbered else _whole(label)
        if label and (index is None or index >= len(classes)):
            self._fault(number, f"no class {label!r}; {did_you_mean(label, classes)}", decisive=True)
            return None
        return index

    def _masks(self, number: int, row: Mapping[str, str]) -> Any:
        """The source of one mask, or of one for each class; by role in registration; None where there is none."""
        several = [column for column in self.targets if ";" in row.get(column, "")]
        for column in several:
            self._fault(number, f"{column}: expected one mask, found {row[column].count(';') + 1}; write one file" + (", or set multilabel = true" if self.dataset.kind == "segmentation" else ""))
        absent = [column for column in self.targets if not row.get(column)]
        if len(absent) == len(self.targets):
            return None
        if absent:
            advice = "give both or neither" if self.dataset.kind == "registration" else "give an empty mask where a class is absent, or none to leave the case unlabelled"
            self._fault(number, f"expected a mask in each of {_listed(self.targets)}, found none in {_listed(absent)}; {advice}")
        found = [self._sources(number, column, row.get(column, "")) for column in self.targets]
        return dict(zip(ROLES, found, strict=True)) if self.dataset.kind == "registration" else tuple(source for sources in found for source in sources)

    def _sources(self, number: int, column: str, value: str, frames: tuple[int, ...] | None = None) -> tuple[Source, ...]:
        """The channels whose paths are in order."""
        found = []
        for text in (part.strip() for part in value.split(";")) if value else ():
            match = MEMBER.fullmatch(text)
            name, member = (match[1], match[2]) if match else (text, None)
            try:
                if not name:
                    raise RequestError(f"expected a path between the semicolons, found none in {value!r}; fill it in")
                path = inside(self.root, name, self._real)
                if ":/" in name:
                    raise RequestError(
                        "expected a path, file.h5:/dataset, file.npz:/name or file.tif:/1, found "
                        f"{text!r}; correct it"
                    )
                found.append(Source(path, member, frames))
            except RequestError as error:
                self._fault(number, f"{column}: {error}")
        return tuple(found)

    def _across(self, rows: list[tuple[int, dict[str, str]]]) -> None:
        """Faults that only several rows show: double ids, patients in two parts, uneven channels."""
        ids: dict[str, list[int]] = defaultdict(list)
        parts: dict[str, dict[str | int | None, int]] = defaultdict(dict)
        channels: dict[int, int] = {}
        for number, row in rows:
            ids[row["id"]].append(number)
            for column in self.images:
                channels.setdefault(row[column].count(";") + 1, number)
            if self.part is not None and row["patient"]:
                part = row[self.part] if self.part == "split" else _whole(row[self.part])
                parts[row["patient"]].setdefault(part, number)
        self.faults += [f"id {name!r} is in rows {_listed(where)}; give every case its own" for name, where in ids.items() if name and len(where) > 1]
        for patient, where in parts.items():
            if len(where) > 1:
                said = _listed([f"{part!r} (row {number})" for part, number in where.items()])
                self.faults.append(f"patient {patient!r} is in {self.part}s {said}; give every patient one {self.part}")
        if len(channels) > 1:
            said = _listed([f"{count} (row {number})" for count, number in sorted(channels.items())])
            self.faults.append(f"expected the same number of channels in every row, found {said}; correct the {' and '.join(self.images)} column")
        labelled = [number for number, row in rows if any(row.get(column) for column in self.targets)]
        if self.dataset.kind == "registration" and labelled and not self.dataset.classes:
            self.faults.append(f"expected the names of the labels as classes in the manifest, found none, and masks in {len(labelled)} rows, first {labelled[0]}; add classes, background first")

    def _folds(self, cases: list[Case]) -> None:
        folds = sorted({case.fold for case in cases if case.fold is not None})
        if self.part == "fold" and cases and (folds != list(range(len(folds))) or len(folds) < 2):
            self.faults.append(f"folds must be 0, 1, ... without a gap and two at least, found {', '.join(map(str, folds))}; number them so")

    def _absences(self, cases: list[Case]) -> None:
        """Classes that cannot be learnt or scored; scoring alone needs no case to train."""
        trained = any(case.split == "train" for case in cases)
        parts = (*(["train"] if trained else []), "test") if self.part == "split" else (None,)
        for part in parts:
            targets = [case.target for case in cases if case.target is not None and part in (None, case.split)]
            if self.dataset.multilabel:
                absent = [name for place, name in enumerate(self.dataset.classes) if not any(target[place] == 1 for target in targets)]
            else:
                absent = [name for place, name in enumerate(self.dataset.classes) if place not in targets]
            if absent and cases:
                where = f" in {part}" if part else ""
                self.faults.append(f"no case{where} has class {', '.join(absent)}; add some, or leave the class out")


def _whole(text: str) -> int | None:
    """The whole number a cell holds; spreadsheets write 1.0 in columns with empty cells."""
    return int(float(text)) if re.fullmatch(r"\d{1,9}(\.0+)?", text, re.ASCII) else None


def _is_spacing(text: str) -> bool:
    try:
        sizes = [float(size) for size in text.split()]
    except ValueError:
        return False
    return len(sizes) == 3 and all(math.isfinite(size) and size > 0 for size in sizes)


def _listed(things: Sequence[Any], shown: int = 5) -> str:
    """`2, 5 and 9`."""
    texts = [str(thing) for thing in things[:shown]]
    if len(things) > shown:
        return ", ".join(texts) + f" and {len(things) - shown} more"
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
