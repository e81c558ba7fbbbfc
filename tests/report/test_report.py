"""The report: from result files alone, flags where a control is not beaten, nothing hidden, nothing executed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.registry import DATASETS
from medprobe.report import compare, figures
from medprobe.report.compare import comparisons
from medprobe.report.page import write_report
from medprobe.report.published import TOLERANCE, beside, published, verdict
from medprobe.report.read import Tree, read_tree
from medprobe.report.tables import Sheet, latex, markdown
from medprobe.run import results
from medprobe.types import Task

CLASSES = ["no", "yes"]


def write_cell(out: Path, model: str, skill: float, head: str = "logreg", fold: int | None = None, seed: int = 0, **more) -> None:  # type: ignore[no-untyped-def]
    """A finished cell whose scores separate the classes by `skill` standard deviations; equal patients for all models."""
    target = np.arange(80) % 2
    rng = np.random.default_rng([fold or 0, 5])
    noise = rng.normal(size=80)
    prob = 1 / (1 + np.exp(-(skill * (target - 0.5) + noise)))
    ids = np.array([f"c{fold}-{n}" for n in range(80)])
    predictions = results.Predictions(ids, np.array([f"p{n // 2}" for n in range(80)]), target, np.stack([1 - prob, prob], axis=1))
    path = out / "results" / results.stem("toy", head, model, more.get("options", {}), seed, fold)
    predictions.save(path, CLASSES)
    scores = results.stats.combine_folds([predictions.measure(CLASSES, False, "case")], resamples=100)
    write_document(path, model, head, fold, seed, {"status": "done", "scores": results.scores_json(scores), "validation": "given", **more})


def write_document(path: Path, model: str, head: str, fold: int | None, seed: int, more: dict) -> None:
    document = {
        "schema": 1, "key": "k", "facts": {}, "options": {}, "warnings": [], "seed": seed, "fold": fold,
        "task": {"name": f"toy/{head}", "dataset": "toy", "head": head, "kind": "classification", "config": Task("toy", head).config(), "classes": CLASSES, "multilabel": False, "unit": "case", "n_cases": 80, "counts": {}, "licence": "none"},
        "model": {"name": model, "spec": model, "params": 5, "dim": 3, "image_size": 64, "random": False, "control": model in ("pixels", "mean-rgb"), "licence": None},
        "provenance": {"medprobe": "0.1.0", "weights_sha256": "0" * 64, "dataset_fingerprint": "f" * 64, "libraries": {}, "device": "cpu", "written": "2026-01-01T00:00:00Z"},
    }  # fmt: skip
    results.write_result(path, {**document, **more})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two models and a control on two folds; one failed cell, one missing, one damaged file."""
    for fold in (0, 1):
        write_cell(tmp_path, "good", 4.0, fold=fold)
        write_cell(tmp_path, "weak", 0.4, fold=fold)
        write_cell(tmp_path, "pixels", 1.5, fold=fold)
    write_cell(tmp_path, "good", 3.0, head="knn", fold=0)
    write_document(tmp_path / "results" / results.stem("toy", "knn", "weak", {}, 0, 0), "weak", "knn", 0, 0, {"status": "failed", "error": {"type": "CaseError", "message": "no <b>luck</b>"}})
    for folder in (tmp_path / "results/toy").glob("*/*"):
        results.write_summary(folder)
    (tmp_path / "results/toy/logreg/good/seed9.json").write_text("{not json")
    return tmp_path


def test_only_models_not_above_the_best_control_are_flagged(out: Path) -> None:
    summary = write_report(out)
    assert len(summary.flags) == 1
    assert summary.flags[0].startswith("weak is below the control pixels on toy/logreg: auroc difference -")
    page = (out / "report/index.html").read_text()
    assert "weak is below the control pixels" in page
    assert (summary.failed, summary.unreadable) == (1, ["toy/logreg/good/seed9.json"])
    assert "pixels on toy/knn" in page
    assert "no &lt;b&gt;luck&lt;/b&gt;" in page


def test_cells_that_are_not_combined_yet_are_unfinished_and_not_called_missing(out: Path) -> None:
    (out / "results/toy/logreg/weak/summary.json").unlink()
    write_report(out)
    assert "weak,unfinished" in (out / "report/tables/scores-toy-logreg.csv").read_text()


def test_the_page_needs_no_other_file_and_no_network(out: Path) -> None:
    write_report(out)
    page = (out / "report/index.html").read_text()
    assert "<link" not in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert page.count("<svg") == 2
    for name in ("figures/scores.svg", "figures/heatmap.png", "tables/scores.csv", "tables/scores-toy-logreg.tex", "report.json"):
        assert (out / "report" / name).stat().st_size > 0
    json.loads((out / "report/report.json").read_text())


def test_equal_results_give_equal_files(out: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(out, tmp_path / name)
    one, two = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()} for name in ("a", "b"))
    assert one == two


def test_differences_are_paired_and_corrected(out: Path) -> None:
    rows = {row["model"]: row for row in comparisons(out, "pixels")}
    assert rows["good"]["low"] > 0
    assert rows["weak"]["high"] < 0
    assert all(row["p_holm"] >= row["p"] for row in rows.values())
    with pytest.raises(RequestError, match="did you mean pixels"):
        comparisons(out, "pixel")


def test_results_of_other_labels_are_not_compared(out: Path) -> None:
    for file in (out / "results/toy/logreg/good").glob("seed0-fold?.json"):
        document = json.loads(file.read_text())
        document["provenance"]["dataset_fingerprint"] = "e" * 64
        file.write_text(json.dumps(document))
    rows = {row["model"]: row for row in comparisons(out, "pixels")}
    assert "other images, labels or parts" in rows["good"]["error"]
    assert "difference" in rows["weak"]
    write_report(out)
    assert "The data changed" in (out / "report/index.html").read_text()


def test_what_an_earlier_state_of_the_data_left_behind_is_not_combined(out: Path) -> None:
    folder = out / "results/toy/logreg/good"
    before = results.write_summary(folder)
    assert before is not None
    assert before["folds"] == [0, 1]
    write_cell(out, "good", 4.0)
    file = folder / "seed0.json"
    document = json.loads(file.read_text())
    document["provenance"]["dataset_fingerprint"] = "e" * 64
    file.write_text(json.dumps(document))
    after = results.write_summary(folder)
    assert after is not None
    assert (after["folds"], after["scores"]["auroc"]["n_cases"]) == ([None], 80)
    row = read_tree(out).get("toy/logreg", "good")
    assert row is not None
    assert len(row.cells) == 1
    document["status"] = "failed"
    file.write_text(json.dumps(document))
    assert results.write_summary(folder) is None
    assert not (folder / "summary.json").exists(), "a failed cell leaves no old score behind"


def test_one_model_with_other_options_has_other_labels_and_a_limit_is_always_said(tmp_path: Path) -> None:
    for model in ("random:timm:x", "plain"):
        write_cell(tmp_path, model, 1.0)
        write_cell(tmp_path, model, 2.0, options={"image-size": 32})
    write_cell(tmp_path, "other", 1.0, options={"limit": 5})
    for folder in (tmp_path / "results/toy/logreg").iterdir():
        results.write_summary(folder)
    assert set(read_tree(tmp_path).models) == {"random:timm:x", "random:timm:x (image-size=32)", "plain", "plain (image-size=32)", "other (limit=5)"}
    write_report(tmp_path)
    assert "Limited:" in (tmp_path / "report/index.html").read_text()


def test_a_model_has_one_label_on_all_tasks_and_is_compared_on_all(tmp_path: Path) -> None:
    """Run at 96 px on two tasks, and in bf16 too on one of them: what differs is said, and only that."""
    for head in ("logreg", "knn"):
        write_cell(tmp_path, "own", 1.0, head=head, options={"image-size": 96})
        write_cell(tmp_path, "pixels", 0.5, head=head, options={"image-size": 96})
    write_cell(tmp_path, "own", 1.1, head="knn", options={"image-size": 96, "precision": "bf16"})
    for folder in (tmp_path / "results/toy").glob("*/*"):
        results.write_summary(folder)
    assert set(read_tree(tmp_path).models) == {"own", "own (precision=bf16)", "pixels"}
    rows = {(row["task"], row["model"]) for row in comparisons(tmp_path, "own")}
    assert rows == {("toy/knn", "own (precision=bf16)"), ("toy/knn", "pixels"), ("toy/logreg", "pixels")}
    assert write_report(tmp_path).missing == 1, "bf16 on logreg, and nothing that was run under another name"


def test_a_baseline_is_known_by_its_name_where_it_has_one_result_and_asked_for_by_its_label_where_it_has_more(tmp_path: Path) -> None:
    write_cell(tmp_path, "m", 2.0)
    write_cell(tmp_path, "m", 2.0, head="knn")
    for epochs in (5, 9):
        write_cell(tmp_path, "pixels", 1.0, options={"head.epochs": epochs})
    write_cell(tmp_path, "pixels", 1.0, head="knn", options={"head.epochs": 5})
    for folder in (tmp_path / "results/toy").glob("*/*"):
        results.write_summary(folder)
    assert {row["task"] for row in comparisons(tmp_path, "pixels")} == {"toy/knn"}, "of the two others none is the baseline"
    assert [(row["model"], row["task"]) for row in comparisons(tmp_path, "pixels (head.epochs=9)")] == [("m", "toy/logreg"), ("pixels (head.epochs=5)", "toy/logreg")]
    with pytest.raises(RequestError, match=r"2 results are of pixels/logreg; name one of them: 'pixels \(head.epochs=5\)/logreg', 'pixels \(head.epochs=9\)/logreg'"):
        comparisons(tmp_path, "pixels/logreg")
    assert {row["task"] for row in comparisons(tmp_path, "pixels (head.epochs=9)/logreg")} == {"toy/logreg", "toy/knn"}


@pytest.mark.parametrize(("p", "shown", "text"), [(2 / 1001, 2 / 1001, "≤ 0.002"), (2 / 1001, 6 / 1001, "≤ 0.006"), (8 / 1001, 8 / 1001, "0.008"), (8 / 1001, 24 / 1001, "0.024")])
def test_a_p_is_a_bound_only_where_no_draw_lay_on_the_other_side(p: float, shown: float, text: str) -> None:
    assert compare._p_text(shown, p) == text


def test_sizes_are_joined_by_a_line_only_where_all_else_is_alike(tmp_path: Path) -> None:
    def lines() -> list[tuple[str, list[int]]]:
        for folder in (tmp_path / "results/toy").glob("*/*"):
            results.write_summary(folder)
        figure = figures._scaling(read_tree(tmp_path))
        return [] if figure is None else [(line.get_label(), list(line.get_xdata())) for line in figure.axes[0].lines]

    def at(size: int, **options: int) -> None:
        asked = {"image-size": size, **options}
        write_cell(tmp_path, "m", 2.0, options=asked)
        file = tmp_path / "results" / f"{results.stem('toy', 'logreg', 'm', asked, 0, None)}.json"
        file.write_text(file.read_text().replace('"image_size": 64', f'"image_size": {size}'))

    at(64, epochs=3)
    at(128, epochs=60)
    assert lines() == []
    at(128, epochs=3)
    assert lines() == [("m (epochs=3), toy/logreg", [64, 128])]


def test_odd_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>|$\\input{x}$"
    write_cell(tmp_path, name, 1.0)
    results.write_summary(next((tmp_path / "results/toy/logreg").iterdir()))
    write_report(tmp_path)
    assert "<img src=x" not in (tmp_path / "report/index.html").read_text()
    sheet = Sheet("s", "s", ("model",), ((name,),))
    assert r"\|" in markdown(sheet)
    assert r"\textbackslash{}input" in latex(sheet)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected the results of a run"):
        write_report(tmp_path)


def test_a_verdict_is_given_only_where_the_question_is_the_same(out: Path) -> None:
    assert len(published()) == 911
    row = read_tree(out).get("toy/logreg", "good")
    assert row is not None
    row.task["config"]["image_size"] = 64  # type: ignore[index]
    score = {"value": 0.8, "low": 0.75, "high": 0.85}
    assert verdict(row, score, 0.84, "2", "auc") == "reproduced"
    assert verdict(row, score, 0.85 + TOLERANCE["2"], "2", "auc").startswith("differs by -0.06")
    row.model["random"] = True  # type: ignore[index]
    assert verdict(row, score, 0.8, "2", "auc") == "no verdict: random weights"
    assert verdict(None, None, 0.8, "2", "auc") == "not run"


def test_a_manifest_with_the_name_of_a_public_dataset_is_not_held_against_the_paper(out: Path) -> None:
    row = read_tree(out).get("toy/logreg", "good")
    assert row is not None
    row.task["dataset"] = "nih14"  # type: ignore[index]
    row.model["name"] = "dinov3-b"  # type: ignore[index]
    tree = Tree(out, (row,), ())
    assert beside(tree) == []
    row.task["config"]["table"] = 2  # type: ignore[index]
    assert {(line["table"], line["dataset"]) for line in beside(tree)} == {("2", "NIH-14")}


def test_a_report_imports_no_torch(out: Path) -> None:
    script = f"import sys\nfrom pathlib import Path\nfrom medprobe.report.page import write_report\nwrite_report(Path({str(out)!r}))\nassert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_every_published_dataset_we_have_is_found_in_the_published_table() -> None:
    from medprobe.report.published import DATASETS as NAMES

    assert set(NAMES) <= set(DATASETS.names())
    assert set(NAMES.values()) <= {row["dataset"] for row in published()}
