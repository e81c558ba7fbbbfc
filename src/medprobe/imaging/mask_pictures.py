"""Masks in pictures: the numbers that are stored, not the colours or greys they are shown in."""

from pathlib import Path

import numpy as np

from medprobe.errors import CaseError
from medprobe.files import kind_of
from medprobe.imaging import pictures

LOSSLESS = ("PNG", "BMP")
"""Formats of pictures that keep the numbers of a mask."""
WIDENED = {"L;2": 85, "L;4": 17}
"""Grey PNG of 2 and 4 bit as Pillow opens them → what it multiplies their values by."""


def format_of(path: Path) -> str:
    """Of a picture, by its first bytes where they tell."""
    return kind_of(path) or path.suffix[1:].upper()


def size(path: Path) -> tuple[int, int]:
    """(H, W) from the header, as the picture is shown."""
    with pictures.opened(path) as file:
        width, height = file.size
        return (width, height) if file.getexif().get(pictures.ORIENTATION, 1) >= 5 else (height, width)


def picture(path: Path) -> np.ndarray:
    """(H, W): bool of 1 bit, indices of a palette, else grey values as they are stored."""
    from PIL import ImageOps

    with pictures.opened(path) as file:
        widened = (
            WIDENED.get(str(file.tile[0].args), 1) if file.tile and file.format == "PNG" else 1
        )
        if file.mode == "1":
            return np.array(ImageOps.exif_transpose(file).convert("L")) > 0
        if file.mode == "P":
            return np.array(ImageOps.exif_transpose(file))
        if file.mode in ("RGBA", "LA", "PA"):
            low, high = file.getchannel("A").getextrema()
            if low != high:
                raise CaseError(
                    f"{path}: expected class indices in a grey or palette picture, found "
                    f"transparency from {low} to {high}; save the mask without an alpha channel"
                )
        array = pictures.plain(file)
    return one_channel(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0), path) // widened


def one_channel(array: np.ndarray, path: Path) -> np.ndarray:
    """Without the first axis, whose entries must be alike."""
    if any((channel != array[0]).any() for channel in array[1:]):
        raise CaseError(
            f"{path}: expected one number per pixel, found {len(array)} channels that differ; save "
            "the class indices in grey or as a palette, not the colours they are shown in"
        )
    return array[0]
