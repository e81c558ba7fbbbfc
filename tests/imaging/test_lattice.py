"""Images and masks on a grid made for them: equal to SimpleITK, Pillow and nibabel, one place for both, and found by its own key."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprobe.datasets._layout import fingerprint, paths_of
from medprobe.errors import CaseError
from medprobe.features.digests import Digests, source_key
from medprobe.files import digest_of
from medprobe.imaging import formats, nifti, recipes
from medprobe.imaging.labels import corners_apart, read_labels
from medprobe.run.references import check_on_image
from medprobe.types import Case, Dataset, Lattice, Source

RNG = np.random.default_rng(0)
TURN = np.array([[0.9362934, -0.2896295, 0.1986693], [0.3129918, 0.9447025, -0.0978434], [-0.1593451, 0.1537920, 0.9751703]])
CLASSES = ("background", "rv", "myocardium", "lv")
DATASET = Dataset("d", "registration", 3, "MRI", CLASSES, "", "", "", lambda root: [])
EVEN = Lattice((1, 16, 12))


def placed(turn: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float] = (5, -6, 7)) -> np.ndarray:
    u, _, v = np.linalg.svd(turn)
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = u @ v @ np.diag(spacing), origin
    return found


AFFINES = {
    "right, anterior, superior": placed(np.eye(3), (2, 2.3, 6)),
    "left, posterior, superior": placed(np.diag([-1.0, -1, 1]), (2, 2.3, 6)),
    "oblique": placed(TURN, (2, 2.3, 6)),
    "stored along other axes": placed(TURN[[1, 2, 0]], (2, 6, 2.3)),
}


def pair(folder: Path, affine: np.ndarray, suffix: str = ".nii.gz") -> tuple[Source, Source]:
    """Image and mask, stored along `affine`, on a lattice around the mask's myocardium, smaller than the image but for the depth."""
    array, mask = RNG.normal(100, 30, (7, 31, 33)).astype(np.float32), np.zeros((7, 31, 33), np.uint8)
    mask[1:6, 8:19, 12:25], mask[2:5, 10:15, 15:20], mask[3:6, 20:25, 10:15] = 2, 3, 1
    for name, one in (("image", array), ("mask", mask)):
        nifti.save(folder / f"{name}.nii.gz", one, affine, None)
        if suffix != ".nii.gz":
            sitk = pytest.importorskip("SimpleITK")
            sitk.WriteImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")), str(folder / f"{name}{suffix}"))
    lattice = Lattice((20, 24, 22), (3.15, 1.5, 1.6), around=folder / f"mask{suffix}", label=2)
    return Source(folder / f"image{suffix}", grid=lattice), Source(folder / f"mask{suffix}", grid=lattice)


def labels(source: Source):
    return read_labels((source,), dims=3, classes=CLASSES)


# ------------------------------------------------------------------------------------------- in mm


@pytest.mark.equality(
    "SimpleITK, image (linear) and mask (nearest) on a lattice with a window around a centre, "
    "the preparation of ACDC; 1e-3"
)
@pytest.mark.trap("datasets-3d 9 Centre: centroid of the myocardium in x and y, centre of the volume in z, images linear, labels nearest")
@pytest.mark.parametrize("name", AFFINES)
def test_image_and_mask_on_a_lattice_equal_simpleitk(tmp_path: Path, name: str) -> None:
    import nibabel

    sitk = pytest.importorskip("SimpleITK")
    image, mask = pair(tmp_path, AFFINES[name])
    lattice = image.grid
    assert isinstance(lattice, Lattice)
    assert lattice.spacing is not None
    canonical = nibabel.as_closest_canonical(nibabel.load(mask.path))
    where = np.argwhere(canonical.get_fdata() == 2).mean(axis=0)
    where[2] = (canonical.shape[2] - 1) / 2
    sides = canonical.affine[:3, :3] / nibabel.affines.voxel_sizes(canonical.affine) * np.array(lattice.spacing[::-1])
    affine = np.eye(4)
    affine[:3, :3] = sides
    affine[:3, 3] = nibabel.affines.apply_affine(canonical.affine, where) - sides @ ((np.array(lattice.shape[::-1]) - 1) / 2)
    nifti.save(tmp_path / "like.nii.gz", np.zeros(lattice.shape, np.uint8), affine, None)
    lowest = float(formats.read(replace(image, grid=None)).pixels.min())
    for source, interpolator, outside in ((image, sitk.sitkLinear, lowest), (mask, sitk.sitkNearestNeighbor, 0)):
        moved = sitk.Resample(sitk.ReadImage(str(source.path)), sitk.ReadImage(str(tmp_path / "like.nii.gz")), sitk.Transform(), interpolator, outside)
        found = formats.read(source).pixels[0] if source is image else labels(source).labels
        np.testing.assert_allclose(found, sitk.GetArrayFromImage(sitk.DICOMOrient(moved, "LPS"))[:, ::-1, ::-1], rtol=1e-3)
    raw = formats.read(image)
    np.testing.assert_allclose(raw.affine, affine, atol=1e-4)
    assert raw.spacing == lattice.spacing
    assert 0.05 < (raw.pixels == lowest).mean() < 0.9  # the window is deeper than the volume


@pytest.mark.parametrize("name", AFFINES)
def test_mask_and_image_lie_on_one_lattice_and_so_does_what_headers_say(tmp_path: Path, name: str) -> None:
    image, mask = pair(tmp_path, AFFINES[name])
    raw, found, grid = formats.read(image), labels(mask), formats.grid(image)
    assert grid is not None
    assert raw.pixels.shape[1:] == found.shape == grid.shape == (20, 24, 22)
    assert formats.count_planes(image) == 20
    assert corners_apart(found.shape, found.affine, raw.affine) == 0
    assert corners_apart(found.shape, found.affine, grid.affine) == 0
    assert grid.spacing == found.spacing == raw.spacing
    assert not grid.turned
    case = Case("a", "a", {"fixed": (image,), "moving": (image,)}, {"fixed": (mask,), "moving": (mask,)})
    check_on_image(DATASET, case, (mask,), "fixed")
    nifti.save(mask.path, nifti.volume(mask.path).array, AFFINES[name] + np.eye(4, k=3) * 4, None)
    with pytest.raises(CaseError, match=r"a: expected the mask mask\.nii\.gz on the grid of its image image\.nii\.gz, found "):
        check_on_image(DATASET, case, (mask,), "moving")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_the_geometry_is_equal_through_both_readers(tmp_path: Path, suffix: str) -> None:
    image, mask = pair(tmp_path, AFFINES["oblique"], suffix)
    twin = [Source(tmp_path / f"{name}.nii.gz", grid=replace(source.grid, around=tmp_path / "mask.nii.gz")) for name, source in (("image", image), ("mask", mask))]  # type: ignore[type-var]
    np.testing.assert_allclose(formats.read(image).affine, formats.read(twin[0]).affine, atol=1e-4)
    np.testing.assert_allclose(formats.read(image).pixels, formats.read(twin[0]).pixels, rtol=1e-3)
    np.testing.assert_array_equal(labels(mask).labels, labels(twin[1]).labels)
    assert formats.read(image).spacing == labels(twin[1]).spacing


def test_two_volumes_that_name_one_file_have_one_window(tmp_path: Path) -> None:
    image, mask = pair(tmp_path, AFFINES["left, posterior, superior"])
    moved = np.roll(nifti.volume(mask.path).array, 5, axis=2)
    nifti.save(tmp_path / "later.nii.gz", moved, nifti.volume(mask.path).affine, None)
    later = replace(mask, path=tmp_path / "later.nii.gz")
    np.testing.assert_array_equal(labels(later).affine, formats.read(image).affine)
    alone = replace(later, grid=replace(later.grid, around=later.path))  # type: ignore[type-var]
    assert corners_apart((20, 24, 22), labels(alone).affine, labels(later).affine) == pytest.approx(5 * 2 / 1.5)


def test_without_a_label_the_middle_is_that_of_the_volume(tmp_path: Path) -> None:
    image, _ = pair(tmp_path, AFFINES["oblique"])
    raw, own = formats.read(replace(image, grid=Lattice((5, 6, 7), (3, 2, 1)))), formats.read(replace(image, grid=None))
    middles = [one.affine @ [*(np.array(one.pixels.shape[:0:-1]) - 1) / 2, 1] for one in (raw, own) if one.affine is not None]
    np.testing.assert_allclose(*middles)


@pytest.mark.trap("datasets-3d 9 Centre, TRAP: a centroid beyond 255 overflows in uint8")
def test_a_centroid_beyond_255_is_where_it_is(tmp_path: Path) -> None:
    mask = np.zeros((3, 8, 400), np.uint8)
    mask[:, 2:5, 340:361] = 2
    nifti.save(tmp_path / "mask.nii.gz", mask, np.diag([1.0, 1, 10, 1]), None)
    found = labels(Source(tmp_path / "mask.nii.gz", grid=Lattice((3, 9, 31), (10, 1, 1), tmp_path / "mask.nii.gz", 2)))
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[:3, 3], (350 - 15, 3 - 4, 0))
    assert np.argwhere(found.labels == 2).mean(axis=0).tolist() == [1, 4, 15]


@pytest.mark.trap("datasets-3d 9 Preprocessing: min-max of the volume before the crop, padding ends at the lowest value")
def test_black_and_white_are_those_of_the_whole_volume_and_outside_is_black(tmp_path: Path) -> None:
    image, _ = pair(tmp_path, np.diag([2.0, 2, 6, 1]))
    array = nifti.volume(image.path).array.copy()
    array[0, 0, 0], array[6, 30, 32] = -50, 1000  # outside the window
    nifti.save(image.path, array, np.diag([2.0, 2, 6, 1]), None)
    raw = formats.read(image)
    assert raw.full_range == (-50, 1000)
    assert raw.pixels.max() < 400
    pixels = recipes.image((image,), "full-range").pixels
    np.testing.assert_allclose(pixels, (raw.pixels + 50) / 1050, atol=1e-6)
    assert (pixels[0, 0] == 0).all()
    np.testing.assert_array_equal(recipes.planes((image,), window="full-range", size=None).pixels[:, 0], pixels[0])


def test_planes_in_parts_and_along_another_axis_are_those_of_the_whole(tmp_path: Path) -> None:
    image, _ = pair(tmp_path, AFFINES["oblique"])
    whole = formats.read(image).pixels
    np.testing.assert_array_equal(np.concatenate([formats.read(image, start, start + 7).pixels for start in (0, 7, 14)], axis=1), whole)
    np.testing.assert_array_equal(formats.read(replace(image, frames=(9, 3))).pixels, whole[:, [9, 3]])
    turned = replace(image, axis="coronal")
    assert formats.count_planes(turned) == 24
    np.testing.assert_array_equal(formats.read(turned).pixels, whole.transpose(0, 2, 1, 3))


def test_a_window_that_cannot_be_laid_is_refused_by_name(tmp_path: Path) -> None:
    image, mask = pair(tmp_path, AFFINES["oblique"])
    with pytest.raises(CaseError, match=r"mask\.nii\.gz: expected label 4, around which the window is laid, found none"):
        formats.read(replace(image, grid=replace(image.grid, label=4)))  # type: ignore[type-var]
    np.save(tmp_path / "bare.npy", np.zeros((5, 6, 7), np.uint8))
    with pytest.raises(CaseError, match=r"bare\.npy: expected an affine, to lay a grid in mm"):
        formats.read(Source(tmp_path / "bare.npy", grid=Lattice((5, 6, 7), (1, 1, 1))))
    with pytest.raises(CaseError, match=r"bare\.npy: expected an affine, to lay the mask on a grid in mm"):
        labels(Source(tmp_path / "bare.npy", grid=mask.grid))
    far = AFFINES["oblique"].copy()
    far[:3, 3] = 5000
    nifti.save(tmp_path / "far.nii.gz", nifti.volume(mask.path).array, far, None)
    with pytest.raises(CaseError, match=r"far\.nii\.gz: expected a mask that overlaps the window it is laid in"):
        labels(replace(mask, path=tmp_path / "far.nii.gz"))
    with pytest.raises(CaseError, match=r"gone\.nii\.gz: expected an image, found nothing there"):
        formats.read(replace(image, grid=Lattice((5, 6, 7), (1, 1, 1), tmp_path / "gone.nii.gz")))


def test_a_real_heart_in_its_window_equals_simpleitk(samples: Path, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image, mask = tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz"
    with np.load(samples / "mri_cardiac_ed_es" / "volumes" / "SC-HF-I-01.npz") as heart:
        for path, name in ((image, "ed"), (mask, "ed_lv")):
            nifti.save(path, heart[name], np.diag([-1.3, -1.3, 9.0, 1]), None)  # voxel sizes are not kept with them: usual ones
    source = Source(image, grid=Lattice((32, 128, 128), (3.15, 1.5, 1.5), mask, 1))
    raw = formats.read(source)
    assert raw.affine is not None
    nifti.save(tmp_path / "like.nii.gz", np.zeros((32, 128, 128), np.uint8), raw.affine, None)
    moved = sitk.Resample(sitk.ReadImage(str(image)), sitk.ReadImage(str(tmp_path / "like.nii.gz")), sitk.Transform(), sitk.sitkLinear, raw.full_range[0], sitk.sitkFloat32)
    np.testing.assert_allclose(raw.pixels[0], sitk.GetArrayFromImage(moved), atol=1e-2)
    found = read_labels((replace(source, path=mask),), dims=3).labels
    assert np.abs(np.argwhere(found == 1).mean(axis=0)[1:] - 63.5).max() < 1


# ------------------------------------------------------------------------------------- divided evenly


def picture(folder: Path, array: np.ndarray, name: str, signs: tuple[int, int] = (1, 1)) -> Source:
    """(H, W), stored as (W, H) as pictures of the heart are."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([0.308 * signs[0], 0.308 * signs[1], 1, 1])), folder / name)
    return Source(folder / name, grid=EVEN)


@pytest.mark.trap("datasets-3d 8 Preprocessing: resized without keeping aspect, bilinear and antialiased, masks nearest, one orientation (H, W)")
@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (-1, 1)])
@pytest.mark.parametrize("shape", [(40, 31), (9, 50)])
def test_pictures_equal_pillow_in_the_order_they_are_stored(tmp_path: Path, shape: tuple[int, int], signs: tuple[int, int]) -> None:
    from PIL import Image

    array, mask = RNG.integers(10, 200, shape).astype(np.uint8), RNG.integers(0, 4, shape).astype(np.uint8)
    image, truth = picture(tmp_path, array, "a.nii.gz", signs), picture(tmp_path, mask, "m.nii.gz", signs)
    raw = formats.read(image)
    expected = np.asarray(Image.fromarray(array.astype(np.float32)).resize((12, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(raw.pixels[0, 0], expected)
    assert raw.full_range == (array.min(), array.max())
    assert raw.spacing is raw.affine is None
    assert formats.grid(image) == ((1, 16, 12), None, None, False)
    found = read_labels((truth,), dims=2, classes=CLASSES)
    np.testing.assert_array_equal(found.labels, np.asarray(Image.fromarray(mask).resize((12, 16), Image.Resampling.NEAREST)))
    assert found.spacing is found.affine is None


@pytest.mark.trap("datasets-3d 8 Layout B: pixels are 0.154 mm high and 0.308 mm wide, the picture twice as many rows")
def test_pixels_half_as_high_give_the_same_picture_through_both_readers(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    y, x = np.mgrid[:600, :500]
    array, mask = (127 + 100 * np.sin(y / 40) * np.cos(x / 30)).astype(np.uint8), ((y // 50 + x // 50) % 4).astype(np.uint8)
    lattice = Lattice((1, 128, 128))
    found = []
    for name, one in (("a", array), ("m", mask)):
        twice = sitk.GetImageFromArray(np.repeat(one, 2, axis=0)[None])
        twice.SetSpacing((0.308, 0.154, 1.0))
        sitk.WriteImage(twice, str(tmp_path / f"{name}.mhd"))
        pair = [replace(picture(tmp_path, one, f"{name}.nii.gz"), grid=lattice), Source(tmp_path / f"{name}.mhd", grid=lattice)]
        found += [[formats.read(source) for source in pair]] if name == "a" else [[read_labels((source,), dims=2, classes=CLASSES) for source in pair]]
    (one, other), (first, second) = found
    np.testing.assert_allclose(other.pixels, one.pixels, atol=0.5)
    assert other.full_range == one.full_range
    assert other.affine is other.spacing is one.affine is None
    np.testing.assert_array_equal(first.labels, second.labels)


@settings(deadline=None)
@given(old=st.tuples(st.integers(1, 60), st.integers(1, 60)), new=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_masks_are_divided_as_pillow_does(old: tuple[int, int], new: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> None:
    from PIL import Image

    folder = tmp_path_factory.mktemp("masks")
    mask = np.arange(old[0] * old[1], dtype=np.int32).reshape(old)
    np.save(folder / "m.npy", mask)
    found = read_labels((Source(folder / "m.npy", grid=Lattice((1, *new))),), dims=2).labels
    theirs = np.asarray(Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST))
    y, x = ((2 * np.arange(many) + 1) * few % (2 * many) > 0 for many, few in zip(new, old, strict=True))  # not on the border of two pixels
    np.testing.assert_array_equal(found[np.ix_(y, x)], theirs[np.ix_(y, x)])


def test_planes_are_not_resampled_across(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 40, 31), np.float32))
    assert formats.read(Source(tmp_path / "a.npy", grid=Lattice((3, 16, 12)))).pixels.shape == (1, 3, 16, 12)
    with pytest.raises(CaseError, match=r"a\.npy: expected depth 1, to divide each plane into 16 x 12, found 3"):
        formats.read(Source(tmp_path / "a.npy", grid=EVEN))


def test_of_divided_pictures_only_the_sizes_of_image_and_mask_must_agree(tmp_path: Path) -> None:
    image = picture(tmp_path, np.zeros((40, 31), np.uint8), "a.nii.gz")
    masks = [picture(tmp_path, np.zeros(shape, np.uint8), f"{name}.nii.gz", signs) for name, shape, signs in (("m", (40, 31), (-1, -1)), ("n", (40, 32), (1, 1)))]
    case = Case("a", "a", {"fixed": (image,)})
    check_on_image(replace(DATASET, dims=2), case, masks[:1], "fixed")
    with pytest.raises(CaseError, match=r"a: expected the mask n\.nii\.gz on the grid of its image a\.nii\.gz, found shape 1 x 40 x 32 beside 1 x 40 x 31"):
        check_on_image(replace(DATASET, dims=2), case, masks[1:], "fixed")


# ------------------------------------------------------------------------------------------------ keys


def key(source: Source) -> str:
    return source_key((source,), Digests(None).of(source.paths))


def test_a_lattice_counts_by_its_numbers_and_the_bytes_it_lies_around(tmp_path: Path) -> None:
    image, mask = pair(tmp_path, AFFINES["oblique"])
    lattice = image.grid
    assert isinstance(lattice, Lattice)
    assert image.paths == (image.path, mask.path)
    ways = [
        None, mask.path, lattice, replace(lattice, shape=(20, 24, 23)), replace(lattice, spacing=(3.15, 1.5, 1.5)), replace(lattice, label=3),
        replace(lattice, around=None), replace(lattice, spacing=None, around=None), replace(lattice, around=image.path),
    ]  # fmt: skip
    assert len({key(replace(image, grid=way)) for way in ways}) == len(ways)
    before = key(image)
    moved = replace(lattice, around=mask.path.rename(tmp_path / "moved.nii.gz"))
    assert key(replace(image, grid=moved)) == before
    nifti.save(tmp_path / "moved.nii.gz", np.ones((7, 31, 33), np.uint8), AFFINES["oblique"], None)
    assert key(replace(image, grid=moved)) != before
    (tmp_path / "moved.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"moved\.nii\.gz: cannot be read"):
        source_key((replace(image, grid=moved),), Digests(None).of([image.path]))


def test_the_key_of_a_lattice_is_fixed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 4), np.uint8))
    source = Source(tmp_path / "a.npy", grid=Lattice((1, 2, 3)))
    digest = Digests(None).of([source.path])[source.path]
    assert key(source) == digest_of([[digest, None, None, {"grid": [[1, 2, 3], None]}]])[:32]
    around = replace(source, grid=Lattice((1, 2, 3), (3.0, 1.5, 1.5), source.path, 2))
    assert key(around) == digest_of([[digest, None, None, {"grid": [[1, 2, 3], [3.0, 1.5, 1.5], digest, 2]}]])[:32]


def test_the_fingerprint_of_a_dataset_has_the_lattice_but_no_path(tmp_path: Path) -> None:
    image, mask = pair(tmp_path, AFFINES["oblique"])
    cases = [[Case("a", "a", {"fixed": (replace(image, grid=grid),)}, {"fixed": (mask,)})] for grid in (None, mask.path, image.grid, EVEN)]
    assert paths_of(cases[2]) == {image.path, mask.path}
    digests = Digests(None).of([image.path, mask.path])
    assert len({fingerprint(case, digests) for case in cases}) == 4
    other = {path.with_name(f"other-{path.name}"): digest for path, digest in digests.items()}
    lattice = replace(image.grid, around=tmp_path / "other-mask.nii.gz")  # type: ignore[type-var]
    renamed = [Case("a", "a", {"fixed": (Source(tmp_path / "other-image.nii.gz", grid=lattice),)}, {"fixed": (Source(tmp_path / "other-mask.nii.gz", grid=lattice),)})]
    assert fingerprint(renamed, other) == fingerprint(cases[2], digests)
