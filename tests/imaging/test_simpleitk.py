"""MetaImage and NRRD: the same canonical volume as NIfTI from any stored order, masks on their images, damage found."""

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import CaseError, ExtraError
from medprobe.imaging import arrays, formats, simpleitk
from medprobe.imaging.labels import read_labels
from medprobe.run.references import check_on_image, in_millimetres
from medprobe.types import Case, Dataset, Source

sitk = pytest.importorskip("SimpleITK")

NAMES = ("a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.nii.gz")
OURS = NAMES[:-1]


def image(stored: np.ndarray, spacing: tuple[float, ...] = (0.5, 0.75, 2.5), origin: tuple[float, ...] = (-3, 7, 11), direction: np.ndarray | None = None) -> "sitk.Image":
    """Stored (x, y, z)."""
    made = sitk.GetImageFromArray(np.ascontiguousarray(stored.T))
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    made.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    return made


@pytest.fixture
def stored(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-300, 300, (4, 5, 6)).astype(np.int16)


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(list(permutations(range(3)))), signs=st.tuples(*[st.sampled_from((1, -1))] * 3), name=st.sampled_from(NAMES),
    packed=st.booleans(), dtype=st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"]),
)  # fmt: skip
def test_any_order_and_direction_of_the_axes_comes_back_as_the_same_volume(order: tuple[int, ...], signs: tuple[int, ...], name: str, packed: bool, dtype: str) -> None:
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)  # (x, y, z) towards right, anterior, superior
    affine = np.array([[0.5, 0, 0, -3], [0, 0.75, 0, 7], [0, 0, 2.5, 11], [0, 0, 0, 1]])
    turned = volume[tuple(slice(None, None, sign) for sign in signs)].transpose(order)
    direction = np.zeros((3, 3))
    for axis, was in enumerate(order):
        direction[was, axis] = signs[was] * (-1 if was < 2 else 1)  # left, posterior, superior
    first = affine @ [*(0 if sign > 0 else size - 1 for sign, size in zip(signs, volume.shape, strict=True)), 1]
    spacing = tuple((0.5, 0.75, 2.5)[was] for was in order)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        sitk.WriteImage(image(turned, spacing, tuple(first[:3] * (-1, -1, 1)), direction), str(path), packed)
        found, grid = formats.read(Source(path)), formats.grid(Source(path))
        assert formats.count_planes(Source(path)) == 6
    assert np.array_equal(found.pixels[0], volume.T)
    assert found.pixels.dtype == volume.dtype
    assert np.allclose(found.affine, affine, atol=1e-5)
    assert np.allclose(found.spacing, (2.5, 0.75, 0.5), atol=1e-5)
    assert grid is not None
    assert grid.shape == (6, 5, 4)
    assert np.allclose(grid.affine, affine, atol=1e-5)
    assert grid.turned == (order != (0, 1, 2) or signs != (1, 1, 1))


@pytest.mark.parametrize("name", OURS)
def test_an_oblique_volume_is_where_nifti_has_it(stored: np.ndarray, name: str, tmp_path: Path) -> None:
    rotation = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    for path in (tmp_path / name, tmp_path / "b.nii"):
        sitk.WriteImage(image(stored, direction=rotation), str(path))
    ours, nifti = formats.read(Source(tmp_path / name)), formats.read(Source(tmp_path / "b.nii"))
    assert np.array_equal(ours.pixels, nifti.pixels)
    assert np.allclose(ours.affine, nifti.affine, atol=1e-4)


@pytest.mark.trap("datasets-3d CAMUS: both layouts, transposed axes, anisotropic MHD spacing, split files")
def test_a_meta_header_with_anisotropic_spacing_and_a_flipped_direction_is_read(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.uint8)
    (tmp_path / "a.raw").write_bytes(stored.tobytes())
    (tmp_path / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\nTransformMatrix = -1 0 0 0 1 0 0 0 -1\n"
        "Offset = 5 6 7\nElementSpacing = 0.3 0.15 1.2\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    )
    raw = formats.read(Source(tmp_path / "a.mhd"))
    volume = stored.reshape(4, 3, 2)  # (z, y, x) stored towards right, posterior, inferior
    assert np.array_equal(raw.pixels[0], volume[::-1, ::-1])
    assert raw.spacing == pytest.approx((1.2, 0.15, 0.3))
    assert np.allclose(raw.affine, [[0.3, 0, 0, -5], [0, 0.15, 0, -6 - 2 * 0.15], [0, 0, 1.2, 7 - 3 * 1.2], [0, 0, 0, 1]])
    assert formats.files_of(tmp_path / "a.mhd") == (tmp_path / "a.mhd", tmp_path / "a.raw")


def test_a_real_nrrd_is_what_simpleitk_reads_and_its_mask_lies_on_it(samples: Path) -> None:
    path, mask = (samples / "mri_brain_tumour" / f"brain1_{name}.nrrd" for name in ("image", "label"))
    theirs = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    raw = formats.read(Source(path))
    assert np.array_equal(raw.pixels[0], sitk.GetArrayFromImage(theirs)[:, ::-1, ::-1])
    assert np.allclose(raw.spacing, theirs.GetSpacing()[::-1])
    for index in ((0, 0, 0), (255, 0, 3), (10, 200, 24)):
        x, y, z = index
        assert np.allclose((raw.affine @ (255 - x, 255 - y, z, 1))[:3] * (-1, -1, 1), theirs.TransformIndexToPhysicalPoint(index))
    assert np.array_equal(formats.read(Source(path), 3, 5).pixels, raw.pixels[:, 3:5])
    found = read_labels((Source(mask),), dims=3, classes=("background", "tumour"))
    assert found.shape == raw.pixels.shape[1:]
    assert np.allclose(found.affine, raw.affine)
    assert found.spacing == pytest.approx(raw.spacing)
    assert found.labels.sum() == 4137


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_components_and_a_fourth_axis_are_entries_with_a_name(name: str, rng: np.random.Generator, tmp_path: Path, refused: Callable[..., str]) -> None:
    parts = rng.integers(0, 255, (2, 3, 4, 5)).astype(np.uint8)  # (entry, z, y, x)
    vectors = sitk.GetImageFromArray(np.moveaxis(parts, 0, -1), isVector=True)
    joined = sitk.JoinSeries([sitk.GetImageFromArray(part) for part in parts])
    for made in (vectors, joined):
        sitk.WriteImage(made, str(tmp_path / name))
        for entry in (0, 1):
            assert np.array_equal(formats.read(Source(tmp_path / name, str(entry))).pixels[0], parts[entry][:, ::-1, ::-1])
            assert formats.count_planes(Source(tmp_path / name, str(entry))) == 3
        assert "the name of one of 2 on the fourth, 0, 1, found none" in refused(tmp_path / name)
        with pytest.raises(CaseError, match="the name of one of 2"):
            formats.count_planes(Source(tmp_path / name, "2"))
    both = sitk.JoinSeries([vectors, vectors])
    sitk.WriteImage(both, str(tmp_path / "b.mha"))
    assert "expected a volume of three axes" in refused(tmp_path / "b.mha")


def test_a_flat_file_is_one_plane(tmp_path: Path) -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name in ("a.mha", "a.nrrd"):
        made = sitk.GetImageFromArray(picture)
        made.SetSpacing((0.2, 0.4))
        sitk.WriteImage(made, str(tmp_path / name))
        raw = formats.read(Source(tmp_path / name))
        assert np.array_equal(raw.pixels[0, 0], picture[::-1, ::-1])
        assert raw.spacing == pytest.approx((1, 0.4, 0.2))


# -------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", OURS)
def test_files_cut_short_and_missing_parts_are_refused(stored: np.ndarray, name: str, packed: bool, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / name
    sitk.WriteImage(image(stored), str(path), packed)
    for part in formats.files_of(path):
        data = part.read_bytes()
        for kept in (0, 0.1, 0.5, 0.9):
            if part.suffix in (".mhd", ".nhdr") and kept == 0.9:
                continue  # a header may end early and still say all
            part.write_bytes(data[: int(kept * len(data))])
            refused(path)
        part.unlink()
        assert "found no such file" in refused(path) if part != path else "found nothing there" in refused(path)
        part.write_bytes(data)
    formats.read(Source(path))


@pytest.mark.parametrize("name", OURS)
def test_compressed_voxels_whose_checksum_is_wrong_are_damaged(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / name
    sitk.WriteImage(image(np.random.default_rng(0).integers(0, 9, (20, 20, 20)).astype(np.int16)), str(path), True)
    part = formats.files_of(path)[-1]
    data = bytearray(part.read_bytes())
    data[len(data) * 3 // 4] ^= 0xFF
    part.write_bytes(bytes(data))
    assert "damaged" in refused(path)
    with pytest.raises(CaseError, match="damaged"):
        read_labels((Source(path),), dims=3)


def test_voxels_must_be_one_file_beside_the_header(stored: np.ndarray, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "below").mkdir()
    for name, field in (("a.mhd", r"ElementDataFile = .*"), ("a.nhdr", r"data file: .*")):
        sitk.WriteImage(image(stored), str(tmp_path / name))
        text = (tmp_path / name).read_text()
        key = field.split(" .*")[0]
        for value, said in (("../a.raw", "beside its header"), (str(tmp_path / "a.raw"), "beside its header"), ("below/a.raw", "beside its header"), ("LIST", "in one file"), ("a%03d.raw 1 6 1", "in one file")):
            (tmp_path / name).write_text(re.sub(field, f"{key} {value}", text))
            assert said in refused(tmp_path / name)
        (tmp_path / name).write_text(re.sub(field, f"{key} ./a.raw", text))
        assert np.array_equal(formats.read(Source(tmp_path / name)).pixels[0], stored.T[:, ::-1, ::-1])


def test_the_message_of_simpleitk_comes_without_its_own_file_and_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "a.nrrd").write_text("no header" * 50)
    said = refused(tmp_path / "a.nrrd")
    assert "sitk" not in said
    assert "does not take" in said
    assert "fetch it again" not in said


def test_nan_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    sitk.WriteImage(image(np.full((2, 3, 4), np.nan, np.float32)), str(tmp_path / "a.nrrd"))
    assert "24 of 24 NaN" in refused(tmp_path / "a.nrrd")


def test_a_missing_library_names_its_extra(stored: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sitk.WriteImage(image(stored), str(tmp_path / "a.nrrd"))
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    with pytest.raises(ExtraError, match=r"medprobe\[volumes\]"):
        formats.read(Source(tmp_path / "a.nrrd"))


def test_a_changed_data_file_is_read_again(stored: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.mhd"
    sitk.WriteImage(image(stored), str(path))
    formats.read(Source(path))
    data = tmp_path / "a.raw"
    data.write_bytes((stored * 0 + 7).tobytes())
    os.utime(data, ns=(2**61, 2**61))
    assert (formats.read(Source(path)).pixels == 7).all()


def test_the_checksum_is_compared_without_isal_too(stored: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    monkeypatch.setitem(__import__("sys").modules, "isal.isal_zlib", None)
    for name in OURS:
        sitk.WriteImage(image(stored), str(tmp_path / name), True)
        simpleitk._volumes.cache_clear()
        assert np.array_equal(formats.read(Source(tmp_path / name)).pixels[0], stored.T[:, ::-1, ::-1])


# --------------------------------------------------------------------------------------------- masks


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "any.nii")
    (tmp_path / "m.toml").write_text('name = "m"\nkind = "segmentation"\ndims = 3\nclasses = ["rest", "lesion"]\n')
    (tmp_path / "cases.csv").write_text("id,patient,image,target\na,a,any.nii,any.nii\n")
    return load_manifest(tmp_path / "m.toml")


@pytest.mark.parametrize("name", NAMES)
def test_image_and_mask_of_any_two_formats_and_orders_are_compared_where_they_lie(dataset: Dataset, stored: np.ndarray, name: str, tmp_path: Path) -> None:
    mask = (stored > 0).astype(np.uint8)
    sitk.WriteImage(image(mask), str(tmp_path / name))
    for other in ("b.nrrd", "b.nii.gz", "b.mha"):
        sitk.WriteImage(sitk.DICOMOrient(image(stored), "RAI"), str(tmp_path / other))
        case = Case("a", "a", {"image": (Source(tmp_path / other),)}, (Source(tmp_path / name),))
        check_on_image(dataset, case, case.target)
        assert in_millimetres(dataset, [case])
        found = read_labels(case.target, dims=3, classes=dataset.classes)
        raw = formats.read(case.images["image"][0])
        assert np.array_equal(found.labels, raw.pixels[0] > 0)
        assert np.allclose(found.affine, raw.affine, atol=1e-5)
        sitk.WriteImage(image(stored, origin=(-3, 7, 12)), str(tmp_path / other))
        with pytest.raises(CaseError, match=r"a: expected the mask .* found it 2 voxels away"):
            check_on_image(dataset, case, case.target)
        sitk.WriteImage(image(stored[1:]), str(tmp_path / other))
        with pytest.raises(CaseError, match="found shape 6 x 5 x 4 beside 6 x 5 x 3"):
            check_on_image(dataset, case, case.target)


def test_masks_of_several_classes_may_be_components(stored: np.ndarray, tmp_path: Path) -> None:
    masks = np.stack([stored > 0, stored > 100]).astype(np.uint8)  # (K, x, y, z)
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(masks.T), isVector=True), str(tmp_path / "a.nrrd"))
    found = read_labels((Source(tmp_path / "a.nrrd"),), dims=3, classes=("one", "two"), multilabel=True)
    assert np.array_equal(found.labels, masks.transpose(0, 3, 2, 1)[:, :, ::-1, ::-1])


def test_as_stored_leaves_the_order_of_the_file(stored: np.ndarray, tmp_path: Path) -> None:
    sitk.WriteImage(image((stored > 0).astype(np.uint8)), str(tmp_path / "a.mha"))
    found = read_labels((Source(tmp_path / "a.mha"),), dims=3, as_stored=True)
    assert np.array_equal(found.labels, stored.T > 0)


def test_an_array_of_masks_with_its_spacing_beside_it_counts_in_mm(dataset: Dataset, tmp_path: Path) -> None:
    arrays.save(tmp_path / "a.h5", "labels", np.zeros((2, 3, 4), np.uint8), (2.0, 1.0, 1.0), np.diag([1.0, 1, 2, 1]))
    arrays.save(tmp_path / "bare.h5", "labels", np.zeros((2, 3, 4), np.uint8))
    case = Case("a", "a", {"image": (Source(tmp_path / "any.nii"),)}, (Source(tmp_path / "a.h5"),))
    assert in_millimetres(dataset, [case])
    assert not in_millimetres(dataset, [case, replace(case, target=(Source(tmp_path / "bare.h5"),))])
    with pytest.raises(CaseError, match="found shape 2 x 3 x 4 beside 2 x 2 x 2"):
        check_on_image(dataset, case, case.target)


@pytest.mark.parametrize(
    ("name", "field", "read"),
    [
        ("a.mha", "ElementToIntensityFunctionSlope = 2", False),
        ("a.mhd", "ElementToIntensityFunctionOffset = -1024", False),
        ("a.mha", "ElementToIntensityFunctionSlope = 1", True),
        ("a.nrrd", "old min: -1000", False),
        ("a.nhdr", "old max: 3", False),
    ],
)
def test_voxels_that_a_header_scales_are_not_taken_for_values(
    tmp_path: Path, stored: np.ndarray, name: str, field: str, read: bool
) -> None:
    path = tmp_path / name
    sitk.WriteImage(image(stored), str(path))
    before = b"\nElementType" if "Element" in field else b"\nencoding"
    path.write_bytes(path.read_bytes().replace(before, f"\n{field}".encode() + before))
    if read:
        assert formats.read(Source(path)).pixels.min() == stored.min()
        return
    with pytest.raises(
        CaseError, match="expected voxels that are the values themselves, found"
    ) as caught:
        formats.read(Source(path))
    assert field.split(" ")[0] in str(caught.value)
