"""The other verbs as a user meets them: features for use elsewhere, someone else's predictions, and what a cache holds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medprobe import load_encoder

CASES = 24


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The manifest of 24 patients in two folds; the corner of every second picture is brighter."""
    rng = np.random.default_rng(0)
    rows = ["id,patient,fold,image,target"]
    for number in range(CASES):
        pixels = rng.integers(60, 120, (32, 32, 3))
        pixels[:8, :8] += 25 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number:02d}.png")
        rows.append(f"c{number},p{number},{number // 2 % 2},{number:02d}.png,{('dark', 'light')[number % 2]}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "toy.toml").write_text('name = "toy"\nkind = "classification"\nclasses = ["dark", "light"]\n')
    return tmp_path / "toy.toml"


def medprobe(toy: Path, *words: object, status: int = 0) -> str:
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=toy.parent, timeout=120)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout if status == 0 else ended.stderr


@pytest.mark.parametrize("form", ["npy", "parquet", "h5"])
def test_encoded_features_are_those_of_the_encoder_itself(toy: Path, form: str) -> None:
    pytest.importorskip("timm")
    said = json.loads(medprobe(toy, "encode", "-m", "random:timm:test_vit", "--images", ".", "-o", "features", "--format", form, "--cache", "cache", "--json"))
    assert (said["cases"], said["dim"], said["columns"]) == (CASES, 128, {"cls": 64, "patch_mean": 64})
    ids = json.loads((toy.parent / "features/features.json").read_text())["ids"]
    file = toy.parent / f"features/features.{form}"
    if form == "npy":
        rows = np.load(file)
    elif form == "parquet":
        table = pd.read_parquet(file)
        assert table["case"].tolist() == ids
        rows = table.drop(columns="case").to_numpy()
    else:
        import h5py

        with h5py.File(file) as stored:
            rows, names = stored["features"][:], [name.decode() for name in stored["ids"][:]]
        assert names == ids
    size = said["encoding"]["size"]
    planes = np.stack([np.asarray(Image.open(toy.parent / name).resize(size, Image.Resampling.BICUBIC), np.float32) / 255 for name in ids]).transpose(0, 3, 1, 2)
    from medprobe.run.loading import child_seed

    features = load_encoder("random:timm:test_vit", seed=child_seed(0, "encoder"))(planes)
    expected = np.concatenate([np.asarray(features.cls), np.asarray(features.patch_mean)], axis=1)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_a_task_is_encoded_case_by_case_and_a_wrong_request_is_refused(toy: Path) -> None:
    said = json.loads(medprobe(toy, "encode", "-m", "mean-rgb", "-t", "toy.toml/logreg", "-o", "features", "--cache", "cache", "--json"))
    assert (said["cases"], said["columns"]) == (CASES, {"cls": 3, "patch_mean": 3})
    document = json.loads((toy.parent / "features/features.json").read_text())
    assert sorted(document["ids"]) == sorted(f"c{number}" for number in range(CASES))
    means = [np.asarray(Image.open(toy.parent / f"{number:02d}.png"), np.float64).mean(axis=(0, 1)) / 255 for number in (int(name[1:]) for name in document["ids"])]
    np.testing.assert_allclose(np.load(toy.parent / "features/features.npy")[:, :3], means, atol=2e-4)
    assert "either --task or --images" in medprobe(toy, "encode", "-m", "mean-rgb", "-o", "features", status=2)


def test_scoring_the_predictions_of_a_run_gives_its_scores(toy: Path) -> None:
    medprobe(toy, "run", "-m", "pixels", "-t", "toy.toml/logreg", "-o", "out", "--cache", "cache")
    folder = toy.parent / "out/results/toy/logreg/pixels"
    medprobe(toy, "score", "-t", "toy.toml/logreg", "--predictions", folder, "-o", "scored", "--name", "someone else")
    ours, theirs = (json.loads(next((toy.parent / out).rglob("summary.json")).read_text())["scores"] for out in ("out", "scored"))
    assert ours == theirs

    file = folder / "seed0-fold0.predictions.parquet"
    table = pd.read_parquet(file)
    pd.concat([table.iloc[1:], table.iloc[-1:], table.iloc[-1:].assign(case="c99")]).to_parquet(file)
    said = medprobe(toy, "score", "-t", "toy.toml/logreg", "--predictions", folder, "-o", "again", "--name", "x", status=2)
    for fault in ("1 missing (", "1 that are not test cases (c99)", "1 given twice ("):
        assert fault in said


def test_a_cache_is_listed_and_cleaned_and_its_budget_changes_no_score(toy: Path) -> None:
    medprobe(toy, "run", "-m", "pixels", "-t", "toy.toml/logreg", "-o", "out", "--cache", "cache")
    rows = json.loads(medprobe(toy, "cache", "ls", "--cache", "cache", "--json"))
    assert [(row["encoder"], row["planes"]) for row in rows] == [("pixels", CASES), ("decoded planes", CASES)]
    medprobe(toy, "run", "-m", "pixels", "-t", "toy.toml/logreg", "-o", "streamed", "--cache", "none", "--cache-budget", "1KB")
    assert not list((toy.parent / "none").rglob("*.npy")), "what exceeds the budget is not stored"
    stored, streamed = (json.loads(next((toy.parent / out).rglob("summary.json")).read_text())["scores"] for out in ("out", "streamed"))
    assert stored == streamed
    for shard in (toy.parent / "cache").rglob("shard.json"):
        shard.write_text("{}")
    assert "FAULT" not in medprobe(toy, "cache", "gc", "--cache", "cache")
    assert json.loads(medprobe(toy, "cache", "ls", "--cache", "cache", "--json")) == []


@pytest.mark.parametrize("form", ["npy", "parquet", "h5"])
def test_what_encode_wrote_is_read_back_as_features(toy: Path, form: str) -> None:
    medprobe(toy, "encode", "-m", "mean-rgb", "-t", "toy.toml/logreg", "-o", "features", "--format", form, "--cache", "cache")
    medprobe(toy, "run", "-m", "features:features,mean-rgb", "-t", "toy.toml/logreg", "-o", "out", "--cache", "cache")
    direct, stored = (json.loads(file.read_text())["scores"]["auroc"] for file in sorted((toy.parent / "out").rglob("summary.json"), key=lambda file: "features" in str(file)))
    assert direct["value"] == pytest.approx(stored["value"])
    cases = toy.parent / "cases.csv"
    cases.write_text(cases.read_text() + "c99,p99,0,00.png,dark\n")
    assert "found none for 1 (first c99)" in medprobe(toy, "run", "-m", "features:features", "-t", "toy.toml/logreg", "-o", "more", "--cache", "cache", status=3)
