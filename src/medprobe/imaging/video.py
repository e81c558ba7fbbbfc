"""Video frames by decoded index (extra `video`): index i is the i-th frame in order of presentation, counted from 0.

A call goes on where the last one on that file stopped, or seeks to the key frame before the frame it wants and decodes
forward from there; both give the same pixels. Colours are FFmpeg's default conversion to RGB; a rotation that a player
would apply is not.
"""

import gc
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medprobe.errors import CaseError, ExtraError
from medprobe.imaging.raw import Raw, check_size, chosen, stamp
from medprobe.types import Source

KEPT_OPEN = 2
"""Videos a process keeps open: a batch may cross from one into the next."""


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ExtraError("av", "video", "reading video files") from error
    return av


class _Packet(NamedTuple):
    """What is kept of a packet: a whole video in memory would be too much."""

    pts: int | None
    dts: int | None
    key: bool
    discard: bool
    corrupt: bool


@dataclass(frozen=True)
class _Index:
    """Presentation times in order, and the places of the key frames; no times where a container has none (AVI with
    frames out of order): its frames are counted from the first."""

    total: int
    times: np.ndarray | None
    keys: tuple[int, ...]

    def place(self, pts: int | None) -> int | None:
        """The index of the frame shown at this time."""
        if self.times is None or pts is None:
            return None
        place = int(np.searchsorted(self.times, pts))
        return place if place < self.total and self.times[place] == pts else None


@lru_cache(maxsize=64)
def _index(path: Path, changed: int) -> _Index:
    """From packets: nothing is decoded, unless the container keeps no presentation times."""
    with _av().open(str(path)) as container:
        stream = _stream(container, path)
        check_size(path, stream.height, stream.width)
        packets = [_Packet(each.pts, each.dts, each.is_keyframe, each.is_discard, each.is_corrupt) for each in container.demux(stream) if each.size]
        guessed = container.format.name == "avi" and any(packet.pts != packet.dts for packet in packets)
        end = max((entry.pos + entry.size for entry in getattr(stream, "index_entries", ())), default=0)
    if end > path.stat().st_size or any(packet.corrupt for packet in packets):
        raise CaseError(f"{path}: expected a whole video, found it cut short after {len(packets)} frames; fetch it again")
    packets = [packet for packet in packets if not packet.discard]  # an edit list leaves frames out
    shown = sorted((packet.pts, packet.key) for packet in packets if packet.pts is not None and not guessed)
    times = np.array([pts for pts, _ in shown])
    if len(shown) == len(packets) == len(np.unique(times)):
        return _Index(len(shown), times, tuple(place for place, (_, key) in enumerate(shown) if key))
    with _av().open(str(path)) as container:
        return _Index(sum(1 for _ in container.decode(_stream(container, path))), None, ())


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise CaseError(f"{path}: expected a video, found no pictures in it; check the file")
    return container.streams.video[0]


def count(source: Source) -> int:
    return _index(source.path, stamp(source.path)).total


def channels(source: Source) -> int:
    return 3


def read(source: Source, start: int, stop: int | None) -> Raw:
    changed = stamp(source.path)
    index = _index(source.path, changed)
    places = chosen(source, index.total, start, stop)
    if not places:
        return Raw(np.zeros((3, 0, 1, 1), np.uint8), (0.0, 255.0))
    with _reader(source.path, changed, index) as reader:
        frames = np.stack([reader.frame(place) for place in places])
    return Raw(np.moveaxis(frames, -1, 0), (0.0, 255.0))


@contextmanager
def _reader(path: Path, changed: int, index: _Index) -> Iterator["_Reader"]:
    """The open reader of this process, or a new one; not kept where decoding fails.

    Readers that were open when a process was forked belong to the parent: file position and decoding threads are its own.
    """
    process = os.getpid()
    reader = _open.pop((process, path, changed), None) or _Reader(path, index)
    try:
        yield reader
    except BaseException:
        reader.close()
        raise
    _open[process, path, changed] = reader
    for old in [key for key in list(_open) if key[0] == process][:-KEPT_OPEN]:
        if (idle := _open.pop(old, None)) is not None:  # another thread may have taken it
            idle.close()


class _Reader:
    """An open video, and the index of the frame it decodes next."""

    def __init__(self, path: Path, index: _Index) -> None:
        self.path, self.index = path, index
        self.container: Any = None
        self.frames: Iterator[Any] = iter(())
        self.next = 0

    def frame(self, wanted: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        keys = self.index.keys
        near = bisect_right(keys, wanted) - 1
        ahead = self.container is not None and self.next <= wanted and (near < 0 or keys[near] <= self.next)
        found = self._forward(wanted) if ahead else None
        for key in (near, near - 1, -1):  # containers may seek to a later key frame than they were asked for
            if found is not None:
                return found
            self._go(max(key, -1))
            found = self._forward(wanted)
        if found is None:
            raise CaseError(f"{self.path}: expected frame {wanted} of {self.index.total}, found it cannot be decoded; fetch the file again")
        return found

    def _go(self, key: int) -> None:
        """To a key frame, by its place among them; -1 is the beginning of the file."""
        if self.container is None or key < 0:
            self.close()
            self.container = _av().open(str(self.path))
        stream = _stream(self.container, self.path)
        if key >= 0 and self.index.times is not None:
            self.container.seek(int(self.index.times[self.index.keys[key]]), stream=stream)
        self.frames = self.container.decode(stream)
        self.next = 0

    def _forward(self, wanted: int) -> np.ndarray | None:
        """Decode up to a frame; None where it is not among those that follow."""
        for frame in self.frames:
            place = self.next if self.index.times is None else self.index.place(frame.pts)
            if place is None:
                continue
            self.next = place + 1
            if place == wanted:
                return frame.to_ndarray(format="rgb24")
            if place > wanted:
                break
        return None

    def close(self) -> None:
        if self.container is not None:
            self.container.close()


_open: dict[tuple[int, Path, int], _Reader] = {}
"""(process, path, modification time) → reader, the latest used last."""

if hasattr(os, "register_at_fork"):
    # A forked child that frees a decoder of its parent waits for threads it does not have: it leaves them alone instead.
    os.register_at_fork(after_in_child=gc.freeze)
