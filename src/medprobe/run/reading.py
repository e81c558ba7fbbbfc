"""What a task asks of the planes of its cases: a window for each channel, the axis they lie across, how they are turned, and every how
many of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, MedprobeError, RequestError, ShapeError
from medprobe.features.regrid import Regrid
from medprobe.features.samples import EncodedSamples
from medprobe.imaging import formats
from medprobe.imaging.formats import count_planes
from medprobe.imaging.labels import APART, corners_apart
from medprobe.imaging.recipes import windows_of, with_windows
from medprobe.run.references import stored, turned_back
from medprobe.types import Case, Dataset, Orientation, Source, Task


def images(task: Task, case: Case) -> Mapping[str, tuple[Source, ...]]:
    """The images of a case as this task reads them, by role; a file that cannot be read is met when it is decoded.

    The moving image of a pair is read on the grid of the fixed one, where both say where their voxels lie and these differ.
    """
    orientation = orientation_of(task, case)
    found = {
        role: tuple(_asked(task, source, orientation) for source in with_windows(sources, task.window))
        for role, sources in case.images.items()
    }
    if "moving" in found and (grid := _fixed_grid(found["fixed"][0], found["moving"][0])) is not None:
        found["moving"] = tuple(replace(source, grid=grid) for source in found["moving"])
    return found


def orientation_of(task: Task, case: Case) -> Orientation:
    """How the planes of a case are turned, all its images and masks alike: only where one of the images says where it lies, as an array
    beside it is on its axes."""
    lies = any(formats.lies(source) for sources in case.images.values() for source in sources)
    return task.orientation if lies else "canonical"


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


def _asked(task: Task, source: Source, orientation: Orientation) -> Source:
    if task.axis != "axial" or orientation != "canonical":
        source = replace(source, axis=task.axis, orientation=orientation)
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
    check_planes(task.name, cases)


def check_planes(name: str, cases: Sequence[Case]) -> None:
    """RequestError where the images of a dataset of pictures are no single planes, by their headers; what is damaged is met later."""
    found: list[str] = []
    flat = [source for case in cases for sources in case.images.values() for source in sources if source.plane]
    for source in flat:
        try:
            count_planes(source)
        except ShapeError as error:
            found.append(str(error))
        except MedprobeError:
            continue
    if found:
        more = f" ({len(found)} of {len(flat)} images are such)" if len(found) > 1 else ""
        raise RequestError(f"{name}: {found[0]}{more}")


def target(task: Task, case: Case) -> Any:
    """The target of a case; the sources of masks say how these are turned, with the images of their case."""
    if isinstance(case.target, Mapping):
        return {role: _turning(task, case, sources) for role, sources in case.target.items()}
    masks = isinstance(case.target, tuple) and case.target and isinstance(case.target[0], Source)
    return _turning(task, case, case.target) if masks else case.target


def _turning(task: Task, case: Case, masks: tuple[Source, ...]) -> tuple[Source, ...]:
    orientation = orientation_of(task, case)
    return tuple(replace(source, axis=task.axis, orientation=orientation) for source in masks)


def as_stored(predicted: Iterable[np.ndarray], samples: EncodedSamples, *, fields: bool = False) -> tuple[Iterator[np.ndarray], EncodedSamples]:
    """Predicted label maps (or displacement `fields`), and the masks of the samples, turned back to the geometry of the image."""
    likes = [_first(item.target) for item in samples.items]
    back = (turned_back(one, like, field=fields) for one, like in zip(predicted, likes, strict=True))
    return back, replace(samples, items=[replace(item, target=_stored(item.target)) for item in samples.items])


def _first(target: Any) -> Source:
    source: Source = (target["fixed"] if isinstance(target, Mapping) else target)[0]
    return source


def _stored(target: Any) -> Any:
    return {role: stored(sources) for role, sources in target.items()} if isinstance(target, Mapping) else stored(target)
