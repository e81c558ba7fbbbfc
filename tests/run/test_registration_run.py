"""Registration by the command line: pairs of pictures and volumes through run, score, report, compare and show."""

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import CaseError, RequestError
from medprobe.metrics.dense import registration_case
from medprobe.run import pair_pictures, panels, reading
from medprobe.tasks.suites import default_task, with_settings

PAIRS = 8


def _ring(shape: tuple[int, ...], radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image of a bright disk or ball in a textured field, and its label."""
    places = np.indices(shape) - (np.array(shape).reshape(-1, *[1] * len(shape)) - 1) / 2
    inside = (places**2).sum(axis=0) < radius**2
    image = gaussian_filter(90.0 * inside + 10 * rng.random(shape), 1.0) + 40
    return image.astype(np.uint8), inside.astype(np.uint8)


def write_pairs(home: Path, dims: int) -> None:
    """Disks of 8 pixels that shrink to 6, of eight patients; volumes lie on grids that differ by half a voxel and are turned."""
    rng, rows = np.random.default_rng(1), []
    for number in range(PAIRS):
        part = "train" if number < 3 else "val" if number < 5 else "test"
        files = []
        for role, radius in (("fixed", 6.0), ("moving", 8.0)):
            image, label = _ring((32, 32) if dims == 2 else (12, 32, 32), radius, rng)
            for kind, array in (("", image), ("_target", label)):
                if dims == 2:
                    name = f"{number}.{role}{kind}.png"
                    Image.fromarray(array).save(home / name)
                else:
                    name = f"{number}.{role}{kind}.nii.gz"
                    affine = np.diag([-1.0, 1, 2, 1]) if role == "moving" else np.diag([1.0, 1, 2, 1])
                    affine[0, 3] = 31.5 if role == "moving" else 0.0
                    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), home / name)
                files.append((role + kind, name))
        by = dict(files)
        rows.append(",".join([f"c{number}", f"p{number}", part, *(by[key] for key in ("fixed", "moving", "fixed_target", "moving_target"))]))
    (home / "cases.csv").write_text("\n".join(["id,patient,split,fixed,moving,fixed_target,moving_target", *rows]) + "\n")
    (home / "rings.toml").write_text(f'name = "rings"\nkind = "registration"\ndims = {dims}\nclasses = ["background", "ring"]\ncases = "cases.csv"\n')


@pytest.fixture(params=[2, 3])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_pairs(tmp_path, request.param)
    return tmp_path


@pytest.fixture
def plane(tmp_path: Path) -> Path:
    write_pairs(tmp_path, 2)
    return tmp_path


def scores(home: Path, out: str, head: str) -> dict:
    (file,) = (home / out / "results/rings" / head).rglob("summary.json")
    return json.loads(file.read_text())["scores"]


def test_pairs_are_registered_scored_drawn_and_reported(home: Path, medprobe) -> None:
    more = ("-o", "out", "--cache", "cache")
    medprobe(home, "run", "-m", "pixels", "-t", "rings.toml/identity,rings.toml/convexadam", *more)
    before, after = scores(home, "out", "identity"), scores(home, "out", "convexadam")
    assert before["dice"]["value"] == pytest.approx(before["dice.unregistered"]["value"], abs=1e-12)
    assert after["dice.unregistered"]["value"] == pytest.approx(before["dice"]["value"], abs=1e-12)
    assert after["dice"]["value"] > before["dice"]["value"] + 0.1
    assert after["dice"]["n_cases"] == 3
    dims = json.loads((home / "out/results/rings/identity/pixels/seed0.json").read_text())["task"]
    assert dims["distance_unit"] == ("px" if (home / "0.fixed.png").exists() else "mm")
    assert len(list((home / "out/pictures").rglob("*.png"))) == 6
    folder = next((home / "out/predictions/rings/convexadam").rglob("*.disp.nii.gz")).parent
    shutil.copytree(folder, home / "given")
    medprobe(home, "score", "--task", "rings.toml", "--predictions", "given", "-o", "scored", "--name", "same")
    assert scores(home, "scored", "predictions")["dice"] == after["dice"]
    assert scores(home, "scored", "predictions")["hd95"] == after["hd95"]
    rows = json.loads(medprobe(home, "compare", "out", "--baseline", "pixels/identity", "--json").stdout)
    assert [row["difference"] for row in rows] == [pytest.approx(after["dice"]["value"] - before["dice"]["value"], abs=1e-9)]
    medprobe(home, "report", "out")
    assert "folding_fraction" in (home / "out/report/index.html").read_text()


def test_maps_of_an_encoder_are_reduced_and_stand_beside_descriptors(home: Path, medprobe) -> None:
    pytest.importorskip("timm")
    vit = "random:timm:vit_pwee_patch16_reg1_gap_256"
    medprobe(home, "run", "-m", f"{vit},{vit}+mind,mind", "-t", "rings.toml/convexadam", "--image-size", 64, "-o", "out", "--cache", "cache")
    found = {file.parent.name: json.loads(file.read_text())["scores"]["dice"]["value"] for file in (home / "out").rglob("summary.json")}
    assert len(found) == 3
    assert found.pop(next(name for name in found if name.startswith("mind"))) > 0.8
    assert all(0.5 < value < 1 for value in found.values()), "untrained maps: they run"
    encodings = list((home / "cache/features").glob("*/encoding.json"))
    assert len(encodings) == 1, "the same planes are encoded once for both"


def test_settings_are_chosen_on_validation_pairs(plane: Path, medprobe) -> None:
    medprobe(plane, "run", "-m", "pixels", "-t", "rings.toml/convexadam", "--set", "head.tune=lambda_weight=0.01|100,niter=5", "-o", "out", "--cache", "cache")
    (file,) = (plane / "out/results").rglob("seed0.json")
    fit = json.loads(file.read_text())["fit"]
    assert fit["validation_pairs"] == 2
    assert [one["settings"] for one in fit["tried"]] == [{"lambda_weight": 0.01, "niter": 5}, {"lambda_weight": 100, "niter": 5}]
    assert fit["tuned"] == max(fit["tried"], key=lambda one: one["dice"])["settings"]
    assert "head.tune" in medprobe(plane, "run", "-m", "pixels", "-t", "rings.toml/convexadam", "--set", "head.tune=lamda=1", "-o", "more", "--cache", "cache", status=2).stderr


def test_what_cannot_be_registered_is_said(home: Path, medprobe) -> None:
    two = (home / "0.fixed.png").exists()
    name = "6.moving.png" if two else "6.moving.nii.gz"
    (home / name).write_bytes((home / name).read_bytes()[:60])
    words = ("run", "-m", "pixels", "-t", "rings.toml/convexadam", "-o", "out", "--cache", "cache")
    assert name in medprobe(home, *words, status=1).stderr
    medprobe(home, *words, "--skip-unreadable", 1)
    assert scores(home, "out", "convexadam")["dice"]["n_cases"] == 2
    label = "7.moving_target.png" if two else "7.moving_target.nii.gz"
    if two:
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(home / label)
    else:
        image = nibabel.load(home / label)
        nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), home / label)
    medprobe(home, *words[:-4], "-o", "absent", "--cache", "cache", "--skip-unreadable", 1)
    found = scores(home, "absent", "convexadam")
    assert found["hd95"]["n_undefined"] == 1
    assert found["dice"]["n_undefined"] == 0, "a label that is missed has Dice 0"


def test_every_reading_of_the_unregistered_pairs_is_printed(home: Path, medprobe) -> None:
    found = json.loads(medprobe(home, "check", "task", "rings.toml/identity", "--json").stdout)
    said = [one for one in found if "unregistered" in str(one)]
    assert len(said) == 2 * 6 * (1 if (home / "0.fixed.png").exists() else 2)


def asked(home: Path, model: str, task: str, **settings: object) -> None:
    import medprobe as mp

    mp.evaluate(model, f"{home}/rings.toml/{task}", None, home / "out", cache=home / "cache", settings={f"{'task' if name in ('axis', 'reduce') else 'head'}.{name}": value for name, value in settings.items()})


@pytest.mark.parametrize(
    ("model", "task", "settings", "said"),
    [
        ("pixels", "convexadam", {"axis": "coronal"}, "task.axis"),
        ("pixels", "convexadam", {"tune": 5}, "head.tune"),
        ("pixels", "convexadam", {"tune": "niter"}, "values for niter"),
        ("pixels", "convexadam", {"tune": "lamda=1"}, "did you mean lambda_weight"),
        ("pixels", "identity", {"tune": "niter=1"}, "no settings to choose"),
        ("pixels", "convexadam", {"inverse_consistent": "maybe"}, "true or false"),
        ("pixels", "convexadam", {"grid_sp": -1}, "grid_sp"),
        ("pixels", "convexadam", {"grid_sp_adam": [2, 2]}, "each of the 3 axes"),
        ("pixels", "convexadam", {"tune": "grid_sp=3|[2,2]"}, "grid_sp must be .* 3 axes"),
        ("pixels", "convexadam", {"tune": "grid_sp_adam=[2,2]|2"}, "grid_sp_adam must be .* 3 axes"),
        ("mind", "demons", {}, "add pixels"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_done(tmp_path: Path, model: str, task: str, settings: dict, said: str) -> None:
    write_pairs(tmp_path, 3)
    with pytest.raises(RequestError, match=said):
        asked(tmp_path, model, task, **settings)
    assert not (tmp_path / "out/results").exists()
    assert not (tmp_path / "cache/features").exists()


def test_features_of_cases_are_refused_for_pairs(plane: Path) -> None:
    (plane / "feats").mkdir()
    for number in range(PAIRS):
        np.savez(plane / f"feats/c{number}.npz", grid=np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(RequestError, match="a pair has two images"):
        asked(plane, f"features:{plane}/feats", "convexadam")


@pytest.mark.parametrize("roles", [("fixed_target", "moving_target"), ("fixed", "moving"), ("moving_target",)])
def test_images_on_different_grids_need_masks_that_say_where_they_lie(tmp_path: Path, roles: tuple[str, ...]) -> None:
    """Otherwise one pair would be laid on the fixed grid, and the other not."""
    write_pairs(tmp_path, 3)
    table = (tmp_path / "cases.csv").read_text()
    for number in range(PAIRS):
        for role in ("moving", "moving_target"):
            image = nibabel.load(tmp_path / f"{number}.{role}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.array([[1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])), tmp_path / f"{number}.{role}.nii.gz")
        for role in roles:
            array = np.asarray(nibabel.load(tmp_path / f"{number}.{role}.nii.gz").dataobj).transpose(2, 1, 0)
            np.save(tmp_path / f"{number}.{role}.npy", array)
            table = table.replace(f"{number}.{role}.nii.gz", f"{number}.{role}.npy")
    (tmp_path / "cases.csv").write_text(table)
    with pytest.raises(CaseError, match="say where they lie"):
        asked(tmp_path, "pixels", "identity")


def test_tuning_is_left_out_of_a_control_and_a_pair_is_shown_as_registered(plane: Path, medprobe) -> None:
    tune = "head.tune=lambda_weight=0.5|1.25"
    ended = medprobe(plane, "run", "-m", "pixels", "-t", "rings.toml/identity,rings.toml/convexadam", "--set", tune, "-o", "out", "--cache", "cache")
    assert "left out there" in ended.stderr
    shown = medprobe(plane, "show", "-m", "pixels", "-t", "rings.toml/convexadam", "--set", tune, "--case", "c6", "-o", "out", "--cache", "cache")
    assert "no prediction" not in shown.stderr
    assert len(list((plane / "out/show").rglob("*.png"))) == 2


def test_a_descriptor_of_voxels_is_no_vector(tmp_path: Path) -> None:
    import medprobe as mp

    for number in range(8):
        Image.fromarray(np.full((16, 16), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "c.toml").write_text('name = "c"\nkind = "classification"\nclasses = ["a", "b"]\n')
    (tmp_path / "cases.csv").write_text("\n".join(["id,patient,split,image,target", *(f"{n},{n},{'train' if n < 4 else 'test'},{n}.png,{'ab'[n % 2]}" for n in range(8))]) + "\n")
    with pytest.raises(RequestError, match="has no vector"):
        mp.evaluate("mind", f"{tmp_path}/c.toml/logreg", None, tmp_path / "out", cache=tmp_path / "cache")


def test_a_registration_below_identity_is_said(plane: Path, medprobe) -> None:
    medprobe(plane, "run", "-m", "pixels", "-t", "rings.toml/convexadam", "-o", "out", "--cache", "cache")
    (plane / "turned").mkdir()
    for file in (plane / "out/predictions").rglob("*.disp.nii.gz"):
        field = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(-np.asarray(field.dataobj), field.affine, field.header), plane / "turned" / file.name)
    ended = medprobe(plane, "score", "--task", "rings.toml", "--predictions", "turned", "-o", "scored", "--name", "turned")
    assert "warning: Dice after registration is" in ended.stderr


def test_voxels_without_a_number_leave_their_pair_out_and_are_counted(tmp_path: Path, medprobe) -> None:
    write_pairs(tmp_path, 3)
    image = nibabel.load(tmp_path / "5.moving.nii.gz")
    pixels = np.asarray(image.dataobj).astype(np.float32)
    pixels[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(pixels, image.affine), tmp_path / "5.moving.nii.gz")
    words = ("run", "-m", "mind", "-t", "rings.toml/convexadam", "-o", "out", "--cache", "cache")
    assert "NaN" in medprobe(tmp_path, *words, status=1).stderr
    medprobe(tmp_path, *words, "--skip-unreadable", 1)
    (file,) = (tmp_path / "out/results").rglob("seed0.json")
    assert len(json.loads(file.read_text())["cases"]["unreadable"]) == 1
    assert scores(tmp_path, "out", "convexadam")["dice"]["n_cases"] == 2


def test_a_label_that_is_carried_out_of_the_grid_is_a_miss_without_a_distance() -> None:
    moving, fixed = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
    moving[1:3, 1:3] = fixed[1:3, 1:3] = 1
    values = registration_case(np.full((2, 12, 12), 6.0, np.float32), moving, fixed, 2, (1.0, 1.0))
    assert values["dice"][0] == 0
    assert np.isnan(values["hd95"][0])
    assert values["dice.unregistered"][0] == 1


@pytest.mark.parametrize("name", ["joint-pca:2,foreground", "joint-pca:2,foreground,uncentred"])
def test_a_basis_of_the_foreground_has_the_images_it_looks_at(plane: Path, name: str) -> None:
    asked(plane, "mean-rgb", "convexadam", reduce=name, niter=2)
    assert list((plane / "out/results").rglob("seed0.json"))


def test_volumes_are_registered_on_a_finer_grid_and_written_on_their_own(
    tmp_path: Path, medprobe
) -> None:
    write_pairs(tmp_path, 3)
    words = ("run", "-m", "pixels", "-t", "rings.toml/convexadam", "--cache", "cache")
    settings = {"task.min_slices": (0, 26), "task.spacing": ("[2, 1, 2]",)}
    for key, values in settings.items():
        for value in values:
            medprobe(tmp_path, *words, "--set", f"{key}={value}", "-o", f"{key}-{value}")
            (file,) = (tmp_path / f"{key}-{value}/predictions").rglob("c5.disp.nii.gz")
            assert nibabel.load(file).shape[:3] == (32, 32, 12)
            assert scores(tmp_path, f"{key}-{value}", "convexadam")["dice"]["value"] > 0.75
    plain = (tmp_path / "task.min_slices-0/results").rglob("seed0.json")
    finer = (tmp_path / "task.min_slices-26/results").rglob("seed0.json")
    configs = [json.loads(next(files).read_text())["task"]["config"] for files in (plain, finer)]
    assert [config.get("min_slices") for config in configs] == [None, 26]


def test_a_grid_is_chosen_for_volumes_with_a_spacing_alone(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "bare").mkdir()
    write_pairs(tmp_path / "flat", 2)
    write_pairs(tmp_path / "bare", 3)
    for file in (tmp_path / "bare").glob("*.nii.gz"):
        np.save(file.with_name(file.name[:-7] + ".npy"), np.asarray(nibabel.load(file).dataobj).T)
    table = tmp_path / "bare/cases.csv"
    table.write_text(table.read_text().replace(".nii.gz", ".npy"))
    expected = [
        ("flat", "min_slices", 20, "task.min_slices is for the registration of volumes"),
        ("flat", "spacing", 2, "task.spacing is for the registration of volumes"),
        ("bare", "spacing", 2, "none for 8 of 8 cases, first c0"),
        ("bare", "spacing", [1, 2], "expected millimetres, one number or three"),
        ("bare", "spacing", "2 0 1", "expected millimetres, one number or three"),
        ("bare", "min_slices", -1, "expected a whole number"),
    ]
    for home, field, value, sentence in expected:
        dataset = load_manifest(tmp_path / home / "rings.toml")
        task = default_task(dataset, "convexadam")
        with pytest.raises(RequestError, match=re.escape(sentence)):
            reading.check(
                with_settings(task, {f"task.{field}": value}), dataset, list(dataset.cases(tmp_path))
            )


def test_only_what_lies_outside_the_moving_image_is_said_to() -> None:
    """Pixels as light as the grey of what is not seen are part of an image."""
    moving = np.full((1, 6, 6), panels.UNSEEN / 255)
    still, shifted = np.zeros((3, 1, 6, 6)), np.zeros((3, 1, 6, 6))
    shifted[2] = 0.75
    assert not pair_pictures._carried(moving, still, 0)[1].any()
    outside = pair_pictures._carried(moving, shifted, 0)[1]
    assert outside[:, -1].all()
    assert not outside[:, :-1].any()
