"""Surface distances have medpy's bits on the distance map, and lie within 2 ulp of them on the kd-tree."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary as medpy

from medprobe.errors import RequestError
from medprobe.metrics import surface
from medprobe.metrics.surface import Distances, measure_surface

MEDPY = {"hd": medpy.hd, "hd95": medpy.hd95, "asd": medpy.asd, "assd": medpy.assd}
SPACINGS = (1.0, 0.7, 1.5, 3.15, 0.9765625, 2.5, 1 / 3)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Two masks of one shape and a spacing: blobs, noise, single voxels, full volumes, several components, on the faces or not."""
    dims = draw(st.sampled_from((2, 3)))
    shape = draw(st.tuples(*[st.integers(1, 12)] * dims))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks = []
    for _ in range(2):
        kind = draw(st.sampled_from(("noise", "voxel", "full", "boxes", "ball")))
        mask = np.zeros(shape, bool)
        if kind == "noise":
            mask = rng.random(shape) < draw(st.sampled_from((0.03, 0.3, 0.9)))
        elif kind == "full":
            mask[:] = True
        elif kind == "boxes":
            for _ in range(draw(st.integers(1, 3))):
                ends = [sorted(rng.integers(0, side + 1, 2)) for side in shape]
                mask[tuple(slice(a, b) for a, b in ends)] = True
        elif kind == "ball":
            grid = np.indices(shape).reshape(dims, -1).T - rng.uniform(0, shape)
            mask = (np.linalg.norm(grid, axis=1) < rng.uniform(1, 6)).reshape(shape)
        if not mask.any():
            mask[tuple(rng.integers(0, shape))] = True
        masks.append(mask)
    spacing = draw(st.one_of(st.sampled_from(SPACINGS).map(lambda size: (size,) * dims), st.tuples(*[st.sampled_from(SPACINGS)] * dims), st.tuples(*[st.floats(0.05, 8)] * dims)))
    return masks[0], masks[1], spacing


def all_of(found: Distances | None) -> dict[str, float]:
    assert found is not None
    return {name: getattr(found, name)() for name in MEDPY}


@pytest.mark.equality(
    "medpy, hd, hd95, asd, assd on the distance map, 700 drawn pairs; identical bits"
)
@settings(max_examples=700, deadline=None)
@given(pairs())
def test_every_distance_has_the_bits_of_medpy_on_the_distance_map(pair: tuple[np.ndarray, np.ndarray, tuple[float, ...]]) -> None:
    pred, true, spacing = pair
    expected = {name: float(metric(pred, true, voxelspacing=spacing)) for name, metric in MEDPY.items()}
    assert all_of(surface.distances(pred, true, spacing, "map")) == expected


@pytest.mark.equality("medpy, hd, hd95, asd, assd on the kd-tree; 2 ulp")
def test_every_distance_is_within_2_ulp_of_medpy_on_the_tree() -> None:
    counted: Counter[str] = Counter()
    _on_the_tree(counted)
    assert counted["pairs"] >= 500
    print(f"kd-tree: {counted['pairs']} pairs, {counted['apart']} of {counted['distances']} distances not of medpy's bits")


@settings(max_examples=700, deadline=None)
@given(pair=pairs())
def _on_the_tree(counted: Counter, pair: tuple[np.ndarray, np.ndarray, tuple[float, ...]]) -> None:
    pred, true, spacing = pair
    counted["pairs"] += 1
    by_map, by_tree = (surface.distances(pred, true, spacing, path) for path in ("map", "tree"))
    assert by_map is not None
    assert by_tree is not None
    for one, other in ((by_map.to_true, by_tree.to_true), (by_map.to_pred, by_tree.to_pred)):
        assert (np.abs(one - other) <= 2 * np.spacing(one)).all()
        counted.update(distances=len(one), apart=int((one != other).sum()))
    for name, metric in MEDPY.items():
        assert math.isclose(getattr(by_tree, name)(), float(metric(pred, true, voxelspacing=spacing)), rel_tol=1e-15 * 8, abs_tol=0)


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from((2.0, 0.5)))
def test_distances_are_symmetric_and_scale_with_the_spacing(pair: tuple[np.ndarray, np.ndarray, tuple[float, ...]], factor: float) -> None:
    pred, true, spacing = pair
    there, back = surface.distances(pred, true, spacing), surface.distances(true, pred, spacing)
    assert there is not None
    assert back is not None
    assert np.array_equal(there.to_true, back.to_pred)
    wider = surface.distances(pred, true, [size * factor for size in spacing])
    assert wider is not None
    np.testing.assert_allclose(wider.to_true, there.to_true * factor, rtol=1e-12)
    assert surface.hd(pred, pred, spacing) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((np.uint8, np.int16, np.int64, np.uint16)), st.sampled_from("CF"))
def test_many_classes_at_once_equal_one_at_a_time(seed: int, dtype: type, order: str) -> None:
    rng = np.random.default_rng(seed)
    pred, true = (np.asarray(rng.choice([0, 1, 2, 7], (5, 9, 8), p=[0.6, 0.2, 0.15, 0.05]), dtype, order=order) for _ in range(2))
    spacing = (2.0, 0.5, 0.7)
    found = measure_surface(pred, true, spacing, (1, 2, 5, 7), ("hd", "hd95", "asd", "assd"))
    for place, number in enumerate((1, 2, 5, 7)):
        for name, metric in MEDPY.items():
            if (pred == number).any() and (true == number).any():
                assert found[name][place] == metric(pred == number, true == number, voxelspacing=spacing)
            else:
                assert math.isnan(found[name][place])


def test_known_answers_of_shifted_squares() -> None:
    square, shifted, wide = (np.zeros((12, 16), bool) for _ in range(3))
    square[3:8, 3:8] = True
    shifted[3:8, 6:11] = True
    wide[3:8, 3:13] = True
    one = (1, 1)
    assert [metric(square, shifted, one) for metric in (surface.hd, surface.hd95, surface.asd, surface.assd)] == [3, 3, 1.5, 1.5]
    assert surface.asd(square, wide, one) == 0.25
    assert surface.asd(wide, square, one) == pytest.approx(1.730769, abs=5e-7)
    assert surface.assd(square, wide, one) == pytest.approx(1.166667, abs=5e-7)
    cross, full = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]), np.ones((3, 3), int)
    assert surface.asd(cross, full, one) == 0


@pytest.mark.equality("MONAI, compute_hausdorff_distance (95) and compute_surface_dice; 1e-6")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_monai_s_convention_has_its_own_name() -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(0)
    spacing = (2.0, 0.8, 0.8)
    for _ in range(5):
        pred, true = (rng.random((6, 11, 9)) < 0.4 for _ in range(2))
        both = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (pred, true)]
        theirs = compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=spacing)
        ours = surface.distances(pred, true, spacing)
        assert ours is not None
        assert ours.hd95_monai() == pytest.approx(float(theirs), rel=1e-6)
        share = compute_surface_dice(*both, class_thresholds=[1.0], include_background=True, spacing=spacing)
        assert surface.nsd(pred, true, spacing, 1.0) == pytest.approx(float(share), rel=1e-6)


def test_a_stray_voxel_far_away_is_found_by_either_path() -> None:
    pred, true = np.zeros((40, 200, 200), np.uint8), np.zeros((40, 200, 200), np.uint8)
    pred[2:6, 3:9, 3:9] = true[3:6, 3:9, 3:9] = 1
    pred[39, 199, 199] = 1
    found = [surface.distances(pred, true, (3, 1, 1), path) for path in ("map", "tree", "auto")]
    assert {round(one.hd(), 6) for one in found if one} == {round(float(medpy.hd(pred, true, (3, 1, 1))), 6)}


def test_an_empty_mask_is_undefined() -> None:
    full, empty = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    for pair in ((full, empty), (empty, full), (empty, empty)):
        assert math.isnan(surface.hd95(*pair, (1, 1)))
        assert math.isnan(surface.nsd(*pair, (1, 1), 1))


@pytest.mark.parametrize(
    ("pred", "true", "spacing", "said"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), (1, 1), "of one shape, found (2, 3) and (3, 2)"),
        (np.full((2, 3), 0.5), np.ones((2, 3)), (1, 1), "found 6 fractions such as 0.5"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), (1, 1), "found 6 NaN or infinite voxels"),
        (np.full((2, 3), -1), np.ones((2, 3)), (1, 1), "from 0 on, found -1"),
        (np.full((2, 3), 255), np.ones((2, 3)), (1, 1), "found values up to 255"),
        (np.ones((2, 3), complex), np.ones((2, 3)), (1, 1), "found complex128"),
        (np.ones((0, 3)), np.ones((0, 3)), (1, 1), "expected label maps with voxels"),
        (np.ones(3), np.ones(3), (1,), "found (3,); pass one case at a time"),
        (np.ones((2, 3)), np.ones((2, 3)), (1, 1, 1), "expected a spacing of 2 sizes above 0"),
        (np.ones((2, 3)), np.ones((2, 3)), (1, 0), "expected a spacing of 2 sizes above 0"),
        (np.ones((2, 3)), np.ones((2, 3)), 1.0, "expected a spacing of 2 sizes above 0"),
    ],
)
def test_bad_input_is_one_sentence(pred: np.ndarray, true: np.ndarray, spacing: object, said: str) -> None:
    with pytest.raises(RequestError) as error:
        surface.hd95(pred, true, spacing)  # type: ignore[arg-type]
    assert said in str(error.value)


@pytest.mark.equality("medpy, masks one voxel thin; identical bits")
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (1, 1, 1), (1, 5, 6), (5, 1, 6), (5, 6, 1)])
def test_masks_one_voxel_thin_equal_medpy(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    pred, true = (rng.random(shape) < 0.6 for _ in range(2))
    pred.flat[0] = true.flat[-1] = True
    spacing = (0.7,) * len(shape)
    for name, metric in MEDPY.items():
        assert getattr(surface, name)(pred, true, spacing) == metric(pred, true, voxelspacing=spacing)
