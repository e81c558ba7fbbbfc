"""Pictures through Pillow: PNG (the plain ones faster, png.py), JPEG, BMP, WebP.

Grey stays one channel (1-bit as 0 and 255); palettes and CMYK become RGB; alpha is dropped, not blended; EXIF orientation
is applied; an animated picture is its first frame. 16-bit grey keeps its bits, of 16-bit colour Pillow gives the upper 8.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import png
from medprobe.imaging.raw import MAX_PLANE, Raw, chosen, range_of
from medprobe.types import Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ORIENTATION = 0x0112


def count(source: Source) -> int:
    return 1


def channels(source: Source) -> int:
    with opened(source.path) as file:
        return 1 if file.mode in ("1", "L", "LA", "La", "F") or file.mode.startswith("I") else 3


def read(source: Source, start: int, stop: int | None) -> Raw:
    with opened(source.path) as file:
        array = plain(file)
    places = chosen(source, 1, start, stop)
    return Raw(_planes(array)[:, list(places)] if len(places) != 1 else _planes(array), range_of(array))


@contextmanager
def opened(path: Path, data: BinaryIO | None = None) -> Iterator[Any]:
    """A Pillow image whose load raises where the file is cut short, whatever another library told
    Pillow to tolerate. `data`: the file, opened, so that Pillow maps none of it into memory."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(data or path) as file:
                yield file
    except Image.DecompressionBombError as error:
        raise CaseError(f"{path}: expected a plane of at most {MAX_PLANE} pixels, found a decompression bomb ({error}); cut slides into tiles, fetch other files again") from error
    except UnidentifiedImageError as error:
        raise ValueError("it is no picture that Pillow knows") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def plain(file: Any) -> np.ndarray:
    """A Pillow image as (H, W) or (H, W, 3): uint8, uint16, int32 or float32."""
    pixels = png.decoded(file)
    if pixels is not None:
        return pixels
    file.load()
    image = file
    if file.getexif().get(ORIENTATION, 1) != 1:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(file)
    if image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    elif image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    array = np.asarray(image)
    return array.astype(np.uint16) if image.mode == "I" and file.format == "PNG" else array


def _planes(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) as (C, 1, H, W)."""
    return array[None, None] if array.ndim == 2 else np.moveaxis(array, -1, 0)[:, None]
