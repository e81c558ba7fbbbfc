"""Laws of paired differences, of signed ranks and of Holm's correction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics.classification import measure
from medprobe.metrics.paired import holm, paired_difference, two_sided_p, wilcoxon
from medprobe.metrics.percase import measure_cases
from medprobe.metrics.stats import combine_folds

CLASSES = ("no", "yes")


def predictions(rng, n=120, strength=1.0):
    target = rng.integers(0, 2, n)
    positive = 1 / (1 + np.exp(-(strength * (2 * target - 1) + rng.normal(size=n))))
    return target, np.column_stack([1 - positive, positive])


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


def test_an_unknown_method_is_named(rng):
    one = measure_cases({"x": rng.random(4)}, np.arange(4))
    with pytest.raises(RequestError, match="basic"):
        paired_difference([one], [one], method="basic")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 70), st.booleans())
def test_signed_ranks_of_one_case_per_patient_are_those_of_scipy(seed, n, coarse):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n), rng.random(n)
    if coarse:
        a, b = np.round(a * 8) / 8, np.round(b * 8) / 8
    found = wilcoxon(a, b, np.arange(n))
    assert (found.n_patients, found.n_zero, found.n_undefined) == (n, (a == b).sum(), 0)
    if found.n_zero == n:
        assert np.isnan([found.statistic, found.p]).all()
    else:
        assert (found.statistic, found.p) == pytest.approx(stats.wilcoxon(a, b))
        back = wilcoxon(b, a, np.arange(n))
        assert (back.statistic, back.p) == (found.statistic, found.p)


def test_signed_ranks_rank_patients_by_their_mean_over_cases_defined_in_both():
    groups = np.array(list("aabbccddee"))
    a = np.array([0.9, 0.7, 0.8, np.nan, 0.6, 0.6, 0.5, 0.4, np.nan, 0.2])
    b = np.array([0.8, 0.6, 0.5, 0.1, 0.7, 0.5, 0.7, 0.6, 0.3, np.nan])
    found = wilcoxon(a, b, groups)
    assert (found.n_patients, found.n_zero, found.n_undefined) == (4, 1, 3)
    assert found.statistic == 2, "of +0.1, +0.3, 0 (but for rounding), -0.2 the negative has rank 2"
    assert found.p == pytest.approx(2 * 3 / 8)
    order = np.random.default_rng(0).permutation(10)
    assert wilcoxon(a[order], b[order], groups[order]) == found


def test_differences_that_only_rounding_tells_apart_are_tied():
    a, b = np.array([0.3, 0.7, 0.9, 1.1, 0.5]), np.array([0.2, 0.6, 0.8, 1.2, 0.1])
    assert wilcoxon(a, b, np.arange(5)).statistic == 2.5
    assert wilcoxon(a * 1000, b * 1000, np.arange(5)).statistic == 2.5


def test_nothing_to_rank_is_undefined():
    same = wilcoxon(np.ones(4), np.ones(4), np.arange(4))
    assert np.isnan([same.statistic, same.p]).all()
    assert (same.n_patients, same.n_zero) == (4, 4)
    none = wilcoxon(np.full(3, np.nan), np.ones(3), np.arange(3))
    assert np.isnan([none.statistic, none.p]).all()
    assert (none.n_patients, none.n_zero, none.n_undefined) == (0, 0, 3)


def test_signed_ranks_need_one_finite_value_per_case():
    with pytest.raises(MedprobeError, match=r"found \(3,\), \(2,\) and \(3,\)"):
        wilcoxon(np.ones(3), np.ones(2), np.arange(3))
    with pytest.raises(MedprobeError, match="one metric of one class"):
        wilcoxon(np.ones((3, 2)), np.ones((3, 2)), np.arange(3))
    with pytest.raises(MedprobeError, match="infinite"):
        wilcoxon(np.array([1, np.inf]), np.ones(2), np.arange(2))
