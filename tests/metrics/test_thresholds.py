"""Threshold rules against brute force over all candidates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_curve

from medprobe.errors import RequestError
from medprobe.metrics.thresholds import RULES, choose, is_oracle

PAIRS = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=30).filter(
    lambda pairs: len({outcome for outcome, _ in pairs}) == 2
)


def columns(pairs):
    return np.array([outcome for outcome, _ in pairs]), np.array([score / 12 for _, score in pairs])


@pytest.mark.equality("scikit-learn, roc_curve: Youden's threshold; identical")
@settings(deadline=None)
@given(PAIRS)
def test_youden_is_the_best_observed_threshold_and_the_highest_of_equals(pairs):
    outcome, score = columns(pairs)

    def quality(threshold):
        called = score >= threshold
        return round(called[outcome].mean() - called[~outcome].mean(), 12)

    assert choose("youden_val", outcome, score) == max(score, key=lambda t: (quality(t), t))
    fpr, tpr, thresholds = roc_curve(outcome, score, drop_intermediate=False)
    if (tpr - fpr).max() > 1e-9:
        assert choose("youden_test", outcome, score) == thresholds[np.argmax(np.round(tpr - fpr, 12))]


@settings(deadline=None)
@given(PAIRS)
def test_f1_is_the_best_observed_threshold(pairs):
    outcome, score = columns(pairs)
    best = max(np.unique(score), key=lambda t: (round(f1_score(outcome, score >= t), 12), t))
    assert choose("f1_val", outcome, score) == best


@pytest.mark.equality(
    "ibrahimethemhamamci/CT-CLIP, find_threshold of bootstrap_values.py; identical"
)
@pytest.mark.trap("methods 3.2: the CT-CLIP rule searches linspace(0, 1, 100) for the point closest to the top left")
@settings(deadline=None)
@given(PAIRS)
def test_closest_topleft_is_the_last_minimum_of_the_grid_called_strictly_above(pairs):
    outcome, score = columns(pairs)
    best, distance = 0.0, np.inf
    for threshold in np.linspace(0, 1, 100):
        called = score > threshold
        current = np.sqrt((1 - called[outcome].mean()) ** 2 + called[~outcome].mean() ** 2)
        if current <= distance + 1e-12:
            best, distance = threshold, current
    chosen = choose("closest_topleft_test", outcome, score)
    assert chosen == np.nextafter(best, np.inf)
    np.testing.assert_array_equal(score >= chosen, score > best)


def test_a_label_with_one_outcome_has_no_threshold():
    for rule in RULES:
        value = choose(rule, np.ones(3, dtype=bool), np.array([0.1, 0.5, 0.9]))
        assert value == 0.5 if rule == "fixed_0.5" else np.isnan(value)


@pytest.mark.trap("methods 3.2: thresholds chosen on the evaluation labels leak them and are named oracles")
def test_rules_chosen_on_the_scored_labels_are_oracles():
    assert is_oracle("f1.macro@youden_test")
    assert is_oracle("accuracy@closest_topleft_test")
    assert not any(is_oracle(key) for key in ("auroc", "f1.macro@youden_val", "accuracy@fixed_0.5"))


def test_an_unknown_rule_lists_those_there_are():
    with pytest.raises(RequestError, match="youden_val, f1_val"):
        choose("best_val", np.array([True, False]), np.array([0.1, 0.2]))
