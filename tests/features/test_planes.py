"""Decoded planes that are kept: what they give is what decoding gives, and no more is kept than the budget."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprobe import encoders
from medprobe.features.bank import StoredBank, StreamedBank
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import Pipeline, Preprocessing, encoding_facts, plane_facts
from medprobe.features.planes import PlaneStore
from medprobe.features.store import Encoding, Entry, Shard, collect_garbage, inspect
from medprobe.types import Source

SIDE = 32
Sources = Mapping[str, tuple[Source, ...]]


def pictures(folder: Path, count: int, mode: str = "L", name: str = "image") -> dict[str, tuple[Source, ...]]:
    rng = np.random.default_rng(len(name) + count)
    paths = [folder / f"{name}{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 50) if mode == "L" else (40, 50, 3), np.uint8)).save(path)
    digests = Digests(None).of(paths)
    return {source_key((Source(path),), digests): (Source(path),) for path in paths}


def features(cache: Path, spec: str, sources: Sources, budget: int, colour: int | None = 3, planes: Mapping[str, int] | None = None, grids: bool = False) -> dict[str, np.ndarray]:
    """Encoded with planes that are kept in the cache, features read back by key."""
    encoder = encoders.load(spec)
    preprocessing = Preprocessing("full-range", (SIDE, SIDE), colour=colour)  # type: ignore[arg-type]
    store = PlaneStore(cache, plane_facts(preprocessing), budget)
    store.look_for(sources)
    pipeline = Pipeline(encoder, preprocessing, grids, 4, 0, store)
    entries = [Entry(key, (planes or {}).get(key, 1)) for key in sources]
    encoding = Encoding(cache, encoding_facts(encoder, preprocessing, grids, "fp32"))
    bank = StoredBank(encoding, pipeline, sources, entries, lambda done, total, what: None)
    return {key: np.array(bank.features(key).patch_mean) for key in sources if key not in bank.unreadable}


def kept(cache: Path) -> int:
    return sum(file.stat().st_size for file in cache.glob("planes/*/*/*.npy"))


FIRST, SECOND = "pixels", "random:timm:vit_pwee_patch16_reg1_gap_256"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_second_encoder_decodes_nothing_and_gives_the_same(tmp_path: Path, mode: str) -> None:
    sources = pictures(tmp_path, 7, mode)
    expected = features(tmp_path / "other", SECOND, sources, 0)
    assert not kept(tmp_path / "other")
    features(tmp_path / "cache", FIRST, sources, 10**9)
    channels = 1 if mode == "L" else 3
    assert 0 < kept(tmp_path / "cache") - 7 * channels * SIDE**2 < 300, "8-bit rows and a header; grey once"
    for path in tmp_path.glob("*.png"):
        path.unlink()
    found = features(tmp_path / "cache", SECOND, sources, 10**9)
    assert {key: value.tobytes() for key, value in found.items()} == {key: value.tobytes() for key, value in expected.items()}


def test_planes_of_a_volume_are_kept_as_they_are_made(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(9, 20, 20)).astype(np.float32)
    np.save(tmp_path / "volume.npy", volume)
    source = (Source(tmp_path / "volume.npy"),)
    key = source_key(source, Digests(None).of([tmp_path / "volume.npy"]))
    expected = features(tmp_path / "other", SECOND, {key: source}, 0, planes={key: 9})
    features(tmp_path / "cache", FIRST, {key: source}, 10**9, None, {key: 9})
    (tmp_path / "volume.npy").unlink()
    found = features(tmp_path / "cache", SECOND, {key: source}, 10**9, planes={key: 9})
    np.testing.assert_array_equal(found[key], expected[key])


def test_streamed_features_come_from_kept_planes_and_keep_none(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 255, (70, 20, 20), np.uint8)
    np.save(tmp_path / "volume.npy", volume)
    source = (Source(tmp_path / "volume.npy"),)
    key = source_key(source, Digests(None).of([tmp_path / "volume.npy"]))

    def streamed(cache: Path) -> np.ndarray:
        encoder, preprocessing = encoders.load(SECOND), Preprocessing("full-range", (SIDE, SIDE), colour=3)
        store = PlaneStore(cache, plane_facts(preprocessing), 10**9)
        store.look_for([key])
        bank = StreamedBank(Pipeline(encoder, preprocessing, True, 4, 0, store), {key: source}, [Entry(key, 70)], lambda done, total, what: None, 0)
        return np.concatenate([np.array(bank.features(key).grids[0][start : start + 30]) for start in (40, 0)])

    expected = streamed(tmp_path / "none")
    assert not kept(tmp_path / "none")
    features(tmp_path / "cache", FIRST, {key: source}, 10**9, planes={key: 70})
    (tmp_path / "volume.npy").unlink()
    np.testing.assert_array_equal(streamed(tmp_path / "cache"), expected)


def test_pictures_of_several_kinds_are_kept_each_with_its_own(tmp_path: Path) -> None:
    sources = pictures(tmp_path, 3) | pictures(tmp_path, 1, "RGB", "colour") | pictures(tmp_path, 2, name="more")
    deep = [tmp_path / f"deep{number}.png" for number in range(2)]
    for path in deep:
        Image.fromarray(np.random.default_rng(0).integers(0, 60_000, (40, 50)).astype(np.uint16)).save(path)
    sources |= {source_key((Source(path),), Digests(None).of(deep)): (Source(path),) for path in deep}
    sources = {key: sources[key] for key in sorted(sources)}
    expected = features(tmp_path / "other", SECOND, sources, 0)
    features(tmp_path / "cache", "mean-rgb", sources, 10**9)
    assert len(list((tmp_path / "cache").glob("planes/*/*/planes.npy"))) == 3
    for path in tmp_path.glob("*.png"):
        path.unlink()
    found = features(tmp_path / "cache", SECOND, sources, 10**9)
    assert {key: value.tobytes() for key, value in found.items()} == {key: value.tobytes() for key, value in expected.items()}


def test_volumes_longer_and_shorter_than_a_chunk_are_kept_whole(tmp_path: Path) -> None:
    """Chunks of features hold 32 planes where there are grids, so that a volume lies across their borders."""
    sources, planes = {}, {}
    for number, count in enumerate((20, 33, 5, 100, 64)):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).integers(0, 255, (count, 20, 20), np.uint8))
        source = (Source(tmp_path / f"{number}.npy"),)
        key = source_key(source, Digests(None).of([source[0].path]))
        sources[key], planes[key] = source, count
    expected = features(tmp_path / "other", SECOND, sources, 0, planes=planes, grids=True)
    features(tmp_path / "cache", FIRST, sources, 10**9, planes=planes, grids=True)
    assert not any(finding.fault or finding.done < finding.planes for finding in inspect(tmp_path / "cache", verify=True))
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    found = features(tmp_path / "cache", SECOND, sources, 10**9, planes=planes, grids=True)
    assert all(np.array_equal(found[key], expected[key]) for key in sources)
    assert len(found) == 5


def test_an_unreadable_image_is_said_again_and_the_others_are_kept(tmp_path: Path) -> None:
    sources = pictures(tmp_path, 6)
    broken = sorted(tmp_path.glob("*.png"))[2]
    broken.write_bytes(broken.read_bytes()[:60])
    for spec in (FIRST, SECOND):
        assert len(features(tmp_path / "cache", spec, sources, 10**9)) == 5
    assert kept(tmp_path / "cache") > 5 * SIDE**2


def test_the_budget_holds_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache, budget = tmp_path / "cache", 2 * (4 * SIDE**2 + 200)
    parts = [pictures(tmp_path, 4, name=name) for name in ("a", "bb", "ccc")]
    for number, sources in enumerate(parts):
        features(cache, FIRST, sources, budget)
        assert kept(cache) <= budget
        for place, file in enumerate(cache.glob("planes/*/*/shard.json")):
            os.utime(file, (place + number, place + number))
    newest = PlaneStore(cache, plane_facts(Preprocessing("full-range", (SIDE, SIDE), colour=3)), budget)
    newest.look_for([key for sources in parts for key in sources])
    assert len(newest.found(parts[-1])) == 4
    assert sum(len(newest.found(sources)) for sources in parts) == 8
    features(tmp_path / "small", FIRST, parts[0], 100)
    assert not kept(tmp_path / "small"), "less than all of a shard is not kept"


def test_damaged_planes_are_decoded_again(tmp_path: Path) -> None:
    sources = pictures(tmp_path, 5)
    expected = features(tmp_path / "other", SECOND, sources, 0)
    features(tmp_path / "cache", FIRST, sources, 10**9)
    (file,) = (tmp_path / "cache").glob("planes/*/*/planes.npy")
    data = bytearray(file.read_bytes())
    data[-5] ^= 255
    file.write_bytes(data)
    assert [finding.kind for finding in inspect(tmp_path / "cache", verify=True) if finding.fault] == ["planes"]
    found = features(tmp_path / "cache", SECOND, sources, 10**9)
    assert all(np.array_equal(found[key], expected[key]) for key in sources)
    assert not any(finding.fault for finding in inspect(tmp_path / "cache", verify=True)), "kept anew"
    assert collect_garbage(tmp_path / "cache") == (0, 0)


def test_planes_that_vanish_after_they_were_found_are_decoded(tmp_path: Path) -> None:
    sources = pictures(tmp_path, 5)
    preprocessing = Preprocessing("full-range", (SIDE, SIDE), colour=3)
    features(tmp_path / "cache", FIRST, sources, 10**9)
    store = PlaneStore(tmp_path / "cache", plane_facts(preprocessing), 10**9)
    store.look_for(sources)
    for file in (tmp_path / "cache").glob("planes/*/*/*"):
        file.unlink()
    shard = Shard.of(tmp_path / "shards", tuple(Entry(key, 1) for key in sources))
    (chunk,) = Pipeline(encoders.load(SECOND), preprocessing, False, 4, 0, store).chunks(shard, sources, 0, 5)
    assert not chunk.unreadable
    assert np.isfinite(chunk.rows["patch_mean"]).all()
    assert chunk.rows["patch_mean"].std() > 0


@pytest.mark.parametrize("begun", [256, 128, 0])
def test_what_a_cut_off_run_kept_is_gone_on_from(tmp_path: Path, begun: int) -> None:
    """Of a volume of 300 planes two chunks were kept when the run ended; the features it goes on from are fewer, or as many."""
    np.save(tmp_path / "volume.npy", np.random.default_rng(0).integers(0, 255, (300, 20, 20), np.uint8))
    source = (Source(tmp_path / "volume.npy"),)
    key = source_key(source, Digests(None).of([source[0].path]))
    preprocessing, cache = Preprocessing("full-range", (SIDE, SIDE), colour=3), tmp_path / "cache"
    shard = Shard.of(tmp_path / "shards", (Entry(key, 300),))
    store = PlaneStore(cache, plane_facts(preprocessing), 10**9)
    pipeline = Pipeline(encoders.load(FIRST), preprocessing, False, 64, 0, store)
    keeping = store.keeping(shard)
    keep = keeping.__enter__()
    for _ in pipeline.chunks(shard, {key: source}, 0, 256, keep=keep):
        pass
    keep.__self__._long[1]._lock.release()  # type: ignore[attr-defined]  # as of a process that was killed
    (finding,) = inspect(cache, verify=True)
    assert (finding.done, finding.fault) == (256, None)
    with store.keeping(shard) as keep:
        for _ in pipeline.chunks(shard, {key: source}, begun, 300, keep=keep):
            pass
    (finding,) = inspect(cache, verify=True)
    assert (finding.done, finding.fault) == (300, None)


def test_planes_of_one_entry_that_are_unlike_are_not_kept(tmp_path: Path) -> None:
    store = PlaneStore(tmp_path / "cache", plane_facts(Preprocessing("full-range", (SIDE, SIDE))), 10**9)
    shard = Shard.of(tmp_path / "shards", (Entry("short", 4), Entry("whole", 4), Entry("long", 200)))
    with store.keeping(shard) as keep:
        for key, starts in (("short", (0, 2)), ("whole", (0, 2)), ("long", (0, 100))):
            for start in starts:
                size = 100 if key == "long" else 2
                keep(key, start, np.zeros((size, 1, SIDE, SIDE), np.float32 if start and key != "whole" else np.uint8), [])
    store.look_for(["short", "whole", "long"])
    assert set(store.found(["short", "whole", "long"])) == {"whole"}


def test_a_volume_whose_begin_was_not_decoded_is_not_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((300, 20, 20), np.uint8))
    source = (Source(tmp_path / "volume.npy"),)
    preprocessing = Preprocessing("full-range", (SIDE, SIDE), colour=3)
    store = PlaneStore(tmp_path / "cache", plane_facts(preprocessing), 10**9)
    shard = Shard.of(tmp_path / "shards", (Entry("key", 300),))
    with store.keeping(shard) as keep:
        for _ in Pipeline(encoders.load(FIRST), preprocessing, False, 64, 0, store).chunks(shard, {"key": source}, 128, 300, keep=keep):
            pass
    assert not kept(tmp_path / "cache")


def test_a_full_disk_leaves_nothing_behind_and_the_features_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = pictures(tmp_path, 200)
    expected = features(tmp_path / "other", SECOND, sources, 0)
    commit, calls = Shard.commit, []

    def full(shard: Shard, start: int, rows: Mapping[str, np.ndarray], *more: Mapping) -> None:
        if "planes" in rows:
            calls.append(start)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
        commit(shard, start, rows, *more)

    monkeypatch.setattr(Shard, "commit", full)
    found = features(tmp_path / "cache", SECOND, sources, 10**9)
    assert calls == [0, 128]
    assert not kept(tmp_path / "cache"), "half of a shard is of no use"
    assert all(np.array_equal(found[key], expected[key]) for key in sources)


def test_planes_never_take_more_than_half_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = pictures(tmp_path, 5)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2 * 5 * SIDE**2 - 1}))
    features(tmp_path / "cache", FIRST, sources, 10**9)
    assert not kept(tmp_path / "cache")


def test_what_cannot_be_written_beside_the_features_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = pictures(tmp_path, 5)
    features(tmp_path / "cache", FIRST, sources, 10**9)

    def refused(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(Encoding, "describe", lambda self: refused() if self.folder.parent.name == "planes" else self.folder.mkdir(parents=True, exist_ok=True))
    assert len(features(tmp_path / "cache", SECOND, sources, 10**9)) == 5
    assert len(features(tmp_path / "cache", FIRST, pictures(tmp_path, 6, name="more"), 10**9)) == 6
