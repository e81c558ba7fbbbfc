"""VOI and adapted Rand error of a CREMI test part: beside scikit-image and CREMI's formulas.

The volume is 25 sections of 1250 x 1250, neuron-like: about 600 ids, the prediction with moved borders, bodies cut and
joined, and a little background on both sides. Each side computes VOI and adapted Rand error from the two label arrays.
Memory is the highest resident set of a process of its own beyond that with the arrays loaded; the time of a first call is
that of such a process with an empty cache of compiled code and with a filled one, the import of numba included.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from _bench import ROUNDS, alone, high_water, in_turns, note, parser, row, timed
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


def compare(job: str, peer: str, mine: Callable[[], Scores], theirs: Callable[[], Scores], rounds: int, goal: float | None = None) -> None:
    pairs = in_turns(mine, theirs, rounds)
    gap = np.abs(np.subtract(pairs.mine, pairs.other)).max()
    assert gap < 1e-9, (pairs.mine, pairs.other)
    row(f"{job}; {rounds} pairs", peer, pairs.ratio, goal=goal, spread=pairs.range, equality=f"largest difference {gap:.1e}", limit=str(pairs))


def read_once(*arrays: np.ndarray) -> None:
    for array in arrays:
        np.bitwise_or.reduce(array, axis=None)


def first_call() -> float:
    labels = np.ones((2, 8, 8), np.uint64)
    return timed(lambda: ours(labels, labels))[0]


def grow(folder: str, side: str) -> float:
    """The memory that a side needs in this process, which has loaded the libraries and the arrays before, as a share of the arrays."""
    files = [Path(folder, f"{name}.npy") for name in ("pred", "true")]
    SIDES[side](*(np.array(np.load(file, mmap_mode="r")[:1, :64, :64]) for file in files))
    pred, true = map(np.load, files)
    loaded = high_water()
    SIDES[side](pred, true)
    return (high_water() - loaded) / (pred.nbytes + true.nbytes)


def main() -> None:
    options = parser(__doc__, "a ninth of the volume and two pairs")
    options.add_argument("--dtype", default="uint64")
    asked = options.parse_args()
    shape, slow, slower = ((25, 416, 416), 2, 2) if asked.quick else ((25, 1250, 1250), 5, 3)
    pred, true = neurons(shape, asked.dtype)
    mine, job = partial(ours, pred, true), f"VOI + ARAND, {'x'.join(map(str, shape))} {asked.dtype}"
    compare(job, "scikit-image", mine, lambda: scikit_image(pred, true), slow, goal=40)
    compare(f"{job}, convention of SNEMI", "the formulas of CREMI", lambda: ours(pred, true, "snemi"), lambda: cremi_formulas(pred, true), slower)
    pairs = in_turns(lambda: read_once(pred, true), mine, ROUNDS)
    row(job, "reading both arrays once, on one thread", pairs.ratio, at_most=True, spread=pairs.range, limit="memory: each array is read once")

    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "pred.npy"), pred)
        np.save(Path(folder, "true.npy"), true)
        memory = {side: alone(grow, folder, side) for side in SIDES}
        cold, warm = (alone(first_call, NUMBA_CACHE_DIR=folder) for _ in range(2))
    row(f"peak memory beyond the arrays, {job}", "the size of the arrays", memory["medprobe"], goal=0.2, at_most=True, limit=f"scikit-image: {memory['scikit-image']:.3g} of it")
    table, (split, merge, error) = contingency(pred, true), mine()
    runs = 1 / ((np.diff(pred) != 0) | (np.diff(true) != 0)).mean()
    note(
        f"The labels: {len(table.true_ids)} true and {len(table.pred_ids)} predicted ids, {len(table.count)} pairs, runs of {runs:.0f} voxels; "
        f"VOI {split:.4f} + {merge:.4f}, adapted Rand error {error:.4f}."
    )
    note(f"The first call of a process takes {cold:.1f} s, and {warm:.1f} s with the compiled code of an earlier one.")


if __name__ == "__main__":
    main()
