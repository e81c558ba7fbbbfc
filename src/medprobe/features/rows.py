"""Grids that are longer than memory: arrays of which only the rows that are asked for are read, or computed.

They offer `shape`, `dtype`, `len`, slices of the first axis and `numpy.asarray`; a head that takes a few planes at a
time never holds a whole volume.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Rows:
    """`fetch(start, stop)` gives rows start…stop of a float32 array of this shape."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], fetch: Callable[[int, int], np.ndarray]) -> None:
        self.shape, self._fetch = shape, fetch

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("rows are read in order, without a step")
        return self._fetch(start, max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


def side_by_side(parts: Sequence[Any]) -> Any:
    """Arrays (N, D_i, ...) joined along D, row by row as they are asked for."""
    shape = (len(parts[0]), sum(part.shape[1] for part in parts), *parts[0].shape[2:])
    return Rows(shape, lambda start, stop: np.concatenate([np.asarray(part[start:stop]) for part in parts], axis=1))
