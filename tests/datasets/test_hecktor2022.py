"""HECKTOR 2022: the twin through the three readers, every trap of its sheet, the real ids, and perfect predictions scored."""

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.check.dataset import check_dataset
from medprobe.datasets._layout import checksum
from medprobe.datasets.hecktor2022 import HECKTOR2022, SUFFIXES, TRAINING, by_patient, folds_of
from medprobe.errors import MissingError
from medprobe.imaging import nifti, recipes
from medprobe.imaging.formats import read
from medprobe.imaging.labels import APART, corners_apart, read_labels, write_labels
from medprobe.run.references import check_on_image
from medprobe.run.score import score_predictions
from medprobe.run.splits import shared_patients
from medprobe.types import Case

MODALITIES = tuple(SUFFIXES)


DATASET = HECKTOR2022["ct"]


def cases(root: Path, modality: str = "ctpet") -> list[Case]:
    return list(HECKTOR2022[modality].cases(root))


def mask_of(case: Case) -> np.ndarray:
    return read_labels(case.target, dims=3, classes=HECKTOR2022["ct"].classes).labels


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_twin_is_sound(root: Path, modality: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
    found = {finding.name: finding for finding in check_dataset(HECKTOR2022[modality], root)}
    assert [finding for finding in found.values() if not finding.ok] == []
    assert "the synthetic twin, where the release has fold0 105, fold1 105" in found["counts"].detail
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 100_000


@pytest.mark.parametrize("modality", MODALITIES)
def test_channels_are_in_order_and_the_target_is_one_mask(root: Path, modality: str) -> None:
    for case in cases(root, modality):
        assert [source.path.name for source in case.images["image"]] == [case.id + suffix for suffix in SUFFIXES[modality]]
        assert len(case.target) == 1
        assert case.target[0].path.parent.name == "labelsTr"
        assert case.id == case.patient


def test_the_twin_has_every_class_in_every_fold_but_not_in_every_patient(root: Path) -> None:
    found = cases(root)
    assert Counter(case.fold for case in found) == dict.fromkeys(range(5), 2)
    present = {case.id: set(np.unique(mask_of(case)).tolist()) for case in found}
    assert {name for name, values in present.items() if 1 not in values} == {"CHUM-002", "MDA-003"}
    assert {name for name, values in present.items() if 2 not in values} == {"CHUM-007"}


@pytest.mark.trap("datasets-3d 7 Tree: masks are printed with a hyphen and with an underscore")
def test_masks_are_found_with_either_separator(root: Path) -> None:
    found = {case.id: case.target[0].path.name for case in cases(root)}
    assert found["MDA-005"] == "MDA_005.nii.gz"
    assert found["MDA-004"] == "MDA-004.nii.gz"
    for file in (root / TRAINING / "imagesTr").glob("CHUM-*"):
        file.rename(file.with_name(file.name.replace("-", "_")))
    assert {case.id for case in cases(root)} == set(found)


@pytest.mark.trap("datasets-3d 7 Traps: the pattern of the CT must not catch the PET")
def test_each_file_is_found_by_its_whole_ending(root: Path) -> None:
    folder = root / TRAINING / "imagesTr"
    (folder / "._MDA-001__PT.nii.gz").write_bytes(b"")
    found = [by_patient(folder, suffix) for suffix in SUFFIXES["ctpet"]]
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 10
    assert not set(found[0].values()) & set(found[1].values())
    assert all(path.name.endswith("__CT.nii.gz") for path in found[0].values())


@pytest.mark.trap("datasets-3d 7 Traps: PET and CT lie on different grids")
@pytest.mark.trap("datasets-3d 7 Traps: the mask lies on the grid of the CT, not of the PET")
def test_the_mask_lies_on_the_ct_and_both_grids_show_one_place(root: Path) -> None:
    for case in cases(root):
        ct, pet = (nifti.volume(source.path) for source in case.images["image"])
        mask = read_labels(case.target, dims=3, classes=HECKTOR2022["ct"].classes)
        assert mask.shape == ct.array.shape != pet.array.shape
        assert corners_apart(mask.shape, ct.affine, mask.affine) < APART
        assert ct.spacing != pet.spacing
        hot = np.argwhere((pet.array > 5) & (pet.array < 10))[:, ::-1]  # places of raised uptake, in mm, lie in the mask
        at = np.c_[hot, np.ones(len(hot))] @ pet.affine.T @ np.linalg.inv(ct.affine).T
        x, y, z = np.rint(at[:, :3]).astype(int).T
        assert len(hot)
        assert (mask.labels[z, y, x] > 0).all()


@pytest.mark.trap("datasets-3d 7 Traps: PT and CT differ in size, so PET is put on the grid of the CT")
@pytest.mark.parametrize("modality", MODALITIES)
def test_channels_and_mask_lie_on_one_grid_once_they_are_read(root: Path, modality: str) -> None:
    for case in cases(root, modality):
        mask = read_labels(case.target, dims=3, classes=DATASET.classes)
        image = recipes.image(case.images["image"], HECKTOR2022[modality].recipe)
        assert image.pixels.shape == (len(SUFFIXES[modality]), *mask.shape)
        assert image.affine is not None
        assert corners_apart(mask.shape, image.affine, mask.affine) < APART
        check_on_image(HECKTOR2022[modality], case, case.target)
        if modality != "ct":  # what is hot lies in the mask: uptake 6 of 15 there, 1 around it
            uptake = image.pixels[-1].copy()
            uptake[0, :2, :2] = 0  # the one voxel of a scanner's maximum
            assert uptake[mask.labels == 0].mean() < 0.15 < uptake[mask.labels > 0].mean()


@pytest.mark.trap("datasets-3d 7 Traps: maxima of uptake differ between vendors")
def test_each_channel_has_the_window_of_its_unit(root: Path) -> None:
    assert [HECKTOR2022[modality].recipe for modality in MODALITIES] == ["ct", "suv", "ct+suv"]
    case = cases(root)[0]
    ct, pet = (read(source).pixels[0] for source in case.images["image"])
    pixels = recipes.planes(case.images["image"], window="ct+suv", size=None, colour=1).pixels
    np.testing.assert_allclose(pixels[:, 0], np.clip((ct + 1000.0) / 2000, 0, 1), atol=1e-6)
    np.testing.assert_allclose(pixels[:, 1], np.clip(pet / 15, 0, 1), atol=1e-6)


@pytest.mark.trap("datasets-3d 7 Traps: maxima of uptake differ between vendors")
def test_uptake_is_read_in_its_own_unit_whatever_the_maximum(root: Path) -> None:
    maxima, medians = {}, {}
    for case in cases(root, "pet"):
        pixels = read(replace(case.images["image"][0], grid=None)).pixels
        maxima[case.id], medians[case.id] = float(pixels.max()), float(np.median(pixels))
    assert {round(value) for name, value in maxima.items() if name.startswith("MDA")} == {200}
    assert {round(value) for name, value in maxima.items() if name.startswith("CHUM")} == {20}
    assert all(0.9 < value < 1.1 for value in medians.values())


@pytest.mark.trap("datasets-3d 7 Traps: the PatientID of the tables has the hyphen")
def test_ids_are_those_of_the_clinical_table(root: Path) -> None:
    with (root / TRAINING / "hecktor2022_clinical_info_training.csv").open(newline="") as file:
        assert {row["PatientID"] for row in csv.DictReader(file)} == {case.id for case in cases(root)}


@pytest.mark.trap("datasets-3d 7 Split: sorting groups by centre, so folds are drawn within centres")
def test_every_fold_tests_a_fifth_of_each_centre(root: Path) -> None:
    found = cases(root)
    assert Counter((case.id[:3], case.fold) for case in found) == {(centre, fold): 1 for centre in ("CHU", "MDA") for fold in range(5)}
    assert shared_patients(found) == {}
    many = [f"{centre}-{number:03d}" for centre, count in (("A", 56), ("B", 198), ("C", 18)) for number in range(1, count + 1)]
    folds = folds_of(many)
    assert folds == folds_of(many[::-1])
    for centre, count in (("A", 56), ("B", 198), ("C", 18)):
        sizes = Counter(fold for name, fold in folds.items() if name.startswith(centre))
        assert all(size in (count // 5, count // 5 + 1) for size in sizes.values())
    assert [folds[name] for name in many[:5]] != [0, 1, 2, 3, 4]


def test_the_released_ids_give_the_counts_and_folds_the_dataset_promises(samples: Path) -> None:
    table = samples.parent / "splits" / "hecktor2022" / "training_cases_folds.csv"
    if not table.is_file():
        pytest.skip(f"no list at {table}")
    with table.open(newline="") as file:
        ids = [row["case_id"] for row in csv.DictReader(file)]
    folds = folds_of(ids)
    assert Counter(f"fold{fold}" for fold in folds.values()) == HECKTOR2022["ct"].counts
    assert {f"fold{fold}": checksum(name for name in ids if folds[name] == fold) for fold in range(5)} == HECKTOR2022["ct"].checksums


def test_a_dataset_asks_only_for_the_files_it_reads(root: Path) -> None:
    for file in root.rglob("*__PT.nii.gz"):
        file.unlink()
    assert len(cases(root, "ct")) == 10
    with pytest.raises(MissingError, match=r"hecktor2022-pet: 10 of 30 files are missing .*imagesTr/CHUM-001__PT\.nii\.gz"):
        cases(root, "pet")


def test_a_partial_download_is_named(root: Path) -> None:
    (root / TRAINING / "imagesTr" / "MDA-004__CT.nii.gz").unlink()
    (root / TRAINING / "labelsTr" / "MDA_005.nii.gz").unlink()
    with pytest.raises(MissingError, match=r"hecktor2022-ct: 2 of 20 files are missing .*imagesTr/MDA-004__CT\.nii\.gz, labelsTr/MDA-005\.nii\.gz"):
        next(iter(HECKTOR2022["ct"].cases(root)))


@pytest.mark.trap("datasets-3d 7 Tree: the edition of 2025 has one folder per patient")
def test_another_edition_is_refused_with_the_layout_expected(root: Path) -> None:
    assert [case.id for case in cases(root / TRAINING)] == [case.id for case in cases(root)]
    shutil.rmtree(root / TRAINING)
    (root / "CHUM-001").mkdir()
    (root / "CHUM-001" / "CHUM-001__CT.nii.gz").write_bytes(b"")
    with pytest.raises(MissingError, match=r"expected .*imagesTr and .*labelsTr, found no such thing; get the data from https://hecktor"):
        cases(root)


def test_perfect_predictions_have_dice_1_and_absent_classes_are_undefined(root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("score")
    monkeypatch.setenv("MEDPROBE_CACHE", str(folder / "cache"))
    for case in cases(root):
        write_labels(folder / "predictions" / f"{case.id}.nii.gz", read_labels(case.target, dims=3, classes=HECKTOR2022["ct"].classes))
    documents = score_predictions("hecktor2022-ctpet/predictions", folder / "predictions", folder / "out", "perfect", root, lambda done, total, what: None)
    assert [document["fold"] for document in documents] == [0, 1, 2, 3, 4]
    scores = [document["scores"]["dice"] for document in documents]
    assert {score["value"] for score in scores} == {1.0}
    assert all(score["per_class"].keys() == {"GTVp", "GTVn"} for score in scores)
    assert sum(score["n_undefined"] for score in scores) == 3
    assert {document["scores"]["dice.aggregated"]["value"] for document in documents} == {1.0}
    assert {document["scores"]["hd95"]["unit"] for document in documents} == {"mm"}
