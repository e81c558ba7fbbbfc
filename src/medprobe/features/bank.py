"""Features of many cases, wherever they are: in the store, or encoded as they are asked for."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medprobe.errors import CaseError
from medprobe.features.encode import Chunk, Pipeline, Progress, complete
from medprobe.features.rows import Rows
from medprobe.features.store import SHARD_PLANES, Encoding, Entry, Shard, shards_of
from medprobe.types import Features, Frame, Source

Key = str
READERS = 2
"""Threads that read vectors: copying out of the page cache is work."""


class Bank(Protocol):
    """Features by entry key. `unreadable` maps keys of entries that could not be decoded to the reason."""

    @property
    def unreadable(self) -> Mapping[Key, str]: ...

    def features(self, key: Key) -> Features: ...


def _features(rows: Mapping[str, Any], frame: list | None) -> Features:
    grids = tuple(rows[f"grid{level}"] for level in range(len(rows)) if f"grid{level}" in rows)
    box = None
    if frame is not None:
        height, width, top, left, bottom, right, plane_height, plane_width = frame
        scale_y, scale_x = (grids[-1].shape[-2] / plane_height, grids[-1].shape[-1] / plane_width) if grids else (1, 1)
        box = Frame((height, width), (top * scale_y, left * scale_x, bottom * scale_y, right * scale_x))
    return Features(rows.get("cls"), rows.get("patch_mean"), grids, box)


class StoredBank:
    """Encodes what the store lacks, then reads it through memory maps."""

    def __init__(self, encoding: Encoding, pipeline: Pipeline, sources: Mapping[Key, tuple[Source, ...]], entries: Sequence[Entry], progress: Progress) -> None:
        shards = encoding.plan(entries, alone=pipeline.preprocessing.size is None, chunk=pipeline.chunk)
        complete(pipeline, shards, sources, progress)
        self._found = encoding.find(sources)
        self._planes = {entry.key: entry.planes for entry in entries}
        self._rows: dict[Path, dict[str, np.ndarray]] = {}
        self.unreadable = {key: reason for shard in shards for key, reason in (Shard.open(shard.folder) or shard).unreadable.items() if key not in self._found}

    def features(self, key: Key) -> Features:
        if key not in self._found:
            raise CaseError(self.unreadable.get(key, f"entry {key} is not in the store"))
        shard, row = self._found[key]
        if shard.folder not in self._rows:
            self._rows[shard.folder] = shard.rows()
        rows = {name: values[row : row + self._planes[key]] for name, values in self._rows[shard.folder].items()}
        return _features(rows, shard.frames.get(key))

    def places(self, keys: Sequence[Key]) -> np.ndarray | None:
        """(n,) int64: where each entry is, for `gathered`; None where one has more than one plane, or is not there."""
        try:
            return np.fromiter(map(self._where.__getitem__, keys), np.int64, len(keys))
        except KeyError:
            return None

    def gathered(self, places: np.ndarray, name: str) -> tuple[np.ndarray, float] | None:
        """One array of the entries at these places, (n, ...), and the sum of its squares, read at once; None where not all have such rows."""
        kinds = [shard.arrays.get(name) for shard in self._shards]
        if not len(places) or not kinds or kinds[0] is None or any(kind != kinds[0] for kind in kinds):
            return None
        numbers, rows = places // SHARD_PLANES, places % SHARD_PLANES
        borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(places)]
        out = np.empty((len(places), *kinds[0]["row"]), np.float32)
        with ThreadPoolExecutor(READERS) as pool:
            sums = pool.map(lambda start, stop: self._shards[numbers[start]].gather(name, rows[start:stop], out[start:stop]), borders[:-1], borders[1:])
            return out, sum(sums)

    @cached_property
    def _shards(self) -> list[Shard]:
        return list({shard.folder: shard for shard, _ in self._found.values()}.values())

    @cached_property
    def _where(self) -> dict[Key, int]:
        """Entries of one plane: the number of the shard times the most that one holds, plus the row."""
        numbers = {shard.folder: number for number, shard in enumerate(self._shards)}
        return {key: numbers[shard.folder] * SHARD_PLANES + row for key, (shard, row) in self._found.items() if self._planes[key] == 1}


class StreamedBank:
    """Keeps vectors in memory, and as many grids as `max_ram` bytes hold; the others are encoded again when they are asked
    for, in the batches the store would use."""

    def __init__(self, pipeline: Pipeline, sources: Mapping[Key, tuple[Source, ...]], entries: Sequence[Entry], progress: Progress, max_ram: int) -> None:
        self._pipeline, self._sources = pipeline, sources
        self._where: dict[Key, tuple[Shard, int, int]] = {}
        self._vectors: dict[Path, dict[str, np.ndarray]] = {}
        self._shapes: dict[Path, dict[str, tuple[int, ...]]] = {}
        self._kept: dict[tuple[Path, int], Chunk] = {}
        self._latest: tuple[tuple[Path, int], Chunk] | None = None
        self._max_ram, self._held = max_ram, 0
        self.unreadable: dict[Key, str] = {}
        self._frames: dict[Key, list] = {}
        total, done = sum(entry.planes for entry in entries), 0
        for number, group in enumerate(shards_of(entries, alone=pipeline.preprocessing.size is None)):
            shard = Shard(Path(f"streamed-{number}"))
            shard.entries, shard.chunk = group, pipeline.chunk
            vectors: dict[str, list[np.ndarray]] = {}
            for chunk in pipeline.chunks(shard, sources, 0, shard.planes):
                for name, rows in chunk.rows.items():
                    if not name.startswith("grid"):
                        vectors.setdefault(name, []).append(rows)
                self._shapes[shard.folder] = {name: rows.shape[1:] for name, rows in chunk.rows.items() if name.startswith("grid")}
                self._keep((shard.folder, chunk.start), chunk)
                self.unreadable |= chunk.unreadable
                self._frames |= chunk.frames
                done += len(next(iter(chunk.rows.values())))
                progress(done, total, "encoding planes (streamed)")
            self._vectors[shard.folder] = {name: np.concatenate(parts) for name, parts in vectors.items()}
            self._where |= {entry.key: (shard, row, entry.planes) for entry, row in shard.spans()}

    def features(self, key: Key) -> Features:
        if key in self.unreadable:
            raise CaseError(self.unreadable[key])
        shard, row, planes = self._where[key]
        rows: dict[str, Any] = {name: values[row : row + planes] for name, values in self._vectors[shard.folder].items()}
        for name, shape in self._shapes[shard.folder].items():
            rows[name] = Rows((planes, *shape), partial(self._grid, shard, name, row))
        return _features(rows, self._frames.get(key))

    def _grid(self, shard: Shard, name: str, row: int, start: int, stop: int) -> np.ndarray:
        first, last = row + start, row + stop
        parts = []
        for low in range(first - first % shard.chunk, last, shard.chunk):
            rows = self._chunk(shard, low).rows[name]
            parts.append(rows[max(first - low, 0) : last - low])
        return np.concatenate(parts) if parts else np.zeros((0, *self._shapes[shard.folder][name]), np.float32)

    def _chunk(self, shard: Shard, start: int) -> Chunk:
        place = (shard.folder, start)
        if place in self._kept:
            return self._kept[place]
        if self._latest is None or self._latest[0] != place:
            self._latest = None
            self._latest = place, next(iter(self._pipeline.chunks(shard, self._sources, start, min(start + shard.chunk, shard.planes))))
        return self._latest[1]

    def _keep(self, place: tuple[Path, int], chunk: Chunk) -> None:
        """The first that fit stay: which ones are asked for next is not known, and all are asked for equally often."""
        size = sum(rows.nbytes for rows in chunk.rows.values())
        if self._held + size <= self._max_ram:
            self._kept[place], self._held = chunk, self._held + size
