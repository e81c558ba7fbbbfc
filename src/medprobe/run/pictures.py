"""Pictures of the telling cases of a run: the planes, the truth and the prediction on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medprobe.files import write_atomically
from medprobe.imaging import recipes
from medprobe.imaging.labels import LabelMap, read_labels
from medprobe.imaging.resample import PLACES
from medprobe.metrics.dense import foreground
from medprobe.run import panels, results
from medprobe.run.references import reference, spacing_of
from medprobe.types import Axis, Case, Dataset, Image, Source

SIDE = {2: 289, 3: 141}
"""Longer side of a panel in pixels by dimensions: what fits the page of a report."""
SLICES = 6
DRAWN = 3
"""Cases of a result that are drawn."""
SEEN = {"R": "right", "A": "front", "S": "head"}


def telling(found: results.CaseValues) -> list[tuple[str, int, float]]:
    """(rank, place, mean Dice) of the best, the median and the worst case by mean Dice."""
    with np.errstate(invalid="ignore"):
        dice = np.array([np.nanmean(row) if not np.isnan(row).all() else np.nan for row in found.values["dice"]])
    order = np.argsort(dice)[: np.count_nonzero(~np.isnan(dice))]
    if not len(order):
        return []
    ranks = {order[-1]: "1-best", order[0]: "3-worst", order[len(order) // 2]: "2-median"} if len(order) > 2 else {order[0]: "3-worst", order[-1]: "1-best"}
    return [(rank, int(place), float(dice[place])) for place, rank in ranks.items()]


def draw(dataset: Dataset, case: Case, predictions: Path, path: Path, title: str) -> None:
    """Image, truth and prediction as one PNG; of a volume slices spread over the extent of the truth."""
    mask = reference(dataset, case.target)
    true, pred = mask.labels, predicted(dataset, prediction_files(dataset, predictions, case.id)).labels
    image = recipes.image(case.images["image"], dataset.recipe)
    view = view_of(dataset, case, image, mask, SIDE[dataset.dims])
    places = _extent(true, pred, dataset.multilabel) if dataset.dims == 3 else [0]
    colour = is_colour(case.images["image"], image.pixels)
    planes = [panels.plane_of(image.pixels[:, place], colour) for place in places]
    strips = []
    for name, labels in (("image", None), ("truth", true), ("prediction", pred)):
        marks = [[] if labels is None else panels.layers(plane_of_labels(labels, dataset, place), dataset.multilabel) for place in places]
        strips.append(panelled(name, planes, marks, places, view, dims=dataset.dims))
    notes = [said for said in (view_said(view), channels_said(image.pixels, colour)) if said]
    shown = [plane_of_labels(labels, dataset, place) for labels in (true, pred) for place in places]
    legend = panels.legend_of(foreground(dataset.classes, dataset.multilabel), shown, dataset.multilabel)
    lines = strips if dataset.dims == 3 else [[panel for strip in strips for panel in strip]]
    write_atomically(path, panels.sheet(title, lines, legend, notes))


def prediction_files(dataset: Dataset, folder: Path, case: str) -> list[Path]:
    """Where a run writes the label map of a case: one file, or one per class where masks of pictures may overlap. Slices that
    say where they lie are written as volumes are."""
    name = results.safe_name(case)
    if dataset.dims == 3 or (folder / f"{name}.nii.gz").is_file():
        return [folder / f"{name}.nii.gz"]
    if dataset.multilabel:
        return [folder / f"{name}.{results.safe_name(one)}.png" for one in dataset.classes]
    return [folder / f"{name}.png"]


def predicted(dataset: Dataset, files: Sequence[Path]) -> LabelMap:
    """What a run wrote."""
    return read_labels(tuple(map(Source, files)), dims=dataset.dims, classes=dataset.classes, multilabel=dataset.multilabel)


def panelled(
    name: str, planes: Sequence[np.ndarray], marks: Sequence[Sequence[np.ndarray]], places: Sequence[int], view: panels.View, *, dims: int, fill: float = panels.FILL
) -> list[panels.Panel]:
    """Planes and the labels on them as panels, named at the first; slices in the row of the image bear their number, their place."""
    found = []
    for number, (plane, labels, place) in enumerate(zip(planes, marks, places, strict=True)):
        corner = f"slice {place}" if dims == 3 and name.startswith("image") else ""
        found.append(panels.Panel(panels.drawn(plane, view, labels, fill), "" if number else name, corner, view.sides if corner and not number else None))
    return found


def plane_of_labels(labels: np.ndarray, dataset: Dataset, place: int) -> np.ndarray:
    """(H, W), or (K, H, W) of masks that may overlap."""
    return labels[..., place, :, :] if dataset.dims == 3 else labels


def view_of(dataset: Dataset, case: Case, image: Image, mask: LabelMap | None, side: int, axis: Axis = "axial") -> panels.View:
    """The panel of a case's planes across `axis`, in the proportions of its voxels; `image` and `mask` are turned already."""
    known = mask if mask is not None and mask.spacing else LabelMap(np.zeros(0), image.spacing)
    sizes, (_, rows, columns) = spacing_of(case, known, 3, True), PLACES[axis if case.fields.get("spacing") is not None else "axial"]
    return panels.view_of((image.pixels.shape[2], image.pixels.shape[3]), (sizes[rows], sizes[columns]), image.affine, side)


def view_said(view: panels.View) -> str:
    return f"slices are turned by what the file says of its axes: the patient's {SEEN[view.sides[0]]} is on the left" if view.sides else ""


def is_colour(sources: Sequence[Source], pixels: np.ndarray) -> bool:
    """Whether (C, ...) is one picture in red, green and blue."""
    return len(sources) == 1 and len(pixels) == 3


def channels_said(pixels: np.ndarray, colour: bool) -> str:
    return "" if colour or len(pixels) == 1 else f"channel 1 of {len(pixels)} is shown"


def _extent(true: np.ndarray, pred: np.ndarray, multilabel: bool) -> list[int]:
    """Slices of (…, D, H, W) spread over the extent of the truth; of the prediction where there is none, else of the volume."""
    for labels in (true, pred):
        there = np.flatnonzero((labels > 0).any(axis=(0, 2, 3) if multilabel else (1, 2)))
        if len(there):
            return panels.spread(int(there[0]), int(there[-1]), SLICES)
    return panels.spread(0, true.shape[-3] - 1, SLICES)
