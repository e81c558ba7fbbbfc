import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import log_loss

from medprobe.errors import MedprobeError, RequestError
from medprobe.heads.logreg import CONVERGED, LogisticRegression
from medprobe.registry import HEADS
from medprobe.types import Context, State


def noisy(rng, n, dim, outputs):
    """Features of uneven scale and offset, and logits with noise, so that no class is separable."""
    x = (rng.normal(size=(n, dim)) * rng.uniform(0.1, 10, dim) + rng.normal(size=dim)).astype(np.float32)
    z = ((x - x.mean(0)) / x.std(0)) @ rng.normal(size=(dim, outputs))
    return x, z / z.std(0) + rng.logistic(size=z.shape) * 0.5


def agreement(prediction, target):
    return float((prediction.argmax(1) == target).mean())


def fitted(samples_of, recorded, x, y, **kwargs):
    head = LogisticRegression()
    ctx = recorded.context(**kwargs)
    state = head.fit(samples_of(x, y), None, ctx)
    return state, np.stack(list(head.predict(state, samples_of(x, y), ctx)))


def standardised(x):
    x = x.astype(np.float64)
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.equality("scikit-learn, LogisticRegression: two classes; 1e-5")
def test_two_classes_equal_scikit_learn(rng, samples_of, recorded):
    x, z = noisy(rng, 300, 12, 1)
    y = (z[:, 0] > 0.4).astype(int)
    state, prob = fitted(samples_of, recorded, x, y)
    reference = Reference(C=1.0, tol=1e-10, max_iter=10_000).fit(standardised(x), y)
    np.testing.assert_allclose(state.tensors["weight"][1], reference.coef_[0], atol=1e-5)
    np.testing.assert_allclose(state.tensors["weight"][0], 0)
    np.testing.assert_allclose(prob, reference.predict_proba(standardised(x)), atol=1e-6)
    assert state.meta["gradient_norm"] <= CONVERGED


@pytest.mark.equality("scikit-learn, LogisticRegression: several classes; 1e-5")
def test_several_classes_equal_scikit_learn(rng, samples_of, recorded):
    x, z = noisy(rng, 400, 9, 4)
    y = z.argmax(1)
    state, prob = fitted(samples_of, recorded, x, y)
    reference = Reference(C=1.0, tol=1e-10, max_iter=10_000).fit(standardised(x), y)
    np.testing.assert_allclose(state.tensors["weight"], reference.coef_, atol=1e-5)
    np.testing.assert_allclose(prob, reference.predict_proba(standardised(x)), atol=1e-6)
    assert state.tensors["intercept"].sum() == pytest.approx(0)


@pytest.mark.equality("scikit-learn, LogisticRegression: labels, some unknown; 1e-5")
def test_each_label_equals_scikit_learn_on_its_labelled_samples(rng, samples_of, recorded):
    x, z = noisy(rng, 300, 8, 3)
    y = (z > [0, 0.5, 1.5]).astype(np.float32)
    y[rng.random(y.shape) < 0.3] = np.nan
    state, prob = fitted(samples_of, recorded, x, y)
    xs = standardised(x)
    for label in range(3):
        known = ~np.isnan(y[:, label])
        reference = Reference(C=1.0, tol=1e-10, max_iter=10_000).fit(xs[known], y[known, label])
        np.testing.assert_allclose(state.tensors["weight"][label], reference.coef_[0], atol=1e-5)
        np.testing.assert_allclose(prob[:, label], reference.predict_proba(xs)[:, 1], atol=1e-6)


def test_more_features_than_samples_equal_scikit_learn(rng, samples_of, recorded):
    x, z = noisy(rng, 30, 80, 3)
    y = z.argmax(1)
    state, prob = fitted(samples_of, recorded, x, y)
    reference = Reference(C=1.0, tol=1e-10, max_iter=10_000).fit(standardised(x), y)
    np.testing.assert_allclose(state.tensors["weight"], reference.coef_, atol=1e-5)
    np.testing.assert_allclose(prob, reference.predict_proba(standardised(x)), atol=1e-6)


def test_c_is_the_best_on_validation_and_of_equals_the_one_of_lowest_loss(rng, samples_of, recorded):
    x, z = noisy(rng, 200, 20, 3)
    y, train, val = z.argmax(1), slice(0, 60), slice(60, 200)
    grid = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

    def monitor(prediction, target):
        return -log_loss(target, prediction)

    head = LogisticRegression(grid=grid)
    state = head.fit(samples_of(x[train], y[train]), samples_of(x[val], y[val]), recorded.context(monitor=monitor))
    mean, sd = x[train].astype(float).mean(0), x[train].astype(float).std(0)
    scores = [
        monitor(
            Reference(C=c, tol=1e-8, max_iter=5000)
            .fit((x[train] - mean) / sd, y[train])
            .predict_proba((x[val] - mean) / sd),
            y[val],
        )
        for c in grid
    ]
    np.testing.assert_allclose(state.meta["monitor"], scores, atol=1e-4)
    assert state.meta["C"] == grid[int(np.argmax(scores))]
    assert not recorded.warnings
    flat = head.fit(samples_of(x, y), samples_of(x, y), recorded.context(monitor=lambda prediction, target: 0.5))
    assert flat.meta["C"] == 10.0


def test_chosen_fit_equals_one_at_that_c_alone(rng, samples_of, recorded):
    x, z = noisy(rng, 120, 10, 3)
    y = z.argmax(1)
    ctx = recorded.context(monitor=agreement)
    path = LogisticRegression(grid=(1e-4, 1e-2, 0.1)).fit(samples_of(x, y), samples_of(x, y), ctx)
    alone = LogisticRegression(grid=(path.meta["C"],)).fit(samples_of(x, y), samples_of(x, y), ctx)
    np.testing.assert_allclose(path.tensors["weight"], alone.tensors["weight"], atol=1e-6)


def test_without_validation_c_is_one_and_it_says_so(rng, samples_of, recorded):
    x, z = noisy(rng, 50, 4, 2)
    state, _ = fitted(samples_of, recorded, x, z.argmax(1))
    assert state.meta["C"] == 1.0
    assert recorded.warnings == ["logreg: no validation part to choose on, so C = 1"]


def test_undefined_monitor_leaves_c_at_one_and_it_says_so(rng, samples_of, recorded):
    x, z = noisy(rng, 50, 4, 2)
    part = samples_of(x, z.argmax(1))
    state = LogisticRegression().fit(part, part, recorded.context(monitor=lambda prediction, target: float("nan")))
    assert state.meta["C"] == 1.0
    assert "undefined" in recorded.warnings[0]
    assert state.meta["monitor"][0] is None


def test_constant_feature_changes_nothing_whatever_it_is_later(rng, samples_of, recorded):
    x, z = noisy(rng, 60, 4, 2)
    y = z.argmax(1)
    _, prob = fitted(samples_of, recorded, x, y)
    head, ctx = LogisticRegression(), recorded.context()
    # Constant but for the last bit of float32, which even follows the label.
    constant = np.where(y == 1, np.nextafter(np.float32(1000), np.float32(2000)), np.float32(1000))
    state = head.fit(samples_of(np.c_[x, constant], y), None, ctx)
    other = np.stack(list(head.predict(state, samples_of(np.c_[x, np.full(60, 1e6)], y), ctx)))
    np.testing.assert_allclose(other, prob, atol=1e-7)


def test_absent_class_gets_probability_zero_and_is_named(rng, samples_of, recorded):
    x, z = noisy(rng, 80, 4, 3)
    y = np.array([0, 2, 3])[z.argmax(1)]
    _, prob = fitted(samples_of, recorded, x, y, classes=("mass", "nodule", "oedema", "hernia"))
    assert (prob[:, 1] == 0).all()
    np.testing.assert_allclose(prob.sum(1), 1)
    assert any("nodule" in sentence for sentence in recorded.warnings)
    _, pair = fitted(samples_of, recorded, x, np.where(y == 0, 0, 2), classes=("mass", "nodule", "oedema"))
    assert (pair[:, 1] == 0).all()
    assert agreement(pair, np.where(y == 0, 0, 2)) > 0.6


def test_label_of_one_value_gets_its_prevalence_and_is_named(rng, samples_of, recorded):
    x, z = noisy(rng, 80, 4, 2)
    y = np.c_[(z > 0), np.zeros(80), np.ones(80), np.full(80, np.nan)].astype(np.float32)
    _, prob = fitted(samples_of, recorded, x, y, classes=tuple("abcde"), multilabel=True)
    np.testing.assert_array_equal(prob[:, 2:], np.tile([0, 1, 0.5], (80, 1)))
    assert any("of c, d, e do not show both values" in sentence for sentence in recorded.warnings)


def test_one_class_only_is_refused_by_name(samples_of, recorded):
    with pytest.raises(RequestError, match="at least two classes, all 5 samples are 'healthy'"):
        fitted(samples_of, recorded, np.eye(5), np.zeros(5, int), classes=("healthy", "ill"))
    with pytest.raises(RequestError, match="none has both"):
        fitted(samples_of, recorded, np.eye(5), np.zeros((5, 2)))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2], r"labels must lie in 0\.\.1, found 0\.\.2"),
        ([0, 1, -1], r"found -1\.\.1"),
        ([[0, 1], [1, 0.5], [0, 0]], "must be 0, 1 or NaN"),
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], "2 classes but 3 labels"),
    ],
)
def test_impossible_labels_are_refused(samples_of, recorded, y, message):
    with pytest.raises(RequestError, match=message):
        fitted(samples_of, recorded, np.eye(3), np.asarray(y), classes=("a", "b"))


def test_non_finite_features_are_counted(samples_of, recorded):
    x = np.ones((6, 3))
    x[1, :2], x[4, 0] = np.nan, np.inf
    with pytest.raises(MedprobeError, match="3 non-finite values in 2 of 6 training samples"):
        fitted(samples_of, recorded, x, np.array([0, 1] * 3))


def test_features_of_another_width_are_refused(rng, samples_of, recorded):
    x, z = noisy(rng, 40, 4, 2)
    state, _ = fitted(samples_of, recorded, x, z.argmax(1))
    with pytest.raises(RequestError, match="features of 4 values, found 3"):
        list(LogisticRegression().predict(state, samples_of(x[:, :3], z.argmax(1)), recorded.context()))


def test_unfinished_fit_is_reported_with_its_gradient(rng, samples_of, recorded):
    x, z = noisy(rng, 100, 10, 3)
    head = LogisticRegression(max_iterations=2)
    state = head.fit(samples_of(x, z.argmax(1)), None, recorded.context())
    assert state.meta["gradient_norm"] > CONVERGED
    assert "not converged after 2 iterations" in recorded.warnings[1]


def test_state_survives_its_file_and_predicts_the_same_bits(rng, samples_of, recorded, tmp_path):
    x, z = noisy(rng, 60, 5, 3)
    part, ctx = samples_of(x, z.argmax(1)), recorded.context(monitor=agreement)
    head = HEADS.get("logreg")()
    state = head.fit(part, part, ctx)
    again = head.fit(part, part, ctx)
    for name, value in state.tensors.items():
        np.testing.assert_array_equal(value, again.tensors[name])
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    assert loaded.meta == state.meta
    np.testing.assert_array_equal(list(head.predict(loaded, part, ctx)), list(head.predict(state, part, ctx)))


@settings(max_examples=25, deadline=None)
@given(
    scale=st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
    shift=st.lists(st.floats(-10, 10), min_size=5, max_size=5),
    classes=st.integers(2, 3),
)
def test_scale_and_offset_of_a_feature_change_no_probability(samples_of, scale, shift, classes):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 5))
    y = (x @ rng.normal(size=(5, classes)) + rng.logistic(size=(40, classes))).argmax(1)
    head, ctx = LogisticRegression(), Context(seed=0)
    out = []
    for features in (x, x * scale + shift):
        part = samples_of(features, y)
        out.append(np.stack(list(head.predict(head.fit(part, None, ctx), part, ctx))))
    # The features are float32: an offset of ten over a spread of 0.01 leaves four digits.
    np.testing.assert_allclose(out[0], out[1], atol=2e-3)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"grid": ()}, "grid"),
        ({"grid": (0.0, 1.0)}, "grid"),
        ({"grid": 3}, "grid"),
        ({"grid": ("1",)}, "grid"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"max_iterations": True}, "max_iterations"),
    ],
)
def test_wrong_configuration_names_field_and_value(config, field):
    with pytest.raises(RequestError, match=f"logreg: {field} must be .*, found"):
        LogisticRegression(**config)
