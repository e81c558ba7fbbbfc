"""Flips and turns: masks go where their planes go, classes become those of the mirror, and what is not known is not flipped."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.errors import RequestError
from medprobe.heads import _dense, _mirror, networks
from medprobe.heads._augment import Augmentation, flipped, rotated, views
from medprobe.heads._crops import Crops
from medprobe.heads._mirror import Flip
from medprobe.imaging import recipes
from medprobe.imaging.labels import LabelMap
from medprobe.registry import HEADS
from medprobe.types import Context, Features, Frame, Sample, SampleList, Source

torch = pytest.importorskip("torch")

RAS = np.eye(4)
"""An affine from (x, y, z) to right, anterior, superior."""
AXIAL = ("superior-inferior", "anterior-posterior", "left-right")
PICTURE = ("vertical", "horizontal")


# -------------------------------------------------------------------------------- names of classes


@pytest.mark.parametrize(
    ("classes", "becomes"),
    [
        (("background", "kidney_left", "kidney_right"), (0, 2, 1)),
        (("background", "R lung", "heart", "L lung"), (0, 3, 2, 1)),
        (("background", "rt. adrenal", "lt. adrenal"), (0, 2, 1)),
        (("background", "LeftPsoas", "RightPsoas"), (0, 2, 1)),
        (("background", "ren dexter", "ren sinister"), (0, 2, 1)),
        (("background", "leftkidney", "rightkidney"), (0, 2, 1)),
        (("background", "rib_left_7", "rib_left_8", "rib_right_7", "rib_right_8"), (0, 3, 4, 1, 2)),
        (("background", "Left-Lateral-Ventricle", "Right-Lateral-Ventricle"), (0, 2, 1)),
        (("background", "левая почка", "правая почка", "左肾", "右肾"), (0, 2, 1, 4, 3)),
        (("background", "nyre venstre", "nyre høyre", "nerka lewa", "nerka prawa"), (0, 2, 1, 4, 3)),
        (("background", "gleason 3", "gleason 4"), (0, 1, 2)),
        (("background", "OD macula", "OS macula"), (0, 2, 1)),
        (("background", "anterior", "posterior"), (0, 1, 2)),
        (("background", "synaptic cleft", "bright lesion", "vertebrae_L1", "vertebrae_L2"), (0, 1, 2, 3, 4)),
        (("liver", "spleen", "liver vessel"), (0, 1, 2)),
    ],
)  # fmt: skip
def test_counterparts_are_found_by_name(classes: tuple[str, ...], becomes: tuple[int, ...]) -> None:
    assert _mirror.counterparts(classes) == becomes


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("background", "kidney_left"), "no counterpart"),
        (("background", "lung_middle_lobe_right", "lung_left", "lung_right"), "no counterpart"),
        (("background", "left ventricle", "right ventricle"), "no mirror image"),
        (("background", "left atrium", "right atrium"), "no mirror image"),
        (("background", "liver left lobe", "liver right lobe"), "no mirror image"),
        (("background", "left lobe", "right lobe"), "no mirror image"),
        (("background", "LK", "RK"), "may be left and right"),
        (("background", "LV", "RV", "MYO"), "may be left and right"),
        (("background", "kidneyl", "kidneyr"), "may be left and right"),
        (("background", "kidney 1", "kidney 2"), "may be left and right"),
        (("background", "femur", "femur2"), "may be left and right"),
        (("background", "tooth_11", "tooth_21"), "may be left and right"),
        (("background", "left to right shunt"), "both sides"),
        (("background", "left kidney", "L kidney", "right kidney"), "of one name"),
    ],
)
def test_sides_that_are_not_understood_are_not_flipped(classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(_mirror.Asymmetric, match=said):
        _mirror.counterparts(classes)
    flips, left_out = _mirror.flips_of("auto", "auto", classes, AXIAL)
    assert flips == ()
    assert said in left_out[0]


ORGAN, KIDNEYS = ("background", "organ"), ("background", "kidney_left", "kidney_right")
HALVES, LOBES = ("background", "anterior", "posterior"), ("background", "upper lobe", "lower lobe")
UNKNOWN = ("depth", "vertical", "horizontal")


@pytest.mark.parametrize(
    ("flips", "classes", "axes", "drawn"),
    [
        ("auto", ORGAN, AXIAL, {-1: (0, 1)}),
        ("auto", KIDNEYS, AXIAL, {-1: (0, 2, 1)}),
        ("auto", KIDNEYS, ("left-right", "superior-inferior", "anterior-posterior"), {-3: (0, 2, 1)}),
        ("auto", HALVES, AXIAL, {-1: (0, 1, 2)}),
        ("auto", ORGAN, PICTURE, {-1: (0, 1)}),
        ("auto", KIDNEYS, PICTURE, {-1: (0, 2, 1)}),
        ("auto", HALVES, PICTURE, {}),
        ("auto", ORGAN, UNKNOWN, {-1: (0, 1)}),
        ("auto", KIDNEYS, UNKNOWN, {}),
        ("auto", HALVES, UNKNOWN, {}),
        ("auto", ("0", "1", "2"), AXIAL, {}),
        ("auto", ("background", "label 1", "label 2"), PICTURE, {}),
        ("auto", ("background", "a", "b"), UNKNOWN, {}),
        ("auto", ("background", "1"), AXIAL, {-1: (0, 1)}),
        ("left-right", ("0", "1", "2"), AXIAL, {-1: (0, 1, 2)}),
        ("auto", ("background", "PZ", "TZ"), AXIAL, {-1: (0, 1, 2)}),
        ("left-right", KIDNEYS, UNKNOWN, {-1: (0, 2, 1)}),
        ("horizontal", KIDNEYS, UNKNOWN, {}),
        ("none", ORGAN, AXIAL, {}),
        ("anterior-posterior", ORGAN, AXIAL, {-2: (0, 1)}),
        ("anterior-posterior", KIDNEYS, AXIAL, {-2: (0, 1, 2)}),
        ("left-right,anterior-posterior", HALVES, AXIAL, {-1: (0, 1, 2)}),
        ("superior-inferior", LOBES, AXIAL, {}),
        ("superior-inferior+left-right", KIDNEYS, AXIAL, {-3: (0, 1, 2), -1: (0, 2, 1)}),
        ("horizontal,vertical", KIDNEYS, AXIAL, {-2: (0, 1, 2), -1: (0, 2, 1)}),
        ("vertical", LOBES, PICTURE, {}),
        ("vertical,horizontal", ORGAN, PICTURE, {-2: (0, 1), -1: (0, 1)}),
        ("anterior-posterior", ORGAN, PICTURE, {}),
    ],
)  # fmt: skip
def test_flips_are_of_the_body(flips: str, classes: tuple, axes: tuple, drawn: dict) -> None:
    found, left_out = _mirror.flips_of(flips, "auto", classes, axes)
    assert {flip.axis: flip.classes for flip in found} == drawn
    assert bool(left_out) == (len(found) < len(flips.replace("none", "").replace("+", ",").split(",")) and flips != "none")


def test_pairs_can_be_stated() -> None:
    classes = ("background", "LK", "RK", "left atrium")
    (flip,), _ = _mirror.flips_of("auto", "LK=RK", classes, AXIAL)
    assert flip.classes == (0, 2, 1, 3)
    (flip,), _ = _mirror.flips_of("auto", "none", classes, AXIAL)
    assert not flip.swaps
    for pairs, said in (("LK=XK", "'XK'"), ("LK=RK,RK=LK", "each once")):
        with pytest.raises(RequestError, match=said):
            _mirror.check_classes(pairs, classes, "unet3d")


@pytest.mark.parametrize(
    ("affine", "axes"),
    [
        (RAS, AXIAL),
        (np.diag([-1.0, 2.0, 5.0, 1.0]), AXIAL),
        (RAS[:, [0, 2, 1, 3]], ("anterior-posterior", "superior-inferior", "left-right")),
        (RAS[:, [1, 2, 0, 3]], ("left-right", "superior-inferior", "anterior-posterior")),
        (None, UNKNOWN),
    ],
    ids=["axial", "turned by half", "coronal", "sagittal", "unknown"],
)
def test_axes_are_read_from_the_affine(affine: np.ndarray | None, axes: tuple[str, ...]) -> None:
    assert _mirror.axes_of(affine, 3) == axes
    assert _mirror.axes_of(affine, 2) == PICTURE


# --------------------------------------------------------------------------------- grids and masks


def volume(labels: np.ndarray, number: int = 0, affine: np.ndarray | None = None, **more: object) -> Sample:
    """Features are the mask itself, one-hot over three classes."""
    grid = np.eye(3, dtype=np.float32)[np.maximum(labels, 0)].transpose(0, 3, 1, 2)
    height, width = labels.shape[-2:]
    features = Features(grids=(grid,), frame=Frame((height, width), (0.0, 0.0, height, width)))
    return Sample(f"c{number}", f"p{number}", {"image": features}, target=LabelMap(labels, affine=affine, **more))  # type: ignore[arg-type]


def test_a_flip_swaps_labels_and_keeps_what_is_ignored() -> None:
    mask = torch.tensor([[0, 1, 2], [-1, 2, 2]])
    swap = Flip(-1, (0, 2, 1))
    assert flipped(mask, swap, False).tolist() == [[1, 2, 0], [1, 1, -1]]
    layers = torch.tensor([[[1, 0]], [[0, 1]], [[-1, 0]]])
    assert flipped(layers, Flip(-1, (1, 0, 2)), True).tolist() == [[[1, 0]], [[0, 1]], [[0, -1]]]


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_a_flip_moves_grid_mask_and_box_alike(axis: int, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, (5, 6, 8)).astype(np.uint8)
    crops = Crops.read(SampleList([volume(labels)]), 8, 5, Context(0, classes=("background", "a", "b")))
    always = Augmentation(((Flip(axis, (0, 1, 2)),),), (1.0,), 0.0, False)
    flips = 0
    for seed in range(8):
        grids, masks, boxes = crops.batch([(0, 0)])
        boxes[:] = (1.0, 0.0, 6.0, 5.0)
        before = grids[0].clone()
        (grid,), turned, moved = always(grids, masks.clone(), boxes, always.drawn([0], np.random.default_rng(seed)))
        if torch.equal(grid, before):
            assert torch.equal(turned, masks)
            assert moved.tolist() == [[1.0, 0.0, 6.0, 5.0]]
            continue
        flips += 1
        assert torch.equal(grid, before.flip(axis))
        assert torch.equal(turned, masks.flip(axis))
        assert moved.tolist() == [{-3: [1.0, 0.0, 6.0, 5.0], -2: [0.0, 0.0, 5.0, 5.0], -1: [1.0, 3.0, 6.0, 8.0]}[axis]]
    assert 0 < flips < 8


def test_a_turn_moves_grid_and_mask_alike(rng: np.random.Generator) -> None:
    planes = torch.as_tensor(rng.normal(size=(2, 3, 9, 9)).astype(np.float32))
    quarter = rotated(planes, 90.0, 1.0, "bilinear")
    torch.testing.assert_close(quarter, torch.rot90(planes, 1, (-2, -1)), rtol=1e-4, atol=1e-4)
    labels = np.zeros((6, 16, 16), np.uint8)
    labels[1:, 3:9, 4:14], labels[2:, 10:14, 2:7] = 1, 2
    crops = Crops.read(SampleList([volume(labels)] * 4), None, 6, Context(0, classes=("background", "a", "b")))
    augmented = Augmentation.of(crops, "horizontal,vertical", "auto", 15.0, ("background", "a", "b"), "grids", pytest.fail)
    (grid,), masks, boxes = crops.batch([(number, 0) for number in range(4)])
    (grid,), masks, _ = augmented([grid], masks, boxes, augmented.drawn(range(4), np.random.default_rng(1)))
    known = masks >= 0
    assert 0.7 < known.double().mean() < 1, "corners that come in from outside are not learned from"
    assert (grid.argmax(dim=1)[known] == masks[known]).double().mean() > 0.9


class Seen(SampleList):
    """Samples whose grids are seen flipped and turned, as an encoder that hands planes through gives them."""

    def augmented(self, policy: str, rng: np.random.Generator) -> SampleList:
        (view,) = [one for one in views((-2, -1), 15.0) if one.name == policy]
        grids = [view(torch.as_tensor(one.features["image"].grids[0])).numpy() for one in self.items]
        return SampleList([replace(one, features={"image": replace(one.features["image"], grids=(grid,))}, target=None) for one, grid in zip(self.items, grids, strict=True)])


@pytest.mark.parametrize("flips", ["auto", "left-right,anterior-posterior", "superior-inferior,left-right"])
@pytest.mark.parametrize("classes", [KIDNEYS, (*ORGAN, "other")])
def test_the_grids_of_a_view_show_what_its_mask_says(flips: str, classes: tuple[str, ...]) -> None:
    """Of every draw, turned and flipped, also along the planes; classes swap in the mask alone."""
    labels = np.zeros((6, 24, 24), np.uint8)
    labels[1:4, 4:12, 5:20], labels[2:, 14:22, 2:9] = 1, 2
    samples = Seen([volume(labels, affine=RAS)])
    crops = Crops.read(samples, None, 6, Context(0, classes=classes))
    augmented = Augmentation.of(crops, flips, "auto", 15.0, classes, "views", pytest.fail)
    crops = crops.with_views(samples, augmented.encoded, Context(0))
    drawn = set()
    for seed in range(100):
        draws = augmented.drawn([0], np.random.default_rng(seed))
        drawn.add(draws[0].view)
        grids, masks, boxes = crops.batch([(0, 0)], [draw.view for draw in draws])
        (grid,), masks, _ = augmented(grids, masks, boxes, draws)
        shown = grid.argmax(dim=1)
        if classes == KIDNEYS and any(flip.swaps for flip in draws[0].flips):
            shown = torch.tensor([0, 2, 1])[shown]
        known = masks >= 0
        assert (shown[known] == masks[known]).double().mean() > 0.95
    assert drawn == {"", *augmented.encoded}


@pytest.mark.parametrize(("height", "width"), [(24, 24), (12, 24), (24, 8)])
def test_a_turn_is_rigid_in_mm(height: int, width: int) -> None:
    """A bar of 60 x 10 mm on pixels of other heights and widths stays one, turned by as many degrees as was asked."""
    y, x = ((np.arange(n) + 0.5 - n / 2) * 96 / n for n in (height * 8, width * 8))
    bar = ((abs(y[:, None]) < 5) & (abs(x[None]) < 30)).astype(np.float32)
    turned = rotated(torch.as_tensor(bar)[None], 15.0, 1.0, "nearest")[0].numpy() > 0
    rows, columns = np.nonzero(turned)
    spread = np.cov(np.stack([x[columns], y[rows]]))
    values, vectors = np.linalg.eigh(spread)
    assert np.sqrt(12 * values) == pytest.approx([10, 60], rel=0.06)
    across, down = vectors[:, 1]
    assert abs(np.degrees(np.arctan(down / across))) == pytest.approx(15, abs=1.0)


def test_the_stretch_of_a_plane_is_that_of_its_mm() -> None:
    """40 x 80 pixels of 3 x 1 mm, padded to a square of 8 x 8 cells: a cell is 30 mm high and 10 wide."""
    grid = np.zeros((2, 3, 8, 8), np.float32)
    features = Features(grids=(grid,), frame=Frame((40, 80), (2.0, 0.0, 6.0, 8.0)))
    target = LabelMap(np.zeros((2, 40, 80), np.uint8), spacing=(5.0, 3.0, 1.0))
    crops = Crops.read(SampleList([Sample("a", "a", {"image": features}, target=target)]), 8, 2, Context(0, classes=ORGAN))
    assert crops.cases[0].stretch == pytest.approx(3.0)


@pytest.mark.parametrize("fit_rule", ["squash", "pad", "crop"])
@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (30, 90)])
def test_a_turned_mask_lies_where_the_turned_plane_shows_it(fit_rule: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """Features are the mask itself, brought to a square as an image is; a perfect reader of it stays one under turns and flips."""
    mask = np.zeros((4, *shape), np.uint8)
    mask[1:, shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] * 4 // 5] = 1
    np.save(tmp_path / "mask.npy", mask * 255)
    planes = recipes.planes((Source(tmp_path / "mask.npy"),), window="full-range", size=(64, 64), fit_rule=fit_rule)
    sample = Sample("a", "a", {"image": Features(grids=(planes.pixels.astype(np.float32) / 255,), frame=planes.frame)}, target=LabelMap(mask))
    crops = Crops.read(SampleList([sample]), 96, 4, Context(0, classes=ORGAN))
    augmented = Augmentation.of(crops, "horizontal,vertical", "auto", 15.0, ORGAN, "grids", pytest.fail)
    scores = []
    for draw in range(20):
        grids, masks, boxes = crops.batch([(0, 0)])
        (grid,), masks, boxes = augmented(grids, masks, boxes, augmented.drawn([0], np.random.default_rng(draw)))
        seen = _dense.to_pixels(grid, crops.grid, boxes, (96, 96))[0, 0] > 0.5
        known = masks[0] != -1
        true = (masks[0] == 1) & known
        scores.append(2 * float((seen & true).sum()) / float((seen & known).sum() + true.sum()))
    assert min(scores) > 0.9
    assert np.mean(scores) > 0.95


# ------------------------------------------------------------------------------------ known answers


class Placed(torch.nn.Module):
    """A small network on the values of a voxel and on where in the patch it lies."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv3d(channels + 3, 16, 1), torch.nn.Conv3d(16, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in x.shape[2:]), indexing="ij")
        where = torch.stack(places)[None].expand(len(x), -1, -1, -1, -1)
        return self.last(torch.relu(self.first(torch.cat([x, where], dim=1))))


@pytest.fixture(scope="module")
def placed() -> Iterator[str]:
    networks.network("placed", lambda channels, outputs, patch: Placed(channels, outputs), multiple=1)
    yield "placed"
    HEADS._things.pop("placed")


def blobs(count: int, seed: int, affine: np.ndarray | None, axis: int = 2, halves: tuple[int, ...] = (1, 2)) -> SampleList:
    """Volumes of noise with a blob for each of `halves`: of class 1 in the first half along `axis`, of class 2 in the second."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        labels = np.zeros((8, 16, 16), np.uint8)
        for label in halves:
            place = [int(rng.integers(1, 3)), *(int(rng.integers(2, 9)) for _ in range(2))]
            place[axis] = int(rng.integers(1, 3)) + 8 * (label - 1)
            labels[tuple(slice(start, start + 5) for start in place)] = label
        pixels = (rng.normal(0.2, 0.05, labels.shape) + 0.6 * (labels > 0)).astype(np.float32)
        features = Features(grids=(pixels[:, None],), frame=Frame((16, 16), (0.0, 0.0, 16.0, 16.0)))
        target = LabelMap(labels, (1.0, 1.0, 1.0), affine)
        items.append(Sample(f"c{number}", f"p{number}", {"image": features}, target=target))
    return SampleList(items)


Fitted = Callable[..., float]


@pytest.fixture
def fitted(placed: str, dice_of: Callable[..., float]) -> Fitted:
    """The mean Dice of the small network after training with `flips` on volumes that `blobs` makes."""

    def run(classes: tuple[str, ...], flips: str, affine: np.ndarray | None = RAS, axis: int = 2, pairs: str = "auto") -> float:
        head = HEADS.get(placed)(
            depth=8, epochs=60, batch_size=2, learning_rate=0.03, rotate=0.0, flips=flips, pairs=pairs
        )
        ctx = Context(0, classes=classes)
        state = head.fit(blobs(8, 0, affine, axis), None, ctx)
        test = blobs(4, 1, affine, axis)
        return float(np.mean([dice_of(pred, one.target) for pred, one in zip(head.predict(state, test, ctx), test, strict=True)]))

    return run


def test_a_left_and_a_right_kidney_swap_in_the_mirror(fitted: Fitted) -> None:
    without, swapped = fitted(KIDNEYS, "none"), fitted(KIDNEYS, "auto")
    assert without > 0.9
    assert swapped >= without - 0.01
    assert fitted(KIDNEYS, "left-right", affine=None) >= without - 0.01
    assert fitted(("background", "LK", "RK"), "auto", pairs="LK=RK") >= without - 0.01
    assert fitted(KIDNEYS, "auto", pairs="none") < 0.7, "mirrored with their numbers, none can be told from the other"


@pytest.mark.parametrize(
    ("classes", "flips", "affine", "axis"),
    [(KIDNEYS, "auto", None, 2), (("background", "LK", "RK"), "auto", RAS, 2), (HALVES, "left-right,anterior-posterior", RAS, 1)],
    ids=["no directions known", "abbreviated", "front and back"],
)  # fmt: skip
def test_what_is_not_known_to_swap_is_not_flipped(fitted: Fitted, classes: tuple, flips: str, affine, axis: int) -> None:  # type: ignore[no-untyped-def]
    assert fitted(classes, flips, affine, axis) > 0.9


@pytest.mark.parametrize(("affine", "flips"), [(RAS, "auto"), (None, "auto"), (RAS, "none")], ids=["body", "unknown", "none"])
def test_an_organ_seen_on_one_side_alone_is_found_on_the_other(placed: str, affine: np.ndarray | None, flips: str, dice_of) -> None:  # type: ignore[no-untyped-def]
    head = HEADS.get(placed)(depth=8, epochs=60, learning_rate=0.03, rotate=0.0, flips=flips)
    ctx = Context(0, classes=ORGAN)
    state = head.fit(blobs(8, 0, affine, halves=(1,)), None, ctx)
    test = [replace(one, target=LabelMap(np.minimum(one.target.labels, 1))) for one in blobs(4, 1, affine, halves=(2,))]
    dice = np.mean([dice_of(pred, one.target) for pred, one in zip(head.predict(state, SampleList(test), ctx), test, strict=True)])
    assert (dice > 0.9) == (flips == "auto")


def test_what_is_left_out_is_said_and_what_was_drawn_is_kept(placed: str, recorded) -> None:  # type: ignore[no-untyped-def]
    head = HEADS.get(placed)(depth=8, epochs=1)
    state = head.fit(blobs(2, 0, RAS), None, recorded.context(classes=("background", "left atrium", "right atrium")))
    assert "flips left-right are left out: 'left atrium' is no mirror image of 'right atrium'" in recorded.warnings
    assert (state.meta["flipped_axes"], state.meta["swapped_classes"]) == ([], [])
    state = head.fit(blobs(2, 0, RAS), None, recorded.context(classes=KIDNEYS))
    assert (state.meta["flipped_axes"], state.meta["swapped_classes"]) == ([-1], [(1, 2)])


def test_a_frozen_grid_whose_classes_swap_is_not_flipped(recorded) -> None:  # type: ignore[no-untyped-def]
    head = HEADS.get("linear3d")(depth=8, epochs=1)
    state = head.fit(blobs(2, 0, RAS), None, recorded.context(classes=KIDNEYS))
    assert state.meta["flipped_axes"] == []
    assert any("an encoder that knows left from right" in sentence for sentence in recorded.warnings)
    assert head.fit(blobs(2, 0, RAS), None, recorded.context(classes=HALVES)).meta["flipped_axes"] == [-1]


@pytest.mark.parametrize("name", ["linear2d", "conv2d", "unet2d", "linear3d", "conv3d", "unet3d", "vnet", "unetr", "swinunetr", "dynunet"])
def test_frozen_decoders_and_networks_are_augmented_alike(name: str) -> None:
    head = HEADS.get(name)()
    assert (head.flips, head.pairs, head.rotate, head.augment) == ("auto", "auto", 15.0, "grids")


def test_the_side_of_training_is_that_of_all_cases() -> None:
    """Grids of 8 cells of planes of 40, 56, 47 and 60 pixels: whatever their order, the higher of the two in the middle."""
    sides = (40, 56, 47, 60)
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        items = [
            Sample(
                f"c{number}", f"p{number}",
                {"image": Features(grids=(np.zeros((4, 3, 8, 8), np.float32),), frame=Frame((sides[place], 30), (0.0, 0.0, 8.0, 8.0)))},
                target=LabelMap(np.zeros((4, sides[place], 30), np.uint8)),
            )
            for number, place in enumerate(order)
        ]  # fmt: skip
        ctx = Context(0, classes=ORGAN)
        assert Crops.read(SampleList(items), None, 4, ctx).side == 56
        assert Crops.read(SampleList(items[:1]), None, 4, ctx).side == sides[order[0]]
