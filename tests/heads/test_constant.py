import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.registry import HEADS


def predictions(samples_of, recorded, y, **kwargs):
    head, ctx = HEADS.get("constant")(), recorded.context(**kwargs)
    state = head.fit(samples_of(np.zeros((len(y), 1)), y), None, ctx)
    return np.stack(list(head.predict(state, samples_of(np.ones((3, 1)), y[:3]), ctx)))


def test_every_sample_gets_the_class_frequencies_of_training(samples_of, recorded):
    got = predictions(samples_of, recorded, np.array([0, 2, 2, 2]), classes=("a", "b", "c"))
    np.testing.assert_array_equal(got, np.tile([0.25, 0, 0.75], (3, 1)))


def test_prevalence_counts_labelled_samples_only(samples_of, recorded):
    y = np.array([[1, np.nan, np.nan], [0, 1, np.nan], [0, np.nan, np.nan], [1, 0, np.nan], [1, 1, np.nan]])
    np.testing.assert_allclose(predictions(samples_of, recorded, y)[0], [0.6, 2 / 3, 0.5])


def test_it_asks_for_no_feature_and_refuses_an_empty_part(samples_of, recorded):
    head = HEADS.get("constant")()
    assert head.needs == frozenset()
    with pytest.raises(RequestError, match="training part is empty"):
        head.fit(samples_of(np.zeros((0, 1)), np.zeros(0, int)), None, recorded.context())
