"""PNG, JPEG and their like: the pixels are Pillow's, whatever the mode, and damage is an error."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from medprobe.errors import CaseError
from medprobe.imaging import formats
from medprobe.types import Source

GREY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
COLOUR = np.stack([GREY, GREY.T.reshape(20, 30), 255 - GREY], axis=-1)
ALPHA = np.where(GREY > 100, 255, 0).astype(np.uint8)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    """(H, W) or (H, W, 3)."""
    raw = formats.read(Source(path))
    assert raw.pixels.shape[1] == 1
    return np.moveaxis(raw.pixels[:, 0], 0, -1).squeeze(-1) if len(raw.pixels) == 1 else np.moveaxis(raw.pixels[:, 0], 0, -1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_grey_stays_one_channel_of_its_own_type(tmp_path: Path, suffix: str) -> None:
    raw = formats.read(Source(saved(Image.fromarray(GREY), tmp_path / f"a{suffix}")))
    assert raw.pixels.shape == (1, 1, 20, 30)
    assert raw.pixels.dtype == np.uint8
    assert raw.full_range == (0, 255)
    assert np.array_equal(raw.pixels[0, 0], GREY)


def test_sixteen_bit_grey_keeps_its_bits(tmp_path: Path) -> None:
    deep = (GREY.astype(np.uint16) * 257)[::-1] + np.uint16(3) - 3
    raw = formats.read(Source(saved(Image.fromarray(deep), tmp_path / "a.png")))
    assert raw.pixels.dtype == np.uint16
    assert raw.full_range == (0, 65535)
    assert np.array_equal(raw.pixels[0, 0], deep)


def test_colour_is_rgb(tmp_path: Path) -> None:
    assert np.array_equal(pixels(saved(Image.fromarray(COLOUR), tmp_path / "a.png")), COLOUR)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    rgba = Image.fromarray(np.concatenate([COLOUR, ALPHA[..., None]], axis=-1))
    grey_alpha = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    assert np.array_equal(pixels(saved(rgba, tmp_path / "rgba.png")), COLOUR)
    assert np.array_equal(pixels(saved(grey_alpha, tmp_path / "la.png")), GREY)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palettes_become_their_colours(tmp_path: Path, transparency: object) -> None:
    palette = Image.fromarray(COLOUR).quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(palette, tmp_path / "a.png", **options)
    assert np.array_equal(pixels(path), np.asarray(palette.convert("RGB")))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    found = pixels(saved(Image.fromarray(GREY > 100), tmp_path / "a.png"))
    assert np.array_equal(found, np.where(GREY > 100, 255, 0))
    assert found.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_what_pillow_decodes(tmp_path: Path, mode: str) -> None:
    path = saved(Image.fromarray(COLOUR).convert(mode), tmp_path / "a.jpg")
    with Image.open(path) as reference:
        assert np.array_equal(pixels(path), np.asarray(reference.convert("L" if mode == "L" else "RGB")))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows of the file are columns from the right
    plain = pixels(saved(Image.fromarray(COLOUR), tmp_path / "plain.jpg"))
    turned = pixels(saved(Image.fromarray(COLOUR), tmp_path / "turned.jpg", exif=exif))
    assert turned.shape == (30, 20, 3)
    assert np.array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_file_cut_short_is_refused_and_never_padded(tmp_path: Path, refused, name: str, kept: float, monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries leave it
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_empty_file_a_text_file_and_an_absent_one_are_told_apart(tmp_path: Path, refused) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image at all")
    assert "empty file" in refused(tmp_path / "empty.png")
    assert "no picture" in refused(tmp_path / "text.png")
    assert "nothing there" in refused(tmp_path / "absent.png")


def test_a_decompression_bomb_is_named(tmp_path: Path, refused, monkeypatch) -> None:
    path = saved(Image.fromarray(GREY), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "bomb" in refused(path)


def test_large_pictures_below_the_bomb_limit_pass_without_a_warning(tmp_path: Path, monkeypatch) -> None:
    path = saved(Image.fromarray(GREY), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert pixels(path).shape == GREY.shape


def test_headers_tell_grey_from_colour(tmp_path: Path) -> None:
    assert formats.is_grey(Source(saved(Image.fromarray(GREY), tmp_path / "l.png")))
    assert formats.is_grey(Source(saved(Image.fromarray(GREY > 9), tmp_path / "1.png")))
    assert formats.is_grey(Source(saved(Image.fromarray(GREY.astype(np.uint16)), tmp_path / "16.png")))
    assert not formats.is_grey(Source(saved(Image.fromarray(COLOUR), tmp_path / "rgb.png")))
    assert not formats.is_grey(Source(saved(Image.fromarray(COLOUR).quantize(9), tmp_path / "p.png")))


def test_a_picture_is_one_plane(tmp_path: Path) -> None:
    path = saved(Image.fromarray(GREY), tmp_path / "a.png")
    assert formats.count_planes(Source(path)) == 1
    with pytest.raises(CaseError, match="plane 1"):
        formats.read(Source(path, frames=(1,)))
    with pytest.raises(CaseError, match="found none"):
        formats.read(Source(path), start=1)


@pytest.mark.parametrize("folder", ["xray_pneumonia/images", "endoscopy_polyp/images", "endoscopy_polyp/masks"])
def test_real_pictures_are_what_pillow_decodes(samples: Path, folder: str) -> None:
    for path in sorted((samples / folder).iterdir())[:6]:
        with Image.open(path) as reference:
            assert np.array_equal(pixels(path), np.asarray(reference.convert("RGB" if reference.mode == "RGB" else "L")))
