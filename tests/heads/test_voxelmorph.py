"""VoxelMorph: against MONAI's own, what it learns from blobs, its losses, fits that were stopped, what it refuses."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from medprobe.errors import CaseError, MedprobeError, RequestError
from medprobe.heads import _flows
from medprobe.heads.networks import monai
from medprobe.heads.voxelmorph import VoxelMorph
from medprobe.metrics.overlap import overlap
from medprobe.metrics.registration import folding_fraction, warp_labels
from medprobe.types import Context, Image, Sample, SampleList

torch = pytest.importorskip("torch")
pytest.importorskip("monai")


def blobs(shape: tuple[int, ...], count: int = 2) -> SampleList:
    """Pairs of a soft ball that is larger and elsewhere in the moving image; the target is (fixed mask, moving mask)."""
    rng, items = np.random.default_rng(0), []
    for number in range(count):
        images, masks = {}, []
        for role, share in (("fixed", 0.2), ("moving", 0.3)):
            centre, radius = [side / 2 + rng.uniform(-1, 1) for side in shape], share * shape[-1]
            far = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(np.indices(shape), centre, strict=True)))
            image = (1 / (1 + np.exp((far - radius) / 1.5))).astype(np.float32)[None]
            images[role] = Image(image[:, None] if len(shape) == 2 else image)
            masks.append((far < radius).astype(np.uint8))
        items.append(Sample(str(number), str(number), images=images, target=tuple(masks)))
    return SampleList(items)


def dice(displacement: np.ndarray, target: tuple[np.ndarray, np.ndarray]) -> float:
    return float(overlap(warp_labels(target[1], displacement), target[0], 2).dice[1])


@pytest.fixture
def context() -> Callable[..., Context]:
    return lambda **more: Context(**{"seed": 0, "dims": 2, "monitor": dice, **more})


def noise(*shape: int) -> Any:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def shaken(net: Any, size: float = 0.05) -> Any:
    """A network whose last layer moves something."""
    with torch.no_grad():
        net.unet.net[-1].final_conv_out.conv.weight.copy_(torch.randn(net.unet.net[-1].final_conv_out.conv.weight.shape, generator=torch.Generator().manual_seed(0)) * size)
    return net


@pytest.mark.equality(
    "MONAI, VoxelMorph with the same weights: displacement and warped image; 1e-5"
)
@pytest.mark.parametrize("sides", [(32, 48), (16, 32, 16)])
@pytest.mark.parametrize("int_steps", [0, 7])
@pytest.mark.filterwarnings("ignore")
def test_field_and_warped_image_equal_those_of_monai(sides: tuple[int, ...], int_steps: int) -> None:
    net = shaken(VoxelMorph(int_steps=int_steps, half_resolution=False).network(len(sides), 1), 2.0)
    theirs = monai("voxelmorph", "VoxelMorph")(net.unet, int_steps, False, len(sides))
    fixed, moving = noise(1, 1, *sides), noise(1, 1, *sides).flip(-1)
    with torch.no_grad():
        _flow, found = net(fixed, moving)
        warped, expected = theirs(moving, fixed)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(_flows.warped(moving, found), warped, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_half_resolution_keeps_the_length_of_vectors_which_monai_does_not() -> None:
    """MONAI doubles the velocity on the way down and halves the displacement on the way up, where VoxelMorph does the opposite: ours of a flow
    four times as large is four times theirs."""
    sides = (16, 32, 16)
    net = shaken(VoxelMorph().network(3, 1), 1.0)
    theirs = monai("voxelmorph", "VoxelMorph")(net.unet, 7, True, 3)
    fixed, moving = noise(1, 1, *sides), noise(1, 1, *sides).flip(-1)
    with torch.no_grad():
        expected = 4 * theirs(moving, fixed)[1]
        net.unet.net[-1].final_conv_out.conv.weight.mul_(4)
        found = net(fixed, moving)[1]
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def authors_unet(layers: list[Any], x: Any) -> Any:
    """Their U-Net on x: convolutions of 3 with LeakyReLU 0.2, four halvings by the maximum, nearest
    neighbours on the way up. They put the skip behind what comes up, MONAI before it."""
    act = torch.nn.functional
    flat = x.ndim == 4
    convolve, pool = (act.conv2d, act.max_pool2d) if flat else (act.conv3d, act.max_pool3d)
    left = iter(layers)

    def block(x: Any) -> Any:
        layer = next(left)
        return act.leaky_relu(convolve(x, layer.weight, layer.bias, padding=1), 0.2)

    skips = []
    for _ in range(4):
        skips.append(block(x))
        x = pool(skips[-1], 2)
    for skip in reversed(skips):
        x = block(x)
        for axis in range(2, x.ndim):
            x = x.repeat_interleave(2, dim=axis)
        x = torch.cat([skip, x], dim=1)
    for _ in range(3):
        x = block(x)
    last = next(left)
    return convolve(x, last.weight, last.bias, padding=1)


@pytest.mark.equality(
    "voxelmorph/voxelmorph, torch/networks.py: the default U-Net (16, 32, 32, 32; 32, 32, 32, 32, "
    "32, 16, 16); 1e-5"
)
@pytest.mark.parametrize("sides", [(32, 48), (16, 32, 16)])
def test_the_network_is_the_authors_u_net(sides: tuple[int, ...]) -> None:
    net = shaken(VoxelMorph().network(len(sides), 1), 1.0).unet
    layers = [layer for layer in net.modules() if hasattr(layer, "weight")]
    widths = [16, 32, 32, 32, 32, 32, 32, 32, 32, 16, 16, len(sides)]
    assert [layer.weight.shape[0] for layer in layers] == widths
    x = noise(1, 2, *sides)
    with torch.no_grad():
        found = net(x)
        torch.testing.assert_close(found, authors_unet(layers, x), rtol=0, atol=1e-5)
        layers[3:5] = layers[4:2:-1]
        assert (found - authors_unet(layers, x)).abs().max() > 1e-3


def moved_by(image: Any, u: Any) -> Any:
    """(1, C, *sides) at x + u, linear between centres, 0 outside, corner by corner."""
    sides = image.shape[2:]
    place = (
        torch.stack(
            torch.meshgrid(*[torch.arange(side, dtype=u.dtype) for side in sides], indexing="ij")
        )
        + u[0]
    )
    total = torch.zeros_like(image)
    for corner in product((0, 1), repeat=len(sides)):
        weight, index, inside = 1.0, [], True
        for x, step, side in zip(place, corner, sides, strict=True):
            at = x.floor() + step
            weight, inside = weight * (1 - (x - at).abs()), inside & (at >= 0) & (at < side)
            index.append(at.clamp(0, side - 1).long())
        total = total + image[(slice(None), slice(None), *index)] * (weight * inside)
    return total


def authors(velocity: Any, steps: int) -> Any:
    """The authors' way from a flow to a displacement: halved in size and length, divided by
    2^steps, composed with itself `steps` times, doubled in length and size."""
    mode = {4: "bilinear", 5: "trilinear"}[velocity.ndim]
    u = (
        torch.nn.functional.interpolate(velocity, scale_factor=0.5, mode=mode, align_corners=True)
        * 0.5
        / 2**steps
    )
    for _ in range(steps):
        u = u + moved_by(u, u)
    return torch.nn.functional.interpolate(u * 2, scale_factor=2.0, mode=mode, align_corners=True)


@pytest.mark.equality(
    "voxelmorph/voxelmorph, torch/networks.py and layers.py: from the flow to the displacement "
    "and the warped image, 7 steps at half resolution; 1e-4"
)
@pytest.mark.parametrize("sides", [(32, 48), (16, 32, 16)])
def test_flow_becomes_a_displacement_as_in_the_authors_code(sides: tuple[int, ...]) -> None:
    net = shaken(VoxelMorph().network(len(sides), 1), 2.0)
    fixed, moving = noise(1, 1, *sides), noise(1, 1, *sides).flip(-1)
    with torch.no_grad():
        before, found = net(fixed, moving)
        flow = net.unet(torch.cat([moving, fixed], dim=1))
        expected = authors(flow, 7)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - authors(flow, 3)).abs().max() > 1e-3
    torch.testing.assert_close(
        _flows.warped(moving, found), moved_by(moving, found), rtol=0, atol=1e-4
    )
    half = (
        torch.nn.functional.interpolate(
            flow,
            scale_factor=0.5,
            mode={2: "bilinear", 3: "trilinear"}[len(sides)],
            align_corners=True,
        )
        * 0.5
    )
    torch.testing.assert_close(before, half, rtol=0, atol=1e-5)


@pytest.mark.equality(
    "voxelmorph/voxelmorph, torch/losses.py: NCC of 9 voxels, Grad l2 times int_downsize, and "
    "their sum; 1e-5"
)
@pytest.mark.parametrize("sides", [(20, 24), (12, 14, 13)])
def test_losses_are_those_of_the_authors_code(sides: tuple[int, ...]) -> None:
    axes = len(sides)
    one, other = (
        noise(1, 1, *sides).double(),
        (noise(1, 1, *sides).flip(-1) + noise(1, 1, *sides)).double() / 2,
    )
    convolution, window = (
        (torch.nn.functional.conv2d, torch.nn.functional.conv3d)[axes - 2],
        torch.ones(1, 1, *[9] * axes, dtype=torch.float64),
    )
    total = [
        convolution(each, window, padding=4)
        for each in (one, other, one * one, other * other, one * other)
    ]
    cross = total[4] - total[0] * total[1] / 9**axes
    spread = [total[2 + place] - total[place].square() / 9**axes for place in (0, 1)]
    ncc = -(cross.square() / (spread[0] * spread[1] + 1e-5)).mean()
    assert _flows.lncc(one, other).item() == pytest.approx(ncc.item(), rel=1e-9)
    flow = noise(1, axes, *sides).double()
    grad = 2 * sum(flow.diff(dim=axis).square().mean() for axis in range(2, flow.ndim)) / axes
    for similarity, weight, like in (
        ("lncc", 1.0, ncc),
        ("mse", 0.05, (one - other).square().mean()),
    ):
        head = VoxelMorph(similarity=similarity, lambda_weight=weight)
        still = torch.zeros_like(flow)
        assert head.loss((one, other), (one, other), flow, still).item() == pytest.approx(
            (like + weight * grad).item(), rel=1e-5
        )


def test_halving_leaves_a_constant_displacement_as_it_is() -> None:
    vectors = torch.tensor([1.5, -0.75]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    half = _flows._resized(vectors, 0.5)
    torch.testing.assert_close(half, vectors[..., :4, :6] / 2)
    torch.testing.assert_close(_flows._resized(half, 2.0), vectors)


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16), (20, 37), (5, 18, 23)])
def test_an_untrained_network_moves_next_to_nothing(shape: tuple[int, ...], context) -> None:
    data = blobs(shape, 1)
    ctx = context(dims=len(shape), monitor=None)
    head = VoxelMorph(epochs=1, learning_rate=0.0)
    (found,) = head.predict(head.fit(data, None, ctx), data, ctx)
    assert found.shape == (len(shape), *shape)
    assert found.dtype == np.float32
    assert np.abs(found).max() < 1e-3


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((32, 32), {}),
        ((30, 37), {"int_steps": 0, "bidirectional": True, "signed": True}),
        ((32, 32), {"similarity": "lncc", "lambda_weight": 0.1, "epochs": 60}),
        ((14, 16, 16), {"epochs": 25}),
    ],
)
def test_blobs_are_registered(shape: tuple[int, ...], settings: dict[str, Any], context) -> None:
    data, ctx = blobs(shape), context(dims=len(shape))
    head = VoxelMorph(**{"learning_rate": 2e-3, "epochs": 30, **settings})
    state = head.fit(data, data, ctx)
    found = list(head.predict(state, data, ctx))
    before = np.mean([dice(np.zeros_like(one), sample.target) for one, sample in zip(found, data, strict=True)])
    after = np.mean([dice(one, sample.target) for one, sample in zip(found, data, strict=True)])
    assert before < 0.65
    assert after > before + 0.15
    assert max(state.meta["monitor"]) == pytest.approx(after)
    assert max(folding_fraction(one) for one in found) < 0.02


def test_the_displacement_is_what_warps_the_image(context) -> None:
    """MONAI's warp of the moving image is scipy's, sampled at x + u."""
    data, ctx = blobs((12, 14, 16), 1), context(dims=3, monitor=None)
    head = VoxelMorph(learning_rate=5e-3, epochs=8)
    (found,) = head.predict(head.fit(data, None, ctx), data, ctx)
    assert np.abs(found).max() > 0.3
    moving = data[0].images["moving"].pixels
    made = _flows.warped(torch.as_tensor(moving)[None], torch.as_tensor(found)[None])[0, 0].numpy()
    inside = tuple(slice(3, -3) for _ in range(3))
    expected = map_coordinates(moving[0].astype(np.float64), np.indices(moving.shape[1:]) + found, order=1, mode="constant")
    np.testing.assert_allclose(made[inside], expected[inside], atol=1e-4)


@pytest.mark.equality("MONAI, LocalNormalizedCrossCorrelationLoss; 1e-4")
@pytest.mark.parametrize("sides", [(20, 24), (12, 14, 13)])
@pytest.mark.filterwarnings("ignore")
def test_lncc_is_that_of_monai_and_of_a_window_by_hand(sides: tuple[int, ...]) -> None:
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    found, fixed = noise(1, 2, *sides), noise(1, 2, *sides).flip(-1) * 0.5 + noise(1, 2, *sides) * 0.5
    theirs = LocalNormalizedCrossCorrelationLoss(len(sides), kernel_size=9, smooth_dr=1e-5)
    ours = torch.stack([_flows.lncc(found[:, [channel]], fixed[:, [channel]]) for channel in range(2)]).mean()
    torch.testing.assert_close(_flows.lncc(found, fixed), ours)
    torch.testing.assert_close(ours, torch.stack([theirs(found[:, [channel]], fixed[:, [channel]]) for channel in range(2)]).mean(), rtol=1e-4, atol=1e-4)
    window = tuple(slice(0, 9) for _ in sides)
    one, other = found[0, 0][window].numpy(), fixed[0, 0][window].numpy()
    middle = tuple(slice(4, 5) for _ in sides)
    correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1] ** 2
    both = [_flows._box_mean(each[None, None], 9)[0, 0][middle].item() for each in (found[0, 0] * fixed[0, 0], found[0, 0], fixed[0, 0], found[0, 0] ** 2, fixed[0, 0] ** 2)]
    assert (both[0] - both[1] * both[2]) ** 2 / ((both[3] - both[1] ** 2) * (both[4] - both[2] ** 2)) == pytest.approx(correlation, rel=1e-3)


def test_diffusion_by_hand() -> None:
    flow = torch.zeros(1, 2, 3, 2)
    flow[0, 0, 1, 0] = 2.0
    # down the first axis two differences of 2 among 8, along the second one among 6
    assert _flows.diffusion(flow).item() == pytest.approx((8 / 8 + 4 / 6) / 2)


@pytest.mark.parametrize("settings", [{}, {"bidirectional": True, "similarity": "lncc", "int_steps": 0}])
def test_a_stopped_fit_goes_on_to_the_same_weights(settings: dict[str, Any], goes_on) -> None:
    data = blobs((16, 18))
    state, memory = goes_on(VoxelMorph(epochs=4, learning_rate=1e-3, evaluate_every=2, **settings), data, data)
    assert len(state.meta["monitor"]) == 2
    assert memory.state.meta["epochs"] == 3


def test_pairs_may_differ_in_shape(context) -> None:
    data = SampleList([*blobs((16, 40), 1), *blobs((33, 20), 1)])
    head = VoxelMorph(epochs=1)
    shapes = [one.shape for one in head.predict(head.fit(data, data, context()), data, context())]
    assert shapes == [(2, 16, 40), (2, 33, 20)]


def test_labels_of_training_pairs_are_not_looked_at(context) -> None:
    data = blobs((16, 16))
    bare = SampleList([Sample(one.id, one.patient, images=one.images) for one in data])
    head = VoxelMorph(epochs=2, learning_rate=1e-3)
    first, second = (head.fit(part, data, context()).tensors for part in (data, bare))
    assert all(np.array_equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("similarity", ["mse", "lncc"])
def test_constant_images_leave_everything_finite(similarity: str, context) -> None:
    flat = {role: Image(np.full((1, 1, 16, 16), 0.5, np.float32)) for role in ("fixed", "moving")}
    data = SampleList([Sample("a", "p", images=flat)])
    head = VoxelMorph(similarity=similarity, epochs=3)
    (found,) = head.predict(head.fit(data, None, context()), data, context())
    assert np.isfinite(found).all()


def test_without_validation_the_last_epoch_is_used_and_said(recorded) -> None:
    ctx = recorded.context(dims=2)
    state = VoxelMorph(epochs=2).fit(blobs((16, 16)), None, ctx)
    assert state.meta["monitor"] == []
    short, unjudged = recorded.warnings
    assert "optimiser steps, fewer than 2000" in short
    assert unjudged == "voxelmorph: no labelled validation pairs to choose an epoch on, so the last one is used"


def test_what_cannot_be_learned_from_is_refused(context) -> None:
    with pytest.raises(RequestError, match="the training part is empty"):
        VoxelMorph().fit(SampleList([]), None, context())
    with pytest.raises(CaseError, match="at least two planes, found one; register it as a picture"):
        VoxelMorph(epochs=1).fit(blobs((1, 16, 16), 1), None, context(dims=3))
    with pytest.raises(MedprobeError, match=r"the loss is .*; lower learning_rate"):
        VoxelMorph(epochs=50, learning_rate=1e12).fit(blobs((16, 16)), None, context())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"similarity": "ncc"}, "similarity must be one of mse, lncc, found 'ncc'"),
        ({"int_steps": -1}, "int_steps must be a whole number of 0 to 20"),
        ({"lambda_weight": -0.1}, "lambda_weight must be a number >= 0"),
        ({"epochs": 0}, "epochs must be a whole number >= 1"),
        ({"signed": 1}, "signed must be true or false"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        VoxelMorph(**settings)
