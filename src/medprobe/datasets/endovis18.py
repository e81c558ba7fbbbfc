"""EndoVis 2018, instrument types: 15 sequences of robotic surgery in pigs, 149 frames each, seven instruments and background.

The frames are the challenge's, whose own labels are parts and tissue; the types are ISINet's labels, which others host too.
Both are found by the names of their folders, at any depth:

    {train,val}/images/seq1_frame000.png, annotations/seq1_frame000.png      ISINet: 8-bit, a pixel is the number of its instrument
    {train,val}/binary_annotations/seq1_frame000_..._class4_inst0.png        a mask of 0 and 255 for each instrument
    val/annotations/seq2/frame000.png, val/binary_annotations/seq2/frame000_class4...png     SurgicalSAM: a folder per sequence
    train/0/images/seq1/..., train/0/binary_annotations/seq1/...             its train; 1 to 40 are augmented copies, left out
    img/seq_1_frame000.png, type_lbl/seq_1_frame000.png
    miccai_challenge_release_2/seq_5/left_frames/frame000.png                frames, where no folder above has them

`annotations` and `type_lbl` come first. A sequence that has `binary_annotations` alone is made of these, the last in order of
name on top where they overlap; a frame without any is background. `test_data` (other operations under the same sequence names),
right frames and the challenge's colour labels are not read, so its corrections of seven of those do not matter here.

Numbers: 1 to 7 in the order of `classes`. ISINet's labels also exist numbered as those of 2017, where 4 and 5 are instruments
that do not occur here and 6 to 9 are our 4 to 7. A labels*.json, a list of {"name", "classid"} as ISINet's script writes it, says
which number is which. Without one, the names of all `binary_annotations` and 32 masks, evenly over all, are looked at, and a
number above 7 ends the reading; in any other mask it does so when that is read.

Test is ISINet's validation: sequences 2, 5, 9, 15. A sequence is the patient. The run draws 15 % of the other eleven to
validate: the four must not choose anything. Frames are 1280 x 1024 and whole; several instruments are rare or absent from a part.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.imaging.labels import ABSENT, read_labels
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source

INSTRUMENTS = ("Bipolar Forceps", "Prograsp Forceps", "Large Needle Driver", "Monopolar Curved Scissors", "Ultrasound Probe", "Suction Instrument", "Clip Applier")
OF_2018, OF_2017 = (1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 6, 7, 8, 9)
"""Number of each instrument."""
TEST = (2, 5, 9, 15)
SEQUENCES = tuple(number for number in range(1, 17) if number != 8)
FRAMES = 149
IMAGES, MASKS, INSTANCES = ("images", "img", "left_frames"), ("annotations", "type_lbl"), ("binary_annotations",)
"""Folders, the earlier ones first."""
SEQUENCE, FRAME, CLASS = re.compile(r"seq_?(\d+)"), re.compile(r"(?:seq_?\d+_)?(?:frame?_?)?(\d+)"), re.compile(r"class_?(\d+)")
SAMPLED = 32

Place = tuple[int, int]
"""Sequence and frame."""


def cases(root: Path) -> Iterator[Case]:
    """One case per frame, in order of sequence and frame; all files are matched before the first is given."""
    files = files_of(root)
    images, masks, instances = _single(files, IMAGES), _single(files, MASKS), files[INSTANCES[0]]
    if not masks and not instances:
        raise MissingError(f"endovis18: expected {', '.join((*MASKS, *INSTANCES))} with types of instruments under {root}, found {len(images):,} frames and no such labels, which are not in the challenge's own download; get the data from {ENDOVIS18.source}")
    numbers = numbering(root, masks.values(), instances.values())
    meaning = None if numbers == OF_2018 else ",".join(["0=0", *(f"{number}={index}" for index, number in enumerate(numbers, 1) if number)])
    targets: dict[Place, tuple[Source, ...]] = {place: (Source(path, meaning),) for place, path in masks.items()}
    whole, apart = ({sequence for sequence, _ in found} for found in (masks, instances))
    for place in (*instances, *images):
        if place[0] in apart - whole:
            targets[place] = tuple(Source(path, f"0=0,*={numbers.index(_class(path)) + 1}") for path in instances.get(place, ())) or (Source(images[place], ABSENT),)
    lost = [f"images/{name_of(place)}.png" for place in targets if place not in images] + [f"annotations/{name_of(place)}.png" for place in images if place not in targets]
    _layout.refuse_missing("endovis18", lost, len(images.keys() | targets.keys()), root)
    for place in sorted(images):
        yield Case(name_of(place), f"seq{place[0]}", {"image": (Source(images[place]),)}, targets[place], "test" if place[0] in TEST else "train")


def name_of(place: Place) -> str:
    return f"seq{place[0]}_frame{place[1]:03d}"


def files_of(root: Path) -> Mapping[str, dict[Place, list[Path]]]:
    """Folder → sequence and frame → its files in order of name."""
    found: dict[str, dict[Place, list[Path]]] = {folder: defaultdict(list) for folder in (*IMAGES, *MASKS, *INSTANCES)}
    for path in sorted(root.rglob("*.png")):
        parts = path.relative_to(root).parts
        folder = next((part for part in reversed(parts[:-1]) if part in found), None)
        if folder is None or _layout.is_leaving(Path(*parts)) or {"test", "test_data"} & set(parts) or re.search(r"(^|/)train/(0*[1-9]\d*)/", "/".join(parts)):
            continue
        found[folder][_place(path, parts)].append(path)
    return found


def _place(path: Path, parts: tuple[str, ...]) -> Place:
    sequences, frame = SEQUENCE.findall("/".join(parts)), FRAME.match(path.stem)
    if not sequences or frame is None:
        raise RequestError(f"{path}: expected a name such as seq1_frame000.png, or frame000.png below seq1, found neither; use the released names")
    sequence = int(sequences[-1])
    if sequence not in SEQUENCES:
        raise RequestError(f"{path}: expected the sequences 1 to 7 and 9 to 16 of 2018, found {sequence}; is this the data of another year?")
    if ("train" if sequence in TEST else "val") in parts:
        raise RequestError(f"{path}: expected sequences {', '.join(map(str, TEST))} in val and the others in train, as ISINet has them, found sequence {sequence} in {'train' if sequence in TEST else 'val'}; sort the sequences anew")
    return sequence, int(frame[1])


def _single(files: Mapping[str, Mapping[Place, list[Path]]], folders: Collection[str]) -> dict[Place, Path]:
    """The one file of each frame, from the first folder that has it."""
    found: dict[Place, Path] = {}
    for folder in folders:
        for place, paths in files[folder].items():
            if len(paths) > 1:
                raise RequestError(f"{paths[1]}: expected one file of {name_of(place)} in {folder}, found {paths[0]} too; remove one")
            found.setdefault(place, paths[0])
    return found


def _class(path: Path) -> int:
    found = CLASS.search(path.stem)
    if found is None:
        raise RequestError(f"{path}: expected a name with the number of its instrument, such as seq1_frame000_class4_inst0.png, found none; use the released names")
    return int(found[1])


# ------------------------------------------------------------------------------------------ numbering


def numbering(root: Path, masks: Collection[Path], instances: Collection[list[Path]]) -> tuple[int, ...]:
    """The number of each instrument in the files, 0 for one that has none: as declared, or 1 to 7 where nothing speaks against it."""
    numbers = declared(root)
    known = numbers or OF_2018
    for path in (path for paths in instances for path in paths):
        if _class(path) not in set(known) - {0}:
            raise _refusal(root, path, _class(path), numbers)
    if numbers is None:
        paths = sorted(masks)
        for place in np.unique(np.linspace(0, len(paths) - 1, SAMPLED).astype(int)) if paths else ():
            try:
                highest = int(read_labels((Source(paths[place]),), dims=2).labels.max())
            except CaseError:  # met again when it is read
                continue
            if highest > len(INSTRUMENTS):
                raise _refusal(root, paths[place], highest, numbers)
    return known


def declared(root: Path) -> tuple[int, ...] | None:
    """The numbers that labels*.json gives the instruments; None without such a file. Those of the challenge name parts and tissue."""
    found: dict[Path, tuple[int, ...]] = {}
    for file in sorted((*root.glob("labels*.json"), *root.glob("*/labels*.json"))):
        if _layout.is_leaving(file.relative_to(root)):
            continue
        try:
            numbers = {_plain(entry["name"]): int(entry["classid"]) for entry in _entries(json.loads(file.read_text(encoding="utf-8-sig")))}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f'{file}: expected a list of {{"name": …, "classid": …}}, found {type(error).__name__} {error}; correct it') from None
        if _plain(INSTRUMENTS[0]) in numbers:
            found[file] = tuple(numbers.get(_plain(name), 0) for name in INSTRUMENTS)
            given = [number for number in found[file] if number]
            if len(set(given)) < len(given) or min(given, default=0) < 1:
                raise RequestError(f"{file}: expected another number above 0 for each instrument, found {found[file]}; correct it")
    if len(set(found.values())) > 1:
        raise RequestError(f"{root}: expected one numbering of the instruments, found {' and '.join(f'{numbers} in {file}' for file, numbers in found.items())}; remove the one that is not of these labels")
    return next(iter(found.values()), None)


def _entries(document: Any) -> Any:
    return document["classes"] if isinstance(document, dict) else document


def _plain(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "-_ "))


def _refusal(root: Path, path: Path, number: int, numbers: tuple[int, ...] | None) -> RequestError:
    if numbers is not None:
        return RequestError(f"{path}: expected one of the numbers {', '.join(map(str, numbers))} that labels*.json gives the instruments, found {number}; correct one of the two")
    example = json.dumps([{"name": name, "classid": number} for name, number in zip(INSTRUMENTS, OF_2017, strict=True)])
    return RequestError(
        f"{path}: expected the numbers 1 to 7 ({', '.join(f'{index} {name}' for index, name in enumerate(INSTRUMENTS, 1))}), found {number}, so that these labels may be numbered as those of 2017 are; "
        f"say which number is which in {root / 'labels.json'}, for those of 2017: {example}"
    )


# ---------------------------------------------------------------------------------------------- twin


def twin(root: Path, rng: np.random.Generator) -> None:
    """Six sequences of three frames in the layout of ISINet, with `binary_annotations`; every instrument in both parts, some overlap.

    An instrument is a bar of its own colour. One frame has none, and a Mac has left its `._` files and a `__MACOSX` copy.
    """
    from PIL import Image

    colours = rng.uniform(40, 230, (len(INSTRUMENTS) + 1, 3))
    for sequence in (1, 2, 3, 4, 5, 6):
        base = root / ("val" if sequence in TEST else "train")
        for folder in ("images", "annotations", "binary_annotations"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for frame in range(3):
            name, labels = name_of((sequence, frame)), np.zeros((32, 40), np.uint8)
            present = [] if (sequence, frame) == (1, 2) else sorted({1 + (3 * frame + step + (sequence in (2, 4))) % 7 for step in range(3)})
            for order, number in enumerate(present):
                bar = np.zeros(labels.shape, bool)
                bar[5 + 7 * order : 14 + 7 * order, 3 + number : 20 + number] = True
                labels[bar] = number
                Image.fromarray(bar.astype(np.uint8) * 255).save(base / "binary_annotations" / f"{name}_class{number}_inst0.png")
            pixels = np.clip(colours[labels] + rng.normal(0, 3, (*labels.shape, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(base / "images" / f"{name}.png")
            Image.fromarray(labels).save(base / "annotations" / f"{name}.png")
    (root / "train" / "annotations" / "._seq1_frame000.png").write_bytes(b"\x00\x05\x16\x07")
    copy = root / "__MACOSX" / "train" / "annotations"
    copy.mkdir(parents=True)
    (copy / "seq1_frame000.png").write_bytes(b"\x00\x05\x16\x07")


ENDOVIS18 = DATASETS.register("endovis18")(
    Dataset(
        name="endovis18",
        kind="segmentation",
        dims=2,
        modality="robotic surgery",
        classes=("background", *INSTRUMENTS),
        licence="frames: registration, research use; instrument types: no licence stated",
        source="https://endovissub2018-roboticscenesegmentation.grand-challenge.org (frames, registration) and, for the types of instruments, "
        "https://github.com/BCV-Uniandes/ISINet or the copy at https://github.com/wenxi-yue/SurgicalSAM",
        citation="Allan et al., 2018 robotic scene segmentation challenge, arXiv:2001.11190 (2020); González et al., ISINet: an instance-based approach for surgical instrument segmentation, MICCAI 2020",
        cases=cases,
        twin=twin,
        counts={"train": FRAMES * (len(SEQUENCES) - len(TEST)), "test": FRAMES * len(TEST)},
        checksums={"train": "65c9150ad619081b", "test": "4d0d0aab32cc6510"},
        folders=("endovis18", "endovis2018", "EndoVis2018", "endovis_2018"),
        markers=("val/annotations", "type_lbl", "miccai_challenge_2018_release_1"),
        note="the four test sequences are ISINet's validation, and all there is: they must not choose anything",
    )
)
