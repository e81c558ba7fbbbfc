"""Area-weighted surfaces equal those of DeepMind's surface-distance."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medprobe.metrics.surfels import hd95_surfel, surface_dice, surfels


@pytest.mark.equality(
    "google-deepmind/surface-distance (the package): robust HD, mean distance, surface Dice; 1e-6"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dims", [2, 3])
def test_surfels_equal_surface_distance(dims: int, rng: np.random.Generator) -> None:
    theirs = pytest.importorskip("surface_distance")
    for _ in range(25):
        shape = tuple(rng.integers(3, 25, dims))
        pred, true = (gaussian_filter(rng.random(shape), 1.5) > 0.5 for _ in range(2))
        pred.flat[0] = true.flat[-1] = True
        spacing = tuple(rng.uniform(0.3, 3, dims))
        reference = theirs.compute_surface_distances(true, pred, spacing)
        ours = surfels(pred, true, spacing)
        assert ours is not None
        assert hd95_surfel(pred, true, spacing) == pytest.approx(theirs.compute_robust_hausdorff(reference, 95))
        assert ours.asd() == pytest.approx(theirs.compute_average_surface_distance(reference))
        for tolerance in (0.5, 2.0):
            assert surface_dice(pred, true, spacing, tolerance) == pytest.approx(theirs.compute_surface_dice_at_tolerance(reference, tolerance))


def test_an_empty_mask_is_undefined() -> None:
    full, empty = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    assert math.isnan(hd95_surfel(full, empty, (1, 1)))
    assert math.isnan(surface_dice(empty, empty, (1, 1), 1))
