"""npy, npz, HDF5 and NIfTI: which axis is what, names inside containers, ranges that do not depend on the part read."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from medprobe.encoders import features_dir
from medprobe.errors import CaseError
from medprobe.imaging import arrays, displacements, formats, labels
from medprobe.types import Source

WRITERS: dict[str, Callable[[Path, np.ndarray], Source]] = {}


def writer(function: Callable[[Path, np.ndarray], Source]) -> Callable[[Path, np.ndarray], Source]:
    WRITERS[function.__name__] = function
    return function


@writer
def npy(folder: Path, array: np.ndarray) -> Source:
    np.save(folder / "a.npy", array)
    return Source(folder / "a.npy")


@writer
def npz(folder: Path, array: np.ndarray) -> Source:
    np.savez_compressed(folder / "a.npz", other=np.zeros(3), image=array)
    return Source(folder / "a.npz", "image")


@writer
def h5(folder: Path, array: np.ndarray) -> Source:
    with h5py.File(folder / "a.h5", "w") as file:
        file["volumes/raw"] = array
        file["other"] = np.zeros(3)
    return Source(folder / "a.h5", "/volumes/raw")


@pytest.fixture(params=sorted(WRITERS))
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[np.ndarray], Source]:
    return lambda array: WRITERS[request.param](tmp_path, array)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 6), (1, 1, 5, 6)), ((4, 5, 6), (1, 4, 5, 6)), ((2, 4, 5, 6), (2, 4, 5, 6)), ((5, 6, 3), (3, 1, 5, 6)), ((4, 5, 6, 3), (3, 4, 5, 6))],
)
def test_axes_follow_the_stated_rule(write, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = write(array)
    raw = formats.read(source)
    assert raw.pixels.shape == expected
    assert raw.full_range == (0, 255)
    assert formats.count_planes(source) == expected[1]
    assert formats.is_grey(source) == (expected[0] == 1)
    colour = shape[-1] == 3
    assert np.array_equal(np.moveaxis(raw.pixels, 0, -1).squeeze() if colour else raw.pixels.reshape(shape), array)


def test_a_last_axis_of_three_is_colour_for_eight_bit_only(write) -> None:
    assert formats.read(write(np.zeros((4, 5, 3), np.uint16))).pixels.shape == (1, 4, 5, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float64, np.bool_, ">u2", ">f4"])
def test_any_part_equals_the_whole_with_the_same_range(write, dtype) -> None:
    array = (np.random.default_rng(0).integers(0, 2 if dtype == np.bool_ else 200, (9, 4, 5))).astype(dtype)
    array[0, 0, 0] = 1
    source = write(array)
    whole = formats.read(source)
    assert whole.pixels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(whole.pixels[0], array)
    for start, stop in ((0, 2), (3, 7), (8, None)):
        part = formats.read(source, start, stop)
        assert np.array_equal(part.pixels[0], array[start:stop])
        assert part.full_range == whole.full_range
    picked = formats.read(Source(source.path, source.member, (7, 2, 2, 5)), 1)
    assert np.array_equal(picked.pixels[0], array[[2, 2, 5]])


def test_ranges_are_of_the_type_or_of_the_values(write) -> None:
    ranges = {
        "uint16": (np.uint16([[3, 9]]), (0, 65535)), "unit": (np.float32([[0.2, 0.7]]), (0, 1)), "float": (np.float32([[-3, 0.5]]), (-3, 0.5)),
        "int16": (np.int16([[-1000, 400]]), (-1000, 400)), "bool": (np.array([[True, False]]), (0, 1)),
    }  # fmt: skip
    for array, expected in ranges.values():
        source = write(array)
        formats.read(source)
        assert formats.read(source).full_range == expected


def test_a_rewritten_file_is_read_again(write) -> None:
    import os

    source = write(np.float32([[0, 5]]))
    assert formats.read(source).full_range == (0, 5)
    write(np.float32([[0, 9]]))
    os.utime(source.path, ns=(1, 1))
    assert formats.read(source).full_range == (0, 9)


@pytest.mark.parametrize("array", [np.zeros(4, np.uint8), np.zeros((2, 2, 2, 2, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((0, 4, 4), np.uint8), np.zeros((2, 2), np.complex64)])
def test_arrays_that_are_no_images_are_refused(write, refused, array: np.ndarray) -> None:
    source = write(array)
    refused(source.path, member=source.member)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(write, refused, value: float) -> None:
    array = np.ones((3, 4, 4), np.float32)
    array[2, 1, 1] = value
    source = write(array)
    assert "NaN or infinite" in refused(source.path, member=source.member)


class _Trap:
    """Whoever unpickles this leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_pickled_objects_are_never_loaded(tmp_path: Path, refused) -> None:
    pickled = np.array([[_Trap(tmp_path / "mark")]], object)
    np.save(tmp_path / "a.npy", pickled, allow_pickle=True)
    refused(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", image=pickled)
    refused(tmp_path / "a.npz", member="image")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_a_missing_name_lists_those_there_are(tmp_path: Path, refused, name: str) -> None:
    WRITERS[name[2:]](tmp_path, np.zeros((4, 4), np.uint8))
    assert "image" in (sentence := refused(tmp_path / name, member="imaeg")) or "volumes/raw" in sentence
    assert f"write {name}:/NAME" in refused(tmp_path / name)
    with pytest.raises(CaseError, match="imaeg"):
        formats.count_planes(Source(tmp_path / name, "imaeg"))


def test_the_only_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((4, 5), np.uint8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/down"] = np.zeros((4, 5), np.uint8)
    assert formats.read(Source(tmp_path / "a.npz")).pixels.shape == formats.read(Source(tmp_path / "a.h5")).pixels.shape


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.9])
def test_containers_cut_short_are_refused(write, refused, kept: float) -> None:
    source = write(np.random.default_rng(0).integers(0, 256, (9, 40, 50), dtype=np.uint8))
    data = source.path.read_bytes()
    source.path.write_bytes(data[: int(len(data) * kept)])
    refused(source.path, member=source.member)


def test_real_microscopy_slices_are_read_in_pieces(samples: Path) -> None:
    path = samples / "em_fib_medulla" / "fib25_sample2_z000-149.h5"
    with h5py.File(path) as file:
        expected = file["raw"][40:43]
    source = Source(path, "raw")
    assert formats.count_planes(source) == 150
    assert np.array_equal(formats.read(source, 40, 43).pixels[0], expected)


# ------------------------------------------------------------------------------------------- NIfTI


def test_nifti_axes_are_turned_to_canonical_and_the_affine_agrees(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    affine = np.array([[0, 0, -3.0, 10], [1.5, 0, 0, -20], [0, 2.0, 0, 30], [0, 0, 0, 1]])  # stored as (anterior, superior, left)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    source = Source(tmp_path / "a.nii.gz")
    raw = formats.read(source)
    assert raw.pixels.shape == (1, 5, 4, 6)
    assert formats.count_planes(source) == 5
    assert raw.spacing == (2, 1.5, 3)
    stored = (3, 1, 2)
    world = affine @ [*stored, 1]
    x, y, z = np.rint(np.linalg.solve(raw.affine, world)[:3]).astype(int)
    assert raw.pixels[0, z, y, x] == array[stored]
    assert np.array_equal(formats.read(source, 1, 3).pixels, raw.pixels[:, 1:3])
    assert np.array_equal(formats.read(Source(source.path, frames=(4, 0))).pixels, raw.pixels[:, [4, 0]])


def test_nifti_header_scaling_is_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    image.to_filename(tmp_path / "a.nii")
    raw = formats.read(Source(tmp_path / "a.nii"))
    stored = np.asanyarray(nibabel.load(tmp_path / "a.nii").dataobj)
    assert raw.full_range == (stored.min(), stored.max())
    assert np.array_equal(raw.pixels[0], stored.T)


def test_a_nifti_of_four_axes_or_cut_short_is_refused(tmp_path: Path, refused) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.uint8), np.eye(4)), tmp_path / "a.nii")
    assert "three axes" in refused(tmp_path / "a.nii")
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 20), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "b.nii.gz")
    data = (tmp_path / "b.nii.gz").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "b.nii.gz")


def test_a_real_ct_keeps_its_hounsfield_units(samples: Path) -> None:
    source = Source(samples / "ct_multiorgan" / "ct.nii.gz")
    raw = formats.read(source)
    assert raw.pixels.shape[1] == formats.count_planes(source) == 30
    assert raw.pixels.dtype == np.int16
    assert raw.pixels.min() < -900


# ------------------------------------------------------------------------------------- locks


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """HDF5 files lie on a disk that offers no locks; how each was opened."""
    asked: list[object] = []

    class File(h5py.File):
        def __init__(self, name, mode="r", *given, **more) -> None:
            asked.append(more.get("locking"))
            if isinstance(name, Path) and more.get("locking") is not False:
                raise OSError(errno.ENOLCK, "unable to lock file")
            super().__init__(name, mode, *given, **more)

    monkeypatch.setattr(h5py, "File", File)
    return asked


def test_hdf5_on_a_disk_without_locks_is_read(tmp_path: Path, without_locks: list[object]) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    arrays.save(tmp_path / "a.h5", "labels", pixels)
    source = Source(tmp_path / "a.h5")
    assert (formats.read(source).pixels == pixels).all()
    assert formats.count_planes(source) == 1
    assert arrays.named(source, "labels").member == "labels"
    names = [f"class {number}" for number in range(30)]
    assert (labels.read_labels((source,), dims=2, classes=names).labels == pixels).all()
    assert False in without_locks


def test_features_and_displacements_on_a_disk_without_locks_are_read(
    tmp_path: Path, without_locks: list[object]
) -> None:
    arrays.save(tmp_path / "case.h5", "features", np.ones((2, 3), np.float32))
    arrays.save(tmp_path / "pair.disp.h5", "displacement", np.ones((2, 4, 5), np.float32))
    assert features_dir.read_case(tmp_path / "case.h5")["cls"].shape == (2, 3)
    pair = Source(tmp_path / "pair.disp.h5")
    assert displacements.read_displacement(pair, dims=2).shape == (2, 4, 5)


def test_hdf5_that_is_open_in_the_same_process_is_read(tmp_path: Path) -> None:
    arrays.save(tmp_path / "a.h5", "x", np.zeros((5, 6), np.uint8))
    with h5py.File(tmp_path / "a.h5", "r"):
        assert formats.count_planes(Source(tmp_path / "a.h5")) == 1


def test_hdf5_that_another_process_writes_is_not_called_damaged(tmp_path: Path) -> None:
    program = f"""
import h5py, sys
with h5py.File({str(tmp_path / "a.h5")!r}, "w") as file:
    file["x"] = 1
    print("open", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writing:
        assert writing.stdout is not None
        writing.stdout.readline()
        with pytest.raises(CaseError, match="another process is writing; wait"):
            formats.read(Source(tmp_path / "a.h5"))
        writing.communicate("")


def test_hdf5_that_is_damaged_is_still_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"no HDF5 at all" * 100)
    with pytest.raises(CaseError, match=r"a\.h5"):
        formats.read(Source(tmp_path / "a.h5"))
