"""NIfTI files as they lie on disk: one of a name, unpacked whole whatever wrote them, uncopied."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, nifti
from medprobe.imaging.labels import read_labels
from medprobe.types import Source


@pytest.fixture
def packed(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, bytes]:
    """(path of a .nii.gz, what is stored, the file unpacked)."""
    stored = rng.integers(-300, 300, (7, 6, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz", stored, gzip.decompress((tmp_path / "a.nii.gz").read_bytes())


@pytest.mark.trap("performance: a .nii beside a .nii.gz of the same stem is an error, SimpleITK may read the wrong one")
def test_a_plain_and_a_packed_file_of_one_name_are_refused_whichever_is_asked_for(packed: tuple[Path, np.ndarray, bytes], tmp_path: Path, refused: Callable[..., str]) -> None:
    path, _, data = packed
    (tmp_path / "a.nii").write_bytes(data)
    for one in (path, tmp_path / "a.nii"):
        assert "found a.nii beside a.nii.gz, of which programs read one or the other; remove a.nii, or rename it" in refused(one)
        for ask in (lambda one=one: formats.count_planes(Source(one)), lambda one=one: formats.grid(Source(one)), lambda one=one: read_labels((Source(one),), dims=3)):
            with pytest.raises(CaseError, match=r"found a\.nii beside a\.nii\.gz"):
                ask()
    (tmp_path / "a.nii").rename(tmp_path / "b.nii")
    formats.read(Source(path))
    formats.read(Source(tmp_path / "b.nii"))


def parts(data: bytes, size: int) -> bytes:
    return b"".join(gzip.compress(data[start : start + size]) for start in range(0, len(data), size))


@pytest.mark.parametrize("python", [False, True], ids=["isal", "zlib"])
def test_files_of_several_gzip_parts_are_read_whole(packed: tuple[Path, np.ndarray, bytes], python: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stored, data = packed
    if python:
        for name in ("isal", "isal.isal_zlib", "isal.igzip"):
            monkeypatch.setitem(sys.modules, name, None)
    halves = parts(data, len(data) // 2)
    for written in (gzip.compress(data), parts(data, 400), halves, parts(data, 352), parts(data, 400) + gzip.compress(b""), gzip.compress(data) + bytes(64)):
        path.write_bytes(written)
        nifti._volumes.cache_clear()
        assert np.array_equal(formats.read(Source(path)).pixels[0], stored.T)


@pytest.mark.parametrize("kept", [0, 5, 0.2, 0.6, 0.95, -1])
def test_a_packed_file_cut_short_is_damaged(packed: tuple[Path, np.ndarray, bytes], kept: float, refused: Callable[..., str]) -> None:
    path, _, data = packed
    for written in (gzip.compress(data), parts(data, 400)):
        path.write_bytes(written[: int(kept * len(written)) if 0 < kept < 1 else kept])
        refused(path)


@pytest.mark.parametrize("place", [0.3, 0.7, 1])
def test_the_checksum_is_compared(packed: tuple[Path, np.ndarray, bytes], place: float, refused: Callable[..., str]) -> None:
    path, _, data = packed
    plain = bytearray(gzip.compress(data, 0))
    plain[int(place * (len(plain) - 9))] ^= 1  # stored bytes, or the checksum itself
    path.write_bytes(bytes(plain))
    assert "damaged" in refused(path)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(packed: tuple[Path, np.ndarray, bytes], tmp_path: Path, refused: Callable[..., str]) -> None:
    _, _, data = packed
    for name, written in (("a.nii.gz", gzip.compress(data[:-2])), ("b.nii", data[:-2])):
        (tmp_path / name).write_bytes(written)
        refused(tmp_path / name)


def test_the_bytes_that_were_unpacked_are_not_copied_and_masks_can_be_written_to(packed: tuple[Path, np.ndarray, bytes]) -> None:
    path, _, _ = packed
    array = nifti.volume(path).array
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array.base, bytes)
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4)), path)
    for classes in (None, ("a", "b")):
        assert read_labels((Source(path),), dims=3, classes=classes).labels.flags.writeable


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i4", "f4", "f8"])
def test_every_number_type_and_byte_order_is_read_as_nibabel_reads_it(kind: type, dtype: str, tmp_path: Path, rng: np.random.Generator) -> None:
    stored = rng.integers(0, 200, (4, 3, 2)).astype(dtype)
    nibabel.save(kind(stored, np.diag([-1, 1, 2, 1]), dtype=np.dtype(dtype)), tmp_path / "a.nii.gz")
    file = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz"))
    raw = formats.read(Source(tmp_path / "a.nii.gz"))
    assert np.array_equal(raw.pixels[0], np.asanyarray(file.dataobj).T)
    assert raw.pixels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(raw.affine, file.affine)


@pytest.mark.parametrize(
    ("slope", "intercept", "values"),
    [
        (0, -1024, (0, 23)), (np.nan, 5, (0, 23)), (np.inf, 1, (0, 23)), (1, -1024, (-1024, -1001)),
        (2, 0, (0, 46)), (-1, 0, (-23, 0)),
    ],
)  # fmt: skip
def test_header_scaling_follows_the_standard(
    tmp_path: Path, slope: float, intercept: float, values: tuple[int, int]
) -> None:
    data = bytearray(
        nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)).to_bytes()
    )
    data[112:120] = np.array([slope, intercept], np.float32).tobytes()
    for name, packed in (("a.nii", bytes(data)), ("b.nii.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(packed)
        pixels = formats.read(Source(tmp_path / name)).pixels
        assert (pixels.min(), pixels.max()) == values
