"""What is too few for an interval, or for one without a mark."""

import numpy as np
import pytest

from medprobe.metrics.classification import measure
from medprobe.metrics.percase import measure_cases
from medprobe.metrics.small import Support
from medprobe.metrics.stats import combine_folds

NAN = float("nan")


def dice_of(patients, **options):
    values = np.random.default_rng(0).random(patients)
    return combine_folds([measure_cases({"dice": values}, np.arange(patients))], resamples=50, **options)["dice"]


def labels_of(positive, n=100, seed=0):
    rng = np.random.default_rng(seed)
    target = (np.arange(n) < positive).astype(int)
    prob = 1 / (1 + np.exp(-rng.normal(target)))
    return target, np.column_stack([1 - prob, prob])


@pytest.mark.parametrize(("patients", "small"), [(1, "no interval: 1 patient"), (4, "no interval: 4 patients"), (5, "5 patients"), (19, "19 patients"), (20, None)])
def test_below_five_patients_there_is_no_interval_and_below_twenty_a_mark(patients, small):
    score = dice_of(patients)
    assert score.small == small
    assert np.isnan([score.low, score.high]).all() == (patients < 5)
    assert np.isfinite(score.value)


@pytest.mark.parametrize("positive", [4, 9, 10, 90, 91, 96])
def test_few_patients_of_one_outcome_are_marked(positive):
    score = combine_folds([measure(*labels_of(positive), classes=("no", "yes"))], keys=["auroc"], resamples=20)["auroc"]
    least = min(positive, 100 - positive)
    named = f"{least} patients {'with' if positive < 50 else 'without'} yes" if least < 10 else None
    assert score.small == named


def test_patients_are_counted_not_cases():
    target, prob = labels_of(40)
    groups = np.arange(100) // 10
    score = combine_folds([measure(target, prob, classes=("no", "yes"), groups=groups)], keys=["auroc"], resamples=20)["auroc"]
    assert score.small == "10 patients; 4 with yes (1 more below 10)"


def test_every_label_and_every_class_counts(rng):
    target = np.zeros((60, 3))
    target[:30, 0] = target[:3, 1] = 1
    target[:55, 2] = 1
    target[3:6, 1] = NAN
    score = combine_folds([measure(target, rng.random((60, 3)), classes="abc", multilabel=True)], keys=["auroc"], resamples=20)["auroc"]
    assert score.small == "3 patients with b (1 more below 10)"
    classes = np.repeat([0, 1, 2], [40, 15, 2])
    score = combine_folds([measure(classes, rng.dirichlet(np.ones(3), 57), classes="abc")], keys=["f1.macro"], resamples=20)["f1.macro"]
    assert score.small == "2 patients with c"


def test_values_that_are_undefined_do_not_count():
    values = np.random.default_rng(0).random((30, 2))
    values[4:, 1] = NAN
    one = measure_cases({"hd95": values, "asd": values[:, 1]}, np.arange(30), ("liver", "tumour"))
    scores = combine_folds([one], resamples=20)
    assert scores["hd95"].small == "4 patients for tumour"
    assert scores["asd"].small == "no interval: 4 patients"
    assert np.isnan(scores["asd"].low)
    assert np.isfinite(scores["hd95"].low)


def test_patients_are_counted_over_folds_and_once():
    rng = np.random.default_rng(0)
    folds = [measure_cases({"dice": rng.random(6)}, np.arange(6) + 6 * fold) for fold in range(4)]
    assert Support.of(folds, "dice").mark is None
    assert Support.of([folds[0]] * 4, "dice").mark == "6 patients"
    thin = [*folds, measure_cases({"dice": rng.random(3)}, np.arange(100, 103))]
    assert Support.of(thin, "dice").mark == "3 in a fold"
    one = [*folds, measure_cases({"dice": rng.random(3)}, np.zeros(3))]
    score = combine_folds(one, resamples=20)["dice"]
    assert score.small == "no interval: 1 in a fold"
    assert np.isnan([score.low, score.high]).all()
