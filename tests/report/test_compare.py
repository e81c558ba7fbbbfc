"""What `compare` and the flags say of models that miss classes, of few patients, and of controls under other heads."""

import json
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.metrics import dense
from medprobe.metrics.stats import combine_folds
from medprobe.report import compare
from medprobe.report.page import write_report
from medprobe.report.read import read_tree
from medprobe.run import results
from medprobe.types import Task

CLASSES = ["background", "polyp"]


def write_maps(out: Path, model: str, shifts: list[int | None], head: str = "conv2d", main: str = "dice", seed: int = 0, patients: int | None = None, diagonal: bool = True) -> None:
    """A finished cell of squares that are shifted, or missed where the shift is None."""
    each = []
    for shift in shifts:
        true, pred = np.zeros((2, 24, 24), np.uint8)
        true[2:8, 2:8] = 1
        if shift is not None:
            pred[2 + shift : 8 + shift, 2:8] = 1
        each.append(dense.segmentation_case(pred, true, 2, (1.0, 1.0)))
    each = [{name: value for name, value in one.items() if diagonal or name != "diagonal"} for one in each]
    names = [f"c{n:02d}" for n in range(len(shifts))]
    values = results.CaseValues.of(names, [f"p{n % (patients or len(shifts))}" for n in range(len(shifts))], each)
    path = out / "results" / results.stem("polyps", head, model, {}, seed, None)
    values.save(path, CLASSES[1:])
    config = {**Task("polyps", head).config(), "main": main}
    results.write_result(path, {
        "schema": 1, "key": "k", "facts": {}, "options": {}, "warnings": [], "seed": seed, "fold": None, "status": "done", "validation": "given",
        "task": {"name": f"polyps/{head}", "dataset": "polyps", "head": head, "kind": "segmentation", "config": config, "classes": CLASSES, "multilabel": False, "unit": "case", "distance_unit": "px", "n_cases": 20, "counts": {}, "licence": "none"},
        "model": {"name": model, "spec": model, "params": 5, "dim": 3, "image_size": 64, "random": False, "control": model in ("pixels", "mean-rgb"), "licence": None},
        "provenance": {"medprobe": "0.1.0", "weights_sha256": "0" * 64, "dataset_fingerprint": "f" * 64, "libraries": {}, "device": "cpu", "written": "2026-01-01T00:00:00Z"},
        "scores": results.scores_json(combine_folds([values.measure(CLASSES[1:], "px")], resamples=50)),
    })  # fmt: skip
    results.write_summary(path.parent)


SILENT: list[int | None] = [None] * 6 + [n % 3 + 1 for n in range(14)]
BRAVE: list[int | None] = [12] * 6 + [n % 3 + 1 for n in range(14)]


def console(rows: list, baseline: str = "brave") -> str:
    from rich.console import Console

    page = Console(width=200, record=True)
    with page.capture() as said:
        page.print(compare.comparison_table(rows, baseline))
    return said.get()


def test_a_model_that_misses_the_hard_cases_is_neither_better_nor_worse_where_both_are_defined_and_worse_where_charged(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_maps(tmp_path, "silent", SILENT, seed=seed)
    write_maps(tmp_path, "brave", BRAVE)
    (row,) = compare.comparisons(tmp_path, "brave", "hd95")
    assert (row["difference"], row["p"], row["n_patients"], row["n_seeds"]) == (0, 1, 14, 2)
    assert row["n_undefined"] == {"model": 12, "baseline": 0, "both": 0}
    assert row["charged"]["difference"] == pytest.approx(6 / 20 * (24 * np.sqrt(2) - 12), abs=0.01)
    assert row["charged"]["low"] > 0
    assert row["charged"]["p_holm"] == row["charged"]["p"] < 0.05
    said = console([row])
    assert "missed classes charged" in said
    assert "12 + 0 + 0 of 40" in said
    assert "14 †" in said
    json.loads(json.dumps(row))


def test_nothing_is_charged_where_nothing_was_missed_or_the_diagonal_is_unknown(tmp_path: Path) -> None:
    write_maps(tmp_path, "brave", BRAVE)
    write_maps(tmp_path, "other", [1] * 20)
    write_maps(tmp_path, "old", SILENT, diagonal=False)
    rows = {row["model"]: row for row in compare.comparisons(tmp_path, "brave", "hd95")}
    assert rows["other"]["charged"] is None
    assert np.isnan(rows["old"]["charged"]["difference"])
    assert "run or score again" in rows["old"]["charged"]["reason"]
    assert "— (what a missed class costs" in " ".join(console([rows["old"]]).split())


@pytest.mark.parametrize("patients", [3, 4, 5])
def test_too_few_patients_give_a_reason_and_never_nan(tmp_path: Path, patients: int) -> None:
    write_maps(tmp_path, "brave", [3] * 20, patients=patients)
    write_maps(tmp_path, "pixels", [5] * 20, patients=patients)
    rows = compare.comparisons(tmp_path, "pixels")
    said = console(rows, "pixels")
    (flag,) = write_report(tmp_path).flags
    for text in (said, flag, (tmp_path / "report/index.html").read_text()):
        assert "nan" not in text.lower().replace("nanmean", "")
    reason = "below 5 there is no interval and no p" if patients < 5 else "the difference hangs on too few patients"
    assert reason in flag
    assert reason in " ".join(said.split())
    assert f"{patients} †" in said
    assert "Every model is above" not in (tmp_path / "report/index.html").read_text()


def test_a_difference_that_is_nowhere_defined_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    write_maps(tmp_path, "brave", BRAVE, main="hd95")
    write_maps(tmp_path, "pixels", [None] * 19 + [1], main="hd95")
    write_maps(tmp_path, "silent", [1] + [None] * 19, main="hd95")
    rows = {row["model"]: row for row in compare.comparisons(tmp_path, "silent", "hd95")}
    assert rows["pixels"]["reason"] == "no case is defined in both"
    assert "— (no case is defined in both)" in console(list(rows.values()), "silent")
    flags = {flag["model"]: flag["sentence"] for flag in compare.flags(read_tree(tmp_path))}
    assert "hd95 difference —, without interval (no case is defined in both); left out as undefined: 1 + 1 + 18 of 20, 20 patients" in flags["silent"]
    assert not any("nan" in sentence for sentence in flags.values())


def test_an_unknown_score_is_refused_with_the_main_one_first(tmp_path: Path) -> None:
    for model in ("pixels", "weak"):
        write_maps(tmp_path, model, [1] * 20, main="hd95")
    with pytest.raises(RequestError, match=r"no score named 'xyz' .*there are \d+, among them hd95, "):
        compare.comparisons(tmp_path, "pixels", "xyz")


def test_of_equal_controls_the_flag_names_that_of_a_control_model(tmp_path: Path) -> None:
    write_maps(tmp_path, "weak", [3] * 20)
    for model in ("pixels", "weak"):
        write_maps(tmp_path, model, [1] * 20, head="constant")
    (flag,) = compare.flags(read_tree(tmp_path))
    assert "weak is below the control pixels/constant on polyps/conv2d" in flag["sentence"]


def test_who_wins_only_by_missing_is_flagged_with_the_charged_reading(tmp_path: Path) -> None:
    write_maps(tmp_path, "pixels", BRAVE, main="hd95")
    write_maps(tmp_path, "silent", [None] * 6 + [0] * 14, main="hd95")
    (flag,) = compare.flags(read_tree(tmp_path))
    assert flag["high"] < 0, "better where both are defined"
    assert "with missed classes charged" in flag["sentence"]


def test_a_control_under_another_head_that_beats_the_model_is_named(tmp_path: Path) -> None:
    write_maps(tmp_path, "own", [4] * 20, head="convexadam")
    write_maps(tmp_path, "pixels", [9] * 20, head="convexadam")
    write_maps(tmp_path, "pixels", [1 + n % 2 for n in range(20)], head="demons")
    (flag,) = write_report(tmp_path).flags
    assert flag.startswith("own is below the control pixels/demons on polyps/convexadam: dice difference -")
    assert "Every model is above" not in (tmp_path / "report/index.html").read_text()
