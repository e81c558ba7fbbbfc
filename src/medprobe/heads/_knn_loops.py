"""Compiled loops of k-NN over rows. A neighbour is one number, its key: the rank of its similarity, then its index; the least is the nearest."""

import numpy as np
from numba import njit

AT_ONCE = 64
"""Similarities of a row that are passed over at once where none of them is near enough."""


@njit(cache=True, nogil=True)
def rank(bits):
    """int32 that falls as the float32 of these bits rises."""
    return ~(bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF)))


@njit(cache=True, nogil=True)
def nearer(line, bound):
    """How many of a line, without a branch."""
    count = np.int32(0)
    for column in range(len(line)):
        count += np.int32(rank(line[column]) < bound)
    return count


@njit(cache=True, nogil=True)
def least_first(keys, size, k):
    """Bring the k least of the first `size` keys to the front, the greatest of them to place k - 1."""
    low, high = 0, size - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        up, down = low, high
        while up <= down:
            while keys[up] < pivot:
                up += 1
            while keys[down] > pivot:
                down -= 1
            if up <= down:
                keys[up], keys[down] = keys[down], keys[up]
                up += 1
                down -= 1
        if k - 1 <= down:
            high = down
        elif k - 1 >= up:
            low = up
        else:
            break


@njit(cache=True, nogil=True)
def merge(tile, left, width, k, keys, held, beyond):
    """Add neighbours of the first `width` columns of a tile (rows, columns) of float32 bits, the first of them `left`, that may be among the k nearest.

    keys (rows, more than k) int64, of which the first held[row] count; beyond (rows,) int32: the rank below which one may be.
    Columns come in order, so one as near as the k-th is none.
    """
    for row in range(len(tile)):
        line, kept = tile[row, :width], keys[row]
        size, bound = held[row], beyond[row]
        for start in range(0, len(line), AT_ONCE):
            part = line[start : start + AT_ONCE]
            if nearer(part, bound) == 0:
                continue
            for column in range(len(part)):
                here = rank(part[column])
                if here < bound:
                    if size == len(kept):
                        least_first(kept, size, k)
                        size, bound = k, np.int32(kept[k - 1] >> 32)
                        if here >= bound:
                            continue
                    kept[size] = (np.int64(here - (here == 0)) << 32) | (left + start + column)  # the rank of both zeros is that of 0.0
                    size += 1
        held[row], beyond[row] = size, bound


@njit(cache=True, nogil=True)
def digests(values, weights):
    """(n,) uint64 of rows (n, D) of float32: the same for rows that are equal, 0.0 and -0.0 among them."""
    bits = values.view(np.uint32)
    found = np.zeros(len(bits), np.uint64)
    for row in range(len(bits)):
        total = np.uint64(0)
        for column in range(bits.shape[1]):
            here = bits[row, column]
            total += np.uint64(0 if here == np.uint32(0x80000000) else here) * weights[column]
        found[row] = total
    return found


@njit(cache=True, nogil=True)
def spread(keys, starts, members, k):
    """Neighbours among vectors that differ, keys (rows, m) from the nearest on, as the k nearest of all: the vector i stands for those at
    members[starts[i]:starts[i + 1]], in order."""
    out = np.empty((len(keys), k), np.int64)
    kept = np.empty(2 * k + 1, np.int64)
    for row in range(len(keys)):
        size, last = 0, np.int64(0)
        for key in keys[row]:
            here, of = key >> 32, key & 0xFFFFFFFF
            if size >= k and here > last:
                break
            last = here
            for place in range(starts[of], min(starts[of] + k, starts[of + 1])):
                if size == len(kept):
                    least_first(kept, size, k)
                    size = k
                kept[size] = (here << 32) | members[place]
                size += 1
        kept[:size].sort()
        out[row] = kept[:k]
    return out


@njit(cache=True, nogil=True)
def vote(index, weight, table, ks, prior):
    """(len(ks), rows, C) weighted means of the labels of the first k neighbours; `prior` where none is labelled.
    `table` (n, 2 C): labels, 0 where there is none, and whether there is one."""
    classes = len(prior)
    out = np.empty((len(ks), len(index), classes))
    for row in range(len(index)):
        sums = np.zeros(2 * classes)
        start = 0
        for at, k in enumerate(ks):
            for near in range(start, k):
                of, labels = weight[row, near], table[index[row, near]]
                for place in range(len(sums)):
                    sums[place] += of * labels[place]
            start = k
            for label in range(classes):
                total = sums[classes + label]
                out[at, row, label] = sums[label] / total if total > 0 else prior[label]
    return out
