"""Verdicts: three words that mean something, given only where the question, the weights and the cases are the same."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medprobe.datasets.msd import MSD
from medprobe.registry import TASKS
from medprobe.report.page import write_report
from medprobe.report.printed import cells, tolerance, value_of
from medprobe.report.published import DATASETS, METRICS, MODALITIES, OTHERWISE
from medprobe.report.verdicts import AGREES, DIFFERS, WIDE, WORDS, concordance, word_of
from medprobe.tasks.models import NAMED

Lines = Callable[..., list[dict[str, Any]]]
Forge = Callable[..., Path]
AUC = {"dinov3-s": 0.7788, "dinov3-b": 0.7833, "dinov3-l": 0.7865}


@pytest.mark.parametrize(
    ("value", "low", "high", "word"),
    [
        (0.801, 0.799, 0.803, AGREES),
        (0.801, 0.797, 0.807, WIDE),  # the interval passes the tolerance
        (0.801, 0.8005, 0.8065, WIDE),
        (0.808, 0.796, 0.820, WIDE),  # beyond the tolerance, but the printed number is in the interval
        (0.808, 0.802, 0.814, DIFFERS),
        (0.790, 0.789, 0.791, DIFFERS),
        (0.801, None, None, WIDE),
        (0.0, 0.0, 0.0, DIFFERS),
        (0.8, 0.9, 0.7, WIDE),  # a damaged summary: the ends are exchanged
        (0.9, 0.7999, 0.8001, WIDE),  # or the value was another
    ],
)
def test_the_three_words(value: float, low: float | None, high: float | None, word: str) -> None:
    assert word_of(value, low, high, 0.8, 0.005) == word


def test_an_interval_that_ends_at_0_is_an_interval() -> None:
    assert word_of(0.001, 0.0, 0.002, 0.001, 0.005) == AGREES


def test_right_numbers_agree_and_a_headline_alone_has_a_word(forge: Forge, lines: Lines, tmp_path: Path) -> None:
    for model, value in AUC.items():
        forge("nih14/linear", model, {"auroc": value, "accuracy.subset_nofinding@youden_val": 0.48})
    found = {(line["method"], line["metric"]): line for line in lines(dataset="NIH-14") if line["ours"]}
    assert {line["verdict"] for (_, metric), line in found.items() if metric == "auc"} == {AGREES}
    assert found["DINOv3-S", "auc"]["why"] == "+0.0000, tolerance 0.0022"
    assert found["DINOv3-S", "auc"]["row"] == "dinov3-s, 256 px, seed 0"
    assert found["DINOv3-S", "accuracy"]["verdict"].startswith("no verdict: the printed reading is not decidable")
    write_report(tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert "Rank concordance: 3 of 3 pairs of our rows stand in the printed order (Kendall +1.00)" in page
    assert '<td>agrees <span style="color:var(--soft)">(+0.0000, tolerance 0.0022)</span></td>' in page


FLAWS: dict[str, dict[str, Any]] = {
    "random weights": {"random": True},
    "no official digest": {"digest": "0123456789" * 6 + "0123"},
    "a satellite file": {"digest": "eadcf0ff".ljust(64, "0")},
    "another size's weights": {"digest": "73cec8be".ljust(64, "0")},
    "predictions made elsewhere": {"spec": "predictions"},
    "--limit": {"options": {"limit": 500}},
    "a changed head": {"options": {"head.epochs": 3}},
    "a changed window": {"options": {"window": "max"}},
    "bf16": {"options": {"precision": "bf16"}},
    "another size": {"options": {"image-size": 64}},
    "another size as a setting": {"options": {"image_size": 128}, "size": 128},
    "13,000 unreadable cases": {"unreadable": 13_000},
    "half the test part": {"n_cases": 12_596},
    "a part of the data": {"whole": 60_000},
    "7 patients": {"n_patients": 7},
    "few patients by their mark": {"small": "9 patients with Hernia"},
    "a wide interval": {"width": 0.02},
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_no_flaw_passes_for_agreement(flaw: str, forge: Forge, lines: Lines) -> None:
    """The printed numbers themselves, forged, with one thing wrong."""
    for model, value in AUC.items():
        if not (flaw == "another size's weights" and model == "dinov3-b"):
            forge("nih14/linear", model, {"auroc": value}, **FLAWS[flaw])
    found = [line for line in lines(dataset="NIH-14", metric="auc") if line["ours"]]
    assert len(found) == 3 - (flaw == "another size's weights")
    assert AGREES not in {line["verdict"] for line in found}
    wide = ("7 patients", "few patients by their mark", "a wide interval")
    assert all(line["verdict"] == WIDE if flaw in wide else line["verdict"].startswith("no verdict: ") for line in found)
    assert concordance(found) is None or flaw in wide


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("random weights", "random weights"),
        ("a satellite file", "unverified weights (dinov3-s eadcf0ff: is no official digest)"),
        ("13,000 unreadable cases", "12,596 of 25,596 test cases, 13,000 unreadable"),
        ("another size", "image size 64, where the paper names 256"),
        ("a changed head", "settings differ from the task's: head.epochs"),
        ("a part of the data", "60,000 of 112,120 cases: a twin or a part"),
    ],
)
def test_the_reason_is_said(flaw: str, said: str, forge: Forge, lines: Lines) -> None:
    forge("nih14/linear", "dinov3-s", {"auroc": 0.7788}, **FLAWS[flaw])
    (line,) = lines(method="DINOv3-S", dataset="NIH-14", metric="auc")
    assert line["verdict"] == f"no verdict: {said}"
    assert line["why"] == "+0.0000"


def test_unreadable_cases_count_against_the_test_part_whatever_the_score_says(forge: Forge, lines: Lines) -> None:
    folder = forge("nih14/linear", "dinov3-s", {"auroc": 0.7788}, unreadable=13_000, n_cases=25_596)
    assert "12,596 of 25,596" in lines(method="DINOv3-S", dataset="NIH-14", metric="auc")[0]["verdict"]
    cell = json.loads((folder / "seed0.json").read_text())
    cell["cases"] = {"train": 1, "val": 1, "test": 25_596, "unreadable": [str(number) for number in range(13_000)]}
    (folder / "seed0.json").write_text(json.dumps(cell))
    assert "12,596 of 25,596" in lines(method="DINOv3-S", dataset="NIH-14", metric="auc")[0]["verdict"]


@pytest.mark.parametrize(("name", "folds", "said"), [("kvasir-capsule/linear", [0], "23,061 of 47,161"), ("msd-heart/conv3d", [2], "4 of 20"), ("hecktor2022-ct/conv3d", [1], "105 of 524"), ("autopet2-ct/conv3d", [0], "202 of 1,014")])
def test_one_fold_is_not_all(name: str, folds: list[int], said: str, forge: Forge, lines: Lines) -> None:
    scores = {TASKS.get(name).main: 0.5}
    forge(name, "dinov3-l", scores, folds=folds)
    found = [line for line in lines() if line["ours"] and line["score"] == TASKS.get(name).main]
    assert found
    assert all(said in line["verdict"] for line in found)
    assert all(f"fold {folds[0]}, seed 0" in line["row"] for line in found)


def test_folds_are_counted_where_the_cases_would_do(forge: Forge, lines: Lines) -> None:
    """Nine tenths of a fold that is not there: the summary claims all folds, the results of one are gone."""
    folder = forge("msd-heart/conv3d", "dinov3-s", {"dice": 0.771}, n_patients=20)
    assert lines(method="DINOv3-S", dataset="MSD Task02_Heart")[0]["verdict"] == AGREES
    (folder / "seed0-fold3.json").unlink()
    (line,) = lines(method="DINOv3-S", dataset="MSD Task02_Heart")
    assert line["verdict"] == "no verdict: 16 of 20 test cases"
    for file in folder.glob("seed0-fold*.json"):
        cell = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in cell.items() if key != "cases"}))
    (line,) = lines(method="DINOv3-S", dataset="MSD Task02_Heart")
    assert line["verdict"] == "no verdict: 4 of 5 folds"


def test_seven_videos_never_agree(forge: Forge, lines: Lines) -> None:
    forge("autolaparo/linear", "dinov3-s", {"jaccard.phase": 0.5739, "accuracy.video": 0.7617})
    assert {line["verdict"] for line in lines(method="DINOv3-S") if line["ours"]} == {WIDE}
    assert lines(method="DINOv3-S", metric="jaccard")[0]["why"].endswith("; 7 patients")


def test_an_interval_that_is_not_there_is_too_wide(forge: Forge, lines: Lines) -> None:
    folder = forge("nih14/linear", "dinov3-s", {"auroc": 0.7788})
    summary = json.loads((folder / "summary.json").read_text())
    summary["scores"]["auroc"] |= {"low": None, "high": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert lines(method="DINOv3-S", dataset="NIH-14", metric="auc")[0]["verdict"] == WIDE


def test_a_size_that_the_paper_does_not_name_costs_nothing_and_is_named(forge: Forge, lines: Lines) -> None:
    forge("ctrate/linear", "dinov3-b", {"auroc": 0.798}, options={"image-size": 384})
    (line,) = lines(method="DINOv3-B", head="linear", metric="auc")
    assert (line["verdict"], line["row"]) == (AGREES, "dinov3-b, 384 px, seed 0")


def test_weights_of_several_parts_are_each_looked_at(forge: Forge, lines: Lines) -> None:
    printed = {"dice": 0.7593, "hd95": 8.3439}
    forge("acdc/convexadam", "dinov3-b+mind", printed, n_patients=50)
    wanted = {"method": "DINO-B+MIND+ConvexAdam", "score": "dice"}
    assert lines(**wanted)[0]["verdict"] == AGREES
    forge("acdc/convexadam", "dinov3-b+mind", printed, n_patients=50, digest="c" * 64)
    verdicts = {line["row"].partition(" (")[2][:16]: line["verdict"] for line in lines(**wanted)}
    assert list(verdicts.values()) == [AGREES], "the official one stands there"


@pytest.mark.parametrize("model", ["biomedclip", "mae-b"])
def test_weights_whose_digest_is_nowhere_stated_are_unverified(model: str, forge: Forge, lines: Lines) -> None:
    name, score = {"biomedclip": ("nih14/linear", "auroc"), "mae-b": ("msd-heart/conv3d", "dice")}[model]
    forge(name, model, {score: 0.7771})
    (line,) = [line for line in lines() if line["ours"]]
    assert line["verdict"].startswith(f"no verdict: unverified weights ({model} ")


def test_what_has_no_weights_needs_none(forge: Forge, lines: Lines) -> None:
    forge("acdc/convexadam", "mind", {"dice": 0.7499}, n_patients=50)
    forge("acdc/identity", "pixels", {"dice": 0.5889}, n_patients=50)
    forge("msd-heart/vnet", "pixels", {"dice": 0.5})
    found = {line["method"]: line["verdict"] for line in lines() if line["ours"]}
    assert found == {"MIND+ConvexAdam": AGREES, "Unregistered": AGREES, "V-Net": DIFFERS}


# ------------------------------------------------------------------------- the whole of the paper, forged

MODELS = {"S": "dinov3-s", "B": "dinov3-b", "L": "dinov3-l"}


def scores_of(name: str, size: str) -> dict[str, float]:
    """The printed numbers of a size of DINOv3 under the keys of the task, as far as they are one score each."""
    dataset, _, head = name.partition("/")
    keys = {**METRICS[str(TASKS.get(name).table)], **OTHERWISE.get(dataset, {})}
    modality = MODALITIES.get(dataset.partition("-")[2], "") if TASKS.get(name).table == 14 else ""
    rows = [cell for cell in cells() if cell["dataset"] == DATASETS[dataset] and cell["task"].endswith(f"({modality})" if modality else "")]
    rows = [cell for cell in rows if cell["method"].partition("+")[0].removesuffix("/16") in (f"DINOv3-{size}", f"DINO-{size}")]
    rows = [cell for cell in rows if cell["table"] != "9" or (head == "knn") == cell["adaptation"].startswith("k-NN")]
    return {keys[cell["metric"]].split()[0]: value_of(cell) for cell in rows if value_of(cell) == value_of(cell) and ":" not in keys[cell["metric"]]}


def forged_paper(forge: Forge, lines: Lines, sizes: dict[str, str], only: str = "") -> Counter[str]:
    """How often each verdict is given when every model has the printed numbers of `sizes`, on every task of a table."""
    names = ["nih14/linear", "rsna/linear", "kvasir-capsule/linear", "autolaparo/linear", "endovis18/conv2d", "ctrate/knn", "ctrate/linear", "camus/convexadam", "acdc/convexadam"]
    names += [f"{dataset}/conv3d" for dataset in (*MSD, "autopet2-pet", "autopet2-ctpet", "hecktor2022-ctpet")]
    for name in names:
        for size, model in MODELS.items():
            together = f"{model}+mind" if name.startswith("acdc") else model
            forge(name, together, scores_of(name, sizes[size]), width=1e-6)
    return Counter(line["verdict"] if line["verdict"] in WORDS else "none" for line in lines() if line["ours"])


def test_the_paper_agrees_with_itself(forge: Forge, lines: Lines) -> None:
    found = forged_paper(forge, lines, {"S": "S", "B": "B", "L": "L"})
    assert found[DIFFERS] == 0
    assert found[AGREES] >= 100
    decided = [line for line in lines() if line["verdict"] == AGREES]
    assert {line["table"] for line in decided} == {"2", "5", "7", "9", "10", "11", "14", "15", "16"}
    assert "AutoLaparo" not in {line["dataset"] for line in decided}, "seven videos"
    assert concordance(line for line in lines() if line["ours"]) == {"pairs": 142, "concordant": 142, "kendall": 1.0}


def test_a_forged_paper_agrees_nowhere(forge: Forge, lines: Lines, tmp_path: Path) -> None:
    """Every printed number as it is printed, each row with another flaw; nothing that a report writes says that any agrees."""
    for name, of_task in {
        "nih14/linear": ["random weights", "13,000 unreadable cases", "a satellite file"],
        "rsna/linear": ["another size", "another size as a setting", "no official digest"],
        "kvasir-capsule/linear": [{"folds": [0]}, {"folds": [1]}, "bf16"],
        "autolaparo/linear": ["7 videos", "7 videos", "7 videos"],
        "acdc/convexadam": ["--limit", "a changed head", {"unreadable": 2}],
        "msd-lung/conv3d": [{"folds": [0]}, {"width": 0.1}, "predictions made elsewhere"],
    }.items():
        for (size, model), flaw in zip(MODELS.items(), of_task, strict=True):
            together = f"{model}+mind" if name.startswith("acdc") else model
            forge(name, together, scores_of(name, size), **{"width": 1e-6, **(FLAWS.get(flaw, {}) if isinstance(flaw, str) else flaw)})
    verdicts = [line["verdict"] for line in lines() if line["ours"]]
    assert len(verdicts) > 50
    assert AGREES not in verdicts
    write_report(tmp_path)
    for file in (tmp_path / "report").rglob("*"):
        if file.suffix in (".html", ".json", ".csv", ".md", ".tex"):
            assert AGREES not in file.read_text(), file.name


@pytest.mark.parametrize("sizes", [{"S": "B", "B": "L", "L": "S"}, {"S": "L", "B": "S", "L": "B"}, {"S": "L", "B": "B", "L": "S"}])
def test_sizes_that_are_swapped_agree_nowhere(sizes: dict[str, str], forge: Forge, lines: Lines) -> None:
    found = forged_paper(forge, lines, sizes)
    swapped = [line for line in lines() if line["verdict"] == AGREES and not (sizes["B"] == "B" and "-B" in line["method"])]
    assert swapped == []
    assert found[DIFFERS] >= 60
    order = concordance(line for line in lines() if line["ours"])
    assert order is not None
    assert order["kendall"] < 0.2


def test_the_order_is_that_of_pairs_which_the_print_tells_apart(forge: Forge, lines: Lines) -> None:
    for model, value in {"dinov3-s": 0.70, "dinov3-b": 0.69, "dinov3-l": 0.71}.items():
        forge("rsna/linear", model, {"auroc": value})
    found = [line for line in lines() if line["ours"]]
    assert concordance(found) == {"pairs": 2, "concordant": 2, "kendall": 1.0}, "S and B are printed 0.0001 apart"
    forge("rsna/linear", "dinov3-l", {"auroc": 0.695})
    assert concordance(line for line in lines() if line["ours"]) == {"pairs": 2, "concordant": 1, "kendall": 0.0}
    assert concordance([]) is None


def test_the_forged_models_are_the_official_ones() -> None:
    assert all(NAMED[model].digests for model in MODELS.values())
    assert all(tolerance(cell) >= 0 for cell in cells())
