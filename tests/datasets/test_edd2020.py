"""EDD2020: the twin through reader, check and score, and every trap of its sheet."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medprobe.check.dataset import check_dataset
from medprobe.datasets import edd2020
from medprobe.datasets._layout import checksum, locate
from medprobe.datasets.edd2020 import ARCHIVES, CLASSES, EDD2020, MARKED, NAME, TEST, VAL, split_of
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.imaging.labels import ABSENT, read_labels
from medprobe.run.score import score_predictions
from medprobe.types import Case, Source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "edd2020"
    folder.mkdir(parents=True)
    assert EDD2020.twin is not None
    EDD2020.twin(folder, np.random.default_rng(0))
    return folder


def cases(root: Path) -> list[Case]:
    return list(EDD2020.cases(root))


def case_of(root: Path, name: str) -> Case:
    (found,) = [case for case in cases(root) if case.id == f"EDD2020_{name}"]
    return found


def maps(case: Case) -> np.ndarray:
    return read_labels(case.target, dims=2, classes=CLASSES, multilabel=True).labels


def present(case: Case) -> list[str]:
    return [name for name, part in zip(CLASSES, maps(case), strict=True) if part.any()]


def scored(root: Path, predictions: Path, name: str = "theirs") -> Any:
    (document,) = score_predictions("edd2020/predictions", predictions, predictions.parent / f"out-{name}", name, root.parent, lambda *_: None)
    return document["scores"]


def test_the_twin_passes_its_check_with_every_class_in_every_part(root: Path) -> None:
    assert sum(file.stat().st_size for file in root.rglob("*")) < 200_000
    assert [finding for finding in check_dataset(EDD2020, root) if not finding.ok] == []
    for split in ("train", "val", "test"):
        assert {name for case in cases(root) if case.split == split for name in present(case)} == set(CLASSES)


def test_its_own_masks_score_as_perfect(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    tests = [case for case in cases(root) if case.split == "test"]
    for case in tests:
        for name, part in zip(CLASSES, maps(case), strict=True):
            Image.fromarray(part * 255).save(tmp_path / "pred" / f"{case.id}.{name}.png")
    scores = scored(root, tmp_path / "pred")
    assert (scores["dice"]["value"], scores["dice"]["n_cases"]) == (1, len(tests))
    assert list(scores["dice"]["per_class"]) == list(CLASSES)
    assert set(scores["dice"]["per_class"].values()) == {1}
    assert (scores["hd95"]["value"], scores["hd95"]["unit"]) == (0, "px")


@pytest.mark.trap("datasets-2d 9 Images: composite masks of the evaluation code are five pages in the order of the class list")
def test_five_pages_in_class_order_are_a_prediction_but_no_mask_of_the_release(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    for case in cases(root):
        if case.split == "test":
            tifffile.imwrite(tmp_path / "pred" / f"{case.id}.tif", maps(case) * np.uint8(255), photometric="minisblack")
    assert scored(root, tmp_path / "pred")["dice"]["value"] == 1
    shutil.copy(tmp_path / "pred" / "EDD2020_AJ0050.tif", root / "masks" / "EDD2020_AJ0050_mask.tif")
    with pytest.raises(RequestError, match=r"EDD2020_AJ0050_mask\.tif: expected one mask per class.*composite"):
        cases(root)


@pytest.mark.trap("datasets-2d 9 Task type: masks overlap, BE commonly contains cancer, HGD or suspicious areas")
def test_masks_overlap(root: Path) -> None:
    assert EDD2020.multilabel
    first, *_, fourth, _ = maps(case_of(root, "AJ0011"))
    assert (first.astype(bool) & fourth.astype(bool)).any()
    assert present(case_of(root, "AJ0053")) == ["BE", "suspicious", "cancer"]


@pytest.mark.trap("datasets-2d 9 Layout: one mask file per class present")
def test_a_class_without_a_file_is_an_empty_mask_of_the_size_of_its_image(root: Path) -> None:
    case = case_of(root, "AJ0050")
    assert [source.member for source in case.target] == [ABSENT, ABSENT, MARKED, ABSENT, ABSENT]
    found = maps(case)
    with Image.open(case.images["image"][0].path) as file:
        assert found.shape == (5, file.height, file.width)
    assert found[2].any()
    assert not found[[0, 1, 3, 4]].any()


def test_a_mask_of_another_size_than_its_image_is_refused(root: Path) -> None:
    case = case_of(root, "AJ0050")
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(case.target[2].path)
    with pytest.raises(CaseError, match=r"AJ0050_HGD.*expected the grid of EDD2020_AJ0050\.jpg"):
        maps(case)


@pytest.mark.trap("datasets-2d 9 Images: masks are 8-bit TIFF of 0 and 255, threshold at > 0")
def test_whatever_is_not_0_is_the_class(root: Path) -> None:
    case = case_of(root, "B0051")
    stored = np.array(Image.open(case.target[0].path))
    assert set(np.unique(stored)) == {0, 255}
    before = maps(case)
    assert np.array_equal(before[0], stored > 0)
    rows, columns = np.nonzero(stored)
    stored[rows[:9], columns[:9]] = (1, 2, 100, 127, 128, 200, 253, 254, 255)
    for changed in (stored, (stored > 0).astype(np.uint8), stored > 0):
        Image.fromarray(changed).save(case.target[0].path)
        assert np.array_equal(maps(case), before)


@pytest.mark.trap("datasets-2d 9 Images: the description names masks `<file>_<class>_mask.tif`, the release has no `_mask`")
def test_both_ways_to_name_a_mask_are_understood(root: Path) -> None:
    assert len(list((root / "masks").glob("EDD2020*_mask.tif"))) > 2
    before = [present(case) for case in cases(root)]
    for file in (root / "masks").glob("EDD2020*_mask.tif"):
        file.rename(file.with_name(file.name.replace("_mask", "")))
    assert [present(case) for case in cases(root)] == before
    shutil.copy(root / "masks" / "EDD2020_B0051_BE.tif", root / "masks" / "EDD2020_B0051_BE_mask.tif")
    with pytest.raises(RequestError, match=r"expected one mask of BE for EDD2020_B0051"):
        cases(root)


@pytest.mark.trap("datasets-2d 9 Traps: stems must match exactly, B0051 and ACB0051 differ")
def test_names_that_end_alike_are_different_images(root: Path) -> None:
    assert present(case_of(root, "B0051")) == ["BE"]
    assert present(case_of(root, "ACB0051")) == ["BE", "cancer"]
    (root / "masks" / "EDD2020_B0051_BE.tif").unlink()
    with pytest.raises(MissingError, match=r"1 of 16 .*masks/EDD2020_B0051_<class>\.tif"):
        cases(root)


@pytest.mark.trap("datasets-2d 9 Layout: two archives with different top folders")
@pytest.mark.parametrize("archive", ARCHIVES)
def test_either_archive_may_lie_in_the_folder_or_be_it(root: Path, archive: str) -> None:
    before = [case.id for case in cases(root)]
    moved = root.parent / archive
    root.rename(moved)
    assert locate(EDD2020, root.parent) == locate(EDD2020, moved) == moved
    assert [case.id for case in cases(moved)] == before
    (root.parent / "edd2020").mkdir()
    shutil.copytree(moved, root.parent / "edd2020" / "__MACOSX")
    shutil.move(moved, root.parent / "edd2020" / archive)
    found = cases(root.parent / "edd2020")
    assert [case.id for case in found] == before
    assert not any("__MACOSX" in str(case.images["image"][0].path) for case in found)


@pytest.mark.trap("datasets-2d rules 2: `._*`, `.DS_Store` and `__MACOSX` are no images")
def test_leavings_of_a_mac_are_no_images_and_no_masks(root: Path) -> None:
    assert (root / "masks" / "._EDD2020_ACB0001_BE.tif").is_file()
    assert all("._" not in str(path) for case in cases(root) for path in (case.images["image"][0].path, *(source.path for source in case.target)))


@pytest.mark.trap("datasets-2d 9 Counts: 386 images in the release, 380 in the abstract; no patient ids, names carry a series code")
def test_the_parts_of_the_release_are_pinned(root: Path) -> None:
    series = {"ACB": 16, "AJ": 89, "B": 98, "F": 8, "INAB": 80, "NAF": 95}
    names = [f"EDD2020_{code}{number:04d}" for code, count in series.items() for number in range(count)]
    assert len(names) == sum(EDD2020.counts.values()) == 386
    parts = {name: split_of(NAME.fullmatch(name)[1]) for name in names}
    assert Counter(parts.values()) == EDD2020.counts
    for split, known in EDD2020.checksums.items():
        assert checksum(name for name in names if parts[name] == split) == known
    assert "380" in (edd2020.__doc__ or "")


@pytest.mark.trap("datasets-2d 9 Split: none official; seeded 80/10/10, near-duplicate frames kept together by name series")
def test_ten_consecutive_numbers_of_a_series_are_one_group_and_stay_together(root: Path) -> None:
    found = cases(root)
    assert {case.id: case.patient for case in found}["EDD2020_AJ0053"] == "AJ005" == case_of(root, "AJ0050").patient
    parts = {split: {case.patient for case in found if case.split == split} for split in ("train", "val", "test")}
    assert not parts["train"] & parts["test"]
    assert not parts["val"] & (parts["train"] | parts["test"])
    assert not set(TEST) & set(VAL)
    assert "not comparable" in (EDD2020.note or "")


@pytest.mark.trap("datasets-2d 9 Class order: of the file BE, suspicious, HGD, cancer, polyp; the paper's table has another")
def test_classes_are_in_the_order_of_the_class_list(root: Path) -> None:
    assert EDD2020.classes == tuple((root / "class_list.txt").read_text().split())
    assert "NDBE (BE), CA (cancer), HGD, polyp, Susp" in (edd2020.__doc__ or "")


def test_images_of_varying_size_are_read(root: Path) -> None:
    sizes = set()
    for case in cases(root):
        with Image.open(case.images["image"][0].path) as file:
            assert file.mode == "RGB"
            sizes.add(file.size)
    assert len(sizes) == 4


def test_a_class_that_there_is_not_and_a_name_of_another_form_are_refused(root: Path) -> None:
    shutil.copy(root / "masks" / "EDD2020_B0051_BE.tif", root / "masks" / "EDD2020_B0051_polip.tif")
    with pytest.raises(RequestError, match=r"no class named 'polip'; did you mean polyp"):
        cases(root)
    (root / "masks" / "EDD2020_B0051_polip.tif").unlink()
    shutil.copy(root / "originalImages" / "EDD2020_B0051.jpg", root / "originalImages" / "frame1.jpg")
    with pytest.raises(RequestError, match=r"expected images such as .* found 'frame1'"):
        cases(root)


@pytest.mark.trap("datasets-2d rules 1: a missing root, label file or image names the expected path")
def test_what_is_absent_is_named(root: Path) -> None:
    (root / "originalImages" / "EDD2020_B0051.jpg").unlink()
    with pytest.raises(MissingError, match=r"1 of 16 .*originalImages/EDD2020_B0051\.jpg"):
        cases(root)
    shutil.rmtree(root / "masks")
    with pytest.raises(MissingError, match=r"masks.*get the data from .*grand-challenge"):
        cases(root)
    for file in (root / "originalImages").glob("*.jpg"):
        file.unlink()
    (root / "masks").mkdir()
    with pytest.raises(MissingError, match="found none; get the data from"):
        cases(root)


def test_an_image_may_be_absent_of_everything_only_where_it_says_so(root: Path) -> None:
    image = root / "originalImages" / "EDD2020_B0051.jpg"
    assert not read_labels((Source(image, ABSENT),), dims=2, classes=("rest", "lesion")).labels.any()
    with Image.open(image) as file:
        upright = (file.height, file.width)
        exif = file.getexif()
        exif[0x0112] = 6
        file.save(image.with_name("turned.jpg"), exif=exif)
    assert read_labels((Source(image.with_name("turned.jpg"), ABSENT),), dims=2, classes=("rest", "lesion")).shape == upright[::-1]
    with pytest.raises(CaseError, match=r"found \.jpg"):
        read_labels((Source(image),), dims=2, classes=("rest", "lesion"))
