"""`medprobe encode`: features for use elsewhere, of a task's cases or of a folder of images."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, Faults, MissingError, RequestError
from medprobe.features.digests import Digests
from medprobe.files import dump_json, write_atomically
from medprobe.imaging.folder import natural
from medprobe.imaging.formats import pictures_in, slices_in
from medprobe.run import plan as planning
from medprobe.run import reading
from medprobe.run.encoded import open_bank
from medprobe.run.groups import group_of
from medprobe.run.loading import load_models
from medprobe.run.question import Question
from medprobe.run.request import Request, check_options, default_cache
from medprobe.types import Case, Dataset, Source, Task

Progress = Callable[[int, int, str], None]
FORMATS = ("npy", "parquet", "h5")


def export(request: Request, images: Path | None, form: str, progress: Progress) -> dict[str, Any]:
    """Write `features.<form>` (one row per case: class token, then patch mean, as columns say) and `features.json` under
    `request.out`; returns what features.json says. With npy, ids lie in features.json and rows are in their order."""
    if form not in FORMATS:
        raise RequestError(f"--format must be one of {', '.join(FORMATS)}, found {form!r}; choose one")
    if bool(request.task) == (images is not None):
        raise RequestError("encode takes either --task or --images; give one of them")
    if "," in request.model:
        raise RequestError(f"encode takes one model, found {request.model!r}; run it once per model")
    faults = Faults()
    with faults.collected():
        check_options(request)
    loaded = load_models(request, faults, progress)
    if images is not None:
        with faults.collected():
            question = _folder(images, request, progress)
        faults.raise_if_any()
    else:
        tolerant = planning.make(replace(request, task=request.task), progress)
        question = next(cell.question for group in tolerant.groups for cell in group.cells) if tolerant.groups else tolerant.done[0].question
    faults.raise_if_any()
    group = group_of(loaded[0], question, request, request.cache or default_cache())
    bank = open_bank(group, request, request.cache or default_cache(), progress)
    given = hasattr(group.loaded.encoder, "features_of")
    entries = {} if given else question.entries(group.encoder.channels is None, question.cases)
    ids, vectors, parts, unreadable = [], [], {}, []
    for case in question.cases:
        keys = [case.id] if given else [entry.key for entry, _ in entries[case.id, "image"]]
        reasons = [bank.unreadable[key] for key in keys if key in bank.unreadable]
        if reasons:
            unreadable.append(f"{case.id}: {reasons[0]}")
            continue
        found = [bank.features(key) for key in keys]
        pieces = {name: np.concatenate([np.asarray(getattr(one, name)).mean(axis=0) for one in found]) for name in ("cls", "patch_mean") if all(getattr(one, name) is not None for one in found)}
        parts = {name: len(piece) for name, piece in pieces.items()}
        ids.append(case.id)
        vectors.append(np.concatenate(list(pieces.values())))
    if len(unreadable) > request.skip_unreadable:
        raise CaseError(f"{len(unreadable)} of {len(question.cases)} images cannot be read ({'; '.join(unreadable[:3])}); mend them, or allow them with --skip-unreadable {len(unreadable)}")
    matrix = np.stack(vectors).astype(np.float32)
    file = request.out / f"features.{form}"
    write_atomically(file, _bytes(matrix, ids, parts, form))
    facts = {"file": str(file), "cases": len(ids), "dim": matrix.shape[1], "columns": parts, "model": group.loaded.name, "weights_sha256": group.loaded.encoder.weights_sha256, "encoding": group.encoding.facts, "unreadable": unreadable}
    write_atomically(request.out / "features.json", dump_json({**facts, "ids": ids}))
    return facts


def _bytes(matrix: np.ndarray, ids: list[str], parts: dict[str, int], form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, matrix)
    elif form == "parquet":
        import pandas as pd

        names = [f"{part}.{place}" for part, width in parts.items() for place in range(width)]
        pd.DataFrame(matrix, columns=names).assign(case=ids)[["case", *names]].to_parquet(buffer, index=False)
    else:
        import h5py

        with h5py.File(buffer, "w") as target:
            target["features"] = matrix
            target["ids"] = np.array(ids, dtype=h5py.string_dtype())
    return buffer.getvalue()


def _folder(images: Path, request: Request, progress: Progress) -> Question:
    if not images.is_dir():
        raise MissingError(f"--images: expected a folder at {images}, found none; check the path")
    files = sorted([*pictures_in(images), *slices_in(images)], key=natural)[: request.limit]
    if not files:
        raise MissingError(f"--images {images}: expected image files, found none; check the folder")
    cases = tuple(Case(file.name, file.name, {"image": (Source(file, plane=True),)}) for file in files)
    reading.check_planes(f"--images {images}", cases)
    dataset = Dataset(images.name or "images", "classification", 2, "images", (), "", "", "", lambda root: cases)
    digests = Digests(request.cache or default_cache()).of(list(files), progress)
    return Question(Task(dataset.name, "constant"), dataset, cases, digests, {})
