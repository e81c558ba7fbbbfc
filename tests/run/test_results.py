"""Result files: their names, their keys, NaN as null, folds and seeds."""

import json
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.files import dump_json
from medprobe.metrics import stats
from medprobe.run import results


def test_names_of_files_are_safe_and_tell_models_apart() -> None:
    assert results.stem("nih14", "linear", "dinov3-s", {}, 0, None) == "nih14/linear/dinov3-s/seed0"
    assert results.stem("d", "knn", "m", {"limit": 5, "image-size": 64}, 2, 1) == "d/knn/m@image-size=64,limit=5/seed2-fold1"
    odd = [results.safe_name(text) for text in ("../../x", "a/b", "a:b", "é" * 400, "a" * 201, "a" * 202)]
    assert len(set(odd)) == 6
    assert all("/" not in name and len(name) < 200 for name in odd)


def test_a_file_of_another_question_is_named_and_kept(tmp_path: Path) -> None:
    facts = {"seed": 0, "task": {"image_size": 256}}
    results.write_result(tmp_path / "s", {"schema": 1, "key": results.key_of(facts), "status": "done", "facts": facts, "cases": {"unreadable": ["c1: damaged"]}})
    assert not results.finished(tmp_path / "s", facts, 1), "its predictions are not there"
    for part in ("cases", "predictions"):
        (tmp_path / f"s.{part}.parquet").touch()
    assert results.finished(tmp_path / "s", facts, 1)
    assert not results.finished(tmp_path / "s", facts), "an unreadable case was allowed then, and is not now"
    with pytest.raises(RequestError, match=r"task\.image_size was 256, is now 512"):
        results.finished(tmp_path / "s", {"seed": 0, "task": {"image_size": 512}})


def test_nan_is_written_as_null() -> None:
    assert json.loads(dump_json({"a": float("nan"), "b": [np.float64("inf"), 1.5]})) == {"a": None, "b": [None, 1.5]}


def cell(folder: Path, seed: int, fold: int, rng: np.random.Generator) -> results.Predictions:
    target = np.arange(30) % 2
    prob = np.clip(0.5 + 0.3 * (target - 0.5) + rng.normal(0, 0.2, 30), 0, 1)
    ids = np.array([f"c{fold}-{n}" for n in range(30)])
    predictions = results.Predictions(ids, np.array([f"p{fold}-{n // 2}" for n in range(30)]), target, np.stack([1 - prob, prob], axis=1))
    path = folder / f"seed{seed}-fold{fold}"
    predictions.save(path, ["no", "yes"])
    task = {"kind": "classification", "name": "d/h", "dataset": "d", "head": "h", "classes": ["no", "yes"], "multilabel": False, "unit": "case"}
    results.write_result(path, {"schema": 1, "status": "done", "seed": seed, "fold": fold, "task": task, "model": {"name": "m"}})
    return predictions


def test_folds_are_averaged_within_a_seed_and_seeds_are_mean_and_sd(tmp_path: Path, rng: np.random.Generator) -> None:
    made = {(seed, fold): cell(tmp_path, seed, fold, rng) for seed in (0, 1) for fold in (0, 1)}
    summary = results.write_summary(tmp_path)
    assert summary is not None
    score = summary["scores"]["auroc"]
    measure = {place: one.measure(["no", "yes"], False, "case") for place, one in made.items()}
    per_seed = [np.mean([measure[seed, fold].scores(["auroc"])["auroc"].value for fold in (0, 1)]) for seed in (0, 1)]
    assert score["per_seed"] == pytest.approx(per_seed)
    assert score["value"] == pytest.approx(np.mean(per_seed))
    assert score["seed_sd"] == pytest.approx(np.std(per_seed, ddof=1))
    assert score["low"] < score["value"] < score["high"]
    assert score["n_cases"] == 60
    one = stats.combine_folds([measure[0, 0], measure[0, 1]], keys=["auroc"])["auroc"]
    assert one.value == pytest.approx(per_seed[0])


def three_classes(folder: Path, patients: int, fold: int, rng: np.random.Generator) -> None:
    target = np.arange(6 * patients) % 3
    called = np.where(rng.random(len(target)) < 0.8, target, rng.integers(0, 3, len(target)))
    ids = np.array([f"{fold}-{n}" for n in range(len(target))])
    names = np.array([f"p{fold}-{n // 6}" for n in range(len(target))])
    path = folder / f"seed0-fold{fold}"
    results.Predictions(ids, names, target, 0.1 + 0.7 * np.eye(3)[called]).save(path, list("abc"))
    task = {"kind": "classification", "name": "d/h", "dataset": "d", "head": "h", "classes": list("abc"), "multilabel": False, "unit": "case"}
    results.write_result(path, {"schema": 1, "status": "done", "seed": 0, "fold": fold, "task": task, "model": {"name": "m"}})


@pytest.mark.parametrize(("patients", "small"), [((2, 2), "no interval: 4 patients; 2 in a fold"), ((7, 8), "15 patients"), ((15, 15), None)])
def test_summaries_mark_few_patients_over_folds_and_say_what_their_interval_covers(tmp_path: Path, rng: np.random.Generator, patients: tuple[int, int], small: str | None) -> None:
    for fold, number in enumerate(patients):
        three_classes(tmp_path, number, fold, rng)
    summary = results.write_summary(tmp_path)
    assert summary is not None
    score = json.loads((tmp_path / "summary.json").read_text())["scores"]["f1.macro"]
    assert (score["small"] or "").startswith(small or "")
    assert (score["small"] is None) == (small is None)
    assert (score["low"] is None) == (sum(patients) < 5)
    assert (score["coverage"] is not None) == (small == "15 patients")
    assert summary["scores"]["auroc"]["coverage"] is None


def test_predictions_come_back_as_they_were_saved(tmp_path: Path, rng: np.random.Generator) -> None:
    made = cell(tmp_path, 0, 0, rng)
    read = results.Predictions.load(tmp_path / "seed0-fold0", ["no", "yes"], False)
    for name in ("case", "patient", "target", "prob"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    multi = results.Predictions(made.case, made.patient, np.where(rng.random((30, 2)) < 0.2, np.nan, 1.0).astype(np.float32), made.prob)
    multi.save(tmp_path / "multi", ["a", "b"])
    np.testing.assert_array_equal(results.Predictions.load(tmp_path / "multi", ["a", "b"], True).target, multi.target)
