"""Results on disk: one JSON per cell with its predictions beside it, and a summary over folds and seeds.

    OUT/results/<dataset>/<head>/<model>[@<option>=<value>,…]/seed<k>[-fold<f>].json
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.files import digest_of, dump_json, write_atomically
from medprobe.metrics import catalogue, classification, coverage, dense, phases, stats
from medprobe.metrics.measure import Measure
from medprobe.types import Case, Dataset, Score

SCHEMA = 1
DENSE = ("segmentation", "instances", "registration")
"""Kinds whose scores are made of values per case."""


LONGEST = 200
"""Characters of a file name; file systems take 255, suffixes among them."""


def safe_name(text: str) -> str:
    """A file name for a model or a case: other characters become `_`, then `~` and 6 hex digits of the full text's sha256; so
    does what is too long."""
    plain = re.sub(r"[^A-Za-z0-9._+@=,-]", "_", text)
    if plain == text and text not in (".", "..") and len(text) <= LONGEST:
        return text
    return f"{plain[:150]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def stem(dataset: str, head: str, model: str, options: Mapping[str, Any], seed: int, fold: int | None) -> str:
    """S of the file names: the options are those that differ from the task's default, alphabetically."""
    said = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
    folder = safe_name(f"{model}@{said}" if said else model)
    return f"{dataset}/{head}/{folder}/seed{seed}" + ("" if fold is None else f"-fold{fold}")


@dataclass(frozen=True)
class Predictions:
    """What a head said of the test part, and of validation where there is one; all that scores are made of.

    `target` (n,) class indices, or (n, classes) 0/1/NaN; `prob` (n, classes).
    """

    case: np.ndarray
    patient: np.ndarray
    target: np.ndarray
    prob: np.ndarray
    val: "Predictions | None" = None

    def save(self, path: Path, classes: Sequence[str]) -> None:
        """`S.predictions.parquet`, and `S.predictions.val.parquet` for the validation part."""
        import pandas as pd

        target = self.target if self.target.ndim == 2 else np.eye(len(classes), dtype=np.float32)[self.target]
        columns: dict[str, Any] = {"case": self.case, "patient": self.patient}
        columns |= {f"target.{name}": target[:, place] for place, name in enumerate(classes)}
        columns |= {f"prob.{name}": self.prob[:, place] for place, name in enumerate(classes)}
        write_atomically(path.with_name(f"{path.name}.predictions.parquet"), pd.DataFrame(columns).to_parquet(index=False))
        if self.val is not None:
            self.val.save(path.with_name(f"{path.name}.val"), classes)

    @classmethod
    def load(cls, path: Path, classes: Sequence[str], multilabel: bool) -> "Predictions":
        """What `save` wrote. RequestError when a file is missing or damaged."""
        file, val = (path.with_name(f"{path.name}{part}.predictions.parquet") for part in ("", ".val"))
        return cls._read(file, classes, multilabel, cls._read(val, classes, multilabel, None) if val.exists() else None)

    @classmethod
    def _read(cls, file: Path, classes: Sequence[str], multilabel: bool, val: "Predictions | None") -> "Predictions":
        import pandas as pd

        try:
            table = pd.read_parquet(file)
            target = table[[f"target.{name}" for name in classes]].to_numpy(np.float64)
            prob = table[[f"prob.{name}" for name in classes]].to_numpy(np.float64)
            case, patient = table["case"].astype(str).to_numpy(), table["patient"].astype(str).to_numpy()
        except (OSError, ValueError, KeyError) as error:
            raise RequestError(f"{file}: expected the saved predictions of a finished cell, found none that can be read ({error}); delete its .json and run again") from error
        return cls(case, patient, target if multilabel else target.argmax(axis=1), prob, val)

    def measure(self, classes: Sequence[str], multilabel: bool, unit: str) -> Measure:
        """All scores of these predictions, computed when asked for."""
        if unit == "plane":
            frames = np.array([int(name.rpartition("/")[2]) for name in self.case])
            return phases.measure_phases(self.target, self.prob, classes=classes, videos=self.patient, frames=frames).named(self.case)
        val = None if self.val is None else (self.val.target, self.val.prob)
        return classification.measure(self.target, self.prob, classes=classes, multilabel=multilabel, groups=self.patient, val=val).named(self.case)


@dataclass(frozen=True)
class CaseValues:
    """What was measured of each case of a dense task; all that its scores are made of. NaN is undefined.

    `values` by metric: (n,), or (n, K) for the K classes that are scored.
    """

    case: np.ndarray
    patient: np.ndarray
    values: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, case: Sequence[str], patient: Sequence[str], each: Sequence[Mapping[str, np.ndarray]]) -> "CaseValues":
        """From the values of one case after the other."""
        return cls(np.array(case), np.array(patient), {name: np.stack([one[name] for one in each]).astype(np.float64) for name in each[0]})

    def save(self, path: Path, classes: Sequence[str]) -> None:
        """`S.cases.parquet`: case, patient, metric, class, value."""
        columns = ((metric, name, column) for metric, array in self.values.items() for name, column in (zip(classes, array.T, strict=True) if array.ndim == 2 else [("", array)]))
        _write_long(path, self.case, self.patient, columns)

    @classmethod
    def load(cls, path: Path, classes: Sequence[str]) -> "CaseValues":
        """What `save` wrote. RequestError when the file is missing or damaged."""
        import pandas as pd

        file = path.with_name(f"{path.name}.cases.parquet")
        try:
            table = pd.read_parquet(file)
            first = table[(table["metric"] == table["metric"].iloc[0]) & (table["class"] == table["class"].iloc[0])]
            found: dict[str, np.ndarray] = {}
            for metric, rows in table.groupby("metric", sort=False):
                columns = [rows.loc[rows["class"] == name, "value"].to_numpy(np.float64) for name in ([""] if (rows["class"] == "").all() else classes)]
                found[str(metric)] = columns[0] if (rows["class"] == "").all() else np.stack(columns, axis=1)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise RequestError(f"{file}: expected the values of the cases of a finished cell, found none that can be read ({error}); delete its .json and run again") from error
        return cls(first["case"].astype(str).to_numpy(), first["patient"].astype(str).to_numpy(), found)

    def measure(self, classes: Sequence[str], distance_unit: str) -> Measure:
        """All scores of these cases, computed when asked for."""
        return dense.measure(self.values, self.patient, classes, distance_unit).named(self.case)


def scored_classes(kind: str, classes: Sequence[str], multilabel: bool) -> tuple[str, ...]:
    """The classes of the values per case: none for instances, all but the background for label maps."""
    return () if kind == "instances" else dense.foreground(classes, multilabel)


def write_cases(path: Path, predictions: Predictions, classes: Sequence[str], multilabel: bool, rule: str) -> None:
    """`S.cases.parquet`: case, patient, metric, class, value."""
    val = None if predictions.val is None else (predictions.val.target, predictions.val.prob)
    rule = rule if val is not None or not rule.endswith("_val") else "fixed_0.5"
    values = classification.per_case(predictions.target, predictions.prob, classes=classes, multilabel=multilabel, val=val, rule=rule)
    columns = (
        (metric, name, array[:, place] if array.ndim == 2 else array)
        for metric, array in values.items()
        for place, name in enumerate(classes if array.ndim == 2 else [""])
    )
    _write_long(path, predictions.case, predictions.patient, columns)


def _write_long(path: Path, case: np.ndarray, patient: np.ndarray, columns: Iterable[tuple[str, str, np.ndarray]]) -> None:
    """`S.cases.parquet` from (metric, class, values of the cases)."""
    import pandas as pd

    parts = [pd.DataFrame({"case": case, "patient": patient, "metric": metric, "class": name, "value": values}) for metric, name, values in columns]
    write_atomically(path.with_name(f"{path.name}.cases.parquet"), pd.concat(parts).to_parquet(index=False))


def regions_of(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Region → the places of its classes."""
    return {name: tuple(map(dataset.classes.index, classes)) for name, classes in dataset.regions.items()}


def mask_facts(dataset: Dataset, cases: Iterable[Case]) -> dict[str, Any]:
    """How the masks of a dense dataset are read, which its fingerprint does not say; nothing for other kinds."""
    if dataset.kind not in DENSE:
        return {}
    regions = {"regions": {name: list(classes) for name, classes in dataset.regions.items()}} if dataset.regions else {}
    sizes = {case.id: case.fields["spacing"] for case in cases if case.fields.get("spacing")}
    spacing = {"spacing": digest_of(sizes)} if sizes else {}
    return {"classes": list(dataset.classes), "values": dataset.values, "ignore": dataset.ignore, **regions, **spacing}


def state_of(document: Mapping[str, Any]) -> str:
    """What a cell saw: images, labels and parts, and how masks were read and distances measured."""
    facts, task = document.get("facts", {}), document["task"]
    how = [facts.get(name) for name in ("values", "ignore", "regions", "spacing")]
    if task["kind"] in DENSE:
        how += [task["classes"], task.get("distance_unit")]
    fingerprint = document["provenance"]["dataset_fingerprint"]
    return digest_of([fingerprint, *how]) if any(how) else str(fingerprint)


def score_keys(dataset: Dataset, unit: str) -> list[str]:
    """Every score that predictions for this dataset have, with a validation part."""
    if dataset.kind in DENSE:
        return [*(entry.key for entry in catalogue.CATALOGUE), *(f"{key}.{region}" for region in dataset.regions for key in dense.OF_REGIONS)]
    classes, multilabel = dataset.classes, dataset.multilabel
    target = np.arange(2 * len(classes)) % len(classes)
    rows = np.eye(len(classes))[target] if multilabel else target
    names = np.array([f"v/{place:06d}" for place in range(len(target))])
    prob = np.full((len(target), len(classes)), 1 / len(classes))
    predictions = Predictions(names, names, rows, prob, Predictions(names, names, rows, prob))
    return list(predictions.measure(classes, multilabel, unit).metrics)


def write_result(path: Path, document: Mapping[str, Any]) -> None:
    write_atomically(path.with_name(f"{path.name}.json"), dump_json(document))


def read_result(path: Path) -> dict[str, Any] | None:
    """The JSON of a cell, or None when there is none; a damaged one counts as none."""
    try:
        document = json.loads(path.with_name(f"{path.name}.json").read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("schema") == SCHEMA else None


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What `write_summary` wrote, or None when there is none or it is damaged."""
    try:
        document = json.loads((folder / "summary.json").read_text())
        whole = document["schema"] == SCHEMA and all(isinstance(document[part], kind) for part, kind in (("task", dict), ("model", dict), ("scores", dict), ("folds", list), ("seeds", list)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return document if whole else None


def key_of(facts: Mapping[str, Any]) -> str:
    return digest_of(facts)[:32]


def finished(path: Path, facts: Mapping[str, Any], skip_unreadable: int = 0) -> bool:
    """Whether this very cell is done, with all its files and no more unreadable cases than are now allowed.

    RequestError, naming the fields, when the file there answers another question.
    """
    document = read_result(path)
    if document is None:
        return False
    if document.get("key") != key_of(facts):
        here, there = _flat(facts), _flat(document.get("facts", {}))
        differing = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
        said = "; ".join(f"{name} was {there.get(name)!r}, is now {here.get(name)!r}" for name in differing[:4])
        raise RequestError(f"{path}.json holds the answer to another question ({said or 'its facts are missing'}); choose another --out, or delete {path.parent}")
    parts = ("cases",) if document.get("task", {}).get("kind") in DENSE else ("cases", "predictions")
    whole = all(path.with_name(f"{path.name}.{part}.parquet").exists() for part in parts)
    return document.get("status") == "done" and whole and len(document.get("cases", {}).get("unreadable", [])) <= skip_unreadable


def _flat(facts: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(facts, Mapping):
        return {prefix: json.loads(dump_json(facts))}
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def scores_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {key: asdict(score) for key, score in scores.items()}


# ------------------------------------------------------------------------------------------ summary


def current(cells: Sequence[tuple[Path, dict[str, Any]]]) -> list[tuple[Path, dict[str, Any]]]:
    """Of the cells of one model's folder, those that saw the same data (and the same predictions, where these were made
    elsewhere) as the newest: what an earlier state of the dataset left behind is never combined with it."""

    def state(document: Mapping[str, Any]) -> tuple[Any, Any]:
        return document.get("provenance", {}).get("dataset_fingerprint"), document.get("facts", {}).get("predictions_sha256")

    if not cells:
        return []
    newest = max(cells, key=lambda cell: cell[0].with_name(f"{cell[0].name}.json").stat().st_mtime_ns)
    return [cell for cell in cells if state(cell[1]) == state(newest[1])]


def cells_of(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(path without suffix, document) of the finished cells of one model's folder, in the newest state of the data."""
    found = ((file.with_suffix(""), read_result(file.with_suffix(""))) for file in sorted(folder.glob("seed*.json")))
    for path, document in current([(path, document) for path, document in found if document is not None]):
        if document.get("status") == "done":
            yield path, document


def measure_of(path: Path, document: Mapping[str, Any]) -> Measure:
    """All scores of a finished cell, from its saved predictions or values per case."""
    task = document["task"]
    if task["kind"] in DENSE:
        classes = scored_classes(task["kind"], task["classes"], task["multilabel"])
        return CaseValues.load(path, classes).measure(classes, task["distance_unit"])
    predictions = Predictions.load(path, task["classes"], task["multilabel"])
    return predictions.measure(task["classes"], task["multilabel"], task["unit"])


def folds_by_seed(folder: Path) -> dict[int, dict[int | None, Measure]]:
    """seed → fold → scores of the finished cells of one model's folder."""
    found: dict[int, dict[int | None, Measure]] = {}
    for path, document in cells_of(folder):
        found.setdefault(document["seed"], {})[document["fold"]] = measure_of(path, document)
    return found


def write_summary(folder: Path) -> dict[str, Any] | None:
    """`summary.json`, as `summary_of` has it; none is left without finished cells."""
    summary = summary_of(folder)
    if summary is not None:
        write_atomically(folder / "summary.json", dump_json(summary))
    elif next(cells_of(folder), None) is None:
        (folder / "summary.json").unlink(missing_ok=True)
    return summary


def summary_of(folder: Path) -> dict[str, Any] | None:
    """Folds as their mean with patients drawn inside folds, seeds as mean and sd; None without cells.

    The interval of several seeds is that of their mean score under the same draws of patients; the spread over seeds
    stands beside it and is never mixed into it. Only seeds that have every fold found are combined.
    """
    seeds = folds_by_seed(folder)
    folds = sorted({fold for cells in seeds.values() for fold in cells}, key=lambda fold: -1 if fold is None else fold)
    sides = {seed: [cells[fold] for fold in folds] for seed, cells in sorted(seeds.items()) if set(cells) == set(folds)}
    incomplete = sorted(set(seeds) - set(sides))
    if not sides:
        return None
    keys = stats.shared_keys([measure for side in sides.values() for measure in side])
    combined = {seed: stats.combine_folds(side, keys=keys) for seed, side in sides.items()}
    means = stats.mean_intervals(list(sides.values()), keys) if len(sides) > 1 else {}
    first = next(iter(combined.values()))
    covered = _coverage(next(iter(sides.values())), [key for key in keys if first[key].small and not math.isnan(first[key].low)])
    scores = {}
    for key in keys:
        each = [combined[seed][key] for seed in sides]
        over = stats.combine_seeds([score.value for score in each])
        low, high = means.get(key, (each[0].low, each[0].high))
        scores[key] = {**asdict(each[0]), "value": over.mean, "low": low, "high": high, "seed_sd": over.sd, "per_seed": list(over.values), "coverage": covered.get(key)}
        if len(sides) > 1:
            scores[key]["per_class"] = {name: float(np.mean([score.per_class[name] for score in each])) for name in each[0].per_class}
    _, document = next(cells_of(folder))
    return {
        "schema": SCHEMA, "task": document["task"], "model": document["model"], "seeds": list(sides), "folds": folds,
        "seeds_without_all_folds": incomplete, "scores": scores,
    }  # fmt: skip


def _coverage(folds: Sequence[Measure], keys: Sequence[str]) -> dict[str, float]:
    confusions = [confusion for fold in folds if (confusion := fold.confusion()) is not None]
    return coverage.simulated(confusions, keys) if confusions else {}


def failure(error: BaseException) -> dict[str, str]:
    """The error of a failed cell, in a sentence."""
    message = str(error) if isinstance(error, MedprobeError) else f"{type(error).__name__}: {error}"
    return {"type": type(error).__name__, "message": message or type(error).__name__}
