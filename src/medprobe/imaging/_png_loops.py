"""The compiled loop of `png`, which imports this module where it needs it: that takes as long as a hundred pictures."""

import numpy as np
from numba import boolean, njit, types

READ = types.Array(types.uint8, 2, "C", readonly=True)
WRITTEN = types.Array(types.uint8, 2, "C")


@njit(boolean(READ, WRITTEN, types.intp), cache=True, nogil=True)
def unfilter(rows, out, samples):
    """out (H, W * samples) from rows (H, 1 + W * samples), each of which begins with the number of its filter; False: there is no such filter.

    Section 9.2 of the specification: what is stored is the difference to a prediction from the same sample of the pixel to
    the left (a), above (b) and above that to the left (c), 0 outside the picture; sums are modulo 256.
    """
    height, width = out.shape
    black = np.zeros(width, np.uint8)
    for y in range(height):
        kind, row, to = rows[y, 0], rows[y, 1:], out[y]
        up = out[y - 1] if y else black
        if kind == 0:
            to[:] = row
        elif kind == 1:
            for sample in range(samples):
                a = np.int32(0)
                for x in range(sample, width, samples):
                    a += row[x]
                    to[x] = a
        elif kind == 2:
            for x in range(width):
                to[x] = row[x] + up[x]
        elif kind == 3:
            for sample in range(samples):
                a = np.int32(0)
                for x in range(sample, width, samples):
                    a = (row[x] + ((a + np.int32(up[x])) >> 1)) & 255
                    to[x] = a
        elif kind == 4:
            for sample in range(samples):
                a, c = np.int32(0), np.int32(0)
                for x in range(sample, width, samples):
                    # Paeth's choice of whichever of a, b, c is nearest to a + b - c, in fewer steps that wait for a.
                    b = np.int32(up[x])
                    mark, low, high = 3 * c - b - a, min(a, b), max(a, b)
                    nearest = low if high <= mark else c
                    nearest = high if mark <= low else nearest
                    a, c = (row[x] + nearest) & 255, b
                    to[x] = a
        else:
            return False
    return True
