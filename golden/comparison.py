"""Two folders file by file: which contents differ, and where first.

A file is read as fields (JSON keys, columns, lines, arrays). What tells only when, where, how long
and with which libraries something ran is left out.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Fields = dict[str, Any]

UNSTEADY = frozenset({
    "seconds", "peak_memory_bytes", "written", "libraries", "medprobe", "minutes",
    "minutes_encoding", "minutes_fits", "checksum",
})  # fmt: skip
"""Keys of JSON that are not compared: times, memory, versions; and the checksum that `shard.json`
has of its own text, which may name a path (those of its rows are `checksums`)."""
IGNORED = (r".*\.lock", r"inputs/.*", r".*/digests/.*", r".*/__pycache__/.*")
"""Files that are not compared; digests are named by paths and times."""
PROGRESS = re.compile(r"^.+: \d+/\d+(, .*)?$")
WRITTEN = re.compile(r"^.*last result written .*$")
SPAN = r"\d+(\.\d+)? (s|min|h)\b"
DURATION = re.compile(
    rf"(, |; )?(fits and scores )?(about|after) {SPAN}( \(([^(),]+ {SPAN}(, )?)+\))?"
)


@dataclass(frozen=True)
class Difference:
    """Of one file: the first field that differs, both values, and how many more fields do."""

    file: str
    field: str
    before: str
    after: str
    more: int = 0

    def __str__(self) -> str:
        more = f" (and {self.more} more)" if self.more else ""
        return f"{self.file}\n    {self.field}: {self.before}  ->  {self.after}{more}"


def compare(before: Path, after: Path) -> tuple[int, list[Difference]]:
    """How many files there are, and the differences in the order of their names."""
    files = sorted({*names(before), *names(after)})
    found = (difference(before, after, name) for name in files)
    return len(files), [entry for entry in found if entry is not None]


def names(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not any(re.fullmatch(pattern, name) for pattern in IGNORED):
            yield name


def difference(before: Path, after: Path, name: str) -> Difference | None:
    absent = [not (folder / name).is_file() for folder in (before, after)]
    if any(absent):
        return Difference(name, "file", *("absent" if missing else "there" for missing in absent))
    if (before / name).read_bytes() == (after / name).read_bytes():
        return None
    first, second = (fields_of(folder, name) for folder in (before, after))
    fields = [key for key in {**first, **second} if not same(first.get(key), second.get(key))]
    if not fields:
        return None
    values = described(first.get(fields[0]), second.get(fields[0]))
    return Difference(name, fields[0], *values, more=len(fields) - 1)


# ----------------------------------------------------------------------------------------- readers


def fields_of(folder: Path, name: str) -> Fields:
    """What a file holds; its bytes where it cannot be read as what its name says."""
    file = folder / name
    try:
        return reader_of(name)(file, folder)
    except (OSError, ValueError, KeyError):
        return digest(file, folder)


def reader_of(name: str) -> Callable[[Path, Path], Fields]:
    if name.endswith(".png"):  # pictures are compared as files, predicted masks by their pixels
        return pixels if "/predictions/" in f"/{name}" else digest
    return READERS.get(name.rpartition(".")[2], digest)


def digest(file: Path, folder: Path) -> Fields:
    return {"bytes": hashlib.sha256(file.read_bytes()).hexdigest()}


def text_of(file: Path, folder: Path) -> str:
    """Its text, in which the folder is `.`: both folders then say the same."""
    return file.read_text().replace(str(folder.resolve()), ".")


def document(file: Path, folder: Path) -> Fields:
    return dict(leaves(json.loads(text_of(file, folder)), ""))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that is neither a mapping nor a list."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in UNSTEADY:
                yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path or "value", value


def output(file: Path, folder: Path) -> Fields:
    """stdout: a document where it is one, lines otherwise."""
    try:
        return document(file, folder)
    except ValueError:
        return lines(file, folder)


def lines(file: Path, folder: Path) -> Fields:
    """Lines without progress and durations."""
    texts = (line for line in text_of(file, folder).splitlines() if not PROGRESS.match(line))
    steady = (WRITTEN.sub("", DURATION.sub("", line)) for line in texts)
    return {f"line {number}": line for number, line in enumerate(steady, 1)}


def table(file: Path, folder: Path) -> Fields:
    import pandas as pd

    frame = pd.read_parquet(file)
    columns = {f"column {name}": frame[name].to_numpy() for name in frame.columns}
    return {"columns": list(frame.columns), **columns}


def volume(file: Path, folder: Path) -> Fields:
    import nibabel

    image = nibabel.load(file)
    return {"affine": image.affine, "voxels": np.asarray(image.dataobj)}


def pixels(file: Path, folder: Path) -> Fields:
    from PIL import Image

    with Image.open(file) as picture:
        return {"mode": picture.mode, "pixels": np.asarray(picture)}


def datasets(file: Path, folder: Path) -> Fields:
    import h5py

    with h5py.File(file) as handle:
        arrays: Fields = {}
        handle.visititems(
            lambda name, node: (
                arrays.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
            )
        )
        return arrays


def array(file: Path, folder: Path) -> Fields:
    return {"array": np.load(file)}


READERS: dict[str, Callable[[Path, Path], Fields]] = {
    "json": document, "stdout": output, "stderr": lines, "status": lines, "html": lines,
    "csv": lines, "md": lines, "tex": lines, "svg": lines, "toml": lines, "parquet": table,
    "gz": volume, "nii": volume, "h5": datasets, "npy": array,
}  # fmt: skip


# ---------------------------------------------------------------------------------------- equality


def same(before: Any, after: Any) -> bool:
    """Equal in type and value; NaN equals NaN."""
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            return False
        return not unequal(before, after).any()
    return type(before) is type(after) and before == after


def unequal(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    nan = (before != before) & (after != after)
    return np.asarray((before != after) & ~nan)


def described(before: Any, after: Any) -> tuple[str, str]:
    """Both values in few words; of arrays of one shape the first values that differ."""
    arrays = isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    if arrays and (before.shape, before.dtype) == (after.shape, after.dtype):
        apart = np.argwhere(unequal(before, after))
        index = tuple(map(int, apart[0]))
        where = f"{before[index]} at {index}"
        return where, f"{after[index]}, {len(apart)} of {before.size} values differ"
    return short(before), short(after)


def short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.shape} of {value.dtype}"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
