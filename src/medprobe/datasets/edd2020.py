"""EDD2020: endoscopy of oesophagus, stomach and colon, 386 frames, five classes of disease whose masks overlap.

On disk, in the folder of either archive (IEEE DataPort, free account) or right below it:

    originalImages/EDD2020_ACB0001.jpg                 RGB of varying size
    masks/EDD2020_ACB0001_BE.tif, EDD2020_ACB0001_suspicious.tif     one file per class present, 0 outside it and 255 inside
    bbox/EDD2020_ACB0001.txt, class_list.txt           not read

Classes are in the order of class_list.txt and have its names; the paper's table has them as NDBE (BE), CA (cancer), HGD, polyp, Susp.
BE commonly contains HGD, cancer or suspicious areas in one frame, so every class is a mask of its own (multilabel). Every
frame has a mask at least; a class without a file is absent from it. A mask belongs to the image of exactly its name: B0051 is
not ACB0051. The five-page masks of the challenge's evaluation code are no part of the release and refused; five pages in this
order are fine as a prediction.

The release names no patients. A name is a series (ACB, AJ, B, F, INAB, NAF) and a number, and neighbours look alike: ten
consecutive numbers of a series are the group that crosses no part and that intervals are made of (B0040 to B0049 is `B004`).
One patient may still be in two groups.

There is no official split, and the paper gives none: its numbers are not comparable. Here 80 / 10 / 10 % by group: of 10,000
seeded draws of the 40 groups the one whose parts are nearest to these shares of all frames and of each class, as they are
listed by github.com/vinbigdata-medical/endocv2020-seg; `TEST` and `VAL` are the outcome. Frames with BE, suspicious, HGD,
cancer, polyp: train 128, 68, 56, 41, 108; val 13, 9, 10, 7, 10; test 19, 11, 8, 5, 9. The abstract speaks of 380 frames, the
release (v2) has 386 and 502 masks. `suspicious` is small and noisy. The 43 test frames of the challenge have no public masks.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.imaging.labels import ABSENT
from medprobe.registry import DATASETS, did_you_mean
from medprobe.types import Case, Dataset, Source, Split

CLASSES = ("BE", "suspicious", "HGD", "cancer", "polyp")
TEST = ("AJ005", "B001", "B003", "NAF003")
VAL = ("ACB000", "B004", "INAB004", "NAF001")
NAME = re.compile(r"EDD2020_([A-Z]+\d{3})\d")
IMAGES, MASKS = "originalImages", "masks"
MARKED = "0=0,*=1"
"""Of a mask: whatever is not 0 is the class."""
ARCHIVES = ("EDD2020_release-I_2020-01-15", "EndoCV2020-Endoscopy-Disease-Detection-Segmentation-subChallenge_data")


def cases(root: Path) -> Iterator[Case]:
    """One case per image, in order of name; all files are matched before the first is given."""
    base = next((folder for folder in (root, *sorted(root.glob("*/"))) if (folder / IMAGES).is_dir() and not _layout.is_leaving(folder)), root)
    _layout.refuse_absent(EDD2020, [base / IMAGES, base / MASKS])
    images = _layout.images(base / IMAGES)
    masks = masks_of(base / MASKS)
    groups = {name: match[1] for name in images if (match := NAME.fullmatch(name))}
    if strange := sorted(images.keys() - groups.keys()):
        raise RequestError(f"{base / IMAGES}: expected images such as EDD2020_ACB0001.jpg, found {strange[0]!r}; use the released folder")
    missing = [f"{IMAGES}/{name}.jpg" for name in masks if name not in images] + [f"{MASKS}/{name}_<class>.tif" for name in images if name not in masks]
    _layout.refuse_missing("edd2020", missing, len(images.keys() | masks.keys()), base)
    if not images:
        raise MissingError(f"edd2020: expected images in {base / IMAGES}, found none; get the data from {EDD2020.source}")
    for name, image in images.items():
        found = masks[name]
        target = tuple(Source(found[label], MARKED) if label in found else Source(image, ABSENT) for label in CLASSES)
        yield Case(name, groups[name], {"image": (Source(image),)}, target, split_of(groups[name]))


def split_of(group: str) -> Split:
    return "test" if group in TEST else "val" if group in VAL else "train"


def masks_of(folder: Path) -> dict[str, dict[str, Path]]:
    """Image name → class → mask, from `<image>_<class>.tif` or `<image>_<class>_mask.tif`."""
    found: dict[str, dict[str, Path]] = {}
    for stem, path in _layout.images(folder).items():
        name, _, label = stem.removesuffix("_mask").rpartition("_")
        if NAME.fullmatch(stem.removesuffix("_mask")):
            raise RequestError(f"{path}: expected one mask per class, EDD2020_ACB0001_BE.tif, found a composite of the evaluation code; use the masks of the release")
        if label not in CLASSES:
            raise RequestError(f"{path}: no class named {label!r}; {did_you_mean(label, list(CLASSES))}")
        if label in found.setdefault(name, {}):
            raise RequestError(f"{path}: expected one mask of {label} for {name}, found {found[name][label].name} too; remove one")
        found[name][label] = path
    return found


def twin(root: Path, rng: np.random.Generator) -> None:
    """Frames of four sizes in three parts, BE with cancer and others inside it, one class alone; B0051 and ACB0051; `._` files.

    One class tints its box. Some masks are named as the challenge's description has it, `<image>_<class>_mask.tif`.
    """
    from PIL import Image

    frames = {
        "ACB0001": (0, 1), "ACB0002": (1,), "ACB0051": (0, 3), "AJ0011": (0, 3), "AJ0050": (2,), "AJ0053": (0, 1, 3), "AJ0070": (2, 3), "B0010": (0, 4),
        "B0030": (0, 3), "B0040": (0, 2), "B0051": (0,), "F0002": (4,), "INAB0041": (1, 3), "INAB0060": (1, 2), "NAF0012": (4,), "NAF0031": (1, 4),
    }  # fmt: skip
    sizes = ((39, 38), (40, 51), (36, 39), (51, 51))
    for folder in (IMAGES, MASKS, "bbox"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place, (name, present) in enumerate(frames.items()):
        height, width = sizes[place % 4]
        pixels = rng.normal((150, 90, 80), 6, (height, width, 3))
        boxes = []
        for number in present:
            inset = 3 + 3 * number
            box = np.zeros((height, width), bool)
            box[inset : inset + height // 3, inset // 2 : inset + width // 3] = True
            pixels[box] += TINTS[number]
            suffix = "_mask.tif" if place % 5 == 4 else ".tif"
            Image.fromarray(box.astype(np.uint8) * 255).save(root / MASKS / f"EDD2020_{name}_{CLASSES[number]}{suffix}")
            boxes.append(f"{inset // 2} {inset} {inset + width // 3 - 1} {inset + height // 3 - 1} {CLASSES[number]}")
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / IMAGES / f"EDD2020_{name}.jpg", quality=90)
        (root / "bbox" / f"EDD2020_{name}.txt").write_text("\n".join(boxes) + "\n")
    (root / "class_list.txt").write_text("\n".join(CLASSES) + "\n")
    for leaving in (f"{IMAGES}/._EDD2020_ACB0001.jpg", f"{MASKS}/._EDD2020_ACB0001_BE.tif"):
        (root / leaving).write_bytes(b"\x00\x05\x16\x07")


TINTS = ((40, -20, -10), (-40, 30, 0), (20, 60, 60), (70, 50, -40), (-60, -30, 50))
"""Of the twin: red, green and blue that a class adds."""

EDD2020 = DATASETS.register("edd2020")(
    Dataset(
        name="edd2020",
        kind="segmentation",
        dims=2,
        modality="endoscopy",
        classes=CLASSES,
        multilabel=True,
        licence="CC BY-NC 4.0",
        source="https://edd2020.grand-challenge.org and IEEE DataPort (free account), EDD2020_release-I_2020-01-15_v2.zip",
        citation="Ali et al., Endoscopy disease detection challenge 2020, arXiv:2003.03376 (2020)",
        cases=cases,
        twin=twin,
        counts={"train": 306, "val": 40, "test": 40},
        checksums={"train": "178a474d91dac3b3", "val": "8f5af009500eeaab", "test": "16d837e26ff5a008"},
        folders=("edd2020", "EDD2020", *ARCHIVES),
        markers=(IMAGES, *ARCHIVES),
        note="no official split, no patients named: parts are of ten consecutive numbers of a series each, and one patient may be in two; not comparable with the paper's table",
    )
)
