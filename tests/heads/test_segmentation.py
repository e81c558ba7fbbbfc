"""Heads for segmentation: known answers, equality with references, fits that were stopped, and pixels where they belong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.heads._dense import segmentation_loss, to_pixels
from medprobe.imaging.labels import LabelMap
from medprobe.registry import HEADS
from medprobe.types import Context, Features, Frame, Sample, SampleList

torch = pytest.importorskip("torch")


def one_hot_samples(count: int, side: int = 16, scale: int = 4, seed: int = 0) -> SampleList:
    """Features are the truth itself, one-hot on a grid `scale` times coarser than the masks."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        coarse = np.zeros((side, side), np.uint8)
        block = side * 3 // 8
        for label in (1, 2):
            top, left = rng.integers(0, side - block, 2)
            coarse[top : top + block, left : left + block] = label
        grid = np.eye(3, dtype=np.float32)[coarse].transpose(2, 0, 1)[None]
        labels = np.kron(coarse, np.ones((scale, scale), np.uint8))
        frame = Frame(labels.shape, (0.0, 0.0, float(side), float(side)))
        items.append(Sample(f"c{number}", f"p{number}", {"image": Features(grids=(grid,), frame=frame)}, target=LabelMap(labels)))
    return SampleList(items)


@pytest.mark.parametrize(("name", "settings", "least"), [("linear2d", {"epochs": 60, "learning_rate": 0.05, "dropout": 0.0}, 0.93), ("conv2d", {"epochs": 35, "learning_rate": 2e-3, "side": 32}, 0.93)])
def test_a_head_given_the_truth_finds_it(name: str, settings: dict, least: float, context, dice_of) -> None:
    """Corners of squares three cells wide are rounded by bilinear upsampling, so Dice stays below 1 on a coarse grid."""
    head = HEADS.get(name)(**settings)
    state = head.fit(one_hot_samples(16, side=8), one_hot_samples(3, side=8, seed=1), context())
    test = one_hot_samples(6, side=8, seed=2)
    scores = [dice_of(pred, sample.target) for pred, sample in zip(head.predict(state, test, context()), test, strict=True)]
    assert np.mean(scores) >= least


def test_a_head_given_the_truth_on_its_own_pixels_reaches_0_99(context, dice_of) -> None:
    head = HEADS.get("linear2d")(epochs=60, learning_rate=0.05, dropout=0.0)
    data = one_hot_samples(24, side=32, scale=1)
    state = head.fit(data, None, context())
    assert min(dice_of(pred, sample.target) for pred, sample in zip(head.predict(state, data, context()), data, strict=True)) >= 0.99


@pytest.mark.equality("MONAI, DiceLoss plus cross-entropy: the loss of segmentation; 1e-9")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("multilabel", [False, True])
def test_the_loss_is_monai_s(multilabel: bool, rng: np.random.Generator) -> None:
    from monai.losses import DiceLoss

    logits = torch.as_tensor(rng.normal(size=(3, 4, 9, 8)), dtype=torch.float64)
    masks = torch.as_tensor(rng.integers(0, 2, (3, 4, 9, 8)) if multilabel else rng.integers(0, 4, (3, 9, 8)))
    ours = segmentation_loss(logits, masks, multilabel)
    dice = DiceLoss(include_background=multilabel, to_onehot_y=not multilabel, softmax=not multilabel, sigmoid=multilabel, smooth_nr=1e-5, smooth_dr=1e-5)(logits, masks if multilabel else masks[:, None])
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks.double()) if multilabel else torch.nn.functional.cross_entropy(logits, masks)
    assert float(ours) == pytest.approx(float(dice + entropy), rel=1e-9)


def test_ignored_pixels_change_no_loss(rng: np.random.Generator) -> None:
    logits = torch.as_tensor(rng.normal(size=(2, 3, 6, 6)))
    masks = torch.as_tensor(rng.integers(0, 3, (2, 6, 6)))
    masks[:, :2] = -1
    other = logits.clone()
    other[:, :, :2] += 5
    assert float(segmentation_loss(logits, masks, False)) == pytest.approx(float(segmentation_loss(other, masks, False)))
    assert torch.isfinite(segmentation_loss(logits, torch.full_like(masks, -1), False))


def test_logits_of_a_padded_plane_come_back_to_the_pixels_of_its_source() -> None:
    """A plane of 40 x 80 padded to a square lies in the middle rows of its 8 x 8 grid."""
    logits = torch.zeros(1, 1, 8, 8)
    logits[0, 0, :, :] = torch.arange(8.0)[:, None] + 10 * torch.arange(8.0)[None]
    rows = to_pixels(logits, (8, 8), np.array([[2.0, 0.0, 6.0, 8.0]]), (40, 80))[0, 0]
    y, x = (np.arange(40) + 0.5) / 10 + 2 - 0.5, np.clip((np.arange(80) + 0.5) / 10 - 0.5, 0, 7)
    np.testing.assert_allclose(rows.numpy(), y[:, None] + 10 * x[None], atol=1e-4)
    whole = to_pixels(logits, (8, 8), np.array([[0.0, 0.0, 8.0, 8.0]]), (16, 24))
    nearly = to_pixels(logits, (8, 8), np.array([[0.0, 0.0, 8.0, 8.0 + 1e-9]]), (16, 24))
    np.testing.assert_allclose(whole.numpy(), nearly.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["linear2d", "conv2d", "unet2d"])
@pytest.mark.filterwarnings("ignore")
def test_a_fit_that_was_stopped_ends_with_the_same_weights(name: str, goes_on, context) -> None:
    head = HEADS.get(name)(epochs=4, batch_size=3, evaluate_every=2, flips="horizontal,vertical", side=32)
    train, val = one_hot_samples(5, side=8), one_hot_samples(2, side=8, seed=1)
    undisturbed, memory = goes_on(head, train, val)
    memory.state = replace(memory.state, meta={**memory.state.meta, "fit": {"of": "another"}})
    memory.left = -1
    again = head.fit(train, val, context(checkpoint=memory))
    assert all(np.array_equal(again.tensors[tensor], value) for tensor, value in undisturbed.tensors.items())


def test_masks_that_overlap_are_predicted_one_by_one() -> None:
    items = [replace(sample, target=LabelMap(np.stack([sample.target.labels > 0, sample.target.labels == 2]).astype(np.uint8), multilabel=True)) for sample in one_hot_samples(16)]
    head = HEADS.get("linear2d")(epochs=60, learning_rate=0.05, dropout=0.0)
    ctx = Context(0, classes=("any", "b"), multilabel=True)
    state = head.fit(SampleList(items), None, ctx)
    for pred, sample in zip(head.predict(state, SampleList(items), ctx), items, strict=True):
        assert pred.shape == sample.target.labels.shape
        assert (pred == sample.target.labels).mean() > 0.97


def test_the_mean_mask_is_the_control(context) -> None:
    train, val = one_hot_samples(40), one_hot_samples(8, seed=1)
    head = HEADS.get("constant")()
    state = head.fit(train, val, context())
    (first, *_) = list(head.predict(state, val, context()))
    assert first.shape == val[0].target.labels.shape
    shares = np.stack([[sample.target.labels == k for k in (1, 2)] for sample in train]).mean(axis=0)
    np.testing.assert_allclose(state.tensors["mask"], shares, atol=1e-6)
    assert state.meta["threshold"] in np.round(np.arange(0.05, 1, 0.05), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sample: replace(sample, features={"image": Features(grids=(np.zeros((1, 3, 8, 8), np.float32),))}), "grids of one shape"),
        (lambda sample: replace(sample, features={"image": Features(grids=(np.zeros((4, 3, 16, 16), np.float32),))}), "the grid of one plane"),
    ],
)
def test_grids_that_do_not_fit_are_named(change, said: str, context) -> None:  # type: ignore[no-untyped-def]
    items = list(one_hot_samples(3))
    with pytest.raises(RequestError, match=said):
        HEADS.get("linear2d")(epochs=1).fit(SampleList([*items[:2], change(items[2])]), None, context())


def test_settings_that_make_no_sense_are_said() -> None:
    with pytest.raises(RequestError, match="epochs"):
        HEADS.get("conv2d")(epochs=0)


def test_nothing_is_written_besides_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context) -> None:
    monkeypatch.chdir(tmp_path)
    HEADS.get("linear2d")(epochs=1).fit(one_hot_samples(3), None, context())
    assert list(tmp_path.iterdir()) == []
