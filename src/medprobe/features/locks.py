"""One process at a time at a folder of the cache, also on disks that offer no locks.

A lock of the system ends with its process. Where a disk has none (NFS, Lustre or GPFS without a lock service), a file that
is there is the lock, with the process and the host in it. One that a killed process left is removed by the next process
on its host, and by those of other hosts once it has not been touched for an hour.
"""

import errno
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EINVAL}
)
"""What a disk without locks answers."""
LEFT = 3600.0
"""Seconds after which a file that nobody has touched is one that was left behind."""
PATIENCE = 10.0
"""Seconds of waiting after which it is said for whom."""

log = logging.getLogger(__name__)


class Busy(Exception):
    """Another process holds the lock."""


class Lock:
    """Held by one process at a time. `timeout` in seconds, after which Busy is raised; without it waits."""

    def __init__(self, path: Path, timeout: float | None = None) -> None:
        self.path, self.marker = path, path.with_name(path.name + ".held")
        self._timeout = timeout
        self._lock: Any = None
        self._touched = False
        """Whether the lock is a file that is to be touched."""

    def acquire(self) -> "Lock":
        from filelock import SoftFileLock

        self._lock = _of_the_system(self.path)
        try:
            self._wait()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._lock, self._touched = SoftFileLock(self.marker), True
            self._wait()
        return self

    def _wait(self) -> None:
        said = False
        while not self._got(PATIENCE if self._timeout is None else self._timeout):
            if self._timeout is not None:
                raise Busy(f"{self.path} is held by another process{self.holder}")
            if not said:
                log.warning("waiting for another process at %s%s", self.path.parent, self.holder)
            said = True

    def _got(self, seconds: float) -> bool:
        from filelock import Timeout

        if self._touched:
            _remove_left(self.marker)
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        return True

    @property
    def holder(self) -> str:
        """A clause on who holds it, as far as that is known; empty where the system knows."""
        try:
            process, host, *_ = self.marker.read_text().split()
        except (OSError, ValueError):
            return ""
        return f" (process {process} on {host}; if it has ended, remove {self.marker})"

    def touch(self) -> None:
        """Show other hosts that this process is at work."""
        if self._touched:
            with suppress(OSError):
                os.utime(self.marker)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "Lock":
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _of_the_system(path: Path) -> Any:
    from filelock import FileLock

    try:
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # filelock 3 has no such choice, and takes the file itself for the lock
        return FileLock(path)


def _remove_left(marker: Path) -> None:
    """Remove the file of a process that has not touched it for long, by the clock of its disk."""
    name = uuid.uuid4().hex
    now, grave = (marker.with_name(f".{name}.{what}.tmp") for what in ("now", "left"))
    with suppress(OSError):
        held_since = marker.stat().st_mtime
        now.touch()
        if now.stat().st_mtime - held_since > LEFT:
            os.replace(marker, grave)  # of several that wait one finds it there
            grave.unlink()
    now.unlink(missing_ok=True)
