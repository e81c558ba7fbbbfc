"""ConvexAdam: displacements and MIND beside the package `convexAdam`.

A pair of 128 x 128 x 32 with the 12 channels of MIND, and with 24 (MIND of it and of it blurred), under the original's defaults and under a
finer search. Both get the same features. |u - u_ref| is with `reference_scaling`. Peak memory is that of a
fresh process, beyond what it had after loading features and libraries and a small pair. Times of our stages are medians of three.
"""

import statistics
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from _bench import alone, high_water, in_turns, note, parser, row, timed

GOAL = 8
SETTINGS = {"defaults": {"grid_sp": 6, "disp_hw": 4}, "finer search": {"grid_sp": 3, "disp_hw": 3}}


def pictures(shape: tuple[int, int, int] = (32, 128, 128)) -> tuple[np.ndarray, np.ndarray]:
    """Fixed and moving (D, H, W): smooth noise, and itself warped by up to about four voxels."""
    rng = np.random.default_rng(0)
    moving = gaussian_filter(rng.standard_normal(shape), 2.5)
    bend = np.stack([gaussian_filter(rng.standard_normal(shape), 12, mode="wrap") for _ in range(3)])
    return map_coordinates(moving, np.indices(shape) + 3 * bend / np.abs(bend).max(axis=(1, 2, 3), keepdims=True), order=1, mode="nearest"), moving


def features(image: np.ndarray, channels: int) -> np.ndarray:
    from medprobe.encoders.mind import mind_ssc

    return np.concatenate([mind_ssc(image), mind_ssc(gaussian_filter(image, 2))][: channels // 12])


def ours(fixed: np.ndarray, moving: np.ndarray, **options: Any) -> np.ndarray:
    import medprobe

    return medprobe.convex_adam(fixed, moving, **options)


def package(fixed: np.ndarray, moving: np.ndarray, **options: Any) -> np.ndarray:
    from convexAdam import convex_adam_MIND as theirs

    theirs.extract_features = lambda **_: (torch.from_numpy(fixed)[None], torch.from_numpy(moving)[None])
    empty = np.zeros(fixed.shape[1:], np.float32)
    return np.moveaxis(theirs.convex_adam_pt(empty, empty, dtype=torch.float32, device=torch.device("cpu"), **options), -1, 0)


SIDES = {"medprobe": ours, "convexAdam": package}


def grow(file: str, side: str, settings: str) -> float:
    """MB that the registration needs in this process, which has loaded the features and the libraries before."""
    run = partial(SIDES[side], **SETTINGS[settings])
    with np.load(file) as data:
        pair = data["fixed"], data["moving"]
    run(*(np.ascontiguousarray(image[:, :18, :18, :18]) for image in pair))
    before = high_water()
    run(*pair)
    return (high_water() - before) / 1e6


def stages(fixed: np.ndarray, moving: np.ndarray, options: dict[str, int]) -> str:
    from medprobe.heads import _convex_adam as parts

    steps = (options["grid_sp"],) * 3
    with parts._threads() as share:
        convex = [timed(lambda: parts._search_displacement(share, fixed, moving, steps, options["disp_hw"], True, False)) for _ in range(3)]
        u = convex[0][1]
        adam = [timed(lambda: parts._refine(share, fixed, moving, u, (2, 2, 2), 1.25, 80, 1.0, False)) for _ in range(3)]
    return ", ".join(f"{name} {statistics.median(one[0] for one in runs) * 1e3:.0f} ms" for name, runs in (("convex", convex), ("Adam", adam)))


def mind() -> None:
    from convexAdam.convex_adam_utils import MINDSSC

    from medprobe.encoders.mind import mind_ssc

    image = pictures()[0].astype(np.float32)
    pairs = in_turns(lambda: mind_ssc(image), lambda: MINDSSC(torch.from_numpy(image)[None, None], 1, 2, device="cpu"))
    apart = max(min(np.abs(one - other).max() for other in pairs.other[0].numpy()) for one in pairs.mine)
    row("MIND, 128x128x32", "convexAdam", pairs.ratio, spread=pairs.range, equality=f"largest difference {apart:.1e}, of channels in another order", limit=str(pairs))


def register(channels: int, settings: str, rounds: int) -> None:
    options = SETTINGS[settings]
    pair = tuple(features(image, channels) for image in pictures())
    pairs = in_turns(partial(ours, *pair, **options), partial(package, *pair, **options), rounds, warm=False)
    apart = np.abs(ours(*pair, **options, reference_scaling=True) - pairs.other).mean()
    job = f"128x128x32, {channels} channels, {settings} ({', '.join(f'{name} {value}' for name, value in options.items())})"
    equality = f"mean |u - u_ref| {apart:.5f} of {np.abs(pairs.other).mean():.3f} voxels"
    row(f"{job}; {rounds} pairs", "convexAdam", pairs.ratio, goal=GOAL, spread=pairs.range, equality=equality, limit=f"{pairs}; ours: {stages(*pair, options)}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pair.npz"
        np.savez(file, fixed=pair[0], moving=pair[1])
        mine, theirs = (alone(grow, str(file), side, settings) for side in SIDES)
    row(f"peak memory beyond the features, {job}", "convexAdam", mine / theirs, at_most=True, limit=f"{mine:.0f} MB against {theirs:.0f} MB")


def main() -> None:
    quick = parser(__doc__, "12 channels under the defaults, three pairs of runs").parse_args().quick
    small = features(pictures()[0][:18, :18, :18], 12)
    note(f"The first call of a process, with compiling or loading what was compiled: {timed(lambda: ours(small, small[:, ::-1]))[0]:.1f} s.")
    mind()
    warnings.simplefilter("ignore")
    for channels in (12,) if quick else (12, 24):
        for settings in list(SETTINGS)[: 1 if quick else None]:
            register(channels, settings, 3 if quick else 5)


if __name__ == "__main__":
    main()
