"""The example of docs/add-an-encoder.md is short, and it runs as printed."""

import re
from pathlib import Path

from medprobe.check.encoder import check_encoder
from medprobe.encoders import load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-an-encoder.md"


def test_the_example_is_at_most_15_lines_without_imports_and_conforms(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[0]
    lines = [line for line in example.splitlines() if line.strip() and not re.match(r"(import|from)\b", line)]
    assert len(lines) <= 15
    (tmp_path / "stripes.py").write_text(example)
    encoder = load(f"{tmp_path / 'stripes.py'}:make_encoder", seed=1)
    assert [finding for finding in check_encoder(encoder) if not finding.ok] == []


def test_the_object_conforms_and_no_precision_changes_it(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[1]
    (tmp_path / "own.py").write_text(example)
    for precision in ("fp32", "bf16"):
        encoder = load(f"{tmp_path / 'own.py'}:Stripes", precision=precision)
        assert [finding for finding in check_encoder(encoder) if not finding.ok] == []
