"""ConvexAdam: the displacement between two feature images, without training (Siebert et al., IEEE TMI 2025; methods sheet 7.3).

    average-pooled features → cost of every whole shift → coupled convex search → inverse consistency → Adam on a finer grid

An axis of one voxel is no axis: nothing is searched, averaged or moved along it, so that 2D images and volumes of one plane are the
same code. Loops are compiled (`_convex_adam_loops`) and shared among the threads of torch; their number changes no bit.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from medprobe.errors import RequestError

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CELLS = 3
"""An axis is pooled to at least so many cells, where it has so many voxels."""
DATA_WEIGHT = 12
"""Factor of the mean squared difference of features in the loss of Adam."""


def convex_adam(
    fixed: Any,
    moving: Any,
    *,
    grid_sp: int | Sequence[int] = 6,
    disp_hw: int = 4,
    lambda_weight: float = 1.25,
    niter: int = 80,
    grid_sp_adam: int | Sequence[int] = 2,
    ic: bool = True,
    selected_smooth: int = 0,
    learning_rate: float = 1.0,
    reference_scaling: bool = False,
) -> np.ndarray:
    """Displacement (3, D, H, W) with components z, y, x, or (2, H, W) with y, x, float32 in voxels; `moving` is sampled at x + u(x).

    `fixed` and `moving` are feature images (C, D, H, W) or (C, H, W), numpy or torch, of one shape. `grid_sp` (an int or one for each axis, in
    array order) is the spacing of the search's grid, on which whole shifts up to `disp_hw` cells each way are compared;
    `grid_sp_adam` that of the grid on which Adam makes `niter` steps; `lambda_weight` is the weight of the diffusion term;
    `ic` makes the search inverse consistent; `selected_smooth` is the side of three final mean filters (0: none; an even one counts as the
    next odd one).

    Where a spacing would leave an axis of N voxels fewer than 3 cells, it is floor(N / 3) there, at least 1.
    Where either image is the same everywhere the displacement is 0. Equal costs: the shortest shift.
    `reference_scaling` takes the original's conventions instead: positions stretched by N / (N - 1), grids stretched over
    surplus voxels at the end, the first shift of several equal ones (x slowest).
    """
    still, moved = _image(fixed, "fixed"), _image(moving, "moving")
    if still.shape != moved.shape:
        raise RequestError(f"expected fixed and moving feature images of one shape, found {still.shape} and {moved.shape}; resample one onto the other")
    dims = still.ndim - 1
    if disp_hw < 0 or niter < 0 or selected_smooth < 0 or lambda_weight < 0 or learning_rate <= 0:
        raise RequestError(
            "expected disp_hw, niter, selected_smooth and lambda_weight of at least 0 and a learning_rate above 0, "
            f"found {disp_hw}, {niter}, {selected_smooth}, {lambda_weight} and {learning_rate}"
        )
    sides = still.shape[1:]
    coarse, fine = _steps(grid_sp, sides, "grid_sp"), _steps(grid_sp_adam, sides, "grid_sp_adam")
    if dims == 2:
        sides, coarse, fine = (1, *sides), (1, *coarse), (1, *fine)
    order = (1, 0, 2) if sides[0] == 1 else (0, 1, 2)  # planes are what threads share
    sides, coarse, fine = (tuple(three[axis] for axis in order) for three in (sides, coarse, fine))
    still, moved = (image.reshape(len(image), *sides) for image in (still, moved))
    with _threads() as share:
        u = np.zeros((3, *sides), np.float32)
        if all(share.map(_varies, (still, moved))):
            u = _search_displacement(share, still, moved, coarse, disp_hw, ic, reference_scaling)
            if niter:
                u = _refine(share, still, moved, u, fine, lambda_weight, niter, learning_rate, reference_scaling)
    u = _final_smooth(u, selected_smooth)
    u = np.stack([u[axis] for axis in order]).reshape(3, *(sides[axis] for axis in order))
    return u[1:, 0] if dims == 2 else u


def _image(image: Any, name: str) -> np.ndarray:
    """The feature image as contiguous float32 on the CPU, or an error that names what is wrong."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().float().numpy()
    found = np.asarray(image)
    if found.dtype.kind not in "fiub" or found.ndim not in (3, 4) or not found.size:
        raise RequestError(f"expected the {name} feature image as numbers (C, D, H, W) or (C, H, W), found {found.dtype} of shape {found.shape}; put the channels first")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(found, dtype=np.float32)
    if not np.isfinite([found.min(), found.max()]).all():
        raise RequestError(f"expected finite values in the {name} feature image, found NaN or infinity; check the encoder or the image")
    return found


def _steps(spacing: int | Sequence[int], sides: Sequence[int], name: str) -> tuple[int, ...]:
    """The spacing along each axis, smaller where it would leave fewer than CELLS cells."""
    steps = tuple(spacing) if isinstance(spacing, Sequence) else (spacing,) * len(sides)
    if len(steps) != len(sides) or not all(step == int(step) >= 1 for step in steps):
        raise RequestError(f"expected {name} as a whole number of voxels or one for each of {len(sides)} axes, found {spacing!r}")
    return tuple(min(int(step), max(side // CELLS, 1)) for step, side in zip(steps, sides, strict=True))


def _varies(image: np.ndarray) -> bool:
    """Whether any channel of (C, D, H, W) has two values."""
    return any(channel.min() < channel.max() for channel in image)


class _Share:
    """Runs `loop(*args, first, last)` over parts of `count` items, one part a thread, and waits for all."""

    def __init__(self, threads: int, pool: ThreadPoolExecutor) -> None:
        self.threads, self.pool = threads, pool

    def __call__(self, loop: Callable[..., None], count: int, *args: Any) -> None:
        parts = min(self.threads, count)
        edges = [count * part // parts for part in range(parts + 1)]
        others = [self.pool.submit(loop, *args, *edges[part : part + 2]) for part in range(1, parts)]
        loop(*args, *edges[:2])
        for other in others:
            other.result()

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return self.pool.map(function, items)


@contextmanager
def _threads() -> Iterator[_Share]:
    import torch

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        yield _Share(threads, pool)


def _pool(share: _Share, image: np.ndarray, steps: tuple[int, ...], rim: Sequence[int] = (0, 0, 0), last: bool = False) -> np.ndarray:
    """Means over blocks of image (C, D, H, W) inside a rim of zeros: (C, Z, Y, X), or (Z, Y, X, C) if channels come `last`."""
    from medprobe.heads import _convex_adam_loops as loops

    cells = [side // step for side, step in zip(image.shape[1:], steps, strict=True)]
    sides = [cell + 2 * wide for cell, wide in zip(cells, rim, strict=True)]
    made = np.zeros((*sides, image.shape[0]) if last else (image.shape[0], *sides), np.float32)
    inside = tuple(slice(wide, wide + cell) for cell, wide in zip(cells, rim, strict=True))
    out = np.moveaxis(made, -1, 0)[(slice(None), *inside)] if last else made[(slice(None), *inside)]
    share(loops.pool, cells[0], image, steps, out)
    return made


def _search_displacement(
    share: _Share, fixed: np.ndarray, moving: np.ndarray, steps: tuple[int, ...], reach: int, ic: bool, reference: bool
) -> np.ndarray:
    """The convex stage: displacement (3, D, H, W) in voxels of features (C, D, H, W)."""
    still, moved = (_pool(share, image, steps) for image in (fixed, moving))
    cells = still.shape[1:]
    shifts, place = _shifts([reach if cell > 1 else 0 for cell in cells], reference)
    u = _coupled(share, _cost_volume(share, still, moved, place), shifts, cells)
    if ic:
        back = _coupled(share, _cost_volume(share, moved, still, place), shifts, cells)
        u = _inverse_consistent(share, u, back, reference)
    return _resample(share, u, fixed.shape[1:], [1 / step for step in steps], steps, reference)


def _shifts(reach: Sequence[int], reference: bool) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (K, 3) float32 in the order in which equal costs are decided, and the row of each (2 hz + 1, 2 hy + 1, 2 hx + 1)."""
    grid = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in reach], indexing="ij"), -1)
    flat = grid.reshape(-1, 3)
    key = flat[:, 2] if reference else (flat**2).sum(1)
    order = np.lexsort((flat[:, 0], flat[:, 1], key) if reference else (flat[:, 2], flat[:, 1], flat[:, 0], key))
    place = np.empty(len(flat), np.int64)
    place[order] = np.arange(len(flat))
    return flat[order].astype(np.float32), place.reshape(grid.shape[:3])


def _cost_volume(share: _Share, fixed: np.ndarray, moving: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K, Z * Y * X): squared differences of features (C, Z, Y, X) under every shift, averaged twice over 3 x 3 x 3 cells."""
    from medprobe.heads import _convex_adam_loops as loops

    padded = np.pad(moving, [(0, 0), *[(side // 2,) * 2 for side in place.shape]])
    volume = np.empty((place.size, fixed[0].size), np.float32)
    share(loops.costs, place.shape[0] * place.shape[2], fixed, padded, place, loops.TWO, volume)
    return volume


def _coupled(share: _Share, volume: np.ndarray, shifts: np.ndarray, cells: Sequence[int]) -> np.ndarray:
    """The smooth displacement (3, Z, Y, X) in cells: best shift and its mean drawn together ever more strongly."""
    from medprobe.heads import _convex_adam_loops as loops

    u = np.zeros((3, *cells), np.float32)
    for coupling in (0.0, *COUPLINGS):
        best = np.empty_like(u)
        share(loops.search, u[0].size, volume, shifts, u.reshape(3, -1), np.float32(coupling), best.reshape(3, -1))
        for component in best:
            loops.smooth(component, loops.ONE)
        u = best
    return u


def _inverse_consistent(share: _Share, there: np.ndarray, back: np.ndarray, reference: bool, steps: int = 15) -> np.ndarray:
    """`there` (3, Z, Y, X), in cells, after fixed-point steps that make it and `back` each other's inverse."""
    from medprobe.heads import _convex_adam_loops as loops

    factor = _stretch(there.shape[1:], reference)
    for _ in range(steps):
        new = np.empty_like(there), np.empty_like(back)
        share(loops.halve, there.shape[1], there, back, factor, new[0])
        share(loops.halve, there.shape[1], back, there, factor, new[1])
        there, back = new
    return there


def _stretch(cells: Sequence[int], reference: bool) -> tuple[np.float32, ...]:
    """Factor of a displacement in cells before it is added to a position; 0 along an axis of one cell."""
    return tuple(np.float32(0 if cell == 1 else cell / (cell - 1) if reference else 1) for cell in cells)


def _resample(
    share: _Share, field: np.ndarray, sides: Sequence[int], ratio: Sequence[float], factor: Sequence[float], reference: bool
) -> np.ndarray:
    """factor * field (3, Z, Y, X) on a grid of `sides`, linear; one cell of the new grid is `ratio` cells of the old one."""
    from medprobe.heads import _convex_adam_loops as loops

    tables: list[np.ndarray] = []
    for old, new, along in zip(field.shape[1:], sides, ratio, strict=True):
        position = np.clip((np.arange(new) + 0.5) * (old / new if reference else along) - 0.5, 0, old - 1)
        below = position.astype(np.int64)
        tables += [below, (position - below).astype(np.float32)]
    out = np.empty((3, *sides), np.float32)
    share(loops.resample, sides[0], field, *tables, tuple(np.float32(value) for value in factor), out)
    return out


def _refine(
    share: _Share,
    fixed: np.ndarray,
    moving: np.ndarray,
    u: np.ndarray,
    steps: tuple[int, ...],
    lambda_weight: float,
    niter: int,
    learning_rate: float,
    reference: bool,
) -> np.ndarray:
    """The Adam stage: displacement (3, D, H, W) in voxels, from u and features (C, D, H, W) of the full size."""
    cells = [side // step for side, step in zip(fixed.shape[1:], steps, strict=True)]
    start = _resample(share, u, cells, steps, [1 / step for step in steps], reference)
    still, moved = _pool(share, fixed, steps, last=True), _pool(share, moving, steps, (1, 1, 1), last=True)
    v = _adam(share, still, moved, start, lambda_weight, niter, learning_rate, reference)
    return _resample(share, v, fixed.shape[1:], [1 / step for step in steps], steps, reference)


def _adam(
    share: _Share,
    fixed: np.ndarray,
    moving: np.ndarray,
    u: np.ndarray,
    lambda_weight: float,
    niter: int,
    learning_rate: float,
    reference: bool,
) -> np.ndarray:
    """The displacement v (3, Z, Y, X) in cells whose loss the `niter`-th step looks at; u, changed in place, is averaged three times to v.

    fixed (Z, Y, X, C), moving (Z + 2, Y + 2, X + 2, C) inside a rim of zeros.
    """
    from medprobe.heads import _convex_adam_loops as loops

    cells = fixed.shape[:3]
    starts, rules = _positions(cells, reference)
    weight, stiffness = _weights(fixed.shape, lambda_weight)
    flat = u.reshape(3, cells[0], -1)
    mean, square, slope, v = (np.zeros_like(u) for _ in range(4))
    columns = [array.reshape(flat.shape) for array in (slope, u, mean, square)]
    v[:] = u
    for axis in range(3):
        loops.smooth(v[axis], loops.THREE)
    for step in range(1, niter):
        share(loops.gradient, cells[0], fixed, moving, v, starts, rules, weight, stiffness, slope)
        share(loops.smooth_planes, cells[0], slope, loops.THREE)
        rate, root = np.float32(learning_rate / (1 - 0.9**step)), np.float32((1 - 0.999**step) ** 0.5)
        share(loops.update, flat.shape[2], *columns, rate, root, loops.THREE, v.reshape(flat.shape))
        share(loops.smooth_planes, cells[0], v, loops.THREE)
    return v


def _positions(cells: Sequence[int], reference: bool) -> tuple[tuple[np.ndarray, ...], tuple[tuple[np.float32, ...], ...]]:
    """For each axis the start of each cell and the rule (unit, shift, scale, origin) by which `gradient` finds positions.

    Exact: the cell + v. `reference`: by way of [-1, 1] as in the original, whose rounding is what keeps two results apart.
    """
    import torch

    starts, rules = [], []
    for cell in cells:
        if reference and cell > 1:
            starts.append((torch.linspace(-1, 1, cell) * (cell - 1) / cell).numpy())
            rules.append(((cell - 1) / 2, 1, cell / 2, 0.5))
        else:
            starts.append(np.arange(cell, dtype=np.float32))
            rules.append((1 if cell > 1 else np.inf, 0, 1, 0))
    return tuple(starts), tuple(tuple(np.float32(value) for value in rule) for rule in rules)


def _weights(shape: Sequence[int], lambda_weight: float) -> tuple[np.float32, tuple[np.float32, ...]]:
    """Factors of the derivatives of both terms of the loss, for features (Z, Y, X, C)."""
    *cells, channels = shape
    size = int(np.prod(cells))
    moving = sum(cell > 1 for cell in cells)
    stiffness = (2 * lambda_weight / (moving * (size - size // cell)) if cell > 1 else 0 for cell in cells)
    return np.float32(2 * DATA_WEIGHT / (size * channels)), tuple(np.float32(value) for value in stiffness)


def _final_smooth(u: np.ndarray, side: int) -> np.ndarray:
    """Three means over `side` voxels along each axis of more than one, 0 beyond the ends."""
    if side < 2:
        return u
    from scipy.ndimage import uniform_filter1d

    for axis in range(1, 4):
        for _ in range(3 if u.shape[axis] > 1 else 0):
            u = uniform_filter1d(u, side | 1, axis=axis, mode="constant")
    return u
