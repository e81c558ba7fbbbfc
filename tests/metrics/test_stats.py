"""Laws of the bootstrap, of folds and seeds, and of Holm's correction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprobe.errors import MedprobeError
from medprobe.metrics.classification import evaluate, measure
from medprobe.metrics.stats import (
    bootstrap_weights,
    combine_folds,
    combine_seeds,
    holm,
    interval,
    paired_difference,
    two_sided_p,
)

CLASSES = ("no", "yes")


def predictions(rng, n=120, strength=1.0):
    target = rng.integers(0, 2, n)
    positive = 1 / (1 + np.exp(-(strength * (2 * target - 1) + rng.normal(size=n))))
    return target, np.column_stack([1 - positive, positive])


def test_weights_are_whole_patients_drawn_with_replacement():
    groups = np.array(["b", "a", "b", "c", "a"])
    weights = np.concatenate(list(bootstrap_weights(groups, 500, 0, chunk=7)))
    assert weights.shape == (500, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    assert weights[:, 3].mean() == pytest.approx(1, abs=0.15)
    assert np.mean(weights[:, 3] == 0) == pytest.approx((2 / 3) ** 3, abs=0.07)


def test_draws_depend_on_the_seed_but_not_on_chunks_or_case_order(rng):
    groups = rng.integers(0, 9, 30)
    order = rng.permutation(30)
    whole = np.concatenate(list(bootstrap_weights(groups, 40, 3, chunk=40)))
    np.testing.assert_array_equal(whole, np.concatenate(list(bootstrap_weights(groups, 40, 3, chunk=11))))
    np.testing.assert_array_equal(whole[:, order], np.concatenate(list(bootstrap_weights(groups[order], 40, 3))))
    assert not np.array_equal(whole, np.concatenate(list(bootstrap_weights(groups, 40, 4))))


def test_one_patient_with_all_cases_gives_the_same_weights_every_time_and_no_interval(rng):
    target, prob = predictions(rng)
    groups = np.zeros(len(target))
    assert (np.concatenate(list(bootstrap_weights(groups, 10, 0))) == 1).all()
    score = evaluate(target, prob, classes=CLASSES, groups=groups, resamples=10)["auroc"]
    assert np.isfinite(score.value)
    assert np.isnan([score.low, score.high]).all()
    assert score.n_patients == 1


def test_intervals_contain_the_point_and_repeat_with_the_seed(rng):
    target, prob = predictions(rng)
    scores = evaluate(target, prob, classes=CLASSES, resamples=300, seed=5)
    again = evaluate(target, prob, classes=CLASSES, resamples=300, seed=5)
    for key, score in scores.items():
        assert score.low <= score.value <= score.high, key
        assert score == again[key]
    assert scores["auroc"] != evaluate(target, prob, classes=CLASSES, resamples=300, seed=6)["auroc"]
    narrow = evaluate(target, prob, classes=CLASSES, resamples=300, seed=5, confidence=0.5)["auroc"]
    assert scores["auroc"].low < narrow.low < narrow.high < scores["auroc"].high


def test_the_interval_of_an_accuracy_has_the_width_of_the_binomial(rng):
    correct = np.zeros(400, int)
    correct[:280] = 1
    prob = np.column_stack([1 - correct, correct]).astype(float)
    score = evaluate(np.ones(400, int), prob, classes=CLASSES, keys=["accuracy@fixed_0.5"], resamples=4000)
    half_width = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    low, high = score["accuracy@fixed_0.5"].low, score["accuracy@fixed_0.5"].high
    assert low == pytest.approx(0.7 - half_width, abs=0.006)
    assert high == pytest.approx(0.7 + half_width, abs=0.006)


def test_copies_of_a_case_within_a_patient_do_not_narrow_the_interval(rng):
    target, prob = predictions(rng, 60)
    nine = np.repeat(np.arange(60), 9)
    single = evaluate(target, prob, classes=CLASSES, keys=["auroc"])["auroc"]
    clustered = evaluate(target[nine], prob[nine], classes=CLASSES, groups=nine, keys=["auroc"])["auroc"]
    as_if_independent = evaluate(target[nine], prob[nine], classes=CLASSES, keys=["auroc"])["auroc"]
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high))
    assert clustered.high - clustered.low > 2.5 * (as_if_independent.high - as_if_independent.low)


def test_folds_combine_as_their_mean_with_patients_drawn_inside_each(rng):
    folds = []
    for fold in range(3):
        target, prob = predictions(rng, 80)
        folds.append(measure(target, prob, classes=CLASSES, groups=np.array([f"{fold}-{i // 2}" for i in range(80)])))
    combined = combine_folds(folds, keys=["auroc", "recall@fixed_0.5"], resamples=400)
    single = [combine_folds([fold], keys=["auroc"], resamples=400)["auroc"] for fold in folds]
    score = combined["auroc"]
    assert score.value == pytest.approx(np.mean([one.value for one in single]))
    assert score.low < score.value < score.high
    mean_width = np.mean([one.high - one.low for one in single])
    assert score.high - score.low == pytest.approx(mean_width / np.sqrt(3), rel=0.2)
    assert (score.n_cases, score.n_patients) == (240, 120)


def test_folds_are_drawn_independently_of_each_other(rng):
    one = measure(*predictions(rng), classes=CLASSES)
    single = combine_folds([one], keys=["auroc"])["auroc"]
    twice = combine_folds([one, one], keys=["auroc"])["auroc"]
    assert twice.value == single.value
    assert twice.high - twice.low == pytest.approx((single.high - single.low) / np.sqrt(2), rel=0.15)


def test_an_undefined_fold_is_left_out_and_counted(rng):
    target, prob = predictions(rng)
    defined = measure(target, prob, classes=CLASSES)
    undefined = measure(np.zeros_like(target), prob, classes=CLASSES)
    score = combine_folds([defined, undefined], keys=["auroc"], resamples=50)["auroc"]
    assert score.value == defined.scores(["auroc"])["auroc"].value
    assert score.n_undefined == 1


def test_per_class_values_of_folds_are_averaged(rng):
    folds = [measure(rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50), classes="abc") for _ in range(2)]
    combined = combine_folds(folds, resamples=0)["auroc"].per_class
    each = [fold.scores()["auroc"].per_class for fold in folds]
    assert combined == {name: pytest.approx((each[0][name] + each[1][name]) / 2) for name in "abc"}


def test_a_paired_difference_is_sharper_than_its_two_intervals(rng):
    target, good = predictions(rng, 300, strength=1.0)
    worse = good + rng.normal(scale=0.15, size=(300, 1)) * [-1, 1]
    worse = np.clip(worse, 0, 1)
    a, b = (measure(target, prob, classes=CLASSES) for prob in (good, worse))
    change = paired_difference([a], [b], keys=["auroc"], resamples=500)["auroc"]
    one, other = (combine_folds([m], keys=["auroc"], resamples=500)["auroc"] for m in (a, b))
    assert change.value == pytest.approx(one.value - other.value)
    assert change.low < change.value < change.high
    assert change.high - change.low < 0.7 * (one.high - one.low)
    back = paired_difference([b], [a], keys=["auroc"], resamples=500)["auroc"]
    assert (back.low, back.high, back.p) == pytest.approx((-change.high, -change.low, change.p))


def test_a_model_does_not_differ_from_itself(rng):
    one = measure(*predictions(rng), classes=CLASSES)
    for change in paired_difference([one, one], [one, one], resamples=30).values():
        assert (change.value, change.low, change.high, change.p) == (0, 0, 0, 1)


def test_paired_differences_need_the_same_patients(rng):
    target, prob = predictions(rng)
    a, b = measure(target, prob, classes=CLASSES), measure(target[:100], prob[:100], classes=CLASSES)
    with pytest.raises(MedprobeError, match="120 and 100 cases"):
        paired_difference([a], [b])
    with pytest.raises(MedprobeError, match="same folds"):
        paired_difference([a, a], [a])
    with pytest.raises(MedprobeError, match="at least one fold"):
        combine_folds([])


def test_p_counts_replicates_beyond_zero_on_the_rarer_side():
    assert two_sided_p(np.array([1.0] * 95 + [-1.0] * 4)) == pytest.approx(2 * 5 / 100)
    assert two_sided_p(np.ones(999)) == pytest.approx(0.002)
    assert two_sided_p(np.zeros(9)) == 1
    assert np.isnan(two_sided_p(np.full(3, np.nan)))


def test_equal_models_are_rarely_called_different(rng):
    p = []
    for _ in range(80):
        target, left = predictions(rng, 80)
        positive = 1 / (1 + np.exp(-(2 * target - 1 + rng.normal(size=80))))
        sides = [measure(target, prob, classes=CLASSES) for prob in (left, np.column_stack([1 - positive, positive]))]
        p.append(paired_difference(sides[:1], sides[1:], keys=["auroc"], resamples=100)["auroc"].p)
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) < 0.15


def test_holm_on_an_example_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02, float("nan"), 0.03])[::2] == pytest.approx([0.04, 0.04])
    assert np.isnan(holm([0.02, float("nan")])[1])
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    adjusted = np.array(holm(p))
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_seeds_are_mean_and_sample_deviation():
    summary = combine_seeds([0.7, 0.8, 0.9])
    assert (summary.mean, summary.sd, summary.n) == pytest.approx((0.8, 0.1, 3))
    assert summary.values == (0.7, 0.8, 0.9)
    assert np.isnan(combine_seeds([0.7]).sd)
    with_gap = combine_seeds([0.7, float("nan"), 0.9])
    assert (with_gap.mean, with_gap.n, len(with_gap.values)) == (pytest.approx(0.8), 2, 3)
    assert np.isnan(combine_seeds([float("nan")]).mean)


def test_intervals_leave_out_undefined_replicates():
    assert interval(np.array([np.nan, 1.0, 3.0]), 0.5) == (1.5, 2.5)
    assert np.isnan(interval(np.array([np.nan]))).all()
