"""Segmentation of volumes by the command: predictions in the geometry of their images, as other programs read it; the same
scores whatever is kept, streamed, or scored again."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medprobe.run import costs, plan
from medprobe.run.request import Request

VOLUMES = 8


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Volumes of several depths and orientations with a bright ball, its mask, in two folds."""
    rng = np.random.default_rng(0)
    rows = ["id,patient,fold,image,target"]
    for number in range(VOLUMES):
        shape = np.array([20, 26, 9 + number])
        middle = rng.uniform(0.35, 0.65, 3) * shape
        places = np.moveaxis(np.indices(shape), 0, -1)
        mask = (((places - middle) / (6, 6, 3)) ** 2).sum(-1) < 1
        pixels = rng.normal(300, 40, shape) + 500 * mask
        affine = np.diag([-1.5, 1.5, 3.0, 1.0]) if number % 2 else np.diag([1.5, 1.5, 3.0, 1.0])
        affine[:3, 3] = rng.uniform(-50, 50, 3)
        order = [(0, 1, 2), (2, 0, 1)][number // 2 % 2]
        turned = affine[:, [*order, 3]]
        nibabel.save(nibabel.Nifti1Image(pixels.transpose(order).astype(np.int16), turned), tmp_path / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask.transpose(order).astype(np.uint8), turned), tmp_path / f"m{number}.nii.gz")
        rows.append(f"c{number},p{number},{number % 2},{number}.nii.gz,m{number}.nii.gz")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "balls.toml").write_text('name = "balls"\nkind = "segmentation"\ndims = 3\nclasses = ["background", "ball"]\n')
    return tmp_path


def test_volumes_are_segmented_drawn_scored_and_reported(home: Path, medprobe) -> None:
    more = ("--cache", "cache", "--image-size", 32, "--set", "head.epochs=40", "--set", "head.learning_rate=0.01", "--set", "head.depth=8")
    medprobe(home, "run", "-m", "pixels", "-t", "balls.toml/unet3d", "-o", "out", *more)
    medprobe(home, "run", "-m", "pixels", "-t", "balls.toml/constant", "-o", "out", "--cache", "cache", "--image-size", 32)
    ours, control = (json.loads(next((home / "out/results/balls" / head).rglob("summary.json")).read_text())["scores"] for head in ("unet3d", "constant"))
    assert ours["dice"]["value"] > 0.75 > control["dice"]["value"] + 0.1
    assert (ours["dice"]["n_cases"], ours["hd95"]["unit"]) == (VOLUMES, "mm")

    written = home / "predictions"
    written.mkdir()
    for file in sorted((home / "out/predictions/balls/unet3d").rglob("*.nii.gz")):
        (written / file.name).write_bytes(file.read_bytes())
    sitk = pytest.importorskip("SimpleITK")
    for number in range(VOLUMES):
        predicted, mask = (sitk.ReadImage(str(file)) for file in (written / f"c{number}.nii.gz", home / f"m{number}.nii.gz"))
        laid = sitk.GetArrayFromImage(sitk.Resample(predicted, mask, sitk.Transform(), sitk.sitkNearestNeighbor))
        true = sitk.GetArrayFromImage(mask)
        assert 2 * (laid * true).sum() / (laid.sum() + true.sum()) > 0.7, "another program finds the prediction where the mask is"
        loaded, image = (nibabel.load(file) for file in (written / f"c{number}.nii.gz", home / f"{number}.nii.gz"))
        assert loaded.shape == image.shape
        np.testing.assert_allclose(loaded.affine, image.affine, atol=1e-4)
        array = np.asarray(nibabel.load(home / f"m{number}.nii.gz").dataobj)
        assert 2 * (np.asarray(loaded.dataobj) * array).sum() / (np.asarray(loaded.dataobj).sum() + array.sum()) > 0.7, "array on array, in the order of the image"
    medprobe(home, "score", "--task", "balls.toml", "--predictions", "predictions", "-o", "scored", "--name", "same")
    assert json.loads(next((home / "scored").rglob("summary.json")).read_text())["scores"] == ours
    assert len(list((home / "out/pictures").rglob("*.png"))) == 3 * 2 * 2
    assert json.loads(medprobe(home, "report", "out", "--json").stdout)["flags"] == [], "above the mean mask"


def test_streamed_features_give_the_scores_of_stored_ones_and_the_plan_knows_the_bytes(home: Path, medprobe) -> None:
    pytest.importorskip("timm")
    words = ["run", "-m", "random:timm:vit_pwee_patch16_reg1_gap_256", "-t", "balls.toml/conv3d,balls.toml/linear3d", "--folds", 0, "--image-size", 64, "--set", "head.epochs=2", "--set", "head.depth=8", "--set", "head.side=16"]
    plan = json.loads(medprobe(home, *words, "-o", "stored", "--cache", "cache", "--plan", "--json").stdout)
    medprobe(home, *words, "-o", "stored", "--cache", "cache")
    held = sum(file.stat().st_size for file in (home / "cache/features").rglob("*.npy"))
    assert sum(group["bytes"] for group in plan["groups"]) == pytest.approx(held, rel=0.1)
    layers = sorted(len(list(encoding.parent.glob("*/grid*.npy"))) for encoding in (home / "cache/features").glob("*/encoding.json"))
    assert layers == [4], "four for the skips of conv3d, the last of them for linear3d"
    for number, ram in enumerate(("1KB", "1GB")):
        medprobe(home, *words, "-o", f"streamed{number}", "--cache", f"cache{number}", "--cache-budget", "1KB", "--max-ram", ram)
        assert not list((home / f"cache{number}").rglob("*.npy"))
    for head in ("conv3d", "linear3d"):
        stored, *streamed = (json.loads(next((home / folder / "results/balls" / head).rglob("summary.json")).read_text())["scores"] for folder in ("stored", "streamed0", "streamed1"))
        assert streamed == [stored, stored], "dropout draws the same numbers whether planes are encoded beside it or not"


SAVING_OFTEN = "import medprobe.heads._fits as fits; fits.SAVE_AFTER = 0.0; from medprobe.cli import main; main()"


def test_training_killed_at_any_moment_goes_on_to_the_same_predictions(home: Path, medprobe) -> None:
    words = ["run", "-m", "pixels", "-t", "balls.toml/unet3d", "--folds", "0", "--image-size", "32", "--set", "head.epochs=24", "--set", "head.depth=8"]
    medprobe(home, *words, "-o", "whole", "--cache", "cache")
    command = [sys.executable, "-c", SAVING_OFTEN, *words, "-o", "cut", "--cache", "cache"]
    kills = 0
    for wait in (0.0, 0.7):
        running = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        known = {file.stat().st_mtime_ns for file in (home / "cut").rglob("*.safetensors")}
        while running.poll() is None and time.monotonic() < end:
            if {file.stat().st_mtime_ns for file in (home / "cut").rglob("*.safetensors")} - known:
                time.sleep(wait)
                running.kill()
                kills += running.wait() == -signal.SIGKILL
                break
            time.sleep(0.01)
    assert kills, "the first was killed after a checkpoint"
    medprobe(home, *words, "-o", "cut", "--cache", "cache")
    whole, cut = (json.loads(next((home / folder).rglob("seed0-fold0.json")).read_text()) for folder in ("whole", "cut"))
    assert whole["scores"] == cut["scores"]
    assert whole["fit"] == cut["fit"]
    files = sorted((home / "whole/predictions").rglob("*.nii.gz"))
    assert len(files) == VOLUMES // 2
    assert all(file.read_bytes() == (home / "cut" / file.relative_to(home / "whole")).read_bytes() for file in files)
    assert not list((home / "cut").rglob("*.safetensors"))


@pytest.mark.accept
@pytest.mark.parametrize("task", [f"{name}/conv3d" for name in ("msd-hippocampus", "msd-brain", "msd-spleen", "hecktor2022-ctpet")])
def test_the_plan_of_a_twin_knows_the_bytes(tmp_path: Path, task: str, medprobe) -> None:
    medprobe(tmp_path, "twin", task.partition("/")[0], "--out", "data")
    words = ["run", "-m", "random:timm:vit_pwee_patch16_reg1_gap_256", "-t", task, "--data", "data", "--folds", 0, "--image-size", 64, "--set", "head.epochs=1", "-o", "out", "--cache", "cache"]
    (planned,) = json.loads(medprobe(tmp_path, *words, "--plan", "--json").stdout)["groups"]
    medprobe(tmp_path, *words)
    written = sum(file.stat().st_size for file in (tmp_path / "cache/features").rglob("*") if file.is_file())
    assert planned["bytes"] == pytest.approx(written, rel=0.1)
    assert planned["minutes"] > planned["minutes_encoding"] > 0


def test_planned_minutes_hold_scoring_every_case_and_drawing_three(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)

    def planned(scoring: tuple[float, float] | None) -> float:
        with monkeypatch.context() as patch:
            if scoring is not None:
                patch.setattr(costs, "of_scoring", lambda question: scoring)
            request = Request("pixels", "balls.toml/constant", home / "out", cache=home / "cache", image_size=32)
            (group,) = plan.make(request, lambda done, total, what: None).groups
        return group.fit_seconds

    assert planned((100.0, 10.0)) - planned((0.0, 0.0)) == pytest.approx(VOLUMES * 100.0 + 2 * 3 * 10.0), "two folds of four cases each"
    assert planned(None) > planned((0.0, 0.0)), "measured on the first mask"
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(home / "nowhere"))
        assert planned(None) == planned((0.0, 0.0)), "where nothing temporary can be written a plan goes without"
    (home / "m0.nii.gz").write_bytes(b"cut off")
    assert planned(None) == planned((0.0, 0.0)), "what cannot be read is named where it is read"


def test_scoring_is_measured_for_each_dataset_though_two_bear_one_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(costs, "of_scoring", lambda question: (float(len(question.cases)), 0.0))
    (home / "few.csv").write_text("".join((home / "cases.csv").read_text().splitlines(keepends=True)[:5]))
    (home / "few.toml").write_text((home / "balls.toml").read_text() + 'cases = "few.csv"\n')
    request = Request("mean-rgb", "balls.toml/constant,few.toml/linear3d", home / "out", cache=home / "cache", image_size=32, settings={"head.epochs": 1})
    fits = {task: seconds for group in plan.make(request, lambda done, total, what: None).groups for task, seconds in group.fits.items()}
    assert fits["balls/constant"] == VOLUMES * VOLUMES
    assert fits["balls/linear3d"] == pytest.approx(4 * 4, abs=2)


def test_a_mask_of_more_planes_than_its_image_is_named_and_ends_no_other_task(home: Path, medprobe) -> None:
    for number in range(VOLUMES):
        for name in (f"{number}", f"m{number}"):
            np.save(home / f"{name}.npy", np.asarray(nibabel.load(home / f"{name}.nii.gz").dataobj).T[:9, :20, :20])
    (home / "m0.npy").unlink()
    np.save(home / "m0.npy", np.ones((30, 20, 20), np.uint8))
    rows = (home / "cases.csv").read_text().replace(".nii.gz", ".npy")
    (home / "arrays.csv").write_text(rows)
    (home / "arrays.toml").write_text((home / "balls.toml").read_text().replace("balls", "arrays") + 'cases = "arrays.csv"\n')
    ended = medprobe(home, "run", "-m", "pixels", "-t", "arrays.toml/constant,balls.toml/constant", "-o", "out", "--cache", "cache", "--image-size", 32, status=1)
    assert "c0: expected a mask of" in ended.stderr
    assert "2 results done, 2 failed" in ended.stderr


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (lambda mask: (np.asarray(mask.dataobj), mask.affine @ np.diag([-1.0, 1, 1, 1])), 3, "on the grid of its image"),
        (lambda mask: (np.asarray(mask.dataobj)[::2, ::2], mask.affine @ np.diag([2.0, 2, 1, 1])), 3, "on the grid of its image"),
        (lambda mask: (np.asarray(mask.dataobj) * 7, mask.affine), 1, "masks of balls cannot be used"),
    ],
)
def test_a_mask_that_cannot_be_right_is_refused_before_anything_is_encoded(home: Path, spoil, status: int, said: str) -> None:
    _write(home / "m3.nii.gz", *spoil(nibabel.load(home / "m3.nii.gz")))
    words = ["run", "-m", "pixels", "-t", "balls.toml/linear3d", "-o", "out", "--cache", "cache", "--image-size", 32, "--set", "head.epochs=1"]
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=home, timeout=280)
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (1, status)
    assert said in ended.stderr
    assert "c3" in ended.stderr
    assert not list((home / "cache/features").rglob("*.npy"))


def test_files_that_change_places_are_noticed_whatever_their_times(home: Path, medprobe) -> None:
    """Uncompressed volumes have one size, and programs restore the times at which files were written."""
    rows = ["id,patient,fold,image,target"]
    for number in range(VOLUMES):
        image, mask = nibabel.load(home / f"{number}.nii.gz"), nibabel.load(home / f"m{number}.nii.gz")
        pixels, labels = (np.zeros((30, 30, 30), np.int16), np.zeros((30, 30, 30), np.uint8))
        within = tuple(slice(0, size) for size in image.shape)
        pixels[within], labels[within] = image.dataobj, mask.dataobj
        for name, array in ((f"i{number}", pixels), (f"l{number}", labels)):
            _write(home / f"{name}.nii", array, np.eye(4))
            os.utime(home / f"{name}.nii", ns=(10**18, 10**18))
        rows.append(f"c{number},p{number},{number % 2},i{number}.nii,l{number}.nii")
    (home / "cases.csv").write_text("\n".join(rows) + "\n")
    words = ["run", "-m", "pixels", "-t", "balls.toml/constant", "-o", "out", "--cache", "cache", "--image-size", 32]
    medprobe(home, *words)
    for kind in ("l", "i"):
        (home / f"{kind}0.nii").rename(home / "kept")
        (home / f"{kind}1.nii").rename(home / f"{kind}0.nii")
        (home / "kept").rename(home / f"{kind}1.nii")
        assert "dataset_fingerprint" in medprobe(home, *words, status=2).stderr, "another dataset than that of the results there"


def test_a_mask_is_read_once_for_all_folds_and_heads(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medprobe as mp
    from medprobe.run import pictures, references

    read: list[str] = []
    whole = references.reference
    monkeypatch.setattr(references, "reference", lambda dataset, sources: (read.append(sources[0].path.name), whole(dataset, sources))[1])
    monkeypatch.setattr(pictures, "reference", whole)
    mp.evaluate("pixels,mean-rgb", f"{home}/balls.toml/constant,{home}/balls.toml/linear3d", None, home / "out", cache=home / "cache", image_size=32, settings={"head.epochs": 2})
    assert sorted(read) == [f"m{number}.nii.gz" for number in range(VOLUMES)]


def test_heads_of_one_model_share_a_forward_and_another_model_decodes_nothing(home: Path, medprobe) -> None:
    model, more = "random:timm:vit_pwee_patch16_reg1_gap_256", ("--folds", 0, "--image-size", 64, "--set", "head.epochs=1", "--set", "head.depth=8", "--set", "head.side=16", "--cache", "cache")
    tasks = "balls.toml/linear3d,balls.toml/conv3d,balls.toml/constant"
    (planned,) = json.loads(medprobe(home, "run", "-m", model, "-t", tasks, "-o", "together", *more, "--plan", "--json").stdout)["groups"]
    medprobe(home, "run", "-m", model, "-t", tasks, "-o", "together", *more)
    assert len(list((home / "cache/features").glob("*/encoding.json"))) == planned["cells"] - 2 == 1
    assert planned["bytes_decoded"] == pytest.approx(sum(file.stat().st_size for file in (home / "cache/planes").rglob("*.npy")), rel=0.01)
    medprobe(home, "run", "-m", model, "-t", "balls.toml/linear3d", "-o", "alone", *more[:-1], "other", "--planes-budget", "0")
    together, alone = (json.loads(next((home / out / "results/balls/linear3d").rglob("seed0-fold0.json")).read_text())["scores"] for out in ("together", "alone"))
    assert together == alone
    assert not list((home / "other").rglob("planes.npy"))
    again = json.loads(medprobe(home, "run", "-m", f"{model},pixels", "-t", tasks, "-o", "again", *more, "--plan", "--json").stdout)["groups"]
    by_model = {group["model"]: group for group in again}
    assert (by_model[model]["cells"], by_model[model]["planes_missing"]) == (3, 0)
    assert by_model["pixels"]["planes_missing"] > 0
    assert (by_model["pixels"]["planes_to_decode"], by_model["pixels"]["bytes_decoded"]) == (0, 0)
