"""Cost as work grows: `medprobe run` on 1,000, 10,000 and 100,000 planes, as cases of their own and as one bag.

    python benchmarks/bench_growth.py [--quick | --sizes 1000,10000]

Cases: as many PNG files of 32 x 32, one case each. Bags: one case of so many tiles in a `.npy`, beside seven that share as many again, so that a head has
something to fit. A small real encoder (`test_vit` of timm, random weights) and `logreg`: what is around the encoder weighs as much as it can. Every run is
a process of its own with an empty cache, from the manifest to the table of results; its time, and the memory of the largest of its processes, are what the
system says when it has ended.

Time per plane is what a run takes beyond one of 100 planes, by the planes beyond those: start-up is left out. It and the peak memory should be the same
whatever the size, within 15 %. At 1,000 planes a run is mostly start-up, whose jitter is as large as what is measured: that time is drawn, and not compared.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from _bench import note, parser, row

SIZES = (1_000, 10_000, 100_000)
TINY = 100
"""Planes of the run that stands for start-up."""
SIDE = 32
BAGS = 8
LARGE = 5_000
"""From here on a run takes longer than its start-up."""
REPEATS = 3
"""Runs of each size but the largest, whose time is start-up for the most part; the fastest counts."""
MODEL = "random:timm:test_vit"
GOAL = 1.15
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "performance-growth.png"
INK, SOFT, ACCENT = "#1f2933", "#8795a1", "#2b6cb0"


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds, and the peak of its largest process in MB."""

    planes: int
    seconds: float
    memory: float


@dataclass(frozen=True)
class Point:
    """Of the figure: seconds per plane beyond start-up, and the peak in MB."""

    planes: int
    seconds: float
    memory: float


def write_manifest(folder: Path, dims: int, rows: Sequence[tuple[str, str, str, str]]) -> Path:
    """A manifest of two classes; a row is (id, part, image, class), every case a patient of its own."""
    lines = ["id,patient,split,image,target", *(f"{name},{name},{part},{image},{target}" for name, part, image, target in rows)]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    path = folder / "growth.toml"
    path.write_text(f'name = "growth"\nkind = "classification"\ndims = {dims}\nclasses = ["plain", "marked"]\n')
    return path


def tiles(rng: np.random.Generator, count: int, marked: bool) -> np.ndarray:
    """Grey noise; of the second class with a brighter corner."""
    made = rng.integers(0, 200, (count, SIDE, SIDE), np.uint8)
    if marked:
        made[:, : SIDE // 2, : SIDE // 2] += 40
    return made


def write_cases(folder: Path, planes: int) -> tuple[Path, int]:
    """One PNG and one case for each plane: 6 of 10 to train, 2 to validate, 2 to test. The manifest, and how many planes."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(planes):
        name, target = f"{number:06d}", number % 2
        Image.fromarray(tiles(rng, 1, bool(target))[0]).save(folder / "images" / f"{name}.png", compress_level=1)
        rows.append((name, ("train", "train", "train", "val", "test")[number // 2 % 5], f"images/{name}.png", ("plain", "marked")[target]))
    return write_manifest(folder, 2, rows), planes


def write_bags(folder: Path, planes: int) -> tuple[Path, int]:
    """A bag of all the planes and seven that share as many."""
    rng = np.random.default_rng(0)
    rows, total = [], 0
    for number in range(BAGS):
        name, count, target = f"bag{number}", planes if number == 0 else planes // (BAGS - 1), number % 2
        np.save(folder / f"{name}.npy", tiles(rng, count, bool(target)))
        rows.append((name, ("train", "train", "val", "test")[number // 2], f"{name}.npy", ("plain", "marked")[target]))
        total += count
    return write_manifest(folder, 3, rows), total


def run(manifest: Path, folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of a run with an empty cache, and without any output of an earlier one."""
    command = [sys.executable, "-m", "medprobe", "run", "-m", MODEL, "-t", f"{manifest}/logreg", "-o", str(folder / "out"), "--cache", str(folder / "cache"), "--image-size", str(SIDE), "--device", "cpu"]
    with open(folder / "said.txt", "w+") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"the run of {manifest.name} failed:\n{said.read()}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def cost(write: Callable[[Path, int], tuple[Path, int]], planes: int) -> Cost:
    """The fastest of the runs of one size, with the peak of that one."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, total = write(Path(folder), planes)
        found = []
        for number in range(REPEATS if planes < SIZES[-1] else 1):
            own = Path(folder) / f"run{number}"
            own.mkdir()
            found.append(run(manifest, own))
    return Cost(total, *min(found))


def growth(name: str, write: Callable[[Path, int], tuple[Path, int]], sizes: Sequence[int]) -> list[Point]:
    """Rows of time and memory, and a note of every size."""
    start = cost(write, TINY)
    points = []
    for planes in sizes:
        found = cost(write, planes)
        points.append(Point(found.planes, (found.seconds - start.seconds) / (found.planes - start.planes), found.memory))
        print(f"{name}: {found.planes:,} planes in {found.seconds:.1f} s, {found.memory:.0f} MB", flush=True)
    first, last = points[0], points[-1]
    times = [point.seconds for point in points if point.planes >= LARGE]
    compared = " and ".join(f"{point.planes:,}" for point in points if point.planes >= LARGE)
    row(f"{name}: time per plane at {compared}, start-up left out", "the least of them", max(times) / min(times), goal=GOAL, at_most=True, limit=f"{1e3 * last.seconds:.2f} ms a plane at {last.planes:,}")
    row(f"{name}: peak memory at {last.planes:,} planes", f"that at {first.planes:,}", last.memory / first.memory, goal=GOAL, at_most=True, limit=f"{last.memory:.0f} MB against {first.memory:.0f} MB")
    said = "; ".join(f"{point.planes:,} planes {1e3 * point.seconds:.2f} ms each, {point.memory:.0f} MB" for point in points)
    note(f"{name.capitalize()}: start-up (a run of {start.planes} planes) {start.seconds:.1f} s, {start.memory:.0f} MB; {said}.")
    return points


def draw(series: dict[str, list[Point]], path: Path) -> None:
    """Two panels, time per plane and peak memory, each from zero so that flat looks flat."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: Any = {"font.family": "sans-serif", "font.size": 9, "axes.edgecolor": SOFT, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(1, 2, figsize=(7.6, 2.9), layout="constrained")
        for axis, name, factor, label in ((axes[0], "seconds", 1e3, "ms per plane, without start-up"), (axes[1], "memory", 1.0, "peak memory (MB)")):
            for (kind, points), colour, mark in zip(series.items(), (ACCENT, SOFT), "os", strict=True):
                axis.plot([point.planes for point in points], [factor * getattr(point, name) for point in points], f"{mark}-", color=colour, ms=5, label=kind)
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda planes, _: f"{planes:,.0f}")
            axis.margins(y=0.1)
            axis.set_ylim(bottom=0)
            axis.set_xlabel("planes")
            axis.set_ylabel(label)
            axis.grid(axis="y", color="#e4e7eb", lw=0.8)
            axis.set_axisbelow(True)
        axes[1].legend(frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None})
        pyplot.close(figure)


def main() -> None:
    options = parser(__doc__, "1,000 and 5,000 planes")
    options.add_argument("--sizes", help="planes, smallest first; the figure is drawn for the usual sizes only")
    asked = options.parse_args()
    sizes = tuple(int(size) for size in asked.sizes.split(",")) if asked.sizes else (1_000, 5_000) if asked.quick else SIZES
    series = {name: growth(name, write, sizes) for name, write in (("cases of one plane", write_cases), ("bags, half of the planes in one", write_bags))}
    if sizes == SIZES:
        draw(series, FIGURE)


if __name__ == "__main__":
    main()
