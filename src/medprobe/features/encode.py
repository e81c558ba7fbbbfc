"""Planes through an encoder: decoding in worker processes, overlapped with the forward pass; batches of fixed borders."""

import contextlib
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medprobe.encoders.sound import Watch
from medprobe.errors import CaseError, MedprobeError
from medprobe.features.locks import Busy, Lock
from medprobe.features.planes import Found, Keep, PlaneStore
from medprobe.features.store import CHUNK_PLANES, GRID_CHUNK_PLANES, Shard
from medprobe.heads._augment import AS_IT_IS, View
from medprobe.imaging import formats, recipes
from medprobe.types import Channels, Source

ENCODING_VERSION = 2
"""Raised by hand whenever the same request would give other features; a golden test fails when that was forgotten."""
PRODUCTS = {"bf16": "bf16 products"}
"""What is narrow in features of a precision: at first all of the network was."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a plane between its file and the encoder; part of the feature key."""

    window: str
    size: tuple[int, int] | None
    fit_rule: Literal["squash", "pad", "crop"] = "squash"
    resize: Literal["bicubic", "bilinear", "area"] = "bicubic"
    colour: Literal[1, 3] | None = None
    """1 = colour planes become grey, 3 = grey planes are repeated, None = as they are."""
    crop: Callable[[np.ndarray], np.ndarray] | None = None
    """A dataset's spatial recipe; its name enters the key."""
    channels: Channels = "late"
    """rgb = the channels of a case are one image of three; enters the key where it is not `late`."""
    view: View = AS_IT_IS
    """How a plane is flipped and turned before the encoder sees it; its name enters the key where it is not as it is."""


    @property
    def facts(self) -> dict[str, Any]:
        """As part of a key."""
        facts = {**asdict(self), "crop": self.crop and self.crop.__name__, "view": self.view.name}
        return {name: value for name, value in facts.items() if (name, value) != ("channels", "late") and (name, value) != ("view", "")}

    @property
    def narrow(self) -> "Preprocessing":
        """The same with grey planes as they are, which are repeated where they are used and not kept thrice, and none flipped."""
        return replace(self, colour=None if self.colour == 3 else self.colour, view=AS_IT_IS)


def encoding_facts(encoder: Any, preprocessing: Preprocessing, grids: bool, precision: str) -> dict[str, Any]:
    """Everything that decides a feature's value, and nothing else: no label, split, dataset, batch size or version."""
    return {
        "version": ENCODING_VERSION, "encoder": encoder.spec, "weights": encoder.weights_sha256,
        "transform": encoder.transform, "layers": getattr(encoder, "layers", None), "grids": grids,
        "precision": PRODUCTS.get(precision, precision), **preprocessing.facts,
    }  # fmt: skip


def plane_facts(preprocessing: Preprocessing) -> dict[str, Any]:
    """Everything that decides a decoded plane besides its source."""
    return {"version": ENCODING_VERSION, **preprocessing.narrow.facts}


@dataclass(frozen=True)
class _Piece:
    key: str
    sources: tuple[Source, ...]
    start: int
    stop: int


class _Batches:
    """Batch index → decoded planes; runs in the worker processes, so it imports no torch. `kept`: entries whose planes are read instead."""

    def __init__(self, batches: list[list[_Piece]], preprocessing: Preprocessing, kept: Mapping[str, Found]) -> None:
        self.batches, self.preprocessing, self.kept = batches, preprocessing, kept
        self._rows: dict[Path, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        """([planes of a piece], [(key, planes, frame, error)]); an error that is not of one case comes back as a value, since
        the loader would hand it on as the text of a traceback."""
        try:
            return self._batch(index)
        except MedprobeError as error:
            return MedprobeError(str(error))

    def _batch(self, index: int) -> tuple[list[np.ndarray], list[tuple[str, int, list | None, str | None]]]:
        pixels: list[np.ndarray] = []
        facts: list[tuple[str, int, list | None, str | None]] = []
        for piece in self.batches[index]:
            count = piece.stop - piece.start
            try:
                planes, frame = self._read(piece) or self._decode(piece, count)
            except CaseError as error:
                pixels.append(np.zeros((0, 0, 0, 0), np.uint8))
                facts.append((piece.key, count, None, str(error)))
            else:
                pixels.append(planes)
                facts.append((piece.key, count, frame, None))
        return pixels, facts

    def _decode(self, piece: _Piece, count: int) -> tuple[np.ndarray, list]:
        made = decoded(piece.sources, self.preprocessing, piece.start, piece.stop)
        if len(made.pixels) != count:
            raise CaseError(f"{piece.sources[0].path}: expected {count} planes from {piece.start} on, found {len(made.pixels)}; the file is shorter than its header says")
        return made.pixels, [*made.frame.shape, *made.frame.box, *made.pixels.shape[2:]]

    def _read(self, piece: _Piece) -> tuple[np.ndarray, list] | None:
        """The planes as they are kept; None where they are not, or have been removed since."""
        if piece.key not in self.kept:
            return None
        file, row, frame = self.kept[piece.key]
        try:
            rows = self._rows[file] if file in self._rows else self._rows.setdefault(file, np.load(file, mmap_mode="r"))
        except (OSError, ValueError, EOFError):
            return None
        return np.array(rows[row + piece.start : row + piece.stop]), frame


def decoded(sources: tuple[Source, ...], preprocessing: Preprocessing, start: int = 0, stop: int | None = None) -> recipes.Planes:
    """Planes start…stop of a case as an encoder gets them."""
    return recipes.planes(
        sources, window=preprocessing.window, size=preprocessing.size, fit_rule=preprocessing.fit_rule,
        resize=preprocessing.resize, start=start, stop=stop, crop=preprocessing.crop,
        colour=preprocessing.colour, rgb=preprocessing.channels == "rgb",
    )  # fmt: skip


def pieces_of(shard: Shard, sources: Mapping[str, tuple[Source, ...]], batch_size: int, start: int, stop: int) -> list[list[_Piece]]:
    """The rows start…stop of a shard as batches; no batch crosses the border of a chunk, or of an entry that fills several."""
    batches: list[list[_Piece]] = []
    entries = [(entry, row) for entry, row in shard.spans() if row + entry.planes > start and row < stop]
    long = {row + end for entry, row in entries if entry.planes > batch_size for end in (0, entry.planes)}
    cuts = sorted({*range(start, stop, shard.chunk), *(row for row in long if start < row < stop), stop})
    for low, high in pairwise(cuts):
        for first in range(low, high, batch_size):
            last = min(first + batch_size, high)
            batch = []
            for entry, row in entries:
                begin, end = max(first, row), min(last, row + entry.planes)
                if begin < end:
                    batch.append(_Piece(entry.key, sources[entry.key], begin - row, end - row))
            batches.append(batch)
            entries = [(entry, row) for entry, row in entries if row + entry.planes > last]
    return batches


@dataclass
class Chunk:
    """Encoded rows from `start` on: what `Shard.commit` takes."""

    start: int
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    frames: dict[str, list] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """An encoder with the way planes reach it. `batch_size` never enters a key; `workers` 0 decodes in this process; `planes`:
    where decoded ones are kept."""

    encoder: Any
    preprocessing: Preprocessing
    grids: bool
    batch_size: int = 16
    workers: int = 2
    planes: PlaneStore | None = None

    @property
    def chunk(self) -> int:
        """Planes of a chunk."""
        return GRID_CHUNK_PLANES if self.grids else CHUNK_PLANES

    def chunks(
        self, shard: Shard, sources: Mapping[str, tuple[Source, ...]], start: int, stop: int, encoded: Callable[[int], None] = lambda planes: None, keep: Keep = lambda *planes: None
    ) -> Iterator[Chunk]:
        """Encode rows start…stop, yielding a chunk whenever one is whole; `encoded` hears the planes of every batch, `keep` gets them."""
        batches = pieces_of(shard, sources, self.batch_size, start, stop)
        chunk = Chunk(start)
        parts: list[dict[str, np.ndarray]] = []
        done = start
        watch = Watch(self.encoder) if getattr(self.encoder, "own_code", False) else None
        with contextlib.closing(self._decoded(batches)) as decoded:
            for batch, item in zip(batches, decoded, strict=True):
                if isinstance(item, MedprobeError):
                    raise item
                pixels, facts = item
                parts.append(self._forward(pixels, facts, chunk, watch))
                for piece, made, (key, _, frame, error) in zip(batch, pixels, facts, strict=True):
                    if error is None:
                        keep(key, piece.start, made, frame)
                planes = sum(count for _, count, _, _ in facts)
                done += planes
                encoded(planes)
                if watch is not None and done == stop:
                    _refuse(watch.last())
                if done % shard.chunk == 0 or done == stop:
                    chunk.rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                    yield chunk
                    chunk, parts = Chunk(done), []

    def keeping(self, shard: Shard) -> contextlib.AbstractContextManager[Keep]:
        """What keeps the planes of a shard, where they are to be kept."""
        return contextlib.nullcontext(lambda *planes: None) if self.planes is None else self.planes.keeping(shard)

    def _decoded(self, batches: list[list[_Piece]]) -> Generator[Any, None, None]:
        kept = {} if self.planes is None else self.planes.found({piece.key for batch in batches for piece in batch})
        work: Any = _Batches(batches, self.preprocessing.narrow, kept)
        if self.workers == 0 or len(batches) < 2 or all(piece.key in kept for batch in batches for piece in batch):
            yield from (work[index] for index in range(len(work)))
            return
        import torch

        formats.prepare(source for batch in batches for piece in batch for source in piece.sources)
        owners = _owners(batches, self.workers)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
            loaders: list[Any] = [
                torch.utils.data.DataLoader(
                    work, batch_size=None, sampler=[place for place, owner in enumerate(owners) if owner == worker], num_workers=1, collate_fn=_as_is,
                    prefetch_factor=4, worker_init_fn=_end_with_parent, multiprocessing_context="fork" if os.name == "posix" and os.uname().sysname == "Linux" else None,
                    generator=torch.Generator(),  # without one, training beside it would draw other numbers
                )
                for worker in sorted(set(owners))
            ]  # fmt: skip
            try:
                decoded = [iter(loader) for loader in loaders]
                for owner in owners:
                    yield next(decoded[owner])
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise MedprobeError("a decoding worker was lost, most likely because memory ran out; what was encoded is kept: run the same command again, with a smaller --batch-size") from error

    def _outputs(self, x: Any) -> dict[str, Any]:
        """Array name → one row per plane of x (n, C, H, W). Of planes of a single colour, air above a head say, the first
        alone is encoded: the others are the same plane."""
        import torch

        low, high = x.flatten(2).aminmax(dim=2)
        single = (low == high).all(dim=1)
        places = torch.arange(len(x))
        if single.sum() > 1:
            _, alike = torch.unique(low[single], dim=0, return_inverse=True)
            colours = places[single]
            first = torch.full((int(alike.max()) + 1,), len(x)).scatter_reduce(0, alike, colours, "amin")
            places[single] = first[alike]
        encoded, rows = torch.unique(places, return_inverse=True)
        features = self.encoder(x if len(encoded) == len(x) else x[encoded])
        outputs = {"cls": features.cls, "patch_mean": features.patch_mean}
        if self.grids:
            outputs |= {f"grid{level}": grid for level, grid in enumerate(features.grids)}
        if len(encoded) == len(x):
            return outputs
        return {name: None if values is None else torch.as_tensor(values)[rows] for name, values in outputs.items()}

    @property
    def _narrower(self) -> str:
        """Advice where the encoder computes in bf16."""
        narrow = getattr(self.encoder, "precision", "fp32") == "bf16"
        return ", or use --precision fp32" if narrow else ""

    def _forward(self, pixels: list[np.ndarray], facts: list[tuple], chunk: Chunk, watch: Watch | None) -> dict[str, np.ndarray]:
        """Rows of one batch; rows of unreadable pieces are NaN and their entries recorded."""
        import torch

        good = [planes for planes in pixels if len(planes)]
        wide = self.preprocessing.colour == 3
        if wide and len({planes.shape[1] for planes in good}) > 1:
            good = [np.repeat(planes, 3, axis=1) if planes.shape[1] == 1 else planes for planes in good]
        size = good[0].shape[2:] if good else self.preprocessing.size or (self.encoder.default_size,) * 2
        channels = good[0].shape[1] if good else self.preprocessing.colour or self.encoder.channels or 1
        filler = np.zeros((1, channels, *size), np.uint8)
        shapes = {planes.shape[1:] for planes in good}
        if len(shapes) > 1:
            raise MedprobeError(f"planes of one batch differ in shape, {' and '.join(map(str, sorted(shapes)))} (channels, height, width); use a task with an image size, or one kind of image per dataset")
        x = _to_unit(good) if good else torch.from_numpy(filler).float()
        if wide and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = self.preprocessing.view(x)
        if watch is not None and good:
            _refuse(watch.first(x))
        outputs = self._outputs(x)
        names = [key for (key, count, _, error) in facts if error is None for _ in range(count)]
        rows: dict[str, np.ndarray] = {}
        for name, values in outputs.items():
            if values is None:
                continue
            array = np.asarray(values, dtype=np.float32)
            if good and not np.isfinite(array).all():
                bad = sorted({names[row] for row in np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))})
                raise MedprobeError(f"{self.encoder.spec} gave NaN or infinite {name} features for {len(bad)} of the images of one batch; check the weights{self._narrower}")
            rows[name] = _spread(array, facts) if any(error for *_, error in facts) else array
        for key, _, frame, error in facts:
            if error is None:
                chunk.frames[key] = frame
            else:
                chunk.unreadable[key] = error
        return rows


def _refuse(said: str | None) -> None:
    if said is not None:
        raise MedprobeError(said)


def decoders(device: str) -> int:
    """Processes that decode: two where the encoder computes on all cores itself, else one for each core, 16 at most."""
    return min(2 if device == "cpu" else 16, os.cpu_count() or 1)


def _owners(batches: Sequence[Sequence[_Piece]], workers: int) -> list[int]:
    """The worker of each batch, in turn; all batches of one volume or video have the same, so that none is decoded twice."""
    turns: dict[Any, int] = {}
    return [turns.setdefault(batch[0].key if len(batch) == 1 else number, len(turns) % workers) for number, batch in enumerate(batches)]


def _as_is(item: Any) -> Any:
    return item


def _end_with_parent(worker: int) -> None:
    """A decoding worker whose parent was killed ends too: it would hold the lock of the shard and the standard output."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _to_unit(planes: Sequence[np.ndarray]) -> Any:
    """(n, C, H, W) float32 tensor in [0, 1]."""
    import torch

    if all(part.dtype == np.uint8 for part in planes):
        return torch.from_numpy(np.concatenate(planes)).float().div_(255)
    return torch.from_numpy(np.concatenate([part.astype(np.float32) / (255 if part.dtype == np.uint8 else 1) for part in planes]))


def _spread(array: np.ndarray, facts: list[tuple]) -> np.ndarray:
    """Rows of readable pieces at their places, NaN elsewhere."""
    total = sum(count for _, count, _, _ in facts)
    spread = np.full((total, *array.shape[1:]), np.nan, np.float32)
    place = np.concatenate([np.full(count, error is None) for _, count, _, error in facts])
    spread[place] = array[: place.sum()]
    return spread


def complete(
    pipeline: Pipeline, shards: Sequence[Shard], sources: Mapping[str, tuple[Source, ...]], progress: Progress
) -> None:
    """Compute what is missing of these shards. A shard another process is computing is waited for, never repeated."""
    total = sum(shard.planes - shard.done for shard in shards)
    done = 0

    def encoded(planes: int) -> None:
        nonlocal done
        done += planes
        lock.touch()
        progress(done, total, "encoding planes")

    waiting = list(shards)
    while waiting:
        locked = []
        for shard in waiting:
            lock = Lock(shard.lock, timeout=2 if len(waiting) == 1 else 0)
            try:
                with lock:
                    current = Shard.open(shard.folder) or shard
                    done += current.done - shard.done
                    with pipeline.keeping(current) as keep:
                        for chunk in pipeline.chunks(current, sources, current.done, current.planes, encoded, keep):
                            current.commit(chunk.start, chunk.rows, chunk.frames, chunk.unreadable)
            except Busy:
                locked.append(shard)
                progress(done, total, f"waiting for another process that encodes the same planes{lock.holder}")
        if len(locked) > 1 and len(locked) == len(waiting):
            time.sleep(0.5)
        waiting = locked
