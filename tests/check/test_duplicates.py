"""Identical pictures in two parts or of two patients are reported, whatever their names."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from medprobe.check import duplicates as module
from medprobe.check.dataset import check_dataset
from medprobe.check.encoder import Finding
from medprobe.datasets.manifest import load_manifest

PARTS = ["train", "train", "val", "test", "test", "test"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


def write(folder: Path, parts: list[str] = PARTS, column: str = "split", **keys: str) -> Path:
    rng = np.random.default_rng(0)
    rows = [f"id,patient,{column},image,target"]
    for number, part in enumerate(parts):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{number}.png")
        rows.append(f"c{number},p{number},{part},{number}.png,{'ab'[number % 2]}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    more = "".join(f"{key} = {value}\n" for key, value in keys.items())
    text = f'name = "toy"\nkind = "classification"\nclasses = ["a", "b"]\n{more}'
    (folder / "toy.toml").write_text(text)
    return folder / "toy.toml"


def found(path: Path) -> Finding:
    dataset = load_manifest(path)
    assert dataset.root is not None
    return next(one for one in check_dataset(dataset, dataset.root) if one.name == "duplicates")


def test_different_pictures_are_no_duplicates(tmp_path: Path) -> None:
    finding = found(write(tmp_path))
    assert finding.ok
    assert finding.detail == "no image is in two parts or of two patients by pixels"


def test_a_copy_in_two_parts_is_a_fault_that_names_both_cases(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "3.png").write_bytes((tmp_path / "0.png").read_bytes())
    finding = found(path)
    assert not finding.ok
    assert "1 image is in two parts by pixels" in finding.detail
    assert "those of c0 (train) and c3 (test)" in finding.detail


def test_a_copy_in_two_folds_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, ["0", "0", "1", "1"], "fold")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert "c0 (fold0) and c2 (fold1)" in found(path).detail


@pytest.mark.parametrize("parts", [PARTS, [""] * 6])
def test_a_copy_of_two_patients_in_one_part_is_a_warning(tmp_path: Path, parts: list[str]) -> None:
    path = write(tmp_path, parts)
    if not parts[0]:  # neither split nor fold: patients are drawn to folds
        table = (tmp_path / "cases.csv").read_text().replace(",split", "").replace(",,", ",")
        (tmp_path / "cases.csv").write_text(table)
    (tmp_path / "5.png").write_bytes((tmp_path / "3.png").read_bytes())
    finding = found(path)
    assert finding.ok
    assert "warning, 1 image is of two patients by pixels" in finding.detail
    assert "c3 (p3) and c5 (p5)" in finding.detail


@pytest.mark.parametrize("how", ["bmp", "colour", "smaller"])
def test_the_same_pixels_in_another_file_are_found(tmp_path: Path, how: str) -> None:
    path = write(tmp_path)
    picture = Image.open(tmp_path / "0.png").copy()
    other = picture.convert("RGB") if how == "colour" else picture
    name = "3.bmp" if how == "bmp" else "3.png"
    other.save(tmp_path / name, **({"compress_level": 0} if how == "smaller" else {}))
    table = (tmp_path / "cases.csv").read_text().replace("3.png", name)
    (tmp_path / "cases.csv").write_text(table)
    assert "c0 (train) and c3 (test)" in found(path).detail


def test_one_array_under_two_names_is_found_and_others_of_the_file_are_not(tmp_path: Path) -> None:
    path = write(tmp_path)
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(6):
            file[f"i{number}"] = rng.integers(0, 255, (8, 8), np.uint8)
    table = (tmp_path / "cases.csv").read_text()
    for number in range(6):
        table = table.replace(f"{number}.png", f"a.h5:/i{number}")
    (tmp_path / "cases.csv").write_text(table)
    assert found(path).ok
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["i4"][...] = file["i1"][...]
    assert "c1 (train) and c4 (test)" in found(path).detail


def test_of_many_pictures_the_bytes_are_compared(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "COMPARED", 5)
    path = write(tmp_path)
    assert "by bytes" in found(path).detail
    (tmp_path / "3.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert "1 image is in two parts by bytes" in found(path).detail


def test_frames_of_one_colour_and_masks_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, kind='"segmentation"')
    text = path.read_text().replace('kind = "classification"\n', "")
    path.write_text(text)
    table = (tmp_path / "cases.csv").read_text()
    for letter in "ab":
        Image.new("L", (8, 8), 0).save(tmp_path / f"{letter}.png")
        table = table.replace(f",{letter}\n", f",{letter}.png\n")
    (tmp_path / "cases.csv").write_text(table)
    for number in (0, 3):
        Image.new("L", (8, 8), 7).save(tmp_path / f"{number}.png")
    assert found(path).ok


def test_pairs_that_share_one_of_two_images_are_no_duplicates(tmp_path: Path) -> None:
    """All are laid on one image of an atlas; the same two images in two parts are the same pair."""
    path = write(tmp_path, kind='"registration"')
    path.write_text(path.read_text().replace('kind = "classification"\n', ""))
    rows = ["id,patient,split,fixed,moving"]
    rows += [f"c{number},p{number},{part},0.png,{number}.png" for number, part in enumerate(PARTS) if number]
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    assert found(path).ok
    (tmp_path / "5.png").write_bytes((tmp_path / "1.png").read_bytes())
    assert "c1 (train) and c5 (test)" in found(path).detail
