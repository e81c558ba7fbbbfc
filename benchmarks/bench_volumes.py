"""Reading a CT as .nii.gz beside nibabel: its stored numbers (`dataobj`) and its floats (`get_fdata`), in one process, as ratios.

    python benchmarks/bench_volumes.py

512 x 512 x 200 voxels of int16: air, a body, two lungs and noise, which gzip packs to a fifth. All three read the same file
from the page cache in turns, seven rounds; medians of the times and of the ratios of a round. Ours is the whole way to
turned planes and their range; values and affine are compared in every round.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np

from medprobe.imaging import formats, nifti
from medprobe.types import Source

ROUNDS = 7
GOALS = {"dataobj": 1.6, "get_fdata": 2.4}
Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def chest() -> np.ndarray:
    """(x, y, z) int16."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:512, :512, :200]
    body = ((x - 256) / 200) ** 2 + ((y - 256) / 150) ** 2 < 1
    lungs = (((x - 170) / 70) ** 2 + ((y - 250) / 100) ** 2 < 1) | (((x - 340) / 70) ** 2 + ((y - 250) / 100) ** 2 < 1)
    values = np.where(body & (z >= 0), np.where(lungs & (z > 60), -850, 40), -1024).astype(np.float32)
    values += np.where(values > -1024, rng.normal(0, 12, values.shape), 0)
    return np.rint(values).astype(np.int16)


def ours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    nifti._volumes.cache_clear()
    raw = formats.read(Source(path))
    assert raw.affine is not None
    return raw.pixels[0], raw.affine


def dataobj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = nibabel.load(path)
    return np.asanyarray(file.dataobj), file.affine


def get_fdata(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = nibabel.load(path)
    return file.get_fdata(), file.affine


def seconds(run: Read, path: Path) -> tuple[float, np.ndarray, np.ndarray]:
    begin = time.perf_counter()
    array, affine = run(path)
    return time.perf_counter() - begin, array, affine


def main() -> None:
    peers: dict[str, Read] = {"dataobj": dataobj, "get_fdata": get_fdata}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chest.nii.gz"
        nibabel.save(nibabel.Nifti1Image(chest(), np.diag([0.8, 0.8, 2.5, 1.0])), path)
        print(f"512x512x200 int16 .nii.gz, {path.stat().st_size / 1e6:.0f} MB packed")
        times: dict[str, list[float]] = {name: [] for name in ("medprobe", *peers)}
        for _ in range(ROUNDS):
            spent, array, affine = seconds(ours, path)
            times["medprobe"].append(spent)
            for name, run in peers.items():
                spent, theirs, place = seconds(run, path)
                times[name].append(spent)
                if not (np.array_equal(array, theirs.T) and np.array_equal(affine, place)):
                    sys.exit(f"values or affine differ from {name}")
                del theirs
    mine = times.pop("medprobe")
    for name, spent in times.items():
        ratios = [b / a for a, b in zip(mine, spent, strict=True)]
        print(
            f"  nibabel {name:9} {statistics.median(spent):.3f} s, medprobe {statistics.median(mine):.3f} s: "
            f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}, goal {GOALS[name]}); identical values and affine"
        )


if __name__ == "__main__":
    main()
