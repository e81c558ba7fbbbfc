"""What the heads for pooled features share: checked features and labels, standardising, and choosing on validation."""

import math
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.types import Context, Samples

# ------------------------------------------------------------------------------------- configuration


def require(ok: bool, head: str, field: str, expected: str, found: object) -> None:
    """Refuse a field value that the head cannot work with."""
    if not ok:
        raise RequestError(f"{head}: {field} must be {expected}, found {found!r}; set {field} to such a value")


def is_number(value: object) -> bool:
    """A finite real number that is not a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    """A whole number of at least one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require_one_of(head: str, field: str, known: Sequence[str], found: object) -> None:
    require(found in known, head, field, f"one of {', '.join(known)}", found)


# --------------------------------------------------------------------------------- features and labels


def read_features(head: str, part: str, samples: Samples, ctx: Context, dim: int | None = None) -> np.ndarray:
    """(n, D) float32, every value finite, D as the head was fitted with (`dim`).

    Raises MedprobeError with the number of non-finite values, RequestError when D differs.
    """
    # In memory and writable, which torch asks for: samples may hand out a read-only map of a file.
    x = np.require(samples.pooled(ctx.pooling), dtype=np.float32, requirements=["C", "W"])
    if dim is not None and x.shape[1] != dim:
        raise RequestError(
            f"{head}: fitted on features of {dim} values, found {x.shape[1]}; "
            "use the encoder and pooling that the head was fitted with"
        )
    # A sum shows at a tenth of the cost whether a count is worth making.
    if not np.isfinite(x.sum(dtype=np.float64)):
        bad = ~np.isfinite(x)
        raise MedprobeError(
            f"{head}: expected finite features, found {int(bad.sum())} non-finite values in {int(bad.any(axis=1).sum())} "
            f"of {len(x)} {part} samples; check the images and the encoder"
            + (", or encode with --precision fp32" if ctx.precision == "bf16" else "")
        )
    return x


def read_training(head: str, train: Samples, ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) float32 and targets ((n,) int64, or (n, C) float32 with NaN) that a classifier can be fitted on.

    Raises RequestError for an empty part, a label outside the classes, or labels that are all of one class; warns of
    single classes or labels about which the training part says nothing.
    """
    if not len(train):
        raise RequestError(f"{head}: the training part is empty; give it cases")
    y = train.targets
    if y.ndim == 2:
        _check_multilabel(head, y, ctx)
    else:
        _check_exclusive(head, y, ctx)
    return read_features(head, "training", train, ctx), y


def _check_exclusive(head: str, y: np.ndarray, ctx: Context) -> None:
    counts = np.bincount(y, minlength=n_classes(y, ctx)) if y.min() >= 0 else np.zeros(0)
    if len(counts) != n_classes(y, ctx):
        raise RequestError(
            f"{head}: labels must lie in 0..{n_classes(y, ctx) - 1}, found {y.min()}..{y.max()}; correct the labels"
        )
    absent = [class_name(ctx, index) for index in np.flatnonzero(counts == 0).tolist()]
    if (counts > 0).sum() < 2:
        only = class_name(ctx, int(counts.argmax()))
        raise RequestError(
            f"{head}: the training part must show at least two classes, all {len(y)} samples are {only!r}; "
            "give it cases of another class"
        )
    if absent:
        ctx.warn(f"{head}: no training sample of {', '.join(absent)}; it cannot be predicted")


def _check_multilabel(head: str, y: np.ndarray, ctx: Context) -> None:
    known = ~np.isnan(y)
    if not np.isin(y[known], (0, 1)).all():
        raise RequestError(f"{head}: multilabel targets must be 0, 1 or NaN (unlabelled); correct the labels")
    if len(ctx.classes) not in (0, y.shape[1]):
        raise RequestError(f"{head}: {len(ctx.classes)} classes but {y.shape[1]} labels per sample; correct the labels")
    positive, labelled = (y == 1).sum(axis=0), known.sum(axis=0)
    single = (positive == 0) | (positive == labelled)
    if single.all():
        raise RequestError(
            f"{head}: the training part must show positives and negatives of some label, none has both "
            f"({len(y)} samples, {y.shape[1]} labels); give it cases of both"
        )
    if single.any():
        names = ", ".join(class_name(ctx, index) for index in np.flatnonzero(single).tolist())
        ctx.warn(f"{head}: the training labels of {names} do not show both values; nothing can be learnt about them")


def class_name(ctx: Context, index: int) -> str:
    return ctx.classes[index] if index < len(ctx.classes) else f"class {index}"


def n_classes(y: np.ndarray, ctx: Context) -> int:
    """The number C of probabilities per sample."""
    if y.ndim == 2:
        return y.shape[1]
    return len(ctx.classes) or int(y.max()) + 1


def indicators(y: np.ndarray, classes: int) -> np.ndarray:
    """(n, C) float32 of 0, 1 and NaN: multilabel targets as they are, class indices one-hot."""
    if y.ndim == 2:
        return np.asarray(y, dtype=np.float32)
    return (y[:, None] == np.arange(classes)).astype(np.float32)


def prevalence(labels: np.ndarray) -> np.ndarray:
    """(C,) float64: the share of ones among the labelled of (n, C); 0.5 for a label that nobody has labelled."""
    labelled = (~np.isnan(labels)).sum(axis=0)
    return np.where(labelled > 0, np.nansum(labels, axis=0, dtype=np.float64) / np.maximum(labelled, 1), 0.5)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / population standard deviation of each feature, (D,) float64 each.

    A feature whose spread is below the resolution of float32 is constant: its factor is 0, so that it stays 0
    whatever another part holds.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(x), 4096):
        square += ((x[start : start + 4096] - mean) ** 2).sum(axis=0)
    sd = np.sqrt(square / len(x))
    constant = sd <= np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, sd))


# ------------------------------------------------------------------------------------------- choosing


def read_validation(
    head: str, val: Samples | None, ctx: Context, dim: int, otherwise: str
) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
    """Validation features (m, D) and the score of predictions (m, C) for them; None, with a warning, without them."""
    monitor = ctx.monitor
    if val is None or not len(val) or monitor is None:
        ctx.warn(f"{head}: no validation part to choose on, {otherwise}")
        return None
    y = val.targets
    return read_features(head, "validation", val, ctx, dim), lambda prediction: float(monitor(prediction, y))


def log_loss(prediction: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log probability (nats) of the true class, or of the labelled labels, never below 2.2e-16."""
    p = np.clip(prediction, np.finfo(np.float64).eps, 1.0)
    if y.ndim == 1:
        return float(-np.log(p[np.arange(len(y)), y]).mean())
    right = np.clip(np.where(y == 1, prediction, 1 - prediction), np.finfo(np.float64).eps, 1.0)
    return float(-np.log(right[~np.isnan(y)]).mean()) if (~np.isnan(y)).any() else math.nan


def first_best(
    head: str, scores: Sequence[float], ctx: Context, otherwise: str, losses: Sequence[float] | None = None
) -> int | None:
    """The position of the highest score; None, with a warning, when all are undefined.

    Of equals the one of lowest loss where losses are given (a ranking metric at its ceiling says nothing of how sure
    the predictions are), then the first.
    """
    defined = [index for index, score in enumerate(scores) if not math.isnan(score)]
    if not defined:
        ctx.warn(f"{head}: the main metric is undefined on the validation part, {otherwise}")
        return None
    return max(defined, key=lambda index: (scores[index], -losses[index] if losses else 0.0, -index))


def or_none(scores: Sequence[float]) -> list[float | None]:
    """Scores for a fact of the state, where NaN is null."""
    return [None if math.isnan(score) else score for score in scores]


def probabilities(logits: np.ndarray, link: str) -> np.ndarray:
    """(n, C) float64 from logits, by `link`: `single` (one logit, the second class), `sigmoid`, `softmax`."""
    from scipy.special import expit, softmax

    logits = np.asarray(logits, dtype=np.float64)
    if link == "softmax":
        return softmax(logits, axis=1)
    return np.concatenate([expit(-logits), expit(logits)], axis=1) if link == "single" else expit(logits)
