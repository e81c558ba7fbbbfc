"""What every loaded encoder shares: the input contract, normalisation, freezing, precision and the size rule.

A family (one file of this folder) builds a `LoadedEncoder` around a function from normalised planes to
`Features`; this module does everything that must be the same for all of them.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from medprobe.encoders.sound import of_transform
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.types import Features

Precision = Literal["fp32", "bf16"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

log = logging.getLogger(__name__)
Build = TypeVar("Build", bound=Callable[..., Any])


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, as a family sees it: `rest` is the spec without `random:` and the family's prefix."""

    spec: str
    rest: str
    weights: Path | None = None
    random: bool = False
    device: str = "cpu"
    precision: Precision = "fp32"
    image_size: int | None = None
    layers: tuple[int, ...] | None = None
    seed: int = 0
    levels: int = 1


def weightless(build: Build) -> Build:
    """Mark a family that neither reads a checkpoint nor can draw weights: `load` then refuses both by name."""
    build.weightless = True  # type: ignore[attr-defined]
    return build


def nearest_multiple(size: int, multiple: int) -> int:
    """The multiple nearest to size (the smaller one of two), at least one multiple: 256 by 14 gives 252."""
    below = max(size // multiple, 1) * multiple
    return below if size - below <= below + multiple - size else below + multiple


def fit_size(encoder: Any, wanted: int | None = None) -> int:
    """The side in pixels that planes are resized to for this encoder.

    An encoder's own `image_size` (tied, or the user's) comes first, then `wanted` (the task's), then the encoder's
    default. Where sides must be multiples of a patch, the nearest multiple is taken and logged.
    """
    if encoder.image_size is not None:
        return int(encoder.image_size)
    multiple = getattr(encoder, "multiple", 1)
    size = wanted if wanted is not None else getattr(encoder, "default_size", 224)
    fitted = nearest_multiple(size, multiple)
    if fitted != size:
        log.warning(
            "%s: sides must be multiples of %d, so planes are %d instead of %d", encoder.name, multiple, fitted, size
        )
    return fitted


DENSE_LAYERS = {24: (4, 11, 17, 23)}
"""Depth of a network → the four layers whose grids decoders take, where they are not at even distances (methods of DINOv2)."""


def choose_layers(request: Request, depth: int) -> tuple[int, ...]:
    """0-based layers from shallow to deep: those asked for (negative ones count from the end), else `levels` at even
    distances, the last among them."""
    layers, spec = request.layers, request.spec
    if layers is None:
        if request.levels == 4 and depth in DENSE_LAYERS:
            return DENSE_LAYERS[depth]
        return tuple(sorted({max(0, depth * (level + 1) // request.levels - 1) for level in range(request.levels)}))
    bad = [layer for layer in layers if not -depth <= layer < depth]
    if bad or not layers:
        raise RequestError(
            f"{spec} has layers 0 to {depth - 1}, found {', '.join(map(str, bad)) or 'none'}; choose among those"
        )
    return tuple(sorted({layer % depth for layer in layers}))


def only_last_layer(request: Request) -> None:
    """For families that cannot name layers."""
    if request.layers is not None:
        raise RequestError(
            f"{request.spec} gives its last grid only, found layers {request.layers}; leave the layers out"
        )


def digest_state(tensors: Iterable[tuple[str, Any]]) -> str:
    """sha256 over sorted names, types, shapes and bytes: equal weights have equal digests, whatever file they came from."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class LoadedEncoder:
    """A frozen encoder: called with planes in [0, 1], returns float32 `Features` on the CPU.

    Facts for programs: `name` and `spec` (what was asked for), `dims`, `channels`, `image_size` (set only when tied to
    one size, or when the user chose one), `dim` (of `cls`; None when it depends on the input), `params`, `multiple`
    (sides must be multiples of it), `default_size`, `interpolates` (may leave its own size), `weights_sha256`,
    `transform` (JSON-able: mean, std, grey rule), `licence`, `source`. `net` is the torch module, where there is one; `parts` the encoders that `a+b` is made of; `own_grids`: whether it gives the same grids whichever are asked for.
    `notes` are what the user should hear of how it was loaded, `faults` what makes its features wrong: a run refuses it.
    `own_code`: whether it runs code that is not ours, which is watched while it encodes.
    `describe`, of those that look at a whole image: a function from float32 (C, D, H, W), or (C, H, W), in [0, 1] to (C', D, H, W), or (C', H, W).

    `forward` gets float32 (N, channels, H, W) (or (N, channels, D, H, W)) normalised, on the device asked for; where there is a `net`, under autocast of the precision asked for.
    """

    def __init__(
        self,
        request: Request,
        forward: Callable[[Any], Features],
        *,
        dim: int | None,
        net: Any = None,
        dims: int = 2,
        channels: int | None = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tied_size: int | None = None,
        interpolates: bool = False,
        multiple: int = 1,
        default_size: int = 224,
        weights_sha256: str | None = None,
        licence: str | None = None,
        source: str | None = None,
    ) -> None:
        import torch

        self.name = self.spec = request.spec
        self.layers = list(request.layers) if request.layers is not None else f"{request.levels} levels" if request.levels > 1 else None
        self.dims, self.channels, self.dim = dims, channels, dim
        self.multiple, self.default_size, self.interpolates = multiple, default_size, interpolates
        self.licence, self.source = licence, source
        self.image_size = self._size(request.image_size, tied_size)
        self.precision = request.precision
        self.transform: dict[str, Any] = {
            "mean": list(mean) if mean else None,
            "std": list(std) if std else None,
            "grey": "replicate" if channels == 3 else None,
        }
        self.faults = [f"{self.name}: {said}" for said in of_transform(self.transform)]
        self.parts: tuple[LoadedEncoder, ...] = ()
        self.own_grids = False
        self.notes: tuple[str, ...] = ()
        self.own_code = False
        self.describe: Callable[[np.ndarray], np.ndarray] | None = None
        self._widths: dict[str, int] = {}
        self._forward = forward
        self._device = torch_device(request.device)
        self.net = net
        state = list(net.state_dict().items()) if net is not None else []
        self.params = sum(parameter.numel() for parameter in net.parameters()) if net is not None else 0
        self.weights_sha256 = weights_sha256 or digest_state(state)
        if net is not None:
            net.eval().to(self._device, torch.float32)
            for parameter in net.parameters():  # those of TorchScript know no other way
                parameter.requires_grad_(False)
            if request.precision == "bf16":
                narrow(net)
        shape = (1, -1) + (1,) * dims
        self._mean = torch.tensor(mean).view(shape).to(self._device) if mean else None
        self._std = torch.tensor(std).view(shape).to(self._device) if std else None

    def _size(self, asked: int | None, tied: int | None) -> int | None:
        if asked is None:
            return tied
        if asked < 1:
            raise RequestError(f"{self.name}: the image size must be a positive number of pixels, found {asked}")
        if tied is not None and asked != tied and not self.interpolates:
            raise RequestError(
                f"{self.name} takes {tied}x{tied} planes only, found image size {asked}; leave the image size out"
            )
        size = nearest_multiple(asked, self.multiple)
        if size != asked:
            log.warning(
                "%s: sides must be multiples of %d, so planes are %d instead of %d",
                self.name,
                self.multiple,
                size,
                asked,
            )
        return size

    def __call__(self, x: Any) -> Features:
        """Features of planes x: (N, channels or 1, H, W) numbers in [0, 1], numpy or torch, on any device."""
        import torch

        with torch.no_grad():
            planes = self._checked(torch.as_tensor(x)).to(self._device)
            if self._mean is not None:
                planes = planes - self._mean
            if self._std is not None:
                planes = planes / self._std
            if self.own_code and self._mean is None and self._std is None:
                planes = planes.clone()  # it may write into them, and others see them too
            if self.net is not None and self.net.training:
                self.net.eval()
            # Replicated grey is three views of one plane until here: a network may write into one of them.
            with without_tf32(self._device), torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16" and self.net is not None):
                made = self._forward(planes.contiguous())
            self._check_made(made, len(planes))
            return Features(
                plain(made.cls), plain(made.patch_mean), tuple(plain(grid) for grid in made.grids), made.frame
            )

    def _check_made(self, made: Features, planes: int) -> None:
        """One row of real numbers for every plane, and vectors as long as always."""
        for name, ndim, values in (("cls", 2, made.cls), ("patch_mean", 2, made.patch_mean), *(("grid", self.dims + 2, grid) for grid in made.grids)):
            if values is None:
                continue
            shape = tuple(values.shape)
            if len(shape) != ndim or shape[0] != planes:
                raise RequestError(f"{self.name}: expected {name} with {ndim} axes and one row for each of {planes} planes, found shape {shape}; change what the encoder returns")
            if "complex" in str(values.dtype):
                raise RequestError(f"{self.name}: expected real numbers as {name}, found {values.dtype}; return their real part or magnitude")
            if ndim == 2 and self.channels is not None and self._widths.setdefault(name, shape[1]) != shape[1]:
                raise RequestError(f"{self.name}: expected {name} of {self._widths[name]} numbers as before, found {shape[1]}; return vectors of one length whatever the batch")

    def _checked(self, x: Any) -> Any:
        """The planes as float32 with the right number of channels, or an error that names what is wrong."""
        axes = "planes, channels, " + ("height, width" if self.dims == 2 else "depth, height, width")
        if x.ndim != self.dims + 2:
            raise RequestError(
                f"{self.name} takes {self.dims + 2} axes ({axes}), found shape {tuple(x.shape)}; reshape the planes"
            )
        if x.dtype.is_complex or not x.numel():
            raise RequestError(
                f"{self.name} takes at least one plane of real numbers, found {x.dtype} of shape {tuple(x.shape)}"
            )
        if self.channels is not None and x.shape[1] not in {1, self.channels}:
            raise RequestError(
                f"{self.name} takes {self.channels} channels, or 1 that is replicated, found {x.shape[1]}; encode the channels one by one"
            )
        sides = tuple(x.shape[2:])
        text = "x".join(map(str, sides))
        if self.image_size is not None and not self.interpolates and any(side != self.image_size for side in sides):
            size = "x".join([str(self.image_size)] * self.dims)
            raise RequestError(f"{self.name}: image is {text} but the encoder is tied to {size}; resize to {size}")
        if any(side % self.multiple for side in sides):
            better = "x".join(str(nearest_multiple(side, self.multiple)) for side in sides)
            raise RequestError(
                f"{self.name}: image is {text} but sides must be multiples of {self.multiple}; resize to {better}"
            )
        x = x.float()
        low, high = (float(value) for value in x.aminmax())
        if low != low or high in {float("inf"), float("-inf")} or low in {float("inf"), float("-inf")}:
            raise CaseError(
                f"{self.name}: expected finite values in [0, 1], found NaN or infinity in the planes; check the image file"
            )
        if low < -0.5 or high > 1.5:
            raise RequestError(
                f"{self.name}: expected values in [0, 1], found {low:g} to {high:g}; apply the window first, or divide 8-bit values by 255"
            )
        if self.channels is not None and x.shape[1] != self.channels:
            x = x.expand(-1, self.channels, *sides)
        return x


def without_tf32(device: Any) -> Any:
    """A context in which convolutions of fp32 on a GPU are of fp32: torch takes TF32 for them, of 10 bits, unless told otherwise."""
    import torch

    if device.type != "cuda":
        return contextlib.nullcontext()
    now = torch.backends.cudnn
    return now.flags(enabled=now.enabled, benchmark=now.benchmark, deterministic=now.deterministic, allow_tf32=False)


def narrow(net: Any) -> None:
    """Weights of matrix products and convolutions as bf16, so that autocast need not convert them for every batch; those of
    norms, and what a transformer adds to its residual stream, stay fp32."""
    import torch

    for module in net.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.modules.conv._ConvNd):
            module.to(torch.bfloat16)


def plain(tensor: Any) -> Any:
    """Float32 on the CPU, contiguous; None stays None."""
    import torch

    return None if tensor is None else torch.as_tensor(tensor).detach().float().cpu().contiguous()


def torch_device(device: str) -> Any:
    """The torch device of this name, or an error when the machine does not have it."""
    import torch

    try:
        found = torch.device(device)
    except RuntimeError:
        raise RequestError(f"device must be cpu, cuda or cuda:N, found {device!r}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise MissingError(f"device {device} was asked for, but this machine has no CUDA device; use cpu")
    return found


def under_seed(make: Callable[[], Any], seed: int) -> Any:
    """What `make()` returns when torch's CPU generator starts at the seed; the generator is put back afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
