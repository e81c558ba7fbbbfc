"""Kvasir-Capsule: the twin through the reader, and every trap of its sheet."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medprobe.datasets.kvasir_capsule import KVASIR_CAPSULE, NAMES, plain
from medprobe.errors import MissingError, RequestError
from medprobe.types import Case


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert KVASIR_CAPSULE.twin is not None
    KVASIR_CAPSULE.twin(tmp_path, np.random.default_rng(0))
    return tmp_path


def cases(root: Path) -> list[Case]:
    return list(KVASIR_CAPSULE.cases(root))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_twin_has_every_class_in_every_video_of_both_folds(root: Path) -> None:
    found = cases(root)
    assert Counter(case.fold for case in found) == {0: 88, 1: 90}
    seen = {(case.fold, case.patient, case.target) for case in found}
    assert len(seen) == 2 * 4 * 11
    assert all(case.split is None for case in found)
    assert all(case.images["image"][0].path.is_file() for case in found)


def test_classes_are_the_eleven_of_the_paper_in_its_order() -> None:
    assert KVASIR_CAPSULE.classes == (
        "Angiectasia",
        "Fresh blood",
        "Erosion",
        "Erythema",
        "Foreign body",
        "Ileocecal valve",
        "Lymphangiectasia",
        "Normal clean mucosa",
        "Pylorus",
        "Reduced mucosal view",
        "Ulcer",
    )
    assert sum(KVASIR_CAPSULE.counts.values()) == 47_161


@pytest.mark.trap("datasets-2d 6: class names differ between paper, folder and split file")
def test_a_class_is_found_under_its_three_spellings(root: Path) -> None:
    for case in cases(root):
        paper, folder, _ = NAMES[case.target]
        assert KVASIR_CAPSULE.classes[case.target] == paper
        assert case.id.split("/")[0] == folder
    assert (root / "labelled_images" / "foreign_body").is_dir()
    shutil.move(root / "labelled_images" / "Blood - fresh", root / "labelled_images" / "BLOOD_FRESH")
    assert len(cases(root)) == 178
    assert plain("Ileo-cecal valve") == plain("ileocecal_Valve") == "ileocecalvalve"


@pytest.mark.trap("datasets-2d 6: 8 file names occur twice in split_1, once as Erosion and once as Pylorus")
def test_one_name_in_two_classes_gives_two_cases_with_their_own_pixels(root: Path) -> None:
    found = cases(root)
    names = Counter(case.id.split("/")[1] for case in found)
    (double,) = [name for name, count in names.items() if count == 2]
    first, second = [case for case in found if case.id.endswith(double)]
    assert {first.id, second.id} == {f"Erosion/{double}", f"Pylorus/{double}"}
    assert first.images["image"][0].path.read_bytes() != second.images["image"][0].path.read_bytes()
    assert len({case.id for case in found}) == len(found)


@pytest.mark.trap("datasets-2d 6: the official folds share 7 of 43 videos but no frame")
def test_a_video_in_both_folds_is_kept_and_the_leak_is_declared(root: Path) -> None:
    found = cases(root)
    folds = [{case.patient for case in found if case.fold == fold} for fold in (0, 1)]
    assert len(folds[0] & folds[1]) == 1
    assert not {case.id for case in found if case.fold == 0} & {case.id for case in found if case.fold == 1}
    assert KVASIR_CAPSULE.official_leak is not None
    assert KVASIR_CAPSULE.official_leak.startswith("7 of the 43 videos")
    assert "bca26705313a4644" in KVASIR_CAPSULE.official_leak


@pytest.mark.trap("datasets-2d 6: Polyp has 55 images, more than the paper's rule asks, and is left out all the same")
def test_dropped_classes_are_counted_in_the_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = cases(root)
    assert not any(case.id.startswith(("Polyp", "Blood - hematin", "Ampulla")) for case in found)
    assert "{'Polyp': 1, 'Blood - hematin': 1, 'Ampulla of Vater': 1}" in caplog.text


def test_an_image_that_no_split_lists_is_counted_in_the_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = next((root / "labelled_images" / "Ulcer").glob("[0-9a-f]*.jpg"))
    shutil.copy(image, image.with_name("0123456789abcdef_1.jpg"))
    with caplog.at_level(logging.WARNING):
        cases(root)
    assert "and 1 that no official split lists" in caplog.text


@pytest.mark.trap("datasets-2d 6: the README says PNG, the split files say .jpg: images match by stem")
def test_png_images_are_found_for_jpg_names(root: Path) -> None:
    suffixes = {case.images["image"][0].path.suffix for case in cases(root) if case.target == 8}
    assert suffixes == {".png"}


@pytest.mark.trap("datasets-2d 6: the patient is the video id, 16 hex digits before the underscore")
def test_the_patient_is_the_video(root: Path) -> None:
    assert all(case.id.split("/")[1].startswith(case.patient + "_") and len(case.patient) == 16 for case in cases(root))


@pytest.mark.trap("datasets-2d 6: the image archives do not contain the official splits")
def test_absent_splits_are_named_with_where_to_get_them(root: Path) -> None:
    for fold in (0, 1):
        shutil.move(root / "official_splits" / f"split_{fold}.csv", root / f"split_{fold}.csv")
    assert len(cases(root)) == 178
    (root / "split_1.csv").unlink()
    with pytest.raises(MissingError, match=r"official_splits/split_1\.csv.*github\.com/simula/kvasir-capsule"):
        cases(root)


def test_class_folders_may_lie_in_the_folder_of_their_archive(root: Path) -> None:
    found = {case.id for case in cases(root)}
    (root / "labelled_images" / "ulcer").mkdir()
    shutil.move(root / "labelled_images" / "Ulcer", root / "labelled_images" / "ulcer" / "Ulcer")
    shutil.copytree(root / "labelled_images" / "Erosion", root / "labelled_images" / "__MACOSX" / "Erosion")
    after = cases(root)
    assert {case.id for case in after} == found
    assert not any("__MACOSX" in str(case.images["image"][0].path) for case in after)


def test_partial_download_is_named(root: Path) -> None:
    shutil.rmtree(root / "labelled_images" / "Lymphangiectasia")
    with pytest.raises(MissingError, match=r"kvasir-capsule.*16.*178.*Lymphangiectasia/"):
        cases(root)


def test_a_label_outside_the_vocabulary_is_refused(root: Path) -> None:
    edit(root / "official_splits" / "split_0.csv", ",Erosion", ",Corrosion")
    with pytest.raises(
        RequestError, match=r"split_0\.csv: expected one of the labels Angiectasia, .* found 'Corrosion'"
    ):
        cases(root)


def test_a_split_file_of_another_form_is_refused(root: Path) -> None:
    path = root / "official_splits" / "split_1.csv"
    edit(path, "filename,label", "image;class")
    with pytest.raises(RequestError, match="expected the columns filename, label, found 'image;class'"):
        cases(root)
    path.write_text("")
    with pytest.raises(RequestError, match="found 'an empty file'"):
        cases(root)


def test_a_name_without_a_video_is_refused(root: Path) -> None:
    path = root / "official_splits" / "split_0.csv"
    path.write_text(path.read_text() + "polyp.jpg,Ulcer\n")
    with pytest.raises(RequestError, match=r"expected names of the form <video>_<frame>\.jpg, found 'polyp\.jpg'"):
        cases(root)
