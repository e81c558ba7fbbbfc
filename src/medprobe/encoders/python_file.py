"""`path/to/file.py:make_encoder`: an encoder of one's own, without registering anything.

The function takes no arguments and returns an `Encoder`, or a `torch.nn.Module` that maps (N, 3, H, W) to (N, D). Of a
module these attributes are read when present: `mean` and `std` (three numbers each; none: the module sees [0, 1]),
`image_size` (tied to that side), `multiple` (sides must be multiples of it), and a method `forward_dense` mapping to
(N, D, h, w). The vector serves as `cls`; `patch_mean` is the mean of the dense map, or the vector where there is none.
A `forward` that calls `self.forward_dense` on its planes is run once for both.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.encoders.base import LoadedEncoder, Request, digest_state, only_last_layer, under_seed, weightless
from medprobe.encoders.code import Modules, digest_of, refuse_edited
from medprobe.encoders.sound import Watch, relative, sees_little
from medprobe.errors import MedprobeError, MissingError, RequestError
from medprobe.registry import ENCODERS, did_you_mean
from medprobe.types import Encoder, Features


@ENCODERS.register("file")
@weightless
def from_file(request: Request) -> LoadedEncoder:
    """An encoder of one's own: `path/to/file.py:make_encoder`; the path is relative to the current folder."""
    from torch import nn

    path, _, function = request.rest.rpartition(":")
    only_last_layer(request)
    if not Path(path).is_file():
        raise MissingError(f"expected a Python file at {path}, found none; check the path (it is relative to {Path.cwd()})")
    modules = Modules(Path(path))
    with modules.in_place():
        made = under_seed(lambda: call(modules, function), request.seed)
        if isinstance(made, nn.Module):
            state = digest_state(made.state_dict().items())
            encoder = from_module(request, made)
        elif isinstance(made, Encoder) and callable(made):
            state = str(getattr(made, "weights_sha256", ""))
            encoder = from_encoder(request, made)
        else:
            raise RequestError(
                f"{request.spec} must return an Encoder or a torch.nn.Module, found {type(made).__name__}; see docs/add-an-encoder.md"
            )
        probed(encoder)
        if isinstance(made, nn.Module):
            encoder.faults += taken_twice(encoder, made)
        known_by_answer(encoder, f"{digest_of(modules.files)} {state}")
        refuse_edited(modules.shared)
    encoder._forward = modules.around(encoder._forward)
    return encoder


def call(modules: Modules, function: str) -> Any:
    """What the function of the file makes."""
    import inspect

    path = modules.path
    try:
        module = modules.run()
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
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"{path}:{function} failed with {type(error).__name__}: {error}; run the function in Python to see where"
        ) from error


def from_module(request: Request, net: Any) -> LoadedEncoder:
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
        tied_size=_whole(net, "image_size", None),
        multiple=_whole(net, "multiple", 1) or 1,
    )
    encoder.own_grids = True
    return encoder


def from_encoder(request: Request, made: Any) -> LoadedEncoder:
    """An `Encoder` keeps its own normalisation, device and precision; its inputs are checked as everywhere."""
    encoder = LoadedEncoder(
        request,
        made,
        dim=None,
        dims=made.dims,
        channels=made.channels,
        tied_size=_whole(made, "image_size", None),
        multiple=_whole(made, "multiple", 1) or 1,
        interpolates=getattr(made, "interpolates", False),
        licence=getattr(made, "licence", None),
        source=getattr(made, "source", None),
    )
    encoder.own_grids = True
    return encoder


def known_by_answer(encoder: LoadedEncoder, digest: str) -> None:
    """Give an encoder of other people's code its digest: of that code and its weights, and of what it makes of noise. What
    changes from call to call is a fault."""
    encoder.own_code = True
    planes = _noise(encoder, 2)
    planes[1] *= 0.25  # two planes of equal mean and spread would hide what batch statistics do
    with failing(encoder, "planes of noise"):
        answer = _answer(encoder)
        said = Watch(encoder).first(planes)
        little = sees_little(encoder, planes)
    encoder.weights_sha256 = hashlib.sha256(f"{digest} {answer}".encode()).hexdigest()
    encoder.faults += [said] if said else []
    encoder.notes += (f"{encoder.spec}: {little}",) if little else ()


def _noise(encoder: LoadedEncoder, planes: int) -> Any:
    from medprobe.encoders.base import fit_size

    size = fit_size(encoder, 224 if encoder.dims == 2 else 32)
    shape = (planes, encoder.channels or 1, *[size] * encoder.dims)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _answer(encoder: LoadedEncoder) -> str:
    """What the encoder makes of one plane of noise, as 32 random projections to two decimals: weights that no state dictionary
    holds show in it, the rounding of other threads or machines does not."""
    features = encoder(_noise(encoder, 1))
    said = []
    for values in (features.cls, features.patch_mean, *features.grids):
        if values is not None:
            vector = np.asarray(values, dtype=np.float64).ravel()
            signs = np.random.default_rng(1).choice([-1.0, 1.0], (32, len(vector)))
            length = float(np.linalg.norm(vector))
            said.append([len(vector), float(f"{length:.2g}"), *np.round(signs @ vector / (length or 1.0), 2).tolist()])
    return hashlib.sha256(repr(said).encode()).hexdigest()


def probed(encoder: LoadedEncoder) -> LoadedEncoder:
    """Called once with a grey plane: what is wrong shows before any data are read, and `dim` is known."""
    import torch

    from medprobe.encoders.base import fit_size

    size = fit_size(encoder, 224 if encoder.dims == 2 else 32)
    with failing(encoder, f"a grey {size}x{size} plane"):
        features = encoder(torch.full((1, encoder.channels or 1, *[size] * encoder.dims), 0.5))
    vector = features.cls if features.cls is not None else features.patch_mean
    if encoder.channels is not None and vector is not None:
        encoder.dim = vector.shape[1]
    return encoder


@contextlib.contextmanager
def failing(encoder: LoadedEncoder, planes: str) -> Iterator[None]:
    """What other people's code raises, as a request that is wrong."""
    try:
        yield
    except MedprobeError:
        raise
    except (Exception, SystemExit) as error:
        cure = "let it take any number of planes, and set image_size if it takes one size only"
        cure += ", or run it with --precision fp32" if encoder.precision == "bf16" else ""
        raise RequestError(f"{encoder.spec} failed on {planes} with {type(error).__name__}: {error}; {cure}") from error


def taken_twice(encoder: LoadedEncoder, net: Any) -> list[str]:
    """What is wrong where the module itself uses its `mean` or `std` too: its answer changes with them."""
    import torch

    planes = torch.as_tensor(_noise(encoder, 1))

    def changes(name: str) -> bool:
        value = getattr(net, name, None)
        if value is None or isinstance(getattr(type(net), name, None), property):
            return False
        before = encoder(planes)
        if isinstance(value, torch.Tensor):
            kept = value.detach().clone()
            value.data.add_(1)
            after = encoder(planes)
            value.data.copy_(kept)
        else:
            moved = value + 1 if isinstance(value, np.ndarray) else type(value)(each + 1 for each in value)
            setattr(net, name, moved)
            after = encoder(planes)
            setattr(net, name, value)
        return relative(after, before) > 0

    with failing(encoder, "planes of noise"):
        return [
            f"{encoder.spec}: its forward uses {name}, and medprobe applies the module's {name} as well; "
            "give it another name in the module, or leave it to medprobe"
            for name in ("mean", "std")
            if changes(name)
        ]


def _three(net: Any, name: str) -> list[float] | None:
    import torch

    value = getattr(net, name, None)
    if value is None:
        return None
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64).detach().flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        numbers = []
    if len(numbers) != 3:
        raise RequestError(f"the module's {name} must hold three numbers, found {value!r}; give one per colour")
    return numbers


def _whole(made: Any, name: str, default: int | None) -> int | None:
    value = getattr(made, name, default)
    if value is default or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise RequestError(f"the encoder's {name} must be a whole number above 0, found {value!r}; correct it")
