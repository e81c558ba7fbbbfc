"""`features:DIR`: features made elsewhere, by case id."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from medprobe.check.encoder import check_encoder
from medprobe.encoders import load
from medprobe.errors import CaseError, MissingError, RequestError


def test_a_vector_file_per_case_serves_both_poolings(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "a.npy", rng.random(5))
    (tmp_path / "p1").mkdir()
    np.save(tmp_path / "p1" / "b.npy", rng.random((3, 5)))
    stored = load(f"features:{tmp_path}")
    assert stored.dim == 5
    one, three = stored.features_of("a"), stored.features_of("p1/b")
    assert (one.cls.shape, three.cls.shape, one.cls.dtype) == ((1, 5), (3, 5), np.float32)
    assert np.array_equal(three.pool("patch_mean"), three.cls)


def test_an_npz_file_holds_vectors_and_grids(tmp_path: Path, rng: np.random.Generator) -> None:
    grid = rng.random((2, 4, 3, 3))
    np.savez(tmp_path / "a.npz", grid=grid)
    made = load(f"features:{tmp_path}").features_of("a")
    assert made.cls is None
    assert np.allclose(made.patch_mean, grid.mean(axis=(2, 3)))
    assert made.grid.shape == (2, 4, 3, 3)


@pytest.mark.parametrize("shape", [(7, 6), (1, 7, 6)])
def test_the_slide_layout_of_trident_and_clam_is_read(
    shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    with h5py.File(tmp_path / "slide_1.h5", "w") as file:
        file["features"], file["coords"] = rng.random(shape), np.zeros((7, 2), int)
    assert load(f"features:{tmp_path}").features_of("slide_1").cls.shape == (7, 6)


def test_one_table_of_ids_and_features_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    table = rng.random((3, 4))
    np.savez(tmp_path / "features.npz", ids=np.array(["a", "b", "c"]), features=table)
    stored = load(f"features:{tmp_path}")
    assert np.allclose(stored.features_of("b").cls, table[1:2])
    with pytest.raises(CaseError, match="no features for case 'd' among the 3 of"):
        stored.features_of("d")


def test_the_digest_follows_the_contents_and_not_the_place(tmp_path: Path) -> None:
    for folder in ("x", "y", "z"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.full(3, 2.0 if folder == "z" else 1.0))
    x, y, z = (load(f"features:{tmp_path / folder}").weights_sha256 for folder in "xyz")
    assert x == y != z


def test_a_case_without_features_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    stored = load(f"features:{tmp_path}")
    with pytest.raises(CaseError, match=r"no features for case 'b'; expected b\.npy"):
        stored.features_of("b")


def test_an_id_never_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.ones(3))
    np.save(tmp_path / "secret.npy", np.ones(3))
    with pytest.raises(CaseError, match="no features"):
        load(f"features:{tmp_path / 'in'}").features_of("../secret")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("nan", np.array([1.0, np.nan]), "finite"),
        ("deep", np.ones((2, 2, 2)), "expected cls of shape"),
        ("none", np.ones((0, 3)), "expected cls of shape"),
    ],
)
def test_features_that_cannot_be_used_are_named(name: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(CaseError, match=message):
        load(f"features:{tmp_path}").features_of(name)


def test_a_damaged_file_and_a_pickled_one_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n")
    stored = load(f"features:{tmp_path}")
    for name in ("objects", "cut"):
        with pytest.raises(CaseError, match="no readable features"):
            stored.features_of(name)


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="found none"):
        load(f"features:{tmp_path}")
    with pytest.raises(MissingError, match="expected a folder"):
        load(f"features:{tmp_path / 'nowhere'}")


def test_stored_features_cannot_encode_or_be_checked_or_combined(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    stored = load(f"features:{tmp_path}")
    with pytest.raises(RequestError, match="cannot encode pixels"):
        stored(np.zeros((1, 3, 8, 8)))
    with pytest.raises(RequestError, match="nothing to check"):
        check_encoder(stored)
    with pytest.raises(RequestError, match="cannot stand beside"):
        load(f"pixels+features:{tmp_path}")


def test_every_byte_enters_the_digest(tmp_path: Path) -> None:
    array = np.zeros((400, 128), np.float32)
    np.save(tmp_path / "a.npy", array)
    before = load(f"features:{tmp_path}").weights_sha256
    array[200] = 1
    np.save(tmp_path / "a.npy", array)
    assert load(f"features:{tmp_path}").weights_sha256 != before


def test_doubles_complex_numbers_and_other_lengths_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "features.npz", ids=["a", "a"], features=rng.random((2, 3)))
    with pytest.raises(MissingError, match="every id once"):
        load(f"features:{tmp_path}")
    (tmp_path / "features.npz").unlink()
    np.save(tmp_path / "a.npy", rng.random(3) + 1j)
    with pytest.raises(MissingError, match="expected real numbers"):
        load(f"features:{tmp_path}")
    np.save(tmp_path / "a.npy", rng.random(3))
    np.save(tmp_path / "b.npy", rng.random(4))
    stored = load(f"features:{tmp_path}")
    assert (stored.covers("b"), stored.covers("c")) == (True, False)
    with pytest.raises(CaseError, match="vectors of 3 numbers"):
        stored.features_of("b")
