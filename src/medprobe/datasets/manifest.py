"""Your own data, without code: a TOML manifest beside a CSV of cases (docs/your-own-data.md).

All that is wrong with it is said at once, with row numbers: a wrong manifest is status 2, missing images are status 3.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medprobe.datasets._layout import refuse_missing
from medprobe.errors import MedprobeError, RequestError
from medprobe.registry import did_you_mean
from medprobe.types import Case, Dataset, Source, Split

KINDS = ("classification",)
COLUMNS = ("id", "patient", "split", "fold", "image", "target", "spacing", "frame")
SPLITS = ("train", "val", "test")
SHOWN = 20


class Manifest(BaseModel):
    """The keys of a manifest."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")
    kind: str
    dims: Literal[2, 3] = 2
    modality: str = "unknown"
    classes: list[str] = Field(min_length=1)
    multilabel: bool = False
    cases: str = "cases.csv"


def load_manifest(path: Path) -> Dataset:
    """The dataset a manifest describes; its `root` is the manifest's folder. Cases are read at once."""
    manifest = _read(path)
    root = path.parent.resolve()
    file = _inside(root, manifest.cases, "cases")
    if not file.is_file():
        raise RequestError(f"{path}: cases expects a CSV file, found none at {file.name}; write it, or correct the name")
    cases = Table(path, root, manifest, file).cases()
    return Dataset(
        name=manifest.name, kind="classification", dims=manifest.dims, modality=manifest.modality,
        classes=tuple(manifest.classes), multilabel=manifest.multilabel, licence="your own", source=path.name,
        citation="your own data", cases=lambda _: cases, root=root,
    )  # fmt: skip


def _read(path: Path) -> Manifest:
    import tomllib

    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RequestError(f"expected a manifest at {path}, found no file there; check the path") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{path}: expected a TOML file, found {error}; correct it") from None
    kind = document.get("kind")
    if kind not in KINDS:
        raise RequestError(f"{path}: kind must be one of those there are ({', '.join(KINDS)}), found {kind!r}; correct it")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        known = list(Manifest.model_fields)
        said = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            hint = did_you_mean(key, known) if fault["type"] == "extra_forbidden" else f"found {fault.get('input')!r}"
            said.append(f"{key}: {'no such key for classification' if fault['type'] == 'extra_forbidden' else fault['msg']}; {hint}")
        raise RequestError(f"{path}: {' | '.join(said)}") from None
    doubles = sorted({name for name in manifest.classes if manifest.classes.count(name) > 1})
    if doubles or (len(manifest.classes) < 2 and not manifest.multilabel):
        raise RequestError(f"{path}: classes must be {'different names' if doubles else 'two or more'}, found {manifest.classes}; correct them")
    return manifest


def _inside(root: Path, text: str, what: str) -> Path:
    """A path below the manifest's folder, or RequestError."""
    path = Path(text)
    if path.is_absolute():
        raise RequestError(f"{what}: paths are relative to the manifest so that the folder can be moved, found {text!r}; make it relative")
    if not (root / path).resolve().is_relative_to(root):
        raise RequestError(f"{what}: expected a path inside the manifest's folder, found {text!r}, which leaves it; move the file in")
    return root / path


class Table:
    """The CSV of cases: rows to `Case`s, faults collected."""

    def __init__(self, path: Path, root: Path, manifest: Manifest, file: Path) -> None:
        self.path, self.root, self.manifest, self.file = path, root, manifest, file
        self.faults: list[str] = []

    def cases(self) -> list[Case]:
        """All cases, or one RequestError with every fault; MissingError when only images are missing."""
        rows = list(self._rows())
        found = [case for number, row in rows if (case := self._case(number, row)) is not None]
        self._across(found, [number for number, _ in rows])
        if not rows:
            self.faults.append("expected at least one case, found none")
        if self.faults:
            shown = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(self.faults[:SHOWN], 1))
            more = f"\n  … and {len(self.faults) - SHOWN} more" if len(self.faults) > SHOWN else ""
            raise RequestError(f"{self.path}: {len(self.faults)} faults in {self.file.name}; correct them:\n{shown}{more}")
        sources = {source.path for case in found for source in case.images["image"]}
        missing = [str(source.relative_to(self.root)) for source in sources if not source.exists()]
        refuse_missing(self.manifest.name, missing, len(sources), self.root)
        return found

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        try:
            text = self.file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RequestError(f"{self.file}: expected UTF-8 text, found {error}; save it as UTF-8") from None
        reader = csv.DictReader(text.splitlines())
        header = [name.strip() for name in reader.fieldnames or []]
        labels = self.manifest.classes if self.manifest.multilabel else ["target"]
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise RequestError(f"{self.file}: expected commas between columns, found {header[0]!r}; save it with commas")
        known = [name for name in COLUMNS if name != "target"] + labels
        absent = [name for name in ("id", "patient", "image", *labels) if name not in header]
        unknown = [name for name in header if name not in known]
        double = sorted({name for name in header if header.count(name) > 1})
        if absent or unknown or double or {"split", "fold"} <= set(header):
            said = [f"no column {name!r}" for name in absent]
            said += [f"unknown column {name!r}, {did_you_mean(name, known)}" for name in unknown]
            said += [f"column {name!r} twice" for name in double]
            said += ["both split and fold: keep one"] * ({"split", "fold"} <= set(header))
            raise RequestError(f"{self.file}: expected the columns {', '.join(known)}, found {'; '.join(said)}; correct the first line")
        for number, row in enumerate(reader, 2):
            if None in row or None in row.values():
                self.faults.append(f"row {number}: expected {len(header)} values, found {len(row.get(None) or []) + sum(value is not None for key, value in row.items() if key is not None)}")
                continue
            yield number, {str(key).strip(): str(value).strip() for key, value in row.items()}

    def _case(self, number: int, row: dict[str, str]) -> Case | None:
        faults = len(self.faults)
        for column in ("id", "patient", "image"):
            if not row[column]:
                self.faults.append(f"row {number}: {column} is empty")
        split, fold = row.get("split") or None, row.get("fold") or None
        if split is not None and split not in SPLITS:
            self.faults.append(f"row {number}: split must be train, val or test, found {split!r}")
        if fold is not None and not fold.isdigit():
            self.faults.append(f"row {number}: fold must be a whole number, found {fold!r}")
        if ("split" in row and split is None) or ("fold" in row and fold is None):
            self.faults.append(f"row {number}: {'split' if 'split' in row else 'fold'} is empty")
        target = self._target(number, row)
        sources = self._sources(number, row) if row["image"] else ()
        if len(self.faults) > faults:
            return None
        fields = {"spacing": row["spacing"]} if row.get("spacing") else {}
        return Case(row["id"], row["patient"], {"image": sources}, target, cast(Split | None, split), int(fold) if fold else None, fields)

    def _target(self, number: int, row: dict[str, str]) -> Any:
        classes = self.manifest.classes
        if self.manifest.multilabel:
            values = []
            for name in classes:
                if row[name] not in ("0", "1", "", "0.0", "1.0"):
                    self.faults.append(f"row {number}: {name} must be 0, 1 or empty, found {row[name]!r}")
                values.append(float(row[name]) if row[name] in ("0", "1", "0.0", "1.0") else math.nan)
            return None if all(math.isnan(value) for value in values) else tuple(values)
        label = row["target"]
        if not label:
            return None
        if label in classes:
            return classes.index(label)
        if label.isdigit() and int(label) < len(classes):
            return int(label)
        self.faults.append(f"row {number}: no class {label!r}; {did_you_mean(label, classes)}")
        return None

    def _sources(self, number: int, row: dict[str, str]) -> tuple[Source, ...]:
        frame = row.get("frame") or None
        if frame is not None and not frame.isdigit():
            self.faults.append(f"row {number}: frame must be a whole number, found {frame!r}")
            frame = None
        if row.get("spacing"):
            try:
                sizes = [float(size) for size in row["spacing"].split()]
            except ValueError:
                sizes = []
            if len(sizes) != 3 or min(sizes) <= 0:
                self.faults.append(f"row {number}: spacing must be three sizes in mm, \"z y x\", found {row['spacing']!r}")
        found = []
        for text in row["image"].split(";"):
            name, colon, member = text.strip().rpartition(":/")
            try:
                path = _inside(self.root, name if colon else text.strip(), f"row {number}: image")
            except MedprobeError as error:
                self.faults.append(str(error))
                continue
            found.append(Source(path, member if colon else None, (int(frame),) if frame else None))
        return tuple(found)

    def _across(self, cases: list[Case], rows: list[int]) -> None:
        """Faults that only several rows show: double ids, patients in two parts, absent classes, uneven channels."""
        name = "split" if any(case.split for case in cases) else "fold"
        ids: dict[str, int] = defaultdict(int)
        parts: dict[str, set] = defaultdict(set)
        for case in cases:
            ids[case.id] += 1
            parts[case.patient].add(getattr(case, name))
        self.faults += [f"id {name!r} is given {count} times" for name, count in ids.items() if count > 1]
        self.faults += [f"patient {patient!r} is in {name}s {' and '.join(sorted(map(str, found)))}: give every patient one" for patient, found in parts.items() if len(found) > 1]
        channels = sorted({len(case.images["image"]) for case in cases})
        if len(channels) > 1:
            self.faults.append(f"expected the same number of channels in every row, found {' and '.join(map(str, channels))}")
        if not self.faults and cases:
            for part in ("train", "test") if name == "split" else (None,):
                present = self._present([case for case in cases if part is None or case.split == part])
                absent = [label for label in self.manifest.classes if label not in present]
                if absent:
                    self.faults.append(f"no case {'in ' + part + ' ' if part else ''}has class {', '.join(absent)}")

    def _present(self, cases: list[Case]) -> set[str]:
        targets = [case.target for case in cases if case.target is not None]
        if self.manifest.multilabel:
            return {name for place, name in enumerate(self.manifest.classes) if any(target[place] == 1 for target in targets)}
        return {self.manifest.classes[target] for target in targets}
