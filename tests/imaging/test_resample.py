"""Volumes on another grid, equal to SimpleITK; turned, and turned back; rescaled to the unit that a table names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprobe.errors import CaseError
from medprobe.imaging import formats, nifti, recipes, resample
from medprobe.imaging.raw import Raw
from medprobe.types import Axis, Source

RNG = np.random.default_rng(0)
AXES: tuple[Axis, ...] = ("axial", "coronal", "sagittal")
TURN = np.array([[0.9362934, -0.2896295, 0.1986693], [0.3129918, 0.9447025, -0.0978434], [-0.1593451, 0.1537920, 0.9751703]])
"""A rotation by three small angles."""


def affine(turn: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Of a right-angled grid, `turn` made exact."""
    u, _, v = np.linalg.svd(turn)
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = u @ v @ np.diag(spacing), origin
    return found


def centred(placed: np.ndarray, shape: tuple[int, int, int], middle: tuple[float, float, float]) -> np.ndarray:
    """With the middle of a volume of `shape` (z, y, x) at a place in mm."""
    found = placed.copy()
    found[:3, 3] = middle - placed[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return found


def volume(folder: Path, name: str, shape: tuple[int, int, int], placed: np.ndarray, dtype: type = np.float32) -> Source:
    nifti.save(folder / name, RNG.normal(100, 30, shape).astype(dtype), placed, None)
    return Source(folder / name)


def pair(folder: Path) -> Source:
    """A coarse volume laid on a finer grid that reaches beyond it."""
    coarse = volume(folder, "pet.nii.gz", (5, 6, 7), np.diag([4.0, 4.0, 5.0, 1.0]))
    fine = volume(folder, "ct.nii.gz", (11, 12, 13), affine(np.eye(3), (1.9, 2.1, 3.0), (3.0, -1.5, 1.0)), np.int16)
    return replace(coarse, grid=fine.path)


# ---------------------------------------------------------------------------------------- another grid


@pytest.mark.equality("SimpleITK, resampling of a volume to the grid of another; 1e-3")
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (affine(np.eye(3), (2, 1.3, 5.1)), affine(np.eye(3), (1.7, 2.1, 2.9))),
        (affine(TURN, (2, 1.3, 5.1)), affine(np.diag([-1.0, -1, 1]), (1.7, 2.1, 2.9))),
        (affine(TURN, (2, 1.3, 5.1)), affine(TURN.T, (1.7, 2.1, 2.9))),
        (affine(TURN[[1, 2, 0]], (1, 2, 3)), affine(np.eye(3)[[2, 0, 1]], (2.5, 2.1, 1.2))),
    ],
    ids=["shifted", "rotated", "both rotated", "stored along other axes"],
)  # fmt: skip
def test_a_volume_on_another_grid_equals_simpleitk(tmp_path: Path, one: np.ndarray, other: np.ndarray, dtype: type) -> None:
    sitk = pytest.importorskip("SimpleITK")
    shapes = (9, 14, 17), (20, 23, 19)
    grid = volume(tmp_path, "b.nii.gz", shapes[1], centred(other, shapes[1], (0, 0, 0)))
    source = replace(volume(tmp_path, "a.nii.gz", shapes[0], centred(one, shapes[0], (4.3, -5.2, 3.1)), dtype), grid=grid.path)
    raw = formats.read(source)
    lowest = float(formats.read(replace(source, grid=None)).pixels.min())
    moving, fixed = (sitk.ReadImage(str(tmp_path / name)) for name in ("a.nii.gz", "b.nii.gz"))
    sitk.WriteImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, lowest, sitk.sitkFloat32), str(tmp_path / "c.nii.gz"))
    reference = nifti.volume(tmp_path / "c.nii.gz")
    assert raw.pixels.dtype == np.float32
    assert 0.01 < (reference.array > lowest).mean() < 0.99  # both inside and outside are compared
    np.testing.assert_allclose(raw.pixels[0], reference.array, rtol=1e-3)
    np.testing.assert_allclose(raw.affine, reference.affine, atol=1e-5)
    np.testing.assert_allclose(raw.spacing, reference.spacing, atol=1e-5)
    assert formats.count_planes(source) == raw.pixels.shape[1]


@pytest.mark.parametrize("patient", ["STS_002", "STS_041"])
def test_a_real_pet_on_the_grid_of_its_ct_equals_simpleitk(samples: Path, patient: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    pet, ct = (samples / "petct_sarcoma" / patient / f"{name}_image.nii.gz" for name in ("PET", "CT"))
    raw, lowest = formats.read(Source(pet, grid=ct)), float(formats.read(Source(pet)).pixels.min())
    sitk.WriteImage(sitk.Resample(sitk.ReadImage(str(pet)), sitk.ReadImage(str(ct)), sitk.Transform(), sitk.sitkLinear, lowest, sitk.sitkFloat32), str(tmp_path / "a.nii.gz"))
    reference = nifti.volume(tmp_path / "a.nii.gz").array
    assert raw.pixels.shape[1:] == formats.read(Source(ct)).pixels.shape[1:] != formats.read(Source(pet)).pixels.shape[1:]
    np.testing.assert_allclose(raw.pixels[0], reference, rtol=1e-3)
    assert recipes.image((Source(ct), Source(pet, grid=ct)), "ct+suv").pixels.shape[0] == 2


def test_a_volume_on_its_own_grid_is_unchanged_and_outside_is_air(tmp_path: Path) -> None:
    own = volume(tmp_path, "a.nii.gz", (5, 6, 7), affine(TURN, (2, 3, 4), (5, 6, 7)))
    np.testing.assert_allclose(formats.read(replace(own, grid=own.path)).pixels, formats.read(own).pixels, rtol=1e-4)
    wide = volume(tmp_path, "b.nii.gz", (60, 60, 60), affine(np.eye(3), (2, 2, 2), (-60, -60, -60)))
    laid = formats.read(replace(own, grid=wide.path)).pixels
    lowest = formats.read(own).pixels.min()
    assert 0.5 < (laid == lowest).mean() < 1
    assert (laid[:, 0] == lowest).all()


def test_planes_in_parts_are_those_of_the_whole_and_resampled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, calls = pair(tmp_path), []

    def counted(*arguments) -> Raw:
        calls.append(1)
        return resample.on_grid(*arguments)

    monkeypatch.setattr(formats, "on_grid", counted)
    whole = recipes.planes((source,), window="minmax", size=9).pixels
    parts = [recipes.planes((source,), window="minmax", size=9, start=start, stop=start + 2).pixels for start in range(0, 11, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(recipes.planes((replace(source, frames=(7, 0)),), window="suv", size=9, start=1).pixels, recipes.planes((source,), window="suv", size=9, stop=1).pixels)
    assert len(calls) == 1
    volume(tmp_path, "ct.nii.gz", (3, 12, 13), np.eye(4))
    assert formats.read(source).pixels.shape == (1, 3, 12, 13)  # another grid under the same name
    assert len(calls) == 2


def test_a_grid_without_an_affine_or_a_file_is_refused_by_name(tmp_path: Path) -> None:
    source = pair(tmp_path)
    np.save(tmp_path / "bare.npy", np.zeros((5, 6, 7), np.int16))
    with pytest.raises(CaseError, match=r"bare\.npy: expected an affine, to put pet\.nii\.gz on the grid of bare\.npy, found none"):
        formats.read(replace(source, grid=tmp_path / "bare.npy"))
    with pytest.raises(CaseError, match=r"bare\.npy: expected an affine, to put bare\.npy"):
        formats.read(Source(tmp_path / "bare.npy", grid=source.grid))
    with pytest.raises(CaseError, match=r"gone\.nii\.gz: expected an image, found nothing there"):
        formats.count_planes(replace(source, grid=tmp_path / "gone.nii.gz"))


# --------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize("axis", AXES)
def test_planes_along_an_axis_lie_where_the_voxels_lay(tmp_path: Path, axis: Axis) -> None:
    source = volume(tmp_path, "a.nii.gz", (4, 5, 6), affine(TURN, (1, 2, 3), (4, 5, 6)))
    plain, raw = formats.read(source), formats.read(replace(source, axis=axis))
    across = {"axial": 4, "coronal": 5, "sagittal": 6}[axis]
    assert formats.count_planes(replace(source, axis=axis)) == raw.pixels.shape[1] == across
    assert plain.affine is not None
    assert raw.affine is not None
    assert raw.spacing is not None
    place = np.array([1, 2, 3])  # (z, y, x) of the turned volume
    there = np.argwhere(plain.pixels[0] == raw.pixels[(0, *place)])[0]
    np.testing.assert_allclose(raw.affine @ [*place[::-1], 1], plain.affine @ [*there[::-1], 1])
    np.testing.assert_allclose(np.linalg.norm(raw.affine[:3, :3], axis=0)[::-1], raw.spacing)
    parts = [formats.read(replace(source, axis=axis), plane, plane + 1).pixels for plane in range(across)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), raw.pixels)
    picked = formats.read(replace(source, axis=axis, frames=(3, 0)))
    np.testing.assert_array_equal(picked.pixels, raw.pixels[:, [3, 0]])


def test_arrays_without_a_header_of_their_own_are_turned_too(tmp_path: Path) -> None:
    stack = RNG.normal(size=(4, 5, 6)).astype(np.float32)
    np.savez(tmp_path / "a.npz", image=stack, other=stack[:2])
    source = Source(tmp_path / "a.npz", "image", axis="sagittal")
    assert formats.count_planes(source) == 6
    np.testing.assert_array_equal(formats.read(source, 2, 3).pixels[0, 0], stack[:, :, 2])


@given(shape=st.lists(st.integers(1, 4), min_size=3, max_size=5), axis=st.sampled_from(AXES))
def test_what_is_turned_can_be_turned_back(shape: list[int], axis: Axis) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape)
    np.testing.assert_array_equal(resample.turned_array(resample.turned_array(array, axis), axis, back=True), array)


# ---------------------------------------------------------------------------------------- another unit


@settings(deadline=None)
@given(
    dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32]), slope=st.integers(-3, 3).filter(bool),
    intercept=st.integers(-40000, 40000),
)  # fmt: skip
def test_whole_numbers_stay_whole_and_exact(dtype: type, slope: int, intercept: int) -> None:
    ends = np.iinfo(dtype)
    stored = np.array([ends.min, ends.max, 0, 1, 100], dtype).reshape(1, 1, 1, 5)
    raw = resample.rescaled(Raw(stored, (float(ends.min), float(ends.max))), slope, intercept)
    expected = [int(value) * slope + intercept for value in stored.ravel()]
    assert raw.pixels.dtype.kind == "i"
    assert raw.pixels.ravel().tolist() == expected
    assert raw.full_range == (min(expected), max(expected))


def test_fractions_become_float32_and_small_types_stay_small() -> None:
    stored = Raw(np.array([[[[0, 10]]]], np.uint8), (0, 255))
    raw = resample.rescaled(stored, 0.5, -1)
    assert raw.pixels.dtype == np.float32
    assert raw.pixels.ravel().tolist() == [-1, 4]
    assert raw.full_range == (-1, 126.5)
    assert resample.rescaled(stored, 1, -1024).pixels.dtype == np.int16
    assert resample.rescaled(Raw(stored.pixels.astype(np.int16), (0, 10)), 1, -1024).pixels.dtype == np.int32


def test_rescaled_values_are_put_on_a_grid_and_windowed(tmp_path: Path) -> None:
    own = volume(tmp_path, "a.nii.gz", (5, 6, 7), np.eye(4), np.int16)
    source = replace(own, rescale=(2.0, -1000.0), grid=own.path)
    np.testing.assert_allclose(formats.read(source).pixels, formats.read(own).pixels * 2.0 - 1000)
    np.testing.assert_allclose(recipes.image((source,), "ct").pixels, np.clip(formats.read(own).pixels * 2.0 / 2000, 0, 1), atol=1e-6)


def test_a_volume_that_does_not_overlap_its_grid_is_refused(tmp_path: Path) -> None:
    import nibabel

    far = np.eye(4)
    far[:3, 3] = 5000
    for name, affine in (("here", np.eye(4)), ("far", far)):
        nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), affine), tmp_path / f"{name}.nii.gz")
    with pytest.raises(CaseError, match="overlaps here"):
        formats.read(Source(tmp_path / "far.nii.gz", grid=tmp_path / "here.nii.gz"))
