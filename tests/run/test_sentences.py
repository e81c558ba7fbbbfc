"""What is said is so: no option that was not given, no count of other things, nothing unfinished that is finished."""

import errno
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medprobe.check.dataset import check_dataset
from medprobe.datasets.manifest import load_manifest
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.features.store import Encoding, Entry, inspect
from medprobe.report.page import write_report
from medprobe.run import plan as planning
from medprobe.run import run as running
from medprobe.run.request import Request


def silent(done: int, total: int, what: str) -> None:
    """No progress."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


def write(folder: Path, parts: str = "tttvvsss", name: str = "toy") -> Path:
    """A manifest of pictures whose parts are t(rain), v(al) and s (test); their grey value is their class."""
    rows = ["id,patient,split,image,target"]
    for number, part in enumerate(parts):
        pixels = np.full((8, 8), 40 + 120 * (number % 2) + number, np.uint8)
        pixels[0, 0] = 0
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = {"t": "train", "v": "val", "s": "test"}[part]
        rows.append(f"c{number},p{number},{split},{number}.png,{'ab'[number % 2]}")
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    text = f'name = "{name}"\nkind = "classification"\nclasses = ["a", "b"]\ncases = "{name}.csv"\n'
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def request(folder: Path, heads: str = "logreg", model: str = "mean-rgb", **more) -> Request:
    tasks = ",".join(f"{folder}/toy.toml/{head}" for head in heads.split(","))
    return Request(model, tasks, folder / "runs", **more)


@pytest.mark.parametrize("at", ["the second cell", "the second group"])
def test_a_cell_that_was_finished_before_an_interrupt_is_not_called_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    write(tmp_path)
    two = {"heads": "logreg,knn"} if at == "the second cell" else {"model": "mean-rgb,pixels"}
    asked = request(tmp_path, **two)
    plan = planning.make(asked, silent)
    assert len(plan.groups) == (1 if at == "the second cell" else 2)
    fit, calls = running._run_cell, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(running, "_run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run(asked, plan, silent)
    (done,) = (tmp_path / "runs" / "results").rglob("seed0.json")
    assert (done.parent / "summary.json").exists()
    write_report(tmp_path / "runs")
    for file in (tmp_path / "runs/report/tables").glob("scores-*.csv"):
        assert "unfinished" not in file.read_text()


def test_a_limit_is_named_only_where_one_was_given(tmp_path: Path) -> None:
    write(tmp_path, "ssss")
    with pytest.raises(RequestError, match="found none to train") as raised:
        planning.make(request(tmp_path), silent)
    assert "--limit" not in str(raised.value)
    write(tmp_path, "tttssss")
    table = tmp_path / "toy.csv"
    table.write_text(table.read_text().replace("2.png,a", "2.png,"))
    found = []
    for seed in range(12):  # of three cases to train, one drawn in seeded order has no label
        asked = request(tmp_path, limit=1, settings={"task.split_seed": seed})
        try:
            planning.make(asked, silent)
        except RequestError as error:
            found.append(str(error))
    assert found
    assert all("or raise --limit" in said for said in found)


def test_heads_name_no_option_that_they_do_not_know_of(tmp_path: Path) -> None:
    write(tmp_path, "tttttvvsss")
    asked = request(tmp_path, limit=1)
    outcome = running.run(asked, planning.make(asked, silent), silent)
    (said,) = outcome.failed.values()
    assert "at least two classes" in said
    assert "--limit" not in said


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fp32_is_advised_only_where_it_was_not_used(tmp_path: Path, precision: str) -> None:
    write(tmp_path)
    (tmp_path / "enc.py").write_text(
        "import torch\nclass Broken(torch.nn.Module):\n    image_size = 8\n    def forward(self, x):\n"
        "        return x.flatten(1) if x.std() == 0 else x.flatten(1) * float('nan')\n"
    )
    asked = request(tmp_path, model=f"{tmp_path}/enc.py:Broken", precision=precision)
    outcome = running.run(asked, planning.make(asked, silent), silent)
    (said,) = outcome.failed.values()
    assert "NaN or infinite" in said
    assert ("--precision fp32" in said) == (precision == "bf16")


def pairs(folder: Path, broken: int) -> Path:
    rows = ["id,patient,split,fixed,moving"]
    for number in range(9):
        for role in ("f", "m"):
            file = folder / f"{role}{number}.png"
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)).save(file)
            if number < broken:
                file.write_bytes(b"no picture")
        rows.append(f"c{number},p{number},{'test' if number else 'train'},f{number}.png,m{number}.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "pairs.toml").write_text('name = "pairs"\nkind = "registration"\n')
    return folder / "pairs.toml"


@pytest.mark.parametrize("broken", [1, 9])
def test_no_more_images_cannot_be_used_than_were_tried(tmp_path: Path, broken: int) -> None:
    dataset = load_manifest(pairs(tmp_path, broken))
    (finding,) = (one for one in check_dataset(dataset, tmp_path) if one.name == "images")
    assert finding.detail.startswith(f"{2 * broken} of 18 tried cannot be used")


def test_of_masks_off_their_images_the_labelled_cases_are_counted(tmp_path: Path) -> None:
    rows = ["id,patient,split,image,target"]
    for number in range(6):
        shape = (6, 5, 4) if number % 2 else (6, 5, 3)
        for name, size in (("i", (6, 5, 4)), ("m", shape)):
            volume = nibabel.Nifti1Image(np.zeros(size, np.uint8), np.eye(4))
            nibabel.save(volume, tmp_path / f"{name}{number}.nii.gz")
        mask = "" if number > 3 else f"m{number}.nii.gz"
        rows.append(f"c{number},p{number},{'test' if number % 2 else 'train'},i{number}.nii.gz,{mask}")
    (tmp_path / "toy.csv").write_text("\n".join(rows) + "\n")
    text = 'name = "toy"\nkind = "segmentation"\ndims = 3\nclasses = ["a", "b"]\ncases = "toy.csv"\n'
    (tmp_path / "toy.toml").write_text(text)
    with pytest.raises(CaseError, match="masks of 2 of 4 labelled cases do not lie on their images"):
        planning.make(request(tmp_path, "constant", "pixels"), silent)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, r"\(No space left on device\).*: free space, .*keep less with --cache-budget"),
        (errno.EROFS, r"\(Read-only file system\).*: change its permissions, or choose another --cache,"),
        (errno.EIO, "look at the disk, or choose another --cache, and run"),
    ],
)
def test_of_a_disk_that_takes_no_features_the_cause_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    import os

    write(tmp_path)

    def fails(self, *given) -> None:
        raise OSError(code, os.strerror(code))

    asked = request(tmp_path)
    plan = planning.make(asked, silent)
    monkeypatch.setattr("medprobe.features.store.Shard.commit", fails)
    (found,) = running.run(asked, plan, silent).failed.values()
    assert re.search(said, found)


def test_a_disk_of_the_hub_is_not_called_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from medprobe.encoders import hub

    def fails(*given, **more) -> str:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    with pytest.raises(MissingError, match=r"could not be kept in .* this disk offers no locks.* HF_HOME"):
        hub.fetch("medprobe/absent", ("model.safetensors",), "timm:absent")


def test_the_plan_of_images_that_are_not_encoded_speaks_of_no_planes(tmp_path: Path) -> None:
    pairs(tmp_path, 0)
    for role in ("f", "m"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / f"{role}.png")
    table = (tmp_path / "cases.csv").read_text().replace("moving\n", "moving,fixed_target,moving_target\n")
    (tmp_path / "cases.csv").write_text(table.replace(".png\n", ".png,f.png,m.png\n"))
    manifest = (tmp_path / "pairs.toml").read_text()
    (tmp_path / "pairs.toml").write_text(manifest + 'classes = ["background", "line"]\n')
    asked = Request("pixels", f"{tmp_path}/pairs.toml/identity", tmp_path / "runs")
    said = "\n".join(running.describe(planning.make(asked, silent)))
    assert "all 0 planes" not in said
    assert "nothing to encode" in said


def test_planes_are_not_kept_for_the_reason_that_is_said(tmp_path: Path) -> None:
    write(tmp_path)
    for more, why in (({"cache_budget": 1}, "as their features are"), ({}, "for want of room")):
        asked = request(tmp_path, model="pixels", planes_budget=0, **more)
        said = "\n".join(running.describe(planning.make(asked, silent)))
        assert f"8 planes to decode, not kept {why}" in said


def test_a_fault_that_no_cleaning_removes_is_not_said_to_be(tmp_path: Path) -> None:
    encoding = Encoding(tmp_path / "cache", {"encoder": "any"})
    encoding.plan([Entry("a", 1)], alone=False)
    (encoding.folder / "encoding.json").write_text("{}")
    assert next(inspect(tmp_path / "cache", verify=True)).shard == "-"
    words = ["-m", "medprobe", "cache", "verify", "--cache", str(tmp_path / "cache")]
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "the next run with this encoding writes it again" in ended.stdout
    assert "cache gc" not in ended.stdout
    assert "1 shards, 1 faults" in ended.stdout


def test_only_a_command_that_goes_on_says_that_it_does(tmp_path: Path) -> None:
    write(tmp_path)
    code = "import time, medprobe.check.check as c, medprobe.cli as m\n" + (
        "def wait(*given): print('there', flush=True); time.sleep(60)\n"
        "c.check = wait\nm.main(['check', 'env'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ended:
        assert ended.stdout is not None
        ended.stdout.readline()
        ended.send_signal(signal.SIGINT)
        _, said = ended.communicate(timeout=60)
    assert (ended.returncode, said.strip()) == (130, "medprobe: interrupted")


@pytest.fixture
def volumes(tmp_path: Path) -> Callable[[str], Path]:
    """A manifest of volumes whose masks lie on a fourth axis, in files of a suffix; `{}` is what follows their name."""

    def write(suffix: str, member: str) -> Path:
        rng = np.random.default_rng(0)
        rows = ["id,patient,split,image,target"]
        for number in range(4):
            image = nibabel.Nifti1Image(rng.normal(size=(6, 5, 4)).astype(np.float32), np.eye(4))
            nibabel.save(image, tmp_path / f"i{number}.nii.gz")
            mask = (rng.random((6, 5, 4, 2)) > 0.5).astype(np.uint8)
            file = tmp_path / f"m{number}{suffix}"
            if suffix.startswith(".nii"):
                nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), file)
            else:
                sitk = pytest.importorskip("SimpleITK")
                made = sitk.GetImageFromArray(mask.transpose(2, 1, 0, 3).copy(), isVector=True)
                made.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
                sitk.WriteImage(made, str(file))
            part = "train" if number % 2 else "test"
            rows.append(f"c{number},p{number},{part},i{number}.nii.gz,{file.name}{member}")
        (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
        text = 'name = "toy"\nkind = "segmentation"\ndims = 3\nclasses = ["a", "b"]\n'
        (tmp_path / "toy.toml").write_text(text)
        return tmp_path / "toy.toml"

    return write


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_mask_on_a_fourth_axis_has_the_way_out_that_is_named(volumes, tmp_path: Path, suffix: str) -> None:
    dataset = load_manifest(volumes(suffix, ""))
    said = next(one.detail for one in check_dataset(dataset, tmp_path) if one.name == "images")
    way = re.search(r"write m0\S*(:/0) for the first", said)
    assert way is not None, said
    for member in (way[1], ":/1"):
        dataset = load_manifest(volumes(suffix, member))
        found = {one.name: one for one in check_dataset(dataset, tmp_path)}
        assert found["images"].ok, found["images"].detail
