"""Encoding with DINOv3 ViT-S at 256 px: beside transformers, the rate of matrix products, and the model alone on planes in memory.

    python benchmarks/bench_encode.py [--quick]

The forward: transformers' DINOv3ViTModel in fp32, as it runs by itself (sdpa, `inference_mode`), beside our encoder in bf16 and in fp32, all on the same
weights, drawn large enough that every part of the network shows, and 32 pictures in batches of 16.

The share of the rate of matrix products: a forward of one image of side s counts

    tokens t = (s / patch)^2 + 5, width d, hidden width h, depth l
    2 t (4 d^2 + 2 d h) l  +  4 t^2 d l  +  2 (s / patch)^2 3 patch^2 d        (linear layers, attention, patches; FLOPs)

and nothing for norms, GELU, softmax, rotations and copies. It is held against the best of torch.mm at square shapes and at those of this network, in turns.

A folder: 1024 x 1024 pictures from files to features, beside the bare model loop on planes in memory. Decoding shares the cores with the model, so the ratio
can be model / (model + decode / cores) at most. With a GPU: ViT-S, B and L in bf16 from JPEG files, beside the rate of its matrix products, and its features
beside those of the CPU.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from _bench import ROUNDS, in_turns, note, parser, row, timed
from medprobe import encoders
from medprobe.encoders.dinov3 import CONFIGS
from medprobe.features.encode import Pipeline, Preprocessing, decoders
from medprobe.features.store import Entry, Shard
from medprobe.imaging import recipes
from medprobe.types import Features, Source

NAME = "timm:vit_small_patch16_dinov3"
SIDE, PATCH, PREFIX, BATCH, IMAGES = 256, 16, 5, 16, 32
BATCHES = (4, 8, 16, 32)
FILE_SIDE, FILES = 1024, 64
TOKENS_ALIKE, POOLED_ALIKE, EXACT = 0.9999, 0.999, 1e-5
"""Least cosine of a token and least correlation of pooled features in bf16; largest relative difference in fp32."""


def pictures(count: int, side: int) -> np.ndarray:
    """(count, side, side) uint8: a smooth random body with bright and dark ellipses on black, and grain, about as hard to inflate as an X-ray."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    made = np.empty((count, side, side), np.uint8)
    for picture in made:
        coarse = Image.fromarray(rng.integers(60, 200, (int(rng.integers(4, 33)),) * 2, np.uint8))
        values = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float32)
        for _ in range(4):
            (top, left), (tall, wide) = rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.3, 2)
            values[((y - top) / tall) ** 2 + ((x - left) / wide) ** 2 < 1] += rng.uniform(-60, 60)
        values[((y - 0.5) / 0.48) ** 2 + ((x - 0.5) / rng.uniform(0.3, 0.48)) ** 2 > 1] = 0
        picture[...] = np.clip(values + rng.normal(0, 3, (side, side)), 0, 255)
    return made


# ------------------------------------------------------------------------------------------------ the forward


def peer(size: str) -> torch.nn.Module:
    """transformers' model of this size with random weights: all drawn with std 0.02, layer scales from 0.1 to 1."""
    import transformers

    net = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**CONFIGS[size], num_register_tokens=4, image_size=SIDE)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if "lambda1" in name:
                weights.copy_(0.1 + 0.9 * torch.rand(weights.shape, generator=generator))
            else:
                weights.copy_(0.02 * torch.randn(weights.shape, generator=generator) + ("norm" in name and name.endswith("weight")))
    return net


def by_transformers(net: torch.nn.Module, planes: torch.Tensor) -> torch.Tensor:
    """Tokens (n, t, d) without registers: the class token and the patches."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        tokens = torch.cat([net((batch - mean) / std).last_hidden_state for batch in planes.split(BATCH)])
    return torch.cat([tokens[:, :1], tokens[:, PREFIX:]], dim=1)


def by_us(encoder: encoders.LoadedEncoder, planes: torch.Tensor) -> torch.Tensor:
    """The same tokens."""
    return torch.cat([tokens_of(encoder(batch)) for batch in planes.split(BATCH)])


def tokens_of(features: Features) -> torch.Tensor:
    return torch.cat([features.cls[:, None], features.grid.flatten(2).transpose(1, 2)], dim=1)


def likeness(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """(least cosine of a token, least correlation over images of class token and patch mean: both less their mean over images)."""
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=2).min()
    correlations = []
    for pool in (lambda tokens: tokens[:, 0], lambda tokens: tokens[:, 1:].mean(1)):
        a, b = (pool(tokens) - pool(tokens).mean(0) for tokens in (ours, theirs))
        correlations.append((a * b).sum() / (a.norm() * b.norm()))
    return float(cosine), float(min(correlations))


def bf16_instructions() -> str:
    about = Path("/proc/cpuinfo")
    flags = set(about.read_text().split()) if about.exists() else set()
    return ", ".join(sorted(flags & {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})) or "none"


def forward(folder: Path, rounds: int) -> tuple[encoders.LoadedEncoder, encoders.LoadedEncoder]:
    """Rows of the forward beside transformers; our encoders in fp32 and bf16."""
    net = peer("vits16")
    torch.save(net.state_dict(), folder / "weights.pth")
    exact, half = (encoders.load(NAME, weights=folder / "weights.pth", precision=precision) for precision in ("fp32", "bf16"))
    planes = torch.from_numpy(pictures(IMAGES, SIDE)).float().div_(255)[:, None].repeat(1, 3, 1, 1)
    job = f"forward of ViT-S, {IMAGES} planes of {SIDE} x {SIDE}, batch {BATCH}"
    theirs = "DINOv3ViTModel of transformers, fp32"
    pairs = in_turns(partial(by_us, half, planes), partial(by_transformers, net, planes), rounds)
    cosine, correlation = likeness(pairs.mine, pairs.other)
    said = f"least cosine of a token {cosine:.6f}, least correlation of pooled features {correlation:.5f}"
    assert cosine >= TOKENS_ALIKE, said
    assert correlation >= POOLED_ALIKE, said
    row(f"{job}, bf16", theirs, pairs.ratio, goal=1.6, spread=pairs.range, equality=said, limit=f"bf16 instructions of the CPU: {bf16_instructions()}; {pairs}")
    pairs = in_turns(partial(by_us, exact, planes), partial(by_transformers, net, planes), rounds)
    apart = float((pairs.mine - pairs.other).abs().max() / pairs.other.abs().max())
    assert apart <= EXACT, apart
    row(f"{job}, fp32", theirs, pairs.ratio, spread=pairs.range, equality=f"largest difference {apart:.0e} of the largest value", limit=f"the same matrix products; {pairs}")
    return exact, half


# ------------------------------------------------------------------------------- beside the rate of matrix products


def flops(size: str, images: int) -> float:
    """Of a forward, by the formula of this file."""
    config, patches = CONFIGS[size], (SIDE // PATCH) ** 2
    tokens, width, depth = patches + PREFIX, config["hidden_size"], config["num_hidden_layers"]
    linear = 2 * tokens * (4 * width**2 + 2 * width * config["intermediate_size"]) * depth
    return images * float(linear + 4 * tokens**2 * width * depth + 2 * patches * 3 * PATCH**2 * width)


def products(size: str, batch: int) -> list[tuple[int, int, int]]:
    """(rows, inner, columns): large squares, and the layers of a network."""
    config = CONFIGS[size]
    width, hidden, rows = config["hidden_size"], config["intermediate_size"], batch * ((SIDE // PATCH) ** 2 + PREFIX)
    return [(1024,) * 3, (2048,) * 3, (4096,) * 3, (rows, width, 3 * width), (rows, width, hidden), (rows, hidden, width)]


def best_product(size: str, batch: int, dtype: torch.dtype, device: str = "cpu", repeats: int = 1) -> tuple[Callable[[], None], float, str]:
    """The fastest of the products: a call of it `repeats` times over, its FLOPs, and its shape in words."""
    found = []
    for rows, inner, columns in products(size, batch):
        a, b = (torch.rand(shape, device=device).sub_(0.5).to(dtype) for shape in ((rows, inner), (inner, columns)))
        work, count = partial(multiply, a, b, torch.empty(rows, columns, dtype=dtype, device=device), repeats), 2.0 * rows * inner * columns * repeats
        work()
        found.append((count / min(timed(work)[0] for _ in range(3)), work, count, f"{rows} x {inner} x {columns}"))
    _, work, count, shape = max(found, key=lambda each: each[0])
    return work, count, shape


def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, repeats: int) -> None:
    for _ in range(repeats):
        torch.mm(a, b, out=out)
    if out.is_cuda:
        torch.cuda.synchronize()


def share(encoder: encoders.LoadedEncoder, goal: float | None, rounds: int) -> None:
    """The row of FLOP/s of an encoder beside the best of torch.mm in the same number type; a note of other batches."""
    planes = torch.rand(max(BATCHES), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    precision = encoder.precision
    work, count, shape = best_product("vits16", BATCH, torch.bfloat16 if precision == "bf16" else torch.float32)
    pairs = in_turns(lambda: encoder(planes[:BATCH]), work, rounds)
    ratio = flops("vits16", BATCH) / count
    rate, most = flops("vits16", BATCH) / pairs.ours / 1e9, count / pairs.theirs / 1e9
    low, high = (ratio * end for end in pairs.range)
    row(
        f"FLOP/s of the forward of ViT-S, {SIDE} x {SIDE}, batch {BATCH}, {precision}", f"torch.mm, best of {len(products('vits16', BATCH))} shapes ({shape})",
        ratio * pairs.ratio, goal=goal, spread=(low, high), limit=f"{rate:.0f} of {most:.0f} GFLOP/s; the rest is attention, GELU, rotation, norms and copies",
    )  # fmt: skip
    rates = {}
    for batch in BATCHES:
        encoder(planes[:batch])
        spent = [timed(partial(encoder, planes[:batch]))[0] for _ in range(max(3, rounds // 2))]
        rates[batch] = flops("vits16", batch) / min(spent) / 1e9
    note(f"GFLOP/s of that forward by batch, {precision}: " + ", ".join(f"{batch}: {found:.0f}" for batch, found in rates.items()) + ".")


# ----------------------------------------------------------------------------------------------------- a folder


def written(folder: Path, count: int, side: int, suffix: str) -> list[Path]:
    files = [folder / f"{number:04d}{suffix}" for number in range(count)]
    for file, picture in zip(files, pictures(count, side), strict=True):
        Image.fromarray(picture).save(file)
    return files


def piped(encoder: encoders.LoadedEncoder, files: list[Path], batch: int, workers: int) -> Callable[[], np.ndarray]:
    """From files to class tokens as a run does it, without the store."""
    sources = {str(number): (Source(file),) for number, file in enumerate(files)}
    shard = Shard(files[0].parent / "shard")
    shard.entries = tuple(Entry(key, 1) for key in sources)
    pipeline = Pipeline(encoder, Preprocessing("full-range", (SIDE, SIDE), colour=3), False, batch, workers)
    return lambda: np.concatenate([chunk.rows["cls"] for chunk in pipeline.chunks(shard, sources, 0, shard.planes)])


def bare(encoder: encoders.LoadedEncoder, planes: torch.Tensor, batch: int) -> np.ndarray:
    """The loop of a script that has its planes in memory."""
    mean, std = (torch.tensor(encoder.transform[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        return torch.cat([encoder.net.forward_features((part - mean) / std)[:, 0] for part in planes.split(batch)]).numpy()


def decoding(files: list[Path]) -> tuple[float, np.ndarray]:
    """Seconds per file on one core, and the planes."""
    spent, planes = timed(lambda: [recipes.planes((Source(file),), window="full-range", size=SIDE, colour=3).pixels for file in files])
    return spent / len(files), np.concatenate(planes)


def from_folder(encoder: encoders.LoadedEncoder, suffix: str, count: int, goal: float | None, rounds: int) -> None:
    cores = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), count, FILE_SIDE, suffix)
        decoding(files[:2])
        decode, pixels = decoding(files)
        planes = torch.from_numpy(pixels).float().div_(255)
        pairs = in_turns(piped(encoder, files, BATCH, 2), lambda: bare(encoder, planes, BATCH), rounds)
    apart = float(np.abs(pairs.mine - pairs.other).max() / np.abs(pairs.other).max())
    assert apart <= EXACT, apart
    model, ours = pairs.theirs / count, pairs.ours / count
    row(
        f"encode a folder of {count} {suffix[1:].upper()} files of {FILE_SIDE} x {FILE_SIDE} with ViT-S at {SIDE} px, batch {BATCH}, fp32", "the bare model loop on planes in memory",
        pairs.ratio, goal=goal, spread=pairs.range, equality=f"largest difference {apart:.0e} of the largest value",
        limit=f"{model / (model + decode / cores):.2f} with {1e3 * decode:.1f} ms of decoding shared by {cores} cores; {1e3 * ours:.1f} against {1e3 * model:.1f} ms an image",
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- a GPU


def on_gpu(count: int) -> None:
    """Rows of ViT-S, B and L from JPEG files of twice the side on a GPU, and how far its features are from those of the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device, batch = torch.cuda.get_device_name(), 128
    workers = decoders("cuda")
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), count, 2 * SIDE, ".jpg")
        decode, pixels = decoding(files[:BATCH])
        planes = torch.from_numpy(pixels).float().div_(255)
        for letter, size in (("S", "small"), ("B", "base"), ("L", "large")):
            config, spec = f"vit{letter.lower()}16", f"random:timm:vit_{size}_patch16_dinov3"
            encoder = encoders.load(spec, device="cuda", precision="bf16")
            work, product, shape = best_product(config, batch, torch.bfloat16, "cuda", repeats=20)
            pairs = in_turns(piped(encoder, files, batch, workers), work, 3)
            ratio = flops(config, count) / product
            exact, half, cpu = (tokens_of(found(planes)) for found in (encoders.load(spec, device="cuda"), encoder, encoders.load(spec)))
            apart = float((exact - cpu).abs().max() / cpu.abs().max())
            assert apart <= 1e-4, apart
            cosine = float(torch.nn.functional.cosine_similarity(half, cpu, dim=2).min())
            row(
                f"images a second, {count} JPEG files of {2 * SIDE} x {2 * SIDE} with ViT-{letter} at {SIDE} px on {device}, bf16, batch {batch}", f"torch.mm in bf16 ({shape})",
                ratio * pairs.ratio, goal=0.7 if letter == "L" else None, spread=(ratio * pairs.range[0], ratio * pairs.range[1]),
                equality=f"GPU to CPU: fp32 (without tf32) {apart:.0e} of the largest value, bf16 least cosine of a token {cosine:.6f}",
                limit=f"{count / pairs.ours:.0f} images a second; {1e3 * decode:.1f} ms of decoding by each of {workers} processes allow {workers / decode:.0f}",
            )  # fmt: skip


def main() -> None:
    quick = parser(__doc__, "two pairs, few files").parse_args().quick
    rounds = 2 if quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        exact, half = forward(Path(folder), rounds)
    share(exact, 0.8, rounds)
    share(half, None, rounds)
    from_folder(exact, ".png", 24 if quick else FILES, 0.9, rounds)
    from_folder(exact, ".jpg", 24 if quick else FILES, None, rounds)
    if torch.cuda.is_available():
        on_gpu(512 if quick else 4096)
    else:
        note("No GPU was there: ViT-S, B and L from JPEG files in bf16, with 0.70 of the rate of matrix products as the goal of ViT-L, were not measured.")


if __name__ == "__main__":
    main()
