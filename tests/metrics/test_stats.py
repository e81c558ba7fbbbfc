"""Laws of the bootstrap, of folds and seeds; BCa beside scipy's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics.classification import evaluate, measure
from medprobe.metrics.percase import measure_cases
from medprobe.metrics.stats import (
    bca_interval,
    bootstrap_weights,
    combine_folds,
    combine_seeds,
    interval,
    jackknife,
    leave_out_weights,
    replicates,
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
    scores, again = (evaluate(target, prob, classes=CLASSES) for _ in range(2))
    for key, score in scores.items():
        assert score.low <= score.value <= score.high, key
        assert score == again[key]
    drawn = [evaluate(target, prob, classes=CLASSES, method="percentile", seed=seed)["auroc"] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    narrow = evaluate(target, prob, classes=CLASSES, confidence=0.5)["auroc"]
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


def scipy_bca(data, statistic, replicates, confidence=0.95):
    """scipy's interval from our replicates; those that differ from the estimate by rounding are made equal to it, which
    scipy asks for to the bit."""
    estimate = statistic(*data, axis=-1)
    replicates = np.where(np.isclose(replicates, estimate, rtol=1e-12, atol=0), estimate, replicates)
    drawn = stats.bootstrap(data, statistic, n_resamples=2, method="percentile", rng=0)
    drawn = replace(drawn, bootstrap_distribution=np.asarray(replicates))
    again = stats.bootstrap(
        data, statistic, n_resamples=0, method="BCa", bootstrap_result=drawn, confidence_level=confidence
    )
    return again.confidence_interval.low, again.confidence_interval.high


def ends(score):
    return score.low, score.high


def mean_of_means(*samples, axis):
    return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)


@pytest.mark.equality("scipy, BCa intervals from the same replicates; 1e-9")
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(5, 40), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_bca_is_that_of_scipy_on_the_same_replicates(seed, n, confidence):
    values = np.random.default_rng(seed).exponential(size=n)
    one = measure_cases({"x": values}, np.arange(n))
    drawn = replicates([[one]], ["x"], 400, 7)["x"][0, 0]
    score = combine_folds([one], resamples=400, seed=7, confidence=confidence, method="bca")["x"]
    assert ends(score) == pytest.approx(scipy_bca((values,), np.mean, drawn, confidence), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(3, 25), min_size=2, max_size=4))
def test_bca_of_folds_is_that_of_scipy_with_folds_as_samples(seed, sizes):
    rng = np.random.default_rng(seed)
    samples = [rng.gamma(2, size=n) for n in sizes]
    folds = [measure_cases({"x": sample}, [f"{fold}-{i}" for i in range(len(sample))]) for fold, sample in enumerate(samples)]
    drawn = replicates([folds], ["x"], 300, 0)["x"][0].mean(axis=0)
    score = combine_folds(folds, resamples=300, method="bca")["x"]
    assert ends(score) == pytest.approx(scipy_bca(samples, mean_of_means, drawn), abs=1e-9)


def test_bca_agrees_with_scipys_own_replicates_and_shifts_towards_the_long_tail(rng):
    values = rng.exponential(size=40)
    one = measure_cases({"x": values}, np.arange(40))
    score = combine_folds([one], resamples=20_000, method="bca")["x"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert ends(score) == pytest.approx(theirs, abs=0.02)
    percentile = combine_folds([one], resamples=20_000, method="percentile")["x"]
    assert score.low > percentile.low + 0.01
    assert score.high > percentile.high + 0.01


def test_ties_with_the_estimate_count_half_even_when_rounding_hides_them():
    """Per-patient means of tenths: thousands of replicates equal the estimate but for the last bit."""
    tenths = np.repeat([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.9], [1, 3, 2, 1, 2, 1, 2])
    score, whole = (
        combine_folds([measure_cases({"x": values}, np.arange(12))], resamples=3000, method="bca")["x"]
        for values in (tenths, np.round(tenths * 10))
    )
    assert ends(score) == pytest.approx(np.array(ends(whole)) / 10, abs=1e-9)
    drawn = replicates([[measure_cases({"x": np.round(tenths * 10)}, np.arange(12))]], ["x"], 3000, 0)["x"][0, 0]
    assert ends(whole) == pytest.approx(scipy_bca((np.round(tenths * 10),), np.mean, drawn), abs=1e-9)


def test_the_jackknife_leaves_out_one_patient_with_all_her_cases(rng):
    target, prob = predictions(rng, 60)
    groups = np.array(list("zyxwvutsrq"))[rng.integers(0, 10, 60)]
    one = measure(target, prob, classes=CLASSES, groups=groups)
    other = measure(target, prob[:, ::-1], classes=CLASSES, groups=groups)
    (found,) = jackknife([[one], [other]], ["auroc"])["auroc"]
    kept = [groups != name for name in np.unique(groups)]
    expected = [roc_auc_score(target[keep], prob[keep, 1]) for keep in kept]
    np.testing.assert_allclose(found, [expected, 1 - np.array(expected)], atol=1e-12)


def test_leaving_out_does_not_depend_on_chunks(rng):
    groups = rng.integers(0, 9, 30)
    whole = np.concatenate(list(leave_out_weights(groups)))
    np.testing.assert_array_equal(whole, np.concatenate(list(leave_out_weights(groups, chunk=4))))
    assert whole.shape == (len(np.unique(groups)), 30)
    np.testing.assert_array_equal(whole.sum(axis=0), len(np.unique(groups)) - 1)


def test_copies_of_a_case_within_a_patient_do_not_change_bca(rng):
    values = rng.exponential(size=15)
    three = np.repeat(np.arange(15), 3)
    single, copied = (
        combine_folds([measure_cases({"x": x}, groups)], resamples=300, method="bca")["x"]
        for x, groups in ((values, np.arange(15)), (values[three], three))
    )
    assert ends(copied) == pytest.approx(ends(single), abs=1e-9)


def bca_of(values, groups=None, resamples=200):
    """Of one fold, however few its patients."""
    one = measure_cases({"x": np.array(values)}, np.arange(len(values)) if groups is None else groups)
    drawn = replicates([[one]], ["x"], resamples, 0)["x"][0, 0]
    (without,) = jackknife([[one]], ["x"])["x"]
    return bca_interval(drawn, np.array([one.scores()["x"].value]), [without[0]])


def test_equal_replicates_are_their_own_interval():
    assert bca_of([1.0] * 5) == (1, 1)
    assert bca_of([0.1, 0.1, 0.1, np.nan]) == pytest.approx((0.1, 0.1))


def test_bca_is_undefined_rather_than_a_percentile_interval_by_another_name(rng):
    assert np.isnan(bca_of([0.2, 0.8])).all()
    assert np.isnan(bca_of([0.2, 0.8, 0.4], groups=[0, 0, 1])).all()
    assert np.isnan(bca_of([0.2, 0.8, 0.4], groups=[0, 0, 0])).all()
    assert np.isnan(bca_of([np.nan] * 4)).all()
    assert np.isnan(bca_of([0.2, 0.8, 0.4], resamples=0)).all()
    assert np.isnan(bca_of([0.5, np.nan, np.nan, np.nan, np.nan, 0.7], groups=[0, 1, 2, 3, 4, 0])).all(), "undefined without patient 0"
    drawn, without = rng.normal(size=500), [rng.normal(size=20)]
    assert not np.isnan(bca_interval(drawn, np.zeros(1), without)).any()
    assert np.isnan(bca_interval(drawn, np.array([9.0]), without)).all(), "all replicates below the estimate"
    assert np.isnan(bca_interval(drawn, np.zeros(1), [np.full(20, 0.1)])).all(), "the same without any patient"
    skewed = [np.array([1.0] + [0.0] * 99)]
    assert np.isnan(bca_interval(drawn, np.array([np.sort(drawn)[0]]), skewed, 0.999999)).all(), "beyond the pole"


def test_a_fold_without_a_value_takes_no_part_in_bca(rng):
    values = rng.exponential(size=12)
    defined = measure_cases({"x": values}, np.arange(12))
    undefined = measure_cases({"x": np.full(5, np.nan)}, np.arange(5))
    both, one = (combine_folds(folds, resamples=200, method="bca")["x"] for folds in ([defined, undefined], [defined]))
    assert ends(both) == pytest.approx(ends(one), abs=1e-12)
    assert both.n_undefined == 5


def test_an_unknown_method_is_named(rng):
    one = measure_cases({"x": rng.random(4)}, np.arange(4))
    with pytest.raises(RequestError, match="no interval method named 'BCa'; there are: jackknife, percentile, bca"):
        combine_folds([one], method="BCa")


def test_folds_keep_unit_and_direction_and_never_mix_units(rng):
    facts = {"hd95": ("mm", False)}
    folds = [measure_cases({"hd95": rng.random(6), "dice": rng.random(6)}, np.arange(6), facts=facts) for _ in range(2)]
    for number in (1, 2):
        scores = combine_folds(folds[:number], resamples=20)
        assert (scores["hd95"].unit, scores["hd95"].higher_is_better) == ("mm", False)
        assert (scores["dice"].unit, scores["dice"].higher_is_better) == (None, True)
    pixels = measure_cases({"hd95": rng.random(6)}, np.arange(6), facts={"hd95": ("px", False)})
    with pytest.raises(MedprobeError, match=r"hd95 in one unit .*\('mm', False\).*\('px', False\)"):
        combine_folds([folds[0], pixels], resamples=5)


def test_the_spread_over_seeds_and_the_interval_over_patients_answer_different_questions(rng):
    """Five equal seeds have an interval but no spread; five lucky ones a spread that the intervals do not know."""
    values = rng.random(30)
    equal = [measure_cases({"x": values}, np.arange(30)) for _ in range(5)]
    lucky = [measure_cases({"x": values + luck}, np.arange(30)) for luck in rng.normal(size=5)]
    for measures, spread in ((equal, 0.0), (lucky, None)):
        scores = [combine_folds([one], resamples=200)["x"] for one in measures]
        summary = combine_seeds([score.value for score in scores])
        assert summary.sd == pytest.approx(np.std(summary.values, ddof=1) if spread is None else spread, abs=1e-12)
        widths = [score.high - score.low for score in scores]
        assert widths == pytest.approx([widths[0]] * 5)
        assert widths[0] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(30), rel=0.2)
