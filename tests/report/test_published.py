"""Our numbers beside the printed ones of every table: units, readings, quotations, and verdicts only where the question is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from medprobe.datasets.msd import MSD
from medprobe.files import dump_json
from medprobe.registry import DATASETS, TASKS
from medprobe.report import published
from medprobe.report.page import write_report
from medprobe.report.published import METRICS, OTHERWISE, beside
from medprobe.report.read import read_tree
from medprobe.run import results
from medprobe.tasks.suites import default_task


def write_row(out: Path, name: str, model: str, scores: dict[str, float | None], per_class: dict[str, float] | None = None, **more: Any) -> None:
    """A finished row of a task under its own settings, with these scores and intervals of 0.01."""
    dataset_name, _, head = name.partition("/")
    dataset = DATASETS.get(dataset_name)
    task = TASKS.get(name) if name in TASKS else default_task(dataset, head)
    counts = dict(dataset.counts)
    folds = list(range(sum(part.startswith("fold") for part in counts))) or [None]
    about = {
        "name": name, "dataset": dataset_name, "head": head, "kind": dataset.kind, "config": {**task.config(), "table": more.get("table", task.table)}, "classes": list(dataset.classes),
        "multilabel": dataset.multilabel, "unit": dataset.unit, "n_cases": sum(counts.values()), "counts": counts, "licence": "none",
    }  # fmt: skip
    described = {"name": model, "spec": model, "params": 1, "dim": 1, "image_size": task.image_size, "random": False, "control": False, "licence": None}
    document = {
        "schema": 1, "key": "k", "facts": {}, "options": {}, "warnings": [], "seed": 0, "fold": None, "status": "done", "task": about, "model": described,
        "provenance": {"medprobe": "0", "weights_sha256": None, "dataset_fingerprint": "f" * 64, "libraries": {}, "device": "cpu", "written": ""},
    }  # fmt: skip
    path = out / "results" / results.stem(dataset_name, head, model, {}, 0, None)
    results.write_result(path, document)
    each = {
        key: {"value": value, "low": value and value - 0.005, "high": value and value + 0.005, "unit": None, "higher_is_better": True, "n_cases": 9, "n_patients": 9, "n_undefined": 0, "per_class": per_class or {}, "seed_sd": None}
        for key, value in scores.items()
    }  # fmt: skip
    summary = {"schema": 1, "task": about, "model": described, "seeds": [0], "folds": more.get("folds", folds), "seeds_without_all_folds": [], "scores": each}
    (path.parent / "summary.json").write_text(dump_json(summary))


def found(out: Path, **wanted: str) -> list[dict[str, Any]]:
    return [line for line in beside(read_tree(out)) if all(line[key] == value for key, value in wanted.items())]


def test_lesions_are_compared_by_modality_and_hd95_never(tmp_path: Path) -> None:
    write_row(tmp_path, "autopet2-ctpet/conv3d", "dinov3-s", {"dice.present": 0.0912, "hd95": 135.0, "precision.present": 0.2, "recall": None})
    write_row(tmp_path, "autopet2-ctpet/linear3d", "dinov3-s", {"dice.present": 0.3})
    write_row(tmp_path, "autopet2-ctpet/unetr", "pixels", {"dice.present": 0.5})
    lines = {(line["metric"], line["head"]): line for line in found(tmp_path, method="DINOv3-S/16")}
    dice = lines["dice", "conv3d"]
    assert (dice["dataset"], dice["published"], dice["score"], dice["verdict"]) == ("AutoPET-II (CT+PET)", 0.0906, "dice.present", "reproduced")
    assert lines["dice", "linear3d"]["verdict"].startswith("differs by +0.209: the paper does not state the split")
    assert (lines["hd95", "conv3d"]["published"], lines["hd95", "linear3d"]["verdict"]) == (13456.42, "not run")
    assert lines["hd95", "conv3d"]["verdict"].startswith("no verdict: the printed unit is not stated")
    assert lines["recall", "conv3d"]["verdict"] == "no verdict: ours is undefined"
    assert [line["verdict"] for line in found(tmp_path, method="DINOv3-L/16")] == ["not run"] * 4
    assert {line["verdict"] for line in found(tmp_path, method="U-KAN")} == {"quoted"}
    network = next(line for line in found(tmp_path, method="UNETR") if line["metric"] == "dice")
    assert (network["head"], network["ours"]["value"]) == ("unetr", 0.5)
    assert len({line["dataset"] for line in beside(read_tree(tmp_path))}) == 1


def test_hecktor_is_compared_as_one_tumour_and_a_printed_nan_stays_one(tmp_path: Path) -> None:
    write_row(tmp_path, "hecktor2022-ct/conv3d", "dinov3-l", {"dice.tumour": 0.004, "dice": 0.3, "hd95.tumour": 9.0})
    lines = {line["metric"]: line for line in found(tmp_path, method="DINOv3-L/16")}
    assert (lines["dice"]["ours"]["value"], lines["dice"]["verdict"]) == (0.004, "reproduced")
    assert published.text_of(lines["hd95"]) == "nan"
    write_report(tmp_path)
    facts = json.loads((tmp_path / "report/report.json").read_text())
    assert facts["published"][0]["table"] == "14"
    notes = facts["deviations"]["14"]
    assert any(note.startswith("cases (hecktor2022-ct/conv3d): the paper says 882; here 524") for note in notes)
    assert notes[0] in (tmp_path / "report/index.html").read_text()


def test_the_decathlon_has_both_readings_and_an_average_of_ten(tmp_path: Path) -> None:
    for model in ("dinov3-s", "dinov3-b", "moco-v3"):
        for place, name in enumerate(MSD):
            write_row(tmp_path, f"{name}/conv3d", model, {"dice": 0.6 + place / 50, "dice.organ": 0.83})
    write_row(tmp_path, "msd-heart/linear3d", "dinov3-s", {"dice": 0.7}, folds=[0])
    write_row(tmp_path, "msd-heart/vnet", "pixels", {"dice": 0.83})
    organ = found(tmp_path, method="DINOv3-S", dataset="MSD Task03_Liver")
    assert [(line["score"], line["verdict"][:10]) for line in organ] == [("dice", "differs by"), ("dice.organ", "reproduced")]
    assert {line["score"] for line in found(tmp_path, method="DINOv3-S", dataset="MSD Task01_BrainTumour")} == {"dice"}
    heart = {line["head"]: line["verdict"] for line in found(tmp_path, method="DINOv3-S", dataset="MSD Task02_Heart")}
    assert heart["linear3d"] == "no verdict: 1 of 5 folds"
    assert [line["verdict"] for line in found(tmp_path, method="V-Net", dataset="MSD Task02_Heart")] == ["reproduced"]
    assert {line["verdict"] for line in found(tmp_path, method="nnU-Net")} == {"quoted"}
    average = {line["head"]: line for line in found(tmp_path, method="DINOv3-S", dataset="MSD Average")}
    assert average["conv3d"]["ours"]["value"] == pytest.approx(0.69)
    assert (average["conv3d"]["published"], average["conv3d"]["verdict"]) == (0.69, "reproduced")
    assert (average["linear3d"]["ours"], average["linear3d"]["verdict"]) == (None, "not run: 1 of the ten tasks have a score")
    for method, mean in (("DINOv3-B", "0.7365"), ("MoCo-v3", "0.6497")):
        (line,) = found(tmp_path, method=method, dataset="MSD Average")
        assert line["ours"]["value"] == pytest.approx(0.69)
        assert line["verdict"] == f"no verdict: the mean of the ten numbers printed above it is {mean}"
    assert [line["verdict"] for line in found(tmp_path, method="DINOv3-L", dataset="MSD Average")] == ["not run"]


def test_ct_rate_has_a_verdict_on_auc_alone_for_the_head_the_row_is_of(tmp_path: Path) -> None:
    rule = "closest_topleft_test"
    scores = {"auroc": 0.775, f"accuracy.label@{rule}": 0.72, f"precision.macro@{rule}": 0.37, f"recall.macro@{rule}": 0.69}
    for head in ("linear", "knn"):
        write_row(tmp_path, f"ctrate/{head}", "dinov3-s", scores)
    lines = found(tmp_path, method="DINOv3-S")
    auc = {line["head"]: (line["published"], line["verdict"][:12]) for line in lines if line["metric"] == "auc"}
    assert auc == {"linear": (0.778, "reproduced"), "knn": (0.716, "differs by +")}
    assert all("threshold rule is not stated" in line["verdict"] for line in lines if line["metric"] != "auc")
    assert len(lines) == 8
    assert {line["verdict"] for line in found(tmp_path, method="CT-CLIP")} == {"quoted"}


def test_edd2020_is_shown_class_by_class_without_verdict_and_endovis_in_both_binary_readings(tmp_path: Path) -> None:
    write_row(tmp_path, "edd2020/conv2d", "dinov3-b", {"dice.present": 0.7}, {"BE": 0.9, "polyp": 0.8})
    lines = {line["metric"]: line for line in found(tmp_path, table="8", method="DINOv3-B")}
    assert (lines["dice_NDBE"]["ours"]["value"], lines["dice_avg"]["ours"]["value"]) == (0.9, 0.7)
    assert lines["dice_NDBE"]["verdict"].startswith("no verdict: the table states neither a split")
    write_row(tmp_path, "endovis18/conv2d", "dinov3-b", {"challenge_iou": 0.46, "binary_iou": 0.8, "binary_iou.aggregated": 0.89})
    lines = found(tmp_path, table="7", method="DINOv3-B")
    assert {line["score"]: line["verdict"][:10] for line in lines} == {"challenge_iou": "reproduced", "binary_iou": "differs by", "binary_iou.aggregated": "reproduced"}


def test_the_page_has_our_rows_first_and_folds_the_others(tmp_path: Path) -> None:
    write_row(tmp_path, "edd2020/conv2d", "dinov3-b", {"dice.present": 0.7}, {"BE": 0.9, "polyp": 0.8})
    write_row(tmp_path, "nih14/linear", "dinov3-b", {"auroc": 0.78})
    write_report(tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert page.index("<h3>Table 2</h3>") < page.index("<h3>Table 8</h3>") < page.index("printed numbers without one of ours</summary>", page.index("<h3>Table 8</h3>"))
    assert page.index("DINOv3-B <code>conv2d</code>") < page.index("<details>", page.index("<h3>Table 8</h3>"))
    sheet = (tmp_path / "report/tables/published-table8.csv").read_text().splitlines()
    assert len(sheet) == 1 + 135
    assert sheet[1].startswith("EDD2020,DINOv3-B,conv2d,dice_avg,dice.present,0.")
    assert sheet[-1].endswith(",—,quoted")


@pytest.mark.parametrize("name", published.DATASETS)
def test_every_key_beside_a_printed_metric_is_a_score_of_the_dataset(name: str) -> None:
    dataset = DATASETS.get(name)
    known = results.score_keys(dataset, dataset.unit)
    cells = [cell for cell in published.published() if cell["dataset"] == published.DATASETS[name]]
    assert cells
    for cell in cells:
        for key in OTHERWISE.get(name, {}).get(cell["metric"], METRICS[cell["table"]][cell["metric"]]).split():
            key, _, label = key.partition(":")
            assert key in known
            assert not label or label in dataset.classes


def test_the_printed_averages_that_are_none_are_known() -> None:
    """Methods sheet 11.1: all others agree to rounding."""
    wrong = set()
    for cell in published.published():
        if cell["dataset"] == published.AVERAGE and published._verdict_of_average(cell, [], 0.5, 10).startswith("no verdict"):
            wrong.add(cell["method"])
    assert wrong == {"DINOv3-B", "DINOv3-L", "MoCo-v3", "BYOL"}
