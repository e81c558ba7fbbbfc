"""DINOv3 from the formulas of its release, in float64 and plain torch: no model class of anyone."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from medprobe.encoders import load
from medprobe.encoders.checkpoints import fit
from medprobe.encoders.dinov3 import to_timm

PATCH, REGISTERS, HEAD = 16, 4, 64
MISTAKES = ("longer side", "registers turn too", "k bias", "interleaved", "no layer scale", "eps")
State = dict[str, torch.Tensor]


def weights(dim: int, depth: int, gated: bool = False) -> State:
    """Random ones under the names of the official files; the mask has to silence a k bias of 5."""
    random = torch.Generator().manual_seed(4)

    def some(*shape: int, spread: float = 0.03) -> torch.Tensor:
        return spread * torch.randn(*shape, generator=random)

    state = {"cls_token": some(1, 1, dim), "storage_tokens": some(1, REGISTERS, dim)}
    state |= {"mask_token": some(1, dim), "rope_embed.periods": 100 ** (torch.arange(16) / 16)}
    state |= {
        "patch_embed.proj.weight": some(dim, 3, PATCH, PATCH),
        "patch_embed.proj.bias": some(dim),
    }
    layers = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
    out, into = ("mlp.w3", ("mlp.w1", "mlp.w2")) if gated else ("mlp.fc2", ("mlp.fc1",))
    layers |= {out: (dim, 4 * dim), **dict.fromkeys(into, (4 * dim, dim))}
    for block in (f"blocks.{number}." for number in range(depth)):
        for name, shape in layers.items():
            state |= {f"{block}{name}.weight": some(*shape), f"{block}{name}.bias": some(shape[0])}
        state[f"{block}attn.qkv.bias"][dim : 2 * dim] = 5
        state[f"{block}attn.qkv.bias_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(dim)
        for norm, scale in (("norm1", "ls1"), ("norm2", "ls2")):
            state |= {f"{block}{norm}.weight": 1 + some(dim), f"{block}{norm}.bias": some(dim)}
            state[f"{block}{scale}.gamma"] = 0.3 + some(dim, spread=0.2)
    return state | {"norm.weight": 1 + some(dim), "norm.bias": some(dim)}


def angles(rows: int, columns: int, periods: torch.Tensor, mistake: str) -> torch.Tensor:
    """(patches, 64): how far each number of a head turns, by the middle of its patch in -1 to 1."""
    longer = max(rows, columns) if mistake == "longer side" else 0
    ends = [
        torch.arange(side, dtype=torch.float64).add(0.5).mul(2 / (longer or side)).sub(1)
        for side in (rows, columns)
    ]
    turn = [
        2 * math.pi * axis.flatten()[:, None] / periods
        for axis in torch.meshgrid(*ends, indexing="ij")
    ]
    half = (
        torch.stack(turn, dim=-1).flatten(1) if mistake == "interleaved" else torch.cat(turn, dim=1)
    )
    return half.repeat(1, 2)


def by_formula(
    state: State, image: torch.Tensor, mistake: str = "", periods: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """(5 + patches, dim) float64 after each block, normed: class, registers, patches by rows."""
    state = {name: value.double() for name, value in state.items()}
    dim, depth = len(state["norm.bias"]), sum(name.endswith("norm1.bias") for name in state)
    if periods is None:
        periods = 100 ** (2 * torch.arange(16, dtype=torch.float64) / 32)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        off, eps = x - x.mean(-1, keepdim=True), 1e-2 if mistake == "eps" else 1e-5
        return (
            off / (off.square().mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
    mean, std = (
        image.new_tensor(three).view(3, 1, 1)
        for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    cells = (
        ((image - mean) / std)
        .double()
        .reshape(3, rows, PATCH, columns, PATCH)
        .permute(1, 3, 0, 2, 4)
    )
    patches = (
        cells.reshape(rows * columns, -1) @ state["patch_embed.proj.weight"].flatten(1).T
        + state["patch_embed.proj.bias"]
    )
    x = torch.cat([state["cls_token"][0], state["storage_tokens"][0], patches])
    first = 0.3 if mistake == "registers turn too" else 0.0
    turn = torch.cat(
        [x.new_full((1 + REGISTERS, HEAD), first), angles(rows, columns, periods, mistake)]
    )

    def turned(part: torch.Tensor) -> torch.Tensor:
        one, other = part.chunk(2, dim=-1)
        return part * turn.cos() + torch.cat([-other, one], dim=-1) * turn.sin()

    found = []
    for block in (f"blocks.{number}." for number in range(depth)):
        mask = 1 if mistake == "k bias" else state[f"{block}attn.qkv.bias_mask"]
        qkv = (
            norm(x, f"{block}norm1") @ state[f"{block}attn.qkv.weight"].T
            + state[f"{block}attn.qkv.bias"] * mask
        )
        q, k, v = qkv.reshape(len(x), 3, dim // HEAD, HEAD).permute(1, 2, 0, 3)
        seen = (turned(q) @ turned(k).transpose(1, 2) / math.sqrt(HEAD)).softmax(-1) @ v
        one, two = (
            (1, 1)
            if mistake == "no layer scale"
            else (state[f"{block}{name}.gamma"] for name in ("ls1", "ls2"))
        )
        x = x + one * layer(seen.transpose(0, 1).reshape(len(x), dim), f"{block}attn.proj")
        inner = norm(x, f"{block}norm2")
        if f"{block}mlp.w1.weight" in state:
            inner = layer(
                functional.silu(layer(inner, f"{block}mlp.w1")) * layer(inner, f"{block}mlp.w2"),
                f"{block}mlp.w3",
            )
        else:
            wide = layer(inner, f"{block}mlp.fc1")
            inner = layer(wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2))), f"{block}mlp.fc2")
        x = x + two * inner
        found.append(norm(x, "norm"))
    return found


def picture(*size: int) -> torch.Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(1))


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.equality(
    "facebookresearch/dinov3, hub model of S by its formulas: class token, patch mean, dense "
    "maps of three blocks; 1e-5"
)
def test_class_patches_and_maps_are_those_of_the_formulas(tmp_path: Path) -> None:
    path, state = tmp_path / "dinov3_vits16_pretrain.pth", weights(384, 12)
    torch.save(state, path)
    encoder = load("timm:vit_small_patch16_dinov3.lvd1689m", weights=path, layers=(2, 5, 11))
    for size in ((224, 224), (96, 160), (16, 48)):
        made, expected = encoder(picture(*size)[None]), by_formula(state, picture(*size))
        assert apart(made.cls[0], expected[-1][0]) < 1e-5
        assert apart(made.patch_mean[0], expected[-1][5:].mean(0)) < 1e-5
        for grids, block in zip(made.grids, (2, 5, 11), strict=True):
            assert (
                apart(
                    grids[0], expected[block][5:].T.reshape(384, size[0] // PATCH, size[1] // PATCH)
                )
                < 1e-5
            )


def small(gated: bool) -> tuple[Any, State]:
    """Two blocks of two heads, with official names brought to timm's as `load` does."""
    import timm

    name, state = (
        "vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3_qkvb",
        weights(128, 2, gated),
    )
    net = timm.create_model(
        name, num_classes=0, embed_dim=128, depth=2, num_heads=2, mlp_ratio=4, qkv_bias=True
    )
    fit(net, to_timm(state), Path("small.pth"), "a small model")
    return net.eval(), state


def tokens_of(net: Any, image: torch.Tensor) -> torch.Tensor:
    mean, std = (
        image.new_tensor(three).view(3, 1, 1)
        for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        return net.forward_features(((image - mean) / std)[None])[0]


@pytest.mark.equality(
    "facebookresearch/dinov3, blocks of S and of the gated S+ by their formulas, all tokens; 1e-5"
)
@pytest.mark.parametrize("gated", [False, True])
def test_every_token_is_that_of_the_formulas(gated: bool) -> None:
    net, state = small(gated)
    for size in ((64, 96), (16, 16), (224, 32)):
        assert apart(tokens_of(net, picture(*size)), by_formula(state, picture(*size))[-1]) < 1e-5


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees_a_wrong_formula(mistake: str) -> None:
    net, state = small(False)
    assert (
        apart(tokens_of(net, picture(48, 80)), by_formula(state, picture(48, 80), mistake)[-1])
        > 1e-4
    )


@pytest.mark.equality(
    "facebookresearch/dinov3, periods rounded to bfloat16 as its files store them: ours are "
    "not, and tokens differ by less than 1e-2"
)
def test_rounded_periods_of_official_files_move_tokens_little() -> None:
    net, state = small(False)
    rounded = state["rope_embed.periods"].bfloat16().double()
    image = picture(96, 160)
    theirs = by_formula(state, image, periods=rounded)[-1]
    assert 1e-5 < apart(tokens_of(net, image), theirs) < 1e-2
