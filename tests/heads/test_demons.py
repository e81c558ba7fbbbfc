"""Demons: blobs that grow and move, the direction of the displacement, images about which nothing can be said."""

import sys
from typing import Any

import numpy as np
import pytest

from medprobe.errors import ExtraError, RequestError
from medprobe.heads.demons import Demons
from medprobe.metrics.overlap import overlap
from medprobe.metrics.registration import folding_fraction, warp_labels
from medprobe.types import Context, Image, Sample, State

pytest.importorskip("SimpleITK")


def blob(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """An image (1, *shape) of a soft ball, and its mask."""
    far = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(np.indices(shape), centre, strict=True)))
    return (1 / (1 + np.exp(far - radius)))[None].astype(np.float32), (far < radius).astype(np.uint8)


def registered(fixed: np.ndarray, moving: np.ndarray, dims: int, **settings: Any) -> np.ndarray:
    images = {role: Image(one[:, None] if one.ndim == 3 else one) for role, one in (("fixed", fixed), ("moving", moving))}
    return Demons(**settings).displacement(State(), Sample("a", "p", images=images), Context(0, dims=dims))


def dice(pred: np.ndarray, true: np.ndarray) -> float:
    return float(overlap(pred, true, 2).dice[1])


@pytest.mark.parametrize("variant", ["symmetric", "diffeomorphic"])
@pytest.mark.parametrize(("shape", "first", "second"), [((60, 50), (28, 24), (32, 26)), ((13, 40, 44), (6, 18, 20), (6, 21, 22))])
def test_a_blob_that_grows_and_moves_is_followed(variant: str, shape: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...]) -> None:
    (fixed, fixed_mask), (moving, moving_mask) = blob(shape, first, 6), blob(shape, second, 8)
    # The blobs differ in size, and so do their histograms.
    found = registered(fixed, moving, len(shape), variant=variant, match_histograms=False)
    assert found.shape == (len(shape), *shape)
    assert found.dtype == np.float32
    assert dice(moving_mask, fixed_mask) < 0.7
    assert dice(warp_labels(moving_mask, found), fixed_mask) > 0.9
    assert folding_fraction(found) < 0.01


@pytest.mark.parametrize("shape", [(60, 50), (13, 40, 44)])
@pytest.mark.parametrize(("gain", "offset"), [(0.6, 0.0), (0.7, 0.2)])
def test_two_scans_of_other_contrast_are_matched_first(
    shape: tuple[int, ...], gain: float, offset: float
) -> None:
    middle = tuple(side // 2 for side in shape)
    shifted = (*middle[:-1], middle[-1] + 3)
    (fixed, fixed_mask), (moving, moving_mask) = blob(shape, middle, 6), blob(shape, shifted, 6)
    other = gain * moving + offset
    matched, plain = (
        dice(
            warp_labels(moving_mask, registered(fixed, other, len(shape), match_histograms=match)),
            fixed_mask,
        )
        for match in (True, False)
    )
    assert Demons().match_histograms
    assert matched > 0.9
    assert matched > plain + 0.02


def test_components_are_y_then_x_and_point_into_the_moving_image() -> None:
    """The moving blob lies 3 pixels further along y and 2 before along x."""
    fixed, moving = blob((48, 64), (24, 32), 9)[0], blob((48, 64), (27, 30), 9)[0]
    found = registered(fixed, moving, 2)
    np.testing.assert_allclose(found[:, 22:27, 30:35].mean(axis=(1, 2)), [3, -2], atol=0.5)


def test_one_plane_is_registered_as_a_picture() -> None:
    fixed, moving = blob((40, 40), (20, 20), 7)[0], blob((40, 40), (22, 19), 9)[0]
    flat, thin = registered(fixed, moving, 2), registered(fixed[:, None], moving[:, None], 3)
    assert thin.shape == (3, 1, 40, 40)
    assert not thin[0].any()
    np.testing.assert_array_equal(thin[1:, 0], flat)


def test_the_mean_of_the_channels_is_what_counts(rng: np.random.Generator) -> None:
    fixed, moving = rng.random((2, 3, 24, 20)).astype(np.float32)
    np.testing.assert_array_equal(registered(fixed, moving, 2), registered(fixed.mean(axis=0, keepdims=True), moving.mean(axis=0, keepdims=True), 2))


@pytest.mark.parametrize("shape", [(1, 20, 20), (1, 4, 20, 20)])
def test_a_constant_image_moves_nothing(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    flat, image = np.full(shape, 0.4, np.float32), rng.random(shape).astype(np.float32)
    for fixed, moving in ((flat, image), (image, flat), (flat, flat)):
        assert not registered(fixed, moving, len(shape) - 1, match_histograms=True).any()


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (1, 30), (2, 33, 20), (3, 3, 3)])
def test_small_images_stay_finite(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    fixed, moving = rng.random((2, 1, *shape)).astype(np.float32)
    assert np.isfinite(registered(fixed, moving, len(shape), update_deviations=1.0)).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "fast"}, "variant must be one of symmetric, diffeomorphic, found 'fast'"),
        ({"iterations": 0}, "iterations must be a whole number >= 1"),
        ({"standard_deviations": -1}, "standard_deviations must be a number >= 0"),
        ({"match_histograms": 1}, "match_histograms must be true or false"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Demons(**settings)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ExtraError, match=r'pip install "medprobe\[volumes\]"'):
        registered(*np.random.default_rng(0).random((2, 1, 8, 8)), 2)
