"""Our numbers beside the printed ones of every table: units, readings, quotations, and the right row of several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medprobe.datasets.msd import MSD
from medprobe.registry import DATASETS
from medprobe.report import published
from medprobe.report.page import write_report
from medprobe.report.published import METRICS, OTHERWISE, beside
from medprobe.report.read import read_tree
from medprobe.report.verdicts import AGREES, DIFFERS, WIDE
from medprobe.run import results

Lines = Callable[..., list[dict[str, Any]]]
Forge = Callable[..., Path]
OTHER_READING = "no verdict: another reading than the declared one"


def test_lesions_are_compared_by_modality_and_hd95_never(forge: Forge, lines: Lines, tmp_path: Path) -> None:
    forge("autopet2-ctpet/conv3d", "dinov3-s", {"dice.present": 0.0912, "hd95": 135.0, "precision.present": 0.2, "precision.zero.present": 0.0532, "recall": None})
    forge("autopet2-ctpet/linear3d", "dinov3-s", {"dice.present": 0.3})
    forge("autopet2-ctpet/unetr", "pixels", {"dice.present": 0.5})
    found = {(line["metric"], line["head"], line["score"]): line for line in lines(method="DINOv3-S/16")}
    dice = found["dice", "conv3d", "dice.present"]
    assert (dice["dataset"], dice["published"], dice["verdict"]) == ("AutoPET-II (CT+PET)", 0.0906, AGREES)
    linear = found["dice", "linear3d", "dice.present"]
    assert (linear["verdict"], linear["why"]) == (OTHER_READING, "+0.2094")
    assert (found["hd95", "conv3d", "hd95"]["published"], found["hd95", "linear3d", "hd95"]["verdict"]) == (13456.42, "not run")
    assert found["hd95", "conv3d", "hd95"]["verdict"].startswith("no verdict: the printed unit is not stated")
    assert found["precision", "conv3d", "precision.zero.present"]["verdict"] == AGREES, "a study without a prediction counts 0"
    assert found["precision", "conv3d", "precision.present"]["verdict"] == OTHER_READING
    assert found["recall", "conv3d", "recall"]["verdict"] == "no verdict: ours is undefined"
    assert [line["verdict"] for line in lines(method="DINOv3-L/16")] == ["not run"] * 4
    assert {line["verdict"] for line in lines(method="U-KAN")} == {"quoted"}
    network = next(line for line in lines(method="UNETR") if line["metric"] == "dice")
    assert (network["head"], network["ours"]["value"], network["verdict"]) == ("unetr", 0.5, DIFFERS)
    assert "the paper does not state the split" in network["why"]
    assert len({line["dataset"] for line in beside(read_tree(tmp_path))}) == 1


def test_hecktor_is_compared_as_one_tumour_and_a_printed_nan_stays_one(forge: Forge, lines: Lines, tmp_path: Path) -> None:
    forge("hecktor2022-ctpet/conv3d", "dinov3-l", {"dice.tumour": 0.3086, "dice": 0.3, "precision.tumour": 0.5, "precision.zero.tumour": 0.3499})
    forge("hecktor2022-ct/conv3d", "dinov3-l", {"dice.tumour": 0.004, "dice": 0.3, "hd95.tumour": 9.0})
    both = {line["score"]: line["verdict"] for line in lines(method="DINOv3-L/16", dataset="HECKTOR 2022 (CT+PET)")}
    assert both["dice.tumour"] == both["precision.zero.tumour"] == AGREES
    assert both["precision.tumour"] == OTHER_READING
    alone = {line["metric"]: line for line in lines(method="DINOv3-L/16", dataset="HECKTOR 2022 (CT)")}
    assert (alone["dice"]["ours"]["value"], alone["dice"]["verdict"]) == (0.004, "no verdict: 0.0000 is printed too near to another size to be told from it")
    assert alone["hd95"]["printed"] == "nan"
    write_report(tmp_path)
    facts = json.loads((tmp_path / "report/report.json").read_text())
    assert facts["published"][0]["table"] == "14"
    notes = facts["deviations"]["14"]
    assert any(note.startswith("cases (hecktor2022-ct/conv3d") and "the paper says 882; here 524" in note for note in notes)
    assert notes[0] in (tmp_path / "report/index.html").read_text()
    tables = tmp_path / "report/tables"
    assert all(note in (tables / "published-table14.md").read_text() for note in notes)
    assert (tables / "published-table14.tex").read_text().count(r"\par\footnotesize") == len(notes)


def test_the_decathlon_has_both_readings_and_an_average_of_ten(forge: Forge, lines: Lines) -> None:
    for model in ("dinov3-s", "dinov3-b", "moco-v3"):
        for place, name in enumerate(MSD):
            forge(f"{name}/conv3d", model, {"dice": 0.6 + place / 50, "dice.organ": 0.838}, n_patients=20)
    forge("msd-heart/linear3d", "dinov3-s", {"dice": 0.7}, folds=[0])
    forge("msd-heart/vnet", "pixels", {"dice": 0.73}, n_patients=20, width=0.2)
    organ = lines(method="DINOv3-S", dataset="MSD Task03_Liver")
    assert [(line["score"], line["verdict"]) for line in organ] == [("dice", DIFFERS), ("dice.organ", OTHER_READING)]
    assert {line["score"] for line in lines(method="DINOv3-S", dataset="MSD Task01_BrainTumour")} == {"dice"}
    heart = {line["head"]: line["verdict"] for line in lines(method="DINOv3-S", dataset="MSD Task02_Heart")}
    assert heart["linear3d"] == "no verdict: 4 of 20 test cases"
    assert [line["verdict"] for line in lines(method="V-Net", dataset="MSD Task02_Heart")] == [WIDE]
    assert {line["verdict"] for line in lines(method="nnU-Net")} == {"quoted"}
    average = {line["head"]: line for line in lines(method="DINOv3-S", dataset="MSD Average")}
    assert average["conv3d"]["ours"]["value"] == pytest.approx(0.69)
    assert average["conv3d"]["ours"]["high"] - 0.69 == pytest.approx(0.00004 / 10**0.5)
    assert (average["conv3d"]["published"], average["conv3d"]["verdict"]) == (0.69, AGREES)
    assert (average["linear3d"]["ours"], average["linear3d"]["verdict"]) == (None, "not run: 1 of the ten tasks have a score")
    for method, mean in (("DINOv3-B", "0.7365"), ("MoCo-v3", "0.6497")):
        (line,) = lines(method=method, dataset="MSD Average")
        assert line["ours"]["value"] == pytest.approx(0.69)
        assert line["verdict"] == f"no verdict: the mean of the ten numbers printed above it is {mean}"
    assert [line["verdict"] for line in lines(method="DINOv3-L", dataset="MSD Average")] == ["not run"]


def test_an_average_is_of_rows_that_were_run_alike(forge: Forge, lines: Lines) -> None:
    """Ten tasks at their own settings, some of them at others too; a second checkpoint on nine."""
    for place, name in enumerate(MSD):
        forge(f"{name}/conv3d", "dinov3-s", {"dice": 0.69}, n_patients=20)
        if place < 3:
            forge(f"{name}/conv3d", "dinov3-s", {"dice": 0.1}, options={"head.epochs": 1}, n_patients=20)
        if place < 9:
            forge(f"{name}/conv3d", "dinov3-s", {"dice": 0.2}, digest="a" * 64, n_patients=20)
    (line,) = lines(method="DINOv3-S", dataset="MSD Average")
    assert line["ours"]["value"] == pytest.approx(0.69)
    assert line["row"].startswith("dinov3-s (weights=08c60483), 512 px, folds 0, 1, 2, 3, 4, seed 0")


def test_an_average_of_cut_rows_has_no_verdict(forge: Forge, lines: Lines) -> None:
    for place, name in enumerate(MSD):
        forge(f"{name}/conv3d", "dinov3-s", {"dice": 0.69}, n_patients=20, folds=[0] if place == 4 else None)
    (line,) = lines(method="DINOv3-S", dataset="MSD Average")
    assert line["verdict"] == "no verdict: 7 of 32 test cases"


def test_ct_rate_has_a_verdict_on_auc_alone_for_the_head_the_row_is_of(forge: Forge, lines: Lines) -> None:
    rule = "closest_topleft_test"
    scores = {"auroc": 0.7781, f"accuracy.label@{rule}": 0.72, f"precision.macro@{rule}": 0.37, f"recall.macro@{rule}": 0.69}
    for head in ("linear", "knn"):
        forge(f"ctrate/{head}", "dinov3-s", scores)
    found = lines(method="DINOv3-S")
    auc = {line["head"]: (line["published"], line["verdict"]) for line in found if line["metric"] == "auc"}
    assert auc == {"linear": (0.778, AGREES), "knn": (0.716, DIFFERS)}
    assert all("threshold rule is not stated" in line["verdict"] for line in found if line["metric"] != "auc")
    assert len(found) == 8
    assert {line["verdict"] for line in lines(method="CT-CLIP")} == {"quoted"}


def test_edd2020_is_shown_class_by_class_without_verdict_and_endovis_in_both_binary_readings(forge: Forge, lines: Lines) -> None:
    forge("edd2020/conv2d", "dinov3-b", {"dice.present": 0.7, "precision.present": 0.8, "precision.zero.present": 0.6}, per_class={"BE": 0.9, "polyp": 0.8})
    found = {line["score"]: line for line in lines(table="8", method="DINOv3-B")}
    assert (found["dice.present:BE"]["ours"]["value"], found["dice.present"]["ours"]["value"]) == (0.9, 0.7)
    assert found["dice.present:BE"]["verdict"].startswith("no verdict: the table states neither a split")
    assert {"precision.present", "precision.zero.present"} <= set(found)
    forge("endovis18/conv2d", "dinov3-b", {"challenge_iou": 0.4637, "binary_iou": 0.8, "binary_iou.aggregated": 0.8904})
    found = {line["score"]: line for line in lines(table="7", method="DINOv3-B")}
    assert {score: line["verdict"] for score, line in found.items()} == {"challenge_iou": AGREES, "binary_iou": DIFFERS, "binary_iou.aggregated": OTHER_READING}


def test_phases_that_are_never_predicted_are_read_in_both_ways(forge: Forge, lines: Lines) -> None:
    forge("autolaparo/linear", "dinov3-l", {"precision.phase": 0.75, "precision.phase_nan_ignored": 0.7783})
    found = {line["score"]: line["verdict"] for line in lines(method="DINOv3-L", metric="precision")}
    assert found == {"precision.phase": WIDE, "precision.phase_nan_ignored": OTHER_READING}


def test_spreads_over_pairs_stand_beside_the_printed_ones(forge: Forge, lines: Lines) -> None:
    forge("camus/convexadam", "dinov3-b", {"dice": 0.8315, "dice.sd": 0.0927, "hd95": 5.7703, "hd95.sd": 2.9907, "hd.sd": 3.5, "asd": 2.2565, "asd.sd": 2.0}, n_patients=50)
    found = {line["score"]: line for line in lines(method="DINO-B+ConvexAdam") if line["ours"]}
    assert (found["dice.sd"]["printed"], found["dice.sd"]["verdict"]) == ("0.0927", AGREES)
    assert (found["hd95.sd"]["printed"], found["hd95.sd"]["verdict"]) == ("2.9907", AGREES)
    assert (found["hd.sd"]["metric"], found["hd.sd"]["verdict"]) == ("hd95 sd", OTHER_READING)
    assert found["asd.sd"]["verdict"] == DIFFERS
    assert len([line for line in lines(table="15") if line["metric"].endswith(" sd")]) == 21 + 2


# --------------------------------------------------------------------------- which of several rows


def ours(lines: Lines, **wanted: str) -> list[str]:
    return [line["row"].partition(",")[0] for line in lines(**wanted) if line["ours"]]


@pytest.mark.parametrize("sizes", [(64, 128, 256), (64, 128, 1024)])
def test_the_row_at_the_size_of_the_task_stands_there_else_the_nearest(sizes: tuple[int, ...], forge: Forge, lines: Lines) -> None:
    for size in sizes:
        forge("nih14/linear", "dinov3-s", {"auroc": 0.7 + size / 10_000}, options={} if size == 256 else {"image-size": size})
    (line,) = lines(method="DINOv3-S", dataset="NIH-14", metric="auc")
    at = 256 if 256 in sizes else 128
    assert line["ours"]["value"] == pytest.approx(0.7 + at / 10_000)
    assert f"{at} px" in line["row"]


@pytest.mark.parametrize(
    "options",
    [{"limit": 5}, {"head.epochs": 3}, {"window": "max"}, {"precision": "bf16"}, {"image-size": 64}, {"00": 1, "head.epochs": 3}],
)  # fmt: skip
def test_the_row_without_options_stands_there_whatever_the_folder_of_the_other_is_called(options: dict[str, Any], forge: Forge, lines: Lines) -> None:
    for name, score, dataset in (("rsna/linear", "auroc", "RSNA-Pneumonia"), ("camus/convexadam", "dice", "CAMUS"), ("msd-lung/conv3d", "dice", "MSD Task06_Lung")):
        forge(name, "dinov3-l", {score: 0.1}, options=options)
        forge(name, "dinov3-l", {score: 0.9})
        found = [line for line in lines(dataset=dataset) if line["ours"]]
        assert [line["ours"]["value"] for line in found] == [0.9]


def test_what_differs_less_stands_there_and_what_differs_alike_stands_there_together(forge: Forge, lines: Lines) -> None:
    forge("rsna/linear", "dinov3-s", {"auroc": 0.1}, options={"head.epochs": 3, "precision": "bf16"})
    forge("rsna/linear", "dinov3-s", {"auroc": 0.2}, options={"precision": "bf16"})
    assert ours(lines, dataset="RSNA-Pneumonia") == ["dinov3-s (precision=bf16)"]
    forge("rsna/linear", "dinov3-s", {"auroc": 0.3}, options={"head.epochs": 5})
    assert ours(lines, dataset="RSNA-Pneumonia") == ["dinov3-s (head.epochs=5)", "dinov3-s (precision=bf16)"]


def test_official_weights_stand_there_and_of_unknown_ones_all(forge: Forge, lines: Lines) -> None:
    forge("rsna/linear", "dinov3-s", {"auroc": 0.1}, digest="a" * 64)
    forge("rsna/linear", "dinov3-s", {"auroc": 0.2}, digest="b" * 64)
    assert ours(lines, dataset="RSNA-Pneumonia") == ["dinov3-s (weights=aaaaaaaa)", "dinov3-s (weights=bbbbbbbb)"]
    forge("rsna/linear", "dinov3-s", {"auroc": 0.3})
    assert ours(lines, dataset="RSNA-Pneumonia") == ["dinov3-s (weights=08c60483)"]


def test_a_model_under_its_spec_is_that_model_and_gives_way_to_its_name(forge: Forge, lines: Lines) -> None:
    spec = "timm:vit_small_patch16_dinov3.lvd1689m"
    forge("rsna/linear", spec, {"auroc": 0.8667}, digest="08c60483".ljust(64, "0"))
    (line,) = [line for line in lines(dataset="RSNA-Pneumonia") if line["ours"]]
    assert (line["method"], line["row"]) == ("DINOv3-S", f"{spec}, 256 px, seed 0")
    forge("rsna/linear", "dinov3-s", {"auroc": 0.8667})
    assert ours(lines, dataset="RSNA-Pneumonia") == ["dinov3-s"]
    forge("rsna/linear", "timm:resnet50", {"auroc": 0.9})
    assert ours(lines, dataset="RSNA-Pneumonia") == ["dinov3-s"], "a spec of several named models is none of them"


def test_seeds_and_folds_that_stand_there_are_named(forge: Forge, lines: Lines) -> None:
    forge("kvasir-capsule/linear", "dinov3-b", {"f1.macro": 0.5513}, seeds=(0, 3))
    (line,) = [line for line in lines(method="DINOv3-B") if line["ours"]]
    assert (line["row"], line["verdict"]) == ("dinov3-b, 256 px, folds 0, 1, seeds 0, 3", AGREES)


def test_a_seed_without_all_folds_is_not_among_those_that_stand_there(forge: Forge, lines: Lines) -> None:
    folder = forge("kvasir-capsule/linear", "dinov3-b", {"f1.macro": 0.5513}, seeds=(0, 3))
    (folder / "seed3-fold1.json").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "seeds": [0], "seeds_without_all_folds": [3]}))
    (line,) = [line for line in lines(method="DINOv3-B") if line["ours"]]
    assert (line["row"], line["verdict"]) == ("dinov3-b, 256 px, folds 0, 1, seed 0", AGREES)


def test_parts_of_a_model_in_another_order_are_the_same_method(forge: Forge, lines: Lines) -> None:
    forge("acdc/convexadam", "mind+dinov3-s", {"dice": 0.7480}, n_patients=50)
    assert ours(lines, method="DINO-S+MIND+ConvexAdam") == ["mind+dinov3-s"]


def test_a_failed_row_gives_way_to_one_with_a_score(forge: Forge, lines: Lines) -> None:
    folder = forge("rsna/linear", "dinov3-s", {"auroc": 0.8})
    (folder / "summary.json").unlink()
    forge("rsna/linear", "dinov3-s", {"auroc": 0.7}, options={"image-size": 64})
    assert [line["ours"]["value"] for line in lines(dataset="RSNA-Pneumonia") if line["ours"]] == [0.7]


# ------------------------------------------------------------------------------------------- the page


def test_the_page_has_our_rows_first_and_folds_the_others(forge: Forge, tmp_path: Path) -> None:
    forge("edd2020/conv2d", "dinov3-b", {"dice.present": 0.7}, per_class={"BE": 0.9, "polyp": 0.8})
    forge("nih14/linear", "dinov3-b", {"auroc": 0.78})
    write_report(tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert page.index("<h3>Table 2</h3>") < page.index("<h3>Table 8</h3>") < page.index("printed numbers without one of ours</summary>", page.index("<h3>Table 8</h3>"))
    assert page.index("DINOv3-B <code>conv2d</code>") < page.index("<details>", page.index("<h3>Table 8</h3>"))
    sheet = (tmp_path / "report/tables/published-table8.csv").read_text().splitlines()
    assert len(sheet) == 1 + 135 + 1, "precision of our row in both readings"
    assert sheet[1].startswith('EDD2020,DINOv3-B,conv2d,"dinov3-b, 512 px, seed 0",dice_avg,dice.present,0.7356,"0.7000 [0.7000, 0.7000]","no verdict')
    assert sheet[-1].endswith(",—,quoted,")


@pytest.mark.parametrize("name", published.DATASETS)
def test_every_key_beside_a_printed_metric_is_a_score_of_the_dataset(name: str) -> None:
    dataset = DATASETS.get(name)
    known = results.score_keys(dataset, dataset.unit)
    printed = [cell for cell in published.cells() if cell["dataset"] == published.DATASETS[name]]
    assert printed
    for cell in printed:
        for key in OTHERWISE.get(name, {}).get(cell["metric"], METRICS[cell["table"]][cell["metric"]]).split():
            key, _, label = key.partition(":")
            assert key in known
            assert not label or label in dataset.classes


def test_the_printed_averages_that_are_none_are_known() -> None:
    """Methods sheet 11.1: all others agree to rounding."""
    averages = [cell for cell in published.published() if cell["dataset"] == published.AVERAGE]
    assert {cell["method"] for cell in averages if published._misprinted(cell)} == {"DINOv3-B", "DINOv3-L", "MoCo-v3", "BYOL"}
