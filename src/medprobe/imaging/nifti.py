"""NIfTI volumes through nibabel: axes turned to the nearest of right, anterior, superior; axial slices are planes.

`pixels[0, z, y, x]`, z up, y to the front, x to the patient's right, as the affine says; header scaling applied.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.raw import Raw, chosen, range_of, stamp
from medprobe.types import Source


def count(source: Source) -> int:
    import nibabel

    volume: Any = nibabel.load(source.path)
    up = nibabel.orientations.io_orientation(volume.affine)[:, 0].tolist()
    shape = _three_axes(volume.shape, source.path)
    return int(shape[up.index(2)])


def channels(source: Source) -> int:
    return 1


def read(source: Source, start: int, stop: int | None) -> Raw:
    raw = _volume(source.path, stamp(source.path))
    places = chosen(source, raw.pixels.shape[1], start, stop)
    pixels = raw.pixels[:, places.start : places.stop] if isinstance(places, range) else raw.pixels[:, list(places)]
    return Raw(pixels, raw.full_range, spacing=raw.spacing, affine=raw.affine)


@lru_cache(maxsize=1)
def _volume(path: Path, changed: int) -> Raw:
    """The whole volume: compressed files cannot be read in pieces, so the last one is kept."""
    import nibabel

    volume: Any = nibabel.as_closest_canonical(nibabel.load(path))
    array = np.asanyarray(volume.dataobj)
    array = array.reshape(_three_axes(array.shape, path))
    x, y, z = (float(size) for size in volume.header.get_zooms()[:3])
    return Raw(array.T[None], range_of(array), spacing=(z, y, x), affine=volume.affine)


def _three_axes(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    wanted = (*shape, 1, 1, 1)[:3]
    if any(size != 1 for size in shape[3:]):
        raise CaseError(f"{path}: expected a volume of three axes, found shape {shape}; split its channels or frames into files")
    return wanted
