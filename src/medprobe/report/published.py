"""Our numbers beside the paper's: every printed row of the datasets that were run, and a verdict only where the two answer the same question."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from medprobe.datasets.msd import ORGANS
from medprobe.datasets.msd import TASKS as MSD
from medprobe.report.printed import SD, Cell, cells, published, text_of, tolerance, value_of
from medprobe.report.read import Row, Tree, label_of, weights_of
from medprobe.report.verdicts import (
    SIZE_OPTIONS,
    few_patients,
    judged,
    judged_average,
    names_of,
    settings_of,
    unverified,
)
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
LESIONS = {
    "dice": "dice.present", "hd95": "hd95",
    "precision": "precision.zero.present precision.present", "recall": "recall",
}  # fmt: skip
TUMOUR = {
    "dice": "dice.tumour", "hd95": "hd95.tumour",
    "precision": "precision.zero.tumour precision.tumour", "recall": "recall.tumour",
}  # fmt: skip
PAIR = {"dice": "dice", "hd95": "hd95 hd", "asd": "asd assd"}
METRICS = {
    "2": {"auc": "auroc", "accuracy": "accuracy@youden_val", "precision": "precision@youden_val", "recall": "recall@youden_val"},
    "5": {"accuracy": "accuracy", "precision_macro": "precision.macro", "recall_macro": "recall.macro", "f1_macro": "f1.macro", "precision_weighted": "precision.weighted", "recall_weighted": "recall.weighted", "f1_weighted": "f1.weighted"},
    "6": {"accuracy": "accuracy.video", "precision": "precision.phase precision.phase_nan_ignored", "recall": "recall.phase", "jaccard": "jaccard.phase"},
    "7": {"iou_instrument": "challenge_iou", "iou_binary": "binary_iou binary_iou.aggregated"},
    "8": {
        "dice_avg": "dice.present", "iou_mean": "iou.present", "precision": "precision.zero.present precision.present", "recall": "recall",
        **{f"dice_{theirs}": f"dice.present:{ours}" for theirs, ours in (("NDBE", "BE"), ("cancer", "cancer"), ("HGD", "HGD"), ("polyp", "polyp"), ("suspicious", "suspicious"))},
    },
    "9": {"auc": "auroc", "accuracy": "accuracy.label@closest_topleft_test", "precision": "precision.macro@closest_topleft_test", "recall": "recall.macro@closest_topleft_test"},
    "10": {"dice": "dice"}, "11": {"dice": "dice"},
    "14": LESIONS,
    **{table: {**PAIR, **{metric + SD: " ".join(f"{key}.sd" for key in keys.split()) for metric, keys in PAIR.items()}} for table in ("15", "16")},
}  # fmt: skip
"""Table → their metric → our score keys, one for each way to read it, the declared one first; `key:class` is the value of one class."""
OTHERWISE = {
    "nih14": {"accuracy": "accuracy.subset_nofinding@youden_val", "precision": "precision.samples_nofinding@youden_val", "recall": "recall.samples_nofinding@youden_val"},
    **{name: {"dice": "dice dice.organ"} for name in ORGANS},
    **{f"hecktor2022-{files}": TUMOUR for files in MODALITIES},
}  # fmt: skip
"""Dataset → their metric → our score keys, where these are not those of the table."""
OTHER_HEADS = dict.fromkeys(("10", "11", "14"), ("linear3d",))
"""Table → the heads that are another reading than the declared one, which is the decoder of the text."""
QUOTED = "quoted"
"""Verdict of a method that is none of ours, or that no encoder or head here can run."""
Answers = Mapping[str, list[Row]]


def beside(tree: Tree) -> list[dict[str, Any]]:
    """Lines of the tables whose questions the tasks of this run ask: theirs, ours, verdict; ours first, rows of methods that are none of ours last.

    One line for each printed number and each of our rows and readings that answers it; at least one for each printed number.
    """
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in tree.rows:
        if (table := row.task["config"].get("table")) is not None and row.task["dataset"] in DATASETS:
            rows.setdefault((str(table), row.task["dataset"]), []).append(row)
    lines = [line for (table, dataset), each in rows.items() for cell in cells() if _asks(cell, table, dataset) for line in _lines(cell, dataset, each)]
    decathlon = {dataset: each for (_, dataset), each in rows.items() if DATASETS[dataset].startswith("MSD")}
    lines += [line for cell in published() if decathlon and cell["dataset"] == AVERAGE for line in _averages(cell, decathlon)]
    return sorted(lines, key=lambda line: (int(line["table"]), line["ours"] is None, line["verdict"] == QUOTED))


def _asks(cell: Cell, table: str, dataset: str) -> bool:
    modality = MODALITIES.get(dataset.partition("-")[2]) if table == "14" else None
    return cell["table"] == table and cell["dataset"] == DATASETS[dataset] and (modality is None or cell["task"].endswith(f"({modality})"))


def _is_of(row: Row, cell: Cell) -> bool:
    """Whether a row of ours is what the cell's method is."""
    head, names = row.task["head"], names_of(row)
    if head in NETWORKS:
        return names == ("pixels",) and cell["method"] in NETWORKS[head]
    if cell["table"] in ("15", "16"):
        if head in WITHOUT_FEATURES:
            return names == ("pixels",) and cell["method"] == WITHOUT_FEATURES[head]
        features = sorted(PAIRS.get(name, name) for name in names)
        return head == "convexadam" and sorted(cell["method"].split("+")) == sorted([*features, "ConvexAdam"])
    if cell["table"] == "9" and (head == "knn") != cell["adaptation"].startswith("k-NN"):
        return False
    return len(names) == 1 and names[0] in NAMED and cell["method"] in NAMED[names[0]].methods


def _answers(cell: Cell, rows: Iterable[Row]) -> list[Row]:
    """Of each head, the rows that are nearest to the task's own settings: one, unless several are equally near."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if _is_of(row, cell):
            found.setdefault(row.task["head"], []).append(row)
    return [row for each in found.values() for row in each if _apart(row) == min(map(_apart, each))]


def _apart(row: Row) -> tuple[Any, ...]:
    """How far a row is from the question of its task, whatever its folder is called: what weighs most first."""
    asked, size = row.task["config"].get("image_size"), row.model["image_size"]
    scale = abs(math.log2(size / asked)) if size and asked else 0.0
    return (
        row.summary is None, bool(row.model["random"]), "limit" in row.options, len(settings_of(row)), scale,
        unverified(row) is not None, row.model["name"] not in NAMED,
    )  # fmt: skip


def _unanswered(cell: Cell) -> str:
    if cell["table"] in ("15", "16"):
        return "not run"
    methods = {method for model in NAMED.values() if model.spec for method in model.methods}
    if cell["task"].startswith("3D segmentation"):
        methods.update(*NETWORKS.values())
    return "not run" if cell["method"] in methods else QUOTED


def _lines(cell: Cell, dataset: str, rows: list[Row]) -> Iterator[dict[str, Any]]:
    table, metric = cell["table"], cell["metric"]
    keys = OTHERWISE.get(dataset, {}).get(metric, METRICS[table][metric]).split()
    answers = _answers(cell, rows)
    if not answers:
        yield _unrun(cell, keys[0])
    for row in answers:
        declared = row.task["head"] not in OTHER_HEADS.get(table, ())
        for key in keys:
            score = _score(row, key)
            yield _line(cell, [row], key, score, judged(row, score, cell, declared and key == keys[0]))


def _unrun(cell: Cell, key: str) -> dict[str, Any]:
    return _line(cell, [], key, None, {"verdict": _unanswered(cell), "why": "", "tolerance": tolerance(cell), "comparable": False})


def _line(cell: Cell, rows: list[Row], key: str, ours: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    where = f"{cell['dataset']} {cell['task'].removeprefix('3D segmentation ')}" if cell["table"] == "14" else cell["dataset"]
    return {
        "table": cell["table"], "dataset": where, "method": cell["method"], "head": rows[0].task["head"] if rows else "",
        "row": standing(rows), "metric": cell["metric"], "score": key, "published": value_of(cell), "printed": text_of(cell),
        "ours": ours, **found, "cell": cell,
    }  # fmt: skip


def standing(rows: list[Row]) -> str:
    """Which of our rows stands there: dinov3-s (weights=08c60483), 256 px, folds 0, 1, seed 0."""
    if not rows:
        return ""
    sizes = sorted({f"{row.model['image_size']} px" for row in rows if row.model["image_size"]})
    differs = {**rows[0].options, **rows[0].shown}
    name = label_of(rows[0].model["name"], {key: value for key, value in differs.items() if key not in SIZE_OPTIONS})
    parts = [name, *sizes]
    for word, several in (("fold", [row.folds for row in rows]), ("seed", [row.seeds for row in rows])):
        each = sorted({place for places in several for place in places})
        if each:
            parts.append(f"{word}{'s' if len(each) > 1 else ''} {', '.join(map(str, each))}")
    return ", ".join(parts)


def _score(row: Row, key: str) -> Any:
    name, _, label = key.partition(":")
    score = row.score(name)
    if score is None or not label:
        return score
    return {**score, "value": score["per_class"].get(label), "low": None, "high": None, "n_undefined": 0}


def _averages(cell: Cell, decathlon: Answers) -> Iterator[dict[str, Any]]:
    """The mean of the main scores of the ten tasks of the Decathlon, by head, of rows that were run alike on all."""
    found: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for row in (row for several in decathlon.values() for row in several if _is_of(row, cell)):
        found.setdefault(row.task["head"], {}).setdefault(_alike(row), []).append(row)
    if not found:
        yield _unrun(cell, "dice")
    for head, ways in found.items():
        near = {way: (len(_scored(rows)) < len(MSD), max(map(_apart, rows))) for way, rows in ways.items()}
        for rows in (rows for way, rows in ways.items() if near[way] == min(near.values())):
            ours, done = _average(rows), len(_scored(rows))
            said = "another reading than the declared one" if head in OTHER_HEADS["11"] else _misprinted(cell)
            if ours is None:
                judgement = {**_unrun(cell, "dice"), "verdict": f"not run: {done} of the ten tasks have a score"}
                yield {**judgement, "head": head, "row": standing(rows)}
            else:
                yield _line(cell, rows, "dice", ours, judged_average(rows, ours, cell, said))


def _alike(row: Row) -> tuple[str, ...]:
    """What must be the same for rows of several tasks to make one average."""
    weights = sorted({str(weights_of(cell)) for cell in row.cells})
    return (row.model["name"], *(f"{key}={value}" for key, value in sorted(row.options.items())), *weights)


def _scored(rows: list[Row]) -> list[Mapping[str, Any]]:
    return [score for row in rows if (score := row.score("dice")) is not None and score["value"] is not None]


def _average(rows: list[Row]) -> dict[str, Any] | None:
    """The mean of ten scores; its interval from theirs, tasks being apart (Zou and Donner's MOVER)."""
    scores = _scored(rows)
    if len(scores) != len(MSD):
        return None
    value = sum(score["value"] for score in scores) / len(scores)
    ends: dict[str, float | None] = {"low": None, "high": None}
    for end, sign in (("low", -1), ("high", 1)):
        if all(score[end] is not None for score in scores):
            ends[end] = value + sign * math.hypot(*(score[end] - score["value"] for score in scores)) / len(scores)
    few = next(filter(None, map(few_patients, scores)), None)
    return {"value": value, **ends, "n_undefined": sum(score["n_undefined"] for score in scores), "small": few}


def _misprinted(cell: Cell) -> str | None:
    """Why a printed average cannot be held against a mean, if so."""
    theirs = [value_of(one) for one in published() if one["dataset"].startswith("MSD Task") and one["method"] == cell["method"]]
    mean = sum(theirs) / len(theirs)
    if abs(mean - value_of(cell)) > 0.00051:  # the print is rounded to 0.001
        return f"the mean of the ten numbers printed above it is {mean:.4f}"
    return None
