"""Intervals from leaving patients out: what they equal, where they end, and what a lost class does to them."""

import numpy as np
import pytest
from scipy import stats

from medprobe.metrics import intervals
from medprobe.metrics.classification import measure
from medprobe.metrics.percase import measure_cases, ratio_of_sums
from medprobe.metrics.stats import combine_folds, mean_intervals, replicates

NAN = float("nan")


def multiclass(true, called, groups=None, key="f1.macro", method="jackknife"):
    true, called = np.array(true), np.array(called)
    one = measure(true, np.eye(3)[called], classes="abc", groups=np.arange(len(true)) if groups is None else np.array(groups))
    return combine_folds([one], keys=[key], method=method)[key]


def ends_of(values, key="x", facts=None, groups=None):
    groups = np.arange(len(values)) if groups is None else groups
    score = combine_folds([measure_cases({key: np.array(values)}, groups, facts=facts)])[key]
    return score.low, score.high


def test_symmetric_values_without_limits_have_the_interval_of_students_t():
    values = np.concatenate([np.arange(1, 16), -np.arange(1, 16)]).astype(float)
    assert ends_of(values) == pytest.approx(stats.t.interval(0.95, 29, 0, stats.sem(values)))


def test_an_accuracy_has_the_logit_interval_of_its_binomial():
    right = (np.arange(400) < 280).astype(float)
    error = np.sqrt(0.7 * 0.3 / 399) / 0.21
    logit = np.log(0.7 / 0.3) + np.array([-1, 1]) * stats.t.ppf(0.975, 399) * error
    assert ends_of(right, "dice") == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-3)


def test_ends_stay_where_scores_can_be_and_lean_to_the_long_tail(rng):
    near_one = 1 - rng.random(12) ** 8 * 0.3
    low, high = ends_of(near_one, "dice")
    assert 0 < low < near_one.mean() < high < 1
    assert near_one.mean() - low > high - near_one.mean()
    distances = rng.lognormal(sigma=1.5, size=12)
    low, high = ends_of(distances, "hd95", {"hd95": ("mm", False)})
    assert 0 < low < distances.mean() < high
    assert high - distances.mean() > 2 * (distances.mean() - low)
    correlation = multiclass([0, 1, 2] * 8, [0, 1, 2] * 7 + [1, 2, 0], key="mcc")
    assert -1 < correlation.low < correlation.value < correlation.high < 1


def all_right(cases, freedom):
    """The lower end of Wilson's interval."""
    return cases / (cases + stats.t.ppf(0.975, freedom) ** 2)


@pytest.mark.parametrize("cases", [20, 100])
def test_a_perfect_score_is_as_sure_as_so_many_right_patients(cases):
    low = all_right(cases, cases - 1)
    assert ends_of(np.ones(cases), "dice") == pytest.approx((low, 1), abs=1e-4)
    assert ends_of(np.zeros(cases), "dice") == pytest.approx((0, 1 - low), abs=1e-4)


def test_a_perfect_auc_is_as_sure_as_its_rarer_outcome():
    target = (np.arange(100) < 10).astype(int)
    prob = np.column_stack([1 - target, target]).astype(float)
    score = combine_folds([measure(target, prob, classes=("no", "yes"))], keys=["auroc"])["auroc"]
    assert (score.low, score.high) == pytest.approx((all_right(10, 99), 1), abs=1e-4)


@pytest.mark.parametrize("target", [[0] * 20, [1] * 20])
@pytest.mark.parametrize("right", [True, False])
def test_one_outcome_alone_has_intervals_of_what_is_defined(target, right):
    called = np.array(target) if right else 1 - np.array(target)
    found = combine_folds([measure(np.array(target), np.eye(2)[called], classes=("no", "yes"))])
    assert np.isnan(found["auroc"].value)
    for key, score in found.items():
        if not np.isnan(score.value):
            assert 0 <= score.low <= score.value <= score.high <= 1, key
            assert score.small, key
    recall = found["recall@fixed_0.5"]
    assert recall.high - recall.low > 0.5, "without the other outcome nothing is known of it"


def test_a_class_that_no_case_has_does_not_stop_a_perfect_score():
    found = combine_folds([measure(np.arange(40) % 2, np.eye(3)[np.arange(40) % 2], classes="abc")])
    assert (found["mcc"].value, found["mcc"].high) == (1, 1)
    assert "0 patients with c" in found["mcc"].small


def test_equal_values_have_no_width():
    assert ends_of(np.full(20, 0.3), "dice") == pytest.approx((0.3, 0.3))
    assert ends_of(np.zeros(20), "hd95", {"hd95": ("mm", False)}) == (0, 0)


def test_nothing_depends_on_the_order_of_cases_nor_on_names(rng):
    values, order = rng.random((40, 1)), rng.permutation(40)
    groups = np.repeat(np.arange(20), 2)
    one, other = (
        combine_folds([measure_cases({"dice": part}, names, ("a",))])["dice"]
        for part, names in ((values, groups), (values[order], [f"p{name:03d}" for name in groups[order]]))
    )
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_more_than_five_hundred_patients_are_left_out_in_groups(rng):
    values = rng.random(3000)
    low, high = ends_of(values, "dice")
    half = 1.96 * values.std() / np.sqrt(3000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert ends_of(values, "dice") == (low, high)


def test_seeds_share_the_patients_that_are_left_out(rng):
    values = rng.random(30)
    seeds = [[measure_cases({"dice": np.clip(values + luck, 0, 1)}, np.arange(30))] for luck in (0.0, 0.0)]
    assert mean_intervals(seeds, ["dice"])["dice"] == pytest.approx(ends_of(values, "dice"))
    opposite = [[measure_cases({"dice": each}, np.arange(30))] for each in (values, 1 - values)]
    assert mean_intervals(opposite, ["dice"])["dice"] == pytest.approx((0.5, 0.5), abs=1e-9)


def test_a_score_that_one_patient_makes_or_breaks_has_no_interval(rng):
    target = (np.arange(30) < 1).astype(int)
    prob = rng.dirichlet([1, 1], 30)
    score = combine_folds([measure(target, prob, classes=("no", "yes"))], keys=["auroc"])["auroc"]
    assert np.isfinite(score.value)
    assert np.isnan([score.low, score.high]).all()
    assert score.small == "no interval: 1 patient with yes"


def test_a_rare_class_costs_no_more_than_its_share():
    true = [0] * 60 + [1] * 60 + [2] * 2
    called = [0] * 58 + [1] * 61 + [0] + [2] * 2
    score = multiclass(true, called)
    drawn = multiclass(true, called, method="percentile")
    assert score.value > 0.97
    assert 1 - 1 / 3 < score.low < score.value < score.high <= 1
    assert drawn.low > 0.9, "lost classes are left out of the draw, not counted 0"


@pytest.mark.parametrize("key", ["f1.macro", "precision.macro", "recall.macro", "jaccard.macro", "balanced_accuracy"])
def test_a_class_that_loses_its_last_case_is_left_out_not_zero(key):
    true, called = np.array([0, 0, 1, 1, 2]), np.array([0, 2, 1, 1, 2])
    one = measure(true, np.eye(3)[called], classes="abc")
    rest = measure(true[:4], np.eye(3)[called[:4]], classes="abc")
    without = one(np.array([[1.0, 1, 1, 1, 0]]), [key])[key][0]
    counted = {"f1.macro": 2, "precision.macro": 2, "recall.macro": 2, "jaccard.macro": 2, "balanced_accuracy": 2}[key]
    each = rest.scores(["f1.macro", "precision.macro", "recall.macro", "jaccard.macro"])
    known = each["recall.macro" if key == "balanced_accuracy" else key].per_class
    assert without == pytest.approx((known["a"] + known["b"]) / counted)


def test_a_label_that_loses_its_last_case_is_left_out_of_every_average(rng):
    truth = np.zeros((6, 2))
    truth[:3, 0] = truth[5, 1] = 1
    prob = np.where(truth > 0, 0.9, 0.1)
    prob[0, 1] = 0.9
    one = measure(truth, prob, classes="ab", multilabel=True)
    weights = np.array([[1.0, 1, 1, 1, 1, 0]])
    for key in ("f1.macro@fixed_0.5", "precision.macro@fixed_0.5", "auroc", "f1.macro_2class@fixed_0.5"):
        assert one(weights, [key])[key][0] == 1, key


def test_a_class_of_masks_that_loses_its_last_true_case_is_left_out():
    tp, fp, fn = np.array([[5.0, 0], [5, 0], [5, 4]]), np.array([[0.0, 3], [0, 3], [0, 0]]), np.zeros((3, 2))
    dice = ratio_of_sums(2 * tp, 2 * tp + fp + fn, true=tp + fn)
    one = measure_cases({"dice.aggregated": dice}, np.arange(3), ("a", "b"))
    assert one(np.array([[1.0, 1, 0], [1, 1, 1]]))["dice.aggregated"] == pytest.approx([1, (1 + 8 / 14) / 2])


def test_lost_draws_of_a_binary_score_are_undefined():
    target, prob = np.array([1, 0, 0, 0]), np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]])
    drawn = replicates([[measure(target, prob, classes=("no", "yes"))]], ["f1@fixed_0.5"], 50, 0)["f1@fixed_0.5"]
    assert np.isnan(drawn).any()
    assert (drawn[~np.isnan(drawn)] > 0).all()


def test_degrees_of_freedom_count_those_who_decide(rng):
    even = rng.choice([-1.0, 1.0], 40)
    assert intervals.quantile(even, 1) == pytest.approx(stats.t.ppf(0.975, 39))
    assert intervals.quantile(even, 5) == pytest.approx(stats.t.ppf(0.975, 35))
    few = np.concatenate([rng.choice([-1.0, 1.0], 3), np.full(97, 1e-3)])
    assert intervals.quantile(few, 1) == pytest.approx(stats.t.ppf(0.975, 6), rel=0.02)
