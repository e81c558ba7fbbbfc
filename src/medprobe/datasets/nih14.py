"""NIH ChestX-ray14: 112,120 frontal chest X-rays of 30,805 patients, 14 text-mined findings, several or none per image.

On disk, from the NIH Clinical Center's public share, with the twelve archives unpacked in either of two ways:

    images/00000001_000.png                            official archives images_001.tar.gz ... images_012.tar.gz
    images_001/images/00000001_000.png ... images_012/images/      the copy on Kaggle
    Data_Entry_2017_v2020.csv  or  Data_Entry_2017.csv
    train_val_list.txt, test_list.txt                  one file name per line

Of the label file only `Image Index` and `Finding Labels` are read: its header breaks inside brackets
(`OriginalImage[Width,Height]` is two columns), the 2017 release has one more, empty column and ages up to 414, and both
releases have the same labels. Findings are joined by `|`; `No Finding` stands alone and is all zeros here. Classes are in
the order of the public 14-column lists, not of the alphabet. `BBox_List_2017.csv`, which spells one of them `Infiltrate`,
is not read.

The patient is the first eight digits of the name. Test is `test_list.txt`. NIH ships no validation list, and the 75,312 /
11,212 cut of public code is no part of the release: so all of `train_val_list.txt` is train here, and the run draws 15 %
of its patients to validate. Lists with labels behind the names, or with patients in both, are refused: an older random
split is in circulation under the same file names.

A few hundred files are grey images stored as RGBA: `grey` makes every image one channel. Labels are text-mined, so a
score is agreement with a report reader. The images of RSNA are a subset of these: the two tasks share patients.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.registry import DATASETS, did_you_mean
from medprobe.types import Case, Dataset, Source, Split

CLASSES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NO_FINDING = "No Finding"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS: dict[Split, str] = {"train": "train_val_list.txt", "test": "test_list.txt"}
NAME = re.compile(r"(\d{8})_\d{3}\.png")


def cases(root: Path) -> Iterator[Case]:
    """One case per image, train then test in the order of the lists; all files are looked up before the first is given."""
    table = next((root / name for name in TABLES if (root / name).is_file()), root / TABLES[0])
    _layout.refuse_absent(NIH14, [table, *(root / name for name in LISTS.values())])
    listed = names_of_lists(root)
    targets = {row["Image Index"]: row["Finding Labels"] for row in _layout.read_table(table, ("Image Index", "Finding Labels"))}
    unlabelled = [name for name, _ in listed if name not in targets]
    if unlabelled:
        raise MissingError(
            f"nih14: {len(unlabelled):,} of {len(listed):,} images of the lists have no line in {table}, first {unlabelled[0]}; the file may be partial, fetch it again"
        )
    images = _layout.images_under([root / "images", *sorted(root.glob("images_*"))], (".png",))
    _layout.refuse_missing("nih14", [name for name, _ in listed if name[:-4] not in images], len(listed), root)
    for name, split in listed:
        stem = name[:-4]
        yield Case(stem, stem[:8], {"image": (Source(images[stem]),)}, target_of(targets[name], table), split)


def names_of_lists(root: Path) -> list[tuple[str, Split]]:
    """(file name, split) of every line. RequestError for lists that are not NIH's."""
    found: list[tuple[str, Split]] = []
    patients: dict[Split, set[str]] = {}
    for split, file in LISTS.items():
        names = [line.strip() for line in (root / file).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        wrong = next((name for name in names if not NAME.fullmatch(name)), None)
        if wrong is not None:
            raise RequestError(f"{root / file}: expected lines such as 00000001_000.png, found {wrong[:60]!r}; use NIH's own lists, older random splits go by the same name")
        found += [(name, split) for name in names]
        patients[split] = {name[:8] for name in names}
    shared = sorted(patients["train"] & patients["test"])
    if shared:
        raise RequestError(
            f"{root}: expected lists without common patients, found {len(shared):,} in both {LISTS['train']} and {LISTS['test']}, first {shared[0]}; use NIH's own lists, older random splits go by the same name"
        )
    return found


def target_of(findings: str, table: Path) -> tuple[float, ...]:
    """14 zeros and ones from `Effusion|Mass`. RequestError for a finding that is none of the 14."""
    names = set(findings.split("|"))
    if names == {NO_FINDING}:
        return (0.0,) * len(CLASSES)
    unknown = sorted(names - set(CLASSES))
    if unknown:
        raise RequestError(f"{table}: no finding named {unknown[0]!r} (in {findings!r}); {did_you_mean(unknown[0], list(CLASSES))}")
    return tuple(float(name in names) for name in CLASSES)


def twin(root: Path, rng: np.random.Generator) -> None:
    """12 patients to train and 6 to test with two images each, in the layout of Kaggle; every class in both parts.

    A finding brightens its own cell of a 4x4 grid. One image is stored as RGBA, and a Mac has left its `._` files.
    """
    from PIL import Image

    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    rows = [header]
    listed: dict[Split, list[str]] = {"train": [], "test": []}
    for patient in range(1, 19):
        split: Split = "test" if patient % 3 == 0 else "train"
        for follow_up in range(2):
            number = len(listed[split])
            present = [] if number % 6 == 5 else [place for place in range(len(CLASSES)) if (place + 3 * number) % 5 == 0]
            name = f"{patient:08d}_{follow_up:03d}.png"
            plane = rng.normal(90, 12, (64, 64))
            for place in present:
                row, column = divmod(place, 4)
                plane[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 60
            folder = root / f"images_{1 + patient // 10:03d}" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.clip(plane, 0, 255).astype(np.uint8))
            (picture.convert("RGBA") if name == "00000002_001.png" else picture).save(folder / name)
            listed[split].append(name)
            findings = "|".join(CLASSES[place] for place in present) or NO_FINDING
            view, sex = ("PA", "M") if patient % 2 else ("AP", "F")
            rows.append(f"{name},{findings},{follow_up},{patient},{40 + patient},{sex},{view},64,64,0.143,0.143")
    (root / "images_001" / "images" / "._00000001_000.png").write_bytes(b"\x00\x05\x16\x07")
    (root / TABLES[0]).write_text("\n".join(rows) + "\n")
    for split, file in LISTS.items():
        (root / file).write_text("\n".join(listed[split]) + "\n")


NIH14 = DATASETS.register("nih14")(
    Dataset(
        name="nih14",
        kind="classification",
        dims=2,
        modality="chest X-ray",
        classes=CLASSES,
        multilabel=True,
        licence="unrestricted use; link to the NIH download page, acknowledge the NIH Clinical Center, cite the paper",
        source="https://nihcc.app.box.com/v/ChestXray-NIHCC (no registration), or nih-chest-xrays/data on Kaggle",
        citation="Wang et al., ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised "
        "classification and localization of common thorax diseases, CVPR 2017",
        cases=cases,
        twin=twin,
        counts={"train": 86524, "test": 25596},
        checksums={"train": "f5ca42650c3529e4", "test": "7519b7296cb0f58e"},
        folders=("nih14", "nih-chestxray14", "ChestX-ray14", "ChestXray-NIHCC", "CXR8"),
        markers=(*TABLES, LISTS["train"]),
        grey=True,
        note="validation is drawn from train_val_list.txt by patient: NIH ships no validation list. The images of rsna are a subset of these",
    )
)
