"""ConvexAdam and MIND beside the package `convexAdam`, in one run, as ratios.

    python benchmarks/bench_convexadam.py [--quick] [--threads 2]

A pair of 128 x 128 x 32 with the 12 channels of MIND, and with 24 (MIND of it and of it blurred), under the original's defaults and under a
finer search. Both get the same features; runs alternate, and a ratio is the median over pairs. |u - u_ref| is with `reference_scaling`. Peak memory is that of a
fresh process, beyond what it had after loading features and libraries and a small pair. Times of our stages are medians of three.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from bench_surface import high_water

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


def timed(run: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = run(*args, **options)
    return time.perf_counter() - begin, found


def peak(file: Path, name: str, settings: str, threads: int) -> float:
    script = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import bench_convexadam as b; b.grow({str(file)!r}, {name!r}, {settings!r}, {threads})"
    return float(subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True).stdout)


def grow(file: str, name: str, settings: str, threads: int) -> None:
    torch.set_num_threads(threads)
    run, options = {"ours": ours, "package": package}[name], SETTINGS[settings]
    with np.load(file) as data:
        pair = data["fixed"], data["moving"]
    run(*(np.ascontiguousarray(image[:, :18, :18, :18]) for image in pair), **options)
    before = high_water()
    run(*pair, **options)
    print((high_water() - before) / 1024)


def stages(fixed: np.ndarray, moving: np.ndarray, options: dict[str, int]) -> str:
    from medprobe.heads import _convex_adam as parts

    steps = (options["grid_sp"],) * 3
    with parts._threads() as share:
        convex = [timed(parts._search_displacement, share, fixed, moving, steps, options["disp_hw"], True, False) for _ in range(3)]
        u = convex[0][1]
        adam = [timed(parts._refine, share, fixed, moving, u, (2, 2, 2), 1.25, 80, 1.0, False)[0] for _ in range(3)]
    return f"convex {statistics.median(one[0] for one in convex) * 1e3:.0f} ms, Adam {statistics.median(adam) * 1e3:.0f} ms"


def mind(pairs: int) -> None:
    from convexAdam.convex_adam_utils import MINDSSC

    from medprobe.encoders.mind import mind_ssc

    image = pictures()[0].astype(np.float32)
    tensor = torch.from_numpy(image)[None, None]
    mind_ssc(image)
    runs = [(timed(mind_ssc, image)[0], timed(MINDSSC, tensor, 1, 2, device="cpu")[0]) for _ in range(pairs)]
    print(f"MIND: {statistics.median(b for _, b in runs):.3f} s, medprobe {statistics.median(a for a, _ in runs):.3f} s: {statistics.median(b / a for a, b in runs):.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="12 channels under the defaults only, three pairs of runs")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    pairs = 3 if asked.quick else 5
    torch.set_num_threads(asked.threads)
    fixed, moving = pictures()
    small = features(fixed[:18, :18, :18], 12)
    print(f"first call, with compiling or loading what was compiled: {timed(ours, small, small[:, ::-1])[0]:.1f} s; {asked.threads} threads")
    mind(pairs)
    warnings.simplefilter("ignore")
    for channels in (12,) if asked.quick else (12, 24):
        pair = features(fixed, channels), features(moving, channels)
        for name, options in list(SETTINGS.items())[: 1 if asked.quick else None]:
            runs = [(timed(ours, *pair, **options)[0], timed(package, *pair, **options)) for _ in range(pairs)]
            ratio = statistics.median(b[0] / a for a, b in runs)
            u, reference = ours(*pair, **options, reference_scaling=True), runs[0][1][1]
            times = statistics.median(a for a, _ in runs), statistics.median(b[0] for _, b in runs)
            print(f"{channels} channels, {name} ({options}): convexAdam {times[1]:.2f} s, medprobe {times[0]:.3f} s: {ratio:.1f} x (goal {GOAL}; {pairs} pairs)")
            print(f"  mean |u - u_ref| {np.abs(u - reference).mean():.5f} of {np.abs(reference).mean():.3f} voxels; medprobe: {stages(*pair, options)}")
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "pair.npz"
                np.savez(file, fixed=pair[0], moving=pair[1])
                memory = [peak(file, one, name, asked.threads) for one in ("ours", "package")]
            print(f"  peak memory beyond the features: medprobe {memory[0]:.0f} MB, convexAdam {memory[1]:.0f} MB")


if __name__ == "__main__":
    main()
