"""Controls without weights: what a head can do with the raw plane, or with its mean colour alone.

An encoder that does not beat them has not been shown to know anything about the task.
"""

from typing import Any

from medprobe.encoders.base import LoadedEncoder, Request, only_last_layer, weightless
from medprobe.registry import ENCODERS
from medprobe.types import Features

SIDE = 32
"""`pixels` as a vector: the plane averaged over areas to 32x32."""
PATCH = 16
"""`mean-rgb` as a grid: the mean colour of each 16x16 patch."""


@ENCODERS.register("pixels")
@weightless
def pixels(request: Request) -> LoadedEncoder:
    """The plane itself: `cls` (N, C * 1024) at 32x32, the grid is the plane (stride 1); any number of channels.

    There are no patches to average: `patch_mean` is the same vector, so that the control runs under every pooling.
    """
    only_last_layer(request)

    def forward(x: Any) -> Features:
        from torch.nn.functional import adaptive_avg_pool2d

        vector = adaptive_avg_pool2d(x, SIDE).flatten(1)
        return Features(vector, vector, (x,))

    encoder = LoadedEncoder(request, forward, dim=None, channels=None)
    encoder.describe = lambda image: image
    return encoder


@ENCODERS.register("mean-rgb")
@weightless
def mean_rgb(request: Request) -> LoadedEncoder:
    """The mean colour: `cls` and `patch_mean` (N, 3); the grid holds the mean colour of each 16x16 patch."""
    only_last_layer(request)

    def forward(x: Any) -> Features:
        from torch.nn.functional import avg_pool2d

        grid = avg_pool2d(x, PATCH)
        colour = grid.mean(dim=(2, 3))
        return Features(colour, colour, (grid,))

    return LoadedEncoder(request, forward, dim=3, multiple=PATCH)
