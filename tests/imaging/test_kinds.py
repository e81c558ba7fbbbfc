"""Files whose name and bytes disagree: read as what they are, everywhere alike, or refused
naming both."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medprobe.errors import CaseError
from medprobe.imaging import formats, kinds
from medprobe.imaging.labels import read_labels
from medprobe.types import Source

PLANE = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) // 12
CLASSES = tuple("abcd")


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PLANE).save(buffer, kind)
    return buffer.getvalue()


def tiff(planes: np.ndarray = PLANE, **how: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, planes, photometric="minisblack", **how)
    return buffer.getvalue()


def volume(kind: type = nibabel.Nifti1Image) -> bytes:
    """Of one axial slice that shows PLANE, turned as volumes are."""
    return kind(PLANE.T[..., None], np.eye(4)).to_bytes()


def array(**how: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    if how:
        np.savez(buffer, **how)
    else:
        np.save(buffer, PLANE)
    return buffer.getvalue()


def hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["labels"] = PLANE
    return buffer.getvalue()


def dicom(write_dicom: Callable[..., Path]) -> bytes:
    return write_dicom(PLANE, "dicom.dcm").read_bytes()


LOSSLESS = {
    "a.jpg": picture("PNG"), "a.tif": picture("PNG"), "a.dcm": picture("PNG"), "a": picture("BMP"), "a.nii.gz": picture("BMP"),
    "a.png": tiff(), "a.bmp": tiff(bigtiff=True), "a.nii": tiff(), "A1": tiff(),
    "b.dcm": volume(), "b.nii.gz": volume(), "b.nii": gzip.compress(volume()), "b.img": volume(nibabel.Nifti2Image),
    "b.dat.gz": gzip.compress(volume()), "b.png": gzip.compress(volume(nibabel.Nifti2Image)), "b.mha": volume(),
    "c.npy": array(labels=PLANE), "c.npz": array(), "c.h5": array(labels=PLANE), "d.npz": hdf5(), "d.npy": hdf5(),
}  # fmt: skip
"""Name → bytes that keep the numbers of a mask, none of which is what the name says."""


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_misnamed_file_is_read_as_what_it_is_as_image_and_as_mask(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(LOSSLESS[name])
    source = Source(path)
    assert formats.count_planes(source) == 1
    assert formats.is_grey(source)
    assert np.array_equal(formats.read(source).pixels[0, 0], PLANE)
    assert np.array_equal(read_labels((source,), dims=2, classes=CLASSES).labels, PLANE)
    formats.grid(source)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.nii.gz", "a.IMA", "a.img"])
def test_dicom_under_another_name_is_read(
    tmp_path: Path, write_dicom: Callable[..., Path], name: str
) -> None:
    (tmp_path / name).write_bytes(dicom(write_dicom))
    assert np.array_equal(formats.read(Source(tmp_path / name)).pixels[0, 0], PLANE)
    assert formats.count_planes(Source(tmp_path / name)) == 1
    with pytest.raises(CaseError, match="expected a mask as"):
        read_labels((Source(tmp_path / name),), dims=2)


def test_a_file_that_is_dicom_and_tiff_at_once_is_what_its_name_says(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    data = bytearray(dicom(write_dicom))
    data[:4] = b"II*\0"
    for name, kind in (("a.dcm", "dicom"), ("a.tif", "tiff")):
        (tmp_path / name).write_bytes(data)
        assert kinds.identify(tmp_path / name) == kind


def test_a_jpeg_called_png_is_an_image_and_no_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("JPEG"))
    assert formats.read(Source(tmp_path / "a.png")).pixels.shape == (1, 1, 6, 8)
    with pytest.raises(CaseError, match=r"found JPEG in a file called \.png, which can change"):
        read_labels((Source(tmp_path / "a.png"),), dims=2)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jpg", b"<!DOCTYPE html><html><body>Log in</body></html>", "expected a picture by its name, found a web page"),
        ("a.nii.gz", b"\n<html>404</html>", "expected NIfTI by its name, found a web page"),
        ("a.dcm", b"%PDF-1.7 " + b"x" * 300, "expected DICOM by its name, found PDF"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "found a pointer of Git LFS"),
        ("a.tif", hdf5(), "expected TIFF by its name, found HDF5"),
        ("a.mp4", array(x=PLANE), "expected a video by its name, found a ZIP archive"),
        ("a.png", gzip.compress(picture("PNG")), "expected a picture by its name, found a file packed by gzip"),
        ("a.h5", b"NRRD0004\n", "expected arrays by its name, found NRRD"),
        ("a.xyz", b"12345", "expected one of .png"),
        ("a.hdr", b"\0" * 344 + b"ni1\0", "expected one of .png"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_under_its_name_is_refused_naming_both(
    tmp_path: Path, refused: Callable[..., str], name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    source = Source(tmp_path / name)
    assert said in refused(source.path)
    for use in (formats.count_planes, formats.grid, lambda one: read_labels((one,), dims=2)):
        with pytest.raises(CaseError) as caught:
            use(source)
        assert said in str(caught.value)


def test_metaimage_and_nrrd_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for suffix, other in ((".mha", ".nrrd"), (".nrrd", ".mha")):
        sitk.WriteImage(sitk.GetImageFromArray(PLANE[None]), str(tmp_path / f"a{suffix}"), True)
        path = (tmp_path / f"a{suffix}").rename(tmp_path / f"b{other}")
        assert sorted(formats.read(Source(path)).pixels.ravel()) == sorted(PLANE.ravel())
        assert formats.count_planes(Source(path)) == 1


def test_misnamed_frames_of_a_folder(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(picture("PNG"))
    (folder / "1.png").write_bytes(tiff())
    assert np.array_equal(formats.read(Source(folder)).pixels[0], [PLANE, PLANE])
    assert np.array_equal(
        read_labels((Source(folder),), dims=3, classes=CLASSES).labels, [PLANE, PLANE]
    )
    (folder / "2.png").write_bytes(dicom(write_dicom))
    with pytest.raises(CaseError, match="expected a picture as frame, found DICOM"):
        formats.read(Source(folder))


def test_a_file_that_changes_is_looked_at_anew(tmp_path: Path) -> None:
    import os

    path = tmp_path / "a.png"
    path.write_bytes(picture("PNG"))
    assert kinds.identify(path) == "pictures"
    path.write_bytes(tiff())
    os.utime(path, ns=(1, 1))
    assert kinds.identify(path) == "tiff"


def test_dicom_without_a_preamble_is_known_by_the_suffix_of_scanners_too(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    whole = write_dicom(PLANE)
    meta = pytest.importorskip("pydicom").dcmread(whole).file_meta.FileMetaInformationGroupLength
    (tmp_path / "a.IMA").write_bytes(whole.read_bytes()[132 + 12 + meta :])
    pixels = formats.read(Source(tmp_path / "a.IMA")).pixels
    np.testing.assert_array_equal(pixels[0, 0], PLANE)
