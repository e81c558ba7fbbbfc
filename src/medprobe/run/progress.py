"""Progress on stderr: what, how far, how fast, how long still; silent when nothing takes a second."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Reporter:
    """Called as (done, total, what). On a terminal one live line; elsewhere a line after a second, then every ten.

    A timer shows what has been called once and takes its time.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._what: str | None = None
        self._begin = self._said = 0.0
        self._first = 0
        self._live: Any = None
        self._task: Any = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what != self._what:
            self.finish()
            self._what, self._begin, self._said, self._first = what, now, now - 10, done
            if not self.quiet:
                self._timer = threading.Timer(1.0, self._show_first, (done, total, what))
                self._timer.daemon = True
                self._timer.start()
        if self.quiet or now - self._begin < 1:
            return
        with self._lock:
            self._tell(done, total, what, now)

    def _show_first(self, done: int, total: int, what: str) -> None:
        with self._lock:
            if what == self._what and self._live is None and self._said < self._begin:
                self._tell(done, total, what, time.monotonic())

    def _tell(self, done: int, total: int, what: str, now: float) -> None:
        rate = (done - self._first) / (now - self._begin)
        left = (total - done) / rate if rate > 0 else float("inf")
        if sys.stderr.isatty():
            self._show(done, total, what)
        elif now - self._said >= 10:
            self._said = now
            pace = f", {pace_of(rate)}, {clock(left)} left" if rate > 0 else ""
            print(f"{what}: {done}/{total}{pace}", file=sys.stderr, flush=True)

    def _show(self, done: int, total: int, what: str) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._live = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._live.start()
            self._task = self._live.add_task(what, total=total, rate="")
        rate = (done - self._first) / max(time.monotonic() - self._begin, 1e-9)
        self._live.update(self._task, completed=done, total=total, rate=pace_of(rate))

    def finish(self) -> None:
        """Take the live line away; the next call begins anew."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._what = None
            if self._live is not None:
                self._live.stop()
                self._live = self._task = None


@contextmanager
def reporting(quiet: bool = False) -> Iterator[Reporter]:
    reporter = Reporter(quiet)
    try:
        yield reporter
    finally:
        reporter.finish()


def pace_of(rate: float) -> str:
    """4.2/s, or 12 s each where that is less than one in two seconds."""
    return f"{rate:.1f}/s" if rate >= 0.5 or rate <= 0 else f"{1 / rate:.0f} s each"


def clock(seconds: float) -> str:
    """90 → 1:30."""
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(sentence: str) -> None:
    """A line for the user on stderr."""
    print(sentence, file=sys.stderr, flush=True)
