"""Speed of the probes beside what people use, in turns, in one process: `python benchmarks/bench_probes.py [--quick]`.

Linear: `linear` beside a loop over DataLoader(TensorDataset, num_workers=2), and its learning rates at once beside one
in-memory loop for each setting; the loops see the same batches, so the weights must agree. k-NN: one search for five
values of k beside scikit-learn for each k, and beside the bare fp32 matrix product. Ratios are medians over interleaved
rounds, with the lowest and the highest.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader, TensorDataset

from medprobe.heads.knn import NearestNeighbours, normalised
from medprobe.heads.linear import LinearProbe, train_together
from medprobe.types import Context, Features, Sample, SampleList, State

KS = [10, 20, 50, 100, 200]


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def interleaved(rounds: int, ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[str, object, object]:
    """The ratio of times theirs / ours as text, and what each returned last."""
    ratios = []
    for turn in range(rounds):
        pair = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        (first, a), (second, b) = seconds(pair[0]), seconds(pair[1])
        mine, other = (first, second) if turn % 2 == 0 else (second, first)
        got, expected = (a, b) if turn % 2 == 0 else (b, a)
        ratios.append(other / mine)
    middle = statistics.median(ratios)
    return f"{middle:6.2f}x  ({min(ratios):.2f}-{max(ratios):.2f}; ours {mine:.3f} s)", got, expected


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

    def ours() -> object:
        return train_together(head, x, y, Context(seed=0), [head.learning_rate])[0][0]

    text, mine, theirs = interleaved(
        rounds, ours, lambda: torch_loop(head, 0, dim, outputs, n, lambda epoch: iter(loader))
    )
    gap = np.abs(np.asarray(mine) - np.asarray(theirs)).max()
    print(f"linear {n}x{dim}x{outputs}, one epoch, DataLoader loop / ours        {text}, weights differ by {gap:.1e}")

    rates = [1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 3e-2]
    seeds = [0, 1, 2]

    def at_once() -> object:
        return [fit[0] for seed in seeds for fit in train_together(head, x, y, Context(seed=seed), rates)]

    def one_by_one() -> object:
        out = []
        for seed in seeds:
            for rate in rates:

                def data(epoch: int, seed: int = seed) -> Iterator[tuple[torch.Tensor, ...]]:
                    for index in batches_of(seed, epoch, n, head.batch_size):
                        yield features[index], target[index]

                out.append(torch_loop(replace(head, learning_rate=rate), seed, dim, outputs, n, data))
        return out

    text, mine, theirs = interleaved(rounds, at_once, one_by_one)
    gap = max(np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True))  # type: ignore[call-overload]
    print(f"linear, 24 settings (3 seeds x 8 rates), in-memory loops / ours     {text}, weights differ by {gap:.1e}")


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

    def ours() -> object:
        return np.concatenate(list(head.votes(state, test, KS, "cpu")), axis=1)

    def theirs() -> object:
        out = []
        for k in KS:
            model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x[:n], y)
            out.append(model.predict_proba(test))
        return np.stack(out)

    text, mine, expected = interleaved(rounds, ours, theirs)
    gap = np.abs(np.asarray(mine) - np.asarray(expected)).max()
    print(
        f"knn {n}x{dim}, {m} queries, five k, scikit-learn per k / ours      {text}, probabilities differ by {gap:.1e}"
    )

    bank, queries = torch.as_tensor(normalised(x[:n])), torch.as_tensor(normalised(test))

    def product() -> object:
        for start in range(0, m, 512):
            block = queries[start : start + 512]
            for left in range(0, n, 8192):
                block @ bank[left : left + 8192].T
        return None

    text, _, _ = interleaved(rounds, ours, product)
    print(f"knn, fp32 matrix product in the same tiles / ours                    {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data and three rounds")
    quick = parser.parse_args().quick
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    bench_linear(10_000 if quick else 100_000, 384, 14, 3 if quick else 7)
    bench_knn(10_000 if quick else 50_000, 1_000 if quick else 2_000, 384, 14, 3 if quick else 7)


if __name__ == "__main__":
    main()
