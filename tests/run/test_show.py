"""`medprobe show`, and the pictures of a run: what is in them is looked up in their pixels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprobe.imaging.labels import LabelMap, write_labels
from medprobe.imaging.nifti import save
from medprobe.run import panels
from medprobe.run.pictures import draw
from medprobe.run.show import colours_of
from medprobe.types import Case, Dataset, Source

FIRST = np.array([int(panels.COLOURS[0][place : place + 2], 16) for place in (1, 3, 5)])
GREY = 90
ENCODER = """
import torch

class Encoder(torch.nn.Module):
    def forward_dense(self, x):
        return torch.nn.functional.avg_pool2d(x, 8) * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1) + torch.linspace(0, 1, x.shape[3] // 8)

    def forward(self, x):
        return self.forward_dense(x).mean(dim=(2, 3))

class Vectors(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))
"""


def medprobe(home: Path, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDPROBE_")}
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=home, timeout=240, env={**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def shown(home: Path, *words: object) -> list[np.ndarray]:
    files = json.loads(medprobe(home, "show", "-o", "out", "--cache", "cache", "--image-size", 32, *words, "--json").stdout)
    return [np.asarray(Image.open(home / file)).astype(int) for file in files]


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First row, first column, height, width of what is true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """Grey pictures 40 x 80 with a block at rows 10…30, columns 20…60 in the mask."""
    rows = ["id,patient,split,image,target"]
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 20:60] = 1
    for number, split in enumerate(("train", "test")):
        Image.fromarray(np.full((40, 80), GREY, np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"m{number}.png")
        rows.append(f"case-{number},p{number},{split},{number}.png,m{number}.png")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "blocks.toml").write_text('name = "blocks"\nkind = "segmentation"\nclasses = ["background", "block"]\n')
    (tmp_path / "enc.py").write_text(ENCODER)
    return tmp_path


def test_the_outline_lies_on_the_border_of_the_mask(blocks: Path) -> None:
    (picture,) = shown(blocks, "-t", "blocks.toml/conv2d", "-m", "enc.py:Encoder", "--case", "case-1")
    image = (picture == GREY).all(axis=2)
    image[:, panels.MARGIN + 360 :] = False
    image[image.sum(axis=1) < 50] = False  # text
    top, left, height, width = bounds(image)
    assert (height, width) == (180, 360), "twice as wide as high, 4.5 pixels to one"
    panel = picture[top : top + height, left : left + width]
    outline = (panel == FIRST).all(axis=2)
    assert bounds(outline) == (45, 90, 90, 180), "rows 10…30 and columns 20…60, to the pixel"
    inner = outline[45 + panels.OUTLINE : 135 - panels.OUTLINE, 90 + panels.OUTLINE : 270 - panels.OUTLINE]
    assert not inner.any()
    assert outline.sum() == 90 * 180 - inner.size
    assert (panel[90, 180] == GREY).all(), "the target is outlined, not filled"


def test_pixels_of_one_channel_and_a_constant_grid_make_a_grey_panel(blocks: Path) -> None:
    (picture,) = shown(blocks, "-t", "blocks.toml/conv2d", "-m", "pixels", "--case", "case-1")
    panel = picture[60:150, 400:700]
    assert (panel == 128).all(), "nothing varies: half-way grey"


def test_the_same_case_is_the_same_picture_byte_for_byte(blocks: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 80, 3)).astype(np.uint8)).save(blocks / "1.png")
    found = []
    for cache in ("one", "two"):
        ended = medprobe(blocks, "show", "-t", "blocks.toml/conv2d", "-m", "random:timm:resnet10t,enc.py:Encoder", "--case", "case-1", "-o", cache, "--cache", f"cache-{cache}", "--image-size", 64, "--device", "cpu")
        found.append((blocks / ended.stdout.strip()).read_bytes())
    assert found[0] == found[1]
    assert len(np.unique(np.asarray(Image.open(blocks / ended.stdout.strip())).reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("rule", ["squash", "pad", "crop"])
def test_cells_lie_where_their_part_of_the_plane_is(blocks: Path, rule: str) -> None:
    """The left half of the picture is black, the right one white: so are the halves of the panel, whatever the size rule."""
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 40:] = 255
    Image.fromarray(pixels).save(blocks / "1.png")
    (picture,) = shown(blocks, "-t", "blocks.toml/conv2d", "-m", "pixels", "--case", "case-1", "--set", f"task.fit_rule={rule}", "--set", "task.resize=area")
    panel = picture[panels.MARGIN + 2 * panels.LINE :][:180, panels.MARGIN + 360 + panels.GAP :][:, :360]
    unseen = (panel == panels.UNSEEN).all(axis=2)
    assert unseen.mean() == pytest.approx(0.5 if rule == "crop" else 0, abs=0.02), "the sides of a cut plane were never seen"
    dark, light = panel[:, 100:175][~unseen[:, 100:175]], panel[:, 185:260][~unseen[:, 185:260]]
    assert (dark == 0).all()
    assert (light == 255).all()


def test_an_encoder_without_a_grid_and_a_missing_prediction_are_said(blocks: Path) -> None:
    ended = medprobe(blocks, "show", "-t", "blocks.toml/conv2d", "-m", "enc.py:Vectors", "--case", "case-0", "-o", "out", "--cache", "cache", "--image-size", 32)
    assert "enc.py:Vectors has no grid" in ended.stderr
    assert "no prediction of this case by enc.py:Vectors in out" in ended.stderr


def test_a_prediction_of_the_run_is_shown(blocks: Path) -> None:
    medprobe(blocks, "run", "-m", "mean-rgb", "-t", "blocks.toml/constant", "-o", "out", "--cache", "cache", "--image-size", 32)
    words = ["show", "-m", "mean-rgb", "-t", "blocks.toml/constant", "--cache", "cache", "--image-size", 32, "--case", "case-1"]
    ended = medprobe(blocks, *words, "-o", "out")
    assert "no prediction" not in ended.stderr
    assert "no prediction" in medprobe(blocks, *words, "-o", "elsewhere").stderr
    sizes = [((np.asarray(Image.open(blocks / folder / file)) == FIRST).all(axis=2)).sum() for folder, file in (("", ended.stdout.strip()), ("elsewhere", Path(ended.stdout.strip()).relative_to("out")))]
    assert sizes[0] > 1.5 * sizes[1], "outlined twice"


def test_wrong_requests_are_named(blocks: Path) -> None:
    words = ["show", "-m", "mean-rgb", "-o", "out", "--cache", "cache"]
    assert "has no case 'case-2'; did you mean case-1 or case-0?" in medprobe(blocks, *words, "-t", "blocks.toml/conv2d", "--case", "case-2", status=2).stderr
    assert "show takes one task, found 2" in medprobe(blocks, *words, "-t", "blocks.toml/conv2d,blocks.toml/constant", "--case", "case-1", status=2).stderr
    both = medprobe(blocks, "show", "-m", "nosuch", "-t", "blocks.toml/conv2d", "--case", "x", "-o", "out", "--cache", "cache", status=2).stderr
    assert "has no case 'x'" in both
    assert "no model named 'nosuch'" in both


def test_a_class_and_what_a_probe_said_of_it_are_words(blocks: Path) -> None:
    rows = ["id,patient,split,image,target", *(f"c{number},p{number},{'test' if number > 7 else 'train'},{number % 2}.png,{'dark' if number % 2 else 'light'}" for number in range(10))]
    (blocks / "cases.csv").write_text("\n".join(rows) + "\n")
    (blocks / "blocks.toml").write_text('name = "toy"\nkind = "classification"\nclasses = ["dark", "light"]\n')
    medprobe(blocks, "run", "-m", "mean-rgb", "-t", "blocks.toml/knn", "-o", "out", "--cache", "cache", "--image-size", 32)
    words = ["show", "-m", "mean-rgb", "-t", "blocks.toml/knn", "-o", "out", "--cache", "cache", "--image-size", 32, "--case"]
    assert "no prediction" not in medprobe(blocks, *words, "c9").stderr
    assert "no prediction" in medprobe(blocks, *words, "c0").stderr, "a case of the training part"


def volume(folder: Path, spacing: tuple[float, float, float] = (3.0, 1.0, 2.0)) -> tuple[Dataset, Case]:
    """A volume (20, 30, 16) in the canonical axes, with a target at the patient's right front in slices 4…15."""
    labels = np.zeros((20, 30, 16), np.uint8)
    labels[4:16, 20:28, 10:14] = 1
    save(folder / "i.nii.gz", np.where(labels, 200, GREY).astype(np.uint8), np.diag([*spacing[::-1], 1.0]), spacing)
    write_labels(folder / "m.nii.gz", LabelMap(labels, spacing, np.diag([*spacing[::-1], 1.0])))
    dataset = Dataset("vol", "segmentation", 3, "MRI", ("background", "lesion"), "", "", "", lambda root: ())
    return dataset, Case("v", "v", {"image": (Source(folder / "i.nii.gz"),)}, (Source(folder / "m.nii.gz"),))


def test_a_volume_is_drawn_as_radiologists_look_at_it(tmp_path: Path) -> None:
    dataset, case = volume(tmp_path)
    (tmp_path / "predictions").mkdir()
    write_labels(tmp_path / "predictions" / "v.nii.gz", LabelMap(np.zeros((20, 30, 16), np.uint8), (3.0, 1.0, 2.0), np.diag([2.0, 1.0, 3.0, 1.0])))
    draw(dataset, case, tmp_path / "predictions", tmp_path / "p.png", "best case")
    picture = np.asarray(Image.open(tmp_path / "p.png")).astype(int)
    outline = (picture == FIRST).all(axis=2)
    outline[:, 170:] = False  # the first slice
    outline[picture.shape[0] - 60 :] = False  # the legend
    top, left, height, width = bounds(outline)
    scale = 141 / 32  # the wider side, 16 voxels of 2 mm
    assert (height, width) == (pytest.approx(8 * scale, abs=1.5), pytest.approx(8 * scale, abs=1.5)), "8 mm each way"
    assert left - panels.MARGIN == pytest.approx(2 * 2 * scale, abs=1.5), "the patient's right, two voxels from the edge, is on the left"
    panel_top = panels.MARGIN + 3 * panels.LINE + round(30 * scale) + panels.GAP
    assert top - panel_top == pytest.approx(2 * scale, abs=1.5), "the front is above"
    assert picture.shape[1] == 6 * 141 + 5 * panels.GAP + 2 * panels.MARGIN


def test_slices_of_a_volume_and_a_pair_are_shown(tmp_path: Path) -> None:
    volume(tmp_path)
    (tmp_path / "cases.csv").write_text("id,patient,split,fixed,moving\nv,v,test,i.nii.gz,i.nii.gz\n")
    (tmp_path / "pair.toml").write_text('name = "pair"\nkind = "registration"\ndims = 3\n')
    fixed, moving = shown(tmp_path, "-t", "pair.toml", "-m", "mean-rgb,pixels", "--case", "v")
    assert fixed.shape == moving.shape
    assert fixed.shape[1] > 6 * 180, "six slices abreast"
    assert fixed.shape[0] > 6 * 160, "two bands of an image and two encoders"


def test_components_have_one_basis_and_colours_that_do_not_depend_on_noise() -> None:
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(2, 5, 4, 4)).astype(np.float32)
    both = colours_of({"fixed": grid, "moving": grid[:1]})
    np.testing.assert_array_equal(both["fixed"][:1], both["moving"])
    assert (both["fixed"].min(), both["fixed"].max()) == (0, 1)
    np.testing.assert_array_equal(colours_of({"image": np.full((1, 7, 3, 3), 0.3, np.float32)})["image"], 0.5)
    np.testing.assert_array_equal(colours_of({"image": np.ones((1, 7, 1, 1), np.float32)})["image"], 0.5)
    grey = colours_of({"image": np.repeat(grid[:, :1], 3, axis=1)})["image"]
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (colours_of({"image": grid[:, :2]})["image"][..., 2] == 0.5).all(), "two channels leave blue half-way"


def test_places_are_spread_over_what_there_is() -> None:
    assert panels.spread(3, 7, 6) == [3, 4, 5, 6, 7]
    assert panels.spread(0, 99, 4) == [12, 37, 62, 87]


def test_a_real_volume_is_shown_beside_its_features(samples: Path, resnet56: Path, tmp_path: Path) -> None:
    source = samples / "mri_hippocampus"
    for name in ("images", "labels"):
        (tmp_path / f"{name}.nii.gz").write_bytes((source / name / "hippocampus_003.nii.gz").read_bytes())
    (tmp_path / "cases.csv").write_text("id,patient,split,image,target\nhippocampus_003,a,test,images.nii.gz,labels.nii.gz\n")
    (tmp_path / "hippo.toml").write_text('name = "hippo"\nkind = "segmentation"\ndims = 3\nclasses = ["background", "anterior", "posterior"]\n')
    (picture,) = shown(tmp_path, "-t", "hippo.toml/constant", "-m", f"{resnet56}:make_encoder", "--case", "hippocampus_003")
    height, width = 180, round(180 * 34 / 52)
    assert picture.shape[1] == 6 * width + 5 * panels.GAP + 2 * panels.MARGIN
    second = np.array([int(panels.COLOURS[1][place : place + 2], 16) for place in (1, 3, 5)])
    for colour in (FIRST, second):
        assert (picture == colour).all(axis=2).sum() > 300, "both parts are outlined"
    features = picture[panels.MARGIN + 3 * panels.LINE + height + panels.GAP :][:height, panels.MARGIN : panels.MARGIN + width]
    spread = features.max(axis=2) - features.min(axis=2)
    assert (spread > 40).mean() > 0.5, "features are in colour"
