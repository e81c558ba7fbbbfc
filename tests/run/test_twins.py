"""The twins of the four datasets through `check dataset` and `run`, by their official layouts."""

from pathlib import Path

import numpy as np
import pytest

import medprobe as mp
from medprobe.check.dataset import check_dataset
from medprobe.datasets._layout import locate
from medprobe.imaging.displacements import read_displacement
from medprobe.registry import DATASETS
from medprobe.report.page import write_report
from medprobe.run.score import score_predictions
from medprobe.types import Dataset, Source

NAMES = ("autolaparo", "kvasir-capsule", "nih14", "rsna")


def _checked_twin(data: Path, name: str) -> Dataset:
    """The dataset, of which a twin now lies under `data` and has passed `check dataset`."""
    dataset = DATASETS.get(name)
    assert dataset.twin is not None
    folder = data / (dataset.folders[0] if dataset.folders else name)
    folder.mkdir(parents=True)
    dataset.twin(folder, np.random.default_rng(0))
    assert [finding for finding in check_dataset(dataset, locate(dataset, data)) if not finding.ok] == []
    return dataset


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_twin_passes_its_check_and_runs(tmp_path: Path, name: str) -> None:
    if name == "rsna":
        pytest.importorskip("pydicom")
    dataset = _checked_twin(tmp_path / "data", name)
    found = mp.evaluate("pixels", f"{name}/linear,{name}/constant", tmp_path / "data", tmp_path / "out", cache=tmp_path / "cache")
    folds = 2 if name == "kvasir-capsule" else 1
    assert len(found.results) == 2 * folds
    main = found.results[0]["task"]["config"]["main"]
    score = found.scores[f"{name}/linear"]["pixels"][main]
    assert 0 <= score["value"] <= 1
    assert score["n_cases"] > 0
    assert all(result["cases"]["train"] and result["cases"]["test"] for result in found.results)
    assert all(result["task"]["official_leak"] == dataset.official_leak for result in found.results)
    assert (dataset.official_leak is not None) == (name in ("kvasir-capsule", "rsna"))


def test_the_same_seed_twice_gives_identical_scores(tmp_path: Path) -> None:
    dataset = DATASETS.get("phantom-xray")
    assert dataset.twin is not None
    dataset.twin(tmp_path / "phantom-xray", np.random.default_rng(0))
    options = {"limit": 40, "image_size": 32, "seeds": (3,)}
    one, two = (mp.evaluate("random:timm:resnet10t", "phantom-xray/linear", tmp_path, tmp_path / out, cache=tmp_path / f"cache-{out}", **options) for out in ("a", "b"))
    assert one.results[0]["scores"] == two.results[0]["scores"]
    assert one.results[0]["key"] == two.results[0]["key"]


DENSE = tuple(name for name in DATASETS.names() if DATASETS.get(name).kind == "segmentation" and not name.startswith("phantom"))


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.filterwarnings("ignore")
def test_a_twin_to_segment_passes_its_check_and_runs(tmp_path: Path, name: str) -> None:
    dataset = _checked_twin(tmp_path / "data", name)
    head = f"linear{dataset.dims}d"
    fold = (0,) if dataset.dims == 3 else None
    options: dict = {"image_size": 32, "folds": fold, "settings": {"head.epochs": 1}, "cache": tmp_path / "cache"}
    found = mp.evaluate("pixels", f"{name}/{head}", tmp_path / "data", tmp_path / "out", **options)
    (result,) = found.results
    main = result["task"]["config"]["main"]
    assert result["scores"][main]["n_cases"] + result["scores"][main]["n_undefined"] > 0
    assert result["cases"]["train"]
    assert set(dataset.classes[not dataset.multilabel :]) <= set(result["scores"]["dice"]["per_class"])


@pytest.mark.parametrize("name", ["ctrate", "ctrate-original"])
@pytest.mark.filterwarnings("ignore")
def test_a_twin_of_volumes_to_classify_passes_its_check_and_runs(tmp_path: Path, name: str) -> None:
    _checked_twin(tmp_path / "data", name)
    for planes in ("mean", "max"):
        found = mp.evaluate("pixels", f"{name}/linear,{name}/knn,{name}/constant", tmp_path / "data", tmp_path / planes, cache=tmp_path / "cache", image_size=32, settings={"task.planes": planes})
        assert {task: score["pixels"]["auroc"]["n_cases"] > 0 for task, score in found.scores.items()} == {f"{name}/{head}": True for head in ("linear", "knn", "constant")}


@pytest.mark.parametrize(("name", "unit", "shape"), [("acdc", "mm", (3, 32, 128, 128)), ("camus", "px", (2, 128, 128))])
@pytest.mark.filterwarnings("ignore")
def test_a_twin_to_register_passes_its_check_and_runs(tmp_path: Path, name: str, unit: str, shape: tuple[int, ...]) -> None:
    dataset = _checked_twin(tmp_path / "data", name)
    assert dataset.classes[0] == "background"
    options: dict = {"limit": 6 if name == "camus" else None, "settings": {"head.niter": 4}, "cache": tmp_path / "cache"}
    found = mp.evaluate("pixels", f"{name}/identity,{name}/convexadam", tmp_path / "data", tmp_path / "out", **options)
    before, after = (found.scores[f"{name}/{head}"]["pixels"] for head in ("identity", "convexadam"))
    assert before["dice"]["value"] == before["dice.unregistered"]["value"]
    assert after["dice"]["value"] > before["dice"]["value"]
    assert (after["hd95"]["unit"], after["hd95"]["n_cases"]) == (unit, before["hd95"]["n_cases"])
    fields = list((tmp_path / "out/predictions").rglob("*.disp.nii.gz"))
    assert {read_displacement(Source(file), dims=dataset.dims).shape for file in fields} == {shape}
    write_report(tmp_path / "out", tmp_path / "report")
    assert "Unregistered" in (tmp_path / "report/index.html").read_text()
    if name == "acdc":  # twenty patients, none of them left out: the predictions are whole
        folder = next((tmp_path / "out/predictions/acdc/convexadam").rglob("*.disp.nii.gz")).parent
        (scored,) = score_predictions("acdc/convexadam", folder, tmp_path / "scored", "same", tmp_path / "data", lambda done, total, what: None)
        assert scored["scores"]["dice"] == results_of(found, "acdc/convexadam")["dice"]


def results_of(found: mp.Results, task: str) -> dict:
    return next(document for document in found.results if document["task"]["name"] == task)["scores"]
