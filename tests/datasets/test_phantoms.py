"""Phantoms: the finding is there for local energy, and for neither the mean colour nor 32x32 pixels."""

import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medprobe.datasets.phantoms import ENDOSCOPY, SIDE, XRAY
from medprobe.errors import MissingError
from medprobe.types import Case, Dataset

Cohort = tuple[Dataset, Path, list[Case]]


@pytest.fixture(scope="module", params=[XRAY, ENDOSCOPY], ids=lambda dataset: dataset.name)
def cohort(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp(request.param.name)
    request.param.twin(root, np.random.default_rng(0))
    return request.param, root, list(request.param.cases(root))


def pixels(cases: list[Case]) -> Iterator[Image.Image]:
    for case in cases:
        with Image.open(case.images["image"][0].path) as image:
            yield image


def auroc_on_test(cases: list[Case], features: np.ndarray) -> float:
    """One-vs-rest AUROC on the test patients of a logistic regression fitted on the training patients."""
    split, target = np.array([case.split for case in cases]), np.array([case.target for case in cases])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probe.fit(features[split == "train"], target[split == "train"])
    probability = probe.predict_proba(features[split == "test"])
    probability = probability[:, 1] if probability.shape[1] == 2 else probability
    return float(roc_auc_score(target[split == "test"], probability, multi_class="ovr"))


def test_each_split_has_its_own_patients_and_every_class(cohort: Cohort) -> None:
    dataset, _, cases = cohort
    assert Counter(case.split for case in cases) == dataset.counts
    patients = {split: {case.patient for case in cases if case.split == split} for split in dataset.counts}
    assert len(set.union(*patients.values())) == sum(map(len, patients.values()))
    for split in dataset.counts:
        assert {case.target for case in cases if case.split == split} == set(range(len(dataset.classes)))
    shares = np.array([len(patients[split]) for split in ("train", "val", "test")]) / sum(map(len, patients.values()))
    np.testing.assert_allclose(shares, (0.60, 0.15, 0.25))
    assert len({case.id for case in cases}) == len(cases)


def test_images_are_8_bit_planes_of_one_size(cohort: Cohort) -> None:
    dataset, _, cases = cohort
    mode = "L" if dataset is XRAY else "RGB"
    assert {(image.size, image.mode) for image in pixels(cases)} == {((SIDE, SIDE), mode)}


def test_the_manifest_describes_the_same_cases(cohort: Cohort) -> None:
    dataset, root, _ = cohort
    manifest = tomllib.loads((root / f"{dataset.name}.toml").read_text())
    assert manifest == {
        "name": dataset.name,
        "kind": "classification",
        "dims": 2,
        "modality": dataset.modality,
        "classes": list(dataset.classes),
        "cases": "cases.csv",
    }
    assert (root / "cases.csv").read_text().startswith("id,patient,split,image,target\n")


def test_one_seed_draws_one_cohort(cohort: Cohort, tmp_path: Path) -> None:
    dataset, root, cases = cohort
    assert dataset.twin is not None
    dataset.twin(tmp_path, np.random.default_rng(0))
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == len(cases) + 2
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_local_texture_energy_finds_the_finding(cohort: Cohort) -> None:
    """The largest local energy at wavelengths below 8 px: one number an image, no training."""
    _, _, cases = cohort
    grey = [np.asarray(image.convert("L"), dtype=np.float64) for image in pixels(cases)]
    energy = [gaussian_filter((plane - gaussian_filter(plane, 2)) ** 2, 5)[20:-20, 20:-20].max() for plane in grey]
    assert roc_auc_score([case.target > 0 for case in cases], energy) > 0.9


def test_mean_colour_stays_at_chance(cohort: Cohort) -> None:
    _, _, cases = cohort
    means = np.array([np.asarray(image.convert("RGB")).mean(axis=(0, 1)) for image in pixels(cases)])
    assert abs(auroc_on_test(cases, means) - 0.5) < 0.08


def test_pixels_at_32_by_32_stay_at_chance(cohort: Cohort) -> None:
    _, _, cases = cohort
    small = np.array(
        [np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).ravel() / 255 for image in pixels(cases)]
    )
    assert abs(auroc_on_test(cases, small) - 0.5) < 0.08


def test_the_pictures_of_one_view_share_their_mean(cohort: Cohort) -> None:
    dataset, _, cases = cohort
    means = np.array([np.asarray(image, dtype=np.float64).mean() for image in pixels(cases)]).reshape(
        -1, len(dataset.classes)
    )
    assert np.ptp(means, axis=1).max() < 0.3 < means[:, 0].std()


def test_a_folder_without_phantoms_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"phantom-xray: expected .*toml.*medprobe twin phantom-xray"):
        list(XRAY.cases(tmp_path))


def test_a_lost_image_is_named(cohort: Cohort, tmp_path: Path) -> None:
    dataset, root, cases = cohort
    shutil.copytree(root, tmp_path / "copy")
    lost = cases[3].images["image"][0].path.name
    (tmp_path / "copy" / "images" / lost).unlink()
    with pytest.raises(MissingError, match=f"1 of {len(cases)} files are missing.*images/{lost}"):
        list(dataset.cases(tmp_path / "copy"))
