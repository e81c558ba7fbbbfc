"""What is said of files that cannot be read: damaged only where something shows it, else what is the matter."""

from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.files import kind_of
from medprobe.imaging import formats
from medprobe.imaging.raw import said_plainly
from medprobe.types import Source

ARRAY = np.random.default_rng(0).integers(0, 255, (4, 16, 16)).astype(np.uint8)


def said_of(path: Path) -> str:
    with pytest.raises(CaseError) as caught:
        formats.read(Source(path))
    return str(caught.value).removeprefix(str(path))


def nifti(path: Path, **fields: int) -> bytes:
    """Bytes of a NIfTI file; of a header whose fields are set by hand."""
    data = bytearray(nibabel.Nifti1Image(ARRAY.T, np.eye(4)).to_bytes())
    for field, value in fields.items():
        data[int(field[1:]) : int(field[1:]) + 2] = value.to_bytes(2, "little")
    return bytes(data)


def hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=ARRAY, compression="gzip")
    return path


@pytest.mark.parametrize("tag", ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored"])
def test_a_dicom_file_without_a_tag_is_not_called_damaged(
    tag: str, write_dicom: Callable[..., Path]
) -> None:
    import pydicom

    path = write_dicom(ARRAY[0])
    dataset = pydicom.dcmread(path)
    del dataset[tag]
    dataset.save_as(path)
    said = said_of(path)
    assert "damaged" not in said
    assert "fetch" not in said


def test_a_dicom_file_that_ends_early_is_damaged(write_dicom: Callable[..., Path]) -> None:
    path = write_dicom(ARRAY[0])
    path.write_bytes(path.read_bytes()[:-40])
    assert "found a damaged one" in said_of(path)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.nii", nifti(Path(), _70=1), "data code 1 not supported"),
        ("truncated.nii", b"<!DOCTYPE html><p>please log in</p>" * 40, "found a web page"),
        ("a.h5", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        ("a.npz", b"\x93NUMPY\x01\x00" + bytes(40), "begins as an array of NumPy"),
        ("a.png", b"%PDF-1.7" + bytes(40), "found PDF"),
    ],
)
def test_files_of_another_kind_are_named_by_what_they_are(
    name: str, data: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    said = said_of(tmp_path / name)
    assert words in said
    assert "damaged" not in said
    assert "fetch it again" not in said


def test_hdf5_is_damaged_when_cut_or_changed_and_not_when_its_filter_is_missing(tmp_path: Path) -> None:
    data = hdf5(tmp_path / "a.h5").read_bytes()
    for name, changed in (("cut.h5", data[:-900]), ("changed.h5", data[:-300] + bytes(100) + data[-200:])):
        (tmp_path / name).write_bytes(changed)
        assert "found a damaged one" in said_of(tmp_path / name)
    with h5py.File(tmp_path / "filter.h5", "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk(ARRAY.shape)
        layout.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(ARRAY.shape)
        made = h5py.h5d.create(file.id, b"image", h5py.h5t.NATIVE_UINT8, space, layout)
        made.write_direct_chunk((0, 0, 0), ARRAY.tobytes())
    said = said_of(tmp_path / "filter.h5")
    assert "damaged" not in said
    assert "begins as HDF5" in said


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (OSError(11, "Resource temporarily unavailable"), False),
        (OSError(24, "Too many open files"), False),
        (MemoryError("Unable to allocate 3 TiB"), False),
        (NotImplementedError("No decoder for MPEG2"), False),
        (KeyError("Rows"), False),
        (OSError("image file is truncated"), True),
        (EOFError(), True),
        (ValueError("CRC check failed"), True),
    ],
)
def test_only_what_shows_damage_is_called_so(error: Exception, damaged: bool, tmp_path: Path) -> None:
    path = tmp_path / "truncated-checksum.bin"
    path.write_bytes(b"abcd")
    with pytest.raises(CaseError) as caught, said_plainly(path):
        raise error
    assert ("damaged" in str(caught.value)) == damaged


def test_the_first_bytes_of_unknown_kinds_tell_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert kind_of(tmp_path / "a") is None
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf\n<HTML>")
    assert "web page" in (kind_of(tmp_path / "b") or "")
