"""Networks that are trained to predict a displacement, without labels: what `voxelmorph` and `regnet` share.

The network and its settings are those of VoxelMorph (Balakrishnan et al. 2019; Dalca et al. 2019): a U-Net of four halvings on the two
images side by side gives a flow. Integrated (`int_steps` > 0) it is a velocity, brought to half the resolution, integrated by
scaling and squaring and brought back; otherwise it is the displacement itself. The loss is a similarity of the warped moving image and the
fixed one, plus `lambda_weight` times the mean squared forward difference of the flow before integration (twice that at half
resolution, as in the authors' code).
"""

import math
import time
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from medprobe.errors import CaseError, MedprobeError, RequestError
from medprobe.heads import _fits, _pooled
from medprobe.heads._pairs import Registration, images_of, on_own_grid
from medprobe.heads.networks import monai
from medprobe.types import Context, Sample, Samples, State

MULTIPLE = 16
"""Sides are padded to multiples of it with the values at their end: the U-Net halves four times."""
WINDOW = 9
"""Side of the window of local normalised cross-correlation."""
FEW_STEPS = 2000
"""Optimiser steps below which a fit is called short: the flow starts at zero, at a learning rate of 1e-4."""
FLOW_STD = 1e-5
"""Spread of the first weights of the last layer: training starts at the identity."""


@dataclass(frozen=True)
class Flow(Registration):
    """Trained on every training pair, one at a time, by Adam at a constant `learning_rate`.

    Each `evaluate_every` epochs the mean Dice of the validation pairs is taken; the best epoch is kept, the earlier one of equals.
    `similarity`: `mse`, or `lncc`, for which `lambda_weight` 1 is usual. `bidirectional` learns from each pair in both directions.
    `signed` maps images from [0, 1] to [-1, 1]. `int_steps` 0 gives a plain displacement, which may fold.
    """

    learns: ClassVar[bool] = True
    similarity: str = "mse"
    lambda_weight: float = 0.05
    int_steps: int = 7
    half_resolution: bool = True
    learning_rate: float = 1e-4
    epochs: int = 200
    bidirectional: bool = False
    signed: bool = False
    evaluate_every: int = 5
    widths: ClassVar[tuple[int, int, int, int]] = (16, 32, 32, 32)
    """Channels at full, half, quarter and eighth resolution on the way down; on the way up there are 32 everywhere, then 16, 16."""

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        _pooled.require_one_of(name, "similarity", ("mse", "lncc"), self.similarity)
        for field in ("lambda_weight", "learning_rate"):
            value = getattr(self, field)
            _pooled.require(_pooled.is_number(value) and value >= 0, name, field, "a number >= 0", value)
        for field in ("epochs", "evaluate_every"):
            _pooled.require(_pooled.is_count(getattr(self, field)), name, field, "a whole number >= 1", getattr(self, field))
        steps = self.int_steps
        _pooled.require(isinstance(steps, int) and not isinstance(steps, bool) and 0 <= steps <= 20, name, "int_steps", "a whole number of 0 to 20", steps)
        for field in ("half_resolution", "bidirectional", "signed"):
            _pooled.require(isinstance(getattr(self, field), bool), name, field, "true or false", getattr(self, field))

    @abstractmethod
    def seen(self, sample: Sample, images: tuple[Any, Any], ctx: Context) -> tuple[Any, Any]:
        """(fixed, moving), tensors (1, C, *sides): what the network sees of a pair, whose `images` are (1, c, *sides)."""

    def prepare(self, train: Samples, ctx: Context) -> dict[str, np.ndarray]:
        """What is learned of the training pairs before the network, as tensors of the state."""
        return {}

    def reduced(self, sample: Sample, tensors: dict[str, np.ndarray]) -> Sample:
        """The sample with what `prepare` found applied: what is kept in memory while training."""
        return sample

    def loss(self, images: tuple[Any, Any], maps: tuple[Any, Any], flow: Any, displacement: Any) -> Any:
        """The scalar that is minimised; `images` and `maps` are (fixed, moving), (1, C, *sides)."""
        fixed, moving = images
        likeness = mean_square if self.similarity == "mse" else lncc
        scale = 2.0 if self.halved else 1.0
        return likeness(warped(moving, displacement), fixed) + self.lambda_weight * scale * diffusion(flow)

    @property
    def halved(self) -> bool:
        return self.half_resolution and self.int_steps > 0

    def learn(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """State: the network's tensors (`net.`), those of `prepare`, and the validation curve among its facts."""
        import torch

        name = type(self).__name__.lower()
        if not len(train):
            raise RequestError(f"{name}: the training part is empty; give it pairs")
        extra = self.prepare(train, ctx)
        pairs = []
        for number, sample in enumerate(train):
            pairs.append(replace(self.reduced(sample, extra), target=None))
            ctx.progress(number + 1, len(train), "reading pairs")
        channels = self._seen(pairs[0], ctx)[1][0].shape[1]
        turns = (False, True) if self.bidirectional else (False,)
        steps = self.epochs * len(pairs) * len(turns)
        if steps < FEW_STEPS:
            ctx.warn(f"{name}: the whole fit takes {steps} optimiser steps, fewer than {FEW_STEPS}, and may hardly move anything yet; raise head.epochs")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)
            net = self.network(ctx.dims, channels).to(ctx.device)
        optimiser = torch.optim.Adam(net.parameters(), lr=self.learning_rate)
        fit = {**self.identity(), "seed": ctx.seed, "dims": ctx.dims, "pairs": len(pairs), "channels": channels}
        best, curve = _fits.copied(net), list[float]()
        begun = _fits.resume(net, optimiser, best, curve, fit, ctx)
        saved = time.monotonic()
        judged = val is not None and len(val) > 0 and ctx.monitor is not None
        if not judged:
            ctx.warn(f"{name}: no labelled validation pairs to choose an epoch on, so the last one is used")
        for epoch in range(begun, self.epochs):
            net.train()
            visits = [(number, turn) for number in range(len(pairs)) for turn in turns]
            for place, visit in enumerate(np.random.default_rng([ctx.seed, 1, epoch]).permutation(len(visits))):
                number, turn = visits[visit]
                images, maps = self._seen(pairs[number], ctx)
                if maps[0].shape[1] != channels:
                    raise CaseError(f"{pairs[number].id}: expected {channels} channels as in the first training pair, found {maps[0].shape[1]}; give all pairs alike")
                if turn:
                    images, maps = images[::-1], maps[::-1]
                optimiser.zero_grad()
                with _fits.precision(ctx):
                    flow, displacement = net(*maps)
                loss = self.loss(images, maps, flow, displacement)
                if not math.isfinite(float(loss.detach())):
                    raise MedprobeError(f"{name}: the loss is {float(loss.detach())} in epoch {epoch + 1}; lower learning_rate")
                loss.backward()
                optimiser.step()
                ctx.progress(epoch * len(visits) + place + 1, steps, f"{name}: steps")
            if judged and ((epoch + 1) % self.evaluate_every == 0 or epoch + 1 == self.epochs):
                assert val is not None
                score = self._validate(net, extra, val, ctx)
                if not curve or all(math.isnan(each) for each in curve) or score > np.nanmax(curve):
                    best = _fits.copied(net)
                curve.append(score)
            if time.monotonic() - saved >= _fits.SAVE_AFTER and epoch + 1 < self.epochs:
                _fits.keep(net, optimiser, best, curve, epoch + 1, fit, ctx)
                saved = time.monotonic()
        chosen = best if any(not math.isnan(each) for each in curve) else _fits.copied(net)
        tensors = {f"net.{key}": value.cpu().numpy() for key, value in chosen.items()}
        facts = {"channels": channels, "dims": ctx.dims, "monitor": _pooled.or_none(curve), "evaluate_every": self.evaluate_every}
        return State({**tensors, **extra}, facts)

    def displacement(self, state: State, sample: Sample, ctx: Context) -> np.ndarray:
        import torch

        net = self.network(state.meta["dims"], state.meta["channels"])
        net.load_state_dict({name: torch.as_tensor(state.tensors[f"net.{name}"]) for name in net.state_dict()})
        return self._predicted(net.to(ctx.device), dict(state.tensors), sample, ctx)

    def network(self, dims: int, channels: int) -> Any:
        """A module from (fixed, moving), (1, channels, *sides), to the flow before integration and the displacement (1, dims, *sides)."""
        import torch
        from torch import nn
        from torch.nn.functional import pad

        first, second, third, fourth = self.widths
        unet = monai("voxelmorph", "VoxelMorphUNet")(dims, 2 * channels, 32, (first, 32, second, 32, third, 32, fourth, 32), (16, 16))
        last = unet.net[-1].final_conv_out.conv
        nn.init.normal_(last.weight, std=FLOW_STD)
        nn.init.zeros_(last.bias)
        int_steps, halved = self.int_steps, self.halved

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unet = unet
                self.integrate = _block("DVF2DDF", int_steps) if int_steps else nn.Identity()

            def forward(self, fixed: Any, moving: Any) -> tuple[Any, Any]:
                sides = fixed.shape[2:]
                room = [part for side in reversed(sides) for part in (0, -side % MULTIPLE)]
                flow = self.unet(pad(torch.cat([moving, fixed], dim=1), room, mode="replicate")).float()
                if halved:
                    flow = _resized(flow, 0.5)
                found = self.integrate(flow)
                if halved:
                    found = _resized(found, 2.0)
                return flow, found[(..., *map(slice, sides))]

        return Network()

    def _timed(self, channels: int, sample: Sample, ctx: Context) -> tuple[float, float]:
        net = self.network(ctx.dims, self._seen(sample, ctx)[1][0].shape[1])

        def step() -> None:
            images, maps = self._seen(sample, ctx)
            flow, displacement = net(*maps)
            self.loss(images, maps, flow, displacement).backward()

        return _fits.timed(step) * self.epochs * (1 + self.bidirectional), _fits.timed(lambda: self._predicted(net, {}, sample, ctx))

    def _seen(self, sample: Sample, ctx: Context) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """((fixed, moving) images, (fixed, moving) as the network sees them): (1, C, *sides) each, on the device."""
        import torch

        arrays = images_of(sample, ctx.dims)
        if ctx.dims == 3 and arrays[0].shape[1] == 1:
            raise CaseError(f"{sample.id}: {type(self).__name__.lower()} expects volumes of at least two planes, found one; register it as a picture, with dims = 2")
        fixed, moving = (torch.as_tensor(2 * one - 1 if self.signed else one)[None].to(ctx.device) for one in arrays)
        return (fixed, moving), self.seen(sample, (fixed, moving), ctx)

    def _predicted(self, net: Any, tensors: dict[str, np.ndarray], sample: Sample, ctx: Context) -> np.ndarray:
        import torch

        net.eval()
        _images, maps = self._seen(self.reduced(sample, tensors), ctx)
        with torch.inference_mode(), _fits.precision(ctx):
            return net(*maps)[1][0].float().cpu().numpy()

    def _validate(self, net: Any, tensors: dict[str, np.ndarray], val: Samples, ctx: Context) -> float:
        assert ctx.monitor is not None
        moves = ((self._predicted(net, tensors, sample, ctx), sample) for sample in val)
        scores = [ctx.monitor(on_own_grid(u, sample), sample.target) for u, sample in moves]
        known = [score for score in scores if not math.isnan(score)]
        return float(np.mean(known)) if known else math.nan


# -------------------------------------------------------------------------------------------------- warping and loss


def warped(moving: Any, displacement: Any) -> Any:
    """(1, C, *sides) sampled linearly at x + u; outside is 0."""
    return _block("Warp", padding_mode="zeros")(moving, displacement)


def mean_square(found: Any, fixed: Any) -> Any:
    return (found - fixed).square().mean()


def lncc(found: Any, fixed: Any, window: int = WINDOW, smallest: float = 1e-5) -> Any:
    """Minus the mean squared local correlation of (1, C, *sides), over windows of `window` voxels a side; outside is 0."""
    number = window ** (found.ndim - 2)

    def mean(x: Any) -> Any:
        return _box_mean(x, window)

    both = number * (mean(found * fixed) - mean(found) * mean(fixed))
    own = number * (mean(found.square()) - mean(found).square())
    other = number * (mean(fixed.square()) - mean(fixed).square())
    return -(both.square() / (own * other + smallest)).mean()


def diffusion(flow: Any) -> Any:
    """Mean over axes of the mean squared forward difference of (1, dims, *sides), in voxels."""
    axes = range(2, flow.ndim)
    return sum(flow.diff(dim=axis).square().mean() for axis in axes) / len(axes)


def _box_mean(x: Any, window: int) -> Any:
    """Mean over windows of (1, C, *sides), one axis after the other; outside is 0."""
    from torch.nn import functional

    pool = functional.avg_pool2d if x.ndim == 4 else functional.avg_pool3d
    for axis in range(x.ndim - 2):
        sides = [window if place == axis else 1 for place in range(x.ndim - 2)]
        x = pool(x, sides, stride=1, padding=[side // 2 for side in sides])
    return x


def _resized(vectors: Any, factor: float) -> Any:
    """Vectors (1, dims, *sides) on a grid that is finer by `factor`, in voxels of that grid."""
    from torch.nn.functional import interpolate

    mode = "bilinear" if vectors.ndim == 4 else "trilinear"
    return interpolate(vectors * factor, scale_factor=factor, mode=mode, align_corners=True)


def _block(name: str, *given: Any, **named: Any) -> Any:
    """MONAI's block `Warp` or `DVF2DDF`; making one warns of an extension that is not needed."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return monai("voxelmorph", name)(*given, **named)
