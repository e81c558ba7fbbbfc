"""PET in standardised uptake values where its header allows, and what is missing where it does
not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, recipes
from medprobe.types import Source

pydicom = pytest.importorskip("pydicom")

PIXELS = np.arange(4 * 6).reshape(4, 6).astype(np.uint16) * 300
FACTOR = 70_000 / (350e6 * 0.5)
"""70 kg, 350 MBq, scanned a half-life after the injection."""


def tracer(**tags: Any) -> "pydicom.Dataset":
    item = pydicom.Dataset()
    for name, value in {
        "RadionuclideTotalDose": "350e6",
        "RadionuclideHalfLife": "6600",
        "RadiopharmaceuticalStartTime": "100000",
        **tags,
    }.items():
        if value is not None:
            setattr(item, name, value)
    return item


def pet(*, injection: dict[str, Any] | None = None, **tags: Any) -> dict[str, Any]:
    """Header of a PET; None leaves a tag out."""
    usual = {
        "Modality": "PT", "Units": "BQML", "DecayCorrection": "START", "PatientWeight": "70", "SeriesDate": "20200102", "SeriesTime": "115000",
        "AcquisitionDate": "20200102", "AcquisitionTime": "115000.5", "RescaleSlope": "2.5", "RescaleIntercept": "0",
        "RadiopharmaceuticalInformationSequence": [tracer(**(injection or {}))],
    }  # fmt: skip
    return {name: value for name, value in {**usual, **tags}.items() if value is not None}


def uptake(path: Path) -> np.ndarray:
    return recipes.image((Source(path),), "suv").pixels[0, 0] * 15


@pytest.mark.equality(
    "lab-midas/TCIA_processing (autoPET) and QIBA, SUV by body weight, decay from injection to "
    "scan; 1e-5"
)
@pytest.mark.parametrize(
    ("tags", "factor"),
    [
        ({}, FACTOR),
        ({"DecayCorrection": "ADMIN"}, FACTOR / 2),
        (
            {
                "DecayCorrection": "ADMIN",
                "SeriesTime": None,
                "AcquisitionTime": None,
                "injection": {"RadiopharmaceuticalStartTime": None, "RadionuclideHalfLife": None},
            },
            FACTOR / 2,
        ),
        (
            {
                "injection": {
                    "RadiopharmaceuticalStartTime": None,
                    "RadiopharmaceuticalStartDateTime": "20200102100000.00+0100",
                }
            },
            FACTOR,
        ),
        (
            {
                "SeriesDate": "20200103",
                "AcquisitionDate": "20200103",
                "SeriesTime": "003000",
                "AcquisitionTime": "003000",
                "injection": {"RadiopharmaceuticalStartTime": "224000"},
            },
            FACTOR,
        ),
        ({"SeriesDate": None, "AcquisitionDate": None}, FACTOR),
        ({"AcquisitionDate": None, "AcquisitionTime": None}, FACTOR),
    ],
    ids=[
        "start",
        "admin",
        "admin-needs-no-times",
        "date-and-time",
        "over-midnight",
        "without-dates",
        "without-acquisition",
    ],
)
def test_activity_becomes_uptake_by_body_weight(write_dicom, tags: dict, factor: float) -> None:
    path = write_dicom(PIXELS, **pet(**tags))
    assert np.allclose(uptake(path), np.minimum(PIXELS * 2.5 * factor, 15), rtol=1e-5)
    assert formats.read(Source(path)).pixels.max() == 2.5 * PIXELS.max()


def test_grams_per_millilitre_are_taken_as_they_are(write_dicom) -> None:
    for tags in ({}, {"SUVType": "BW"}):
        path = write_dicom(
            PIXELS, **pet(Units="GML", RescaleSlope="0.002", PatientWeight=None, **tags)
        )
        assert np.allclose(uptake(path), PIXELS * 0.002, atol=1e-5)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PatientWeight": None}, "without PatientWeight no uptake"),
        ({"PatientWeight": "0"}, "without PatientWeight no uptake"),
        (
            {"PatientWeight": "", "injection": {"RadionuclideTotalDose": None}},
            "without PatientWeight and RadionuclideTotalDose no",
        ),
        ({"injection": {"RadionuclideHalfLife": None}}, "without RadionuclideHalfLife"),
        (
            {"RadiopharmaceuticalInformationSequence": None},
            "without RadionuclideTotalDose and RadionuclideHalfLife",
        ),
        (
            {"injection": {"RadiopharmaceuticalStartTime": None}},
            "without RadiopharmaceuticalStartTime",
        ),
        ({"injection": {"RadionuclideTotalDose": "350"}}, "dose of 350 Bq can only be MBq"),
        ({"DecayCorrection": None}, "without DecayCorrection"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is NONE"),
        ({"SeriesTime": None, "AcquisitionTime": None}, "without SeriesDate and SeriesTime"),
        ({"SeriesTime": "150000"}, "SeriesTime is later than its AcquisitionTime"),
        (
            {"injection": {"RadiopharmaceuticalStartDateTime": "20191201100000"}},
            "injected at 2019-12-01",
        ),
    ],
)
def test_what_is_missing_for_uptake_is_named(write_dicom, tags: dict, said: str) -> None:
    path = write_dicom(PIXELS, **pet(**tags))
    with pytest.raises(
        CaseError,
        match=r"expected uptake values \(SUVbw\) under the window suv, found activity \(Bq/ml\)",
    ) as caught:
        uptake(path)
    assert said in str(caught.value)
    assert formats.read(Source(path)).pixels.max() == 2.5 * PIXELS.max()


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"Units": "CNTS", "Manufacturer": "Philips Medical Systems"}, r"counts \(CNTS\) \(Philips keeps the factors in private tags"),
        ({"Units": "CNTS"}, r"counts \(CNTS\)"), ({"Units": None}, "PET without Units"), ({"Units": "CM2ML"}, "PET units CM2ML"),
        ({"Units": "GML", "SUVType": "LBM"}, r"another weight \(SUV Type LBM\)"),
    ],
)  # fmt: skip
def test_other_units_of_pet_are_refused_by_name(write_dicom, tags: dict, said: str) -> None:
    with pytest.raises(CaseError, match=said):
        uptake(write_dicom(PIXELS, **pet(**tags)))


def test_activity_is_not_in_hounsfield_units(write_dicom) -> None:
    with pytest.raises(
        CaseError,
        match=r"expected Hounsfield units under the window ct, found activity \(Bq/ml\); convert",
    ):
        recipes.image((Source(write_dicom(PIXELS, **pet())),), "ct")


Series = Callable[..., Path]


@pytest.fixture
def series(write_dicom, tmp_path: Path) -> Series:
    """A series of planes 2 mm apart, a header each."""

    def write(headers: Sequence[dict[str, Any]]) -> Path:
        (tmp_path / "series").mkdir()
        for number, header in enumerate(headers):
            place = {
                "SeriesInstanceUID": "1.2",
                "ImagePositionPatient": [0, 0, 2 * number],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "PixelSpacing": [1, 1],
            }
            write_dicom(PIXELS, f"series/{number}.dcm", **place, **header)
        return tmp_path / "series"

    return write


def test_a_series_has_the_rescale_of_each_file_and_one_factor(series: Series) -> None:
    folder = series(
        [pet(RescaleSlope=str(slope), AcquisitionTime=f"1150{slope:02}") for slope in (1, 2, 3)]
    )
    found = recipes.image((Source(folder),), "suv").pixels[0] * 15
    assert np.allclose(
        found[:, ::-1, ::-1],
        np.minimum(PIXELS * np.array([1, 2, 3])[:, None, None] * FACTOR, 15),
        rtol=1e-5,
    )


def test_a_series_made_anew_starts_with_its_first_acquisition(series: Series) -> None:
    folder = series(
        [pet(SeriesTime="180000", AcquisitionTime=time) for time in ("115500", "115000", "120000")]
    )
    assert np.allclose(
        recipes.image((Source(folder),), "suv").pixels[0, 0, ::-1, ::-1] * 15,
        np.minimum(PIXELS * 2.5 * FACTOR, 15),
        rtol=1e-5,
    )


@pytest.mark.parametrize("other", [{"Modality": "CT"}, {"Units": "GML"}])
def test_a_series_of_mixed_units_is_refused(series: Series, other: dict) -> None:
    folder = series([pet(), pet(**other), pet()])
    with pytest.raises(CaseError, match="expected one unit in all planes"):
        recipes.image((Source(folder),), "suv")
