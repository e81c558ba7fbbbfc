"""The scores that single datasets ask for: the same from a run, from its saved tables, and from scoring its predictions as made elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest

import medprobe as mp
from medprobe.registry import DATASETS
from medprobe.run.results import score_keys
from medprobe.run.score import score_predictions
from medprobe.tasks.suites import default_task

ASKED = {
    "endovis18": {"challenge_iou", "isi_iou", "iou", "m_iou", "m_iou.all", "binary_iou", "binary_iou.aggregated"},
    "edd2020": {"dice.present", "dice.aggregated", "iou", "iou.present", "precision", "recall"},
    "msd-liver": {"dice", "dice.organ", "hd95.organ"},
    "autopet2-pet": {"dice.present", "hd95", "precision.present", "recall", "false_positive_volume", "false_negative_volume"},
    "hecktor2022-ct": {"dice", "dice.aggregated_mm3", "dice.tumour", "hd95.tumour", "precision.tumour", "recall.tumour"},
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.filterwarnings("ignore")
def test_run_and_score_give_the_same_keys_and_numbers(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))
    dataset = DATASETS.get(name)
    assert dataset.twin is not None
    folder = tmp_path / "data" / dataset.folders[0]
    folder.mkdir(parents=True)
    dataset.twin(folder, np.random.default_rng(0))
    ran = mp.evaluate("pixels", f"{name}/constant", tmp_path / "data", tmp_path / "out", cache=tmp_path / "cache", image_size=32)
    ours = ran.scores[f"{name}/constant"]["pixels"]
    assert ASKED[name] <= set(ours) <= set(score_keys(dataset, dataset.unit))
    assert ran.results[0]["task"]["config"]["main"] == default_task(dataset, "constant").main in ours
    together = tmp_path / "together"
    together.mkdir()
    for file in (tmp_path / "out" / "predictions").rglob("*"):
        if file.is_file():
            (together / file.name).write_bytes(file.read_bytes())
    score_predictions(f"{name}/elsewhere", together, tmp_path / "scored", "same", tmp_path / "data", lambda done, total, what: None)
    theirs = json.loads(next((tmp_path / "scored").rglob("summary.json")).read_text())["scores"]
    assert theirs == json.loads(next((tmp_path / "out").rglob("summary.json")).read_text())["scores"]
