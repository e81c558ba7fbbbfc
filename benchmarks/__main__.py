"""Runs the benchmarks of this folder and writes docs/performance.md.

    python benchmarks [name ...] [--quick | --page]

`name` is that of bench_<name>.py; without names all run. What a benchmark says is kept in rows.json and replaces what it said before, unless it
fails; the page is made from rows.json and the pictures docs/images/performance-*.
"""

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from _bench import HOLDS, ROUNDS, ROWS, Row

HERE = Path(__file__).resolve().parent
KEPT = HERE / "rows.json"
PAGE = HERE.parent / "docs" / "performance.md"
COLUMNS = ("Job", "Beside", "Ratio (range)", "Goal", "Held", "Equality", "Limit, times")
HOW = f"""# Performance

Speed and memory of medprobe beside what people use, as `python benchmarks` measures them. Ours and a peer run in turns in one process, on the same input and
threads, who goes first changing from pair to pair; a ratio is the median over {ROUNDS} pairs where a job says no other number, with the lowest and the highest in
brackets. Peers are run as a careful user would: libraries loaded, inputs in the form they want, outputs compared. `31 x` says that the peer takes 31 times as
long as ours, `1.1 of it` that ours takes 1.1 times what stands beside it. A goal of at least g counts as held from {HOLDS:g} g on, one of at most g up to g / {HOLDS:g}: "nearly" where it is not met as it stands.
"""


def benchmarks() -> dict[str, Path]:
    return {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}


def heading(path: Path) -> str:
    """The first line of a docstring, up to its colon or full stop."""
    line = (ast.get_docstring(ast.parse(path.read_text())) or path.stem).splitlines()[0]
    return line.partition(": ")[0].rstrip(".:")


def machine() -> str:
    import torch

    about = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in about.read_text().splitlines() if line.startswith("model name")] if about.exists() else []
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {(threads := torch.get_num_threads())} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def run(path: Path, quick: bool) -> dict[str, Any] | None:
    """What a benchmark says, or None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.touch()
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, str(path), *["--quick"] * quick], env={**os.environ, ROWS: str(file)})
        seconds = round(time.perf_counter() - begin)
        said = [json.loads(line) for line in file.read_text().splitlines()]
    if done.returncode:
        return None
    rows, notes = [one for one in said if "note" not in one], [one["note"] for one in said if "note" in one]
    return {"heading": heading(path), "date": date.today().isoformat(), "machine": machine(), "seconds": seconds, "rows": rows, "notes": notes}


def read() -> dict[str, dict[str, Any]]:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(name: str, said: dict[str, Any]) -> None:
    kept = {**read(), name: said}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def page(kept: dict[str, dict[str, Any]], images: list[str]) -> str:
    """The page, of what is kept and of the names of the pictures."""
    if not kept:
        return f"{HOW}\nNothing has been measured yet: `make bench` does it.\n"
    return "\n".join([HOW, summary(kept), *(section(name, said, images) for name, said in sorted(kept.items()))])


def summary(kept: dict[str, dict[str, Any]]) -> str:
    rows = [Row(**row) for said in kept.values() for row in said["rows"]]
    goals = [row for row in rows if row.held is not None]
    missed, nearly = [row for row in goals if not row.held], sum(row.held and not row.met for row in goals)
    named = "".join(f"\n- {row.job}, beside {row.peer}: {row.ratio}, goal {row.aim}" for row in missed)
    said = f", {nearly} of them nearly" if nearly else ""
    return f"{len(goals) - len(missed)} of {len(goals)} goals are held{said}{'; not held:' if missed else '.'}\n{named}{chr(10) * bool(missed)}"


def section(name: str, said: dict[str, Any], images: list[str]) -> str:
    about = f"`python benchmarks {name}`, {said['date']}, {said['seconds']} s. {said['machine']}."
    pictures = [f"![{said['heading']}](images/{image})" for image in images if image.startswith((f"performance-{name}.", f"performance-{name}-"))]
    parts = [f"## {said['heading']}", about, table([Row(**row) for row in said["rows"]]), *said["notes"], *pictures]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: list[Row]) -> str:
    if not rows:
        return ""
    words = {(True, True): "yes", (True, False): "nearly", (False, False): "**no**", (None, None): ""}
    lines = [COLUMNS, ["---"] * len(COLUMNS), *((row.job, row.peer, row.ratio, row.aim, words[row.held, row.met], row.equality, row.limit) for row in rows)]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write_page() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(read(), pictures()))


def pictures() -> list[str]:
    return sorted(path.name for path in (PAGE.parent / "images").glob("performance-*") if path.suffix in (".png", ".svg"))


def main() -> int:
    there = benchmarks()
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(there))
    parser.add_argument("--quick", action="store_true", help="for trying: little data and few pairs, for which the goals are not meant; neither rows.json nor the page changes")
    parser.add_argument("--page", action="store_true", help="write the page from rows.json, and run nothing")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in there]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(there)}")
    failed = []
    for name in () if asked.page else asked.names or there:
        print(f"== {name}", flush=True)
        said = run(there[name], asked.quick)
        if said is None:
            failed.append(name)
        elif not asked.quick:
            keep(name, said)
            write_page()
    if asked.page:
        write_page()
    if failed:
        print(f"failed, and left as they were: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
