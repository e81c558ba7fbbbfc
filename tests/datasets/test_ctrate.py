"""CT-RATE: the twin through the reader, every trap of its sheet, and a run from the volumes to a score."""

import json
import logging
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.datasets import ctrate
from medprobe.datasets.ctrate import CLASSES, CTRATE, ORIGINAL, cases_of, headers_of, no_chest, patient_of, place_of
from medprobe.errors import MissingError, RequestError
from medprobe.imaging.formats import count_planes, read
from medprobe.imaging.recipes import planes
from medprobe.types import Case

DATASET = CTRATE


def cases(root: Path) -> list[Case]:
    return list(CTRATE.cases(root))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def labels(root: Path, part: str) -> Path:
    return root / "dataset" / "multi_abnormality_labels" / f"{part}_predicted_labels.csv"


def metadata(root: Path, part: str) -> Path:
    return root / "dataset" / "metadata" / f"{part}_metadata.csv"


def test_the_twin_has_every_class_with_both_outcomes_in_both_parts(root: Path) -> None:
    found = cases(root)
    assert Counter(case.split for case in found) == {"train": 18, "test": 10}
    for split in ("train", "test"):
        share = np.mean([case.target for case in found if case.split == split], axis=0)
        assert share.shape == (18,)
        assert ((share > 0) & (share < 1)).all()


def test_the_twin_is_small_and_of_the_two_releases(root: Path) -> None:
    assert {path.name for path in (root / "dataset").iterdir()} == {"train", "train_fixed", "valid", "valid_fixed", "metadata", "multi_abnormality_labels"}
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 150_000


def test_classes_and_metadata_columns_are_those_of_the_release(samples: Path, root: Path) -> None:
    lists = samples.parent / "splits" / "ctrate"
    if not lists.is_dir():
        pytest.skip(f"no lists at {lists}")
    assert list(CLASSES) == (lists / "label_names.txt").read_text().split("\n")[:18]
    released = set((lists / "metadata_columns.txt").read_text().split())
    assert set(metadata(root, "train").read_text().splitlines()[0].split(",")) <= released


def test_the_root_may_be_the_repository_or_its_folder_dataset(root: Path) -> None:
    assert [case.id for case in CTRATE.cases(root / "dataset")] == [case.id for case in cases(root)]


def test_columns_are_read_by_name(root: Path) -> None:
    before = [case.target for case in cases(root)]
    rows = [line.split(",") for line in labels(root, "train").read_text().splitlines()]
    labels(root, "train").write_text("\r\n".join(",".join([row[0], *row[:0:-1]]) for row in rows) + "\r\n")
    assert [case.target for case in cases(root)] == before


# ------------------------------------------------------------------------------------------ intensity


@pytest.mark.equality(
    "ibrahimethemhamamci/CT-CLIP, slope and intercept of the metadata table; identical"
)
@pytest.mark.trap("datasets-3d 1 TRAP, intensity: in the original release HU = stored x RescaleSlope + RescaleIntercept of the table; its header is meaningless")
def test_rescaled_by_the_table_the_original_release_is_the_fixed_one(root: Path) -> None:
    fixed, original = cases(root), list(cases_of(root, "original"))
    assert [(case.id, case.patient, case.target, case.split) for case in fixed] == [(case.id, case.patient, case.target, case.split) for case in original]
    assert {case.fields["rescale"] for case in original} == {"1 -1024", "1 -8192"}
    for right, stored in zip(fixed, original, strict=True):
        (source,) = stored.images["image"]
        assert "/train/" in str(source.path) or "/valid/" in str(source.path)
        assert source.rescale == tuple(map(float, stored.fields["rescale"].split()))
        assert read(replace(source, rescale=None)).pixels.min() in (24, 7192)
        units = read(source).pixels
        assert units.dtype.kind == "i"
        np.testing.assert_array_equal(units[..., ::-1, ::-1], read(right.images["image"][0]).pixels)  # the original's header says nothing of the axes either


@pytest.mark.trap("datasets-3d 1 TRAP, intensity: rescaling twice corrupts, so no case of the fixed release may carry a rescaling")
def test_a_volume_is_rescaled_once_or_not_at_all(root: Path) -> None:
    assert {case.images["image"][0].rescale for case in cases(root)} == {None}
    twice = [case.images["image"][0] for case in cases_of(root, "original")]
    for source in twice:
        whole, once = read(source).pixels, [read(source, plane, plane + 1).pixels for plane in range(count_planes(source))]
        assert whole.min() == -1000  # air: a second -1024 or -8192 would show
        np.testing.assert_array_equal(np.concatenate(once, axis=1), whole)
        np.testing.assert_array_equal(read(source).pixels, whole)


def test_the_original_release_is_a_dataset_of_its_own(root: Path) -> None:
    shutil.rmtree(root / "dataset" / "train_fixed")
    original = list(ORIGINAL.cases(root))
    assert [case.id for case in original] == [case.id for case in cases_of(root, "original")]
    pixels = planes(original[0].images["image"], window=ORIGINAL.recipe, size=None).pixels
    assert pixels.min() == 0 < pixels.max() < 1


@pytest.mark.trap("datasets-3d 1 TRAP, intensity: values of *_fixed are HU already; applying the table again corrupts them")
def test_the_fixed_release_is_read_as_it_is(root: Path) -> None:
    for part in ("train", "validation"):  # the table is not even opened
        metadata(root, part).unlink()
    for case in cases(root):
        assert "_fixed/" in str(case.images["image"][0].path)
        assert case.fields == {}
        assert read(case.images["image"][0]).pixels.min() == -1000
        assert planes(case.images["image"], window=CTRATE.recipe, size=None).pixels.min() == 0


@pytest.mark.trap("datasets-3d 1 TRAP, intensity: a reader needs an explicit release, original or fixed")
def test_the_original_release_alone_is_refused_by_name(root: Path) -> None:
    shutil.rmtree(root / "dataset" / "valid_fixed")
    with pytest.raises(MissingError, match=r"expected the fixed release.*valid_fixed, found the original one.*no Hounsfield units.*fetch train_fixed and valid_fixed, or ask for ctrate-original") as raised:
        cases(root)
    assert raised.value.exit_status == 3
    assert len(list(cases_of(root, "original"))) == 28
    shutil.rmtree(root / "dataset" / "valid")
    with pytest.raises(MissingError, match=r"expected .*dataset/valid, found no such thing"):
        list(cases_of(root, "original"))


def test_a_volume_without_a_line_in_the_metadata_is_named_in_the_original_release(root: Path) -> None:
    lines = metadata(root, "validation").read_text().splitlines()
    metadata(root, "validation").write_text("\n".join(line for line in lines if not line.startswith("valid_2_a_2")) + "\n")
    with pytest.raises(MissingError, match=r"validation_metadata\.csv: .*none for valid_2_a_2\.nii\.gz"):
        list(cases_of(root, "original"))


@pytest.mark.trap("datasets-3d 1 Metadata CSV: XYSpacing is a string like a list of two numbers")
def test_spacing_of_the_original_release_comes_from_the_table(root: Path) -> None:
    fields = {case.id: case.fields for case in cases_of(root, "original")}
    assert fields["train_1_a_1"]["spacing"] == "1.5 2 2"
    assert fields["train_1_a_2"]["spacing"] == "2 1 1"
    edit(metadata(root, "train"), '"[2, 2]"', "2")
    with pytest.raises(RequestError, match=r"expected numbers and a list of two as XYSpacing, found .*'2'.* for train_1_a_1"):
        headers_of(metadata(root, "train"))


@pytest.mark.trap("datasets-3d 1 Other traps: three volumes of train that public code skips")
def test_a_volume_without_slice_spacing_stays_a_case_and_is_named_on_the_page(root: Path) -> None:
    edit(metadata(root, "train"), ",4,1.5", ",4,")
    found = {case.id: case for case in cases_of(root, "original")}
    assert "spacing" not in found["train_1_a_1"].fields
    assert "rescale" in found["train_1_a_1"].fields
    for name in ("train_1267_a_4", "train_11755_a_3", "train_11755_a_4"):
        assert name in (ctrate.__doc__ or "")


def test_an_absent_intercept_is_refused(root: Path) -> None:
    edit(metadata(root, "train"), ",-1024,1,", ",,1,")
    with pytest.raises(RequestError, match=r"expected a slope and an intercept, found '1' and '' for train_1_a_1"):
        headers_of(metadata(root, "train"))


@pytest.mark.equality(
    "ibrahimethemhamamci/CT-CLIP, data_inference.py: Hounsfield units from -1000 to 1000; 1e-6"
)
def test_the_window_is_that_of_ct_clip(root: Path) -> None:
    case = cases(root)[0]
    units = read(case.images["image"][0]).pixels.astype(float)
    pixels = planes(case.images["image"], window=CTRATE.recipe, size=None).pixels
    np.testing.assert_allclose(pixels[:, 0], np.clip((units[0] + 1000) / 2000, 0, 1), atol=1e-6)


# ------------------------------------------------------------------------------- names, lists, patients


@pytest.mark.trap("datasets-3d 1 Name pattern: split, patient, scan letter, reconstruction; folders are patient and scan")
def test_the_patient_is_what_stands_before_the_second_underscore(root: Path) -> None:
    assert patient_of("train_17_ab_3.nii.gz") == "train_17"
    assert place_of("valid_1_a_2.nii.gz") == "valid_1/valid_1_a/valid_1_a_2.nii.gz"
    found = cases(root)
    assert Counter(case.patient for case in found)["train_1"] == 4  # two scans, two reconstructions each
    parts = {split: {case.patient for case in found if case.split == split} for split in ("train", "test")}
    assert parts["train"].isdisjoint(parts["test"])  # train_1 and valid_1 are two people
    assert {"train_1", "valid_1"} <= parts["train"] | parts["test"]


@pytest.mark.trap("datasets-3d 1 Label CSV: all reconstructions of one scan have identical labels, and every one is a case")
def test_every_reconstruction_is_a_case_with_the_labels_of_its_scan(root: Path) -> None:
    scans: dict[str, list[Case]] = {}
    for case in cases(root):
        scans.setdefault(case.id.rpartition("_")[0], []).append(case)
    assert {len(group) for group in scans.values()} == {2}
    assert all(first.target == second.target for first, second in scans.values())
    assert len({case.target for case in cases(root)}) > 2


@pytest.mark.trap("datasets-3d 1 Other traps: no-chest lists hold names, or paths to them")
def test_volumes_without_a_chest_are_left_out_whether_listed_by_path_or_by_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = root / "dataset" / "metadata"
    assert (lists / "no_chest_train.txt").read_text().startswith("dataset/train/train_8/train_8_b/train_8_b_1.nii.gz")
    assert (lists / "no_chest_valid.txt").read_text() == "valid_4_b_1.nii.gz\nvalid_4_b_2.nii.gz\n"
    with caplog.at_level(logging.WARNING):
        names = {case.id for case in cases(root)}
    assert not {name for name in names if name.startswith(("train_8_b", "valid_4_b"))}
    assert {"train_8_a_1", "valid_4_a_2"} <= names
    assert "left out volumes that show no chest, {'train': 2, 'valid': 2}" in caplog.text
    (lists / "no_chest_valid.txt").write_text("\ufeffvalid_4_b_1\r\n\r\nx\\valid_4_b_2.nii.gz\r\n", encoding="utf-8")
    assert no_chest(lists / "no_chest_valid.txt") == {"valid_4_b_1.nii.gz", "valid_4_b_2.nii.gz"}


def test_the_lists_must_be_there_or_heads_would_slip_in(root: Path) -> None:
    (root / "dataset" / "metadata" / "no_chest_train.txt").unlink()
    with pytest.raises(MissingError, match=r"no_chest_train\.txt, found no such thing; get the data from"):
        cases(root)


@pytest.mark.trap("datasets-3d 1 Counts: 47,149 and 3,039 volumes, of which the lists name 752 and 37 as no chest")
def test_counts_are_those_of_the_label_tables_less_the_lists() -> None:
    assert CTRATE.counts == {"train": 47_149 - 752, "test": 3_039 - 37}


@pytest.mark.trap("datasets-3d 1 Other traps: tables are matched on the full VolumeName")
def test_names_that_begin_alike_are_told_apart(root: Path) -> None:
    first = next(case for case in cases(root) if case.id == "train_1_a_1")
    volume = first.images["image"][0].path
    shutil.copy(volume, volume.with_name("train_1_a_10.nii.gz"))
    with labels(root, "train").open("a") as file:
        file.write("train_1_a_10.nii.gz," + ",".join(str(1 - int(value)) for value in first.target) + "\n")
    found = {case.id: case for case in cases(root)}
    assert found["train_1_a_1"].target == first.target
    assert found["train_1_a_10"].target == tuple(1 - value for value in first.target)


@pytest.mark.trap("datasets-3d 1 Tree: mixed spelling, valid_predicted_labels.csv but validation_metadata.csv")
def test_absent_tables_are_named_as_they_are_spelled(root: Path) -> None:
    metadata(root, "validation").unlink()
    labels(root, "valid").unlink()
    with pytest.raises(MissingError, match=r"valid_predicted_labels\.csv and .*metadata/validation_metadata\.csv"):
        list(cases_of(root, "original"))


@pytest.mark.trap("datasets-3d 1 Label CSV: labels are predictions of a report classifier")
def test_the_page_says_that_labels_are_predicted() -> None:
    assert "classifier" in (ctrate.__doc__ or "")
    assert "predicted" in (CTRATE.note or "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("train_1_a_2.nii.gz", "valid_1_a_2.nii.gz", r"expected names such as train_1_a_1\.nii\.gz, found 'valid_1_a_2\.nii\.gz'"),
        ("train_1_a_2.nii.gz", "train_1_a_2", r"found 'train_1_a_2'"),
        ("train_1_a_2.nii.gz", "train_1_a_1.nii.gz", r"every volume once, found train_1_a_1\.nii\.gz twice"),
        ("train_1_a_1.nii.gz,1", "train_1_a_1.nii.gz,0.7", r"expected 0 or 1 as Medical material of train_1_a_1\.nii\.gz, found '0\.7'"),
        ("Lung nodule", "Nodule", r"expected the columns VolumeName, Medical material"),
    ],
)
def test_a_label_table_of_another_form_is_refused(root: Path, old: str, new: str, said: str) -> None:
    edit(labels(root, "train"), old, new)
    with pytest.raises(RequestError, match=said):
        cases(root)


def test_a_partial_download_is_named_with_count_and_first_files(root: Path) -> None:
    shutil.rmtree(root / "dataset" / "train_fixed" / "train_2")
    with pytest.raises(MissingError, match=r"2 of 28 files are missing .*first train_fixed/train_2/train_2_a/train_2_a_1\.nii\.gz.*partial"):
        next(iter(CTRATE.cases(root)))


# --------------------------------------------------------------------------------------------- a run


def test_a_run_goes_from_volumes_to_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))
    CTRATE.twin(tmp_path / "data" / "CT-RATE", np.random.default_rng(1))
    words = ["run", "-m", "mean-rgb", "-t", "ctrate/logreg", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    ended = subprocess.run([sys.executable, "-m", "medprobe", *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    document = json.loads((tmp_path / "out" / "results" / "ctrate" / "logreg" / "mean-rgb" / "seed0.json").read_text())
    assert document["status"] == "done"
    assert document["task"]["config"]["window"] == "ct"
    assert (document["scores"]["auroc"]["n_cases"], document["scores"]["auroc"]["n_patients"]) == (10, 4)
    assert len(document["scores"]["auroc"]["per_class"]) == 18
    assert 0 < document["scores"]["auroc"]["value"] < 1
