"""Predicted label maps: written in the image's own geometry, measured case by case, the telling ones drawn."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import nifti
from medprobe.imaging.labels import LabelMap, write_labels
from medprobe.metrics import dense, overlap
from medprobe.run import results
from medprobe.run.label_numbers import write_note
from medprobe.run.pictures import draw, telling
from medprobe.run.references import spacing_of
from medprobe.types import Case, Dataset, Samples

Progress = Callable[[int, int, str], None]


def monitor_of(dataset: Dataset) -> Callable[[np.ndarray, LabelMap], float]:
    """Mean Dice over the scored classes of one case: what a head chooses its epoch by."""

    def monitor(pred: np.ndarray, true: LabelMap) -> float:
        if dataset.multilabel:
            values = overlap.overlap_of_masks(pred, np.maximum(true.labels, 0)).dice
        else:
            values = overlap.overlap(pred, true.labels, len(dataset.classes), ignore=dense.IGNORED).dice[1:]
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    return monitor


def measured(
    dataset: Dataset, cases: Mapping[str, Case], predicted: Iterator[np.ndarray], samples: Samples, out: Path, stem: str, millimetres: bool, progress: Progress
) -> results.CaseValues:
    """The values of every test case; its prediction lies in `out/predictions/<stem>`, its picture, if it is the best, median
    or worst case, in `out/pictures/<stem>`. CaseError: a mask of another size than its image."""
    values: list[dense.Values] = []
    ids, patients = [], []
    folder = out / "predictions" / stem
    write_note(dataset, list(cases.values()), folder)
    for number, (sample, labels) in enumerate(zip(samples, predicted, strict=True)):
        values.append(of_case(dataset, cases[sample.id], labels, sample.target, folder, millimetres))
        ids.append(sample.id)
        patients.append(sample.patient)
        progress(number + 1, len(samples), "predicting and scoring cases")
    found = results.CaseValues.of(ids, patients, values)
    for rank, place, dice in telling(found):
        name = ids[place]
        draw(dataset, cases[name], folder, out / "pictures" / stem / f"{rank}-{results.safe_name(name)}.png", f"{rank[2:]} case, {name}: Dice {dice:.3f}")
    return found


def of_case(dataset: Dataset, case: Case, labels: np.ndarray, true: LabelMap, folder: Path, millimetres: bool) -> dense.Values:
    """The values of one prediction, which is written into `folder`. CaseError: the mask is of another size."""
    if labels.shape != true.labels.shape:
        raise CaseError(f"{case.id}: expected a mask of the size of its image, {' x '.join(map(str, labels.shape))}, found {' x '.join(map(str, true.labels.shape))}; write the mask on the image's pixels")
    suffix = ".png" if dataset.dims == 2 and true.affine is None else ".nii.gz"
    image = case.images["image"][0]
    like = image.path if image.grid is None else image.grid
    _write(folder, results.safe_name(case.id), labels, true, dataset, suffix, like if isinstance(like, Path) and like.name.lower().endswith(nifti.SUFFIXES) else None)
    axes = spacing_of(case, true, dataset.dims, millimetres)
    return dense.segmentation_case(labels, true.labels, len(dataset.classes), axes, multilabel=dataset.multilabel, volumes=millimetres, regions=results.regions_of(dataset))


def _write(folder: Path, name: str, labels: np.ndarray, true: LabelMap, dataset: Dataset, suffix: str, like: Path | None) -> None:
    if dataset.multilabel and suffix == ".png":
        for one, mask in zip(dataset.classes, labels, strict=True):
            write_labels(folder / f"{name}.{results.safe_name(one)}.png", LabelMap(mask))
    else:
        write_labels(folder / f"{name}{suffix}", LabelMap(labels, true.spacing, true.affine, dataset.multilabel), like)
