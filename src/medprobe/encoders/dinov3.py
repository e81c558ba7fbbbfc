"""DINOv3 vision transformers: one set of weights, three spellings of its keys (official, timm, transformers).

Facts: facebookresearch/dinov3 hub/backbones.py and models/vision_transformer.py; methods sheet 1.1 and 1.3.
Official files fuse q, k and v and carry a bias of which the k third is masked to zero; timm keeps the biases of q
and v apart, or has none at all where the distilled models ship zeros.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprobe.errors import MissingError

TIMM_TO_TRANSFORMERS = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.(\d+)\.gamma_1$", r"layer.\1.layer_scale1.lambda1"),
    (r"^blocks\.(\d+)\.gamma_2$", r"layer.\1.layer_scale2.lambda1"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.([qv])_bias$", r"layer.\1.attention.\2_proj.bias"),
    (r"^blocks\.(\d+)\.mlp\.fc1_g\.", r"layer.\1.mlp.gate_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc1(_x)?\.", r"layer.\1.mlp.up_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"layer.\1.mlp.down_proj."),
    (r"^blocks\.(\d+)\.", r"layer.\1."),
)
OFFICIAL_TO_TIMM = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
TRANSFORMERS_TO_TIMM = (
    (r"^(model\.)?layer\.", "blocks."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)

CONFIGS: dict[str, dict[str, Any]] = {
    f"vit{size}": {
        "hidden_size": heads * head_dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "query_bias": size != "7b16",
        "value_bias": size != "7b16",
    }
    for size, depth, heads, head_dim, hidden, gated in (
        ("s16", 12, 6, 64, 1536, False),
        ("s16plus", 12, 6, 64, 1536, True),
        ("b16", 12, 12, 64, 3072, False),
        ("l16", 24, 16, 64, 4096, False),
        ("l16plus", 24, 16, 64, 4096, True),
        ("h16plus", 32, 20, 64, 5120, True),
        ("7b16", 40, 32, 128, 8192, True),
    )
}
"""The published sizes, for `transformers` without its configuration file; gated means SwiGLU."""


SATELLITE = ("eadcf0ff", "a6675841")
"""First digits of the sha256 of the official files trained on SAT-493M, whose mean and std are others."""
NORM_OF_CROPS = "local_cls_norm"
"""Official files of ViT-L hold it when they are of SAT-493M, those of the 7B model always."""
WIDTH_OF_7B = 4096


def check_data(name: str, path: Path, tensors: Mapping[str, Any], sha256: str) -> None:
    """MissingError for a file that is not what its official name says, or was trained on other images than the model's."""
    promised = re.search(r"dinov3_\w+-([0-9a-f]{8})\b.*\.pth", path.name)
    if promised and not sha256.startswith(promised[1]):
        raise MissingError(
            f"expected a sha256 that begins with {promised[1]}, as the name {path.name} promises, found {sha256[:8]}: the file is "
            "broken or another one; fetch it again, or give a file of your own another name"
        )
    found, why = trained_on(path, tensors, sha256)
    asked = re.search(r"lvd1689m|sat493m", name)
    if found is None or found == (asked[0] if asked else "lvd1689m"):
        return
    other = name.replace(asked[0], found) if asked else f"{name}.{found}"
    raise MissingError(
        f"expected weights trained on {asked[0] if asked else 'lvd1689m'} for {name}, found in {path} those of {found} ({why}), "
        f"whose mean and std differ; run {'' if '/' in name else 'timm:'}{other}"
    )


def trained_on(path: Path, tensors: Mapping[str, Any], sha256: str) -> tuple[str | None, str]:
    """(`lvd1689m`, `sat493m` or None where nothing tells, what tells it)."""
    if sha256[:8] in SATELLITE:
        return "sat493m", f"its sha256 begins with {sha256[:8]}"
    widths = {tensor.shape[-1] for key, tensor in tensors.items() if key.endswith("cls_token")}
    if any(NORM_OF_CROPS in key for key in tensors) and WIDTH_OF_7B not in widths:
        return "sat493m", f"it holds {NORM_OF_CROPS}"
    for part, what in ((path.name, "its name says so"), (path.absolute().parent.name, "its folder says so")):
        said = set(re.findall(r"lvd1689m|sat493m", part))
        if len(said) == 1:
            return said.pop(), what
    return None, ""


def is_official(tensors: Mapping[str, Any]) -> bool:
    """Whether the keys are those of the official transformer files."""
    return "storage_tokens" in tensors and "blocks.0.attn.qkv.weight" in tensors


def is_transformers(tensors: Mapping[str, Any]) -> bool:
    return "embeddings.register_tokens" in tensors and any(name.endswith("attention.q_proj.weight") for name in tensors)


def to_timm(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Official or transformers keys as timm's; what is computed anew or used in training only is left out.

    Biases of q and v are kept only when one of them is not zero: their absence asks for timm's bias-free variant.
    """
    import torch

    renamed = _official(tensors) if is_official(tensors) else _transformers(tensors)
    biases = [name for name in renamed if name.endswith(("attn.q_bias", "attn.v_bias"))]
    if not any(torch.count_nonzero(renamed[name]) for name in biases):
        for name in biases:
            del renamed[name]
    return renamed


def _official(tensors: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if (
            name in {"mask_token", "rope_embed.periods"}
            or name.startswith("local_cls_norm.")
            or name.endswith(".bias_mask")
        ):
            continue
        if name.endswith("attn.qkv.bias"):
            made[name.replace("qkv.bias", "q_bias")], _, made[name.replace("qkv.bias", "v_bias")] = tensor.chunk(3)
        else:
            made[rename(name, OFFICIAL_TO_TIMM)] = tensor
    return made


def _transformers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    gated = any(".mlp.gate_proj." in name for name in tensors)
    made: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name == "embeddings.mask_token" or re.search(r"attention\.[kv]_proj\.weight$", name):
            continue
        name_in_timm = rename(name, TRANSFORMERS_TO_TIMM).replace(
            ".mlp.up_proj.", ".mlp.fc1_x." if gated else ".mlp.fc1."
        )
        if name.endswith("attention.q_proj.weight"):
            made[name_in_timm.replace("attention.q_proj", "attn.qkv")] = torch.cat(
                [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            )
        else:
            made[name_in_timm] = tensor
    return made


def to_transformers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Official keys as in the files of the hub (`layer.0.…`); transformers 5 renames those to `model.layer.0.…` itself."""
    made: dict[str, Any] = {}
    for name, tensor in _official(tensors).items():
        if name.endswith("attn.qkv.weight"):
            block = name.removesuffix("attn.qkv.weight").replace("blocks.", "layer.")
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                made[f"{block}attention.{part}_proj.weight"] = third
        else:
            made[rename(name, TIMM_TO_TRANSFORMERS)] = tensor
    if "mask_token" in tensors:
        made["embeddings.mask_token"] = tensors["mask_token"].reshape(1, 1, -1)
    return made


def rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """The name after every rule, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
