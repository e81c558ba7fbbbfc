"""Pictures of one case: the plane, the outline of the truth and of the prediction on it."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.files import write_atomically
from medprobe.imaging import recipes
from medprobe.imaging.labels import read_labels
from medprobe.run import results
from medprobe.run.references import reference
from medprobe.types import Case, Dataset, Source

COLOURS = ("#e4572e", "#17bebb", "#ffc914", "#76b041", "#b388eb", "#f78da7", "#4d9de0", "#9c6644")


def draw(dataset: Dataset, case: Case, predictions: Path, path: Path, title: str) -> None:
    """Three panels as one PNG: image, truth, prediction; of a volume the plane with most of the truth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    true = reference(dataset, case.target).labels
    name = results.safe_name(case.id)
    files = [predictions / f"{name}.{results.safe_name(one)}.png" for one in dataset.classes] if dataset.multilabel and dataset.dims == 2 else [predictions / f"{name}{'.nii.gz' if dataset.dims == 3 else '.png'}"]
    pred = read_labels(tuple(Source(file) for file in files), dims=dataset.dims, classes=dataset.classes, multilabel=dataset.multilabel).labels
    pixels = recipes.image(case.images["image"], dataset.recipe).pixels
    plane = 0
    if dataset.dims == 3:
        there = (true > 0).any(axis=0) if dataset.multilabel else true > 0
        plane = int(there.sum(axis=(1, 2)).argmax())
        true, pred = (labels[..., plane, :, :] for labels in (true, pred))
    shown = np.moveaxis(pixels[:, min(plane, pixels.shape[1] - 1)], 0, -1)
    shown = shown if shown.shape[-1] == 3 else shown[..., 0]
    masks = _masks(true, dataset), _masks(pred, dataset)
    height, width = shown.shape[:2]
    figure, axes = pyplot.subplots(1, 3, figsize=(10.5, 3.5 * height / width + 0.75), layout="constrained")
    for axis, panel, outlines in zip(axes, ("image", "truth", "prediction"), (None, *masks), strict=True):
        axis.imshow(shown, cmap="gray", vmin=0, vmax=1)
        axis.set_title(panel, fontsize=9, loc="left")
        axis.set_axis_off()
        for number, mask in enumerate(outlines if outlines is not None else ()):
            if mask.any():
                axis.contour(mask, levels=[0.5], colors=[COLOURS[number % len(COLOURS)]], linewidths=1.6)
    names = dataset.classes if dataset.multilabel else dataset.classes[1:]
    present = [number for number in range(len(names)) if masks[0][number].any() or masks[1][number].any()]
    if present:
        figure.legend(handles=[Line2D([], [], color=COLOURS[number % len(COLOURS)], label=names[number]) for number in present], loc="outside lower left", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def _masks(labels: np.ndarray, dataset: Dataset) -> list[Any]:
    return [one > 0 for one in labels] if dataset.multilabel else [labels == number for number in range(1, len(dataset.classes))]
