"""`medprobe show`: one case in pictures: its planes, what encoders make of them, its target and its predictions. Nothing is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets._layout import cases_of, locate, paths_of
from medprobe.errors import CaseError, Faults, MissingError, RequestError
from medprobe.features.digests import Digests
from medprobe.features.reduce import JointPCA
from medprobe.features.samples import join
from medprobe.files import write_atomically
from medprobe.imaging import recipes
from medprobe.imaging.displacements import read_displacement
from medprobe.imaging.formats import count_planes
from medprobe.imaging.labels import LabelMap
from medprobe.metrics.dense import foreground
from medprobe.metrics.registration import warp_labels
from medprobe.registry import HEADS, did_you_mean
from medprobe.run import panels, pictures, reading, results
from medprobe.run import plan as planning
from medprobe.run.encoded import open_bank
from medprobe.run.groups import group_of
from medprobe.run.loading import LAST, Loaded, load_models
from medprobe.run.question import Cell, Question
from medprobe.run.references import on_fixed, turned
from medprobe.run.request import Request, check_options, default_cache
from medprobe.tasks.suites import DEFAULT_HEAD, tasks_named, with_settings
from medprobe.types import Case, Dataset, Features, Image, Sample, Source

Progress = Callable[[int, int, str], None]
PLANES, COLUMNS, ABREAST = 12, 6, 3
"""Most planes of a case; panels beside each other of several planes, and of a single one."""
ONE, MANY = 360, 180
"""Longer side of a panel in pixels, of a single plane and of several."""
EMPTY = 0.1
"""A slice whose grey values spread less than this share of the largest spread shows nothing."""
FLAT = 1e-6
"""A component whose range is below this share of the largest feature is rounding."""
COLOURED = "features: the first three principal components of all cells shown{}, each from its 1st to its 99th percentile, as red, green and blue"


def show(request: Request, name: str, progress: Progress) -> tuple[list[Path], list[str]]:
    """Write `OUT/show/<dataset>/<head>/<models>/<case>.png` (`<case>.<role>.png` of pairs); returns the files and what is to be said."""
    faults = Faults()
    with faults.collected():
        check_options(request)
    faults.raise_if_any()
    asked: tuple[Question, Case] | None = None
    with faults.collected():
        asked = _asked(request, name, progress)
    grids = LAST if asked is None or asked[0].task.head not in HEADS else asked[0].grids
    loaded = load_models(request, faults, progress, [grids])
    faults.raise_if_any()
    assert asked is not None
    question, case = asked
    seen = {role: _seen(question, case, role) for role in case.images}
    rows: dict[str, list[_Row]] = {role: [] for role in seen}
    notes: list[str] = []
    unpredicted: list[str] = []
    for one in loaded:
        encoded = _encoded(one, question, case, request, progress)
        coloured = _coloured({role: (features, seen[role].places) for role, features in encoded.items()})
        said = _short(one.name)
        if not coloured:
            notes.append(f"{said} has no grid: there is no picture of its features")
        found = _prediction(question, case, one, request)
        if found is None:
            unpredicted.append(said)
        for role, rest in seen.items():
            if role in coloured:
                rows[role].append(_features_row(said, *coloured[role], rest))
            if isinstance(found, LabelMap) and role != "moving":
                rows[role].append(_labels_row(f"{'moving labels warped by' if role == 'fixed' else 'prediction of'} {said}", found, rest, question.dataset))
        if isinstance(found, str):
            notes.append(f"{said} predicts {found}")
    absent = [f"no prediction of this case by {', '.join(unpredicted)}"] if unpredicted and question.task.head in HEADS else []
    if any(row.coloured for each in rows.values() for row in each):
        notes.append(COLOURED.format("" if len(seen) == 1 else " of both images"))
    files = []
    for role, rest in seen.items():
        stem = results.safe_name(case.id) + (f".{role}" if len(seen) > 1 else "")
        file = request.out / "show" / question.dataset.name / question.task.head / results.safe_name(request.model) / f"{stem}.png"
        write_atomically(file, _sheet(question.dataset, case, role if len(seen) > 1 else "", rest, rows[role], [*notes, *absent]))
        files.append(file)
    return files, [*(note for note in notes if "no grid" in note), *(f"{said} in {request.out}" for said in absent)]


def _asked(request: Request, name: str, progress: Progress) -> tuple[Question, Case]:
    """The one task and case of a request; the question holds every case, and the digests of this one."""
    pairs = tasks_named(request.task, made_elsewhere=True)
    if len(pairs) != 1:
        raise RequestError(f"show takes one task, found {len(pairs)}; name one of {', '.join(task.name for task, _ in pairs[:5])}")
    if (pairs[0][1].kind, pairs[0][1].dims) in DEFAULT_HEAD:
        pairs = tasks_named(request.task)
    default, dataset = pairs[0]
    if request.settings and default.head not in HEADS:
        raise RequestError(f"--set: {dataset.name} is of kind {dataset.kind}, for which there is no head in this version, so there is nothing to set; leave it out")
    task = with_settings(default, request.settings) if request.settings else default
    cases = tuple(cases_of(dataset, locate(dataset, request.data)))
    case = next((case for case in cases if case.id == name), None)
    if case is None:
        raise RequestError(f"--case: {dataset.name} has no case {name!r}; {did_you_mean(name, [case.id for case in cases])}")
    digests = Digests(request.cache or default_cache()).of(paths_of([case]), progress)
    return Question(task, dataset, cases, digests, planning.options_of(default, task, request)), case


def _short(name: str) -> str:
    """A model's name without the folders of its file."""
    return name.rpartition("/")[2]


# ------------------------------------------------------------------------------------------- content


@dataclass(frozen=True)
class _Seen:
    """What is shown of one image: planes (H, W) or (H, W, 3) at `places` among `total`, in their `view`, with the `mask`;
    `numbers` are the places in the file."""

    places: list[int]
    numbers: list[int]
    planes: list[np.ndarray]
    total: int
    view: panels.View
    mask: LabelMap | None
    notes: list[str]


def _seen(question: Question, case: Case, role: str) -> _Seen:
    dataset, window, sources = question.dataset, question.task.window, reading.images(question.task, case)[role]
    mask, notes = _mask(question, case, role), []
    if dataset.dims == 3:
        image = recipes.image(sources, window)
        places = _telling(image.pixels[0], mask)
        stack = np.moveaxis(image.pixels[:, places], 1, 0)
        total = image.pixels.shape[1]
    else:
        total = count_planes(sources[0])
        places = panels.spread(0, total - 1, PLANES)
        each = [recipes.planes(sources, window=window, size=None, start=place, stop=place + 1, crop=dataset.crop).pixels for place in places]
        stack = np.concatenate([pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels for pixels in each])
        image = Image(np.moveaxis(stack, 1, 0))
    if mask is not None and mask.shape[-2:] != image.pixels.shape[2:]:
        notes.append(f"the mask is {' x '.join(map(str, mask.shape[-2:]))}, of another size than the image: it is not shown")
        mask = None
    colour = pictures.is_colour(sources, image.pixels)
    view = pictures.view_of(dataset, case, image, mask, ONE if len(places) == 1 else MANY, question.task.axis)
    notes += [said for said in (pictures.view_said(view), pictures.channels_said(image.pixels, colour)) if said]
    return _Seen(places, [place * question.task.stride for place in places], [panels.plane_of(plane, colour) for plane in stack], total, view, mask, notes)


def _mask(question: Question, case: Case, role: str) -> LabelMap | None:
    if question.dataset.kind not in results.DENSE or not case.target:
        return None
    sources = case.target.get(role) if isinstance(case.target, Mapping) else case.target
    return _read(question, case, pictures.reference, sources) if sources else None


def _read(question: Question, case: Case, read: Callable[[Dataset, Any], LabelMap], files: Any) -> LabelMap:
    """A mask or prediction with its planes as the images of its case are read."""
    (like,) = reading.target(question.task, replace(case, target=(Source(Path()),)))
    return turned(read(question.dataset, files), like)


def _telling(volume: np.ndarray, mask: LabelMap | None) -> list[int]:
    """Slices of (D, H, W) spread over those that show something; the nearest gives way to that with most of the mask."""
    deviation = volume.std(axis=(1, 2))
    there = np.flatnonzero(deviation >= EMPTY * deviation.max())
    places = panels.spread(int(there[0]), int(there[-1]), PLANES)
    if mask is not None and (mask.labels > 0).any():
        area = (mask.labels > 0).sum(axis=(-2, -1))
        most = int((area.sum(axis=0) if mask.multilabel else area).argmax())
        if most not in places:
            places[int(np.abs(np.array(places) - most).argmin())] = most
    return sorted(places)


def _encoded(one: Loaded, question: Question, case: Case, request: Request, progress: Progress) -> dict[str, Features]:
    """Features by role, from the store that runs use."""
    if hasattr(one.encoder, "features_of"):
        if not one.encoder.covers(case.id):
            raise MissingError(f"{one.name}: expected features of the case {case.id}, found none; add them, named by case id")
        return dict.fromkeys(case.images, one.encoder.features_of(case.id))
    if question.dataset.kind == "registration" and question.encoder_of(one) is None:
        return _described(one, question, case)
    cache = request.cache or default_cache()
    group = group_of(one, question, request, cache, case)
    bank = open_bank(group, request, cache, progress)
    found = {}
    for (_, role), entries in question.entries(group.encoder.channels is None, (case,)).items():
        reasons = [bank.unreadable[entry.key] for entry, _ in entries if entry.key in bank.unreadable]
        if reasons:
            raise CaseError(f"{case.id}: {reasons[0]}")
        parts = [bank.features(entry.key) for entry, _ in entries]
        found[role] = parts[0] if len(parts) == 1 else join(parts)
    return found


def _described(one: Loaded, question: Question, case: Case) -> dict[str, Features]:
    """What is made of whole images, by role, at their own size."""
    found = {}
    for role, sources in reading.images(question.task, case).items():
        pixels = recipes.image(sources, question.task.window).pixels
        made = [np.asarray(describe(pixels if question.dataset.dims == 3 else pixels[:, 0])) for describe in one.apart[1]]
        together = np.concatenate(made)
        found[role] = Features(grids=(np.moveaxis(together, 0, 1) if question.dataset.dims == 3 else together[None],))
    return found


def _prediction(question: Question, case: Case, one: Loaded, request: Request) -> LabelMap | str | None:
    """What a run of this model with these options left in the same --out: a label map, or words; of the first seed there is."""
    size = None if question.encoder_of(one) is None else request.image_size or 1
    stem = Path(Cell(one, question, 0, None, size, request.precision, None).stem).parent
    dataset = question.dataset
    if dataset.kind == "registration" and case.target:
        for file in sorted((request.out / "predictions" / stem).glob(f"seed*/{results.safe_name(case.id)}.disp.nii.gz")):
            fixed, moving = (pictures.reference(dataset, case.target[role]) for role in ("fixed", "moving"))
            field = read_displacement(Source(file), dims=dataset.dims, fixed=fixed)
            warped = replace(fixed, labels=warp_labels(np.maximum(on_fixed(moving, fixed).labels, 0), field))
            return _read(question, case, lambda dataset, labels: labels, warped)
    if dataset.kind == "segmentation":
        for folder in sorted((request.out / "predictions" / stem).glob("seed*")):
            files = pictures.prediction_files(dataset, folder, case.id)
            if all(file.is_file() for file in files):
                return _read(question, case, pictures.predicted, files)
    if dataset.kind == "classification" and dataset.unit == "case":
        for file in sorted((request.out / "results" / stem).glob("seed*.json")):
            saved = file.with_suffix("")
            if not saved.with_name(f"{saved.name}.predictions.parquet").is_file():
                continue
            table = results.Predictions.load(saved, dataset.classes, dataset.multilabel)
            for prob in table.prob[table.case == case.id]:
                return ", ".join(f"{dataset.classes[place]} {prob[place]:.2f}" for place in np.argsort(-prob, kind="stable")[:3])
    return None


# ------------------------------------------------------------------------------------------ features


def _coloured(encoded: Mapping[str, tuple[Features, Sequence[int]]]) -> dict[str, tuple[np.ndarray, tuple[float, float, float, float]]]:
    """role → colours (n, h, w, 3) in [0, 1] of the cells that show content, and the box of the plane in them; one basis for
    all roles. Empty for features without a grid of two dimensions."""
    cut: dict[str, tuple[np.ndarray, tuple[float, float, float, float]]] = {}
    for role, (features, places) in encoded.items():
        if not features.grids or features.grid.ndim != 4:
            return {}
        cut[role] = _content(np.concatenate([np.asarray(features.grid[place : place + 1]) for place in places]), features.frame)
    colours = colours_of({role: grid for role, (grid, _) in cut.items()})
    return {role: (colours[role], box) for role, (_, box) in cut.items()}


def _content(grid: np.ndarray, frame: Any) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The cells (n, D, h, w) that the plane touches, and its box in them: padding has no part in the components."""
    rows, columns = grid.shape[2:]
    top, left, bottom, right = frame.box if frame is not None else (0.0, 0.0, float(rows), float(columns))
    first, start = max(0, int(np.floor(top + FLAT))), max(0, int(np.floor(left + FLAT)))
    last, stop = min(rows, int(np.ceil(bottom - FLAT))), min(columns, int(np.ceil(right - FLAT)))
    return grid[:, :, first:last, start:stop], (top - first, left - start, bottom - first, right - start)


def colours_of(grids: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Grids (n, D, h, w) by role → (n, h, w, 3) in [0, 1]: the first three joint principal components, each stretched from
    its 1st to its 99th percentile. Where only one varies it is grey; what does not vary is half-way."""
    channels = next(iter(grids.values())).shape[1]
    cells = sum(grid.size for grid in grids.values()) // channels
    largest = max(float(np.abs(grid).max()) for grid in grids.values())
    if channels > 1 and cells > 1:
        sample = JointPCA(min(3, channels))(Sample("", "", {role: Features(grids=(grid,)) for role, grid in grids.items()}))
        grids = {role: features.grid for role, features in sample.features.items()}
    parts = {role: np.moveaxis(grid[:, :3], 1, -1).astype(np.float64) for role, grid in grids.items()}
    together = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts.values()])
    low, high = np.percentile(together, [1, 99], axis=0)
    varies = high - low > FLAT * largest
    found = {}
    for role, part in parts.items():
        stretched = np.clip((part - low) / np.where(varies, high - low, 1), 0, 1)
        found[role] = np.full((*part.shape[:-1], 3), 0.5)
        if varies.sum() == 1:
            found[role][...] = stretched[..., varies]
        else:
            found[role][..., np.flatnonzero(varies)] = stretched[..., varies]
    return found


# ------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class _Row:
    """A panel for each plane that is shown, under one name; `labels` are those on them."""

    panels: list[panels.Panel]
    coloured: bool = False
    labels: tuple[np.ndarray, ...] = ()


def _features_row(name: str, colours: np.ndarray, box: tuple[float, float, float, float], seen: _Seen) -> _Row:
    pixels = [panels.cells(plane, box, seen.view) for plane in colours]
    return _Row([panels.Panel(one, "" if number else f"features of {name}, {colours.shape[1]} x {colours.shape[2]} cells") for number, one in enumerate(pixels)], coloured=True)


def _labels_row(name: str, mask: LabelMap | None, seen: _Seen, dataset: Dataset, fill: float = panels.FILL) -> _Row:
    labels = tuple(pictures.plane_of_labels(mask.labels, dataset, place) for place in seen.places) if mask is not None else ()
    marks = [panels.layers(one, dataset.multilabel) for one in labels] or [[] for _ in seen.places]
    return _Row(pictures.panelled(name, seen.planes, marks, seen.numbers, seen.view, dims=dataset.dims, fill=fill), labels=labels)


def _sheet(dataset: Dataset, case: Case, role: str, seen: _Seen, rows: Sequence[_Row], notes: Sequence[str]) -> bytes:
    first = _labels_row("image" if seen.mask is None else "image, target outlined", seen.mask, seen, dataset, fill=0)
    if dataset.dims == 2 and seen.total > 1:
        first = replace(first, panels=[replace(panel, corner=_plane_said(dataset, case, place)) for panel, place in zip(first.panels, seen.places, strict=True)])
    rows = [first, *rows]
    if len(seen.places) == 1:
        flat = [panel for row in rows for panel in row.panels]
        lines = [flat[start : start + ABREAST] for start in range(0, len(flat), ABREAST)]
    else:
        lines = [row.panels[start : start + COLUMNS] for start in range(0, len(seen.places), COLUMNS) for row in rows]
    legend: list[tuple[str, str]] = []
    if dataset.kind in results.DENSE and dataset.kind != "instances":
        legend = panels.legend_of(foreground(dataset.classes, dataset.multilabel), [label for row in rows for label in row.labels], dataset.multilabel)
    title = ", ".join(filter(None, (dataset.name, f"case {case.id}", role, _target_said(dataset, case))))
    return panels.sheet(title, lines, legend, [*seen.notes, *notes])


def _plane_said(dataset: Dataset, case: Case, place: int) -> str:
    words = _words(dataset, case.target[place]) if dataset.unit == "plane" and case.target is not None else ""
    return f"{place}: {words}" if words else str(place)


def _target_said(dataset: Dataset, case: Case) -> str:
    if case.target is None:
        return "unlabelled"
    return "" if dataset.kind in results.DENSE or dataset.unit == "plane" else f"target: {_words(dataset, case.target)}"


def _words(dataset: Dataset, target: Any) -> str:
    """The names of a target's classes."""
    if target is None:
        return "unlabelled"
    if not isinstance(target, tuple):
        return dataset.classes[int(target)]
    return ", ".join(name for name, value in zip(dataset.classes, target, strict=True) if value == 1) or "none of the classes"
