"""What a plan says encoding, fitting and scoring will take, from a few steps of the encoder, of the head's own network and of
one case's scores: never from a table of machines."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.features.encode import Preprocessing, decoded
from medprobe.features.reduce import reduce_named
from medprobe.imaging import recipes
from medprobe.run import maps, panels, pictures, reading
from medprobe.run.references import in_millimetres
from medprobe.types import Source

CORNER = 8
"""Voxels a side of the corner on which descriptors are counted."""
LOADING = 2.0
"""Seconds beside which loading libraries does not count."""
SIDE = 64
"""Planes are brought to this for measuring, and the time is scaled by their area."""


def of_encoding(encoder: Any, preprocessing: Preprocessing, grids: bool, channels: int = 1) -> tuple[int, float]:
    """(bytes stored per plane, seconds per plane) from batches of at most two seconds of this encoder at this size;
    `channels` of the planes where the encoder takes any number."""
    import torch

    size = preprocessing.size or (encoder.default_size,) * 2
    x = torch.zeros(16, preprocessing.colour or encoder.channels or channels, *size)
    features = encoder(x[:1])

    def seconds(planes: int) -> float:
        begin = time.perf_counter()
        encoder(x[:planes])
        return (time.perf_counter() - begin) / planes

    # The least of a few, since what delays one call is not the encoder's; the first of a batch size is not counted.
    one = min(seconds(1) for _ in range(2))
    planes = int(min(16, max(1, 2 / one)))
    least = one if planes == 1 else min([seconds(planes) for _ in range(3)][1:])
    arrays = [features.cls, features.patch_mean, *(features.grids if grids else ())]
    return sum(4 * int(np.prod(array.shape[1:])) for array in arrays if array is not None), least


def fit_seconds(head: Any, encoder: Any, preprocessing: Preprocessing, planes: Sequence[Sequence[int]], channels: int, classes: int, sources: tuple[Source, ...], levels: int | None) -> float:
    """Seconds to fit and predict one cell; 0 for heads that take no time to speak of.

    `planes`: of each case to train, validate and test on; `channels`: encoded one by one; `sources`: of the first case, for its size;
    `levels`: how many of the encoder's grids the head is given, None: all.
    """
    if not hasattr(head, "seconds"):
        return 0.0
    try:
        frame = decoded(sources, preprocessing, stop=1)
    except CaseError:  # met, with its name, when it is encoded
        return 0.0
    try:
        return _measured(head, encoder, preprocessing, planes, channels, classes, frame, levels or 0)
    except (RuntimeError, ValueError, TypeError, MemoryError):  # an estimate only: a network that does not fit fails in its cell
        return 0.0


def _measured(head: Any, encoder: Any, preprocessing: Preprocessing, planes: Sequence[Sequence[int]], channels: int, classes: int, frame: recipes.Planes, levels: int) -> float:
    import torch

    size = min(frame.pixels.shape[-1], SIDE // encoder.multiple * encoder.multiple or encoder.multiple)
    if encoder.image_size is not None and not encoder.interpolates:
        size = encoder.image_size
    made = encoder(torch.rand(1, preprocessing.colour or frame.pixels.shape[1], size, size))
    shapes = [(channels * grid.shape[1], *grid.shape[2:]) for grid in made.grids[-levels:]]
    return float(head.seconds(shapes, frame.pixels.shape[-1] / size, max(frame.frame.shape), planes, classes))


def _of_pairs(question: Any, group: Any, parts: Sequence[int]) -> float:
    """Seconds to fit and predict one cell of a registration, whose pairs are taken to be as large as the first."""
    case = question.looked_at[0]
    try:
        pixels = recipes.image(reading.images(question.task, case)["fixed"], question.task.window).pixels
        sides = pixels.shape[1:] if question.dataset.dims == 3 else pixels.shape[2:]
        regrid = reading.regrid(question.task, question.dataset)
        if regrid is not None:
            spacing = reading.spacing(case) if regrid.spacing is not None else None
            sides = regrid.shape(sides, spacing)
        corner = pixels[(slice(None), *(slice(0, CORNER) for _ in pixels.shape[1:]))]
        described = sum(len(describe(corner if question.dataset.dims == 3 else corner[:, 0])) for describe in group.loaded.apart[1])
        maps = 0 if group.encoder is None else getattr(reduce_named(question.task.reduce), "components", group.encoder.dim or 1)
        return float(question.head.seconds(described + maps, sides, parts))
    except (CaseError, RuntimeError, ValueError, TypeError, MemoryError):  # an estimate only: what is wrong is met, by name, when it is done
        return 0.0


def of_scoring(question: Any) -> tuple[float, float]:
    """(seconds to write and measure the prediction of one case, seconds to draw one) of label maps: the first mask is taken for its own
    prediction, and the picture is empty. What both need is loaded then, so that it does not delay the first case of a run."""
    dataset = question.dataset
    labelled = [case for case in question.looked_at if case.target is not None]
    if dataset.kind != "segmentation" or not labelled:
        return 0.0, 0.0
    case = labelled[0]
    panel = panels.Panel(np.zeros((pictures.SIDE[dataset.dims],) * 2 + (3,), np.uint8))
    try:
        with tempfile.TemporaryDirectory() as folder:
            true = question.masks(case.target)
            labels, millimetres = np.maximum(true.labels, 0).astype(np.uint8), in_millimetres(dataset, labelled)
            scoring = _seconds(lambda: maps.of_case(dataset, case, labels, true, Path(folder), millimetres))
        return scoring, _seconds(lambda: panels.sheet(case.id, [[panel]]))
    except Exception:  # an estimate only: what is wrong is met, by name, when it is done
        return 0.0, 0.0


def _seconds(call: Callable[[], Any]) -> float:
    """Of a call; of the second where the first may have spent its time on loading libraries."""
    for _ in range(2):
        begin = time.perf_counter()
        call()
        if (taken := time.perf_counter() - begin) > LOADING:
            break
    return taken


def of_group(group: Any, known_scoring: dict[int, tuple[float, float]]) -> dict[str, float]:
    """Of all cells of a task together; cells of one question differ by their fold only. `known_scoring`: what `of_scoring` found so far, by dataset."""
    total, known = dict[str, float](), dict[int, float]()
    for cell in group.cells:
        question = cell.question
        if id(question) not in known and question.dataset.kind == "registration":
            known[id(question)] = _of_pairs(question, group, [len(getattr(question.parts[cell.fold], part)) for part in ("train", "val", "test")])
        elif id(question) not in known:
            joint = group.loaded.encoder.channels is None or question.task.channels == "rgb"
            entries = {} if hasattr(group.loaded.encoder, "features_of") else question.entries(joint)
            planes = [entries[case.id, "image"][0][0].planes if (case.id, "image") in entries else 1 for case in question.cases]
            parts = question.parts[cell.fold]
            first = next((entries[case.id, "image"] for case in question.cases if (case.id, "image") in entries), None)
            known[id(question)] = 0.0 if first is None else fit_seconds(
                question.head, group.loaded.encoder, group.preprocessing, [[planes[place] for place in part] for part in (parts.train, parts.val, parts.test)],
                len(first), len(question.dataset.classes), first[0][1],
                None if group.loaded.grids == question.grids else question.levels,
            )  # fmt: skip
            if id(question.dataset) not in known_scoring:
                known_scoring[id(question.dataset)] = of_scoring(question)
            scoring, drawing = known_scoring[id(question.dataset)]
            known[id(question)] += len(parts.test) * scoring + min(len(parts.test), pictures.DRAWN) * drawing
        total[question.task.name] = total.get(question.task.name, 0.0) + known[id(question)]
    return total
