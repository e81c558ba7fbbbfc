"""DICOM files as they are found: without preamble, file meta or transfer syntax, float,
deflated, big endian; what is no image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, recipes
from medprobe.types import Source

pydicom = pytest.importorskip("pydicom")

PIXELS = np.random.default_rng(0).integers(0, 4096, (8, 6)).astype(np.uint16)
SYNTAXES = (
    "ImplicitVRLittleEndian",
    "ExplicitVRLittleEndian",
    "ExplicitVRBigEndian",
    "DeflatedExplicitVRLittleEndian",
)


def read(path: Path) -> Any:
    return formats.read(Source(path))


def rewritten(
    path: Path, syntax: str, *, meta: bool = True, preamble: bool = True, stated: bool = True
) -> Path:
    """A file in another transfer syntax, without parts that it should have."""
    dataset = pydicom.dcmread(path)
    uid = getattr(pydicom.uid, syntax)
    dataset.file_meta.TransferSyntaxUID = uid
    if uid == pydicom.uid.ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.filewriter.dcmwrite(
        path,
        dataset,
        implicit_vr=uid.is_implicit_VR,
        little_endian=uid.is_little_endian,
        force_encoding=True,
    )
    data = path.read_bytes()
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    if not stated:
        tag = data.index(b"\x02\x00\x10\x00UI", 0, start)
        length = 8 + int.from_bytes(data[tag + 6 : tag + 8], "little")
        group = int.from_bytes(data[140:144], "little") - length
        data = data[:140] + group.to_bytes(4, "little") + data[144:tag] + data[tag + length :]
        start -= length
    path.write_bytes(data[start:] if not meta else data if preamble else data[132:])
    return path


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_plain_transfer_syntax_is_read(write_dicom, syntax: str) -> None:
    path = rewritten(write_dicom(PIXELS, RescaleIntercept="-24"), syntax)
    assert np.array_equal(read(path).pixels[0, 0], PIXELS - 24.0)
    assert formats.count_planes(Source(path)) == 1


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
@pytest.mark.parametrize(
    "lacking",
    [{"stated": False}, {"meta": False}, {"preamble": False}, {"preamble": False, "stated": False}],
    ids=str,
)
def test_what_a_file_lacks_is_told_from_its_data(
    write_dicom, tmp_path: Path, syntax: str, lacking: dict
) -> None:
    path = rewritten(write_dicom(PIXELS, RescaleIntercept="-24"), syntax, **lacking)
    assert np.array_equal(read(path).pixels[0, 0], PIXELS - 24.0)
    assert formats.is_grey(Source(path))
    bare = path.rename(tmp_path / "IM0001")
    assert formats.identify(bare) == "dicom"
    assert np.array_equal(read(bare).pixels[0, 0], PIXELS - 24.0)


def test_a_table_in_an_implicit_file_acts(write_dicom) -> None:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 16], [4095 - value for value in range(4096)]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    path = rewritten(
        write_dicom(PIXELS, bits=12, ModalityLUTSequence=[item]),
        "ImplicitVRLittleEndian",
        stated=False,
    )
    assert np.array_equal(read(path).pixels[0, 0], 4095 - PIXELS)


def test_compressed_pixels_without_a_transfer_syntax_are_refused(write_dicom, refused) -> None:
    path = write_dicom(PIXELS, compress="RLELossless")
    dataset = pydicom.dcmread(path)
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    assert "expected a transfer syntax with compressed pixels, found none" in refused(path)


@pytest.mark.parametrize(
    ("keyword", "kind"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)]
)
@pytest.mark.parametrize("count", [1, 3])
def test_float_pixels_are_read(write_dicom, keyword: str, kind: type, count: int) -> None:
    values = np.random.default_rng(1).normal(size=(count, 8, 6)).astype(kind)
    path = write_dicom(np.zeros((count, 8, 6), np.uint16))
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated, dataset.NumberOfFrames = values.itemsize * 8, count
    setattr(dataset, keyword, values.tobytes())
    dataset.save_as(path)
    raw = read(path)
    assert np.array_equal(raw.pixels[0], values)
    assert raw.full_range == (values.min(), values.max())
    assert formats.read(Source(path), 0, 1).full_range == raw.full_range
    assert recipes.image((Source(path),), "full-range").pixels.max() == 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "RTStructureSetStorage",
            "RT Structure Set Storage, which holds no pixel data; draw its contours into a mask",
        ),
        (
            "BasicTextSRStorage",
            "Basic Text SR Storage, which holds no pixel data; name the image itself",
        ),
        ("EncapsulatedPDFStorage", "Encapsulated PDF Storage, which holds no pixel data"),
        (
            "MediaStorageDirectoryStorage",
            "Media Storage Directory Storage, which holds no pixel data; name the folder or the "
            "files that it lists",
        ),
        (
            "GrayscaleSoftcopyPresentationStateStorage",
            "Presentation State Storage, which holds no pixel data",
        ),
        ("CTImageStorage", "no rows in CT Image Storage; give the image it describes"),
    ],
)
def test_what_is_no_image_is_refused_by_what_it_is(
    write_dicom, refused, kind: str, said: str
) -> None:
    path = write_dicom(PIXELS)
    dataset = pydicom.dcmread(path)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(dataset, name)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = getattr(pydicom.uid, kind)
    dataset.save_as(path)
    assert said in refused(path)
    with pytest.raises(CaseError) as caught:
        formats.count_planes(Source(path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"not DICOM" * 50, b"\x00" * 500, b"\x08\x00\x05\x00" + b"\xff" * 300]
)
def test_bytes_that_are_no_dicom_are_refused(tmp_path: Path, refused, data: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(data)
    refused(tmp_path / "a.dcm")
