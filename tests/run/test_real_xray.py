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
    return ended.stdout + ended.stderr


def aurocs(out: Path) -> dict[tuple[str, str], float]:
    """(model, head) → AUROC over all folds."""
    found = {}
    for path in (out / "results").rglob("summary.json"):
        summary = json.loads(path.read_text())
        score = summary["scores"]["auroc"]
        assert score["low"] < score["value"] < score["high"] or score["value"] == 0.5
        found[summary["model"]["name"], summary["task"]["head"]] = score["value"]
    return found


def test_probes_of_real_images_agree_with_scikit_learn(xray: Path, resnet56: Path, tmp_path: Path) -> None:
    heads = ("logreg", "linear", "knn")
    own, mean = f"{resnet56}:make_encoder", f"{VIT}@patch_mean"
    models = ",".join(("pixels", "mean-rgb", own))
    tasks = ",".join(f"{xray}/{head}" for head in heads)
    out = tmp_path / "out"
    printed = medprobe("run", "-m", models, "-t", tasks, "-o", out, "--cache", tmp_path / "cache")
    assert "steps" in printed, "the linear probe says that it takes fewer than 500 steps"
    medprobe("run", "-m", ",".join((VIT, mean)), "-t", tasks, "--image-size", 224, "-o", out, "--cache", tmp_path / "cache")
    found = aurocs(out)
    named = {model.rsplit("/", 1)[-1].split(":")[0] if "resnet56" in model else model: model for model, _ in found}
    logreg = {short: found[model, "logreg"] for short, model in named.items()}
    print(json.dumps({f"{model} {head}": round(value, 3) for (model, head), value in sorted(found.items())}, indent=1))
    reference = {"pixels": 0.99, "resnet56.py": 0.97, "mean-rgb": 0.48, VIT: 0.90, mean: 0.68}
    near = {name: next(value for short, value in logreg.items() if name in short and ("@" in short) == ("@" in name)) for name in reference}
    assert near == pytest.approx(reference, abs=0.04)
    for head in ("linear", "knn"):
        assert max(value for (_, made), value in found.items() if made == head) == max(value for (model, made), value in found.items() if made == head and model == "pixels")
    medprobe("report", out)
    page = (out / "report" / "index.html").read_text()
    assert "pixels" in page
    print([line.strip()[:200] for line in page.splitlines() if "below" in line][:5])
