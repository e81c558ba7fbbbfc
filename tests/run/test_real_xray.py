"""The main job on real images: chest X-rays in five patient-wise folds, held against scikit-learn.

The references (methods 10) are of features at 224: patch mean 0.68, class token 0.90. The model's own size is 256.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.accept
VIT = "random:timm:vit_small_patch16_dinov3"


@pytest.fixture
def xray(samples: Path, tmp_path: Path) -> Path:
    """The manifest of the X-ray samples: patients in the order of a permutation go round the five folds."""
    source = samples / "xray_pneumonia"
    with open(source / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    patients = sorted({row["patient"] for row in rows})
    fold = {patients[at]: place % 5 for place, at in enumerate(np.random.default_rng(0).permutation(len(patients)))}
    shutil.copytree(source / "images", tmp_path / "images")
    lines = [f"{Path(row['file']).stem},{row['patient']},{fold[row['patient']]},{row['file']},{row['label_name']}" for row in rows]
    (tmp_path / "cases.csv").write_text("\n".join(["id,patient,fold,image,target", *lines]) + "\n")
    manifest = tmp_path / "xray.toml"
    manifest.write_text('name = "xray-pneumonia"\nkind = "classification"\nmodality = "X-ray"\nclasses = ["normal", "pneumonia"]\ncases = "cases.csv"\n')
    return manifest


def medprobe(*words: object) -> str:
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, timeout=900, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ended.returncode == 0, ended.stderr
    return ended.stdout if "--json" in words else ended.stdout + ended.stderr


def aurocs(out: Path) -> dict[tuple[str, str], float]:
    """(model, with its pooling where it is not the class token; head) → AUROC over all folds."""
    found = {}
    for path in (out / "results").rglob("summary.json"):
        summary = json.loads(path.read_text())
        score, task = summary["scores"]["auroc"], summary["task"]
        assert score["low"] < score["value"] < score["high"] or score["value"] == 0.5
        name = summary["model"]["name"].rpartition("/")[2]
        found[name if task["config"]["pooling"] == "cls" else f"{name} {task['config']['pooling']}", task["head"]] = score["value"]
    return found


def test_probes_of_real_images_agree_with_scikit_learn(xray: Path, resnet56: Path, tmp_path: Path) -> None:
    tasks = ",".join(f"{xray}/{head}" for head in ("logreg", "linear", "knn"))
    out, more = tmp_path / "out", ("-o", tmp_path / "out", "--cache", tmp_path / "cache")
    printed = medprobe("run", "-m", f"pixels,mean-rgb,{resnet56}:make_encoder", "-t", tasks, *more)
    assert "the whole fit takes 50 optimiser steps" in printed
    medprobe("run", "-m", VIT, "-t", tasks, "--image-size", 224, *more)
    medprobe("run", "-m", VIT, "-t", f"{xray}/logreg", "--image-size", 224, "--set", "task.pooling=patch_mean", *more)
    found = aurocs(out)
    print("\n".join(f"{model:55} {head:8} {value:.3f}" for (model, head), value in sorted(found.items())))
    reference = {"pixels": 0.99, "resnet56.py:make_encoder": 0.965, "mean-rgb": 0.50, VIT: 0.90, f"{VIT} patch_mean": 0.68}
    assert {model: found[model, "logreg"] for model in reference} == pytest.approx(reference, abs=0.04)
    for head in ("linear", "knn"):
        scores = {model: value for (model, made), value in found.items() if made == head}
        assert max(scores, key=lambda model: scores[model]) == "pixels"

    flags = json.loads(medprobe("report", out, "--json"))["flags"]
    for model in ("resnet56.py:make_encoder", VIT):
        assert any(model in flag and "below the control pixels" in flag and "/logreg" in flag for flag in flags), flags
