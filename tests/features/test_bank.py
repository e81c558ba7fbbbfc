"""Vectors read at once are those read case by case."""

from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import MedprobeError
from medprobe.features.bank import StoredBank
from medprobe.features.encode import Pipeline, Preprocessing
from medprobe.features.samples import EncodedSamples, Item
from medprobe.features.store import SHARD_PLANES, Encoding, Entry

CASES, DIM = SHARD_PLANES + 300, 3


def stored(cache: Path, planes: list[int]) -> tuple[StoredBank, np.ndarray]:
    """A bank of complete shards, and its rows."""
    rows = np.random.default_rng(0).normal(size=(sum(planes), DIM)).astype(np.float32)
    entries = [Entry(f"key{number}", count) for number, count in enumerate(planes)]
    encoding, done = Encoding(cache, {"encoder": "none"}), 0
    for shard in encoding.plan(entries, alone=False):
        for start, stop in shard.chunks():
            shard.commit(start, {"cls": rows[done + start : done + stop], "patch_mean": -rows[done + start : done + stop]}, {}, {})
        done += shard.planes
    sources = {entry.key: () for entry in entries}
    return StoredBank(encoding, Pipeline(None, Preprocessing("full-range", (8, 8)), False), sources, entries, lambda done, total, what: None), rows


def samples(bank: StoredBank, places: list[int]) -> EncodedSamples:
    return EncodedSamples([Item(str(place), str(place), {"image": (f"key{place}",)}, {}) for place in places], bank)


def test_vectors_are_read_at_once_in_any_order(tmp_path: Path) -> None:
    bank, rows = stored(tmp_path, [1] * CASES)
    rng = np.random.default_rng(1)
    for places in (range(CASES), range(50, 60), rng.permutation(CASES), rng.choice(CASES, 40), np.sort(rng.permutation(CASES)[:700]), [CASES - 1]):
        for pooling, expected in (("cls", rows), ("patch_mean", -rows)):
            np.testing.assert_array_equal(samples(bank, list(places)).pooled(pooling), expected[list(places)])  # type: ignore[arg-type]
    whole = samples(bank, list(range(CASES)))
    np.testing.assert_array_equal(whole.subset([5, 4099, 7]).subset([2, 1]).pooled("cls"), rows[[7, 4099]])
    places = bank.places([f"key{place}" for place in range(CASES)])
    assert places is not None
    assert bank.gathered(places, "cls") is not None, "the way that is taken"


def test_other_cases_are_read_one_by_one(tmp_path: Path) -> None:
    bank, rows = stored(tmp_path, [1, 3, 1])
    assert bank.places(["key0", "key1"]) is None
    assert bank.places(["key0", "absent"]) is None
    assert bank.gathered(bank.places(["key0"]), "absent") is None  # type: ignore[arg-type]
    found = samples(bank, [0, 1, 2]).pooled("cls")
    np.testing.assert_allclose(found, [rows[0], rows[1:4].mean(axis=0), rows[4]], rtol=1e-6)
    both = samples(bank, [2, 0]).pooled("cls_patch_mean")
    np.testing.assert_array_equal(both, np.concatenate([rows[[4, 0]], -rows[[4, 0]]], axis=1))


def test_numbers_that_are_none_are_counted(tmp_path: Path) -> None:
    bank, _ = stored(tmp_path, [1] * 5)
    (file,) = tmp_path.rglob("cls.npy")
    rows = np.load(file, mmap_mode="r+")
    rows[1], rows[3] = np.nan, np.inf
    rows.flush()
    with pytest.raises(MedprobeError, match="2 of 5 samples have NaN or infinite features"):
        samples(bank, list(range(5))).pooled("cls")


def test_a_file_that_was_cut_since_is_an_error(tmp_path: Path) -> None:
    bank, _ = stored(tmp_path, [1] * 5)
    (file,) = tmp_path.rglob("cls.npy")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(MedprobeError, match="expected 5 rows, found fewer"):
        samples(bank, list(range(5))).pooled("cls")


def test_entries_of_another_width_are_not_read_as_if_they_had_the_first_one(tmp_path: Path) -> None:
    encoding = Encoding(tmp_path, {"encoder": "none"})
    for number, width in enumerate((2, 4)):
        (shard,) = encoding.plan([Entry(f"key{number}", 1)], alone=False)
        shard.commit(0, {"cls": np.ones((1, width), np.float32)}, {}, {})
    entries = [Entry(f"key{number}", 1) for number in range(2)]
    bank = StoredBank(encoding, Pipeline(None, Preprocessing("full-range", (8, 8)), False), {entry.key: () for entry in entries}, entries, lambda done, total, what: None)
    assert bank.gathered(bank.places(["key0", "key1"]), "cls") is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same shape"):
        samples(bank, [0, 1]).pooled("cls")


def test_finished_cases_of_an_unfinished_shard_are_read(tmp_path: Path) -> None:
    """A run was killed, and the next asks for fewer cases."""
    encoding = Encoding(tmp_path, {"encoder": "none"})
    (shard,) = encoding.plan([Entry(f"key{number}", 1) for number in range(300)], alone=False)
    rows = np.random.default_rng(0).normal(size=(128, DIM)).astype(np.float32)
    shard.commit(0, {"cls": rows}, {}, {})
    entries = [Entry(f"key{number}", 1) for number in (3, 1, 100)]
    bank = StoredBank(encoding, Pipeline(None, Preprocessing("full-range", (8, 8)), False), {entry.key: () for entry in entries}, entries, lambda done, total, what: None)
    np.testing.assert_array_equal(samples(bank, [3, 1, 100]).pooled("cls"), rows[[3, 1, 100]])
    np.testing.assert_array_equal(bank.features("key100").cls, rows[[100]])
