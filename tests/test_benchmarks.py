"""The page of the benchmarks: made from its rows, up to date, and the only place where something is timed."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
CLOCKS = {"perf_counter", "monotonic", "process_time", "thread_time", "time", "default_timer"}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("medprobe_benchmarks", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(job: str, value: float, goal: float | None = None, **more: Any) -> dict[str, Any]:
    return {"job": job, "peer": "a loop", "value": value, "goal": goal, "at_most": False, "spread": None, "equality": "", "limit": "", **more}


def said(*rows: dict[str, Any], notes: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"heading": "Sums", "date": "2026-01-31", "machine": "a CPU, 2 cores", "seconds": 9, "rows": list(rows), "notes": list(notes)}


def test_the_page_says_ratio_goal_and_in_words_whether_it_is_held(benchmarks: ModuleType) -> None:
    rows = row("fast", 31.2, 25, spread=[30, 33.4], equality="mean |a - b| 0"), row("near", 6.9, 8), row("slow", 6.7, 8), row("large", 1.5, 1.25, at_most=True), row("free", 1234.5)
    text = benchmarks.page({"sums": said(*rows, notes=("Sums are exact.",))}, ["performance-sums.png", "performance-sums-more.svg", "performance-sumsets.png"])
    assert r"| fast | a loop | 31.2 x (30 to 33.4) | at least 25 | yes | mean \|a - b\| 0 |  |" in text
    assert "| near | a loop | 6.9 x | at least 8 | nearly |" in text
    assert "| slow | a loop | 6.7 x | at least 8 | **no** |" in text
    assert "| large | a loop | 1.5 of it | at most 1.25 | **no** |" in text
    assert "| free | a loop | 1234 x |  |  |" in text
    assert "2 of 4 goals are held, 1 of them nearly; not held:\n\n- slow, beside a loop: 6.7 x, goal at least 8\n- large" in text
    assert "`python benchmarks sums`, 2026-01-31, 9 s. a CPU, 2 cores." in text
    assert "\n\nSums are exact.\n\n![Sums](images/performance-sums.png)\n\n![Sums](images/performance-sums-more.svg)\n" in text
    assert "sumsets" not in text


def test_a_benchmark_that_fails_leaves_its_rows_and_those_that_do_not_replace_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("__main__.py", "_bench.py"):
        shutil.copy(FOLDER / name, folder / name)
    (folder / "bench_bad.py").write_text('from _bench import row\n\nrow("bad", "a loop", 9)\nassert False, "results differ"\n')
    (folder / "bench_good.py").write_text('"""Good: it is."""\n\nfrom _bench import note, row\n\nrow("good", "a loop", 2, goal=2)\nnote("Nothing else.")\n')
    (folder / "rows.json").write_text(json.dumps({"bad": said(row("bad", 5)), "good": said(row("good", 1)), "other": said(row("other", 3))}))
    done = subprocess.run([sys.executable, folder], capture_output=True, text=True)
    assert done.returncode == 1
    assert "results differ" in done.stderr
    assert "failed, and left as they were: bad" in done.stderr
    kept = json.loads((folder / "rows.json").read_text())
    assert {name: [one["value"] for one in each["rows"]] for name, each in kept.items()} == {"bad": [5], "good": [2], "other": [3]}
    assert (kept["good"]["heading"], kept["good"]["notes"]) == ("Good", ["Nothing else."])
    page = (tmp_path / "docs" / "performance.md").read_text()
    assert "## Good" in page
    assert "| bad | a loop | 5 x |" in page
    before = page, (folder / "rows.json").read_text()
    (folder / "bench_bad.py").unlink()
    (folder / "bench_good.py").write_text('import sys\n\nfrom _bench import row\n\nrow("good", "a loop", 7)\nassert sys.argv[1:] == ["--quick"]\n')
    assert subprocess.run([sys.executable, folder, "good", "--quick"]).returncode == 0
    assert before == ((tmp_path / "docs" / "performance.md").read_text(), (folder / "rows.json").read_text())


def test_the_page_is_that_of_the_rows(benchmarks: ModuleType) -> None:
    assert benchmarks.PAGE.read_text() == benchmarks.page(benchmarks.read(), benchmarks.pictures()), "docs/performance.md is not what rows.json says; run `python benchmarks --page`"


def spans(node: ast.AST) -> bool:
    """Whether a difference with a reading of a clock is taken in it."""
    differences = (part for part in ast.walk(node) if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub))
    calls = (part.func for difference in differences for part in ast.walk(difference) if isinstance(part, ast.Call))
    return any((func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")).removesuffix("_ns") in CLOCKS for func in calls)


def timed_asserts(tree: ast.AST) -> list[int]:
    """Lines of the asserts on a span of time, or on a name that was given one; a deadline of a wait is none."""
    names = {name.id for node in ast.walk(tree) if isinstance(node, ast.Assign) and spans(node.value) for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    return [test.lineno for test in tests if spans(test) or any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(test))]


def test_an_assert_on_time_is_found() -> None:
    assert timed_asserts(ast.parse("begin = time.perf_counter()\nwork()\nassert time.perf_counter() - begin < 5")) == [3]
    assert timed_asserts(ast.parse("begin = monotonic_ns()\nspan = monotonic_ns() - begin\nassert span < 5")) == [3]
    assert timed_asserts(ast.parse("end = time.monotonic() + 60\nassert time.monotonic() < end\nassert a - b < 5")) == []


def test_no_test_asserts_how_long_something_takes() -> None:
    found = {str(path.relative_to(ROOT)): timed_asserts(ast.parse(path.read_text())) for path in sorted((ROOT / "tests").rglob("*.py"))}
    assert not {path: lines for path, lines in found.items() if lines}, "tests time nothing: a statement about speed is a row of a benchmark"
