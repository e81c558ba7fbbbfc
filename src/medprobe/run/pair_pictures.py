"""Pictures of the telling pairs of a registration: source, target, warped source, both labels on the target, and the deformation (Figure 8)."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from medprobe.files import write_atomically
from medprobe.imaging import recipes
from medprobe.imaging.displacements import read_displacement
from medprobe.metrics.registration import warp_labels
from medprobe.run import panels, pictures, reading, results
from medprobe.run.references import on_fixed, reference
from medprobe.types import Case, Dataset, Source, Task

SIDE = {2: 180, 3: 150}
"""Longer side of a panel in pixels by dimensions."""
SLICES = 4
LINES = 16
"""Lines of the deformation grid along the longer side of a panel."""
LEAST = 48
"""Shortest side in pixels of what is shown around labels."""
TRUE, WARPED = 0, 1
"""Colours of the contours, by their place in panels.COLOURS."""


def draw(task: Task, dataset: Dataset, case: Case, predictions: Path, path: Path, title: str) -> None:
    """One PNG: a row of panels for a pair of pictures, and for each of a few slices of volumes; what lies around the labels."""
    stored = replace(task, orientation="canonical")  # displacements and masks lie as the files do, and `view` turns them all
    images = {role: recipes.image(sources, task.window) for role, sources in reading.images(stored, case).items()}
    fixed, moving = (reference(dataset, case.target[role]) for role in ("fixed", "moving"))
    field = read_displacement(Source(predictions / f"{results.safe_name(case.id)}.disp.nii.gz"), dims=dataset.dims, fixed=fixed)
    before = np.maximum(on_fixed(moving, fixed).labels, 0)
    true, warped = np.maximum(fixed.labels, 0), warp_labels(before, field)
    if dataset.dims == 2:
        field, true, warped, before = (np.concatenate([np.zeros_like(field[:1]), field])[:, None], true[None], warped[None], before[None])
    there = np.flatnonzero((true > 0).any(axis=(1, 2)))
    places = panels.spread(int(there[0]), int(there[-1]), SLICES) if len(there) else panels.spread(0, len(true) - 1, SLICES)
    seen = _around((true > 0) | (warped > 0) | (before > 0))
    view = pictures.view_of(dataset, case, replace(images["fixed"], pixels=images["fixed"].pixels[(..., *seen)]), fixed, SIDE[dataset.dims])
    lines, outside = [], False
    for number, place in enumerate(places):
        source, target = (images[role].pixels[0, place][seen] for role in ("moving", "fixed"))
        carried, unseen = (part[seen] for part in _carried(images["moving"].pixels[0], field, place))
        true_lines = _outlines(true[place][seen], TRUE)
        outside |= bool(unseen.any())
        drawn = {
            "moving, its labels": panels.drawn(source, view, _outlines(before[place][seen], WARPED), 0),
            "fixed, its labels": panels.drawn(target, view, true_lines, 0),
            "moving warped": panels.drawn(carried, view, (), 0),
            "fixed, both labels": panels.drawn(target, view, [*true_lines, *_outlines(warped[place][seen], WARPED)], 0),
            "deformation": panels.drawn(_grid_of(field[(slice(1, None), place, *seen)], view.size), view, (), 0),
        }
        corner = f"slice {place}" if dataset.dims == 3 else ""
        lines.append([panels.Panel(pixels, "" if number else name, "" if column else corner, view.sides if not column and not number else None) for column, (name, pixels) in enumerate(drawn.items())])
    legend = [(panels.COLOURS[TRUE], "fixed labels"), (panels.COLOURS[WARPED], "moving labels: in the first column as they are, in the fourth warped")]
    whole = all(part == slice(0, side) for part, side in zip(seen, true.shape[1:], strict=True))
    notes = [said for said in ("" if whole else "panels are cut to what lies around the labels", "light grey lies outside the moving image" if outside else "", pictures.view_said(view), pictures.channels_said(images["fixed"].pixels, False)) if said]
    write_atomically(path, panels.sheet(title, lines, legend, notes))


def _around(labels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is marked in (D, H, W), with as much again to each side; all where nothing is."""
    found = []
    for axis, side in ((1, labels.shape[1]), (2, labels.shape[2])):
        marked = np.flatnonzero(labels.any(axis=(0, 3 - axis)))
        margin = max(marked[-1] - marked[0] + 1, LEAST // 3) if len(marked) else 0
        found.append(slice(max(0, int(marked[0] - margin)), min(side, int(marked[-1] + 1 + margin))) if len(marked) else slice(0, side))
    return found[0], found[1]


def _outlines(labels: np.ndarray, colour: int) -> list[np.ndarray]:
    """A layer for each class, all of one colour, so that borders between classes show too."""
    return [(labels == number) * (colour + 1) for number in np.unique(labels) if number]


def _carried(moving: np.ndarray, field: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) of the moving image (D, H, W) at x + u on one slice of the fixed grid, linear, grey
    where nothing is seen; and where that is: beyond the outermost voxels, as labels are carried."""
    from scipy.ndimage import map_coordinates

    rows, columns = np.indices(field.shape[2:])
    at = field[:, place] + np.stack([np.full(rows.shape, place), rows, columns])
    sides = np.array(moving.shape).reshape(3, 1, 1)
    outside = ((at < -0.5) | (at >= sides - 0.5)).any(axis=0)
    carried = map_coordinates(moving, at, order=1, mode="nearest")
    return np.where(outside, panels.UNSEEN / 255, carried), outside


def _grid_of(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) in [0, 1]: lines that were straight in the moving image, as (2, H, W) displacements carry them; dark on white."""
    from scipy.ndimage import map_coordinates

    sides = field.shape[1:]
    places = np.stack(np.meshgrid(*((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(size, sides, strict=True)), indexing="ij"))
    at = places + np.stack([map_coordinates(one, places, order=1, mode="nearest") for one in field])
    step, pixel = max(sides) / LINES, max(sides) / max(size)
    away = np.abs(at / step - np.round(at / step)) * step / pixel
    return 0.4 + 0.6 * np.clip(away.min(axis=0), 0, 1)
