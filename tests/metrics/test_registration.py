"""What a displacement does, against SimpleITK, scipy and loops that read like the definition."""

import csv
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import correlate, gaussian_filter, map_coordinates

from medprobe.errors import RequestError
from medprobe.metrics import dense, registration
from medprobe.metrics.registration import (
    folding_fraction,
    jacobian_determinant,
    landmark_error,
    sdlogj,
    warp_labels,
)

SHAPES = [(9, 11, 7), (12, 15)]


def grid(shape):
    return np.stack(np.meshgrid(*(np.arange(side, dtype=float) for side in shape), indexing="ij"))


def random_case(rng, shape, moving_shape=None, labels=5, size=3.0):
    moving = rng.integers(0, labels, moving_shape or shape).astype(np.uint8)
    return moving, rng.normal(scale=size, size=(len(shape), *shape))


def affine(shape, matrix, shift):
    """u with x + u = matrix x + shift."""
    return np.einsum("ij,j...->i...", np.asarray(matrix) - np.eye(len(shape)), grid(shape)) + np.reshape(shift, (-1, *[1] * len(shape)))


def by_itk(moving, displacement):
    sitk = pytest.importorskip("SimpleITK")
    vectors = np.ascontiguousarray(np.moveaxis(displacement[::-1], 0, -1), dtype=np.float64)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    fixed = sitk.GetImageFromArray(np.zeros(displacement.shape[1:], np.uint8))
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(moving), fixed, transform, sitk.sitkNearestNeighbor, 0))


@pytest.mark.equality("SimpleITK, labels warped by a displacement, nearest; identical")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smooth", [False, True])
def test_nearest_labels_are_those_of_simpleitk(rng, shape, smooth):
    moving, displacement = random_case(rng, shape, tuple(side + 2 for side in shape))
    if smooth:
        displacement = np.stack([gaussian_filter(u, 2) * 8 for u in displacement])
    warped = warp_labels(moving, displacement)
    assert (warped != 0).any()
    np.testing.assert_array_equal(warped, by_itk(moving, displacement))


@pytest.mark.parametrize("shape", SHAPES)
def test_halves_round_up_as_in_simpleitk_and_scipy(rng, shape):
    moving = rng.integers(1, 200, shape).astype(np.uint8)
    displacement = rng.integers(-6, 7, (len(shape), *shape)) / 2
    warped = warp_labels(moving, displacement)
    np.testing.assert_array_equal(warped, by_itk(moving, displacement))
    at = np.floor(grid(shape) + displacement + 0.5)
    inside = np.logical_and.reduce([(x >= 0) & (x < side) for x, side in zip(at, shape, strict=True)])
    expected = map_coordinates(moving, grid(shape) + displacement, order=0, mode="grid-constant")
    np.testing.assert_array_equal(warped[inside], expected[inside])
    assert (warped[~inside] == 0).all()


def test_a_voxel_reaches_half_a_voxel_around_its_centre():
    moving = np.array([[5, 6]], np.uint8)
    displacement = np.zeros((2, 1, 6))
    displacement[1, 0] = np.array([-0.51, -0.5, 0.49, 0.5, 1.49, 1.5]) - np.arange(6)
    assert warp_labels(moving, displacement).tolist() == [[0, 5, 5, 6, 6, 0]]


def by_one_hot(moving, displacement):
    """The definition: one interpolated mask per label, background everywhere outside."""
    labels = np.union1d(moving, [0])
    shares = []
    for label in labels:
        outside = float(label == 0)
        shares.append(map_coordinates((moving == label).astype(float), grid(displacement.shape[1:]) + displacement, order=1, mode="grid-constant", cval=outside))
    return labels[np.argmax(np.round(shares, 9), axis=0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("halves", [False, True])
def test_linear_labels_are_the_largest_interpolated_mask(rng, shape, halves):
    moving, displacement = random_case(rng, shape, tuple(side - 2 for side in shape), labels=4, size=2.0)
    if halves:
        displacement = np.round(displacement * 2) / 2
    np.testing.assert_array_equal(warp_labels(moving, displacement, "linear"), by_one_hot(moving, displacement))


@pytest.mark.equality(
    "scipy, map_coordinates of order 0: labels that end at the outermost centres; identical"
)
@pytest.mark.parametrize("shape", [(8, 20, 22), (40, 31)])
def test_labels_that_end_at_the_outermost_centres_are_those_of_scipy(rng, shape):
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    displacement = 1.5 * rng.standard_normal((len(shape), *shape))
    position = displacement + np.indices(shape)
    expected = map_coordinates(labels, np.floor(position + 0.5), order=0, mode="constant")
    outside = (position < 0) | (position > np.array(shape).reshape(-1, *[1] * len(shape)) - 1)
    expected[outside.any(axis=0)] = 0
    found = registration.warp_labels(labels, displacement, rim="centre")
    np.testing.assert_array_equal(found, expected)
    theirs = map_coordinates(labels, position, order=0, mode="constant", cval=0)
    np.testing.assert_array_equal(found, theirs)
    assert (registration.warp_labels(labels, displacement) != found).any()
    with pytest.raises(RequestError, match="no rim named 'center'"):
        registration.warp_labels(labels, displacement, rim="center")


@pytest.mark.parametrize("shape", [(4, 12, 12), (12, 12)])
def test_both_ends_of_the_moving_image_have_a_key(shape):
    """Half a voxel along the first axis: the last slice is carried by one convention only."""
    labels, displacement = np.ones(shape, np.uint8), np.zeros((len(shape), *shape))
    displacement[0] = 0.4
    values = dense.registration_case(displacement, labels, labels, 2, (1.0,) * len(shape))
    assert values["dice"] == [1.0]
    rest = (shape[0] - 1) / shape[0]
    assert values["dice.rim_centre"] == pytest.approx([2 * rest / (1 + rest)])


def test_ties_of_linear_go_to_the_lower_label_and_outside_is_background():
    moving = np.array([[2, 1, 3]], np.uint8)
    displacement = np.zeros((2, 1, 5))
    displacement[1, 0] = np.array([0.5, 1.5, 2.5, -0.4, -0.6]) - np.arange(5)
    assert warp_labels(moving, displacement, "linear").tolist() == [[1, 1, 0, 2, 0]]


@pytest.mark.parametrize("low", [1, 2])
def test_ties_that_rounding_hides_are_ties(rng, low):
    """Halfway along one axis of a chess board both labels have a half, wherever along the others."""
    board = np.array([low, 3 - low])[np.indices((2, 2, 2)).sum(axis=0) % 2]
    at = np.array([[0.5, *rest] for rest in rng.random((500, 2))]).T[:, None, None]
    displacement = at - grid((1, 1, 500))
    assert (warp_labels(board, displacement, "linear") == 1).all()


@pytest.mark.parametrize("order", ["nearest", "linear"])
def test_blocks_do_not_change_labels_or_determinants(rng, monkeypatch, order):
    moving, displacement = random_case(rng, (9, 8, 7))
    whole, determinant = warp_labels(moving, displacement, order), jacobian_determinant(displacement)
    monkeypatch.setattr(registration, "BLOCK", 60)
    np.testing.assert_array_equal(warp_labels(moving, displacement, order), whole)
    np.testing.assert_array_equal(jacobian_determinant(displacement), determinant)


LABELS = hnp.arrays(
    st.sampled_from([np.uint8, np.int16, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6),
    elements=st.integers(0, 1),
)


@settings(deadline=None)
@given(LABELS, st.sampled_from(["nearest", "linear"]), st.sampled_from([np.float32, np.float64, np.int8]))
def test_no_displacement_leaves_labels_and_their_type(labels, order, dtype):
    warped = warp_labels(labels, np.zeros((labels.ndim, *labels.shape), dtype), order)
    assert warped.dtype == labels.dtype
    np.testing.assert_array_equal(warped, labels)


@settings(deadline=None)
@given(LABELS, st.data(), st.sampled_from(["nearest", "linear"]))
def test_whole_voxel_shifts_are_exact(labels, data, order):
    shift = data.draw(st.tuples(*[st.integers(-7, 7)] * labels.ndim))
    displacement = np.zeros((labels.ndim, *labels.shape)) + np.reshape(shift, (-1, *[1] * labels.ndim))
    far = np.pad(labels, 8)
    expected = far[tuple(slice(8 + step, 8 + step + side) for step, side in zip(shift, labels.shape, strict=True))]
    np.testing.assert_array_equal(warp_labels(labels, displacement, order), expected)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(["nearest", "linear"]))
def test_a_2d_case_is_every_slice_of_a_3d_stack_without_z(seed, order):
    rng = np.random.default_rng(seed)
    moving, displacement = random_case(rng, (7, 6), (5, 8), size=2.0)
    stack = np.concatenate([np.zeros((1, 7, 6)), displacement])[:, None].repeat(5, axis=1)
    flat, deep = warp_labels(moving, displacement, order), warp_labels(moving[None].repeat(5, axis=0), stack, order)
    np.testing.assert_array_equal(deep, flat[None].repeat(5, axis=0))
    np.testing.assert_allclose(jacobian_determinant(stack), jacobian_determinant(displacement)[None], atol=1e-12)
    assert sdlogj(stack) == pytest.approx(sdlogj(displacement), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_renaming_labels_renames_what_is_warped(seed):
    """Nearest never looks at the values; linear only where shares are equal, which random positions avoid."""
    rng = np.random.default_rng(seed)
    moving, displacement = random_case(rng, (5, 6, 4), labels=4)
    names = np.array([0, 40_000, 7, 300], np.int32)
    for order in ("nearest", "linear"):
        np.testing.assert_array_equal(warp_labels(names[moving], displacement, order), names[warp_labels(moving, displacement, order)])


def test_positions_far_outside_are_background(rng):
    moving, displacement = random_case(rng, (4, 5, 6))
    for far in (1e30, -1e30, 3e9):
        for order in ("nearest", "linear"):
            assert not warp_labels(moving, np.full_like(displacement, far), order).any()


def heart(samples, number):
    folder = samples / "mri_cardiac_ed_es"
    with open(folder / "patients.csv") as file:
        row = list(csv.DictReader(file))[number]
    with np.load(folder / row["file"]) as arrays:
        return arrays["ed_lv"], arrays["es_lv"]


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("number", [0, 20, 29])
def test_a_displacement_that_shrinks_the_left_ventricle_fits_the_real_systole_better(samples, number):
    moving, fixed = heart(samples, number)
    centres = [np.array(np.nonzero(mask)).mean(axis=1) for mask in (moving, fixed)]
    scale = np.sqrt(moving.sum() / fixed.sum())
    about = np.diag([1, scale, scale])
    displacement = affine(fixed.shape, about, centres[0] - about @ centres[1]).astype(np.float32)
    displacement[0] = 0
    warped = warp_labels(moving, displacement)
    assert warped.dtype == np.uint8
    assert set(np.unique(warped)) == {0, 1}
    assert dice(warped == 1, fixed == 1) > dice(moving == 1, fixed == 1) + 0.03
    np.testing.assert_array_equal(warped, by_itk(moving, displacement))
    smooth = warp_labels(moving, displacement, "linear")
    assert dice(smooth == 1, warped == 1) > 0.98
    for number, slice_ in enumerate(moving):
        np.testing.assert_array_equal(warp_labels(slice_, displacement[1:, number]), warped[number])
    if len(moving) >= 5:
        np.testing.assert_allclose(jacobian_determinant(displacement), scale**2, rtol=1e-4)
    assert folding_fraction(displacement[1:, 0]) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_landmark_errors_of_an_affine_map_are_those_of_its_matrix(rng, shape):
    dims = len(shape)
    matrix, shift = np.eye(dims) + rng.normal(scale=0.1, size=(dims, dims)), rng.normal(size=dims)
    fixed = rng.random((20, dims)) * (np.array(shape) - 1)
    moving = fixed @ matrix.T + shift + rng.normal(size=(20, dims))
    spacing = (3.15, 1.5, 0.7)[:dims]
    expected = np.linalg.norm((fixed @ matrix.T + shift - moving) * spacing, axis=1)
    found = landmark_error(fixed, moving, affine(shape, matrix, shift), spacing)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    doubled = landmark_error(fixed, moving, affine(shape, matrix, shift), np.array(spacing) * 2)
    np.testing.assert_allclose(doubled, 2 * found)


def by_corners(u, point):
    """Linear interpolation at one point, corner by corner."""
    low = np.minimum(np.floor(point).astype(int), np.array(u.shape) - 2)
    total = 0.0
    for step in product((0, 1), repeat=u.ndim):
        weight = np.prod([part if up else 1 - part for up, part in zip(step, point - low, strict=True)])
        total += weight * u[tuple(low + step)]
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_the_displacement_is_interpolated_linearly_at_landmarks(rng, shape):
    displacement = rng.normal(size=(len(shape), *shape)).astype(np.float32)
    fixed = np.concatenate([rng.random((10, len(shape))) * (np.array(shape) - 1), [np.array(shape) - 1], [[0] * len(shape)]])
    moved = np.array([[by_corners(u.astype(float), point) for u in displacement] + point for point in fixed])
    spacing = [1.0] * len(shape)
    np.testing.assert_allclose(landmark_error(fixed, moved, displacement, spacing), 0, atol=1e-12)


def test_a_landmark_worked_by_hand_and_landmarks_outside_the_grid():
    displacement = np.zeros((2, 4, 5))
    displacement[1] = 2
    fixed = np.array([[1, 1], [-0.1, 1], [3, 4], [3, 4.01]])
    error = landmark_error(fixed, np.array([[2, 3], [0, 0], [3, 6], [0, 0]]), displacement, (4, 0.5))
    assert error[[0, 2]].tolist() == [4, 0]
    assert np.isnan(error[[1, 3]]).all()
    assert landmark_error(np.empty((0, 2)), np.empty((0, 2)), displacement, (1, 1)).shape == (0,)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_determinant_of_an_affine_field_is_that_of_its_matrix(rng, shape):
    for _ in range(5):
        matrix = rng.normal(size=(len(shape), len(shape)))
        displacement = affine(shape, matrix, rng.normal(size=len(shape)))
        determinant = jacobian_determinant(displacement)
        assert determinant.shape == tuple(side - 4 for side in shape)
        np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=1e-9, atol=1e-9)
        assert folding_fraction(displacement) == float(np.linalg.det(matrix) <= 0)
        assert sdlogj(displacement) == pytest.approx(0, abs=1e-9)


def by_correlation(displacement):
    """As the Learn2Reg evaluation is described: a (-1/2, 0, 1/2) filter along each axis, then two voxels off every side."""
    dims = len(displacement)
    filters = [np.array([-0.5, 0, 0.5]).reshape([3 if axis == other else 1 for other in range(dims)]) for axis in range(dims)]
    jacobian = np.array([[correlate(u.astype(float), weights, mode="constant") for weights in filters] for u in displacement])
    jacobian = np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(dims)
    return np.linalg.det(jacobian)[(slice(2, -2),) * dims]


@pytest.mark.equality(
    "MDL-UzL/L2R, evaluation/utils.py: Jacobian determinant and SDlogJ by its filters, and "
    "folding; 1e-9"
)
@pytest.mark.parametrize("shape", [*SHAPES, (5, 5, 5), (5, 6)])
@pytest.mark.parametrize("size", [0.2, 3.0])
def test_determinant_folding_and_sdlogj_are_those_of_a_filter_bank(rng, shape, size):
    displacement = rng.normal(scale=size, size=(len(shape), *shape)).astype(np.float32)
    expected = by_correlation(displacement)
    np.testing.assert_allclose(jacobian_determinant(displacement), expected, rtol=1e-9, atol=1e-9)
    assert folding_fraction(displacement) == (expected <= 0).mean()
    logs = [np.log(min(max(value + 3, 1e-9), 1e9)) for value in expected.ravel()]
    mean = sum(logs) / len(logs)
    assert sdlogj(displacement) == pytest.approx(np.sqrt(sum((one - mean) ** 2 for one in logs) / len(logs)), rel=1e-9)


def test_a_flat_map_counts_as_folded_and_values_are_clipped():
    squashed = np.zeros((2, 8, 8))
    squashed[1] = -np.arange(8)
    assert (jacobian_determinant(squashed) == 0).all()
    assert folding_fraction(squashed) == 1
    wild = np.zeros((2, 5, 6))
    wild[1, :, 3] = 4
    wild[1, :, 1] = 12
    assert jacobian_determinant(wild).tolist() == [[-3, 1]]
    assert sdlogj(wild) == pytest.approx((np.log(4) - np.log(1e-9)) / 2)
    wild[1, :, 1] = -1e12
    assert sdlogj(wild) == pytest.approx((np.log(1e9) - np.log(4)) / 2)
    assert jacobian_determinant(np.zeros((3, 5, 6, 7))).tolist() == np.ones((1, 2, 3)).tolist()
    assert folding_fraction(np.zeros((3, 5, 6, 7))) == sdlogj(np.zeros((3, 5, 6, 7))) == 0


def nan_field():
    displacement = np.zeros((2, 6, 6))
    displacement[0, 0, 0] = np.nan
    displacement[1, 0, 0] = np.inf
    return displacement


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warp_labels(np.zeros((6, 6), np.uint8), nan_field()), "NaN or infinity in 1 of 36 voxels"),
        (lambda: sdlogj(nan_field()), "check the registration"),
        (lambda: warp_labels(np.zeros((6, 6), np.uint8), np.zeros((6, 6, 2))), r"found float64 \(6, 6, 2\); put the components"),
        (lambda: folding_fraction(np.zeros((2, 6, 6, 6))), r"found float64 \(2, 6, 6, 6\)"),
        (lambda: folding_fraction(np.zeros((3, 6, 0, 6))), r"found float64 \(3, 6, 0, 6\)"),
        (lambda: folding_fraction(np.zeros((2, 6, 6), complex)), "found complex128"),
        (lambda: warp_labels(np.zeros((6, 6)), np.zeros((2, 6, 6))), "integers or bool, found float64"),
        (lambda: warp_labels(np.zeros((6, 6, 6), int), np.zeros((2, 6, 6))), r"labels of 2 axes .* found the shape \(6, 6, 6\)"),
        (lambda: warp_labels(np.zeros((0, 6), int), np.zeros((2, 6, 6))), r"found the shape \(0, 6\)"),
        (lambda: warp_labels(np.zeros((6, 6), int), np.zeros((2, 6, 6)), "nearst"), "did you mean nearest"),
        (lambda: jacobian_determinant(np.zeros((3, 4, 9, 9))), r"at least 5 voxels a side, found \(4, 9, 9\)"),
        (lambda: landmark_error(np.zeros((2, 2)), np.zeros((3, 2)), np.zeros((2, 6, 6)), (1, 1)), r"found \(2, 2\) and \(3, 2\)"),
        (lambda: landmark_error(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 6, 6)), (1, 1)), r"one shape \(n, 2\)"),
        (lambda: landmark_error([[0, np.nan], [1, 1]], np.zeros((2, 2)), np.zeros((2, 6, 6)), (1, 1)), "in 1 of 2 pairs"),
        (lambda: landmark_error(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 6, 6)), (1, 1, 1)), "spacing of 2 sizes"),
        (lambda: landmark_error(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 6, 6)), (1, 0)), "above 0"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(call, message):
    with pytest.raises(RequestError, match=message) as caught:
        call()
    assert "expected" in str(caught.value) or "did you mean" in str(caught.value)


def test_spacing_has_no_default():
    with pytest.raises(TypeError, match="spacing"):
        landmark_error(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((2, 6, 6)))
