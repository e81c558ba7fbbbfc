"""One process at a time, on disks with locks and without."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medprobe.features import locks
from medprobe.features.locks import LEFT, Busy, Lock
from medprobe.features.store import Encoding, Entry, collect_garbage

ANSWERS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


@pytest.fixture(params=[None, *ANSWERS], ids=lambda code: "locks" if code is None else errno.errorcode[code])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on a disk that offers locks, or answers every question for one with an error."""
    if request.param is not None:
        without_locks(monkeypatch, request.param)
    return tmp_path


def without_locks(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOLCK) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_lock_is_held_by_one_and_then_by_the_next(disk: Path) -> None:
    with Lock(disk / "a.lock"), pytest.raises(Busy), Lock(disk / "a.lock", timeout=0):
        pass
    with Lock(disk / "a.lock", timeout=0), Lock(disk / "b.lock", timeout=0):
        pass


def test_one_that_waits_gets_the_lock_when_it_is_left(disk: Path) -> None:
    order = []
    first = Lock(disk / "a.lock").acquire()

    def wait() -> None:
        with Lock(disk / "a.lock"):
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    order.append("first")
    first.release()
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_is_left_when_what_it_guards_raises(disk: Path) -> None:
    with pytest.raises(OSError, match="what it guards"), Lock(disk / "a.lock"):
        raise OSError(errno.ENOLCK, "what it guards")
    with Lock(disk / "a.lock", timeout=0):
        pass


def test_a_file_that_a_killed_process_left_holds_nobody_up(tmp_path: Path, monkeypatch) -> None:
    without_locks(monkeypatch)
    program = f"""
import errno, fcntl, os, pathlib, signal
def flock(file, operation):
    raise OSError(errno.ENOLCK, "")
fcntl.flock = flock
from medprobe.features.locks import Lock
with Lock(pathlib.Path({str(tmp_path)!r}) / "a.lock"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (tmp_path / "a.lock.held").exists()
    with Lock(tmp_path / "a.lock", timeout=5):
        pass


def write_marker(folder: Path, age: float, host: str = "another-host") -> Path:
    marker = folder / "a.lock.held"
    marker.write_text(f"{os.getpid()}\n{host}\n")
    then = time.time() - age
    os.utime(marker, (then, then))
    return marker


def test_a_file_of_another_host_counts_until_it_was_not_touched_for_long(
    tmp_path: Path, monkeypatch
) -> None:
    without_locks(monkeypatch)
    write_marker(tmp_path, LEFT - 60)
    with pytest.raises(Busy, match=r"process \d+ on another-host; if it has ended, remove"):
        Lock(tmp_path / "a.lock", timeout=0).acquire()
    write_marker(tmp_path, LEFT + 60)
    with Lock(tmp_path / "a.lock", timeout=1):
        assert socket.gethostname() in (tmp_path / "a.lock.held").read_text()
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]


def test_a_file_that_is_touched_is_not_taken_for_left(tmp_path: Path, monkeypatch) -> None:
    without_locks(monkeypatch)
    with Lock(tmp_path / "a.lock") as lock:
        os.utime(lock.marker, (0, 0))
        lock.touch()
        assert lock.marker.stat().st_mtime > 0


def test_whom_it_waits_for_is_said(tmp_path: Path, monkeypatch, caplog) -> None:
    without_locks(monkeypatch)
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    marker = write_marker(tmp_path, 0)
    threading.Timer(0.5, marker.unlink).start()
    with caplog.at_level(logging.WARNING), Lock(tmp_path / "a.lock"):
        pass
    assert caplog.text.count("on another-host") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_file_is_not_taken_for_one_without_locks(
    tmp_path: Path, monkeypatch, code
) -> None:
    def full(*given: object, **more: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError) as raised:
        Lock(tmp_path / "a.lock").acquire()
    assert raised.value.errno == code


def test_shards_are_planned_and_removed_on_every_disk(disk: Path) -> None:
    encoding = Encoding(disk, {"encoder": "any"})
    shards = encoding.plan([Entry("a", 1), Entry("b", 2)], alone=False)
    assert [shard.planes for shard in shards] == [3]
    with Lock(shards[0].lock):
        assert collect_garbage(disk)[0] == 0
    assert collect_garbage(disk)[0] == 1
    assert not list(disk.rglob("*.held"))
