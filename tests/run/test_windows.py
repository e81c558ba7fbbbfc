"""A window of fixed units on other numbers is said in one line, and never where the numbers are right."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprobe.check.dataset import check_dataset
from medprobe.datasets.manifest import load_manifest
from medprobe.imaging import nifti
from medprobe.run import windows
from medprobe.run.plan import make
from medprobe.run.request import Request
from medprobe.types import Case, Source


def body(rng: np.random.Generator) -> np.ndarray:
    """(1, 40, 40) in Hounsfield units: air, fat, soft tissue, lung and some bone, with noise."""
    plane = np.full((40, 40), -1000.0)
    plane[8:32, 6:34] = -90
    plane[10:30, 8:32] = 50
    plane[12:20, 10:18] = -850
    plane[24:28, 18:22] = 700
    return (plane + rng.normal(0, 12, plane.shape))[None]


def pet(rng: np.random.Generator) -> np.ndarray:
    plane = np.abs(rng.normal(0, 0.05, (40, 40)))
    plane[8:32, 6:34] += 0.9
    plane[20:24, 20:24] += 22
    return plane[None]


def cases(folder: Path, volumes: list[np.ndarray]) -> list[Case]:
    found = []
    for number, volume in enumerate(volumes):
        nifti.save(folder / f"{number}.nii.gz", volume, np.diag([-1.0, -1.0, 1.0, 1.0]), None)
        found.append(
            Case(str(number), str(number), {"image": (Source(folder / f"{number}.nii.gz"),)})
        )
    return found


RIGHT = ["ct", "lung", "mediastinum", "bone", "full-range", "percentile", "lung|mediastinum|bone"]
WRONG = {
    "as stored": (lambda hu: (hu + 1024).astype(np.int16), "numbers as stored rather than Hounsfield units, perhaps: the rescale is missing"),
    "as stored, unsigned": (lambda hu: np.clip(hu + 1024, 0, 4095).astype(np.uint16), "12-bit numbers as stored"),
    "rescaled twice": (lambda hu: hu - 1024, "Hounsfield units rescaled twice"),
    "times sixteen": (lambda hu: 16 * (hu + 1024), "numbers as stored rather than Hounsfield units"),
    "scaled to 1": (lambda hu: (hu + 1000) / 2000, "within a twentieth of the window"),
}  # fmt: skip


@pytest.mark.parametrize("window", RIGHT)
@pytest.mark.parametrize("padding", [None, -3024.0, -1024.0])
def test_hounsfield_units_under_their_windows_are_no_news(
    tmp_path: Path, window: str, padding: float | None
) -> None:
    rng = np.random.default_rng(0)
    volumes = [body(rng) for _ in range(4)]
    for volume in volumes:
        if padding is not None:
            volume[:, :6], volume[:, :, :5] = padding, padding
    assert windows.findings(window, cases(tmp_path, volumes)) == []


@pytest.mark.parametrize("fault", WRONG)
def test_other_numbers_under_a_window_of_hounsfield_units_are_said_with_counts_and_reason(
    tmp_path: Path, fault: str
) -> None:
    rng = np.random.default_rng(0)
    wrong, said = WRONG[fault]
    volumes = [wrong(body(rng)) if number else body(rng) for number in range(4)]
    (found,) = windows.findings("ct", cases(tmp_path, volumes))
    assert said in found
    assert found.startswith("in 3 of 4 images tried ")


def test_half_of_the_images_are_not_most(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = [body(rng) + (1024 if number % 2 else 0) for number in range(4)]
    assert windows.findings("ct", cases(tmp_path, volumes)) == []


@pytest.mark.parametrize(("factor", "lines"), [(1.0, 0), (4000.0, 1)])
def test_activity_in_place_of_uptake_values_is_said_and_uptake_values_are_not(
    tmp_path: Path, factor: float, lines: int
) -> None:
    rng = np.random.default_rng(0)
    found = windows.findings("suv", cases(tmp_path, [pet(rng) * factor for _ in range(4)]))
    assert len(found) == lines
    assert all("most pixels" in said and "Bq/ml rather than SUV" in said for said in found)


def test_each_channel_is_held_against_its_own_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "ct").mkdir()
    (tmp_path / "pet").mkdir()
    pairs = zip(
        cases(tmp_path / "ct", [body(rng) for _ in range(3)]),
        cases(tmp_path / "pet", [5000 * pet(rng) for _ in range(3)]),
        strict=True,
    )
    joined = [
        Case(ct.id, ct.id, {"image": (*ct.images["image"], *other.images["image"])})
        for ct, other in pairs
    ]
    (said,) = windows.findings("ct+suv", joined)
    assert "window suv 0 to 15" in said


def test_colours_of_12_bit_in_16_bit_files_are_said_and_those_of_8_bit_are_no_news(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    for dtype, most, lines in ((np.uint16, 4095, 1), (np.uint16, 65535, 0), (np.uint8, 20, 0)):
        np.save(
            tmp_path / f"{most}.npy", rng.integers(0, most, (9, 8, 3), endpoint=True).astype(dtype)
        )
        case = Case("a", "p", {"image": (Source(tmp_path / f"{most}.npy", plane=True),)})
        assert len(windows.findings("full-range", [case])) == lines


@pytest.mark.parametrize(
    ("dtype", "most", "said"),
    [
        (np.uint16, 4095, "12-bit numbers in 16-bit files"),
        (np.uint16, 1023, "10-bit numbers in 16-bit files"),
        (np.uint8, 3, "class numbers"),
        (np.uint16, 60000, None),
        (np.uint8, 200, None),
    ],
)
def test_numbers_that_fill_little_of_their_type_are_said_by_check_and_plan(
    tmp_path: Path, dtype: type, most: int, said: str | None
) -> None:
    rng, rows = np.random.default_rng(0), ["id,patient,split,image,target"]
    for number in range(4):
        pixels = rng.integers(0, most + 1, (20, 20)).astype(dtype)
        pixels[0, 0] = most
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(
            f"c{number},p{number},{'test' if number > 1 else 'train'},{number}.png,{'ab'[number % 2]}"
        )
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.toml").write_text(
        'name = "own"\nkind = "classification"\ndims = 2\nclasses = ["a", "b"]\n'
    )
    request = Request(
        "mean-rgb",
        str(tmp_path / "own.toml/knn"),
        tmp_path / "out",
        cache=tmp_path / "cache",
        image_size=16,
    )
    notes = [note for note in make(request, lambda *_: None).notes if "images tried" in note]
    details = [
        one
        for one in check_dataset(load_manifest(tmp_path / "own.toml"), tmp_path)
        if one.name == "window"
    ]
    assert len(notes) == len(details) == (said is not None)
    if said is not None:
        assert said in notes[0]
        assert said in details[0].detail
        assert notes[0].startswith("own: in 4 of 4 images tried ")
        assert details[0].ok


def test_real_volumes_under_their_own_windows_are_no_news(samples: Path) -> None:
    files = {
        "ct_multiorgan/ct.nii.gz": RIGHT,
        "dicom_ct_series/series": RIGHT,
        "petct_sarcoma/STS_002/PET_image.nii.gz": ["suv"],
        "petct_sarcoma/STS_003/CT_image.nii.gz": RIGHT,
    }
    for name, asked in files.items():
        case = Case("a", "p", {"image": (Source(samples / name),)})
        for window in asked:
            assert windows.findings(window, [case]) == [], (name, window)
