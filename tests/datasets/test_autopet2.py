"""AutoPET II: the twin through the three readers, every trap of its sheet, and perfect predictions scored."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medprobe.check.dataset import check_dataset
from medprobe.datasets import autopet2
from medprobe.datasets.autopet2 import AUTOPET2, COLLECTION, FILES
from medprobe.errors import MissingError
from medprobe.imaging import nifti
from medprobe.imaging.formats import read
from medprobe.imaging.labels import APART, corners_apart, read_labels, write_labels
from medprobe.imaging.recipes import planes
from medprobe.run import splits
from medprobe.run.score import score_predictions
from medprobe.types import Case

MODALITIES = tuple(FILES)


DATASET = AUTOPET2["ct"]


def cases(root: Path, modality: str = "ctpet") -> list[Case]:
    return list(AUTOPET2[modality].cases(root))


def with_lesions(root: Path) -> int:
    return sum(bool(read_labels(case.target, dims=3, classes=AUTOPET2["ct"].classes).labels.any()) for case in cases(root))


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_twin_is_sound(root: Path, modality: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
    found = {finding.name: finding for finding in check_dataset(AUTOPET2[modality], root)}
    assert [finding for finding in found.values() if not finding.ok] == []
    assert "cases 8: the synthetic twin, where the release has cases 1,014" in found["counts"].detail
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 150_000


@pytest.mark.parametrize("modality", MODALITIES)
def test_channels_are_in_order_and_the_target_is_one_mask(root: Path, modality: str) -> None:
    names = {"ct": ["CTres.nii.gz"], "pet": ["SUV.nii.gz"], "ctpet": ["CTres.nii.gz", "SUV.nii.gz"]}[modality]
    for case in cases(root, modality):
        assert [source.path.name for source in case.images["image"]] == names
        assert [source.path.name for source in case.target] == ["SEG.nii.gz"]
        assert case.split is case.fold is None


def test_a_dataset_asks_only_for_the_files_it_reads(root: Path) -> None:
    for name in ("CT.nii.gz", "PET.nii.gz", "SUV.nii.gz"):
        for file in root.rglob(name):
            file.unlink()
    assert len(cases(root, "ct")) == 8
    with pytest.raises(MissingError, match=r"autopet2-pet: 8 of 16 files are missing .*SUV\.nii\.gz"):
        cases(root, "pet")


def test_the_root_may_be_the_collection_itself(root: Path) -> None:
    assert [case.id for case in cases(root / COLLECTION)] == [case.id for case in cases(root)]


@pytest.mark.trap("datasets-3d 6 Traps: study folders have blanks, single and double")
def test_ids_have_no_blanks_and_paths_keep_theirs(root: Path) -> None:
    found = cases(root)
    assert all("  " in case.target[0].path.parent.name for case in found)
    assert all(case.target[0].path.is_file() for case in found)
    assert not any(set(" /") & set(case.id) for case in found)
    study = Path("PETCT_0011f3deaf") / "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"
    assert autopet2.id_of(study) == "PETCT_0011f3deaf_03-23-2003-NA-PET-CT-Ganzkoerper-primaer-mit-KM-10445"
    assert len({case.id for case in found}) == 8


@pytest.mark.trap("datasets-3d 6 Traps: several studies per patient, so the split is by patient")
def test_the_studies_of_a_patient_fall_into_one_fold(root: Path) -> None:
    found = cases(root)
    (twice,) = [patient for patient, count in Counter(case.patient for case in found).items() if count == 2]
    assert twice.startswith("PETCT_")
    assert len(twice) == len("PETCT_") + 10
    for seed in range(5):
        dealt = splits.with_folds(found, seed)
        assert {case.fold for case in dealt} == {0, 1, 2, 3, 4}
        assert len({case.fold for case in dealt if case.patient == twice}) == 1
        assert splits.shared_patients(dealt) == {}


@pytest.mark.trap("datasets-3d 6 Split: no official one; 80/20 by patient, seeded")
def test_folds_test_a_fifth_of_the_patients_of_a_release_and_follow_the_seed() -> None:
    release = [Case(f"{number:04d}-{study}", f"{number:04d}", {}, ()) for number in range(900) for study in range(1 + (number % 8 == 0))]
    folds = [{case.id: case.fold for case in splits.with_folds(release, seed)} for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]
    studies, patients = Counter(folds[0].values()), Counter(fold for name, fold in folds[0].items() if name.endswith("-0"))
    assert max(studies.values()) - min(studies.values()) <= 2
    assert all(abs(count - 180) <= 25 for count in patients.values())


@pytest.mark.trap("datasets-3d 6 Traps: a negative control has an all-zero mask")
def test_studies_without_a_lesion_are_cases_with_an_empty_mask(root: Path) -> None:
    assert len(cases(root)) == 8
    assert with_lesions(root) == 5


@pytest.mark.trap("datasets-3d 6 Tree: CT and PET alone do not match; SUV, CTres and SEG share shape and affine")
@pytest.mark.trap("datasets-3d 6 Traps: orientation of masks: image and mask must lie on each other")
def test_channels_and_mask_lie_on_one_grid_which_is_not_that_of_the_ct(root: Path) -> None:
    for case in cases(root):
        mask = read_labels(case.target, dims=3, classes=AUTOPET2["ct"].classes)
        for source in case.images["image"]:
            image = nifti.volume(source.path)
            assert image.array.shape == mask.shape
            assert corners_apart(mask.shape, image.affine, mask.affine) < APART
        assert nifti.volume(case.target[0].path.with_name("CT.nii.gz")).array.shape != mask.shape
        uptake = read(case.images["image"][1]).pixels[0]
        if mask.labels.any():  # the lesion is where it is hot, after both were turned
            assert uptake[mask.labels == 1].min() > 6 > uptake[mask.labels == 0].max()


@pytest.mark.trap("datasets-3d 6 Tree: PET is activity in Bq/ml, SUV the uptake")
def test_uptake_is_read_and_not_counts(root: Path) -> None:
    for case in cases(root, "pet"):
        (source,) = case.images["image"]
        counts = read(type(source)(source.path.with_name("PET.nii.gz"))).pixels
        assert counts.max() > 1000 > 20 > read(source).pixels.max()


def test_each_channel_has_the_window_of_its_unit(root: Path) -> None:
    assert [AUTOPET2[modality].recipe for modality in MODALITIES] == ["ct", "suv", "ct+suv"]
    case = cases(root)[1]
    ct, pet = (read(source).pixels[0] for source in case.images["image"])
    pixels = planes(case.images["image"], window="ct+suv", size=None, colour=1).pixels
    np.testing.assert_allclose(pixels[:, 0], np.clip((ct + 1000) / 2000, 0, 1), atol=1e-6)
    np.testing.assert_allclose(pixels[:, 1], np.clip(pet / 15, 0, 1), atol=1e-6)


@pytest.mark.trap("datasets-3d 6 Traps: number types differ between files")
def test_number_types_do_not_matter(root: Path) -> None:
    first = cases(root, "ct")[0]
    path = first.images["image"][0].path
    kept = planes(first.images["image"], window="ct", size=None).pixels
    assert nifti.volume(path).array.dtype == np.float32
    array, _, affine, _ = nifti.volume(path)
    nifti.save(path, array.astype(np.float64), affine, None)
    np.testing.assert_array_equal(planes(first.images["image"], window="ct", size=None).pixels, kept)
    mask = nifti.volume(first.target[0].path)
    nifti.save(first.target[0].path, mask.array.astype(np.float32), mask.affine, None)
    assert read_labels(first.target, dims=3, classes=AUTOPET2["ct"].classes).labels.dtype == np.uint8


def test_leavings_of_a_mac_are_no_patients(root: Path) -> None:
    (root / COLLECTION / "__MACOSX" / "study").mkdir(parents=True)
    next((root / COLLECTION).glob("PETCT_*")).joinpath(".DS_Store").write_bytes(b"")
    assert len(cases(root)) == 8


def test_a_partial_download_is_named(root: Path) -> None:
    (cases(root)[3].target[0].path).unlink()
    with pytest.raises(MissingError, match=r"autopet2-ctpet: 1 of 24 files are missing .*/SEG\.nii\.gz; the download may be partial"):
        next(iter(AUTOPET2["ctpet"].cases(root)))


def test_an_unconverted_collection_is_told_from_a_partial_download(root: Path) -> None:
    for file in root.rglob("*.nii.gz"):
        file.rename(file.with_name("1-001.dcm"))
    with pytest.raises(MissingError, match=r"expected CTres\.nii\.gz, SUV\.nii\.gz, SEG\.nii\.gz in each of 8 studies .*DICOM: convert it"):
        cases(root)
    shutil.rmtree(root / COLLECTION)
    with pytest.raises(MissingError, match=r"expected folders such as .*PETCT_0011f3deaf/<study>, found none; get the data from"):
        cases(root)


def test_perfect_predictions_have_dice_1_and_empty_studies_are_undefined(root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("score")
    monkeypatch.setenv("MEDPROBE_CACHE", str(folder / "cache"))
    lesions = {}
    for case in cases(root, "pet"):
        mask = read_labels(case.target, dims=3, classes=AUTOPET2["pet"].classes)
        lesions[case.id] = bool(mask.labels.any())
        write_labels(folder / "predictions" / f"{case.id}.nii.gz", mask)
    documents = score_predictions("autopet2-pet/predictions", folder / "predictions", folder / "out", "perfect", root, lambda done, total, what: None)
    assert [document["fold"] for document in documents] == [0, 1, 2, 3, 4]
    scores = [document["scores"]["dice"] for document in documents]
    assert sum(score["n_cases"] for score in scores) == 8
    assert sum(score["n_undefined"] for score in scores) == 8 - sum(lesions.values()) == 3
    assert {score["value"] for score in scores if score["value"] is not None} == {1.0}
    assert {document["scores"]["hd95"]["value"] for document in documents} <= {0.0, None}
    assert {document["scores"]["hd95"]["unit"] for document in documents} == {"mm"}
