"""CAMUS: both releases through the real readers, every trap of the sheet, and one picture from either."""

import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.check.dataset import check_dataset
from medprobe.datasets.camus import CAMUS, CLASSES, PIXELS, _beat, _save_mhd, _save_nifti, by_seed, twin_mhd
from medprobe.errors import MissingError, RequestError
from medprobe.imaging import formats, recipes
from medprobe.imaging.labels import read_labels
from medprobe.run.references import in_millimetres
from medprobe.run.splits import shared_patients
from medprobe.types import Case, Source

DATASET = CAMUS
ROLES = {"fixed": "ES", "moving": "ED"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def mhd(tmp_path: Path) -> Path:
    """The challenge's release."""
    pytest.importorskip("SimpleITK")
    twin_mhd(tmp_path / "mhd", np.random.default_rng(0))
    return tmp_path / "mhd"


def cases(root: Path) -> dict[str, Case]:
    return {case.id: case for case in CAMUS.cases(root)}


def mask(case: Case, role: str) -> np.ndarray:
    return read_labels(case.target[role], dims=2, classes=CLASSES).labels


def test_the_twin_is_sound(root: Path) -> None:
    found = {finding.name: finding for finding in check_dataset(CAMUS, root)}
    assert [finding for finding in found.values() if not finding.ok] == []
    assert found["counts"].detail == "train 16, val 4, test 4: the synthetic twin, where the release has train 800, val 100, test 100"
    assert "128x128 pixels" in found["images"].detail
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 300_000


@pytest.mark.trap("datasets-3d 8 Metric: end-diastole is moved onto end-systole")
@pytest.mark.trap("datasets-3d 8 Labels: 1 left ventricle, 2 myocardium, 3 left atrium, 0 background")
def test_roles_and_labels_are_what_they_say(root: Path) -> None:
    for name, case in cases(root).items():
        for role, phase in ROLES.items():
            assert case.images[role] == (Source(case.images[role][0].path, grid=PIXELS),)
            assert case.images[role][0].path.name == f"{name}_{phase}.nii.gz"
            assert case.target[role][0].path.name == f"{name}_{phase}_gt.nii.gz"
        ends, starts = (mask(case, role) for role in ROLES)
        assert ends.shape == starts.shape == (128, 128)
        assert (ends == 1).sum() < 0.7 * (starts == 1).sum()
        y = [np.argwhere(starts == label)[:, 0].mean() for label in (2, 1, 3)]
        assert y[0] < y[1] < y[2]  # the tip of the wall above, the atrium below: upright
        assert case.patient == name.partition("_")[0]
    assert not in_millimetres(CAMUS, list(cases(root).values()))


@pytest.mark.trap("datasets-3d 8 Info.cfg: in some sequences end-diastole comes after end-systole; the separate files avoid the issue")
def test_the_order_in_the_sequence_does_not_matter(root: Path) -> None:
    folder = root / "CAMUS_public" / "database_nifti" / "patient0003"
    assert (folder / "Info_2CH.cfg").read_text().startswith("ED: 18\nES: 1\n")
    case = cases(root)["patient0003_2CH"]
    assert case.images["moving"][0].path == folder / "patient0003_2CH_ED.nii.gz"
    for path in root.rglob("Info_*.cfg"):
        path.unlink()
    assert cases(root)["patient0003_2CH"] == case


@pytest.mark.trap("datasets-3d 8 Layout A: nibabel gives (W, H), turned to (H, W)")
@pytest.mark.trap("datasets-3d 10 CAMUS: transposed axes")
def test_pictures_are_upright_whatever_headers_say_of_directions(root: Path) -> None:
    import nibabel

    signs = set()
    for case in cases(root).values():
        path = case.images["fixed"][0].path
        stored = nibabel.load(path)
        assert stored.ndim == 2
        signs.add(float(np.sign(stored.affine[0, 0])))
        pixels = recipes.image(case.images["fixed"], CAMUS.recipe).pixels[0, 0]
        assert pixels.shape == (128, 128)
        assert formats.read(replace(case.images["fixed"][0], grid=None)).pixels.shape[2:] == stored.shape[::-1]
        assert pixels[2].mean() < 0.1 < pixels[100].mean()  # the probe's end of the sector is narrow and above
        assert pixels.min() == 0
        assert pixels.max() == pytest.approx(1, abs=0.1)
    assert signs == {1.0, -1.0}


@pytest.mark.trap("datasets-3d 8 Layout B: anisotropic pixels, H is twice that of NIfTI")
@pytest.mark.trap("datasets-3d 10 CAMUS: both layouts, anisotropic MHD spacing")
def test_both_releases_give_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    for phase, image, truth in _beat(np.random.default_rng(0), 551, 669):
        for name, one in ((phase, image), (f"{phase}_gt", truth)):
            _save_nifti(tmp_path / f"{name}.nii.gz", one, (-0.308, -0.308))
            _save_mhd(tmp_path / f"{name}.mhd", np.repeat(one, 2, axis=0))
        assert formats.read(Source(tmp_path / f"{phase}.mhd")).spacing == pytest.approx((1, 0.154, 0.308))
        first, second = (recipes.image((Source(tmp_path / f"{phase}{suffix}", grid=PIXELS),), CAMUS.recipe).pixels for suffix in (".nii.gz", ".mhd"))
        np.testing.assert_allclose(first, second, atol=0.02)
        masks = [read_labels((Source(tmp_path / f"{phase}_gt{suffix}", grid=PIXELS),), dims=2, classes=CLASSES).labels for suffix in (".nii.gz", ".mhd")]
        np.testing.assert_array_equal(*masks)


@pytest.mark.trap("datasets-3d 8 Split: the lists as shipped, 400/50/50 patients, two views each")
@pytest.mark.trap("datasets-3d 10 CAMUS: split files")
def test_the_official_lists_split_patients(root: Path) -> None:
    found = cases(root)
    assert Counter(case.split for case in found.values()) == {"train": 16, "val": 4, "test": 4}
    assert {case.patient for case in found.values() if case.split == "test"} == {"patient0001", "patient0047"}
    assert shared_patients(list(found.values())) == {}
    lists = root / "CAMUS_public" / "database_split"
    before = (lists / "subgroup_testing.txt").read_text()
    (lists / "subgroup_testing.txt").write_bytes(b"\xef\xbb\xbf" + before.replace("\n", "\r\n").encode() + b"\r\n")
    assert cases(root) == found
    (lists / "subgroup_testing.txt").write_text(before + "patient0002\n")
    with pytest.raises(RequestError, match=r"subgroup_testing\.txt: expected every patient in one list, found patient0002 in that of train too"):
        cases(root)
    (lists / "subgroup_testing.txt").write_text("patient0001\n")
    with pytest.raises(RequestError, match=r"camus: expected every patient of .*database_nifti in a list of .*database_split, found 1 in none, first patient0047"):
        cases(root)


@pytest.mark.trap("datasets-3d 8 Split: without database_split a clear message")
def test_without_the_lists_nothing_is_guessed(root: Path) -> None:
    lists = root / "CAMUS_public" / "database_split"
    (lists / "subgroup_validation.txt").unlink()
    with pytest.raises(MissingError, match=r"camus: expected the official split, subgroup_training\.txt, .* in .*database_split, found no subgroup_validation\.txt; database_split is released beside database_nifti"):
        cases(root)
    shutil.rmtree(lists)
    with pytest.raises(MissingError, match=r"found no subgroup_training\.txt, subgroup_validation\.txt, subgroup_testing\.txt"):
        cases(root)


@pytest.mark.trap("datasets-3d 8 Layout B, TRAP: ids of the test part restart at 0001, are others than those of NIfTI, and have no gt")
def test_the_test_part_of_the_challenge_is_never_read(mhd: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (mhd / "testing" / "patient0001" / "patient0001_2CH_ED.mhd").is_file()
    shutil.copytree(mhd / "testing", mhd / "database_split")  # lists for other patients are no matter either
    with caplog.at_level(logging.WARNING):
        found = cases(mhd)
    assert "the release in MetaImage has no official split; of its 12 patients with masks a tenth each validates and tests, by seed" in caplog.text
    assert len(found) == 24
    assert all(path.relative_to(mhd).parts[0] == "training" for case in found.values() for sources in (*case.images.values(), *case.target.values()) for path in sources[0].paths)
    assert shared_patients(list(found.values())) == {}
    assert cases(mhd) == found
    shutil.rmtree(mhd / "testing")
    assert cases(mhd) == found
    assert all(finding.ok for finding in check_dataset(CAMUS, mhd))


def test_the_challenge_is_divided_in_tenths_by_seed() -> None:
    patients = [f"patient{number:04d}" for number in range(1, 451)]
    parts = by_seed(patients)
    assert Counter(parts.values()) == {"train": 360, "val": 45, "test": 45}
    assert parts == by_seed(patients)
    assert [parts[patient] for patient in patients[:45]] != ["val"] * 45


@pytest.mark.trap("datasets-3d 8 Layout B: voxels lie in .raw files beside the headers")
def test_voxels_that_are_not_there_are_found_by_the_check(mhd: Path) -> None:
    (mhd / "training" / "patient0001" / "patient0001_2CH_ED.raw").unlink()
    found = {finding.name: finding for finding in check_dataset(CAMUS, mhd)}
    assert {name for name, finding in found.items() if not finding.ok} == {"images", "fingerprint"}
    assert "patient0001_2CH_ED.mhd: expected its voxels in patient0001_2CH_ED.raw beside it, found no such file; fetch it too" in found["images"].detail


def test_both_releases_in_one_folder_or_none_are_refused(root: Path, mhd: Path) -> None:
    shutil.copytree(mhd / "training", root / "CAMUS_public" / "training")
    with pytest.raises(RequestError, match=r"camus: expected one release, .*database_nifti/patient0001 \(NIfTI\) or .*training/patient0001 \(MetaImage\), found both, whose numbers stand for different patients; keep one, or name its folder in medprobe\.toml"):
        cases(root)
    shutil.rmtree(root / "CAMUS_public" / "database_nifti")
    assert len(cases(root)) == 24
    shutil.rmtree(root / "CAMUS_public" / "training")
    (root / "CAMUS_public" / "training" / "patient001").mkdir(parents=True)  # three digits: ACDC
    with pytest.raises(MissingError, match=r"camus: expected one release, .* found neither; get the data from https://www\.creatis"):
        cases(root)


def test_a_partial_download_is_named(root: Path) -> None:
    assert cases(root / "CAMUS_public").keys() == cases(root).keys()
    shutil.rmtree(root / "CAMUS_public" / "database_nifti" / "patient0047")
    (root / "CAMUS_public" / "database_nifti" / "patient0002" / "patient0002_4CH_ES_gt.nii.gz").unlink()
    with pytest.raises(MissingError, match=r"camus: 9 of 96 files are missing under .*database_nifti, first patient0002/patient0002_4CH_ES_gt\.nii\.gz, patient0047/patient0047_2CH_ED\.nii\.gz"):
        cases(root)


@pytest.mark.parametrize("what", ["sizes", "images", "masks"])
def test_what_is_no_pair_is_said_in_a_sentence(root: Path, what: str) -> None:
    folder = root / "CAMUS_public" / "database_nifti" / "patient0001"
    name = "patient0001_2CH_ES"
    if what == "sizes":
        for suffix, value in (("", 9), ("_gt", 0)):
            _save_nifti(folder / f"{name}{suffix}.nii.gz", np.full((300, 20), value, np.uint8), (0.308, 0.308))
    else:
        suffix = "_gt" if what == "masks" else ""
        shutil.copy(folder / f"patient0001_2CH_ED{suffix}.nii.gz", folder / f"{name}{suffix}.nii.gz")
    said = {"sizes": f"one size, found {name}.nii.gz 1 x 300 x 20 and ", "images": f"two images, found the same in {name}.nii.gz", "masks": f"two masks, found the same in {name}_gt.nii.gz"}
    found = {finding.name: finding for finding in check_dataset(CAMUS, root)}
    assert not found["pairs"].ok
    assert said[what] in found["pairs"].detail


def test_a_mask_of_another_size_than_its_image_is_a_fault(root: Path) -> None:
    path = root / "CAMUS_public" / "database_nifti" / "patient0001" / "patient0001_2CH_ES_gt.nii.gz"
    _save_nifti(path, np.zeros((40, 20), np.uint8), (0.308, 0.308))
    found = {finding.name: finding for finding in check_dataset(CAMUS, root)}
    assert not found["images"].ok
    assert f"patient0001_2CH: expected the mask {path.name} on the grid of its image patient0001_2CH_ES.nii.gz, found shape 1 x 40 x 20 beside" in found["images"].detail
