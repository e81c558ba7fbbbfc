"""The main job on real volumes: brain MR and PET/CT, a network on pixels and a decoder on frozen features."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytestmark = pytest.mark.accept
VIT = "random:timm:vit_small_patch16_dinov3"


def medprobe(home: Path, *words: object) -> None:
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=home, timeout=1500, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ended.returncode == 0, ended.stderr


def scores(folder: Path) -> dict:
    (file,) = folder.rglob("summary.json")
    return json.loads(file.read_text())["scores"]


def manifest(home: Path, name: str, classes: str, rows: list[str]) -> str:
    (home / f"{name}.csv").write_text("\n".join(["id,patient,fold,image,target", *rows]) + "\n")
    (home / f"{name}.toml").write_text(f'name = "{name}"\nkind = "segmentation"\ndims = 3\nclasses = ["background", {classes}]\ncases = "{name}.csv"\n')
    return f"{name}.toml"


def test_a_network_on_pixels_finds_the_hippocampus(samples: Path, tmp_path: Path) -> None:
    """Fold 0 of five; a U-Net of another library had Dice 0.85 after four minutes, the mean mask has 0.70. Ours has 0.848 with flips
    of left and right, and had 0.834 when halves of the front and the back were turned into each other."""
    shutil.copytree(samples / "mri_hippocampus", tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "cases.csv", newline="") as file:
        rows = [f"{Path(row['image']).name.split('.')[0]},{Path(row['image']).name.split('.')[0]},{row['fold']},{row['image']},{row['label']}" for row in csv.DictReader(file)]
    task = manifest(tmp_path, "hippocampus", '"anterior", "posterior"', rows)
    begin = time.monotonic()
    medprobe(tmp_path, "run", "-m", "pixels", "-t", f"{task}/unet3d", "--image-size", 128, "--folds", 0, "--set", "head.epochs=15", "-o", "out", "--cache", "cache")
    dice = scores(tmp_path / "out")["dice"]
    print(f"unet3d, fold 0: Dice {dice['value']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}], {time.monotonic() - begin:.0f} s")
    assert dice["value"] >= 0.80
    assert dice["n_cases"] == 22


@pytest.mark.parametrize(("name", "channels", "window"), [("ct", ["CT"], "ct"), ("pet", ["PET"], "suv"), ("ctpet", ["CT", "PET"], "ct+suv")])
def test_pet_and_ct_run_alone_and_together(samples: Path, tmp_path: Path, name: str, channels: list[str], window: str) -> None:
    shutil.copytree(samples / "petct_sarcoma", tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "cases.csv", newline="") as file:
        fold = {row["patient"]: row["fold"] for row in csv.DictReader(file)}
    rows = [f"{patient},{patient},{fold[patient]},{';'.join(f'{patient}/{one}_image.nii.gz' for one in channels)},{patient}/{channels[0]}_mask.nii.gz" for patient in sorted(fold)]
    task = manifest(tmp_path, f"sarcoma-{name}", '"tumour"', rows)
    for model, head in (("pixels", "unet3d"), (VIT, "linear3d")):
        medprobe(tmp_path, "run", "-m", model, "-t", f"{task}/{head}", "--image-size", 96, "--folds", 0, "--set", f"task.window={window}", "--set", "head.epochs=6", "-o", head, "--cache", "cache")
        dice = scores(tmp_path / head)["dice"]
        print(f"{name}, {head}: Dice {dice['value']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]")
        assert dice["n_cases"] + dice["n_undefined"] == 3
        for file in (tmp_path / head / "predictions").rglob("*.nii.gz"):
            mask = nibabel.load(tmp_path / file.name.split(".")[0] / f"{channels[0]}_mask.nii.gz")
            assert nibabel.load(file).shape == mask.shape
            np.testing.assert_allclose(nibabel.load(file).affine, mask.affine, atol=1e-3)


def test_a_budget_is_never_exceeded_and_changes_no_score(tmp_path: Path) -> None:
    """20 volumes of 64 x 128 x 128 and a ViT-S: grids of four layers at 192 px are 1.1 GB."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        middle = rng.uniform(0.4, 0.6, 3) * (128, 128, 64)
        mask = (((np.moveaxis(np.indices((128, 128, 64)), 0, -1) - middle) / (30, 30, 15)) ** 2).sum(-1) < 1
        nibabel.save(nibabel.Nifti1Image((rng.normal(300, 60, mask.shape) + 300 * mask).astype(np.int16), np.diag([1, 1, 2, 1])), tmp_path / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), np.diag([1, 1, 2, 1])), tmp_path / f"m{number}.nii.gz")
        rows.append(f"c{number},p{number},{number % 5},{number}.nii.gz,m{number}.nii.gz")
    task = manifest(tmp_path, "balls", '"ball"', rows)
    words = ["run", "-m", VIT, "-t", f"{task}/conv3d", "--image-size", 192, "--folds", 0, "--set", "head.epochs=1", "--set", "head.side=48", "--max-ram", "1GB"]
    largest, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.2):
            files = list((tmp_path / "small").rglob("*")) if (tmp_path / "small").exists() else []
            largest = max(largest, sum(file.stat().st_size for file in files if file.is_file()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        medprobe(tmp_path, *words, "-o", "streamed", "--cache", "small", "--cache-budget", "1GB")
    finally:
        ended.set()
        watching.join()
    assert 0 < largest <= 10**9
    medprobe(tmp_path, *words, "-o", "kept", "--cache", "large")
    assert sum(file.stat().st_size for file in (tmp_path / "large").rglob("*.npy")) > 10**9
    assert scores(tmp_path / "streamed") == scores(tmp_path / "kept")
