"""Files that are whole or absent: atomic writes, JSON with NaN as null, and what a file is by its first bytes."""

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LFS_POINTER = "a pointer of Git LFS (run git lfs pull where it was cloned)"
WEB_PAGE = "a web page, as a login or an error sends one"
FIRST_BYTES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", LFS_POINTER),
    (0, b"<!doctype html", WEB_PAGE),
    (0, b"<html", WEB_PAGE),
    (0, b"<?xml", "XML"),
    (0, b"\x89hdf\r\n\x1a\n", "HDF5"),
    (0, b"\x89png\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"ii*\0", "TIFF"),
    (0, b"ii+\0", "TIFF"),
    (0, b"mm\0+", "TIFF"),
    (8, b"webp", "WebP"),
    (0, b"mm\0*", "TIFF"),
    (0, b"gif8", "GIF"),
    (0, b"bm", "BMP"),
    (0, b"%pdf", "PDF"),
    (0, b"\x93numpy", "an array of NumPy (.npy)"),
    (0, b"nrrd", "NRRD"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"rar!", "a RAR archive"),
    (0, b"bzh", "a file packed by bzip2"),
    (0, b"\xfd7zxz", "a file packed by xz"),
    (0, b"\x28\xb5\x2f\xfd", "a file packed by zstd"),
    (0, b"\x1f\x8b", "a file packed by gzip"),
    (0, b"pk\x03\x04", "a ZIP archive"),
    (128, b"dicm", "DICOM"),
    (257, b"ustar", "a TAR archive"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "the header of NIfTI in two files (.hdr and .img)"),
    (4, b"n+2\0", "NIfTI"),
)
"""Where, which bytes (letters in lower case), and what begins so."""


def kind_of(path: Path) -> str | None:
    """What a file is by its first bytes; None where they do not tell."""
    return next(iter(kinds_of(path)), None)


def kinds_of(path: Path) -> list[str]:
    """All that a file is by its first bytes: some are DICOM and TIFF at once."""
    with path.open("rb") as file:
        head = file.read(512).lower()
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    found = []
    for place, begins, kind in FIRST_BYTES:
        if head.startswith(begins, place) or (begins[:1] == b"<" and text.startswith(begins)):
            found.append(kind)
    return found


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write beside the target, flush to disk, rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            tolerated(os.fsync, file.fileno())
        tolerated(os.chmod, temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def tolerated(call: Callable[..., None], *given: Any) -> None:
    """Call what some disks in a network do not offer, such as permissions, and whose lack loses no byte."""
    try:
        call(*given)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def advice_on(error: OSError) -> str:
    """What a user can do about a disk that does not take a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "change its permissions"
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        return "this disk offers no locks, so take one of this machine"
    return "look at the disk"


def jsonable(value: Any) -> Any:
    """The value with NaN and infinities as None, numpy scalars and paths as plain ones."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def dump_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON (never NaN), in the order given."""
    return json.dumps(jsonable(value), indent=indent, allow_nan=False, ensure_ascii=False) + "\n"


def digest_of(value: Any) -> str:
    """sha256 of the value as canonical JSON: the same facts give the same digest, whatever their order."""
    return hashlib.sha256(canonical(jsonable(value)).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Strict JSON of what JSON knows, one text for the same facts whatever their order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def signed(document: dict[str, Any]) -> str:
    """JSON of a document of what JSON knows, with its own digest in it as `checksum`."""
    text = canonical(document)
    return f'{text[:-1]},"checksum":"{hashlib.sha256(text.encode()).hexdigest()}"}}'


def read_signed(text: str) -> dict[str, Any]:
    """The document of `signed`. ValueError: it is damaged."""
    document = json.loads(text)
    checksum = document.pop("checksum", None) if isinstance(document, dict) else None
    if checksum != hashlib.sha256(canonical(document).encode()).hexdigest():
        raise ValueError("the checksum is not that of the document")
    return document
