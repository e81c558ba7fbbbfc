"""Peak memory of segmenting one volume from streamed features: ViT-L, four layers, 48 planes of 512 x 512, `conv3d`.

    /usr/bin/time -v python benchmarks/bench_memory.py [planes]

Nothing is kept on disk, and `--max-ram` is 1 GB: planes are encoded when a window asks for them. Printed beside the peak is
the arithmetic: what the grids of a window, of a chunk, the logits of the volume and the widest stage of the decoder take, and so what grows with the planes.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medprobe import encoders
from medprobe.features.bank import StreamedBank
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import Pipeline, Preprocessing
from medprobe.features.store import GRID_CHUNK_PLANES, Entry
from medprobe.registry import HEADS
from medprobe.types import Context, Sample, SampleList, Source, State

SIDE, CLASSES = 512, ("background", "organ", "tumour")
GOAL = 6.0
MAX_RAM = 10**9


def peak() -> float:
    """GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    planes = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    encoder = encoders.load("random:timm:vit_large_patch16_dinov3", levels=4)
    loaded = peak()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.npy"
        np.save(path, np.random.default_rng(0).integers(0, 255, (planes, SIDE, SIDE), np.uint8))
        digests = Digests(Path(folder) / "cache").of([path])
        source = (Source(path),)
        key = source_key(source, digests)
        pipeline = Pipeline(encoder, Preprocessing("full-range", (SIDE, SIDE), colour=3), True, 8, 0)
        bank = StreamedBank(pipeline, {key: source}, [Entry(key, planes)], lambda done, total, what: None, MAX_RAM)
        features = bank.features(key)
        head = HEADS.get("conv3d")()
        widths, grid = [int(one.shape[1]) for one in features.grids], tuple(map(int, features.grids[-1].shape[2:]))
        net = head.network(widths, (grid[0], grid[1]), len(CLASSES), SIDE)
        state = State({name: tensor.numpy() for name, tensor in net.state_dict().items()}, {"widths": widths, "grid": list(grid), "outputs": len(CLASSES), "side": SIDE})
        (labels,) = head.predict(state, SampleList([Sample("case", "patient", {"image": features})]), Context(0, classes=CLASSES))
        assert labels.shape == (planes, SIDE, SIDE)
    window = sum(int(np.prod(one.shape[1:])) for one in features.grids) * 4 * head.depth / 1e9
    logits = planes * len(CLASSES) * SIDE**2 * 4 / 1e9
    stage = head.depth * 32 * SIDE**2 * 4 / 1e9
    print(f"{planes} planes of {SIDE} x {SIDE}, {torch.get_num_threads()} threads: peak {peak():.2f} GB, {peak() - loaded:.2f} GB beyond the loaded model ({loaded:.2f} GB; goal {GOAL}), {time.perf_counter() - begin:.0f} s")
    print(f"  grids of a window {window:.2f} GB, of a chunk {window * GRID_CHUNK_PLANES / head.depth:.2f} GB, kept in memory at most {MAX_RAM / 1e9:.2f} GB; one array of the last stage {stage:.2f} GB; logits of the volume {logits:.2f} GB, the only one that grows: {logits / planes * 300:.2f} GB for 300 planes")


if __name__ == "__main__":
    main()
