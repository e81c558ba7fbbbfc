"""Your own data, without code: a TOML manifest beside a CSV of cases (docs/your-own-data.md).

All that is wrong with it is said at once, with the key or the row: a wrong manifest is status 2, missing files alone are
status 3. The keys are read here, the cases in `_table`.
"""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medprobe.datasets._table import MASKS, OPTIONAL, Table, inside, refusal, required
from medprobe.errors import RequestError
from medprobe.registry import did_you_mean
from medprobe.types import Dataset, Kind

KINDS: tuple[str, ...] = get_args(Kind)
NAMED = ("classification", "bags", "segmentation")
"""Kinds whose classes must be named, and may overlap (multilabel)."""


class Manifest(BaseModel):
    """The keys of a manifest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")
    kind: str
    dims: Literal[2, 3] = 2
    modality: str = "unknown"
    classes: list[str] | None = Field(default=None, min_length=1)
    multilabel: bool = False
    values: list[int] | None = None
    ignore: int | None = None
    cases: str = "cases.csv"


def load_manifest(path: Path) -> Dataset:
    """The dataset that a manifest describes; its `root` is the manifest's folder. The table of cases is read at once.

    RequestError lists every fault; MissingError gives count and first names when all is well but some files are absent.
    """
    manifest = _read(path)
    root = path.parent.resolve()
    try:
        file = inside(root, manifest.cases)
    except RequestError as error:
        raise RequestError(f"{path}: cases: {error}") from None
    if not file.is_file():
        raise RequestError(f"{path}: cases: expected a CSV file, found none at {file}; write it, or correct the name")
    classes = manifest.classes or (["object"] if manifest.kind == "instances" else [])
    values, ignore, note = manifest.values, manifest.ignore, None
    if values is not None and ignore in values:  # both were written: the class wins
        note, ignore = f"ignore = {ignore} is also the mask value of class {classes[values.index(ignore)]!r}, and counts as that class", None
    dataset = Dataset(
        name=manifest.name, kind=cast(Kind, manifest.kind), dims=manifest.dims, modality=manifest.modality,
        classes=tuple(classes), multilabel=manifest.multilabel, licence="your own", source=path.name,
        citation="your own data", cases=lambda _: (), note=note, root=root,
        values=None if values is None else tuple(values), ignore=ignore,
    )  # fmt: skip
    cases = Table(path, file, dataset).cases()
    return replace(dataset, cases=lambda _: cases)


def _read(path: Path) -> Manifest:
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RequestError(f"expected a manifest at {path}, found no file there; check the path") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{path}: expected a TOML file, found {error}; correct it") from None
    faults = []
    kind = document.get("kind")
    if kind not in KINDS:
        faults.append(f"kind: must be one of those there are ({', '.join(KINDS)}), found {kind!r}; correct it")
    try:
        manifest = Manifest.model_validate({**document, "kind": str(kind)})
        faults += _faults_of_names(manifest)
        if kind in KINDS:
            faults += _faults_of_kind(manifest) + _faults_of_values(manifest)
    except ValidationError as error:
        faults += [_said(fault) for fault in error.errors()]
    if faults:
        raise refusal(path, "the manifest", faults)
    return manifest


def _said(fault: Any) -> str:
    key, kind = ".".join(map(str, fault["loc"])), fault["type"]
    if kind == "missing":
        return f"{key}: expected this key, found none; add it"
    if kind == "extra_forbidden":
        return f"{key}: no such key; {did_you_mean(key, list(Manifest.model_fields))}"
    if kind == "string_pattern_mismatch":
        return f"{key}: expected small letters, digits and hyphens, 48 at most, found {fault['input']!r}; choose another"
    return f"{key}: {fault['msg']}, found {fault['input']!r}; correct it"


def _faults_of_names(manifest: Manifest) -> list[str]:
    classes, faults = manifest.classes or [], []
    if doubles := sorted({name for name in classes if classes.count(name) > 1}):
        faults.append(f"classes: expected different names, found {doubles[0]!r} twice; rename one")
    if blank := [name for name in classes if name != name.strip() or not name]:
        faults.append(f"classes: expected names without blanks around them, found {blank[0]!r}; correct it")
    if manifest.multilabel and (taken := sorted(set(classes) & {*required(manifest.kind), *OPTIONAL})):
        faults.append(f"classes: {taken[0]!r} is the name of another column of the cases; rename the class")
    return faults


def _faults_of_kind(manifest: Manifest) -> list[str]:
    """Keys that this kind needs, or has no use for."""
    kind, classes, faults = manifest.kind, manifest.classes, []
    if classes is None and kind in NAMED:
        faults.append("classes: expected this key, found none; add it")
    elif classes is not None and len(classes) < 2 and kind != "instances" and not (manifest.multilabel and kind in NAMED):
        advice = ", or set multilabel = true" if kind in NAMED else ""
        faults.append(f"classes: expected two or more, found {classes}; name them all{', background first' if kind in MASKS else ''}{advice}")
    if manifest.multilabel and kind not in NAMED:
        faults.append(f"multilabel: belongs to {', '.join(NAMED)}, and kind is {kind}; leave it out")
    if kind not in MASKS:
        faults += [f"{key}: belongs to masks, and kind is {kind}; leave it out" for key in ("values", "ignore") if getattr(manifest, key) is not None]
    elif manifest.values is not None and (kind == "instances" or manifest.multilabel):
        said = "instances keep the numbers of their file" if kind == "instances" else "with multilabel every class has a mask of 0 and 1 (or 255)"
        faults.append(f"values: {said}; leave it out")
    return faults


def _faults_of_values(manifest: Manifest) -> list[str]:
    """A value for each class, and none of two meanings unless `values` says which."""
    classes, values, ignore, faults = manifest.classes or [], manifest.values, manifest.ignore, []
    if manifest.kind not in ("segmentation", "registration"):
        return []
    taken = ("absent", "present") if manifest.multilabel else tuple(classes)
    if values is None and ignore is not None and 0 <= ignore < len(taken):
        advice = "choose another value" if manifest.multilabel else "give values"
        faults.append(f"ignore: without values {ignore} means {taken[ignore]!r} in a mask; {advice}, or leave ignore out")
    if values is not None and len(values) != len(classes):
        faults.append(f"values: expected one for each of {len(classes)} classes, found {len(values)}; correct one of the two")
    if values is not None and (doubles := sorted({value for value in values if values.count(value) > 1})):
        faults.append(f"values: expected different values, found {doubles[0]} twice; correct one")
    return faults
