"""Decoded planes, kept within a budget: another encoder decodes nothing again, nor does one whose features are streamed.

    CACHE/planes/<preprocessing>/<shard>/planes.npy     one row per plane, (C, H, W), in the shards of features (store.py)

Rows are what a source gives after window and resizing: 8-bit where the source is (65 kB for 256 x 256 grey), else
float32; grey planes are kept once, however many channels an encoder wants. A shard counts once it is whole, and is removed
where its planes turn out not to have one shape and type. Where the budget is short, the planes that were used
least recently go first.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.features.store import Encoding, Shard

KEPT = "planes"
DEFAULT_BUDGET = 10 * 10**9
LARGEST_CHUNK = 256 << 20
"""Bytes of decoded planes that are held until their chunk is whole; larger ones are not kept."""

Keep = Callable[[int, np.ndarray | None, Mapping[str, list], Mapping[str, str]], None]
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
        """A function that takes the chunks of a shard of features in order: first row, planes (None: they cannot be kept),
        frames and unreadable entries."""
        from filelock import FileLock, Timeout

        if not self.wants(shard):
            yield lambda *chunk: None
            return
        mine = Shard.of(self._encoding.folder, shard.entries, shard.chunk)
        lock = FileLock(mine.lock)
        try:
            self._encoding.describe()
            lock.acquire(timeout=0)
        except (OSError, Timeout):  # a folder of another user; another encoder keeps them
            yield lambda *chunk: None
            return
        try:
            kept = Shard.open(mine.folder) or mine
            if kept.chunk != shard.chunk or kept.done < shard.done:
                shutil.rmtree(kept.folder, ignore_errors=True)
                kept = mine
            self._used.add(kept.folder)
            yield self._keeper(kept, kept.done < shard.done)
        finally:
            lock.release()

    def _keeper(self, mine: Shard, ended: bool) -> Keep:
        """Appends chunks that are not there already; one that cannot be kept removes those before it, and nothing more is kept."""

        def keep(start: int, planes: np.ndarray | None, frames: Mapping[str, list], unreadable: Mapping[str, str]) -> None:
            nonlocal ended
            if ended or start < mine.done:
                return
            try:
                if planes is not None and mine.takes({KEPT: planes}) and (start or self._make_room(planes[0].nbytes * mine.planes)):
                    mine.folder.mkdir(exist_ok=True)
                    mine.commit(start, {KEPT: planes}, frames, unreadable)
                    return
            except OSError:  # a full disk: features go first
                pass
            ended = True
            shutil.rmtree(mine.folder, ignore_errors=True)

        return keep

    def _make_room(self, wanted: int) -> bool:
        """Whether so much may be written, to half of the free disk at most; what was not used for the longest time is removed for it."""
        from filelock import FileLock, Timeout

        sizes = {file: file.stat().st_size for file in (self._cache / KEPT).glob("*/*/planes.npy")}
        held = sum(sizes.values())
        spare = sorted((file for file in sizes if file.parent not in self._used), key=_last_used)
        if held - sum(sizes[file] for file in spare) + wanted > self._budget or 2 * wanted > shutil.disk_usage(self._cache).free:
            return False
        for file in spare:
            if held + wanted <= self._budget:
                break
            try:
                with FileLock(Shard(file.parent).lock, timeout=0):
                    shutil.rmtree(file.parent, ignore_errors=True)
                held -= sizes[file]
            except Timeout:
                continue
        return held + wanted <= self._budget


def _last_used(file: Path) -> int:
    return file.with_name("shard.json").stat().st_mtime_ns if file.with_name("shard.json").exists() else 0
