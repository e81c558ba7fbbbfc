"""The main job: every cell of a plan, encoded once, fitted, predicted, scored, written; a failed cell fails alone.

    plan → for each encoder and dataset: features (kept) → for each cell: fit → predict → score → result
"""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, MedprobeError
from medprobe.features.bank import Bank
from medprobe.features.samples import EncodedSamples
from medprobe.files import advice_on
from medprobe.imaging.formats import count_planes
from medprobe.metrics import stats
from medprobe.metrics.measure import Measure
from medprobe.run import fields, reading, results
from medprobe.run import maps as mapping
from medprobe.run.encoded import Readable, open_bank, open_views, readable_of
from medprobe.run.groups import Group
from medprobe.run.loading import child_seed, device_of
from medprobe.run.plan import Plan
from medprobe.run.question import Cell, Question, config_of
from medprobe.run.references import in_millimetres
from medprobe.run.request import Request
from medprobe.types import Case, Context, State

Progress = Callable[[int, int, str], None]
CELL_FAILURES = (MedprobeError, OSError, MemoryError, RuntimeError, ArithmeticError, ValueError)


@dataclass
class Outcome:
    """What became of a run: finished and failed result files, by path without suffix; warnings with the results they are of; how long it took."""

    done: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    warnings: dict[str, list[Path]] = field(default_factory=dict)
    seconds: float = 0.0


def run(request: Request, plan: Plan, progress: Progress) -> Outcome:
    """Do what a plan says. The same request again does only what is not done."""
    outcome = Outcome([request.out / "results" / cell.stem for cell in plan.done])
    folders = {path.parent for path in outcome.done}
    begin = time.perf_counter()
    try:
        for group in plan.groups:
            folders |= {(request.out / "results" / cell.stem).parent for cell in group.cells}
            _run_group(group, request, plan.cache, progress, outcome)
            if request.fail_fast and outcome.failed:
                break
    finally:
        for folder in sorted(folders):
            _summarise(folder)
    outcome.seconds = time.perf_counter() - begin
    return outcome


def _summarise(folder: Path) -> None:
    """Write the summary when it is missing or damaged, or a finished cell is newer than it."""
    summary = folder / "summary.json"
    cells = list(folder.glob("seed*.json"))
    if cells and (results.read_summary(folder) is None or max(cell.stat().st_mtime_ns for cell in cells) > summary.stat().st_mtime_ns):
        try:
            results.write_summary(folder)
        except OSError as error:
            raise MedprobeError(
                f"{summary}: could not be written ({error.strerror or error}); {advice_on(error)}, "
                "and run the same command again: it does only this"
            ) from error


def _read_masks(question: Question, progress: Progress) -> None:
    """Every mask, before anything is encoded or learned: one that cannot be used would end the cell after all of it."""
    if question.masks is None:
        return
    wrong = []
    labelled = [case for case in question.looked_at if case.target is not None]
    for number, case in enumerate(labelled):
        try:
            question.masks.read(case.target)
            _check_planes(question, case)
        except CaseError as error:
            wrong.append(f"{case.id}: {error}")
        progress(number + 1, len(labelled), "reading masks")
    if wrong:
        raise CaseError(f"{len(wrong)} of {len(labelled)} masks of {question.dataset.name} cannot be used ({'; '.join(wrong[:3])}); mend them, or leave their cases out")


def _check_planes(question: Question, case: Case) -> None:
    """CaseError: the mask of a volume has not as many planes as its image."""
    if question.masks is None or question.dataset.kind != "segmentation" or question.dataset.dims != 3:
        return
    try:
        planes = count_planes(case.images["image"][0])
    except CaseError:  # met, with its name, when it is encoded
        return
    if (found := question.masks.planes(case.target)) != planes:
        raise CaseError(f"expected a mask of {planes} planes like its image, found {found}; write the mask on the image's grid")


def _run_group(group: Group, request: Request, cache: Path, progress: Progress, outcome: Outcome) -> None:
    begin = time.perf_counter()
    try:
        for question in {id(cell.question): cell.question for cell in group.cells}.values():
            _read_masks(question, progress)
        bank = open_bank(group, request, cache, progress)
        views = open_views(group, request, cache, progress)
    except CELL_FAILURES as error:
        for cell in group.cells:
            _fail(cell, request, error, outcome)
        return
    seconds = {"encode": time.perf_counter() - begin}
    latest: dict[int, Readable] = {}
    vectors: dict[tuple, np.ndarray] = {}
    for number, cell in enumerate(group.cells):
        progress(number, len(group.cells), f"fitting {group.loaded.name} on {group.dataset}")
        try:
            path = request.out / "results" / cell.stem
            question = cell.question
            if id(question) not in latest:  # the cells of a question follow each other
                latest = {id(question): readable_of(question, group, bank, request, vectors, views)}
            for warning in _run_cell(cell, group, bank, latest[id(question)], request, seconds, progress):
                outcome.warnings.setdefault(warning, []).append(path)
            outcome.done.append(path)
        except CELL_FAILURES as error:
            _fail(cell, request, error, outcome)
            if request.fail_fast:
                return


def _fail(cell: Cell, request: Request, error: BaseException, outcome: Outcome) -> None:
    path = request.out / "results" / cell.stem
    document = {**_header(cell), "status": "failed", "error": results.failure(error)}
    outcome.failed[path] = document["error"]["message"]
    try:
        results.write_result(path, document)
    except OSError as full:
        outcome.failed[path] += f" (and the result could not be written: {full})"


@dataclass
class _Checkpoint:
    """Where a long fit keeps its progress, beside the results; removed when the cell is done. `key` is the cell's: what was
    kept for other data, labels, features or settings is not gone on from."""

    path: Path
    key: str
    warn: Callable[[str], None]

    def load(self) -> State | None:
        try:
            state = State.load(self.path)
        except Exception:  # absent, or cut off by a kill: the fit starts again
            return None
        return state if state.meta.get("cell") == self.key else None

    def save(self, state: State) -> None:
        try:
            State(state.tensors, {**state.meta, "cell": self.key}).save(self.path)
        except OSError as error:
            self.warn(f"{self.path.parent}: progress of the fit could not be kept ({error.strerror or error}), so that one that is cut off starts again")


def _run_cell(cell: Cell, group: Group, bank: Bank, cases: Readable, request: Request, before: Mapping[str, float], progress: Progress) -> list[str]:
    """Fit, predict, score and write one result; returns its warnings."""
    question, dataset, task = cell.question, cell.question.dataset, cell.question.task
    parts = question.parts[cell.fold]
    train, val, test = map(cases.part, (parts.train, parts.val, parts.test))
    if ("train" in question.reads and not len(train)) or not len(test):
        raise MedprobeError(f"{task.name}: no readable case is left to {'train' if not len(train) else 'test'}; mend the unreadable files")
    warnings: list[str] = []
    if "val" in question.reads and parts.validation.startswith("none"):
        warnings.append("no validation part: too few training patients")
    checkpoint = _Checkpoint(request.out / "checkpoints" / f"{cell.stem}.safetensors", results.key_of(cell.facts), _once(warnings))

    def monitor(prob: np.ndarray, target: np.ndarray) -> float:
        key = task.monitor
        measure = results.Predictions(np.arange(len(prob)), np.arange(len(prob)), target, prob).measure(dataset.classes, dataset.multilabel, "case")
        return measure.scores([key])[key].value

    maps = dataset.kind in results.DENSE
    ctx = Context(
        seed=child_seed(cell.seed, f"head fold {cell.fold}"), classes=dataset.classes, multilabel=dataset.multilabel, dims=dataset.dims,
        pooling=task.pooling, device=device_of(request.device), precision=request.precision, max_ram=request.max_ram,  # type: ignore[arg-type]
        monitor=(fields if dataset.kind == "registration" else mapping).monitor_of(dataset) if maps else monitor, checkpoint=checkpoint, progress=progress, warn=warnings.append,
    )  # fmt: skip
    if not maps and task.pooling != "patch_mean" and not hasattr(group.encoder, "features_of"):
        ctx = _with_pooling(ctx, bank, train, warnings)
    seconds = dict(before)
    begin = time.perf_counter()
    state = question.head.fit(train, val if len(val) else None, ctx)
    seconds["fit"] = time.perf_counter() - begin
    begin = time.perf_counter()
    header = _header(cell)
    measure = (_predicted_maps if maps else _predicted_table)(cell, state, val, test, ctx, request.out, header)
    seconds["predict"] = time.perf_counter() - begin
    begin = time.perf_counter()
    scores = stats.combine_folds([measure])
    seconds["score"] = time.perf_counter() - begin
    document = {
        **header, "status": "done", "pooling": ctx.pooling, "validation": parts.validation,
        "cases": {"train": len(train), "val": len(val), "test": len(test), "unlabelled": sum(case.target is None for case in question.cases), "unreadable": cases.unreadable},
        "warnings": warnings, "fit": dict(state.meta), "scores": results.scores_json(scores),
    }  # fmt: skip
    document["provenance"] |= {"seconds": seconds, "peak_memory_bytes": _peak_memory()}
    results.write_result(request.out / "results" / cell.stem, document)
    checkpoint.path.unlink(missing_ok=True)
    return warnings


def _once(warnings: list[str]) -> Callable[[str], None]:
    """Adds a warning that is not there yet."""

    def warn(sentence: str) -> None:
        if sentence not in warnings:
            warnings.append(sentence)

    return warn


def _with_pooling(ctx: Context, bank: Bank, train: EncodedSamples, warnings: list[str]) -> Context:
    """The task's pooling; an encoder without class token is pooled over its patches, and the result says so."""
    first = bank.features(train.items[0].keys["image"][0])
    if first.cls is not None or first.patch_mean is None:
        return ctx
    warnings.append(f"pooling is patch_mean instead of {ctx.pooling}: the encoder has no class token")
    return replace(ctx, pooling="patch_mean")


def _predicted_table(cell: Cell, state: State, val: EncodedSamples, test: EncodedSamples, ctx: Context, out: Path, header: dict[str, Any]) -> Measure:
    """Probabilities of test and validation, saved as tables."""
    dataset, path = cell.question.dataset, out / "results" / cell.stem

    def predicted(samples: EncodedSamples, of_val: results.Predictions | None) -> results.Predictions:
        prob = np.stack(list(cell.question.head.predict(state, samples, ctx))).astype(np.float64)
        ids, patients = (np.array([getattr(item, name) for item in samples.items]) for name in ("id", "patient"))
        return results.Predictions(ids, patients, samples.targets, prob, of_val)

    predictions = predicted(test, predicted(val, None) if len(val) else None)
    predictions.save(path, dataset.classes)
    results.write_cases(path, predictions, dataset.classes, dataset.multilabel, cell.question.task.threshold)
    return predictions.measure(dataset.classes, dataset.multilabel, dataset.unit)


def _predicted_maps(cell: Cell, state: State, val: EncodedSamples, test: EncodedSamples, ctx: Context, out: Path, header: dict[str, Any]) -> Measure:
    """Label maps or displacements of test, a file each; their values per case, saved as a table. The header takes the unit of distances."""
    question, dataset = cell.question, cell.question.dataset
    classes = results.scored_classes(dataset.kind, dataset.classes, dataset.multilabel)
    millimetres = in_millimetres(dataset, [case for case in question.cases if case.target is not None])
    header["task"]["distance_unit"] = "mm" if millimetres else "px"
    cases = {case.id: case for case in question.cases}
    predicted = question.head.predict(state, test, ctx)
    if dataset.kind == "registration":
        values = fields.measured(question.task, dataset, cases, *reading.as_stored(predicted, test.bare(), fields=True), out, cell.stem, millimetres, ctx.progress)
        for said in fields.below_identity(values):
            ctx.warn(said)
    else:
        values = mapping.measured(dataset, cases, *reading.as_stored(predicted, test.bare()), out, cell.stem, millimetres, ctx.progress)
    values.save(out / "results" / cell.stem, classes)
    return values.measure(classes, header["task"]["distance_unit"])


def _header(cell: Cell) -> dict[str, Any]:
    question, task, encoder = cell.question, cell.question.task, cell.loaded.encoder
    return {
        "schema": results.SCHEMA, "key": results.key_of(cell.facts), "status": "failed", "facts": cell.facts,
        "task": {
            "name": task.name, "dataset": question.dataset.name, "head": task.head, "kind": question.dataset.kind,
            "config": {**task.config(), "head_config": config_of(question.head)}, "classes": list(question.dataset.classes),
            "multilabel": question.dataset.multilabel, "unit": question.dataset.unit,
            "n_cases": len(question.cases), "counts": dict(question.dataset.counts), "licence": question.dataset.licence, "official_leak": question.dataset.official_leak,
        },
        "model": {
            "name": cell.loaded.name, "spec": cell.loaded.spec, "params": encoder.params, "dim": encoder.dim, "image_size": cell.size,
            "random": cell.loaded.random, "control": cell.loaded.control and not getattr(question.head, "supervised", False), "licence": cell.loaded.licence or encoder.licence,
        },
        "seed": cell.seed, "fold": cell.fold, "options": cell.options, "provenance": _provenance(cell),
    }  # fmt: skip


def _provenance(cell: Cell) -> dict[str, Any]:
    import torch

    import medprobe

    device = str(getattr(cell.loaded.encoder, "_device", "cpu"))
    return {
        "medprobe": medprobe.__version__, "weights_sha256": cell.loaded.encoder.weights_sha256, **_parts(cell),
        "dataset_fingerprint": cell.question.fingerprint, "protocol": cell.question.task.protocol, "libraries": libraries(),
        "device": device, "threads": torch.get_num_threads(), "precision": cell.precision,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def _parts(cell: Cell) -> dict[str, Any]:
    """Of `a+b`, the digest of the weights of each."""
    parts = getattr(cell.loaded.encoder, "parts", ())  # an encoder of one's own need not have any
    return {"parts_sha256": [part.weights_sha256 for part in parts]} if parts else {}


def libraries() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("torch", "timm", "transformers", "numpy", "scipy", "scikit-learn", "numba", "pillow", "nibabel", "pydicom"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _peak_memory() -> int:
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _results(count: int) -> str:
    return f"{count} result{'s' if count != 1 else ''}"


def describe(plan: Plan) -> list[str]:
    """The plan in sentences: what is done, what is missing, bytes and minutes."""
    facts = plan.summary()
    lines = [
        f"{_results(facts['cells']['to_do'])} to compute, {facts['cells']['done']} done already; "
        f"features in {plan.cache}"
    ]
    for group in facts["groups"]:
        size = "x".join(map(str, group["image_size"])) if group["image_size"] else "its own size"
        work = f"all {group['planes']} planes encoded" if group["planes"] else "nothing to encode"
        if group["planes_missing"]:
            again = ", encoded again whenever they are asked for" if group["streamed"] else ""
            work = (
                f"{group['planes_missing']} of {group['planes']} planes to encode, "
                f"{group['bytes'] / 1e6:.1f} MB{again}, "
                f"about {_duration(60 * group['minutes_encoding'])}"
            )
        if group["minutes"] > group["minutes_encoding"]:
            each = {task: minutes for task, minutes in group["minutes_fits"].items() if minutes > 0}
            parts = f" ({', '.join(f'{task} {_duration(60 * minutes)}' for task, minutes in each.items())})" if len(each) > 1 else ""
            work += f"; fits and scores about {_duration(60 * sum(each.values()))}{parts}"
        seeds = f", seed {', '.join(map(str, group['seeds']))}," if any(each["model"] == group["model"] and each["seeds"] != group["seeds"] for each in facts["groups"]) else ""
        lines.append(f"  {group['model']}{seeds} on {group['dataset']} at {size}: {work}; {_results(group['cells'])} ({', '.join(group['tasks'])})")
        if group["views"]:
            lines.append(f"    among them {group['planes_of_views']} planes flipped and turned, for heads that learn from views: {'; '.join(group['views'])}")
        if group["bytes_decoded"]:
            lines.append(f"    {group['planes_to_decode']} planes to decode, kept for other encoders: {group['bytes_decoded'] / 1e6:.1f} MB")
        elif group["planes_missing"] and not group["planes_to_decode"]:
            lines.append("    nothing to decode: the planes are kept, or will be by then")
        elif group["planes_to_decode"]:
            why = "as their features are" if group["streamed"] else "for want of room"
            lines.append(f"    {group['planes_to_decode']} planes to decode, not kept {why}")
        if group["streamed"]:
            lines.append(f"    not kept, since {group['streamed']}")
    lines += [f"  note: {note}" for note in facts["notes"]]
    lines += [f"  missing: {missing}" for missing in facts["missing"]]
    return lines


def _duration(seconds: float) -> str:
    """40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def closing_lines(outcome: Outcome, out: Path) -> list[str]:
    """What the user must hear at the end of a run: each warning once with how many results it is of, each failure, the sum."""
    lines = []
    for warning, paths in outcome.warnings.items():
        first = paths[0].relative_to(out / "results")
        lines.append(f"warning: {first}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {warning}")
    lines += [f"failed: {path.relative_to(out / 'results')}: {said}" for path, said in outcome.failed.items()]
    return [*lines, f"{_results(len(outcome.done))} done, {len(outcome.failed)} failed, in {out}, after {_duration(outcome.seconds)}"]
