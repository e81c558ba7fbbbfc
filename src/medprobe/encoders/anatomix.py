"""`anatomix`: the 3D U-Net of anatomix (Dey et al., ICLR 2025), 16 features for every voxel.

Its file (`anatomix.pth`, MIT) holds one list of layers, `model.0` … `model.65`: 3x3x3 convolutions without bias and with reflected
borders, batch normalisation, ReLU; two convolutions on each of five levels of 16 to 256 channels, maximum pooling down, nearest neighbours
and skips up, one convolution at the end. Source: https://github.com/neel-dey/anatomix, anatomix/model/network.py and
registration/convex_adam_utils.py: each volume is stretched to [0, 1], and sides above 128 are seen in windows that overlap by 0.8, under a Gaussian.

A picture is the same plane repeated along z. On such a volume a 3D convolution is a 2D one whose kernel is summed along z, which is
computed here instead.
"""

from typing import Any

import numpy as np

from medprobe.encoders import checkpoints, hub
from medprobe.encoders.base import LoadedEncoder, Request, narrow, only_last_layer, under_seed
from medprobe.errors import RequestError
from medprobe.registry import ENCODERS
from medprobe.types import Features

REPOSITORY = "neeldey/anatomix"
FILE = "anatomix.pth"
WIDTH = 16
LEVELS = 4
MULTIPLE, SMALLEST = 16, 32
"""Sides are padded to multiples of 16, and to 32 at least, for a border to be reflected on the lowest level; with the values at their end."""
WINDOW, OVERLAP, SIGMA = 128, 0.8, 0.25


@ENCODERS.register("anatomix")
def anatomix(request: Request) -> LoadedEncoder:
    """`patch_mean` (N, 16) and a grid (N, 16, D, H, W) of every voxel of volumes (N, 1, D, H, W); `describe` takes channels apart."""
    import torch

    if request.rest:
        raise RequestError(f"expected the spec anatomix, found {request.spec}; leave out what follows the name")
    only_last_layer(request)
    net = under_seed(lambda: unet(3), request.seed)
    path = request.weights or (None if request.random else hub.fetch(REPOSITORY, (FILE,), request.spec))
    file = checkpoints.read(path) if path else None
    if file:
        part = checkpoints.part_of(file, lambda tensors: (net.state_dict(), tensors), request.spec)
        checkpoints.fit(net, part.tensors, file.path, request.spec, part.prefix)

    def forward(x: Any) -> Features:
        grid = in_windows(net, stretched(x))
        return Features(None, grid.mean(dim=(2, 3, 4)), (grid,))

    published = request.weights is None and not request.random
    flat = flattened(net)
    encoder = LoadedEncoder(
        request, forward, dim=None, net=net, dims=3, channels=1, default_size=WINDOW, weights_sha256=file.sha256 if file else None,
        licence="MIT" if published else None, source=f"https://huggingface.co/{REPOSITORY}" if published else None,
    )  # fmt: skip
    encoder.transform["normalise"] = "each volume to [0, 1]"
    device, bf16 = next(net.parameters()).device, request.precision == "bf16"
    flat.to(device)
    if bf16:
        narrow(flat)

    def describe(image: np.ndarray) -> np.ndarray:
        """(C, D, H, W), or (C, H, W) of pictures, in [0, 1] → (16 * C, ...) float32, channel by channel."""
        used = net if image.ndim == 4 else flat
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            channels = torch.as_tensor(np.asarray(image, dtype=np.float32))[:, None].to(device)
            made = [in_windows(used, stretched(channel[None]))[0].float().cpu().numpy() for channel in channels]
        return np.concatenate(made)

    encoder.describe = describe
    return encoder


def unet(dims: int) -> Any:
    """The network, with the names of the published file; of `dims` 2 or 3."""
    import torch
    from torch import nn

    convolution, norm, pool = (getattr(nn, f"{name}{dims}d") for name in ("Conv", "BatchNorm", "MaxPool"))

    def convolved(inputs: int, outputs: int) -> Any:
        return convolution(inputs, outputs, 3, padding=1, bias=False, padding_mode="reflect")

    def block(inputs: int, outputs: int) -> list[Any]:
        return [convolved(inputs, outputs), norm(outputs), nn.ReLU()]

    widths = [WIDTH * 2**level for level in range(LEVELS + 1)]
    layers = block(1, WIDTH)
    for before, width in zip([WIDTH, *widths[:-2]], widths[:-1], strict=True):
        layers += [*block(before, width), *block(width, width), pool(2)]
    layers += [*block(widths[-2], widths[-1]), *block(widths[-1], widths[-1])]
    for width in reversed(widths[:-1]):
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), *block(3 * width, width), *block(width, width)]
    layers.append(convolved(WIDTH, WIDTH))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            skips = []
            for layer in self.model:
                if isinstance(layer, pool):
                    skips.append(x)
                x = layer(x)
                if isinstance(layer, nn.Upsample):
                    x = torch.cat([skips.pop(), x], dim=1)
            return x

    return UNet().eval()


def flattened(net: Any) -> Any:
    """The network on volumes that do not change along z, as a network on their planes."""
    flat = unet(2)
    flat.load_state_dict({name: tensor.sum(dim=2) if tensor.ndim == 5 else tensor for name, tensor in net.state_dict().items()})
    return flat.requires_grad_(False)


def stretched(x: Any) -> Any:
    """Each image of (N, 1, ...) to [0, 1]; a constant one to 0."""
    flat = x.flatten(1)
    shape = (-1, *[1] * (x.ndim - 1))
    low, high = flat.amin(dim=1).view(shape), flat.amax(dim=1).view(shape)
    return (x - low) / (high - low).masked_fill(high == low, 1)


def in_windows(net: Any, x: Any) -> Any:
    """Features (N, 16, ...) of (N, 1, ...), whose sides may be any."""
    import warnings

    from torch.nn.functional import pad

    sides = x.shape[2:]
    fitted = [max(SMALLEST, -(-side // MULTIPLE) * MULTIPLE) for side in sides]
    x = pad(x, [part for side, full in zip(reversed(sides), reversed(fitted), strict=True) for part in (0, full - side)], mode="replicate")
    if max(fitted) <= WINDOW:
        made = net(x)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.inferers import sliding_window_inference

            made = sliding_window_inference(x, [min(WINDOW, side) for side in fitted], 1, net, overlap=OVERLAP, mode="gaussian", sigma_scale=SIGMA)
    return made[(..., *map(slice, sides))]
