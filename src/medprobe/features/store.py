"""Features kept on disk: content-keyed, resumable, checked; shared by processes without computing anything twice.

    CACHE/features/<encoding>/encoding.json         the facts behind the key
    CACHE/features/<encoding>/<shard>/shard.json    entries, rows done, a checksum per chunk; and of itself
    CACHE/features/<encoding>/<shard>/<array>.npy   one row per plane
    CACHE/planes/…                                  the same for decoded planes (planes.py)

An *entry* is what is decoded as one: an image, a volume, a slide, a video; its key is the content of its sources. A
*shard* is an ordered list of entries, at most 4,096 planes unless a single entry is larger. Rows are written in chunks
whose borders the shard fixes, so that a resumed run computes the same batches. A chunk counts once its rows are on disk
and shard.json says so; anything else is cut off and computed again.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.features.locks import Busy, Lock
from medprobe.files import (
    digest_of,
    dump_json,
    read_signed,
    signed,
    tolerated,
    write_atomically,
)

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

CHUNK_PLANES = 128
GRID_CHUNK_PLANES = 32
"""Where grids are kept: those of 32 planes of 512 x 512 in four layers of a large model are half a gigabyte."""
SHARD_PLANES = 4096
KINDS = ("features", "planes")
"""Folders of a cache that hold shards."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is decoded as one: its content key and how many planes it has."""

    key: str
    planes: int


def shards_of(entries: Sequence[Entry], alone: bool) -> Iterator[tuple[Entry, ...]]:
    """Entries in order, cut into shards; `alone` gives every entry its own (planes of unequal size)."""
    group: list[Entry] = []
    planes = 0
    for entry in entries:
        if group and (alone or planes + entry.planes > SHARD_PLANES):
            yield tuple(group)
            group, planes = [], 0
        group.append(entry)
        planes += entry.planes
    if group:
        yield tuple(group)


class Shard:
    """A folder of rows. All methods but `rows` and `arrays` are for the process that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = ()
        self.chunk = CHUNK_PLANES
        self.done = 0
        self.arrays: dict[str, dict[str, Any]] = {}
        self.checksums: list[dict[str, int]] = []
        self.frames: dict[str, list] = {}
        self._alike: dict[tuple, list] = {}
        self.unreadable: dict[str, str] = {}

    @classmethod
    def of(cls, parent: Path, entries: tuple[Entry, ...], chunk: int = CHUNK_PLANES) -> "Shard":
        """The shard of these entries, empty; nothing is written yet."""
        shard = cls(parent / digest_of([[entry.key, entry.planes] for entry in entries])[:16])
        shard.entries, shard.chunk = entries, chunk
        return shard

    @classmethod
    def create(cls, parent: Path, entries: tuple[Entry, ...], chunk: int = CHUNK_PLANES) -> "Shard":
        shard = cls.of(parent, entries, chunk)
        shard._save()
        return shard

    @classmethod
    def open(cls, folder: Path) -> "Shard | None":
        """The shard as its JSON says, or None when that is missing or damaged."""
        try:
            document = read_signed((folder / "shard.json").read_text())
        except (OSError, ValueError):
            return None
        shard = cls(folder)
        shard.entries = tuple(Entry(key, planes) for key, planes in document["entries"])
        shard.done, shard.arrays, shard.checksums = document["done"], document["arrays"], document["checksums"]
        shard.chunk = document.get("chunk", CHUNK_PLANES)
        shard._add_frames(document["frames"])
        shard.unreadable = document["unreadable"]
        return shard

    def _save(self) -> None:
        document = {
            "entries": [[entry.key, entry.planes] for entry in self.entries], "chunk": self.chunk, "done": self.done, "arrays": self.arrays,
            "checksums": self.checksums, "frames": self.frames, "unreadable": self.unreadable,
        }  # fmt: skip
        write_atomically(self.folder / "shard.json", signed(document))

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self._entries

    @entries.setter
    def entries(self, entries: tuple[Entry, ...]) -> None:
        self._entries = entries
        self.planes = sum(entry.planes for entry in entries)

    @property
    def complete(self) -> bool:
        return self.done == self.planes

    @property
    def lock(self) -> Path:
        return self.folder.with_name(self.folder.name + ".lock")

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first, last) rows of the chunks still to compute."""
        for start in range(self.done, self.planes, self.chunk):
            yield start, min(start + self.chunk, self.planes)

    def spans(self) -> Iterator[tuple[Entry, int]]:
        """Each entry with its first row."""
        row = 0
        for entry in self.entries:
            yield entry, row
            row += entry.planes

    def _add_frames(self, frames: Mapping[str, list]) -> None:
        """Most entries of a dataset have one frame, which is held once."""
        self.frames.update({key: self._alike.setdefault(tuple(frame), frame) for key, frame in frames.items()})

    def takes(self, rows: Mapping[str, np.ndarray]) -> bool:
        """Whether rows have the shape and type of those before them."""
        return all(self.arrays.get(name, _facts(values)) == _facts(values) for name, values in rows.items())

    def commit(self, start: int, rows: Mapping[str, np.ndarray], frames: Mapping[str, list], unreadable: Mapping[str, str]) -> None:
        """Append one chunk, float32 or uint8: rows to disk, then shard.json. A full disk raises, and the chunk does not count."""
        if start != self.done:
            raise AssertionError("chunks are committed in order")
        if not self.takes(rows):
            name = next(name for name, values in rows.items() if self.arrays.get(name, _facts(values)) != _facts(values))
            raise MedprobeError(f"the encoder gave {name} of shape {_facts(rows[name])['row']} where earlier planes gave {self.arrays[name]['row']}; planes of one dataset must have one size")
        checks = {}
        for name, values in rows.items():
            self.arrays[name] = _facts(values)
            values = np.ascontiguousarray(values, dtype=self.arrays[name]["dtype"])
            self._append(name, start, values)
            checks[name] = crc32(values.tobytes()) & 0xFFFFFFFF
        self.checksums.append(checks)
        self._add_frames(frames)
        self.unreadable.update(unreadable)
        self.done = start + len(next(iter(rows.values())))
        self._save()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _row_bytes(self, name: str) -> int:
        return int(np.prod(self.arrays[name]["row"], dtype=np.int64)) * np.dtype(self.arrays[name]["dtype"]).itemsize

    def _header(self, name: str) -> bytes:
        import io

        buffer = io.BytesIO()
        shape = (self.planes, *self.arrays[name]["row"])
        np.lib.format.write_array_header_1_0(buffer, {"descr": np.dtype(self.arrays[name]["dtype"]).newbyteorder("<").str, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    def _append(self, name: str, start: int, values: np.ndarray) -> None:
        header = self._header(name)
        row_bytes = self._row_bytes(name)
        descriptor = os.open(self.path(name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            offset = len(header) + start * row_bytes
            if start == 0:
                os.pwrite(descriptor, header, 0)
            os.ftruncate(descriptor, offset)
            view = memoryview(values.data).cast("B")
            while len(view):
                written = os.pwrite(descriptor, view[: 1 << 30], offset)
                view, offset = view[written:], offset + written
            tolerated(os.fsync, descriptor)
        finally:
            os.close(descriptor)

    def rows(self) -> dict[str, np.ndarray]:
        """array name → read-only memory map of the rows that are done."""
        return {name: self._map(name) for name in self.arrays}

    def _map(self, name: str) -> np.ndarray:
        facts = self.arrays[name]
        return np.memmap(self.path(name), np.dtype(facts["dtype"]).newbyteorder("<"), "r", len(self._header(name)), (self.done, *facts["row"]))

    def gather(self, name: str, rows: np.ndarray, out: np.ndarray) -> float:
        """Copy rows (n,) of an array into out (n, ...): neighbours are read at once, straight from the file. The sum of
        their squares, made while they are at hand: not finite where one of them is not."""
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
            with open(self.path(name), "rb") as file:
                file.seek(len(self._header(name)) + int(rows[0]) * self._row_bytes(name))
                if file.readinto(out.data.cast("B")) != out.nbytes:
                    raise MedprobeError(f"{self.path(name)}: expected {self.planes} rows, found fewer; run the same command again, which computes them anew")
        else:
            np.take(self._map(name), rows, axis=0, out=out, mode="clip")
        return float(np.vdot(out, out))

    def damaged_from(self) -> int | None:
        """The first row of the first chunk whose bytes are not those that were written, or None when all are."""
        for index, checks in enumerate(self.checksums):
            start = index * self.chunk
            stop = min(start + self.chunk, self.planes)
            for name, expected in checks.items():
                if self._checksum(name, start, stop) != expected:
                    return start
        return None

    def _checksum(self, name: str, start: int, stop: int) -> int | None:
        header = self._header(name)
        row_bytes = self._row_bytes(name)
        try:
            with open(self.path(name), "rb") as file:
                if file.read(len(header)) != header:
                    return None
                file.seek(len(header) + start * row_bytes)
                data = file.read((stop - start) * row_bytes)
        except OSError:
            return None
        return crc32(data) & 0xFFFFFFFF if len(data) == (stop - start) * row_bytes else None

    def cut(self, start: int) -> None:
        """Forget the chunks from this row on, so that they are computed again."""
        first = start // self.chunk
        dropped = {entry.key for entry, row in self.spans() if row + entry.planes > start}
        self.checksums = self.checksums[:first]
        self.done = start
        self.frames = {key: value for key, value in self.frames.items() if key not in dropped}
        self.unreadable = {key: value for key, value in self.unreadable.items() if key not in dropped}
        self._save()

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("*") if file.is_file())


def _facts(values: np.ndarray) -> dict[str, Any]:
    """How an array is kept: the shape of a row, and uint8 or float32."""
    return {"row": list(values.shape[1:]), "dtype": "uint8" if values.dtype == np.uint8 else "float32"}


class Encoding:
    """All shards of one way of encoding: one encoder, one set of weights, one preprocessing, one size, one precision. `kind`: features, or planes."""

    def __init__(self, cache: Path, facts: Mapping[str, Any], kind: str = KINDS[0]) -> None:
        self.cache, self.facts = cache, dict(facts)
        self.key = digest_of(self.facts)[:16]
        self.folder = cache / kind / self.key

    def describe(self) -> None:
        """Write the facts behind the key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "encoding.json", dump_json(self.facts))

    def _shards(self) -> list[Shard]:
        folders = sorted(path.parent for path in self.folder.glob("*/shard.json"))
        return [shard for folder in folders if (shard := Shard.open(folder)) is not None]

    def find(self, keys: Iterable[str], checked: bool = False, complete: bool = False) -> dict[str, tuple[Shard, int]]:
        """key → (shard, first row) of the entries that are computed and readable; `checked`: shards that hold one of them are cut at
        the first damaged chunk; `complete`: in shards without a row to come."""
        wanted = set(keys)
        found: dict[str, tuple[Shard, int]] = {}
        for shard in self._shards():
            if checked and wanted & {entry.key for entry in shard.entries}:
                shard = self._checked(shard)
            if complete and not shard.complete:
                continue
            for entry, row in shard.spans():
                if entry.key in wanted and entry.key not in found and row + entry.planes <= shard.done and entry.key not in shard.unreadable:
                    found[entry.key] = (shard, row)
        return found

    def plan(self, entries: Sequence[Entry], alone: bool, chunk: int = CHUNK_PLANES) -> list[Shard]:
        """The shards to complete so that every entry is computed: begun ones first, then new ones.

        Every shard that holds one of the entries is checked first, and cut at the first damaged chunk.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {entry.key for entry in entries}
        with Lock(self.folder / "plan.lock"):
            self.describe()
            covered: set[str] = set()
            begun: list[Shard] = []
            for shard in self._shards():
                keys = {entry.key for entry in shard.entries}
                if not keys & known:
                    continue
                shard = self._checked(shard)
                if shard.complete:
                    covered |= keys - set(shard.unreadable)
                elif keys <= known:
                    begun.append(shard)
                    covered |= keys
                else:
                    covered |= {entry.key for entry, row in shard.spans() if row + entry.planes <= shard.done} - set(shard.unreadable)
            seen: set[str] = set()
            missing = []
            for entry in entries:
                if entry.key not in covered and entry.key not in seen:
                    missing.append(entry)
                    seen.add(entry.key)
            fresh = []
            for group in shards_of(missing, alone):
                shard = Shard.create(self.folder, group, chunk)
                fresh.append(shard)
        return begun + fresh

    def _checked(self, shard: Shard) -> Shard:
        """The shard, cut at its first damaged chunk; a shard that another process is writing is left as it is."""
        if shard.damaged_from() is None:
            return shard
        try:
            with Lock(shard.lock, timeout=0):
                current = Shard.open(shard.folder) or shard
                damaged = current.damaged_from()
                if damaged is not None:
                    current.cut(damaged)
                return current
        except Busy:
            return shard


@dataclass(frozen=True)
class Finding:
    """One line of `cache ls` or `cache verify`."""

    kind: str
    encoding: str
    shard: str
    planes: int
    done: int
    bytes: int
    fault: str | None
    facts: Mapping[str, Any]


def inspect(cache: Path, verify: bool) -> Iterator[Finding]:
    """Every shard of a cache; with `verify` each byte is read and compared with its checksum."""
    for folder in [folder for kind in KINDS for folder in sorted((cache / kind).glob("*/"))]:
        kind = folder.parent.name
        try:
            facts = json.loads((folder / "encoding.json").read_text())
            fault = None if digest_of(facts)[:16] == folder.name else "encoding.json does not match its key"
        except (OSError, ValueError):
            facts, fault = {}, "encoding.json is missing or damaged"
        if fault is not None:
            yield Finding(kind, folder.name, "-", 0, 0, 0, fault, facts)
        for child in sorted(path for path in folder.iterdir() if path.is_dir()):
            shard = Shard.open(child)
            if shard is None:
                size = sum(file.stat().st_size for file in child.iterdir() if file.is_file())
                yield Finding(kind, folder.name, child.name, 0, 0, size, "shard.json is missing or damaged", facts)
                continue
            start = shard.damaged_from() if verify else None
            fault = None if start is None else f"chunk at row {start} does not match its checksum"
            yield Finding(kind, folder.name, child.name, shard.planes, shard.done, shard.bytes, fault, facts)


def collect_garbage(cache: Path) -> tuple[int, int]:
    """Remove unfinished and damaged shards, and leftovers; (shards removed, bytes freed). Shards in use are kept."""
    removed = freed = 0
    for finding in list(inspect(cache, verify=True)):
        if finding.shard == "-" or (finding.fault is None and finding.done == finding.planes):
            continue
        folder = cache / finding.kind / finding.encoding / finding.shard
        lock = folder.with_name(folder.name + ".lock")
        try:
            with Lock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
                removed, freed = removed + 1, freed + finding.bytes
        except Busy:
            continue
    for leftover in [file for kind in KINDS for file in (cache / kind).glob("*/*/.*.tmp")]:
        freed += leftover.stat().st_size
        leftover.unlink(missing_ok=True)
    return removed, freed


