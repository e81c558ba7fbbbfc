"""`medprobe demo` prints what the README shows, and its page holds the controls against the encoders."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
ROW = re.compile(r"│\s*(\S*)\s*│ (\S+(?: \(control\))?)\s*│ auroc\s*│\s+([\d.]+) \[([\d.]+), ([\d.]+)\](?: †)? │\s*(\d+) │\s*(\d+) │")


def rows(text: str) -> list[tuple[str, ...]]:
    return [match.groups() for match in map(ROW.match, text.splitlines()) if match]


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-m", "medprobe", "demo", "--out", tmp_path / "demo"], capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr
    printed, shown = rows(ended.stdout), rows(README.read_text())
    assert len(shown) == 16
    # models of nearly equal score may change places with the processor's rounding
    assert {row[:2] + row[5:] for row in printed if row[0]} == {row[:2] + row[5:] for row in shown if row[0]}
    for mine, theirs in zip(printed, shown, strict=True):
        assert mine[1] == theirs[1]
        assert [float(number) for number in mine[2:5]] == pytest.approx([float(number) for number in theirs[2:5]], abs=0.02)
    facts = json.loads((tmp_path / "demo/report/report.json").read_text())
    assert facts["counts"] == {"done": 16, "failed": 0, "missing": 0}
    assert facts["flags"] == [], "the probes find what the controls cannot"
    assert "Untrained:" in (tmp_path / "demo/report/index.html").read_text()
