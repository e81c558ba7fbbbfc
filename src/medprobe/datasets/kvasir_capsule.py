"""Kvasir-Capsule: frames of video capsule endoscopy, 11 findings, two official folds.

On disk (osf.io/dv2ag; one archive per class, unpacked in place), with the split files of the authors' repository:

    labelled_images/Angiectasia/0728084c8da942d9_22803.jpg
    labelled_images/Blood - fresh/...
    official_splits/split_0.csv, split_1.csv           filename,label            (or directly under the root)

The classes are the 11 that the paper lists, in its order. `Polyp`, `Blood - hematin` and `Ampulla of Vater` are left out
and counted in the log. Folders are compared without case, `-`, `_` and spaces; images by stem, because the README says PNG
and the split files `.jpg`. Three spellings exist for most classes: paper, folder, split file; `NAMES` is the table.

Eight file names occur twice in split_1, as Erosion and as Pylorus: the key of a case is class folder and name, never the name
alone. The patient is the video, the 16 hex digits before `_`. Fold 0 is split_0 and fold 1 split_1: a run tests on one
and trains on the other. No frame is shared between them, but 7 of the 43 videos are: `official_leak` says so in every
result. Erythema, Lymphangiectasia, Ulcer and Fresh blood come from one or two videos in each fold.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source

NAMES = (
    # paper                  folder                  split file
    ("Angiectasia", "Angiectasia", "Angiectasia"),
    ("Fresh blood", "Blood - fresh", "Blood"),
    ("Erosion", "Erosion", "Erosion"),
    ("Erythema", "Erythema", "Erythematous"),
    ("Foreign body", "Foreign body", "Foreign Bodies"),
    ("Ileocecal valve", "Ileocecal valve", "Ileo-cecal valve"),
    ("Lymphangiectasia", "Lymphangiectasia", "Lymphangiectasia"),
    ("Normal clean mucosa", "Normal clean mucosa", "Normal"),
    ("Pylorus", "Pylorus", "Pylorus"),
    ("Reduced mucosal view", "Reduced mucosal view", "Reduced Mucosal View"),
    ("Ulcer", "Ulcer", "Ulcer"),
)
DROPPED = ("Polyp", "Blood - hematin", "Ampulla of Vater")
SPLITS = "https://github.com/simula/kvasir-capsule/tree/553601dc316fef82f39c952e28f60aaad66039e2/official_splits"

logger = logging.getLogger(__name__)


def plain(name: str) -> str:
    """A class name as it is compared: lower case, without `-`, `_` and spaces."""
    return name.lower().translate(str.maketrans("", "", "-_ "))


def split_file(root: Path, fold: int) -> Path:
    """Where the official split of a fold lies; MissingError says where to get it."""
    places = [root / "official_splits" / f"split_{fold}.csv", root / f"split_{fold}.csv"]
    for place in places:
        if place.is_file():
            return place
    raise MissingError(
        f"kvasir-capsule: expected {places[0]}, found none; the archive of images comes without the official splits, copy split_0.csv and split_1.csv from {SPLITS}"
    )


def frames_of_class(root: Path) -> dict[str, dict[str, Path]]:
    """Plain class name -> stem -> image. Class folders lie in `labelled_images` or the root, or in their archive's folder there."""
    base = root / "labelled_images"
    if not base.is_dir():
        base = root
    found: dict[str, dict[str, Path]] = {}
    for folder in sorted((*base.glob("*/"), *base.glob("*/*/"))):
        if not _layout.is_leaving(folder):
            found.setdefault(plain(folder.name), {}).update(_layout.images(folder))
    return found


def cases(root: Path) -> Iterator[Case]:
    """One case per row of split_0 (fold 0), then of split_1 (fold 1); all rows are looked up before the first is given."""
    splits = [split_file(root, fold) for fold in (0, 1)]
    images, target = frames_of_class(root), {plain(label): index for index, (_, _, label) in enumerate(NAMES)}
    found: list[Case] = []
    missing: list[str] = []
    for fold, path in enumerate(splits):
        for row in _layout.read_table(path, ("filename", "label")):
            name, label = row["filename"], row["label"]
            stem = Path(name).stem
            video, _, frame = stem.rpartition("_")
            if not video or not frame.isdigit():
                raise RequestError(
                    f"{path}: expected names of the form <video>_<frame>.jpg, found {name!r}; use the released split files"
                )
            if plain(label) not in target:
                known = ", ".join(name for _, _, name in NAMES)
                raise RequestError(
                    f"{path}: expected one of the labels {known}, found {label!r}; use the released split files"
                )
            index = target[plain(label)]
            folder = NAMES[index][1]
            image = images.get(plain(folder), {}).get(stem)
            if image is None:
                missing.append(f"{folder}/{name}")
            else:
                found.append(Case(f"{folder}/{stem}", video, {"image": (Source(image),)}, index, fold=fold))
    _layout.refuse_missing("kvasir-capsule", missing, len(found) + len(missing), root)
    left_out = {name: len(images.get(plain(name), {})) for name in DROPPED}
    unlisted = sum(len(images.get(plain(folder), {})) for _, folder, _ in NAMES) - len(found)
    if unlisted or any(left_out.values()):
        logger.warning(
            "kvasir-capsule: left out images of classes that the paper does not use %s, and %d that no official split lists",
            left_out,
            unlisted,
        )
    yield from found


def twin(root: Path, rng: np.random.Generator) -> None:
    """Seven videos, one of them in both splits; each class twice in every video and split; all defects of the release.

    Two of the defects are in the names: one name is an Erosion and a Pylorus in split_1, and the folders of Foreign body
    and Ileocecal valve are spelled as their archives are. The three dropped classes have one image each, the pyloric
    images are PNG, and a copy made on a Mac has left its `._` files.
    """
    from PIL import Image

    videos = [rng.bytes(8).hex() for _ in range(7)]
    in_split = (videos[:4], videos[3:])
    spelling = {"Foreign body": "foreign_body", "Ileocecal valve": "ileocecal-valve"}

    def draw(folder: str, stem: str, colour: np.ndarray) -> None:
        place = root / "labelled_images" / spelling.get(folder, folder)
        place.mkdir(parents=True, exist_ok=True)
        plane = np.clip(colour + rng.normal(0, 12, (48, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(plane).save(place / (stem + (".png" if folder == "Pylorus" else ".jpg")))

    colours = rng.uniform(60, 220, (len(NAMES), 3))
    (root / "official_splits").mkdir(parents=True, exist_ok=True)
    for fold in (0, 1):
        rows = []
        for index, (_, folder, label) in enumerate(NAMES):
            names = [f"{video}_{1000 * fold + 10 * index + frame}" for video in in_split[fold] for frame in (1, 2)]
            if fold == 1 and folder in ("Erosion", "Pylorus"):
                names.append(f"{videos[6]}_7")
            for stem in names:
                draw(folder, stem, colours[index])
                rows.append(f"{stem}.jpg,{label}")
        (root / "official_splits" / f"split_{fold}.csv").write_text("filename,label\n" + "\n".join(rows) + "\n")
    for number, folder in enumerate(DROPPED):
        draw(folder, f"{videos[0]}_{9000 + number}", np.array([128.0, 128.0, 128.0]))
    (root / "labelled_images" / "Ulcer" / f"._{videos[0]}_101.jpg").write_bytes(b"\x00\x05\x16\x07")


KVASIR_CAPSULE = DATASETS.register("kvasir-capsule")(
    Dataset(
        name="kvasir-capsule",
        kind="classification",
        dims=2,
        modality="capsule endoscopy",
        classes=tuple(paper for paper, _, _ in NAMES),
        licence="CC BY 4.0 (split files); images free for research and education, competitions and commercial use need written permission",
        source="https://osf.io/dv2ag",
        citation="Smedsrud et al., Kvasir-Capsule, a video capsule endoscopy dataset, Scientific Data 8:142 (2021)",
        cases=cases,
        twin=twin,
        counts={"fold0": 23061, "fold1": 24100},
        checksums={"fold0": "1d376d1b01d3f84e", "fold1": "7da50067ab0271b4"},
        folders=("kvasir-capsule", "Kvasir-Capsule"),
        markers=("labelled_images", "official_splits"),
        official_leak="7 of the 43 videos are in both official folds, with other frames: 64440803f87b4843, 7a47e8eacea04e64, "
        "7ad22d50ebaf4596, 8885668afb844852, 8ebf0e483cac48d6, ad91cf7ca91440aa, bca26705313a4644",
        note="the paper counts 47,238 images, which is all 14 classes; its 11 have 47,161. Polyp (55 images), Blood - hematin (12) "
        "and Ampulla of Vater (10) are left out, following the paper's list of classes",
    )
)
