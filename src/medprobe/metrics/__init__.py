"""Predictions to numbers. Those that stand on their own are here by name; docs/metrics.md says what each means."""

from medprobe.metrics.instances import adapted_rand_error, average_precision, contingency, cremi_score, voi
from medprobe.metrics.overlap import dice, iou, lesion_volumes, precision, recall
from medprobe.metrics.registration import folding_fraction, jacobian_determinant, landmark_error, sdlogj, warp_labels
from medprobe.metrics.surface import asd, assd, hd, hd95, hd95_monai, nsd
from medprobe.metrics.surfels import hd95_surfel, surface_dice

__all__ = [
    "adapted_rand_error", "asd", "assd", "average_precision", "contingency", "cremi_score", "dice", "folding_fraction", "hd", "hd95", "hd95_monai", "hd95_surfel", "iou",
    "jacobian_determinant", "landmark_error", "lesion_volumes", "nsd", "precision", "recall", "sdlogj", "surface_dice", "voi", "warp_labels",
]  # fmt: skip
