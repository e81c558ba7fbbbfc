"""The nouns of medprobe: what flows between its parts, and the few protocols a new part must satisfy.

Nothing here imports torch. Arrays are numpy arrays, except that an encoder called directly returns
`Features` of torch tensors on the CPU; `numpy.asarray` reads both.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from medprobe.errors import RequestError

Split = Literal["train", "val", "test"]
Pooling = Literal["cls", "patch_mean", "cls_patch_mean"]
Kind = Literal["classification", "bags", "segmentation", "instances", "registration"]
Axis = Literal["axial", "coronal", "sagittal"]
Orientation = Literal["radiological", "canonical"]
Channels = Literal["late", "rgb"]

# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Lattice:
    """A grid made for a volume or picture: `shape` (z, y, x) in voxels, `spacing` (z, y, x) in mm.

    `spacing` None divides each whole plane, as its file stores it, evenly into `shape`: such a grid has neither spacing nor affine.
    Else it runs along the canonical axes of a file, its middle on that of the volume, or, with `around`, a file of labels, in y and x
    on the centroid of `label`: a window that is the same for all volumes that name this file.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None = None
    around: Path | None = None
    label: int = 1

    def facts(self, digests: Mapping[Path, str]) -> list[Any]:
        """What a key holds of it: its numbers, and the bytes of `around`, never their name."""
        return [self.shape, self.spacing, *([] if self.around is None else [digests.get(self.around), self.label])]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the pixels of one channel are: a file, a dataset inside a file, or frames of a video or of a folder.

    `member` names an array in a container (`file.h5:/raw`), or the entry of a fourth axis of NIfTI ("0", "1", ...); of masks in
    pictures it says how their numbers are read (imaging/labels.py). `frames` are 0-based indices of decoded frames
    (video), of the sorted image files of a folder, or of planes along `axis`; None takes all of them. `rescale` (slope,
    intercept) is for files whose own header does not say what their numbers mean. `grid` is the file on whose voxels this
    volume is laid, or a `Lattice`, on which masks are laid too. `window`, `axis`, `orientation`: set by a run, from its
    task. `plane`: the case is one plane of pixels (dims = 2), so that axes of length 1, 3 or 4 are channels, and a thin volume is its slice.
    """

    path: Path
    member: str | None = None
    frames: tuple[int, ...] | None = None
    rescale: tuple[float, float] | None = None
    grid: Path | Lattice | None = None
    window: str | None = None
    axis: Axis = "axial"
    orientation: Orientation = "canonical"
    plane: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        other = self.grid.around if isinstance(self.grid, Lattice) else self.grid
        return (self.path,) if other is None else (self.path, other)

    @property
    def divided(self) -> bool:
        """Whether its planes are taken as the file stores them and divided evenly into a lattice, which then lies nowhere."""
        return isinstance(self.grid, Lattice) and self.grid.spacing is None


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is scored, by paths: never pixels.

    `images` maps a role (`image`; or `fixed` and `moving`) to its ordered channels. `target` is a class index,
    a tuple of 0/1/NaN per class (multilabel; NaN = unlabelled), `Source`s of masks, or None (unlabelled). In a
    dataset with `unit="plane"` it is a tuple with one such target per plane.
    """

    id: str
    patient: str
    images: Mapping[str, tuple[Source, ...]]
    target: Any = None
    split: Split | None = None
    fold: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """Decoded pixels: float32 (C, D, H, W), D = 1 in 2D, after the recipe's window, before any three-channel rule.

    `spacing` is (z, y, x) in mm, `affine` the 4x4 voxel-to-world matrix in (x, y, z) order; None where a file has none.
    """

    pixels: np.ndarray
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """Who the patients are: one per file of `medprobe.datasets`; its docstring page is the module's docstring.

    `cases(root)` reads the official layout (standard library and numpy/pandas only, no pixels) and raises
    `MissingError` listing the count and first names of what is missing. `twin(root, rng)` writes a tiny synthetic
    copy of that layout under root. `counts` maps `train|val|test` (or `fold0`, `fold1`, ...) to the number of cases of
    the release. `official_leak` says which patients the official split shares between its parts (reported, not hidden).
    `crop` is a named spatial recipe: a pure function of one decoded uint8 plane (H, W, 3) of a raw video, before any resize;
    its name enters the feature key. Frames prepared as image files are taken as they are.
    """

    name: str
    kind: Kind
    dims: Literal[2, 3]
    modality: str
    classes: tuple[str, ...]
    licence: str
    source: str
    citation: str
    cases: Callable[[Path], Iterable[Case]]
    twin: Callable[[Path, np.random.Generator], None] | None = None
    version: int = 1
    multilabel: bool = False
    unit: Literal["case", "plane"] = "case"
    counts: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Per split of the release: first 16 hex digits of the sha256 of its sorted case ids joined by newlines."""
    folders: tuple[str, ...] = ()
    """Usual names of its folder under the data root, besides `name`."""
    markers: tuple[str, ...] = ()
    """Files or folders at its top, any of which tells that a given data root is this dataset itself."""
    recipe: str = "full-range"
    grey: bool = False
    """One channel whatever the files hold (grey images stored as RGBA)."""
    crop: Callable[[np.ndarray], np.ndarray] | None = None
    official_leak: str | None = None
    note: str | None = None
    root: Path | None = None
    """Set for manifests: where they are; the data root is then not needed."""
    values: tuple[int, ...] | None = None
    """In masks, the value of each class; None is 0…K-1."""
    ignore: int | None = None
    """In masks, the value of what is not scored."""
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Unions of classes that are scored as one mask beside the classes: name → classes."""


# ------------------------------------------------------------------------------------------ features


@dataclass(frozen=True)
class Frame:
    """How a grid lies on its source plane: `shape` (H, W) of the source in pixels, and the box
    (top, left, bottom, right) of the grid, in grid units, that shows content (less than the grid where it was padded)."""

    shape: tuple[int, int]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Features:
    """What an encoder makes of N planes.

    `cls` (N, D) or None; `patch_mean` (N, D), the mean over patch tokens; `grids` from shallow to deep, each
    (N, D_l, h, w), or (N, D_l, d, h, w) for a 3D encoder. float32.
    """

    cls: Any = None
    patch_mean: Any = None
    grids: tuple[Any, ...] = ()
    frame: Frame | None = None

    @property
    def grid(self) -> Any:
        """The deepest grid."""
        if not self.grids:
            raise RequestError("these features hold no grid; ask for a head that needs `grid`, or an encoder with forward_dense")
        return self.grids[-1]

    def pool(self, pooling: Pooling) -> np.ndarray:
        """(N, D) float32 vectors: the class token, the mean over patches, or both side by side."""
        parts = {"cls": (self.cls,), "patch_mean": (self.patch_mean,), "cls_patch_mean": (self.cls, self.patch_mean)}
        if pooling not in parts:
            raise RequestError(f"pooling must be one of {', '.join(parts)}, found {pooling!r}")
        if any(part is None for part in parts[pooling]):
            missing = "class token" if self.cls is None else "patch grid"
            raise RequestError(f"pooling {pooling!r} needs a {missing}, which this encoder does not have; use --set task.pooling=" + ("patch_mean" if self.cls is None else "cls"))
        return np.concatenate([np.asarray(part, dtype=np.float32) for part in parts[pooling]], axis=1)


@dataclass(frozen=True)
class Sample:
    """One case as a head sees it. `features`, `images` and `descriptors` are by role; `target` is the decoded target.

    `descriptors` (C, D, H, W), or (C, H, W) of pictures: what encoders that look at a whole image (`mind`, `pixels`) make of it, voxel by voxel.
    """

    id: str
    patient: str
    features: Mapping[str, Features] = field(default_factory=dict)
    images: Mapping[str, Image] = field(default_factory=dict)
    target: Any = None
    descriptors: Mapping[str, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None
    """Of a pair that is registered on another grid than its own: the shape (z, y, x) of its own."""


@runtime_checkable
class Samples(Protocol):
    """A lazy sequence of samples; from memory map, stream or re-encoding, a head cannot tell."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...

    @property
    def targets(self) -> np.ndarray:
        """(n,) int64 class indices, or (n, classes) float32 with NaN where unlabelled (multilabel)."""
        ...

    def pooled(self, pooling: Pooling) -> np.ndarray:
        """(n, D) float32: one vector per sample, the mean over its planes."""
        ...

    def augmented(self, policy: str, rng: np.random.Generator) -> "Samples":
        """The same samples under one random draw of the named policy."""
        ...


@dataclass(frozen=True)
class SampleList:
    """Samples held in memory: for tests, notebooks and small data."""

    items: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        return self.items[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)

    @property
    def targets(self) -> np.ndarray:
        return stack_targets([item.target for item in self.items])

    def pooled(self, pooling: Pooling) -> np.ndarray:
        return np.stack([item.features["image"].pool(pooling).mean(axis=0) for item in self.items])

    def augmented(self, policy: str, rng: np.random.Generator) -> "SampleList":
        if policy == "none":
            return self
        raise RequestError(f"these samples hold no pixels or views for augmentation {policy!r}; use 'none'")


def stack_targets(targets: Sequence[Any]) -> np.ndarray:
    """Class indices as (n,) int64, 0/1/NaN tuples as (n, classes) float32."""
    if len(targets) and np.ndim(targets[0]) == 1:
        return np.asarray(targets, dtype=np.float32)
    return np.asarray(targets, dtype=np.int64)


# ------------------------------------------------------------------------------------ encoders, heads


@runtime_checkable
class Encoder(Protocol):
    """Planes to features. Frozen, in evaluation mode, without gradients; never told dataset, split or label.

    Called with x of shape (N, channels, H, W), or (N, channels, D, H, W) for `dims` 3, values in [0, 1];
    normalisation and grey-to-three-channels live inside. `channels` None takes any number. `image_size` is set
    only when the encoder is tied to one input size.
    """

    name: str
    dims: int
    channels: int | None
    image_size: int | None

    def __call__(self, x: Any) -> Features: ...


@dataclass(frozen=True)
class State:
    """A fitted head: named arrays and JSON-able facts; stored as safetensors with a JSON header, never pickled."""

    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write atomically: a reader sees the old file or the new one."""
        from safetensors.numpy import save

        from medprobe.files import write_atomically

        arrays = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        write_atomically(path, save(arrays, metadata={"meta": json.dumps(dict(self.meta))}))

    @classmethod
    def load(cls, path: Path) -> "State":
        from safetensors import safe_open

        with safe_open(str(path), framework="numpy") as file:
            names = list(file.keys())
            return cls({name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["meta"]))


@runtime_checkable
class Checkpoint(Protocol):
    """Where a long fit keeps its progress: `load()` gives what the last `save` wrote, or None."""

    def load(self) -> State | None: ...

    def save(self, state: State) -> None: ...


class NoCheckpoint:
    """Keeps nothing: for heads that fit in seconds."""

    def load(self) -> State | None:
        return None

    def save(self, state: State) -> None:
        return None


@dataclass(frozen=True)
class Context:
    """Everything a head may know besides its samples.

    `monitor(prediction, target)` is what choices on validation go by, higher is better: the task's monitor of all predictions,
    or, of dense tasks, the mean Dice of one case. `warn`
    collects sentences shown to the user and kept in the result. `progress(done, total, what)` may be called often.
    """

    seed: int
    classes: tuple[str, ...] = ()
    multilabel: bool = False
    dims: Literal[2, 3] = 2
    pooling: Pooling = "cls"
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    max_ram: int | None = None
    monitor: Callable[[np.ndarray, Any], float] | None = None
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    progress: Callable[[int, int, str], None] = lambda done, total, what: None
    warn: Callable[[str], None] = lambda sentence: None

    @property
    def rng(self) -> np.random.Generator:
        """A fresh generator of the head's own child seed."""
        return np.random.default_rng(self.seed)


@runtime_checkable
class Head(Protocol):
    """Features to predictions. A frozen dataclass: its fields are its configuration.

    `needs` is a subset of {"pooled", "grid", "image", "encoder"}. A head for another kind of dataset than classification
    has a class attribute `kinds`, the set of those it answers, and `dims` where it is for 2 or 3 dimensions only; one that trains a
    network of its own from pixels has `supervised` = True, and is then no control on the encoder `pixels`. `predict` yields one array per sample, in order:
    for classification the (classes,) probabilities.
    """

    needs: frozenset[str]

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State: ...

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]: ...


@runtime_checkable
class Reduce(Protocol):
    """A named step of a task between features and head; a frozen dataclass, keyed by its fields."""

    def __call__(self, sample: Sample) -> Sample: ...


@dataclass(frozen=True)
class Model:
    """A line of the user's request: the name she typed, the spec it stands for, and a local checkpoint."""

    name: str
    spec: str
    weights: Path | None = None


# ------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Score:
    """One number with what is needed to defend it. Undefined values are NaN and counted in `n_undefined`."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    unit: str | None = None
    higher_is_better: bool = True
    n_cases: int = 0
    n_patients: int = 0
    n_undefined: int = 0
    per_class: Mapping[str, float] = field(default_factory=dict)
    small: str | None = None
    """What is too few for an interval as good as its name, or for any: "7 patients"."""
    coverage: float | None = None
    """Of the interval, simulated on test sets like this one, where classes are few and exclusive."""


# -------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True)
class Task:
    """What is asked, of whom: a dataset, a head, and the methods paragraph as values."""

    dataset: str
    head: str
    head_config: Mapping[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    fit_rule: Literal["squash", "pad", "crop"] = "squash"
    resize: Literal["bicubic", "bilinear", "area"] = "bicubic"
    window: str = "full-range"
    pooling: Pooling = "cls"
    planes: Literal["mean", "max"] = "mean"
    channels: Channels = "late"
    stride: int = 1
    axis: Axis = "axial"
    orientation: Orientation = "radiological"
    warp: Literal["nearest", "linear"] = "nearest"
    min_slices: int = 0
    """Fewest voxels along each axis of the grid on which volumes are registered."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size (z, y, x) in mm of that grid; None: the image's own."""
    reduce: str | None = None
    layers: tuple[int, ...] | None = None
    main: str = "auroc"
    monitor: str = "auroc"
    split_seed: int = 0
    threshold: str = "youden_val"
    table: int | None = None
    protocol: int = 1

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.head}"

    def config(self) -> dict[str, Any]:
        """All fields as JSON. Fields added later are omitted at their default, so that keys of
        existing results stay valid."""
        added = {
            "channels": "late", "stride": 1, "axis": "axial", "orientation": "canonical", "warp": "nearest",
            "min_slices": 0, "spacing": None,
        }  # fmt: skip
        values = dataclasses.asdict(self).items()
        fields = {name: value for name, value in values if added.get(name, ...) != value}
        return json.loads(json.dumps(fields, default=str))
