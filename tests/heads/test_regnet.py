"""regnet: its principal components against a full decomposition, what it learns, fits that were stopped, what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medprobe.errors import CaseError, RequestError
from medprobe.features.reduce import JointPCA
from medprobe.heads.regnet import RegNet, principal
from medprobe.metrics.overlap import overlap
from medprobe.metrics.registration import warp_labels
from medprobe.types import Context, Features, Frame, Image, Sample, SampleList

torch = pytest.importorskip("torch")
pytest.importorskip("monai")


def pairs(shape: tuple[int, ...], count: int = 2, channels: int = 6, cell: int = 4, descriptors: bool = False) -> SampleList:
    """Pairs of a soft ball, larger and elsewhere in the moving image; features are noise and its mean in cells, mixed; target (fixed mask, moving mask)."""
    rng, items = np.random.default_rng(0), []
    mix = rng.normal(size=(2, channels))
    for number in range(count):
        images, features, described, masks = {}, {}, {}, []
        for role, share in (("fixed", 0.2), ("moving", 0.3)):
            centre, radius = [side / 2 + rng.uniform(-1, 1) for side in shape], share * shape[-1]
            far = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(np.indices(shape), centre, strict=True)))
            image = (1 / (1 + np.exp((far - radius) / 1.5))).astype(np.float32)
            images[role] = Image(image[None, None] if len(shape) == 2 else image[None])
            planes = image.reshape(-1, *shape[-2:])
            cells = planes.reshape(len(planes), shape[-2] // cell, cell, shape[-1] // cell, cell).mean(axis=(2, 4))
            basic = np.stack([cells, 0.05 * rng.normal(size=cells.shape)], axis=1)
            features[role] = Features(grids=(np.einsum("kc,nkhw->nchw", mix, basic).astype(np.float32),), frame=Frame(shape[-2:], (0.0, 0.0, *cells.shape[-2:])))
            described[role] = np.stack([image, 1 - image])
            masks.append((far < radius).astype(np.uint8))
        items.append(Sample(str(number), str(number), features, images, tuple(masks), described if descriptors else {}))
    return SampleList(items)


def dice(displacement: np.ndarray, target: tuple[np.ndarray, np.ndarray]) -> float:
    return float(overlap(warp_labels(target[1], displacement), target[0], 2).dice[1])


@pytest.fixture
def context() -> Callable[..., Context]:
    return lambda **more: Context(**{"seed": 0, "dims": 2, "monitor": dice, **more})


def test_the_basis_is_that_of_all_cells_and_of_the_joint_pca_of_one_pair(rng: np.random.Generator) -> None:
    grids = [(rng.normal(size=(2, 5, 4, 3)) + 100 * np.arange(5).reshape(1, 5, 1, 1)).astype(np.float32) for _ in range(3)]
    rows = np.concatenate([np.moveaxis(grid, 1, -1).reshape(-1, 5) for grid in grids]).astype(np.float64)
    mean, basis = principal(iter(grids), 3)
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    _left, _values, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(basis), np.abs(directions[:3].T), atol=1e-8)
    assert (basis[np.abs(basis).argmax(axis=0), range(3)] > 0).all()
    pair = Sample("a", "p", {"fixed": Features(grids=(grids[0],)), "moving": Features(grids=(grids[1],))})
    mean, basis = principal(iter(grids[:2]), 3)
    expected = JointPCA(3)(pair)
    found = RegNet().reduced(pair, {"pca.mean": mean, "pca.basis": basis})
    for role in ("fixed", "moving"):
        np.testing.assert_allclose(found.features[role].grid, expected.features[role].grid, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((32, 32), {}),
        ((32, 32), {"components": 2, "beta": 1.0, "int_steps": 0, "bidirectional": True, "epochs": 10}),
        ((6, 16, 16), {"epochs": 15}),
    ],
)
def test_blobs_are_registered(shape: tuple[int, ...], settings: dict[str, Any], context) -> None:
    data, ctx = pairs(shape), context(dims=len(shape))
    head = RegNet(**{"learning_rate": 2e-3, "epochs": 20, **settings})
    state = head.fit(data, data, ctx)
    found = list(head.predict(state, data, ctx))
    before = np.mean([dice(np.zeros_like(one), sample.target) for one, sample in zip(found, data, strict=True)])
    after = np.mean([dice(one, sample.target) for one, sample in zip(found, data, strict=True)])
    assert after > before + 0.15
    assert max(state.meta["monitor"]) == pytest.approx(after)
    assert state.tensors["pca.basis"].shape == (6, settings.get("components", 6))


def test_the_features_are_what_is_seen_and_beta_weighs_them(context) -> None:
    """With constant images only the maps can teach, and only where beta is above 0."""
    data = pairs((32, 32))
    flat = Image(np.zeros((1, 1, 32, 32), np.float32))
    blind = SampleList([replace(sample, images={"fixed": flat, "moving": flat}) for sample in data])
    gains = []
    for beta in (0.0, 1.0):
        head = RegNet(learning_rate=2e-3, epochs=20, beta=beta, lambda_weight=0.01)
        found = list(head.predict(head.fit(blind, None, context()), blind, context()))
        gains.append(np.mean([dice(one, sample.target) - dice(np.zeros_like(one), sample.target) for one, sample in zip(found, data, strict=True)]))
    assert abs(gains[0]) < 0.02
    assert gains[1] > 0.1


def test_descriptors_stand_beside_components_or_alone(context) -> None:
    data = pairs((16, 16), descriptors=True)
    bare = SampleList([replace(sample, features={}) for sample in data])
    both, alone = (RegNet(epochs=1, components=3).fit(part, None, context()) for part in (data, bare))
    assert both.meta["channels"] == 5
    assert alone.meta["channels"] == 2
    assert "pca.basis" not in alone.tensors
    (found, _) = RegNet().predict(alone, bare, context())
    assert np.abs(found).max() < 0.1


def test_a_stopped_fit_goes_on_to_the_same_weights(goes_on) -> None:
    data = pairs((16, 16))
    state, _memory = goes_on(RegNet(epochs=3, learning_rate=1e-3, evaluate_every=1), data, data)
    assert len(state.meta["monitor"]) == 3


def test_constant_images_and_maps_leave_everything_finite(context) -> None:
    flat = Image(np.full((1, 1, 16, 16), 0.5, np.float32))
    grid = Features(grids=(np.ones((1, 4, 4, 4), np.float32),), frame=Frame((16, 16), (0.0, 0.0, 4.0, 4.0)))
    data = SampleList([Sample("a", "p", {"fixed": grid, "moving": grid}, {"fixed": flat, "moving": flat})])
    head = RegNet(epochs=2)
    (found,) = head.predict(head.fit(data, None, context()), data, context())
    assert np.isfinite(found).all()


def test_what_does_not_fit_together_is_refused(context) -> None:
    whole = pairs((6, 16, 16), 1)[0]
    thin = replace(whole, features={role: replace(one, grids=(one.grid[::2],)) for role, one in whole.features.items()})
    with pytest.raises(CaseError, match=r"expected features of every plane of the image, \(6, 16, 16\), found \(3, 16, 16\)"):
        RegNet(epochs=1).fit(SampleList([thin]), None, context(dims=3))
    with pytest.raises(CaseError, match="expected 6 channels as in the first training pair, found 8"):
        RegNet(epochs=1).fit(SampleList([*pairs((16, 16), 1), *pairs((16, 16), 1, descriptors=True)]), None, context())
    with pytest.raises(CaseError, match="at least two planes"):
        RegNet(epochs=1).fit(pairs((1, 16, 16), 1), None, context(dims=3))
    for settings, said in (({"beta": -1}, "beta must be a number >= 0"), ({"components": 0}, "components must be a whole number >= 1"), ({"epochs": 0}, "regnet: epochs must be")):
        with pytest.raises(RequestError, match=said):
            RegNet(**settings)
