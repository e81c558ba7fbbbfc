"""What a feature is found by: the same bytes read in another way are never taken for it, and what was always read is found as before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe import encoders
from medprobe.datasets._layout import fingerprint, paths_of
from medprobe.errors import CaseError
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import Preprocessing, encoding_facts
from medprobe.files import digest_of
from medprobe.types import Case, Source, Task


@pytest.fixture
def source(tmp_path: Path) -> Source:
    for name, side in (("a", 4), ("b", 5), ("c", 6)):
        np.save(tmp_path / f"{name}.npy", np.zeros((3, side, side), np.int16))
    return Source(tmp_path / "a.npy")


def key(source: Source) -> str:
    return source_key((source,), Digests(None).of(source.paths))


def test_a_source_that_is_read_as_it_is_has_the_key_it_always_had(source: Source) -> None:
    digest = Digests(None).of([source.path])[source.path]
    assert key(source) == digest_of([[digest, None, None]])[:32]
    assert key(replace(source, member="x", frames=(2, 1))) == digest_of([[digest, "x", [2, 1]]])[:32]


def test_every_way_of_reading_a_source_has_its_own_key(source: Source, tmp_path: Path) -> None:
    ways = [
        {}, {"rescale": (1.0, -1024.0)}, {"rescale": (1.0, -8192.0)}, {"grid": tmp_path / "b.npy"}, {"grid": tmp_path / "c.npy"}, {"window": "ct"}, {"window": "suv"},
        {"window": "lung|bone|ct"}, {"axis": "coronal"}, {"axis": "sagittal"}, {"frames": (0, 2)}, {"frames": (0, 2), "axis": "coronal"}, {"window": "ct", "axis": "coronal"},
    ]  # fmt: skip
    keys = {key(replace(source, **way)) for way in ways}  # type: ignore[arg-type]
    assert len(keys) == len(ways)


def test_the_grid_counts_by_its_bytes(source: Source, tmp_path: Path) -> None:
    laid = replace(source, grid=tmp_path / "b.npy")
    before = key(laid)
    (tmp_path / "b.npy").rename(tmp_path / "moved.npy")
    assert key(replace(laid, grid=tmp_path / "moved.npy")) == before
    np.save(tmp_path / "b.npy", np.ones((3, 5, 5), np.int16))
    assert key(laid) != before
    (tmp_path / "b.npy").unlink()
    with pytest.raises(CaseError, match=r"b\.npy: cannot be read"):
        source_key((laid,), Digests(None).of([source.path]))


def test_channels_in_another_order_or_with_swapped_windows_have_other_keys(source: Source, tmp_path: Path) -> None:
    other = Source(tmp_path / "b.npy")
    digests = Digests(None).of([source.path, other.path])
    pairs = [(replace(one, window=first), replace(two, window=second)) for one, two in ((source, other), (other, source)) for first, second in (("ct", "suv"), ("suv", "ct"))]
    assert len({source_key(pair, digests) for pair in pairs}) == 4


def test_the_fingerprint_of_a_dataset_has_rescaling_and_grid(source: Source, tmp_path: Path) -> None:
    ways = [source, replace(source, rescale=(1.0, -1024.0)), replace(source, grid=tmp_path / "b.npy"), replace(source, grid=tmp_path / "c.npy")]
    cases = [[Case("a", "p", {"image": (way,)}, 0)] for way in ways]
    assert paths_of(cases[2]) == {source.path, tmp_path / "b.npy"}
    digests = Digests(None).of(tmp_path.glob("*.npy"))
    assert len({fingerprint(case, digests) for case in cases}) == 4


def test_channels_enter_the_facts_of_an_encoding_only_where_they_are_one_picture() -> None:
    encoder = encoders.load("pixels")
    late, rgb = (encoding_facts(encoder, Preprocessing("ct", (32, 32), channels=channels), True, "fp32") for channels in ("late", "rgb"))  # type: ignore[arg-type]
    assert "channels" not in late
    assert rgb == {**late, "channels": "rgb"}


def test_settings_of_volumes_stand_in_a_result_only_where_they_are_not_as_always() -> None:
    plain = Task("d", "knn").config()
    assert not {"channels", "stride", "axis"} & set(plain)
    assert {"reduce", "layers", "window"} <= set(plain)
    assert replace(Task("d", "knn"), stride=2, axis="coronal", channels="rgb").config() == {**plain, "stride": 2, "axis": "coronal", "channels": "rgb"}


def test_a_disk_without_room_for_the_memory_of_digests_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.bin").write_bytes(b"some bytes")

    def full(path: Path, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medprobe.features.digests.write_atomically", full)
    found = Digests(tmp_path / "cache").of([tmp_path / "one.bin"])
    assert found == Digests(None).of([tmp_path / "one.bin"])
    assert len(found) == 1
