"""HECKTOR 2022: FDG PET/CT of head and neck cancer from seven centres, primary tumour and lymph nodes outlined, 524 patients.

On disk, as released after the signed agreement (the root may be `hecktor2022_training` itself, or the folder it lies in):

    hecktor2022_training/imagesTr/CHUM-001__CT.nii.gz      Hounsfield units; two underscores
    hecktor2022_training/imagesTr/CHUM-001__PT.nii.gz      standardised uptake, on another, coarser grid
    hecktor2022_training/labelsTr/CHUM-001.nii.gz          0 background, 1 GTVp (primary), 2 GTVn (nodes), on the grid of the CT
    hecktor2022_training/hecktor2022_clinical_info_training.csv, hecktor2022_endpoint_training.csv      never read
    hecktor2022_testing/                                   no masks: never read

One module, three datasets: `hecktor2022-ct`, `hecktor2022-pet`, and `hecktor2022-ctpet` with two channels, CT first. A dataset asks
only for the files it reads. CT and PET lie in one frame but on different grids, and the mask on that of the CT, so PET is put
on the grid of the CT when it is read, linearly; `hecktor2022-pet` needs the CT for its grid alone. (The organisers' program
resamples both to 2 mm where they overlap.)

A case is a patient, `CHUM-001`: centre and number, with gaps. Masks are found with a hyphen or an underscore, as both are
printed. Patients without GTVp and without GTVn exist. Classes are scored apart, then averaged; the official score is
`dice.aggregated_mm3`, that of both as one, as the paper seems to have them, `dice.tumour`.
The edition of 2025, a folder per patient, is another dataset.

There is no official split, and the paper says 80 % / 20 % "official". Folds here: five, the patients of each centre in seeded order dealt
out one by one, so that every fold tests 20 % of each centre; `--folds 0` is a single 80/20 split. (Not taken: the folds of a
participating team, and a cut of the sorted names, which would test one centre alone.) The paper counts 882 scans, which
includes the challenge's test part.

CT is windowed to [-1000, 1000] HU, PET to an uptake of 0 to 15: its maxima differ between scanners, so the window is the same for all.
"""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source

CT, PET = "__CT.nii.gz", "__PT.nii.gz"
SUFFIXES = {"ct": (CT,), "pet": (PET,), "ctpet": (CT, PET)}
"""What a dataset reads as ordered channels."""
WINDOWS = {"ct": "ct", "pet": "suv", "ctpet": "ct+suv"}
TRAINING = "hecktor2022_training"
FOLDS = 5


def cases(root: Path, modality: str) -> Iterator[Case]:
    """One case per patient, by name; all files are looked up before the first is given."""
    base = root / TRAINING if (root / TRAINING).is_dir() else root
    _layout.refuse_absent(HECKTOR2022[modality], [base / "imagesTr", base / "labelsTr"])
    images = {suffix: by_patient(base / "imagesTr", suffix) for suffix in (CT, PET)}
    masks = by_patient(base / "labelsTr", ".nii.gz")
    patients = sorted(set(masks).union(*images.values()))
    files = (CT,) if modality == "ct" else (CT, PET)
    wanted = [(f"imagesTr/{{}}{suffix}", images[suffix]) for suffix in files] + [("labelsTr/{}.nii.gz", masks)]
    missing = [name.format(patient) for patient in patients for name, files in wanted if patient not in files]
    _layout.refuse_missing(f"hecktor2022-{modality}", missing, len(wanted) * len(patients), base)
    folds = folds_of(patients)
    for patient in patients:
        channels = tuple(Source(images[suffix][patient], grid=images[CT][patient] if suffix == PET else None) for suffix in SUFFIXES[modality])
        yield Case(patient, patient, {"image": channels}, (Source(masks[patient]),), fold=folds[patient])


def by_patient(folder: Path, suffix: str) -> dict[str, Path]:
    """Patient, with a hyphen, → its file of this suffix."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith(suffix) and not _layout.is_leaving(path))
    return {path.name.removesuffix(suffix).replace("_", "-"): path for path in files}


def folds_of(patients: Collection[str]) -> dict[str, int]:
    """Patient → fold: centre after centre, each in seeded order, dealt out to the folds in turn."""
    rng, dealt = np.random.RandomState(0), []
    for centre in sorted({patient.partition("-")[0] for patient in patients}):
        members = sorted(patient for patient in patients if patient.partition("-")[0] == centre)
        dealt += [members[place] for place in rng.permutation(len(members))]
    return {patient: place % FOLDS for place, patient in enumerate(dealt)}


def twin(root: Path, rng: np.random.Generator) -> None:
    """Ten patients of two centres; two patients without GTVp, one without GTVn; one mask named with an underscore.

    PET has larger voxels and fewer slices than CT, and its maximum is ten times as high at one centre.
    """
    from medprobe.imaging import nifti

    numbers = {"CHUM": (1, 2, 6, 7, 8), "MDA": (1, 3, 4, 5, 9)}
    base = root / TRAINING
    rows = ["PatientID,Task 1,Task 2,CenterID,Gender,Age,Weight"]
    for centre, patients in numbers.items():
        for number in patients:
            name = f"{centre}-{number:03d}"
            mask = np.zeros((8, 10, 10), np.uint8)
            z, y, x = rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 3)
            if number not in (2, 3):
                mask[z : z + 3, y : y + 3, x : x + 3] = 1
            if number != 7:
                mask[z + 2 : z + 5, y + 4 : y + 6, x + 4 : x + 6] = 2
            units = np.rint(rng.normal(40, 20, mask.shape) + 15 * (mask > 0)).astype(np.int16)
            seen = np.pad(mask > 0, ((0, 0), (0, 10), (0, 10)))[np.ix_([0, 2, 3, 5, 6], range(0, 20, 2), range(0, 20, 2))]
            uptake = rng.uniform(0.5, 1.5, seen.shape) + 5 * seen
            uptake[0, 0, 0] = 20 if centre == "CHUM" else 200
            nifti.save(base / "imagesTr" / f"{name}__CT.nii.gz", units, np.diag([2.0, 2.0, 3.0, 1.0]), None)
            nifti.save(base / "imagesTr" / f"{name}__PT.nii.gz", uptake.astype(np.float32), np.diag([4.0, 4.0, 4.8, 1.0]), None)
            nifti.save(base / "labelsTr" / f"{name.replace('-', '_') if name == 'MDA-005' else name}.nii.gz", mask, np.diag([2.0, 2.0, 3.0, 1.0]), None)
            rows.append(f"{name},1,1,{1 + list(numbers).index(centre)},M,60,80")
    (base / "imagesTr" / "._CHUM-001__CT.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    (base / "hecktor2022_clinical_info_training.csv").write_text("\n".join(rows) + "\n")


HECKTOR2022 = {
    modality: DATASETS.register(f"hecktor2022-{modality}")(
        Dataset(
            name=f"hecktor2022-{modality}",
            kind="segmentation",
            dims=3,
            modality={"ct": "CT", "pet": "FDG PET", "ctpet": "FDG PET/CT"}[modality],
            classes=("background", "GTVp", "GTVn"),
            licence="the challenge's data agreement, to be signed",
            source="https://hecktor.grand-challenge.org/Data (signed agreement; archive hecktor2022_training)",
            citation="Andrearczyk et al., Overview of the HECKTOR challenge at MICCAI 2022: automatic head and neck tumor segmentation and "
            "outcome prediction in PET/CT, LNCS 13626 (2023)",
            cases=partial(cases, modality=modality),
            twin=twin,
            counts={"fold0": 105, "fold1": 105, "fold2": 105, "fold3": 105, "fold4": 104},
            checksums={"fold0": "2dc325624f882445", "fold1": "7a6fb66ee02fcc6a", "fold2": "140c22a29731adaa", "fold3": "770f33825f78004a", "fold4": "a695e499fe8d00ad"},
            folders=("hecktor2022", "HECKTOR2022"),
            markers=(TRAINING, "hecktor2022_clinical_info_training.csv"),
            recipe=WINDOWS[modality],
            regions={"tumour": ("GTVp", "GTVn")},
            grey=True,
            note="no official split: five folds, each 80/20 of every centre; the 524 labelled patients of the 882 scans the paper counts"
            + ("" if modality == "ct" else ". PET is resampled to the grid of CT and mask when it is read"),
        )
    )
    for modality in SUFFIXES
}
