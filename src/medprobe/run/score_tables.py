"""Classification predictions made elsewhere: a table of probabilities, one row per case."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import MissingError, RequestError
from medprobe.registry import did_you_mean
from medprobe.run import results
from medprobe.types import Case, Dataset, stack_targets

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
    import pandas as pd

    files = sorted(path for path in folder.glob("*") if path.suffix in (".parquet", ".csv") and ".cases." not in path.name) if folder.is_dir() else []
    files = [path for path in files if (".val." in path.name or path.stem == "val") == (part == "val") and (fold is None or f"fold{fold}." in path.name.replace("_", "."))]
    if not files and part == "val":
        return None, folder
    if len(files) != 1:
        wanted = f"one .parquet or .csv file{'' if fold is None else f' with fold{fold} in its name'}"
        raise MissingError(f"{folder}: expected {wanted} of {part} predictions, found {len(files) or 'none'}; put just one there")
    file = files[0]
    try:
        table = pd.read_csv(file, dtype={"case": str}) if file.suffix == ".csv" else pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: expected a readable table, found a damaged one ({str(error).splitlines()[0]}); write it again") from None
    columns = ["case", *(f"prob.{name}" for name in dataset.classes)]
    absent = [column for column in columns if column not in table]
    if absent:
        raise RequestError(f"{file}: expected the columns {', '.join(columns)}, found no {', '.join(absent)} ({did_you_mean(absent[0], list(map(str, table.columns)))})")
    ids, wanted_ids = table["case"].astype(str).tolist(), []
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
    prob = table.set_index(table["case"].astype(str)).loc[wanted_ids, columns[1:]].to_numpy(np.float64)
    return results.Predictions(np.array(wanted_ids), np.array(patients), stack_targets(targets), prob), file
