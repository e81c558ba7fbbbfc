"""Reading a CT as .nii.gz: beside nibabel, its stored numbers (`dataobj`) and its floats (`get_fdata`).

512 x 512 x 200 voxels of int16: air, a body, two lungs and noise, which gzip packs to a fifth. Both sides read the same file
from the page cache. Ours is the whole way to turned planes and their range; values and affine must be the same.
"""

import tempfile
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from _bench import ROUNDS, in_turns, parser, row
from medprobe.imaging import formats, nifti
from medprobe.types import Source

GOALS = {"dataobj": 1.6, "get_fdata": 2.4}


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


def main() -> None:
    rounds = 1 if parser(__doc__, "one pair of each").parse_args().quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chest.nii.gz"
        nibabel.save(nibabel.Nifti1Image(chest(), np.diag([0.8, 0.8, 2.5, 1.0])), path)
        job = f"read 512x512x200 int16 .nii.gz, {path.stat().st_size / 1e6:.0f} MB packed"
        for peer in (dataobj, get_fdata):
            pairs = in_turns(partial(ours, path), partial(peer, path), rounds)
            (mine, place), (theirs, other) = pairs.mine, pairs.other
            assert np.array_equal(mine, theirs.T), f"values differ from {peer.__name__}"
            assert np.array_equal(place, other), f"the affine differs from {peer.__name__}"
            row(job, f"nibabel `{peer.__name__}`", pairs.ratio, goal=GOALS[peer.__name__], spread=pairs.range, equality="identical values and affine", limit=str(pairs))


if __name__ == "__main__":
    main()
