"""Segmentation of pictures from frozen features, by the command: predictions on the image's pixels, pictures, and scores that
scoring the same predictions gives again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PICTURES = 20


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Pictures of two sizes with a bright block, its mask, in two folds."""
    rng = np.random.default_rng(0)
    rows = ["id,patient,fold,image,target"]
    for number in range(PICTURES):
        height, width = ((40, 48), (56, 32))[number % 2]
        pixels, mask = rng.integers(20, 60, (height, width, 3)), np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        pixels[top : top + 18, left : left + 18] += 150
        mask[top : top + 18, left : left + 18] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"m{number}.png")
        rows.append(f"c{number},p{number},{number // 2 % 2},{number}.png,m{number}.png")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "blocks.toml").write_text('name = "blocks"\nkind = "segmentation"\nclasses = ["background", "block"]\n')
    return tmp_path


def test_a_segmentation_is_run_drawn_scored_and_reported(home: Path, medprobe) -> None:
    words = ["run", "-m", "pixels", "-t", "blocks.toml/linear2d,blocks.toml/constant", "-o", "out", "--cache", "cache", "--image-size", 32, "--set", "head.epochs=60"]
    assert "head.epochs is no setting of constant" in medprobe(home, *words).stderr
    assert "no such setting" in medprobe(home, *words, "--set", "head.epoch=3", status=2).stderr
    assert "so it runs with the model pixels" in medprobe(home, "run", "-m", "mean-rgb", "-t", "blocks.toml/unet2d", "-o", "out", "--cache", "cache", status=2).stderr
    assert "0 results to compute" in medprobe(home, *words).stderr
    (folder,) = (home / "out/results/blocks/linear2d").iterdir()
    ours = json.loads((folder / "summary.json").read_text())["scores"]
    control = json.loads(next((home / "out/results/blocks/constant").rglob("summary.json")).read_text())["scores"]
    assert ours["dice"]["value"] > 0.85 > control["dice"]["value"]
    assert (ours["dice"]["n_cases"], ours["hd95"]["unit"]) == (PICTURES, "px")

    written = home / "predictions"
    written.mkdir()
    for file in sorted((home / "out/predictions").rglob("*.png")):
        if "linear2d" in str(file):
            (written / file.name).write_bytes(file.read_bytes())
    for number in range(PICTURES):
        sizes = [np.asarray(Image.open(file)).shape[:2] for file in (written / f"c{number}.png", home / f"{number}.png")]
        assert sizes[0] == sizes[1]
    medprobe(home, "score", "--task", "blocks.toml", "--predictions", "predictions", "-o", "scored", "--name", "same")
    theirs = json.loads(next((home / "scored").rglob("summary.json")).read_text())["scores"]
    assert theirs == ours

    assert len(list((home / "out/pictures").rglob("*.png"))) == 3 * 2 * 2
    said = json.loads(medprobe(home, "report", "out", "--json").stdout)
    assert said["flags"] == [], "above the mean mask"
    assert "data:image/png" in (home / "out/report/index.html").read_text()


def test_a_network_trained_on_pixels_is_a_baseline_and_no_control(home: Path, medprobe) -> None:
    for head, more in (("unet2d", ["--set", "head.epochs=2"]), ("constant", [])):
        medprobe(home, "run", "-m", "pixels", "-t", f"blocks.toml/{head}", "-o", "out", "--cache", "cache", "--image-size", 32, "--folds", 0, *more)
    facts = {file.parts[-3]: json.loads(file.read_text()) for file in (home / "out/results").rglob("seed0-fold0.json")}
    assert {head: document["model"]["control"] for head, document in facts.items()} == {"unet2d": False, "constant": True}
    (flag,) = json.loads(medprobe(home, "report", "out", "--json").stdout)["flags"]
    assert "the control pixels/constant on blocks/unet2d" in flag, "two epochs are not above the mean mask"


def test_masks_that_overlap_are_predicted_one_file_per_class(home: Path, medprobe) -> None:
    rows = (home / "cases.csv").read_text().splitlines()
    (home / "cases.csv").write_text("\n".join(["id,patient,fold,image,block,other", *(f"{row},{row.split(',')[-1]}" for row in rows[1:])]) + "\n")
    (home / "blocks.toml").write_text('name = "blocks"\nkind = "segmentation"\nmultilabel = true\nclasses = ["block", "other"]\n')
    medprobe(home, "run", "-m", "pixels", "-t", "blocks.toml/linear2d", "-o", "out", "--cache", "cache", "--image-size", 32, "--set", "head.epochs=60", "--folds", 0)
    scores = json.loads(next((home / "out").rglob("summary.json")).read_text())["scores"]
    assert list(scores["dice"]["per_class"]) == ["block", "other"]
    assert scores["dice"]["value"] > 0.85
    assert {file.name.split(".")[1] for file in (home / "out/predictions").rglob("*.png")} == {"block", "other"}


def test_a_mask_of_another_size_than_its_image_fails_with_a_sentence(home: Path, medprobe) -> None:
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(home / "m3.png")
    ended = medprobe(home, "run", "-m", "pixels", "-t", "blocks.toml/constant", "-o", "out", "--cache", "cache", "--image-size", 32, status=1)
    assert "c3: expected a mask of the size of its image" in ended.stderr
    assert "c3" in medprobe(home, "check", "dataset", "blocks.toml", status=1).stdout


def test_a_decoder_of_pictures_takes_the_layers_that_are_named(home: Path, medprobe) -> None:
    words = ["run", "-m", "random:timm:vit_pwee_patch16_reg1_gap_256", "-t", "blocks.toml/conv2d", "-o", "out", "--cache", "cache", "--image-size", 32, "--folds", 0, "--set", "head.epochs=1"]
    medprobe(home, *words)
    medprobe(home, *words, "--set", "task.layers=[3,-1]")
    found = {}
    for file in (home / "cache/features").glob("*/encoding.json"):
        found[str(json.loads(file.read_text())["layers"])] = len(list(file.parent.glob("*/grid*.npy")))
    assert found == {"None": 1, "[3, -1]": 2}
    names = {file.parts[-2] for file in (home / "out/results/blocks/conv2d").rglob("summary.json")}
    assert any("layers=" in name for name in names)
    assert "has layers 0 to" in medprobe(home, *words, "--set", "task.layers=[3,99]", status=2).stderr
