"""Reading kept features: a matrix of pooled vectors beside one .npy, single slices of dense grids beside `os.pread` and one file per sample.

    python benchmarks/bench_cache.py [--quick]

Pooled: the (n, 384) matrix that a head fits on, by `EncodedSamples.pooled` of an opened bank, its keys looked up (once for all folds and seeds): all rows
in the order of the store, and two thirds of them, as a training part has. Dense: four levels of ViT-S at 256 px, 1.6 MB a slice; slices in random order, each read by the bank's memory map into memory of its own.
Random numbers stand for features. All files are in the page cache and all results are equal to the bit.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from _bench import in_turns, inverse, parser, row
from medprobe.features.bank import StoredBank
from medprobe.features.encode import Pipeline, Preprocessing
from medprobe.features.samples import EncodedSamples, Item
from medprobe.features.store import Encoding, Entry, Shard
from medprobe.types import Source

PREPROCESSING = Preprocessing("full-range", (256, 256))
DIM = 384
GRID = (384, 16, 16)
LEVELS, SLICES = 4, 40
"""Grids of a slice, slices of a volume."""
FRAME = [256, 256, 0.0, 0.0, 256.0, 256.0, 256, 256]
PART = 2 / 3
"""The share of the cases in a training part."""


def encoding(cache: Path, grids: bool) -> Encoding:
    return Encoding(cache, {"encoder": "random numbers", "grids": grids})


def opened(cache: Path, entries: Sequence[Entry], grids: bool) -> StoredBank:
    """The bank of entries that are kept."""
    sources: dict[str, tuple[Source, ...]] = {entry.key: () for entry in entries}
    return StoredBank(encoding(cache, grids), Pipeline(None, PREPROCESSING, grids, workers=0), sources, entries, lambda done, total, what: None)


def filled(cache: Path, entries: Sequence[Entry], grids: bool, rows: Callable[[Shard, int, int], dict[str, np.ndarray]]) -> StoredBank:
    """The bank of these entries, their shards filled with what `rows(shard, first, last)` gives."""
    for shard in encoding(cache, grids).plan(entries, alone=False, chunk=Pipeline(None, PREPROCESSING, grids).chunk):
        keys = {place: entry.key for entry, place in shard.spans()}
        for start, stop in list(shard.chunks()):
            shard.commit(start, rows(shard, start, stop), {keys[place]: FRAME for place in range(start, stop) if place in keys}, {})
    return opened(cache, entries, grids)


def of_entries(matrix: np.ndarray, entries: Sequence[Entry]) -> Callable[[Shard, int, int], dict[str, np.ndarray]]:
    """Rows of a shard from a matrix whose rows are those of the entries, in their order."""
    place = {entry.key: number for number, entry in enumerate(entries)}

    def rows(shard: Shard, start: int, stop: int) -> dict[str, np.ndarray]:
        numbers = [place[entry.key] for entry in shard.entries[start:stop]]
        return {"cls": matrix[numbers]}

    return rows


def pooled(folder: Path, cases: int, rounds: int) -> None:
    matrix = np.random.default_rng(0).standard_normal((cases, DIM), dtype=np.float32)
    entries = [Entry(f"{number:032x}", 1) for number in range(cases)]
    file = folder / "matrix.npy"
    np.save(file, matrix)
    bank = filled(folder / "cache", entries, False, of_entries(matrix, entries))
    items = [Item(entry.key, entry.key, {"image": (entry.key,)}, {}) for entry in entries]
    part = np.sort(np.random.default_rng(1).permutation(cases)[: int(PART * cases)])
    samples = EncodedSamples(items, bank).located()
    some = samples.subset(part)
    whole = in_turns(lambda: samples.pooled("cls"), lambda: np.load(file), rounds)
    assert np.array_equal(whole.mine, whole.other)
    size = f"{cases:,} x {DIM} float32"
    row(
        f"pooled vectors of all cases, {size}, of an opened bank", "np.load of one .npy", 1 / whole.ratio, goal=1.2, at_most=True,
        spread=inverse(whole.range), equality="equal to the bit", limit=f"copying out of the page cache, and a look for NaN; {whole}",
    )  # fmt: skip
    some_of = in_turns(lambda: some.pooled("cls"), lambda: np.load(file)[part], rounds)
    assert np.array_equal(some_of.mine, some_of.other)
    row(
        "two thirds of them, as a training part has", "np.load of one .npy, indexed", 1 / some_of.ratio, at_most=True,
        spread=inverse(some_of.range), equality="equal to the bit", limit=str(some_of),
    )  # fmt: skip
    first = in_turns(lambda: EncodedSamples(items, opened(folder / "cache", entries, False)).pooled("cls"), lambda: np.load(file), min(rounds, 3))
    row(
        "the same of all cases, the bank opened first", "np.load of one .npy", 1 / first.ratio, at_most=True,
        spread=inverse(first.range), equality="equal to the bit", limit=f"once a run: every entry is looked up and every byte checked against its checksum; {first}",
    )  # fmt: skip


def dense(folder: Path, volumes: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    entries = [Entry(f"{number:032x}", SLICES) for number in range(volumes)]
    bank = filled(folder / "cache", entries, True, lambda shard, start, stop: {f"grid{level}": rng.standard_normal((stop - start, *GRID), dtype=np.float32) for level in range(LEVELS)})
    for number, entry in enumerate(entries):
        grids = bank.features(entry.key).grids
        np.save(folder / f"volume{number}.npy", np.stack(grids, axis=1))
        for plane in range(SLICES):
            np.save(folder / f"slice{number * SLICES + plane}.npy", np.stack([grid[plane] for grid in grids]))
    order = rng.permutation(volumes * SLICES)
    few = order[: len(order) // 20]
    size = f"{LEVELS} levels of {' x '.join(map(str, GRID))} of single slices in random order ({len(order) * LEVELS * int(np.prod(GRID)) * 4 / 1e9:.1f} GB kept)"

    def ours(numbers: np.ndarray) -> list[np.ndarray]:
        for number in numbers:
            grids = bank.features(entries[number // SLICES].key).grids
            plane = number % SLICES
            read = [np.array(grid[plane : plane + 1]) for grid in grids]
        return read

    found = encoding(folder / "cache", True).find(entry.key for entry in entries)
    with ExitStack() as stack:
        shards = {shard.folder: shard for shard, _ in found.values()}
        files = {place: [stack.enter_context(shard.path(f"grid{level}").open("rb")) for level in range(LEVELS)] for place, shard in shards.items()}
        places = [(files[shard.folder], first) for shard, first in (found[entry.key] for entry in entries)]
        length = 4 * int(np.prod(GRID))
        header = os.fstat(places[0][0][0].fileno()).st_size % length

        def pread(numbers: np.ndarray) -> list[bytes]:
            for number in numbers:
                descriptors, first = places[number // SLICES]
                offset = header + (first + int(number) % SLICES) * length
                read = [os.pread(file.fileno(), length, offset) for file in descriptors]
            return read

        pairs = in_turns(lambda: ours(order), lambda: pread(order), rounds)
        for number in order[:: max(1, len(order) // 50)]:
            assert [one.tobytes() for one in ours(np.array([number]))] == pread(np.array([number]))
    row(f"{size}: by the memory map", "os.pread of the same bytes", 1 / pairs.ratio, goal=1.1, at_most=True, spread=inverse(pairs.range), equality="equal to the bit", limit=f"copying out of the page cache; {pairs}")

    def by_volume(numbers: np.ndarray) -> np.ndarray:
        for number in numbers:
            read = np.load(folder / f"volume{number // SLICES}.npy")[number % SLICES]
        return read

    def by_slice(numbers: np.ndarray) -> np.ndarray:
        for number in numbers:
            read = np.load(folder / f"slice{number}.npy")
        return read

    for peer, numbers, read, goal in ((f"one .npy per volume of {SLICES} slices, np.load", few, by_volume, 4.0), ("one .npy per slice, np.load", order, by_slice, None)):
        pairs = in_turns(lambda numbers=numbers: ours(numbers), lambda numbers=numbers, read=read: read(numbers), rounds)
        assert np.array_equal(np.concatenate(pairs.mine), pairs.other)
        row(f"the same{'' if goal is None else f', {len(numbers)} slices'}", peer, pairs.ratio, goal=goal, spread=pairs.range, equality="equal to the bit", limit=str(pairs))


def main() -> None:
    quick = parser(__doc__, "a tenth of the data, three pairs").parse_args().quick
    rounds = 3 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        pooled(Path(folder), 10_000 if quick else 100_000, rounds)
    with tempfile.TemporaryDirectory() as folder:
        dense(Path(folder), 2 if quick else 16, rounds)


if __name__ == "__main__":
    main()
