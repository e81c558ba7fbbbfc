"""The pixels of plain PNG files, grey or RGB of 8 bit, in less than half of the time that Pillow takes to decode them.

PNG specification, third edition (W3C, 2025): chunks (section 5.3), their order (5.6), one zlib stream cut into IDAT chunks
(10.1, 11.2.3), filtered rows (9). Pillow has read the header and knows what is there. What is not of that kind, or is
damaged in any way, is left to it, so that pixels and faults are always Pillow's.
"""

import functools
import importlib
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

SAMPLES = {"L": 1, "RGB": 3}
"""Pillow's mode → samples of a pixel, a byte each."""
PLAIN = {
    "dpi", "aspect", "gamma", "srgb", "chromaticity", "icc_profile", "Title", "Author", "Description", "Copyright", "Creation Time",
    "Software", "Source", "Comment", "date:create", "date:modify", "date:timestamp",
}  # fmt: skip
"""Facts that a header may state: none of them changes a pixel or turns the picture, as the ones of Exif and APNG do."""
LARGEST = 1 << 26
"""Bytes of rows that are unpacked in one go; Pillow takes larger pictures row by row."""
DENSEST = 1032
"""Bytes that one byte of a deflated stream can stand for."""
PATIENCE = 1 << 27
"""Bytes of rows that a process leaves to Pillow before it loads the compiled loop, which takes about as long as it saves on them."""
LOOPS = "medprobe.imaging._png_loops"
_left = 0


def decoded(file: Any) -> np.ndarray | None:
    """(H, W) or (H, W, 3) of a picture that Pillow has opened and not loaded; None where Pillow is to decode it."""
    samples, (width, height) = SAMPLES.get(file.mode), file.size
    if samples is None or file.format != "PNG" or len(file.tile) != 1 or not PLAIN.issuperset(file.info):
        return None
    codec, extents, place, layout = file.tile[0]
    size = height * (1 + width * samples)
    if (codec, extents, layout) != ("zip", (0, 0, width, height), file.mode) or not 0 < size <= LARGEST or not _is_worth(size):
        return None
    unfilter = _unfilter()
    file.fp.seek(place - 8)
    rows = _inflated(_image_data(file.fp, 2 * LARGEST), size) if unfilter else None
    if rows is None or unfilter is None:
        return None
    pixels = np.empty((height, width * samples), np.uint8)
    if not unfilter(np.frombuffer(rows, np.uint8).reshape(height, -1), pixels, samples):
        return None
    return pixels if samples == 1 else pixels.reshape(height, width, samples)


def load() -> None:
    """Load the loop now, so that processes forked from here have it."""
    _unfilter()


def _is_worth(size: int) -> bool:
    """Whether this process has seen enough pictures to load the loop, or has loaded it."""
    global _left
    _left += size
    return _left > PATIENCE or LOOPS in sys.modules


@functools.cache
def _unfilter() -> Callable[..., bool] | None:
    """The compiled loop; None where it cannot be had, in a read-only installation without a folder for caches for example."""
    try:
        found: Callable[..., bool] = importlib.import_module(LOOPS).unfilter
    except Exception:
        return None
    return found


def _image_data(file: Any, most: int) -> bytes:
    """The stream in the IDAT chunks from here on; empty where they are not whole, hold more bytes than `most`, or others than the last chunk follow.

    Pillow looks at no checksum of theirs. Where one is wrong, isal may still unpack what zlib refuses, so it counts here.
    """
    parts: list[bytes] = []
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND":
            return b"".join(parts)
        most -= length
        if name != b"IDAT" or most < 0:
            break
        part, checksum = file.read(length), file.read(4)
        if checksum != _fast().crc32(part, _fast().crc32(name)).to_bytes(4):
            break
        parts.append(part)
    return b""


def _inflated(packed: bytes, size: int) -> bytes | None:
    """A zlib stream of `size` bytes, if it is whole and its checksum right, else None."""
    if size > DENSEST * len(packed):
        return None
    stream = _fast().decompressobj()
    try:
        rows: bytes = stream.decompress(packed, size + 1)
    except (zlib.error, _fast().error):
        return None
    return rows if stream.eof and len(rows) == size and not stream.unused_data else None


@functools.cache
def _fast() -> Any:
    """zlib of isal where it is installed, else Python's own."""
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib
