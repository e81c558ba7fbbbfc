"""What is measured of one case of a dense task, and how the values of cases become scores.

Segmentation and registration leave values per class (without background), instances and deformation fields one value per
case. Counts (`tp`, `fp`, `fn`, …) are kept among the values: the aggregated scores are made of them. So is the diagonal of
the image, in the unit of distances: what a class that was missed is charged where two models are compared.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from medprobe.metrics import catalogue, percase
from medprobe.metrics.measure import Measure, mean_defined
from medprobe.metrics.overlap import Overlap, endovis, lesion_volumes, overlap, overlap_of_masks
from medprobe.metrics.surface import measure_surface

Values = dict[str, np.ndarray]
SURFACE = ("hd", "hd95", "asd", "assd")
COUNTS = ("tp", "fp", "fn", "voxel", "diagonal", "seen_intersection", "seen_union", "any_intersection", "any_union")
PRESENT = ("dice", "iou", "precision")
"""What is also averaged over the cases that hold the class, as `.present`; recall and distances are undefined in the others anyway."""
REGIONAL = ("dice", "precision", "recall", "hd95")
"""What is measured of a region, a union of classes taken as one mask, as `.<region>`."""
OF_REGIONS = (*REGIONAL, "precision.zero")
"""The scores of a region."""
SPREAD = ("dice", *SURFACE)
"""What has its standard deviation over pairs beside it, as `.sd`: Tables 15 and 16 print it."""
IGNORED = -1
"""The label of ignored voxels in a truth that was read."""


def foreground(classes: Sequence[str], multilabel: bool) -> tuple[str, ...]:
    """The classes that are scored: all masks of a multilabel dataset, else all but the background, which is the first."""
    return tuple(classes) if multilabel else tuple(classes[1:])


def segmentation_case(
    pred: np.ndarray, true: np.ndarray, classes: int, spacing: Sequence[float], *,
    multilabel: bool = False, images: bool = True, volumes: bool = True, regions: Mapping[str, Sequence[int]] | None = None,
) -> Values:  # fmt: skip
    """Values of one case. `pred` and `true` are label maps (H, W) or (D, H, W) of 0…classes-1, the truth with -1 where ignored,
    or (multilabel) masks (classes, …). `spacing` in array order; `images` adds the readings of EndoVis in 2D, `volumes`
    those of autoPET and HECKTOR in 3D (spacing in mm); `regions`: name → the labels (or masks) it is made of."""
    pred, true = np.asarray(pred), np.asarray(true)
    if multilabel:
        if true.min() < 0:
            pred, true = np.where(true < 0, 0, pred), np.where(true < 0, 0, true)
        found = overlap_of_masks(pred, true)
        masks = [(p.astype(bool), t.astype(bool)) for p, t in zip(pred, true, strict=True)]
        each = [measure_surface(p, t, spacing, (1,), SURFACE) for p, t in masks]
        values = {name: np.concatenate([one[name] for one in each]) for name in SURFACE}
    else:
        everything = overlap(pred, true, classes, ignore=IGNORED if true.min() < 0 else None)
        found = Overlap(everything.tp[1:], everything.fp[1:], everything.fn[1:])
        if true.min() < 0:
            pred, true = np.where(true < 0, 0, pred), np.where(true < 0, 0, true)
        values = measure_surface(pred, true, spacing, range(1, classes), SURFACE)
        masks = [(pred == number, true == number) for number in range(1, classes)] if volumes and pred.ndim == 3 else []
    values |= {"tp": found.tp, "fp": found.fp, "fn": found.fn}
    values |= {"dice": found.dice, "iou": found.iou, "precision": found.precision, "recall": found.recall}
    dims = pred.ndim - multilabel
    values["diagonal"] = np.full(len(found.tp), np.linalg.norm(np.multiply(pred.shape[-dims:], spacing)))
    if dims == 2 and images and len(found.tp) > 1:
        values |= _instruments(found, pred, true, multilabel)
    if dims == 3 and volumes:
        lesions = [lesion_volumes(p, t, spacing) for p, t in masks]
        values |= {"false_positive_volume": np.array([fp for fp, _ in lesions]), "false_negative_volume": np.array([fn for _, fn in lesions])}
        values["voxel"] = np.full(len(found.tp), np.prod(spacing))
    for name, numbers in (regions or {}).items():
        values |= {f"{key}.{name}": value for key, value in _region(values, pred, true, spacing, numbers, multilabel).items()}
    return values


def _region(values: Values, pred: np.ndarray, true: np.ndarray, spacing: Sequence[float], numbers: Sequence[int], multilabel: bool) -> Values:
    if len(numbers) == 1:
        return {key: values[key][numbers[0] - (not multilabel)] for key in REGIONAL}
    inside, there = (np.asarray(labels[list(numbers)].any(axis=0) if multilabel else np.isin(labels, numbers)) for labels in (pred, true))
    found = overlap_of_masks(inside[None], there[None])
    each = {"dice": found.dice, "precision": found.precision, "recall": found.recall, **measure_surface(inside, there, spacing, (1,), ("hd95",))}
    return {key: value[0] for key, value in each.items()}


def _instruments(found: Overlap, pred: np.ndarray, true: np.ndarray, multilabel: bool) -> Values:
    readings = endovis(Overlap(found.tp[None], found.fp[None], found.fn[None]))
    anything = [labels.any(axis=0) if multilabel else labels > 0 for labels in (pred, true)]
    union, seen = (anything[0] | anything[1]).sum(), anything[0].any()
    shared = (anything[0] & anything[1]).sum()
    return {
        "challenge_iou": readings["challenge_iou"][0], "isi_iou": readings["isi_iou"][0],
        "seen_intersection": found.tp.sum() * seen, "seen_union": (found.tp + found.fp + found.fn).sum() * seen,
        "any_intersection": shared, "any_union": union, "binary_iou": shared / union if union else np.array(np.nan),
    }  # fmt: skip


def registration_case(displacement: np.ndarray, moving: np.ndarray, fixed: np.ndarray, classes: int, spacing: Sequence[float], warp: Literal["nearest", "linear"] = "nearest") -> Values:
    """Values of one pair: the labels of `moving` warped by `displacement` (2, H, W) or (3, D, H, W) against those of `fixed`.

    Folding is NaN where nothing is left between the borders that are cropped.
    """
    from medprobe.metrics.registration import CROP as CROPPED
    from medprobe.metrics.registration import (
        between_centres,
        folding_fraction,
        sdlogj,
        warp_labels,
    )

    warped = warp_labels(moving, displacement, warp)
    values = segmentation_case(warped, fixed, classes, spacing, images=False, volumes=False)
    ignored = IGNORED if fixed.min() < 0 else None
    cut = np.where(between_centres(displacement, moving.shape), warped, 0)
    values["dice.rim_centre"] = overlap(cut, fixed, classes, ignore=ignored).dice[1:]
    inner = min(displacement.shape[1:]) > 2 * CROPPED
    folds = (folding_fraction(displacement), sdlogj(displacement)) if inner else (np.nan, np.nan)
    before = overlap(moving, fixed, classes, ignore=ignored).dice[1:]
    return values | {"folding_fraction": np.array(folds[0]), "sdlogj": np.array(folds[1]), "dice.unregistered": before}


def instances_case(pred: np.ndarray, true: np.ndarray, ignore: Sequence[int] = (0,)) -> Values:
    """Values of one volume of instances: ids of any integer type, voxels whose true id is in `ignore` left out."""
    from medprobe.metrics.instances import measure_instances

    return {name: np.array(value) for name, value in measure_instances(pred, true, ignore=tuple(ignore)).items()}


def measure(values: Mapping[str, np.ndarray], groups: np.ndarray, classes: Sequence[str], unit_of_distance: str) -> Measure:
    """All scores of n cases: `values` (n,) or (n, classes) by name as the functions above leave them, NaN where undefined."""
    metrics: dict = {name: _case_mean(name, value, values) for name, value in values.items() if name not in COUNTS}
    if "tp" in values:
        there = values["tp"] + values["fn"] > 0
        metrics |= percase.aggregated(values["tp"], values["fp"], values["fn"])
        zero = _with_zero(values)
        metrics |= {name: _case_mean(name, value, values) for name, value in zero.items()}
        for key in (*PRESENT, "precision.zero"):
            each = np.where(there, {**values, **zero}[key], np.nan)
            metrics[f"{key}.present"] = _case_mean(key, each, values, there)
    if "voxel" in values:
        metrics["dice.aggregated_mm3"] = percase.aggregated(*(values[name] * values["voxel"] for name in ("tp", "fp", "fn")))["dice.aggregated"]
    if "any_union" in values:
        tp, union = values["tp"].sum(axis=1), (values["tp"] + values["fp"] + values["fn"]).sum(axis=1)
        metrics["m_iou"] = percase.ratio_of_sums(tp, union, known=values["seen_union"] > 0, there=union > 0)
        metrics["m_iou.all"] = percase.ratio_of_sums(tp, union)
        metrics["binary_iou.aggregated"] = percase.ratio_of_sums(values["any_intersection"], values["any_union"])
    if "dice.unregistered" in values:
        metrics |= {f"{key}.sd": percase.Spread(mean_defined(values[key])) for key in SPREAD}
    return percase.measure_cases(metrics, groups, classes, facts=catalogue.facts_of(list(metrics), unit_of_distance))


def _with_zero(values: Mapping[str, np.ndarray]) -> Values:
    """`precision.zero`, and of regions: 0 where a class is there (recall is defined) and nothing predicted, else precision."""
    kinds = [key.removeprefix("precision") for key in values if key.partition(".")[0] == "precision"]
    return {
        f"precision.zero{kind}": np.where(
            np.isnan(values[f"precision{kind}"]) & ~np.isnan(values[f"recall{kind}"]),
            0.0, values[f"precision{kind}"],
        )
        for kind in kinds
    }  # fmt: skip


def _case_mean(name: str, value: np.ndarray, values: Mapping[str, np.ndarray], counted: np.ndarray | None = None) -> percase.CaseMean:
    """The mean of a value, with what an undefined one is charged beside a model that has it: of a class that was missed, or called
    where it is not, a distance of the diagonal and a precision of 0; else the best there is, since nothing was there nor called."""
    value = np.asarray(value, dtype=np.float64)
    key, _, region = name.partition(".")
    best = float(catalogue.DIRECTION.get(name, catalogue.DIRECTION.get(key, True)))
    silent = np.isnan(value)
    if key not in (*SURFACE, "precision") or name.startswith("precision.zero"):
        return percase.CaseMean(value, np.full(value.shape, best), silent)
    precision, recall = (values.get(f"{other}.{region}" if region else other) for other in ("precision", "recall"))
    if precision is None or recall is None or (key in SURFACE and "diagonal" not in values):
        return percase.CaseMean(value)
    called, there = ~np.isnan(precision), ~np.isnan(recall)
    silent = ~called & ~there if counted is None else ~counted
    worst = np.where(there, 0.0, best)
    if key in SURFACE:
        diagonal = values["diagonal"].reshape(len(value), -1)[:, :1]
        worst = diagonal if value.ndim == 2 else diagonal[:, 0]
    return percase.CaseMean(value, np.where(silent, best, worst), silent)
