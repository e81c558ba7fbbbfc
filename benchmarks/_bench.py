"""What every benchmark shares: runs in turns, ratios of pairs, peak memory, and the rows and notes of docs/performance.md.

A benchmark says its results with `row` and `note`, which print them; `python benchmarks` (this folder) runs them all and writes the page.
Its docstring begins with its heading on the page, up to the first colon or the end of that line. A picture it writes to
docs/images/performance-<name>.png or .svg (or performance-<name>-<more>) stands below its table.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

ROUNDS = 7
ROWS = "MEDPROBE_BENCH_ROWS"
"""Environment variable: the file that rows are added to, one JSON object a line."""
HOLDS = 0.85
"""The share of a goal from which on it counts as held."""


@dataclass(frozen=True)
class Pairs:
    """Ours and theirs, timed in turns: median seconds, the ratios theirs / ours of the pairs, and what each returned last."""

    ours: float
    theirs: float
    ratios: tuple[float, ...]
    mine: Any
    other: Any

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)

    def __str__(self) -> str:
        return f"{self.ours:.3g} s against {self.theirs:.3g} s"


def inverse(spread: tuple[float, float]) -> tuple[float, float]:
    """The range of the inverse of a ratio."""
    return 1 / spread[1], 1 / spread[0]


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = ROUNDS, warm: bool = True) -> Pairs:
    """Run both `rounds` times, who goes first changing from pair to pair; `warm`: once before that, untimed."""
    if warm:
        ours(), theirs()
    times: list[tuple[float, float]] = []
    found: list[Any] = [None, None]
    for turn in range(rounds):
        pair = [0.0, 0.0]
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            found[side] = None
            begin = time.perf_counter()
            result = (ours, theirs)[side]()
            pair[side] = time.perf_counter() - begin
            found[side] = result
            del result
        times.append((pair[0], pair[1]))
    mine, other = (statistics.median(side) for side in zip(*times, strict=True))
    return Pairs(mine, other, tuple(b / a for a, b in times), *found)


@dataclass(frozen=True)
class Row:
    """A line of the table. `value` is a ratio; `goal` what it should be: at least, or at most where `at_most`; None: none was set."""

    job: str
    peer: str
    value: float
    goal: float | None
    at_most: bool
    spread: tuple[float, float] | None
    equality: str
    limit: str

    @property
    def held(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal / HOLDS if self.at_most else self.value >= self.goal * HOLDS

    @property
    def met(self) -> bool | None:
        """Whether the goal is held without what is allowed for."""
        return None if self.goal is None else self.value <= self.goal if self.at_most else self.value >= self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f", {self.aim}: {'held' if self.met else f'held, by the rule of {HOLDS:g}' if self.held else 'NOT held'}"
        return f"{self.job} | {self.peer} | {self.ratio}{goal} | {self.equality} | {self.limit}"

    @property
    def ratio(self) -> str:
        """`31 x`, how many times longer theirs takes, or `1.1 of it`, what share of it ours takes; with the range."""
        spread = f" ({digits(self.spread[0])} to {digits(self.spread[1])})" if self.spread else ""
        return f"{digits(self.value)} {'of it' if self.at_most else 'x'}{spread}"

    @property
    def aim(self) -> str:
        return "" if self.goal is None else f"at {'most' if self.at_most else 'least'} {self.goal:g}"


def digits(value: float) -> str:
    """Three digits, and more only before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(
    job: str, peer: str, value: float, *, goal: float | None = None, at_most: bool = False,
    spread: tuple[float, float] | None = None, equality: str = "", limit: str = "",
) -> Row:  # fmt: skip
    """Say a result: on the terminal, and in the file of `ROWS` where there is one.

    `job` what was done, at what size. `peer` what a user would pick instead, or the limit it is held against. `value` theirs / ours
    (`at_most`: ours / theirs). `equality` how far the results are apart. `limit` where the time goes, or what bounds it.
    """
    made = Row(job, peer, float(value), goal, at_most, spread if spread and spread[0] < spread[1] else None, equality, limit)
    print(made, flush=True)
    _keep(asdict(made))
    return made


def note(text: str) -> None:
    """Say a paragraph (Markdown) for below the table of this benchmark: on the terminal, and in the file of `ROWS` where there is one."""
    print(text, flush=True)
    _keep({"note": text})


def _keep(record: dict[str, Any]) -> None:
    if path := os.environ.get(ROWS):
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")


def parser(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """The options every benchmark has: `--quick`, with what it leaves out."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"for trying: {quick}")
    return made


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found


def alone(function: Callable[..., Any], *args: Any, **environment: str) -> Any:
    """What `function(*args)` returns in a fresh process, whose memory and first calls are its own."""
    with mock.patch.dict(os.environ, {"PYTHONWARNINGS": "ignore", **environment}), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def high_water() -> int:
    """The largest resident size of this process so far, in bytes (Linux; elsewhere ru_maxrss, which a child may inherit)."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
