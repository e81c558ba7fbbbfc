"""The command line as a user meets it: each exit status of the table, one clear sentence, and nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ENCODER = """
import time
import torch

class Corner(torch.nn.Module):
    image_size = 32

    def forward(self, x):
        return x[:, :, :8, :8].reshape(len(x), -1)

class Slow(Corner):
    def forward(self, x):
        time.sleep(0.25)
        return super().forward(x)

class Broken(Corner):
    def forward(self, x):
        return super().forward(x) if x.std() == 0 else torch.full((len(x), 192), float("nan"))
"""
MANIFEST = 'name = "toy"\nkind = "classification"\nclasses = ["dark", "light"]\ncases = "cases.csv"\n'


def medprobe(*words: object, cwd: Path | None = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command, expect its status, and never a bare traceback."""
    ended = subprocess.run([sys.executable, "-m", "medprobe", *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=120, env=_environment())
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode == status, ended.stderr
    return ended


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDPROBE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def write_data(folder: Path) -> Path:
    """40 patients of two classes: the corner of a light one is brighter. Returns the manifest."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = ["id,patient,split,image,target"]
    for number in range(40):
        pixels = rng.integers(60, 120, (32, 32, 3))
        pixels[:8, :8] += 25 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append(f"c{number},p{number},{split},{number}.png,{('dark', 'light')[number % 2]}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "toy.toml").write_text(MANIFEST)
    (folder / "enc.py").write_text(ENCODER)
    return folder / "toy.toml"


def scores_under(out: Path) -> dict[str, object]:
    return {str(file.relative_to(out)): json.loads(file.read_text())["scores"] for file in sorted((out / "results").rglob("seed*.json"))}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def request(toy: Path, out: str, model: str, heads: str = "logreg", *more: object) -> list[object]:
    """The words of a run on the toy manifest, with its own cache beside `out`."""
    tasks = ",".join(f"{toy}/{head}" for head in heads.split(","))
    home = toy.parent.parent
    return ["run", "-m", model, "-t", tasks, "-o", home / out, "--cache", home / "cache", "--json", *more]


def test_a_run_is_done_then_has_nothing_left_and_refuses_changed_data(toy: Path, tmp_path: Path) -> None:
    words = request(toy, "out", f"pixels,mean-rgb,{toy.parent}/enc.py:Corner", "logreg,knn,constant")
    first = json.loads(medprobe(*words).stdout)
    assert (len(first["done"]), first["failed"]) == (9, {})
    scores = scores_under(tmp_path / "out")
    assert all(score["auroc"]["value"] == 0.5 for path, score in scores.items() if "/constant/" in path)
    assert all(score["auroc"]["value"] == 1 for path, score in scores.items() if "/logreg/" in path and "enc.py" in path)
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.*")}
    again = medprobe(*words)
    assert "0 results to compute, 9 done already" in again.stderr
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.*")} == stamps

    cases = toy.parent / "cases.csv"
    cases.write_text(cases.read_text().replace("c7,p7,test,7.png,light", "c7,p7,test,7.png,dark"))
    conflict = medprobe(*words, status=2)
    assert "dataset_fingerprint" in conflict.stderr
    assert scores_under(tmp_path / "out") == scores
    fresh = medprobe(*request(toy, "other", "pixels", "knn"))
    assert "all 40 planes encoded" in fresh.stderr, "a corrected label encodes nothing again"

    shard = next((tmp_path / "cache").glob("features/*/*/*.npy"))
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(bytes(data))
    verified = medprobe("cache", "verify", "--cache", tmp_path / "cache", status=1)
    assert "FAULT" in verified.stdout


def test_the_same_seed_twice_and_any_batch_size_give_identical_scores(toy: Path, tmp_path: Path) -> None:
    for out, batch in (("a", 16), ("b", 7)):
        medprobe(*request(toy, out, "pixels", "logreg"), "--batch-size", batch, "--cache", tmp_path / f"cache-{out}")
    assert scores_under(tmp_path / "a") == scores_under(tmp_path / "b")


def test_another_size_precision_or_weights_never_meets_the_first_result(toy: Path, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    medprobe(*request(toy, "out", "random:timm:test_vit", "knn"), "--image-size", 32)
    before = scores_under(tmp_path / "out")
    medprobe(*request(toy, "out", "random:timm:test_vit", "knn"), "--image-size", 64)
    medprobe(*request(toy, "out", "random:timm:test_vit", "knn"), "--image-size", 64, "--precision", "bf16")
    for seed in (0, 1):
        torch.manual_seed(seed)
        file = tmp_path / f"{seed}.safetensors"
        save_file({name: value.clone() for name, value in timm.create_model("test_vit").state_dict().items()}, file)
        medprobe(*request(toy, "out", "timm:test_vit", "knn"), "--image-size", 32, "--weights", file)
    after = scores_under(tmp_path / "out")
    assert len(after) == 5
    assert before.items() <= after.items()
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 5


def test_a_plan_lists_what_is_missing_and_succeeds(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    words = ["run", "-m", "pixels", "-t", "nih14/linear", "--data", tmp_path / "root", "-o", tmp_path / "out", "--cache", tmp_path / "cache"]
    planned = json.loads(medprobe(*words, "--plan", "--json").stdout)
    assert planned["missing"]
    missing = medprobe(*words, status=3)
    assert "nih14" in missing.stderr


def test_an_unreadable_case_fails_its_cell_unless_it_is_allowed(toy: Path, tmp_path: Path) -> None:
    picture = toy.parent / "4.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    failed = medprobe(*request(toy, "out", "pixels"), status=1)
    assert "c4" in failed.stderr
    assert "--skip-unreadable 1" in failed.stderr
    document = json.loads(next((tmp_path / "out").rglob("seed0.json")).read_text())
    assert document["status"] == "failed"
    assert "scores" not in document
    medprobe(*request(toy, "out", "pixels"), "--skip-unreadable", 1)
    document = json.loads(next((tmp_path / "out").rglob("seed0.json")).read_text())
    assert [line.partition(":")[0] for line in document["cases"]["unreadable"]] == ["c4"]


def test_nan_features_fail_their_cell_and_leave_the_others(toy: Path) -> None:
    ended = medprobe(*request(toy, "out", f"{toy.parent}/enc.py:Broken,mean-rgb"), status=1)
    outcome = json.loads(ended.stdout)
    assert (len(outcome["done"]), len(outcome["failed"])) == (1, 1)
    assert "NaN" in ended.stderr


@pytest.mark.parametrize(
    ("model", "task", "more", "said"),
    [
        ("pixels", "{toy}/logreg", ["--imagesize", "3"], "--image-size"),
        ("pixles", "{toy}/logreg", [], "pixels"),
        ("pixels", "nih15/logreg", [], "nih14"),
        ("pixels", "{toy}/logrge", [], "logreg"),
        ("pixels", "{toy}/logreg", ["--set", "head.kk=3"], "kk"),
        ("pixels", "{toy}/logreg", ["--seeds", "one"], "--seeds"),
        ("pixels", "{toy}/logreg", ["--batch-size", "0"], "--batch-size"),
        ("pixels", "{toy}/logreg", ["--max-ram", "much"], "--max-ram"),
    ],
)
def test_a_wrong_request_is_status_2_and_says_what_was_meant(toy: Path, tmp_path: Path, model: str, task: str, more: list[str], said: str) -> None:
    words = ["run", "-m", model, "-t", task.format(toy=toy), "-o", tmp_path / "out", "--cache", tmp_path / "cache", *more]
    assert said in medprobe(*words, status=2).stderr
    assert not (tmp_path / "out" / "results").exists()


def test_everything_wrong_with_a_manifest_is_said_at_once(toy: Path) -> None:
    cases = toy.parent / "cases.csv"
    rows = cases.read_text().splitlines()
    rows[1] = rows[1].replace("dark", "grey")
    rows[2] = rows[2].replace("c1,", "c0,")
    rows[3] = rows[3].replace("2.png", "../2.png")
    rows.append("c99,p0,test,5.png,dark")
    cases.write_text("\n".join(rows))
    said = medprobe(*request(toy, "out", "pixels"), status=2).stderr
    for fault in ("grey", "c0", "../2.png", "p0"):
        assert fault in said


def test_a_class_absent_from_training_is_a_wrong_manifest(toy: Path) -> None:
    cases = toy.parent / "cases.csv"
    cases.write_text("\n".join(row for row in cases.read_text().splitlines() if "train" not in row or "dark" in row))
    assert "light" in medprobe(*request(toy, "out", "pixels"), status=2).stderr


def test_missing_roots_images_and_weights_are_status_3(toy: Path, tmp_path: Path) -> None:
    root = medprobe("run", "-m", "pixels", "-t", "nih14/linear", "--data", tmp_path / "nowhere", "-o", tmp_path / "out", status=3)
    assert "nowhere" in root.stderr
    weights = medprobe(*request(toy, "out", "dinov3-s"), "--weights", tmp_path / "absent.pth", status=3)
    assert "absent.pth" in weights.stderr
    (toy.parent / "3.png").unlink()
    assert "3.png" in medprobe(*request(toy, "out", "pixels"), status=3).stderr


def test_a_checkpoint_that_does_not_fit_is_status_3_and_lists_why(toy: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"norm.weight": np.ones(3, np.float32), "stranger": np.ones(2, np.float32)}, tmp_path / "bad.safetensors")
    assert "stranger" in medprobe(*request(toy, "out", "dinov3-s"), "--weights", tmp_path / "bad.safetensors", status=3).stderr


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_goes_on_to_the_same_scores(toy: Path, tmp_path: Path, sent: int, status: int) -> None:
    words = request(toy, "out", f"{toy.parent}/enc.py:Slow", "logreg", "--batch-size", 2)
    running = subprocess.Popen([sys.executable, "-m", "medprobe", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob("features/*/*/shard.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.6)
    running.send_signal(sent)
    _, said = running.communicate(timeout=60)
    assert running.returncode == status, said
    assert "Traceback" not in said
    assert "interrupted" in said
    assert scores_under(tmp_path / "out") == {}
    medprobe(*words)
    medprobe(*request(toy, "straight", f"{toy.parent}/enc.py:Slow", "logreg", "--batch-size", 16), "--cache", tmp_path / "other-cache")
    assert scores_under(tmp_path / "out") == scores_under(tmp_path / "straight")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom medprobe.cli import app\n"
        "try:\n    app(args=['run', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'monai', 'timm', 'sklearn', 'matplotlib', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "--model" in ended.stdout


def test_a_probe_far_from_converged_is_said_once_at_the_end(toy: Path) -> None:
    said = medprobe(*request(toy, "out", "pixels", "linear"), "--seeds", "0,1").stderr
    assert "warning: toy/linear/pixels/seed0 and 1 more: linear: the whole fit takes 50 optimiser steps" in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("task.main=aurock", "did you mean auroc"),
        ("task.monitor=dice", "has no score named 'dice'"),
        ("task.threshold=youden", "did you mean youden_val"),
        ("task.window=1", "expected one of full-range"),
        ("head.grid=[1", "expected a number, a word or a list"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_runs(toy: Path, setting: str, said: str) -> None:
    assert said in medprobe(*request(toy, "out", "pixels"), "--set", setting, status=2).stderr


def test_folders_that_cannot_be_made_are_wrong_requests(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["run", "-m", "pixels", "-t", toy]
    for out, cache in (("file", "cache"), ("file/below", "cache"), ("out", "file"), ("out", "/proc/nope")):
        assert "choose another" in medprobe(*words, "-o", tmp_path / out, "--cache", tmp_path / cache, status=2).stderr
    for more in (["--batch-size", "²"], ["--seeds", "0,0"], ["--folds", "0,0"]):
        medprobe(*request(toy, "out", "pixels"), *more, status=2)


def test_two_manifests_of_one_name_do_not_overwrite_each_other(toy: Path, tmp_path: Path) -> None:
    other = write_data(tmp_path / "other")
    cases = tmp_path / "other" / "cases.csv"
    cases.write_text(cases.read_text().replace("c1,p1,", "d1,p1,"))
    said = medprobe("run", "-m", "pixels", "-t", f"{toy},{other}", "-o", tmp_path / "out", "--cache", tmp_path / "cache", status=2).stderr
    assert "would write the same result" in said


def test_the_order_of_rows_changes_no_score(toy: Path, tmp_path: Path) -> None:
    more = ("--set", "head.batch_size=4")
    medprobe(*request(toy, "one", "pixels", "linear"), *more)
    cases = toy.parent / "cases.csv"
    header, *rows = cases.read_text().splitlines()
    cases.write_text("\n".join([header, *reversed(rows)]) + "\n")
    medprobe(*request(toy, "two", "pixels", "linear"), *more)
    assert scores_under(tmp_path / "one") == scores_under(tmp_path / "two")


def test_a_result_is_done_only_with_its_files_and_as_strict_as_asked(toy: Path, tmp_path: Path) -> None:
    (toy.parent / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    words = request(toy, "out", "pixels")
    medprobe(*words, "--skip-unreadable", 1)
    assert "0 results to compute" in medprobe(*words, "--skip-unreadable", 1).stderr
    medprobe(*words, status=1)
    medprobe(*words, "--skip-unreadable", 1)
    for file in (tmp_path / "out").rglob("*.predictions.parquet"):
        file.unlink()
    (tmp_path / "out/results/toy/logreg/pixels/summary.json").write_text('{"schema": 1, "task": {}}')
    assert "1 result to compute" in medprobe(*words, "--skip-unreadable", 1).stderr
    assert json.loads((tmp_path / "out/results/toy/logreg/pixels/summary.json").read_text())["scores"]


def test_a_setting_that_is_the_default_changes_no_name(toy: Path, tmp_path: Path) -> None:
    medprobe(*request(toy, "out", "pixels", "knn"), "--set", "head.temperature=0.07", "--set", "task.resize=bicubic")
    assert (tmp_path / "out/results/toy/knn/pixels/seed0.json").exists()


def test_a_plan_is_the_result_of_plan(toy: Path) -> None:
    assert "1 result to compute" in medprobe(*request(toy, "out", "pixels")[:-1], "--plan").stdout


def test_an_interrupt_while_libraries_load_is_one_too(toy: Path) -> None:
    for wait in (0.3, 1.0):
        running = subprocess.Popen([sys.executable, "-m", "medprobe", *map(str, request(toy, "out", f"{toy.parent}/enc.py:Slow"))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
        time.sleep(wait)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode in (130, -signal.SIGINT), said
        assert "Traceback" not in said or running.returncode == -signal.SIGINT
