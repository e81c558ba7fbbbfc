"""The feature store: what is kept is what was computed, or it is computed again."""

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medprobe import encoders
from medprobe.errors import CaseError, MedprobeError
from medprobe.features.bank import StoredBank, StreamedBank
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import ENCODING_VERSION, Pipeline, Preprocessing, encoding_facts
from medprobe.features.store import CHUNK_PLANES, Encoding, Entry, Shard, collect_garbage, inspect, shards_of
from medprobe.imaging import nifti
from medprobe.types import Features, Source

SIZE = Preprocessing("full-range", (16, 16), colour=3)


class Counting:
    """A small fixed encoder that writes a line per call."""

    name = spec = "counting"
    dims, channels, image_size, default_size, weights_sha256, transform = 2, 3, None, 16, "0" * 64, {}

    def __init__(self, log: Path | None = None) -> None:
        self.log = log
        self.weight = torch.from_numpy(np.random.default_rng(0).normal(size=(768, 8)).astype(np.float32))

    def __call__(self, x: torch.Tensor) -> Features:
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{len(x)}\n")
        vectors = x.reshape(len(x), -1) @ self.weight
        return Features(vectors, vectors * 2, (x[:, :, ::8, ::8].contiguous(),))


def nothing(done: int, total: int, what: str) -> None:
    """No progress."""


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> dict[str, tuple[Source, ...]]:
    """300 pictures by content key."""
    files = []
    for number in range(300):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(files[-1])
    digests = Digests(tmp_path / "cache").of(files)
    return {source_key((Source(file),), digests): (Source(file),) for file in files}


def bank_of(cache: Path, sources: dict, encoder: Counting, grids: bool = False, batch: int = 16) -> StoredBank:
    encoding = Encoding(cache, encoding_facts(encoder, SIZE, grids, "fp32"))
    return StoredBank(encoding, Pipeline(encoder, SIZE, grids, batch, 0), sources, [Entry(key, 1) for key in sources], nothing)


def matrix(bank, sources: dict) -> np.ndarray:
    return np.concatenate([np.asarray(bank.features(key).cls) for key in sources])


def test_features_come_back_and_nothing_is_encoded_twice(tmp_path: Path, pictures: dict) -> None:
    log = tmp_path / "log"
    first = matrix(bank_of(tmp_path / "cache", pictures, Counting(log)), pictures)
    calls = log.read_text()
    again = matrix(bank_of(tmp_path / "cache", pictures, Counting(log)), pictures)
    assert log.read_text() == calls
    assert sum(map(int, calls.split())) == 300
    np.testing.assert_array_equal(first, again)
    expected = np.concatenate([np.asarray(Image.open(source[0].path), np.float32)[None, None].repeat(3, 1) / 255 for source in pictures.values()])
    np.testing.assert_allclose(first, expected.reshape(300, -1) @ Counting().weight.numpy(), rtol=1e-4, atol=1e-4)


def test_batch_sizes_agree_to_rounding(tmp_path: Path, pictures: dict) -> None:
    each = [matrix(bank_of(tmp_path / f"c{batch}", pictures, Counting(), batch=batch), pictures) for batch in (1, 7, 32)]
    for other in each[1:]:
        assert np.abs(each[0] - other).max() <= 1e-5 * np.abs(each[0]).max()


def test_one_flipped_byte_is_found_and_computed_again(tmp_path: Path, pictures: dict) -> None:
    cache = tmp_path / "cache"
    clean = matrix(bank_of(cache, pictures, Counting()), pictures)
    file = next(cache.glob("features/*/*/cls.npy"))
    for victim in (file, file.with_name("shard.json")):
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(bytes(data))
        assert any(finding.fault for finding in inspect(cache, verify=True))
        np.testing.assert_array_equal(matrix(bank_of(cache, pictures, Counting()), pictures), clean)
        assert not any(finding.fault for finding in inspect(cache, verify=True))


def test_only_the_damaged_chunk_and_those_after_it_are_computed_again(tmp_path: Path, pictures: dict) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    bank_of(cache, pictures, Counting())
    file = next(cache.glob("features/*/*/cls.npy"))
    with file.open("r+b") as open_file:
        open_file.seek(-4, os.SEEK_END)
        open_file.write(b"\xff\xff\xff\xff")
    bank_of(cache, pictures, Counting(log))
    assert sum(map(int, log.read_text().split())) == 300 - 2 * CHUNK_PLANES


def test_a_stop_half_way_keeps_whole_chunks_and_goes_on_to_the_same_bytes(tmp_path: Path, pictures: dict) -> None:
    class Stops(Counting):
        calls = 0

        def __call__(self, x: torch.Tensor) -> Features:
            self.calls += 1
            if self.calls == 13:
                raise KeyboardInterrupt
            return super().__call__(x)

    with pytest.raises(KeyboardInterrupt):
        bank_of(tmp_path / "stopped", pictures, Stops())
    shard = Shard.open(next((tmp_path / "stopped").glob("features/*/*/shard.json")).parent)
    assert shard is not None
    assert shard.done == CHUNK_PLANES
    log = tmp_path / "log"
    resumed = matrix(bank_of(tmp_path / "stopped", pictures, Counting(log)), pictures)
    assert sum(map(int, log.read_text().split())) == 300 - CHUNK_PLANES
    np.testing.assert_array_equal(resumed, matrix(bank_of(tmp_path / "straight", pictures, Counting()), pictures))


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path, pictures: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.pwrite, []

    def full(descriptor: int, data: bytes, offset: int) -> int:
        written.append(offset)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        bank_of(tmp_path / "cache", pictures, Counting())
    monkeypatch.undo()
    log = tmp_path / "log"
    bank_of(tmp_path / "cache", pictures, Counting(log))
    assert sum(map(int, log.read_text().split())) == 300 - CHUNK_PLANES


def test_two_runs_on_one_cache_compute_each_plane_once(tmp_path: Path, pictures: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medprobe.features.store.SHARD_PLANES", 40)
    logs = [tmp_path / "log0", tmp_path / "log1"]
    with ThreadPoolExecutor(2) as pool:
        banks = list(pool.map(lambda log: matrix(bank_of(tmp_path / "cache", pictures, Counting(log)), pictures), logs))
    assert sum(int(line) for log in logs if log.exists() for line in log.read_text().split()) == 300
    np.testing.assert_array_equal(banks[0], banks[1])


def test_streamed_features_equal_stored_ones(tmp_path: Path, pictures: dict) -> None:
    stored = bank_of(tmp_path / "cache", pictures, Counting(), grids=True)
    streamed = StreamedBank(Pipeline(Counting(), SIZE, True, 16, 0), pictures, [Entry(key, 1) for key in pictures], nothing, max_ram=1)
    for key in list(pictures)[::50]:
        for name in ("cls", "patch_mean", "grid"):
            np.testing.assert_array_equal(getattr(stored.features(key), name), getattr(streamed.features(key), name))


def test_an_unreadable_picture_is_named_and_the_others_kept(tmp_path: Path, pictures: dict) -> None:
    key, sources = next(iter(pictures.items()))
    sources[0].path.write_bytes(sources[0].path.read_bytes()[:60])
    bank = bank_of(tmp_path / "cache", pictures, Counting())
    assert list(bank.unreadable) == [key]
    with pytest.raises(CaseError, match=sources[0].path.name):
        bank.features(key)
    assert np.isfinite(np.concatenate([bank.features(other).cls for other in pictures if other != key])).all()


def test_nan_features_stop_before_anything_is_kept(tmp_path: Path, pictures: dict) -> None:
    class Broken(Counting):
        def __call__(self, x: torch.Tensor) -> Features:
            return Features(torch.full((len(x), 8), float("nan")))

    with pytest.raises(MedprobeError, match="NaN"):
        bank_of(tmp_path / "cache", pictures, Broken())


def test_garbage_is_what_is_unfinished_or_damaged(tmp_path: Path, pictures: dict) -> None:
    cache = tmp_path / "cache"
    bank_of(cache, pictures, Counting())
    Shard.create(next((cache / "features").iterdir()), (Entry("unfinished", 5),))
    assert collect_garbage(cache)[0] == 1
    assert [finding.done for finding in inspect(cache, verify=True)] == [300]


def test_shards_hold_at_most_their_planes_unless_one_entry_is_larger() -> None:
    groups = list(shards_of([Entry(str(n), size) for n, size in enumerate((4000, 90, 7, 5000, 1))], alone=False))
    assert [[entry.planes for entry in group] for group in groups] == [[4000, 90], [7], [5000], [1]]


def test_the_key_depends_on_content_not_on_names(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / name)
    digests = Digests(tmp_path / "cache").of([tmp_path / "a.png", tmp_path / "b.png"])
    assert source_key((Source(tmp_path / "a.png"),), digests) == source_key((Source(tmp_path / "b.png"),), digests)
    assert Digests(tmp_path / "cache").of([tmp_path / "a.png"]) == {tmp_path / "a.png": digests[tmp_path / "a.png"]}


@pytest.mark.parametrize("change", [{"size": (32, 32)}, {"resize": "bilinear"}, {"window": "minmax"}, {"fit_rule": "pad"}, {"colour": 1}])
def test_every_way_of_preparing_planes_has_its_own_key(tmp_path: Path, change: dict) -> None:
    from dataclasses import replace

    facts = [encoding_facts(Counting(), one, False, "fp32") for one in (SIZE, replace(SIZE, **change))]
    assert Encoding(tmp_path, facts[0]).key != Encoding(tmp_path, facts[1]).key
    assert Encoding(tmp_path, {**facts[0], "precision": "bf16"}).key != Encoding(tmp_path, facts[0]).key


def test_features_change_only_with_the_encoding_version(tmp_path: Path) -> None:
    """Golden: the pixels that reach an encoder, from a fixed picture and the planes of a fixed volume, under version 2."""
    y, x = np.mgrid[0:40, 0:56]
    picture = np.stack([(x * 4) % 256, (y * 6) % 256, (x * y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    seen: list[torch.Tensor] = []

    class Seeing(Counting):
        def __call__(self, x: torch.Tensor) -> Features:
            seen.append(x)
            return super().__call__(x)

    nifti.save(tmp_path / "v.nii.gz", picture[:, :, 0].reshape(5, 8, 56), np.diag([2.0, 2.0, 3.0, 1.0]), None)
    volume = Source(tmp_path / "v.nii.gz", axis="coronal", orientation="radiological")
    for number, source in enumerate((Source(tmp_path / "p.png"), volume)):
        bank_of(tmp_path / f"cache{number}", {"p": (source,)}, Seeing())
    digests = [hashlib.sha256((x * 255).round().to(torch.uint8).numpy().tobytes()).hexdigest()[:16] for x in seen]
    assert (ENCODING_VERSION, *digests) == (2, *GOLDEN)


GOLDEN = ("8413a6021dd6b9c6", "2b78fdbb23b8c4d5")


def test_another_weights_digest_is_another_encoding(tmp_path: Path) -> None:
    one, two = (encoders.load("random:timm:test_vit", seed=seed) for seed in (0, 1))
    keys = {Encoding(tmp_path, encoding_facts(encoder, SIZE, False, "fp32")).key for encoder in (one, two)}
    assert len(keys) == 2
    assert json.dumps(encoding_facts(one, SIZE, False, "fp32"))


def test_a_volume_is_decoded_once_whatever_workers_there_are(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    import nibabel

    from medprobe.imaging import nifti

    files = [tmp_path / f"{number}.nii.gz" for number in range(5)]
    for number, file in enumerate(files):
        nibabel.save(nibabel.Nifti1Image(rng.integers(0, 255, (16, 16, 30 + number), dtype=np.uint8), np.eye(4)), file)
    digests = Digests(tmp_path / "cache").of(files)
    sources = {source_key((Source(file),), digests): (Source(file),) for file in files}
    entries = [Entry(key, 30 + number) for number, key in enumerate(sources)]
    log, read = tmp_path / "log", nifti.volume

    def counted(path: Path, **more: object):  # type: ignore[no-untyped-def]
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        return read(path, **more)

    monkeypatch.setattr(nifti, "volume", counted)
    made = {}
    for workers in (0, 2, 7):
        encoding = Encoding(tmp_path / f"cache{workers}", encoding_facts(Counting(), SIZE, True, "fp32"))
        bank = StoredBank(encoding, Pipeline(Counting(), SIZE, True, 8, workers), sources, entries, nothing)
        made[workers] = np.concatenate([np.asarray(bank.features(key).grids[0]) for key in sources])
        assert sorted(log.read_text().split()) == [file.name for file in files]
        log.unlink()
        nifti._volumes.cache_clear()
    np.testing.assert_array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[0], made[7])


def test_planes_of_a_single_colour_are_encoded_once(tmp_path: Path, rng: np.random.Generator) -> None:
    planes = rng.integers(0, 255, (40, 16, 16), np.uint8)
    planes[[0, 1, 2, 17, 39]] = 0
    planes[[5, 6]] = 200
    np.save(tmp_path / "stack.npy", planes)
    source = (Source(tmp_path / "stack.npy"),)
    key = source_key(source, Digests(tmp_path / "cache").of([source[0].path]))
    log = tmp_path / "log"
    pipeline = Pipeline(Counting(log), SIZE, True, 8, 0)
    bank = StoredBank(Encoding(tmp_path / "cache", encoding_facts(Counting(), SIZE, True, "fp32")), pipeline, {key: source}, [Entry(key, 40)], nothing)
    assert sum(map(int, log.read_text().split())) == 40 - 2 - 1, "three of black and two of grey lie in one batch"
    expected = Counting()(torch.from_numpy(planes[:, None].repeat(3, 1) / np.float32(255)))
    np.testing.assert_allclose(bank.features(key).cls, expected.cls, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(bank.features(key).grids[0], expected.grids[0])
