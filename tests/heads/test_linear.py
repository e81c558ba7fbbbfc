import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference
from torch.nn import functional

from medprobe.errors import MedprobeError, RequestError
from medprobe.heads import linear
from medprobe.heads.linear import LinearProbe, train_together
from medprobe.types import State


def noisy(rng, n, dim, outputs):
    x = rng.normal(size=(n, dim)).astype(np.float32)
    return x, x @ rng.normal(size=(dim, outputs)) + 2 * rng.logistic(size=(n, outputs))


def agreement(prediction, target):
    return float((prediction.argmax(1) == target).mean())


def torch_loop(head, x, labels, seed, loss):
    """What a DataLoader loop does, with torch's own layer, loss, optimiser and schedule, in the documented order."""
    layer = torch.nn.Linear(x.shape[1], labels.shape[1])
    with torch.no_grad():
        first = np.random.default_rng([seed, 0]).normal(0, 0.01, tuple(layer.weight.shape))
        layer.weight.copy_(torch.as_tensor(first))
        layer.bias.zero_()
    if head.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            layer.parameters(), head.learning_rate, momentum=0.9, weight_decay=head.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(
            layer.parameters(), head.learning_rate, (0.9, 0.999), weight_decay=head.weight_decay
        )
    steps = head.epochs * -(-len(x) // head.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, labels = torch.as_tensor(x), torch.as_tensor(labels)
    for epoch in range(head.epochs):
        order = np.random.default_rng([seed, 1, epoch]).permutation(len(x))
        for start in range(0, len(x), head.batch_size):
            index = order[start : start + head.batch_size]
            optimizer.zero_grad()
            loss(layer(x[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def labelled_mean(logits, labels):
    known = ~labels.isnan()
    return functional.binary_cross_entropy_with_logits(logits[known], labels[known])


@pytest.mark.equality(
    "torch, AdamW and SGD with cosine in a plain loop: the linear probe's weights; 1e-6"
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "kind", ["two classes", "three classes", "three classes, softmax", "labels", "labels, some NaN"]
)
def test_weights_equal_a_loop_over_the_same_batches(rng, samples_of, recorded, optimizer, kind):
    x, z = noisy(rng, 70, 6, 3)
    y = {"t": z.argmax(1), "l": (z > 0).astype(np.float32)}[kind[0]]
    loss, targets = functional.binary_cross_entropy_with_logits, None
    if kind == "two classes":
        y = (z[:, 0] > 0).astype(int)
        targets = y[:, None].astype(np.float32)
    elif y.ndim == 1:
        targets = np.eye(3, dtype=np.float32)[y]
        loss = functional.cross_entropy if "softmax" in kind else loss
    else:
        y[rng.random(y.shape) < (0.4 if "NaN" in kind else 0)] = np.nan
        targets, loss = y, labelled_mean
    head = LinearProbe(
        optimizer=optimizer, epochs=4, batch_size=16, weight_decay=0.01, loss="ce" if "softmax" in kind else "bce"
    )
    state = head.fit(samples_of(x, y), None, recorded.context(seed=5))
    weight, bias = torch_loop(head, x, targets, 5, loss)
    np.testing.assert_allclose(state.tensors["weight"], weight, atol=1e-6)
    np.testing.assert_allclose(state.tensors["bias"], bias, atol=1e-6)
    assert state.meta["steps"] == 20


@pytest.mark.equality(
    "scikit-learn, LogisticRegression at its optimum: the linear probe's limit; 1e-5"
)
@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "ce"), (0, "bce")])
def test_many_full_batches_approach_scikit_learn(rng, samples_of, recorded, classes, loss):
    x, z = noisy(rng, 250, 4, classes or 2)
    y = z.argmax(1) if classes else (z > 0).astype(np.float32)
    head = LinearProbe(learning_rate=0.05, weight_decay=0, batch_size=250, epochs=1500, loss=loss, selection="last")
    part, ctx = samples_of(x, y), recorded.context()
    got = np.stack(list(head.predict(head.fit(part, None, ctx), part, ctx)))
    columns, exact = [y] if classes else y.T, x.astype(np.float64)
    models = [Reference(C=1e8, tol=1e-10, max_iter=10_000).fit(exact, column) for column in columns]
    expected = (
        models[0].predict_proba(exact) if classes else np.stack([m.predict_proba(exact)[:, 1] for m in models], axis=1)
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert not recorded.warnings


def test_standardised_features_are_scaled_in_training_and_prediction(rng, samples_of, recorded):
    x, z = noisy(rng, 90, 5, 3)
    y, ctx = z.argmax(1), recorded.context()
    head = LinearProbe(epochs=5, standardise=True)
    wild = np.c_[x * [1, 100, 0.01, 5, 1] + 3, np.full(90, 7)]
    scaled = head.fit(samples_of(wild, y), None, ctx)
    own = (x - x.astype(float).mean(0)) / x.astype(float).std(0)
    plain = LinearProbe(epochs=5).fit(samples_of(np.c_[own, np.zeros(90)], y), None, ctx)
    np.testing.assert_allclose(scaled.tensors["weight"], plain.tensors["weight"], atol=1e-5)
    one = np.stack(list(head.predict(scaled, samples_of(wild, y), ctx)))
    other = np.stack(list(LinearProbe().predict(plain, samples_of(np.c_[own, np.zeros(90)], y), ctx)))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_probes_trained_together_equal_probes_trained_alone(rng, recorded):
    x, z = noisy(rng, 600, 32, 5)
    labels = (z > 1).astype(np.float32)
    labels[::7, 2] = np.nan
    rates = (1e-4, 1e-3, 5e-3, 2e-2)
    head, ctx = LinearProbe(epochs=6, batch_size=100), recorded.context(seed=3)

    def monitor(weight, bias):
        return float(-np.abs(weight[:, 0]).sum())

    together = train_together(head, x, labels, ctx, rates, monitor)
    for rate, (weight, bias, curve) in zip(rates, together, strict=True):
        ((alone, alone_bias, alone_curve),) = train_together(head, x, labels, ctx, (rate,), monitor)
        np.testing.assert_allclose(weight, alone, atol=1e-6)
        np.testing.assert_allclose(bias, alone_bias, atol=1e-6)
        np.testing.assert_allclose(curve, alone_curve, atol=1e-5)


def test_same_seed_gives_the_same_bits_and_another_does_not(rng, samples_of, recorded):
    x, z = noisy(rng, 100, 6, 3)
    part = samples_of(x, z.argmax(1))
    one, same, other = (
        LinearProbe(epochs=3, batch_size=32).fit(part, None, recorded.context(seed=s)) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.tensors["weight"], same.tensors["weight"])
    assert (one.tensors["weight"] != other.tensors["weight"]).any()


def test_read_only_features_are_fitted_without_a_warning(rng, samples_of, recorded, monkeypatch):
    x, z = noisy(rng, 100, 6, 3)
    part = samples_of(x, z.argmax(1))
    expected = LinearProbe(epochs=2).fit(part, None, recorded.context())
    locked = x.copy()
    locked.setflags(write=False)
    monkeypatch.setattr(type(part), "pooled", lambda self, pooling: locked)
    got = LinearProbe(epochs=2).fit(part, None, recorded.context())
    np.testing.assert_array_equal(got.tensors["weight"], expected.tensors["weight"])


def test_best_epoch_is_kept_and_the_earlier_of_equals(rng, samples_of, recorded):
    x, z = noisy(rng, 100, 6, 3)
    part = samples_of(x, z.argmax(1))
    scores, seen = [float("nan"), 0.5, 0.8, 0.8, 0.2], []

    def monitor(prediction, target):
        seen.append(prediction)
        return scores[len(seen) - 1]

    head = LinearProbe(epochs=5, batch_size=32)
    state = head.fit(part, part, recorded.context(monitor=monitor))
    assert (state.meta["epoch"], state.meta["monitor"]) == (3, [None, 0.5, 0.8, 0.8, 0.2])
    np.testing.assert_array_equal(np.stack(list(head.predict(state, part, recorded.context()))), seen[2])
    last = dataclasses.replace(head, selection="last").fit(part, part, recorded.context(monitor=monitor))
    assert (last.meta["epoch"], last.meta["monitor"]) == (5, [])
    assert (last.tensors["weight"] != state.tensors["weight"]).any()


def test_undefined_monitor_means_the_last_epoch_and_it_says_so(rng, samples_of, recorded):
    x, z = noisy(rng, 100, 6, 3)
    part, head = samples_of(x, z.argmax(1)), LinearProbe(epochs=3)
    state = head.fit(part, part, recorded.context(monitor=lambda prediction, target: float("nan")))
    plain = head.fit(part, None, recorded.context())
    np.testing.assert_array_equal(state.tensors["weight"], plain.tensors["weight"])
    assert state.meta["epoch"] == 3
    assert any("undefined on the validation part, so the last epoch is used" in w for w in recorded.warnings)


def test_few_steps_and_missing_validation_are_told_with_numbers(rng, samples_of, recorded):
    x, z = noisy(rng, 100, 6, 3)
    LinearProbe().fit(samples_of(x, z.argmax(1)), None, recorded.context())
    few, missing = recorded.warnings
    assert "takes 50 optimiser steps, fewer than 500" in few
    assert missing == "linear: no validation part to choose on, so the last epoch is used"


class Killed(Exception):
    pass


class Memory:
    """A checkpoint that goes through a file, as a run's does, and a fit that is killed after so many saves."""

    def __init__(self, path, kill_after=None):
        self.path, self.left = path, kill_after

    def load(self):
        return State.load(self.path) if self.path.exists() else None

    def save(self, state):
        state.save(self.path)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_killed_fit_goes_on_to_the_same_bits(rng, samples_of, recorded, tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(linear, "SAVE_AFTER", 0.0)
    x, z = noisy(rng, 120, 6, 3)
    part, head = samples_of(x, z.argmax(1)), LinearProbe(epochs=8, batch_size=32, optimizer=optimizer)
    undisturbed = head.fit(part, part, recorded.context(monitor=agreement))
    path, done = tmp_path / "fit.safetensors", []
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            head.fit(part, part, recorded.context(monitor=agreement, checkpoint=Memory(path, kill_after)))
    ctx = recorded.context(monitor=agreement, checkpoint=Memory(path), progress=lambda at, of, what: done.append(at))
    resumed = head.fit(part, part, ctx)
    assert done == [5, 6, 7, 8]
    assert resumed.meta == undisturbed.meta
    for name, value in undisturbed.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], value)


def test_checkpoint_of_another_fit_is_not_continued(rng, samples_of, recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "SAVE_AFTER", 0.0)
    x, z = noisy(rng, 120, 6, 3)
    part, path = samples_of(x, z.argmax(1)), tmp_path / "fit.safetensors"
    LinearProbe(epochs=4).fit(part, None, recorded.context(checkpoint=Memory(path)))
    head = LinearProbe(epochs=4, learning_rate=0.1)
    got = head.fit(part, None, recorded.context(checkpoint=Memory(path)))
    np.testing.assert_array_equal(got.tensors["weight"], head.fit(part, None, recorded.context()).tensors["weight"])


def test_short_fit_writes_no_checkpoint(rng, samples_of, recorded, tmp_path):
    x, z = noisy(rng, 50, 4, 2)
    LinearProbe().fit(samples_of(x, z.argmax(1)), None, recorded.context(checkpoint=Memory(tmp_path / "fit")))
    assert not list(tmp_path.iterdir())


def test_probabilities_are_of_each_class_alone_or_sum_to_one(rng, samples_of, recorded):
    x, z = noisy(rng, 90, 5, 3)
    ctx = recorded.context()

    def sums(head, y):
        part = samples_of(x, y)
        return np.stack(list(head.predict(head.fit(part, None, ctx), part, ctx))).sum(1)

    np.testing.assert_allclose(sums(LinearProbe(epochs=2), (z[:, 0] > 0).astype(int)), 1)
    np.testing.assert_allclose(sums(LinearProbe(epochs=2, loss="ce"), z.argmax(1)), 1)
    assert np.abs(sums(LinearProbe(epochs=2), z.argmax(1)) - 1).max() > 0.01


def test_divergence_is_an_error_not_a_number(rng, samples_of, recorded):
    x, z = noisy(rng, 60, 4, 2)
    part = samples_of(x * 1e19, z.argmax(1))
    with pytest.raises(MedprobeError, match="diverged; lower learning_rate"):
        LinearProbe(epochs=3, optimizer="sgd", learning_rate=1e19, weight_decay=1.0).fit(part, None, recorded.context())


def test_softmax_loss_refuses_labels(samples_of, recorded):
    with pytest.raises(RequestError, match="loss 'ce' needs exclusive classes"):
        LinearProbe(loss="ce").fit(samples_of(np.eye(4), np.eye(4)), None, recorded.context())


def test_bad_training_parts_are_refused(samples_of, recorded):
    ctx = recorded.context(classes=("a", "b"))
    with pytest.raises(RequestError, match="at least two classes, all 4 samples are 'a'"):
        LinearProbe().fit(samples_of(np.eye(4), np.zeros(4, int)), None, ctx)
    with pytest.raises(MedprobeError, match="2 non-finite values in 1 of 2 training samples"):
        LinearProbe().fit(samples_of([[np.inf, np.nan], [0, 1]], [0, 1]), None, ctx)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("weight_decay", -1e-6),
        ("batch_size", 0),
        ("epochs", 2.5),
        ("optimizer", "adam"),
        ("loss", "mse"),
        ("selection", "first"),
        ("standardise", 1),
    ],
)
def test_wrong_configuration_names_field_and_value(field, value):
    with pytest.raises(RequestError, match=f"linear: {field} must be .*, found {value!r}"):
        LinearProbe(**{field: value})
