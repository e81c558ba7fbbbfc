"""What the heads of registration share: the pair as arrays, the loop over pairs, and choosing settings on validation pairs.

Such a head turns a pair of images on one grid into a displacement (3, D, H, W), components z, y, x, or (2, H, W), y, x, in voxels
of that grid: the moving image is sampled at x + u.
"""

import itertools
import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from medprobe.errors import CaseError, MedprobeError, RequestError
from medprobe.heads import _fits
from medprobe.imaging.displacements import displacement_on
from medprobe.registry import did_you_mean
from medprobe.types import Context, Features, Image, Kind, Sample, Samples, State

ROLES = ("fixed", "moving")
MEASURED = 64


@dataclass(frozen=True)
class Registration:
    """A head for pairs. `tune`: settings to try on the validation pairs, `lambda_weight=0.5|1.25,grid_sp=2|3`: the combination
    of highest mean Dice there is taken, the first of equals; empty takes the settings as they are."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"registration"})
    learns: ClassVar[bool] = False
    min_slices: ClassVar[int] = 0
    """What `task.min_slices` is for volumes, where nobody says otherwise."""
    tune: str = ""

    @property
    def reads(self) -> frozenset[str]:
        """The parts whose pairs are looked at: those of training and validation only where something is learned or chosen."""
        return frozenset({"test", *(("train", "val") if self.learns else ()), *(("val",) if self.tune else ())})

    @abstractmethod
    def displacement(self, state: State, sample: Sample, ctx: Context) -> np.ndarray:
        """(3, D, H, W) or (2, H, W) float32 of one pair, on the grid of the sample."""

    def learn(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """What is learned from training pairs; nothing, unless a head says otherwise."""
        return State()

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """RequestError: `tune` is not understood, or there are no labelled validation pairs to tune on."""
        tried = self.combinations()
        if not tried:
            return self.learn(train, val, ctx)
        if val is None or not len(val) or ctx.monitor is None:
            raise RequestError(f"{type(self).__name__.lower()}: head.tune chooses on labelled validation pairs, found none; add some to the split, or leave head.tune out")
        best, found = -math.inf, (State(), tried[0])
        scores: list[float | None] = []
        for number, settings in enumerate(tried):
            head = replace(self, **settings, tune="")
            state = head.learn(train, val, ctx)
            moves = ((head.displacement(state, sample, ctx), sample) for sample in val)
            each = [ctx.monitor(on_own_grid(u, sample), sample.target) for u, sample in moves]
            known = [score for score in each if not math.isnan(score)]
            mean = float(np.mean(known)) if known else math.nan
            scores.append(None if math.isnan(mean) else mean)
            if mean > best:
                best, found = mean, (state, settings)
            ctx.progress(number + 1, len(tried), "trying settings on validation pairs")
        state, settings = found
        return State(state.tensors, {**state.meta, "tuned": settings, "tried": [{"settings": one, "dice": score} for one, score in zip(tried, scores, strict=True)], "validation_pairs": len(val)})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """One displacement per pair. MedprobeError where it is not finite."""
        head = replace(self, **state.meta.get("tuned", {}), tune="")
        for sample in samples:
            found = np.asarray(head.displacement(state, sample, ctx), dtype=np.float32)
            if not np.isfinite(found).all():
                raise MedprobeError(f"{sample.id}: {type(self).__name__.lower()} gave a displacement that is not finite; check the images, or lower the learning rate")
            yield on_own_grid(found, sample)

    def seconds(self, channels: int, sides: Sequence[int], parts: Sequence[int]) -> float:
        """About how long a fit and its predictions take: measured on a random pair of `sides` ([D,] H, W), cut to 64 voxels each, and
        scaled by its size. `channels` of the feature images; `parts`: pairs to train, validate and test on."""
        small, rng = tuple(min(side, MEASURED) for side in sides), np.random.default_rng(0)
        plane = small if len(sides) == 3 else (1, *small)
        images = {role: Image(rng.random((1, *plane), np.float32)) for role in ROLES}
        sample = Sample("", "", images=images, descriptors={role: rng.random((channels, *small), np.float32) for role in ROLES})
        train, val, test = parts
        tried = len(self.combinations()) if self.tune else 0
        step, look = self._timed(channels, sample, Context(0, dims=3 if len(sides) == 3 else 2))
        return float(math.prod(sides) / math.prod(small) * (train * max(1, tried) * step + (test + val * tried) * look))

    def _timed(self, channels: int, sample: Sample, ctx: Context) -> tuple[float, float]:
        """Seconds that a training pair takes over a whole fit, and a pair to register."""
        return 0.0, _fits.timed(lambda: self.displacement(State(), sample, ctx))

    def combinations(self) -> list[dict[str, Any]]:
        """The settings that `tune` names, as keywords. RequestError for one that does not exist or is given no values."""
        if not self.tune:
            return []
        if not isinstance(self.tune, str):
            raise RequestError(f"head.tune: expected settings and values such as lambda_weight=0.5|1.25, found {self.tune!r}; write it so")
        known = [field.name for field in fields(self) if field.name != "tune"]
        if not known:
            raise RequestError(f"head.tune: {type(self).__name__.lower()} has no settings to choose; leave it out")
        choices: dict[str, list[Any]] = {}
        for part in re.split(r",(?![^\[]*\])", self.tune):
            name, equals, values = (piece.strip() for piece in part.partition("="))
            if name in known and not values:
                raise RequestError(f"head.tune: expected values for {name}, such as {name}={getattr(self, name)}|…, found none; give them")
            if name not in known or not equals:
                raise RequestError(f"head.tune: expected settings and values such as {known[0]}=1|2, found {part!r}; {did_you_mean(name, known)}")
            choices[name] = [_value(text.strip()) for text in values.split("|")]
        tried = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
        for settings in tried:
            replace(self, **settings, tune="")  # says what a setting cannot be before anything is computed
        return tried

    def check(self, dims: int) -> None:
        """RequestError for a setting, or one that `tune` tries, that images of `dims` cannot have."""
        for settings in self.combinations() or [{}]:
            replace(self, **settings, tune="").check_axes(dims)

    def check_axes(self, dims: int) -> None:
        """RequestError for a setting of another number of axes than `dims`."""

    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this head must agree with."""
        return {**asdict(self), "head": type(self).__name__}


def on_own_grid(displacement: np.ndarray, sample: Sample) -> np.ndarray:
    """A displacement on the sample's grid, on that of its images as they are stored."""
    return displacement if sample.shape is None else displacement_on(displacement, sample.shape)


def _value(text: str) -> Any:
    import yaml

    value = yaml.safe_load(text)
    return tuple(value) if isinstance(value, list) else value


def images_of(sample: Sample, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """(fixed, moving) as float32 (C, D, H, W), or (C, H, W) of pictures, in [0, 1]. CaseError: they differ in shape."""
    found = []
    for role in ROLES:
        pixels = np.asarray(sample.images[role].pixels, dtype=np.float32)
        if dims == 2:
            if pixels.shape[1] != 1:
                raise CaseError(f"{sample.id}: expected pictures, found {pixels.shape[1]} planes as {role}; set dims = 3")
            pixels = pixels[:, 0]
        found.append(pixels)
    _check_alike(sample.id, found)
    return found[0], found[1]


def feature_images(sample: Sample, dims: int, alpha: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(fixed, moving) as float32 (C, D, H, W), or (C, H, W): what the encoders make of every voxel of the pair.

    Descriptors as they are; then the maps of an encoder of planes, bilinear from cells to pixels, scaled to unit mean square over
    both images, and to `alpha` times it beside descriptors (methods of DINO-Reg and anatomix, made independent of an encoder's scale).
    """
    parts: list[list[np.ndarray]] = [[], []]
    if sample.descriptors:
        for part, role in zip(parts, ROLES, strict=True):
            part.append(np.asarray(sample.descriptors[role], dtype=np.float32))
    if sample.features:
        maps = [_on_pixels(sample.features[role], dims) for role in ROLES]
        power = math.sqrt(sum(float(np.square(one, dtype=np.float64).sum()) for one in maps) / sum(one.size for one in maps))
        for part, one in zip(parts, maps, strict=True):
            part.append(one * np.float32((alpha if sample.descriptors else 1) / power) if power > 0 else one)
    if not parts[0]:
        raise CaseError(f"{sample.id}: expected features of the pair, found none; give an encoder with dense features")
    for each in zip(*parts, strict=True):
        _check_alike(sample.id, list(each))
    fixed, moving = (part[0] if len(part) == 1 else np.concatenate(part) for part in parts)
    return fixed, moving


def _on_pixels(features: Features, dims: int) -> np.ndarray:
    """A grid (D, C, h, w) on the pixels of its source: (C, D, H, W), or (C, H, W)."""
    import torch

    from medprobe.heads._crops import box_of
    from medprobe.heads._dense import to_pixels

    grid = torch.as_tensor(np.asarray(features.grid, dtype=np.float32))
    size = features.frame.shape if features.frame is not None else (int(grid.shape[2]), int(grid.shape[3]))
    box = np.array(box_of(features.frame, tuple(grid.shape)))
    planes = to_pixels(grid, (int(grid.shape[2]), int(grid.shape[3])), np.tile(box, (len(grid), 1)), size)
    return (planes[0] if dims == 2 else planes.movedim(0, 1)).contiguous().numpy()


def _check_alike(case: str, pair: list[np.ndarray]) -> None:
    if pair[0].shape != pair[1].shape:
        found = " and ".join(" x ".join(map(str, one.shape[1:])) + f" of {len(one)} channels" for one in pair)
        raise CaseError(f"{case}: expected fixed and moving images of one shape, found {found}; resample the moving image onto the fixed grid")
