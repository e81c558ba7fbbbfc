"""Features of many cases, wherever they are: in the store, or encoded as they are asked for."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from medprobe.errors import CaseError
from medprobe.features.encode import Chunk, Pipeline, Progress, complete
from medprobe.features.store import CHUNK_PLANES, Encoding, Entry, Shard, shards_of
from medprobe.types import Features, Frame, Source

Key = str


class Bank(Protocol):
    """Features by entry key. `unreadable` maps keys of entries that could not be decoded to the reason."""

    @property
    def unreadable(self) -> Mapping[Key, str]: ...

    def features(self, key: Key) -> Features: ...


def _features(rows: Mapping[str, np.ndarray], frame: list | None) -> Features:
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
        shards = encoding.plan(entries, alone=pipeline.preprocessing.size is None)
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


class StreamedBank:
    """Keeps vectors in memory and encodes grids again whenever they are asked for, in the batches the store would use."""

    def __init__(self, pipeline: Pipeline, sources: Mapping[Key, tuple[Source, ...]], entries: Sequence[Entry], progress: Progress, max_ram: int) -> None:
        self._pipeline, self._sources = pipeline, sources
        self._where: dict[Key, tuple[Shard, int, int]] = {}
        self._vectors: dict[Path, dict[str, np.ndarray]] = {}
        self._chunks: OrderedDict[tuple[Path, int], Chunk] = OrderedDict()
        self._max_ram, self._held = max_ram, 0
        self.unreadable: dict[Key, str] = {}
        self._frames: dict[Key, list] = {}
        total, done = sum(entry.planes for entry in entries), 0
        for number, group in enumerate(shards_of(entries, alone=pipeline.preprocessing.size is None)):
            shard = Shard(Path(f"streamed-{number}"))
            shard.entries = group
            vectors: dict[str, list[np.ndarray]] = {}
            for chunk in pipeline.chunks(shard, sources, 0, shard.planes):
                for name, rows in chunk.rows.items():
                    if not name.startswith("grid"):
                        vectors.setdefault(name, []).append(rows)
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
        rows = {name: values[row : row + planes] for name, values in self._vectors[shard.folder].items()}
        if self._pipeline.grids:
            first = row - row % CHUNK_PLANES
            chunks = [self._chunk(shard, start) for start in range(first, row + planes, CHUNK_PLANES)]
            for name in chunks[0].rows:
                if name.startswith("grid"):
                    rows[name] = np.concatenate([chunk.rows[name] for chunk in chunks])[row - first : row - first + planes]
        return _features(rows, self._frames.get(key))

    def _chunk(self, shard: Shard, start: int) -> Chunk:
        place = (shard.folder, start)
        if place not in self._chunks:
            chunk = next(iter(self._pipeline.chunks(shard, self._sources, start, min(start + CHUNK_PLANES, shard.planes))))
            self._chunks[place] = chunk
            self._held += _size(chunk)
            while self._held > self._max_ram and len(self._chunks) > 1:
                _, dropped = self._chunks.popitem(last=False)
                self._held -= _size(dropped)
        self._chunks.move_to_end(place)
        return self._chunks[place]


def _size(chunk: Chunk) -> int:
    return sum(rows.nbytes for rows in chunk.rows.values())
