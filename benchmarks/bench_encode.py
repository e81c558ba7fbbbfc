"""Encoding a folder of 1024 x 1024 PNGs with ViT-S at 256 px, beside the bare model loop on tensors in memory.

Same batch and precision, interleaved pairs in one process, medians. Decoding shares the cores with the model, so the
limit is model / (model + decode / cores); it is printed from the decoding time measured in the same run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medprobe import encoders
from medprobe.features.encode import Pipeline, Preprocessing
from medprobe.features.store import Entry, Shard
from medprobe.imaging import recipes
from medprobe.types import Source

SPEC = "random:timm:vit_small_patch16_dinov3"


def write_pngs(folder: Path, count: int) -> list[Path]:
    """Smooth random grey images with grain, about as hard to inflate as an X-ray."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).resize((1024, 1024), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 3, (1024, 1024))
        files.append(folder / f"{number:04d}.png")
        Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)).save(files[-1])
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    encoder = encoders.load(SPEC)
    with tempfile.TemporaryDirectory() as scratch:
        files = write_pngs(Path(scratch), options.images)
        sources = {str(number): (Source(file),) for number, file in enumerate(files)}
        shard = Shard(Path(scratch) / "shard")
        shard.entries = tuple(Entry(key, 1) for key in sources)
        pipeline = Pipeline(encoder, Preprocessing("full-range", (256, 256), colour=3), False, options.batch, 2)
        begin = time.perf_counter()
        planes = np.concatenate([recipes.planes((Source(file),), window="full-range", size=256, colour=3).pixels for file in files])
        decode = (time.perf_counter() - begin) / len(files)
        tensors = torch.from_numpy(planes).float().div_(255)
        net = encoder.net

        def bare() -> float:
            begin = time.perf_counter()
            mean, std = (torch.tensor(encoder.transform[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
            with torch.inference_mode():
                for start in range(0, len(tensors), options.batch):
                    net.forward_features((tensors[start : start + options.batch] - mean) / std)
            return time.perf_counter() - begin

        def ours() -> float:
            begin = time.perf_counter()
            for _ in pipeline.chunks(shard, sources, 0, shard.planes):
                pass
            return time.perf_counter() - begin

        bare(), ours()
        times = [(bare(), ours()) for _ in range(options.pairs)]
    ratio = statistics.median(a / b for a, b in times)
    model, folder = (statistics.median(column) / options.images for column in zip(*times, strict=True))
    cores = torch.get_num_threads()
    print(f"encode a folder, {SPEC} at 256 px, {cores} threads: bare loop {1e3 * model:.1f} ms, folder {1e3 * folder:.1f} ms, decode {1e3 * decode:.1f} ms an image")
    print(f"  {ratio:.2f} of the bare loop (goal 0.90; limit with decode on the same cores {model / (model + decode / cores):.2f})")


if __name__ == "__main__":
    main()
