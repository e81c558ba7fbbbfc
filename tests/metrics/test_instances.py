"""VOI, adapted Rand error and average precision against scikit-image, dense formulas and brute force."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics import instances
from medprobe.metrics.instances import (
    THRESHOLDS,
    Contingency,
    adapted_rand_error,
    average_precision,
    border_mask,
    contingency,
    cremi_score,
    measure_instances,
    voi,
)

TRUE = np.array([[1, 1, 1, 1], [1, 1, 2, 2], [2, 2, 2, 2], [0, 3, 3, 3]])
PRED = np.array([[1, 1, 4, 4], [1, 1, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]])
HUGE = 2**64 - 1


def blobs(rng, shape=(6, 30, 30), ids=8, smallest=0):
    """Patches of ids, so that pairs come in runs."""
    small = rng.integers(smallest, ids, [-(-side // 4) for side in shape])
    for axis in range(len(shape)):
        small = small.repeat(4, axis=axis)
    return small[tuple(slice(side) for side in shape)]


def numbered(*arrays):
    """The arrays with ids from 1 in ascending order, 0 staying 0, as scikit-image's dense tables need."""
    out = []
    for array in arrays:
        known = np.unique(array[array != 0])
        out.append(np.where(array == 0, 0, np.searchsorted(known, array) + 1).astype(np.int64))
    return out


def peer_scores(pred, true, ignore=(0,)):
    """(split, merge, adapted Rand error) of scikit-image."""
    metrics = pytest.importorskip("skimage").metrics
    pred, true = np.ascontiguousarray(pred).astype(np.int64), np.ascontiguousarray(true).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):  # its precision or recall may be 0 / 0 where the error is not
        split, merge = metrics.variation_of_information(true, pred, ignore_labels=ignore)
        return split, merge, metrics.adapted_rand_error(true, pred, ignore_labels=ignore)[0]


def our_scores(pred, true, ignore=(0,), mask=None):
    return *voi(pred, true, ignore, mask=mask), adapted_rand_error(pred, true, ignore, mask=mask)


def close(values, expected):
    assert values == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


def dense_table(pred, true):
    """[true id, pred id] -> voxels."""
    table = np.zeros((true.max() + 1, pred.max() + 1))
    np.add.at(table, (true.ravel(), pred.ravel()), 1)
    return table


def snemi_by_probabilities(pred, true):
    """The challenges' error, with the volume as 1 and every voxel of predicted 0 an object of 1 / n."""
    n = true.size
    p = dense_table(pred, true)[1:] / n
    alone = p[:, 0].sum() / n
    pairs_both = (p[:, 1:] ** 2).sum() + alone / n
    pairs_pred = (p[:, 1:].sum(axis=0) ** 2).sum() + alone / n
    pairs_true = (p.sum(axis=1) ** 2).sum()
    precision, recall = pairs_both / pairs_pred, pairs_both / pairs_true
    return 1 - 2 * precision * recall / (precision + recall)


def brute_precision(pred, true, threshold, ignore=(0,)):
    """TP / (TP + FP + FN) from masks, with an optimal assignment."""
    counted = ~np.isin(true, list(ignore))
    a = [(true == i) & counted for i in np.unique(true[counted]) if i != 0]
    b = [(pred == i) & counted for i in np.unique(pred[counted]) if i != 0]
    close = np.array([[(x & y).sum() / (x | y).sum() >= threshold for y in b] for x in a]).reshape(len(a), len(b))
    found = close[linear_sum_assignment(close, maximize=True)].sum()
    return found / (len(a) + len(b) - found) if a or b else math.nan


# -------------------------------------------------------------------------------------------- known answers


def test_the_toy_of_the_methods_sheet():
    scores = measure_instances(PRED, TRUE)
    close(scores["arand_snemi"], 2 / 7)
    close(scores["arand"], 13 / 38)
    assert scores["voi_split"] == pytest.approx(0.367318, abs=5e-7)
    assert scores["voi_merge"] == pytest.approx(0.550978, abs=5e-7)
    assert scores["voi"] == pytest.approx(0.918296, abs=5e-7)
    assert scores["arand"] == pytest.approx(0.342105, abs=5e-7)
    assert scores["arand_snemi"] == pytest.approx(0.285714, abs=5e-7)
    assert scores["cremi_score"] == math.sqrt(scores["voi"] * scores["arand_snemi"])
    # Of truth 1 (6), 2 (6), 3 (3) and segments 1 (4), 2 (9), 4 (2): IoU 4/6 and 6/9.
    assert (scores["ap@0.5"], scores["ap@0.75"]) == (2 / 4, 0)
    assert scores["ap"] == pytest.approx(4 * (2 / 4) / 10)


def test_the_table_of_the_toy_by_hand():
    table = contingency(PRED, TRUE)
    pairs = list(zip(table.true.tolist(), table.pred.tolist(), table.count.tolist(), strict=True))
    assert pairs == [(1, 1, 4), (1, 4, 2), (2, 2, 6), (3, 2, 3)]
    assert (table.true_ids.tolist(), table.true_sizes.tolist()) == ([1, 2, 3], [6, 6, 3])
    assert (table.pred_ids.tolist(), table.pred_sizes.tolist()) == ([1, 2, 4], [4, 9, 2])
    assert (table.n, table.voxels) == (15, 16)
    assert (table.true.dtype, table.pred.dtype, table.count.dtype) == (np.uint64, np.uint64, np.int64)
    assert contingency(PRED, TRUE, ignore=()).n == 16


def test_one_object_cut_in_halves_is_one_bit_of_split_and_two_joined_are_one_bit_of_merge():
    whole, halves = np.ones((4, 4), int), np.repeat([[1, 1, 2, 2]], 4, axis=0)
    assert voi(halves, whole) == (1, 0)
    assert voi(whole, halves) == (0, 1)


def test_a_tie_at_an_iou_of_one_half_is_one_match():
    whole, halves = np.ones((4, 4), int), np.repeat([[1, 1, 2, 2]], 4, axis=0)
    assert average_precision(halves, whole, [0.5]) == {"ap@0.5": 1 / 2, "ap": 1 / 2}
    assert average_precision(whole, halves, [0.5]) == {"ap@0.5": 1 / 2, "ap": 1 / 2}


def test_an_iou_that_equals_a_threshold_is_a_match():
    for overlap, size in ((3, 5), (7, 10), (11, 20), (13, 20), (19, 20)):
        true, pred = np.ones((1, size), int), np.zeros((1, size), int)
        pred[0, :overlap] = 1
        values = average_precision(pred, true)
        assert sum(values[f"ap@{threshold:g}"] for threshold in THRESHOLDS) == sum(
            100 * overlap >= round(100 * threshold) * size for threshold in THRESHOLDS
        )


def test_predictions_in_ignored_truth_are_no_instances_unless_background_counts():
    true, pred = np.array([[1, 1, 1, 1, 0, 0, 0, 0]]), np.array([[5, 5, 5, 5, 5, 5, 0, 6]])
    assert average_precision(pred, true, [0.9]) == {"ap@0.9": 1, "ap": 1}
    assert average_precision(pred, true, [0.5], ignore=()) == {"ap@0.5": 1 / 2, "ap": 1 / 2}
    assert average_precision(pred, true, [0.9], ignore=()) == {"ap@0.9": 0, "ap": 0}


def test_the_cremi_score_is_the_root_of_the_product():
    assert cremi_score(1, 0.5, 0.24) == pytest.approx(0.6)
    assert math.isnan(cremi_score(math.nan, math.nan, math.nan))


# -------------------------------------------------------------------------------------------- scikit-image


@pytest.mark.equality("scikit-image, variation_of_information and adapted_rand_error; 1e-9")
@pytest.mark.parametrize("shape", [(40, 50), (7, 21, 30)])
@pytest.mark.parametrize("ignore", [(0,), (), (0, 3), (2, 5)])
def test_scores_equal_scikit_image(rng, shape, ignore):
    true, pred = blobs(rng, shape), blobs(rng, shape, 20)
    close(our_scores(pred, true, ignore), peer_scores(pred, true, ignore))
    noise = rng.integers(0, 9, shape)
    close(our_scores(noise, true, ignore), peer_scores(noise, true, ignore))
    close(our_scores(pred, noise, ignore), peer_scores(pred, noise, ignore))


ID = st.sampled_from([0, 1, 2, 3, 250, 2**16 - 1, 2**32, 2**63 - 1, 2**63, HUGE - 1, HUGE])


@st.composite
def two_volumes(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))
    return [draw(hnp.arrays(np.uint64, shape, elements=ID, fill=ID)) for _ in range(2)]


@settings(deadline=None, max_examples=150)
@given(two_volumes())
def test_any_ids_up_to_the_last_of_64_bits_score_as_their_numbers(volumes):
    pred, true = volumes
    small_pred, small_true = numbered(pred, true)
    for ignore in ((0,), ()):
        assert our_scores(pred, true, ignore) == pytest.approx(our_scores(small_pred, small_true, ignore), nan_ok=True)
    table = contingency(pred, true)
    counted = true != 0
    expected = dense_table(small_pred, small_true)[1:]
    assert sorted(table.count) == sorted(expected[expected > 0])
    assert table.true_ids.tolist() == np.unique(true[counted]).tolist()
    assert table.pred_ids.tolist() == np.unique(pred[counted]).tolist()
    if counted.any():
        close(our_scores(pred, true), peer_scores(small_pred, small_true))
        close(adapted_rand_error(pred, true, convention="snemi"), snemi_by_probabilities(small_pred, small_true))


@settings(deadline=None, max_examples=60)
@given(two_volumes())
def test_laws_of_symmetry_of_names_and_of_ranges(volumes):
    pred, true = volumes
    split, merge = voi(pred, true, ignore=())
    close(voi(true, pred, ignore=()), (merge, split))
    assert adapted_rand_error(pred, true, ()) == pytest.approx(adapted_rand_error(true, pred, ()), nan_ok=True)
    forward, backward = average_precision(pred, true, ignore=()), average_precision(true, pred, ignore=())
    assert forward == pytest.approx(backward, nan_ok=True)
    renamed = np.where(pred == 0, pred, np.uint64(HUGE) - pred + np.uint64(1))
    assert measure_instances(renamed, true) == pytest.approx(measure_instances(pred, true), nan_ok=True)
    for key, value in measure_instances(pred, true, ignore=()).items():
        assert math.isnan(value) or 0 <= value <= (math.inf if key.startswith(("voi", "cremi")) else 1), key


@settings(deadline=None, max_examples=40)
@given(two_volumes())
def test_a_perfect_prediction_has_no_error(volumes):
    _, true = volumes
    scores = measure_instances(true.copy(), true)
    if (true != 0).any():
        assert [scores[key] for key in ("voi_split", "voi_merge", "voi", "arand_snemi", "cremi_score")] == [0] * 5
        assert scores["arand"] == 0 or math.isnan(scores["arand"])
        assert (scores["ap@0.5"], scores["ap@0.75"], scores["ap"]) == (1, 1, 1)
    else:
        assert all(math.isnan(value) for value in scores.values())


# ------------------------------------------------------------------------------- types, layouts and threads


TYPES = [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, ">u2", ">i8"]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_integer_type_gives_the_same_scores(rng, dtype):
    true, pred = blobs(rng, (5, 20, 31)), blobs(rng, (5, 20, 31), 20)
    expected = measure_instances(pred, true)
    assert measure_instances(pred.astype(dtype), true.astype(np.uint16)) == expected
    assert measure_instances(pred.astype(np.uint16), true.astype(dtype)) == expected


def test_masks_of_bool_are_labels_of_one_object(rng):
    true, pred = rng.random((2, 9, 30, 30)) < 0.4
    assert measure_instances(pred, true) == measure_instances(pred.astype(int), true.astype(int))


def laid_out(array):
    """The same array in other memory."""
    spaced = np.zeros([2 * side for side in array.shape], array.dtype)
    every_second = spaced[(slice(1, None, 2),) * array.ndim]
    every_second[...] = array
    padded = np.pad(array, 3, constant_values=99)[(slice(3, -3),) * array.ndim]
    frozen = array.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"x" + array.tobytes(), dtype=array.dtype, offset=1).reshape(array.shape)
    backwards = array[::-1, ::-1].copy()[::-1, ::-1]
    transposed = np.ascontiguousarray(array.T).T
    swapped = array.swapaxes(0, 1).copy().swapaxes(0, 1)
    return [array, np.asfortranarray(array), every_second, padded, frozen, unaligned, backwards, transposed, swapped]


@pytest.mark.parametrize("shape", [(24, 35), (9, 20, 17), (90, 63, 71)])
def test_memory_layout_changes_nothing_and_inputs_stay_as_they_are(rng, shape):
    true, pred = blobs(rng, shape, 30).astype(np.uint32), blobs(rng, shape, 40).astype(np.uint16)
    mask = rng.random(shape) < 0.8
    expected, partial = contingency(pred, true), contingency(pred, true, mask=mask)
    close(our_scores(pred, true), peer_scores(pred, true))
    for a in laid_out(true):
        for b, c in zip(laid_out(pred), laid_out(mask), strict=True):
            writeable = a.flags.writeable, b.flags.writeable
            for table, same in ((contingency(b, a), expected), (contingency(b, a, mask=c), partial)):
                np.testing.assert_array_equal(table.true, same.true)
                np.testing.assert_array_equal(table.pred, same.pred)
                np.testing.assert_array_equal(table.count, same.count)
            np.testing.assert_array_equal(a, true)
            np.testing.assert_array_equal(b, pred)
            assert (a.flags.writeable, b.flags.writeable) == writeable


@pytest.mark.parametrize("n", [1, 2, 16383, 16384, 16385, 16386, 32769, instances.VIEWED, instances.VIEWED + 1])
def test_voxels_are_counted_once_at_the_ends_of_chunks_and_threads(rng, n):
    true, pred = rng.integers(0, 3, (1, n)), rng.integers(0, 3, (1, n)).astype(np.uint8)
    true[0, -1] = 5
    table = contingency(pred, true, ignore=())
    expected = dense_table(pred, true)
    np.testing.assert_array_equal(table.count, expected[expected > 0])
    constant = np.ones((1, n), np.uint8)
    assert contingency(constant, constant).count.tolist() == [n]


def test_a_table_grows_to_as_many_pairs_as_voxels(rng):
    shape = (3, 300, 400)
    true = rng.permutation(np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(2**40)).reshape(shape)
    table = contingency(true[::-1], true)
    np.testing.assert_array_equal(table.true, np.sort(true, axis=None))
    assert (table.count == 1).all()
    assert dict(zip(true.ravel().tolist(), true[::-1].ravel().tolist(), strict=True)) == dict(
        zip(table.true.tolist(), table.pred.tolist(), strict=True)
    )
    assert voi(true[::-1], true) == (0, 0)


def test_sums_stay_exact_in_volumes_of_billions_of_voxels():
    ids, count = np.array([1, 2], dtype=np.uint64), np.array([3 * 10**9 + 1, 7 * 10**9])
    table = Contingency.of(ids[[0, 1, 1]], ids[[0, 0, 1]], np.array([*count, 1]), voxels=10**11)
    a, b = int(count[0]), int(count[1])
    both = a**2 + b**2 + 1
    truth, prediction = a**2 + (b + 1) ** 2, (a + b) ** 2 + 1
    assert table.adapted_rand_error("snemi") == 1 - 2 * both / (truth + prediction)
    n = table.n
    assert table.adapted_rand_error() == (truth + prediction - 2 * both) / (truth + prediction - 2 * n)
    smaller = Contingency.of(ids, ids[[0, 0]], np.array([2**31, 2**31 - 1]), voxels=2**32)
    assert smaller.adapted_rand_error("snemi") == pytest.approx(1 - 2 * 0.5 / 1.5, abs=1e-8)


# -------------------------------------------------------------------------------------------- SNEMI and masks


@pytest.mark.equality(
    "cremi/cremi_python and SNEMI3D, adapted Rand error with its term for unassigned voxels; 1e-9"
)
@pytest.mark.parametrize("shape", [(40, 50), (7, 21, 30)])
def test_the_snemi_convention_equals_a_dense_formula(rng, shape):
    for ids in (3, 20):
        true, pred = blobs(rng, shape), blobs(rng, shape, ids)
        close(adapted_rand_error(pred, true, convention="snemi"), snemi_by_probabilities(pred, true))
    close(adapted_rand_error(0 * pred, true, convention="snemi"), snemi_by_probabilities(0 * pred, true))


def test_the_conventions_agree_on_many_voxels_and_differ_on_few(rng):
    true, pred = blobs(rng, (30, 120, 120), smallest=1), blobs(rng, (30, 120, 120), smallest=1)
    assert adapted_rand_error(pred, true) == pytest.approx(adapted_rand_error(pred, true, convention="snemi"), abs=1e-4)
    assert adapted_rand_error(PRED, TRUE) > adapted_rand_error(PRED, TRUE, convention="snemi") + 0.05


def test_cremi_background_of_the_last_id_is_ignored_when_named(rng):
    true, pred = blobs(rng).astype(np.uint64), blobs(rng, ids=20)
    marked = np.where(true == 0, np.uint64(HUGE), true)
    assert measure_instances(pred, marked, ignore=(HUGE,)) == measure_instances(pred, true)
    assert measure_instances(pred, marked, ignore=(0, np.uint64(HUGE))) == measure_instances(pred, true)


def test_a_masked_voxel_counts_as_one_of_ignored_truth(rng):
    true, pred = blobs(rng, smallest=1), blobs(rng, ids=20)
    for share in (0.02, 0.5, 0.98):
        mask = rng.random(true.shape) < share
        assert measure_instances(pred, true, mask=mask) == measure_instances(pred, np.where(mask, true, 0))
    empty = measure_instances(pred, true, mask=np.zeros(true.shape, bool))
    assert all(math.isnan(value) for value in empty.values())


# -------------------------------------------------------------------------------------------- borders


def band_by_scipy(section, thickness, spacing):
    """Pixels whose distance to one unlike a neighbour (edges padded with themselves) is within the thickness."""
    padded = np.pad(section, 1, mode="edge")
    neighbours = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    inner = np.all([section == neighbour for neighbour in neighbours], axis=0)
    if inner.all():
        return np.zeros(section.shape, bool)
    return distance_transform_edt(inner, sampling=(1, spacing[1] / spacing[0])) <= thickness / spacing[0]


@pytest.mark.parametrize("spacing", [(4, 4), (1, 1), (6.02, 6.02), (4, 7), (9, 2.5)])
@pytest.mark.parametrize("thickness", [0, 4, 12, 25, 30.1, 1000])
def test_the_border_band_equals_the_distance_transform(rng, thickness, spacing):
    true = np.concatenate([np.repeat(blobs(rng, (3, 6, 7), 30), 9, 1).repeat(8, 2), np.ones((1, 54, 56), int)])
    expected = np.array([band_by_scipy(section, thickness, spacing) for section in true])
    band = border_mask(true, thickness, (40, *spacing))
    np.testing.assert_array_equal(band, expected)
    assert not band[3].any()
    for section, part in zip(true, band, strict=True):
        np.testing.assert_array_equal(border_mask(section, thickness, spacing), part)
    np.testing.assert_array_equal(
        border_mask(np.asfortranarray(true).astype(np.uint8), thickness, (40, *spacing)), band
    )


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2), fill=st.just(1)
    ),
    st.integers(0, 20),
)
def test_border_bands_of_any_section_equal_the_distance_transform(section, tenths):
    np.testing.assert_array_equal(border_mask(section, tenths / 2, (1, 1)), band_by_scipy(section, tenths / 2, (1, 1)))


def test_a_border_by_hand():
    true = np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    assert border_mask(true, 0, (4, 4)).tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]]
    assert border_mask(true, 7.9, (4, 4)).tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]
    assert border_mask(true, 8, (4, 4)).tolist() == [[0, 1, 1, 1, 1, 1, 1, 0]]


def test_a_border_leaves_its_band_out_of_every_score(rng):
    true, pred = (
        np.repeat(blobs(rng, (4, 8, 8)), 6, 1).repeat(6, 2),
        np.repeat(blobs(rng, (4, 8, 8), 20), 6, 1).repeat(6, 2),
    )
    mask = rng.random(true.shape) < 0.9
    band = border_mask(true, 25, (40, 4, 4))
    assert 0 < band.mean() < 1
    whole = measure_instances(pred, true)
    assert (
        measure_instances(pred, true, border=25, spacing=(40, 4, 4))
        == measure_instances(pred, true, mask=~band)
        != whole
    )
    assert measure_instances(pred, true, mask=mask, border=25, spacing=(40, 4, 4)) == measure_instances(
        pred, true, mask=mask & ~band
    )
    moved = true[:, :, np.maximum(np.arange(true.shape[2]) - 1, 0)]
    assert measure_instances(moved, true, ignore=())["voi"] > 0.1
    assert measure_instances(moved, true, ignore=(), border=25, spacing=(40, 4, 4))["voi"] == 0


# -------------------------------------------------------------------------------------------- average precision


@pytest.mark.parametrize("ignore", [(0,), (), (0, 3)])
def test_average_precision_equals_brute_force(rng, ignore):
    thresholds = [0.05, 0.1, 0.25, 0.3, 0.45, *THRESHOLDS, 1]
    true = blobs(rng, (28, 36), 12)
    near = np.where(rng.random(true.shape) < 0.2, blobs(rng, true.shape, 12), true)
    cut = true + 12 * (np.indices(true.shape)[0] > 13) * (true > 0)
    for pred in (near, cut, blobs(rng, true.shape, 9), 0 * true):
        values = average_precision(pred, true, thresholds, ignore)
        expected = [brute_precision(pred, true, threshold, ignore) for threshold in thresholds]
        assert list(values.values()) == pytest.approx([*expected, np.mean(expected)], abs=1e-12)
        assert list(values) == [*(f"ap@{threshold:g}" for threshold in thresholds), "ap"]


def test_low_thresholds_match_one_to_one(rng):
    """Chains of instances that each overlap two others."""
    true = (np.arange(60) // 6 + 1)[None]
    pred = ((np.arange(60) + 3) // 6 + 1)[None]
    for threshold in (0.2, 1 / 3):
        assert average_precision(pred, true, [threshold])["ap"] == brute_precision(pred, true, threshold) == 10 / 11


# -------------------------------------------------------------------------------------------- joined tables


def test_a_joined_table_is_that_of_the_joined_volume(rng):
    true, fragments = blobs(rng), blobs(rng, ids=60)
    table = contingency(fragments, true)
    segment = rng.integers(0, 9, 60)
    joined = table.joined(segment[table.pred_ids.astype(int)])
    assert joined.scores() == measure_instances(segment[fragments], true)
    assert joined.voxels == table.voxels
    assert table.joined(table.pred_ids).scores() == table.scores()
    with pytest.raises(
        MedprobeError, match=r"one segment for each of \d+ predicted ids, found an array of shape \(2,\)"
    ):
        table.joined(np.array([1, 2]))
    with pytest.raises(MedprobeError, match="segments: expected ids of 0 or more, found -1"):
        table.joined(np.full(len(table.pred_ids), -1))


# -------------------------------------------------------------------------------------------- undefined, bad input


def test_nothing_left_is_nan_and_no_warning():
    empty = measure_instances(PRED, 0 * TRUE)
    assert len(empty) == 9
    assert all(math.isnan(value) for value in empty.values())
    assert math.isnan(adapted_rand_error(PRED, TRUE, ignore=(0, 1, 2, 3)))
    assert all(math.isnan(value) for value in average_precision(0 * PRED, TRUE, ignore=(0, 1, 2, 3)).values())


def test_one_side_without_instances_has_a_precision_of_zero():
    assert average_precision(0 * PRED, TRUE)["ap"] == 0
    assert average_precision(PRED, 0 * TRUE, ignore=())["ap"] == 0


def test_objects_of_one_voxel_have_no_pairs_and_an_undefined_rand_error():
    single = np.arange(1, 13).reshape(3, 4)
    assert math.isnan(adapted_rand_error(single, single))
    assert adapted_rand_error(single, single, convention="snemi") == 0
    assert adapted_rand_error(np.ones((3, 4), int), single) == 1


@pytest.mark.parametrize(
    ("pred", "true", "message"),
    [
        (PRED, TRUE[:3], r"of one shape, found \(3, 4\) and \(4, 4\); bring"),
        (PRED[None], TRUE, r"of one shape, found \(4, 4\) and \(1, 4, 4\)"),
        (PRED[:0], TRUE[:0], r"with voxels, found shape \(0, 4\); check"),
        (PRED * 1.0, TRUE, r"prediction: expected integer ids, found float64; convert them with .astype"),
        (PRED, TRUE.astype(np.float32), "truth: expected integer ids, found float32; convert"),
        (PRED, np.where(TRUE == 0, np.nan, TRUE), "truth: expected integer ids, found float64; convert"),
        (PRED.astype(str), TRUE, "prediction: expected integer ids, found <U21"),
        (PRED - 2, TRUE, "prediction: expected ids of 0 or more, found -1; number"),
        (PRED, (TRUE - 1).astype(np.int8), "truth: expected ids of 0 or more, found -1"),
        (PRED, (TRUE - 4).astype(">i4"), "truth: expected ids of 0 or more, found -4"),
    ],
)
def test_bad_labels_are_named(pred, true, message):
    for measure in (contingency, voi, adapted_rand_error, average_precision, measure_instances):
        with pytest.raises(MedprobeError, match=message) as caught:
            measure(pred, true)
        assert "\n" not in str(caught.value)


def test_bad_masks_are_named():
    with pytest.raises(MedprobeError, match=r"one shape, found \(4, 4\) and \(4, 3\)"):
        voi(PRED, TRUE, mask=np.ones((4, 3), bool))
    with pytest.raises(MedprobeError, match="a mask of bool, True where voxels count, found float64"):
        voi(PRED, TRUE, mask=np.ones((4, 4)))
    with pytest.raises(MedprobeError, match=r"one shape, found \(4, 4\) and \(4, 3\)"):
        measure_instances(PRED, TRUE, mask=np.ones((4, 3), bool), border=25, spacing=(4, 4))
    with pytest.raises(MedprobeError, match=r"truth \(z, y, x\) or \(y, x\) for a border, found 1 axes"):
        border_mask(TRUE[0], 25, (4,))


def test_negative_ids_under_a_mask_are_not_looked_at():
    true = np.where(TRUE == 0, -1, TRUE)
    assert measure_instances(PRED, true, mask=true > 0) == measure_instances(PRED, TRUE)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: voi(PRED, TRUE, 0), "as a tuple of integers from 0 to 2.64 - 1, found 0; give"),
        (lambda: voi(PRED, TRUE, (-1,)), r"found \(-1,\)"),
        (lambda: voi(PRED, TRUE, (2**64,)), r"found \(18446744073709551616,\)"),
        (lambda: voi(PRED, TRUE, (0.5,)), r"found \(0.5,\)"),
        (
            lambda: adapted_rand_error(PRED, TRUE, convention="snemi3d"),
            "no convention .* 'snemi3d'; did you mean snemi",
        ),
        (lambda: average_precision(PRED, TRUE, []), r"IoU thresholds above 0 and up to 1, found \[\]"),
        (lambda: average_precision(PRED, TRUE, [0.5, 1.5]), r"found \[0.5, 1.5\]"),
        (lambda: measure_instances(PRED, TRUE, border=25), "a spacing with a border of 25 nm, found none"),
        (lambda: measure_instances(PRED, TRUE, border=25, spacing=(40, 4, 4)), "of 2 positive numbers, .* found"),
        (lambda: border_mask(TRUE, 25, (4, 0)), r"of 2 positive numbers, .* found \(4, 0\)"),
        (lambda: border_mask(TRUE, -1, (4, 4)), "a border of 0 nm or more, found -1"),
        (lambda: border_mask(TRUE, math.nan, (4, 4)), "a border of 0 nm or more, found nan"),
    ],
)
def test_bad_requests_are_named(ask, message):
    with pytest.raises(RequestError, match=message):
        ask()


def test_importing_the_module_imports_nothing_heavy():
    code = (
        "import sys, medprobe.metrics.instances; print([m for m in ('numba', 'scipy', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------- real labels


@pytest.fixture(scope="module")
def neurons(samples):
    h5py = pytest.importorskip("h5py")
    with h5py.File(samples / "em_fib_medulla" / "fib25_sample2_z000-149.h5") as file:
        return file["labels"][:48]


@pytest.mark.equality("scikit-image, the same on real neurons; 1e-9")
def test_real_neurons_with_splits_and_merges_equal_scikit_image(neurons, rng):
    """A segmentation that cuts bodies at a plane, joins some, moves a few voxels and loses others to 0."""
    pred = neurons.astype(np.uint32)
    pred = np.where((np.indices(pred.shape)[1] > 120) & (pred % 3 == 0), pred + 1000, pred)
    pred = np.where(pred % 7 == 1, 5, pred)
    pred[:, 1:] = np.where(rng.random(pred[:, 1:].shape) < 0.1, pred[:, :-1], pred[:, 1:])
    pred[rng.random(pred.shape) < 0.01] = 0
    for ignore in ((0,), (), (0, int(neurons[20, 100, 100]))):
        close(our_scores(pred, neurons, ignore), peer_scores(pred, neurons, ignore))
    table = contingency(pred, neurons)
    split, merge = table.voi()
    assert split > 0.1
    assert merge > 0.1
    close(table.adapted_rand_error("snemi"), snemi_by_probabilities(pred.astype(int), neurons.astype(int)))
    sparse = pred[::8, ::3, ::3], neurons[::8, ::3, ::3]
    for threshold in (0.3, 0.5, 0.75):
        assert average_precision(*sparse, [threshold])["ap"] == pytest.approx(brute_precision(*sparse, threshold))


def test_leaving_out_the_border_of_real_neurons_forgives_a_shift_of_two_pixels(neurons):
    shifted = np.roll(neurons, 2, axis=2)
    whole = measure_instances(shifted, neurons)
    inner = measure_instances(shifted, neurons, border=25, spacing=(10, 10, 10))
    assert inner["voi"] < 0.5 * whole["voi"]
    assert inner["arand"] < 0.5 * whole["arand"]
    assert inner["ap"] > whole["ap"]
