"""Arrays in files: `file.npy`, `file.npz:/name`, `file.h5:/name`.

Axes are (H, W), (D, H, W) or (C, D, H, W); uint8 whose last axis is 3 long is RGB, (H, W, 3) or (D, H, W, 3). The name may
be left out where a file holds a single array. Unsigned 8 and 16 bit count from 0 to the largest number of their type,
floats within 0 and 1 from 0 to 1, everything else from the least to the greatest value of the whole array.

Where a case is one plane (`Source.plane`) that is (H, W), (H, W, 1), (1, H, W), and in colour (H, W, 3), (3, H, W) or
(H, W, 4), whose alpha is dropped, of any number type; further axes of length 1 are left out. A shape that can be read in two
ways is refused. Colours beyond 0 to 1 that lie within 0 to 255 count from 0 to 255, but for unsigned 16 bit.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medprobe.errors import CaseError, ShapeError
from medprobe.files import write_atomically
from medprobe.imaging.canonical import Grid
from medprobe.imaging.raw import (
    Raw,
    check_finite,
    check_size,
    chosen,
    range_of,
    range_of_picture,
    stamp,
    typed_range,
)
from medprobe.types import Source

HDF5 = (".h5", ".hdf5", ".hdf")


class Layout(NamedTuple):
    """Which axes of an array are channels and planes, of those that have any; `left_out`: axes of length 1 besides."""

    channels: int | None
    planes: int | None
    left_out: tuple[int, ...] = ()


COLOUR, FIRST, LAST = (3, 4), (1, 3), (1, 3, 4)
"""Lengths of an axis of colours; of an axis of channels before and after rows and columns of one plane."""


def count(source: Source) -> int:
    shape, dtype = _header(source)
    planes = _layout(shape, dtype, source).planes
    return 1 if planes is None else shape[planes]


def channels(source: Source) -> int:
    shape, dtype = _header(source)
    axis = _layout(shape, dtype, source).channels
    return 1 if axis is None else min(shape[axis], 3) if axis == len(shape) - 1 else shape[axis]


def shape_of(source: Source) -> tuple[int, ...]:
    """From the header; (..., H, W), without colours."""
    shape, dtype = _header(source)
    layout = _layout(shape, dtype, source)
    return tuple(
        size for axis, size in enumerate(shape) if axis not in (layout.channels, *layout.left_out)
    )


def read(source: Source, start: int, stop: int | None) -> Raw:
    with opened(source) as array:
        layout = _layout(array.shape, array.dtype, source)
        total = 1 if layout.planes is None else array.shape[layout.planes]
        places = chosen(source, total, start, stop)
        pixels = _stacked(_taken(array, layout.planes, places), layout)
        if layout.planes is None:
            pixels = pixels[:, list(places)]
        if layout.channels == len(array.shape) - 1:
            pixels = pixels[:3]  # without alpha
        if source.plane and layout.planes is None:
            limits = range_of_picture(pixels)
        elif typed_range(array.dtype):
            limits = range_of(pixels)
        else:
            limits = _range(source.path, source.member, stamp(source.path))
    return Raw(pixels, limits)


def _layout(shape: tuple[int, ...], dtype: np.dtype, source: Source) -> Layout:
    if source.plane and source.frames is None:
        return _layout_of_plane(shape, dtype, source.path)
    return _layout_of_stack(
        shape, dtype, source.path, COLOUR if source.plane and len(shape) == 4 else ()
    )


def _layout_of_stack(
    shape: tuple[int, ...], dtype: np.dtype, path: Path, colours: Sequence[int] = ()
) -> Layout:
    """`colours`: lengths of a last axis that is colour whatever the number type."""
    if len(shape) not in (2, 3, 4):
        raise ShapeError(
            f"{path}: expected an array of 2 to 4 axes, found shape {shape}; store (H, W), (D, H, W) or (C, D, H, W)"
        )
    colour = len(shape) > 2 and (shape[-1] in colours or (dtype == np.uint8 and shape[-1] == 3))
    check_size(path, *(shape[-3:-1] if colour else shape[-2:]))
    before = len(shape) - 2 - colour
    stacked = Layout(0 if before == 2 else None, before - 1 if before else None)
    return stacked._replace(channels=len(shape) - 1) if colour else stacked


def _layout_of_plane(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> Layout:
    """The one way in which an array is a plane; that of a stack where it is none, so that its planes can be counted."""
    if len(shape) <= 2:
        return _layout_of_stack(shape, dtype, path)
    ways: dict[tuple[int, ...], Layout] = {}
    for rows in range(len(shape) - 1):
        others = [axis for axis in range(len(shape)) if axis not in (rows, rows + 1)]
        long = [axis for axis in others if shape[axis] != 1]
        allowed = LAST if long and long[0] > rows else FIRST
        if len(long) > 1 or (long and shape[long[0]] not in allowed):
            continue
        left_out = tuple(axis for axis in others if axis not in long)
        ways[tuple(sorted((rows, rows + 1)))] = Layout(long[0] if long else None, None, left_out)
    if not ways and len(shape) == 4 and shape[1] == 1:
        ways[2, 3] = Layout(0, None, (1,))
    if len(ways) > 1:
        raise ShapeError(
            f"{path}: dims = 2, and an array of shape {shape} can have its channels first or last; store (H, W) or (H, W, 3)"
        )
    if not ways:
        return _layout_of_stack(shape, dtype, path, COLOUR if len(shape) == 4 else ())
    (((rows, columns), layout),) = ways.items()
    check_size(path, shape[rows], shape[columns])
    return layout


def _taken(array: Any, axis: int | None, places: Sequence[int]) -> np.ndarray:
    """These planes of an array that may lie on disk: the block that holds them is read, nothing else."""
    if axis is None:
        return np.asarray(array[...])
    low, high = (min(places), max(places) + 1) if places else (0, 0)
    block = np.asarray(array[(slice(None),) * axis + (slice(low, high),)])
    return (
        block
        if isinstance(places, range)
        else np.take(block, [place - low for place in places], axis=axis)
    )


def _stacked(array: np.ndarray, layout: Layout) -> np.ndarray:
    """(C, D, H, W)."""
    there = [axis for axis in (layout.channels, layout.planes) if axis is not None]
    array = np.moveaxis(array, (*there, *layout.left_out), range(len(there) + len(layout.left_out)))
    sizes = (
        1 if layout.channels is None else array.shape[0],
        1 if layout.planes is None else array.shape[len(there) - 1],
    )
    return array.reshape(*sizes, *array.shape[-2:])


# ---------------------------------------------------------------------------------------- containers


def _container(path: Path) -> str:
    """What holds the arrays: by the first bytes where they tell, else by the suffix."""
    with path.open("rb") as file:
        head = file.read(6)
    if head[:4] == b"PK\x03\x04":
        return "npz"
    if head == b"\x93NUMPY":
        return "npy"
    suffix = path.suffix.lower()
    return "hdf5" if suffix in HDF5 or head == b"\x89HDF\r\n" else suffix.strip(".")


def _header(source: Source) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and number type, without the values."""
    if _container(source.path) != "npz":
        with opened(source) as array:
            return tuple(array.shape), array.dtype
    with zipfile.ZipFile(source.path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        with archive.open(_member(source, names) + ".npy") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            return shape, dtype


@contextmanager
def opened(source: Source) -> Iterator[Any]:
    """The array as it is stored: a view of the file where its format allows (in HDF5 with its attributes), else whole."""
    container = _container(source.path)
    if container == "npy":
        yield np.load(source.path, mmap_mode="r", allow_pickle=False)
    elif container == "npz":
        yield _unpacked(source, stamp(source.path))
    else:
        import h5py

        with hdf5(source.path) as file:
            found = file.get(source.member) if source.member else None
            if isinstance(found, h5py.Dataset):
                yield found
                return
            names: list[str] = []
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            yield file[_member(source, names)]


def hdf5(path: Path) -> Any:
    """An HDF5 file, opened to be read; without a lock where its disk has none."""
    import h5py

    try:
        return h5py.File(path, "r")
    except BlockingIOError:
        raise CaseError(
            f"{path}: expected a finished file, found one that another process is writing; "
            "wait until it has ended, or close it there"
        ) from None
    except OSError:
        return h5py.File(path, "r", locking=False)


def named(source: Source, usual: str) -> Source:
    """The source; where it names no array and the file has one of the usual name, that one."""
    container, there = _container(source.path), False
    if not source.member and container == "npz":
        with zipfile.ZipFile(source.path) as archive:
            there = f"{usual}.npy" in archive.namelist()
    elif not source.member and container == "hdf5":
        import h5py

        with hdf5(source.path) as file:
            there = isinstance(file.get(usual), h5py.Dataset)
    return replace(source, member=usual) if there else source


def geometry(array: Any) -> tuple[tuple[float, float, float] | None, np.ndarray | None]:
    """Spacing (z, y, x) in mm and affine of an opened array, where `save` wrote them beside it."""
    attributes = getattr(array, "attrs", {})
    spacing, affine = (
        np.asarray(attributes[name]) if name in attributes else np.zeros(0)
        for name in ("spacing", "affine")
    )
    sizes = (
        [float(size) for size in spacing]
        if spacing.shape == (3,) and spacing.dtype.kind in "iuf"
        else []
    )
    positive = len(sizes) == 3 and all(np.isfinite(size) and size > 0 for size in sizes)
    return (sizes[0], sizes[1], sizes[2]) if positive else None, affine if affine.shape == (
        4,
        4,
    ) and np.isfinite(affine).all() else None


def grid_beside(source: Source) -> Grid | None:
    """The last three axes of an HDF5 array with the geometry that lies beside it; None without any."""
    if _container(source.path) != "hdf5":
        return None
    with opened(source) as array:
        spacing, affine = geometry(array)
        z, y, x = (1, 1, 1, *array.shape)[-3:]
    return (
        None
        if spacing is None and affine is None
        else Grid((z, y, x), spacing, affine, turned=False)
    )


def save(
    path: Path,
    name: str,
    array: np.ndarray,
    spacing: tuple[float, float, float] | None = None,
    affine: np.ndarray | None = None,
) -> None:
    """One array to HDF5, whole or not at all: compressed with gzip, its geometry as attributes."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        dataset = file.create_dataset(name, data=array, compression="gzip")
        dataset.attrs.update(
            {
                key: value
                for key, value in (("spacing", spacing), ("affine", affine))
                if value is not None
            }
        )
    write_atomically(path, buffer.getvalue())


@lru_cache(maxsize=1)
def _unpacked(source: Source, changed: int) -> np.ndarray:
    with source.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return file[_member(source, list(file.files))]


def _member(source: Source, names: list[str]) -> str:
    member = (source.member or "").strip("/")
    if not member and len(names) == 1:
        return names[0]
    if member not in names:
        there = ", ".join(sorted(names)[:6]) or "none"
        raise CaseError(
            f"{source.path}: expected an array named {member or '(none given)'}, found {there}; write {source.path.name}:/NAME"
        )
    return member


@lru_cache(maxsize=64)
def _range(path: Path, member: str | None, changed: int) -> tuple[float, float]:
    with opened(Source(path, member)) as array:
        values = np.asarray(array[...])
    check_finite(values, path)
    return range_of(values)
