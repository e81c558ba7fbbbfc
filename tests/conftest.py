"""Shared fixtures: where the real sample images are, and the list of dataset traps that tests cover."""

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--traps", action="store_true", help="print the list of dataset traps and the test of each, then stop")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--traps"):
        return
    for item in items:
        for mark in item.iter_markers("trap"):
            print(f"{mark.args[0]}  ->  {item.nodeid}")
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
