"""What a head is given: samples that fetch their features and images when asked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from medprobe.errors import CaseError, MedprobeError, RequestError
from medprobe.features.bank import Bank
from medprobe.features.regrid import Regrid
from medprobe.features.rows import side_by_side
from medprobe.imaging import recipes
from medprobe.types import Features, Image, Pooling, Reduce, Sample, Source, stack_targets


@dataclass(frozen=True, slots=True)
class Item:
    """One sample before anything is read: entry keys and sources by role, and which plane when planes are scored."""

    id: str
    patient: str
    keys: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, tuple[Source, ...]]
    target: Any = None
    plane: int | None = None
    spacing: tuple[float, float, float] | None = None
    """(z, y, x) in mm, where the grid of a registration follows from it."""


@dataclass(frozen=True)
class EncodedSamples:
    """The lazy `Samples` of a run. `bank` None gives images only (heads on pixels).

    `describe`: what makes descriptors of a whole image (C, D, H, W), of pictures (`dims` 2) (C, H, W).
    """

    items: Sequence[Item]
    bank: Bank | None
    window: str = "full-range"
    planes: Literal["mean", "max"] = "mean"
    images: bool = False
    reduce: Reduce | None = None
    decode_target: Callable[[Any], Any] | None = None
    describe: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    dims: int = 3
    regrid: Regrid | None = None
    """Brings pairs to the grid on which they are registered, after `reduce` and before `describe`."""
    levels: int | None = None
    """How many of the grids, from the last, the head is given; None: all that there are."""
    vectors: dict[tuple, np.ndarray] = field(default_factory=dict, compare=False)
    """Pooled vectors by (entry keys, pooling, how planes are joined), shared by the parts of one task so that folds pool nothing twice."""
    views: Mapping[str, Bank] = field(default_factory=dict, compare=False, repr=False)
    """Where the features of flipped and turned planes are, by the name of the view."""
    places: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Where the bank keeps each sample, of `located` ones."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        bank = self.bank
        features = {} if bank is None else {role: self._features(item.id, keys, item.plane) for role, keys in item.keys.items()}
        images = {role: recipes.image(sources, self.window) for role, sources in item.sources.items()} if self.images or self.describe else {}
        target = self.decode_target(item.target) if self.decode_target else item.target
        sample = Sample(item.id, item.patient, features, images, target)
        sample = self.reduce(sample) if self.reduce else sample
        sample = self.regrid(sample, item.spacing) if self.regrid else sample
        if not self.describe:
            return sample
        described = {role: self._described(image) for role, image in sample.images.items()}
        return replace(sample, descriptors=described)

    def _described(self, image: Image) -> np.ndarray:
        pixels = image.pixels if self.dims == 3 else image.pixels[:, 0]
        made = [np.asarray(describe(pixels), dtype=np.float32) for describe in self.describe]
        return made[0] if len(made) == 1 else np.concatenate(made)

    def located(self) -> "EncodedSamples":
        """The same samples, looked up in the bank once for all their subsets."""
        return replace(self, places=self._looked_up())

    def subset(self, indices: Sequence[int]) -> "EncodedSamples":
        """The samples at these places, sharing everything that is already pooled or looked up."""
        places = None if self.places is None else self.places[np.asarray(indices, np.int64)]
        return replace(self, items=[self.items[index] for index in indices], places=places)

    def bare(self) -> "EncodedSamples":
        """The same samples with nothing but their targets."""
        return replace(self, bank=None, images=False, describe=(), reduce=None, regrid=None)

    @property
    def targets(self) -> np.ndarray:
        return stack_targets([item.target for item in self.items])

    def pooled(self, pooling: Pooling) -> np.ndarray:
        gathered = self._gathered(pooling)
        if gathered is None:
            gathered = (matrix := np.stack([self._vector(item, pooling) for item in self.items])), np.vdot(matrix, matrix)
        # A sum of squares shows at a tenth of the cost whether a count is worth making.
        matrix, total = gathered
        if not np.isfinite(total) and (bad := int((~np.isfinite(matrix).all(axis=1)).sum())):
            raise MedprobeError(f"{bad} of {len(matrix)} samples have NaN or infinite features; check the encoder's weights, or remove the images")
        return matrix

    def augmented(self, policy: str, rng: np.random.Generator) -> "EncodedSamples":
        """`policy`: the name of a view; its samples have features alone."""
        if policy == "none":
            return self
        if policy not in self.views:
            raise RequestError(f"expected a view that was encoded ({', '.join(self.views) or 'none was'}), found {policy!r}; use 'none'")
        return replace(self, bank=self.views[policy], images=False, describe=(), decode_target=None, places=None)

    def _gathered(self, pooling: Pooling) -> tuple[np.ndarray, float] | None:
        """The vectors of cases of one plane each, and the sum of their squares, read at once; None where the cases are of other kinds, or the bank cannot."""
        places = self._looked_up() if self.places is None else self.places
        if pooling not in ("cls", "patch_mean") or places is None:
            return None
        found: tuple[np.ndarray, float] | None = self.bank.gathered(places, pooling)  # type: ignore[union-attr]  # a bank that has places
        return found

    def _looked_up(self) -> np.ndarray | None:
        look_up = getattr(self.bank, "places", None)
        if look_up is None or not self.items or self.items[0].plane is not None:  # planes are samples of their own for all of a dataset, or for none
            return None
        try:
            found: np.ndarray | None = look_up([key for item in self.items for key, in (item.keys["image"],)])
        except (KeyError, ValueError):  # a pair of images; several channels
            return None
        return found

    def _vector(self, item: Item, pooling: Pooling) -> np.ndarray:
        keys = item.keys["image"]
        place = (keys, pooling, self.planes if item.plane is None else "each")
        if place not in self.vectors:
            planes = self._features(item.id, keys, None).pool(pooling)
            if item.plane is None:
                planes = planes.max(axis=0) if self.planes == "max" else planes.mean(axis=0, dtype=np.float64)
            self.vectors[place] = np.asarray(planes, dtype=np.float32)
        vector = self.vectors[place]
        return vector if item.plane is None else vector[item.plane]

    def _features(self, item: str, keys: tuple[str, ...], plane: int | None) -> Features:
        assert self.bank is not None
        parts = [self.bank.features(key) for key in keys]
        if self.levels is not None:
            parts = [replace(part, grids=part.grids[-self.levels :]) for part in parts]
        if len({(len(_rows(part)), part.frame and part.frame.shape) for part in parts}) > 1:
            found = " and ".join(f"{len(_rows(part))} planes of {' x '.join(map(str, part.frame.shape)) if part.frame else 'any size'}" for part in parts)
            raise CaseError(f"{item}: expected channels of one shape, found {found}; resample them to one grid")
        if plane is not None:
            parts = [_plane(part, plane) for part in parts]
        return parts[0] if len(parts) == 1 else join(parts)


def _rows(features: Features) -> Any:
    """Any of its arrays: they have one row per plane."""
    return next(values for values in (features.cls, features.patch_mean, *features.grids) if values is not None)


def _plane(features: Features, plane: int) -> Features:
    def one(values: Any) -> Any:
        return None if values is None else values[plane : plane + 1]

    return replace(features, cls=one(features.cls), patch_mean=one(features.patch_mean), grids=tuple(map(one, features.grids)))


def join(parts: Sequence[Features]) -> Features:
    """Channels encoded one by one, side by side along D (late fusion)."""

    def beside(values: Sequence[Any]) -> Any:
        return None if any(value is None for value in values) else np.concatenate([np.asarray(value) for value in values], axis=1)

    return Features(
        beside([part.cls for part in parts]), beside([part.patch_mean for part in parts]),
        tuple(side_by_side(level) for level in zip(*(part.grids for part in parts), strict=True)), parts[0].frame,
    )  # fmt: skip
