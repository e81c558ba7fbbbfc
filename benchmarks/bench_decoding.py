"""Pictures to planes of 256 x 256: PNG and JPEG files of 1024 x 1024, beside Pillow.

Smooth random pictures with grain, about as hard to inflate as X-rays; Pillow's encoder picks one of the filters for every row.
Ours is the whole way to planes, Pillow's is `Image.open`, `convert` and `resize`, both on one thread, from the page cache. A process
decodes its first 128 MB of PNG as Pillow does, and only then takes the time to load its compiled loop: here that is loaded before.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from _bench import ROUNDS, in_turns, parser, row
from medprobe.imaging import png, recipes
from medprobe.types import Source

SIDE, SIZE, GOAL = 1024, 256, 1.15
FILES = 24


def write(folder: Path, count: int, mode: str, suffix: str) -> list[Path]:
    """As many pictures of a mode; the grain of colours is mostly that of their brightness."""
    rng = np.random.default_rng(0)
    files = [folder / f"{mode}{number:03d}{suffix}" for number in range(count)]
    samples = 1 if mode == "L" else 3
    for file in files:
        base = rng.integers(0, 255, (32, 32, samples), np.uint8).squeeze()
        smooth = np.asarray(Image.fromarray(base).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).reshape(SIDE, SIDE, samples)
        grain = rng.normal(0, 3, (SIDE, SIDE, 1)) + (rng.normal(0, 1, smooth.shape) if samples > 1 else 0)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8).squeeze()).save(file)
    return files


def ours(files: list[Path], mode: str) -> np.ndarray:
    """(n, C, SIZE, SIZE)."""
    return np.concatenate([recipes.planes((Source(file),), window="full-range", size=SIZE, colour=1 if mode == "L" else 3).pixels for file in files])


def theirs(files: list[Path], mode: str) -> list[np.ndarray]:
    """(SIZE, SIZE) or (SIZE, SIZE, 3) each."""
    found = []
    for file in files:
        with Image.open(file) as opened:
            found.append(np.asarray(opened.convert(mode).resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    return found


def parts(files: list[Path], mode: str) -> str:
    """Mean ms of a picture that ours spends on each step, and Pillow on decoding."""
    names = ("Pillow's decoding", "our decoding", "of it inflating", "the resize of both")
    spent = np.zeros(len(names))
    for file in files:
        times = [time.perf_counter()]
        with Image.open(file) as opened:
            opened.load()
        times.append(time.perf_counter())
        with Image.open(file) as opened:
            pixels = png.decoded(opened)
        times.append(time.perf_counter())
        with Image.open(file) as opened:
            opened.fp.seek(opened.tile[0].offset - 8)
            png._inflated(png._image_data(opened.fp, 2 * png.LARGEST), SIDE * (1 + SIDE * png.SAMPLES[mode]))
        times.append(time.perf_counter())
        Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        times.append(time.perf_counter())
        spent += np.diff(times)
    return ", ".join(f"{name} {1e3 * each:.1f} ms" for name, each in zip(names, spent / len(files), strict=True))


def main() -> None:
    quick = parser(__doc__, "four files, one pair of each").parse_args().quick
    count, rounds = (4, 1) if quick else (FILES, ROUNDS)
    png.PATIENCE = 0
    with tempfile.TemporaryDirectory() as folder:
        for suffix, mode, goal in ((".png", "L", GOAL), (".png", "RGB", None), (".jpg", "L", None), (".jpg", "RGB", None)):
            files = write(Path(folder), count, mode, suffix)
            pairs = in_turns(partial(ours, files, mode), partial(theirs, files, mode), rounds)
            peers = np.stack(pairs.other)
            assert np.array_equal(pairs.mine, peers[:, None] if mode == "L" else np.moveaxis(peers, -1, 1)), f"pixels differ from Pillow's in {mode} {suffix}"
            kind, colour = suffix[1:].upper().replace("JPG", "JPEG"), "grey" if mode == "L" else "RGB"
            limit = f"a picture: {1e3 * pairs.ours / count:.1f} ms against {1e3 * pairs.theirs / count:.1f} ms; " + (parts(files, mode) if suffix == ".png" else "Pillow decodes for both, ours makes an array of the whole picture before it is resized")
            row(f"{kind} {SIDE} x {SIDE} {colour} → {SIZE}, {count} files", f'Pillow `convert("{mode}")` + `resize`', pairs.ratio, goal=goal, spread=pairs.range, equality="identical pixels", limit=limit)


if __name__ == "__main__":
    main()
