"""Someone else's predictions, scored exactly as our own: matched to the test cases by id."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets._layout import fingerprint, locate
from medprobe.errors import MissingError, RequestError
from medprobe.features.digests import Digests
from medprobe.metrics import stats
from medprobe.registry import did_you_mean
from medprobe.run import plan as planning
from medprobe.run import results, splits
from medprobe.tasks.suites import tasks_named
from medprobe.types import Case, Dataset, Task, stack_targets

Progress = Callable[[int, int, str], None]


def score_predictions(task_name: str, predictions: Path, out: Path, name: str, data: Path | None, progress: Progress) -> list[dict[str, Any]]:
    """Result documents of one model's prediction files, one per fold; written like those of a run.

    `predictions` holds `predictions.parquet` or `.csv` (columns case, prob.<class>); with folds one per fold, in whose
    name `fold<f>` stands. A file with `val` before its suffix holds validation predictions, for `*_val` thresholds.
    RequestError: missing, extra or double cases, missing columns. Sums of exclusive probabilities are not checked.
    """
    pairs = tasks_named(task_name)
    if len(pairs) != 1:
        raise RequestError(f"score takes one task, found {len(pairs)} in {task_name!r}; name one")
    task, dataset = pairs[0]
    root = locate(dataset, data)
    cases = splits.with_folds(list(dataset.cases(root)), task.split_seed)
    paths = {source.path for case in cases for sources in case.images.values() for source in sources}
    print_of_data = fingerprint(cases, Digests(planning.default_cache()).of(paths, progress))
    folds = splits.folds_of(cases)
    documents = []
    for fold in folds:
        parts = splits.parts_of(cases, fold, task.split_seed)
        test, file = _read(predictions, fold, "test", [cases[index] for index in parts.test], dataset)
        val, _ = _read(predictions, fold, "val", [cases[index] for index in parts.val], dataset)
        both = results.Predictions(test.case, test.patient, test.target, test.prob, val) if val is not None else test
        documents.append(_write(task, dataset, both, out, name, fold, print_of_data, file, len(cases)))
    results.write_summary((out / "results" / results.stem(dataset.name, task.head, name, {}, 0, None)).parent)
    return documents


def _write(task: Task, dataset: Dataset, predictions: results.Predictions, out: Path, name: str, fold: int | None, data: str, file: Path, n_cases: int) -> dict[str, Any]:
    import medprobe
    from medprobe.features.digests import file_sha256

    path = out / "results" / results.stem(dataset.name, task.head, name, {}, 0, fold)
    scores = stats.combine_folds([predictions.measure(dataset.classes, dataset.multilabel, dataset.unit)], resamples=results.RESAMPLES)
    facts = {"task": task.config(), "model": name, "dataset_fingerprint": data, "predictions_sha256": file_sha256(file), "fold": fold, "schema": results.SCHEMA}
    results.finished(path, facts)
    predictions.save(path, dataset.classes)
    results.write_cases(path, predictions, dataset.classes, dataset.multilabel, task.threshold)
    document = {
        "schema": results.SCHEMA, "key": results.key_of(facts), "status": "done", "facts": facts,
        "task": {"name": task.name, "dataset": dataset.name, "head": task.head, "kind": dataset.kind, "config": task.config(), "classes": list(dataset.classes), "multilabel": dataset.multilabel, "unit": dataset.unit, "n_cases": n_cases, "counts": dict(dataset.counts), "licence": dataset.licence},
        "model": {"name": name, "spec": "predictions", "params": None, "dim": None, "image_size": None, "random": False, "control": False, "licence": None},
        "seed": 0, "fold": fold, "options": {}, "warnings": [], "scores": results.scores_json(scores),
        "provenance": {"medprobe": medprobe.__version__, "weights_sha256": None, "dataset_fingerprint": data, "protocol": task.protocol, "libraries": {}, "device": None, "threads": None, "precision": None, "seconds": {}, "peak_memory_bytes": None, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    }  # fmt: skip
    results.write_result(path, document)
    return document


def _read(folder: Path, fold: int | None, part: str, cases: list[Case], dataset: Dataset) -> tuple[Any, Path]:
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
