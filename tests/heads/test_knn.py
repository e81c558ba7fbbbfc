import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from medprobe.errors import MedprobeError, RequestError
from medprobe.heads import _knn_loops, knn
from medprobe.heads.knn import NearestNeighbours, nearest, normalised
from medprobe.types import Context, State


def data(rng, n=300, dim=10, classes=4):
    x = rng.normal(size=(n, dim)).astype(np.float32)
    return x, (x[:, :classes] + rng.normal(size=(n, classes))).argmax(1)


def probabilities(head, samples_of, ctx, train, test, val=None):
    state = head.fit(samples_of(*train), val and samples_of(*val), ctx)
    return np.stack(list(head.predict(state, samples_of(*test), ctx))), state


def by_hand(x, y, queries, k, temperature=0.07):
    """One query and one neighbour at a time; y (n, C) with NaN."""
    unit = [row / np.linalg.norm(row) for row in x.astype(float)]
    out = []
    for query in queries.astype(float):
        similarity = np.array([row @ query / np.linalg.norm(query) for row in unit])
        near = sorted(range(len(x)), key=lambda i: (-similarity[i], i))[:k]
        row = []
        for label in range(y.shape[1]):
            pairs = [(np.exp(similarity[i] / temperature), y[i, label]) for i in near if not np.isnan(y[i, label])]
            total = sum(w for w, _ in pairs)
            row.append(sum(w * v for w, v in pairs) / total if pairs else np.nanmean(y[:, label]))
        out.append(row)
    return np.array(out)


@pytest.mark.equality("scikit-learn, KNeighborsClassifier by cosine, equal weights; 1e-12")
@pytest.mark.parametrize("k", [1, 5, 17, 300])
def test_equal_weights_equal_scikit_learn(rng, samples_of, recorded, k):
    x, y = data(rng)
    queries, _ = data(rng, 700)
    head = NearestNeighbours(ks=(k,), weights="uniform")
    got, _ = probabilities(
        head,
        samples_of,
        recorded.context(monitor=lambda p, t: 0.0),
        (x, y),
        (queries, np.zeros(700, int)),
        (x[:3], y[:3]),
    )
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights="uniform").fit(x.astype(float), y)
    np.testing.assert_allclose(got, reference.predict_proba(queries.astype(float)), atol=1e-12)


def test_softmax_weights_follow_the_formula_also_for_unlabelled_labels(rng, samples_of, recorded):
    x, _ = data(rng, 60)
    y = (rng.random((60, 3)) < 0.4).astype(np.float32)
    y[rng.random(y.shape) < 0.5] = np.nan
    got, state = probabilities(NearestNeighbours(), samples_of, recorded.context(), (x, y), (x[:9] + 0.1, y[:9]))
    assert state.meta["k"] == 20
    np.testing.assert_allclose(got, by_hand(x, y, x[:9] + 0.1, 20), rtol=1e-4)


def official_votes(x, y, queries, ks, temperature=0.07):
    """k → scores, as the evaluation of DINOv2 and DINOv3 counts them: one softmax over the
    neighbours of the largest k, of which the first k are summed. y (n, C): classes or labels."""
    train, test = (
        torch.nn.functional.normalize(torch.as_tensor(one).double(), dim=1) for one in (x, queries)
    )
    similarity, index = (test @ train.T).topk(min(max(ks), len(train)))
    vote = (similarity / temperature).softmax(dim=1)[..., None] * torch.as_tensor(y).double()[index]
    return {k: vote[:, :k].sum(1).numpy() for k in ks}


@pytest.mark.equality(
    "facebookresearch/dinov2 and dinov3, eval/knn.py: votes of k = 10, 20, 100, 200 (T 0.07), "
    "divided by their sum; 1e-5, and the same classes"
)
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("n", [60, 300])
def test_votes_are_those_of_the_official_evaluation(rng, samples_of, recorded, multilabel, n):
    x, y = data(rng, n)
    queries, _ = data(rng, 50)
    truth = (
        (rng.random((n, 3)) < [0.1, 0.5, 0.9]).astype(np.float32) if multilabel else np.eye(4)[y]
    )
    head, ks = (
        NearestNeighbours(ks=(10, 20, 100, 200)),
        sorted({min(k, n) for k in (10, 20, 100, 200)}),
    )
    state = head.fit(samples_of(x, truth if multilabel else y), None, recorded.context())
    found = np.concatenate(list(head.votes(state, queries, ks, "cpu")), axis=1)
    theirs, weight = (official_votes(x, each, queries, ks) for each in (truth, np.ones((n, 1))))
    for k, votes in zip(ks, found, strict=True):
        np.testing.assert_allclose(votes, theirs[k] / weight[k], atol=1e-5)
        assert multilabel or (votes.argmax(1) == theirs[k].argmax(1)).all()
    assert weight[ks[0]].min() < 0.98, "its scores of fewer than the largest k do not sum to 1"
    warmer = official_votes(x, truth, queries, ks, temperature=0.1)
    assert (
        np.abs(
            found[0] - warmer[10] / official_votes(x, np.ones((n, 1)), queries, ks, 0.1)[10]
        ).max()
        > 1e-2
    )


def test_only_unlabelled_neighbours_give_the_training_prevalence(rng, samples_of, recorded):
    x = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]])
    y = np.array([[np.nan, 1], [np.nan, 0], [1, 0], [0, 0], [1, 1]])
    head = NearestNeighbours(ks=(2,))
    ctx = recorded.context(monitor=lambda p, t: 0.0)
    got, _ = probabilities(head, samples_of, ctx, (x, y), (np.array([[1, 0.05]]), y[:1]), (x, y))
    assert got[0, 0] == pytest.approx(2 / 3)


def test_one_search_equals_a_search_for_each_k(rng, samples_of, recorded):
    x, y = data(rng)
    queries, _ = data(rng, 40)
    head, ks = NearestNeighbours(), [5, 10, 20, 50, 100, 200]
    state = head.fit(samples_of(x, y), None, recorded.context())
    together = np.concatenate(list(head.votes(state, queries, ks, "cpu")), axis=1)
    for k, votes in zip(ks, together, strict=True):
        alone = np.concatenate(list(head.votes(state, queries, [k], "cpu")), axis=1)
        np.testing.assert_allclose(votes, alone[0], rtol=1e-12)
    np.testing.assert_allclose(together.sum(2), 1)


def test_tiles_of_any_size_find_the_same_neighbours(rng, monkeypatch):
    x = normalised(rng.integers(-2, 3, size=(500, 6)).astype(np.float32) + 0.01)
    queries = x[:37]
    similarity = queries @ x.T
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :60]
    for rows, columns in [(512, 8192), (5, 64), (512, 7), (1, 500)]:
        monkeypatch.setattr(knn, "ROWS", rows)
        monkeypatch.setattr(knn, "COLUMNS", columns)
        blocks = list(nearest(x, queries, 60, "cpu"))
        got = np.concatenate([block[0] for block in blocks])
        np.testing.assert_allclose(got, np.take_along_axis(similarity, expected, axis=1), atol=1e-6)
        index = np.concatenate([block[1] for block in blocks])
        assert all(len(set(row)) == 60 for row in index.tolist())
        np.testing.assert_allclose(np.take_along_axis(similarity, index, axis=1), got, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 400),
    k=st.integers(1, 80),
    levels=st.integers(1, 4),
    columns=st.integers(1, 90),
)
def test_equally_similar_neighbours_come_by_index(seed, n, k, levels, columns):
    # Products of small powers of two are exact, so that ties are ties in every tile.
    rng, k = np.random.default_rng(seed), min(k, n)
    x = rng.integers(0, levels, size=(n, 2)).astype(np.float32) / 4
    queries = rng.integers(-2, 3, size=(6, 2)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "COLUMNS", columns)
        similarity, index = (np.concatenate(parts) for parts in zip(*nearest(x, queries, k, "cpu"), strict=True))
    expected = np.argsort(-(queries @ x.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(similarity, np.take_along_axis(queries @ x.T, expected, axis=1))


@pytest.mark.parametrize(("n", "dim"), [(65, 64), (1025, 37), (1040, 37), (2049, 384)])
def test_equal_vectors_are_equally_near_wherever_they_lie_and_whatever_is_asked_beside(rng, n, dim):
    """Products at the edge of a matrix can be rounded otherwise than those within."""
    few = normalised(rng.normal(size=(max(1, n // 20), dim)))
    which = rng.integers(0, len(few), n)
    queries = normalised(rng.normal(size=(300, dim)))
    index = np.concatenate([part for _, part in nearest(few[which], queries, 1, "cpu")])[:, 0]
    first = np.array([np.flatnonzero(which == one)[0] if (which == one).any() else -1 for one in range(len(few))])
    np.testing.assert_array_equal(index, first[which[index]])
    alone = [next(nearest(few[which], query[None], 1, "cpu"))[1][0, 0] for query in queries[:40]]
    np.testing.assert_array_equal(alone, index[:40])


@pytest.mark.parametrize("k", [1, 7, 60, 200])
@pytest.mark.parametrize("digest", [None, 7])
def test_equal_vectors_come_in_the_order_of_their_index_with_all_that_are_as_near(rng, monkeypatch, k, digest):
    """Whole numbers, whose products are exact: the reference is a stable sort. Also where all digests are one."""
    if digest is not None:
        monkeypatch.setattr(_knn_loops, "digests", lambda rows, weights: np.full(len(rows), digest, np.uint64))
    few = rng.integers(-2, 3, (30, 5)).astype(np.float32)
    x = few[rng.integers(0, 30, 200)]
    x[rng.random(x.shape) < 0.1] = -0.0
    queries = rng.integers(-2, 3, (40, 5)).astype(np.float32)
    similarity, index = next(nearest(x, queries, k, "cpu"))
    expected = np.argsort(-(queries @ x.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(similarity, np.take_along_axis(queries @ x.T, expected, axis=1))


@settings(max_examples=20, deadline=None)
@given(scale=st.lists(st.floats(1e-3, 1e3), min_size=30, max_size=30))
def test_length_of_a_vector_changes_nothing(samples_of, scale):
    x, y = data(np.random.default_rng(1), 30)
    ctx, factor = Context(seed=0), np.asarray(scale)[:, None]
    one, _ = probabilities(NearestNeighbours(), samples_of, ctx, (x, y), (x, y))
    other, _ = probabilities(NearestNeighbours(), samples_of, ctx, (x * factor, y), (x * factor[::-1], y))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_k_is_the_smallest_of_the_best_on_validation(rng, samples_of, recorded):
    x, y = data(rng)
    scores = iter([0.7, 0.9, 0.9, float("nan"), float("nan"), float("nan")])

    def monitor(prediction, target):
        return next(scores)

    _, state = probabilities(NearestNeighbours(), samples_of, recorded.context(monitor=monitor), (x, y), (x, y), (x, y))
    assert state.meta["k"] == 10
    assert state.meta["monitor"] == [0.7, 0.9, 0.9, None, None, None]
    assert not recorded.warnings


def test_k_is_capped_by_the_training_part_and_default_is_told(rng, samples_of, recorded):
    x, y = data(rng, 12)
    _, state = probabilities(NearestNeighbours(), samples_of, recorded.context(), (x, y), (x, y))
    assert (state.meta["k"], state.meta["ks"]) == (12, [5, 10, 12])
    assert recorded.warnings == ["knn: no validation part to choose on, so k = 12"]


def test_state_survives_its_file(rng, samples_of, recorded, tmp_path):
    x, y = data(rng, 50)
    got, state = probabilities(NearestNeighbours(), samples_of, recorded.context(), (x, y), (x, y))
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    np.testing.assert_array_equal(list(NearestNeighbours().predict(loaded, samples_of(x, y), Context(seed=1))), got)


def test_bad_training_parts_are_refused(samples_of, recorded):
    ctx = recorded.context(classes=("a", "b"))
    with pytest.raises(RequestError, match="at least two classes, all 4 samples are 'b'"):
        NearestNeighbours().fit(samples_of(np.eye(4), np.ones(4, int)), None, ctx)
    with pytest.raises(MedprobeError, match="1 non-finite values in 1 of 2 training samples"):
        NearestNeighbours().fit(samples_of([[1, np.nan], [0, 1]], [0, 1]), None, ctx)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"ks": (0,)}, "ks"),
        ({"ks": ()}, "ks"),
        ({"ks": (2.5,)}, "ks"),
        ({"weights": "distance"}, "weights"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_wrong_configuration_names_field_and_value(config, field):
    with pytest.raises(RequestError, match=f"knn: {field} must be .*, found"):
        NearestNeighbours(**config)
