"""A run that is cut off at any moment, shares its cache with another or meets a full disk ends with the same results."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PICTURES = 300
CHUNK = 128
ENCODER = """
import os
import time
import torch

WATCHED = 4  # calls with fewer planes than any batch of the run look whether answers change

class Corner(torch.nn.Module):
    image_size = 32

    def forward(self, x):
        if x.std() > 0 and len(x) > WATCHED:
            time.sleep(0.1)
            with open(os.environ["CALLS"], "a") as log:
                log.write(f"{len(x)}\\n")
        return x[:, :, :8, :8].reshape(len(x), -1)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A manifest of 300 pictures, more than two chunks of the store, and an encoder that notes what it encodes."""
    rng = np.random.default_rng(0)
    rows = ["id,patient,split,image,target"]
    for number in range(PICTURES):
        pixels = rng.integers(60, 120, (32, 32, 3))
        pixels[:8, :8] += 4 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"c{number},p{number},{('train', 'train', 'val', 'test')[number // 2 % 4]},{number}.png,{number % 2}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "toy.toml").write_text('name = "toy"\nkind = "classification"\nclasses = ["dark", "light"]\n')
    (tmp_path / "enc.py").write_text(ENCODER)
    return tmp_path


NO_LOCKS = """
import errno
import fcntl

def flock(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = flock
"""


def start(home: Path, out: str, cache: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    words = [
        "run", "-m", f"{home}/enc.py:Corner", "-t", f"{home}/toy.toml/logreg,{home}/toy.toml/linear",
        "-o", home / out, "--cache", home / cache, "--json",
    ]  # fmt: skip
    environment = {**os.environ, "CALLS": str(home / f"calls-{out}"), "OMP_NUM_THREADS": "1"}
    if (home / "sitecustomize.py").exists():
        path = (str(home), os.environ.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return subprocess.Popen([sys.executable, "-m", "medprobe", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=before)


def finish(running: subprocess.Popen[str], status: int = 0) -> str:
    _, said = running.communicate(timeout=120)
    assert running.returncode == status, said
    assert "Traceback" not in said
    return said


def wait_for_store(home: Path, cache: str, running: subprocess.Popen[str]) -> None:
    while not list((home / cache).glob("features/*/*/shard.json")):
        assert running.poll() is None
        time.sleep(0.02)


def encoded(home: Path, out: str) -> int:
    log = home / f"calls-{out}"
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def results_of(home: Path, out: str) -> dict[str, object]:
    """Everything under `results` but times, memory and the day: JSON as values, predictions as bytes."""
    found: dict[str, object] = {}
    for file in sorted(path for path in (home / out / "results").rglob("*") if path.is_file()):
        content: object = file.read_bytes()
        if file.suffix == ".json":
            content = json.loads(file.read_text())
            for name in ("seconds", "peak_memory_bytes", "written"):
                content.get("provenance", {}).pop(name, None)
        found[str(file.relative_to(home / out))] = content
    return found


def check_kills(home: Path, kills: int) -> None:
    running = start(home, "straight", "cache-straight")
    wait_for_store(home, "cache-straight", running)
    begin = time.monotonic()
    finish(running)
    span = time.monotonic() - begin
    expected = results_of(home, "straight")
    assert len([name for name in expected if name.endswith("seed0.json")]) == 2
    # the first kill falls into encoding, the others anywhere
    moments = [0.2 * span, *np.random.default_rng(0).uniform(0, span, kills - 1)]
    for number, moment in enumerate(moments):
        out, cache = f"killed{number}", f"cache{number}"
        running = start(home, out, cache)
        wait_for_store(home, cache, running)
        time.sleep(moment)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        finish(start(home, out, cache))
        assert results_of(home, out) == expected, f"killed {moment:.2f} s after encoding began"
        leftovers = list((home / out).rglob("*.safetensors"))
        assert not leftovers


def test_killed_runs_end_with_the_same_results(home: Path) -> None:
    check_kills(home, 2)


@pytest.mark.accept
def test_runs_killed_at_twenty_moments_end_with_the_same_results(home: Path) -> None:
    check_kills(home, 20)


def test_two_runs_on_one_cache_encode_every_picture_once_and_agree(home: Path) -> None:
    both = [start(home, out, "cache") for out in ("one", "two")]
    for running in both:
        finish(running)
    assert encoded(home, "one") + encoded(home, "two") == PICTURES
    assert results_of(home, "one") == results_of(home, "two")


@pytest.mark.accept
def test_two_runs_on_a_disk_without_locks_encode_every_picture_once_and_agree(home: Path) -> None:
    (home / "sitecustomize.py").write_text(NO_LOCKS)
    test_two_runs_on_one_cache_encode_every_picture_once_and_agree(home)
    assert not list(home.rglob("*.held"))


def test_a_run_killed_on_a_disk_without_locks_is_gone_on_with(home: Path) -> None:
    (home / "sitecustomize.py").write_text(NO_LOCKS)
    running = start(home, "killed", "cache")
    wait_for_store(home, "cache", running)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert list(home.rglob("*.held"))
    finish(start(home, "killed", "cache"))
    assert not list(home.rglob("*.held"))


def test_a_full_disk_is_a_sentence_and_keeps_what_was_encoded(home: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))

    said = finish(start(home, "out", "cache", before=little_room), status=1)
    assert "features could not be written" in said
    assert encoded(home, "out") >= 2 * CHUNK
    (home / "calls-out").unlink()
    finish(start(home, "out", "cache"))
    assert encoded(home, "out") == PICTURES - CHUNK, "the first chunk was kept"
