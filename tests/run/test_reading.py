"""What tasks ask of planes, through plan, store and samples: windows by channel, one picture of channels, stride and axis."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medprobe as mp
from medprobe import encoders
from medprobe.datasets.autolaparo import AUTOLAPARO
from medprobe.datasets.hecktor2022 import HECKTOR2022
from medprobe.errors import CaseError, RequestError
from medprobe.imaging import nifti, recipes
from medprobe.run import reading
from medprobe.run.encoded import open_bank, readable_of, samples_of
from medprobe.run.groups import Group
from medprobe.run.plan import Plan, make
from medprobe.run.question import Question
from medprobe.run.request import Request
from medprobe.types import Source

SHAPE = (5, 6, 7)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Eight volumes of two channels with different values, in two classes, half to test."""
    rng = np.random.default_rng(0)
    rows = ["id,patient,split,image,target"]
    for number in range(8):
        for channel, (middle, spread) in enumerate(((0, 400), (5, 3))):
            nifti.save(tmp_path / f"{number}-{channel}.nii.gz", rng.normal(middle + 300 * (number % 2) * (1 - channel), spread, SHAPE).astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]), None)
        rows.append(f"c{number},p{number},{'test' if number > 3 else 'train'},{number}-0.nii.gz;{number}-1.nii.gz,{'ab'[number % 2]}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.toml").write_text('name = "own"\nkind = "classification"\ndims = 3\nclasses = ["a", "b"]\n')
    return tmp_path


def nothing(done: int, total: int, what: str) -> None:
    """No progress."""


def planned(root: Path, model: str = "mean-rgb", task: str = "own.toml/knn", data: Path | None = None, **settings: Any) -> tuple[Plan, Request]:
    request = Request(model, str(root / task) if task.startswith("own") else task, root / "out", data, image_size=32, settings={f"task.{name}": value for name, value in settings.items()}, cache=root / "cache")
    return make(request, nothing), request


def encoded(root: Path, **asked: Any) -> tuple[Question, Group, Any]:
    """Question, group, and its samples of all cases."""
    plan, request = planned(root, **asked)
    (group,) = plan.groups
    question = group.cells[0].question
    bank = open_bank(group, request, root / "cache", nothing)
    return question, group, samples_of(question, group, bank, range(len(question.cases)), {})


def test_planes_of_each_case_are_found_again_in_every_part_and_unlabelled_cases_are_in_none(tmp_path: Path) -> None:
    AUTOLAPARO.twin(tmp_path / "autolaparo", np.random.default_rng(0))
    plan, request = planned(tmp_path, "mean-rgb", "autolaparo/knn", tmp_path)
    (group,) = plan.groups
    question = group.cells[0].question
    question = replace(question, cases=tuple(replace(case, target=None) if number == 1 else case for number, case in enumerate(question.cases)))
    bank = open_bank(group, request, tmp_path / "cache", nothing)
    found = readable_of(question, group, bank, request, {})
    wanted = {index: samples_of(question, group, bank, [index], {}) for index in range(len(question.cases)) if index != 1}
    assert 1 not in found.of_case
    assert len(found.part([1])) == 0
    for indices in ([0], [2, 0], list(wanted)):
        part = found.part(indices)
        assert [item.id for item in part.items] == [item.id for index in indices for item in wanted[index].items]
        np.testing.assert_array_equal(part.pooled("cls"), np.concatenate([wanted[index].pooled("cls") for index in indices]))


def test_a_volume_without_planes_is_an_unreadable_case(volumes: Path) -> None:
    np.save(volumes / "none.npy", np.zeros((0, 6, 7), np.float32))
    table = (volumes / "cases.csv").read_text().replace("2-0.nii.gz;2-1.nii.gz", "none.npy;none.npy")
    (volumes / "cases.csv").write_text(table)
    plan, request = planned(volumes)
    (group,) = plan.groups
    bank = open_bank(group, request, volumes / "cache", nothing)
    with pytest.raises(CaseError, match=r"c2: .*none.npy: expected .* found"):
        readable_of(group.cells[0].question, group, bank, request, {})
    assert len(readable_of(group.cells[0].question, group, bank, replace(request, skip_unreadable=1), {}).samples) == 7


def expected(model: str, sources: tuple[Source, ...], window: str, **options: Any) -> np.ndarray:
    pixels = recipes.planes(sources, **{"window": window, "size": 32, **options}).pixels
    return np.asarray(encoders.load(model, image_size=32)(pixels).cls)


def test_each_channel_is_encoded_and_kept_under_its_own_window(volumes: Path) -> None:
    one, two = (tuple(Source(volumes / f"3-{channel}.nii.gz") for channel in (0, 1))[place : place + 1] for place in (0, 1))
    for window, windows in (("ct+suv", ("ct", "suv")), ("suv+ct", ("suv", "ct")), ("ct", ("ct", "ct")), ("ct+minmax", ("ct", "minmax"))):
        _, group, samples = encoded(volumes, window=window)
        assert len(group.missing) == 16  # nothing that was kept under another window is found
        wanted = np.concatenate([expected("mean-rgb", source, each) for source, each in zip((one, two), windows, strict=True)], axis=1)
        np.testing.assert_allclose(samples[3].features["image"].cls, wanted, atol=1e-6)
    assert planned(volumes, window="ct+suv")[0].groups[0].missing == ()


@pytest.mark.parametrize(("channels", "count"), [("late", 2), ("rgb", 3)])
def test_an_encoder_of_any_channels_sees_them_together(volumes: Path, channels: str, count: int) -> None:
    question, group, samples = encoded(volumes, model="pixels", window="ct+suv", channels=channels)
    sources = reading.images(question.task, question.cases[0])["image"]
    assert len(group.entries) == 8
    assert samples[0].features["image"].cls.shape == (5, count * 1024)
    np.testing.assert_allclose(samples[0].features["image"].cls, expected("pixels", sources, "ct+suv", rgb=channels == "rgb"), atol=1e-6)


def test_channels_as_one_picture_are_encoded_once_and_apart_from_late_fusion(volumes: Path) -> None:
    late, rgb = encoded(volumes, window="ct"), encoded(volumes, window="ct", channels="rgb")
    assert late[1].encoding.key != rgb[1].encoding.key
    assert (len(late[1].entries), len(rgb[1].entries)) == (16, 8)
    one, two = (late[2][0].features["image"].cls[:, place : place + 1] for place in (0, 3))
    np.testing.assert_allclose(rgb[2][0].features["image"].cls, np.concatenate([one, two, (one + two) / 2], axis=1), atol=1e-6)


def test_three_windows_are_three_channels_of_each_source(volumes: Path) -> None:
    question, _, samples = encoded(volumes, window="lung|mediastinum|bone")
    sources = question.cases[5].images["image"]
    wanted = np.concatenate([expected("mean-rgb", (source,), "lung|mediastinum|bone") for source in sources], axis=1)
    np.testing.assert_allclose(samples[5].features["image"].cls, wanted, atol=1e-6)
    assert encoded(volumes, model="pixels", window="lung|mediastinum|bone")[2][0].features["image"].cls.shape == (5, 6 * 1024)


@pytest.mark.parametrize(("axis", "across"), [("axial", 5), ("coronal", 6), ("sagittal", 7)])
@pytest.mark.parametrize("stride", [1, 3])
def test_every_nth_plane_across_an_axis(volumes: Path, axis: str, across: int, stride: int) -> None:
    whole = encoded(volumes, axis=axis, window="minmax")[2][1].features["image"].cls
    question, group, samples = encoded(volumes, axis=axis, stride=stride, window="ct")
    (source, _) = question.cases[1].images["image"]
    stack = np.moveaxis(recipes.image((source,), "ct").pixels, {"axial": 1, "coronal": 2, "sagittal": 3}[axis], 1)[:, ::stride]
    found = samples[1].features["image"].cls[:, 0]
    assert len(whole) == across
    assert [entry.planes for entry in group.entries.values()] == [-(-across // stride)] * 16
    np.testing.assert_allclose(found, stack.mean(axis=(0, 2, 3)), atol=0.02)  # planes were resized
    assert question.fingerprint == encoded(volumes)[0].fingerprint


def test_a_run_takes_the_settings_and_says_them(volumes: Path) -> None:
    settings = {"task.window": "ct+suv", "task.channels": "rgb", "task.stride": 2, "task.axis": "coronal"}
    found = mp.evaluate("mean-rgb", str(volumes / "own.toml/logreg"), None, volumes / "out", cache=volumes / "cache", image_size=32, settings=settings)
    (result,) = found.results
    assert result["status"] == "done"
    assert {f"task.{name}": result["task"]["config"][name] for name in ("window", "channels", "stride", "axis")} == settings
    document = json.loads(next((volumes / "out").rglob("seed0.json")).read_text())
    assert document["facts"]["task"]["axis"] == "coronal"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": "ct+suv+ct"}, "one for each of the 2 channels of an image, found 3"),
        ({"window": "ct+sub"}, "no window named 'sub'; did you mean suv"),
        ({"window": "lung|bone"}, "three joined by"),
        ({"channels": "rgb", "window": "lung|mediastinum|bone"}, "one image of two or three channels, found 6"),
        ({"channels": "early"}, "expected one of late, rgb"),
        ({"axis": "corona"}, "did you mean coronal"),
        ({"stride": 0}, "task.stride: expected a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_before_anything_runs(volumes: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        planned(volumes, **settings)


def test_pictures_have_no_axis_and_segmentation_needs_every_plane(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (volumes / "own.toml").write_text((volumes / "own.toml").read_text().replace("dims = 3", "dims = 2"))
    for settings, said in (({"axis": "sagittal"}, "is for volumes"), ({"stride": 2}, "is for the classification of volumes")):
        with pytest.raises(RequestError, match=said):
            planned(volumes, **settings)
    root = tmp_path_factory.mktemp("data")
    assert HECKTOR2022["ct"].twin is not None
    HECKTOR2022["ct"].twin(root / "hecktor2022", np.random.default_rng(0))
    with pytest.raises(RequestError, match=r"hecktor2022-ctpet/constant: segmentation needs every plane, found task\.stride=2"):
        planned(volumes, task="hecktor2022-ctpet/constant", data=root, stride=2)


# --------------------------------------------------------------------------------------- segmentation


@pytest.fixture
def hecktor(tmp_path: Path) -> Path:
    assert HECKTOR2022["ct"].twin is not None
    HECKTOR2022["ct"].twin(tmp_path / "hecktor2022", np.random.default_rng(0))
    return tmp_path


def test_ct_and_pet_reach_a_head_on_the_grid_of_the_mask(hecktor: Path) -> None:
    question, group, samples = encoded(hecktor, task="hecktor2022-ctpet/linear3d", data=hecktor)
    assert group.encoding.facts["window"] == "ct+suv"
    sample, case = samples[0], question.cases[0]
    grid = np.asarray(sample.features["image"].grid)
    assert sample.target.shape == (8, 10, 10)
    assert grid.shape[:2] == (8, 6)  # a plane of the mask each, three means of CT and three of PET
    image = recipes.image(case.images["image"], "ct+suv").pixels
    np.testing.assert_allclose(grid.mean(axis=(2, 3))[:, [0, 3]], image.mean(axis=(2, 3)).T, atol=0.02)


@pytest.mark.parametrize("axis", ["coronal", "sagittal"])
@pytest.mark.parametrize("orientation", ["radiological", "canonical"])
def test_masks_across_another_axis_lie_as_the_planes_of_their_image(hecktor: Path, axis: str, orientation: str) -> None:
    _, _, samples = encoded(hecktor, task="hecktor2022-ctpet/constant", data=hecktor, axis=axis, orientation=orientation)
    plain = encoded(hecktor, task="hecktor2022-ctpet/constant", data=hecktor, orientation="canonical")[2]
    for one, other in zip(samples, plain, strict=True):
        wanted = np.moveaxis(other.target.labels, {"coronal": 1, "sagittal": 2}[axis], 0)
        wanted = wanted[:, ::-1, ::-1] if orientation == "radiological" else wanted
        np.testing.assert_array_equal(one.target.labels, wanted)
        assert len(one.features["image"].cls) == one.target.shape[0] == 10
        assert one.target.spacing == {"coronal": (2, 3, 2), "sagittal": (2, 3, 2)}[axis]


@pytest.mark.parametrize("axis", ["coronal", "sagittal"])
def test_a_head_that_learnt_across_another_axis_finds_the_block_where_it_lies(tmp_path: Path, axis: str) -> None:
    rng, rows = np.random.default_rng(0), ["id,patient,split,image,target"]
    for number in range(12):
        mask = np.zeros((6, 10, 14), np.uint8)
        z, y, x = rng.integers(0, 3), rng.integers(0, 6), rng.integers(0, 9)
        mask[z : z + 3, y : y + 4, x : x + 5] = 1
        nifti.save(tmp_path / f"{number}.nii.gz", rng.normal(0, 10, mask.shape).astype(np.float32) + 100 * mask, np.diag([-2.0, 2.0, 3.0, 1.0]), None)
        nifti.save(tmp_path / f"m{number}.nii.gz", mask, np.diag([-2.0, 2.0, 3.0, 1.0]), None)
        rows.append(f"c{number},p{number},{'test' if number > 7 else 'train'},{number}.nii.gz,m{number}.nii.gz")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.toml").write_text('name = "own"\nkind = "segmentation"\ndims = 3\nclasses = ["background", "block"]\n')
    settings = {"task.axis": axis, "task.window": "minmax", "head.epochs": 60, "head.learning_rate": 0.05}
    found = mp.evaluate("pixels", str(tmp_path / "own.toml/linear3d"), None, tmp_path / axis, cache=tmp_path / "cache", image_size=32, settings=settings)
    assert found.results[0]["scores"]["dice"]["value"] > 0.85
    for file in (tmp_path / axis / "predictions").rglob("*.nii.gz"):
        written, mask = (nifti.volume(path) for path in (file, tmp_path / f"m{file.name[1:]}"))
        assert written.array.shape == mask.array.shape
        np.testing.assert_allclose(written.affine, mask.affine)
        assert (written.array == mask.array).mean() > 0.9
