"""`path/to/file.py:make_encoder`: an encoder of one's own, without registering anything.

The function takes no arguments and returns an `Encoder`, or a `torch.nn.Module` that maps (N, 3, H, W) to (N, D). Of a
module these attributes are read when present: `mean` and `std` (three numbers each; none: the module sees [0, 1]),
`image_size` (tied to that side), `multiple` (sides must be multiples of it), and a method `forward_dense` mapping to
(N, D, h, w). The vector serves as `cls`; `patch_mean` is the mean of the dense map, or the vector where there is none.
A `forward` that calls `self.forward_dense` on its planes is run once for both.
"""

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from medprobe.encoders.base import LoadedEncoder, Request, digest_state, only_last_layer, under_seed, weightless
from medprobe.errors import MedprobeError, MissingError, RequestError
from medprobe.registry import ENCODERS, did_you_mean
from medprobe.types import Encoder, Features


@ENCODERS.register("file")
@weightless
def from_file(request: Request) -> LoadedEncoder:
    """An encoder of one's own: `path/to/file.py:make_encoder`; the path is relative to the current folder."""
    from torch import nn

    path, _, function = request.rest.rpartition(":")
    made = under_seed(lambda: call(Path(path), function), request.seed)
    only_last_layer(request)
    code = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if isinstance(made, nn.Module):
        digest = hashlib.sha256(f"{code} {digest_state(made.state_dict().items())}".encode()).hexdigest()
        return from_module(request, made, digest)
    if isinstance(made, Encoder) and callable(made):
        return from_encoder(request, made, code)
    raise RequestError(
        f"{request.spec} must return an Encoder or a torch.nn.Module, found {type(made).__name__}; see docs/add-an-encoder.md"
    )


def call(path: Path, function: str) -> Any:
    """Import the file under a name of its own, its folder importable as for a script, and call the function."""
    if not path.is_file():
        raise MissingError(
            f"expected a Python file at {path}, found none; check the path (it is relative to {Path.cwd()})"
        )
    spec = importlib.util.spec_from_file_location(
        f"medprobe_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}", path
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
        make = getattr(module, function, None)
        if not callable(make):
            known = [
                name
                for name, value in vars(module).items()
                if inspect.isfunction(value) and value.__module__ == module.__name__
            ]
            raise RequestError(
                f"{path} has no function {function!r}; {did_you_mean(function, known) if known else 'it defines no function'}"
            )
        return make()
    except MedprobeError:
        raise
    except Exception as error:
        raise RequestError(
            f"{path}:{function} failed with {type(error).__name__}: {error}; run the function in Python to see where"
        ) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))


def from_module(request: Request, net: Any, digest: str) -> LoadedEncoder:
    dense: Any = getattr(net, "forward_dense", None)
    seen: list[tuple[Any, Any]] = []

    def noted(x: Any) -> Any:
        seen.append((x, dense(x)))
        return seen[-1][1]

    if dense is not None:
        net.forward_dense = noted

    def forward(x: Any) -> Features:
        vector = checked(net(x), 2, "(N, D)", "forward")
        if dense is None:
            return Features(vector, vector)
        made = next((grid for planes, grid in seen if planes is x), None)
        seen.clear()
        grid = checked(dense(x) if made is None else made, 4, "(N, D, h, w)", "forward_dense")
        return Features(vector, grid.mean(dim=(2, 3)), (grid,))

    def checked(made: Any, ndim: int, shape: str, method: str) -> Any:
        if getattr(made, "ndim", None) != ndim:
            found = f"shape {tuple(made.shape)}" if hasattr(made, "shape") else type(made).__name__
            raise RequestError(
                f"{request.spec}: {method} must return {shape}, found {found}; change the module's {method}"
            )
        return made

    encoder = LoadedEncoder(
        request,
        forward,
        dim=None,
        net=net,
        mean=_three(net, "mean"),
        std=_three(net, "std"),
        tied_size=getattr(net, "image_size", None),
        multiple=getattr(net, "multiple", 1),
        weights_sha256=digest,
    )
    return probed(encoder)


def from_encoder(request: Request, made: Any, code: str) -> LoadedEncoder:
    """An `Encoder` keeps its own normalisation, device and precision; its inputs are checked as everywhere."""
    encoder = LoadedEncoder(
        request,
        made,
        dim=None,
        dims=made.dims,
        channels=made.channels,
        tied_size=made.image_size,
        multiple=getattr(made, "multiple", 1),
        interpolates=getattr(made, "interpolates", False),
        weights_sha256=hashlib.sha256(f"{code} {getattr(made, 'weights_sha256', '')}".encode()).hexdigest(),
        licence=getattr(made, "licence", None),
        source=getattr(made, "source", None),
    )
    return probed(encoder)


def probed(encoder: LoadedEncoder) -> LoadedEncoder:
    """Called once with a grey plane: what is wrong shows before any data are read, and `dim` is known."""
    import torch

    from medprobe.encoders.base import fit_size

    size = fit_size(encoder, 224 if encoder.dims == 2 else 32)
    try:
        features = encoder(torch.full((1, encoder.channels or 1, *[size] * encoder.dims), 0.5))
    except MedprobeError:
        raise
    except Exception as error:
        raise RequestError(
            f"{encoder.spec} failed on a grey {size}x{size} plane with {type(error).__name__}: {error}; set image_size if it takes one size only"
        ) from error
    vector = features.cls if features.cls is not None else features.patch_mean
    if encoder.channels is not None and vector is not None:
        encoder.dim = vector.shape[1]
    return encoder


def _three(net: Any, name: str) -> list[float] | None:
    value = getattr(net, name, None)
    if value is None:
        return None
    numbers = [float(number) for number in value]
    if len(numbers) != 3:
        raise RequestError(f"the module's {name} must hold three numbers, found {len(numbers)}; give one per colour")
    return numbers
