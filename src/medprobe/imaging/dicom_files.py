"""DICOM files to data sets (extra `dicom`), whole or some tags of them.

Read too: files without preamble or file meta, and without a transfer syntax, which is then told
from the data (implicit little endian is DICOM's default). What holds no pixels is refused by what
it is.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medprobe.errors import CaseError, ExtraError

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""Groups with which a data set without preamble begins, in either byte order."""
UNDEFINED = 0xFFFFFFFF
CURES = {
    "Media Storage Directory Storage": "name the folder or the files that it lists",
    "RT Structure Set Storage": "draw its contours into a mask (.nii.gz)",
}
"""What a file without pixels is → what to do; of all others the image is to be named."""


def pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ExtraError("pydicom", "dicom", "reading DICOM files") from error
    return pydicom


def begins_as_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are those of DICOM: after a preamble, or of a data set
    without one."""
    if head[128:132] == b"DICM":
        return True
    return head[:2] in STARTS and (head[4:6].isalpha() or head[6:8] in (b"\0\0", head[4:6]))


def header_of(path: Path, tags: Sequence[str]) -> Any:
    """Some tags of a file, without its pixels."""
    options = {"stop_before_pixels": True, "specific_tags": [*tags, "SOPClassUID"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _read(path, **options)
        list(dataset.iterall())  # values are parsed, and warned of, when they are first looked at
    if "Rows" not in dataset:
        raise CaseError(f"{path}: expected a DICOM image, found {_kind(dataset)}")
    return dataset


def dataset_of(path: Path) -> Any:
    """An image whole; its transfer syntax is known."""
    dataset = _read(path)
    if "Rows" not in dataset or not any(keyword in dataset for keyword in PIXELS):
        raise CaseError(f"{path}: expected a DICOM image, found {_kind(dataset)}")
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _syntax(dataset, path)
    return dataset


def _read(path: Path, **options: Any) -> Any:
    with path.open("rb") as file:
        head = file.read(132)
    if head and not begins_as_dicom(head):
        raise CaseError(
            f"{path}: expected a DICOM file, found neither DICM after 128 bytes nor a data set at "
            "the start; check the file, or fetch it again"
        )
    return pydicom().dcmread(path, force=bool(head), **options)


def _syntax(dataset: Any, path: Path) -> Any:
    """The transfer syntax that the data are in, by how they were read."""
    pixels = next(dataset[keyword] for keyword in PIXELS if keyword in dataset)
    if pixels.is_undefined_length:
        raise CaseError(
            f"{path}: expected a transfer syntax with compressed pixels, found none; write the "
            "file anew (gdcmconv, dcmconv) from where it was stored"
        )
    uids, (implicit, little) = pydicom().uid, dataset.original_encoding
    if implicit:
        return uids.ImplicitVRLittleEndian
    return uids.ExplicitVRLittleEndian if little else uids.ExplicitVRBigEndian


def _kind(dataset: Any) -> str:
    """What a file without pixels is, and what to do about it."""
    uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    name = pydicom().uid.UID(uid).name if uid else "an object of no named kind"
    if "Image Storage" in name or not uid:
        missing = "pixel data" if "Rows" in dataset else "rows"
        cure = "give the image it describes, or compare its size with the source's"
        return f"no {missing} in {name}; {cure}"
    return f"{name}, which holds no pixel data; {CURES.get(name, 'name the image itself')}"
