"""The command line as a user types it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def medprobe() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`medprobe(folder, *words, status=0)` runs the command there; it ends with that status and without a traceback."""

    def run(home: Path, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=home, timeout=280)
        assert ended.returncode == status, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    return run
