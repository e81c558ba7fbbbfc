"""ConvexAdam: known displacements, each stage against plain torch, and the whole against the package `convexAdam`."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from torch.nn import functional

from medprobe.errors import RequestError
from medprobe.heads import _convex_adam as stages
from medprobe.heads import _convex_adam_loops as loops
from medprobe.heads._convex_adam import convex_adam


def textures(rng: np.random.Generator, shape: tuple[int, ...], channels: int = 4, sigma: float = 2.5) -> np.ndarray:
    """(C, *shape) smooth noise of mean 0 and variance 1."""
    found = np.stack([gaussian_filter(rng.standard_normal(shape), sigma, mode="nearest") for _ in range(channels)])
    return ((found - found.mean()) / found.std()).astype(np.float32)


def sampled(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """image (C, ...) at x + u(x)."""
    position = np.indices(image.shape[1:]) + u
    return np.stack([map_coordinates(channel, position, order=3, mode="nearest") for channel in image]).astype(np.float32)


def inside(u: np.ndarray, rim: int) -> np.ndarray:
    return u[(slice(None), *[slice(rim, -rim) if side > 3 * rim else slice(None) for side in u.shape[1:]])]


def test_an_identical_pair_does_not_move(rng: np.random.Generator) -> None:
    for shape in ((18, 24, 21), (32, 33)):
        image = textures(rng, shape)
        assert np.abs(convex_adam(image, image, grid_sp=3, disp_hw=2)).max() < 0.1


CASES = [
    ((40, 48), (3, -2), 4, 3),
    ((41, 47), (-4, 3), (2, 4), 4),
    ((24, 36, 40), (1, 3, -2), 4, 2),
    ((23, 37, 41), (-2, 2, 4), 3, 3),
    ((16, 44, 40), (1, -4, 4), (2, 4, 4), 2),
]


@pytest.mark.parametrize(("shape", "shift", "grid_sp", "disp_hw"), CASES)
def test_a_translation_is_found(rng: np.random.Generator, shape: tuple[int, ...], shift: tuple[int, ...], grid_sp: Any, disp_hw: int) -> None:
    wide = textures(rng, tuple(side + 16 for side in shape))
    fixed = wide[(slice(None), *[slice(8, 8 + side) for side in shape])]
    moving = wide[(slice(None), *[slice(8 - d, 8 - d + side) for side, d in zip(shape, shift, strict=True)])]
    u = convex_adam(fixed, moving, grid_sp=grid_sp, disp_hw=disp_hw)
    assert u.dtype == np.float32
    assert u.shape == (len(shape), *shape)
    error = np.abs(inside(u, 6) - np.reshape(shift, (-1, *[1] * len(shape))))
    assert error.mean() < 0.5


@pytest.mark.parametrize("shape", [(48, 49), (24, 36, 37)])
def test_a_smooth_warp_is_found(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    moving = textures(rng, shape)
    true = np.stack([2.5 * np.sin(2 * np.pi * np.indices(shape)[(axis + 1) % len(shape)] / 40 + axis) for axis in range(len(shape))])
    fixed = sampled(moving, true)
    u = convex_adam(fixed, moving, grid_sp=3, disp_hw=2)
    assert np.abs(inside(u - true, 5)).mean() < 0.5
    assert np.abs(sampled(moving, u) - fixed).mean() < 0.3 * np.abs(moving - fixed).mean()


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 7])
def test_short_axes_work(rng: np.random.Generator, depth: int) -> None:
    wide = textures(rng, (depth, 52, 52))
    fixed, moving = wide[:, :, 6:46, 6:46], wide[:, :, 3:43, 8:48]
    u = convex_adam(fixed, moving, grid_sp=6, disp_hw=1)
    assert u.shape == (3, depth, 40, 40)
    assert np.abs(inside(u, 6)[1:] - np.reshape((3, -2), (2, 1, 1, 1))).mean() < 0.5
    assert np.abs(u[0]).mean() < 0.5


def test_a_volume_of_one_plane_is_a_picture_along_every_axis(rng: np.random.Generator) -> None:
    moving = textures(rng, (40, 45))
    fixed = sampled(moving, np.full((2, 40, 45), 1.5))
    flat = convex_adam(fixed, moving, grid_sp=3, disp_hw=2)
    for axis in range(3):
        volumes = [np.expand_dims(image, axis + 1) for image in (fixed, moving)]
        u = convex_adam(*volumes, grid_sp=3, disp_hw=2)
        np.testing.assert_array_equal(u[axis], 0)
        np.testing.assert_allclose(np.delete(u, axis, 0).squeeze(axis + 1), flat, atol=2e-2)


def test_constant_images_do_not_move(rng: np.random.Generator) -> None:
    for shape in ((12, 20, 20), (20, 20)):
        level, image = np.full((3, *shape), 0.3, np.float32), textures(rng, shape, 3)
        for pair in ((level, level), (level, 2 * level), (level, image), (image, level)):
            np.testing.assert_array_equal(convex_adam(*pair), np.zeros((len(shape), *shape)))


def test_wrong_requests_are_named(rng: np.random.Generator) -> None:
    image = textures(rng, (12, 20, 20))
    broken = image.copy()
    broken[0, 3, 3, 3] = np.nan
    for pair, options, words in (
        ((image, image[:, :-1]), {}, "of one shape"),
        ((image, broken), {}, "NaN or infinity"),
        ((broken + np.inf, image), {}, "NaN or infinity"),
        ((image[0, 0], image[0, 0]), {}, "channels first"),
        ((image, image), {"grid_sp": (2, 4)}, "one for each of 3 axes"),
        ((image, image), {"grid_sp": 0}, "grid_sp"),
        ((image, image), {"disp_hw": -1}, "at least 0"),
    ):
        with pytest.raises(RequestError, match=words):
            convex_adam(*pair, **options)


def test_torch_and_numpy_and_any_number_of_threads_give_the_same_bits(rng: np.random.Generator) -> None:
    moving = textures(rng, (17, 30, 33))
    fixed = sampled(moving, np.full((3, 17, 30, 33), 1.2))
    first = convex_adam(fixed, moving, grid_sp=3, disp_hw=2)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            np.testing.assert_array_equal(convex_adam(torch.from_numpy(fixed), torch.from_numpy(moving).double(), grid_sp=3, disp_hw=2), first)
    finally:
        torch.set_num_threads(threads)


def test_options_change_what_they_say(rng: np.random.Generator) -> None:
    moving = textures(rng, (18, 30, 30))
    fixed = sampled(moving, np.full((3, 18, 30, 30), 1.7))
    rough, stiff = (convex_adam(fixed, moving, grid_sp=3, disp_hw=2, lambda_weight=weight) for weight in (0.01, 20))
    assert np.abs(np.diff(stiff)).mean() < np.abs(np.diff(rough)).mean()
    plain = convex_adam(fixed, moving, grid_sp=3, disp_hw=2, niter=0, ic=False)
    assert np.abs(inside(plain, 6) - 1.7).mean() < 1
    smooth = convex_adam(fixed, moving, grid_sp=3, disp_hw=2, niter=0, ic=False, selected_smooth=3)
    expected = torch.from_numpy(plain)[None]
    for _ in range(3):
        expected = functional.avg_pool3d(expected, 3, 1, 1)
    np.testing.assert_allclose(smooth, expected[0], atol=1e-5)


@pytest.mark.parametrize("steps", [3, (2, 4, 4), [2, 3, 3]])
def test_the_head_takes_steps_as_the_function_does(rng: np.random.Generator, steps: Any) -> None:
    from medprobe.errors import RequestError
    from medprobe.heads.convexadam import ConvexAdam
    from medprobe.types import Context, Sample, State

    fixed, moving = textures(rng, (12, 24, 24)), textures(rng, (12, 24, 24))
    sample = Sample("a", "p", descriptors={"fixed": fixed, "moving": moving})
    head = ConvexAdam(grid_sp=steps, grid_sp_adam=steps, niter=3)
    found = head.displacement(State(), sample, Context(0, dims=3))
    expected = convex_adam(
        fixed, moving, grid_sp=steps, disp_hw=3, lambda_weight=1.25, niter=3, grid_sp_adam=steps
    )
    np.testing.assert_array_equal(found, expected)
    for wrong in (0, (2, 0, 2), (2,), 1.5, "2"):
        with pytest.raises(RequestError, match="grid_sp_adam must be a whole number >= 1, or one"):
            ConvexAdam(grid_sp_adam=wrong)


def test_importing_medprobe_loads_neither_torch_nor_numba() -> None:
    script = "import sys, medprobe; medprobe.convex_adam; print([m for m in ('torch', 'numba', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# Stages against plain torch


def box(x: torch.Tensor, times: int) -> torch.Tensor:
    """`times` means of 3 cells along each axis of (C, ...), zeros beyond the ends."""
    pool = functional.avg_pool3d if x.ndim == 4 else functional.avg_pool2d
    for _ in range(times):
        x = pool(x[None], 3, 1, 1)[0]
    return x


@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 3, 2), (9, 1, 300), (12, 40, 17)])
def test_means(rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
    volume = rng.standard_normal(shape).astype(np.float32)
    for times, weights in enumerate((loops.ONE, loops.TWO, loops.THREE), 1):
        expected = volume.astype(np.float64)
        for axis, side in enumerate(shape):
            near = (np.abs(np.subtract.outer(np.arange(side), np.arange(side))) <= 1) / (3 if side > 1 else 1)
            expected = np.moveaxis(np.tensordot(np.linalg.matrix_power(near, times), expected, (1, axis)), 0, axis)
        if min(shape) > 2:
            np.testing.assert_allclose(expected, box(torch.from_numpy(volume)[None].double(), times)[0], atol=1e-12)
        found = volume.copy()
        loops.smooth(found, weights)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("steps", [(2, 3, 4), (1, 2, 2), (5, 1, 6)])
def test_pooling(rng: np.random.Generator, steps: tuple[int, int, int]) -> None:
    image = rng.standard_normal((3, 11, 13, 14)).astype(np.float32)
    expected = functional.avg_pool3d(torch.from_numpy(image)[None], steps, steps)[0].numpy()
    with stages._threads() as share:
        np.testing.assert_allclose(stages._pool(share, image, steps), expected, atol=1e-6)
        rim = stages._pool(share, image, steps, (1, 1, 1), last=True)
    np.testing.assert_allclose(np.moveaxis(rim, -1, 0), np.pad(expected, [(0, 0), (1, 1), (1, 1), (1, 1)]), atol=1e-6)


def cost_by_hand(fixed: np.ndarray, moving: np.ndarray, shift: np.ndarray) -> torch.Tensor:
    padded = np.pad(moving, [(0, 0), *[(4, 4)] * (moving.ndim - 1)])
    window = tuple(slice(4 + int(d), 4 + int(d) + side) for d, side in zip(shift, fixed.shape[1:], strict=True))
    return box(torch.from_numpy(((fixed.astype(np.float64) - padded[(slice(None), *window)]) ** 2).sum(0))[None], 2)[0]


@pytest.mark.parametrize("flat", [False, True])
def test_cost_volume_and_coupled_search(rng: np.random.Generator, flat: bool) -> None:
    cells = (7, 1, 9) if flat else (4, 6, 7)
    live = [0, 2] if flat else [0, 1, 2]
    fixed, moving = (rng.random((5, *cells)).astype(np.float32) for _ in range(2))
    shifts, place = stages._shifts([2 if cell > 1 else 0 for cell in cells], False)
    assert not shifts[0].any()
    with stages._threads() as share:
        volume = stages._cost_volume(share, fixed, moving, place)
        u = stages._coupled(share, volume, shifts, cells)
    squeezed = (fixed[:, :, 0], moving[:, :, 0]) if flat else (fixed, moving)
    expected = torch.stack([cost_by_hand(*squeezed, shift[live]) for shift in shifts])
    np.testing.assert_allclose(volume, expected.reshape(len(shifts), -1), atol=1e-5)

    d = torch.from_numpy(shifts[:, live]).double()
    cost = torch.from_numpy(volume).double()
    shape = tuple(cells[axis] for axis in live)
    mean = box(d[cost.argmin(0)].T.reshape(len(live), *shape), 1)
    for coupling in (0.003, 0.01, 0.03, 0.1, 0.3, 1):
        apart = (d[:, :, None] - mean.reshape(1, len(live), -1)).square().sum(1)
        mean = box(d[(cost + coupling * apart).argmin(0)].T.reshape(len(live), *shape), 1)
    np.testing.assert_allclose(u[live].reshape(mean.shape), mean, atol=1e-5)
    assert not u[[axis for axis in range(3) if axis not in live]].any()


def grid_of(shape: tuple[int, ...], u: torch.Tensor) -> torch.Tensor:
    """Sampling grid (1, Z, Y, X, 3) of x + u, in cells, for align_corners=True."""
    position = torch.stack(torch.meshgrid(*[torch.arange(side, dtype=u.dtype) for side in shape], indexing="ij")) + u
    span = torch.tensor(shape, dtype=u.dtype).view(-1, 1, 1, 1) - 1
    return (2 * position / span - 1).flip(0).permute(1, 2, 3, 0)[None]


def test_inverse_consistency(rng: np.random.Generator) -> None:
    cells = (5, 8, 9)
    there, back = (gaussian_filter(2 * rng.standard_normal((3, *cells)), (0, 1, 1, 1)).astype(np.float32) for _ in range(2))
    with stages._threads() as share:
        found = stages._inverse_consistent(share, there, back, False)
    one, two = torch.from_numpy(there).double(), torch.from_numpy(back).double()
    for _ in range(15):
        sample = [functional.grid_sample(field[None], grid_of(cells, at), align_corners=True)[0] for field, at in ((two, one), (one, two))]
        one, two = (one - sample[0]) / 2, (two - sample[1]) / 2
    np.testing.assert_allclose(found, one, atol=1e-4)


def loss_of(v: torch.Tensor, fixed: torch.Tensor, moving: torch.Tensor, weight: float) -> torch.Tensor:
    """Loss of displacement v (3, Z, Y, X) for features (C, Z, Y, X)."""
    cost = 12 * (functional.grid_sample(moving[None], grid_of(tuple(fixed.shape[1:]), v), align_corners=True)[0] - fixed).square().mean()
    return cost + weight * sum(v.diff(dim=axis).square().mean() for axis in (1, 2, 3))


@pytest.mark.equality("torch autograd, gradient of ConvexAdam's loss; 1e-5")
@pytest.mark.parametrize("channels", [1, 5, 12])
def test_gradient_is_that_of_autograd(rng: np.random.Generator, channels: int) -> None:
    cells = (6, 9, 10)
    fixed, moving = (textures(rng, cells, channels, 1) for _ in range(2))
    v = (2.5 * rng.standard_normal((3, *cells))).astype(np.float32)
    last = [np.ascontiguousarray(np.moveaxis(image, 0, -1)) for image in (fixed, moving)]
    found = np.empty_like(v)
    weight, stiffness = stages._weights((*cells, channels), 1.25)
    x = torch.from_numpy(v).double().requires_grad_()
    loss_of(x, torch.from_numpy(fixed).double(), torch.from_numpy(moving).double(), 1.25).backward()
    loops.gradient(last[0], np.pad(last[1], [(1, 1)] * 3 + [(0, 0)]), v, *stages._positions(cells, False), weight, stiffness, found, 0, cells[0])
    np.testing.assert_allclose(found, x.grad, atol=1e-5 * np.abs(x.grad.numpy()).max())


def test_adam(rng: np.random.Generator) -> None:
    cells, steps = (6, 9, 10), 6
    fixed, moving = (textures(rng, cells, 4, 1) for _ in range(2))
    start = rng.standard_normal((3, *cells)).astype(np.float32)
    x = torch.from_numpy(start.copy()).double().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.3)
    for _ in range(steps):
        adam.zero_grad()
        v = box(x, 3)
        loss_of(v, torch.from_numpy(fixed).double(), torch.from_numpy(moving).double(), 1.25).backward()
        adam.step()
    last = [np.ascontiguousarray(np.moveaxis(image, 0, -1)) for image in (fixed, moving)]
    with stages._threads() as share:
        found = stages._adam(share, last[0], np.pad(last[1], [(1, 1)] * 3 + [(0, 0)]), start, 1.25, steps, 0.3, False)
    np.testing.assert_allclose(found, v.detach(), atol=2e-4)


def test_resampling(rng: np.random.Generator) -> None:
    field = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    with stages._threads() as share:
        exact = stages._resample(share, field, (12, 10, 18), (1 / 3, 1 / 2, 1 / 3), (1, 1, 1), False)
        stretched = stages._resample(share, field, (13, 11, 19), (1 / 3, 1 / 2, 1 / 3), (1, 2, 3), True)
    x = torch.from_numpy(field)[None]
    np.testing.assert_allclose(exact, functional.interpolate(x, size=(12, 10, 18), mode="trilinear")[0], atol=1e-6)
    expected = functional.interpolate(x, size=(13, 11, 19), mode="trilinear")[0] * torch.tensor([1, 2, 3]).view(3, 1, 1, 1)
    np.testing.assert_allclose(stretched, expected, atol=1e-5)


# The whole against the package


def original(monkeypatch: pytest.MonkeyPatch, fixed: np.ndarray, moving: np.ndarray, **options: Any) -> np.ndarray:
    """What the package `convexAdam` makes of these features (C, D, H, W)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("convexAdam.convex_adam_MIND")
        monkeypatch.setattr(package, "extract_features", lambda **_: (torch.from_numpy(fixed)[None], torch.from_numpy(moving)[None]))
        empty = np.zeros(fixed.shape[1:], np.float32)
        u = package.convex_adam_pt(empty, empty, dtype=torch.float32, device=torch.device("cpu"), **options)
    return np.moveaxis(u, -1, 0)


@pytest.mark.equality(
    "multimodallearning/convexAdam (the package), convex_adam_pt with its scaling, on textures: "
    "mean difference below 5e-3 voxels"
)
@pytest.mark.parametrize(("shape", "options"), [((16, 24, 28), {"grid_sp": 4, "disp_hw": 2}), ((19, 25, 31), {"grid_sp": 3, "disp_hw": 3, "grid_sp_adam": 3}), ((16, 24, 28), {"grid_sp": 4, "disp_hw": 2, "selected_smooth": 3})])
def test_the_whole_is_the_package_with_its_scaling(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], options: dict[str, int]) -> None:
    moving = textures(rng, shape)
    fixed = sampled(moving, gaussian_filter(8 * rng.standard_normal((3, *shape)), (0, 4, 4, 4)) + 1)
    expected = original(monkeypatch, fixed, moving, **options)
    found = convex_adam(fixed, moving, reference_scaling=True, **options)
    assert np.abs(found - expected).mean() < 5e-3
    assert np.abs(expected).mean() > 0.3
    assert np.abs(convex_adam(fixed, moving, **options) - expected).mean() > 1e-2


@pytest.mark.equality(
    "multimodallearning/convexAdam (the package), ten real hearts: twice its own drift under "
    "1e-7 noise at most; Dice 1e-3, HD95 0.05"
)
@pytest.mark.accept
def test_real_pairs_differ_from_the_package_no_more_than_it_from_itself(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """End-diastole onto end-systole of ten patients at 128 x 128 x 32; its own drift is under noise of 1e-7 on its features."""
    from medprobe.encoders.mind import mind_ssc
    from medprobe.metrics.registration import warp_labels
    from medprobe.metrics.surface import measure_surface

    rng, options = np.random.default_rng(0), {"grid_sp": 6, "disp_hw": 4}
    rows = []
    for file in sorted((samples / "mri_cardiac_ed_es" / "volumes").glob("*.npz"))[:10]:
        with np.load(file) as data:
            ratio = (32 / len(data["ed"]), 0.5, 0.5)
            fixed, moving = (mind_ssc(zoom(data[phase].astype(np.float32) / 255, ratio, order=1)) for phase in ("es", "ed"))
            true, labels = (zoom(data[f"{phase}_lv"], ratio, order=0) for phase in ("es", "ed"))
        theirs = original(monkeypatch, fixed, moving, **options)
        noisy = [image + rng.normal(0, 1e-7, image.shape).astype(np.float32) for image in (fixed, moving)]
        ours = convex_adam(fixed, moving, reference_scaling=True, **options)
        again = original(monkeypatch, *noisy, **options)
        scores = []
        for u in (theirs, ours):
            warped = warp_labels(labels, u)
            distance = measure_surface(warped, true, (1.0, 1.0, 1.0), (1,), ("hd95",))["hd95"][0]
            scores.append((2 * (warped * true).sum() / (warped.sum() + true.sum()), distance))
        rows.append((np.abs(ours - theirs).mean(), np.abs(again - theirs).mean(), *scores[0], *scores[1]))
    assert len(rows) == 10
    apart, drift = np.median(rows, axis=0)[:2]
    dice, hd95, our_dice, our_hd95 = np.mean(rows, axis=0)[2:]
    print(f"mean |u - u_ref| {apart:.5f}, its own drift {drift:.5f} voxels; Dice {our_dice:.5f}, {dice:.5f}; HD95 {our_hd95:.4f}, {hd95:.4f} voxels")
    assert apart <= 2 * drift
    assert abs(our_dice - dice) <= 1e-3
    assert abs(our_hd95 - hd95) <= 0.05
