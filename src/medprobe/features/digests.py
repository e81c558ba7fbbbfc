"""What the bytes of a source are: sha256, remembered by path, size and time of change.

The memory is one small JSON file per folder of sources, in the cache. Losing or damaging it costs a second reading.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from medprobe.errors import CaseError
from medprobe.files import digest_of, write_atomically
from medprobe.imaging.formats import files_of
from medprobe.types import Lattice, Source

Progress = Callable[[int, int, str], None]


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """Digests of files and of folders of frames, remembered under `cache/digests`."""

    def __init__(self, cache: Path | None) -> None:
        self.folder = cache / "digests" if cache is not None else None

    def of(self, paths: Iterable[Path], progress: Progress = lambda done, total, what: None) -> dict[Path, str]:
        """path → sha256 hex; of a folder, and of a header with its data beside it, that of the names and digests of its files.
        Unreadable files are left out."""
        files = {path: _files(path) for path in sorted(set(paths))}
        known = self._of_files(sorted({file for group in files.values() for file in group}), progress)
        found: dict[Path, str] = {}
        for path, group in files.items():
            if path.is_dir() or len(group) > 1:
                found[path] = digest_of([[file.name, known.get(file)] for file in group])
            elif group and path in known:
                found[path] = known[path]
        return found

    def _of_files(self, files: list[Path], progress: Progress) -> dict[Path, str]:
        folders: dict[Path, list[Path]] = defaultdict(list)
        for file in files:
            folders[file.parent].append(file)
        found: dict[Path, str] = {}
        done = 0
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for folder, members in folders.items():
                memory = self._recall(folder)
                stale = [file for file in members if not _fresh(memory.get(file.name), file)]
                for file, entry in zip(stale, pool.map(_measure, stale), strict=True):
                    if entry is not None:
                        memory[file.name] = entry
                    done += 1
                    progress(done, len(files), "reading source files")
                done += len(members) - len(stale)
                if stale:
                    self._remember(folder, memory)
                found.update({file: memory[file.name][-1] for file in members if file.name in memory and file.exists()})
        return found

    def _memory_file(self, folder: Path) -> Path | None:
        return self.folder / f"{digest_of(str(folder.resolve()))[:32]}.json" if self.folder else None

    def _recall(self, folder: Path) -> dict[str, list]:
        path = self._memory_file(folder)
        if path is None or not path.exists():
            return {}
        try:
            document = json.loads(path.read_text())
            return document["files"] if document["checksum"] == digest_of(document["files"]) else {}
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            return {}

    def _remember(self, folder: Path, memory: dict[str, list]) -> None:
        path = self._memory_file(folder)
        with suppress(OSError):  # a full disk: the files are read again the next time
            if path is not None:
                write_atomically(path, json.dumps({"checksum": digest_of(memory), "files": memory}))


def _files(path: Path) -> tuple[Path, ...]:
    try:
        return files_of(path)
    except (CaseError, OSError):
        return ()


def _measure(file: Path) -> list | None:
    """[size, times of its last writing and of its last change in ns, sha256], or None when the file cannot be read."""
    try:
        return [*_stamp(file), file_sha256(file)]
    except OSError:
        return None


def _fresh(entry: list | None, file: Path) -> bool:
    try:
        return entry is not None and len(entry) == 4 and entry[:3] == _stamp(file)
    except OSError:
        return False


def _stamp(file: Path) -> list[int]:
    """A file that takes the place of another keeps its size and the time it was written, where programs restore that; the
    time of change is the system's."""
    now = file.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns]


def source_key(sources: tuple[Source, ...], digests: Mapping[Path, str]) -> str:
    """Content key of channels that are decoded together: their bytes, which part of them, and what each has of its own
    (rescaling, grid, window, axis, orientation, whether it is one plane); never their names."""
    facts = []
    for source in sources:
        for path in source.paths:
            if path not in digests:
                raise CaseError(f"{path}: cannot be read; check that the file exists and its permissions")
        grid = source.grid.facts(digests) if isinstance(source.grid, Lattice) else source.grid and digests[source.grid]
        more = {
            "rescale": source.rescale, "grid": grid, "window": source.window,
            "axis": source.axis if source.axis != "axial" else None,
            "orientation": source.orientation if source.orientation != "canonical" else None,
            "plane": source.plane or None,
        }  # fmt: skip
        given = {name: value for name, value in more.items() if value is not None}
        facts.append([digests[source.path], source.member, list(source.frames) if source.frames is not None else None, *([given] if given else [])])
    return digest_of(facts)[:32]
