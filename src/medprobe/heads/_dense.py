"""What heads for segmentation share: the loss, the training loop, label maps on the source's pixels.

A head is a network from the grids of a plane (or of a stack of planes) to logits; the rest is here. Logits are brought to the
size of the mask by bilinear interpolation, whatever that size is (the paper's "dynamic upsampling"); training compares at a
common side. Volumes are predicted in pieces of `depth` planes that overlap by half, weighted by a Gaussian (`WINDOW_SIGMA`).
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.heads import _fits, _mirror, _pooled
from medprobe.heads._augment import POLICIES, Augmentation, View, views
from medprobe.heads._crops import IGNORED, Crops, box_of, pieces_of, planes_of, side_of
from medprobe.types import Context, Features, Kind, Sample, Samples, State

WINDOW_SIGMA = 0.125
"""Width of the Gaussian that weights the planes of a window, in windows (nnU-Net's)."""
PLANES_AT_ONCE = 16
LARGEST_SIDE = 4096
FEW_STEPS = 500
"""A fit with fewer optimiser steps than this may be far from converged."""


@dataclass(frozen=True)
class Segmenter(ABC):
    """Trains `network` on the grids of planes with Dice + cross-entropy (or, where classes overlap, Dice + BCE).

    AdamW, linear warm-up over `warm_up` of all steps, then cosine to 0. Each `evaluate_every` epochs the main score of the
    validation part is taken on whole label maps; the best epoch is kept, the earlier one of equals. `side`: the side at which
    logits and masks are compared in training (None: see `_crops`). `flips`: axes along which grids and masks are flipped, each
    with probability one half, and `pairs` the classes that swap then (`_mirror`); `rotate`: turns in the plane by up to so many
    degrees. `augment`: of grids, by views that are encoded, or none (`_augment`); planes are always augmented themselves.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grid"})
    kinds: ClassVar[frozenset[Kind]] = frozenset({"segmentation"})
    dims: ClassVar[tuple[int, ...]] = (2,)
    supervised: ClassVar[bool] = False
    loss: ClassVar[str] = "Dice + cross-entropy"
    optimiser: ClassVar[str] = "AdamW"
    schedule: ClassVar[str] = "cosine"
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    epochs: int = 100
    batch_size: int = 8
    warm_up: float = 0.05
    side: int | None = None
    flips: str = _mirror.AUTO
    pairs: str = _mirror.AUTO
    rotate: float = 15.0
    augment: str = "grids"
    evaluate_every: int = 5

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        for field in ("learning_rate", "weight_decay", "warm_up", "rotate"):
            value = getattr(self, field)
            _pooled.require(_pooled.is_number(value) and value >= 0, name, field, "a number >= 0", value)
        for field in ("epochs", "batch_size", "evaluate_every"):
            _pooled.require(_pooled.is_count(getattr(self, field)), name, field, "a whole number >= 1", getattr(self, field))
        _pooled.require(self.side is None or (_pooled.is_count(self.side) and self.side <= LARGEST_SIDE), name, "side", f"a whole number of 1 to {LARGEST_SIDE}, or null", self.side)
        _pooled.require(self.warm_up <= 1, name, "warm_up", "a number of 0 to 1", self.warm_up)
        _mirror.check(self.flips, self.pairs, name)
        _pooled.require_one_of(name, "augment", POLICIES, self.augment)
        dropout = getattr(self, "dropout", 0.0)
        _pooled.require(_pooled.is_number(dropout) and 0 <= dropout < 1, name, "dropout", "a number from 0 to below 1", dropout)

    @abstractmethod
    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        """A torch module from a list of grids [(N, widths[l], [d,] h_l, w_l)] to logits (N, outputs, [d,] h', w')."""

    @property
    def pieces(self) -> int | None:
        """Planes of a piece of a volume; None for pictures."""
        return None

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """State: the network's tensors; widths, grid, side and the validation curve among its facts."""
        import torch

        self.check(ctx.classes)
        data = Crops.read(train, self.side, self.pieces, ctx)
        augmented = self._augmentation(data, ctx)
        data = data.with_views(train, augmented.encoded, ctx)
        steps = self.epochs * math.ceil(len(data) / self.batch_size)
        facts = {"widths": data.widths, "grid": list(data.grid), "outputs": data.classes, "side": data.side}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)
            net = self.network(data.widths, data.grid, data.classes, data.side).to(ctx.device)
            optimiser = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
            best = _fits.copied(net)
            curve: list[float] = []
            begun = _fits.resume(net, optimiser, best, curve, self._identity(ctx, data), ctx)
            saved = time.monotonic()
            if steps < FEW_STEPS:
                ctx.warn(f"{type(self).__name__.lower()}: the whole fit takes {steps} optimiser steps, fewer than {FEW_STEPS}, and may be far from converged; raise head.epochs")
            if val is None or not len(val):
                ctx.warn("no validation part to choose an epoch on, so the last one is used")
            for epoch in range(begun, self.epochs):
                torch.manual_seed(_epoch_seed(ctx.seed, epoch))
                net.train()
                rng = np.random.default_rng([ctx.seed, 1, epoch])
                pieces = data.drawn(rng)
                for start in range(0, len(pieces), self.batch_size):
                    drawn = pieces[start : start + self.batch_size]
                    step = epoch * math.ceil(len(data) / self.batch_size) + start // self.batch_size
                    for group in optimiser.param_groups:
                        group["lr"] = self.learning_rate * _schedule(step, steps, self.warm_up)
                    draws = augmented.drawn([number for number, _ in drawn], rng)
                    grids, masks, boxes = data.batch(drawn, [draw.view for draw in draws])
                    grids, masks, boxes = augmented(grids, masks, boxes, draws)
                    if len(drawn) == 1 < min(self.batch_size, len(pieces)) and self.pieces is None:
                        continue  # a batch of one has no batch statistics
                    optimiser.zero_grad()
                    with _fits.precision(ctx):
                        logits = net([grid.to(ctx.device) for grid in grids]).float()
                    loss = segmentation_loss(to_pixels(logits, data.grid, boxes, (data.side, data.side)), masks.to(ctx.device), ctx.multilabel)
                    loss.backward()
                    optimiser.step()
                    if self.pieces is not None:
                        ctx.progress(step + 1, steps, f"{type(self).__name__.lower()}: steps")
                if not math.isfinite(float(loss.detach())):
                    raise MedprobeError(f"{type(self).__name__.lower()}: the loss is {float(loss.detach())} after epoch {epoch + 1}; lower learning_rate")
                if val is not None and len(val) and ((epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs):
                    score = self._validate(net, data, val, ctx)
                    if not curve or all(math.isnan(each) for each in curve) or score > np.nanmax(curve):
                        best = _fits.copied(net)
                    curve.append(score)
                ctx.progress(epoch + 1, self.epochs, f"{type(self).__name__.lower()}: epochs")
                if time.monotonic() - saved >= _fits.SAVE_AFTER and epoch + 1 < self.epochs:
                    _fits.keep(net, optimiser, best, curve, epoch + 1, self._identity(ctx, data), ctx)
                    saved = time.monotonic()
        chosen = best if curve and not all(math.isnan(each) for each in curve) else net.state_dict()
        tensors = {name: np.atleast_1d(tensor.detach().cpu().numpy()) for name, tensor in chosen.items()}
        return State(tensors, {**facts, **augmented.facts, "monitor": _pooled.or_none(curve), "evaluate_every": self.evaluate_every})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(H, W) uint8 class indices per sample, on the pixels of its source; multilabel: (classes, H, W) of 0 and 1."""
        import torch

        facts = state.meta
        net = self.network(facts["widths"], tuple(facts["grid"]), facts["outputs"], facts["side"])
        shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
        net.load_state_dict({name: torch.as_tensor(state.tensors[name]).reshape(shape) for name, shape in shapes.items()})
        net.to(ctx.device).eval()
        for sample in samples:
            yield self._predicted(net, sample, tuple(facts["grid"]), ctx)

    def seconds(self, shapes: Sequence[tuple[int, ...]], times: float, own: int, planes: Sequence[Sequence[int]], outputs: int) -> float:
        """About how long a fit and its predictions take: a step and a pass are measured on grids of `shapes` (D_l, h, w), whose
        planes are `times` smaller than the real ones, and scaled by area. `own`: the longer side of a source in pixels;
        `planes`: of each case to train, validate and test on."""
        import torch

        train, val, test = planes
        grid = shapes[-1][1:]
        side = max(1, round((self.side or side_of(max(grid) * times, own, self.pieces)) / times))
        depth = () if self.pieces is None else (self.pieces,)
        batch = min(self.batch_size, 2)
        with torch.random.fork_rng(devices=[]):
            net = self.network([shape[0] for shape in shapes], (grid[0], grid[1]), outputs, side)
            inputs = [torch.rand(batch, shape[0], *depth, *shape[1:]) for shape in shapes]

            optimiser, rng = torch.optim.AdamW(net.parameters(), lr=self.learning_rate), np.random.default_rng(0)
            turning = Augmentation(((),) * batch, (1.0,) * batch, self.rotate, False)
            masks = torch.zeros(batch, *depth, side, side, dtype=torch.int64)

            def step() -> None:
                optimiser.zero_grad()
                boxes = np.tile([0.0, 0.0, *grid], (batch, 1))
                copies = [one.clone() for one in inputs]
                grids, turned, boxes = turning(copies, masks.clone(), boxes, turning.drawn(range(batch), rng))
                segmentation_loss(to_pixels(net(grids), (grid[0], grid[1]), boxes, (side, side)), turned, False).backward()
                optimiser.step()

            def look() -> None:
                with torch.inference_mode():
                    net([one[:1] for one in inputs])

            one_step, one_look = _fits.timed(step), _fits.timed(look)
        steps = self.epochs * math.ceil(sum(pieces_of(one, self.pieces) for one in train) / self.batch_size) * self.batch_size / batch
        in_val, in_test = (sum(1 if self.pieces is None else len(_starts(one, self.pieces)) for one in part) for part in (val, test))
        looks = math.ceil(self.epochs / self.evaluate_every) * in_val + in_test
        return float((steps * one_step + looks * one_look) * times**2)

    def check(self, classes: Sequence[str]) -> None:
        """RequestError for settings that name classes that there are not."""
        _mirror.check_classes(self.pairs, classes, type(self).__name__.lower())

    def views(self, classes: Sequence[str], axes: Sequence[tuple[str, ...]]) -> tuple[View, ...]:
        """Which views of a plane it learns from beside the plane itself, of images whose axes may be any of `axes`."""
        if self.augment != "views" or self.supervised:
            return ()
        flips = [_mirror.flips_of(self.flips, self.pairs, classes, known)[0] for known in axes]
        return views((flip.axis for several in flips for flip in several), self.rotate)

    def _augmentation(self, data: Crops, ctx: Context) -> Augmentation:
        policy = "exact" if self.supervised and self.augment != "none" else self.augment
        flips, rotate = (_mirror.NONE, 0.0) if policy == "none" else (self.flips, self.rotate)
        return Augmentation.of(data, flips, self.pairs, rotate, ctx.classes, policy, ctx.warn)

    def _predicted(self, net: Any, sample: Sample, grid: tuple[int, ...], ctx: Context) -> np.ndarray:
        """Labels ([K,] [D,] H, W) uint8 on the pixels of the source."""
        import torch

        features = sample.features["image"]
        shape = features.grids[-1].shape
        if tuple(shape[2:]) != tuple(grid):
            raise MedprobeError(f"{sample.id}: expected a grid of {tuple(grid)} as in training, found {tuple(shape[2:])}; give --image-size")
        size = features.frame.shape if features.frame is not None else (int(grid[0]), int(grid[1]))
        box = np.array(box_of(features.frame, shape))
        labels = []
        with torch.inference_mode():
            with _fits.precision(ctx):
                logits = _in_windows(net, features, self.pieces, ctx.device).float()
            for start in range(0, len(logits), PLANES_AT_ONCE):
                part = logits[start : start + PLANES_AT_ONCE]
                pixels = to_pixels(part, (int(grid[0]), int(grid[1])), np.tile(box, (len(part), 1)), size)
                labels.append(((pixels > 0) if ctx.multilabel else pixels.argmax(dim=1)).to(torch.uint8).cpu().numpy())
        found = np.concatenate(labels)
        if self.pieces is None:
            return found[0]
        return np.moveaxis(found, 1, 0) if ctx.multilabel else found

    def _validate(self, net: Any, data: Crops, val: Samples, ctx: Context) -> float:
        assert ctx.monitor is not None
        net.eval()
        scores = [ctx.monitor(self._predicted(net, sample, data.grid, ctx), sample.target) for sample in val]
        known = [score for score in scores if not math.isnan(score)]
        return float(np.mean(known)) if known else float("nan")

    def _identity(self, ctx: Context, data: Crops) -> dict[str, Any]:
        return {**asdict(self), "head": type(self).__name__, "seed": ctx.seed, "n": len(data), "widths": data.widths, "side": data.side}


@dataclass(frozen=True)
class VolumeSegmenter(Segmenter):
    """A segmenter of volumes: each plane's grids stacked, (N, D_l, depth, h, w); `depth` planes at a time."""

    dims: ClassVar[tuple[int, ...]] = (3,)
    batch_size: int = 2
    depth: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        _pooled.require(_pooled.is_count(self.depth), type(self).__name__.lower(), "depth", "a whole number >= 1", self.depth)

    @property
    def pieces(self) -> int | None:
        return self.depth


def linear_cells(dims: int, width: int, outputs: int, dropout: float) -> Any:
    """Dropout, batch normalisation and one linear layer on every cell of the last grid."""
    from torch import nn

    drop, norm, convolution = (getattr(nn, f"{name}{dims}d") for name in ("Dropout", "BatchNorm", "Conv"))

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.norm, self.cell = drop(dropout), norm(width), convolution(width, outputs, 1)
            nn.init.normal_(self.cell.weight, std=0.01)
            nn.init.zeros_(self.cell.bias)

        def forward(self, grids: Any) -> Any:
            return self.cell(self.norm(self.drop(grids[-1])))

    return Linear()


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, 3, epoch]).generate_state(1)[0])


def _schedule(step: int, steps: int, warm_up: float) -> float:
    """The share of the learning rate at a step: a line up, then half a cosine down to 0."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def to_pixels(logits: Any, grid: tuple[int, int], boxes: np.ndarray, size: tuple[int, int]) -> Any:
    """Logits (N, K, [d,] h, w) over a grid to the pixels (N, K, [d,] *size) of the sources, bilinear between cell centres.

    `boxes` (N, 4): where each source lies in its grid, in cells of `grid`; beyond the outermost centres the value stays.
    """
    import torch
    from torch.nn.functional import grid_sample, interpolate

    if logits.ndim == 5:
        planes = logits.movedim(2, 1).flatten(0, 1)
        made = to_pixels(planes, grid, np.repeat(boxes, logits.shape[2], axis=0), size)
        return made.unflatten(0, (len(logits), logits.shape[2])).movedim(1, 2)
    if all(tuple(box) == (0, 0, *grid) for box in boxes):
        return interpolate(logits, size=size, mode="bilinear", align_corners=False)
    tops, lefts, bottoms, rights = (torch.as_tensor(boxes[:, place], dtype=logits.dtype, device=logits.device)[:, None] for place in range(4))
    down, across = ((torch.arange(count, dtype=logits.dtype, device=logits.device) + 0.5)[None] / count for count in size)
    y = 2 * (tops + (bottoms - tops) * down) / grid[0] - 1
    x = 2 * (lefts + (rights - lefts) * across) / grid[1] - 1
    places = torch.stack([x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], dim=-1)
    return grid_sample(logits, places, mode="bilinear", padding_mode="border", align_corners=False)


def segmentation_loss(logits: Any, masks: Any, multilabel: bool, smooth: float = 1e-5) -> Any:
    """Mean of cross-entropy (BCE) plus soft Dice, of logits (N, K, ...) and masks (N, ...) or (N, K, ...).

    Soft Dice per sample and class, background left out where classes exclude each other, as MONAI's DiceCELoss with
    include_background=False; pixels at -1 are ignored by both.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

    known = (masks != IGNORED).to(logits.dtype)
    if multilabel:
        truth = masks.clamp(min=0).to(logits.dtype)
        likely = logits.sigmoid() * known
        entropy = (binary_cross_entropy_with_logits(logits, truth, reduction="none") * known).sum() / known.sum().clamp(min=1)
    else:
        truth = one_hot(masks.clamp(min=0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)[:, 1:] * known[:, None]
        likely = logits.softmax(dim=1)[:, 1:] * known[:, None]
        entropy = cross_entropy(logits, masks, ignore_index=IGNORED) if bool(known.any()) else torch.zeros((), device=logits.device)
    both, all_of = (likely * truth).flatten(2).sum(-1), (likely + truth).flatten(2).sum(-1)
    return entropy + (1 - (2 * both + smooth) / (all_of + smooth)).mean()


def _starts(total: int, depth: int) -> list[int]:
    """First planes of the windows over a volume of `total`."""
    return sorted({*range(0, max(total - depth, 0), max(1, depth // 2)), max(total - depth, 0)})


def _in_windows(net: Any, features: Features, depth: int | None, device: str) -> Any:
    """Logits (planes, K, h', w') of a whole case: one pass, or a mean over windows of `depth` planes that overlap by half."""
    import torch

    total = len(features.grids[-1])
    if depth is None:
        return net([planes_of(grid, 0, None)[None].to(device) for grid in features.grids])
    starts = _starts(total, depth)
    places = torch.arange(depth) - (depth - 1) / 2
    weight = torch.exp(-0.5 * (places / (WINDOW_SIGMA * depth)) ** 2)
    weight = weight.clamp(min=float(weight.max()) * 1e-3) if len(starts) > 1 else torch.ones(depth)
    summed, weights = None, torch.zeros(total)
    for start in starts:
        stop = min(start + depth, total)
        logits = net([planes_of(grid, start, depth)[None].to(device) for grid in features.grids])[0, :, : stop - start].movedim(1, 0).float().cpu()
        if summed is None:
            summed = torch.zeros(total, *logits.shape[1:])
        summed[start:stop] += logits * weight[: stop - start, None, None, None]
        weights[start:stop] += weight[: stop - start]
    assert summed is not None
    return summed.div_(weights[:, None, None, None]).to(device)
