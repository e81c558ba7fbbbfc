"""A fit goes on from a checkpoint of its own cell only."""

from pathlib import Path

import numpy as np

from medprobe.run.run import _Checkpoint
from medprobe.types import State


def test_what_was_kept_for_another_cell_is_not_gone_on_from(tmp_path: Path) -> None:
    kept = _Checkpoint(tmp_path / "c.safetensors", "one", [].append)
    assert kept.load() is None
    kept.save(State({"weights": np.ones(3)}, {"epochs": 4}))
    found = kept.load()
    assert found is not None
    assert (found.meta["epochs"], found.tensors["weights"].tolist()) == (4, [1, 1, 1])
    assert _Checkpoint(tmp_path / "c.safetensors", "labels corrected", [].append).load() is None


def test_progress_that_cannot_be_kept_is_a_warning_and_the_fit_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    _Checkpoint(tmp_path / "file" / "c.safetensors", "one", said.append).save(State({"w": np.zeros(2)}, {}))
    assert "progress of the fit could not be kept" in said[0]
