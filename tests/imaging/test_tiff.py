"""TIFF: depths, colours, stacks, and what needs a codec that tifffile does not bring."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medprobe.errors import CaseError
from medprobe.imaging import formats
from medprobe.types import Source

GREY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_number_types_come_back_in_the_byte_order_of_this_machine(tmp_path: Path, dtype: type, order: str) -> None:
    image = (GREY.astype(np.float32) * (1 if dtype == np.uint8 else 7)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, byteorder=order)
    raw = formats.read(Source(tmp_path / "a.tif"))
    assert raw.pixels.dtype == dtype
    assert raw.pixels.dtype.isnative
    assert np.array_equal(raw.pixels[0, 0], image)
    expected = {np.uint8: (0, 255), np.uint16: (0, 65535)}.get(dtype, (0, float(image.max())))
    assert raw.full_range == expected


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_is_three_channels_however_it_is_stored(tmp_path: Path, planar: str) -> None:
    data = COLOUR if planar == "contig" else np.moveaxis(COLOUR, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig=planar)
    source = Source(tmp_path / "a.tif")
    assert np.array_equal(formats.read(source).pixels[:, 0], np.moveaxis(COLOUR, -1, 0))
    assert not formats.is_grey(source)
    assert formats.count_planes(source) == 1


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.concatenate([COLOUR, GREY[..., None]], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(formats.read(Source(tmp_path / "a.tif")).pixels[:, 0], np.moveaxis(COLOUR, -1, 0))


@pytest.mark.parametrize("contiguous", [True, False], ids=["one-block", "pages"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pages_are_planes_and_any_range_of_them_equals_the_whole(tmp_path: Path, contiguous: bool, dtype: type) -> None:
    stack = np.random.default_rng(0).integers(0, 250, (7, 12, 10)).astype(dtype)
    if contiguous:
        tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True)
    else:
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for plane in stack:
                writer.write(plane, contiguous=False, compression="zlib", metadata=None)
    source = Source(tmp_path / "a.tif")
    whole = formats.read(source)
    assert formats.count_planes(source) == 7
    assert np.array_equal(whole.pixels[0], stack)
    part = formats.read(source, 2, 5)
    assert np.array_equal(part.pixels[0], stack[2:5])
    assert part.full_range == whole.full_range
    picked = formats.read(Source(source.path, frames=(6, 0, 3)), 1)
    assert np.array_equal(picked.pixels[0], stack[[0, 3]])


def test_codecs_that_tifffile_lacks_are_read_through_pillow(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    pages[0].save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    source = Source(tmp_path / "a.tif")
    assert formats.count_planes(source) == 2
    assert np.array_equal(formats.read(source).pixels[0], [GREY, GREY[::-1]])
    assert np.array_equal(formats.read(source, 1).pixels[0], [GREY[::-1]])


def test_palettes_become_their_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(32)
    palette.save(tmp_path / "a.tif")
    source = Source(tmp_path / "a.tif")
    assert np.array_equal(formats.read(source).pixels[:, 0], np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0))
    assert not formats.is_grey(source)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_white_as_zero_ends_bright(tmp_path: Path, compression: str) -> None:
    from medprobe.imaging import recipes

    if compression == "zlib":
        tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite", compression="zlib")
    else:
        Image.fromarray(255 - GREY).save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={262: 0})
        with Image.open(tmp_path / "a.tif") as reference:
            assert np.array_equal(np.asarray(reference), 255 - GREY)
    planes = recipes.planes((Source(tmp_path / "a.tif"),), window="full-range", size=None).pixels
    assert np.array_equal(planes[0, 0], 255 - GREY)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_short_is_refused(tmp_path: Path, refused, kept: float, compression: str | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(path)


def test_a_plane_too_large_to_be_one_is_refused_before_it_is_decoded(tmp_path: Path, refused, monkeypatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    monkeypatch.setattr("medprobe.imaging.raw.MAX_PLANE", 500)
    assert "20 x 30" in refused(tmp_path / "a.tif")


def test_nan_pixels_are_named(tmp_path: Path, refused) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, np.nan], [1, 2]], np.float32))
    assert "NaN" in refused(tmp_path / "a.tif")


def test_a_pyramid_is_read_at_full_resolution(samples: Path) -> None:
    source = Source(samples / "wsi_he" / "cmu1_crop1024_pyramid.tif")
    if not source.path.exists():
        pytest.skip("no sample slide")
    with Image.open(source.path) as reference:
        expected = np.asarray(reference.convert("RGB"))
    assert np.array_equal(formats.read(source).pixels[:, 0], np.moveaxis(expected, -1, 0))
    assert formats.count_planes(source) == 1
    with pytest.raises(CaseError):
        formats.read(source, 1)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_an_axis_of_length_one_behind_the_columns_is_left_out(
    tmp_path: Path, compression: str | None
) -> None:
    plane = np.arange(30, dtype=np.uint8).reshape(6, 5)
    how = {"photometric": "minisblack", "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", plane[..., None], **how)
    raw = formats.read(Source(tmp_path / "a.tif"))
    np.testing.assert_array_equal(raw.pixels, plane[None, None])
