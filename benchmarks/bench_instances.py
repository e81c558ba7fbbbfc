"""VOI and adapted Rand error of a CREMI test part beside scikit-image and CREMI's formulas, in turns, in one process.

The volume is 25 sections of 1250 x 1250, neuron-like: about 600 ids, the prediction with moved borders, bodies cut and
joined, and a little background on both sides. Each side computes VOI and adapted Rand error from the two label arrays.
Ratios are medians over interleaved rounds, with the lowest and the highest; ours is so short that it runs five times in
each, for the median. Memory is the highest resident set of a
process of its own, less that with the arrays loaded; the time of a first call is that of such a process with an empty
cache of compiled code and with a filled one, the import of numba included.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medprobe.metrics.instances import contingency

Scores = tuple[float, float, float]
"""split, merge, adapted Rand error."""


def ours(pred: np.ndarray, true: np.ndarray, convention: str = "skimage") -> Scores:
    table = contingency(pred, true)
    return *table.voi(), table.adapted_rand_error(convention)


def scikit_image(pred: np.ndarray, true: np.ndarray) -> Scores:
    from skimage.metrics import adapted_rand_error, variation_of_information

    split, merge = variation_of_information(true, pred, ignore_labels=(0,))
    return float(split), float(merge), float(adapted_rand_error(true, pred, ignore_labels=(0,))[0])


def cremi_formulas(pred: np.ndarray, true: np.ndarray) -> Scores:
    """A sparse table of ones for each of the two measures, as the challenge's evaluation has it."""
    from scipy.sparse import coo_array

    a, b = true.ravel(), pred.ravel()
    p = coo_array(((a != 0).astype(float), (a, b))).tocsr()
    p.eliminate_zeros()
    p = (p / p.sum()).tocoo()
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    split = -(p.data * np.log2(p.data / rows[p.row])).sum()
    merge = -(p.data * np.log2(p.data / columns[p.col])).sum()

    table = coo_array((np.ones(a.size), (a, b))).tocsr()[1:]
    objects, alone = table[:, 1:], table[:, [0]].sum() / a.size
    both = (objects.data**2).sum() + alone
    precision = both / ((objects.sum(axis=0) ** 2).sum() + alone)
    recall = both / (table.sum(axis=1) ** 2).sum()
    return float(split), float(merge), float(1 - 2 * precision * recall / (precision + recall))


SIDES: dict[str, Callable[[np.ndarray, np.ndarray], Scores]] = {"medprobe": ours, "scikit-image": scikit_image}


def neurons(shape: tuple[int, int, int], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(pred, true): cells of random seeds with wavy walls; ids are small, since both peers hold dense rows of ids."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    cells, coarse = 600, 5
    depth, height, width = shape
    seeds = cKDTree(rng.random((cells, 3)) * (10 * depth, height, width))
    grid = np.stack(np.meshgrid(*(np.arange(0, side + 60, coarse) for side in shape[1:]), indexing="ij"), axis=-1)
    z, y, x = np.ogrid[:depth, :height, :width]

    def volume(phase: float) -> np.ndarray:
        out = np.empty(shape, dtype)
        for i in range(depth):
            points = np.concatenate([np.full((*grid.shape[:2], 1), 10 * i), grid], axis=2)
            section = seeds.query(points)[1] + 1
            rows = y[0] + 25 + 12 * np.sin(x[0] / 23 + i / 2 + phase) + 8 * np.cos(y[0] / 31)
            columns = x[0] + 25 + 12 * np.cos(y[0] / 17 - i / 3 + phase) + 8 * np.sin(x[0] / 37)
            out[i] = section[(rows / coarse).astype(int), (columns / coarse).astype(int)]
        return out

    true, pred = volume(0), volume(0.2)
    cut = (pred % 4 == 0) & (y > height // 2)
    pred[cut] += cells
    joined = pred % 11 == 3
    pred[joined] -= 1
    true[true % 50 == 7] = 0
    pred[(pred % 60 == 9) & (z % 5 == 2)] = 0
    return pred, true


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(
    name: str, rounds: int, mine: Callable[[], Scores], theirs: Callable[[], Scores], goal: str = ""
) -> None:
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            times[side].append(statistics.median(seconds((mine, theirs)[side]) for _ in range(1 if side else 5)))
    got, expected = mine(), theirs()
    gap = np.abs(np.subtract(got, expected)).max()
    ratios = [slow / fast for fast, slow in zip(*times, strict=True)]
    fast, slow = (statistics.median(each) for each in times)
    print(
        f"{name:13} {slow:7.2f} s / ours {fast:6.3f} s  {statistics.median(ratios):6.1f}x  ({min(ratios):.1f}-"
        f"{max(ratios):.1f}, median of {rounds}){goal}; scores differ by {gap:.1e}"
    )
    assert gap < 1e-9, (got, expected)


def peak_kib() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def child(task: str, folder: str, **environment: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--child", task, folder],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def run_child(task: str, folder: Path) -> None:
    if task == "first call":
        labels = np.ones((2, 8, 8), np.uint64)
        start = time.perf_counter()
        ours(labels, labels)
        print(time.perf_counter() - start)
        return
    pred, true = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pred", "true"))
    SIDES[task](np.array(pred[:1, :64, :64]), np.array(true[:1, :64, :64]))
    pred, true = (np.load(folder / f"{name}.npy") for name in ("pred", "true"))
    loaded = peak_kib()
    SIDES[task](pred, true)
    print((peak_kib() - loaded) * 1024 / (pred.nbytes + true.nbytes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a ninth of the volume and one round")
    parser.add_argument("--dtype", default="uint64")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child[0], Path(options.child[1]))
        return

    shape, rounds = ((25, 416, 416), 1) if options.quick else ((25, 1250, 1250), 3)
    pred, true = neurons(shape, options.dtype)
    table = contingency(pred, true)
    split, merge, error = ours(pred, true)
    ends, size = (np.diff(pred) != 0) | (np.diff(true) != 0), " x ".join(map(str, shape))
    print(
        f"{size} {options.dtype}, {len(table.true_ids)} true, {len(table.pred_ids)} predicted ids, "
        f"{len(table.count)} pairs, runs of {1 / ends.mean():.0f} voxels"
    )
    print(f"VOI {split:.4f} + {merge:.4f}, adapted Rand error {error:.4f}")
    goal = ", goal 40x"
    interleaved("scikit-image", rounds, lambda: ours(pred, true), lambda: scikit_image(pred, true), goal)
    interleaved("CREMI formula", rounds, lambda: ours(pred, true, "snemi"), lambda: cremi_formulas(pred, true))
    interleaved_read(7 if rounds > 1 else 1, pred, true)

    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "pred.npy"), pred)
        np.save(Path(folder, "true.npy"), true)
        for side in SIDES:
            print(f"memory beyond the arrays, {side:13} {child(side, folder):6.3f} of their size", end="")
            print(", goal 0.2" if side == "medprobe" else "")
        cold, warm = (child("first call", folder, NUMBA_CACHE_DIR=folder) for _ in range(2))
    print(f"first call {cold:.1f} s, {warm:.1f} s with the compiled code of an earlier process")


def interleaved_read(rounds: int, pred: np.ndarray, true: np.ndarray) -> None:
    """Ours beside the least one can do: read both arrays once."""

    def read() -> None:
        for array in (pred, true):
            np.bitwise_or.reduce(array, axis=None)

    ratios = [seconds(lambda: ours(pred, true)) / seconds(read) for _ in range(rounds)]
    print(f"ours / reading both arrays once on one thread  {statistics.median(ratios):.1f}x  (median of {rounds})")


if __name__ == "__main__":
    main()
