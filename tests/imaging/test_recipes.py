"""Windows, the size rule and its filters: equal to Pillow where they promise it, and lawful everywhere."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medprobe.errors import CaseError, RequestError
from medprobe.imaging import recipes
from medprobe.imaging.raw import Raw
from medprobe.types import Source

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (70, 90), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "area": Image.Resampling.BOX}
laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def channels_last(pixels: np.ndarray) -> np.ndarray:
    """(1, C, H, W) as (H, W) or (H, W, C)."""
    return pixels[0, 0] if pixels.shape[1] == 1 else np.moveaxis(pixels[0], 0, -1)


def full(sources: Source | Path, **options) -> recipes.Planes:
    source = sources if isinstance(sources, Source) else Source(sources)
    return recipes.planes((source,), **{"window": "full-range", "size": None, **options})


def npy(folder: Path, array: np.ndarray, name: str = "a.npy") -> Source:
    np.save(folder / name, array)
    return Source(folder / name)


# ------------------------------------------------------------------------------ identity with Pillow


@pytest.mark.parametrize("resize", get_args(recipes.Resize))
@pytest.mark.parametrize("size", [(32, 32), (33, 57), (140, 100), (70, 90)])
@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_eight_bit_planes_equal_pillow(tmp_path: Path, image: np.ndarray, size: tuple[int, int], resize) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    reference = np.asarray(Image.open(path).resize(size[::-1], FILTERS[resize]))
    planes = full(path, size=size, resize=resize)
    assert planes.pixels.dtype == np.uint8
    assert np.array_equal(channels_last(planes.pixels), reference)


@pytest.mark.parametrize("colour", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_converted_planes_equal_pillows_convert_then_resize(tmp_path: Path, mode: str, colour) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(COLOUR)
    (image.quantize(50) if mode == "P" else image.convert(mode)).save(path)
    with Image.open(path) as file:
        assert file.mode == mode
        opened = file.convert("RGB") if mode == "CMYK" else file
        reference = np.asarray(opened.convert("L" if colour == 1 else "RGB").resize((40, 30), Image.Resampling.BICUBIC))
    assert np.array_equal(channels_last(full(path, size=(30, 40), colour=colour).pixels), reference)


def test_sixteen_bit_planes_equal_pillows_float_resize(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (70, 90)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    planes = full(tmp_path / "a.png", size=(30, 40))
    unit = Image.fromarray(deep.astype(np.float32) / np.float32(65535))
    assert planes.pixels.dtype == np.float32
    assert np.array_equal(planes.pixels[0, 0], np.clip(np.asarray(unit.resize((40, 30), Image.Resampling.BICUBIC)), 0, 1))


def test_sixteen_bit_planes_equal_pillows_own_resize_where_that_does_not_clip_between_its_passes(tmp_path: Path) -> None:
    deep = RNG.integers(20000, 40000, (70, 90)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    own = np.asarray(Image.open(tmp_path / "a.png").resize((40, 30), Image.Resampling.BICUBIC))
    assert np.abs(full(tmp_path / "a.png", size=(30, 40)).pixels[0, 0] * 65535.0 - own).max() <= 1.01


@pytest.mark.equality("Pillow, convert and resize of real pictures; identical")
@pytest.mark.parametrize("folder", ["xray_pneumonia/images", "endoscopy_polyp/images"])
def test_real_pictures_equal_pillow(samples: Path, folder: str) -> None:
    for path in sorted((samples / folder).iterdir())[:4]:
        for colour, mode in ((1, "L"), (3, "RGB")):
            reference = np.asarray(Image.open(path).convert(mode).resize((256, 256), Image.Resampling.BICUBIC))
            assert np.array_equal(channels_last(full(path, size=256, colour=colour).pixels), reference)


def test_torchvision_shares_the_resize_and_the_centre_crop(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    for height, width in ((70, 90), (91, 64), (65, 64), (64, 67), (33, 100), (32, 39)):
        image = Image.fromarray(RNG.integers(0, 256, (height, width), dtype=np.uint8))
        image.save(tmp_path / "a.png")
        resized = transforms.resize(image, [32], interpolation=transforms.InterpolationMode.BICUBIC)
        reference = np.asarray(transforms.center_crop(resized, [32, 32]))
        assert np.array_equal(full(tmp_path / "a.png", size=32, fit_rule="crop").pixels[0, 0], reference)


# ---------------------------------------------------------------------------------------- size rule


def test_pad_fits_the_longer_side_and_centres_it_on_zeros(tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 100), 200, np.uint8)).save(tmp_path / "a.png")
    planes = full(tmp_path / "a.png", size=64, fit_rule="pad")
    assert planes.frame.box == (22, 0, 41, 64)  # 30 * 64 / 100 = 19.2 → 19 rows, 45 of padding: 22 above, 23 below
    assert planes.frame.shape == (30, 100)
    assert (planes.pixels[0, 0, 22:41] == 200).all()
    assert planes.pixels.sum() == 200 * 19 * 64


def test_crop_fits_the_shorter_side_and_the_box_reaches_beyond(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    planes = full(tmp_path / "a.png", size=(35, 35), fit_rule="crop")
    assert planes.frame.box == (0, -5, 35, 40)
    assert np.array_equal(planes.pixels[0, 0], np.asarray(Image.fromarray(GREY).resize((45, 35), Image.Resampling.BICUBIC))[:, 5:40])


def test_native_size_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    planes = full(tmp_path / "a.png")
    assert np.array_equal(channels_last(planes.pixels), COLOUR)
    assert planes.frame.box == (0, 0, 70, 90)


sides = st.integers(1, 80)


@laws
@given(height=sides, width=sides, rows=sides, columns=sides, rule=st.sampled_from(recipes.FIT_RULES))
def test_the_box_lies_in_the_plane_when_padded_and_covers_it_when_cut(height: int, width: int, rows: int, columns: int, rule) -> None:
    (inner_rows, inner_columns), (top, left) = recipes._fitted((height, width), (rows, columns), rule)
    bottom, right = top + inner_rows, left + inner_columns
    if rule == "squash":
        assert (top, left, bottom, right) == (0, 0, rows, columns)
        return
    assert inner_rows == rows or inner_columns == columns
    scale = max(rows / height, columns / width) if rule == "crop" else min(rows / height, columns / width)
    assert abs(inner_rows - height * scale) <= 1
    assert abs(inner_columns - width * scale) <= 1
    if rule == "pad":
        assert 0 <= top <= bottom <= rows
        assert 0 <= left <= right <= columns
        assert abs(top - (rows - bottom)) <= 1
    else:
        assert top <= 0 < rows <= bottom
        assert left <= 0 < columns <= right
        assert abs(-left - (right - columns)) <= 1


@laws
@given(height=st.integers(2, 40), width=st.integers(2, 40), size=st.integers(8, 48), rule=st.sampled_from(["pad", "squash"]), resize=st.sampled_from(get_args(recipes.Resize)))
def test_what_lies_in_the_box_maps_back_to_the_whole_plane(tmp_path: Path, height: int, width: int, size: int, rule, resize) -> None:
    """The content of the box is the source resized; outside there is nothing."""
    image = np.random.default_rng(height * 100 + width).integers(1, 256, (height, width), dtype=np.uint8)
    planes = full(npy(tmp_path, image), size=size, fit_rule=rule, resize=resize)
    top, left, bottom, right = map(int, planes.frame.box)
    content = planes.pixels[0, 0, top:bottom, left:right]
    assert np.array_equal(content, np.asarray(Image.fromarray(image).resize((right - left, bottom - top), FILTERS[resize])))
    outside = planes.pixels[0, 0].copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()


@laws
@given(value=st.one_of(st.integers(0, 255), st.floats(0, 1, width=32)), height=sides, width=sides, rows=sides, columns=sides, rule=st.sampled_from(["squash", "crop"]), resize=st.sampled_from(get_args(recipes.Resize)))
def test_a_constant_plane_stays_constant(tmp_path: Path, value, height: int, width: int, rows: int, columns: int, rule, resize) -> None:
    image = np.full((height, width), value, np.uint8 if isinstance(value, int) else np.float32)
    pixels = full(npy(tmp_path, image), size=(rows, columns), fit_rule=rule, resize=resize).pixels
    assert pixels.shape == (1, 1, rows, columns)
    assert (pixels == value).all() if isinstance(value, int) else np.abs(pixels - value).max() < 1e-5


@laws
@given(image=arrays(np.float32, st.tuples(sides, sides), elements=st.sampled_from([0, 0.5, 1])), rows=sides, columns=sides, rule=st.sampled_from(recipes.FIT_RULES), resize=st.sampled_from(get_args(recipes.Resize)))
def test_no_filter_leaves_zero_to_one(tmp_path: Path, image: np.ndarray, rows: int, columns: int, rule, resize) -> None:
    pixels = full(npy(tmp_path, image), size=(rows, columns), fit_rule=rule, resize=resize).pixels
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_bicubic_overshoot_at_an_edge_is_cut(tmp_path: Path) -> None:
    edge = np.repeat(np.float32([0, 0, 1, 1]), 4)[None].repeat(4, axis=0)
    reference = np.asarray(Image.fromarray(edge).resize((40, 4), Image.Resampling.BICUBIC))
    assert reference.max() > 1.01
    assert np.array_equal(full(npy(tmp_path, edge), size=(4, 40)).pixels[0, 0], np.clip(reference, 0, 1))


@pytest.mark.parametrize(("option", "near"), [({"fit_rule": "squish"}, "squash"), ({"resize": "bicubc"}, "bicubic"), ({"window": "lungs"}, "lung")])
def test_misspelt_rules_are_answered_with_the_nearest(tmp_path: Path, option: dict, near: str) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match=f"did you mean .*{near}"):
        full(tmp_path / "a.png", **option)


# ------------------------------------------------------------------------------------------- windows

numbers = st.one_of(
    arrays(np.uint8, st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))),
    arrays(np.uint16, st.tuples(st.just(1), st.just(1), st.integers(1, 6), st.integers(1, 6))),
    arrays(np.int16, st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))),
    arrays(np.float32, st.tuples(st.just(1), st.just(2), st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32)),
)


@laws
@given(pixels=numbers, window=st.sampled_from(list(recipes.WINDOWS)), inverted=st.booleans())
def test_every_window_lands_in_zero_to_one_and_keeps_the_order(pixels: np.ndarray, window: str, inverted: bool) -> None:
    from medprobe.imaging.raw import range_of

    before = pixels.copy()
    values = recipes.windowed(Raw(pixels, range_of(pixels), inverted), window)
    assert values.dtype == np.float32
    assert values.shape == pixels.shape
    assert values.min() >= 0
    assert values.max() <= 1
    ordered = values.ravel()[np.argsort(pixels.ravel(), kind="stable")]
    turned = inverted and window not in recipes.UNITS
    assert (np.diff(ordered) * (-1 if turned else 1) >= 0).all()
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("full-range", [0, 0.25, 0.5, 0.75, 1]), ("max", [0, 0, 0, 0.5, 1]), ("minmax", [0, 0.25, 0.5, 0.75, 1]),
        ("lung", [0.15 / 1.5 * 2.3333333, 0.5666667, 0.9, 1, 1]), ("mediastinum", [0, 0, 0.4, 1, 1]), ("bone", [0, 0, 500 / 1800, 1000 / 1800, 1500 / 1800]),
        ("ct", [0, 0.25, 0.5, 0.75, 1]),
    ],
)  # fmt: skip
def test_windows_by_hand(tmp_path: Path, window: str, expected: list[float]) -> None:
    values = np.array([[-1000, -500, 0, 500, 1000]], np.int16)
    found = recipes.image((npy(tmp_path, values),), window).pixels[0, 0, 0]
    assert np.abs(found - expected).max() < 1e-6


def test_percentile_cuts_one_in_a_hundred_at_each_end(tmp_path: Path) -> None:
    found = recipes.image((npy(tmp_path, np.arange(101, dtype=np.uint16)[None]),), "percentile").pixels[0, 0, 0]
    assert found[1] == 0 < found[2]
    assert found[98] < 1 == found[99]


def test_percentile_foreground_looks_at_what_lies_above_the_lowest_value(tmp_path: Path) -> None:
    values = np.concatenate([np.zeros(5000), np.arange(1000, 1201)]).astype(np.int16)
    RNG.shuffle(values)
    found = recipes.image((npy(tmp_path, values.reshape(1, 1, -1)),), "percentile-foreground").pixels.ravel()
    np.testing.assert_allclose(found, np.clip((values - 1001.0) / 198, 0, 1), atol=1e-6)  # 0.5 % of 200 steps above 1000, and below 1200
    assert recipes.image((npy(tmp_path, values.reshape(1, 1, -1)),), "percentile").pixels.max() == 1


def test_each_channel_has_its_window_in_order(tmp_path: Path) -> None:
    one, two = (npy(tmp_path, (RNG.normal(0, 900, (4, 6, 5))).astype(np.int16), name) for name in ("a.npy", "b.npy"))
    apart = [recipes.planes((source,), window=window, size=7).pixels for source, window in ((one, "ct"), (two, "suv"))]
    np.testing.assert_array_equal(recipes.planes((one, two), window="ct+suv", size=7).pixels, np.concatenate(apart, axis=1))
    np.testing.assert_array_equal(recipes.image((one, two), "percentile+max").pixels, np.concatenate([recipes.image((one,), "percentile").pixels, recipes.image((two,), "max").pixels]))
    alone = recipes.with_windows((one, two), "ct+suv")
    assert [source.window for source in alone] == ["ct", "suv"]
    np.testing.assert_array_equal(np.concatenate([recipes.planes((source,), window="ct+suv", size=7).pixels for source in alone], axis=1), np.concatenate(apart, axis=1))
    assert recipes.with_windows((one, two), "ct") == (one, two)


@pytest.mark.parametrize("colour", [None, 1, 3])
def test_three_windows_make_three_channels_of_one(tmp_path: Path, colour) -> None:
    source = npy(tmp_path, RNG.normal(0, 600, (4, 6, 5)).astype(np.int16))
    pixels = full(source, window="lung|mediastinum|bone", size=7, colour=colour).pixels
    np.testing.assert_array_equal(pixels, np.concatenate([full(source, window=window, size=7).pixels for window in ("lung", "mediastinum", "bone")], axis=1))
    relative = full(source, window="minmax|percentile|ct", size=7, start=2, stop=3).pixels
    np.testing.assert_array_equal(relative, full(source, window="minmax|percentile|ct", size=7).pixels[2:3])
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with pytest.raises(CaseError, match=r"a\.png: expected one channel to make three of, found 3"):
        full(tmp_path / "a.png", window="max|minmax|ct", colour=colour)


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ("ct+suv+ct", "one for each of the 2 channels of an image, found 3"), ("ct+sub", "no window named 'sub'; did you mean .*suv"), ("ct|bone", "one window or three joined by |"),
        ("ct|bone|lung+suv", "as many for every channel, found 3 and 1"), ("", "no window named ''"), ("ct+", "no window named ''"),
    ],
)  # fmt: skip
def test_windows_that_do_not_fit_are_refused(tmp_path: Path, window: str, said: str) -> None:
    channels = tuple(npy(tmp_path, np.zeros((4, 6, 5), np.int16), name) for name in ("a.npy", "b.npy"))
    for use in (lambda: recipes.image(channels, window), lambda: recipes.planes(channels, window=window, size=4)):
        with pytest.raises(RequestError, match=said.replace("|", r"\|")):
            use()


def test_channels_become_one_picture_of_three(tmp_path: Path) -> None:
    sources = [npy(tmp_path, RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8), f"{name}.npy") for name in "abc"]
    apart = [full(source).pixels for source in sources]
    two, three = (recipes.planes(tuple(sources[:count]), window="full-range", size=None, colour=3, rgb=True).pixels for count in (2, 3))
    assert two.dtype == three.dtype == np.uint8
    np.testing.assert_array_equal(three, np.concatenate(apart, axis=1))
    np.testing.assert_array_equal(two[:, :2], three[:, :2])
    assert np.abs(two[:, 2].astype(float) - three[:, :2].mean(axis=1)).max() <= 0.5
    floats = recipes.planes(tuple(sources[:2]), window="ct+suv", size=None, rgb=True).pixels
    np.testing.assert_allclose(floats[:, 2], floats[:, :2].mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(full(sources[0], rgb=True, colour=1).pixels, apart[0])


@pytest.mark.parametrize("window", ["max", "minmax", "percentile", "percentile-foreground", "full-range", "ct"])
def test_a_constant_or_negative_image_is_no_division_by_zero(tmp_path: Path, window: str) -> None:
    for value in (0, 7, -7):
        pixels = recipes.image((npy(tmp_path, np.full((3, 3), value, np.int16)),), window).pixels
        assert np.isfinite(pixels).all()


@pytest.mark.trap("RSNA: MGCA scales by the image's own maximum before MONOCHROME1 is inverted")
def test_the_rule_of_mgca_for_rsna(tmp_path: Path) -> None:
    image = np.array([[10, 40], [80, 160]], np.uint16)
    assert np.allclose(recipes.windowed(Raw(image[None, None], (0, 65535)), "max")[0, 0], image / 160)
    assert np.allclose(recipes.windowed(Raw(image[None, None], (0, 65535), inverted=True), "max")[0, 0], 1 - image / 160)


def mgca(stored: np.ndarray, inverted: bool, side: int) -> np.ndarray:
    """MGCA's square, in levels of 8 bits, of a picture that shrinks by a whole factor."""
    levels = np.rint(stored * (255 / stored.max()))
    levels = 255 - levels if inverted else levels
    factor = max(stored.shape) // side
    small = np.rint(levels.reshape(len(levels) // factor, factor, -1, factor).mean(axis=(1, 3)))
    missing = [side - length for length in small.shape]
    return np.pad(small, [(part // 2, part - part // 2) for part in missing])


@pytest.mark.equality(
    "HKU-MedAI/MGCA, datasets/utils.py: scaling by the maximum, MONOCHROME1, area resize, "
    "padding; one level of 255 (its two roundings)"
)
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 201), (np.uint16, 4095)])
@pytest.mark.parametrize("shape", [(64, 64), (64, 44), (36, 64)])
def test_pictures_of_rsna_are_prepared_as_mgca_does(
    write_dicom, inverted: bool, dtype: type, top: int, shape: tuple[int, int]
) -> None:
    stored = np.random.default_rng(0).integers(0, top, shape).astype(dtype)
    stored[3, 4] = top
    path = write_dicom(stored, photometric="MONOCHROME1" if inverted else "MONOCHROME2")
    pixels = recipes.planes(
        (Source(path),), window="max", size=16, fit_rule="pad", resize="area", colour=3
    ).pixels
    assert pixels.shape == (1, 3, 16, 16)
    expected = mgca(stored, inverted, 16)
    assert np.abs(pixels[0] * 255 - expected).max() <= 1
    assert np.abs(pixels[0] * 255 - mgca(stored, not inverted, 16)).max() > 20
    assert (pixels[0][:, expected == 0] == 0).all()


@pytest.mark.parametrize("window", list(recipes.WINDOWS))
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_plane_is_the_same_whichever_planes_are_read_with_it(tmp_path: Path, window: str, dtype: type, monkeypatch) -> None:
    monkeypatch.setattr(recipes, "PART", 3)
    stack = (RNG.normal(0, 50, (8, 12, 14)) + 20 * np.arange(8)[:, None, None] + 100).clip(0, 255).astype(dtype)
    for source in (npy(tmp_path, stack), Source(tmp_path / "a.npy", frames=(6, 5, 1, 0))):
        whole = full(source, window=window, size=9).pixels
        parts = [full(source, window=window, size=9, start=start, stop=start + 1).pixels for start in range(len(whole))]
        assert np.array_equal(np.concatenate(parts), whole)


# ------------------------------------------------------------------------------------ images, channels


def test_channels_are_stacked_in_order(tmp_path: Path) -> None:
    first, second = npy(tmp_path, np.zeros((4, 6, 5), np.uint8), "a.npy"), npy(tmp_path, np.full((4, 6, 5), 255, np.uint8), "b.npy")
    planes = recipes.planes((first, second), window="full-range", size=3, start=1, stop=3)
    assert planes.pixels.shape == (2, 2, 3, 3)
    assert planes.pixels[:, :, 0, 0].tolist() == [[0, 255], [0, 255]]
    image = recipes.image((second, first), "full-range")
    assert image.pixels.shape == (2, 4, 6, 5)
    assert image.pixels.dtype == np.float32
    assert image.pixels[:, 0, 0, 0].tolist() == [1, 0]


def test_one_channel_of_another_type_makes_all_of_them_float(tmp_path: Path) -> None:
    channels = (npy(tmp_path, np.full((6, 5), 255, np.uint8), "a.npy"), npy(tmp_path, np.full((6, 5), 65535, np.uint16), "b.npy"))
    pixels = recipes.planes(channels, window="full-range", size=4).pixels
    assert pixels.dtype == np.float32
    assert np.allclose(pixels, 1)


@pytest.mark.parametrize("other", [(4, 6, 6), (3, 6, 5)])
def test_channels_of_different_shapes_are_refused(tmp_path: Path, other: tuple[int, ...]) -> None:
    channels = (npy(tmp_path, np.zeros((4, 6, 5), np.uint8), "a.npy"), npy(tmp_path, np.zeros(other, np.uint8), "b.npy"))
    for use in (lambda: recipes.image(channels, "ct"), lambda: recipes.planes(channels, window="ct", size=4)):
        with pytest.raises(CaseError, match=r"a\.npy \(4, 6, 5\) and b\.npy"):
            use()


def test_grey_of_sixteen_bit_colour_has_the_weights_of_itu_601(tmp_path: Path) -> None:
    colour = np.zeros((3, 1, 2, 2), np.uint16)
    colour[:, 0, 0, 0], colour[:, 0, 0, 1], colour[:, 0, 1, 0], colour[:, 0, 1, 1] = (65535, 0, 0), (0, 65535, 0), (0, 0, 65535), (65535,) * 3
    grey = full(npy(tmp_path, colour), colour=1).pixels
    assert np.allclose(grey.ravel(), [0.299, 0.587, 0.114, 1])
    assert grey.max() <= 1


def test_planes_never_share_memory_with_what_a_reader_keeps(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.full((3, 4, 4), 9, np.uint8))
    planes = full(tmp_path / "a.npz").pixels
    planes[...] = 0
    assert (full(tmp_path / "a.npz").pixels == 9).all()


# -------------------------------------------------------------------------------------------- imports


def test_importing_and_decoding_pictures_loads_no_heavy_library(tmp_path: Path) -> None:
    """Decode workers run this: neither the import nor a picture may bring torch; formats bring their own library only."""
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    code = f"""
import sys
from pathlib import Path
import medprobe.imaging.recipes as recipes
from medprobe.types import Source
heavy = {{"torch", "torchvision", "timm", "monai", "sklearn", "scipy", "matplotlib", "pandas", "pydicom", "av", "SimpleITK", "nibabel", "h5py", "tifffile", "PIL"}}
print(sorted(heavy & set(sys.modules)))
recipes.planes((Source(Path({str(tmp_path / "a.png")!r})),), window="full-range", size=32)
print(sorted(heavy & set(sys.modules)))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == ["[]", "['PIL']"]


def test_values_further_apart_than_float32_holds_are_scaled(rng: np.random.Generator) -> None:
    pixels = rng.uniform(-3.3e38, 3.3e38, (4, 5)).astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    np.testing.assert_allclose(recipes.scale(pixels, low, high), (pixels.astype(np.float64) - low) / (high - low), atol=1e-6)
