"""RSNA Pneumonia Detection Challenge (stage 2): 26,684 chest X-rays, is there an opacity that suggests pneumonia?

On disk, as the archive of the Kaggle competition unpacks:

    stage_2_train_images/<patientId>.dcm               26,684 files: 8 bit, 1024x1024, JPEG inside DICOM
    stage_2_train_labels.csv                           patientId,x,y,width,height,Target
    stage_2_test_images/<patientId>.dcm                3,000 files without labels: never read

The label file has a line per box: 30,227 lines for 26,684 images, of which 6,012 have one to four boxes. An image is
positive when any of its lines says 1; boxes and `stage_2_detailed_class_info.csv` are not needed.

The split is that of MGCA, classification variant: ids in ascending order, 30 % held out by a seeded permutation, the
held-out part halved by the same rule. The half that scikit-learn returns first is test, the second validation.
`checksums` lets `check dataset` prove the split on the real list. MGCA's own program, as shipped, writes another variant,
for detection (16,010 / 5,337 / 5,337), which is not offered here.

`patientId` names an image, not a patient: patients of NIH ChestX-ray14, from which the images come, repeat across ids, so
the split is not patient-wise and overlaps `nih14`. Which patients, only a mapping that is released apart can tell.

Images are scaled by their own maximum (window `max`, MGCA's rule); MONOCHROME1 is inverted after that.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets import _layout
from medprobe.errors import ExtraError, RequestError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset, Source, Split

LABELS = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"


def held_out(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out) positions of n, as scikit-learn's train_test_split with random_state 0 returns them."""
    order = np.random.RandomState(0).permutation(n)
    size = math.ceil(share * n)
    return order[size:], order[:size]


def mgca_split(ids: list[str]) -> dict[Split, list[str]]:
    """train, val and test of the ids, which must ascend (HKU-MedAI/MGCA: mgca/preprocess/rsna.py)."""
    train, rest = held_out(len(ids), 0.30)
    first, second = held_out(len(rest), 0.50)
    parts: dict[Split, np.ndarray] = {"train": train, "val": rest[second], "test": rest[first]}
    return {split: [ids[place] for place in places] for split, places in parts.items()}


def targets_of(table: Path) -> dict[str, int]:
    """image id → 1 if any of its lines is a box, else 0; ids ascending."""
    found: dict[str, int] = {}
    for row in _layout.read_table(table, ("patientId", "Target")):
        if row["Target"] not in ("0", "1"):
            raise RequestError(f"{table}: expected a Target of 0 or 1, found {row['Target']!r} for {row['patientId']}; use the released file")
        found[row["patientId"]] = max(found.get(row["patientId"], 0), int(row["Target"]))
    return dict(sorted(found.items()))


def cases(root: Path) -> Iterator[Case]:
    """One case per labelled image, by id; all files are looked up before the first is given."""
    _layout.refuse_absent(RSNA, [root / LABELS, root / IMAGES])
    targets = targets_of(root / LABELS)
    images = _layout.images_under([root / IMAGES], (".dcm",))
    _layout.refuse_missing("rsna", [f"{name}.dcm" for name in targets if name not in images], len(targets), root / IMAGES)
    split_of = {name: split for split, names in mgca_split(list(targets)).items() for name in names}
    for name, target in targets.items():
        yield Case(name, name, {"image": (Source(images[name]),)}, target, split_of[name])


def twin(root: Path, rng: np.random.Generator) -> None:
    """40 images of 64x64 pixels, JPEG inside DICOM as released; both classes in every part of the split; 3 unlabelled ones.

    A pneumonia is a bright disc. One image is MONOCHROME1, one is not compressed, one id has two boxes and one four.
    """
    names = sorted(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in (rng.bytes(16).hex() for _ in range(40)))
    positive = {name for part in mgca_split(names).values() for name in sorted(part)[::3]}
    boxes = {name: 1 + (number == 0) + 3 * (number == 1) for number, name in enumerate(sorted(positive))}
    for folder in (IMAGES, "stage_2_test_images"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows = ["patientId,x,y,width,height,Target"]
    for number, name in enumerate(names):
        plane = rng.normal(80, 10, (64, 64))
        for _ in range(boxes.get(name, 0)):
            y, x = rng.integers(12, 52, 2)
            plane[np.hypot(*np.ogrid[-y : 64 - y, -x : 64 - x]) < 9] += 70
            rows.append(f"{name},{x - 9}.0,{y - 9}.0,18.0,18.0,1")
        if name not in positive:
            rows.append(f"{name},,,,,0")
        stored = np.clip(plane, 0, 255).astype(np.uint8)
        _write_dicom(root / IMAGES / f"{name}.dcm", 255 - stored if number == 1 else stored, inverted=number == 1, jpeg=number != 2)
    for _ in range(3):
        text = rng.bytes(16).hex()
        _write_dicom(root / "stage_2_test_images" / f"{text}.dcm", rng.integers(0, 255, (64, 64)).astype(np.uint8), inverted=False, jpeg=True)
    (root / LABELS).write_text("\n".join(rows) + "\n")


def _write_dicom(path: Path, plane: np.ndarray, *, inverted: bool, jpeg: bool) -> None:
    """One uint8 (H, W) plane as Computed Radiography."""
    try:
        import pydicom
        from pydicom import uid
    except ImportError:
        raise ExtraError("pydicom", "dicom", "writing the twin of rsna") from None
    import io

    from PIL import Image

    file: Any = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit if jpeg else uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = uid.ComputedRadiographyImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = uid.generate_uid(entropy_srcs=[path.stem])
    file.PatientID, file.Modality, file.ViewPosition, file.InstanceNumber = path.stem, "CR", "PA", 1
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 8, 8, 7, 0
    file.Rows, file.Columns = plane.shape
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    if jpeg:
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "jpeg", quality=95)
        file.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
        file["PixelData"].VR = "OB"
    else:
        file.PixelData = plane.tobytes()
    file.save_as(path, enforce_file_format=True)


RSNA = DATASETS.register("rsna")(
    Dataset(
        name="rsna",
        kind="classification",
        dims=2,
        modality="chest X-ray",
        classes=("no pneumonia", "pneumonia"),
        licence="competition use only, redistribution not granted; account and acceptance of the rules required",
        source="https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge",
        citation="Shih et al., Augmenting the National Institutes of Health chest radiograph dataset with expert annotations "
        "of possible pneumonia, Radiology: Artificial Intelligence 1(1) (2019); split of Wang et al., MGCA, NeurIPS 2022",
        cases=cases,
        twin=twin,
        counts={"train": 18678, "val": 4003, "test": 4003},
        checksums={"train": "fdea2323542c4f7d", "val": "6279287fa3e3d1e3", "test": "00eda73bce215e4b"},
        folders=("rsna", "RSNA_Pneumonia", "rsna-pneumonia-detection-challenge"),
        markers=(LABELS, IMAGES),
        recipe="max",
        grey=True,
        official_leak="patientId names an image: NIH patients repeat across ids, so the split is not patient-wise (how far, only the separate mapping to NIH tells)",
        note="the paper counts 29,700 images, which adds the 3,000 unlabelled test images; 26,684 are usable. The images are a subset of nih14's",
    )
)
