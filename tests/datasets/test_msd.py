"""Medical Segmentation Decathlon: the twins of its ten tasks through reader, check and score, and every trap of the sheet."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from sklearn.model_selection import KFold

from medprobe.check.dataset import check_dataset
from medprobe.datasets import msd
from medprobe.datasets._layout import checksum, locate
from medprobe.datasets.msd import MSD, TASKS, folds_of
from medprobe.errors import MissingError, RequestError
from medprobe.imaging import formats, nifti, recipes
from medprobe.imaging.labels import read_labels, write_labels
from medprobe.registry import DATASETS
from medprobe.run.score import score_predictions
from medprobe.types import Case, Dataset

NAMES = [task.name for task in TASKS]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def draw(tmp_path: Path) -> Callable[[str], tuple[Dataset, Path]]:
    """Name → (dataset, folder of its twin, in a data root)."""

    def twin(name: str) -> tuple[Dataset, Path]:
        dataset = DATASETS.get(name)
        root = tmp_path / "data" / dataset.folders[0]
        root.mkdir(parents=True)
        dataset.twin(root, np.random.default_rng(0))
        return dataset, root

    return twin


@pytest.fixture
def spleen(draw: Callable[[str], tuple[Dataset, Path]]) -> Path:
    return draw("msd-spleen")[1]


def cases(root: Path, name: str = "msd-spleen") -> list[Case]:
    return list(MSD[name].cases(root))


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Applies a change to dataset.json."""
    about = json.loads((root / "dataset.json").read_text())
    change(about)
    (root / "dataset.json").write_text(json.dumps(about))


def masks(dataset: Dataset, case: Case) -> Any:
    return read_labels(case.target, dims=3, classes=dataset.classes)


def official(samples: Path, folder: str) -> dict[str, Any]:
    file = samples.parent / "splits" / "msd" / f"{folder}.dataset.json"
    if not file.is_file():
        pytest.skip(f"no list at {file}")
    return json.loads(file.read_text())


def test_the_ten_names_are_those_promised() -> None:
    promised = "brain heart liver hippocampus prostate lung pancreas hepaticvessel spleen colon"
    assert [f"msd-{name}" for name in promised.split()] == NAMES
    assert [DATASETS.get(name) for name in NAMES] == list(MSD.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_passes_its_check_and_scores_its_own_masks_as_perfect(name: str, draw: Callable[[str], tuple[Dataset, Path]], tmp_path: Path) -> None:
    dataset, root = draw(name)
    assert sum(file.stat().st_size for file in root.rglob("*")) < 200_000
    assert locate(dataset, tmp_path / "data") == root
    assert [finding for finding in check_dataset(dataset, root) if not finding.ok] == []
    (tmp_path / "pred").mkdir()
    for place, case in enumerate(cases(root, name)):
        file = tmp_path / "pred" / f"{case.id}.nii.gz"
        if place % 2:  # on the axes of the file, as other programs write it, and on our own
            shutil.copy(case.target[0].path, file)
        else:
            write_labels(file, masks(dataset, case))
    documents = score_predictions(f"{name}/predictions", tmp_path / "pred", tmp_path / "out", "perfect", tmp_path / "data", lambda *_: None)
    assert [document["fold"] for document in documents] == [0, 1, 2, 3, 4]
    for document in documents:
        scores = document["scores"]
        assert scores["dice"]["value"] == 1
        assert (scores["hd95"]["value"], scores["hd95"]["unit"]) == (0, "mm")
        assert list(scores["dice"]["per_class"]) == list(dataset.classes[1:])
        assert scores["dice"]["n_cases"] == 2


def test_distances_follow_the_spacing_of_the_file_in_every_orientation(spleen: Path, tmp_path: Path) -> None:
    dataset = MSD["msd-spleen"]
    (tmp_path / "pred").mkdir()
    for case in cases(spleen):
        labels = masks(dataset, case)
        assert sorted(labels.spacing) == pytest.approx([0.7, 0.8, 2.5])
        moved = np.zeros_like(labels.labels)
        moved[1:] = labels.labels[:-1]
        write_labels(tmp_path / "pred" / f"{case.id}.nii.gz", type(labels)(moved, labels.spacing, labels.affine))
    documents = score_predictions("msd-spleen/predictions", tmp_path / "pred", tmp_path / "out", "moved", tmp_path / "data", lambda *_: None)
    distances = {document["fold"]: document["scores"]["hd"]["value"] for document in documents}
    found = {case.fold: [] for case in cases(spleen)}
    for case in cases(spleen):
        labels = masks(dataset, case)
        if labels.labels.any():
            found[case.fold].append(labels.spacing[0])
    assert distances == pytest.approx({fold: np.mean(values) for fold, values in found.items()}, rel=1e-5)


@pytest.mark.trap("datasets-3d 2 Traps: macOS resource files `._*.nii.gz` inside the archives must be skipped")
def test_leavings_of_a_mac_are_no_cases(spleen: Path) -> None:
    assert list(spleen.rglob("._*.nii.gz"))
    assert len(cases(spleen)) == 10
    entry = {"image": "./imagesTr/._spleen_2.nii.gz", "label": "./labelsTr/._spleen_2.nii.gz"}
    edit(spleen, lambda about: about["training"].append(entry))
    assert not any(case.id.startswith("._") for case in cases(spleen))
    (spleen / "imagesTr" / "spleen_2.nii.gz").unlink()
    with pytest.raises(MissingError, match=r"1 of 20 files .*imagesTr/spleen_2\.nii\.gz"):
        cases(spleen)


@pytest.mark.trap("datasets-3d 2 dataset.json: 4-D tasks store the channel as the last axis")
@pytest.mark.parametrize(("name", "channels"), [("msd-brain", 4), ("msd-prostate", 2)])
def test_channels_of_a_4d_image_are_ordered_sources_and_decoded_once(name: str, channels: int, draw: Callable[[str], tuple[Dataset, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    _, root = draw(name)
    calls = []
    volume = nifti.volume
    monkeypatch.setattr(nifti, "volume", lambda path, **options: calls.append(path) or volume(path, **options))
    nifti._volumes.cache_clear()
    for case in cases(root, name):
        sources = case.images["image"]
        assert [source.member for source in sources] == [str(place) for place in range(channels)]
        assert len({source.path for source in sources}) == 1
        stored = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(sources[0].path)).dataobj)
        assert stored.shape[3] == channels
        for place, source in enumerate(sources):
            np.testing.assert_array_equal(formats.read(source).pixels[0], stored[..., place].T)
        assert recipes.planes(sources, window="percentile", size=None).pixels.shape[1] == channels
    assert len(calls) == len(cases(root, name))


def test_a_3d_image_is_one_source(spleen: Path) -> None:
    assert all(case.images["image"][0].member is None and len(case.images["image"]) == 1 for case in cases(spleen))


@pytest.mark.trap("datasets-3d 2 dataset.json: the key `release` is misspelt `relase` in five tasks")
def test_the_release_key_may_be_misspelt_or_absent(draw: Callable[[str], tuple[Dataset, Path]]) -> None:
    misspelt = []
    for name in NAMES:
        _, root = draw(name)
        misspelt += [name] if "relase" in json.loads((root / "dataset.json").read_text()) else []
        before = cases(root, name)
        edit(root, lambda about: [about.pop(key, None) for key in ("release", "relase")])
        assert cases(root, name) == before
    assert misspelt == ["msd-heart", "msd-hippocampus", "msd-prostate", "msd-lung", "msd-pancreas"]


@pytest.mark.trap("datasets-3d 2 dataset.json: `test` is a list of strings, some write dicts")
@pytest.mark.trap("datasets-3d 2 splits/msd: Task08 lists 139 test images while numTest says 140")
def test_the_test_list_is_not_read_whatever_its_form(spleen: Path) -> None:
    before = cases(spleen)
    edit(spleen, lambda about: about.update(test=[{"image": "./imagesTs/spleen_99.nii.gz"}], numTest=140))
    assert cases(spleen) == before


@pytest.mark.trap("datasets-3d 2 Traps: test labels were never released")
def test_test_images_are_no_cases_and_need_not_be_there(spleen: Path) -> None:
    before = cases(spleen)
    assert list((spleen / "imagesTs").iterdir())
    shutil.rmtree(spleen / "imagesTs")
    assert cases(spleen) == before
    assert all(case.target is not None for case in before)


@pytest.mark.trap("datasets-3d 2 Traps: label ids of Task01 differ from those of BraTS")
def test_labels_in_another_order_are_refused(draw: Callable[[str], tuple[Dataset, Path]]) -> None:
    dataset, root = draw("msd-brain")
    assert dataset.classes == ("background", "edema", "non-enhancing tumor", "enhancing tumour")
    edit(root, lambda about: about.update(labels={"0": "background", "1": "non-enhancing tumor", "2": "edema", "3": "enhancing tumour"}))
    with pytest.raises(RequestError, match=r"dataset\.json: expected the labels of Task01_BrainTumour, 0 to 3: background, edema, .*found background, non-enhancing tumor"):
        cases(root, "msd-brain")


def test_channels_in_another_order_are_refused(draw: Callable[[str], tuple[Dataset, Path]]) -> None:
    _, root = draw("msd-prostate")
    edit(root, lambda about: about.update(modality={"0": "ADC", "1": "T2"}))
    with pytest.raises(RequestError, match="expected the modality of Task05_Prostate, 0 to 1: T2, ADC, found ADC, T2"):
        cases(root, "msd-prostate")


def test_the_folder_of_another_task_is_refused(draw: Callable[[str], tuple[Dataset, Path]]) -> None:
    _, root = draw("msd-liver")
    with pytest.raises(RequestError, match=r"expected the labels of Task09_Spleen, .*found background, liver, cancer"):
        cases(root)


@pytest.mark.trap("datasets-3d 2 Traps: orientations differ between tasks and cases")
def test_images_and_masks_of_every_orientation_lie_on_each_other(spleen: Path) -> None:
    codes = set()
    for case in cases(spleen):
        image, mask = case.images["image"][0].path, case.target[0].path
        codes.add(nibabel.aff2axcodes(nibabel.load(image).affine))
        raw, labels = formats.read(case.images["image"][0]), masks(MSD["msd-spleen"], case)
        assert nibabel.aff2axcodes(raw.affine) == ("R", "A", "S")
        assert raw.pixels.shape[1:] == labels.labels.shape
        np.testing.assert_allclose(raw.affine, labels.affine)
        if labels.labels.any():
            assert raw.pixels[0][labels.labels == 1].mean() > raw.pixels[0][labels.labels == 0].mean() + 30
        assert nibabel.load(mask).shape == nibabel.load(image).shape
    assert codes == {("R", "A", "S"), ("L", "P", "S"), ("A", "S", "R")}


@pytest.mark.trap("datasets-3d 2 Arrays: do not assume the number type; float images and masks are common")
def test_number_types_vary_between_files(spleen: Path) -> None:
    images = {nibabel.load(case.images["image"][0].path).get_data_dtype() for case in cases(spleen)}
    labels = {nibabel.load(case.target[0].path).get_data_dtype() for case in cases(spleen)}
    assert images == {np.dtype(np.int16), np.dtype(np.float32)}
    assert labels == {np.dtype(np.uint8), np.dtype(np.float32)}
    assert all(masks(MSD["msd-spleen"], case).labels.dtype == np.uint8 for case in cases(spleen))


@pytest.mark.trap("datasets-3d 2 Metric: a class absent from a case is left out, not 0 or 1")
def test_a_class_is_absent_from_one_case(draw: Callable[[str], tuple[Dataset, Path]]) -> None:
    dataset, root = draw("msd-liver")
    present = [set(np.unique(masks(dataset, case).labels)) for case in cases(root, "msd-liver")]
    assert Counter(map(len, present)) == {3: 9, 2: 1}


@pytest.mark.equality(
    "MIC-DKFZ/nnUNet, crossval_split.py: five folds by scikit-learn's KFold of seed 12345; "
    "identical"
)
@pytest.mark.trap("datasets-3d 2 Paper's split: five folds; KFold(5, shuffle, seed 12345) over sorted ids")
@pytest.mark.parametrize("count", [10, 20, 41, 63])
def test_folds_are_those_of_scikit_learn(count: int) -> None:
    names = sorted(f"spleen_{number}" for number in range(count))
    folds = folds_of(names)
    for fold, (_, test) in enumerate(KFold(5, shuffle=True, random_state=12345).split(names)):
        assert [name for name in names if folds[name] == fold] == [names[place] for place in test]


@pytest.mark.trap("datasets-3d 2 Traps: Task06 has 63 cases although 64 is often quoted; Task07 281, not 282")
@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_counts_and_folds_are_those_of_the_released_lists(task: msd.Task, samples: Path) -> None:
    about, dataset = official(samples, task.folder), MSD[task.name]
    names = sorted(Path(entry["image"]).name.removesuffix(".nii.gz") for entry in about["training"])
    assert len(names) == about["numTraining"] == task.training == sum(dataset.counts.values())
    folds = folds_of(names)
    assert Counter(f"fold{fold}" for fold in folds.values()) == dataset.counts
    for fold in range(5):
        assert checksum(name for name in names if folds[name] == fold) == dataset.checksums[f"fold{fold}"]
    assert tuple(about["labels"].values()) == dataset.classes
    assert tuple(about["modality"].values()) == task.modality
    assert task.first.rpartition("_")[0] == names[0].rpartition("_")[0]
    assert len(task.first) == min(map(len, names))
    assert (task.training, task.name) not in ((64, "msd-lung"), (282, "msd-pancreas"))


@pytest.mark.trap("datasets-3d 2 tree: ids are not consecutive and padded in some tasks only")
def test_ids_are_the_names_of_the_files_and_patients(draw: Callable[[str], tuple[Dataset, Path]]) -> None:
    for name, first in (("msd-spleen", "spleen_2"), ("msd-hippocampus", "hippocampus_001")):
        _, root = draw(name)
        found = cases(root, name)
        assert first in {case.id for case in found}
        assert [case.id for case in found] == sorted(case.id for case in found)
        assert all(case.patient == case.id and case.split is None for case in found)
        assert Counter(case.fold for case in found) == dict.fromkeys(range(5), 2)


def test_real_volumes_are_read_as_the_task_they_come_from(samples: Path, tmp_path: Path) -> None:
    files = sorted((samples / "mri_hippocampus" / "images").glob("*.nii.gz"))[:5]
    about = official(samples, "Task04_Hippocampus")
    for place, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
        (tmp_path / folder).mkdir()
        for file in files:
            shutil.copy(samples / "mri_hippocampus" / place / file.name, tmp_path / folder)
    known = {Path(entry["image"]).name for entry in about["training"]}
    assert {file.name for file in files} <= known
    about["training"] = [entry for entry in about["training"] if (tmp_path / entry["image"]).is_file()]
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(MissingError, match="expected 260 different cases as its numTraining says, found 5"):
        cases(tmp_path, "msd-hippocampus")
    edit(tmp_path, lambda about: about.update(numTraining=5))
    for case in cases(tmp_path, "msd-hippocampus"):
        assert set(np.unique(masks(MSD["msd-hippocampus"], case).labels)) == {0, 1, 2}
        assert formats.count_planes(case.images["image"][0]) > 20


def test_a_partial_download_is_named_with_count_and_first_files(spleen: Path) -> None:
    shutil.rmtree(spleen / "labelsTr")
    with pytest.raises(MissingError, match=r"msd-spleen: 10 of 20 files are missing .*first labelsTr/spleen_11\.nii\.gz"):
        cases(spleen)
    (spleen / "dataset.json").unlink()
    with pytest.raises(MissingError, match=r"dataset\.json.*get the data from http://medicaldecathlon\.com, Task09_Spleen\.tar"):
        cases(spleen)


def test_a_dataset_json_cut_short_or_of_another_form_is_refused(spleen: Path) -> None:
    whole = (spleen / "dataset.json").read_text()
    (spleen / "dataset.json").write_text(whole[:200])
    with pytest.raises(MissingError, match="the download may be partial"):
        cases(spleen)
    for change in ({"labels": {"background": 0, "spleen": 1}}, {"training": ["./imagesTr/spleen_2.nii.gz"]}, {"training": [{"image": "../../spleen_2.nii.gz", "label": "a.nii.gz"}]}):
        (spleen / "dataset.json").write_text(json.dumps({**json.loads(whole), **change}))
        with pytest.raises(RequestError, match=r"use the released dataset\.json"):
            cases(spleen)


def test_tasks_may_lie_together_in_one_folder(spleen: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "MSD").mkdir()
    moved = shutil.move(spleen, tmp_path / "data" / "MSD" / spleen.name)
    assert locate(MSD["msd-spleen"], tmp_path / "data").samefile(moved)
    assert locate(MSD["msd-spleen"], Path(moved)).samefile(moved)


def test_windows_and_choices_are_on_the_page() -> None:
    assert {dataset.recipe for dataset in MSD.values()} == {"percentile", "mediastinum", "lung"}
    assert MSD["msd-lung"].recipe == "lung"
    assert MSD["msd-brain"].recipe == MSD["msd-heart"].recipe == "percentile"
    assert "RandomState(12345)" in (msd.__doc__ or "")
