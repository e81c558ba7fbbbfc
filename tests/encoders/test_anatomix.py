"""anatomix: the published layout of names and shapes, pictures as volumes that do not change, sides of any length, windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprobe.encoders import load
from medprobe.errors import MissingError, RequestError

torch = pytest.importorskip("torch")

# (number of the layer, outputs, inputs) of each convolution of the published network; those with a norm after them have it next
CONVOLUTIONS = (
    (0, 16, 1), (3, 16, 16), (6, 16, 16), (10, 32, 16), (13, 32, 32), (17, 64, 32), (20, 64, 64), (24, 128, 64), (27, 128, 128), (31, 256, 128),
    (34, 256, 256), (38, 128, 384), (41, 128, 128), (45, 64, 192), (48, 64, 64), (52, 32, 96), (55, 32, 32), (59, 16, 48), (62, 16, 16), (65, 16, 16),
)  # fmt: skip


def published() -> dict[str, Any]:
    """Perturbed random weights under the published names."""
    random = torch.Generator().manual_seed(3)
    state = {}
    for layer, outputs, inputs in CONVOLUTIONS:
        state[f"model.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3, 3, generator=random) * (2 / (27 * inputs)) ** 0.5
        if layer != 65:
            for name, low, high in (("weight", 0.7, 1.3), ("bias", -0.1, 0.3), ("running_mean", -0.1, 0.1), ("running_var", 0.7, 1.3)):
                state[f"model.{layer + 1}.{name}"] = torch.rand(outputs, generator=random) * (high - low) + low
            state[f"model.{layer + 1}.num_batches_tracked"] = torch.tensor(1)
    return state


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "anatomix.pth"
    torch.save(published(), path)
    return path


def by_hand(state: dict[str, Any], x: Any) -> Any:
    """The network layer by layer, of volumes (N, 1, D, H, W)."""
    from torch.nn import functional

    def block(x: Any, *layers: int) -> Any:
        for layer in layers:
            x = functional.conv3d(functional.pad(x, [1] * 6, mode="reflect"), state[f"model.{layer}.weight"])
            if layer != 65:
                mean, var, weight, bias = (state[f"model.{layer + 1}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
                x = functional.relu(functional.batch_norm(x, mean, var, weight, bias))
        return x

    skips = []
    x = block(x, 0)
    for layers in ((3, 6), (10, 13), (17, 20), (24, 27)):
        x = block(x, *layers)
        skips.append(x)
        x = functional.max_pool3d(x, 2)
    x = block(x, 31, 34)
    for layers in ((38, 41), (45, 48), (52, 55), (59, 62)):
        x = block(torch.cat([skips.pop(), functional.interpolate(x, scale_factor=2, mode="nearest")], dim=1), *layers)
    return block(x, 65)


@pytest.mark.equality("neel-dey/anatomix, its U-Net layer by layer from the published names; 1e-5")
def test_published_weights_give_what_the_layers_give(file: Path, rng: np.random.Generator) -> None:
    encoder = load("anatomix", weights=file)
    volume = rng.random((1, 1, 32, 48, 32)).astype(np.float32)
    scaled = torch.as_tensor((volume - volume.min()) / (volume.max() - volume.min()))
    with torch.no_grad():
        expected = by_hand(published(), scaled)
    assert expected.abs().mean() > 0.01
    found = encoder(volume)
    torch.testing.assert_close(found.grid, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.patch_mean, expected.mean(dim=(2, 3, 4)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.describe(volume[0]), expected[0].numpy(), atol=1e-5)
    assert encoder.params == 5_899_344


@pytest.mark.parametrize("change", ["missing", "shape", "unknown", "bias"])
def test_another_layout_is_refused(change: str, tmp_path: Path) -> None:
    state = published()
    if change == "missing":
        del state["model.38.weight"]
    elif change == "shape":
        state["model.38.weight"] = state["model.38.weight"][:, :256]
    elif change == "unknown":
        state["model.66.weight"] = torch.zeros(1)
    else:
        state["model.0.bias"] = torch.zeros(16)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(MissingError, match="does not fit anatomix"):
        load("anatomix", weights=tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["model.0.weight", "model.35.running_var", "model.65.weight"])
def test_a_changed_weight_changes_the_features(name: str, file: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    state = published()
    state[name] = state[name] * 1.05
    torch.save(state, tmp_path / "changed.pth")
    image = rng.random((1, 32, 32)).astype(np.float32)
    same, changed = (load("anatomix", weights=path).describe(image) for path in (file, tmp_path / "changed.pth"))
    assert np.abs(same - changed).max() > 1e-4


def test_a_picture_is_the_middle_plane_of_itself_repeated(file: Path, rng: np.random.Generator) -> None:
    encoder = load("anatomix", weights=file)
    picture = rng.random((2, 37, 20)).astype(np.float32)
    flat, deep = encoder.describe(picture), encoder.describe(np.repeat(picture[:, None], 32, axis=1))
    assert flat.shape == (32, 37, 20)
    assert flat.dtype == np.float32
    np.testing.assert_allclose(flat, deep[:, 16], atol=1e-4)


def test_channels_are_described_one_by_one_and_their_range_does_not_matter(file: Path, rng: np.random.Generator) -> None:
    encoder = load("anatomix", weights=file)
    volume = rng.random((2, 5, 17, 33)).astype(np.float32)
    found = encoder.describe(volume)
    assert found.shape == (32, 5, 17, 33)
    np.testing.assert_allclose(found[16:], encoder.describe(volume[1:]), atol=1e-6)
    np.testing.assert_allclose(found, encoder.describe(volume * np.float32(0.5) + np.float32(0.25)), atol=1e-4)


def test_constant_images_and_single_voxels_are_finite() -> None:
    encoder = load("random:anatomix", seed=1)
    for shape in ((1, 8, 8), (1, 1, 1), (1, 1, 1, 1), (1, 3, 4, 5)):
        found = encoder.describe(np.full(shape, 0.3, np.float32))
        assert found.shape == (16, *shape[1:])
        assert np.isfinite(found).all()


def test_long_sides_are_seen_in_windows(file: Path, rng: np.random.Generator) -> None:
    """Near the start of a side, where one window sees all that the whole would, and there is no seam."""
    encoder = load("anatomix", weights=file)
    picture = rng.random((1, 32, 200)).astype(np.float32)
    picture[0, 0, :2] = 0, 1
    found = encoder.describe(picture)
    assert found.shape == (16, 32, 200)
    start = encoder.describe(picture[:, :, :128])
    np.testing.assert_allclose(found[:, :, :20], start[:, :, :20], atol=1e-5)


def test_random_weights_follow_their_seed_and_more_in_the_name_is_refused() -> None:
    first, again, other = (load("random:anatomix", seed=seed).weights_sha256 for seed in (0, 0, 1))
    assert first == again != other
    with pytest.raises(RequestError, match="leave out what follows the name"):
        load("random:anatomix:big")
    with pytest.raises(RequestError, match="last grid only"):
        load("random:anatomix", layers=(1,))
