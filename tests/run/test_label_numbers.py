"""What the numbers of predicted masks stand for: the reference as its own prediction scores 1, and nobody guesses."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import medprobe as mp
from medprobe.errors import RequestError
from medprobe.report.compare import comparisons
from medprobe.report.page import write_report
from medprobe.run.label_numbers import NOTE
from medprobe.run.score import score_predictions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


def write(folder: Path, masks: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(mask if mask.dtype == bool else mask.astype(np.uint8)).save(folder / f"c{number}.png")
    return folder


def manifest(folder: Path, masks: list[np.ndarray], classes: int, **fields: object) -> Path:
    write(folder / "masks", masks)
    rows = ["id,patient,split,image,target", *(f"c{n},p{n},test,masks/c{n}.png,masks/c{n}.png" for n in range(len(masks)))]
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    names = json.dumps([f"k{n}" for n in range(classes)])
    said = "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items() if value is not None)
    (folder / "data.toml").write_text(f'name = "own"\nkind = "segmentation"\nclasses = {names}\n{said}')
    return folder / "data.toml"


def dice(task: Path, predictions: Path, labels: str | None = None) -> float:
    out = predictions.parent / f"out{len(list(predictions.parent.iterdir()))}"
    (document,) = score_predictions(str(task), predictions, out, "x", None, lambda *_: None, labels=labels)
    return document["scores"]["dice"]["value"]


def labels_of(rng: np.random.Generator, classes: int, count: int = 3) -> list[np.ndarray]:
    """Maps of class indices that hold every class."""
    return [np.concatenate([np.arange(classes), rng.integers(0, classes, 40 - classes)]).reshape(8, 5) for _ in range(count)]


def moved(masks: list[np.ndarray]) -> list[np.ndarray]:
    return [np.roll(mask, 1, axis=0) for mask in masks]


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_reference_as_its_own_prediction_scores_1(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever values, in whatever order, with or without ignored voxels; asked for, and as copies without asking."""
    classes = data.draw(st.integers(2, 5))
    numbers = st.integers(0, 6) if data.draw(st.booleans()) else st.sampled_from([0, 1, 2, 3, 128, 254, 255])
    values = data.draw(st.none() | st.lists(numbers, min_size=classes, max_size=classes, unique=True))
    taken = range(classes) if values is None else values
    ignore = data.draw(st.none() | st.sampled_from([number for number in (1, 4, 9, 255) if number not in taken]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    masks = [np.array(taken)[mask] for mask in labels_of(rng, classes)]
    if ignore is not None:
        masks[1][3] = ignore
    home = tmp_path_factory.mktemp("own")
    task = manifest(home, masks, classes, values=values, ignore=ignore)
    assert dice(task, home / "masks") == 1
    assert dice(task, home / "masks", "values") == 1


@pytest.mark.parametrize("values", [[0, 2, 1, 3], [1, 0, 2, 3], [3, 2, 1, 0]])
def test_values_that_permute_the_indices_are_refused_until_the_user_says(tmp_path: Path, rng: np.random.Generator, values: list[int]) -> None:
    indices = labels_of(rng, 4)
    task = manifest(tmp_path, [np.array(values)[mask] for mask in indices], 4, values=values)
    truth = manifest(tmp_path / "plain", indices, 4)
    expected = dice(truth, write(tmp_path / "moved", moved(indices)))
    theirs = write(tmp_path / "theirs", [np.array(values)[mask] for mask in moved(indices)])
    for folder in (theirs, tmp_path / "moved"):
        with pytest.raises(RequestError, match=r"--labels values .* or --labels indices"):
            dice(task, folder)
    assert dice(task, theirs, "values") == pytest.approx(expected)
    assert dice(task, tmp_path / "moved", "indices") == pytest.approx(expected)


def test_numbers_of_both_kinds_are_refused_though_some_class_is_never_predicted(tmp_path: Path) -> None:
    masks = [np.tile([0, 1, 2, 3], (4, 3)) for _ in range(2)]
    task = manifest(tmp_path, masks, 3, values=[0, 2, 3], ignore=1)
    pred = write(tmp_path / "pred", [np.where(mask == 2, 2, 0) for mask in masks])
    with pytest.raises(RequestError, match="found 0, 2, which are mask values of the data as well as class indices"):
        dice(task, pred)
    assert dice(task, pred, "values") == pytest.approx(0.5), "one class found, one never predicted"
    assert dice(task, pred, "indices") == 0


@pytest.mark.parametrize(("values", "numbers", "read_as"), [([0, 2, 4], (0, 2, 4), "values"), ([0, 2, 4], (0, 1, 2), "indices"), ([10, 20, 30], (10, 20, 30), "values"), ([0, 1, 2], (0, 1, 2), None), (None, (0, 1, 2), None)])
def test_where_one_reading_is_possible_it_is_taken_and_said(tmp_path: Path, rng: np.random.Generator, values: list[int] | None, numbers: tuple[int, ...], read_as: str | None) -> None:
    indices = labels_of(rng, 3)
    task = manifest(tmp_path, [np.array(values or range(3))[mask] for mask in indices], 3, values=values)
    pred = write(tmp_path / "pred", [np.array(numbers)[mask] for mask in moved(indices)])
    (document,) = score_predictions(str(task), pred, tmp_path / "out", "x", None, lambda *_: None)
    assert document["facts"].get("labels") == read_as
    assert document["scores"]["dice"]["value"] == pytest.approx(dice(manifest(tmp_path / "plain", indices, 3), write(tmp_path / "moved", moved(indices))))


def test_two_classes_in_0_and_255_or_one_bit_are_understood_and_refused_where_255_is_the_background(tmp_path: Path, rng: np.random.Generator) -> None:
    indices = labels_of(rng, 2)
    for name, mask in (("grey", [mask * 255 for mask in indices]), ("bits", [mask.astype(bool) for mask in indices]), ("plain", indices)):
        pred = write(tmp_path / name, mask)
        for place, values in enumerate((None, [0, 255], [0, 1])):
            assert dice(manifest(tmp_path / f"{name}-{place}", [np.array(values or [0, 1])[mask] for mask in indices], 2, values=values), pred) == 1
    upside = manifest(tmp_path / "upside", [255 - mask * 255 for mask in indices], 2, values=[255, 0])
    for name in ("grey", "bits"):
        with pytest.raises(RequestError, match="--labels"):
            dice(upside, tmp_path / name)
        assert dice(upside, tmp_path / name, "indices") == 1
    assert dice(upside, tmp_path / "plain") == 1, "0 and 1 are class indices and nothing else"
    assert dice(upside, write(tmp_path / "theirs", [255 - mask * 255 for mask in indices]), "values") == 1


def test_255_that_is_ignored_in_the_references_is_no_class_in_silence(tmp_path: Path, rng: np.random.Generator) -> None:
    indices = labels_of(rng, 2)
    masks = [mask.copy() for mask in indices]
    masks[0][2] = 255
    task = manifest(tmp_path, masks, 2, ignore=255)
    grey = write(tmp_path / "grey", [mask * 255 for mask in indices])
    with pytest.raises(RequestError, match="--labels"):
        dice(task, grey)
    assert dice(task, grey, "indices") == 1
    assert dice(task, write(tmp_path / "plain", indices)) == 1
    assert dice(task, write(tmp_path / "both", [masks[0], *indices[1:]])) == 1, "1 and 255 in one file: as the references"


def test_masks_that_overlap_are_read_as_their_references(tmp_path: Path, rng: np.random.Generator) -> None:
    masks = [rng.integers(0, 2, (6, 5)).astype(np.uint8) for _ in range(2)]
    masks[0][0] = 9
    write(tmp_path / "m", masks)
    (tmp_path / "cases.csv").write_text("id,patient,split,image,a,b\nc,p,test,m/c0.png,m/c0.png,m/c1.png\n")
    (tmp_path / "data.toml").write_text('name = "two"\nkind = "segmentation"\nmultilabel = true\nclasses = ["a", "b"]\nignore = 9\n')
    (tmp_path / "pred").mkdir()
    for name, mask in zip("ab", masks, strict=True):
        Image.fromarray(mask).save(tmp_path / "pred" / f"c.{name}.png")
    assert dice(tmp_path / "data.toml", tmp_path / "pred") == 1
    assert dice(tmp_path / "data.toml", tmp_path / "pred", "values") == 1
    for name, mask in zip("ab", masks, strict=True):
        Image.fromarray(np.where(mask == 1, 255, 0).astype(np.uint8)).save(tmp_path / "pred" / f"c.{name}.png")
    assert dice(tmp_path / "data.toml", tmp_path / "pred") == 1


def test_the_folder_can_say_which_numbers_it_holds(tmp_path: Path, rng: np.random.Generator) -> None:
    """The note of a run, and the dataset.json that nnU-Net leaves beside its predictions."""
    values = [0, 2, 1]
    indices = labels_of(rng, 3)
    task = manifest(tmp_path, [np.array(values)[mask] for mask in indices], 3, values=values)
    own = write(tmp_path / "own", indices)
    (own / NOTE).write_text('{"labels": "indices"}')
    assert dice(task, own) == 1
    theirs = write(tmp_path / "theirs", [np.array(values)[mask] for mask in moved(indices)])
    (theirs / "dataset.json").write_text(json.dumps({"labels": {"k0": 0, "k1": 2, "k2": 1}}))
    assert dice(task, theirs) == pytest.approx(dice(task, theirs, "values"))
    (theirs / "dataset.json").write_text(json.dumps({"labels": {"other": 0, "k1": 2, "k2": 1}}))
    with pytest.raises(RequestError, match="--labels"):
        dice(task, theirs)


def test_what_a_run_predicts_is_scored_as_the_run_scored_it(tmp_path: Path, rng: np.random.Generator, medprobe) -> None:
    masks = [np.array([1, 0])[np.kron(mask, np.ones((4, 4), int))] for mask in labels_of(rng, 2, 9)]
    write(tmp_path / "masks", masks)
    parts = ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    rows = ["id,patient,split,image,target", *(f"c{n},p{n},{part},masks/c{n}.png,masks/c{n}.png" for n, part in enumerate(parts))]
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "data.toml").write_text('name = "own"\nkind = "segmentation"\nclasses = ["a", "b"]\nvalues = [1, 0]\n')
    medprobe(tmp_path, "run", "-m", "pixels", "-t", "data.toml/constant", "-o", "runs", "--cache", "cache", "--seeds", "0")
    (file,) = (tmp_path / "runs/results").rglob("seed0.json")
    (note,) = (tmp_path / "runs/predictions").rglob(NOTE)
    medprobe(tmp_path, "score", "--task", "data.toml", "--predictions", note.parent, "-o", "scored", "--name", "same")
    (again,) = (tmp_path / "scored/results").rglob("seed0.json")
    one, two = (json.loads(each.read_text())["scores"]["dice"] for each in (file, again))
    assert one["value"] == two["value"]


def test_the_option_is_for_label_maps_of_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    task = manifest(tmp_path, labels_of(rng, 2), 2)
    with pytest.raises(RequestError, match="--labels is values or indices"):
        dice(task, tmp_path / "masks", "colours")
    (tmp_path / "data.toml").write_text('name = "own"\nkind = "instances"\n')
    with pytest.raises(RequestError, match="--labels is values or indices, of label maps of classes; found 'values' for instances"):
        dice(task, tmp_path / "masks", "values")


OTHER_READINGS = {
    "values": ({"values": [0, 2, 1]}, ""),
    "ignore": ({"ignore": 2, "values": [0, 1, 5]}, ""),
    "classes": ({"names": ["k0", "k2", "k1"]}, ""),
    "unit": ({}, "1 2 2"),
    "spacing": ({}, "1 3 3"),
}


@pytest.mark.parametrize("changed", OTHER_READINGS)
def test_models_scored_under_other_readings_of_one_set_of_masks_are_not_compared(
    tmp_path: Path, rng: np.random.Generator, changed: str
) -> None:
    masks = labels_of(rng, 3, 6)

    def scored(name: str, fields: dict, spacing: str) -> None:
        fields = {**fields}
        task = manifest(tmp_path, masks, 3, **{key: fields[key] for key in ("values", "ignore") if key in fields})
        if "names" in fields:
            task.write_text(task.read_text().replace('["k0", "k1", "k2"]', json.dumps(fields["names"])))
        table = (tmp_path / "cases.csv").read_text().split()
        rows = [f"{row},{spacing}" for row in table[1:]]
        (tmp_path / "cases.csv").write_text("\n".join([f"{table[0]},spacing", *rows]) + "\n")
        predictions = write(tmp_path / name, moved(masks))
        score_predictions(str(task), predictions, tmp_path / "out", name, None, lambda *_: None, labels="indices")

    before = "1 2 2" if changed == "spacing" else ""
    scored("first", {"values": [0, 1, 2]}, before)
    scored("again", {"values": [0, 1, 2]}, before)
    scored("other", {"values": [0, 1, 2], **OTHER_READINGS[changed][0]}, OTHER_READINGS[changed][1])
    rows = {row["model"]: row for row in comparisons(tmp_path / "out", "first", "hd95")}
    assert rows["again"]["difference"] == 0
    assert "masks read in another way" in rows["other"]["error"]
    write_report(tmp_path / "out")
    assert "The data changed" in (tmp_path / "out/report/index.html").read_text()


@pytest.mark.parametrize("spaced", [("test",), ("train", "val"), ("train", "val", "test")])
def test_distances_have_the_unit_of_a_run_whichever_part_states_its_spacing(
    tmp_path: Path, rng: np.random.Generator, spaced: tuple[str, ...]
) -> None:
    task = manifest(tmp_path, labels_of(rng, 3, 6), 3)
    parts = ("train", "train", "val", "val", "test", "test")
    rows = [f"c{n},p{n},{part},masks/c{n}.png,masks/c{n}.png,{'1 2 2' if part in spaced else ''}" for n, part in enumerate(parts)]
    (tmp_path / "cases.csv").write_text("\n".join(["id,patient,split,image,target,spacing", *rows]) + "\n")
    ran = mp.evaluate("pixels", f"{task}/constant", tmp_path, tmp_path / "out", image_size=32)
    ours = ran.results[0]
    folder = next((tmp_path / "out/predictions").rglob("c4.png")).parent
    (theirs,) = score_predictions(str(task), folder, tmp_path / "scored", "same", None, lambda *_: None)
    assert theirs["task"]["distance_unit"] == ours["task"]["distance_unit"] == ("mm" if len(spaced) == 3 else "px")
    assert {key: score["value"] for key, score in theirs["scores"].items()} == pytest.approx(
        {key: score["value"] for key, score in ours["scores"].items()}, nan_ok=True
    )
