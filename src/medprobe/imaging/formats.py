"""Files to arrays: every format gives planes in their own number type, with the range their values may take.

    .png .jpg .jpeg .bmp .webp   one plane, grey or RGB                                              (pictures.py)
    .tif .tiff                   pages are planes                                                    (tiff.py)
    .dcm .dicom, no suffix       after the modality transform; frames are planes                     (dicom.py, extra dicom)
    .mp4 .avi .mov .mkv .webm    RGB frames by decoded index                                         (video.py, extra video)
    .nii .nii.gz                 canonical axes, axial slices are planes                             (nifti.py)
    .npy .npz:/name .h5:/name    (H, W), (D, H, W), (C, D, H, W); uint8 with a last axis of 3 is RGB (arrays.py)
    a folder                     its pictures in natural order are planes                            (folder.py)

Each of these modules has three functions: `count` and `channels` from headers, and `read`.
"""

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from medprobe.errors import CaseError
from medprobe.imaging.folder import pictures_in
from medprobe.imaging.raw import Raw, check_finite, said_plainly
from medprobe.types import Source

__all__ = ["Raw", "count_planes", "identify", "is_grey", "pictures_in", "read"]

SUFFIXES = {
    "pictures": (".png", ".jpg", ".jpeg", ".bmp", ".webp"), "tiff": (".tif", ".tiff"), "dicom": (".dcm", ".dicom"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm"), "nifti": (".nii", ".nii.gz"),
    "arrays": (".npy", ".npz", ".h5", ".hdf5", ".hdf"),
}  # fmt: skip
"""Module of this package → the suffixes it reads."""


class Reader(Protocol):
    """What a module of a format offers; all of it may raise anything on a damaged file."""

    def count(self, source: Source) -> int:
        """Planes in the file, from its header."""
        ...

    def channels(self, source: Source) -> int:
        """1 or 3, any number in arrays, from the header."""
        ...

    def read(self, source: Source, start: int, stop: int | None) -> Raw:
        """Planes start…stop of the source, after its `frames`."""
        ...


def identify(path: Path) -> str:
    """The format, which is the name of the module that reads it: by suffix, in any case. CaseError lists those there are."""
    name = path.name.lower()
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    if path.is_dir():
        return "folder"
    if "." not in name or re.fullmatch(r"[\d.]+", name):  # DICOM files are often named by their instance alone
        return "dicom"
    known = " ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    raise CaseError(f"{path}: expected one of {known}, found {path.suffix}; convert the file")


def read(source: Source, start: int = 0, stop: int | None = None) -> Raw:
    """Planes start…stop of a source (after its `frames`), C x D x H x W in the file's number type and byte order of this machine.

    CaseError, naming the file, for anything that cannot be used; a range without planes is one.
    """
    with said_plainly(source.path):
        raw = _reader(source.path).read(source, start, stop)
        if not raw.pixels.shape[1]:
            raise CaseError(f"{source.path}: expected planes {start} to {'the last' if stop is None else stop}, found none; the file may be partial")
        check_finite(raw.pixels, source.path)
        return replace(raw, pixels=raw.pixels.astype(raw.pixels.dtype.newbyteorder("="), copy=False))


def count_planes(source: Source) -> int:
    """How many planes `read` would give, from headers only."""
    if source.frames is not None:
        return len(source.frames)
    with said_plainly(source.path):
        return _reader(source.path).count(source)


def is_grey(source: Source) -> bool:
    """Whether a source has one channel, from headers; a file that cannot be read counts as grey and is met when it is decoded."""
    try:
        with said_plainly(source.path):
            return _reader(source.path).channels(source) == 1
    except CaseError:
        return True


def _reader(path: Path) -> Reader:
    return cast(Reader, importlib.import_module(f"medprobe.imaging.{identify(path)}"))
