"""Predicted displacements: written on the fixed grid, measured pair by pair by the labels they carry, the telling pairs drawn."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.displacements import write_displacement
from medprobe.imaging.labels import LabelMap
from medprobe.metrics import dense, overlap
from medprobe.metrics.registration import warp_labels
from medprobe.run import results
from medprobe.run.pair_pictures import draw
from medprobe.run.pictures import telling
from medprobe.run.references import spacing_of
from medprobe.types import Case, Dataset, Samples, Task

Progress = Callable[[int, int, str], None]
Pair = Mapping[str, LabelMap]


def monitor_of(dataset: Dataset) -> Callable[[np.ndarray, Pair], float]:
    """Mean Dice of the warped labels of one pair: what a head chooses by on validation pairs."""

    def monitor(displacement: np.ndarray, target: Pair) -> float:
        fixed, moving = target["fixed"].labels, np.maximum(target["moving"].labels, 0)
        values = overlap.overlap(warp_labels(moving, displacement), fixed, len(dataset.classes), ignore=dense.IGNORED).dice[1:]
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    return monitor


def below_identity(values: results.CaseValues) -> list[str]:
    """What is to be said of a registration that does worse than none."""
    if "dice.unregistered" not in values.values:
        return []
    before, after = (np.asarray(values.values[key]) for key in ("dice.unregistered", "dice"))
    if np.isnan(before).all() or np.isnan(after).all() or not np.nanmean(after) < np.nanmean(before):
        return []
    return [f"Dice after registration is {np.nanmean(after):.3f}, before it {np.nanmean(before):.3f}"]


def measured(
    task: Task, dataset: Dataset, cases: Mapping[str, Case], predicted: Iterator[np.ndarray], samples: Samples, out: Path, stem: str, millimetres: bool, progress: Progress
) -> results.CaseValues:
    """The values of every test pair; its displacement lies in `out/predictions/<stem>`, the pictures of the best, median and
    worst in `out/pictures/<stem>`. CaseError: labels of another size than their image."""
    values: list[dense.Values] = []
    ids, patients = [], []
    folder = out / "predictions" / stem
    for number, (sample, displacement) in enumerate(zip(samples, predicted, strict=True)):
        fixed, moving = sample.target["fixed"], sample.target["moving"]
        if displacement.shape[1:] != fixed.shape:
            raise CaseError(f"{sample.id}: expected fixed labels of the size of the fixed image, {' x '.join(map(str, displacement.shape[1:]))}, found {' x '.join(map(str, fixed.shape))}; write them on the image's voxels")
        write_displacement(folder / f"{results.safe_name(sample.id)}.disp.nii.gz", displacement, fixed.affine, fixed.spacing)
        axes = spacing_of(cases[sample.id], fixed, dataset.dims, millimetres)
        values.append(dense.registration_case(displacement, np.maximum(moving.labels, 0), fixed.labels, len(dataset.classes), axes, task.warp))
        ids.append(sample.id)
        patients.append(sample.patient)
        progress(number + 1, len(samples), "registering and scoring pairs")
    found = results.CaseValues.of(ids, patients, values)
    for rank, place, dice in telling(found):
        name = ids[place]
        title = f"{rank[2:]} pair, {name}: Dice {dice:.3f}, unregistered {np.nanmean(found.values['dice.unregistered'][place]):.3f}"
        draw(task, dataset, cases[name], folder, out / "pictures" / stem / f"{rank}-{results.safe_name(name)}.png", title)
    return found
