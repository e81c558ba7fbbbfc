"""Medical Segmentation Decathlon: ten tasks of organs and tumours in CT and MRI, a volume per patient, labels of the training part.

On disk, one archive per task (medicaldecathlon.com, no registration), in a folder of its own or in `msd/` or `MSD/`:

    Task09_Spleen/dataset.json
    Task09_Spleen/imagesTr/spleen_10.nii.gz, labelsTr/spleen_10.nii.gz       ids are not consecutive, and padded in some tasks only
    Task09_Spleen/imagesTs/spleen_1.nii.gz                                   labels were never released: not read

The cases are those of `training` in dataset.json, not what lies in the folders: archives hold `._spleen_10.nii.gz` of a
Mac. Its `labels` and `modality` must be those of the release, in their order; label numbers of Task01 are not those of
BraTS. Neither `release` (spelled `relase` in five tasks) nor `test` (139 names in Task08, where numTest is 140) is read.
One case is one patient, as far as names tell.

Task01 and Task05 are 4-D, channels last: each channel is a source, `member` its place. Axes are stored in various orders and
turned to right, anterior, superior when they are read. Images are float or integer, masks too.

Folds: the paper says five random folds of 80 % to 20 % and no more. Here: sorted ids, shuffled by numpy's RandomState(12345)
and cut in five, the folds that scikit-learn's KFold and so nnU-Net make; the run draws 15 % of the others to validate.
Windows: the paper says "normalize". MRI: 1st to 99th percentile of each channel of a volume; CT: -160 to 240 HU, lungs -1350
to 150 HU; percentiles of the foreground over all training volumes, as nnU-Net has them, are no window here.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source

FOLDS, SEED = 5, 12345
SUFFIX = ".nii.gz"


class Task(NamedTuple):
    """A task of the Decathlon: what its dataset.json says (`first` is an id of its style), and the checksums of the ids of its five folds."""

    folder: str
    first: str
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    training: int
    checksums: str
    note: str | None = None

    @property
    def name(self) -> str:
        """`msd-brain` for BrainTumour, else the folder's own word."""
        return f"msd-{self.folder.partition('_')[2].lower().removesuffix('tumour')}"


ORGAN = "dice of the paper may be of the organ alone, dice.organ"
TASKS = (
    Task("Task01_BrainTumour", "BRATS_001", ("FLAIR", "T1w", "t1gd", "T2w"), ("edema", "non-enhancing tumor", "enhancing tumour"), 484,
         "d85b731d8fc7ce53 3c82a2ff73298a2d be57549870557d2d 65694fc9bcf03bdc 9f6a4cd765abd1a2",
         "the classes are the three labels, in another order than those of BraTS, and not its nested regions"),
    Task("Task02_Heart", "la_003", ("MRI",), ("left atrium",), 20,
         "28883388c73ce29e 1f16bbd2a0ba0668 05629dd8f8dbade8 5f2296574d10f389 174d892e2ab80468"),
    Task("Task03_Liver", "liver_0", ("CT",), ("liver", "cancer"), 131,
         "74cbfe97410fdbd3 b56d36b78d1c7042 626933c22fa8d547 787ea04e943fba82 8eb105a3f4d21853", ORGAN),
    Task("Task04_Hippocampus", "hippocampus_001", ("MRI",), ("Anterior", "Posterior"), 260,
         "0bd83f3515896dff 2e2b2fa85431035e cc1ed362d59b9936 d7bd2c4deb64933d 63b69ed8fa22b3f0"),
    Task("Task05_Prostate", "prostate_00", ("T2", "ADC"), ("PZ", "TZ"), 32,
         "5137c914da198bf3 6dd8cf3594f2856f 7c0fdb9e4e6d0704 bc5f2bd0098e94af 878e1759235cad0b"),
    Task("Task06_Lung", "lung_001", ("CT",), ("cancer",), 63,
         "76fe3f428ae54a55 23ac07f74a5e341b 1c300cbba14b7400 ba00069974067ea9 d533e00cd2c3fe7c", "63 cases in dataset.json, where 64 is often quoted"),
    Task("Task07_Pancreas", "pancreas_001", ("CT",), ("pancreas", "cancer"), 281,
         "fab9f36d064866d0 e438ebdbcbfb5370 145cde49c8cc5ad9 4a57b1ce80bc66fe 608d14305a0a20e3", f"281 cases in dataset.json, where 282 is often quoted; {ORGAN}"),
    Task("Task08_HepaticVessel", "hepaticvessel_001", ("CT",), ("Vessel", "Tumour"), 303,
         "eb904644931bc631 e4eb75b63bed906d b3675f68bcd1bcec 4984fbf3f191cdaf 07cd390c1e5699e7", ORGAN),
    Task("Task09_Spleen", "spleen_2", ("CT",), ("spleen",), 41,
         "54d33d7909b91dad 2b37a5b84aea81a3 8cdd980b911a69e7 c1a172b587523f04 29e0494c4ba5d1f3"),
    Task("Task10_Colon", "colon_001", ("CT",), ("colon cancer primaries",), 126,
         "74b15b2205428186 69e0e3986af0b360 78f7bf720ae34457 1dfa85066d62080c 0f6e99decbd7efc5"),
)  # fmt: skip


def cases(task: Task, root: Path) -> Iterator[Case]:
    """One case per entry of `training`, in order of id; all files are looked up before the first is given."""
    listed = listing(task, root)
    missing = [str(path.relative_to(root)) for pair in listed.values() for path in pair if not path.is_file()]
    _layout.refuse_missing(task.name, missing, 2 * len(listed), root)
    folds = folds_of(sorted(listed))
    for name, fold in folds.items():
        image, label = listed[name]
        channels = tuple(Source(image, str(place)) for place in range(len(task.modality))) if len(task.modality) > 1 else (Source(image),)
        yield Case(name, name, {"image": channels}, (Source(label),), fold=fold)


def folds_of(names: list[str]) -> dict[str, int]:
    """Sorted ids → the fold that tests each; as scikit-learn's KFold(5, shuffle=True, random_state=12345)."""
    order = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(order)
    fold = {int(place): number for number, part in enumerate(np.array_split(order, FOLDS)) for place in part}
    return {name: fold[place] for place, name in enumerate(names)}


def listing(task: Task, root: Path) -> dict[str, tuple[Path, Path]]:
    """Id → (image, label) of dataset.json. RequestError: not the release's file of this task; MissingError: not all of it."""
    file = root / "dataset.json"
    _layout.refuse_absent(MSD[task.name], [file])
    try:
        about = json.loads(file.read_text(encoding="utf-8-sig"))
        found = {key: tuple(str(about[key][str(place)]) for place in range(len(about[key]))) for key in ("labels", "modality")}
        pairs = [(_path(entry["image"]), _path(entry["label"])) for entry in about["training"]]
        expected = int(about["numTraining"])
    except json.JSONDecodeError as error:
        raise MissingError(f"{file}: expected JSON, found {error}; the download may be partial, fetch it again") from None
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: expected labels, modality, training and numTraining as released, found {type(error).__name__} {error}; use the released dataset.json") from None
    for key, known in (("labels", ("background", *task.labels)), ("modality", task.modality)):
        if [name.casefold() for name in found[key]] != [name.casefold() for name in known]:
            raise RequestError(f"{file}: expected the {key} of {task.folder}, 0 to {len(known) - 1}: {', '.join(known)}, found {', '.join(found[key])}; use the released dataset.json of this task")
    listed = {image.name.removesuffix(SUFFIX): (root / image, root / label) for image, label in pairs if not image.name.startswith("._")}
    if len(listed) != expected:
        raise MissingError(f"{file}: expected {expected} different cases as its numTraining says, found {len(listed)}; the file may be partial, fetch it again")
    return listed


def _path(text: str) -> PurePosixPath:
    """`./imagesTr/spleen_10.nii.gz`, which must stay in its folder."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.name.endswith(SUFFIX):
        raise ValueError(f"{text!r} where ./imagesTr/NAME{SUFFIX} should be")
    return path


def twin(task: Task, root: Path, rng: np.random.Generator) -> None:
    """Ten volumes and a test image, stored along three sets of axes; the last class is absent from one; a Mac has left its `._` files.

    Each class brightens a box of its own, in each channel by another amount.
    """
    from medprobe.imaging import nifti

    axes = (np.diag([0.8, 0.7, 2.5, 1]), np.diag([-0.8, -0.7, 2.5, 1]), np.diag([0.8, 0.7, 2.5, 1])[[2, 0, 1, 3]])
    names = [_numbered(task.first, 3 * place) for place in range(11)]
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        labels = np.zeros((6, 11, 12), np.uint8)
        for number in range(1, len(task.labels) + 1 - (place == 4)):
            start = 3 * number - 2 + place % 2
            labels[1 + place % 3 : 5, start : start + 3, start : start + 3 + place % 4] = number
        channels = [rng.normal(40, 15, labels.shape) + labels * 60.0 * (1 + channel) for channel in range(len(task.modality))]
        image = np.stack(channels, -1) if len(channels) > 1 else channels[0]
        affine = axes[place % 3].copy()
        affine[:3, 3] = (10 * place, -20, 5)
        nifti.save(root / ("imagesTs" if place == 10 else "imagesTr") / f"{name}{SUFFIX}", image.astype(np.float32 if place == 1 else np.int16), affine, None)
        if place < 10:
            nifti.save(root / "labelsTr" / f"{name}{SUFFIX}", labels.astype(np.float32 if place == 2 else np.uint8), affine, None)
    about: dict[str, Any] = {
        "name": task.folder.partition("_")[2], "description": "synthetic", "reference": "none", "licence": "CC-BY-SA 4.0",
        "relase" if task.folder[4:6] in ("02", "04", "05", "06", "07") else "release": "1.0 04/05/2018",
        "tensorImageSize": "4D" if len(task.modality) > 1 else "3D",
        "modality": {str(place): name for place, name in enumerate(task.modality)},
        "labels": {str(place): name for place, name in enumerate(("background", *task.labels))},
        "numTraining": 10, "numTest": 2 if task.folder.startswith("Task08") else 1,
        "training": [{"image": f"./imagesTr/{name}{SUFFIX}", "label": f"./labelsTr/{name}{SUFFIX}"} for name in names[:10]],
        "test": [f"./imagesTs/{names[10]}{SUFFIX}"],
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(about, indent=1))
    for leaving in ("._dataset.json", f"imagesTr/._{names[0]}{SUFFIX}", f"labelsTr/._{names[0]}{SUFFIX}"):
        (root / leaving).write_bytes(b"\x00\x05\x16\x07")


def _numbered(first: str, more: int) -> str:
    """An id `more` numbers after the first one, padded as that is."""
    stem, _, number = first.rpartition("_")
    return f"{stem}_{int(number) + more:0{len(number)}d}"


ORGANS = ("msd-liver", "msd-pancreas", "msd-hepaticvessel")
"""Whose second class is a tumour in the first."""


def _window(task: Task) -> str:
    if task.modality != ("CT",):
        return "percentile"
    return "lung" if task.name == "msd-lung" else "mediastinum"


MSD: dict[str, Dataset] = {
    task.name: DATASETS.register(task.name)(
        Dataset(
            name=task.name,
            kind="segmentation",
            dims=3,
            modality="CT" if task.modality == ("CT",) else "MRI" if len(task.modality) == 1 else f"MRI ({', '.join(task.modality)})",
            classes=("background", *task.labels),
            licence="CC BY-SA 4.0",
            source=f"http://medicaldecathlon.com, {task.folder}.tar (no registration)",
            citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128 (2022)",
            cases=partial(cases, task),
            twin=partial(twin, task),
            counts={f"fold{fold}": len(part) for fold, part in enumerate(np.array_split(np.arange(task.training), FOLDS))},
            checksums={f"fold{fold}": known for fold, known in enumerate(task.checksums.split())},
            folders=(task.folder, f"msd/{task.folder}", f"MSD/{task.folder}"),
            recipe=_window(task),
            regions={"organ": task.labels[:1]} if task.name in ORGANS else {},
            note=task.note,
        )
    )
    for task in TASKS
}
