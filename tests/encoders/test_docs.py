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
