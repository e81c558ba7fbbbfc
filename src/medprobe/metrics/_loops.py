"""Compiled loops over voxels: pairs of labels counted, boxes of labels, borders of masks, exact distances to a border.

The distance map is the feature transform of Maurer, Qi and Raghavan (IEEE TPAMI 25:265, 2003) with the order of axes, the
ties and the order of floating-point operations of `scipy.ndimage.distance_transform_edt`, so that both give the same bits.
All of it depends on differences of indices only: a crop that holds the border gives what the whole volume would.
Everything here is 3D; 2D is one plane. Compiled at first use and cached on disk by numba.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def count_pairs(pred, true, ignore, counts):
    """Add to counts[true, pred] every voxel whose true label is not `ignore`; returns how many labels are out of range."""
    size = counts.shape[0]
    strange = 0
    for i in range(pred.size):
        t, p = true[i], pred[i]
        if t == ignore:
            continue
        if t < 0 or t >= size or p < 0 or p >= size:
            strange += 1
        else:
            counts[t, p] += 1
    return strange


@njit(cache=True, nogil=True)
def boxes(labels, lut, found):
    """Widen `found` (K, 6: first and last z, y, x) to hold every voxel of each class; lut[label - low] is the class or -1.

    `lut` is (table, low): labels outside the table belong to no class.
    """
    table, low = lut
    depth, height, width = labels.shape
    size = len(table)
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                value = labels[z, y, x]
                start = x
                x += 1
                while x < width and labels[z, y, x] == value:
                    x += 1
                place = np.int64(value) - low
                if place < 0 or place >= size:
                    continue
                k = table[place]
                if k < 0:
                    continue
                box = found[k]
                if z < box[0]:
                    box[0] = z
                if z > box[1]:
                    box[1] = z
                if y < box[2]:
                    box[2] = y
                if y > box[3]:
                    box[3] = y
                if start < box[4]:
                    box[4] = start
                if x - 1 > box[5]:
                    box[5] = x - 1


@njit(cache=True, nogil=True)
def border(mask, flat, out):
    """out = mask without its erosion by the cross (connectivity 1), outside counting as background; returns its size.

    `flat` is True for a 2D mask in a (1, H, W) array: it has no neighbours along z.
    """
    depth, height, width = mask.shape
    count = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                on = mask[z, y, x]
                if (
                    on
                    and 0 < x < width - 1 and mask[z, y, x - 1] and mask[z, y, x + 1]
                    and 0 < y < height - 1 and mask[z, y - 1, x] and mask[z, y + 1, x]
                    and (flat or (0 < z < depth - 1 and mask[z - 1, y, x] and mask[z + 1, y, x]))
                ):  # fmt: skip
                    on = False
                out[z, y, x] = on
                count += on
    return count


@njit(cache=True, nogil=True)
def _nearest_in_depth(target, fz):
    """fz[z, y, x] = the plane of the nearest border voxel in the column through (y, x), the lower of two; -1 without one."""
    depth, height, width = target.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if target[z, y, x]:
                    fz[z, y, x] = z
                elif z > 0:
                    fz[z, y, x] = fz[z - 1, y, x]
                else:
                    fz[z, y, x] = -1
    for z in range(depth - 2, -1, -1):
        for y in range(height):
            for x in range(width):
                below, above = fz[z, y, x], fz[z + 1, y, x]
                if above > z and (below < 0 or above - z < z - below):
                    fz[z, y, x] = above


@njit(cache=True, nogil=True)
def _envelope(position, weight, count, step, kept):
    """Which of `count` features (ascending positions on a line, squared distances off it) are nearest to some point of the
    line: their places in `kept`; returns how many."""
    last = -1
    for i in range(count):
        while last >= 1:
            one, two = kept[last], kept[last - 1]
            a = (position[one] - position[two]) * step
            b = (position[i] - position[one]) * step
            c = a + b
            if c * weight[one] - b * weight[two] - a * weight[i] - a * b * c <= 0.0:
                break
            last -= 1
        last += 1
        kept[last] = i
    return last + 1


@njit(cache=True, nogil=True)
def _walk(position, weight, kept, kinds, at, here, step):
    """(place in `kept`, squared distance) of the feature nearest to `here`, which lies beyond all asked before."""
    t = (position[kept[at]] - here) * step
    best = weight[kept[at]] + t * t
    while at < kinds - 1:
        t = (position[kept[at + 1]] - here) * step
        other = weight[kept[at + 1]] + t * t
        if best <= other:
            break
        best = other
        at += 1
    return at, best


@njit(cache=True, nogil=True)
def distances(target, query, spacing, out):
    """Distance of every voxel of `query` (in C order, into `out`) to the nearest voxel of `target`; both (Z, Y, X) bool.

    `target` must hold a voxel. Passes run along z, then y, then x; planes and lines without a query are left out.
    """
    depth, height, width = target.shape
    sz, sy, sx = spacing
    fz = np.empty((depth, height, width), np.int16)
    _nearest_in_depth(target, fz)
    longest = max(height, width)
    position, weight = np.empty(longest), np.empty(longest)
    place, kept = np.empty(longest, np.int64), np.empty(longest, np.int64)
    fy = np.empty((width, height), np.int16)
    column = np.empty((width, height), np.int16)
    told = 0
    for z in range(depth):
        wanted = False
        for y in range(height):
            for x in range(width):
                if query[z, y, x]:
                    wanted = True
                    break
            if wanted:
                break
        if not wanted:
            continue
        for y in range(height):
            for x in range(width):
                column[x, y] = fz[z, y, x]
        for x in range(width):
            count = 0
            for y in range(height):
                if column[x, y] >= 0:
                    t = (column[x, y] - z) * sz
                    position[count], weight[count], place[count] = y, t * t, y
                    count += 1
            if count == 0:
                for y in range(height):
                    fy[x, y] = -1
                continue
            kinds = _envelope(position, weight, count, sy, kept)
            at = 0
            for y in range(height):
                at, _ = _walk(position, weight, kept, kinds, at, y, sy)
                fy[x, y] = place[kept[at]]
        for y in range(height):
            asked = 0
            for x in range(width):
                asked += query[z, y, x]
            if asked == 0:
                continue
            count = 0
            for x in range(width):
                row = fy[x, y]
                if row >= 0:
                    tz, ty = (column[x, row] - z) * sz, (row - y) * sy
                    position[count], weight[count] = x, tz * tz + ty * ty
                    count += 1
            kinds = _envelope(position, weight, count, sx, kept)
            at = 0
            for x in range(width):
                if not query[z, y, x]:
                    continue
                at, best = _walk(position, weight, kept, kinds, at, x, sx)
                out[told] = np.sqrt(best)
                told += 1
