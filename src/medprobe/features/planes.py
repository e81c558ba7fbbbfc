"""Decoded planes, kept within a budget: another encoder decodes nothing again, nor does one whose features are streamed.

    CACHE/planes/<preprocessing>/<shard>/planes.npy     one row per plane, (C, H, W), in the shards of features (store.py)

Rows are what a source gives after window and resizing: 8-bit where the source is (65 kB for 256 x 256 grey), else
float32; grey planes are kept once, however many channels an encoder wants. A shard holds planes of one shape and type: those
of a shard of features are gathered by both, and written when a few hundred are together; a volume longer than a chunk has a
shard of its own, written as it is decoded. A shard counts once it is whole. Where the budget is short, the planes that were
used least recently go first.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.features.locks import Busy, Lock
from medprobe.features.store import Encoding, Entry, Shard

KEPT = "planes"
DEFAULT_BUDGET = 10 * 10**9
GATHERED_BYTES, GATHERED_PLANES = 64 << 20, 1024
"""Planes of one kind that are held at most before they are written."""

Keep = Callable[[str, int, np.ndarray, list], None]
"""Takes planes of an entry as they are decoded: its key, the first of them, planes, frame."""
Found = tuple[Path, int, list]
"""The file of rows, the first row of an entry, and its frame."""


class PlaneStore:
    """The planes of one preprocessing. `facts` are what decides a plane; `budget` bytes hold for all planes of the cache."""

    def __init__(self, cache: Path, facts: Mapping[str, Any], budget: int) -> None:
        self._cache, self._budget = cache, budget
        self._encoding = Encoding(cache, facts, KEPT)
        self._found: dict[str, Found] = {}
        self._used: set[Path] = set()
        """Folders of shards that are not to be removed: found, or kept."""

    def look_for(self, keys: Iterable[str]) -> None:
        """Find what is kept of these entries, in shards that are whole; damaged rows are cut off."""
        for key, (shard, row) in self._encoding.find(keys, checked=True, complete=True).items():
            self._found[key] = shard.path(KEPT), row, shard.frames[key]
            self._used.add(shard.folder)
        for folder in self._used:
            with suppress(OSError):  # removed meanwhile, or of another user
                os.utime(folder / "shard.json")

    def found(self, keys: Iterable[str]) -> dict[str, Found]:
        return {key: self._found[key] for key in keys if key in self._found}

    def wants(self, shard: Shard) -> bool:
        """Whether planes of a shard of features, as they are decoded, are to be handed to `keeping`."""
        return self._budget > 0 and not all(entry.key in self._found for entry in shard.entries)

    @contextmanager
    def keeping(self, shard: Shard) -> Iterator[Keep]:
        """What takes the planes of a shard of features, entry by entry in their order."""
        if not self.wants(shard):
            yield lambda *planes: None
            return
        try:
            self._encoding.describe()
        except OSError:  # a folder of another user
            yield lambda *planes: None
            return
        gathering, ended = _Gathering(self, shard), False
        try:
            yield gathering.take
            ended = True
        finally:
            gathering.close(cut=ended)

    def writing(self, entries: tuple[Entry, ...], chunk: int, size: int) -> "_Writing | None":
        """The shard of these entries, of `size` bytes; None where another process writes it or it is written, or there is no room."""
        writing = _Writing(Shard.of(self._encoding.folder, entries, chunk))
        if writing.begun and (writing.shard.done or self._make_room(size)):
            self._used.add(writing.shard.folder)
            return writing
        writing.close()
        return None

    def _make_room(self, wanted: int) -> bool:
        """Whether so much may be written, to half of the free disk at most; what was not used for the longest time is removed for it."""
        sizes = {file: file.stat().st_size for file in (self._cache / KEPT).glob("*/*/planes.npy")}
        held = sum(sizes.values())
        spare = sorted((file for file in sizes if file.parent not in self._used), key=_last_used)
        if held - sum(sizes[file] for file in spare) + wanted > self._budget or 2 * wanted > shutil.disk_usage(self._cache).free:
            return False
        for file in spare:
            if held + wanted <= self._budget:
                break
            try:
                with Lock(Shard(file.parent).lock, timeout=0):
                    shutil.rmtree(file.parent, ignore_errors=True)
                held -= sizes[file]
            except Busy:
                continue
        return held + wanted <= self._budget


class _Writing:
    """A shard that is being written, under its lock."""

    def __init__(self, shard: Shard) -> None:
        self.shard, self._lock = shard, Lock(shard.lock, timeout=0)
        try:
            self._lock.acquire()
            self.shard = Shard.open(shard.folder) or shard
            self.begun = not self.shard.complete
        except (OSError, Busy):
            self.begun = False

    def append(self, planes: np.ndarray, frames: Mapping[str, list]) -> bool:
        """Whether the next chunk was written."""
        try:
            if self.shard.takes({KEPT: planes}):
                self.shard.folder.mkdir(exist_ok=True)
                self.shard.commit(self.shard.done, {KEPT: planes}, frames, {})
                self._lock.touch()
                return True
        except OSError:  # a full disk: features go first
            pass
        return False

    def close(self, cut: bool = False) -> None:
        """`cut`: what is not whole is removed."""
        if cut and self.begun and not self.shard.complete:
            shutil.rmtree(self.shard.folder, ignore_errors=True)
        self._lock.release()


class _Gathering:
    """The planes of one shard of features on their way to shards of planes."""

    def __init__(self, store: PlaneStore, shard: Shard) -> None:
        self._store, self._chunk = store, shard.chunk
        self._entries = {entry.key: entry for entry in shard.entries}
        self._parts: list[np.ndarray] = []
        """Of the entry that is being decoded, or of its chunk."""
        self._kinds: defaultdict[tuple, list[tuple[Entry, np.ndarray, list]]] = defaultdict(list)
        self._sizes: Counter[tuple] = Counter()
        self._long: tuple[str, _Writing | None] | None = None

    def take(self, key: str, start: int, planes: np.ndarray, frame: list) -> None:
        entry, kind = self._entries[key], _kind(planes)
        if self._store.found([key]):
            return
        if start == 0 or (self._parts and _kind(self._parts[0]) != kind):  # planes of one entry that are unlike are not kept
            self._parts = []
        if entry.planes > self._chunk:
            self._take_long(entry, start, planes, frame)
            return
        self._parts.append(planes)
        if sum(map(len, self._parts)) < entry.planes:
            return
        self._kinds[kind].append((entry, self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts), frame))
        self._sizes[kind] += sum(part.nbytes for part in self._parts)
        self._parts = []
        if self._sizes[kind] >= GATHERED_BYTES or len(self._kinds[kind]) >= GATHERED_PLANES:
            self._sizes.pop(kind)
            self._write(self._kinds.pop(kind))

    def _write(self, gathered: list[tuple[Entry, np.ndarray, list]]) -> None:
        rows = np.concatenate([rows for _, rows, _ in gathered])
        writing = self._store.writing(tuple(entry for entry, _, _ in gathered), self._chunk, rows.nbytes)
        if writing is not None:
            frames = {entry.key: frame for entry, _, frame in gathered}
            for start, stop in list(writing.shard.chunks()):
                if not writing.append(rows[start:stop], frames):
                    break
            writing.close(cut=True)

    def _take_long(self, entry: Entry, start: int, planes: np.ndarray, frame: list) -> None:
        """Chunks of a long volume are written as they are whole; of one that was begun before, those that it lacks."""
        if self._long is None or self._long[0] != entry.key:
            self._end_long()
            self._long = entry.key, self._store.writing((entry,), self._chunk, entry.planes * planes[0].nbytes)
        writing = self._long[1]
        if writing is None or writing.shard.complete:
            return
        done = writing.shard.done
        held = np.concatenate([*self._parts, planes[max(done + sum(map(len, self._parts)) - start, 0) :]])
        whole = start <= done + sum(map(len, self._parts))  # else what came before it was not decoded in this run
        while whole and len(held) and len(held) >= min(self._chunk, entry.planes - writing.shard.done):
            whole, held = writing.append(held[: self._chunk], {entry.key: frame}), held[self._chunk :]
        self._parts = [held]
        if not whole:
            self._end_long()
            self._long = entry.key, None

    def _end_long(self, cut: bool = True) -> None:
        if self._long is not None and self._long[1] is not None:
            self._long[1].close(cut)
        self._long = None

    def close(self, cut: bool) -> None:
        """`cut`: a volume that is not whole by now never will be."""
        self._end_long(cut)
        for gathered in self._kinds.values():
            self._write(gathered)


def _kind(planes: np.ndarray) -> tuple:
    return planes.shape[1:], planes.dtype.str


def _last_used(file: Path) -> int:
    return file.with_name("shard.json").stat().st_mtime_ns if file.with_name("shard.json").exists() else 0
