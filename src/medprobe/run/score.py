"""Someone else's predictions, scored exactly as our own: matched to the test cases by id.

Classification is read from a table (score_tables.py), dense tasks from a file per case (score_maps.py).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medprobe.datasets._layout import cases_of, fingerprint, locate, paths_of
from medprobe.errors import RequestError
from medprobe.features.digests import Digests, file_sha256
from medprobe.files import digest_of
from medprobe.metrics import stats
from medprobe.metrics.measure import Measure
from medprobe.run import fields, label_numbers, results, score_maps, score_tables, splits
from medprobe.run.references import in_millimetres
from medprobe.run.request import check_folder, default_cache
from medprobe.run.run import libraries
from medprobe.tasks.suites import tasks_named
from medprobe.types import Case, Dataset, Task

Progress = Callable[[int, int, str], None]


def score_predictions(
    task_name: str, predictions: Path, out: Path, name: str, data: Path | None, progress: Progress, resample: bool = False,
    labels: str | None = None,
) -> list[dict[str, Any]]:
    """Result documents of one model's prediction files, one per fold; written like those of a run.

    `labels`: "values" or "indices", what the numbers of label maps are, where both could be.
    RequestError lists cases that are missing, extra or double, and files that do not fit; MissingError: no predictions.
    """
    if not name.strip():
        raise RequestError("--name: expected what to call the model, found nothing; give a name")
    check_folder("--out", out)
    pairs = tasks_named(task_name, made_elsewhere=True)
    if len(pairs) != 1:
        raise RequestError(f"score takes one task, found {len(pairs)} in {task_name!r}; name one")
    task, dataset = replace(pairs[0][0], orientation="canonical"), pairs[0][1]  # files lie as they lie
    maps = dataset.kind in results.DENSE
    if resample and dataset.kind not in ("segmentation", "instances"):
        raise RequestError(f"--resample applies to label maps; leave it out for {dataset.kind}")
    if labels is not None and (dataset.kind != "segmentation" or labels not in label_numbers.NAMES):
        raise RequestError(f"--labels is values or indices, of label maps of classes; found {labels!r} for {dataset.kind}")
    cases = _with_parts(cases_of(dataset, locate(dataset, data)), task, maps)
    tests = {fold: [cases[index] for index in splits.parts_of(cases, fold, task.split_seed).test] for fold in splits.folds_of(cases)}
    for fold, test in tests.items():
        if not test:
            raise RequestError(f"{task.name}: expected labelled cases to test{'' if fold is None else f' in fold {fold}'}, found none; check the split column and the targets")
    digests = Digests(default_cache()).of(paths_of(cases), progress)
    about = {"dataset_fingerprint": fingerprint(cases, digests), "n_cases": len(cases)}
    each: Iterator[tuple[int | None, Any]]
    if maps:
        tested = [case for test in tests.values() for case in test]
        given = score_maps.matched(dataset, tested, predictions)
        read_as, matters = label_numbers.reading(dataset, tested, given, labels)
        spaced = in_millimetres(dataset, [case for case in cases if case.target is not None])
        facts = score_maps.facts_of(given, resample, spaced, read_as.name if matters else None)
        each = score_maps.measured(dataset, tests, given, resample, spaced, progress, read_as)
    else:
        vals = {fold: [cases[index] for index in splits.parts_of(cases, fold, task.split_seed).val] for fold in tests}
        read = list(score_tables.read(dataset, tests, vals, predictions))
        facts = {"predictions_sha256": digest_of([file_sha256(file) for _, _, file in read])}
        each = iter([(fold, values) for fold, values, _ in read])
    facts |= {"task": task.config(), "model": name, "schema": results.SCHEMA, "dataset_fingerprint": about["dataset_fingerprint"], **results.mask_facts(dataset, cases)}
    for fold in tests:  # what another question was answered with is found before anything is measured
        results.finished(out / "results" / results.stem(dataset.name, task.head, name, {}, 0, fold), {**facts, "fold": fold})
    documents = [_write(task, dataset, values, {**facts, "fold": fold}, out, name, fold, about) for fold, values in each]
    results.write_summary((out / "results" / results.stem(dataset.name, task.head, name, {}, 0, None)).parent)
    return documents


def _with_parts(cases: list[Case], task: Task, maps: bool) -> list[Case]:
    """The parts a run would make; dense cases of too few patients for five folds are all tested."""
    bare = all(case.split is None and case.fold is None for case in cases)
    if maps and bare and len({case.patient for case in cases}) < splits.FOLDS:
        return [replace(case, split="test") for case in cases]
    return splits.with_folds(cases, task.split_seed)


def _write(
    task: Task, dataset: Dataset, values: results.Predictions | results.CaseValues, facts: Mapping[str, Any], out: Path, name: str, fold: int | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    import medprobe

    path = out / "results" / results.stem(dataset.name, task.head, name, {}, 0, fold)
    measure: Measure
    warnings: list[str] = []
    if isinstance(values, results.CaseValues):
        classes = results.scored_classes(dataset.kind, dataset.classes, dataset.multilabel)
        measure = values.measure(classes, facts["distance_unit"])
        values.save(path, classes)
        warnings += [f"{said}: check that displacements are in voxels of the fixed image, components z, y, x" for said in fields.below_identity(values)]
    else:
        measure = values.measure(dataset.classes, dataset.multilabel, dataset.unit)
        values.save(path, dataset.classes)
        results.write_cases(path, values, dataset.classes, dataset.multilabel, task.threshold)
    scores = stats.combine_folds([measure])
    document = {
        "schema": results.SCHEMA, "key": results.key_of(facts), "status": "done", "facts": facts,
        "task": {
            "name": task.name, "dataset": dataset.name, "head": task.head, "kind": dataset.kind, "config": task.config(), "classes": list(dataset.classes),
            "multilabel": dataset.multilabel, "unit": dataset.unit, "distance_unit": facts.get("distance_unit"), "n_cases": about["n_cases"],
            "counts": dict(dataset.counts), "licence": dataset.licence,
        },
        "model": {"name": name, "spec": "predictions", "params": None, "dim": None, "image_size": None, "random": False, "control": False, "licence": None},
        "seed": 0, "fold": fold, "options": {}, "warnings": warnings, "scores": results.scores_json(scores),
        "provenance": {
            "medprobe": medprobe.__version__, "weights_sha256": None, "dataset_fingerprint": about["dataset_fingerprint"], "protocol": task.protocol, "libraries": libraries(),
            "device": None, "threads": None, "precision": None, "seconds": {}, "peak_memory_bytes": None, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }  # fmt: skip
    results.write_result(path, document)
    return document
