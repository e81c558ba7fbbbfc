"""CT-RATE: 50,188 chest CT volumes of 21,304 patients, 18 findings read from their reports, several or none per volume.

On disk, as the gated repository `ibrahimhamamci/CT-RATE` of Hugging Face unpacks (the root may be `dataset` itself):

    dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz       second release: Hounsfield units, correct headers
    dataset/valid_fixed/...
    dataset/train/..., dataset/valid/...                           original release: stored values, headers without meaning
    dataset/multi_abnormality_labels/{train,valid}_predicted_labels.csv
    dataset/metadata/{train,validation}_metadata.csv               read for the original release only
    dataset/metadata/no_chest_{train,valid}.txt

A volume is `train_1_a_1`: split, patient, scan (a letter), reconstruction. The patient is what stands before the second
underscore, `train_1`: numbers start anew in each split. Every reconstruction is a case; those of a scan have the same labels.
The official parts are kept: train, and valid as test. The run draws 15 % of the training patients to validate.

Labels are what a classifier read in the reports, in both parts: a score is agreement with it. Tables are matched on the whole
`VolumeName`. Volumes that the lists name as no chest (heads; 752 of 47,149 and 37 of 3,039; by path or by bare name) are left
out and counted in the log. The paper's "47k volumes, 20k patients" is all of train, so it seems to have kept them.

Intensities. In the fixed release a file's values are Hounsfield units: the table's slope and intercept must not be applied
again. In the original release HU = stored value x RescaleSlope + RescaleIntercept (-1024 or -8192) of the table, whatever the
header says, and the spacing is the table's too. The names of the folders tell the releases apart, and two datasets ask for one
each: `ctrate` for the fixed release, refusing a copy that has the original alone, and `ctrate-original` for the original one, whose
values are rescaled when they are read; its planes lie as they are stored, which need not be as in the fixed release.

Window: [-1000, 1000] HU, that of CT-CLIP; the paper names none. Three volumes of train, `train_1267_a_4`, `train_11755_a_3` and
`train_11755_a_4`, have no slice spacing in the table, and public code skips them. They are cases here; where they cannot be
read, --skip-unreadable says so.
"""

import ast
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source, Split

Release = Literal["fixed", "original"]

CLASSES = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion", "Coronary artery wall calcification",
    "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela",
    "Pleural effusion", "Mosaic attenuation pattern", "Peribronchial thickening", "Consolidation", "Bronchiectasis",
    "Interlobular septal thickening",
)  # fmt: skip
NAME = re.compile(r"((train|valid)_\d+)_[a-z]+_\d+\.nii\.gz")
PARTS: Mapping[str, Split] = {"train": "train", "valid": "test"}
TABLES = {part: f"multi_abnormality_labels/{part}_predicted_labels.csv" for part in PARTS}
NO_CHEST = {part: f"metadata/no_chest_{part}.txt" for part in PARTS}
METADATA = {"train": "metadata/train_metadata.csv", "valid": "metadata/validation_metadata.csv"}

logger = logging.getLogger(__name__)


def cases(root: Path) -> Iterator[Case]:
    """The fixed release. MissingError where only the original one lies, whose values would be taken for Hounsfield units."""
    base = _base(root)
    folders = {release: [base / _folder(part, release) for part in PARTS] for release in ("fixed", "original")}
    if not all(folder.is_dir() for folder in folders["fixed"]) and any(folder.is_dir() for folder in folders["original"]):
        raise MissingError(
            f"ctrate: expected the fixed release, {' and '.join(map(str, folders['fixed']))}, found the original one, whose stored values are no Hounsfield units "
            "(they want the slope and intercept of the metadata table, case by case); fetch train_fixed and valid_fixed, or ask for ctrate-original"
        )
    yield from cases_of(root, "fixed")


def cases_of(root: Path, release: Release) -> Iterator[Case]:
    """One case per volume with a chest, train then test in the order of the label tables; all files are looked up before the first is given."""
    base = _base(root)
    needed = [base / table for tables in (TABLES, NO_CHEST, *([METADATA] if release == "original" else [])) for table in tables.values()]
    _layout.refuse_absent(CTRATE, [*(base / _folder(part, release) for part in PARTS), *needed])
    found: list[Case] = []
    missing: list[str] = []
    left_out = dict.fromkeys(PARTS, 0)
    for part, split in PARTS.items():
        targets, headless = targets_of(base / TABLES[part], part), no_chest(base / NO_CHEST[part])
        fields = headers_of(base / METADATA[part]) if release == "original" else {}
        for name, target in targets.items():
            if name in headless:
                left_out[part] += 1
                continue
            path = base / _folder(part, release) / place_of(name)
            if release == "original" and name not in fields:
                raise MissingError(f"{base / METADATA[part]}: expected a line for each volume of {TABLES[part]}, found none for {name}; the file may be partial, fetch it again")
            if path.is_file():
                known = fields.get(name, {})
                slope, intercept = map(float, known["rescale"].split()) if known else (1.0, 0.0)
                source = Source(path, rescale=(slope, intercept) if known else None)
                found.append(Case(name.removesuffix(".nii.gz"), patient_of(name), {"image": (source,)}, target, split, fields=known))
            else:
                missing.append(str(path.relative_to(base)))
    _layout.refuse_missing("ctrate", missing, len(found) + len(missing), base)
    if any(left_out.values()):
        logger.warning("ctrate: left out volumes that show no chest, %s", left_out)
    yield from found


def _base(root: Path) -> Path:
    return root / "dataset" if (root / "dataset").is_dir() else root


def _folder(part: str, release: str) -> str:
    return f"{part}_fixed" if release == "fixed" else part


def patient_of(name: str) -> str:
    """`train_1` of `train_1_a_2.nii.gz`."""
    return "_".join(name.split("_")[:2])


def place_of(name: str) -> str:
    """`train_1/train_1_a/train_1_a_2.nii.gz`: folders of the patient and of the scan."""
    return f"{patient_of(name)}/{name.rpartition('_')[0]}/{name}"


def targets_of(table: Path, part: str) -> dict[str, tuple[float, ...]]:
    """VolumeName → 18 zeros and ones in the order of CLASSES, whatever the order of the columns."""
    found: dict[str, tuple[float, ...]] = {}
    for row in _layout.read_table(table, ("VolumeName", *CLASSES)):
        name = row["VolumeName"]
        match = NAME.fullmatch(name)
        if match is None or match[2] != part:
            raise RequestError(f"{table}: expected names such as {part}_1_a_1.nii.gz, found {name!r}; use the released file")
        if name in found:
            raise RequestError(f"{table}: expected every volume once, found {name} twice; use the released file")
        strange = next((label for label in CLASSES if row[label] not in ("0", "1")), None)
        if strange is not None:
            raise RequestError(f"{table}: expected 0 or 1 as {strange} of {name}, found {row[strange]!r}; use the released file")
        found[name] = tuple(float(row[label]) for label in CLASSES)
    return found


def no_chest(file: Path) -> set[str]:
    """VolumeNames of a list whose lines are names or paths."""
    lines = (line.strip().replace("\\", "/") for line in file.read_text(encoding="utf-8-sig").splitlines())
    return {name if name.endswith(".nii.gz") else f"{name}.nii.gz" for name in (line.rpartition("/")[2] for line in lines) if name}


def headers_of(table: Path) -> dict[str, dict[str, str]]:
    """VolumeName → fields `rescale` ("slope intercept") and, where the table has all three sizes, `spacing` ("z y x", mm)."""
    found: dict[str, dict[str, str]] = {}
    for row in _layout.read_table(table, ("VolumeName", "RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")):
        try:
            slope, intercept, depth = (float(row[column] or "nan") for column in ("RescaleSlope", "RescaleIntercept", "ZSpacing"))
            x, y = (float(size) for size in ast.literal_eval(row["XYSpacing"]))
        except (ValueError, SyntaxError, TypeError):
            raise RequestError(f"{table}: expected numbers and a list of two as XYSpacing, found {[row[name] for name in ('RescaleSlope', 'RescaleIntercept', 'ZSpacing', 'XYSpacing')]} for {row['VolumeName']}; use the released file") from None
        if not (math.isfinite(slope) and math.isfinite(intercept) and slope):
            raise RequestError(f"{table}: expected a slope and an intercept, found {row['RescaleSlope']!r} and {row['RescaleIntercept']!r} for {row['VolumeName']}; use the released file")
        fields = {"rescale": f"{slope:g} {intercept:g}"}
        found[row["VolumeName"]] = fields | ({"spacing": f"{depth:g} {y:g} {x:g}"} if math.isfinite(depth) and depth > 0 else {})
    return found


def twin(root: Path, rng: np.random.Generator) -> None:
    """Both releases of 8 patients to train and 4 to test: two reconstructions of each scan, the second on a finer grid, and
    a second scan of the first patient of each part.

    A finding brightens its own cell of a 4x6 grid. Every third patient's intercept is -8192, the others' -1024; a scan of
    the last patient of each part is a head, listed as no chest (by a path in train, bare in valid) and absent on disk.
    """
    from medprobe.imaging import nifti

    base = root / "dataset"
    lists: dict[str, list[str]] = {part: [] for part in PARTS}
    for part, patients in (("train", 8), ("valid", 4)):
        labels, headers = [",".join(("VolumeName", *CLASSES))], ["VolumeName,Manufacturer,PatientSex,PatientAge,Rows,Columns,XYSpacing,RescaleIntercept,RescaleSlope,NumberofSlices,ZSpacing"]
        scans = [(patient, letter) for patient in range(1, patients + 1) for letter in ("ab" if patient in (1, patients) else "a")]
        for number, (patient, letter) in enumerate(scans):
            present = [place for place in range(len(CLASSES)) if (place + 3 * number) % 5 == 0]
            intercept = -8192 if patient % 3 == 0 else -1024
            for reconstruction, (side, depth) in ((1, (12, 4)), (2, (24, 3))):
                name = f"{part}_{patient}_{letter}_{reconstruction}.nii.gz"
                labels.append(",".join((name, *(str(int(place in present)) for place in range(len(CLASSES))))))
                headers.append(f'{name},SIEMENS,F,045Y,{side},{side},"[{24 / side:g}, {24 / side:g}]",{intercept},1,{depth},{6 / depth:g}')
                if patient == patients and letter == "b":
                    lists[part].append(f"dataset/{part}/{place_of(name)}" if part == "train" else name)
                    continue
                units = np.full((depth, side, side), -1000.0)
                units[:, side // 12 : -side // 12, side // 12 : -side // 12] = rng.normal(-300, 40, (depth, side - 2 * (side // 12), side - 2 * (side // 12)))
                for place in present:
                    row, column = divmod(place, 6)
                    units[:, row * side // 4 : (row + 1) * side // 4, column * side // 6 : (column + 1) * side // 6] += 300
                values, affine = np.rint(units).astype(np.int16), np.diag([-24.0 / side, -24.0 / side, 6.0 / depth, 1.0])
                nifti.save(base / _folder(part, "fixed") / place_of(name), values, affine, None)
                nifti.save(base / _folder(part, "original") / place_of(name), values - np.int16(intercept), np.diag([1.0, 1.0, 1.0, 1.0]), None)
        for file, lines in ((TABLES[part], labels), (METADATA[part], headers), (NO_CHEST[part], lists[part])):
            (base / file).parent.mkdir(parents=True, exist_ok=True)
            (base / file).write_text("\n".join(lines) + "\n")


CTRATE = DATASETS.register("ctrate")(
    Dataset(
        name="ctrate",
        kind="classification",
        dims=3,
        modality="chest CT",
        classes=CLASSES,
        multilabel=True,
        licence="CC BY-NC-SA 4.0; gated: accept the terms with an account",
        source="https://huggingface.co/datasets/ibrahimhamamci/CT-RATE (gated; folders train_fixed, valid_fixed, multi_abnormality_labels and metadata of dataset)",
        citation="Hamamci et al., Developing generalist foundation models from a multimodal dataset for 3D computed tomography, arXiv:2403.17834 (2024)",
        cases=cases,
        twin=twin,
        counts={"train": 46397, "test": 3002},
        folders=("ctrate", "CT-RATE"),
        markers=("dataset/multi_abnormality_labels", "multi_abnormality_labels"),
        recipe="ct",
        grey=True,
        note="the fixed release, without the 752 and 37 volumes listed as no chest (47,149 and 3,039 with them); labels are predicted from the reports; validation is drawn from train by patient",
    )
)
ORIGINAL = DATASETS.register("ctrate-original")(
    replace(CTRATE, name="ctrate-original", cases=partial(cases_of, release="original"), note="the original release, rescaled by the metadata table; in all else as ctrate")
)
