"""Peak memory of segmenting one volume from streamed features: ViT-L, four layers, 48 planes of 512 x 512, `conv3d`.

Nothing is kept on disk, and `--max-ram` is 1 GB: planes are encoded when a window asks for them. Beside the peak stands
the arithmetic: what the grids of a window, of a chunk, the logits of the volume and the widest stage of the decoder take, and so what grows with the planes.
"""

import tempfile
from pathlib import Path

import numpy as np

from _bench import high_water, note, parser, row
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


def main() -> None:
    options = parser(__doc__, "16 planes")
    options.add_argument("--planes", type=int, default=48)
    asked = options.parse_args()
    planes = 16 if asked.quick else asked.planes
    encoder = encoders.load("random:timm:vit_large_patch16_dinov3", levels=4)
    loaded = high_water() / 1e9
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
    peak = high_water() / 1e9
    row(
        f"peak memory beyond the loaded model ({loaded:.2f} GB), {planes} planes of {SIDE}x{SIDE}",
        f"{GOAL:g} GB",
        (peak - loaded) / GOAL,
        goal=1,
        at_most=True,
        limit=f"{peak - loaded:.2f} GB: grids of a chunk {window * GRID_CHUNK_PLANES / head.depth:.2f}, kept in memory at most {MAX_RAM / 1e9:.2f}, one array of the last stage {stage:.2f}, logits {logits:.2f}",
    )
    note(f"The grids of a window take {window:.2f} GB. Only the logits of the volume grow with its planes: {logits / planes * 300:.2f} GB for 300.")


if __name__ == "__main__":
    main()
