"""Compiled loops of MIND, each over a part `first` to `last` of its work; no loop adds up over parts."""

import numpy as np
from numba import njit

FAST = {"contract", "reassoc", "nsz"}


@njit(cache=True, nogil=True, fastmath=FAST)
def distances(padded, margin, pairs, radius, out, first, last):
    """out (P, D, H, W) = sums over (2 r + 1)^3 voxels of (I(x + pairs[p, 0]) - I(x + pairs[p, 1]))^2, the edge repeated.

    `padded` is the image with `margin` voxels of its edge repeated around; pairs (P, 2, 3) in voxels, z, y, x.
    """
    _, depth, height, width = out.shape
    count = 2 * radius + 1
    line, plane = np.empty(width + 2 * radius, np.float32), np.empty((height, width), np.float32)
    ring = np.empty((count, height, width), np.float32)
    for p in range(first, last):
        oz, oy, ox = pairs[p, 0, 0] + margin, pairs[p, 0, 1] + margin, pairs[p, 0, 2] + margin
        qz, qy, qx = pairs[p, 1, 0] + margin, pairs[p, 1, 1] + margin, pairs[p, 1, 2] + margin
        for z in range(depth + radius):
            if z < depth:
                for y in range(height):
                    one, two = padded[z + oz, y + oy, ox : ox + width], padded[z + qz, y + qy, qx : qx + width]
                    for x in range(width):
                        difference = one[x] - two[x]
                        line[x + radius] = difference * difference
                    for x in range(radius):
                        line[x] = line[radius]
                        line[width + radius + x] = line[width + radius - 1]
                    row = plane[y]
                    for x in range(width):
                        row[x] = line[x]
                    for t in range(1, count):
                        part = line[t : t + width]
                        for x in range(width):
                            row[x] += part[x]
                newest = ring[z % count]
                _add_rows(plane, radius, newest)
            if z >= radius:
                target = out[p, z - radius]
                for t in range(count):
                    source = ring[min(max(z - count + 1 + t, 0), depth - 1) % count]
                    for y in range(height):
                        row, add = target[y], source[y]
                        for x in range(width):
                            row[x] = row[x] + add[x] if t else add[x]


@njit(cache=True, nogil=True, fastmath=FAST)
def _add_rows(plane, radius, out):
    """out[y] = the sum of rows y - radius to y + radius of plane (H, W), those at the edge repeated."""
    height, width = plane.shape
    for y in range(height):
        row = out[y]
        for t in range(-radius, radius + 1):
            add = plane[min(max(y + t, 0), height - 1)]
            for x in range(width):
                row[x] = row[x] + add[x] if t > -radius else add[x]


@njit(cache=True, nogil=True, fastmath=FAST)
def above_least(found, mean, totals, first, last):
    """Take the least over channels away from found (P, D, H, W); `mean` (D, H, W) over channels of the rest; totals[z] sums a plane's."""
    channels, _, height, width = found.shape
    least, total = np.empty(width, np.float32), np.empty(width, np.float32)
    for z in range(first, last):
        plane = 0.0
        for y in range(height):
            least[:] = found[0, z, y]
            total[:] = 0
            for c in range(1, channels):
                row = found[c, z, y]
                for x in range(width):
                    least[x] = min(least[x], row[x])
            for c in range(channels):
                row = found[c, z, y]
                for x in range(width):
                    row[x] -= least[x]
                    total[x] += row[x]
            row = mean[z, y]
            for x in range(width):
                row[x] = total[x] / channels
                plane += np.float64(row[x])
        totals[z] = plane


@njit(cache=True, nogil=True, fastmath=FAST)
def divide(found, mean, low, high, first, last):
    """found (P, D, H, W) = -found / mean (D, H, W) kept within low and high."""
    channels, _, height, width = found.shape
    scale = np.empty(width, np.float32)
    for z in range(first, last):
        for y in range(height):
            row = mean[z, y]
            for x in range(width):
                scale[x] = np.float32(-1) / min(max(row[x], low), high)
            for c in range(channels):
                out = found[c, z, y]
                for x in range(width):
                    out[x] *= scale[x]
