"""Video frames by decoded index (extra `video`): forward decoding from where the last call stopped, else from a key frame."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, ExtraError


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ExtraError("av", "video", "reading video files") from error
    return av


@lru_cache(maxsize=256)
def _times(path: Path, changed: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Presentation times of all frames in order, and which are key frames; from packets, nothing is decoded."""
    with _av().open(str(path)) as container:
        packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0) if packet.pts is not None]
    packets.sort()
    return tuple(pts for pts, _ in packets), tuple(key for _, key in packets)


def count(path: Path) -> int:
    """Frames of the first video stream."""
    return len(_times(path, path.stat().st_mtime_ns)[0])


class _Reader:
    """An open file and the index of the frame it gives next."""

    def __init__(self, path: Path) -> None:
        self.container = _av().open(str(path))
        self.stream = self.container.streams.video[0]
        self.times, self.keys = _times(path, path.stat().st_mtime_ns)
        self.place = {pts: index for index, pts in enumerate(self.times)}
        self.next = 0
        self.frames: Iterator[Any] = self.container.decode(self.stream)

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` as (H, W, 3) uint8."""
        key = max((place for place in range(index + 1) if self.keys[place]), default=0)
        if index < self.next or key > self.next:
            self.container.seek(self.times[key], stream=self.stream, backward=True, any_frame=False)
            self.frames = self.container.decode(self.stream)
        for frame in self.frames:
            found = self.place.get(frame.pts)
            if found is None:
                continue
            self.next = found + 1
            if found == index:
                return frame.to_ndarray(format="rgb24")
            if found > index:
                break
        raise CaseError(f"{self.container.name}: expected frame {index}, found it cannot be decoded; the file may be partial")


_open: dict[Path, _Reader] = {}


def frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """(3, n, H, W) uint8. Consecutive calls on one file in one process go on where the last one stopped."""
    total = count(path)
    if indices and max(indices) >= total:
        raise CaseError(f"{path}: expected at least {max(indices) + 1} frames, found {total}; the file may be partial")
    if path not in _open:
        for reader in _open.values():
            reader.container.close()
        _open.clear()
        _open[path] = _Reader(path)
    try:
        return np.moveaxis(np.stack([_open[path].frame(index) for index in indices]), -1, 0)
    except BaseException:
        _open.pop(path).container.close()
        raise
