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
    made, files = under_seed(lambda: call(Path(path), function), request.seed)
    only_last_layer(request)
    code = digest_of_code(files)
    if isinstance(made, nn.Module):
        digest = hashlib.sha256(f"{code} {digest_state(made.state_dict().items())}".encode()).hexdigest()
        return from_module(request, made, digest)
    if isinstance(made, Encoder) and callable(made):
        return from_encoder(request, made, code)
    raise RequestError(
        f"{request.spec} must return an Encoder or a torch.nn.Module, found {type(made).__name__}; see docs/add-an-encoder.md"
    )


def call(path: Path, function: str) -> tuple[Any, list[Path]]:
    """Import the file under a name of its own, its folder importable as for a script, and call the function.

    Returns what it made, and the files of code: this one and the modules of its folder that it imported.
    """
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
        made = make()
        folder = path.parent.resolve()
        imported = {Path(file) for one in list(sys.modules.values()) if (file := getattr(one, "__file__", None)) and Path(file).is_relative_to(folder)}
        own = [file for file in imported if not {"site-packages", ".venv", "venv"} & set(file.relative_to(folder).parts)]
        return made, sorted({path.resolve(), *own})
    except MedprobeError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"{path}:{function} failed with {type(error).__name__}: {error}; run the function in Python to see where"
        ) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))


def digest_of_code(files: list[Path]) -> str:
    """sha256 over the bytes of the files, in the order of their paths; of a single file, of its bytes alone."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


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
        tied_size=_whole(net, "image_size", None),
        multiple=_whole(net, "multiple", 1) or 1,
        weights_sha256=digest,
    )
    encoder.own_grids = True
    probed(encoder)
    encoder.weights_sha256 = hashlib.sha256(f"{digest} {_answer(encoder)}".encode()).hexdigest()
    return encoder


def from_encoder(request: Request, made: Any, code: str) -> LoadedEncoder:
    """An `Encoder` keeps its own normalisation, device and precision; its inputs are checked as everywhere.

    What it makes of a fixed noise plane enters its digest, besides a `weights_sha256` of its own.
    """
    encoder = LoadedEncoder(
        request,
        made,
        dim=None,
        dims=made.dims,
        channels=made.channels,
        tied_size=_whole(made, "image_size", None),
        multiple=_whole(made, "multiple", 1) or 1,
        interpolates=getattr(made, "interpolates", False),
        weights_sha256=hashlib.sha256(f"{code} {getattr(made, 'weights_sha256', '')}".encode()).hexdigest(),
        licence=getattr(made, "licence", None),
        source=getattr(made, "source", None),
    )
    encoder.own_grids = True
    probed(encoder)
    encoder.weights_sha256 = hashlib.sha256(f"{encoder.weights_sha256} {_answer(encoder)}".encode()).hexdigest()
    return encoder


def _answer(encoder: LoadedEncoder) -> str:
    """What the encoder makes of one plane of noise, as 32 random projections to two decimals: weights that no state dictionary
    holds show in it, the rounding of other threads or machines does not."""
    import numpy as np

    from medprobe.encoders.base import fit_size

    size = fit_size(encoder, 224 if encoder.dims == 2 else 32)
    noise = np.random.default_rng(0).random((1, encoder.channels or 1, *[size] * encoder.dims), dtype=np.float32)
    features = encoder(noise)
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
    try:
        features = encoder(torch.full((1, encoder.channels or 1, *[size] * encoder.dims), 0.5))
    except MedprobeError:
        raise
    except (Exception, SystemExit) as error:
        cure = "set image_size if it takes one size only" + (", or run it with --precision fp32" if encoder.precision == "bf16" else "")
        raise RequestError(f"{encoder.spec} failed on a grey {size}x{size} plane with {type(error).__name__}: {error}; {cure}") from error
    vector = features.cls if features.cls is not None else features.patch_mean
    if encoder.channels is not None and vector is not None:
        encoder.dim = vector.shape[1]
    return encoder


def _three(net: Any, name: str) -> list[float] | None:
    value = getattr(net, name, None)
    if value is None:
        return None
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3:
        raise RequestError(f"the module's {name} must hold three numbers, found {value!r}; give one per colour")
    return numbers


def _whole(made: Any, name: str, default: int | None) -> int | None:
    value = getattr(made, name, default)
    if value is default or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise RequestError(f"the encoder's {name} must be a whole number above 0, found {value!r}; correct it")
