"""Surface distances beside what people use: medpy, MONAI, surface-distance and SimpleITK, in one run, as ratios.

    python benchmarks/bench_surface.py [--quick]

HD95 and ASD of every class of a cardiac crop (128 x 128 x 32, 3 classes) and of an abdominal CT (512 x 512 x 200, 4 organs),
ellipsoids of usual sizes against moved and grown copies. Runs alternate; medians. Peak memory is that of a process that
does nothing else, less that of the same process without the measure.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

Case = tuple[np.ndarray, np.ndarray, tuple[float, float, float], tuple[int, ...]]


def ellipsoids(shape: tuple[int, int, int], parts: list[tuple[tuple, tuple]], shift: tuple[int, int, int], grow: float) -> np.ndarray:
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels = np.zeros(shape, np.uint8)
    for number, (centre, radius) in enumerate(parts, 1):
        cz, cy, cx = (c + s for c, s in zip(centre, shift, strict=True))
        rz, ry, rx = (r * grow for r in radius)
        labels[((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = number
    return labels


def cardiac() -> Case:
    parts = [((16, 64, 40), (12, 24, 16)), ((16, 64, 70), (12, 22, 22)), ((16, 64, 70), (9, 15, 15))]
    true, pred = (ellipsoids((32, 128, 128), parts, *how) for how in (((0, 0, 0), 1.0), ((1, 2, -3), 1.06)))
    return pred, true, (3.15, 1.5, 1.5), (1, 2, 3)


def abdominal() -> Case:
    parts = [((110, 260, 170), (55, 100, 110)), ((90, 250, 360), (35, 45, 50)), ((60, 320, 180), (30, 35, 30)), ((100, 240, 260), (70, 18, 22))]
    true, pred = (ellipsoids((200, 512, 512), parts, *how) for how in (((0, 0, 0), 1.0), ((1, 3, -4), 1.05)))
    return pred, true, (2.5, 0.8, 0.8), (1, 2, 3, 4)


CASES = {"128x128x32, 3 classes": cardiac, "512x512x200, 4 classes": abdominal}


def ours(pred: np.ndarray, true: np.ndarray, spacing: tuple, classes: tuple) -> np.ndarray:
    from medprobe.metrics.surface import measure_surface

    found = measure_surface(pred, true, spacing, classes, ("hd95", "asd"))
    return np.stack([found["hd95"], found["asd"]], axis=1)


def by_medpy(pred: np.ndarray, true: np.ndarray, spacing: tuple, classes: tuple) -> np.ndarray:
    from medpy.metric import binary

    return np.array([[metric(pred == k, true == k, voxelspacing=spacing) for metric in (binary.hd95, binary.asd)] for k in classes])


def by_surface_distance(pred: np.ndarray, true: np.ndarray, spacing: tuple, classes: tuple) -> np.ndarray:
    import surface_distance

    rows = []
    for k in classes:
        found = surface_distance.compute_surface_distances(true == k, pred == k, spacing)
        rows.append([surface_distance.compute_robust_hausdorff(found, 95), surface_distance.compute_average_surface_distance(found)[1]])
    return np.array(rows)


def by_monai(pred: np.ndarray, true: np.ndarray, spacing: tuple, classes: tuple) -> np.ndarray:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    hot = [torch.from_numpy(np.stack([labels == k for k in classes])[None].astype(np.float32)) for labels in (pred, true)]
    hd95 = compute_hausdorff_distance(*hot, include_background=True, percentile=95, spacing=spacing)
    asd = compute_average_surface_distance(*hot, include_background=True, spacing=spacing)
    return np.stack([hd95.numpy()[0], asd.numpy()[0]], axis=1)


def by_simpleitk(pred: np.ndarray, true: np.ndarray, spacing: tuple, classes: tuple) -> np.ndarray:
    """Its signed distance map and label contours, as in its notebook on evaluation."""
    import SimpleITK as sitk

    rows = []
    for k in classes:
        images = [sitk.GetImageFromArray((labels == k).astype(np.uint8)) for labels in (pred, true)]
        for image in images:
            image.SetSpacing(spacing[::-1])
        maps = [sitk.GetArrayFromImage(sitk.Abs(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))) for image in images]
        contours = [sitk.GetArrayFromImage(sitk.LabelContour(image)) > 0 for image in images]
        there, back = maps[1][contours[0]], maps[0][contours[1]]
        rows.append([np.percentile(np.concatenate([there, back]), 95), there.mean()])
    return np.array(rows)


PEERS: dict[str, Callable] = {"medpy": by_medpy, "surface-distance": by_surface_distance, "MONAI": by_monai, "SimpleITK": by_simpleitk}


def seconds(run: Callable, case: Case) -> tuple[float, np.ndarray]:
    begin = time.perf_counter()
    found = run(*case)
    return time.perf_counter() - begin, found


def peak(file: Path, peer: str) -> float:
    """MB that a process which has loaded the case and the libraries needs on top."""
    script = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import bench_surface as b; b.grow({str(file)!r}, {peer!r})"
    return float(subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True).stdout)


def grow(file: str, peer: str) -> None:
    run = {"medprobe": ours, **PEERS}[peer]
    run(np.kron(np.eye(4, dtype=np.uint8), np.ones((4, 4), np.uint8))[None], np.ones((1, 16, 16), np.uint8), (1, 1, 1), (1,))
    with np.load(file) as data:
        case = data["pred"], data["true"], tuple(data["spacing"].tolist()), tuple(data["classes"].tolist())
    before = high_water()
    run(*case)
    print((high_water() - before) / 1024)


def high_water() -> int:
    """Largest resident size of this process so far, in KiB (Linux; elsewhere ru_maxrss, which a child may inherit)."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the small case only")
    quick = parser.parse_args().quick
    begin = time.perf_counter()
    ours(*cardiac())
    print(f"first call, with compiling or loading what was compiled: {time.perf_counter() - begin:.1f} s")
    for name, make in list(CASES.items())[: 1 if quick else None]:
        case = make()
        small = case[0].size < 10**6
        print(f"HD95 + ASD, {name}")
        for peer, run in PEERS.items():
            pairs = 7 if small else 1 if peer in ("medpy", "MONAI") else 3
            run_times = [(seconds(ours, case), seconds(run, case)) for _ in range(pairs)]
            mine, theirs = run_times[0][0][1], run_times[0][1][1]
            ratio = statistics.median(b[0] / a[0] for a, b in run_times)
            times = [statistics.median(pair[side][0] for pair in run_times) for side in (0, 1)]
            equal = "identical bits" if np.array_equal(mine, theirs) else f"largest relative difference {np.max(np.abs(mine - theirs) / theirs):.1e}"
            print(f"  {peer:17} {times[1]:9.3f} s, medprobe {times[0]:7.3f} s: {ratio:6.1f} x ({pairs} pairs); {equal}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "case.npz"
            np.savez(file, pred=case[0], true=case[1], spacing=case[2], classes=case[3])
            memory = {peer: peak(file, peer) for peer in ("medprobe", "medpy")}
        print(f"  peak memory beyond the inputs: medprobe {memory['medprobe']:.0f} MB, medpy {memory['medpy']:.0f} MB")


if __name__ == "__main__":
    main()
