"""Per-case values and ratios of sums: by hand, against scikit-learn's pooled counts, and under weights as under copies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics.measure import Value
from medprobe.metrics.paired import paired_difference
from medprobe.metrics.percase import aggregated, measure_cases, ratio_of_sums
from medprobe.metrics.stats import combine_folds

NAN = float("nan")
DICE = np.array([[0.8, NAN, 0.2], [0.6, NAN, NAN], [1.0, NAN, 0.6]])
CLASSES = ("liver", "spleen", "tumour")


def test_cases_come_first_then_classes_and_undefined_ones_are_skipped_and_counted():
    score = measure_cases({"dice": DICE}, ["a", "a", "b"], CLASSES).scores()["dice"]
    assert score.value == pytest.approx((0.8 + 0.4) / 2)
    assert score.per_class == pytest.approx({"liver": 0.8, "spleen": NAN, "tumour": 0.4}, nan_ok=True)
    assert (score.n_undefined, score.n_cases, score.n_patients) == (4, 3, 2)
    assert (score.unit, score.higher_is_better) == (None, True)


def test_one_value_per_case_has_no_classes():
    score = measure_cases({"hd95": np.array([3, NAN, 5])}, range(3), CLASSES, facts={"hd95": ("mm", False)}).scores()["hd95"]
    assert (score.value, score.n_undefined, score.per_class) == (4, 1, {})
    assert (score.unit, score.higher_is_better) == ("mm", False)


def test_nothing_defined_is_undefined():
    score = combine_folds([measure_cases({"dice": np.full((3, 3), NAN)}, range(3), CLASSES)], resamples=20)["dice"]
    assert np.isnan([score.value, score.low, score.high, *score.per_class.values()]).all()
    assert score.n_undefined == 9


def masks(rng, cases=12, voxels=40, classes=3):
    """Overlapping masks per class, (cases, voxels, classes), of cases of very different sizes; class 2 is sometimes absent."""
    size = rng.uniform(0.05, 0.6, cases)[:, None, None]
    true = rng.random((cases, voxels, classes)) < size
    true[:: 3, :, 2] = False
    return true, true ^ (rng.random(true.shape) < 0.1)


def counts(true, pred):
    return (true & pred).sum(axis=1), (~true & pred).sum(axis=1), (true & ~pred).sum(axis=1)


def test_aggregated_scores_are_those_of_all_voxels_pooled(rng):
    true, pred = masks(rng)
    scores = measure_cases(aggregated(*counts(true, pred)), range(len(true)), CLASSES).scores()
    flat, found = true.reshape(-1, 3), pred.reshape(-1, 3)
    for key, reference in {"dice": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}.items():
        score = scores[f"{key}.aggregated"]
        expected = reference(flat, found, average=None)
        assert list(score.per_class.values()) == pytest.approx(expected)
        assert score.value == pytest.approx(expected.mean())
        assert (score.n_undefined, score.n_cases) == (0, 12)


@pytest.mark.trap("datasets-3d 7: HECKTOR ranks by Dice aggregated over patients, defined where a case has no tumour")
def test_hecktor_dice_is_aggregated_over_patients_per_class_then_averaged():
    """Twice the summed intersection over the summed volumes; a patient without nodal tumour only adds what is predicted."""
    intersection, true, pred = np.array([[40, 0], [5, 30]]), np.array([[50, 0], [20, 30]]), np.array([[60, 10], [10, 60]])
    tp, fp, fn = intersection, pred - intersection, true - intersection
    score = measure_cases(aggregated(tp, fp, fn), ["p1", "p2"], ("GTVp", "GTVn")).scores(["dice.aggregated"])["dice.aggregated"]
    assert score.per_class == pytest.approx({"GTVp": 2 * 45 / 140, "GTVn": 2 * 30 / 100})
    assert score.value == pytest.approx((90 / 140 + 60 / 100) / 2)


def test_a_class_without_any_voxel_is_undefined_and_counted():
    zero = np.zeros((2, 2))
    tp = np.array([[3, 0], [1, 0]])
    scores = measure_cases(aggregated(tp, zero, zero), range(2), ("a", "b")).scores()
    for score in scores.values():
        assert (score.value, score.n_undefined) == (1, 1)
        assert np.isnan(score.per_class["b"])


def test_ratios_of_single_columns_and_other_formulas():
    above, below = np.array([1.0, 4.0]), np.array([2.0, 8.0])
    score = measure_cases({"sensitivity.lesion": ratio_of_sums(above, below)}, range(2)).scores()["sensitivity.lesion"]
    assert (score.value, score.per_class) == (0.5, {})


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_weighting_a_case_is_copying_it(seed):
    rng = np.random.default_rng(seed)
    true, pred = masks(rng, cases=6, voxels=8)
    values = rng.random((6, 3))
    values[rng.random((6, 3)) < 0.3] = NAN
    weights = rng.integers(1, 4, 6)  # 0 can lose a class, which is then left out
    rows = np.repeat(np.arange(6), weights)

    def everything(rows):
        tp, fp, fn = counts(true[rows], pred[rows])
        return measure_cases({"dice": values[rows], "hd": values[rows, 0], **aggregated(tp, fp, fn)}, rows, CLASSES)

    weighted, copied = everything(np.arange(6))(weights[None]), everything(rows).scores()
    for key, score in copied.items():
        assert weighted[key][0] == pytest.approx(score.value, abs=1e-12, nan_ok=True), key


def test_replicates_are_those_of_a_loop_over_drawn_patients(rng):
    true, pred = masks(rng, cases=15)
    tp, fp, fn = counts(true, pred)
    dice = np.where(2 * tp + fp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), NAN)
    groups = np.arange(15) // 2
    one = measure_cases({"dice": dice, **aggregated(tp, fp, fn)}, groups, CLASSES)
    scores = combine_folds([one], resamples=2000, method="percentile")
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(groups == patient) for patient in rng.integers(0, 8, 8)])
        pooled = [part[rows].sum(axis=0) for part in (tp, fp, fn)]
        drawn.append([np.nanmean(np.nanmean(dice[rows], axis=0)), np.mean(2 * pooled[0] / (2 * pooled[0] + pooled[1] + pooled[2]))])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    for number, key in enumerate(("dice", "dice.aggregated")):
        width = high[number] - low[number]
        assert (scores[key].low, scores[key].high) == pytest.approx((low[number], high[number]), abs=0.12 * width)
        bca = combine_folds([one], keys=[key], resamples=2000, method="bca")[key]
        assert bca.low < bca.value < bca.high


def test_a_class_lost_in_a_draw_is_left_out_of_that_draw():
    values = np.array([[0.4, NAN], [0.6, NAN], [0.5, 0.9]])
    one = measure_cases({"dice": values}, range(3), ("a", "b"))
    assert one(np.array([[1, 1, 0], [0, 1, 2], [0, 0, 0]]))["dice"] == pytest.approx([0.5, (1.6 / 3 + 0.9) / 2, NAN], nan_ok=True)


def test_differences_of_models_pair_case_by_case(rng):
    values = rng.random((20, 2))
    a, b = (measure_cases({"dice": part}, range(20), ("x", "y")) for part in (values, values - 0.05))
    change = paired_difference([a], [b], flips=199)["dice"]
    assert (change.value, change.low, change.high) == pytest.approx((0.05, 0.05, 0.05))


def test_a_metric_of_ones_own_joins_the_table():
    def constant(w):
        return Value(np.full(w.by_case.shape[1], 7.0))

    assert measure_cases({"seven": constant}, range(3)).scores()["seven"].value == 7


def test_cases_that_do_not_count_are_left_out_of_the_counts():
    score = measure_cases({"dice": DICE}, ["a", "a", "b"], CLASSES, cases=np.array([True, False, True])).scores()["dice"]
    assert (score.n_cases, score.n_patients) == (2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure_cases({"dice": DICE}, range(4), CLASSES), r"dice: expected values \(4,\) or \(4, 3\), found \(3, 3\)"),
        (lambda: measure_cases({"dice": DICE}, range(3), ("a",)), "dice: expected one column for each of 1 classes, found 3"),
        (lambda: measure_cases(aggregated(DICE > 0, DICE > 0, DICE > 0), range(3)), "dice.aggregated: expected one column for each of 0"),
        (lambda: measure_cases({"hd": np.array([1, np.inf])}, range(2)), "hd: expected finite values, or NaN .* found 1 infinite"),
        (lambda: measure_cases(aggregated(*np.ones((3, 2))), range(3)), "expected counts of 3 cases, found 2"),
        (lambda: ratio_of_sums(np.ones(3), np.ones((3, 1))), r"found \(3,\) and \(3, 1\)"),
        (lambda: ratio_of_sums(np.array([1, NAN]), np.ones(2)), "negative, NaN or infinite"),
        (lambda: ratio_of_sums(np.ones(2), np.array([1, -1])), "counts from 0 on"),
        (lambda: aggregated(np.ones(2), np.ones(2), np.ones(3)), r"found \(2,\), \(2,\) and \(3,\)"),
    ],
)
def test_tables_that_do_not_fit_are_answered_in_a_sentence(call, message):
    with pytest.raises(MedprobeError, match=message):
        call()


def test_a_unit_for_a_score_that_is_not_there_is_a_misspelling():
    with pytest.raises(RequestError, match="'hd_95', which is no score here; did you mean hd95"):
        measure_cases({"hd95": np.ones(2)}, range(2), facts={"hd_95": ("mm", False)})
