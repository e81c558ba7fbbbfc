"""`a+b`: the features of several encoders side by side, for example `dinov3-b+mind` of the registration tables.

Vectors are concatenated along their last axis, and None where a part has none. Of each part the deepest grid is
resampled (bilinear, corners not aligned) to the finer frame, the largest grid height and width among the parts.
For pairs, `apart` keeps what describes a whole image (`mind`) from what encodes its planes.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from medprobe.encoders.base import LoadedEncoder, Request
from medprobe.errors import RequestError
from medprobe.types import Features


def combine(request: Request, parts: list[LoadedEncoder]) -> LoadedEncoder:
    """One encoder made of loaded parts; each keeps its own normalisation."""
    for part in parts:
        if not isinstance(part, LoadedEncoder) or part.dims != parts[0].dims:
            raise RequestError(
                f"{request.spec}: {part.name} cannot stand beside {parts[0].name}; combine encoders of planes, or of volumes"
            )
    multiple = math.lcm(*(part.multiple for part in parts))
    sizes = {part.image_size for part in parts} - {None}
    if len(sizes) > 1:
        wants = ", ".join(f"{part.name} wants {part.image_size}" for part in parts if part.image_size)
        raise RequestError(
            f"{request.spec}: the parts must see one size, found {wants}; give an image size that is a multiple of {multiple}"
        )
    combined = LoadedEncoder(
        Request(request.spec, request.rest, device="cpu"),
        lambda x: merge([part(x) for part in parts]),
        dim=None if any(part.dim is None for part in parts) else sum(part.dim or 0 for part in parts),
        dims=parts[0].dims,
        channels=max((part.channels for part in parts if part.channels), default=None),
        tied_size=sizes.pop() if sizes else None,
        interpolates=all(part.interpolates or part.image_size is None for part in parts),
        multiple=multiple,
        default_size=max(part.default_size for part in parts),
        weights_sha256=hashlib.sha256(" ".join(part.weights_sha256 for part in parts).encode()).hexdigest(),
        licence=" + ".join(dict.fromkeys(part.licence for part in parts if part.licence)) or None,
    )
    combined.parts = tuple(parts)
    combined.layers = parts[0].layers
    combined.own_grids = any(part.own_grids for part in parts)
    combined.own_code = any(part.own_code for part in parts)
    combined.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    combined.faults = list(dict.fromkeys(said for part in parts for said in part.faults))
    combined.precision = request.precision
    combined.params = sum(part.params for part in parts)
    combined.transform = {"parts": [part.transform for part in parts]}
    return combined


def apart(encoder: Any) -> tuple[Any, tuple[Callable[[np.ndarray], np.ndarray], ...]]:
    """(what encodes planes, or None; the `describe` of each part that looks at a whole image)."""
    parts = getattr(encoder, "parts", ()) or (encoder,)
    planes = [part for part in parts if getattr(part, "describe", None) is None]
    described = tuple(part.describe for part in parts if getattr(part, "describe", None) is not None)
    if not described or not planes:
        return (encoder if not described else None), described
    if len(planes) == 1:
        return planes[0], described
    spec = "+".join(part.spec for part in planes)
    return combine(Request(spec, spec, precision=encoder.precision), planes), described


def merge(parts: list[Features]) -> Features:
    """Features of the same planes side by side."""
    import torch

    def beside(vectors: list[Any]) -> Any:
        return None if any(vector is None for vector in vectors) else torch.cat(vectors, dim=1)

    grids: tuple[Any, ...] = ()
    if all(part.grids for part in parts):
        deepest = [part.grid for part in parts]
        frame = tuple(max(grid.shape[axis] for grid in deepest) for axis in range(2, deepest[0].ndim))
        grids = (torch.cat([resample(grid, frame) for grid in deepest], dim=1),)
    return Features(beside([part.cls for part in parts]), beside([part.patch_mean for part in parts]), grids)


def resample(grid: Any, frame: tuple[int, ...]) -> Any:
    """A grid (N, D, h, w) or (N, D, d, h, w) at another height and width."""
    from torch.nn.functional import interpolate

    if tuple(grid.shape[2:]) == frame:
        return grid
    return interpolate(grid, size=frame, mode="bilinear" if len(frame) == 2 else "trilinear", align_corners=False)
