"""Where the real sample images are, and the lists of traps and official sources that tests hold."""

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


LISTS = {"traps": "trap", "equalities": "equality"}
"""Option → the marker whose texts it prints."""


def pytest_addoption(parser: pytest.Parser) -> None:
    for option, marker in LISTS.items():
        text = f"print the text of every mark `{marker}` and its test, then stop"
        parser.addoption(f"--{option}", action="store_true", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = [marker for option, marker in LISTS.items() if config.getoption(f"--{option}")]
    if not wanted:
        return
    for marker in wanted:
        found = [(*mark.args, item.nodeid) for item in items for mark in item.iter_markers(marker)]
        lines = (f"{text}  ->  {test.partition('[')[0]}" for text, test in found)
        print(*dict.fromkeys(lines), sep="\n")
    items.clear()


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real sample images; tests that need it skip, with the reason, where it is absent."""
    folder = Path(os.environ.get("MEDPROBE_SAMPLES", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no sample images at {folder}; set MEDPROBE_SAMPLES to the folder that holds them")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def resnet56(samples: Path) -> Path:
    """The file of a small network with real weights, which lie among the samples."""
    return ROOT / "tests" / "resnet56.py"
