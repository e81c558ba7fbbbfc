"""Classification predictions made elsewhere: a table of probabilities, one row per case."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets._csv import sheet_of
from medprobe.datasets._layout import is_leaving
from medprobe.errors import MissingError, RequestError
from medprobe.registry import did_you_mean
from medprobe.run import results
from medprobe.types import Case, Dataset, stack_targets

ROUNDING = 1e-6
"""How far a probability may pass 0 or 1."""
Parts = Mapping[int | None, Sequence[Case]]


def read(dataset: Dataset, tests: Parts, vals: Parts, folder: Path) -> Iterator[tuple[int | None, results.Predictions, Path]]:
    """(fold, predictions, their file) of every fold.

    `folder` holds `predictions.parquet` or `.csv` (columns case, prob.<class>); with folds one per fold, in whose name
    `fold<f>` stands. A file with `val` before its suffix holds validation predictions, for `*_val` thresholds.
    RequestError: missing, extra or double cases, missing columns. Sums of exclusive probabilities are not checked.
    """
    for fold in tests:
        test, file = _read(folder, fold, "test", tests[fold], dataset)
        val, _ = _read(folder, fold, "val", vals[fold], dataset)
        both = results.Predictions(test.case, test.patient, test.target, test.prob, val) if val is not None else test
        yield fold, both, file


def _read(folder: Path, fold: int | None, part: str, cases: Sequence[Case], dataset: Dataset) -> tuple[Any, Path]:
    """Predictions in the order of the cases; (None, folder) when a validation file is absent."""
    files = sorted(path for path in folder.glob("*") if _is_table(path)) if folder.is_dir() else []
    files = [path for path in files if (".val." in path.name or path.stem == "val") == (part == "val") and (fold is None or f"fold{fold}." in path.name.replace("_", "."))]
    if not files and part == "val":
        return None, folder
    if len(files) != 1:
        wanted = f"one .parquet or .csv file{'' if fold is None else f' with fold{fold} in its name'}"
        raise MissingError(f"{folder}: expected {wanted} of {part} predictions, found {len(files) or 'none'}; put just one there")
    file = files[0]
    columns = ["case", *(f"prob.{name}" for name in dataset.classes)]
    ids, given = _cells(file, columns)
    wanted_ids = []
    patients, targets = [], []
    for case in cases:
        planes = [(case.id, case.target)] if dataset.unit == "case" else [(f"{case.id}/{plane:06d}", target) for plane, target in enumerate(case.target)]
        for name, target in planes:
            wanted_ids.append(name)
            patients.append(case.patient)
            targets.append(target)
    double = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) != len(ids) else []
    missing, extra = sorted(set(wanted_ids) - set(ids)), sorted(set(ids) - set(wanted_ids))
    faults = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in (("missing", missing), ("that are not test cases", extra), ("given twice", double)) if names]
    if faults:
        raise RequestError(f"{file}: expected each of the {len(wanted_ids)} {part} cases once, found cases {' and '.join(faults)}; give exactly these")
    rows = {name: row for row, name in enumerate(ids)}
    prob = given[[rows[name] for name in wanted_ids]]
    return results.Predictions(np.array(wanted_ids), np.array(patients), stack_targets(targets), prob), file


def _is_table(path: Path) -> bool:
    of_cases = ".cases." in path.name
    return path.suffix.lower() in (".parquet", ".csv") and not of_cases and not is_leaving(path)


def _cells(file: Path, columns: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The ids, as they are written, and the numbers (rows, columns - 1) of a table."""
    if file.suffix.lower() == ".csv":
        sheet = sheet_of(file, columns)
        if uneven := [number for number, cells in sheet.rows if len(cells) != len(sheet.header)]:
            raise RequestError(
                f"{file}: expected {len(sheet.header)} values in every line, "
                f"found others in line {uneven[0]}; write it again"
            )
        _check_columns(file, columns, sheet.header)
        places = [sheet.header.index(name) for name in columns]
        ids = [cells[places[0]] for _, cells in sheet.rows]
        texts = [[sheet.number(cells[place]) for place in places[1:]] for _, cells in sheet.rows]
    else:
        ids, texts = _parquet(file, columns)
    try:
        numbers = np.array(texts, np.float64).reshape(len(ids), len(columns) - 1)
    except (ValueError, TypeError):
        numbers = np.full((1, 1), np.nan)
    if not np.isfinite(numbers).all():
        rows = zip(ids, texts, strict=True)
        name, found = next((name, row) for name, row in rows if not all(map(_is_number, row)))
        raise RequestError(
            f"{file}: expected a number for every class of every case, "
            f"found {found} for case {name!r}; write all of them"
        )
    beyond = np.abs(numbers - 0.5).max(axis=1, initial=0.0) > 0.5 + ROUNDING
    if beyond.any():
        place = int(np.argmax(beyond))
        raise RequestError(
            f"{file}: expected probabilities from 0 to 1, found {texts[place]} for case {ids[place]!r}; "
            "apply a sigmoid or softmax first"
        )
    return ids, numbers


def _parquet(file: Path, columns: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    import pandas as pd

    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file}: expected a readable table, found a damaged one "
            f"({str(error).splitlines()[0]}); write it again"
        ) from None
    if table.index.name == columns[0]:
        table = table.reset_index()
    _check_columns(file, columns, list(map(str, table.columns)))
    named = ["" if pd.isna(name) else name for name in table["case"]]
    ids = [name.decode() if isinstance(name, bytes) else str(name) for name in named]
    return ids, table[columns[1:]].to_numpy().tolist()


def _check_columns(file: Path, columns: Sequence[str], found: list[str]) -> None:
    if absent := [name for name in columns if name not in found]:
        raise RequestError(
            f"{file}: expected the columns {', '.join(columns)}, found no {', '.join(absent)} "
            f"({did_you_mean(absent[0], found)}); write all of them"
        )


def _is_number(cell: Any) -> bool:
    try:
        return math.isfinite(float(cell))
    except (ValueError, TypeError):
        return False
