"""Planes to features: `load("timm:vit_small_patch16_dinov3.lvd1689m")` gives a frozen encoder to call.

A spec is `FAMILY:REST` (one file of this folder per family), a control (`pixels`, `mean-rgb`), a descriptor of whole images (`mind`, `anatomix`) or `file.py:function`.
`random:` before a spec draws its weights from the seed instead of reading them; `a+b` puts the features of
two encoders side by side.
"""

import functools
import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

from medprobe.encoders.base import LoadedEncoder, Precision, Request, fit_size, under_seed
from medprobe.encoders.code import digest_of, files_of_module, refuse_edited
from medprobe.encoders.combined import combine
from medprobe.encoders.features_dir import StoredFeatures
from medprobe.encoders.python_file import known_by_answer, probed
from medprobe.errors import MissingError, RequestError
from medprobe.registry import ENCODERS

__all__ = ["LoadedEncoder", "StoredFeatures", "fit_size", "load"]


def load(
    spec: str,
    *,
    weights: Path | str | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    image_size: int | None = None,
    layers: tuple[int, ...] | None = None,
    levels: int = 1,
    seed: int = 0,
) -> LoadedEncoder:
    """The encoder of a spec, frozen and ready to call.

    `weights` is a local checkpoint (nothing is downloaded then); `image_size` the side the user asks for; `layers` the
    0-based layers whose grids to return (None: `levels` of them at even distances up to the last, where the family can name
    layers); `seed` draws the weights of `random:` specs.
    `features:DIR` gives a `StoredFeatures` instead, which knows case ids, not pixels.
    RequestError: the spec or an option is wrong. MissingError: weights are not there or do not fit.
    """
    if precision not in ("fp32", "bf16"):
        raise RequestError(f"precision must be fp32 or bf16, found {precision!r}")
    file = Path(weights) if weights is not None else None
    if file is not None and not file.is_file():
        raise MissingError(f"expected a checkpoint at {file}, found no file there; check the path given as weights")
    parts = parts_of(spec)

    def one(part: str, file: Path | None) -> LoadedEncoder:
        family, rest, random = parse(part)
        build = ENCODERS.get(family)
        if getattr(build, "weightless", False) and (random or file):
            raise RequestError(
                f"{part} has no weights to "
                + ("draw; leave random: out" if random else f"load from {file}; leave the weights out")
            )
        if random and file:
            raise RequestError(f"{part} draws its weights, but a checkpoint was given too ({file}); choose one of them")
        request = Request(part, rest, file, random, device, precision, image_size, layers, seed, levels)
        made = under_seed(lambda: build(request), seed) if is_plugged_in(build) else build(request)
        if is_plugged_in(build) and isinstance(made, LoadedEncoder):
            plugged_in(made, build)
        return made

    if len(parts) == 1:
        return one(spec, file)
    takers = [
        part for part in parts if not parse(part)[2] and not getattr(ENCODERS.get(parse(part)[0]), "weightless", False)
    ]
    if file is not None and len(takers) != 1:
        raise RequestError(
            f"one checkpoint was given for {spec}, in which {len(takers)} parts take one; run the parts one by one"
        )
    loaded = [one(part, file if part in takers else None) for part in parts]
    return combine(Request(spec, spec, file, False, device, precision, image_size, layers, seed, levels), loaded)


def is_plugged_in(build: Any) -> bool:
    """Whether a family comes from another package, or from a script."""
    return not module_of(build).startswith("medprobe.")


def module_of(build: Any) -> str:
    """The module whose code a family is: of a wrapped function, of a class, or of the class of an object."""
    while isinstance(build, functools.partial):
        build = build.func
    build = inspect.unwrap(build)
    return str(getattr(build, "__module__", None) or type(build).__module__)


def plugged_in(made: LoadedEncoder, build: Any) -> None:
    """The code of another package enters the digest with what it makes of noise."""
    known_by_answer(probed(made), f"{code_of(build)} {made.weights_sha256}")


def code_of(build: Any) -> str:
    """sha256 of the code of a function or class: of its module and all that this imports. Of a
    script or notebook, which holds other things too, it is the source of the thing alone.

    RequestError: a file of it was edited since it was imported.
    """
    name = module_of(build)
    if name == "__main__":
        return hashlib.sha256(source_of(build).encode()).hexdigest()
    files = files_of_module(name)
    refuse_edited(files)
    return digest_of(files)


def source_of(build: Any) -> str:
    """The source of a function or class; "" where it was typed without a file."""
    try:
        return inspect.getsource(inspect.unwrap(build))
    except (OSError, TypeError):
        return ""


def parts_of(spec: str) -> list[str]:
    """The specs joined by `+`; a `+` in the path of an encoder's file joins nothing."""
    match = re.fullmatch(r"(?:random:)?(.+\.py)(:\w+)?", spec)
    return [spec] if match and Path(match[1]).is_file() else spec.split("+")


def parse(spec: str) -> tuple[str, str, bool]:
    """(family, rest, random) of a spec without `+`: `random:timm:x` gives `("timm", "x", True)`."""
    body = spec.removeprefix("random:")
    if re.fullmatch(r".+\.py:\w+", body):
        return "file", body, body != spec
    family, _, rest = body.partition(":")
    return family, rest, body != spec
