"""ACDC: cine MRI of the heart at end-diastole and end-systole, 150 patients in five diagnostic groups.

On disk, as released (the root may be `database` itself, or the folder it lies in):

    database/training/patient001/Info.cfg                         ED: 1, ES: 12, Group: DCM, Height, NbFrame, Weight
    database/training/patient001/patient001_frame01.nii.gz        at end-diastole     patient001_frame01_gt.nii.gz    its mask
    database/training/patient001/patient001_frame12.nii.gz        at end-systole      patient001_frame12_gt.nii.gz
    database/training/patient001/patient001_4d.nii.gz             the whole beat: never read
    database/testing/patient101/                                  `testing_with_gt` in older downloads

A case is a patient: end-diastole is moved onto end-systole. Which frames these are stands in Info.cfg and nowhere else: that of
patient090 at end-diastole is frame 04. Masks: 0 background, 1 right ventricle, 2 myocardium, 3 left ventricle (CAMUS counts otherwise).

Images and masks are read on one window of 128 x 128 x 32 voxels of 1.5 x 1.5 x 3.15 mm, images linearly, masks nearest. Its middle is
the centroid of the myocardium at end-diastole in y and x, and the middle of the volume in z: the label of the moving image is used,
in test patients too, to say where the heart is. Six patients are taller than the 100.8 mm of the window and are cut, all others are
padded with the lowest value of the volume. Black and white are the extremes of the whole volume, so that padding is 0.

Patients 101 to 150 are the official test part. The paper's division of the others, 80 to 20, is not stated: here four of the twenty of each
group validate, by seed. `acdc-rv-val` validates on 81 to 100, all of one disease, as one program of the authors' group does, and
`acdc-nnunet` on those of nnU-Net's first fold.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Lattice, Source, Split

CLASSES = ("background", "rv", "myocardium", "lv")
MYOCARDIUM = CLASSES.index("myocardium")
SHAPE, SPACING = (32, 128, 128), (3.15, 1.5, 1.5)
"""Of the window, in voxels and in mm (z, y, x)."""
NNUNET = (5, 7, 10, 20, 22, 27, 32, 34, 41, 46, 47, 51, 53, 59, 68, 69, 73, 75, 77, 88)
"""The validation part of nnU-Net's fold 0."""


def cases(root: Path, name: str) -> Iterator[Case]:
    """One case per patient, by name; all files are looked up before the first is given."""
    base = root / "database" if (root / "database").is_dir() else root
    testing = base / ("testing_with_gt" if (base / "testing_with_gt").is_dir() else "testing")
    _layout.refuse_absent(ACDC[name], [base / "training", testing])
    training, test = (_patients(part, name) for part in (base / "training", testing))
    frames, missing = {}, []
    for folder in (*training, *test):
        if not (folder / "Info.cfg").is_file():
            missing.append(str((folder / "Info.cfg").relative_to(base)))
            continue
        stems = [f"{folder.name}_frame{frame:02d}" for frame in frames_of(folder / "Info.cfg")]
        frames[folder] = [folder / f"{stem}{kind}.nii.gz" for stem in stems for kind in ("", "_gt")]
        missing += [str(path.relative_to(base)) for path in frames[folder] if not path.is_file()]
    _layout.refuse_missing(name, missing, 5 * (len(training) + len(test)), base)
    validating = DIVISIONS[name]({folder.name: info_of(folder / "Info.cfg").get("Group", "") for folder in training})
    for folder, (moving, moving_mask, fixed, fixed_mask) in frames.items():
        window = Lattice(SHAPE, SPACING, around=moving_mask, label=MYOCARDIUM)
        images, masks = ({role: (Source(path, grid=window),) for role, path in (("fixed", one), ("moving", other))} for one, other in ((fixed, moving), (fixed_mask, moving_mask)))
        split: Split = "test" if folder in test else "val" if folder.name in validating else "train"
        yield Case(folder.name, folder.name, images, masks, split)


def _patients(part: Path, name: str) -> list[Path]:
    found = sorted(path for path in part.iterdir() if path.is_dir() and path.name.startswith("patient") and path.name[7:].isdecimal())
    if not found:
        raise MissingError(f"{name}: expected folders such as {part}/patient001, found none; the download may be partial, fetch it again")
    return found


def info_of(path: Path) -> dict[str, str]:
    """What the `Key: value` lines say."""
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8-sig").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def frames_of(path: Path) -> tuple[int, int]:
    """End-diastole and end-systole, counted from 1 as file names do."""
    said = [info_of(path).get(key, "nothing") for key in ("ED", "ES")]
    if not all(frame.isdecimal() for frame in said):
        raise RequestError(f"{path}: expected the numbers of two frames after ED: and ES:, found {' and '.join(said)}; use the released file")
    return int(said[0]), int(said[1])


def of_each_group(groups: Mapping[str, str]) -> set[str]:
    """A fifth of the patients of each group, in seeded order. `groups`: patient → group."""
    rng, chosen = np.random.RandomState(0), set()
    for group in sorted(set(groups.values())):
        members = sorted(patient for patient in groups if groups[patient] == group)
        chosen |= {members[place] for place in rng.permutation(len(members))[: -(-len(members) // 5)]}
    return chosen


DIVISIONS: Mapping[str, Callable[[Mapping[str, str]], set[str]]] = {
    "acdc": of_each_group,
    "acdc-rv-val": lambda groups: {patient for patient in groups if int(patient[7:]) > 80},
    "acdc-nnunet": lambda groups: {patient for patient in groups if int(patient[7:]) in NNUNET},
}
"""Dataset → which patients of the training part validate, from patient → group."""
NOTES = {
    "acdc": "training part divided 80 to 20 by seed, four patients of each group validate",
    "acdc-rv-val": "patients 81 to 100, all of the group RV, validate",
    "acdc-nnunet": "the patients of nnU-Net's fold 0 validate",
}
CHECKSUMS = {
    "acdc": {"train": "be160ba2b5a0b08d", "val": "369ebdd713a7216f", "test": "22825b09b4b08832"},
    "acdc-rv-val": {"train": "c0cc7c7a17a404fc", "val": "f5fc3254bfb974fe", "test": "22825b09b4b08832"},
    "acdc-nnunet": {"train": "00c649a43d8867f1", "val": "9d9e0a1a983a5509", "test": "22825b09b4b08832"},
}


def twin(root: Path, rng: np.random.Generator) -> None:
    """Three training patients and one test patient of each group, among them 90, with end-diastole in frame 04; every fourth patient is taller than
    the window. The cavity contracts and its wall thickens; every second patient is stored right to left and back to front.
    """
    from medprobe.imaging import nifti

    groups = {"DCM": (1, 5, 20, 101), "HCM": (21, 22, 40, 102), "MINF": (41, 46, 60, 103), "NOR": (61, 68, 80, 104), "RV": (81, 88, 90, 105)}
    for number, group in sorted((number, group) for group, numbers in groups.items() for number in numbers):
        patient = f"patient{number:03d}"
        folder = root / "database" / ("testing" if number > 100 else "training") / patient
        sides = (6.5 + rng.uniform(0, 0.5), 6.5) if number % 2 else (-6.5, -6.5 - rng.uniform(0, 0.5))
        affine, shape = np.diag([*sides, 10.0, 1.0]), (12 if number % 4 == 0 else int(rng.integers(5, 8)), 38, 36)
        centre = rng.uniform(-20, 20, 2)
        ed, es = (4, 11) if number == 90 else (1, int(rng.integers(8, 13)))
        beat = []
        for frame, cavity, wall in ((ed, 30.0, 11.0), (es, 19.0, 15.0)):
            image, mask = _heart(rng, shape, np.diag(affine)[:3], centre, cavity * (1.2 if group == "DCM" else 1), wall)
            beat.append(image)
            nifti.save(folder / f"{patient}_frame{frame:02d}.nii.gz", image, affine, None)
            nifti.save(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", mask, affine, None)
        nifti.save(folder / f"{patient}_4d.nii.gz", np.stack(beat, axis=-1), affine, None)
        (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: {group}\nHeight: 170.0\nNbFrame: {es + 2}\nWeight: 70.0\n")
        (folder / "MANDATORY_CITATION.md").write_text("Bernard et al. 2018\n")


def _heart(rng: np.random.Generator, shape: tuple[int, int, int], sides: np.ndarray, centre: np.ndarray, cavity: float, wall: float) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (z, y, x): a left ventricle that narrows downwards, in its wall, and to its right the other. `sides` (x, y, z), radii and `centre` (y, x) in mm."""
    z, y, x = (side * (np.arange(size) - (size - 1) / 2) for size, side in zip(shape, sides[::-1], strict=True))
    taper = 1 - 0.4 * np.clip(-z / z[-1], 0, 1)[:, None, None]
    y, x = y[:, None] - centre[0], x - centre[1]
    mask = np.zeros(shape, np.uint8)
    mask[np.hypot(y / 1.2, (x - 35) / 0.9) < (cavity + 6) * taper] = 1
    mask[np.hypot(y, x) < (cavity + wall) * taper] = 2
    mask[np.hypot(y, x) < cavity * taper] = 3
    grey = np.array([60, 200, 90, 210], np.int16)[mask] - 40 * (np.hypot(y, x) > 105)
    return (grey + rng.integers(0, 6, shape)).astype(np.int16), mask


ACDC = {
    name: DATASETS.register(name)(
        Dataset(
            name=name,
            kind="registration",
            dims=3,
            modality="cine MRI",
            classes=CLASSES,
            licence="CC BY-NC-SA 4.0, citation mandatory",
            source="https://www.creatis.insa-lyon.fr/Challenge/acdc (Human Heart Project, ACDC.zip)",
            citation="Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and diagnosis: is the problem solved?, IEEE TMI 37(11) (2018)",
            cases=partial(cases, name=name),
            twin=twin,
            counts={"train": 80, "val": 20, "test": 50},
            checksums=CHECKSUMS[name],
            folders=("acdc", "ACDC"),
            markers=("database/training/patient001", "training/patient001"),
            grey=True,
            note=f"{NOTES[name]}; the window lies around the myocardium of the moving image's mask, in test patients too",
        )
    )
    for name in DIVISIONS
}
