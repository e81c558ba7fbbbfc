"""`linear`: the paper's linear probe, one linear layer trained by mini-batches.

The paper states one linear layer, binary cross-entropy, learning rate 0.005, batches of 1024, 50 epochs, a frozen
encoder. The rest follows MGCA's fine-tuner, which shares the 50 epochs, and DINOv2's eval/linear.py: AdamW (0.9, 0.999)
with weight decay 1e-6 on weights and bias, cosine to 0 per step, weights from N(0, 0.01), bias 0, raw features, no
class weights; the epoch with the best main metric on validation, the earlier one of equals.

Losses, each the mean over the labelled entries of a batch:

    multilabel            binary cross-entropy per label
    two classes           binary cross-entropy of one logit
    three or more         binary cross-entropy of each class against the rest; `loss="ce"`: softmax cross-entropy

Probabilities: with binary cross-entropy each class has its own sigmoid, so over three or more classes they do not sum
to 1 and the largest decides; two classes have p and 1 - p; softmax otherwise.

Order of batches: epoch e (from 0) visits `numpy.random.default_rng([seed, 1, e]).permutation(n)` in consecutive slices of
`batch_size`, the last one short; the initial weights are `default_rng([seed, 0]).normal(0, 0.01, (outputs, D))`. A loop
over a DataLoader with that order gives the same weights.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.heads import _pooled
from medprobe.registry import HEADS
from medprobe.types import Context, Samples, State

SAVE_AFTER = 5.0
"""Seconds between checkpoints: a fit shorter than this writes none."""
FEW_STEPS = 500
"""A fit with fewer optimiser steps than this is far from converged at the default learning rate."""


@dataclass(frozen=True)
class LinearProbe:
    """`learning_rate` is the peak, at step 0. `standardise` uses the training mean and population sd."""

    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    learning_rate: float = 5e-3
    weight_decay: float = 1e-6
    batch_size: int = 1024
    epochs: int = 50
    optimizer: Literal["adamw", "sgd"] = "adamw"
    loss: Literal["bce", "ce"] = "bce"
    standardise: bool = False
    selection: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        number, count = _pooled.is_number, _pooled.is_count
        rate, decay = self.learning_rate, self.weight_decay
        _pooled.require(number(rate) and rate > 0, "linear", "learning_rate", "a number > 0", rate)
        _pooled.require(number(decay) and decay >= 0, "linear", "weight_decay", "a number >= 0", decay)
        _pooled.require(count(self.batch_size), "linear", "batch_size", "a whole number >= 1", self.batch_size)
        _pooled.require(count(self.epochs), "linear", "epochs", "a whole number >= 1", self.epochs)
        _pooled.require_one_of("linear", "optimizer", ("adamw", "sgd"), self.optimizer)
        _pooled.require_one_of("linear", "loss", ("bce", "ce"), self.loss)
        _pooled.require_one_of("linear", "selection", ("best", "last"), self.selection)
        _pooled.require(isinstance(self.standardise, bool), "linear", "standardise", "true or false", self.standardise)

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """State: `weight` (outputs, D), `bias` (outputs,) float32; `mean`, `scale` (D,) float64 when standardised."""
        x, y = _pooled.read_training("linear", train, ctx)
        link = self._link(y, _pooled.n_classes(y, ctx))
        steps = self.epochs * math.ceil(len(x) / self.batch_size)
        if steps < FEW_STEPS:
            ctx.warn(
                f"linear: the whole fit takes {steps} optimiser steps, fewer than {FEW_STEPS}, and may be far from "
                "converged; compare logreg, or raise epochs"
            )
        chosen_by = None
        if self.selection == "best":
            chosen_by = _pooled.read_validation("linear", val, ctx, x.shape[1], "so the last epoch is used")
        scaling: dict[str, np.ndarray] = {}
        if self.standardise:
            mean, scale = _pooled.moments(x)
            scaling = {"mean": mean, "scale": scale}
            x = ((x - mean) * scale).astype(np.float32)
            if chosen_by:
                chosen_by = ((chosen_by[0] - mean) * scale).astype(np.float32), chosen_by[1]

        monitor = None
        if chosen_by:
            x_val, score = chosen_by

            def monitor(weight: np.ndarray, bias: np.ndarray) -> float:
                return score(_pooled.probabilities(x_val @ weight.T + bias, link))

        labels = _pooled.indicators(y, _pooled.n_classes(y, ctx))
        labels = labels[:, 1:] if link == "single" else labels
        ((weight, bias, curve),) = train_together(self, x, labels, ctx, (self.learning_rate,), monitor)
        best = None
        if curve:
            best = _pooled.first_best("linear", curve, ctx, "so the last epoch is used")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise MedprobeError("linear: expected finite weights, the fit diverged; lower learning_rate or standardise")
        facts = {"link": link, "steps": steps, "epoch": self.epochs if best is None else best + 1}
        return State({"weight": weight, "bias": bias} | scaling, facts | {"monitor": _pooled.or_none(curve)})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(C,) float64 per sample; see the module for what the probabilities are."""
        tensors = state.tensors
        x = _pooled.read_features("linear", "test", samples, ctx, tensors["weight"].shape[1])
        if "mean" in tensors:
            x = ((x - tensors["mean"]) * tensors["scale"]).astype(np.float32)
        yield from _pooled.probabilities(x @ tensors["weight"].T + tensors["bias"], state.meta["link"])

    def _link(self, y: np.ndarray, classes: int) -> str:
        if self.loss == "ce":
            if y.ndim == 2:
                raise RequestError(
                    "linear: loss 'ce' needs exclusive classes, found multilabel targets; use loss 'bce'"
                )
            return "softmax"
        return "single" if y.ndim == 1 and classes == 2 else "sigmoid"


Fitted = tuple[np.ndarray, np.ndarray, list[float]]
"""Weights (outputs, D) and biases (outputs,) float32, and the monitor of each epoch."""


def train_together(
    head: LinearProbe,
    x: np.ndarray,
    labels: np.ndarray,
    ctx: Context,
    rates: Sequence[float],
    monitor: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> list[Fitted]:
    """One probe per learning rate on the same batches: one wide matrix product instead of many narrow ones.

    x (n, D) and labels (n, outputs) float32, NaN where unlabelled. Each probe equals the one trained alone, up to the
    rounding of the product. Probes of different seeds see different batches, hence a call for each seed. With a
    `monitor` the weights are those of its best epoch, otherwise of the last; a diverged epoch scores NaN.
    """
    import torch

    (n, dim), outputs, many, device = x.shape, labels.shape[1], len(rates), ctx.device
    wide = many * outputs
    features, target, mask = torch.as_tensor(x, device=device), torch.as_tensor(np.ascontiguousarray(labels), device=device), None
    if target.isnan().any():
        mask = (~target.isnan()).float()
        target = target.nan_to_num(0)

    # All parameters, one behind the other: (wide, D) weights, then (wide,) biases.
    values = torch.zeros(wide * (dim + 1), device=device)
    gradient, best = torch.zeros_like(values), torch.zeros_like(values)
    moments = [torch.zeros_like(values) for _ in range(1 if head.optimizer == "sgd" else 2)]
    (weight, bias), (weight_gradient, bias_gradient), (best_weight, best_bias) = (
        (flat[: wide * dim].view(wide, dim), flat[wide * dim :]) for flat in (values, gradient, best)
    )
    first = np.random.default_rng([ctx.seed, 0]).normal(0, 0.01, (outputs, dim)).astype(np.float32)
    weight.copy_(torch.as_tensor(first, device=device).repeat(many, 1))
    rate = torch.as_tensor(rates, dtype=torch.float32, device=device)
    rate = torch.cat([rate.repeat_interleave(outputs * dim), rate.repeat_interleave(outputs)])
    update = _sgd if head.optimizer == "sgd" else _adamw
    curves: list[list[float]] = [[] for _ in rates]

    # What a checkpoint must share with this fit to be continued.
    identity = {**dataclasses.asdict(head), "seed": ctx.seed, "shape": [n, dim, wide], "rates": list(rates)}
    kept = {"values": values, "best": best, **{f"moment{order}": moment for order, moment in enumerate(moments)}}
    begun, found = 0, ctx.checkpoint.load()
    if found is not None and found.meta.get("fit") == identity:
        begun = found.meta["epochs"]
        curves = [[math.nan if score is None else score for score in curve] for curve in found.meta["curves"]]
        for name, tensor in kept.items():
            tensor.copy_(torch.as_tensor(found.tensors[name]))
    saved = time.monotonic()

    per_epoch = math.ceil(n / head.batch_size)
    space = torch.empty(min(n, head.batch_size), dim, device=device)
    for epoch in range(begun, head.epochs):
        order = torch.as_tensor(np.random.default_rng([ctx.seed, 1, epoch]).permutation(n), device=device)
        for step, index in enumerate(order.split(head.batch_size), start=epoch * per_epoch):
            rows = torch.index_select(features, 0, index, out=space[: len(index)])
            logits = torch.addmm(bias, rows, weight.T).view(len(index), many, outputs)
            residual = logits.softmax(dim=2) if head.loss == "ce" else logits.sigmoid_()
            residual.sub_(target.index_select(0, index)[:, None])
            if mask is not None:
                counted = mask.index_select(0, index)
                residual.mul_((counted / counted.sum().clamp(min=1))[:, None])
            else:
                residual.mul_(1 / (len(index) * (1 if head.loss == "ce" else outputs)))
            residual = residual.view(len(index), wide)
            torch.mm(residual.T, rows, out=weight_gradient)
            torch.sum(residual, dim=0, out=bias_gradient)
            cosine = 0.5 * (1 + math.cos(math.pi * step / (per_epoch * head.epochs)))
            update(values, gradient, moments, rate, cosine, head.weight_decay, step + 1)

        for probe, curve in enumerate(curves):
            if monitor is None:
                break
            mine = slice(probe * outputs, (probe + 1) * outputs)
            score = math.nan
            if weight[mine].isfinite().all():
                score = monitor(weight[mine].cpu().numpy(), bias[mine].cpu().numpy())
            if score > max((earlier for earlier in curve if not math.isnan(earlier)), default=-math.inf):
                best_weight[mine], best_bias[mine] = weight[mine], bias[mine]
            curve.append(score)
        ctx.progress(epoch + 1, head.epochs, "linear: epochs")
        if time.monotonic() - saved >= SAVE_AFTER and epoch + 1 < head.epochs:
            meta = {"fit": identity, "epochs": epoch + 1, "curves": [_pooled.or_none(curve) for curve in curves]}
            ctx.checkpoint.save(State({name: tensor.cpu().numpy() for name, tensor in kept.items()}, meta))
            saved = time.monotonic()

    fitted = []
    for probe, curve in enumerate(curves):
        mine = slice(probe * outputs, (probe + 1) * outputs)
        chosen = (weight, bias) if all(math.isnan(score) for score in curve) else (best_weight, best_bias)
        fitted.append((chosen[0][mine].cpu().numpy(), chosen[1][mine].cpu().numpy(), curve))
    return fitted


def _adamw(values: Any, gradient: Any, moments: list[Any], rate: Any, share: float, decay: float, step: int) -> None:
    """One step of `torch.optim.AdamW`; each parameter has its learning rate, `share` of which is due. From step 1."""
    mean, square = moments
    values.addcmul_(values, rate, value=-share * decay)
    mean.lerp_(gradient, 0.1)
    square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    change = square.sqrt().div_(math.sqrt(1 - 0.999**step)).add_(1e-8)
    values.addcmul_(mean / change, rate, value=-share / (1 - 0.9**step))


def _sgd(values: Any, gradient: Any, moments: list[Any], rate: Any, share: float, decay: float, step: int) -> None:
    """One step of `torch.optim.SGD` with momentum 0.9; each parameter has its learning rate, `share` of which is due."""
    (velocity,) = moments
    velocity.mul_(0.9).add_(gradient.add_(values, alpha=decay))
    values.addcmul_(velocity, rate, value=-share)


HEADS.register("linear")(LinearProbe)
