"""The compiled loops of `instances`, which imports this module where it needs them, since numba is slow to import.

A table of pairs is (slots, 3) uint64, a power of two of slots of which at most half are taken. A row is truth,
prediction, voxels; 0 voxels mark a free slot, so that every id is allowed. All its numbers are uint64, since numba
makes floats of uint64 with int64.
"""

import numba
import numpy as np

CHUNK = 16384
"""Voxels compared at a time, below 2^16; the marks of where runs end stay in the processor's nearest caches."""

compiled = numba.njit(cache=True, nogil=True)


def empty_table() -> np.ndarray:
    return np.zeros((1024, 3), dtype=np.uint64)


@compiled
def add(table, true, pred, voxels):
    """Count voxels of a pair; how many free slots that took, 0 or 1."""
    last = np.uint64(len(table) - 1)
    mixed = true * np.uint64(0x9E3779B97F4A7C15) + pred * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    slot = (mixed ^ (mixed >> np.uint64(32))) & last
    while table[slot, 2] != 0:
        if table[slot, 0] == true and table[slot, 1] == pred:
            table[slot, 2] += voxels
            return 0
        slot = (slot + np.uint64(1)) & last
    table[slot, 0], table[slot, 1], table[slot, 2] = true, pred, voxels
    return 1


@compiled
def doubled(table):
    larger = np.zeros((2 * len(table), 3), dtype=np.uint64)
    for row in range(len(table)):
        if table[row, 2] != 0:
            add(larger, table[row, 0], table[row, 1], table[row, 2])
    return larger


@compiled
def merge(table, used, other, used_other):
    """The counts of both tables in one.

    It is large enough before the first is added: those of the other come in the order of their slots, and would crowd
    the first slots of a small table.
    """
    while len(table) < 2 * (used + used_other):
        table = doubled(table)
    for row in range(len(other)):
        if other[row, 2] != 0:
            add(table, other[row, 0], other[row, 1], other[row, 2])
    return table


@compiled
def scan(true, pred, mask, table, used):
    """Count the pairs of two (n,) unsigned arrays, n > 0, run by run, where `mask` ((n,) bool or None) is True.

    The comparison with the voxel before, and the list of where they differ, have no branch: branches that follow the
    image cost more than everything else together.
    """
    n, begin = len(true), 0
    differs = np.zeros(CHUNK, dtype=np.uint8)
    eights = differs.view(np.uint64)
    ends = np.empty(CHUNK, dtype=np.uint16)
    for start in range(1, n, CHUNK):
        size = min(CHUNK, n - start)
        a, b = true[start - 1 : start + size], pred[start - 1 : start + size]
        if size < CHUNK:
            differs[:] = 0
        for i in range(size):
            differs[i] = (a[i] != a[i + 1]) | (b[i] != b[i + 1])
        if mask is not None:
            c = mask[start - 1 : start + size]
            for i in range(size):
                differs[i] |= c[i] != c[i + 1]
        found = 0
        for eight in range(CHUNK // 8):
            if eights[eight] != 0:
                for i in range(8 * eight, 8 * eight + 8):
                    ends[found] = i
                    found += differs[i]
        for i in ends[:found]:
            if mask is None or mask[start - 1 + i]:
                used += add(table, np.uint64(a[i]), np.uint64(b[i]), np.uint64(start + i - begin))
                if 2 * used > len(table):
                    table = doubled(table)
            begin = start + i
    if mask is None or mask[n - 1]:
        used += add(table, np.uint64(true[n - 1]), np.uint64(pred[n - 1]), np.uint64(n - begin))
        if 2 * used > len(table):
            table = doubled(table)
    return table, used


@compiled
def widen(border, reach, out):
    """Set `out` (H, W) uint8 to 1 where a border pixel is d columns and at most reach[d] rows away; reach is int32 and
    falls with d.
    """
    height, width = border.shape
    far = reach[0] + np.int32(1)
    rows = np.empty((height, width), dtype=np.int32)
    above = np.full(width, far, dtype=np.int32)
    for y in range(height):
        for x in range(width):
            above[x] = np.int32(0) if border[y, x] else min(above[x] + np.int32(1), far)
        rows[y] = above
    nearest = np.full(width, far, dtype=np.int32)
    for y in range(height - 1, -1, -1):
        for x in range(width):
            nearest[x] = min(nearest[x] + np.int32(1), rows[y, x])
        for d in range(len(reach)):
            limit = reach[d]
            for near, row in ((nearest[d:], out[y, : width - d]), (nearest[: width - d], out[y, d:])):
                for x in range(width - d):
                    row[x] |= np.uint8(near[x] <= limit)
