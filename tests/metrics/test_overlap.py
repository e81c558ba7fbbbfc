"""Overlap equals scikit-learn's; the readings of EndoVis, autoPET and HECKTOR are worked by hand or by another route."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medprobe.errors import RequestError
from medprobe.metrics import overlap
from medprobe.metrics.overlap import lesion_volumes, overlap_of_masks

K = 4


@pytest.mark.equality("scikit-learn, Dice (F1), IoU, precision, recall of voxels; 1e-12")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_overlap_equals_scikit_learn(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=6))
    dtype = data.draw(st.sampled_from((np.uint8, np.int16, np.int64, np.uint64)))
    pred, true = (data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, K - 1))) for _ in range(2))
    found = overlap.overlap(pred, true, K)
    theirs = {"dice": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}
    for name, score in theirs.items():
        expected = score(true.ravel(), pred.ravel(), labels=range(K), average=None, zero_division=0)
        undefined = {"precision": found.pred == 0, "recall": found.true == 0}.get(name, (found.pred == 0) & (found.true == 0))
        np.testing.assert_allclose(getattr(found, name), np.where(undefined, np.nan, expected), rtol=1e-12)
    assert found.true.sum() == found.pred.sum() == pred.size


def test_ignored_voxels_are_left_out_whatever_is_predicted_there() -> None:
    true, pred = np.array([[0, 1, 255], [1, 1, 255]], np.uint8), np.array([[0, 1, 1], [0, 1, 200]], np.uint8)
    found = overlap.overlap(pred, true, 2, ignore=255)
    assert (found.tp.tolist(), found.fp.tolist(), found.fn.tolist()) == ([1, 2], [1, 0], [0, 1])
    signed = np.where(true == 255, -1, true.astype(np.int16))
    assert np.array_equal(overlap.confusion(pred.astype(np.int16), signed, 2, ignore=-1), overlap.confusion(pred, true, 2, ignore=255))


def test_known_answers_and_empty_masks() -> None:
    square, shifted, empty = (np.zeros((12, 12), bool) for _ in range(3))
    square[2:7, 2:7] = True
    shifted[2:7, 5:10] = True
    assert overlap.dice(square, shifted) == 0.4
    assert overlap.iou(square, shifted) == 0.25
    assert overlap.dice(square, empty) == 0
    assert overlap.recall(empty, square) == 0
    assert math.isnan(overlap.precision(empty, square))
    assert math.isnan(overlap.dice(empty, empty))


def test_masks_that_overlap_each_other_are_counted_one_by_one(rng: np.random.Generator) -> None:
    pred, true = (rng.random((3, 7, 8)) < 0.4 for _ in range(2))
    found = overlap_of_masks(pred, true)
    assert found.dice.tolist() == [overlap.dice(p, t) for p, t in zip(pred, true, strict=True)]


def test_lesion_volumes_are_those_of_untouched_components() -> None:
    pred, true = np.zeros((6, 8, 8), bool), np.zeros((6, 8, 8), bool)
    true[0, 0:2, 0:2] = True  # found: touched in one voxel
    pred[0, 1, 1] = True
    pred[1, 2, 1] = True  # joined to it along an edge: 18-connected
    pred[3, 5, 5] = pred[4, 6, 6] = True  # a corner apart: two false lesions of one voxel
    true[5, 0, 7] = True  # missed
    assert lesion_volumes(pred, true, (3, 2, 2)) == pytest.approx((2 * 12 / 1000, 12 / 1000))
    assert lesion_volumes(np.zeros_like(pred), np.zeros_like(pred), (1, 1, 1)) == (0, 0)


@pytest.mark.equality(
    "lab-midas/autoPET, val_script: false positive and false negative volume, Dice; 1e-12"
)
@pytest.mark.parametrize(
    "share", [(0.03, 0.03), (0.08, 0.02), (0.0, 0.05), (0.05, 0.0), (0.0, 0.0)]
)
def test_lesions_are_scored_as_the_script_of_autopet(
    rng: np.random.Generator, share: tuple[float, float]
) -> None:
    """Component by component, 18-connected by scikit-image; an empty pair is 0/0."""
    measure = pytest.importorskip("skimage.measure")
    for _ in range(10):
        pred, true = (rng.random((9, 12, 10)) < part for part in share)
        spacing = rng.uniform(0.5, 4, 3)
        volumes = []
        for mask, other in ((pred, true), (true, pred)):
            parts = measure.label(mask, connectivity=2)
            alone = [(parts == number) for number in range(1, parts.max() + 1)]
            volumes.append(
                sum(int(part.sum()) for part in alone if not (part & other).any())
                * spacing.prod()
                / 1000
            )
        assert lesion_volumes(pred, true, spacing) == pytest.approx(tuple(volumes), rel=1e-12)
        size = pred.sum() + true.sum()
        assert overlap.dice(pred, true) == pytest.approx(
            2 * (pred & true).sum() / size if size else np.nan, nan_ok=True
        )


@pytest.mark.parametrize(
    ("pred", "true", "said"),
    [
        (np.full((2, 2), 4), np.ones((2, 2), int), "labels from 0 to 3, found 4 voxels with others (up to 4)"),
        (np.ones((2, 2)), np.ones((3, 2)), "of one shape"),
        (np.full((2, 2), 1.5), np.ones((2, 2)), "fractions"),
        (np.full((2, 2), -1), np.ones((2, 2), int), "from 0 on, found -1"),
    ],
)
def test_bad_input_is_one_sentence(pred: np.ndarray, true: np.ndarray, said: str) -> None:
    with pytest.raises(RequestError) as error:
        overlap.confusion(pred, true, K)
    assert said in str(error.value)
