"""Files of one case that say where they lie beside files that do not: refused where they would be
laid upside down on one another."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import CaseError
from medprobe.imaging.labels import read_labels
from medprobe.run import reading
from medprobe.run.plan import make
from medprobe.run.references import check_laid, check_on_image
from medprobe.run.request import Request
from medprobe.types import Case, Source, Task

pydicom = pytest.importorskip("pydicom")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PLANE = np.zeros((6, 5), np.uint8)
PLANE[:2, :3] = 1


def written(folder: Path) -> None:
    """One plane as NIfTI stored in two orders, DICOM with a place, PNG and an array."""
    volume = nibabel.Nifti1Image(PLANE.T[..., None], LPS)
    nibabel.save(volume, folder / "turned.nii.gz")
    nibabel.save(nibabel.as_closest_canonical(volume), folder / "straight.nii.gz")
    Image.fromarray(PLANE).save(folder / "a.png")
    np.save(folder / "a.npy", PLANE)
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Modality, file.SeriesInstanceUID = "CT", "1.2"
    file.Rows, file.Columns = PLANE.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.ImagePositionPatient, file.PixelSpacing = [0, 0, 0], [1, 1]
    file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    file.PixelData = PLANE.tobytes()
    (folder / "series").mkdir()
    for path in (folder / "a.dcm", folder / "series" / "a.dcm"):
        file.save_as(path, enforce_file_format=True)


def case_of(folder: Path, *names: str, mask: str | None = None, roles: bool = False) -> Case:
    sources = [Source(folder / name, plane=True) for name in names]
    images = (
        dict(zip(("fixed", "moving"), ((one,) for one in sources), strict=True)) if roles else {"image": tuple(sources)}
    )
    return Case("c", "p", images, (Source(folder / mask, plane=True),) if mask else None)


@pytest.mark.parametrize("other", ["a.png", "a.npy", "a.dcm"])
@pytest.mark.parametrize("roles", [False, True])
def test_channels_and_pairs_of_which_one_is_turned_are_refused(tmp_path: Path, other: str, roles: bool) -> None:
    written(tmp_path)
    for names in (("turned.nii.gz", other), (other, "turned.nii.gz")):
        with pytest.raises(CaseError, match=f"turned.nii.gz.*{other}"):
            check_laid(case_of(tmp_path, *names, roles=roles))
    check_laid(case_of(tmp_path, "a.png", other, roles=roles))
    check_laid(case_of(tmp_path, "turned.nii.gz", "straight.nii.gz", roles=roles))


@pytest.mark.parametrize("mask", ["turned.nii.gz", "straight.nii.gz"])
def test_a_single_dicom_file_and_a_placed_mask_are_refused_and_a_folder_of_it_is_the_way_out(
    tmp_path: Path, mask: str
) -> None:
    written(tmp_path)
    dataset = _dataset(tmp_path, "a.dcm", mask)
    lone = case_of(tmp_path, "a.dcm", mask=mask)
    with pytest.raises(CaseError, match=f"{mask} beside the single DICOM file a.dcm.*folder"):
        check_on_image(dataset, lone, lone.target)
    laid = case_of(tmp_path, "series", mask=mask)
    check_on_image(dataset, laid, laid.target)
    (image,) = reading.images(Task("own", "constant", window="max"), laid)["image"]
    assert image.orientation == "radiological"
    labels = read_labels(laid.target, dims=2, classes=("none", "some"))
    np.testing.assert_array_equal(labels.labels[::-1, ::-1], PLANE)  # canonical: half a turn


@pytest.mark.parametrize("mask", ["a.png", "a.npy"])
def test_masks_that_lie_nowhere_are_laid_on_the_pixels_of_a_dicom_file(tmp_path: Path, mask: str) -> None:
    written(tmp_path)
    case = case_of(tmp_path, "a.dcm", mask=mask)
    check_on_image(_dataset(tmp_path, "a.dcm", mask), case, case.target)


def test_a_plan_counts_such_cases_of_a_classification_too(tmp_path: Path) -> None:
    written(tmp_path)
    _dataset(tmp_path, "turned.nii.gz;a.png", None)
    task, cache = str(tmp_path / "own.toml/knn"), tmp_path / "cache"
    request = Request("mean-rgb", task, tmp_path / "out", image_size=16, cache=cache)
    with pytest.raises(CaseError, match="the images of 4 of 4 cases do not lie on one another"):
        make(request, lambda done, total, what: None)


def _dataset(folder: Path, image: str, mask: str | None):
    kind = "segmentation" if mask else "classification"
    rows = [
        f"c{number},p{number},{'test' if number > 1 else 'train'},{image},{mask or 'ab'[number % 2]}"
        for number in range(4)
    ]
    (folder / "cases.csv").write_text("id,patient,split,image,target\n" + "\n".join(rows) + "\n")
    path = folder / "own.toml"
    path.write_text(f'name = "own"\nkind = "{kind}"\ndims = 2\nclasses = ["a", "b"]\n')
    return load_manifest(path)
