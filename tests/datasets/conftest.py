"""The twin of a test module's `DATASET`, written once, and a copy of it for each test to damage."""

import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    twin, folder = request.module.DATASET.twin, tmp_path_factory.mktemp("twin")
    assert twin is not None
    twin(folder, np.random.default_rng(0))
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))
