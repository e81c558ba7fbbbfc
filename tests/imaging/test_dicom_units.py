"""Numbers of DICOM files in their units, wherever the header keeps what makes them, and how
files are shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, recipes
from medprobe.types import Source

pydicom = pytest.importorskip("pydicom")

PIXELS = np.random.default_rng(0).integers(0, 2000, (6, 8)).astype(np.uint16)
HALF = {"RescaleIntercept": "-1024"}


def read(path: Path) -> Any:
    return formats.read(Source(path))


def under(path: Path, window: str) -> np.ndarray:
    return recipes.image((Source(path),), window).pixels[0, 0]


def hounsfield(values: np.ndarray) -> np.ndarray:
    return np.clip((values.astype(np.float32) + 1000) / 2000, 0, 1)


# ---------------------------------------- rescale


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [
        ({"RescaleIntercept": "-1024"}, 1, -1024), ({"RescaleSlope": "2"}, 2, 0), ({}, 1, 0),
        ({"RescaleSlope": "", "RescaleIntercept": "-1024"}, 1, -1024), ({"RescaleSlope": "2", "RescaleIntercept": ""}, 2, 0),
        ({"RescaleSlope": None, "RescaleIntercept": None}, 1, 0),
    ],
)  # fmt: skip
def test_half_of_a_rescale_is_the_whole_of_it(
    write_dicom, tags: dict, slope: float, intercept: float
) -> None:
    raw = read(write_dicom(PIXELS, bits=12, **tags))
    assert np.array_equal(raw.pixels[0, 0], PIXELS * float(slope) + intercept)
    assert raw.full_range == (intercept, 4095 * slope + intercept)


def test_a_slope_of_zero_is_refused(write_dicom, refused) -> None:
    assert "slope other than 0" in refused(
        write_dicom(PIXELS, RescaleSlope="0", RescaleIntercept="5")
    )


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "", "WindowWidth": "400"},
        {"WindowCenter": "40"},
        {"WindowCenter": "40", "WindowWidth": "0"},
    ],
)
def test_half_of_a_display_window_is_none(write_dicom, tags: dict) -> None:
    assert read(write_dicom(PIXELS, bits=12, **tags)).full_range == (0, 4095)


def modality_table(kind: str) -> "pydicom.Dataset":
    """0, 1, 2… → 500, 502, 504…"""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = (
        [4096, 0, 16],
        [500 + 2 * value for value in range(4096)],
        kind,
    )
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


def test_a_modality_table_acts_and_says_its_unit(write_dicom) -> None:
    path = write_dicom(PIXELS, bits=12, ModalityLUTSequence=[modality_table("HU")])
    raw = read(path)
    assert np.array_equal(raw.pixels[0, 0], 500 + 2 * PIXELS)
    assert raw.full_range == (0, 65535)
    assert np.allclose(under(path, "ct"), hounsfield(500 + 2 * PIXELS.astype(float)))
    with pytest.raises(
        CaseError, match="expected Hounsfield units under the window ct, found rescale type OD"
    ):
        under(write_dicom(PIXELS, bits=12, ModalityLUTSequence=[modality_table("OD")]), "ct")


# ---------------------------------------- units


@pytest.mark.parametrize("window", ["ct", "lung", "mediastinum", "bone", "suv"])
def test_monochrome1_does_not_turn_values_under_windows_of_units(write_dicom, window: str) -> None:
    plain, turned = (
        under(write_dicom(PIXELS, f"{kind}.dcm", bits=12, photometric=kind, **HALF), window)
        for kind in ("MONOCHROME2", "MONOCHROME1")
    )
    assert np.array_equal(plain, turned)
    assert plain.max() > plain.min()


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID", "table"])
def test_what_says_how_to_show_does_not_act_under_windows_of_units(
    write_dicom, function: str
) -> None:
    if function == "table":
        item = pydicom.Dataset()
        item.LUTDescriptor, item.LUTData = [4096, 0, 8], [0] * 4096
        item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
        tags: dict[str, Any] = {"VOILUTSequence": [item]}
    else:
        tags = {"WindowCenter": "40", "WindowWidth": "400", "VOILUTFunction": function}
    path = write_dicom(PIXELS, bits=12, Modality="CT", **HALF, **tags)
    assert np.allclose(under(path, "ct"), hounsfield(PIXELS.astype(float) - 1024))
    assert np.array_equal(
        recipes.image((Source(path),), "ct|lung|full-range").pixels[0, 0], under(path, "ct")
    )
    for window in recipes.RELATIVE:
        assert np.array_equal(
            under(path, window), under(write_dicom(PIXELS, "plain.dcm", bits=12, **HALF), window)
        )


def test_an_8_bit_file_with_a_sigmoid_is_shown_by_it(write_dicom) -> None:
    eight = (PIXELS >> 3).astype(np.uint8)
    path = write_dicom(eight, WindowCenter="128", WindowWidth="64", VOILUTFunction="SIGMOID")
    expected = 1 / (1 + np.exp(-4 * (eight.astype(float) - 128) / 64))
    assert np.allclose(
        recipes.planes((Source(path),), window="full-range", size=None).pixels[0, 0],
        expected,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"Modality": "RTDOSE", "DoseGridScaling": "0.5"}, "a dose"),
        ({"Modality": "CT", "RescaleType": "Z_EFF"}, "rescale type Z_EFF"),
    ],
)
def test_other_units_are_refused_under_windows_of_units_alone(
    write_dicom, tags: dict, name: str
) -> None:
    path = write_dicom(PIXELS, **tags)
    for window in ("ct", "suv", "ct|lung|bone"):
        with pytest.raises(CaseError, match=f"found {name}"):
            under(path, window)
    assert under(path, "minmax").max() == 1


def test_units_that_are_not_said_are_taken_as_those_of_the_window(write_dicom) -> None:
    for tags in ({}, {"Modality": "MR"}, {"Modality": "CT", "RescaleType": "US"}):
        assert np.allclose(
            under(write_dicom(PIXELS, **tags, **HALF), "ct"),
            hounsfield(PIXELS.astype(float) - 1024),
        )


def test_hounsfield_units_are_no_uptake_values(write_dicom) -> None:
    with pytest.raises(
        CaseError,
        match=r"expected uptake values \(SUVbw\) under the window suv, found Hounsfield units",
    ):
        under(write_dicom(PIXELS, Modality="CT", **HALF), "suv")


def test_a_rescale_of_the_caller_gives_the_unit_too(write_dicom) -> None:
    path = write_dicom(
        PIXELS,
        Modality="PT",
        Units="BQML",
        WindowCenter="40",
        WindowWidth="400",
        VOILUTFunction="SIGMOID",
    )
    scaled = recipes.image((Source(path, rescale=(0.01, 0)),), "suv").pixels[0, 0]
    assert np.allclose(scaled, np.clip(PIXELS * 0.01 / 15, 0, 1))
    assert np.allclose(
        recipes.image((Source(path, rescale=(0.5, 3)),), "full-range").pixels,
        recipes.image((Source(path),), "full-range").pixels,
        atol=1e-6,
    )


# ---------------------------------------- stored


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_overlays_in_unused_bits_are_no_values(write_dicom, kind: type) -> None:
    values = (PIXELS.astype(np.int32) - (1000 if kind == np.int16 else 0)).astype(kind)
    stored = (values & np.array(0x0FFF, kind)) | np.array(0x5000, kind)
    assert np.array_equal(read(write_dicom(stored, bits=12)).pixels[0, 0], values)
    left = np.left_shift(values, 4) | np.array(5, kind)
    assert np.array_equal(read(write_dicom(left, bits=12, HighBit=15)).pixels[0, 0], values)


def test_padding_is_black_under_the_display_window_and_windows_of_units(write_dicom) -> None:
    padded = PIXELS.astype(np.int16)
    padded[0] = -2000
    path = write_dicom(
        padded,
        PixelPaddingValue=-2000,
        RescaleIntercept="-24",
        RescaleSlope="1",
        WindowCenter="400",
        WindowWidth="800",
        Modality="CT",
    )
    for window in ("full-range", "ct", "mediastinum"):
        assert (under(path, window)[0] == 0).all()
        assert under(path, window)[1:].max() > 0.9
    assert read(write_dicom(padded, PixelPaddingValue=-2000)).full_range == (-32768, 32767)
