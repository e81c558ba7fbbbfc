"""Heads for volumes: known answers, windows against one pass, fits that were stopped, networks of MONAI and of one's own."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.features.rows import Rows, side_by_side
from medprobe.heads import _dense, networks
from medprobe.heads._crops import Crops
from medprobe.imaging.labels import LabelMap
from medprobe.registry import HEADS
from medprobe.types import Context, Features, Frame, Sample, SampleList

torch = pytest.importorskip("torch")


def truth(count: int, planes: tuple[int, ...] = (6, 9, 12), side: int = 16, levels: int = 1, seed: int = 0) -> SampleList:
    """Volumes of different depth with two boxes; features are the truth itself, one-hot, on the grid of the mask."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        depth = planes[number % len(planes)]
        labels = np.zeros((depth, side, side), np.uint8)
        for label in (1, 2):
            z, y, x = (int(rng.integers(0, room + 1)) for room in (depth // 2, side // 2, side // 2))
            labels[z : z + depth // 2, y : y + side // 2, x : x + side // 2] = label
        grid = np.eye(3, dtype=np.float32)[labels].transpose(0, 3, 1, 2)
        items.append(Sample(f"c{number}", f"p{number}", {"image": Features(grids=(grid,) * levels, frame=Frame((side, side), (0.0, 0.0, side, side)))}, target=LabelMap(labels)))
    return SampleList(items)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear3d", {"epochs": 60, "learning_rate": 0.05, "dropout": 0.0, "depth": 8}),
        ("conv3d", {"epochs": 10, "learning_rate": 3e-3, "depth": 8, "rotate": 0.0}),
        ("unet3d", {"epochs": 40, "learning_rate": 1e-2, "depth": 8, "rotate": 0.0}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_head_given_the_truth_reaches_0_99(name: str, settings: dict, context, dice_of) -> None:
    data = truth(9)
    head = HEADS.get(name)(**settings)
    state = head.fit(data, data if name == "unet3d" else None, context())
    scores = [dice_of(pred, sample.target) for pred, sample in zip(head.predict(state, data, context()), data, strict=True)]
    assert np.mean(scores) >= 0.99
    assert all(pred.shape == sample.target.labels.shape for pred, sample in zip(head.predict(state, data, context()), data, strict=True))


def test_windows_equal_one_pass_where_planes_do_not_see_each_other(rng: np.random.Generator) -> None:
    """Any window of a layer that looks at one cell gives the same logits, so that their weighted mean does."""
    features = Features(grids=(rng.normal(size=(23, 5, 6, 7)).astype(np.float32),))
    net = torch.nn.Conv3d(5, 3, 1)

    def call(grids: list) -> torch.Tensor:
        return net(grids[-1])

    with torch.no_grad():
        whole = net(torch.as_tensor(features.grids[0]).movedim(1, 0)[None])[0].movedim(1, 0)
        for depth in (1, 2, 5, 8, 22, 23, 40):
            torch.testing.assert_close(_dense._in_windows(call, features, depth, "cpu"), whole, rtol=1e-5, atol=1e-6)


def test_windows_weigh_their_middle(rng: np.random.Generator) -> None:
    """Logits of two overlapping windows of a network that gives the window's own number come out as the Gaussian mean."""
    features = Features(grids=(np.zeros((12, 1, 2, 2), np.float32),))
    numbers = iter((0.0, 1.0))

    def call(grids: list) -> torch.Tensor:
        return torch.full((1, 1, 8, 2, 2), next(numbers))

    made = _dense._in_windows(call, features, 8, "cpu")[:, 0, 0, 0].numpy()
    places = np.arange(8) - 3.5
    weight = np.exp(-0.5 * (places / 1.0) ** 2)
    first, second = np.zeros(12), np.zeros(12)
    first[:8], second[4:] = np.maximum(weight, weight.max() * 1e-3), np.maximum(weight, weight.max() * 1e-3)
    np.testing.assert_allclose(made, second / (first + second), rtol=1e-5)


@pytest.mark.parametrize("name", ["linear3d", "conv3d", "unet3d"])
@pytest.mark.filterwarnings("ignore")
def test_a_fit_that_was_stopped_ends_with_the_same_weights(name: str, goes_on) -> None:
    goes_on(HEADS.get(name)(epochs=4, evaluate_every=2, flips="horizontal,vertical", rotate=10.0, depth=8), truth(5), truth(2, seed=1))


@pytest.mark.parametrize(("name", "depth"), [("vnet", 16), ("unetr", 16), ("swinunetr", 32), ("dynunet", 16)])
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_monai_takes_volumes_whose_sides_it_could_not(name: str, depth: int) -> None:
    head = HEADS.get(name)(depth=depth)
    net = head.network([1], (70, 70), 3, 57).eval()
    with torch.no_grad():
        logits = net([torch.zeros(1, 1, depth, 70, 70)])
    assert logits.shape == (1, 3, depth, 64, 64), "57 is brought to the next multiple"


def test_a_network_of_one_s_own_is_one_line(context, dice_of) -> None:
    """The example of docs/add-a-head.md, as printed."""
    page = Path(__file__).resolve().parents[2] / "docs" / "add-a-head.md"
    example = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)[0]
    found: dict = {}
    exec(example, found)
    try:
        assert HEADS.get("mine") is found["Mine"]
        head = found["Mine"](epochs=20, learning_rate=0.03, depth=16)
        data = truth(4)
        state = head.fit(data, None, context())
        assert np.mean([dice_of(pred, sample.target) for pred, sample in zip(head.predict(state, data, context()), data, strict=True)]) > 0.9
    finally:
        HEADS._things.pop("mine")


def test_masks_that_overlap_are_predicted_one_by_one() -> None:
    items = [replace(sample, target=LabelMap(np.stack([sample.target.labels > 0, sample.target.labels == 2]).astype(np.uint8), multilabel=True)) for sample in truth(6)]
    head = HEADS.get("linear3d")(epochs=60, learning_rate=0.05, dropout=0.0, depth=8)
    ctx = Context(0, classes=("any", "b"), multilabel=True)
    state = head.fit(SampleList(items), None, ctx)
    for pred, sample in zip(head.predict(state, SampleList(items), ctx), items, strict=True):
        assert pred.shape == sample.target.labels.shape
        assert (pred == sample.target.labels).mean() > 0.97


def test_pieces_cover_volumes_and_favour_what_is_there(context) -> None:
    items = list(truth(3, planes=(40,)))
    for item in items:
        item.target.labels[:30] = item.target.labels[32:] = 0
    crops = Crops.read(SampleList(items), None, 8, context())
    drawn = [piece for epoch in range(40) for piece in crops.drawn(np.random.default_rng(epoch))]
    assert len(crops) == 15
    assert len(drawn) == 15 * 40
    starts = np.array([start for _, start in drawn])
    assert (starts.min(), starts.max()) == (0, 32)
    filled = [any(crops.cases[number].filled[crops.cases[number].filled < start + 8] >= start) for number, start in drawn]
    plain = [any((case.filled >= start) & (case.filled < start + 8)) for case in crops.cases for start in range(33)]
    assert np.mean(filled) == pytest.approx(1 / 3 + np.mean(plain) * 2 / 3, abs=0.05)


def test_planes_past_the_end_repeat_the_last_and_count_for_nothing(context) -> None:
    crops = Crops.read(truth(1, planes=(6,)), None, 8, context())
    (grid,), masks, _ = crops.batch([(0, 0)])
    assert (grid.shape, masks.shape) == ((1, 3, 8, 16, 16), (1, 8, 16, 16))
    assert torch.equal(grid[0, :, 6], grid[0, :, 5])
    assert (masks[0, 6:] == -1).all()
    np.testing.assert_array_equal(masks[0, :6], truth(1, planes=(6,))[0].target.labels)


def test_only_the_planes_of_a_piece_are_read(context) -> None:
    asked: list[tuple[int, int]] = []

    def lazy(grid: np.ndarray) -> Rows:
        def fetch(start: int, stop: int) -> np.ndarray:
            asked.append((start, stop))
            return grid[start:stop]

        return Rows(grid.shape, fetch)

    items = [replace(sample, features={"image": replace(sample.features["image"], grids=(side_by_side([lazy(sample.features["image"].grids[0])] * 2),))}) for sample in truth(2, planes=(40,))]
    head = HEADS.get("linear3d")(epochs=1, depth=8)
    state = head.fit(SampleList(items), None, context())
    list(head.predict(state, SampleList(items), context()))
    assert asked
    assert max(stop - start for start, stop in asked) == 8


def test_a_mask_of_other_planes_than_the_image_is_said(context) -> None:
    items = list(truth(2))
    items[1] = replace(items[1], target=LabelMap(items[1].target.labels[:-1]))
    with pytest.raises(RequestError, match="c1: expected a mask of 9 planes like its image, found 8"):
        HEADS.get("linear3d")(epochs=1).fit(SampleList(items), None, context())
    with pytest.raises(RequestError, match="depth"):
        HEADS.get("conv3d")(depth=0)


@pytest.mark.filterwarnings("ignore")
def test_a_fit_with_parameters_the_loss_never_reaches_goes_on_too(goes_on) -> None:
    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.used = torch.nn.Conv3d(3, 3, 1), torch.nn.Conv3d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    networks.network("idle", lambda channels, outputs, patch: Idle(), multiple=1)
    try:
        goes_on(HEADS.get("idle")(epochs=4, depth=8), truth(5), None)
    finally:
        HEADS._things.pop("idle")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [("unet3d", {"depth": 5}, "a multiple of 8"), ("linear3d", {"dropout": 2}, "dropout"), ("conv3d", {"flips": 3}, "flips"), ("unet3d", {"flips": True}, "flips"), ("linear3d", {"flips": "left-right,none"}, "flips"), ("unet3d", {"pairs": "left"}, "pairs"), ("conv3d", {"warm_up": 5}, "warm_up"), ("linear3d", {"side": 10**8}, "side")],
)
def test_settings_that_no_network_can_have_are_said_at_once(name: str, settings: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        HEADS.get(name)(**settings)
