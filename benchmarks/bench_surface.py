"""Surface distances: HD95 and ASD beside medpy, MONAI, surface-distance and SimpleITK.

HD95 and ASD of every class of a cardiac crop (128 x 128 x 32, 3 classes) and of an abdominal CT (512 x 512 x 200, 4 organs),
ellipsoids of usual sizes against moved and grown copies. Peak memory is that of a process that does nothing else, beyond what
it had with the case and the libraries loaded; of medpy with one class, since it takes one after the other.
"""

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from _bench import ROUNDS, alone, high_water, in_turns, note, parser, row, timed

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
GOALS = {cardiac: {"medpy": 25, "surface-distance": 3}, abdominal: {"medpy": 100}}


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


def grow(file: str, peer: str) -> float:
    """MB that the measure needs in this process, which has loaded the case and the libraries before."""
    run = {"medprobe": ours, **PEERS}[peer]
    run(np.kron(np.eye(4, dtype=np.uint8), np.ones((4, 4), np.uint8))[None], np.ones((1, 16, 16), np.uint8), (1, 1, 1), (1,))
    with np.load(file) as data:
        classes = tuple(data["classes"].tolist())
        case = data["pred"], data["true"], tuple(data["spacing"].tolist()), classes if peer == "medprobe" else classes[:1]
    before = high_water()
    run(*case)
    return (high_water() - before) / 1e6


def compare(name: str, make: Callable[[], Case]) -> None:
    case = make()
    small = case[0].size < 10**6
    for peer, run in PEERS.items():
        rounds = ROUNDS if small else 1 if peer in ("medpy", "MONAI") else 3
        pairs = in_turns(partial(ours, *case), partial(run, *case), rounds, warm=small)
        identical = np.array_equal(pairs.mine, pairs.other)
        equality = "identical bits" if identical else f"largest relative difference {np.max(np.abs(pairs.mine - pairs.other) / pairs.other):.1e}"
        job = f"HD95 + ASD, {name}"
        row(job if small else f"{job}; {rounds} pair{'s' * (rounds > 1)}", peer, pairs.ratio, goal=GOALS[make].get(peer), spread=pairs.range, equality=equality, limit=str(pairs))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.npz"
        np.savez(file, pred=case[0], true=case[1], spacing=case[2], classes=case[3])
        mine, theirs = (alone(grow, str(file), peer) for peer in ("medprobe", "medpy"))
    row(f"peak memory beyond the inputs, {name}", "medpy", mine / theirs, at_most=True, limit=f"{mine:.0f} MB against {theirs:.0f} MB")


def main() -> None:
    warnings.simplefilter("ignore")
    quick = parser(__doc__, "the small case only").parse_args().quick
    seconds, _ = timed(lambda: ours(*cardiac()))
    note(f"The first call of a process, with compiling or loading what was compiled: {seconds:.1f} s.")
    for name, make in list(CASES.items())[: 1 if quick else None]:
        compare(name, make)


if __name__ == "__main__":
    main()
