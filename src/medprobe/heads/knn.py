"""`knn`: weighted k-nearest neighbours by cosine similarity.

As DINOv2's eval/knn.py: feature vectors divided by their length, weights exp(similarity / T) with T = 0.07, or
equal (`weights="uniform"`). The probability of class or label c from the k nearest is

    sum of weight_i * y_ic / sum of weight_i         over the neighbours i that are labelled for c

so it is renormalised for each k and lies in [0, 1]; a sample whose k neighbours are all unlabelled for c gets c's
training prevalence. k is chosen on validation among `ks` (those beyond the number of training samples count as that
number), the smaller k of equals; without a validation part k is 20. A sample's vector is the mean over its planes,
then normalised. Among equally similar neighbours the one of lower index is nearer.

One search at the largest k serves every k and label: tiles of the similarity matrix from the matrix product on the
context's device, each merged into the neighbours found so far while it is in the processor's cache. Memory beyond the
features is 16 MiB for a tile, whatever the number of samples.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Literal

import numpy as np

from medprobe.heads import _pooled
from medprobe.registry import HEADS
from medprobe.types import Context, Samples, State

TEMPERATURE = 0.07
DEFAULT_K = 20
ONE_DIRECTION = 1 - 1e-6
"""Length of the mean of unit vectors above which they are all alike."""
ROWS, COLUMNS = 512, 8192
"""A tile of the similarity matrix: test samples by training samples."""


@dataclass(frozen=True)
class NearestNeighbours:
    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    ks: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    weights: Literal["softmax", "uniform"] = "softmax"
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        ks = self.ks
        good = isinstance(ks, list | tuple) and ks and all(_pooled.is_count(k) for k in ks)
        _pooled.require(bool(good), "knn", "ks", "a list of whole numbers >= 1", ks)
        object.__setattr__(self, "ks", tuple(sorted(set(ks))))
        _pooled.require_one_of("knn", "weights", ("softmax", "uniform"), self.weights)
        t = self.temperature
        _pooled.require(_pooled.is_number(t) and t > 0, "knn", "temperature", "a number > 0", t)

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """State: `features` (n, D) float32 of length 1, `labels` (n, C) float32 of 0, 1, NaN; `k` in its facts."""
        x, y = _pooled.read_training("knn", train, ctx)
        x = normalised(x)
        if len(x) > 1 and np.linalg.norm(x.mean(axis=0, dtype=np.float64)) > ONE_DIRECTION:
            ctx.warn("knn: all training features point in one direction, and only direction counts here (the mean colour of grey images is such a feature); the score says nothing of this encoder")
        state = State({"features": x, "labels": _pooled.indicators(y, _pooled.n_classes(y, ctx))})
        ks = sorted({min(k, len(x)) for k in self.ks})
        k = min(DEFAULT_K, len(x))
        chosen_by = _pooled.read_validation("knn", val, ctx, x.shape[1], f"so k = {k}")
        scores: list[float] = []
        if chosen_by:
            x_val, score = chosen_by
            votes = np.concatenate(list(self.votes(state, x_val, ks, ctx.device)), axis=1)
            scores = [score(vote) for vote in votes]
            best = _pooled.first_best("knn", scores, ctx, f"so k = {k}")
            k = k if best is None else ks[best]
        facts = {"k": k, "ks": ks, "monitor": _pooled.or_none(scores)}
        return State(state.tensors, facts)

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(C,) float64 per sample in [0, 1]; over exclusive classes they sum to 1."""
        x = _pooled.read_features("knn", "test", samples, ctx, state.tensors["features"].shape[1])
        for votes in self.votes(state, x, [state.meta["k"]], ctx.device):
            yield from votes[0]

    def votes(self, state: State, x: np.ndarray, ks: list[int], device: str) -> Iterator[np.ndarray]:
        """Blocks (len(ks), rows, C) float64 of probabilities for x (m, D), one for each of the ascending `ks`."""
        import torch

        labels = state.tensors["labels"]
        prior = _pooled.prevalence(labels)
        _, _, vote = _kernels()
        cut = functools.partial(np.array_split, indices_or_sections=(threads := torch.get_num_threads()))
        with ThreadPoolExecutor(threads) as pool:
            for similarity, index in nearest(state.tensors["features"], normalised(x), ks[-1], device):
                weight = np.ones(similarity.shape)
                if self.weights == "softmax":
                    weight = np.exp((similarity.astype(np.float64) - similarity[:, :1]) / self.temperature)
                yield np.concatenate(list(pool.map(vote, cut(index), cut(weight), repeat(labels), repeat(np.asarray(ks)), repeat(prior))), axis=1)


def normalised(x: np.ndarray) -> np.ndarray:
    """Rows (n, D) float32 of length 1; a row of zeros stays zero."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    return (x / np.where(length > 0, length, 1)).astype(np.float32)


def nearest(train: np.ndarray, x: np.ndarray, k: int, device: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For blocks of rows of x: similarity (rows, k) float32, descending, and index (rows, k) into train.

    The scalar product is the similarity; equals come in the order of their index.
    """
    import torch

    bank = torch.as_tensor(train, device=device)
    space = torch.empty(ROWS * COLUMNS, device=device)
    merge, order, _ = _kernels()
    threads = torch.get_num_threads()
    cut = functools.partial(np.array_split, indices_or_sections=threads)
    with ThreadPoolExecutor(threads) as pool:
        for top in range(0, len(x), ROWS):
            block = torch.as_tensor(x[top : top + ROWS], device=device)
            similarity = np.full((len(block), k), -np.inf, dtype=np.float32)
            index = np.full((len(block), k), len(train), dtype=np.int64)
            for left in range(0, len(train), COLUMNS):
                part = bank[left : left + COLUMNS]
                tile = torch.mm(block, part.T, out=space[: len(block) * len(part)].view(len(block), len(part)))
                # Without a bound the heaps would take in much of the first tile that they soon give up.
                bound = exceeded(tile, k) if left == 0 else np.full(len(block), -np.inf, dtype=np.float32)
                list(pool.map(merge, cut(tile.cpu().numpy()), repeat(left), cut(bound), cut(similarity), cut(index)))
            list(pool.map(order, cut(similarity), cut(index)))
            yield similarity, index


def exceeded(tile: Any, k: int) -> np.ndarray:
    """(rows,) float32: a value that k or more of each row exceed: just below the k-th greatest maximum of 2 k groups."""
    groups = min(2 * k, tile.shape[1])
    if groups < k:
        return np.full(len(tile), -np.inf, dtype=np.float32)
    maxima = tile[:, : tile.shape[1] // groups * groups].view(len(tile), -1, groups).amax(dim=1).cpu().numpy()
    return np.nextafter(np.partition(maxima, groups - k, axis=1)[:, groups - k], np.float32(-np.inf))


@functools.cache
def _kernels() -> tuple[Callable[..., Any], ...]:
    """Compiled loops over rows. Neighbours are a heap whose root is the worst kept: least similar, then highest index."""
    import numba

    compiled = numba.njit(cache=True, nogil=True)

    @compiled
    def sift(values, index, size, value, place):
        """Put (value, place) at the root and let it sink."""
        here = 0
        while 2 * here + 1 < size:
            child = 2 * here + 1
            if child + 1 < size and (
                values[child + 1] < values[child]
                or (values[child + 1] == values[child] and index[child + 1] > index[child])
            ):
                child += 1
            if values[child] > value or (values[child] == value and index[child] < place):
                break
            values[here], index[here] = values[child], index[child]
            here = child
        values[here], index[here] = value, place

    @compiled
    def merge(tile, left, bound, similarity, index):
        """Replace kept neighbours by better ones of the tile; columns come in order, so an equal one is never better."""
        for row in range(len(tile)):
            values, places = similarity[row], index[row]
            beyond = max(values[0], bound[row])
            for column in range(tile.shape[1]):
                if tile[row, column] > beyond:
                    sift(values, places, len(values), tile[row, column], left + column)
                    beyond = max(values[0], bound[row])

    @compiled
    def order(similarity, index):
        """Heap to descending order, in place."""
        for row in range(len(similarity)):
            values, places = similarity[row], index[row]
            for size in range(len(values) - 1, 0, -1):
                value, place = values[size], places[size]
                values[size], places[size] = values[0], places[0]
                sift(values, places, size, value, place)

    @compiled
    def vote(index, weight, labels, ks, prior):
        """(len(ks), rows, C) weighted means of the labels of the first k neighbours; `prior` where none is labelled."""
        out = np.empty((len(ks), len(index), labels.shape[1]))
        for row in range(len(index)):
            positive, total = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
            start = 0
            for at, k in enumerate(ks):
                for near in range(start, k):
                    for label in range(labels.shape[1]):
                        value = labels[index[row, near], label]
                        if not np.isnan(value):
                            positive[label] += weight[row, near] * value
                            total[label] += weight[row, near]
                start = k
                for label in range(labels.shape[1]):
                    out[at, row, label] = positive[label] / total[label] if total[label] > 0 else prior[label]
        return out

    return merge, order, vote


HEADS.register("knn")(NearestNeighbours)
