"""Acceptance 3: our encoder from an official-format DINOv3 file, timm and transformers say the same, and the test bites."""

from pathlib import Path

import pytest
import torch

from medprobe.encoders import load
from medprobe.types import Features

SIZES = ((224, 224), (256, 256), (224, 336), (512, 512))
DIMS = {"small": (384, 12, 6), "base": (768, 12, 12)}
TOLERANCE = 1e-5


def official_state(dim: int, depth: int, gated: bool = False, zero_bias: bool = False) -> dict[str, torch.Tensor]:
    """Random weights under the official names: everything drawn with std 0.02, layer scale from 0.1 to 1, and a k bias that
    the mask must silence."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(*shape, generator=generator)

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + draw(dim), f"{name}.bias": draw(dim)}

    def linear(name: str, wide: int, narrow: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": draw(wide, narrow), f"{name}.bias": draw(wide)}

    hidden = 4 * dim
    state = {
        "cls_token": draw(1, 1, dim),
        "storage_tokens": draw(1, 4, dim),
        "mask_token": draw(1, dim),
        "rope_embed.periods": torch.ones(16),
    }
    state |= {"patch_embed.proj.weight": draw(dim, 3, 16, 16), "patch_embed.proj.bias": draw(dim)}
    for i in range(depth):
        block = f"blocks.{i}"
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= linear(f"{block}.attn.qkv", 3 * dim, dim) | linear(f"{block}.attn.proj", dim, dim)
        state[f"{block}.attn.qkv.bias"][dim : 2 * dim] = 7.0
        state[f"{block}.attn.qkv.bias_mask"] = torch.cat([torch.ones(dim), torch.zeros(dim), torch.ones(dim)])
        if zero_bias:
            state[f"{block}.attn.qkv.bias"].zero_()
        for scale in ("ls1", "ls2"):
            state[f"{block}.{scale}.gamma"] = 0.1 + 0.9 * torch.rand(dim, generator=generator)
        if gated:
            state |= (
                linear(f"{block}.mlp.w1", hidden, dim)
                | linear(f"{block}.mlp.w2", hidden, dim)
                | linear(f"{block}.mlp.w3", dim, hidden)
            )
        else:
            state |= linear(f"{block}.mlp.fc1", hidden, dim) | linear(f"{block}.mlp.fc2", dim, hidden)
    return state | norm("norm")


def transformers_model(state: dict[str, torch.Tensor], heads: int, gated: bool = False) -> torch.nn.Module:
    """`DINOv3ViTModel` filled by hand, tensor by tensor: independent of the key map under test."""
    transformers = pytest.importorskip("transformers", minversion="4.56")
    dim = state["norm.weight"].numel()
    depth = sum(name.endswith("norm1.weight") for name in state)
    config = transformers.DINOv3ViTConfig(
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    net = transformers.DINOv3ViTModel(config).eval()
    filled = {}
    prefix = "model.layer" if any(name.startswith("model.layer") for name in net.state_dict()) else "layer"
    for name in net.state_dict():
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "embeddings":
            official = {"cls_token": "cls_token", "mask_token": "mask_token", "register_tokens": "storage_tokens"}.get(
                parts[1]
            )
            tensor = state[official] if official else state[f"patch_embed.proj.{parts[2]}"]
        elif parts[0] == "norm":
            tensor = state[name]
        else:
            assert name.startswith(prefix)
            block, rest = f"blocks.{parts[1]}", ".".join(parts[2:])
            if parts[2] == "attention" and parts[3] != "o_proj":
                tensor = state[f"{block}.attn.qkv.{parts[4]}"].chunk(3)["qkv".index(parts[3][0])]
            else:
                plain = {
                    "attention.o_proj": "attn.proj",
                    "layer_scale1.lambda1": "ls1.gamma",
                    "layer_scale2.lambda1": "ls2.gamma",
                }
                mlp = (
                    {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
                    if gated
                    else {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
                )
                for theirs, official in (plain | mlp).items():
                    rest = rest.replace(theirs, official)
                tensor = state[f"{block}.{rest}"]
        filled[name] = tensor.reshape(net.state_dict()[name].shape)
    net.load_state_dict(filled)
    return net


def normalised(x: torch.Tensor) -> torch.Tensor:
    return (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@torch.no_grad()
def by_transformers(net: torch.nn.Module, x: torch.Tensor) -> Features:
    tokens = net(normalised(x)).last_hidden_state
    patches = tokens[:, 5:]
    return Features(tokens[:, 0], patches.mean(1), (patches.unflatten(1, (x.shape[2] // 16, -1)).permute(0, 3, 1, 2),))


@torch.no_grad()
def by_timm(net: torch.nn.Module, x: torch.Tensor) -> Features:
    tokens = net.forward_features(normalised(x))
    patches = tokens[:, 5:]
    return Features(tokens[:, 0], patches.mean(1), (patches.unflatten(1, (x.shape[2] // 16, -1)).permute(0, 3, 1, 2),))


def disagreement(one: Features, other: Features) -> float:
    pairs = ((one.cls, other.cls), (one.patch_mean, other.patch_mean), (one.grid, other.grid))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def planes(size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("official") / "dinov3_vits16_pretrain.pth"
    state = official_state(384, 12)
    torch.save(state, path)
    return path, state


def agree(size_name: str, path: Path, state: dict[str, torch.Tensor], sizes: tuple[tuple[int, int], ...]) -> None:
    import timm

    spec = f"vit_{size_name}_patch16_dinov3"
    ours = load(f"timm:{spec}.lvd1689m", weights=path)
    theirs = transformers_model(state, DIMS[size_name][2])
    # timm's own route for official files, with the variant that keeps the biases
    direct = timm.create_model(
        f"{spec}_qkvb", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, num_classes=0
    ).eval()
    for size in sizes:
        x = planes(size)
        made = ours(x)
        assert tuple(made.grid.shape[2:]) == (size[0] // 16, size[1] // 16)
        assert disagreement(made, by_timm(direct, x)) <= TOLERANCE, size
        assert disagreement(made, by_transformers(theirs, x)) <= TOLERANCE, size


@pytest.mark.equality(
    "timm and transformers, DINOv3-S from one file of official names: class token, patch mean, "
    "dense map at four sizes; 1e-5"
)
def test_vit_small_from_an_official_file_equals_timm_and_transformers_at_four_sizes(small) -> None:
    agree("small", *small, SIZES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("official") / "dinov3_vitb16_pretrain.pth"
    state = official_state(768, 12)
    torch.save(state, path)
    return path, state


def test_vit_base_from_an_official_file_equals_timm_and_transformers(base) -> None:
    agree("base", *base, SIZES[2:3])


@pytest.mark.equality("timm and transformers, DINOv3-B likewise; 1e-5")
@pytest.mark.accept
def test_vit_base_from_an_official_file_equals_timm_and_transformers_at_four_sizes(base) -> None:
    agree("base", *base, SIZES)


def test_our_transformers_family_reads_the_same_official_file(small) -> None:
    pytest.importorskip("transformers", minversion="4.56")
    path, _ = small
    one = load("timm:vit_small_patch16_dinov3", weights=path)
    other = load("transformers:facebook/dinov3-vits16-pretrain-lvd1689m", weights=path)
    x = planes((224, 336))
    assert disagreement(other(x), one(x)) <= TOLERANCE
    assert one.weights_sha256 == other.weights_sha256


def test_inner_layers_carry_the_final_norm_in_both_families(small) -> None:
    pytest.importorskip("transformers", minversion="4.56")
    path, _ = small
    x = planes((64, 96))
    one = load("timm:vit_small_patch16_dinov3", weights=path, layers=(2, 5, -1))(x)
    other = load("transformers:facebook/dinov3-vits16-pretrain-lvd1689m", weights=path, layers=(2, 5, -1))(x)
    assert len(one.grids) == len(other.grids) == 3
    for a, b in zip(one.grids, other.grids, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) <= TOLERANCE
    assert not torch.equal(one.grids[0], one.grids[2])


def test_the_comparison_fails_without_rotary_positions(small) -> None:
    path, state = small
    ours = load("timm:vit_small_patch16_dinov3", weights=path)
    ours.net.rope = None
    x = planes((224, 224))
    assert disagreement(ours(x), by_transformers(transformers_model(state, 6), x)) > 100 * TOLERANCE


def test_the_comparison_fails_with_q_k_v_permuted_in_one_block(small, tmp_path: Path) -> None:
    _, state = small
    q, k, v = state["blocks.7.attn.qkv.weight"].chunk(3)
    torch.save(state | {"blocks.7.attn.qkv.weight": torch.cat([v, q, k])}, tmp_path / "permuted.pth")
    ours = load("timm:vit_small_patch16_dinov3", weights=tmp_path / "permuted.pth")
    x = planes((224, 224))
    assert disagreement(ours(x), by_transformers(transformers_model(state, 6), x)) > 100 * TOLERANCE


def test_the_comparison_fails_without_the_registers(small) -> None:
    path, state = small
    ours = load("timm:vit_small_patch16_dinov3", weights=path)
    ours.net.reg_token = None
    for module in ours.net.modules():
        if hasattr(module, "num_prefix_tokens"):
            module.num_prefix_tokens = 1
    x = planes((224, 224))
    assert disagreement(ours(x), by_transformers(transformers_model(state, 6), x)) > 100 * TOLERANCE


@pytest.mark.equality("timm and transformers, the gated blocks of DINOv3-S+; 1e-5")
def test_swiglu_weights_reach_gate_value_and_output_in_this_order() -> None:
    """The S+ map on a small network of the same kind: dim 96, two blocks."""
    import timm

    from medprobe.encoders.checkpoints import fit
    from medprobe.encoders.dinov3 import to_timm

    state = official_state(96, 2, gated=True)
    net = timm.create_model(
        "vit_small_plus_patch16_dinov3", num_classes=0, embed_dim=96, depth=2, num_heads=2, mlp_ratio=4, qkv_bias=True
    )
    fit(net, to_timm(state), Path("s-plus.pth"), "a small S+")
    x = planes((64, 96))
    assert (
        disagreement(by_timm(net.eval(), x), by_transformers(transformers_model(state, 2, gated=True), x)) <= TOLERANCE
    )


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb.lvd1689m"])
def test_biases_are_kept_under_either_name(name: str, small) -> None:
    path, state = small
    ours = load(f"timm:{name}", weights=path)
    assert torch.equal(ours.net.blocks[3].attn.v_bias, state["blocks.3.attn.qkv.bias"][-384:])


def test_zero_biases_choose_the_bias_free_variant_and_change_nothing(tmp_path: Path) -> None:
    state = official_state(384, 12, zero_bias=True)
    torch.save(state, tmp_path / "zero.pth")
    ours = load("timm:vit_small_patch16_dinov3_qkvb.lvd1689m", weights=tmp_path / "zero.pth")
    assert not any("q_bias" in name for name in ours.net.state_dict())
    x = planes((64, 64))
    assert disagreement(ours(x), by_transformers(transformers_model(state, 6), x)) <= TOLERANCE


def test_a_file_written_by_transformers_loads_into_timm(small, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path, state = small
    save_file(
        {name: tensor.contiguous() for name, tensor in transformers_model(state, 6).state_dict().items()},
        tmp_path / "model.safetensors",
    )
    x = planes((64, 64))
    one = load("timm:vit_small_patch16_dinov3", weights=tmp_path / "model.safetensors")
    assert disagreement(one(x), load("timm:vit_small_patch16_dinov3", weights=path)(x)) == 0


def test_bfloat16_by_name_stays_close_and_returns_float32(small) -> None:
    path, _ = small
    exact = load("timm:vit_small_patch16_dinov3", weights=path)
    half = load("timm:vit_small_patch16_dinov3", weights=path, precision="bf16")
    x = planes((224, 224))
    one, other = exact(x), half(x)
    assert other.cls.dtype == other.grid.dtype == torch.float32
    assert half.net.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert half.net.blocks[0].norm1.weight.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(one.grid.flatten(2), other.grid.flatten(2), dim=1)
    assert 0.9999 < float(cosine.min()) < 1 - 1e-9
    assert other.cls.isfinite().all()
