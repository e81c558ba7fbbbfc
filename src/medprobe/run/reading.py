"""What a task asks of the planes of its cases: a window for each channel, the axis they lie across, and every how many of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, RequestError
from medprobe.features.regrid import Regrid
from medprobe.features.samples import EncodedSamples
from medprobe.imaging import formats
from medprobe.imaging.formats import count_planes
from medprobe.imaging.labels import APART, LabelMap, corners_apart
from medprobe.imaging.recipes import windows_of, with_windows
from medprobe.imaging.resample import turned_array, turned_grid
from medprobe.types import Axis, Case, Dataset, Source, Task

Decoder = Callable[[Any], Any]


def images(task: Task, case: Case) -> Mapping[str, tuple[Source, ...]]:
    """The images of a case as this task reads them, by role; a file that cannot be read is met when it is decoded.

    The moving image of a pair is read on the grid of the fixed one, where both say where their voxels lie and these differ.
    """
    found = {role: tuple(_asked(task, source) for source in with_windows(sources, task.window)) for role, sources in case.images.items()}
    if "moving" in found and (grid := _fixed_grid(found["fixed"][0], found["moving"][0])) is not None:
        found["moving"] = tuple(replace(source, grid=grid) for source in found["moving"])
    return found


def _fixed_grid(fixed: Source, moving: Source) -> Path | None:
    """The file on whose voxels the moving image must be laid; None where they lie alike, or nobody can say."""
    if fixed.grid is not None or moving.grid is not None:
        return None
    try:
        grids = [formats.grid(source) for source in (fixed, moving)]
    except CaseError:
        return None
    there, here = grids
    if there is None or here is None or there.affine is None or here.affine is None:
        return None
    alike = there.shape == here.shape and corners_apart(there.shape, here.affine, there.affine) <= APART
    return None if alike else fixed.path


def regrid(task: Task, dataset: Dataset) -> Regrid | None:
    """What brings pairs of volumes to the grid on which they are registered, if it is another."""
    asked = task.min_slices or task.spacing is not None
    return Regrid(task.min_slices, task.spacing) if asked and dataset.dims == 3 else None


def spacing(case: Case) -> tuple[float, float, float] | None:
    """(z, y, x) in mm of the fixed image: the table's, else the file's. CaseError: unreadable."""
    stated = case.fields.get("spacing")
    if stated is not None:
        depth, height, width = (float(size) for size in stated.split())
        return depth, height, width
    header = formats.grid(case.images["fixed"][0])
    return None if header is None else header.spacing


def _check_regrid(task: Task, dataset: Dataset, cases: Sequence[Case]) -> None:
    asked = "task.spacing" if task.spacing is not None else "task.min_slices"
    if task.spacing is None and not task.min_slices:
        return
    if dataset.kind != "registration" or dataset.dims != 3:
        raise RequestError(
            f"{task.name}: {asked} is for the registration of volumes, found {dataset.kind} in "
            f"{dataset.dims}D; leave it out"
        )
    if task.spacing is None:
        return
    without = [case.id for case in cases if _lacks_spacing(case)]
    if without:
        raise RequestError(
            f"{task.name}: task.spacing needs the spacing of every image, found none for "
            f"{len(without)} of {len(cases)} cases, first {without[0]}; add a column spacing to the "
            "table, or use task.min_slices"
        )


def _lacks_spacing(case: Case) -> bool:
    try:
        return spacing(case) is None
    except CaseError:  # reported, with its name, when the case is read
        return False


def _asked(task: Task, source: Source) -> Source:
    if task.axis != "axial":
        source = replace(source, axis=task.axis)
    if task.stride == 1:
        return source
    try:
        places = range(count_planes(source)) if source.frames is None else source.frames
    except CaseError:
        return source
    return replace(source, frames=tuple(places[:: task.stride]))


def check(task: Task, dataset: Dataset, cases: Sequence[Case]) -> None:
    """RequestError for what cannot be asked of these cases."""
    counts = {len(sources): sources for case in cases for sources in case.images.values()}
    for count, sources in sorted(counts.items()):
        made = count * len(windows_of(sources, task.window)[0])
        if task.channels == "rgb" and made > 3:
            raise RequestError(f"{task.name}: task.channels=rgb makes one image of two or three channels, found {made}; use task.channels=late")
    if task.axis != "axial" and dataset.dims != 3:
        raise RequestError(f"{task.name}: task.axis={task.axis} is for volumes, and {dataset.name} has pictures; leave it out")
    if task.axis != "axial" and dataset.kind == "registration":
        raise RequestError(f"{task.name}: pairs are registered by axial planes, so that displacements lie along the axes of the fixed image, found task.axis={task.axis}; leave it out")
    _check_regrid(task, dataset, cases)
    if task.stride > 1 and (dataset.dims != 3 or dataset.unit == "plane"):
        raise RequestError(f"{task.name}: task.stride={task.stride} is for the classification of volumes; leave it out")
    if task.stride > 1 and dataset.kind not in ("classification", "bags"):
        raise RequestError(f"{task.name}: {dataset.kind} needs every plane, found task.stride={task.stride}; leave it out")


@dataclass(frozen=True)
class _Turned:
    """Masks with their planes across `axis`, as the images of the task are."""

    read: Decoder
    axis: Axis

    def __call__(self, target: Any) -> LabelMap:
        mask: LabelMap = self.read(target)
        return LabelMap(turned_array(mask.labels, self.axis), *turned_grid(mask.spacing, mask.affine, self.axis), mask.multilabel)


def decoder(task: Task, read: Decoder | None) -> Decoder | None:
    """What reads the masks of a task for its head."""
    return read if read is None or task.axis == "axial" else _Turned(read, task.axis)


def as_stored(task: Task, predicted: Iterable[np.ndarray], samples: EncodedSamples) -> tuple[Iterator[np.ndarray], EncodedSamples]:
    """Predicted label maps, and the masks of the samples, turned back to the geometry of the image."""
    if not isinstance(samples.decode_target, _Turned):
        return iter(predicted), samples
    return (turned_array(labels, task.axis, back=True) for labels in predicted), replace(samples, decode_target=samples.decode_target.read)
