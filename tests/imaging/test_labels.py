"""Masks of every format to whole numbers and back, on the grid they lie on; what is not understood is refused with its values."""

import csv
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from medprobe.errors import CaseError, RequestError
from medprobe.imaging import formats
from medprobe.imaging import nifti as nifti_reader
from medprobe.imaging.labels import LabelMap, check_geometry, read_labels, resample_nearest, write_labels
from medprobe.types import Source

TWO = ("background", "polyp")
THREE = ("background", "anterior", "posterior")
OBLIQUE = np.array([[0.8, -0.3, 0.1, -40], [0.2, 1.1, -0.2, 12.5], [-0.1, 0.25, 2.4, 7], [0, 0, 0, 1.0]])


def labels(path: Path, classes: tuple[str, ...] | None = TWO, dims: int = 2, member: str | None = None, **options) -> np.ndarray:
    return read_labels((Source(path, member),), dims=dims, classes=classes, **options).labels


def refusal(call: Callable[[], object], error: type[Exception] = CaseError) -> str:
    with pytest.raises(error) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def picture(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Pillow.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    """`array` in the file's own order (x, y, z)."""
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype)
    if header:
        image.header.set_slope_inter(*header["scaling"])
    nibabel.save(image, path)
    return path


# -------------------------------------------------------------------------------------------- pictures

MASK = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(bool)


@pytest.mark.parametrize("values", [None, (0, 1), (0, 255)])
@pytest.mark.parametrize(("name", "stored"), [("bit.png", MASK), ("byte.png", MASK * np.uint8(255)), ("bit.bmp", MASK)])
def test_a_two_class_mask_of_one_bit_or_0_and_255_is_understood_whatever_values_say(tmp_path: Path, name: str, stored, values) -> None:
    path = picture(tmp_path / name, stored)
    found = labels(path, values=values)
    assert found.dtype == np.uint8
    assert np.array_equal(found, MASK)


def test_where_white_is_background_values_say_so(tmp_path: Path) -> None:
    for path in (picture(tmp_path / "bit.png", MASK), picture(tmp_path / "byte.png", MASK * np.uint8(255))):
        assert np.array_equal(labels(path, values=(255, 0)), ~MASK)


def test_0_and_1_count_as_they_are_and_mixed_with_255_are_refused(tmp_path: Path) -> None:
    assert np.array_equal(labels(picture(tmp_path / "a.png", MASK.astype(np.uint8))), MASK)
    mixed = picture(tmp_path / "b.png", np.uint8([[0, 1, 255], [255, 1, 1]]))
    assert "found 1 in 3 voxels" in refusal(lambda: labels(mixed))
    assert "found 1 in 3 voxels" in refusal(lambda: labels(mixed, values=(0, 255)))


def test_an_ignored_value_is_minus_one_and_a_class_wins_over_it(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.uint8([[0, 1, 255]]))
    assert labels(path, ignore=255).tolist() == [[0, 1, -1]]
    assert labels(picture(tmp_path / "b.png", np.uint8([[0, 255]])), values=(0, 255), ignore=255).tolist() == [[0, 1]]


@pytest.mark.trap("bad input: mask values that are no classes")
def test_unknown_values_are_named_with_their_numbers_of_voxels(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.uint8([[0, 10, 7], [7, 20, 10]]))
    said = refusal(lambda: labels(path, ("ground", "cell"), values=(0, 10), ignore=99))
    assert said.startswith(str(path))
    assert "expected the mask values 0 (ground), 10 (cell), 99 (ignored), found 7 in 2 voxels, 20 in 1 voxels; name every value in `values`" in said
    many = picture(tmp_path / "b.png", np.arange(100, dtype=np.uint8).reshape(10, 10))
    assert "and 92 more values" in refusal(lambda: labels(many, THREE))


def test_values_give_indices_in_the_order_of_the_classes(tmp_path: Path) -> None:
    array = np.array([[0, 500, 30000], [500, 0, 70]], np.uint16)
    for path in (picture(tmp_path / "a.png", array), nifti(tmp_path / "a.nii.gz", array.T[..., None])):
        found = labels(path, ("a", "b", "c", "d"), values=(70, 0, 500, 30000))
        assert found.tolist() == [[1, 2, 3], [2, 1, 0]]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint64])
def test_values_far_apart_are_looked_up_in_any_type(tmp_path: Path, dtype) -> None:
    low, high = (-30000, 30000) if dtype == np.int16 else (5, 2_000_000) if dtype == np.uint64 else (-1_000_000, 2_000_000)
    np.savez(tmp_path / "a.npz", labels=np.array([[low, high, 0]], dtype))
    assert labels(tmp_path / "a.npz", THREE, values=(high, 0, low)).tolist() == [[2, 0, 1]]
    assert f"found {low} in 1 voxels" in refusal(lambda: labels(tmp_path / "a.npz", TWO, values=(high, 0)))


def test_a_palette_gives_its_indices_not_its_colours(tmp_path: Path) -> None:
    array = np.uint8([[0, 1, 2], [2, 1, 0]])
    image = Pillow.fromarray(array, "L").convert("P")
    image.putdata(array.ravel().tolist())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    for name, options in (("a.png", {}), ("b.png", {"bits": 2}), ("c.png", {"transparency": 0}), ("d.bmp", {}), ("e.tif", {})):
        image.save(tmp_path / name, **options)
        assert np.array_equal(labels(tmp_path / name, THREE), array), name
    tifffile.imwrite(tmp_path / "f.tif", np.stack([array, array[::-1]]), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert np.array_equal(labels(tmp_path / "f.tif", THREE, dims=3), [array, array[::-1]])


def _png(path: Path, rows: list[bytes], width: int, bits: int) -> Path:
    """A grey PNG of few bits, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))
    return path


def test_grey_of_two_and_four_bits_keeps_its_values(tmp_path: Path) -> None:
    assert labels(_png(tmp_path / "a.png", [bytes([0b00011011]), bytes([0b11100100])], 4, 2), (*THREE, "other")).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert labels(_png(tmp_path / "b.png", [bytes([0x01, 0x2F])], 4, 4), None).tolist() == [[0, 1, 2, 15]]


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    array = np.array([[0, 1000, 65535]], np.uint16)
    assert np.array_equal(labels(picture(tmp_path / "a.png", array), None), array)


def test_colours_are_refused_unless_all_channels_are_equal(tmp_path: Path) -> None:
    grey = np.repeat(np.uint8(MASK * 255)[..., None], 3, axis=2)
    assert np.array_equal(labels(picture(tmp_path / "a.png", grey)), MASK)
    assert np.array_equal(labels(picture(tmp_path / "b.png", np.uint8(MASK * 255), "RGBA")), MASK)
    assert np.array_equal(labels(picture(tmp_path / "c.png", np.uint8(MASK * 255), "LA")), MASK)
    tifffile.imwrite(tmp_path / "d.tif", grey, photometric="rgb")
    assert np.array_equal(labels(tmp_path / "d.tif"), MASK)
    grey[..., 1] = 0
    for path in (picture(tmp_path / "e.png", grey), tmp_path / "f.tif"):
        tifffile.imwrite(tmp_path / "f.tif", grey, photometric="rgb")
        assert "found 3 channels that differ; save the class indices in grey or as a palette" in refusal(lambda path=path: labels(path))


def test_a_mask_hidden_in_transparency_is_refused(tmp_path: Path) -> None:
    hidden = np.zeros((5, 7, 4), np.uint8)
    hidden[..., 3] = MASK * 255
    assert "found transparency from 0 to 255" in refusal(lambda: labels(picture(tmp_path / "a.png", hidden)))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.dcm", "a.mp4"])
def test_formats_that_change_or_hide_values_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "save the class indices as one of these" in refusal(lambda: labels(tmp_path / name))


def test_damaged_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.zeros((50, 60), np.uint8))
    path.write_bytes(path.read_bytes()[:-30])
    assert "damaged" in refusal(lambda: labels(path))
    assert "nothing there" in refusal(lambda: labels(tmp_path / "gone.nii.gz"))
    (tmp_path / "b.png").touch()
    assert "empty file" in refusal(lambda: labels(tmp_path / "b.png"))
    np.savez(tmp_path / "c.npz", labels=np.zeros((0, 4), np.uint8))
    refusal(lambda: labels(tmp_path / "c.npz"))


# ---------------------------------------------------------------------------------- volumes and stacks


def test_tiff_pages_and_pictures_of_a_folder_are_planes(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 3, (12, 5, 6)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    (tmp_path / "folder").mkdir()
    for place, plane in enumerate(stack):
        picture(tmp_path / "folder" / f"{place}.png", plane)
    assert np.array_equal(labels(tmp_path / "a.tif", THREE, dims=3), stack)
    assert np.array_equal(labels(tmp_path / "folder", THREE, dims=3), stack)
    chosen = read_labels((Source(tmp_path / "a.tif", frames=(7,)),), dims=2, classes=THREE).labels
    assert np.array_equal(chosen, stack[7])
    picture(tmp_path / "folder" / "3.png", stack[0][:4])
    assert "masks of one size as planes, found (4, 6) and (5, 6)" in refusal(lambda: labels(tmp_path / "folder", THREE, dims=3))


def test_bilevel_tiff_is_one_bit_and_white_zero_is_turned_round_or_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", MASK, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", ~MASK, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "c.tif", np.uint8(MASK), photometric="miniswhite")
    Pillow.fromarray(MASK).save(tmp_path / "d.tif", compression="group4")
    for name in ("a.tif", "b.tif", "d.tif"):
        assert np.array_equal(labels(tmp_path / name), MASK), name
    assert "MINISWHITE" in refusal(lambda: labels(tmp_path / "c.tif"))


def test_the_array_of_the_usual_name_is_taken_where_none_is_named(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["labels"], file["deep/other"] = np.zeros((4, 5, 6), np.uint8), mask, mask[::-1]
    np.savez(tmp_path / "b.npz", raw=np.zeros(3), labels=mask)
    np.save(tmp_path / "c.npy", mask)
    for name in ("a.h5", "b.npz", "c.npy"):
        assert np.array_equal(labels(tmp_path / name, THREE, dims=3), mask)
    assert np.array_equal(labels(tmp_path / "a.h5", THREE, dims=3, member="/deep/other"), mask[::-1])
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["raw"], file["seg"] = mask, mask
    assert "found raw, seg; write d.h5:/NAME" in refusal(lambda: labels(tmp_path / "d.h5", THREE, dims=3))


def test_a_width_of_three_is_no_colour_in_a_mask(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", labels=mask)
    assert np.array_equal(labels(tmp_path / "a.npz", THREE, dims=3), mask)


def test_axes_of_length_one_come_and_go_and_others_do_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros((1, 1, 4, 5), np.uint8), two=np.zeros((4, 5), np.uint8), many=np.zeros((2, 4, 5), np.uint8), flat=np.zeros(4, np.uint8))
    assert labels(tmp_path / "a.npz", member="one").shape == labels(tmp_path / "a.npz", member="two").shape == (4, 5)
    assert labels(tmp_path / "a.npz", member="two", dims=3).shape == (1, 4, 5)
    assert "expected a mask of 2 axes, found shape (2, 4, 5); write one plane into a file, or set dims = 3" in refusal(lambda: labels(tmp_path / "a.npz", member="many"))
    assert "two axes or more" in refusal(lambda: labels(tmp_path / "a.npz", member="flat"))


def test_a_nifti_mask_lies_on_its_image(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = np.array([[0, 0, -3.0, 10], [1.5, 0, 0, -20], [0, 2.0, 0, 30], [0, 0, 0, 1]])  # stored as (anterior, superior, left)
    nifti(tmp_path / "mask.nii.gz", stored, affine)
    nifti(tmp_path / "image.nii.gz", (stored * 100).astype(np.int16), affine)
    raw = formats.read(Source(tmp_path / "image.nii.gz"))
    found = read_labels((Source(tmp_path / "mask.nii.gz"),), dims=3, classes=THREE)
    assert np.array_equal(found.labels * 100, raw.pixels[0])
    assert np.array_equal(found.affine, raw.affine)
    assert found.spacing == raw.spacing == (2, 1.5, 3)
    as_stored = read_labels((Source(tmp_path / "mask.nii.gz"),), dims=3, classes=THREE, as_stored=True)
    assert np.array_equal(as_stored.labels, stored.T)
    assert np.array_equal(as_stored.affine, affine)


def test_a_flat_nifti_is_a_plane_whichever_program_wrote_it(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    mask = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "a.nii.gz"))
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (7, 5)
    assert np.array_equal(formats.read(Source(tmp_path / "a.nii.gz")).pixels[0, 0], mask[::-1, ::-1])
    assert np.array_equal(labels(tmp_path / "a.nii.gz", THREE), mask[::-1, ::-1])
    assert np.array_equal(read_labels((Source(tmp_path / "a.nii.gz"),), dims=2, classes=THREE, as_stored=True).labels, mask)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">i2", ">f4", np.uint64])
def test_whole_numbers_are_taken_from_any_type(tmp_path: Path, dtype) -> None:
    stored = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    path = nifti(tmp_path / "a.nii.gz", stored.astype(dtype))
    assert np.array_equal(labels(path, THREE, dims=3), stored.T)


def test_header_scaling_that_ends_near_whole_numbers_is_taken(tmp_path: Path) -> None:
    stored = np.uint8([[[0], [255]], [[255], [0]]])
    path = nifti(tmp_path / "a.nii", stored, scaling=(1 / 255, 0))
    assert nibabel.load(path).dataobj.slope != 1
    assert np.array_equal(labels(path, dims=3), (stored == 255).T)
    nifti(path, stored, scaling=(2, -10))
    assert np.array_equal(labels(path, TWO, dims=3, values=(-10, 500)), (stored == 255).T)


@pytest.mark.trap("bad input: mask resampled with interpolation")
def test_fractions_nan_and_numbers_a_float_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    half = np.zeros((3, 4, 5), np.float32)
    half[1, 2, 3] = 0.5
    assert "found 1 fractions such as 0.5; resample masks to the nearest value" in refusal(lambda: labels(nifti(tmp_path / "a.nii.gz", half), dims=3))
    half[1, 2, 3] = np.nan
    assert "NaN" in refusal(lambda: labels(nifti(tmp_path / "a.nii.gz", half), dims=3))
    half[1, 2, 3] = 2**25
    assert "expected labels up to 16777216 in float32, found 33554432" in refusal(lambda: labels(nifti(tmp_path / "a.nii.gz", half), None, dims=3))
    np.savez(tmp_path / "b.npz", labels=np.zeros((2, 2), complex))
    assert "real numbers" in refusal(lambda: labels(tmp_path / "b.npz"))


def test_an_affine_that_leaves_an_axis_without_direction_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), None)
    image.header["sform_code"], image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = 1, (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)
    image.to_filename(tmp_path / "a.nii")
    assert "gives every axis a direction" in refusal(lambda: labels(tmp_path / "a.nii", dims=3))


# ------------------------------------------------------------------------------------------ instances


def test_instances_keep_their_numbers_up_to_the_largest(tmp_path: Path) -> None:
    ids = np.array([[[0, 2**64 - 1, 2**53 + 1]]], np.uint64)
    write_labels(tmp_path / "a.h5", LabelMap(ids))
    nifti(tmp_path / "b.nii.gz", ids.T)
    for name in ("a.h5", "b.nii.gz"):
        found = labels(tmp_path / name, None, dims=3)
        assert found.dtype == np.uint64
        assert found.tolist() == ids.tolist()


def test_instances_are_unsigned_and_negative_ones_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.int32([[0, 7]]), wrong=np.int16([[-1, 7]]))
    assert labels(tmp_path / "a.npz", None).dtype == np.uint32
    assert "found -1 in 1 voxels" in refusal(lambda: labels(tmp_path / "a.npz", None, member="wrong"))


# ----------------------------------------------------------------------------------------- multilabel


def test_overlapping_classes_come_from_a_mask_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (3, 5, 7)).astype(bool)
    paths = [picture(tmp_path / "a.png", masks[0]), picture(tmp_path / "b.png", np.uint8(masks[1] * 255)), picture(tmp_path / "c.png", np.uint8(masks[2]))]
    found = read_labels([Source(path) for path in paths], dims=2, classes=("a", "b", "c"), multilabel=True)
    assert found.labels.dtype == np.uint8
    assert found.shape == (5, 7)
    assert np.array_equal(found.labels, masks)
    grown = picture(tmp_path / "d.png", np.zeros((5, 8), np.uint8))
    sources = [Source(paths[0]), Source(grown)]
    assert "expected the grid of a.png, 5 x 7" in refusal(lambda: read_labels(sources, dims=2, classes=("a", "b"), multilabel=True))
    assert "expected 3 masks, one per class, found 2" in refusal(lambda: read_labels(sources, dims=2, classes=("a", "b", "c"), multilabel=True))
    wrong = picture(tmp_path / "e.png", np.full((5, 7), 3, np.uint8))
    assert "0 (absent), 1 (b), found 3 in 35 voxels" in refusal(lambda: read_labels([Source(paths[0]), Source(wrong)], dims=2, classes=("a", "b"), multilabel=True))
    assert "set multilabel = true" in refusal(lambda: read_labels(sources, dims=2, classes=TWO))


@pytest.mark.parametrize("name", ["a.h5", "a.nii.gz"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 5, 6)])
def test_overlapping_classes_make_a_round_trip_in_one_file(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    masks = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    write_labels(tmp_path / name, LabelMap(masks, affine=np.diag([1.0, 2, 3, 1]), multilabel=True))
    found = read_labels((Source(tmp_path / name),), dims=len(shape) - 1, classes=tuple("abcd"), multilabel=True)
    assert np.array_equal(found.labels, masks)
    assert found.affine is not None
    assert "expected 3 masks" in refusal(lambda: read_labels((Source(tmp_path / name),), dims=len(shape) - 1, classes=tuple("abc"), multilabel=True))


def test_ignored_voxels_of_overlapping_classes_are_minus_one(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.uint8([[0, 1, 9]]))
    assert read_labels([Source(path)], dims=2, classes=("a",), ignore=9, multilabel=True).labels.tolist() == [[[0, 1, -1]]]


# -------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 1), np.uint8), ((0, 255), np.uint8), ((-1, 2), np.int8), ((-1, 200), np.int16), ((0, 256), np.uint16), ((0, 70000), np.uint32), ((-1, 70000), np.int32), ((0, 2**40), np.uint64)],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.h5"])
def test_the_smallest_type_that_holds_the_labels_is_written(tmp_path: Path, name: str, values: tuple[int, int], dtype) -> None:
    array = np.array([[values, values[::-1]]], np.int64)
    write_labels(tmp_path / name, LabelMap(array, affine=OBLIQUE))
    if name == "a.h5":
        with h5py.File(tmp_path / name) as file:
            assert (file["labels"].dtype, file["labels"].compression) == (dtype, "gzip")
            assert np.array_equal(file["labels"], array)
    else:
        image = nibabel.load(tmp_path / name)
        assert image.get_data_dtype() == dtype
        assert np.array_equal(np.asanyarray(image.dataobj).T, array)


@pytest.mark.parametrize("affine", [np.diag([1.0, 2, 3, 1]), np.diag([-0.7, -0.7, 2.5, 1]), OBLIQUE])
def test_a_written_volume_is_where_simpleitk_and_nibabel_look_for_it(tmp_path: Path, affine: np.ndarray) -> None:
    sitk = pytest.importorskip("SimpleITK")
    turn, scale = np.linalg.qr(affine[:3, :3])
    if affine is OBLIQUE:  # orthogonal axes: a shear has no direction cosines
        affine = affine.copy()
        affine[:3, :3] = turn * np.abs(np.diag(scale))
    array = np.random.default_rng(0).integers(0, 5, (4, 5, 6)).astype(np.uint8)
    path = tmp_path / "a.nii.gz"
    write_labels(path, LabelMap(array, affine=affine))
    image, header = sitk.ReadImage(str(path)), nibabel.load(path).header
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    flip = np.diag([-1, -1, 1])  # SimpleITK's world is left, posterior, superior
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert np.allclose(image.GetSpacing(), sides, atol=1e-5)
    assert np.allclose(image.GetOrigin(), flip @ affine[:3, 3], atol=1e-4)
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)), flip @ affine[:3, :3] / sides, atol=1e-5)
    assert np.allclose(header.get_sform(), affine, atol=1e-5)
    assert np.allclose(header.get_qform(), affine, atol=1e-4)
    assert (int(header["sform_code"]), int(header["qform_code"]), header.get_xyzt_units()[0]) == (1, 1, "mm")
    assert int(image.GetMetaData("qform_code")) == 1


def test_a_volume_makes_a_round_trip_in_each_format(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = np.diag([0.7, 0.8, 2.5, 1])
    for name in ("a.nii.gz", "a.nii", "a.h5"):
        write_labels(tmp_path / name, LabelMap(array, (2.5, 0.8, 0.7), affine))
        found = read_labels((Source(tmp_path / name),), dims=3, classes=THREE)
        assert np.array_equal(found.labels, array)
        assert found.spacing == pytest.approx((2.5, 0.8, 0.7))
        assert np.allclose(found.affine, affine)
        (tmp_path / name).unlink()
    bare = tmp_path / "bare.nii.gz"
    write_labels(bare, LabelMap(array, (2.5, 0.8, 0.7)))
    assert read_labels((Source(bare),), dims=3, classes=THREE).spacing == pytest.approx((2.5, 0.8, 0.7))
    assert int(nibabel.load(bare).header["sform_code"]) == 2
    write_labels(tmp_path / "bare.h5", LabelMap(array))
    assert read_labels((Source(tmp_path / "bare.h5"),), dims=3, classes=THREE).spacing is None


def test_a_plane_makes_a_round_trip_in_each_format(tmp_path: Path) -> None:
    for high in (3, 1000):
        array = np.random.default_rng(0).integers(0, high, (5, 7)).astype(np.int64)
        for name in ("a.png", "a.nii.gz", "a.h5"):
            write_labels(tmp_path / name, LabelMap(array))
            assert np.array_equal(labels(tmp_path / name, tuple(map(str, range(high)))), array)
        with Pillow.open(tmp_path / "a.png") as file:
            assert file.mode == ("L" if high == 3 else "I;16")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    plane = np.zeros((4, 5), np.int64)
    assert "from 0 to 65536; write .nii.gz or .h5" in refusal(lambda: write_labels(tmp_path / "a.png", LabelMap(plane + np.eye(4, 5, dtype=int) * 65536)))
    assert "from -1 to -1; write" in refusal(lambda: write_labels(tmp_path / "a.png", LabelMap(plane - 1)))
    assert "found shape (1, 4, 5)" in refusal(lambda: write_labels(tmp_path / "a.png", LabelMap(plane[None])))
    assert "found float64" in refusal(lambda: write_labels(tmp_path / "a.png", LabelMap(plane / 2)))
    assert "at most 32767 voxels" in refusal(lambda: write_labels(tmp_path / "a.nii.gz", LabelMap(np.zeros((1, 40000), np.uint8))))
    assert "found .jpg" in refusal(lambda: write_labels(tmp_path / "a.jpg", LabelMap(plane)), RequestError)
    assert not list(tmp_path.iterdir())


def test_the_same_labels_are_the_same_bytes(tmp_path: Path) -> None:
    map_ = LabelMap(np.random.default_rng(0).integers(0, 3, (4, 5, 6)), affine=OBLIQUE)
    for name in (".nii.gz", ".h5"):
        write_labels(tmp_path / f"a{name}", map_)
        write_labels(tmp_path / f"b{name}", map_)
        assert (tmp_path / f"a{name}").read_bytes() == (tmp_path / f"b{name}").read_bytes()


# ------------------------------------------------------------------------------------------- geometry


def shifted(affine: np.ndarray, by: float) -> np.ndarray:
    moved = affine.copy()
    moved[0, 3] += by
    return moved


def test_one_grid_is_one_grid_to_a_hundredth_of_a_voxel() -> None:
    volume = np.zeros((4, 5, 6), np.uint8)
    true = LabelMap(volume, affine=OBLIQUE)
    check_geometry(LabelMap(volume, affine=OBLIQUE.astype(np.float32)), true, "a")
    check_geometry(LabelMap(volume, affine=shifted(OBLIQUE, 0.008)), true, "a")
    said = refusal(lambda: check_geometry(LabelMap(volume, affine=shifted(OBLIQUE, 3)), true, "case7.nii.gz"), RequestError)
    assert said.startswith("case7.nii.gz: expected the place of the reference, first voxel at (-40, 12.5, 7)")
    assert said.endswith("resample it (--resample nearest), or write it on the grid of the reference")
    turned = OBLIQUE.copy()
    turned[0, 0] += 0.01  # 0.05 mm at the last voxel
    refusal(lambda: check_geometry(LabelMap(volume, affine=turned), true, "a"), RequestError)


def test_other_shapes_and_other_numbers_of_classes_are_refused() -> None:
    true = LabelMap(np.zeros((4, 5, 6), np.uint8), affine=OBLIQUE)
    said = refusal(lambda: check_geometry(LabelMap(np.zeros((4, 5, 7), np.uint8), affine=OBLIQUE), true, "a"), RequestError)
    assert "expected the shape of the reference, 4 x 5 x 6, found 4 x 5 x 7; resample it (--resample nearest)" in said
    said = refusal(lambda: check_geometry(LabelMap(np.zeros((4, 5, 7), np.uint8)), true, "a"), RequestError)
    assert said.endswith("found 4 x 5 x 7; write it on the grid of the reference")
    check_geometry(LabelMap(np.zeros((4, 5, 6), np.uint8)), true, "a")
    many = LabelMap(np.zeros((3, 4, 5, 6), np.uint8), affine=OBLIQUE, multilabel=True)
    check_geometry(many, many, "a")
    assert "expected masks of 3 classes, found 2 classes" in refusal(lambda: check_geometry(LabelMap(many.labels[:2], multilabel=True), many, "a"), RequestError)
    assert "expected masks of classes that exclude each other, found 3 classes" in refusal(lambda: check_geometry(many, true, "a"), RequestError)


@pytest.mark.parametrize("affine", [np.diag([-1.3, -1.3, 2.0, 1]), OBLIQUE, shifted(np.diag([2.0, 2, 5, 1]), -3)])
def test_resampling_agrees_with_scipy(affine: np.ndarray) -> None:
    from scipy.ndimage import affine_transform

    pred = np.random.default_rng(0).integers(1, 6, (9, 10, 11)).astype(np.uint8)
    start = np.array([[0.9, 0.1, 0, -45.3], [0, 1.2, 0.3, 10.1], [0.1, 0, 1.7, 5.7], [0, 0, 0, 1]])
    if affine[0, 3] != OBLIQUE[0, 3]:
        start[:3, 3] = affine[:3, :3] @ (3.1, 2.2, 1.3) + affine[:3, 3]
    like = LabelMap(np.zeros((7, 8, 6), np.uint8), (1, 1, 1), start)
    found = resample_nearest(LabelMap(pred, affine=affine), like)
    matrix = np.linalg.inv(affine) @ start
    expected = affine_transform(pred.T, matrix[:3, :3], matrix[:3, 3], (6, 8, 7), order=0, mode="grid-constant").T
    assert (expected > 0).mean() > 0.1
    assert np.array_equal(found.labels, expected)
    assert (found.spacing, found.affine is start, found.labels.dtype) == ((1, 1, 1), True, np.uint8)


def test_resampling_to_the_own_grid_changes_nothing() -> None:
    ids = np.random.default_rng(0).integers(0, 2**64, (4, 5, 6), dtype=np.uint64)
    pred = LabelMap(ids, affine=OBLIQUE)
    assert np.array_equal(resample_nearest(pred, LabelMap(ids, affine=OBLIQUE.astype(np.float32).astype(float))).labels, ids)
    stack = LabelMap(ids[None].repeat(2, axis=0), affine=OBLIQUE, multilabel=True)
    assert np.array_equal(resample_nearest(stack, pred).labels, stack.labels)


def test_resampling_takes_the_higher_voxel_on_a_border_and_zero_outside() -> None:
    pred = LabelMap(np.uint8([[[1, 2, 3]]]), affine=np.eye(4))
    half = shifted(np.eye(4), -0.5)
    found = resample_nearest(pred, LabelMap(np.zeros((1, 1, 5), np.uint8), affine=half))
    assert found.labels.tolist() == [[[1, 2, 3, 0, 0]]]
    noise = shifted(np.eye(4), -0.5 - 1e-9)
    assert resample_nearest(pred, LabelMap(np.zeros((1, 1, 5), np.uint8), affine=noise)).labels.tolist() == [[[1, 2, 3, 0, 0]]]


def test_a_prediction_of_half_the_resolution_comes_back_doubled() -> None:
    small = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.uint8)
    coarse = np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] = 0.5  # the first coarse voxel covers the first eight fine ones
    like = LabelMap(np.zeros((6, 8, 10), np.uint8), affine=np.eye(4))
    assert np.array_equal(resample_nearest(LabelMap(small, affine=coarse), like).labels, small.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    plane, flat = small[0], LabelMap(np.zeros((8, 10), np.uint8))
    doubled = plane.repeat(2, 0).repeat(2, 1)
    assert np.array_equal(resample_nearest(LabelMap(plane), flat).labels, doubled)
    assert np.array_equal(resample_nearest(LabelMap(doubled), LabelMap(plane)).labels, plane)
    stack = LabelMap(np.stack([plane, plane[::-1]]), multilabel=True)
    assert np.array_equal(resample_nearest(stack, flat).labels[0], doubled)


def test_what_cannot_be_resampled_says_why() -> None:
    volume = LabelMap(np.zeros((4, 5, 6), np.uint8), affine=np.eye(4))
    other = LabelMap(np.zeros((4, 5, 7), np.uint8))
    assert "with affines to resample between, found none in one of them" in refusal(lambda: resample_nearest(other, volume), RequestError)
    assert "none in either" in refusal(lambda: resample_nearest(other, LabelMap(volume.labels)), RequestError)
    assert resample_nearest(LabelMap(volume.labels), volume).affine is volume.affine
    away = LabelMap(volume.labels, affine=shifted(np.eye(4), 100))
    assert "expected a prediction that overlaps the reference" in refusal(lambda: resample_nearest(away, volume, "a.nii.gz"), RequestError)
    assert "expected 3 axes" in refusal(lambda: resample_nearest(LabelMap(np.zeros((4, 5), np.uint8), affine=np.eye(4)), volume), RequestError)


def test_reading_a_mask_leaves_the_image_that_is_being_read_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nifti(tmp_path / "image.nii.gz", np.zeros((3, 4, 5), np.int16))
    nifti(tmp_path / "mask.nii.gz", np.zeros((3, 4, 5), np.uint8))
    opened: list[str] = []
    whole = nifti_reader._opened
    monkeypatch.setattr(nifti_reader, "_opened", lambda path: opened.append(path.name) or whole(path))
    formats.read(Source(tmp_path / "image.nii.gz"), 0, 2)
    labels(tmp_path / "mask.nii.gz", TWO, dims=3)
    formats.read(Source(tmp_path / "image.nii.gz"), 2, 5)
    assert opened == ["image.nii.gz", "mask.nii.gz"]


# ------------------------------------------------------------------------------------------ real masks


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open() as file:
        return list(csv.DictReader(file))


def test_real_polyp_masks_are_understood_and_lie_on_their_frames(samples: Path) -> None:
    folder = samples / "endoscopy_polyp"
    for row in table(folder)[::12]:
        mask = labels(folder / row["mask"])
        assert mask.shape == formats.read(Source(folder / row["image"])).pixels.shape[2:]
        assert mask.mean() == pytest.approx(float(row["polyp_fraction"]), abs=1e-3)


def test_real_hippocampus_labels_have_the_volumes_of_their_table(samples: Path) -> None:
    folder = samples / "mri_hippocampus"
    for row in table(folder)[::20]:
        found = read_labels((Source(folder / row["label"]),), dims=3, classes=THREE)
        assert found.spacing == (1, 1, 1)
        assert (found.labels == 1).sum() == float(row["anterior_mm3"])
        assert (found.labels == 2).sum() == float(row["posterior_mm3"])


def test_real_masks_stored_towards_left_and_posterior_lie_on_their_volumes(samples: Path, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for name in ("PET", "CT", "MR_T1"):
        path = samples / "petct_sarcoma" / "STS_002" / f"{name}_mask.nii.gz"
        image = formats.read(Source(path.with_name(f"{name}_image.nii.gz")))
        found = read_labels((Source(path),), dims=3, classes=("background", "tumour"))
        assert found.shape == image.pixels.shape[1:]
        assert np.allclose(found.affine, image.affine)
        write_labels(tmp_path / "a.nii.gz", found)
        theirs, ours = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
        back = sitk.GetArrayFromImage(sitk.Resample(ours, theirs, sitk.Transform(), sitk.sitkNearestNeighbor))
        assert np.array_equal(back, sitk.GetArrayFromImage(theirs))
        again = read_labels((Source(tmp_path / "a.nii.gz"),), dims=3, classes=("background", "tumour"))
        check_geometry(again, found, name)
        assert np.array_equal(again.labels, found.labels)


def test_real_masks_of_two_modalities_meet_after_resampling(samples: Path) -> None:
    folder = samples / "petct_sarcoma" / "STS_002"
    pet, ct = (read_labels((Source(folder / f"{name}_mask.nii.gz"),), dims=3, classes=("background", "tumour")) for name in ("PET", "CT"))
    refusal(lambda: check_geometry(pet, ct, "PET"), RequestError)
    moved = resample_nearest(pet, ct)
    check_geometry(moved, ct, "PET")
    overlap = 2 * (moved.labels & ct.labels).sum() / (moved.labels.sum() + ct.labels.sum())
    assert overlap > 0.85


def test_real_neurons_keep_their_numbers(samples: Path, tmp_path: Path) -> None:
    path = samples / "em_fib_medulla" / "fib25_sample2_z000-149.h5"
    found = labels(path, None, dims=3)
    assert (found.shape, found.dtype, len(np.unique(found))) == ((150, 250, 250), np.uint16, 368)
    write_labels(tmp_path / "a.h5", LabelMap(found))
    assert np.array_equal(labels(tmp_path / "a.h5", None, dims=3), found)


def test_real_organs_are_understood_by_the_values_of_their_names(samples: Path) -> None:
    folder = samples / "ct_multiorgan"
    names = {0: "background", **{int(key): value for key, value in json.loads((folder / "label_names.json").read_text()).items()}}
    found = read_labels((Source(folder / "labels.nii.gz"),), dims=3, classes=tuple(names.values()), values=tuple(names))
    stored = nibabel.as_closest_canonical(nibabel.load(folder / "labels.nii.gz"))
    assert np.array_equal(np.array(list(names))[found.labels], np.asanyarray(stored.dataobj).T)
    assert "more values" in refusal(lambda: labels(folder / "labels.nii.gz", THREE, dims=3))


def test_real_landmarks_in_a_fourth_axis_are_a_mask_each(samples: Path) -> None:
    path = samples / "reg_prostate_mr_us" / "case000000" / "us_label.nii.gz"
    found = read_labels((Source(path),), dims=3, classes=("a", "b", "c"), multilabel=True)
    assert found.labels.shape == (3, 41, 59, 44)
    assert "three axes" in refusal(lambda: labels(path, TWO, dims=3))


def test_a_header_in_microns_or_metres_is_read_in_millimetres(tmp_path: Path) -> None:
    import nibabel

    for unit, size in (("micron", 4000.0), ("meter", 0.004), ("mm", 4.0)):
        image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.diag([size, size, size, 1]))
        image.header.set_xyzt_units(unit)
        image.to_filename(tmp_path / f"{unit}.nii.gz")
        found = read_labels((Source(tmp_path / f"{unit}.nii.gz"),), dims=3)
        np.testing.assert_allclose(found.spacing, (4, 4, 4), rtol=1e-6)


def test_a_compressed_file_whose_checksum_is_wrong_is_damaged(tmp_path: Path) -> None:
    import gzip

    import nibabel

    image = nibabel.Nifti1Image(np.ones((20, 20, 20), np.uint8), np.eye(4))
    data = bytearray(gzip.compress(image.to_bytes(), 0))
    data[4000:4050] = bytes(50)
    (tmp_path / "a.nii.gz").write_bytes(bytes(data))
    with pytest.raises(CaseError, match="damaged"):
        read_labels((Source(tmp_path / "a.nii.gz"),), dims=3)
