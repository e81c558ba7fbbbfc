"""ACDC: the twin through the real readers, every trap of its sheet, the divisions of the released patients."""

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.check.dataset import check_dataset
from medprobe.datasets._layout import checksum, locate
from medprobe.datasets.acdc import (
    ACDC,
    CLASSES,
    DIVISIONS,
    MYOCARDIUM,
    NNUNET,
    SHAPE,
    SPACING,
    frames_of,
    info_of,
    of_each_group,
)
from medprobe.errors import MissingError, RequestError
from medprobe.imaging import formats, nifti, recipes
from medprobe.imaging.labels import LabelMap, read_labels
from medprobe.run.references import in_millimetres
from medprobe.run.splits import shared_patients
from medprobe.types import Case, Lattice

DATASET = ACDC["acdc"]
ROLES = ("fixed", "moving")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


def cases(root: Path, name: str = "acdc") -> dict[str, Case]:
    return {case.id: case for case in ACDC[name].cases(root)}


def mask(case: Case, role: str) -> LabelMap:
    return read_labels(case.target[role], dims=3, classes=CLASSES)


def pairs_said(root: Path, case: Case) -> str:
    alone = replace(DATASET, cases=lambda _: [case], twin=None, counts={}, checksums={})
    (found,) = (finding for finding in check_dataset(alone, root) if finding.name == "pairs")
    assert not found.ok
    return found.detail


@pytest.mark.parametrize("name", ACDC)
def test_the_twin_is_sound(root: Path, name: str) -> None:
    found = {finding.name: finding for finding in check_dataset(ACDC[name], root)}
    assert [finding for finding in found.values() if not finding.ok] == []
    assert "the synthetic twin, where the release has train 80, val 20, test 50" in found["counts"].detail
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 1_000_000


def test_every_group_is_in_every_part_of_the_twin_and_its_cavity_contracts(root: Path) -> None:
    found = cases(root)
    groups = {name: info_of(case.images["fixed"][0].path.parent / "Info.cfg")["Group"] for name, case in found.items()}
    assert Counter((found[name].split, groups[name]) for name in found) == {(part, group): 2 if part == "train" else 1 for part in ("train", "val", "test") for group in ("DCM", "HCM", "MINF", "NOR", "RV")}
    for case in found.values():
        ends, starts = (np.bincount(mask(case, role).labels.ravel(), minlength=4) for role in ROLES)
        assert ends[3] < 0.6 * starts[3]
        assert ends.all()
        assert starts.all()


@pytest.mark.trap("datasets-3d 9 TRAP: frames stand in Info.cfg alone, end-diastole of patient090 is frame 04 and end-systole 11")
def test_frames_are_those_of_the_info_file(root: Path) -> None:
    case = cases(root)["patient090"]
    assert case.images["moving"][0].path.name == "patient090_frame04.nii.gz"
    assert case.images["fixed"][0].path.name == "patient090_frame11.nii.gz"
    assert case.target["moving"][0].path.name == "patient090_frame04_gt.nii.gz"
    assert case.target["fixed"][0].path.name == "patient090_frame11_gt.nii.gz"
    folder = root / "database" / "training" / "patient090"
    shutil.copy(folder / "patient090_frame04.nii.gz", folder / "patient090_frame01.nii.gz")
    (folder / "Info.cfg").write_bytes(b"\xef\xbb\xbfES:  11 \r\nGroup: RV\r\nED:04\r\n")
    assert frames_of(folder / "Info.cfg") == (4, 11)
    assert cases(root)["patient090"] == case
    (folder / "Info.cfg").write_text("ED: \nGroup: RV\n")
    with pytest.raises(RequestError, match=r"Info\.cfg: expected the numbers of two frames after ED: and ES:, found  and nothing; use the released file"):
        cases(root)


@pytest.mark.trap("datasets-3d 9 Metric: end-diastole is moved onto end-systole")
@pytest.mark.trap("datasets-3d 9 Labels, TRAP: 1 is the right ventricle and 3 the left, the opposite order of CAMUS")
def test_roles_and_labels_are_what_they_say(root: Path) -> None:
    assert CLASSES == ("background", "rv", "myocardium", "lv")
    for case in cases(root).values():
        ends, starts = (mask(case, role).labels for role in ROLES)
        assert (starts == 3).sum() > (ends == 3).sum()
        x = {label: np.argwhere(starts == label)[:, 2].mean() for label in (1, 2, 3)}
        assert x[1] > x[2] + 5  # the right ventricle lies on the patient's right
        assert abs(x[2] - x[3]) < 10  # the left one within its wall


@pytest.mark.trap("datasets-3d 9 Preprocessing: (1.5, 1.5, 3.15) mm, 128 x 128 x 32 around the myocardium, one window for ED and ES")
@pytest.mark.trap("datasets-3d 10 ACDC: tall and short volumes")
def test_all_of_a_case_lies_on_one_window_whatever_its_height(root: Path) -> None:
    heights = set()
    for case in cases(root).values():
        read = {role: (formats.read(case.images[role][0]), mask(case, role)) for role in ROLES}
        affines = [one.affine for both in read.values() for one in both]
        assert all(np.array_equal(affine, affines[0]) for affine in affines)
        assert all(one.spacing == SPACING for both in read.values() for one in both)
        assert read["moving"][0].pixels.shape == (1, *SHAPE)
        assert read["moving"][1].shape == SHAPE
        own = nifti.volume(case.target["moving"][0].path)
        where = np.argwhere(own.array == MYOCARDIUM).mean(axis=0)
        where[0] = (len(own.array) - 1) / 2
        middle = [*((np.array(SHAPE[::-1]) - 1) / 2), 1]
        np.testing.assert_allclose(affines[0] @ middle, own.affine @ [*where[::-1], 1])
        heights.add(len(own.array) * 10 > SHAPE[0] * SPACING[0])
        pixels = recipes.image(case.images["fixed"], DATASET.recipe).pixels[0]
        padded = [plane for plane in pixels if not plane.any()]
        assert len(padded) == (0 if len(own.array) * 10 > SHAPE[0] * SPACING[0] else 2 * int(16 - len(own.array) * 5 / SPACING[0] + 0.5))
        assert pixels.min() == 0 or not padded
        assert pixels.max() > 0.9
    assert heights == {True, False}
    assert in_millimetres(DATASET, list(cases(root).values()))


@pytest.mark.trap("datasets-3d 9 Centre: labels are used at test time, which is documented")
def test_that_the_window_needs_a_label_is_said(root: Path) -> None:
    case = cases(root)["patient101"]
    windows = {source.grid for sources in (*case.images.values(), *case.target.values()) for source in sources}
    assert windows == {Lattice(SHAPE, SPACING, case.target["moving"][0].path, MYOCARDIUM)}
    assert all("the window lies around the myocardium of the moving image's mask, in test patients too" in (one.note or "") for one in ACDC.values())


@pytest.mark.trap("datasets-3d 9 Split: the 80/20 is not given; stratified by default, two others as presets, test is 101 to 150 in all")
def test_the_released_patients_give_the_counts_and_parts_the_datasets_promise(samples: Path) -> None:
    tables = [samples.parent / "splits" / "acdc" / f"{part}.csv" for part in ("training", "testing")]
    if not all(table.is_file() for table in tables):
        pytest.skip(f"no lists at {tables[0].parent}")
    training, testing = (list(csv.DictReader(table.read_text().splitlines())) for table in tables)
    groups = {row["patient_id"]: row["Group"] for row in training}
    for name, division in DIVISIONS.items():
        validating = division(groups)
        parts = {"train": set(groups) - validating, "val": validating, "test": {row["patient_id"] for row in testing}}
        assert {part: len(ids) for part, ids in parts.items()} == ACDC[name].counts
        assert {part: checksum(ids) for part, ids in parts.items()} == ACDC[name].checksums
    assert set(Counter(groups[patient] for patient in of_each_group(groups)).values()) == {4}
    assert of_each_group(dict(reversed(groups.items()))) == of_each_group(groups)
    assert {groups[patient] for patient in DIVISIONS["acdc-rv-val"](groups)} == {"RV"}
    assert len(set(NNUNET)) == 20
    assert {row["patient_id"]: row["ED"] for row in (*training, *testing) if row["ED"] != "1"} == {"patient090": "4"}


def test_the_presets_differ_in_what_validates_alone(root: Path) -> None:
    found = {name: cases(root, name) for name in ACDC}
    assert {name for name, case in found["acdc-rv-val"].items() if case.split == "val"} == {"patient081", "patient088", "patient090"}
    assert {int(name[7:]) for name, case in found["acdc-nnunet"].items() if case.split == "val"} == {5, 20, 22, 41, 46, 68, 88}
    for one in found.values():
        assert shared_patients(list(one.values())) == {}
        assert {name for name, case in one.items() if case.split == "test"} == {f"patient{number}" for number in range(101, 106)}
        assert [(case.images, case.target) for case in one.values()] == [(case.images, case.target) for case in found["acdc"].values()]


@pytest.mark.trap("datasets-3d 9 Tree: older downloads name the test folder testing_with_gt")
def test_the_older_name_of_the_test_folder_is_known(root: Path) -> None:
    before = cases(root)
    (root / "database" / "testing").rename(root / "database" / "testing_with_gt")
    assert cases(root).keys() == before.keys()
    assert cases(root)["patient101"].split == "test"
    shutil.copytree(root / "database" / "testing_with_gt", root / "database" / "testing", ignore=shutil.ignore_patterns("*_gt.nii.gz"))
    assert cases(root).keys() == before.keys()
    assert cases(root / "database").keys() == before.keys()


@pytest.mark.trap("datasets-3d 10 ACDC: the 4d file is present and is no frame")
def test_files_beside_the_frames_are_never_read(root: Path) -> None:
    assert (root / "database" / "training" / "patient001" / "patient001_4d.nii.gz").is_file()
    read = {path.name for case in cases(root).values() for sources in (*case.images.values(), *case.target.values()) for source in sources for path in source.paths}
    assert not [name for name in read if "4d" in name]
    (root / "database" / "training" / "._patient001").write_bytes(b"")
    for path in root.rglob("*_4d.nii.gz"):
        path.write_bytes(b"damaged")
    assert all(finding.ok for finding in check_dataset(DATASET, root))


def test_a_partial_download_is_named(root: Path) -> None:
    (root / "database" / "training" / "patient020" / "Info.cfg").unlink()
    for path in (root / "database" / "testing").rglob("*_gt.nii.gz"):
        path.unlink()
    with pytest.raises(MissingError, match=r"acdc: 11 of 100 files are missing under .*database, first testing/patient101/patient101_frame01_gt\.nii\.gz"):
        cases(root)
    shutil.rmtree(root / "database" / "testing")
    with pytest.raises(MissingError, match=r"acdc-nnunet: expected .*testing, found no such thing; get the data from https://www\.creatis"):
        cases(root, "acdc-nnunet")
    (root / "database" / "testing").mkdir()
    with pytest.raises(MissingError, match=r"acdc: expected folders such as .*testing/patient001, found none"):
        cases(root)


def test_the_three_datasets_lie_in_one_folder(root: Path) -> None:
    (root / "database").rename(root / "moved")
    (root / "moved").rename(root.parent / "database")
    assert {locate(one, root.parent) for one in ACDC.values()} == {root.parent}


@pytest.mark.trap("datasets-3d 9 Arrays: ED and ES geometry is identical in every patient")
def test_what_is_no_pair_is_said_in_a_sentence(root: Path) -> None:
    case = cases(root)["patient001"]
    fixed, moving = (case.images[role][0].path for role in ROLES)
    kept = fixed.read_bytes()
    shutil.copy(moving, fixed)
    assert "patient001: expected two images, found the same in patient001_frame" in pairs_said(root, case)
    whole, truth = nifti.volume(moving), case.target["fixed"][0].path
    nifti.save(fixed, whole.array[:, :-2], whole.affine, None)
    labels = nifti.volume(truth)
    nifti.save(truth, labels.array[:, :-2], labels.affine, None)
    assert "patient001: expected fixed and moving image of one size, found patient001_frame" in pairs_said(root, case)
    fixed.write_bytes(kept)
    nifti.save(truth, np.where(labels.array == 1, 0, labels.array), labels.affine, None)
    assert "patient001: expected every class in both masks or in neither, found rv in that of the moving image alone; correct the masks" in pairs_said(root, case)
    shutil.copy(case.target["moving"][0].path, truth)
    assert "patient001: expected two masks, found the same in patient001_frame" in pairs_said(root, case)
