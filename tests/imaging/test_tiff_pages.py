"""TIFF: which pages are read of files that hold several kinds, and which way up they are."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from medprobe.errors import CaseError
from medprobe.imaging import formats, recipes, tiff
from medprobe.imaging.labels import read_labels
from medprobe.types import Source

STACK = np.random.default_rng(0).integers(0, 4, (5, 12, 10)).astype(np.uint8)
PREVIEW = np.full((6, 5), 9, np.uint8)
CLASSES = tuple("abcd")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tif"


def page_by_page(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for plane in STACK:
            writer.write(plane)


def appended(path: Path) -> None:
    tifffile.imwrite(path, STACK[:2])
    tifffile.imwrite(path, STACK[2:], append=True, photometric="minisblack")


def several_images(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for plane in STACK:
            writer.write(plane, metadata={"axes": "YX"})


def preview_first(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(PREVIEW)
        for plane in STACK:
            writer.write(plane)


def reduced_first(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.full((11, 10), 9, np.uint8), subfiletype=1)
        writer.write(STACK)


def preview_last(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK, compression="zlib")
        writer.write(np.stack([PREVIEW] * 3, -1), photometric="rgb")


def preview_among_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for plane in (*STACK[:3], PREVIEW, *STACK[3:]):
            writer.write(plane, contiguous=False, metadata=None)


def hyperstack(path: Path) -> None:
    tifffile.imwrite(path, STACK[:, None], imagej=True, metadata={"axes": "ZCYX"})


WAYS = (
    page_by_page,
    appended,
    several_images,
    preview_first,
    reduced_first,
    preview_last,
    preview_among_pages,
    hyperstack,
)


@pytest.mark.parametrize("write", WAYS)
def test_a_stack_is_whole_however_its_pages_were_written(
    path: Path, write: Callable[[Path], None]
) -> None:
    write(path)
    source = Source(path)
    assert formats.count_planes(source) == 5
    assert formats.is_grey(source)
    assert np.array_equal(formats.read(source).pixels[0], STACK)
    assert np.array_equal(formats.read(source, 1, 4).pixels[0], STACK[1:4])
    assert np.array_equal(formats.read(Source(path, frames=(4, 0, 2))).pixels[0], STACK[[4, 0, 2]])
    assert np.array_equal(read_labels((source,), dims=3, classes=CLASSES).labels, STACK)
    with pytest.raises(CaseError, match="found none"):
        formats.read(source, 5)


def test_a_preview_that_nothing_marks_is_said_to_be_left_out(path: Path) -> None:
    preview_first(path)
    assert formats.notes(Source(path)) == (
        f"{path}: 5 pages of 12 x 10 uint8 read, 1 page of 6 x 5 uint8 left out as previews",
    )
    for write in (page_by_page, reduced_first, hyperstack):
        write(path)
        assert formats.notes(Source(path)) == ()
    preview_among_pages(path)
    assert (
        "5 pages of 12 x 10 uint8 read, 1 page of 6 x 5 uint8 left out"
        in formats.notes(Source(path))[0]
    )
    with tifffile.TiffWriter(path) as writer:
        for plane in STACK:
            writer.write(plane, contiguous=False, metadata=None)
    assert formats.notes(Source(path)) == ()


def test_parts_of_other_sizes_are_refused_unless_one_is_named(
    path: Path, refused: Callable[..., str]
) -> None:
    wide = np.full((2, 12, 9), 2, np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for planes in (STACK, wide):
            writer.write(planes)
    sentence = refused(path)
    assert (
        "0 (5 pages of 12 x 10 uint8), 1 (2 pages of 12 x 9 uint8), found none; write a.tif:/NUMBER"
        in sentence
    )
    for member, planes in (("0", STACK), ("1", wide), ("/1", wide)):
        source = Source(path, member)
        assert formats.count_planes(source) == len(planes)
        assert np.array_equal(formats.read(source).pixels[0], planes)
        assert np.array_equal(read_labels((source,), dims=3, classes=CLASSES).labels, planes)
    assert "found 2" in refused(path, member="2")
    with pytest.raises(CaseError):
        formats.count_planes(Source(path))
    with pytest.raises(CaseError):
        read_labels((Source(path),), dims=3, classes=CLASSES)


@pytest.mark.parametrize(
    "other",
    [np.zeros((12, 10), np.uint16), np.zeros((12, 10, 3), np.uint8)],
    ids=["16-bit", "colour"],
)
def test_pages_of_one_size_and_two_kinds_are_refused(
    path: Path, other: np.ndarray, refused: Callable[..., str]
) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK)
        writer.write(other, photometric="rgb" if other.ndim == 3 else "minisblack")
    assert "pages of one size and kind" in refused(path)


def test_stacks_of_two_depths_in_ome_are_two(path: Path, refused: Callable[..., str]) -> None:
    with tifffile.TiffWriter(path, ome=True) as writer:
        for planes in (STACK, STACK[:2]):
            writer.write(planes, metadata={"axes": "ZYX"})
    assert "the name of one of 2 parts" in refused(path)
    assert np.array_equal(formats.read(Source(path, "1")).pixels[0], STACK[:2])


# ---------------------------------------- orientation

GREY = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
COMPRESSIONS = (None, "tiff_lzw", "tiff_deflate", "packbits")


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow makes of the same number in a PNG."""
    picture, buffer = Image.fromarray(stored), io.BytesIO()
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(buffer, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows(orientation: int) -> None:
    assert np.array_equal(tiff.turned(GREY, orientation), upright(GREY, orientation))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "CMYK"])
@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_images_and_masks_are_turned_alike_in_every_compression(
    path: Path, mode: str, compression: str | None, orientation: int
) -> None:
    picture = Image.fromarray((GREY % 2) * 255 if mode == "1" else GREY).convert(mode)
    picture.save(
        path, tiffinfo={274: orientation}, **({"compression": compression} if compression else {})
    )
    shown = np.asarray(picture.convert("L" if mode in "L1" else "RGB"))
    expected = upright(shown, orientation)
    found = np.moveaxis(formats.read(Source(path)).pixels[:, 0], 0, -1).squeeze()
    assert np.array_equal(found * 255 if found.dtype == bool else found, expected)
    if mode in ("L", "P", "1"):
        numbers = upright(np.asarray(picture).astype(np.uint8), orientation)
        mask = read_labels((Source(path),), dims=2)
        assert np.array_equal(
            mask.labels > 0 if mode == "1" else mask.labels, numbers > 0 if mode == "1" else numbers
        )
    assert (
        read_labels((Source(path, "absent"),), dims=2).shape
        == expected.shape[:2]
        == tiff.size(Source(path))
    )


@pytest.mark.parametrize(
    "how",
    [{"tile": (16, 16)}, {"planarconfig": "separate"}, {"compression": "zlib"}, {"byteorder": ">"}],
    ids=str,
)
def test_tiles_and_planes_of_colour_are_turned_too(path: Path, how: dict) -> None:
    colour = np.stack([GREY, GREY[::-1], GREY + 100], -1)
    stored = np.moveaxis(colour, -1, 0) if "planarconfig" in how else colour
    tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, 3, 1, 8, True)], **how)
    assert np.array_equal(
        np.moveaxis(formats.read(Source(path)).pixels[:, 0], 0, -1), upright(colour, 8)
    )


def test_white_as_zero_is_turned_and_ends_bright(path: Path) -> None:
    tifffile.imwrite(path, GREY, photometric="miniswhite", extratags=[(274, 3, 1, 6, True)])
    planes = recipes.planes((Source(path),), window="full-range", size=None).pixels
    assert np.array_equal(planes[0, 0], upright(255 - GREY, 6))


def test_every_page_is_turned_by_its_own_number(path: Path) -> None:
    square = np.arange(25, dtype=np.uint8).reshape(5, 5)
    with tifffile.TiffWriter(path) as writer:
        for orientation in range(1, 9):
            writer.write(
                square, contiguous=False, metadata=None, extratags=[(274, 3, 1, orientation, True)]
            )
    expected = [upright(square, orientation) for orientation in range(1, 9)]
    assert np.array_equal(formats.read(Source(path)).pixels[0], expected)
    assert np.array_equal(read_labels((Source(path),), dims=3).labels, expected)


def test_pages_that_are_shown_in_two_sizes_are_refused(
    path: Path, refused: Callable[..., str]
) -> None:
    with tifffile.TiffWriter(path) as writer:
        for orientation in (1, 6):
            writer.write(
                GREY, contiguous=False, metadata=None, extratags=[(274, 3, 1, orientation, True)]
            )
    assert "shown in one size, found 5 x 7 and 7 x 5" in refused(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("orientation", [3, 5, 8])
def test_pictures_with_exif_are_turned_as_their_masks_are(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    blocks = np.kron(GREY, np.ones((8, 8), np.uint8))
    picture = Image.fromarray(blocks)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.convert("L" if suffix != ".webp" else "RGB").save(tmp_path / f"a{suffix}", exif=exif)
    expected = upright(blocks, orientation)
    found = formats.read(Source(tmp_path / f"a{suffix}")).pixels[0, 0]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() < 12
    for mode in ("L", "P"):
        picture.convert(mode).save(tmp_path / "mask.png", exif=exif)
        assert np.array_equal(
            read_labels((Source(tmp_path / "mask.png"),), dims=2).labels, expected
        )
