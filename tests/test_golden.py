"""The golden suite finds what differs between two folders, and nothing where they are equal."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "golden"
RESULT = "runs/results/toy/knn/pixels/seed0"
SHARD = "cache/features/a/b"
VOLUME = "runs/predictions/toy/conv3d/pixels/seed0/c1.nii.gz"
MASK = "runs/predictions/toy/conv2d/pixels/seed0/c1.png"
PICTURE = "runs/pictures/toy/conv2d/pixels/seed0/best.png"


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("medprobe_golden", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, name: str, content: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def document(seconds: float) -> dict[str, Any]:
    provenance = {
        "seconds": {"fit": seconds},
        "peak_memory_bytes": int(seconds),
        "precision": "fp32",
    }
    return {"key": "k", "scores": {"auroc": {"value": 0.75, "low": None}}, "provenance": provenance}


def write_tree(folder: Path, seconds: float) -> None:
    """A file of each kind; `seconds` is in all that tells a time, the folder's path in a text."""
    write(folder, f"{RESULT}.json", json.dumps(document(seconds)))
    write(
        folder,
        f"{SHARD}/shard.json",
        json.dumps({"checksums": [{"cls": 1}], "checksum": f"{seconds}"}),
    )
    write(folder, "cache/digests/x.json", f"{seconds}")
    write(folder, "inputs/x.csv", f"{seconds}")
    progress = f"fitting: 1/{round(seconds)}, {seconds} s each, 0:24 left"
    took = f"1 result done, 0 failed, in runs, after {round(seconds)} s"
    plan = f"  pixels: 4 planes to encode, about {round(seconds)} s; 1 results (toy/knn)"
    write(folder, "commands/run.stderr", f"{progress}\n{plan}\nwarning: few steps\n{took}\n")
    write(
        folder, "commands/run.stdout", json.dumps({"minutes": seconds, "file": f"{folder}/x.png"})
    )
    write(folder, "commands/run.status", "0\n")
    written = f"<p>medprobe 0.1.0; last result written {seconds}; device cpu</p>"
    write(folder, "runs/report/index.html", f"<td>0.75</td>\n{written}\n")
    values = pd.DataFrame({"case": ["c1", "c2"], "prob.a": [0.25, np.nan]})
    values.to_parquet(
        folder / f"{RESULT}.predictions.parquet", compression="gzip" if seconds > 2 else None
    )
    for name in (MASK, PICTURE, VOLUME):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), folder / VOLUME)
    Image.new("L", (8, 8), 1).save(folder / MASK, compress_level=1 if seconds > 2 else 9)
    Image.new("L", (8, 8), 1).save(folder / PICTURE)
    np.save(folder / SHARD / "cls.npy", np.ones(3))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    for name, seconds in (("before", 1.5), ("after", 2.5)):
        write_tree(tmp_path / name, seconds)
    return tmp_path / "before", tmp_path / "after"


def test_trees_that_differ_in_times_paths_and_compression_are_equal(
    golden: ModuleType, sides: tuple[Path, Path]
) -> None:
    count, differences = golden.compare(*sides)
    assert differences == []
    assert count == 11


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def other_probability(folder: Path) -> None:
    values = pd.DataFrame({"case": ["c1", "c2"], "prob.a": [0.2500001, np.nan]})
    values.to_parquet(folder / f"{RESULT}.predictions.parquet")


def other_voxel(folder: Path) -> None:
    voxels = np.ones((2, 3, 4), np.uint8)
    voxels[1, 2, 3] = 0
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / VOLUME)


def turned_volume(folder: Path) -> None:
    affine = np.diag([-1.0, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), affine), folder / VOLUME)


def removed(folder: Path) -> None:
    (folder / PICTURE).unlink()


CHANGES: list[tuple[str, str, Callable[[Path], None]]] = [
    (f"{RESULT}.json", "scores.auroc.value", edit(f"{RESULT}.json", "0.75", "0.7500000001")),
    (f"{RESULT}.json", "scores.auroc.low", edit(f"{RESULT}.json", "null", "0.0")),
    (f"{RESULT}.json", "key", edit(f"{RESULT}.json", '"k"', '"l"')),
    (f"{SHARD}/shard.json", "checksums[0].cls", edit(f"{SHARD}/shard.json", ": 1}", ": 2}")),
    ("commands/run.stderr", "line 2", edit("commands/run.stderr", "few", "some")),
    ("commands/run.stdout", "file", edit("commands/run.stdout", "x.png", "y.png")),
    ("commands/run.status", "line 1", edit("commands/run.status", "0", "1")),
    ("runs/report/index.html", "line 1", edit("runs/report/index.html", "0.75", "0.76")),
    (f"{RESULT}.predictions.parquet", "column prob.a", other_probability),
    (VOLUME, "voxels", other_voxel),
    (VOLUME, "affine", turned_volume),
    (MASK, "pixels", lambda folder: Image.new("L", (8, 8), 2).save(folder / MASK)),
    (PICTURE, "bytes", lambda folder: Image.new("L", (8, 8), 2).save(folder / PICTURE)),
    (PICTURE, "file", removed),
    (f"{SHARD}/cls.npy", "array", lambda folder: np.save(folder / SHARD / "cls.npy", np.ones(4))),
]


@pytest.mark.parametrize(("name", "field", "change"), CHANGES)
def test_a_planted_change_is_found_by_file_and_first_field(
    golden: ModuleType,
    sides: tuple[Path, Path],
    name: str,
    field: str,
    change: Callable[[Path], None],
) -> None:
    change(sides[1])
    _, differences = golden.compare(*sides)
    assert [(entry.file, entry.field) for entry in differences] == [(name, field)]
    assert differences[0].before != differences[0].after


def test_an_array_is_described_by_its_first_other_value(
    golden: ModuleType, sides: tuple[Path, Path]
) -> None:
    other_voxel(sides[1])
    _, (difference,) = golden.compare(*sides)
    assert str(difference).endswith("voxels: 1 at (1, 2, 3)  ->  0, 1 of 24 values differ")


def test_features_and_results_of_before_that_are_not_used_are_named(
    golden: ModuleType, tmp_path: Path
) -> None:
    command = golden.Command("toy", "run -m pixels -t toy.toml/knn")
    streamed = golden.Command("short", "run -m pixels -t toy.toml/knn", streamed=True)
    refused = golden.Command("wrong", "run -m pixles -t toy.toml/knn", status=2)
    asked = golden.plans([command, streamed, refused, golden.Command("page", "report runs")])
    assert [name for name, _ in asked] == ["resumed-toy", "resumed-short", "cached-toy"]
    whole = {"cells": {"to_do": 0}, "groups": [{"planes_missing": 0, "planes_of_views": 0}]}
    for name, _ in asked:
        write(tmp_path, f"commands/{name}.stdout", json.dumps(whole))
    assert golden.left_to_do(tmp_path, asked) == []
    short = {"cells": {"to_do": 3}, "groups": [{"planes_missing": 0, "planes_of_views": 2}]}
    write(tmp_path, "commands/resumed-toy.stdout", json.dumps(short))
    write(tmp_path, "commands/cached-toy.stdout", json.dumps(short))
    write(tmp_path, "commands/resumed-short.stdout", "")
    write(tmp_path, "commands/resumed-short.stderr", "medprobe: no plan")
    found = {entry.file: (entry.field, entry.after) for entry in golden.left_to_do(tmp_path, asked)}
    assert found["resumed-toy"] == ("results to compute", "3")
    assert found["cached-toy"] == ("planes to encode", "2")
    assert found["resumed-short"] == ("plan", "medprobe: no plan")


def test_a_command_that_fails_on_both_sides_is_named(golden: ModuleType, tmp_path: Path) -> None:
    commands = [golden.Command("toy", "list heads"), golden.Command("wrong", "list hats", status=2)]
    for command in commands:
        write(tmp_path, f"commands/{command.name}.status", "2\n")
    (entry,) = golden.unexpected(tmp_path, commands)
    assert (entry.file, entry.before, entry.after) == ("toy", "0", "2")


def test_every_command_has_a_name_of_its_own_and_is_skipped_with_a_reason(
    golden: ModuleType, tmp_path: Path
) -> None:
    commands = golden.read_commands()
    assert len({command.name for command in commands}) == len(commands)
    reasons = {command.name: golden.absent(command, tmp_path / "none") for command in commands}
    assert reasons["twin-acdc"] is None
    assert "set MEDPROBE_SAMPLES" in reasons["pairs-of-volumes"]


def test_the_inputs_are_made_of_the_samples(
    golden: ModuleType, samples: Path, tmp_path: Path
) -> None:
    from medprobe.datasets.manifest import load_manifest

    golden.write_inputs(samples, tmp_path / "inputs")
    names = {file.stem for file in (tmp_path / "inputs").glob("*.toml")} - {"faulty"}
    kinds = {load_manifest(tmp_path / "inputs" / f"{name}.toml").kind for name in names}
    assert kinds == {"classification", "bags", "segmentation", "instances", "registration"}


DRIVE = """
import sys
from pathlib import Path
import driver
driver.LIBRARIES = ()
driver.main(Path(sys.argv[1]), [("one", ["a", "b"]), ("two", [])])
"""


def test_the_driver_keeps_outputs_and_exit_status_of_each_command(tmp_path: Path) -> None:
    main = "import sys\nprint(sys.argv[1:])\nprint('what', file=sys.stderr)\nraise SystemExit(3)\n"
    write(tmp_path, "code/medprobe/__init__.py", "")
    write(tmp_path, "code/medprobe/__main__.py", main)
    path = os.pathsep.join([str(tmp_path / "code"), str(FOLDER)])
    words = [sys.executable, "-c", DRIVE, tmp_path]
    subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True)
    texts = {file.name: file.read_text() for file in (tmp_path / "commands").iterdir()}
    assert texts["one.stdout"] == "['a', 'b']\n"
    assert (texts["one.stderr"], texts["two.status"]) == ("what\n", "3\n")
