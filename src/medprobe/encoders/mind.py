"""MIND-SSC: what each voxel's surroundings look like to themselves, whatever the contrast (Heinrich et al., MICCAI 2013; methods 7.4).

Neighbours of a voxel lie `dilation` voxels away along each axis. Channels are pairs of neighbours on different axes: with n(a, s) the
neighbour along axis a on side s, for axes (z, y), (z, x), (y, x) in turn the pairs (n(a, -), n(b, -)), (-, +), (+, -), (+, +). 2D has
the last four. Values lie in (0, 1], the largest of a voxel is 1, and I → a I + b with a other than 0 changes nothing.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from medprobe.encoders.base import LoadedEncoder, Request, only_last_layer, weightless
from medprobe.errors import RequestError
from medprobe.registry import ENCODERS
from medprobe.types import Features


def mind_ssc(image: np.ndarray, radius: int = 1, dilation: int = 2) -> np.ndarray:
    """Descriptors (12, D, H, W) of an image (D, H, W), or (4, H, W) of (H, W), float32 in (0, 1]; 1 everywhere where it is constant.

    `radius` of the (2 r + 1)^n voxels over which differences are averaged and `dilation`, the distance of neighbours, are in voxels.
    Beyond the image its edge is repeated.
    """
    image = np.asarray(image)
    if image.dtype.kind not in "fiub" or image.ndim not in (2, 3) or not image.size:
        raise RequestError(f"expected an image (D, H, W) or (H, W) of numbers for MIND, found {image.dtype} of shape {image.shape}; pass one channel at a time")
    if radius < 0 or dilation < 1:
        raise RequestError(f"expected a radius of at least 0 and a dilation of at least 1 voxel for MIND, found {radius} and {dilation}")
    flat = image.ndim == 2
    volume = image.astype(np.float32).reshape(1, *image.shape) if flat else image.astype(np.float32)
    if not np.isfinite([volume.min(), volume.max()]).all():
        raise RequestError("expected finite values in an image for MIND, found NaN or infinity; check the image file")
    import torch

    from medprobe.encoders import _mind_loops as loops

    pairs = _pairs(flat) * dilation
    found = np.empty((len(pairs), *volume.shape), np.float32)
    mean, totals = np.empty(volume.shape, np.float32), np.empty(len(volume))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        _share(pool, len(pairs), loops.distances, np.pad(volume, dilation, mode="edge"), dilation, pairs, radius, found)
        _share(pool, len(volume), loops.above_least, found, mean, totals)
        middle = totals.sum() / mean.size
        if middle == 0:
            found[:] = 1
        else:
            _share(pool, len(volume), loops.divide, found, mean, np.float32(middle * 1e-3), np.float32(middle * 1e3))
            _share(pool, len(pairs), lambda first, last: np.exp(found[first:last], out=found[first:last]))
    return found[:, 0] if flat else found


def _share(pool: ThreadPoolExecutor, count: int, loop: Callable[..., Any], *args: Any) -> None:
    """Run `loop(*args, first, last)` over parts of `count` items, one part a thread."""
    import torch

    edges = np.linspace(0, count, min(torch.get_num_threads(), count) + 1).astype(int).tolist()
    list(pool.map(lambda part: loop(*args, *part), pairwise(edges)))


def _pairs(flat: bool) -> np.ndarray:
    """(P, 2, 3): offsets z, y, x of the two neighbours of each channel, in steps."""
    step = np.eye(3, dtype=np.int64)
    axes = ((1, 2),) if flat else ((0, 1), (0, 2), (1, 2))
    return np.array([(s * step[a], t * step[b]) for a, b in axes for s in (-1, 1) for t in (-1, 1)])


def describe(image: np.ndarray) -> np.ndarray:
    """(12 * C, D, H, W) of an image (C, D, H, W), or (4 * C, H, W) of (C, H, W): the descriptors of one channel after the other."""
    return np.concatenate([mind_ssc(channel) for channel in image])


@ENCODERS.register("mind")
@weightless
def mind(request: Request) -> LoadedEncoder:
    """MIND-SSC of each plane as a grid of stride 1, (N, 4 * C, H, W); no vectors. `describe` looks at volumes in 3D."""
    only_last_layer(request)

    def forward(x: Any) -> Features:
        import torch

        planes = x.float().cpu().numpy()
        return Features(None, None, (torch.from_numpy(np.stack([describe(plane) for plane in planes])),))

    encoder = LoadedEncoder(request, forward, dim=None, channels=None)
    encoder.describe = describe
    return encoder
