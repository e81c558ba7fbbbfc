"""Registration of real pairs from end to end: cardiac slices and volumes, hippocampi of two patients, prostate MR and ultrasound.

Of the cardiac patients folds 1 and 4 are tested, fold 0 validates: none of SC-HF-I-01, SC-N-02 and SC-HYP-01, on which the defaults of `demons`
were chosen, is tested. Distances are in px, since the images lost their spacing.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.accept
VIT = "random:timm:vit_small_patch16_dinov3"
HEADER = "id,patient,split,fixed,moving,fixed_target,moving_target"
MIDDLE = slice(64, 192)
"""Of 256 rows and columns: every cavity lies in them, 16 pixels or more from their edge."""
PARTS = {1: "test", 4: "test", 0: "val"}


def manifest(home: Path, name: str, dims: int, classes: str, rows: list[str]) -> str:
    (home / f"{name}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (home / f"{name}.toml").write_text(f'name = "{name}"\nkind = "registration"\ndims = {dims}\nclasses = ["background", {classes}]\ncases = "{name}.csv"\n')
    return f"{name}.toml"


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def cardiac(samples: Path, home: Path, dims: int, patients: int | None = None) -> str:
    """End-diastole moving, end-systole fixed. 2D: every slice pair as PNG."""
    folder, rows = samples / "mri_cardiac_ed_es", []
    for row in _rows(folder / "patients.csv")[:patients]:
        patient, part = row["patient"], PARTS.get(int(row["fold"]), "train")
        data = np.load(folder / row["file"])
        arrays = {role: data[name][:, MIDDLE, MIDDLE] for role, name in (("fixed", "es"), ("moving", "ed"), ("fixed_target", "es_lv"), ("moving_target", "ed_lv"))}
        for place in range(len(data["es"])) if dims == 2 else [None]:
            stem = patient if place is None else f"{patient}-{place}"
            files = []
            for role, array in arrays.items():
                file = f"{stem}.{role}" + (".png" if dims == 2 else ".npy")
                if place is None:
                    np.save(home / file, array)
                else:
                    Image.fromarray(np.ascontiguousarray(array[place])).save(home / file)
                files.append(file)
            rows.append(",".join([stem, patient, part, *files]))
    return manifest(home, f"cardiac{dims}d", dims, '"lv"', rows)


def hippocampi(samples: Path, home: Path, pairs: int = 24) -> str:
    """Of two patients each, both of one part: the next patient moves onto this one."""
    folder, rows = samples / "mri_hippocampus", []
    for fold, part in ((0, "test"), (1, "val"), (2, "train")):
        cases = [row for row in _rows(folder / "cases.csv") if int(row["fold"]) == fold][: pairs + 1]
        for fixed, moving in zip(cases[::2], cases[1::2], strict=False):
            stem = f"{Path(fixed['image']).name[:15]}-{Path(moving['image']).name[12:15]}"
            rows.append(",".join([stem, Path(fixed["image"]).name[:15], part, f"images/{Path(fixed['image']).name}", f"images/{Path(moving['image']).name}", f"labels/{Path(fixed['label']).name}", f"labels/{Path(moving['label']).name}"]))
    for kind in ("images", "labels"):
        (home / kind).mkdir(exist_ok=True)
        for file in (folder / kind).iterdir():
            (home / kind / file.name).write_bytes(file.read_bytes())
    return manifest(home, "hippocampi", 3, '"anterior", "posterior"', rows)


def prostates(samples: Path, home: Path) -> str:
    """MR moving onto ultrasound; the release has no common frame, so the middles of both volumes are laid on each other. Glands are labels."""
    rows = []
    for number, folder in enumerate(sorted((samples / "reg_prostate_mr_us").glob("case*"))):
        for name in ("us", "mr", "us_label", "mr_label"):
            image = nibabel.load(folder / f"{name}.nii.gz")
            array = np.asarray(image.dataobj)
            array = array[..., 0] if array.ndim == 4 else array
            affine = np.diag(np.diag(image.affine))
            affine[:3, 3] = -(np.array(array.shape) - 1) / 2 * np.diag(affine)[:3]
            nibabel.save(nibabel.Nifti1Image((array > 0.5).astype(np.uint8) if name.endswith("label") else array, affine), home / f"{folder.name}.{name}.nii.gz")
        part = "val" if number % 4 == 3 else "train" if number == 0 else "test"
        rows.append(",".join([folder.name, folder.name, part, *(f"{folder.name}.{name}.nii.gz" for name in ("us", "mr", "us_label", "mr_label"))]))
    return manifest(home, "prostates", 3, '"gland"', rows)


def medprobe(home: Path, *words: object) -> str:
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=home, timeout=1700, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def scores(out: Path, head: str, model: str) -> dict:
    files = [file for file in (out / "results").rglob("summary.json") if file.parent.parent.name == head and file.parent.name.startswith(model)]
    assert len(files) == 1, files
    return json.loads(files[0].read_text())["scores"]


def said(out: Path, head: str, model: str) -> str:
    found = scores(out, head, model)
    return f"{model}/{head}: " + ", ".join(f"{key} {found[key]['value']:.3f} [{found[key]['low']:.3f}, {found[key]['high']:.3f}]" for key in ("dice", "hd95", "folding_fraction"))


def better(out: Path, baseline: str = "pixels/identity") -> dict[tuple[str, str], dict]:
    """(model, head) → its paired difference of Dice to the baseline."""
    rows = json.loads(medprobe(out, "compare", out, "--baseline", baseline, "--json"))
    for row in rows:
        print(f"  {row['model']} on {row['task']}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], p {row['p']:.3f}")
    return {(row["model"], row["task"].rpartition("/")[2]): row for row in rows}


def run(home: Path, task: str, *rows: tuple) -> None:
    for model, head, *more in rows:
        medprobe(home, "run", "-m", model, "-t", f"{task}/{head}", *more, "-o", "out", "--cache", "cache")
        for one in model.split(","):
            print(said(home / "out", head, one.partition(":")[0]))


@pytest.mark.parametrize(("dims", "side", "epochs"), [(2, 512, 30), (3, 256, 10)])
def test_the_heart_at_end_diastole_is_carried_to_end_systole(samples: Path, tmp_path: Path, dims: int, side: int, epochs: int) -> None:
    task = cardiac(samples, tmp_path, dims)
    run(
        tmp_path, task, ("pixels", "identity"), ("mind,pixels", "convexadam"), ("pixels", "demons"), (VIT, "convexadam", "--image-size", side),
        ("pixels", "voxelmorph", "--set", f"head.epochs={epochs}"),
    )  # fmt: skip
    found = better(tmp_path / "out")
    above = [("mind", "convexadam"), ("pixels", "demons"), *([("pixels", "convexadam"), ("pixels", "voxelmorph")] if dims == 2 else [])]
    assert all(found[one]["low"] > 0 for one in above), "of the volumes' raw intensities and of a network of 10 epochs nothing is promised"


def test_hearts_of_few_slices_are_registered_better_on_a_finer_grid(
    samples: Path, tmp_path: Path
) -> None:
    """Volumes of 5 to 14 slices; `mind` at the default of `task.min_slices` and on their own grid."""
    task = cardiac(samples, tmp_path, 3)
    own = "mind (min_slices=0)"
    for more in ((), ("--set", "task.min_slices=0")):
        words = ("-m", "mind", "-t", f"{task}/convexadam", *more, "-o", "out", "--cache", "cache")
        medprobe(tmp_path, "run", *words)
    rows = json.loads(medprobe(tmp_path, "compare", "out", "--baseline", own, "--json"))
    (row,) = (row for row in rows if row["model"] == "mind")
    for file in sorted((tmp_path / "out").rglob("seed0.json")):
        result = json.loads(file.read_text())
        seconds, dice = result["provenance"]["seconds"], result["scores"]["dice"]["value"]
        print(f"{file.parent.name}: Dice {dice:.3f}, {seconds}")
    print(f"difference {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
    assert row["low"] > 0.02


def test_one_hippocampus_is_carried_onto_another(samples: Path, tmp_path: Path) -> None:
    """Another ConvexAdam on other pairs: 0.60 before, 0.75 after."""
    task = hippocampi(samples, tmp_path)
    run(tmp_path, task, ("pixels", "identity"), ("mind,pixels", "convexadam"))
    assert better(tmp_path / "out")["mind", "convexadam"]["low"] > 0.1


def test_self_similarity_beats_intensity_between_mr_and_ultrasound(samples: Path, tmp_path: Path) -> None:
    task = prostates(samples, tmp_path)
    run(tmp_path, task, ("pixels", "identity"), ("mind,pixels", "convexadam"))
    assert better(tmp_path / "out", "pixels/convexadam")["mind", "convexadam"]["low"] > 0
