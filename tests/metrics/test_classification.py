"""Every score beside scikit-learn's, the cases worked by hand, and the laws the numbers obey."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medprobe.errors import MedprobeError, RequestError
from medprobe.metrics.classification import evaluate, measure, per_case

LAWS = settings(max_examples=60, deadline=None)
FRACTIONS = {
    "precision": functools.partial(sk.precision_score, zero_division=0),
    "recall": functools.partial(sk.recall_score, zero_division=0),
    "f1": functools.partial(sk.f1_score, zero_division=0),
    "jaccard": functools.partial(sk.jaccard_score, zero_division=0),
}


def quietly(function, *arguments, **options):
    """scikit-learn warns where we count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def names(n):
    return tuple(f"class {i}" for i in range(n))


@st.composite
def tables(draw, multilabel=False, smallest_width=2, weights="positive"):
    """target, prob full of ties, and case weights."""
    n, width = draw(st.integers(1, 25)), draw(st.integers(smallest_width, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prob = rng.integers(0, draw(st.sampled_from([1, 3, 8, 1000])) + 1, size=(n, width))
    prob = prob / max(1, prob.max())
    if multilabel:
        target = (rng.random((n, width)) < rng.choice([0.0, 0.2, 0.5, 1.0], size=width)).astype(float)
        target[rng.random((n, width)) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    else:
        target = rng.integers(0, draw(st.integers(1, width)), size=n)
    if weights == "counts":
        return target, prob, rng.integers(0, 4, size=n).astype(float)
    return target, prob, rng.choice([0.25, 1.0, 1.7, 3.0], size=n)


def one_column(score, truth, values, weight):
    """scikit-learn's ranking metric of one label, NaN unless both outcomes carry weight."""
    kept = ~np.isnan(truth) & (weight > 0)
    if len(np.unique(truth[kept])) < 2:
        return float("nan")
    return score(truth[kept], values[kept], sample_weight=weight[kept])


def check_ranking(values, weight, truth, prob):
    """macro, weighted and micro of our `values` against scikit-learn, label by label."""
    for name, score in (("auroc", sk.roc_auc_score), ("ap", sk.average_precision_score)):
        columns = range(truth.shape[1])
        expected = np.array([one_column(score, truth[:, i], prob[:, i], weight) for i in columns])
        positives = np.nansum(truth * weight[:, None], axis=0)
        known = ~np.isnan(expected)
        macro = expected[known].mean() if known.any() else np.nan
        weighted = np.average(expected[known], weights=positives[known]) if known.any() else np.nan
        every = np.repeat(weight, truth.shape[1])
        np.testing.assert_allclose(values[name], macro, atol=1e-12)
        np.testing.assert_allclose(values[f"{name}.weighted"], weighted, atol=1e-12)
        np.testing.assert_allclose(
            values[f"{name}.micro"], one_column(score, truth.ravel(), prob.ravel(), every), atol=1e-12
        )


def at(one, weight, keys=None):
    return {key: value[0] for key, value in one(weight[None], keys).items()}


@pytest.mark.equality("scikit-learn, AUROC and AP of labels: macro, weighted, micro; 1e-12")
@LAWS
@given(tables(multilabel=True, smallest_width=1, weights="counts"))
def test_multilabel_ranking_equals_sklearn_with_ties_nan_and_weights(table):
    target, prob, weight = table
    one = measure(target, prob, classes=names(prob.shape[1]), multilabel=True)
    check_ranking(at(one, weight, [key for key in one.metrics if "@" not in key]), weight, target, prob)


@pytest.mark.equality("scikit-learn, AUROC and AP of classes, one against the rest; 1e-12")
@LAWS
@given(tables(smallest_width=3, weights="counts"))
def test_multiclass_ranking_equals_sklearn_one_vs_rest(table):
    target, prob, weight = table
    one = measure(target, prob, classes=names(prob.shape[1]))
    truth = (target[:, None] == np.arange(prob.shape[1])).astype(float)
    check_ranking(at(one, weight, [key for key in one.metrics if key.startswith(("auroc", "ap"))]), weight, truth, prob)


def test_multiclass_auroc_equals_sklearn_on_probabilities_that_sum_to_one(rng):
    target, prob = rng.integers(0, 4, 300), rng.dirichlet(np.ones(4), 300)
    scores = evaluate(target, prob, classes=names(4), resamples=0)
    for average, key in (("macro", "auroc"), ("weighted", "auroc.weighted"), ("micro", "auroc.micro")):
        expected = sk.roc_auc_score(target, prob, multi_class="ovr", average=average)
        assert scores[key].value == pytest.approx(expected, abs=1e-12)


@pytest.mark.equality(
    "scikit-learn, accuracy, balanced accuracy, MCC, precision, recall, F1, Jaccard of classes: "
    "macro, weighted, micro; 1e-12"
)
@pytest.mark.trap("methods 9: macro and weighted P/R/F1 with zero_division 0; accuracy equals weighted recall")
@LAWS
@given(tables(smallest_width=3))
def test_multiclass_decisions_equal_sklearn(table):
    target, prob, weight = table
    labels, predicted = np.arange(prob.shape[1]), np.argmax(prob, axis=1)
    one = measure(target, prob, classes=names(len(labels)))
    values = at(one, weight)
    for name, score in FRACTIONS.items():
        for average in ("macro", "weighted", "micro"):
            expected = quietly(score, target, predicted, labels=labels, average=average, sample_weight=weight)
            assert values[f"{name}.{average}"] == pytest.approx(expected, abs=1e-12), (name, average)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(target, predicted, sample_weight=weight))
    balanced = quietly(sk.balanced_accuracy_score, target, predicted, sample_weight=weight)
    assert values["balanced_accuracy"] == pytest.approx(balanced)
    if len(set(target)) > 1 and len(set(predicted)) > 1:
        assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(target, predicted, sample_weight=weight), abs=1e-9)
    assert values["recall.weighted"] == pytest.approx(values["accuracy"])
    scores = one.scores()
    per_class = quietly(FRACTIONS["f1"], target, predicted, labels=labels, average=None)
    np.testing.assert_allclose(list(scores["f1.macro"].per_class.values()), per_class)
    assert scores["precision.macro"].n_undefined == len(set(labels) - set(predicted))
    assert scores["recall.macro"].n_undefined == len(set(labels) - set(target))


@LAWS
@given(tables(smallest_width=3, weights="counts"))
def test_mcc_equals_sklearn_on_repeated_cases(table):
    target, prob, weight = table
    repeated = np.repeat(np.arange(len(target)), weight.astype(int))
    mine = at(measure(target, prob, classes=names(prob.shape[1])), weight, ["mcc"])["mcc"]
    if len(repeated) and not np.isnan(mine):
        assert mine == pytest.approx(
            quietly(sk.matthews_corrcoef, target[repeated], prob[repeated].argmax(axis=1)), abs=1e-9
        )


@pytest.mark.equality("scikit-learn, the same of two classes; 1e-12")
@LAWS
@given(tables(smallest_width=2).filter(lambda table: table[1].shape[1] == 2))
def test_binary_decisions_equal_sklearn(table):
    target, prob, weight = table
    values = at(measure(target, prob, classes=("no", "yes")), weight)
    predicted = (prob[:, 1] >= 0.5).astype(int)
    for name, score in FRACTIONS.items():
        expected = quietly(score, target, predicted, sample_weight=weight)
        assert values[f"{name}@fixed_0.5"] == pytest.approx(expected, abs=1e-12)
        both = quietly(score, target, predicted, labels=[0, 1], average="macro", sample_weight=weight)
        assert values[f"{name}.macro_2class@fixed_0.5"] == pytest.approx(both, abs=1e-12)
    negative = quietly(FRACTIONS["recall"], target, predicted, pos_label=0, sample_weight=weight)
    assert values["specificity@fixed_0.5"] == pytest.approx(negative, abs=1e-12)
    accuracy = sk.accuracy_score(target, predicted, sample_weight=weight)
    assert values["accuracy@fixed_0.5"] == pytest.approx(accuracy)
    balanced = quietly(sk.balanced_accuracy_score, target, predicted, sample_weight=weight)
    assert values["balanced_accuracy@fixed_0.5"] == pytest.approx(balanced)
    np.testing.assert_allclose(
        values["auroc"], one_column(sk.roc_auc_score, target.astype(float), prob[:, 1], weight), atol=1e-12
    )


@pytest.mark.equality("scikit-learn, the same of labels, with samples and subset; 1e-12")
@pytest.mark.trap("methods 3.2: every reading of threshold and average is stored, none is claimed to be the printed one")
@LAWS
@given(tables(multilabel=True, smallest_width=2))
def test_multilabel_decisions_equal_sklearn(table):
    target, prob, weight = table
    rule = "@fixed_0.5"
    values = at(measure(target, prob, classes=names(prob.shape[1]), multilabel=True), weight)
    called = prob >= 0.5
    known = ~np.isnan(target)
    columns = [(target[k, i], called[k, i], weight[k]) for i, k in enumerate(known.T) if k.any()]

    def mean(score, **options):
        each = [quietly(score, t, c, sample_weight=w, **options) for t, c, w in columns]
        return np.mean(each) if each else np.nan

    for name, score in FRACTIONS.items():
        np.testing.assert_allclose(values[f"{name}.macro{rule}"], mean(score), atol=1e-12)
        both = mean(score, labels=[0, 1], average="macro")
        np.testing.assert_allclose(values[f"{name}.macro_2class{rule}"], both, atol=1e-12)
        if known.any():
            every = np.repeat(weight, target.shape[1])[known.ravel()]
            pooled = quietly(score, target[known], called[known], sample_weight=every)
            np.testing.assert_allclose(values[f"{name}.micro{rule}"], pooled, atol=1e-12)
    np.testing.assert_allclose(values[f"accuracy.label{rule}"], mean(sk.accuracy_score), atol=1e-12)
    whole = known.all(axis=1)
    if not whole.any():
        assert np.isnan(values[f"accuracy.subset{rule}"])
        return
    truth, called, weight = target[whole].astype(int), called[whole].astype(int), weight[whole]
    for suffix in ("", "_nofinding"):
        if suffix:
            truth, called = (np.column_stack([part, ~part.any(axis=1)]) for part in (truth, called))
        for name, score in FRACTIONS.items():
            expected = quietly(score, truth, called, average="samples", sample_weight=weight)
            np.testing.assert_allclose(values[f"{name}.samples{suffix}{rule}"], expected, atol=1e-12)
        exact = sk.accuracy_score(truth, called, sample_weight=weight)
        np.testing.assert_allclose(values[f"accuracy.subset{suffix}{rule}"], exact, atol=1e-12)


@LAWS
@given(tables(multilabel=True, smallest_width=2))
def test_multilabel_support_weighting_equals_sklearn_on_fully_labelled_cases(table):
    target, prob, weight = table
    target = np.nan_to_num(target)
    values = at(measure(target, prob, classes=names(prob.shape[1]), multilabel=True), weight)
    for name, score in FRACTIONS.items():
        expected = quietly(score, target, prob >= 0.5, average="weighted", sample_weight=weight)
        if target.any():
            np.testing.assert_allclose(values[f"{name}.weighted@fixed_0.5"], expected, atol=1e-12)
        else:
            assert np.isnan(values[f"{name}.weighted@fixed_0.5"])


def official_ctclip(target, prob):
    """Means over labels of AUROC, accuracy and precision, each label at CT-CLIP's threshold."""
    columns = []
    for outcome, score in zip(target.T.astype(bool), prob.T, strict=True):
        nearest, threshold = np.inf, 0.0
        for step in range(100):
            called = score > np.linspace(0, 1, 100)[step]
            distance = np.sqrt((1 - called[outcome].mean()) ** 2 + called[~outcome].mean() ** 2)
            if distance <= nearest:
                nearest, threshold = distance, np.linspace(0, 1, 100)[step]
        called = score > threshold
        columns.append(
            [
                sk.roc_auc_score(outcome, score),
                (called == outcome).mean(),
                outcome[called].mean() if called.any() else 0.0,
            ]
        )
    return dict(
        zip(
            (
                "auroc",
                "accuracy.label@closest_topleft_test",
                "precision.macro@closest_topleft_test",
            ),
            np.mean(columns, axis=0),
            strict=True,
        )
    )


@pytest.mark.equality(
    "ibrahimethemhamamci/CT-CLIP, scripts/bootstrap_values.py: AUROC, accuracy and precision at "
    "the threshold of each label; 1e-12"
)
@pytest.mark.parametrize("seed", range(4))
def test_labels_are_scored_as_the_evaluation_of_ct_clip(seed):
    rng = np.random.default_rng(seed)
    target = (rng.random((150, 18)) < rng.uniform(0.03, 0.6, 18)).astype(float)
    target[:2] = [[0], [1]]
    prob = np.clip(rng.normal(0.35 + 0.2 * target, 0.2), 0, 1)
    prob = np.linspace(0, 1, 100)[np.rint(99 * prob).astype(int)] if seed % 2 else np.round(prob, 3)
    scores = evaluate(target, prob, classes=names(18), multilabel=True, resamples=0)
    expected = official_ctclip(target, prob)
    assert {key: scores[key].value for key in expected} == pytest.approx(expected, rel=1e-12)


def test_validation_thresholds_decide_the_test_cases():
    val = (np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]))
    target, prob = np.array([0, 1, 1, 0]), np.array([[0.75, 0.25], [0.7, 0.3], [0.65, 0.35], [0.1, 0.9]])
    scores = evaluate(target, prob, classes=("no", "yes"), val=val, resamples=0)
    assert scores["recall@youden_val"].value == 1.0
    assert scores["precision@youden_val"].value == pytest.approx(2 / 3)
    assert scores["specificity@youden_val"].value == 0.5
    assert scores["recall@fixed_0.5"].value == 0.0


def test_without_validation_its_threshold_rules_are_absent(rng):
    scores = evaluate(rng.integers(0, 2, 20), rng.random((20, 2)), classes=("no", "yes"), resamples=0)
    assert {key.partition("@")[2] for key in scores} == {"", "fixed_0.5", "youden_test", "closest_topleft_test"}
    assert list(scores)[:2] == ["auroc", "ap"]


def test_a_label_without_a_threshold_is_skipped_and_counted(rng):
    target, prob = (rng.random((40, 3)) < 0.5).astype(float), rng.random((40, 3))
    val = (np.column_stack([np.zeros(40), target[:, 1:]]), prob)
    scores = evaluate(target, prob, classes=names(3), multilabel=True, val=val, resamples=0)
    score = scores["f1.macro@youden_val"]
    assert score.n_undefined == 1
    assert np.isnan(score.per_class["class 0"])
    assert score.value == pytest.approx(np.mean([score.per_class["class 1"], score.per_class["class 2"]]))
    assert np.isnan(scores["accuracy.subset@youden_val"].value)
    assert scores["precision.micro@youden_val"].n_undefined == 1
    assert scores["f1.macro@fixed_0.5"].n_undefined == 0


@pytest.mark.trap("methods 9: macro AUC over labels skips labels with one outcome, and counts them")
def test_labels_with_one_outcome_are_nan_skipped_and_counted():
    target = np.array([[0, 1, np.nan], [1, 1, np.nan], [0, 1, np.nan]])
    prob = np.array([[0.1, 0.5, 0.5], [0.9, 0.5, 0.5], [0.2, 0.5, 0.5]])
    scores = evaluate(target, prob, classes=names(3), multilabel=True, resamples=20)
    assert scores["auroc"].value == scores["ap"].value == 1.0
    assert scores["auroc"].n_undefined == scores["ap"].n_undefined == 2
    assert np.isnan(scores["auroc"].per_class["class 1"])
    one_sided = evaluate(np.zeros(3, int), prob[:, :2], classes=names(2), resamples=20)["auroc"]
    assert np.isnan([one_sided.value, one_sided.low, one_sided.high]).all()
    assert one_sided.n_undefined == 1


def test_cases_count_where_a_label_is_known_and_case_wise_readings_need_all():
    target = np.array([[1, 0], [0, np.nan], [np.nan, np.nan], [0, 1], [1, 1]])
    prob = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.9], [0.1, 0.2], [0.2, 0.3]])
    groups = np.array(["a", "b", "c", "d", "d"])
    scores = evaluate(target, prob, classes=names(2), multilabel=True, groups=groups, resamples=0)
    assert (scores["auroc"].n_cases, scores["auroc"].n_patients) == (4, 3)
    subset = scores["accuracy.subset@fixed_0.5"]
    assert (subset.value, subset.n_cases, subset.n_patients, subset.n_undefined) == (pytest.approx(1 / 3), 3, 2, 2)
    assert scores["accuracy.label@fixed_0.5"].value == pytest.approx(np.mean([3 / 4, 1 / 3]))
    assert scores["precision.samples@fixed_0.5"].n_undefined == 4
    assert scores["precision.macro_2class@fixed_0.5"].n_undefined == 1
    perfect = evaluate(np.ones((2, 2)), np.ones((2, 2)), classes=names(2), multilabel=True, resamples=0)
    assert perfect["recall.macro_2class@fixed_0.5"].n_undefined == 2
    assert perfect["recall.macro_2class@fixed_0.5"].value == 0.5


def test_a_small_table_worked_by_hand():
    target = np.array([0, 0, 1, 1])
    prob = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    scores = evaluate(target, prob, classes=("no", "yes"), groups=np.array(["a", "a", "b", "c"]), resamples=0)
    assert scores["auroc"].value == 0.75
    assert scores["ap"].value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores["recall@fixed_0.5"].value == 0.5
    assert scores["jaccard@fixed_0.5"].value == 0.5
    assert (scores["auroc"].n_cases, scores["auroc"].n_patients) == (4, 3)


def test_exclusive_ties_go_to_the_first_class_and_binary_ties_to_the_positive_one():
    ties = evaluate(np.array([0, 1, 2]), np.full((3, 3), 1 / 3), classes=names(3), resamples=0)
    assert ties["recall.macro"].per_class == {"class 0": 1.0, "class 1": 0.0, "class 2": 0.0}
    half = evaluate(np.array([0, 1]), np.full((2, 2), 0.5), classes=names(2), resamples=0)
    assert half["recall@fixed_0.5"].value == 1.0


def test_a_class_that_vanishes_in_a_replicate_is_left_out_of_it_not_counted_as_0():
    target, prob = np.array([0, 1, 2]), np.eye(3)
    one = measure(target, prob, classes=names(3))
    assert at(one, np.array([1.0, 1.0, 0.0]))["f1.macro"] == 1.0
    never = measure(np.array([0, 1, 1]), prob[[0, 1, 1]], classes=names(3))
    assert at(never, np.array([1.0, 1.0, 0.0]))["f1.macro"] == pytest.approx(2 / 3)


@LAWS
@given(tables(multilabel=True, smallest_width=1))
def test_auroc_ignores_monotone_maps_and_turns_over_with_the_labels(table):
    target, prob, weight = table
    options = {"classes": names(prob.shape[1]), "multilabel": True}
    keys = ["auroc", "ap"]
    plain = at(measure(target, prob, **options), weight, keys)
    mapped = at(measure(target, 0.1 + np.sqrt(prob) / 2, **options), weight, keys)
    flipped = at(measure(1 - target, prob, **options), weight, keys)
    for key in keys:
        np.testing.assert_allclose(plain[key], mapped[key], atol=1e-12)
    np.testing.assert_allclose(plain["auroc"], 1 - flipped["auroc"], atol=1e-12)


@LAWS
@given(tables(multilabel=True, weights="counts"))
def test_integer_weights_mean_repeated_cases(table):
    target, prob, weight = table
    repeated = np.repeat(np.arange(len(target)), weight.astype(int))
    if not len(repeated):
        return
    options = {"classes": names(prob.shape[1]), "multilabel": True}
    keys = [
        "auroc",
        "ap",
        "auroc.micro",
        "accuracy.label@fixed_0.5",
        "accuracy.subset@fixed_0.5",
        "f1.samples@fixed_0.5",
    ]
    weighted = at(measure(target, prob, **options), weight, keys)
    copied = measure(target[repeated], prob[repeated], **options).scores(keys)
    for key in keys:
        np.testing.assert_allclose(weighted[key], copied[key].value, atol=1e-12)


def test_per_case_values_average_to_the_scores(rng):
    target, prob = rng.integers(0, 2, 50), rng.dirichlet([1, 1], 50)
    values = per_case(target, prob, classes=names(2))
    score = evaluate(target, prob, classes=names(2), resamples=0)["accuracy@fixed_0.5"].value
    assert values["correct"].mean() == pytest.approx(score)
    assert values["log_loss"].mean() == pytest.approx(sk.log_loss(target, prob))
    target, prob = rng.integers(0, 4, 50), rng.dirichlet(np.ones(4), 50)
    values = per_case(target, prob / 2, classes=names(4))
    assert values["correct"].mean() == pytest.approx(np.mean(prob.argmax(axis=1) == target))
    assert values["log_loss"].mean() == pytest.approx(sk.log_loss(target, prob))


def test_per_case_values_of_labels_are_nan_where_unlabelled():
    target, prob = np.array([[1.0, np.nan], [0.0, 1.0]]), np.array([[0.8, 0.3], [0.4, 0.0]])
    values = per_case(target, prob, classes=names(2), multilabel=True)
    np.testing.assert_array_equal(values["correct"], [[1, np.nan], [1, 0]])
    np.testing.assert_allclose(values["log_loss"][:, 0], -np.log([0.8, 0.6]))
    assert np.isfinite(values["log_loss"][1, 1])
    with pytest.raises(RequestError, match="needs validation"):
        per_case(target, prob, classes=names(2), multilabel=True, rule="youden_val")


def test_per_case_decisions_follow_the_validation_threshold():
    val = (np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    values = per_case(np.array([1]), np.array([[0.75, 0.25]]), classes=names(2), rule="youden_val", val=val)
    assert values["correct"].tolist() == [1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_counted_in_the_error(bad):
    prob = np.full((5, 3), 0.3)
    prob[1, 0] = prob[1, 2] = prob[4, 1] = bad
    with pytest.raises(MedprobeError, match="2 of 5 cases") as error:
        measure(np.zeros(5, int), prob, classes=names(3))
    assert error.value.exit_status == 1


@pytest.mark.parametrize(
    ("target", "prob", "multilabel", "words"),
    [
        (np.zeros(3, int), np.zeros((4, 2)), False, "found \\(4, 2\\) and \\(3,\\)"),
        (np.zeros(3, int), np.zeros((3, 5)), False, "expected probabilities \\(n, 2\\)"),
        (np.zeros(3, int), np.zeros(3), False, "expected probabilities"),
        (np.zeros(3), np.zeros((3, 2)), True, "labels \\(n, 2\\)"),
        (np.array([0, 2, 1]), np.zeros((3, 2)), False, "class indices 0 to 1"),
        (np.array([0, -1, 1]), np.zeros((3, 2)), False, "leave unlabelled cases out"),
        (np.array([0.0, 1.0, 1.0]), np.zeros((3, 2)), False, "float64"),
        (np.full((3, 2), 0.5), np.zeros((3, 2)), True, "0, 1 or NaN"),
        (np.zeros(3, int), np.full((3, 2), -3.0), False, "sigmoid"),
        (np.zeros(0, int), np.zeros((0, 2)), False, "at least one case"),
    ],
)
def test_predictions_of_the_wrong_form_are_named(target, prob, multilabel, words):
    with pytest.raises(MedprobeError, match=words):
        measure(target, prob, classes=names(2), multilabel=multilabel)


def test_one_patient_per_case_is_demanded(rng):
    with pytest.raises(MedprobeError, match="one patient per case"):
        measure(np.zeros(3, int), np.zeros((3, 2)), classes=names(2), groups=np.zeros(2))
    with pytest.raises(MedprobeError, match="validation predictions"):
        measure(np.zeros(3, int), np.zeros((3, 2)), classes=names(2), val=(np.zeros(2, int), np.zeros((3, 2))))
    with pytest.raises(RequestError, match="at least two"):
        measure(np.zeros(3, int), np.zeros((3, 1)), classes=names(1))
    with pytest.raises(RequestError, match="did you mean auroc"):
        measure(np.zeros(3, int), np.zeros((3, 2)), classes=names(2)).scores(["auroq"])
    with pytest.raises(MedprobeError, match="one column per case"):
        measure(np.zeros(3, int), np.zeros((3, 2)), classes=names(2))(np.ones((1, 4)))
