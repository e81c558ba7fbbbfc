"""Which module reads a file: what its first bytes say, where they say something, else its suffix.

Names mislead: a JPEG called .png, DICOM without a suffix, NIfTI that was unpacked and kept its
.gz. Such files are read as what they are where a reader needs no name; all others are refused,
naming both.
"""

import re
import zlib
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR

from medprobe.errors import CaseError
from medprobe.files import kinds_of
from medprobe.imaging import series

SUFFIXES = {
    "pictures": (".png", ".jpg", ".jpeg", ".bmp", ".webp"), "tiff": (".tif", ".tiff"),
    "dicom": (".dcm", ".dicom", ".ima"), "video": (".mp4", ".avi", ".mov", ".mkv", ".webm"),
    "nifti": (".nii", ".nii.gz"), "simpleitk": (".mhd", ".mha", ".nrrd", ".nhdr"),
    "arrays": (".npy", ".npz", ".h5", ".hdf5", ".hdf"),
}  # fmt: skip
"""Module of this package → the suffixes it reads."""
BYTES = {
    "PNG": "pictures", "JPEG": "pictures", "BMP": "pictures", "WebP": "pictures", "GIF": "pictures",
    "TIFF": "tiff", "DICOM": "dicom", "NIfTI": "nifti", "NRRD": "simpleitk",
    "HDF5": "arrays", "an array of NumPy (.npy)": "arrays", "a ZIP archive": "arrays",
}  # fmt: skip
"""What a file is by its first bytes → the module that reads it."""
NAMELESS = ("pictures", "tiff", "dicom", "nifti")
"""Modules that read a file under any name."""
NOUNS = {
    "pictures": "a picture", "tiff": "TIFF", "dicom": "DICOM", "video": "a video",
    "nifti": "NIfTI", "simpleitk": "MetaImage or NRRD", "arrays": "arrays",
}  # fmt: skip
PACKED = "a file packed by gzip"
HEAD = 1 << 12
"""Packed bytes that hold the header of NIfTI."""


def identify(path: Path) -> str:
    """The format, which is the name of the module that reads it. CaseError lists those there
    are."""
    try:
        status = path.stat()
    except OSError:  # said where the file is read
        named = _by_name(path)
        if named is None:
            raise _unknown(path) from None
        return named
    if S_ISDIR(status.st_mode):
        return "series" if series.is_series(path, status.st_mtime_ns) else "folder"
    return _by_bytes(path, status.st_mtime_ns, _by_name(path))


def _by_name(path: Path) -> str | None:
    """By suffix, in any case; DICOM files are often named by their instance alone."""
    name = path.name.lower()
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    return "dicom" if "." not in name or re.fullmatch(r"[\d.]+", name) else None


@lru_cache(maxsize=1 << 16)
def _by_bytes(path: Path, changed: int, named: str | None) -> str:
    try:
        found = kinds_of(path)
    except OSError:  # said where the file is read
        found = []
    if PACKED in found and named != "nifti" and _holds_nifti(path):
        found = ["NIfTI"]
    kinds = [BYTES.get(one) for one in found]
    if named is not None and (
        not found or named in kinds or (named, found[0]) == ("nifti", PACKED)
    ):
        return named
    kind = next((one for one in kinds if one in NAMELESS), None)
    if kind is not None:
        return kind
    if named is None:
        raise _unknown(path)
    raise CaseError(
        f"{path}: expected {NOUNS[named]} by its name, found {found[0]}; get the file that is "
        "meant, "
        "or give this one the suffix of what it is"
    )


def _holds_nifti(path: Path) -> bool:
    """Whether a packed file is NIfTI, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(HEAD)
    try:
        head = zlib.decompressobj(31).decompress(packed, 352)
    except zlib.error:
        return False
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _unknown(path: Path) -> CaseError:
    known = " ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    return CaseError(f"{path}: expected one of {known}, found {path.suffix}; convert the file")
