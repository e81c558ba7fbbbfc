"""The grid on which pairs are registered: its shape, what lies on it, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprobe.errors import CaseError
from medprobe.features.regrid import Regrid
from medprobe.imaging.displacements import displacement_on
from medprobe.imaging.resample import stretched
from medprobe.types import Features, Frame, Image, Sample

SIDES = st.tuples(*[st.integers(1, 30)] * 3)


@given(SIDES, st.integers(0, 40))
def test_no_axis_of_several_voxels_is_shorter_than_asked(own: tuple, least: int) -> None:
    shape = Regrid(least).shape(own)
    for before, after in zip(own, shape, strict=True):
        assert after == (1 if before == 1 else max(before, least))


def test_a_spacing_keeps_the_extent() -> None:
    assert Regrid(spacing=(2.0, 1.0, 1.0)).shape((8, 20, 30), (10.0, 1.5, 0.5)) == (40, 30, 15)
    assert Regrid(12, (20.0, 1.0, 1.0)).shape((8, 20, 30), (10.0, 1.0, 1.0)) == (12, 20, 30)


def test_a_spacing_that_no_file_states_is_named() -> None:
    sample = Sample("a", "p", images={"fixed": Image(np.zeros((1, 4, 5, 6), np.float32))})
    with pytest.raises(CaseError, match=r"a: expected a spacing, .* found none"):
        Regrid(spacing=(1.0, 1.0, 1.0))(sample, None)


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    """(3, *shape): the place of each voxel's middle, as a share of the extent."""
    shares = [(np.arange(side) + 0.5) / side for side in shape]
    return np.stack(np.meshgrid(*shares, indexing="ij")).astype(np.float32)


@pytest.mark.parametrize("shape", [(16, 9, 7), (5, 30, 7), (11, 11, 11)])
def test_places_stay_where_they_are(shape: tuple[int, int, int]) -> None:
    """Inside the outermost centres, where nothing has to be repeated."""
    own = (8, 9, 10)
    moved = stretched(ramp(own), shape)
    expected = ramp(shape)
    low, high = 0.5 / np.array(own), 1 - 0.5 / np.array(own)
    bounds = (part.reshape(3, 1, 1, 1) for part in (low, high))
    np.testing.assert_allclose(moved, np.clip(expected, *bounds), atol=1e-5)


def test_the_way_back_is_in_voxels_of_the_images_own_grid() -> None:
    """Half the extent along z stays half the extent along z."""
    coarse = np.zeros((3, 24, 10, 12), np.float32)
    coarse[0], coarse[2] = 12.0, 3.0
    own = displacement_on(coarse, (8, 10, 24))
    assert own.shape == (3, 8, 10, 24)
    np.testing.assert_allclose(own[0], 4.0, rtol=1e-6)
    np.testing.assert_allclose(own[1], 0.0)
    np.testing.assert_allclose(own[2], 6.0, rtol=1e-6)


def test_images_and_maps_lie_on_one_grid_and_the_sample_knows_its_own() -> None:
    grid = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((4, 2, 3, 3), np.float32)
    maps = Features(grids=(grid,), frame=Frame((12, 15), (0.0, 0.0, 3.0, 3.0)))
    image = Image(np.zeros((1, 4, 12, 15), np.float32), (8.0, 1.0, 1.0))
    roles = ("fixed", "moving")
    sample = Sample("a", "p", dict.fromkeys(roles, maps), dict.fromkeys(roles, image))
    moved = Regrid(16)(sample, None)
    assert moved.shape == (4, 12, 15)
    assert moved.images["fixed"].pixels.shape == (1, 16, 16, 16)
    assert moved.images["fixed"].spacing == pytest.approx((2.0, 0.75, 15 / 16))
    assert moved.features["moving"].grid.shape == (16, 2, 3, 3)
    assert moved.features["moving"].frame == Frame((16, 16), (0.0, 0.0, 3.0, 3.0))
    np.testing.assert_allclose(
        moved.features["fixed"].grid[6:10, 0, 0, 0], [1.125, 1.375, 1.625, 1.875]
    )


def test_a_pair_that_is_fine_enough_is_left_alone() -> None:
    sample = Sample("a", "p", images={"fixed": Image(np.zeros((1, 20, 20, 20), np.float32))})
    assert Regrid(18)(sample, None) is sample
    assert Regrid(18).shape((1, 20, 20)) == (1, 20, 20)
