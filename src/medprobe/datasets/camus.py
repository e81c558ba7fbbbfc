"""CAMUS: echocardiograms of 500 patients, two chambers and four, each at end-diastole and end-systole.

Two releases are read (the root may be `CAMUS_public` itself, or the folder it lies in); NIfTI, the current one:

    CAMUS_public/database_nifti/patient0001/patient0001_2CH_ED.nii.gz       (width, height)    patient0001_2CH_ED_gt.nii.gz    its mask
    CAMUS_public/database_nifti/patient0001/patient0001_2CH_ES.nii.gz                          patient0001_2CH_ES_gt.nii.gz    and 4CH alike
    CAMUS_public/database_nifti/patient0001/patient0001_2CH_half_sequence.nii.gz, Info_2CH.cfg                  never read
    CAMUS_public/database_split/subgroup_training.txt, subgroup_validation.txt, subgroup_testing.txt            a patient a line

and MetaImage, that of the challenge (extra `volumes`):

    training/patient0001/patient0001_2CH_ED.mhd, .raw, patient0001_2CH_ED_gt.mhd, …     450 patients
    testing/patient0001/                                                               50 others, without masks: never read

A case is a view of a patient, `patient0001_2CH`: end-diastole is moved onto end-systole, whichever of the two comes first in the sequence.
Masks: 0 background, 1 cavity of the left ventricle, 2 myocardium, 3 left atrium (ACDC counts otherwise). Views of every quality are kept.

Images and masks are read on 128 x 128 pixels that divide the whole picture evenly, rows from the probe downwards as they are stored,
whatever headers say of directions: images by an antialiased bilinear filter, masks nearest. Aspect is not kept, so the pixels of the
challenge's release, half as high as wide, give the same picture. Black and white are the extremes of each picture. Distances are in px.

The official split, 400, 50 and 50 patients, is that of the lists, which must be there. They are for the patients of the NIfTI release: the
numbers of the challenge's are others, and its test part has no masks. Of its 450 training patients a tenth each validates and tests, by
seed; the run warns that these are no official numbers.
"""

import logging
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Lattice, Source, Split

logger = logging.getLogger(__name__)

CLASSES = ("background", "lv-cavity", "myocardium", "left-atrium")
VIEWS = ("2CH", "4CH")
PHASES = {"fixed": "ES", "moving": "ED"}
PIXELS = Lattice((1, 128, 128))
NIFTI, SPLIT, MHD = "database_nifti", "database_split", "training"
LISTS: Mapping[str, Split] = {"training": "train", "validation": "val", "testing": "test"}


def cases(root: Path) -> Iterator[Case]:
    """One case per view of a patient, by name; all files are looked up before the first is given."""
    base = root / "CAMUS_public" if (root / "CAMUS_public").is_dir() else root
    releases = [base / name for name in (NIFTI, MHD) if _patients(base / name)]
    if len(releases) != 1:
        found = "both, whose numbers stand for different patients" if releases else "neither"
        advice = f"keep one, or name its folder in medprobe.toml: camus = {str(base)!r}" if releases else f"get the data from {CAMUS.source}"
        raise (RequestError if releases else MissingError)(f"camus: expected one release, {base / NIFTI}/patient0001 (NIfTI) or {base / MHD}/patient0001 (MetaImage), found {found}; {advice}")
    patients = _patients(releases[0])
    nifti = releases[0].name == NIFTI
    parts = official(base / SPLIT) if nifti else by_seed(patients)
    unlisted = sorted(set(patients) - set(parts))
    if unlisted:
        raise RequestError(f"camus: expected every patient of {releases[0]} in a list of {base / SPLIT}, found {len(unlisted)} in none, first {unlisted[0]}; use the released lists")
    suffix = ".nii.gz" if nifti else ".mhd"
    stems = [f"{patient}/{patient}_{view}" for patient in sorted(parts) for view in VIEWS]
    wanted = [f"{stem}_{phase}{kind}{suffix}" for stem in stems for phase in PHASES.values() for kind in ("", "_gt")]
    _layout.refuse_missing("camus", [name for name in wanted if not (releases[0] / name).is_file()], len(wanted), releases[0])
    if not nifti:
        logger.warning("camus: the release in MetaImage has no official split; of its %s patients with masks a tenth each validates and tests, by seed", f"{len(patients):,}")
    for stem in stems:
        patient, _, name = stem.partition("/")
        images, masks = ({role: (Source(releases[0] / f"{stem}_{phase}{kind}{suffix}", grid=PIXELS),) for role, phase in PHASES.items()} for kind in ("", "_gt"))
        yield Case(name, patient, images, masks, parts[patient])


def _patients(folder: Path) -> list[str]:
    """Folders such as patient0001: four digits, where ACDC has three."""
    found = folder.glob("patient[0-9][0-9][0-9][0-9]") if folder.is_dir() else ()
    return sorted(path.name for path in found if path.is_dir())


def official(folder: Path) -> dict[str, Split]:
    """Patient → part, by the lists of the release."""
    files = {folder / f"subgroup_{name}.txt": part for name, part in LISTS.items()}
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise MissingError(f"camus: expected the official split, {', '.join(path.name for path in files)} in {folder}, found no {', '.join(absent)}; {SPLIT} is released beside {NIFTI}, fetch it too")
    parts: dict[str, Split] = {}
    for path, part in files.items():
        for patient in path.read_text(encoding="utf-8-sig").split():
            if parts.setdefault(patient, part) != part:
                raise RequestError(f"{path}: expected every patient in one list, found {patient} in that of {parts[patient]} too; use the released lists")
    return parts


def by_seed(patients: list[str]) -> dict[str, Split]:
    """Patient → part: a tenth each, rounded up, to validate and to test."""
    tenth = -(-len(patients) // 10)
    order = np.random.RandomState(0).permutation(len(patients))
    return {patients[place]: "val" if rank < tenth else "test" if rank < 2 * tenth else "train" for rank, place in enumerate(order)}


# ----------------------------------------------------------------------------------------------- twin


def twin(root: Path, rng: np.random.Generator) -> None:
    """The NIfTI release: twelve patients, split 8, 2 and 2. Pictures differ in size and in the directions their headers state;
    in patient 3 end-systole comes first."""
    base = root / "CAMUS_public"
    numbers = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 47)
    for (name, _), part in zip(LISTS.items(), (numbers[:8], numbers[8:10], numbers[10:]), strict=True):
        (base / SPLIT).mkdir(parents=True, exist_ok=True)
        (base / SPLIT / f"subgroup_{name}.txt").write_text("".join(f"patient{number:04d}\n" for number in part))
    for number, view in product(sorted(numbers), VIEWS):
        folder, stem = base / NIFTI / f"patient{number:04d}", f"patient{number:04d}_{view}"
        height, width = (int(side) for side in rng.integers((84, 70), (96, 80)))
        for phase, image, mask in _beat(rng, height, width):
            _save_nifti(folder / f"{stem}_{phase}.nii.gz", image, (0.308, 0.308) if number % 2 else (-0.308, -0.308))
            _save_nifti(folder / f"{stem}_{phase}_gt.nii.gz", mask, (0.308, 0.308) if number % 2 else (-0.308, -0.308))
            if phase == "ED":
                _save_nifti(folder / f"{stem}_half_sequence.nii.gz", np.stack([image] * 3), (0.308, 0.308))
        first, last = (18, 1) if number == 3 else (1, 18)
        (folder / f"Info_{view}.cfg").write_text(f"ED: {first}\nES: {last}\nNbFrame: 18\nSex: F\nAge: 56\nImageQuality: Good\nEF: 54\nFrameRate: 47.6\n")


def twin_mhd(root: Path, rng: np.random.Generator) -> None:
    """The challenge's release: twelve training patients and two to test, numbered anew and without masks; pixels half as high as wide."""
    for part, number, view in [*product(("training",), range(1, 13), VIEWS), *product(("testing",), (1, 2), VIEWS)]:
        folder, stem = root / part / f"patient{number:04d}", f"patient{number:04d}_{view}"
        height, width = (int(side) for side in rng.integers((168, 70), (192, 80)))
        for phase, image, mask in _beat(rng, height, width):
            _save_mhd(folder / f"{stem}_{phase}.mhd", image)
            if part == "training":
                _save_mhd(folder / f"{stem}_{phase}_gt.mhd", mask)
        (folder / f"Info_{view}.cfg").write_text("ED: 1\nES: 18\nNbFrame: 18\nSex: F\nAge: 56\nImageQuality: Good\nLVedv: 90\nLVesv: 40\nLVef: 55\n")


def _beat(rng: np.random.Generator, height: int, width: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """ED and ES, image and mask (height, width), uint8: a sector from the probe at the top; below its tip the cavity in its wall, open towards the atrium."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width - 0.5, indexing="ij")
    sector = (np.abs(x) < 0.75 * y) & (np.hypot(x, y) < 0.97)
    across, down = rng.uniform(-0.04, 0.04), rng.uniform(0.4, 0.45)
    for phase, size, wall in (("ED", 1.0, 0.05), ("ES", 0.75, 0.08)):
        mask = np.zeros((height, width), np.uint8)
        radii = 0.25 * size, 0.14 * size
        mask[(np.hypot((y - down) / (radii[0] + wall), (x - across) / (radii[1] + wall)) < 1) & (y < down + 0.7 * radii[0])] = 2
        mask[(np.hypot((y - down) / radii[0], (x - across) / radii[1]) < 1) & (y < down + 0.7 * radii[0])] = 1
        mask[(np.hypot((y - down - 0.7 * radii[0] - 0.08) / 0.08, (x - across) / 0.1) < 1) & (y >= down + 0.7 * radii[0])] = 3
        grey = np.array([110, 30, 190, 25])[mask] + rng.integers(-2, 3, mask.shape) * 8
        yield phase, np.where(sector, grey, 0).astype(np.uint8), mask


def _save_nifti(path: Path, array: np.ndarray, sides: tuple[float, float]) -> None:
    """(…, height, width) as the release has it, (width, height, …)."""
    import gzip

    import nibabel

    from medprobe.files import write_atomically

    image = nibabel.Nifti1Image(np.moveaxis(array, (-1, -2), (0, 1)), np.diag([*sides, 1.0, 1.0]))
    write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))


def _save_mhd(path: Path, array: np.ndarray) -> None:
    """(height, width), uint8, as one plane of pixels 0.308 mm wide and 0.154 mm high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".raw").write_bytes(array.tobytes())
    path.write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        f"Offset = 0 0 0\nElementSpacing = 0.308 0.154 1\nDimSize = {array.shape[1]} {array.shape[0]} 1\nElementType = MET_UCHAR\nElementDataFile = {path.stem}.raw\n"
    )


CAMUS = DATASETS.register("camus")(
    Dataset(
        name="camus",
        kind="registration",
        dims=2,
        modality="echocardiography",
        classes=CLASSES,
        licence="CC BY-NC-SA 4.0, citation mandatory",
        source="https://www.creatis.insa-lyon.fr/Challenge/camus (Human Heart Project, CAMUS_public)",
        citation="Leclerc et al., Deep learning for segmentation using an open large-scale dataset in 2D echocardiography, IEEE TMI 38(9) (2019)",
        cases=cases,
        twin=twin,
        counts={"train": 800, "val": 100, "test": 100},
        folders=("camus", "CAMUS"),
        markers=("CAMUS_public", NIFTI, "training/patient0001"),
        grey=True,
        note="the release in MetaImage has no official split: its 450 patients with masks are then divided 80/10/10 by seed",
    )
)
