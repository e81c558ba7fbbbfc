"""Enhanced DICOM: what classic files keep at the top lies in functional groups; frames that
say where they lie are a volume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.imaging import formats, recipes
from medprobe.types import Source

pydicom = pytest.importorskip("pydicom")

AXIAL = (1.0, 0, 0, 0, 1, 0)
SAGITTAL = (0.0, 1, 0, 0, 0, -1)
Write = Callable[..., Path]


def group(**macros: dict[str, Any]) -> "pydicom.Dataset":
    """A functional group: the name of a macro → its tags."""
    item = pydicom.Dataset()
    for macro, tags in macros.items():
        inner = pydicom.Dataset()
        for name, value in tags.items():
            setattr(inner, name, value)
        setattr(item, f"{macro}Sequence", [inner])
    return item


def value(slope: float | None, intercept: float | None) -> dict[str, Any]:
    return {
        name: number
        for name, number in (("RescaleSlope", slope), ("RescaleIntercept", intercept))
        if number is not None
    }


@pytest.fixture
def frames(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2000, (4, 5, 6)).astype(np.uint16)


@pytest.fixture
def write(write_dicom: Callable[..., Path]) -> Write:
    """Frames, in the order of the file, at `heights` along their normal."""

    def write(
        pixels: np.ndarray,
        heights: list[float] | None = None,
        *,
        directions: tuple[float, ...] = AXIAL,
        shared: dict | None = None,
        each: list[dict] | None = None,
        **tags: Any,
    ) -> Path:
        normal = np.cross(directions[:3], directions[3:])
        common = {
            "PixelMeasures": {"PixelSpacing": [0.5, 0.75], "SliceThickness": 2},
            "PlaneOrientation": {"ImageOrientationPatient": list(directions)},
            **(shared or {}),
        }
        own = [{} for _ in pixels] if each is None else each
        for height, macros in zip(heights or [], own, strict=bool(heights)):
            macros["PlanePosition"] = {
                "ImagePositionPatient": (np.array([-10.0, 20, 5]) + height * normal).tolist()
            }
        groups = {
            "SharedFunctionalGroupsSequence": [group(**common)],
            "PerFrameFunctionalGroupsSequence": [group(**macros) for macros in own],
        }
        return write_dicom(pixels, "enhanced.dcm", bits=12, **groups, **tags)

    return write


def test_rescale_and_window_of_shared_groups(write: Write, frames: np.ndarray) -> None:
    shared = {
        "PixelValueTransformation": value(2, -1024),
        "FrameVOILUT": {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
    }
    raw = formats.read(Source(write(frames, shared=shared)))
    assert np.array_equal(raw.pixels[0], frames * 2.0 - 1024)
    assert raw.full_range == (-160, 240)
    assert raw.spacing == (2, 0.5, 0.75)


@pytest.mark.parametrize(("slope", "intercept"), [(None, -1024), (2, None), (2, -5)])
def test_rescale_of_each_frame(
    write: Write, frames: np.ndarray, slope: float | None, intercept: float | None
) -> None:
    each = [
        {
            "PixelValueTransformation": value(
                slope and slope + number, intercept and intercept - number
            )
        }
        for number in range(4)
    ]
    path = (
        write(frames, each=each, RescaleSlope="7", RescaleIntercept="7")
        if slope and intercept
        else write(frames, each=each)
    )
    expected = np.stack(
        [
            plane * float((slope or 1) + (number if slope else 0))
            + ((intercept or 0) - (number if intercept else 0))
            for number, plane in enumerate(frames)
        ]
    )
    raw = formats.read(Source(path))
    assert np.array_equal(raw.pixels[0], expected)
    assert np.array_equal(formats.read(Source(path), 1, 3).pixels[0], expected[1:3])
    assert np.array_equal(formats.read(Source(path, frames=(3, 0))).pixels[0], expected[[3, 0]])


def test_windows_of_frames_are_taken_together(write: Write, frames: np.ndarray) -> None:
    each = [
        {
            "FrameVOILUT": {
                "WindowCenter": 100 * number,
                "WindowWidth": 50,
                "VOILUTFunction": "LINEAR_EXACT",
            }
        }
        for number in range(4)
    ]
    path = write(frames, each=each)
    assert (
        formats.read(Source(path)).full_range
        == formats.read(Source(path), 2, 3).full_range
        == (-25, 325)
    )


def test_sigmoids_and_tables_of_frames(write: Write, frames: np.ndarray) -> None:
    sigmoids = [
        {"FrameVOILUT": {"WindowCenter": center, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"}}
        for center in (800, 1000, 1200, 1000)
    ]
    shown = recipes.image((Source(write(frames, each=sigmoids)),), "full-range").pixels[0]
    assert np.allclose(shown, 1 / (1 + np.exp(-4 * (frames.astype(float) - 1000) / 800)), atol=1e-6)
    tables = []
    for number in range(4):
        item = pydicom.Dataset()
        item.LUTDescriptor, item.LUTData = [4096, 0, 8], [number] * 4096
        item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
        tables.append({"FrameVOILUT": {"VOILUTSequence": [item]}})
    path = write(frames, each=tables)
    with pytest.raises(CaseError, match="expected one VOI table for all planes"):
        recipes.image((Source(path),), "full-range")
    assert recipes.image((Source(path),), "minmax").pixels.max() == 1


def test_units_lie_in_the_groups_too(write: Write, frames: np.ndarray) -> None:
    path = write(
        frames,
        shared={"PixelValueTransformation": {**value(1, 0), "RescaleType": "Z_EFF"}},
        Modality="CT",
    )
    with pytest.raises(CaseError, match="found rescale type Z_EFF"):
        recipes.image((Source(path),), "ct")
    mixed = [
        {"PixelValueTransformation": {**value(1, 0), "RescaleType": kind}}
        for kind in ("HU", "HU", "MGML", "HU")
    ]
    with pytest.raises(CaseError, match="expected one unit in all planes"):
        formats.read(Source(write(frames, each=mixed)))


# ---------------------------------------- volumes


@pytest.mark.parametrize("directions", [AXIAL, SAGITTAL, (0.0, 0, -1, 1, 0, 0)], ids=str)
def test_frames_that_say_where_they_lie_are_the_volume_that_a_series_of_them_is(
    write: Write,
    write_dicom: Callable[..., Path],
    frames: np.ndarray,
    tmp_path: Path,
    directions: tuple[float, ...],
) -> None:
    heights = [6.0, 0.0, 4.0, 2.0]
    enhanced = Source(write(frames, heights, directions=directions))
    (tmp_path / "series").mkdir()
    normal = np.cross(directions[:3], directions[3:])
    for number, height in enumerate(heights):
        place = {
            "ImagePositionPatient": (np.array([-10.0, 20, 5]) + height * normal).tolist(),
            "ImageOrientationPatient": list(directions),
            "PixelSpacing": [0.5, 0.75],
        }
        write_dicom(
            frames[number],
            f"series/{number}.dcm",
            bits=12,
            SeriesInstanceUID="1.2",
            SliceThickness=2,
            **place,
        )
    classic = Source(tmp_path / "series")
    ours, theirs = formats.read(enhanced), formats.read(classic)
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert np.allclose(ours.affine, theirs.affine)
    assert ours.spacing == theirs.spacing
    assert formats.count_planes(enhanced) == formats.count_planes(classic) == ours.pixels.shape[1]
    assert formats.grid(enhanced).shape == formats.grid(classic).shape
    assert np.array_equal(formats.read(enhanced, 1, 3).pixels, ours.pixels[:, 1:3])
    assert np.array_equal(
        formats.read(Source(enhanced.path, frames=(2, 0))).pixels, ours.pixels[:, [2, 0]]
    )
    coronal = [formats.read(Source(source.path, axis="coronal")) for source in (enhanced, classic)]
    assert np.array_equal(coronal[0].pixels, coronal[1].pixels)


def test_a_tilted_stack_of_frames_is_noted(write: Write, frames: np.ndarray) -> None:
    places = [
        {
            "PlanePosition": {
                "ImagePositionPatient": [0.0, 2 * height * np.tan(np.radians(12)), 2 * height]
            }
        }
        for height in range(4)
    ]
    assert "tilted by 12.0 degrees" in formats.notes(Source(write(frames, each=places)))[0]
    assert formats.notes(Source(write(frames, [0, 2, 4, 6]))) == ()


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        (
            [0, 0, 2, 2],
            "frame 0 and frame 1 0 mm apart; write each as a file of its own, or name the planes "
            "(frame)",
        ),
        ([0, 2, 8, 10], "found none for 6 mm between frame 1 and frame 2"),
    ],
)
def test_frames_that_are_no_volume_are_refused_unless_planes_are_named(
    write: Write, frames: np.ndarray, refused: Callable[..., str], heights: list[float], said: str
) -> None:
    path = write(frames, heights)
    assert said in refused(path)
    named = Source(path, frames=(2, 1))
    assert np.array_equal(formats.read(named).pixels[0], frames[[2, 1]])
    assert formats.count_planes(named) == 2
    with pytest.raises(CaseError):
        formats.count_planes(Source(path))


def test_groups_of_fewer_frames_are_refused(
    write: Write, frames: np.ndarray, refused: Callable[..., str]
) -> None:
    path = write(frames)
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[-1]
    dataset.save_as(path)
    assert "functional groups for each of 4 frames, found 3" in refused(path)


def test_planes_of_a_dose_are_placed_by_offsets_and_scaled(
    write_dicom: Callable[..., Path], frames: np.ndarray
) -> None:
    place = {
        "ImagePositionPatient": [0.0, 0, 0],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [1, 1],
    }
    path = write_dicom(
        frames,
        Modality="RTDOSE",
        DoseGridScaling="0.01",
        GridFrameOffsetVector=[0, 3, 6, 9],
        **place,
    )
    raw = formats.read(Source(path))
    assert raw.spacing == (3, 1, 1)
    assert np.allclose(raw.pixels[0, :, ::-1, ::-1], frames * 0.01)
