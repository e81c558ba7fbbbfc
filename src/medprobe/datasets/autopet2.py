"""AutoPET II (FDG-PET-CT-Lesions): whole-body FDG PET/CT, 1,014 studies of 900 patients, every lesion outlined.

On disk, as the NIfTI record unpacks (the root may be `FDG-PET-CT-Lesions` itself, or the folder it lies in):

    FDG-PET-CT-Lesions/PETCT_0011f3deaf/03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445/
        SUV.nii.gz      standardised uptake, on the grid of the PET
        CTres.nii.gz    CT in Hounsfield units, resampled to that grid, -1024 outside
        SEG.nii.gz      0 background, 1 lesion, on that grid
        CT.nii.gz       CT on its own grid                 } never read
        PET.nii.gz      counts in Bq/ml, before SUV        }

One module, three datasets: `autopet2-ct` reads CTres, `autopet2-pet` SUV, `autopet2-ctpet` both as two channels, CT first. All lie
on the grid of the mask, so nothing is resampled. A dataset asks only for the files it reads. The collection of TCIA is DICOM
and has to be converted first.

A case is a study: patient and name of the study folder, with `-` for its blanks (`PETCT_0011f3deaf_03-23-2003-NA-PET-CT-…-10445`).
Folders keep their blanks, single and double. 81 patients have several studies, so the group is the patient.

There is no official split: the challenge keeps its test sets, and the paper says both "official" and "80 % / 20 %". So five
patient-wise folds are drawn from `task.split_seed`, each testing 20 % of the patients; `--folds 0` is a single 80/20 split. (nnU-Net
takes every fifth patient by name, a pipeline of the authors' group files by name in 60/20/20.)

513 studies are negative controls with an empty mask. They stay in: dropping them would need a look into the masks. A study
whose mask and prediction are both empty has no Dice: it is counted as undefined, not as 0 or 1. `dice.present` and `precision.present` are
over the 501 studies with lesions alone, as recall and HD95 are anyway; the volumes of false positives and negatives over all.

CT is windowed to [-1000, 1000] HU, PET to an uptake of 0 to 15, the same for all studies.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source

FILES = {"ct": ("CTres.nii.gz",), "pet": ("SUV.nii.gz",), "ctpet": ("CTres.nii.gz", "SUV.nii.gz")}
"""What a dataset reads as ordered channels."""
WINDOWS = {"ct": "ct", "pet": "suv", "ctpet": "ct+suv"}
MASK = "SEG.nii.gz"
COLLECTION = "FDG-PET-CT-Lesions"


def cases(root: Path, modality: str) -> Iterator[Case]:
    """One case per study, by patient and study; all files are looked up before the first is given."""
    base = root / COLLECTION if (root / COLLECTION).is_dir() else root
    studies = [study for patient in _folders(base) if patient.name.startswith("PETCT_") for study in _folders(patient)]
    name, wanted = f"autopet2-{modality}", (*FILES[modality], MASK)
    if not studies:
        raise MissingError(f"{name}: expected folders such as {base}/PETCT_0011f3deaf/<study>, found none; get the data from {AUTOPET2[modality].source}")
    missing = [f"{study.relative_to(base)}/{file}" for study in studies for file in wanted if not (study / file).is_file()]
    if len(missing) == len(wanted) * len(studies):
        raise MissingError(f"{name}: expected {', '.join(wanted)} in each of {len(studies):,} studies under {base}, found none of them; the collection of TCIA is DICOM: convert it, or fetch the NIfTI record")
    _layout.refuse_missing(name, missing, len(wanted) * len(studies), base)
    for study in studies:
        images = tuple(Source(study / file) for file in FILES[modality])
        yield Case(id_of(study), study.parent.name, {"image": images}, (Source(study / MASK),))


def id_of(study: Path) -> str:
    """Patient and study without blanks: the name of a prediction file."""
    return f"{study.parent.name}_{re.sub(r'[^A-Za-z0-9.-]+', '-', study.name)}"


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not _layout.is_leaving(path)) if place.is_dir() else []


def twin(root: Path, rng: np.random.Generator) -> None:
    """Seven patients, the second with two studies; three of the eight studies without a lesion.

    A lesion is hot in PET and hardly seen in CT. Files are stored right to left and back to front, as converted from DICOM;
    CT has a finer grid than PET, and CTres comes in another number type than CT.
    """
    from medprobe.imaging import nifti

    shape, affine = (6, 10, 10), np.diag([-8.0, -8.0, 12.0, 1.0])
    patients = [f"PETCT_{rng.bytes(5).hex()}" for _ in range(7)]
    for number, patient in enumerate((patients[0], patients[1], *patients[1:])):
        words = "GK  primaer mit KM" if number % 2 else "PET-CT Ganzkoerper  primaer mit KM"
        study = root / COLLECTION / patient / f"{1 + number:02d}-23-2003-NA-{words}-{10000 + 37 * number}"
        body = np.zeros(shape, bool)
        body[:, 2:8, 1:9] = True
        lesion = np.zeros(shape, np.uint8)
        if number not in (0, 2, 5):
            z, y, x = rng.integers(1, 3), rng.integers(3, 6), rng.integers(2, 6)
            lesion[z : z + 3, y : y + 2, x : x + 3] = 1
        uptake = np.where(body, rng.uniform(0.5, 1.5, shape), 0.02) + 6 * lesion
        units = np.where(body, rng.normal(40, 20, shape) + 10 * lesion, -1000)
        nifti.save(study / "SUV.nii.gz", uptake.astype(np.float32), affine, None)
        nifti.save(study / "PET.nii.gz", (uptake * 4321).astype(np.float32), affine, None)
        nifti.save(study / "CTres.nii.gz", units.astype(np.float32), affine, None)
        nifti.save(study / "SEG.nii.gz", lesion, affine, None)
        fine, sides = np.repeat(np.repeat(units, 2, axis=1), 2, axis=2), np.diag([-4.0, -4.0, 12.0, 1.0])
        sides[:2, 3] = 2.0
        nifti.save(study / "CT.nii.gz", np.rint(fine).astype(np.int16), sides, None)
    (root / COLLECTION / "._PETCT_0011f3deaf").write_bytes(b"\x00\x05\x16\x07")


AUTOPET2 = {
    modality: DATASETS.register(f"autopet2-{modality}")(
        Dataset(
            name=f"autopet2-{modality}",
            kind="segmentation",
            dims=3,
            modality={"ct": "CT", "pet": "FDG PET", "ctpet": "FDG PET/CT"}[modality],
            classes=("background", "lesion"),
            licence="that of the copy you fetch, accepted there (TCIA for DICOM, the University of Tübingen for NIfTI)",
            source="https://doi.org/10.7937/gkr0-xv29 (TCIA, DICOM), or the NIfTI record FDG-PET-CT-Lesions of the University of Tübingen, linked at https://autopet-ii.grand-challenge.org/dataset",
            citation="Gatidis et al., A whole-body FDG-PET/CT dataset with manually annotated tumor lesions, Scientific Data 9:601 (2022)",
            cases=partial(cases, modality=modality),
            twin=twin,
            counts={"cases": 1014},
            folders=(COLLECTION, "autopet2"),
            markers=(COLLECTION,),
            recipe=WINDOWS[modality],
            grey=True,
            note="no official split: five patient-wise folds, each 80/20. 513 of the 1,014 studies have no lesion and no Dice unless something is predicted there",
        )
    )
    for modality in FILES
}
