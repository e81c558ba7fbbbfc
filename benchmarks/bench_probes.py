"""The probes: `linear` beside loops of torch, `knn` beside scikit-learn and the bare matrix product.

Linear: beside a loop over DataLoader(TensorDataset, num_workers=2), and its learning rates at once beside one
in-memory loop for each setting; the loops see the same batches, so the weights must agree. k-NN: one search for five
values of k beside scikit-learn for each k, and beside the fp32 matrix product in the same tiles.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, TensorDataset

from _bench import ROUNDS, in_turns, inverse, parser, row
from medprobe.heads.knn import ROWS, NearestNeighbours, _tiles, normalised
from medprobe.heads.linear import LinearProbe, train_together
from medprobe.types import Context, Features, Sample, SampleList, State

KS = [10, 20, 50, 100, 200]


# ------------------------------------------------------------------------------------------------ linear


def batches_of(seed: int, epoch: int, n: int, size: int) -> list[np.ndarray]:
    order = np.random.default_rng([seed, 1, epoch]).permutation(n)
    return [order[start : start + size] for start in range(0, n, size)]


def torch_loop(
    head: LinearProbe,
    seed: int,
    dim: int,
    outputs: int,
    n: int,
    data: Callable[[int], Iterator[tuple[torch.Tensor, ...]]],
) -> np.ndarray:
    """The loop people write: nn.Linear, BCEWithLogitsLoss, AdamW, cosine per step."""
    layer = torch.nn.Linear(dim, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(np.random.default_rng([seed, 0]).normal(0, 0.01, (outputs, dim))))
        layer.bias.zero_()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=head.learning_rate, weight_decay=head.weight_decay)
    steps = head.epochs * -(-n // head.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    criterion = torch.nn.BCEWithLogitsLoss()
    for epoch in range(head.epochs):
        for rows, target in data(epoch):
            optimizer.zero_grad()
            criterion(layer(rows), target).backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().numpy()


class Shuffled(torch.utils.data.Sampler[int]):
    """Single indices in the order of our batches, as a shuffling sampler gives them."""

    def __init__(self, seed: int, n: int) -> None:
        self.seed, self.n, self.epoch = seed, n, 0

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, 1, self.epoch]).permutation(self.n).tolist())

    def __len__(self) -> int:
        return self.n


def bench_linear(n: int, dim: int, outputs: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, dim), dtype=np.float32)
    logits = x @ rng.standard_normal((dim, outputs), dtype=np.float32) * 0.1 - 2
    y = (logits + rng.logistic(size=logits.shape) > 0).astype(np.float32)
    features, target = torch.as_tensor(x), torch.as_tensor(y)
    head = LinearProbe(epochs=1)

    sampler = Shuffled(0, n)
    loader = DataLoader(TensorDataset(features, target), batch_size=head.batch_size, sampler=sampler, num_workers=2)

    def ours() -> np.ndarray:
        return train_together(head, x, y, Context(seed=0), [head.learning_rate])[0][0]

    pairs = in_turns(ours, lambda: torch_loop(head, 0, dim, outputs, n, lambda epoch: iter(loader)), rounds)
    size = f"{n} x {dim}, {outputs} labels"
    row(f"linear, one epoch, {size}", "a loop over a DataLoader", pairs.ratio, goal=8, spread=pairs.range, equality=weights_apart([pairs.mine], [pairs.other]), limit=str(pairs))

    rates = [1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 3e-2]
    seeds = [0, 1, 2]

    def at_once() -> list[np.ndarray]:
        return [fit[0] for seed in seeds for fit in train_together(head, x, y, Context(seed=seed), rates)]

    def one_by_one() -> list[np.ndarray]:
        out = []
        for seed in seeds:
            for rate in rates:

                def data(epoch: int, seed: int = seed) -> Iterator[tuple[torch.Tensor, ...]]:
                    for index in batches_of(seed, epoch, n, head.batch_size):
                        yield features[index], target[index]

                out.append(torch_loop(replace(head, learning_rate=rate), seed, dim, outputs, n, data))
        return out

    pairs = in_turns(at_once, one_by_one, rounds)
    wide = len(rates) * outputs
    bare = products_alone(len(seeds) * -(-n // head.batch_size), head.batch_size, dim, wide, rounds)
    least = f"the matrix products alone, {head.batch_size} x {dim} by {wide}, {bare:.3f} s at {4e-9 * len(seeds) * n * dim * wide / bare:.0f} GFLOP/s"
    job = f"linear, {len(seeds) * len(rates)} settings ({len(seeds)} seeds, {len(rates)} rates), {size}"
    row(job, "an in-memory loop for each setting", pairs.ratio, goal=8, spread=pairs.range, equality=weights_apart(pairs.mine, pairs.other), limit=f"{pairs}; {least}")


def products_alone(steps: int, batch: int, dim: int, wide: int, rounds: int) -> float:
    """Seconds of the two products of so many steps, logits and gradient, the least of `rounds`: what no way of training all settings at once can do without."""
    rows, weight, residual = torch.rand(batch, dim), torch.rand(wide, dim), torch.rand(batch, wide)
    found = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for _ in range(steps):
            rows @ weight.T
            residual.T @ rows
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def weights_apart(mine: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    apart = max(np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True))
    assert apart < 1e-3, f"weights differ by {apart}"
    return f"largest difference of weights {apart:.1e}"


# ------------------------------------------------------------------------------------------------- k-NN


def bench_knn(n: int, m: int, dim: int, classes: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n + m, dim), dtype=np.float32)
    y = rng.integers(0, classes, n)
    head = NearestNeighbours(ks=tuple(KS), weights="uniform")
    train = SampleList(
        [Sample(str(i), str(i), {"image": Features(cls=x[i : i + 1])}, target=int(y[i])) for i in range(n)]
    )
    state: State = head.fit(train, None, Context(seed=0))
    test = x[n:]
    list(head.votes(state, test[:10], KS, "cpu"))

    def ours() -> np.ndarray:
        return np.concatenate(list(head.votes(state, test, KS, "cpu")), axis=1)

    def theirs() -> np.ndarray:
        out = []
        for k in KS:
            model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x[:n], y)
            out.append(model.predict_proba(test))
        return np.stack(out)

    pairs = in_turns(ours, theirs, rounds)
    job, gap = f"knn, five k, {n} x {dim}, {m} queries", np.abs(pairs.mine - pairs.other).max()
    row(job, "scikit-learn for each k", pairs.ratio, goal=10, spread=pairs.range, equality=f"largest difference of probabilities {gap:.1e}", limit=str(pairs))

    bank, queries = normalised(x[:n]), normalised(test)

    def product(top: int) -> None:
        for _ in _tiles(queries[top : top + ROWS], bank, "cpu"):
            pass

    def products() -> None:
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(product, range(0, m, ROWS)))

    whole, parts = torch.as_tensor(bank), torch.as_tensor(queries).split(512)

    def by_torch() -> None:
        for part in parts:
            for left in range(0, n, 8192):
                torch.mm(part, whole[left : left + 8192].T)

    for peer, alone, goal in (("the fp32 matrix product alone, in the same tiles and threads", products, 1.25), ("the fp32 matrix product by torch.mm, 512 x 8192 at once", by_torch, None)):
        pairs = in_turns(ours, alone, rounds)
        row(job, peer, 1 / pairs.ratio, goal=goal, at_most=True, spread=inverse(pairs.range), limit=f"the matrix product, which a search cannot do without; {pairs}")


def main() -> None:
    quick = parser(__doc__, "a tenth of the data and three pairs").parse_args().quick
    rounds = 3 if quick else ROUNDS
    bench_linear(10_000 if quick else 100_000, 384, 14, rounds)
    bench_knn(10_000 if quick else 50_000, 1_000 if quick else 2_000, 384, 14, rounds)


if __name__ == "__main__":
    main()
