"""What heads for segmentation share: grids and masks as tensors, the loss, the training loop, label maps on the source's pixels.

A head is a network from the grids of a plane to logits; the rest is here. Logits are brought to the size of the mask by
bilinear interpolation, whatever that size is (the paper's "dynamic upsampling"); training compares at a common side.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.heads import _pooled
from medprobe.types import Context, Frame, Kind, Sample, Samples, State

SAVE_AFTER = 20.0
"""Seconds of training between two checkpoints."""
LARGEST_SIDE = 256
IGNORED = -1


@dataclass(frozen=True)
class Segmenter(ABC):
    """Trains `network` on the grids of planes with Dice + cross-entropy (or, where classes overlap, Dice + BCE).

    AdamW, linear warm-up over `warm_up` of all steps, then cosine to 0. Each `evaluate_every` epochs the main score of the
    validation part is taken on whole label maps; the best epoch is kept, the earlier one of equals. `side`: the side at which
    logits and masks are compared in training (None: eight times the grid's, 256 at most, never less than the grid's).
    `flips` mirrors grids and masks left-right and top-bottom: exact for `pixels`, an approximation for a transformer's grid.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grid"})
    kinds: ClassVar[frozenset[Kind]] = frozenset({"segmentation"})
    dims: ClassVar[tuple[int, ...]] = (2,)
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    epochs: int = 100
    batch_size: int = 8
    warm_up: float = 0.05
    side: int | None = None
    flips: bool = False
    evaluate_every: int = 5

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        for field in ("learning_rate", "weight_decay", "warm_up"):
            value = getattr(self, field)
            _pooled.require(_pooled.is_number(value) and value >= 0, name, field, "a number >= 0", value)
        for field in ("epochs", "batch_size", "evaluate_every"):
            _pooled.require(_pooled.is_count(getattr(self, field)), name, field, "a whole number >= 1", getattr(self, field))
        _pooled.require(self.side is None or _pooled.is_count(self.side), name, "side", "a whole number >= 1 or null", self.side)

    @abstractmethod
    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        """A torch module from a list of grids [(N, widths[l], h_l, w_l)] to logits (N, outputs, h', w'), h' at most `side`."""

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """State: the network's tensors; widths, grid, side and the validation curve among its facts."""
        import torch

        data = _Training.read(train, self.side, ctx)
        steps = self.epochs * math.ceil(len(data) / self.batch_size)
        facts = {"widths": data.widths, "grid": list(data.grid), "outputs": data.outputs, "side": data.side}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)
            net = self.network(data.widths, data.grid, data.outputs, data.side).to(ctx.device)
            optimiser = torch.optim.AdamW(net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
            best: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
            curve: list[float] = []
            begun = self._resume(net, optimiser, best, curve, ctx, data)
            saved = time.monotonic()
            if val is None or not len(val):
                ctx.warn("no validation part to choose an epoch on, so the last one is used")
            for epoch in range(begun, self.epochs):
                torch.manual_seed(_epoch_seed(ctx.seed, epoch))
                net.train()
                order = np.random.default_rng([ctx.seed, 1, epoch]).permutation(len(data))
                mirror = np.random.default_rng([ctx.seed, 2, epoch]).random((len(data), 2)) < 0.5
                for start in range(0, len(order), self.batch_size):
                    index = order[start : start + self.batch_size]
                    step = epoch * math.ceil(len(data) / self.batch_size) + start // self.batch_size
                    for group in optimiser.param_groups:
                        group["lr"] = self.learning_rate * _schedule(step, steps, self.warm_up)
                    grids, masks, boxes = data.batch(index, mirror[index] if self.flips else None, ctx.device)
                    if len(index) == 1 and len(order) > 1:
                        continue  # a batch of one has no batch statistics
                    optimiser.zero_grad()
                    loss = segmentation_loss(to_pixels(net(grids), data.grid, boxes, (data.side, data.side)), masks, ctx.multilabel)
                    loss.backward()
                    optimiser.step()
                if not math.isfinite(float(loss.detach())):
                    raise MedprobeError(f"{type(self).__name__.lower()}: the loss is {float(loss.detach())} after epoch {epoch + 1}; lower learning_rate")
                if val is not None and len(val) and ((epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs):
                    score = self._validate(net, data, val, ctx)
                    if not curve or all(math.isnan(each) for each in curve) or score > np.nanmax(curve):
                        best = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
                    curve.append(score)
                ctx.progress(epoch + 1, self.epochs, f"{type(self).__name__.lower()}: epochs")
                if time.monotonic() - saved >= SAVE_AFTER and epoch + 1 < self.epochs:
                    self._keep(net, optimiser, best, curve, epoch + 1, ctx, data)
                    saved = time.monotonic()
        chosen = best if curve and not all(math.isnan(each) for each in curve) else net.state_dict()
        tensors = {name: np.atleast_1d(tensor.detach().cpu().numpy()) for name, tensor in chosen.items()}
        return State(tensors, {**facts, "monitor": _pooled.or_none(curve), "evaluate_every": self.evaluate_every})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(H, W) uint8 class indices per sample, on the pixels of its source; multilabel: (classes, H, W) of 0 and 1."""
        import torch

        facts = state.meta
        net = self.network(facts["widths"], tuple(facts["grid"]), facts["outputs"], facts["side"])
        shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
        net.load_state_dict({name: torch.as_tensor(state.tensors[name]).reshape(shape) for name, shape in shapes.items()})
        net.to(ctx.device).eval()
        for sample in samples:
            yield _predicted(net, sample, tuple(facts["grid"]), ctx)

    def _validate(self, net: Any, data: "_Training", val: Samples, ctx: Context) -> float:
        assert ctx.monitor is not None
        net.eval()
        scores = [ctx.monitor(_predicted(net, sample, data.grid, ctx), sample.target) for sample in val]
        known = [score for score in scores if not math.isnan(score)]
        return float(np.mean(known)) if known else float("nan")

    def _identity(self, ctx: Context, data: "_Training") -> dict[str, Any]:
        return {**asdict(self), "head": type(self).__name__, "seed": ctx.seed, "n": len(data), "widths": data.widths, "side": data.side}

    def _resume(self, net: Any, optimiser: Any, best: dict[str, Any], curve: list[float], ctx: Context, data: "_Training") -> int:
        """Go on from a checkpoint of this very fit; returns the epochs done."""
        import torch

        found = ctx.checkpoint.load()
        if found is None or found.meta.get("fit") != self._identity(ctx, data):
            return 0
        tensors = {name: torch.as_tensor(array) for name, array in found.tensors.items()}
        own = {name: tensors[f"net.{name}"].reshape(value.shape) for name, value in net.state_dict().items()}
        net.load_state_dict(own)
        best.update({name: tensors[f"best.{name}"].reshape(value.shape).to(value.device) for name, value in net.state_dict().items()})
        state = optimiser.state_dict()
        state["state"] = {}
        for number, parameter in enumerate(net.parameters()):
            moments = {name: tensors[f"{name}.{number}"].reshape(parameter.shape) for name in ("exp_avg", "exp_avg_sq")}
            state["state"][number] = {"step": tensors[f"step.{number}"].reshape(()), **moments}
        optimiser.load_state_dict(state)
        curve += [math.nan if score is None else score for score in found.meta["curve"]]
        return int(found.meta["epochs"])

    def _keep(self, net: Any, optimiser: Any, best: dict[str, Any], curve: list[float], epochs: int, ctx: Context, data: "_Training") -> None:
        tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        for number, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}.{number}": state[name] for name in ("step", "exp_avg", "exp_avg_sq")}
        arrays = {name: np.atleast_1d(value.detach().cpu().numpy()) for name, value in tensors.items()}
        ctx.checkpoint.save(State(arrays, {"fit": self._identity(ctx, data), "epochs": epochs, "curve": _pooled.or_none(curve)}))


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, 3, epoch]).generate_state(1)[0])


def _schedule(step: int, steps: int, warm_up: float) -> float:
    """The share of the learning rate at a step: a line up, then half a cosine down to 0."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass(frozen=True)
class _Training:
    """The training part in memory: per level grids (n, D_l, h, w), masks (n, side, side) or (n, K, side, side), boxes (n, 4)."""

    grids: list[Any]
    masks: Any
    boxes: np.ndarray
    side: int
    outputs: int

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def widths(self) -> list[int]:
        return [int(grid.shape[1]) for grid in self.grids]

    @property
    def grid(self) -> tuple[int, int]:
        return int(self.grids[-1].shape[2]), int(self.grids[-1].shape[3])

    @classmethod
    def read(cls, train: Samples, side: int | None, ctx: Context) -> "_Training":
        """RequestError: no samples, volumes, grids that differ in shape or do not fit into memory."""
        import torch
        from torch.nn.functional import interpolate

        if not len(train):
            raise RequestError("the training part is empty; give it cases")
        parts: list[list[Any]] = []
        masks, boxes = [], []
        held = 0
        for number, sample in enumerate(train):
            features = sample.features["image"]
            grids = [np.asarray(grid, dtype=np.float32) for grid in features.grids]
            if not grids or len(grids[-1]) != 1:
                raise RequestError(f"{sample.id}: expected the grid of one plane, found {len(grids[-1]) if grids else 'none'}; this head is for pictures")
            if parts and [grid.shape for grid in grids] != [part.shape for part in parts[0]]:
                raise RequestError(f"{sample.id}: expected grids of one shape for all cases, found {[grid.shape for grid in grids]} and {[part.shape for part in parts[0]]}; give --image-size")
            held += sum(grid.nbytes for grid in grids)
            if ctx.max_ram is not None and held > ctx.max_ram:
                raise MedprobeError(f"the grids of {number + 1} of {len(train)} training cases fill {held / 1e9:.1f} GB already; raise --max-ram, or lower --image-size")
            if side is None:
                smallest = max(grids[-1].shape[2:])
                side = max(smallest, min(8 * smallest, LARGEST_SIDE))
            parts.append(grids)
            labels = np.asarray(sample.target.labels)
            mask = torch.as_tensor(labels.astype(np.float32)).reshape(1, -1, *labels.shape[-2:])
            masks.append(interpolate(mask, size=(side, side), mode="nearest-exact")[0].to(torch.int16))
            boxes.append(_box(features.frame, grids[-1].shape))
            ctx.progress(number + 1, len(train), "reading grids and masks")
        assert side is not None
        stacked = torch.stack(masks)
        levels = [torch.as_tensor(np.concatenate([grids[level] for grids in parts])) for level in range(len(parts[0]))]
        return cls(levels, stacked if ctx.multilabel else stacked[:, 0], np.array(boxes), side, len(ctx.classes))

    def batch(self, index: np.ndarray, mirror: np.ndarray | None, device: str) -> tuple[list[Any], Any, np.ndarray]:
        """Grids, masks and boxes of some cases; `mirror` (len(index), 2) says which are flipped along y and x."""
        import torch

        grids = [grid[index] for grid in self.grids]
        masks = self.masks[index].long()
        if mirror is not None:
            for place, axes in enumerate(mirror):
                flipped = [axis for axis, flip in zip((-2, -1), axes, strict=True) if flip]
                if flipped:
                    masks[place] = torch.flip(masks[place], flipped)
                    for grid in grids:
                        grid[place] = torch.flip(grid[place], flipped)
        return [grid.to(device) for grid in grids], masks.to(device), self.boxes[index]


def _box(frame: Frame | None, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Where the source's plane lies in its grid: top, left, bottom, right in cells."""
    return (0.0, 0.0, float(shape[-2]), float(shape[-1])) if frame is None else frame.box


def to_pixels(logits: Any, grid: tuple[int, int], boxes: np.ndarray, size: tuple[int, int]) -> Any:
    """Logits (N, K, h, w) over a grid to the pixels (N, K, *size) of the sources, bilinear between cell centres.

    `boxes` (N, 4): where each source lies in its grid, in cells of `grid`; beyond the outermost centres the value stays.
    """
    import torch
    from torch.nn.functional import grid_sample, interpolate

    if all(tuple(box) == (0, 0, *grid) for box in boxes):
        return interpolate(logits, size=size, mode="bilinear", align_corners=False)
    tops, lefts, bottoms, rights = (torch.as_tensor(boxes[:, place], dtype=logits.dtype, device=logits.device)[:, None] for place in range(4))
    down, across = ((torch.arange(count, dtype=logits.dtype, device=logits.device) + 0.5)[None] / count for count in size)
    y = 2 * (tops + (bottoms - tops) * down) / grid[0] - 1
    x = 2 * (lefts + (rights - lefts) * across) / grid[1] - 1
    places = torch.stack([x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], dim=-1)
    return grid_sample(logits, places, mode="bilinear", padding_mode="border", align_corners=False)


def segmentation_loss(logits: Any, masks: Any, multilabel: bool, smooth: float = 1e-5) -> Any:
    """Mean of cross-entropy (BCE) plus soft Dice, of logits (N, K, H, W) and masks (N, H, W) or (N, K, H, W).

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


def _predicted(net: Any, sample: Sample, grid: tuple[int, ...], ctx: Context) -> np.ndarray:
    import torch

    features = sample.features["image"]
    grids = [torch.as_tensor(np.array(level, dtype=np.float32), device=ctx.device) for level in features.grids]
    if tuple(grids[-1].shape[2:]) != tuple(grid):
        raise MedprobeError(f"{sample.id}: expected a grid of {tuple(grid)} as in training, found {tuple(grids[-1].shape[2:])}; give --image-size")
    frame = features.frame
    size = frame.shape if frame is not None else (int(grid[0]), int(grid[1]))
    box = np.array([_box(frame, grids[-1].shape)])
    with torch.inference_mode():
        logits = to_pixels(net(grids), (int(grid[0]), int(grid[1])), box, size)[0]
        labels = (logits > 0) if ctx.multilabel else logits.argmax(dim=0)
    return labels.to(torch.uint8).cpu().numpy()
