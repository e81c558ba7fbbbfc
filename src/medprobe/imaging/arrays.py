"""Arrays in files: `file.npy`, `file.npz:/name`, `file.h5:/name`.

Axes are (H, W), (D, H, W) or (C, D, H, W); uint8 whose last axis is 3 long is RGB, (H, W, 3) or (D, H, W, 3). The name may
be left out where a file holds a single array. Unsigned 8 and 16 bit count from 0 to the largest number of their type,
floats within 0 and 1 from 0 to 1, everything else from the least to the greatest value of the whole array.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.files import write_atomically
from medprobe.imaging.canonical import Grid
from medprobe.imaging.raw import Raw, check_finite, check_size, chosen, range_of, stamp, typed_range
from medprobe.types import Source

HDF5 = (".h5", ".hdf5", ".hdf")


def count(source: Source) -> int:
    shape, dtype = _header(source)
    axis = _plane_axis(shape, dtype, source.path)
    return 1 if axis is None else shape[axis]


def channels(source: Source) -> int:
    shape, dtype = _header(source)
    return 3 if _colour(shape, dtype) else shape[0] if len(shape) == 4 else 1


def read(source: Source, start: int, stop: int | None) -> Raw:
    with opened(source) as array:
        axis = _plane_axis(array.shape, array.dtype, source.path)
        places = chosen(source, 1 if axis is None else array.shape[axis], start, stop)
        pixels = _planes(_taken(array, axis, places), _colour(array.shape, array.dtype))
        limits = range_of(pixels) if typed_range(array.dtype) else _range(source.path, source.member, stamp(source.path))
    return Raw(pixels, limits)


def _colour(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return dtype == np.uint8 and len(shape) in (3, 4) and shape[-1] == 3


def _plane_axis(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> int | None:
    """The axis that counts planes; None for a single plane."""
    colour = _colour(shape, dtype)
    if len(shape) not in (2, 3, 4):
        raise CaseError(f"{path}: expected an array of 2 to 4 axes, found shape {shape}; store (H, W), (D, H, W) or (C, D, H, W)")
    check_size(path, *(shape[-3:-1] if colour else shape[-2:]))
    spatial = len(shape) - colour
    return None if spatial == 2 else spatial - 3


def _taken(array: Any, axis: int | None, places: Sequence[int]) -> np.ndarray:
    """These planes of an array that may lie on disk: the block that holds them is read, nothing else."""
    if axis is None:
        return array[...] if places else np.asarray(array[...])[:0]
    low, high = (min(places), max(places) + 1) if places else (0, 0)
    block = np.asarray(array[(slice(None),) * axis + (slice(low, high),)])
    return block if isinstance(places, range) else np.take(block, [place - low for place in places], axis=axis)


def _planes(array: np.ndarray, colour: bool) -> np.ndarray:
    """(C, D, H, W)."""
    if colour:
        array = np.moveaxis(array, -1, 0)
        return array[:, None] if array.ndim == 3 else array
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


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
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
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
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
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
    spacing, affine = (np.asarray(attributes[name]) if name in attributes else np.zeros(0) for name in ("spacing", "affine"))
    sizes = [float(size) for size in spacing] if spacing.shape == (3,) and spacing.dtype.kind in "iuf" else []
    positive = len(sizes) == 3 and all(np.isfinite(size) and size > 0 for size in sizes)
    return (sizes[0], sizes[1], sizes[2]) if positive else None, affine if affine.shape == (4, 4) and np.isfinite(affine).all() else None


def grid_beside(source: Source) -> Grid | None:
    """The last three axes of an HDF5 array with the geometry that lies beside it; None without any."""
    if _container(source.path) != "hdf5":
        return None
    with opened(source) as array:
        spacing, affine = geometry(array)
        z, y, x = (1, 1, 1, *array.shape)[-3:]
    return None if spacing is None and affine is None else Grid((z, y, x), spacing, affine, turned=False)


def save(path: Path, name: str, array: np.ndarray, spacing: tuple[float, float, float] | None = None, affine: np.ndarray | None = None) -> None:
    """One array to HDF5, whole or not at all: compressed with gzip, its geometry as attributes."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        dataset = file.create_dataset(name, data=array, compression="gzip")
        dataset.attrs.update({key: value for key, value in (("spacing", spacing), ("affine", affine)) if value is not None})
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
        raise CaseError(f"{source.path}: expected an array named {member or '(none given)'}, found {there}; write {source.path.name}:/NAME")
    return member


@lru_cache(maxsize=64)
def _range(path: Path, member: str | None, changed: int) -> tuple[float, float]:
    with opened(Source(path, member)) as array:
        values = np.asarray(array[...])
    check_finite(values, path)
    return range_of(values)
