"""A folder of DICOM files as a volume: order by place, geometry as other programs see it, what is no volume refused, what is odd said."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from medprobe.check.dataset import check_dataset
from medprobe.datasets.manifest import load_manifest
from medprobe.errors import CaseError, ExtraError
from medprobe.imaging import dicom, formats, recipes, series
from medprobe.imaging.labels import read_labels
from medprobe.run.references import check_on_image, in_millimetres
from medprobe.types import Case, Dataset, Source

pydicom = pytest.importorskip("pydicom")

AXIAL = (1.0, 0, 0, 0, 1, 0)
DIRECTIONS = [
    (*row, *column)
    for row, column in itertools.permutations([(sign * np.eye(3)[axis]).tolist() for axis in range(3) for sign in (1, -1)], 2)
    if not np.dot(row, column)
]
"""All 24 ways to lay a plane along the axes."""
OBLIQUE = tuple(np.array([[0.96, 0.28, 0], [-0.28 * 0.8, 0.96 * 0.8, -0.6]]).ravel().tolist())
Write = Callable[..., Path]


@pytest.fixture
def write(write_dicom: Callable[..., Path], tmp_path: Path) -> Write:
    """Planes (D, H, W) to a folder of files; `heights` mm along the normal from the origin, or positions (D, 3)."""

    def write(
        planes: np.ndarray, heights: Sequence[float] | np.ndarray | None = None, *, directions: Sequence[float] = AXIAL, names: Sequence[str] | None = None,
        folder: str = "series", each: Sequence[dict[str, Any]] | None = None, **tags: Any,
    ) -> Path:  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        along = np.arange(len(planes)) * 2.0 if heights is None else np.asarray(heights, float)
        normal = np.cross(directions[:3], directions[3:])
        positions = along if along.ndim == 2 else np.array([-10.0, 20, 5]) + along[:, None] * normal
        for number, (plane, position) in enumerate(zip(planes, positions, strict=True)):
            own = {
                "SeriesInstanceUID": "1.2.3", "ImagePositionPatient": [float(f"{value:.6f}") for value in position], "InstanceNumber": number + 1,
                "ImageOrientationPatient": [float(f"{value:.9f}") for value in directions], "PixelSpacing": [0.5, 0.75], "SliceThickness": 3, **tags, **(each[number] if each else {}),
            }  # fmt: skip
            write_dicom(plane, f"{folder}/{names[number] if names else f'{number}.dcm'}", **own)
        return tmp_path / folder

    return write


@pytest.fixture
def planes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-1000, 1000, (5, 4, 6)).astype(np.int16)


def test_planes_lie_in_the_order_of_their_places_whatever_they_are_called_and_numbered(write: Write, planes: np.ndarray) -> None:
    mixed = [3, 0, 4, 1, 2]
    folder = write(planes[mixed], 2.0 * np.array(mixed), names=["a.dcm", "c", "1.2.840.7", "b.IMA", "IM0001"], each=[{"InstanceNumber": number} for number in (9, 2, 7, 1, 4)])
    raw = formats.read(Source(folder))
    assert formats.identify(folder) == "series"
    assert formats.count_planes(Source(folder)) == 5
    assert formats.is_grey(Source(folder))
    assert np.array_equal(raw.pixels[0], planes[:, ::-1, ::-1])  # rows run to posterior, columns to left
    assert raw.spacing == (2, 0.5, 0.75)
    assert np.allclose(raw.affine, [[0.75, 0, 0, 10 - 5 * 0.75], [0, 0.5, 0, -20 - 3 * 0.5], [0, 0, 2, 5], [0, 0, 0, 1]])
    assert formats.notes(Source(folder)) == ()


def through_simpleitk(folder: Path, path: Path) -> Path:
    """The series as SimpleITK sees it, written as NIfTI."""
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    sitk.WriteImage(reader.Execute(), str(path))
    return path


@pytest.mark.parametrize("directions", [*DIRECTIONS, OBLIQUE], ids=str)
def test_any_direction_of_the_planes_gives_the_volume_that_simpleitk_sees(write: Write, planes: np.ndarray, tmp_path: Path, directions: tuple[float, ...]) -> None:
    folder = write(planes, directions=directions)
    ours, theirs = formats.read(Source(folder)), formats.read(Source(through_simpleitk(folder, tmp_path / "a.nii")))
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert np.allclose(ours.affine, theirs.affine, atol=1e-4)
    assert np.allclose(ours.spacing, theirs.spacing, atol=1e-4)
    assert formats.count_planes(Source(folder)) == ours.pixels.shape[1]
    assert np.array_equal(formats.read(Source(folder), 1, 3).pixels, ours.pixels[:, 1:3])
    assert np.array_equal(formats.read(Source(folder, frames=(2, 0))).pixels, ours.pixels[:, [2, 0]])
    grid = formats.grid(Source(folder))
    assert grid is not None
    assert grid.shape == ours.pixels.shape[1:]
    assert np.allclose(grid.affine, ours.affine)
    with pytest.raises(CaseError, match="found none"):
        formats.read(Source(folder), 7)


def test_a_real_series_is_where_simpleitk_and_its_mask_are(samples: Path, tmp_path: Path) -> None:
    pytest.importorskip("openjpeg")
    folder, labels = samples / "dicom_ct_series" / "series", samples / "dicom_ct_series" / "labels.nii.gz"
    ours, theirs = formats.read(Source(folder)), formats.read(Source(through_simpleitk(folder, tmp_path / "a.nii.gz")))
    assert ours.pixels.shape == (1, 20, 512, 512)
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert np.abs(ours.affine - theirs.affine).max() < 1e-4
    assert np.allclose(ours.spacing, theirs.spacing)
    assert ours.full_range == (-110, 189)
    assert formats.notes(Source(folder)) == ()
    mask = read_labels((Source(labels),), dims=3)
    assert mask.shape == ours.pixels.shape[1:]
    assert np.abs(mask.affine - ours.affine).max() < 1e-4
    names = {name: int(value) for value, name in json.loads((samples / "dicom_ct_series" / "label_names.json").read_text()).items()}
    medians = {name: float(np.median(ours.pixels[0][mask.labels == value])) for name, value in names.items() if (mask.labels == value).any()}
    assert 20 < medians["liver"] < 200
    assert 20 < medians["aorta"] < 400
    dataset = manifest(tmp_path, "any.nii")
    check_on_image(dataset, Case("a", "a", {"image": (Source(folder),)}), (Source(labels),))
    moved = nibabel.load(labels)
    affine = moved.affine.copy()
    affine[2, 3] += 2
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(moved.dataobj), affine), tmp_path / "moved.nii.gz")
    with pytest.raises(CaseError, match=r"moved\.nii\.gz on the grid of its image series, found it 2\.05 voxels away"):
        check_on_image(dataset, Case("a", "a", {"image": (Source(folder),)}), (Source(tmp_path / "moved.nii.gz"),))


def manifest(folder: Path, image: str, target: str = "any.nii") -> Dataset:
    """A dataset of one case with a mask."""
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), folder / "any.nii")
    (folder / "m.toml").write_text('name = "m"\nkind = "segmentation"\ndims = 3\nclasses = ["a", "b"]\n')
    (folder / "cases.csv").write_text(f"id,patient,image,target\na,a,{image},{target}\n")
    return load_manifest(folder / "m.toml")


def test_a_real_volume_written_as_a_series_comes_back(samples: Path, write: Write) -> None:
    stored = formats.read(Source(samples / "ct_multiorgan" / "ct.nii.gz"))
    volume, affine = stored.pixels[0], stored.affine
    assert affine is not None
    places = np.array([affine @ (volume.shape[2] - 1, volume.shape[1] - 1, z, 1) for z in range(len(volume))])[:, :3] * (-1, -1, 1)
    folder = write(volume[:, ::-1, ::-1], places, PixelSpacing=[3, 3], names=[f"{number:02}" for number in range(len(volume))][::-1])
    found = formats.read(Source(folder))
    assert np.array_equal(found.pixels, stored.pixels)
    assert np.abs(found.affine - affine).max() < 1e-4
    assert np.allclose(found.spacing, stored.spacing)


def test_only_the_files_of_the_planes_asked_for_are_decoded(write: Write, planes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read, decoded = write(planes), dicom.read, []
    monkeypatch.setattr(dicom, "read", lambda source, *rest: decoded.append(source.path.name) or read(source, *rest))
    formats.read(Source(folder), 1, 3)
    assert decoded == ["1.dcm", "2.dcm"]


def test_every_file_has_its_own_rescale_and_the_window_is_that_of_all(write: Write, planes: np.ndarray) -> None:
    each = [{"RescaleSlope": number + 1, "RescaleIntercept": -number, "WindowCenter": 100 * number, "WindowWidth": 50, "VOILUTFunction": "LINEAR_EXACT"} for number in range(5)]
    folder = write(planes, each=each)
    whole = formats.read(Source(folder))
    expected = planes * np.arange(1, 6)[:, None, None] - np.arange(5)[:, None, None]
    assert np.array_equal(whole.pixels[0], expected[:, ::-1, ::-1])
    assert whole.full_range == formats.read(Source(folder), 2, 3).full_range == (-25, 425)
    part = recipes.planes((Source(folder),), window="full-range", size=None, start=2, stop=4).pixels
    assert np.array_equal(part, recipes.planes((Source(folder),), window="full-range", size=None).pixels[2:4])


def test_low_values_are_bright_in_monochrome1(write: Write, planes: np.ndarray) -> None:
    assert formats.read(Source(write(planes, photometric="MONOCHROME1"))).inverted


def test_one_plane_is_as_thick_as_its_file_says(write: Write, planes: np.ndarray) -> None:
    raw = formats.read(Source(write(planes[:1])))
    assert raw.spacing == (3, 0.5, 0.75)
    assert raw.affine is not None
    assert raw.affine[2].tolist() == [0, 0, 3, 5]


# ------------------------------------------------------------------------------------------- refused


def test_several_series_in_a_folder_are_refused(write: Write, planes: np.ndarray, refused: Callable[..., str]) -> None:
    each = [{"SeriesInstanceUID": f"1.2.{number % 2}"} for number in range(5)]
    each[1] |= {"SeriesDescription": "Topogram", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    each[3] |= each[1]
    folder = write(planes, each=each, Modality="CT")
    said = "expected one DICOM series, found 2 in 5 files (3 of CT, 2 of Topogram (localizer)); put each into a folder of its own"
    assert said in refused(folder)


def test_a_missing_plane_is_refused(write: Write, planes: np.ndarray, refused: Callable[..., str]) -> None:
    assert "a plane every 2 mm, found none for 4 mm between 1.dcm and 2.dcm" in refused(write(planes, [0, 2, 6, 8, 10]))


def test_several_missing_planes_are_counted(
    write: Write, rng: np.random.Generator, refused: Callable[..., str]
) -> None:
    planes = rng.integers(0, 9, (7, 4, 6)).astype(np.int16)
    said = refused(write(planes, [0, 3, 6, 15, 18, 24, 27]))
    assert (
        "a plane every 3 mm, found none for 9 mm between 2.dcm and 3.dcm, 3 missing in all" in said
    )


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        ((0, 1, 2, 3, 8, 13, 18, 23, 28), "gaps of 1 mm from 5 to 8, 5 mm from 8 to 33"),
        ((0, 2.5, 5, 7.5, 10, 15, 20, 25, 30), "gaps of 2.5 mm from 5 to 15, 5 mm from 15 to 35"),
        ((0, 5, 10, 15, 20, 23, 26, 29, 32), "gaps of 5 mm from 5 to 25, 3 mm from 25 to 37"),
        ((0, 1, 3, 6, 10, 15, 21, 28, 36), "and 4 changes more"),
    ],
)
def test_stacks_far_from_even_are_refused_as_such(
    write: Write,
    rng: np.random.Generator,
    heights: tuple[float, ...],
    said: str,
    refused: Callable[..., str],
) -> None:
    planes = rng.integers(0, 9, (9, 4, 6)).astype(np.int16)
    sentence = refused(write(planes, heights))
    assert "expected evenly spaced planes, found" in sentence
    assert said in sentence
    assert "phase" not in sentence


def test_the_acquisitions_of_an_uneven_stack_are_counted(
    write: Write, planes: np.ndarray, refused: Callable[..., str]
) -> None:
    folder = write(
        planes,
        [0, 3, 6, 6.5, 9.5],
        each=[{"AcquisitionNumber": 1 + number // 3} for number in range(5)],
    )
    assert "3 mm from 11.5 to 14.5 in 2 acquisitions; resample" in refused(folder)


def test_upright_lines_of_leaning_planes_are_tilted_too(write: Write, planes: np.ndarray) -> None:
    cosine, sine = np.cos(np.radians(12)), np.sin(np.radians(12))
    places = np.array([-10.0, 20, 5]) + np.arange(5)[:, None] * np.array([0, 0, 2.0])
    folder = write(planes, places, directions=(1, 0, 0, 0, cosine, sine), GantryDetectorTilt="12")
    assert "tilted by 12.0 degrees" in formats.notes(Source(folder))[0]
    raw = formats.read(Source(folder))
    assert raw.affine is not None
    assert np.allclose(raw.affine[:3, 2], [0, 0, 2], atol=1e-6)


@pytest.mark.parametrize("tag", ["EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier"])
def test_what_tells_two_planes_at_one_place_apart_is_said(
    write: Write, planes: np.ndarray, tag: str, refused: Callable[..., str]
) -> None:
    folder = write(planes[:4], [0, 0, 2, 2], each=[{tag: 1}, {tag: 2}, {tag: 1}, {tag: 2}])
    sentence = refused(folder)
    assert f"0 mm apart, which differ in {tag} (1" in sentence
    assert "put each volume (series, phase, echo or copy) into a folder of its own" in sentence


def test_the_angle_between_planes_is_said_and_the_localizer_named(
    write: Write, planes: np.ndarray, refused: Callable[..., str]
) -> None:
    leaning = (1.0, 0, 0, 0, np.cos(np.radians(12)), np.sin(np.radians(12)))
    folder = write(planes)
    write(planes[:1], [20], names=["z.dcm"], directions=leaning)
    sentence = refused(folder)
    assert "found others in z.dcm than in 0.dcm, 12.0 degrees apart" in sentence
    write(
        planes[:1],
        [20],
        names=["z.dcm"],
        directions=(1, 0, 0, 0, 0, -1),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    series._series.cache_clear()
    assert "4 x 6 MONOCHROME2 (localizer) in z.dcm" in refused(folder)


def test_planes_of_several_units_are_refused(
    write: Write, planes: np.ndarray, refused: Callable[..., str]
) -> None:
    folder = write(
        planes,
        each=[
            {"Modality": "CT", "RescaleType": kind} for kind in ("HU", "HU", "Z_EFF", "HU", "HU")
        ],
    )
    assert (
        "expected one unit in all planes, found Hounsfield units and rescale type Z_EFF"
        in refused(folder)
    )


def test_what_holds_no_pixels_in_a_series_is_named(
    write: Write, planes: np.ndarray, refused: Callable[..., str]
) -> None:
    folder = write(planes)
    report = pydicom.dcmread(folder / "0.dcm")
    del report.PixelData, report.Rows
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = (
        pydicom.uid.RTStructureSetStorage
    )
    report.save_as(folder / "z.dcm")
    assert "RT Structure Set Storage, which holds no pixel data; draw its contours" in refused(
        folder, names=folder / "z.dcm"
    )


@pytest.mark.parametrize("heights", [(0, 2, 2, 4, 6), (0, 2, 2.1, 4, 6), (0, 0, 2, 2, 4)])
def test_two_planes_at_one_place_are_refused(write: Write, planes: np.ndarray, heights: tuple[float, ...], refused: Callable[..., str]) -> None:
    assert "every plane at a place of its own" in refused(write(planes, heights))


def test_planes_of_other_sizes_kinds_and_directions_are_refused(write: Write, planes: np.ndarray, refused: Callable[..., str]) -> None:
    folder = write(planes)
    write(planes[:1, :3], [20], names=["z.dcm"])
    assert "found 4 x 6 MONOCHROME2 in 0.dcm and 3 x 6 MONOCHROME2 in z.dcm" in refused(folder)
    write(planes[:1], [20], names=["z.dcm"], photometric="MONOCHROME1")
    series._series.cache_clear()
    assert "MONOCHROME1 in z.dcm" in refused(folder)
    for tags in ({"directions": OBLIQUE}, {"PixelSpacing": [0.5, 0.7]}):
        write(planes[:1], [20], names=["z.dcm"], **tags)
        series._series.cache_clear()
        assert "expected parallel planes with pixels of one size, found others in z.dcm than in 0.dcm" in refused(folder)


def test_files_that_are_no_planes_of_a_volume_are_refused(write: Write, write_dicom: Callable[..., Path], planes: np.ndarray, refused: Callable[..., str]) -> None:
    folder = write(planes)
    extra = folder / "z.dcm"
    for write_extra, said in (
        (lambda: write_dicom(planes[0], "series/z.dcm"), "expected ImagePositionPatient"),
        (lambda: write_dicom(np.abs(planes), "series/z.dcm"), "found 5 frames"),
        (lambda: write(np.zeros((1, 4, 6, 3), np.uint8), names=["z.dcm"], photometric="RGB"), "expected grey planes"),
    ):
        write_extra()
        series._series.cache_clear()
        assert said in refused(folder, names=extra)


@pytest.mark.parametrize("kept", [0, 100, 300, 700])
@pytest.mark.parametrize("name", ["2.dcm", "1.2.840.2", "IM2"])
def test_a_damaged_file_is_named_by_its_own_path(write: Write, planes: np.ndarray, kept: int, name: str, refused: Callable[..., str]) -> None:
    folder = write(np.tile(planes, (1, 3, 3)), names=["0.dcm", "1.dcm", name, "3.dcm", "4.dcm"])
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    refused(folder, names=folder / name)


def test_other_files_beside_a_series_do_not_count(write: Write, planes: np.ndarray) -> None:
    folder = write(planes, names=list("abcde"))
    for name in ("LICENSE", "notes.txt", "._a", ".DS_Store", "Thumbs.db", "DICOMDIR", "series.json"):
        (folder / name).write_text("x")
    (folder / "below").mkdir()
    assert formats.count_planes(Source(folder)) == 5


def test_pictures_among_dicom_files_are_refused(write: Write, planes: np.ndarray, refused: Callable[..., str]) -> None:
    folder = write(planes)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "a.png")
    assert "found DICOM files among them such as 0.dcm" in refused(folder)


def test_a_series_is_no_mask(write: Write, planes: np.ndarray) -> None:
    with pytest.raises(CaseError, match=r"expected a mask as .*, found series"):
        read_labels((Source(write(planes)),), dims=3)


def test_a_missing_library_names_its_extra(write: Write, planes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(planes)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ExtraError, match=r"medprobe\[dicom\]"):
        formats.read(Source(folder))


# ----------------------------------------------------------------------------------------- read, said


def test_uneven_planes_are_read_and_it_is_said(write: Write, planes: np.ndarray) -> None:
    folder = write(planes, [0, 2, 4, 6.4, 8.4])
    raw = formats.read(Source(folder))
    assert raw.spacing is not None
    assert raw.spacing[0] == pytest.approx(2.1)
    assert formats.notes(Source(folder)) == (f"{folder}: its planes are not evenly spaced (2 to 2.4 mm apart, mostly 2) and are read as if 2.1 mm apart",)


@pytest.mark.parametrize(("heights", "noted"), [([0, 1.25, 2.5, 3.75, 5.0], 0), ([0, 0.63, 1.25, 1.88, 2.5], 0), ([0, 2, 4.018, 6, 8], 0), ([0, 2, 4.03, 6, 8], 1), ([0, 1.3, 2.5, 3.8, 5.0], 1)])
def test_what_rounding_to_two_decimals_does_is_not_uneven(write: Write, planes: np.ndarray, heights: list[float], noted: int) -> None:
    assert len(formats.notes(Source(write(planes, heights)))) == noted


def tilted(degrees: float) -> np.ndarray:
    """(5, 3): places of axial planes whose line leans back."""
    along = np.arange(5)[:, None] * 2.0
    return np.array([-10.0, 20, 5]) + along * np.array([0, np.tan(np.radians(degrees)), 1])


def test_tilted_planes_are_read_where_they_are_and_it_is_said(write: Write, planes: np.ndarray) -> None:
    folder = write(planes, tilted(12))
    raw = formats.read(Source(folder))
    assert formats.notes(Source(folder)) == (f"{folder}: its planes are tilted by 12.0 degrees against the line they lie on, as with a tilted gantry, and are read as they are: the affine holds the shear",)
    assert np.array_equal(raw.pixels[0], planes[:, ::-1, ::-1])
    for z, place in enumerate(tilted(12)):
        stored_corner = raw.affine @ (5, 3, z, 1)
        assert np.allclose(stored_corner[:3] * (-1, -1, 1), place, atol=1e-5)
    assert formats.notes(Source(write(planes, tilted(0.3), folder="upright"))) == ()


def test_checking_a_dataset_says_what_is_odd_and_passes(write: Write, planes: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))
    write(planes, tilted(12))
    write(planes, folder="even")
    (tmp_path / "m.toml").write_text('name = "m"\nkind = "classification"\ndims = 3\nclasses = ["a", "b"]\n')
    (tmp_path / "cases.csv").write_text("id,patient,image,target\n" + "".join(f"{number},{number},{'even' if number else 'series'},{'ab'[number % 2]}\n" for number in range(4)))
    dataset = load_manifest(tmp_path / "m.toml")
    found = {finding.name: finding for finding in check_dataset(dataset, tmp_path)}
    assert found["images"].ok
    assert found["geometry"].ok
    assert "in 4 images tried: " in found["geometry"].detail
    assert "tilted by 12.0 degrees" in found["geometry"].detail


def test_a_mask_of_the_volume_has_distances_in_mm(write: Write, planes: np.ndarray, tmp_path: Path) -> None:
    folder = write(planes)
    raw = formats.read(Source(folder))
    nibabel.save(nibabel.Nifti1Image((raw.pixels[0].T > 0).astype(np.uint8), raw.affine), tmp_path / "mask.nii.gz")
    dataset = manifest(tmp_path, "series", "mask.nii.gz")
    case = next(iter(dataset.cases(tmp_path)))
    check_on_image(dataset, case, case.target)
    assert in_millimetres(dataset, [case])
