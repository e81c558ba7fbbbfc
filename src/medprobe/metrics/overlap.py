"""How much two label maps share: Dice, IoU, precision, recall, volumes; all classes from one pass over the voxels.

    dice = 2 TP / (2 TP + FP + FN)    iou = TP / (TP + FP + FN)    precision = TP / (TP + FP)    recall = TP / (TP + FN)

0/0 is NaN, for the caller to count: Dice and IoU of a class that is in neither map, precision of a class that is not
predicted, recall of one that is not there. A value per case and class is averaged over cases and then over classes;
`.aggregated` sums TP, FP and FN over cases first (`.aggregated_mm3`, of HECKTOR's two tumour classes: the official aggregated Dice).

Endoscopic instruments are scored in four ways that differ in which classes of an image count (methods sheet 5.1, from the
evaluation of ISINet and SurgicalSAM): see `endovis`. Lesions are counted by volume as in autoPET: see `lesion_volumes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.errors import RequestError
from medprobe.metrics._checks import check_labels, check_masks, check_spacing
from medprobe.metrics.measure import divide, mean_defined

NO_LABEL = -(2**31)
"""Stands for "nothing is ignored"."""


@dataclass(frozen=True)
class Overlap:
    """Voxels by class, each (K,) int64 (or (n, K) for n cases): true positives, false positives, false negatives."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @property
    def dice(self) -> np.ndarray:
        return divide(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> np.ndarray:
        return divide(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> np.ndarray:
        return divide(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> np.ndarray:
        return divide(self.tp, self.tp + self.fn)

    @property
    def pred(self) -> np.ndarray:
        """Voxels predicted as each class."""
        return self.tp + self.fp

    @property
    def true(self) -> np.ndarray:
        """Voxels of each class."""
        return self.tp + self.fn


def confusion(pred: np.ndarray, true: np.ndarray, classes: int, ignore: int | None = None) -> np.ndarray:
    """(classes, classes) int64 numbers of voxels, [true, predicted], of two label maps (H, W) or (D, H, W).

    Voxels whose true label is `ignore` are left out. RequestError: shapes that differ, fractions, labels beyond the classes.
    """
    from medprobe.metrics import _loops

    pred, true = check_labels(pred, true, negative=ignore is not None and ignore < 0)
    counts = np.zeros((classes, classes), np.int64)
    flat_pred, flat_true = (np.ascontiguousarray(labels).reshape(-1) for labels in (pred, true))
    strange = _loops.count_pairs(flat_pred, flat_true, NO_LABEL if ignore is None else ignore, counts)
    if strange:
        largest = max(int(pred.max()), int(true.max()))
        raise RequestError(f"expected labels from 0 to {classes - 1}, found {strange} voxels with others (up to {largest}); name all classes, or map the labels to them")
    return counts


def overlap(pred: np.ndarray, true: np.ndarray, classes: int, ignore: int | None = None) -> Overlap:
    """The overlap of every class of two label maps; one pass over the voxels. Errors as in `confusion`."""
    counts = confusion(pred, true, classes, ignore)
    hits = np.diagonal(counts)
    return Overlap(hits.copy(), counts.sum(axis=0) - hits, counts.sum(axis=1) - hits)


def overlap_of_masks(pred: np.ndarray, true: np.ndarray) -> Overlap:
    """The overlap of masks that may overlap each other, (K, H, W) or (K, D, H, W) of 0 and 1: one per class."""
    pairs = [check_masks(p, t) for p, t in zip(pred, true, strict=True)]
    parts = [[np.count_nonzero(part) for part in (p & t, p & ~t, t & ~p)] for p, t in pairs]
    return Overlap(*np.array(parts, dtype=np.int64).T)


def _one(pred: np.ndarray, true: np.ndarray) -> Overlap:
    pred, true = check_masks(pred, true)
    return overlap_of_masks(pred[None], true[None])


def dice(pred: np.ndarray, true: np.ndarray) -> float:
    """Dice of two masks (H, W) or (D, H, W), bool or 0/1: 0 is disjoint, 1 identical, NaN when both are empty."""
    return float(_one(pred, true).dice[0])


def iou(pred: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two masks; NaN when both are empty."""
    return float(_one(pred, true).iou[0])


def precision(pred: np.ndarray, true: np.ndarray) -> float:
    """Share of the predicted voxels that are true; NaN when nothing is predicted."""
    return float(_one(pred, true).precision[0])


def recall(pred: np.ndarray, true: np.ndarray) -> float:
    """Share of the true voxels that are predicted; NaN when nothing is there."""
    return float(_one(pred, true).recall[0])


def endovis(found: Overlap) -> dict[str, np.ndarray]:
    """The EndoVis readings of `found` (n images, K instrument classes, without background), per image, NaN = left out.

        challenge_iou    (n,)    mean IoU over the classes in the truth; images without instruments are left out
        isi_iou          (n,)    mean IoU over the classes in truth or prediction
        mc_iou           (n, K)  IoU; averaged over images, then over classes

    An image in which nothing is predicted but something is there counts 0 in all of them.
    """
    scores = found.iou
    return {
        "challenge_iou": mean_defined(np.where(found.true > 0, scores, np.nan)),
        "isi_iou": mean_defined(scores),
        "mc_iou": scores,
    }


def lesion_volumes(pred: np.ndarray, true: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """(false positive, false negative) volume of two masks (D, H, W) in ml, with `spacing` in mm (autoPET).

    The volume of the 18-connected components of the prediction that touch no true voxel, and of those of the truth that
    no predicted voxel touches.
    """
    from scipy.ndimage import find_objects, generate_binary_structure, label

    pred, true = check_masks(pred, true)
    sizes = check_spacing(spacing, 3)
    if pred.ndim != 3:
        raise RequestError(f"expected masks of shape (D, H, W), found {pred.shape}; lesion volumes are 3D")
    box = (find_objects((pred | true).view(np.uint8)) or [()])[0]
    pred, true = pred[box], true[box]

    def missed(mask: np.ndarray, other: np.ndarray) -> float:
        parts, count = label(mask, generate_binary_structure(3, 2))
        voxels = np.bincount(parts.reshape(-1), minlength=count + 1)
        voxels[0] = 0
        voxels[np.unique(parts[other])] = 0
        return float(voxels.sum() * np.prod(sizes) / 1000)

    return missed(pred, true), missed(true, pred)
