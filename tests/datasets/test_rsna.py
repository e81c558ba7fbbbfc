"""RSNA Pneumonia: the split rule, the twin through the reader, every trap of its sheet."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprobe.datasets._layout import checksum
from medprobe.datasets.rsna import RSNA, mgca_split, targets_of
from medprobe.errors import ExtraError, MissingError, RequestError
from medprobe.types import Case

LABELS = "stage_2_train_labels.csv"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pydicom")
    assert RSNA.twin is not None
    folder = tmp_path_factory.mktemp("rsna")
    RSNA.twin(folder, np.random.default_rng(0))
    return folder


@pytest.fixture
def root(twin: Path, tmp_path: Path) -> Path:
    return shutil.copytree(twin, tmp_path / "rsna")


def cases(root: Path) -> list[Case]:
    return list(RSNA.cases(root))


@settings(deadline=None, max_examples=60)
@given(st.integers(min_value=4, max_value=3000))
def test_the_split_is_complete_disjoint_and_of_the_promised_sizes(n: int) -> None:
    ids = [f"{place:05d}" for place in range(n)]
    parts = mgca_split(ids)
    together = [name for part in parts.values() for name in part]
    assert sorted(together) == ids
    rest = -(-3 * n // 10)
    assert {split: len(part) for split, part in parts.items()} == {"train": n - rest, "val": -(-rest // 2), "test": rest // 2}


@pytest.mark.equality(
    "HKU-MedAI/MGCA, preprocess/rsna.py: the classification split by scikit-learn; identical"
)
@pytest.mark.trap("datasets-2d 2 MGCA split: the FIRST half of the held-out part is test, the SECOND is validation")
@pytest.mark.parametrize("n", [10, 41, 100, 26684])
def test_the_split_is_that_of_scikit_learn_as_mgca_calls_it(n: int) -> None:
    from sklearn.model_selection import train_test_split

    ids = list(range(n))
    train, rest = train_test_split(ids, test_size=0.15 * 2, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    assert mgca_split(ids) == {"train": train, "val": val, "test": test}  # type: ignore[arg-type]


@pytest.mark.trap("datasets-2d 2 MGCA split: two variants in one file; classification (18,678 / 4,003 / 4,003) is used")
def test_the_release_splits_into_the_counts_of_the_classification_variant() -> None:
    parts = mgca_split([f"{place:05d}" for place in range(26684)])
    assert {split: len(part) for split, part in parts.items()} == RSNA.counts == {"train": 18678, "val": 4003, "test": 4003}


def test_a_checksum_is_of_the_sorted_ids_joined_by_newlines() -> None:
    # printf 'a\nb\nc' | sha256sum
    assert checksum(["c", "a", "b"]) == "ea7fb08b7a2dc461"
    assert checksum(["a", "b"]) != checksum(["a", "c"])


def test_the_twin_has_both_classes_in_every_part(twin: Path) -> None:
    found = cases(twin)
    assert Counter(case.split for case in found) == {"train": 28, "val": 6, "test": 6}
    assert {(case.split, case.target) for case in found} == {(split, target) for split in ("train", "val", "test") for target in (0, 1)}
    assert [case.id for case in found] == sorted(case.id for case in found)


@pytest.mark.trap("datasets-2d 2 Labels: one line per box, 30,227 lines for 26,684 ids")
def test_an_image_with_several_boxes_is_one_positive_case(root: Path) -> None:
    rows = [line.split(",")[0] for line in (root / LABELS).read_text().splitlines()[1:]]
    several = {name: count for name, count in Counter(rows).items() if count > 1}
    assert sorted(several.values()) == [2, 4]
    found = {case.id: case for case in cases(root)}
    assert len(found) == 40 < len(rows)
    assert all(found[name].target == 1 for name in several)


def test_any_box_makes_an_image_positive_whatever_the_order_of_its_lines(tmp_path: Path) -> None:
    table = tmp_path / LABELS
    table.write_text("patientId,x,y,width,height,Target\nb,1.0,1.0,2.0,2.0,1\nb,,,,,0\na,,,,,0\n")
    assert list(targets_of(table).items()) == [("a", 0), ("b", 1)]


@pytest.mark.trap("datasets-2d 2 MGCA split: ids ascend before the permutation, whatever the order of the file")
def test_the_order_of_the_label_file_does_not_matter(root: Path) -> None:
    before = cases(root)
    header, *lines = (root / LABELS).read_text().splitlines()
    (root / LABELS).write_text("\n".join([header, *lines[::-1]]) + "\n")
    assert cases(root) == before


@pytest.mark.trap("datasets-2d 2 Layout: stage_2_test_images have no labels")
def test_unlabelled_test_images_are_never_cases(root: Path) -> None:
    unlabelled = list((root / "stage_2_test_images").iterdir())
    assert len(unlabelled) == 3
    assert {path.stem for path in unlabelled}.isdisjoint(case.id for case in cases(root))
    shutil.rmtree(root / "stage_2_test_images")
    assert len(cases(root)) == 40


@pytest.mark.trap("datasets-2d 2 preprocessing: MONOCHROME1 is inverted, after scaling by the image's maximum")
def test_monochrome1_is_inverted_after_scaling_by_its_maximum(twin: Path) -> None:
    import pydicom

    from medprobe.imaging.recipes import planes

    stored = {case.id: pydicom.dcmread(case.images["image"][0].path) for case in cases(twin)}
    kinds = Counter(file.PhotometricInterpretation for file in stored.values())
    assert kinds == {"MONOCHROME1": 1, "MONOCHROME2": 39}
    for case in cases(twin)[:3]:
        raw = stored[case.id].pixel_array.astype(np.float32)
        scaled = raw / raw.max()
        expected = 1 - scaled if stored[case.id].PhotometricInterpretation == "MONOCHROME1" else scaled
        found = planes(case.images["image"], window=RSNA.recipe, size=None, colour=1).pixels
        np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)


@pytest.mark.trap("datasets-2d 2 Images: pixel data are JPEG-compressed inside DICOM")
def test_compressed_and_plain_files_are_both_read(twin: Path) -> None:
    import pydicom

    from medprobe.imaging.recipes import planes

    found = cases(twin)
    compressed = [pydicom.dcmread(case.images["image"][0].path).file_meta.TransferSyntaxUID.is_compressed for case in found]
    assert sum(compressed) == 39
    for case in found[:4]:
        assert planes(case.images["image"], window=RSNA.recipe, size=32, colour=1).pixels.shape == (1, 1, 32, 32)


@pytest.mark.trap("datasets-2d 2 Traps: ids are per image, NIH patients repeat across ids and overlap NIH-14")
def test_the_dataset_says_that_its_split_is_not_patient_wise() -> None:
    assert "not patient-wise" in (RSNA.official_leak or "")
    assert "nih14" in (RSNA.note or "")


@pytest.mark.trap("datasets-2d 2 Paper ambiguity: 29,700 images are 26,684 and the 3,000 unlabelled, rounded")
def test_only_labelled_images_are_promised() -> None:
    assert sum(RSNA.counts.values()) == 26684
    assert "29,700" in (RSNA.note or "")


def test_a_partial_download_is_named_with_count_and_first_files(root: Path) -> None:
    names = sorted(path.name for path in (root / "stage_2_train_images").iterdir())
    for name in names[:2]:
        (root / "stage_2_train_images" / name).rename(root / "stage_2_train_images" / f"._{name}")
    with pytest.raises(MissingError, match=f"2 of 40 files are missing .*{names[0]}, {names[1]}") as raised:
        next(iter(RSNA.cases(root)))
    assert raised.value.exit_status == 3


def test_absent_labels_and_images_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=f"{LABELS} and .*stage_2_train_images.*kaggle"):
        cases(tmp_path)


def test_a_target_that_is_no_flag_is_refused(root: Path) -> None:
    (root / LABELS).write_text("patientId,x,y,width,height,Target\na,,,,,yes\n")
    with pytest.raises(RequestError, match="'yes' for a"):
        cases(root)


def test_the_twin_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert RSNA.twin is not None
    with pytest.raises(ExtraError, match=r"medprobe\[dicom\]"):
        RSNA.twin(tmp_path, np.random.default_rng(0))
