"""What the paper states of each task, beside what is done here; docs/protocols.md prints it (`python -m medprobe.tasks.stated`).

`ROWS` holds every value that the paper states. A row with `ours` is a deviation and has its reason; one without is what the task
does by default, and a test compares it with the configuration of the task, its head and its dataset (`value_of`). The first row of
a setting whose `tasks` fit is the one that holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from medprobe.datasets import acdc, camus
from medprobe.heads import _mirror
from medprobe.registry import DATASETS, HEADS
from medprobe.types import Task


@dataclass(frozen=True)
class Row:
    """`tasks`: names with globs, joined by spaces; `setting`: a name of `SETTINGS`, or of what no setting holds."""

    table: str
    tasks: str
    setting: str
    paper: Any
    ours: Any = None
    why: str = ""

    def fits(self, task: str) -> bool:
        return any(fnmatchcase(task, glob) for glob in self.tasks.split())


# ---------------------------------------------------------------------------- what is really done


def head_of(task: Task) -> Any:
    return HEADS.get(task.head)(**task.head_config)


def _counts(task: Task) -> str:
    """40 / 10 / 50, or the sum of folds."""
    counts = DATASETS.get(task.dataset).counts
    parts = [counts[part] for part in ("train", "val", "test") if part in counts]
    return " / ".join(f"{number:,}" for number in parts or [sum(counts.values())])


def _cases(task: Task) -> str:
    return f"{sum(DATASETS.get(task.dataset).counts.values()):,}"


def _augmentation(task: Task) -> str:
    """What is really drawn of images whose directions are known."""
    head, dataset = head_of(task), DATASETS.get(task.dataset)
    axes = _mirror.AXES[::-1] if dataset.dims == 3 else _mirror.UNKNOWN[-2:]
    flips, _ = _mirror.flips_of(head.flips, head.pairs, dataset.classes, axes)
    kinds = [*(["rotations"] if head.rotate else []), *(["flips"] if flips else [])]
    drawn = f"random {' and '.join(kinds)}" if kinds else "none"
    return drawn if head.supervised or not kinds else f"{drawn} of the grids"


def _lattice(task: Task) -> str:
    shape, spacing = (acdc.SHAPE, acdc.SPACING) if task.dataset == "acdc" else (camus.PIXELS.shape[1:], None)
    voxels = " x ".join(map(str, shape[::-1]))
    return voxels if spacing is None else f"{voxels} of {' x '.join(map(str, spacing[::-1]))} mm"


def _folds(task: Task) -> str:
    folds = sum(part.startswith("fold") for part in DATASETS.get(task.dataset).counts) or FOLDS.get(task.dataset.partition("-")[0], 0)
    return f"{folds} folds, {100 - 100 // folds} % / {100 // folds} %"


FOLDS = {"autopet2": 5}
"""Of datasets that state the number of their cases alone."""

SETTINGS: Mapping[str, Callable[[Task], Any]] = {
    "image size": lambda task: task.image_size,
    "head": lambda task: task.head,
    "loss": lambda task: head_of(task).loss,
    "optimiser": lambda task: head_of(task).optimiser,
    "schedule": lambda task: head_of(task).schedule,
    "learning rate": lambda task: head_of(task).learning_rate,
    "warm-up": lambda task: "linear" if head_of(task).warm_up else "none",
    "batch": lambda task: head_of(task).batch_size,
    "epochs": lambda task: head_of(task).epochs,
    "augmentation": _augmentation,
    "intensities": lambda task: "[-1, 1]" if asdict(head_of(task)).get("signed") else "[0, 1]",
    "window": lambda task: "normalised" if task.window != "full-range" else "as stored",
    "training": lambda task: "learned" if HEADS.get(task.head).learns else "none",
    "vector of a volume": lambda task: f"{task.planes} over {'all' if task.stride == 1 else 'some'} {task.axis} slices",
    "classes": lambda task: len(DATASETS.get(task.dataset).classes),
    "masks": lambda task: "overlapping" if DATASETS.get(task.dataset).multilabel else "exclusive",
    "cases": _cases,
    "train / val / test": _counts,
    "split": _folds,
    "grid": _lattice,
    "distances": lambda task: "mm" if task.dataset == "acdc" else "px",
}  # fmt: skip


# ------------------------------------------------------------------------------ what the paper says

PROBES = "*/linear"
DECATHLON, PETCT = "msd-*/*", "autopet2-*/* hecktor2022-*/*"
GRIDS = "views (head.augment) cost six encodings"
ONE_SIDE = "a heart is no mirror image of itself"
BOTH = "rows are named linear, the text describes a decoder: both run"

ROWS: tuple[Row, ...] = (
    Row("2 5 6 9", PROBES, "head", "linear"),
    Row("2 5 6 9", PROBES, "loss", "bce"),
    Row("2 5 6 9", PROBES, "learning rate", 0.005),
    Row("2 5 6 9", PROBES, "batch", 1024),
    Row("2 5 6 9", PROBES, "epochs", 50),
    Row("2", "nih14/linear rsna/linear", "image size", 256),
    Row("2", "nih14/linear rsna/linear", "size of models tied to 224", 256, 224,
        "their learned positions; --image-size 256 interpolates"),
    Row("2", "nih14/linear", "train / val / test", "86,524 / 25,596"),
    Row("2", "rsna/linear", "cases", "29,700", "26,684", "3,000 of the images have no labels"),
    Row("2", "rsna/linear", "train / val / test", "18,678 / 4,003 / 4,003"),
    Row("5", "kvasir-capsule/linear", "classes", 11),
    Row("5", "kvasir-capsule/linear", "cases", "47,238", "47,161",
        "the paper counts all 14 classes; those of its 11 are fewer"),
    Row("6", "autolaparo/linear", "train / val / test", "10 / 4 / 7"),
    Row("6", "autolaparo/linear", "frames", "83,160", "one for each second of the labels",
        "the printed number is 21 videos of 66 minutes, not a count"),
    Row("7 8", "endovis18/conv2d edd2020/conv2d", "head", "conv2d"),
    Row("8", "edd2020/*", "cases", "380", "386", "the release has more than its abstract says"),
    Row("8", "edd2020/*", "masks", "exclusive", "overlapping",
        "diseases lie inside each other; one mask loses pixels"),
    Row("9", "ctrate/*", "classes", 18),
    Row("9", "ctrate/*", "vector of a volume", "mean over all axial slices"),
    Row("9", "ctrate/*", "train / val / test", "47,149 / 3,039", "46,397 / 3,002",
        "volumes that the release names as no chest are left out"),
    Row("10 11", DECATHLON, "split", "5 folds, 80 % / 20 %"),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "loss", "Dice + cross-entropy"),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "optimiser", "AdamW"),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "learning rate", 1e-4),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "schedule", "cosine"),
    Row("10 11", DECATHLON, "warm-up", "none"),
    Row("14", PETCT, "warm-up", "linear"),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "window", "normalised"),
    Row("10 11", "msd-heart/conv3d msd-heart/linear3d", "augmentation",
        "random rotations and flips", "random rotations of the grids", ONE_SIDE),
    Row("10 11", "msd-heart/*", "augmentation",
        "random rotations and flips", "random rotations", ONE_SIDE),
    Row("10 11 14", "*/conv3d */linear3d", "augmentation",
        "random rotations and flips", "random rotations and flips of the grids", GRIDS),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "augmentation", "random rotations and flips"),
    Row("10 11 14", "*/linear3d", "head",
        "linear (rows)", "linear3d", BOTH),
    Row("10 11 14", "*/conv3d", "head",
        "with skips (text)", "conv3d", BOTH),
    Row("10 11 14", f"{DECATHLON} {PETCT}", "validation", "none",
        "15 % of training", "an epoch is chosen, never on test"),
    Row("14", "autopet2-*/*", "split", "the official one; 80 % / 20 %", "5 folds, 80 % / 20 %",
        "no split is official; each fold is 80 to 20 % of the patients"),
    Row("14", "hecktor2022-*/*", "split", "the official one; 80 % / 20 %", "5 folds, 80 % / 20 %",
        "no split is official; folds are cut within centres"),
    Row("14", "hecktor2022-*/*", "cases", "882", "524", "the others are a test set without public labels"),
    Row("15", "camus/*", "train / val / test", "800 / 100 / 100"),
    Row("15", "camus/*", "grid", "128 x 128"),
    Row("15", "camus/*", "distances", "px"),
    Row("16", "acdc/*", "train / val / test", "80 / 20 / 50"),
    Row("16", "acdc/*", "grid", "128 x 128 x 32 of 1.5 x 1.5 x 3.15 mm"),
    Row("16", "acdc/*", "distances", "mm"),
    Row("15 16", "camus/convexadam acdc/convexadam", "training", "none"),
    Row("15 16", "camus/regnet acdc/regnet", "training", "learned"),
    Row("16", "acdc/voxelmorph acdc/regnet", "intensities", "[-1, 1]"),
    Row("16", "acdc/convexadam", "intensities", "[-1, 1]", "[0, 1]",
        "encoders take [0, 1] and normalise it; MIND is the same on either"),
)  # fmt: skip


def stated(task: str) -> Iterator[Row]:
    """The row that holds for each setting of a task, by its name, in order."""
    seen = set()
    for row in ROWS:
        if row.fits(task) and row.setting not in seen:
            seen.add(row.setting)
            yield row


def footnotes(tasks: Iterable[str]) -> list[str]:
    """A sentence for each deviation from the paper that holds for some of the tasks named."""
    found: dict[Row, list[str]] = {}
    for name in sorted(tasks):
        for row in stated(name):
            if row.ours is not None:
                found.setdefault(row, []).append(name)
    return [
        f"{row.setting} ({', '.join(names)}): the paper says {row.paper}; here {row.ours}: {row.why}"
        for row, names in found.items()
    ]


def page() -> str:
    """The table of docs/protocols.md."""
    lines = ["| table | task | setting | paper says | we do | why |", "| --- | --- | --- | --- | --- | --- |"]
    for row in ROWS:
        tasks, ours = row.tasks.replace(" ", ", "), "the same" if row.ours is None else row.ours
        lines.append(f"| {row.table.replace(' ', ', ')} | {tasks} | {row.setting} | {row.paper} | {ours} | {row.why} |")
    return "\n".join(lines).replace("*", "\\*") + "\n"


if __name__ == "__main__":
    print(page(), end="")
