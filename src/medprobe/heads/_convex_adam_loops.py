"""Compiled loops of ConvexAdam over the cells of a grid (Z, Y, X), each over a part `first` to `last` of its work.

No loop adds up over parts, so results have the same bits on any number of threads. A mean of 3 cells along an axis takes
0 beyond its ends. Several in a row are one weighted mean over the odd continuation of the axis (x[-1] = 0,
x[-1 - i] = -x[i - 1]), on which every pass leaves 0 beyond the ends. It is its own adjoint. An axis of one cell is left as it is.
"""

import numpy as np
from numba import njit

FAST = {"contract", "reassoc", "nsz"}
BLOCK = 256
"""Cells worked on at a time where an axis other than the last is filtered or shifts are compared."""
ONE, TWO, THREE = (
    tuple(np.float32(weight / 3**passes) for weight in weights)
    for passes, weights in ((1, (1, 1, 0, 0)), (2, (3, 2, 1, 0)), (3, (7, 6, 3, 1)))
)
"""Weights at distance 0 to 3 of one, two and three means of 3 cells in a row."""


@njit(cache=True, nogil=True, fastmath=FAST)
def pool(image, step, out, first, last):
    """out (C, Z, Y, X) = means over blocks of step = (z, y, x) voxels of image (C, D, H, W); surplus voxels at the end are left out."""
    channels, _, height, width = out.shape
    sz, sy, sx = step
    share = np.float32(1 / (sz * sy * sx))
    line = np.empty(image.shape[3], np.float32)
    for z in range(first, last):
        for y in range(height):
            for c in range(channels):
                line[:] = 0
                for i in range(z * sz, (z + 1) * sz):
                    for j in range(y * sy, (y + 1) * sy):
                        row = image[c, i, j]
                        for x in range(line.size):
                            line[x] += row[x]
                for x in range(width):
                    total = np.float32(0)
                    for i in range(x * sx, (x + 1) * sx):
                        total += line[i]
                    out[c, z, y, x] = total * share


@njit(cache=True, nogil=True, fastmath=FAST)
def _continue_rows(padded, size):
    """Rows 0-2 and the last 3 of padded (size + 6, M): the odd continuation of those between."""
    for x in range(padded.shape[1]):
        padded[2, x] = 0
        padded[1, x] = -padded[3, x]
        padded[0, x] = -padded[4, x]
        padded[size + 3, x] = 0
        padded[size + 4, x] = -padded[size + 2, x]
        padded[size + 5, x] = -padded[size + 1, x]


@njit(cache=True, nogil=True, fastmath=FAST)
def _mix(padded, weights, y, out):
    """out (M) = the weighted mean around row y of padded (size + 6, M)."""
    w0, w1, w2, w3 = weights
    a, b, c, d, e, f, g = padded[y], padded[y + 1], padded[y + 2], padded[y + 3], padded[y + 4], padded[y + 5], padded[y + 6]
    for x in range(out.size):
        out[x] = w0 * d[x] + w1 * (c[x] + e[x]) + w2 * (b[x] + f[x]) + w3 * (a[x] + g[x])


@njit(cache=True, nogil=True, fastmath=FAST)
def _smooth_plane(plane, weights, line, rows):
    """Means along both axes of plane (Y, X), in place; `line` (X + 6) and `rows` (Y + 6, X) are scratch."""
    height, width = plane.shape
    w0, w1, w2, w3 = weights
    for y in range(height):
        row = plane[y]
        out = rows[y + 3]
        if width == 1:
            out[0] = row[0]
            continue
        for x in range(width):
            line[x + 3] = row[x]
        line[2], line[1], line[0] = 0, -row[0], -row[1]
        line[width + 3], line[width + 4], line[width + 5] = 0, -row[width - 1], -row[width - 2]
        for x in range(width):
            out[x] = w0 * line[x + 3] + w1 * (line[x + 2] + line[x + 4]) + w2 * (line[x + 1] + line[x + 5]) + w3 * (line[x] + line[x + 6])
    if height == 1:
        plane[0] = rows[3]
        return
    _continue_rows(rows, height)
    for y in range(height):
        _mix(rows, weights, y, plane[y])


@njit(cache=True, nogil=True, fastmath=FAST)
def _smooth_columns(field, weights, begin, end, padded):
    """Means along the first axis of columns begin to end of field (Z, N), in place; `padded` (Z + 6, BLOCK) is scratch."""
    depth = field.shape[0]
    if depth == 1:
        return
    part = padded[:, : end - begin]
    for z in range(depth):
        part[z + 3] = field[z, begin:end]
    _continue_rows(part, depth)
    for z in range(depth):
        _mix(part, weights, z, field[z, begin:end])


@njit(cache=True, nogil=True)
def smooth_planes(field, weights, first, last):
    """Means along y and x of planes first to last of each component of field (3, Z, Y, X), in place."""
    parts, _, height, width = field.shape
    line, rows = np.empty(width + 6, np.float32), np.empty((height + 6, width), np.float32)
    for part in range(parts):
        for z in range(first, last):
            _smooth_plane(field[part, z], weights, line, rows)


@njit(cache=True, nogil=True)
def smooth(volume, weights):
    """Means along the three axes of volume (Z, Y, X), in place."""
    depth, height, width = volume.shape
    line, rows = np.empty(width + 6, np.float32), np.empty((height + 6, width), np.float32)
    padded = np.empty((depth + 6, BLOCK), np.float32)
    for z in range(depth):
        _smooth_plane(volume[z], weights, line, rows)
    flat = volume.reshape(depth, height * width)
    for begin in range(0, height * width, BLOCK):
        _smooth_columns(flat, weights, begin, min(begin + BLOCK, height * width), padded)


@njit(cache=True, nogil=True, fastmath=FAST)
def costs(fixed, moving, place, weights, volume, first, last):
    """volume[place[dz, dy, dx]] (Z * Y * X) = smoothed sum over channels of (fixed(x) - moving(x + d))^2, for shifts d from -h to h.

    fixed (C, Z, Y, X); moving (C, Z + 2 hz, Y + 2 hy, X + 2 hx) with zeros around; place (2 hz + 1, 2 hy + 1, 2 hx + 1). Work item i
    is dx = i // (2 hz + 1), dz = i % (2 hz + 1), with every dy.
    """
    channels, depth, height, width = fixed.shape
    shifts_z, shifts_y, _ = place.shape
    area = height * width
    still = fixed.reshape(channels, depth, area)
    tall = moving.shape[2]
    shifted = np.empty((channels, moving.shape[1], tall * width), np.float32)
    done = -1
    for item in range(first, last):
        dx, dz = item // shifts_z, item % shifts_z
        if dx != done:
            for c in range(channels):
                for z in range(moving.shape[1]):
                    for y in range(tall):
                        for x in range(width):
                            shifted[c, z, y * width + x] = moving[c, z, y, x + dx]
            done = dx
        for dy in range(shifts_y):
            cost = volume[place[dz, dy, dx]]
            for z in range(depth):
                row = cost[z * area : (z + 1) * area]
                row[:] = 0
                for c in range(channels):
                    f, m = still[c, z], shifted[c, z + dz, dy * width : dy * width + area]
                    for i in range(area):
                        difference = f[i] - m[i]
                        row[i] += difference * difference
            smooth(cost.reshape(depth, height, width), weights)


@njit(cache=True, nogil=True, fastmath=FAST)
def search(volume, shifts, u, coupling, found, first, last):
    """found (3, N) = the shift d of shifts (K, 3) with the least volume[k] + coupling * |d - u|^2, the first of several; u (3, N)."""
    best, which = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    for begin in range(first, last, BLOCK):
        end = min(begin + BLOCK, last)
        uz, uy, ux = u[0, begin:end], u[1, begin:end], u[2, begin:end]
        best[:] = np.inf
        which[:] = 0
        for k in range(len(shifts)):
            dz, dy, dx = shifts[k, 0], shifts[k, 1], shifts[k, 2]
            cost = volume[k, begin:end]
            for i in range(end - begin):
                z, y, x = dz - uz[i], dy - uy[i], dx - ux[i]
                value = cost[i] + coupling * (z * z + y * y + x * x)
                smaller = value < best[i]
                best[i] = value if smaller else best[i]
                which[i] = np.int32(k) if smaller else which[i]
        for i in range(end - begin):
            for axis in range(3):
                found[axis, begin + i] = shifts[which[i], axis]


@njit(cache=True, nogil=True, fastmath=FAST)
def _corner(position, size):
    """(index below, share of the one above); a position outside (-1, size) comes back as index -2."""
    if not -1 < position < size:
        return -2, np.float32(0)
    index = int(np.floor(position))
    return index, np.float32(position - index)


@njit(cache=True, nogil=True, fastmath=FAST)
def halve(one, two, factor, out, first, last):
    """out = (one(x) - two(x + factor * one(x))) / 2 for fields (3, Z, Y, X) in cells: linear, 0 outside the grid."""
    _, depth, height, width = one.shape
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                iz, fz = _corner(z + factor[0] * one[0, z, y, x], depth)
                iy, fy = _corner(y + factor[1] * one[1, z, y, x], height)
                ix, fx = _corner(x + factor[2] * one[2, z, y, x], width)
                tz, ty, tx = np.float32(0), np.float32(0), np.float32(0)
                if iz > -2 and iy > -2 and ix > -2:
                    for dz in range(2):
                        for dy in range(2):
                            for dx in range(2):
                                i, j, k = iz + dz, iy + dy, ix + dx
                                if 0 <= i < depth and 0 <= j < height and 0 <= k < width:
                                    share = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                                    tz += share * two[0, i, j, k]
                                    ty += share * two[1, i, j, k]
                                    tx += share * two[2, i, j, k]
                out[0, z, y, x] = (one[0, z, y, x] - tz) / 2
                out[1, z, y, x] = (one[1, z, y, x] - ty) / 2
                out[2, z, y, x] = (one[2, z, y, x] - tx) / 2


@njit(cache=True, nogil=True, fastmath=FAST)
def resample(field, below_z, part_z, below_y, part_y, below_x, part_x, factor, out, first, last):
    """out (3, D, H, W) = factor * field (3, Z, Y, X), linear: `below` is the index under a position, `part` the share of the next one."""
    width = field.shape[3]
    line = np.empty(width, np.float32)
    for axis in range(3):
        scale = factor[axis]
        for z in range(first, last):
            i, fz = below_z[z], part_z[z]
            over = min(i + 1, field.shape[1] - 1)
            for y in range(out.shape[2]):
                j, fy = below_y[y], part_y[y]
                after = min(j + 1, field.shape[2] - 1)
                a, b, c, d = field[axis, i, j], field[axis, i, after], field[axis, over, j], field[axis, over, after]
                for x in range(width):
                    low, high = a[x] + fy * (b[x] - a[x]), c[x] + fy * (d[x] - c[x])
                    line[x] = scale * (low + fz * (high - low))
                row = out[axis, z, y]
                for x in range(row.size):
                    k = below_x[x]
                    row[x] = line[k] + part_x[x] * (line[min(k + 1, width - 1)] - line[k])


@njit(cache=True, nogil=True)
def _position(start, move, rule):
    """Where along an axis, in cells, in the order of operations that `rule` is for: no fast arithmetic here."""
    unit, shift, scale, origin = rule
    return (start + move / unit + shift) * scale - origin


@njit(cache=True, nogil=True, fastmath=FAST)
def gradient(fixed, moving, v, starts, rules, weight, stiffness, out, first, last):
    """out (3, Z, Y, X) = derivative by v of weight / 2 * sum (moving(p) - fixed)^2 + stiffness / 2 * sum (forward differences of v)^2.

    fixed (Z, Y, X, C); moving (Z + 2, Y + 2, X + 2, C) with zeros around. Along each axis p = (start + v / unit + shift) * scale - origin,
    with one `start` a cell, and the four others as its rule; an infinite unit leaves p at the cell. `stiffness` is by axis.
    """
    depth, height, width, channels = fixed.shape
    start_z, start_y, start_x = starts
    rule_z, rule_y, rule_x = rules
    sz, sy, sx = rule_z[2] / rule_z[0], rule_y[2] / rule_y[0], rule_x[2] / rule_x[0]
    kz, ky, kx = stiffness
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                pz, py, px = _position(start_z[z], v[0, z, y, x], rule_z), _position(start_y[y], v[1, z, y, x], rule_y), _position(start_x[x], v[2, z, y, x], rule_x)
                gz, gy, gx = np.float32(0), np.float32(0), np.float32(0)
                if -1 < pz < depth and -1 < py < height and -1 < px < width:
                    below_z, below_y, below_x = np.floor(pz), np.floor(py), np.floor(px)
                    iz, iy, ix = int(below_z) + 1, int(below_y) + 1, int(below_x) + 1
                    fz, fy, fx = pz - below_z, py - below_y, px - below_x
                    a, b, c, d = moving[iz, iy, ix], moving[iz, iy, ix + 1], moving[iz, iy + 1, ix], moving[iz, iy + 1, ix + 1]
                    e, f, g, h = moving[iz + 1, iy, ix], moving[iz + 1, iy, ix + 1], moving[iz + 1, iy + 1, ix], moving[iz + 1, iy + 1, ix + 1]
                    target = fixed[z, y, x]
                    for k in range(channels):
                        ab, cd, ef, gh = b[k] - a[k], d[k] - c[k], f[k] - e[k], h[k] - g[k]
                        low, high = a[k] + fx * ab, e[k] + fx * ef
                        low_y, high_y = c[k] + fx * cd - low, g[k] + fx * gh - high
                        low, high = low + fy * low_y, high + fy * high_y
                        low_x, high_x = ab + fy * (cd - ab), ef + fy * (gh - ef)
                        along_z = high - low
                        residual = low + fz * along_z - target[k]
                        gz += residual * along_z
                        gy += residual * (low_y + fz * (high_y - low_y))
                        gx += residual * (low_x + fz * (high_x - low_x))
                out[0, z, y, x] = weight * sz * gz
                out[1, z, y, x] = weight * sy * gy
                out[2, z, y, x] = weight * sx * gx
            for axis in range(3):
                here, row = v[axis, z, y], out[axis, z, y]
                above, below = v[axis, max(z - 1, 0), y], v[axis, min(z + 1, depth - 1), y]
                before, behind = v[axis, z, max(y - 1, 0)], v[axis, z, min(y + 1, height - 1)]
                for x in range(width):
                    row[x] += kz * (2 * here[x] - above[x] - below[x]) + ky * (2 * here[x] - before[x] - behind[x])
                for x in range(1, width):
                    row[x] += kx * (here[x] - here[x - 1])
                for x in range(width - 1):
                    row[x] += kx * (here[x] - here[x + 1])


@njit(cache=True, nogil=True, fastmath=FAST)
def update(g, u, mean, square, rate, root, weights, smoothed, first, last):
    """One step of Adam on columns first to last of u (3, Z, N), whose `smoothed` by means along y and x has the derivative g (3, Z, N).

    g has been averaged along y and x; here it is along z. `rate` is the learning rate over 1 - 0.9^t, `root` is sqrt(1 - 0.999^t);
    `smoothed` is the new u averaged along z.
    """
    depth = u.shape[1]
    padded = np.empty((depth + 6, BLOCK), np.float32)
    keep, add = np.float32(0.9), np.float32(0.1)
    keep_square, add_square, floor = np.float32(0.999), np.float32(0.001), np.float32(1e-8)
    inverse = np.float32(1) / root
    for axis in range(3):
        for begin in range(first, last, BLOCK):
            end = min(begin + BLOCK, last)
            _smooth_columns(g[axis], weights, begin, end, padded)
            for z in range(depth):
                slope, value, target = g[axis, z, begin:end], u[axis, z, begin:end], smoothed[axis, z, begin:end]
                m, s = mean[axis, z, begin:end], square[axis, z, begin:end]
                for i in range(end - begin):
                    m[i] = keep * m[i] + add * slope[i]
                    s[i] = keep_square * s[i] + add_square * slope[i] * slope[i]
                    value[i] -= rate * m[i] / (np.sqrt(s[i]) * inverse + floor)
                for i in range(end - begin):
                    target[i] = value[i]
            _smooth_columns(smoothed[axis], weights, begin, end, padded)
