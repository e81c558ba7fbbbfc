"""Training `conv3d` on kept features: beside the same with the encoder on-line.

    python benchmarks/bench_dense.py [small-128 base-128 large-128 base-256 large-256]

Four volumes of 32 x 128 x 128, batch 2; planes at 128 px, and at 256 px, where a decoder still works at the 128 of the masks. Kept: a step reads its grids
from the store. On-line: a step encodes its planes first, as a script does that keeps nothing. Both take the same pieces in the same order, so that losses
are equal. The encoders have random weights. The ratio is bounded by (encoder + decoder) / decoder: it tells how much of a step the encoder is.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from _bench import in_turns, parser, row
from medprobe import encoders
from medprobe.features.bank import StoredBank
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import Pipeline, Preprocessing, decoded, encoding_facts
from medprobe.features.store import Encoding, Entry
from medprobe.heads._crops import Crops
from medprobe.heads._dense import segmentation_loss, to_pixels
from medprobe.imaging.labels import LabelMap
from medprobe.registry import HEADS
from medprobe.types import Context, Sample, SampleList, Source

ROUNDS = 3
GOAL = 5.0
PLANES = 32
SIZES = ("small-128", "base-128", "large-128", "base-256", "large-256")
DEFAULT = ("small-128", "large-256")


def flops(work: Callable[[], object]) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def compare(size: str, side: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    encoder = encoders.load(f"random:timm:vit_{size}_patch16_dinov3", levels=4)
    with tempfile.TemporaryDirectory() as folder:
        volumes = [rng.random((PLANES, 128, 128), np.float32) for _ in range(4)]
        paths = [Path(folder) / f"{number}.npy" for number in range(4)]
        for path, volume in zip(paths, volumes, strict=True):
            np.save(path, volume)
        digests = Digests(Path(folder) / "cache").of(paths)
        sources = {source_key((Source(path),), digests): (Source(path),) for path in paths}
        preprocessing = Preprocessing("full-range", (side, side), colour=3)
        pipeline = Pipeline(encoder, preprocessing, True, 16, 0)
        encoding = Encoding(Path(folder) / "cache", encoding_facts(encoder, preprocessing, True, "fp32"))
        bank = StoredBank(encoding, pipeline, sources, [Entry(key, PLANES) for key in sources], lambda done, total, what: None)
        samples = SampleList([Sample(key, key, {"image": bank.features(key)}, target=LabelMap((volume > 0.9).astype(np.uint8))) for key, volume in zip(sources, volumes, strict=True)])
        head = HEADS.get("conv3d")()
        crops = Crops.read(samples, None, head.depth, Context(0, classes=("background", "bright")))
        net = head.network(crops.widths, crops.grid, 2, crops.side)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.0)

        def step(grids: list[torch.Tensor], masks: torch.Tensor, boxes: np.ndarray) -> float:
            optimiser.zero_grad()
            loss = segmentation_loss(to_pixels(net(grids), crops.grid, boxes, (crops.side, crops.side)), masks, False)
            loss.backward()
            optimiser.step()
            return float(loss.detach())

        def planes_of(path: Path, start: int) -> torch.Tensor:
            return torch.as_tensor(decoded((Source(path),), preprocessing, start, start + 16).pixels)

        def kept() -> list[float]:
            return [step(*crops.batch([(2 * pair, 0), (2 * pair + 1, 0)])) for pair in range(2)]

        def online() -> list[float]:
            losses = []
            for pair in range(2):
                _, masks, boxes = crops.batch([(2 * pair, 0), (2 * pair + 1, 0)])
                made = [[encoder(planes_of(path, start)).grids for start in (0, 16)] for path in paths[2 * pair : 2 * pair + 2]]
                grids = [torch.stack([torch.cat([part[level] for part in parts]).movedim(0, 1) for parts in made]) for level in range(4)]
                losses.append(step(grids, masks, boxes))
            return losses

        decoder, encoding_one = flops(kept), flops(lambda: encoder(planes_of(paths[0], 0)[:1]))
        bound = 1 + len(paths) * PLANES * encoding_one / decoder
        pairs = in_turns(kept, online, rounds, warm=False)
    np.testing.assert_allclose(pairs.mine, pairs.other, rtol=1e-4)
    apart = np.abs(np.divide(pairs.mine, pairs.other) - 1).max()
    row(
        f"train conv3d, ViT-{size} at {side} px, 4 volumes of 32x128x128; {rounds} pair{'s' * (rounds > 1)}",
        "the encoder on-line",
        pairs.ratio,
        goal=GOAL,
        spread=pairs.range,
        equality=f"largest relative difference of losses {apart:.0e}",
        limit=f"FLOPs: (encoder + decoder) / decoder = {bound:.1f}; {pairs}",
    )


def main() -> None:
    options = parser(__doc__, "the first of the sizes, one pair")
    options.add_argument("sizes", nargs="*", metavar="size", help=f"of {', '.join(SIZES)} (default: {', '.join(DEFAULT)})")
    asked = options.parse_args()
    for name in (asked.sizes or DEFAULT)[: 1 if asked.quick else None]:
        if name not in SIZES:
            options.error(f"no size {name}")
        size, side = name.split("-")
        compare(size, int(side), 1 if asked.quick else ROUNDS)


if __name__ == "__main__":
    main()
