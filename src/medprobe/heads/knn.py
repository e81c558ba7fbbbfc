"""`knn`: weighted k-nearest neighbours by cosine similarity.

As DINOv2's eval/knn.py: feature vectors divided by their length, weights exp(similarity / T) with T = 0.07, or
equal (`weights="uniform"`). The probability of class or label c from the k nearest is

    sum of weight_i * y_ic / sum of weight_i         over the neighbours i that are labelled for c

so it is renormalised for each k and lies in [0, 1]; a sample whose k neighbours are all unlabelled for c gets c's
training prevalence. k is chosen on validation among `ks` (those beyond the number of training samples count as that
number), the smaller k of equals; without a validation part k is 20. A sample's vector is the mean over its planes,
then normalised. Among equally similar neighbours the one of lower index is nearer.

One search at the largest k serves every k and label: each thread has tiles of the similarity matrix from the matrix
product, on the context's device, and merges them into the neighbours found so far while they are in the processor's
cache. Memory beyond the features is, a thread, 1 MiB for a tile and 4 KiB for each of the k, and 8 bytes for each neighbour of each sample.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from medprobe.heads import _pooled
from medprobe.registry import HEADS
from medprobe.types import Context, Samples, State

TEMPERATURE = 0.07
DEFAULT_K = 20
ONE_DIRECTION = 1 - 1e-6
"""Length of the mean of unit vectors above which they are all alike."""
ROWS, COLUMNS = 256, 1024
"""A tile of the similarity matrix: test samples by training samples."""
SPARE = 64
"""Neighbours of a row that are taken in, beyond twice those asked for, before the farthest are given up."""


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

        from medprobe.heads import _knn_loops as loops

        labels = state.tensors["labels"]
        prior = _pooled.prevalence(labels)
        table = np.concatenate([np.nan_to_num(labels), ~np.isnan(labels)], axis=1, dtype=np.float32)
        cut = functools.partial(np.array_split, indices_or_sections=(threads := torch.get_num_threads()))
        with ThreadPoolExecutor(threads) as pool:
            for similarity, index in nearest(state.tensors["features"], normalised(x), ks[-1], device):
                weight = np.ones(similarity.shape)
                if self.weights == "softmax":
                    weight = np.exp((similarity.astype(np.float64) - similarity[:, :1]) / self.temperature)
                yield np.concatenate(list(pool.map(loops.vote, cut(index), cut(weight), repeat(table), repeat(np.asarray(ks)), repeat(prior))), axis=1)


def normalised(x: np.ndarray) -> np.ndarray:
    """Rows (n, D) float32 of length 1; a row of zeros stays zero."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    return (x / np.where(length > 0, length, 1)).astype(np.float32)


def nearest(train: np.ndarray, x: np.ndarray, k: int, device: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For blocks of rows of x: similarity (rows, k) float32, descending, and index (rows, k) into train.

    The scalar product is the similarity; equals come in the order of their index. Vectors that are equal are searched as one: a matrix
    product may round the same numbers otherwise in another column.
    """
    import torch
    from threadpoolctl import threadpool_limits

    from medprobe.heads import _knn_loops as loops

    groups = _groups(train)
    differing, asked = (train, k) if groups is None else (train[groups.firsts], min(k, len(groups.firsts)))
    bank = differing if device == "cpu" else torch.as_tensor(differing, device=device)

    def searched(top: int) -> np.ndarray:
        block = x[top : top + ROWS]
        keys = np.full((len(block), 2 * asked + SPARE), np.iinfo(np.int64).max)
        held, beyond = np.zeros(len(block), np.int64), np.full(len(block), np.iinfo(np.int32).max, np.int32)
        for left, width, tile in _tiles(block, bank, device):
            loops.merge(tile.view(np.int32), left, width, asked, keys, held, beyond)
        keys.sort(axis=1)
        found = keys[:, :asked].copy()
        return found if groups is None else loops.spread(found, groups.starts, groups.members, k)

    # Each thread multiplies and searches rows of its own: threads of one product would wait for each other.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(searched, range(0, len(x), ROWS)))
    for keys in found:
        yield values_of(keys >> 32), keys & 0xFFFFFFFF


class _Groups(NamedTuple):
    """Rows that are equal: the first of each group, in order; group i is members[starts[i] : starts[i + 1]], in order."""

    firsts: np.ndarray
    starts: np.ndarray
    members: np.ndarray


def _groups(rows: np.ndarray) -> _Groups | None:
    """None where all rows (n, D) differ."""
    import torch

    from medprobe.heads import _knn_loops as loops

    weights = np.random.default_rng(0).integers(0, 1 << 63, rows.shape[1], dtype=np.uint64) | np.uint64(1)
    with ThreadPoolExecutor(threads := torch.get_num_threads()) as pool:
        digests = np.concatenate(list(pool.map(loops.digests, np.array_split(rows, threads), repeat(weights))))
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return None
    if not (rows == rows[first[group]]).all():  # two vectors of one digest
        _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    group = number[group.ravel()]
    return _Groups(np.sort(first), np.searchsorted(np.sort(group), np.arange(len(first) + 1)), np.argsort(group, kind="stable"))


def _tiles(block: np.ndarray, bank: Any, device: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """The similarity of rows to COLUMNS of the bank at a time: the first column, how many there are, (rows, COLUMNS).

    All products have one size, with zeros at the edge of the last: in a narrower one a product of the same vectors can be
    rounded otherwise.
    """
    import torch

    rows: Any = np.zeros((ROWS, block.shape[1]), np.float32)
    rows[: len(block)] = block
    rows = rows if device == "cpu" else torch.as_tensor(rows, device=device)
    space = np.empty((ROWS, COLUMNS), np.float32)
    for left in range(0, len(bank), COLUMNS):
        part = bank[left : left + COLUMNS]
        width = len(part)
        if device == "cpu":
            part = part if width == COLUMNS else np.concatenate([part, np.zeros((COLUMNS - width, part.shape[1]), np.float32)])
            tile = np.matmul(rows, part.T, out=space)
        else:
            tile = (rows @ torch.nn.functional.pad(part, (0, 0, 0, COLUMNS - width)).T).cpu().numpy()
        yield left, width, tile[: len(block)]


def values_of(ranks: np.ndarray) -> np.ndarray:
    """The float32 of ranks: of whole numbers that fall as the float rises."""
    bits = ~ranks.astype(np.int32)
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(np.float32)


HEADS.register("knn")(NearestNeighbours)
