"""The report: from result files alone, flags where a control is not beaten, nothing hidden, nothing executed."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medprobe.errors import RequestError
from medprobe.registry import DATASETS
from medprobe.report import compare, figures
from medprobe.report.compare import comparisons
from medprobe.report.page import write_report
from medprobe.report.provenance import provenance
from medprobe.report.published import beside, published
from medprobe.report.read import Tree, read_tree
from medprobe.report.tables import Sheet, console_table, few_text, interval_text, latex, markdown
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


def test_few_patients_are_marked_wherever_a_score_stands(out: Path) -> None:
    path = out / "results/toy/logreg/weak/summary.json"
    summary = json.loads(path.read_text())
    summary["scores"]["auroc"] |= {"small": "7 patients; 3 with b", "coverage": 0.91}
    path.write_text(json.dumps(summary))
    write_report(out)
    value = f"{summary['scores']['auroc']['value']:.3f}"
    tables = {kind: (out / f"report/tables/scores-toy-logreg.{kind}").read_text() for kind in ("csv", "md", "tex")}
    for kind, dagger in (("csv", "†"), ("md", "†"), ("tex", "\\textdagger{}")):
        (line,) = (line for line in tables[kind].splitlines() if "weak" in line)
        assert f"] {dagger}".replace("]", "\\]" if kind == "md" else "]") in line
        assert "7 patients; 3 with b; simulated coverage 0.91" in line
        assert dagger not in next(line for line in tables[kind].splitlines() if "good" in line)
    assert all("few patients: read" in tables[kind] for kind in ("md", "tex"))
    (line,) = (line for line in (out / "report/tables/scores.csv").read_text().splitlines() if line.startswith("toy/logreg,weak,no,auroc,"))
    assert line.endswith(",7 patients; 3 with b,0.91")
    page = (out / "report/index.html").read_text()
    assert f"{value} [" in page
    assert "† few patients" in page
    (row,) = (row for row in json.loads((out / "report/report.json").read_text())["rows"] if row["model"] == "weak" and row["score"])
    assert row["score"]["small"] == "7 patients; 3 with b"
    console = Console(width=200, file=io.StringIO())
    console.print(console_table(out))
    assert "] †" in console.file.getvalue()
    assert "† few patients" in console.file.getvalue()


def test_without_few_patients_nothing_is_marked(out: Path) -> None:
    write_report(out)
    assert "few patients:" not in (out / "report/index.html").read_text()


def test_a_score_without_interval_says_so_by_its_mark() -> None:
    score = {"value": 0.8, "low": None, "high": None, "n_undefined": 0, "small": "no interval: 4 patients"}
    assert interval_text(score) == "0.800 †"
    assert few_text(score) == " († no interval: 4 patients)"
    assert few_text({**score, "small": None}) == few_text(None) == ""


def test_finished_cells_that_a_cut_run_did_not_combine_have_their_score(out: Path) -> None:
    """The run was interrupted in another cell: what is finished is not called unfinished, nor left out of an older summary."""
    folder = out / "results/toy/logreg/weak"
    whole = read_tree(out).get("toy/logreg", "weak")
    (folder / "summary.json").unlink()
    anew = read_tree(out).get("toy/logreg", "weak")
    assert whole is not None
    assert anew is not None
    assert anew.summary == whole.summary
    assert not (folder / "summary.json").exists(), "a report writes nothing among the results"
    write_cell(out, "weak", 0.4, fold=2)
    results.write_summary(folder)
    (folder / "seed0-fold2.json").rename(folder / "kept")
    results.write_summary(folder)
    (folder / "kept").rename(folder / "seed0-fold2.json")
    later = read_tree(out).get("toy/logreg", "weak")
    assert later is not None
    assert later.summary is not None
    assert later.summary["folds"] == [0, 1, 2]


def test_a_summary_of_an_earlier_version_has_todays_intervals_and_marks(out: Path) -> None:
    """From its predictions; where these are gone, the marks that the number of patients gives."""
    folder = out / "results/toy/logreg/weak"
    whole = read_tree(out).get("toy/logreg", "weak")
    earlier = json.loads((folder / "summary.json").read_text())
    for score in earlier["scores"].values():
        del score["small"], score["coverage"]
        score |= {"low": 0.0, "high": 1.0, "n_patients": 4}
    earlier["scores"]["ap"]["n_patients"] = 19
    (folder / "summary.json").write_text(json.dumps(earlier))
    anew = read_tree(out).get("toy/logreg", "weak")
    assert whole is not None
    assert anew is not None
    assert anew.summary == whole.summary
    for file in folder.glob("*.parquet"):
        file.unlink()
    kept = read_tree(out).get("toy/logreg", "weak")
    assert kept is not None
    assert interval_text(kept.score("ap")) == f"{earlier['scores']['ap']['value']:.3f} [0.000, 1.000] †"
    assert few_text(kept.score("ap")) == " († 19 patients)"
    assert few_text(kept.score("auroc")) == " († no interval: 4 patients)"
    assert interval_text(kept.score("auroc")) == f"{earlier['scores']['auroc']['value']:.3f} †"


def test_cells_whose_predictions_are_gone_are_unfinished_and_not_called_missing(out: Path) -> None:
    (out / "results/toy/logreg/weak/summary.json").unlink()
    for file in (out / "results/toy/logreg/weak").glob("*.parquet"):
        file.unlink()
    write_report(out)
    assert "weak,unfinished" in (out / "report/tables/scores-toy-logreg.csv").read_text()
    assert "unfinished" in (out / "report/figures/heatmap.svg").read_text()


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


@pytest.mark.parametrize(("p", "text"), [(1e-4, "< 0.001"), (0.002, "0.002"), (0.0312, "0.031"), (1.0, "1.000"), (float("nan"), "—")])
def test_a_p_is_a_number_a_bound_or_a_dash(p: float, text: str) -> None:
    assert compare._p_text(p) == text


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


def test_an_interval_that_ends_at_0_is_drawn_to_0(tmp_path: Path) -> None:
    for size in (64, 128):
        options = {} if size == 64 else {"image-size": size}
        write_cell(tmp_path, "m", 2.0, options=options)
        folder = (tmp_path / "results" / results.stem("toy", "logreg", "m", options, 0, None)).parent
        summary = results.write_summary(folder)
        assert summary is not None
        summary["model"]["image_size"] = size
        summary["scores"]["auroc"] |= {"value": 0.25, "low": 0.0, "high": 0.5}
        (folder / "summary.json").write_text(json.dumps(summary))
        file = folder / "seed0.json"
        file.write_text(file.read_text().replace('"image_size": 64', f'"image_size": {size}'))
    tree = read_tree(tmp_path)
    scaling = figures._scaling(tree)
    assert scaling is not None
    assert scaling.axes[0].collections[0].get_paths()[0].get_extents().ymin == 0.0
    scores = figures._intervals(tree)
    assert [list(line.get_xdata()) for line in scores.axes[0].lines if len(line.get_xdata()) == 2] == [[0.0, 0.5]] * 2


def test_two_checkpoints_under_one_name_are_told_apart_everywhere(tmp_path: Path) -> None:
    """One on both tasks, the other on one, at two sizes; a control has the same digest everywhere and needs none."""
    digests = {"m": "a" * 64, "m@": "b" * 64}
    for key, digest in digests.items():
        for head in ("logreg", "knn") if key == "m" else ("logreg",):
            for size in (64, 128) if head == "logreg" else (64,):
                options = {"weights": digest[:8]} | ({"image-size": size} if size == 128 else {})
                folder = f"m@{','.join(f'{name}={value}' for name, value in sorted(options.items()))}"
                write_cell(tmp_path, "m", 2.0 if key == "m" else 1.0, head=head)
                placed = tmp_path / "results/toy" / head / "m"
                for file in placed.glob("*.json"):
                    document = json.loads(file.read_text())
                    document["provenance"]["weights_sha256"] = digest
                    document["options"] = {name: value for name, value in options.items() if name != "weights"}
                    document["model"]["image_size"] = size
                    file.write_text(json.dumps(document))
                placed.rename(placed.with_name(folder))
    write_cell(tmp_path, "pixels", 0.5)
    write_cell(tmp_path, "pixels", 0.5, head="knn")
    for folder in (tmp_path / "results/toy").glob("*/*"):
        results.write_summary(folder)
    tree = read_tree(tmp_path)
    labels = {f"m ({more}weights={letter * 8})" for letter in "ab" for more in ("", "image-size=128, ")}
    assert set(tree.models) == {*labels, "pixels"}
    write_report(tmp_path)
    for name in ("index.html", "tables/scores-toy-logreg.csv", "tables/scores.csv", "figures/heatmap.svg", "figures/scores.svg", "report.json"):
        text = (tmp_path / "report" / name).read_text()
        assert "weights=aaaaaaaa" in text, name
        assert "weights=bbbbbbbb" in text, name
    scaling = figures._scaling(tree)
    assert scaling is not None
    assert {line.get_label() for line in scaling.axes[0].lines} == {"m (weights=aaaaaaaa), toy/logreg", "m (weights=bbbbbbbb), toy/logreg"}
    assert {row["model"] for row in comparisons(tmp_path, "pixels") if row["task"] == "toy/logreg"} == labels
    assert "m (weights=bbbbbbbb) on toy/knn" in json.loads((tmp_path / "report/report.json").read_text())["missing"]
    with pytest.raises(RequestError, match=r"name one of them: .*weights=aaaaaaaa"):
        comparisons(tmp_path, "m/logreg")


def test_names_are_cut_only_where_they_stay_apart() -> None:
    names = [f"random:timm:vit_{size}_patch16_dinov3.lvd1689m" for size in ("small", "large")]
    assert figures._shortened([*names, names[0]]) == [*names, names[0]]
    assert figures._shortened(names[:1]) == ["random:timm:vit_…6_dinov3.lvd1689m"]


def test_draws_of_random_weights_are_one_model_whatever_their_digests(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path, "random:timm:x", 1.0, seed=seed)
    for seed, file in enumerate(sorted((tmp_path / "results/toy/logreg").glob("*/seed*.json"))):
        document = json.loads(file.read_text())
        document["model"]["random"], document["provenance"]["weights_sha256"] = True, str(seed) * 64
        file.write_text(json.dumps(document))
    results.write_summary(next((tmp_path / "results/toy/logreg").iterdir()))
    assert read_tree(tmp_path).models == ["random:timm:x"]
    write_report(tmp_path)
    assert "2 draws" in (tmp_path / "report/index.html").read_text()


def test_what_cannot_run_is_not_called_missing(tmp_path: Path) -> None:
    """Predictions made elsewhere, networks on pixels, the mean of the targets, descriptors under heads of vectors, settings of another head."""
    write_cell(tmp_path, "net", 2.0, options={"head.epochs": 5}, head="linear")
    write_cell(tmp_path, "net", 2.0, head="linear")
    write_cell(tmp_path, "mind", 2.0, head="conv2d")
    write_cell(tmp_path, "pixels", 2.0, head="unet2d")
    write_cell(tmp_path, "pixels", 2.0, head="constant")
    write_cell(tmp_path, "nnU-Net", 2.0, head="predictions")
    write_cell(tmp_path, "pixels", 2.0, head="knn", seed=3)
    file = next((tmp_path / "results/toy/predictions").glob("*/seed0.json"))
    file.write_text(file.read_text().replace('"spec": "nnU-Net"', '"spec": "predictions"'))
    for folder in (tmp_path / "results/toy").glob("*/*"):
        results.write_summary(folder)
    write_report(tmp_path)
    assert set(json.loads((tmp_path / "report/report.json").read_text())["missing"]) == {
        "net on toy/conv2d", "net on toy/knn", "net (head.epochs=5) on toy/conv2d", "pixels on toy/conv2d", "pixels on toy/linear",
    }  # fmt: skip


def test_the_banner_claims_no_more_than_was_compared(tmp_path: Path) -> None:
    def page() -> str:
        for folder in (tmp_path / "results").glob("*/*/*"):
            results.write_summary(folder)
        write_report(tmp_path)
        return (tmp_path / "report/index.html").read_text()

    write_cell(tmp_path, "good", 3.0, head="knn")
    write_cell(tmp_path, "pixels", 0.3, head="knn")
    assert "Every model is better than the best control of its dataset" in page()
    file = tmp_path / "results/toy/logreg/other/seed0.json"
    write_cell(tmp_path, "other", 3.0)
    document = json.loads(file.read_text())
    document["task"] |= {"dataset": "alone", "name": "alone/logreg"}
    file.write_text(json.dumps(document))
    said = page()
    assert "1 of 2 results are better than the best control of their dataset" in said
    assert "Without a control: other on alone/logreg." in said
    write_cell(tmp_path, "pixels", 5.0, head="logreg")
    said = page()
    assert "good is below the control pixels/logreg on toy/knn" in said, "a control under another head beats it"
    assert "better than the best control" not in said


def test_every_protocol_of_a_task_is_shown_with_the_models_it_is_of(tmp_path: Path) -> None:
    write_cell(tmp_path, "one", 1.0)
    write_cell(tmp_path, "two", 1.0, options={"pooling": "patch_mean"})
    file = next((tmp_path / "results/toy/logreg").glob("two*/seed0.json"))
    document = json.loads(file.read_text())
    document["task"]["config"]["pooling"], document["task"]["n_cases"], document["validation"] = "patch_mean", 12, "none: too few"
    document["provenance"] |= {"medprobe": "0.2.0", "dataset_fingerprint": "e" * 64}
    file.write_text(json.dumps(document))
    for folder in (tmp_path / "results/toy").glob("*/*"):
        results.write_summary(folder)
    shown = provenance(read_tree(tmp_path))
    assert [(row["models"], "pooling=patch_mean" in row["protocol"]) for row in shown["task_rows"]] == [("one", False), ("two", True)]
    assert [(row["cases"], row["fingerprint"], row["validation"]) for row in shown["dataset_rows"]] == [("80", "f" * 16, "given"), ("12", "e" * 16, "none: too few")]
    assert shown["version"] == "0.1.0 / 0.2.0"
    write_report(tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert page.index("pooling=cls") < page.index("pooling=patch_mean")


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
