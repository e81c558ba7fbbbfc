"""Displacement fields on disk: component order, axes that turn with the grid, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from medprobe.errors import CaseError, RequestError
from medprobe.imaging import formats
from medprobe.imaging.displacements import read_displacement, write_displacement
from medprobe.imaging.labels import LabelMap
from medprobe.types import Source

AFFINE = np.array([[1.5, 0, 0, -20], [0, 1.5, 0, 30], [0, 0, 3.15, 7], [0, 0, 0, 1]])


def field(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)


def refusal(call: Callable[[], object], error: type[Exception] = CaseError) -> str:
    with pytest.raises(error) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Source:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return Source(path)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 5, 6), (3, 1, 5, 6), (3, 4, 1, 1)])
@pytest.mark.parametrize("name", ["a.disp.nii.gz", "a.nii", "a.disp.h5", "a.npz"])
def test_a_field_makes_a_round_trip_in_each_format(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    vectors = field(*shape)
    write_displacement(tmp_path / name, vectors, AFFINE, (3.15, 1.5, 1.5))
    found = read_displacement(Source(tmp_path / name), dims=len(shape) - 1)
    assert found.dtype == np.float32
    assert np.array_equal(found, vectors)


def test_the_file_is_a_vector_image_with_the_components_z_y_x(tmp_path: Path) -> None:
    vectors = field(3, 4, 5, 6)
    write_displacement(tmp_path / "a.disp.nii.gz", vectors, AFFINE)
    image = nibabel.load(tmp_path / "a.disp.nii.gz")
    assert image.shape == (6, 5, 4, 1, 3)
    assert image.get_data_dtype() == np.float32
    assert int(image.header["intent_code"]) == 1007
    assert np.allclose(image.affine, AFFINE)
    stored = np.asanyarray(image.dataobj)
    assert np.array_equal(stored[1, 2, 3, 0], vectors[:, 3, 2, 1])
    write_displacement(tmp_path / "b.disp.nii.gz", field(2, 5, 6))
    assert nibabel.load(tmp_path / "b.disp.nii.gz").shape == (6, 5, 1, 1, 2)


def test_simpleitk_reads_the_same_vectors_at_the_same_place(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    vectors = field(3, 4, 5, 6)
    write_displacement(tmp_path / "a.disp.nii.gz", vectors, AFFINE)
    image = sitk.ReadImage(str(tmp_path / "a.disp.nii.gz"))
    assert np.array_equal(np.moveaxis(sitk.GetArrayFromImage(image), -1, 0), vectors)
    assert np.allclose(image.GetSpacing(), (1.5, 1.5, 3.15))
    assert np.allclose(image.GetOrigin(), (20, -30, 7))


def test_four_axes_are_read_and_so_are_whole_and_double_numbers(tmp_path: Path) -> None:
    vectors = field(3, 4, 5, 6)
    stored = np.moveaxis(vectors, 0, -1).transpose(2, 1, 0, 3)
    assert np.array_equal(read_displacement(nifti(tmp_path / "a.nii.gz", stored), dims=3), vectors)
    assert np.array_equal(read_displacement(nifti(tmp_path / "b.nii.gz", stored.astype(np.float64)), dims=3), vectors)
    whole = np.rint(stored).astype(np.int16)
    assert np.array_equal(read_displacement(nifti(tmp_path / "c.nii.gz", whole), dims=3), np.rint(vectors))


TURNS = {
    "left posterior": np.diag([-1.5, -1.5, 3.15, 1]),
    "sagittal": np.array([[0, 0, -3.0, 10], [1.5, 0, 0, -20], [0, 2.0, 0, 30], [0, 0, 0, 1]]),
    "upside down": np.array([[0, 2.0, 0, 1], [-1.5, 0, 0, 2], [0, 0, -4, 3], [0, 0, 0, 1]]),
}


@pytest.mark.trap("registration: field and image stored in another orientation")
@pytest.mark.parametrize("turn", list(TURNS))
def test_components_turn_with_the_axes(tmp_path: Path, turn: str) -> None:
    """A field made on stored axes must point from each voxel of the turned image to the same intensity as before."""
    shape = (7, 8, 9)
    image = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    stored = np.random.default_rng(0).integers(-2, 3, (*shape, 3))  # whole steps along (i, j, k), kept inside
    corners = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    stored = np.clip(corners + stored, 0, np.array(shape) - 1) - corners
    sampled = image[tuple(np.moveaxis(corners + stored, -1, 0))]
    affine = TURNS[turn]
    source = nifti(tmp_path / "field.nii.gz", stored[..., None, ::-1].astype(np.float32), affine)
    moving, expected = (formats.read(nifti(tmp_path / name, array, affine)).pixels[0] for name, array in (("m.nii.gz", image), ("s.nii.gz", sampled)))
    vectors = read_displacement(source, dims=3)
    places = np.stack(np.meshgrid(*map(np.arange, moving.shape), indexing="ij")) + vectors
    assert np.array_equal(moving[tuple(np.rint(places).astype(int))], expected)


def test_a_plane_of_any_direction_turns_too_and_several_are_refused(tmp_path: Path) -> None:
    stored = field(6, 5, 1, 1, 2)
    vectors = read_displacement(nifti(tmp_path / "a.nii.gz", stored, np.diag([-1.0, 1, 1, 1])), dims=2)
    assert np.array_equal(vectors, [stored[::-1, :, 0, 0, 0].T, -stored[::-1, :, 0, 0, 1].T])
    upright = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    vectors = read_displacement(nifti(tmp_path / "b.nii.gz", stored, upright), dims=2)
    assert np.array_equal(vectors, [stored[:, :, 0, 0, 0].T, stored[:, :, 0, 0, 1].T])
    several = nifti(tmp_path / "c.nii.gz", field(6, 5, 3, 1, 2), np.eye(4))
    assert "expected a plane whose third axis is across it, found 3 planes" in refusal(lambda: read_displacement(several, dims=2))


def test_beside_an_image_without_affine_the_order_of_the_file_counts(tmp_path: Path) -> None:
    stored = field(6, 5, 4, 1, 3)
    source = nifti(tmp_path / "a.nii.gz", stored, TURNS["left posterior"])
    bare = LabelMap(np.zeros((4, 5, 6), np.uint8))
    assert np.array_equal(read_displacement(source, dims=3, fixed=bare)[:, 3, 2, 1], stored[1, 2, 3, 0])


def test_a_field_elsewhere_than_the_fixed_image_is_refused(tmp_path: Path) -> None:
    write_displacement(tmp_path / "a.disp.nii.gz", field(3, 4, 5, 6), AFFINE)
    source, moved = Source(tmp_path / "a.disp.nii.gz"), AFFINE.copy()
    moved[2, 3] += 3
    read_displacement(source, dims=3, fixed=LabelMap(np.zeros((4, 5, 6), np.uint8), affine=AFFINE))
    assert "found it 2 voxels away" in refusal(lambda: read_displacement(source, dims=3, fixed=LabelMap(np.zeros((4, 5, 6), np.uint8), affine=moved)), RequestError)
    said = refusal(lambda: read_displacement(source, dims=3, fixed=LabelMap(np.zeros((4, 5, 7), np.uint8), affine=AFFINE)), RequestError)
    assert "every voxel of the fixed image, (4, 5, 7), found (4, 5, 6)" in said


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.npz"])
def test_nan_and_infinity_are_refused(tmp_path: Path, value: float, name: str) -> None:
    vectors = field(3, 4, 5, 6)
    vectors[1, 2, 3, 4] = value
    if name == "a.npz":
        np.savez(tmp_path / name, displacement=vectors)
    else:
        nifti(tmp_path / name, np.moveaxis(vectors, 0, -1).transpose(2, 1, 0, 3)[:, :, :, None])
    assert "found 1 of 360 NaN or infinite" in refusal(lambda: read_displacement(Source(tmp_path / name), dims=3))
    refusal(lambda: write_displacement(tmp_path / "b.nii.gz", vectors))
    np.savez(tmp_path / "c.npz", displacement=np.full((3, 1, 1, 1), 1e300))
    assert "infinite" in refusal(lambda: read_displacement(Source(tmp_path / "c.npz"), dims=3))


def test_another_number_of_components_is_refused(tmp_path: Path) -> None:
    for array in (field(6, 5, 4, 1, 2), field(6, 5, 4, 2), field(6, 5, 4), field(6, 5, 4, 2, 3)):
        assert "expected 3 components on the fifth axis" in refusal(lambda array=array: read_displacement(nifti(tmp_path / "a.nii.gz", array), dims=3))
    assert "expected a plane" in refusal(lambda: read_displacement(nifti(tmp_path / "a.nii.gz", field(6, 5, 4, 1, 2)), dims=2))
    for array in (field(2, 4, 5, 6), field(4, 5, 6, 3), field(3, 5, 6), np.zeros((3, 0, 5, 6))):
        np.savez(tmp_path / "a.npz", displacement=array)
        assert "expected a displacement field (3, D, H, W)" in refusal(lambda: read_displacement(Source(tmp_path / "a.npz"), dims=3))
    assert "one component per axis" in refusal(lambda: write_displacement(tmp_path / "b.h5", field(4, 5, 6, 3)))


def test_the_usual_name_is_taken_and_other_formats_are_refused(tmp_path: Path) -> None:
    vectors = field(2, 5, 6)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["displacement"], file["other"] = vectors, -vectors
    assert np.array_equal(read_displacement(Source(tmp_path / "a.h5"), dims=2), vectors)
    assert np.array_equal(read_displacement(Source(tmp_path / "a.h5", "other"), dims=2), -vectors)
    (tmp_path / "a.png").touch()
    assert "as .nii.gz, .h5 or .npz, found .png" in refusal(lambda: read_displacement(Source(tmp_path / "a.png"), dims=2))
    assert "nothing there" in refusal(lambda: read_displacement(Source(tmp_path / "gone.nii.gz"), dims=2))
    assert "found .png" in refusal(lambda: write_displacement(tmp_path / "b.png", vectors), RequestError)
