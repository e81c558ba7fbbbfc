"""MIND-SSC: its invariances, its values by hand, and the package `convexAdam`."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medprobe import encoders
from medprobe.encoders.mind import describe, mind_ssc
from medprobe.errors import RequestError

SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1), st.integers(1, 2), st.integers(1, 3), st.floats(0.1, 10), st.booleans(), st.floats(-1, 1))
def test_values_and_invariance(shape: tuple[int, ...], seed: int, radius: int, dilation: int, a: float, negative: bool, b: float) -> None:
    image = np.random.default_rng(seed).random(shape)
    found = mind_ssc(image, radius, dilation)
    assert found.shape == (12 if len(shape) == 3 else 4, *shape)
    assert found.dtype == np.float32
    assert (found > 0).all()
    np.testing.assert_array_equal(found.max(0), 1)
    np.testing.assert_allclose(mind_ssc((-a if negative else a) * image + b, radius, dilation), found, atol=2e-3)


def by_hand(image: np.ndarray, pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], radius: int) -> np.ndarray:
    axes, wide = image.ndim, 8
    padded = np.pad(image.astype(np.float64), wide, mode="edge")

    def moved(offset: tuple[int, ...]) -> np.ndarray:
        return padded[tuple(slice(wide + o, wide + o + side) for o, side in zip(offset, image.shape, strict=True))]

    distances = []
    for one, two in pairs:
        square = np.pad((moved(one) - moved(two)) ** 2, radius, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(square, (2 * radius + 1,) * axes)
        distances.append(windows.mean(tuple(range(axes, 2 * axes))))
    least = np.array(distances) - np.min(distances, axis=0)
    mean = least.mean(0)
    return np.exp(-least / np.clip(mean, mean.mean() * 1e-3, mean.mean() * 1e3))


def test_the_order_of_channels_is_as_documented(rng: np.random.Generator) -> None:
    image = gaussian_filter(rng.random((9, 12)), 1)
    pairs = [((s * 2, 0), (0, t * 2)) for s in (-1, 1) for t in (-1, 1)]
    np.testing.assert_allclose(mind_ssc(image), by_hand(image, pairs, 1), atol=1e-4)

    image = gaussian_filter(rng.random((6, 7, 8)), 1)
    volume = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for s in (-1, 1):
            for t in (-1, 1):
                volume.append((tuple(3 * s * (axis == a) for axis in range(3)), tuple(3 * t * (axis == b) for axis in range(3))))
    np.testing.assert_allclose(mind_ssc(image, 2, 3), by_hand(image, volume, 2), atol=1e-4)


@pytest.mark.equality(
    "multimodallearning/convexAdam (the package), MINDSSC: all twelve channels; 1e-5"
)
@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 2), (1, 1)])
def test_channels_are_those_of_the_package_in_another_order(rng: np.random.Generator, radius: int, dilation: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("convexAdam.convex_adam_utils")
        image = gaussian_filter(rng.random((12, 25, 26)), 1).astype(np.float32)
        theirs = package.MINDSSC(torch.from_numpy(image)[None, None], radius, dilation, device="cpu")[0].numpy()
    ours = mind_ssc(image, radius, dilation)
    apart = np.abs(ours[:, None] - theirs[None]).max(axis=(2, 3, 4))
    assert sorted(apart.argmin(axis=1)) == list(range(12))
    assert apart.min(axis=1).max() <= 1e-5


def test_threads_change_no_bit(rng: np.random.Generator) -> None:
    image, threads = rng.random((7, 20, 21)), torch.get_num_threads()
    first = mind_ssc(image)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            np.testing.assert_array_equal(mind_ssc(image), first)
    finally:
        torch.set_num_threads(threads)


def test_constant_images_are_alike_everywhere() -> None:
    for shape in ((4, 5, 6), (5, 6)):
        np.testing.assert_array_equal(mind_ssc(np.full(shape, 7)), 1)


def test_wrong_images_are_named(rng: np.random.Generator) -> None:
    for image, words in ((np.full((4, 4), np.nan), "NaN or infinity"), (rng.random(5), "one channel at a time"), (np.zeros((2, 3), complex), "numbers")):
        with pytest.raises(RequestError, match=words):
            mind_ssc(image)
    with pytest.raises(RequestError, match="dilation"):
        mind_ssc(rng.random((4, 4)), dilation=0)


def test_the_encoder_describes_planes_and_volumes(rng: np.random.Generator) -> None:
    encoder = encoders.load("mind")
    planes = rng.random((2, 3, 12, 14)).astype(np.float32)
    features = encoder(planes)
    assert features.cls is None
    assert features.patch_mean is None
    assert features.grid.shape == (2, 12, 12, 14)
    np.testing.assert_array_equal(features.grid[1, 4:8], mind_ssc(planes[1, 1]))
    assert encoder.describe(planes).shape == (24, 3, 12, 14)
    np.testing.assert_array_equal(encoder.describe(planes)[12:], mind_ssc(planes[1]))
    np.testing.assert_array_equal(encoder.describe(planes[0]), describe(planes[0]))
    assert encoder.describe(planes[:, :1]).shape == (24, 1, 12, 14)


def test_pixels_describe_an_image_as_itself(rng: np.random.Generator) -> None:
    image = rng.random((2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(encoders.load("pixels").describe(image), image)
    assert encoders.load("mean-rgb").describe is None
