"""Our numbers beside the paper's: every printed row of the datasets that were run, and a verdict only where the two answer the same question."""

import csv
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from medprobe.datasets.msd import ORGANS
from medprobe.datasets.msd import TASKS as MSD
from medprobe.report.read import Row, Tree
from medprobe.tasks.models import NAMED

MODALITIES = {"ct": "CT", "pet": "PET", "ctpet": "CT+PET"}
AVERAGE = "MSD Average"
DATASETS = {
    "nih14": "NIH-14", "rsna": "RSNA-Pneumonia", "kvasir-capsule": "Kvasir-Capsule", "autolaparo": "AutoLaparo",
    "endovis18": "EndoVis 2018", "edd2020": "EDD2020", "ctrate": "CT-RATE", **{task.name: f"MSD {task.folder}" for task in MSD},
    **{f"autopet2-{files}": "AutoPET-II" for files in MODALITIES}, **{f"hecktor2022-{files}": "HECKTOR 2022" for files in MODALITIES},
    "camus": "CAMUS", "acdc": "ACDC",
}  # fmt: skip
NETWORKS = {"unet3d": ("3D U-Net", "UNet"), "vnet": ("V-Net", "VNet"), "unetr": ("UNETR",), "swinunetr": ("SwinUNETR", "Swin UNETR")}
"""Head on `pixels` → the rows of the same network in the tables of volumes."""
PAIRS = {"dinov3-s": "DINO-S", "dinov3-b": "DINO-B", "dinov3-l": "DINO-L", "mind": "MIND", "anatomix": "Anatomix"}
"""Model → what it is called in the rows of ConvexAdam."""
WITHOUT_FEATURES = {"identity": "Unregistered", "voxelmorph": "VoxelMorph"}
"""Head on `pixels` → its row in the tables of registration."""
LESIONS = {"dice": "dice.present", "hd95": "hd95", "precision": "precision.present", "recall": "recall"}
METRICS = {
    "2": {"auc": "auroc", "accuracy": "accuracy@youden_val", "precision": "precision@youden_val", "recall": "recall@youden_val"},
    "5": {"accuracy": "accuracy", "precision_macro": "precision.macro", "recall_macro": "recall.macro", "f1_macro": "f1.macro", "precision_weighted": "precision.weighted", "recall_weighted": "recall.weighted", "f1_weighted": "f1.weighted"},
    "6": {"accuracy": "accuracy.video", "precision": "precision.phase", "recall": "recall.phase", "jaccard": "jaccard.phase"},
    "7": {"iou_instrument": "challenge_iou", "iou_binary": "binary_iou binary_iou.aggregated"},
    "8": {
        "dice_avg": "dice.present", "iou_mean": "iou.present", "precision": "precision.present", "recall": "recall",
        **{f"dice_{theirs}": f"dice.present:{ours}" for theirs, ours in (("NDBE", "BE"), ("cancer", "cancer"), ("HGD", "HGD"), ("polyp", "polyp"), ("suspicious", "suspicious"))},
    },
    "9": {"auc": "auroc", "accuracy": "accuracy.label@closest_topleft_test", "precision": "precision.macro@closest_topleft_test", "recall": "recall.macro@closest_topleft_test"},
    "10": {"dice": "dice"}, "11": {"dice": "dice"},
    "14": LESIONS,
    **{table: {"dice": "dice", "hd95": "hd95 hd", "asd": "asd assd"} for table in ("15", "16")},
}  # fmt: skip
"""Table → their metric → our score keys, one for each way to read it; `key:class` is the value of one class."""
OTHERWISE = {
    "nih14": {"accuracy": "accuracy.subset_nofinding@youden_val", "precision": "precision.samples_nofinding@youden_val", "recall": "recall.samples_nofinding@youden_val"},
    **{name: {"dice": "dice dice.organ"} for name in ORGANS},
    **{f"hecktor2022-{files}": {metric: f"{metric}.tumour" for metric in LESIONS} for files in MODALITIES},
}  # fmt: skip
"""Dataset → their metric → our score keys, where these are not those of the table."""
TOLERANCE = {"2": 0.01, "5": 0.02, "6": 0.02, "7": 0.02, "9": 0.01, "10": 0.02, "11": 0.02, "14": 0.02, "15": 0.02, "16": 0.02}
"""How far our value may lie from the printed one and still count as reproduced, in fractions: one point of AUC, two of the others; Table 8 has no verdict."""
DISTANCE_TOLERANCE = 0.05
"""The same of distances in px or mm, as a share of the printed one."""
UNSTATED = {
    "7": "the decoder's size and training", "9": "the window, k and which volumes",
    "10": "the folds, the window and which classes count", "11": "the folds, the window and which classes count",
    "14": "the split, which studies or classes count, and whether whole volumes were scored",
    "15": "the classes, the reading of HD and the settings of the optimisation", "16": "the classes, the reading of HD and the settings of the optimisation",
}  # fmt: skip
"""Table → what the paper does not say; of the others: splits or optimiser settings."""
CROSS_VALIDATED = (5, 10, 11)


@cache
def published() -> tuple[dict[str, str], ...]:
    """The 911 printed numbers."""
    with (Path(__file__).parent / "published.csv").open(newline="") as file:
        return tuple(csv.DictReader(file))


def beside(tree: Tree) -> list[dict[str, Any]]:
    """Lines of the tables whose questions the tasks of this run ask: theirs, ours, verdict; ours first, rows of methods that are none of ours last.

    One line for each printed number and each of our rows and readings that answers it; at least one for each printed number.
    """
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in tree.rows:
        if (table := row.task["config"].get("table")) is not None and row.task["dataset"] in DATASETS:
            rows.setdefault((str(table), row.task["dataset"]), []).append(row)
    lines = [line for (table, dataset), each in rows.items() for cell in published() if _asks(cell, table, dataset) for line in _lines(cell, dataset, each)]
    decathlon = {dataset: each for (_, dataset), each in rows.items() if DATASETS[dataset].startswith("MSD")}
    lines += [line for cell in published() if decathlon and cell["dataset"] == AVERAGE for line in _averages(cell, decathlon)]
    return sorted(lines, key=lambda line: (int(line["table"]), line["ours"] is None, line["verdict"] == QUOTED))


QUOTED = "quoted"
"""Verdict of a method that is none of ours."""


def _asks(cell: Mapping[str, str], table: str, dataset: str) -> bool:
    modality = MODALITIES.get(dataset.partition("-")[2]) if table == "14" else None
    return cell["table"] == table and cell["dataset"] == DATASETS[dataset] and (modality is None or cell["task"].endswith(f"({modality})"))


def _is_of(row: Row, cell: Mapping[str, str]) -> bool:
    """Whether a row of ours is what the cell's method is."""
    head, name = row.task["head"], row.model["name"]
    if head in NETWORKS:
        return name == "pixels" and cell["method"] in NETWORKS[head]
    if cell["table"] in ("15", "16"):
        if head in WITHOUT_FEATURES:
            return name == "pixels" and cell["method"] == WITHOUT_FEATURES[head]
        return head == "convexadam" and cell["method"] == "+".join([*(PAIRS.get(part, part) for part in name.split("+")), "ConvexAdam"])
    if cell["table"] == "9" and (head == "knn") != cell["adaptation"].startswith("k-NN"):
        return False
    return name in NAMED and cell["method"] in NAMED[name].methods


def _answers(cell: Mapping[str, str], rows: list[Row]) -> list[Row]:
    """One row for each head: that of the task's own settings where there are several."""
    found: dict[str, Row] = {}
    for row in rows:
        if _is_of(row, cell):
            found.setdefault(row.task["head"], row)
    return list(found.values())


def _unanswered(cell: Mapping[str, str]) -> str:
    if cell["table"] in ("15", "16"):
        return "not run"
    methods = {method for model in NAMED.values() for method in model.methods}
    if cell["task"].startswith("3D"):
        methods.update(*NETWORKS.values())
    return "not run" if cell["method"] in methods else QUOTED


def _lines(cell: Mapping[str, str], dataset: str, rows: list[Row]) -> Iterator[dict[str, Any]]:
    table, metric = cell["table"], cell["metric"]
    keys = OTHERWISE.get(dataset, {}).get(metric, METRICS[table][metric]).split()
    answers = _answers(cell, rows)
    if not answers:
        yield _line(cell, "", keys[0], None, _unanswered(cell))
    for row in answers:
        for key in keys:
            score = _score(row, key)
            yield _line(cell, row.task["head"], key, score, verdict(row, score, printed(cell), table, metric))


def _line(cell: Mapping[str, str], head: str, key: str, ours: Any, said: str) -> dict[str, Any]:
    where = f"{cell['dataset']} {cell['task'].removeprefix('3D segmentation ')}" if cell["table"] == "14" else cell["dataset"]
    return {"table": cell["table"], "dataset": where, "method": cell["method"], "head": head, "metric": cell["metric"], "score": key, "published": printed(cell), "ours": ours, "verdict": said}


def printed(cell: Mapping[str, str]) -> float:
    """The printed number as a fraction; as it is where it is none."""
    return float(cell["value"]) / (100 if cell["unit"] == "percent" else 1)


def _score(row: Row, key: str) -> Any:
    name, _, label = key.partition(":")
    score = row.score(name)
    if score is None or not label:
        return score
    return {**score, "value": score["per_class"].get(label), "low": None, "high": None, "n_undefined": 0}


def _averages(cell: Mapping[str, str], rows: Mapping[str, list[Row]]) -> Iterator[dict[str, Any]]:
    """The mean of the main scores of the ten tasks of the Decathlon, by head, where all ten have one."""
    found: dict[str, list[Row]] = {}
    for several in rows.values():
        for row in _answers(cell, several):
            found.setdefault(row.task["head"], []).append(row)
    if not found:
        yield _line(cell, "", "dice", None, _unanswered(cell))
    for head, each in found.items():
        scores = [score for row in each if (score := row.score("dice")) is not None and score["value"] is not None]
        value = sum(score["value"] for score in scores) / len(MSD) if len(scores) == len(MSD) else None
        ours = None if value is None else {"value": value, "low": None, "high": None, "n_undefined": 0}
        yield _line(cell, head, "dice", ours, _verdict_of_average(cell, each, value, len(scores)))


def _verdict_of_average(cell: Mapping[str, str], rows: list[Row], value: float | None, done: int) -> str:
    theirs = [printed(one) for one in published() if one["dataset"].startswith("MSD Task") and one["method"] == cell["method"]]
    mean = sum(theirs) / len(theirs)
    if value is None:
        return f"not run: {done} of the ten tasks have a score"
    if abs(mean - printed(cell)) > 0.00051:  # the print is rounded to 0.001
        return f"no verdict: the mean of the ten numbers printed above it is {mean:.4f}"
    reason = next((said for row in rows if (said := not_comparable(row))), None)
    return f"no verdict: {reason}" if reason else _difference(value, printed(cell), "11")


def verdict(row: Row | None, score: Any, theirs: float, table: str, metric: str) -> str:
    """Reproduced, or the difference and what the paper leaves open; or why no verdict is given."""
    if row is None or score is None:
        return "not run"
    reason = "ours is undefined" if score["value"] is None else not_comparable(row) or undecidable(row.task["dataset"], table, metric)
    if reason:
        return f"no verdict: {reason}"
    if score["low"] is not None and score["low"] <= theirs <= score["high"]:
        return "reproduced"
    return _difference(score["value"], theirs, table, DISTANCE_TOLERANCE * theirs if table in ("15", "16") and metric != "dice" else None)


def _difference(value: float, theirs: float, table: str, tolerance: float | None = None) -> str:
    if abs(value - theirs) <= (TOLERANCE[table] if tolerance is None else tolerance):
        return "reproduced"
    return f"differs by {value - theirs:+.3f}: the paper does not state {UNSTATED.get(table, 'splits or optimiser settings')} (docs/protocols.md)"


def undecidable(dataset: str, table: str, metric: str) -> str | None:
    """Why a printed number cannot be held against any of ours, if so."""
    if dataset == "nih14" and metric != "auc":
        return "the printed reading is not decidable (docs/protocols.md)"
    if table == "8":
        return "the table states neither a split nor how Dice is averaged, and the release has no official split"
    if table == "9" and metric != "auc":
        return "the threshold rule is not stated; the linear rows fit one threshold for each label, chosen on the reported labels (as here), the k-NN rows no common rule"
    if table == "14" and metric == "hd95":
        return "the printed unit is not stated, and in no unit can a distance in a body be up to 25,476"
    return None


def not_comparable(row: Row) -> str | None:
    """Why this row may not be held against a printed number, if so."""
    release = sum(row.task.get("counts", {}).values())
    config, folds = row.task["config"], sum(part.startswith("fold") for part in row.task.get("counts", {}))
    if row.model["random"]:
        return "random weights"
    if "limit" in row.options:
        return "--limit was used"
    whole = row.task["kind"] == "registration" and row.model["image_size"] is None
    if "image-size" in row.options or (config.get("image_size") != row.model["image_size"] and not whole):
        return f"image size {row.model['image_size']} instead of {config.get('image_size')}"
    if row.options:
        return "settings differ from the task's: " + ", ".join(sorted(row.options))
    if release and row.task.get("n_cases", release) < 0.9 * release:
        return f"{row.task.get('n_cases')} of {release} cases: a twin or a part"
    if config.get("table") in CROSS_VALIDATED and row.summary is not None and len(row.summary["folds"]) < folds:
        return f"{len(row.summary['folds'])} of {folds} folds"
    return None


def text_of(line: Mapping[str, Any]) -> str:
    """The printed number as it stands on the page."""
    value = line["published"]
    return "nan" if math.isnan(value) else f"{value:.4f}" if value <= 1 else f"{value:.2f}"
