"""`timm:NAME`, `hf-hub:org/name`, `local-dir:PATH`: any model of timm, its published weights, or a local checkpoint.

- Transformers: `cls` is the class token after the final norm (the attention pool where the model was made with one),
  grids are the patch tokens after the final norm, `patch_mean` their mean. Registers are left out.
- Convolutional and hierarchical networks: `cls` is what the classifier would see (global average, then the head's
  norm where it has one), the grid is the last stage; ConvNeXt's grid carries the head's norm, as DINOv3 defines it.
- `@stage3` after a name takes the stage of stride 2^(3+1) instead, and its global average: `timm:resnet50.tv_in1k@stage3`
  is the 1024-d "ResNet50" of the whole-slide literature (CLAM, TRIDENT). `@raw` leaves mean and std out (SimCLR),
  `@imagenet`, `@clip` and `@half` (0.5) name them, for a file whose training no tag names.

Sizes: with a learned position table a model is tied to its own size, and `image_size` interpolates the table;
rotary positions (DINOv3), DINOv2 and convolutional networks are free, in multiples of the patch or of the last stride.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.encoders import checkpoints, dinov3, hub, normalisation
from medprobe.encoders.base import IMAGENET_MEAN, IMAGENET_STD, LoadedEncoder, Request, choose_layers, under_seed
from medprobe.encoders.normalisation import Normalisation
from medprobe.errors import MissingError, RequestError
from medprobe.registry import ENCODERS, did_you_mean
from medprobe.types import Features

KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "MahmoodLab/uni": {
        "architecture": "vit_large_patch16_224",
        "license": "cc-by-nc-nd-4.0",
        "pretrained_cfg": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    },
}
"""Hub repositories whose configuration we know, so that a local checkpoint needs nothing else."""


DINOV2_OFFSET = 0.1


@dataclass(frozen=True)
class Named:
    """A timm model before it is built: where its configuration and its weights are."""

    architecture: str
    weights: Path | None
    source: str | None
    licence: str | None


@ENCODERS.register("timm")
def timm_model(request: Request) -> LoadedEncoder:
    """A model of timm by its name, with or without weight tag: `timm:vit_small_patch16_dinov3.lvd1689m`."""
    import timm

    name, _ = options(request.rest)
    if not timm.is_model(name):
        raise RequestError(f"no timm model named {name!r}; {did_you_mean(name.partition('.')[0], timm.list_models())}; timm.list_models() names all")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        raise RequestError(
            f"timm model {name.partition('.')[0]} has no weights tagged {name.partition('.')[2]!r}; {did_you_mean(name.partition('.')[2], tags)}"
        ) from None
    assert config is not None  # timm knows the model, and a wrong tag was caught above
    weights = request.weights
    if weights is None and not request.random:
        if not config.hf_hub_id:
            raise MissingError(
                f"timm publishes no weights for {name}; give --weights FILE, or choose a name with a weight tag"
            )
        files = (config.hf_hub_filename,) if config.hf_hub_filename else hub.WEIGHT_FILES[:2]
        weights = hub.fetch(config.hf_hub_id, files, request.spec)
    source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.origin_url
    return build(request, Named(name, weights, source, config.license))


@ENCODERS.register("hf-hub")
def hub_model(request: Request) -> LoadedEncoder:
    """A timm model of the hub: `hf-hub:org/name`, or `hf-hub:org/name@revision`."""
    name, _ = options(request.rest)
    repository = name.partition("@")[0]
    known = KNOWN_CONFIGS.get(repository)
    source = f"https://huggingface.co/{repository}"
    beside = request.weights.parent / "config.json" if request.weights else None
    if known and (request.weights or request.random):
        return build(request, Named(known["architecture"], request.weights, source, known["license"]))
    if beside and beside.is_file():
        return build(request, Named(f"local-dir:{beside.parent}", request.weights, source, _licence(beside.parent)))
    config = hub.fetch(name, ("config.json",), request.spec, cached_only=request.random)
    weights = request.weights or (None if request.random else hub.fetch(name, hub.WEIGHT_FILES, request.spec))
    return build(request, Named(f"local-dir:{config.parent}", weights, source, _licence(config.parent)))


@ENCODERS.register("local-dir")
def local_model(request: Request) -> LoadedEncoder:
    """A folder with timm's `config.json` and a weight file: `local-dir:path/to/folder`."""
    name, _ = options(request.rest)
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise MissingError(
            f"{request.spec}: expected config.json in {folder}, found none; give a folder in timm's layout (config.json and model.safetensors)"
        )
    if "architecture" not in json.loads((folder / "config.json").read_text()):
        raise RequestError(
            f"{request.spec}: expected timm's config.json, which names an architecture, found one "
            f"without; a folder of transformers is transformers:{folder}"
        )
    weights = request.weights or (None if request.random else hub.weights_in(folder, request.spec))
    return build(request, Named(f"local-dir:{folder}", weights, None, _licence(folder)))


def _licence(folder: Path) -> str | None:
    config = json.loads((folder / "config.json").read_text())
    return config.get("license") or config.get("pretrained_cfg", {}).get("license")


def options(rest: str) -> tuple[str, frozenset[str]]:
    """A name and its `@stage1`…`@stage9`, `@raw`, `@imagenet`, `@clip`, `@half` suffixes; any other `@` belongs to the name (a revision)."""
    found = set()
    while match := re.search(rf"@(stage[1-9]|{'|'.join(normalisation.BY_NAME)})$", rest):
        found.add(match[1])
        rest = rest[: match.start()]
    return rest, frozenset(found)


def build(request: Request, named: Named) -> LoadedEncoder:
    """The network with its weights inside, wrapped."""
    file = checkpoints.read(named.weights) if named.weights else None
    if file and "dinov3" in named.architecture:
        dinov3.check_data(options(request.rest)[0], file.path, file.tensors, file.sha256)
    part = checkpoints.part_of(file, spelling(named.architecture), request.spec) if file else checkpoints.Part({})
    net = under_seed(lambda: network(named.architecture, **variant(named.architecture, part.tensors)), request.seed)
    if file:
        checkpoints.fit(net, part.tensors, file.path, request.spec, part.prefix)
    config = net.pretrained_cfg
    _, chosen = options(request.rest)
    stage = next((int(option[5:]) for option in chosen if option.startswith("stage")), None)
    scaled = normalised(request, named.architecture)
    size = config["input_size"][-1]
    tied = bool(config.get("fixed_input_size")) and not free_size(net, config)
    published = not (request.weights or request.random)  # a file of the user's has terms of its own
    official = "dinov2" in str(config.get("architecture", "")) and getattr(net, "reg_token", None) is None
    if official:
        positions_as_dinov2(net)
    forward, dim, stride = stage_forward(net, stage, request) if stage else whole_forward(net, request)
    encoder = LoadedEncoder(
        request,
        forward,
        dim=dim,
        net=net,
        mean=scaled.mean,
        std=scaled.std,
        tied_size=size if tied else None,
        interpolates=bool(getattr(net, "dynamic_img_size", False)),
        multiple=stride,
        default_size=size,
        weights_sha256=file.sha256 if file else None,
        licence=named.licence if published else None,
        source=named.source if published else None,
    )
    if official:
        encoder.transform["positions"] = "dinov2"
    encoder.notes = tuple(filter(None, (part.note, scaled.note, file.doubt if file else None)))
    return encoder


def normalised(request: Request, architecture: str) -> Normalisation:
    """Mean and std of a request, and where they are from."""
    name, chosen = options(request.rest)
    folder = Path(architecture.removeprefix("local-dir:")) if architecture.startswith("local-dir:") else None
    if folder is not None:
        architecture = json.loads((folder / "config.json").read_text())["architecture"]
    found = normalisation.named(chosen, request.spec)
    if found is None and request.weights is not None:
        found = normalisation.beside(request.weights.parent, architecture)
    if found is None and folder is not None:
        config = normalisation.of_config(json.loads((folder / "config.json").read_text()))
        found = Normalisation(*config) if config else None
    known = KNOWN_CONFIGS.get(name.partition("@")[0])
    if found is None and known is not None:
        found = Normalisation(known["pretrained_cfg"]["mean"], known["pretrained_cfg"]["std"])
    return found or normalisation.of_timm(architecture, folder is not None or request.weights is not None)


def variant(architecture: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint needs and the name does not say, read off its keys: biases of q and v (DINOv3), layer scale (UNI)."""
    kwargs: dict[str, Any] = {}
    if tensors and "patch16_dinov3" in architecture:
        kwargs["qkv_bias"] = "blocks.0.attn.q_bias" in tensors
    if "blocks.0.ls1.gamma" in tensors:
        kwargs["init_values"] = 1e-5
    return kwargs


def spelling(architecture: str, **kwargs: Any) -> checkpoints.Spelled:
    """Tensors of a file under timm's names, beside those of the network they ask for, which is built without numbers."""
    import torch

    empty: dict[str, Any] = {}

    def spelled(tensors: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        if dinov3.is_official(tensors) or dinov3.is_transformers(tensors):
            tensors = dinov3.to_timm(tensors)
        chosen = {**kwargs, **variant(architecture, tensors)}
        net = empty.get(str(chosen))
        if net is None:
            with torch.device("meta"):
                net = empty[str(chosen)] = network(architecture, **chosen)
        return net.state_dict(), filtered(net, tensors)

    return spelled


def network(architecture: str, **kwargs: Any) -> Any:
    """An untrained timm model without classifier, interpolating its position table where it can."""
    import timm

    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True, **kwargs)
    except TypeError:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **kwargs)


def filtered(net: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors under timm's names, by the filter of the model's own module; a position table of another size is left
    as it is, so that it is named as a misfit instead of being resampled without a word."""
    import sys

    wanted = net.state_dict()
    if all(name in tensors for name in wanted if not name.endswith("num_batches_tracked")):
        return tensors
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    table = tensors.get("pos_embed")
    if (
        table is not None
        and getattr(net, "pos_embed", None) is not None
        and abs(table.shape[1] - net.pos_embed.shape[1]) > net.num_prefix_tokens
    ):
        return tensors
    try:
        return dict(convert(dict(tensors), net))
    except (
        KeyError,
        RuntimeError,
        AttributeError,
        ValueError,
        TypeError,
        IndexError,
    ):  # a filter meets a file of another model
        return tensors


def free_size(net: Any, config: Mapping[str, Any]) -> bool:
    """Whether a network of which timm names one size takes any: no position table, or DINOv2, made to interpolate it."""
    no_table = hasattr(net, "pos_embed") and net.pos_embed is None and bool(getattr(net, "dynamic_img_size", False))
    return no_table or "dinov2" in str(config.get("architecture", ""))


def positions_as_dinov2(net: Any) -> None:
    """Let a network interpolate its table of positions as DINOv2 without registers does; timm's way is that of DINOv2 with them."""
    from torch import nn

    place = net._pos_embed

    def placed(x: Any) -> Any:
        table, grid, asked = net.pos_embed, tuple(net.patch_embed.grid_size), tuple(x.shape[1:3])
        if grid == asked:
            return place(x)
        net.pos_embed = nn.Parameter(dinov2_table(table, grid, asked), requires_grad=False)
        net.patch_embed.grid_size = asked
        try:
            return place(x)
        finally:
            net.pos_embed, net.patch_embed.grid_size = table, grid

    net._pos_embed = placed


def dinov2_table(table: Any, grid: tuple[int, int], asked: tuple[int, int]) -> Any:
    """Positions (1, 1 + rows * columns, D) at another grid: bicubic without antialiasing, by (cells + 0.1) / cells of the table."""
    import torch

    patches = table[:, 1:].float().unflatten(1, grid).permute(0, 3, 1, 2)
    scale = [(cells + DINOV2_OFFSET) / before for cells, before in zip(asked, grid, strict=True)]
    moved = torch.nn.functional.interpolate(patches, scale_factor=scale, mode="bicubic", antialias=False)
    return torch.cat([table[:, :1], moved.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def stage_forward(net: Any, stage: int, request: Request) -> tuple[Any, int, int]:
    """(forward, dim, stride) of one stage of a convolutional network: its map, and the global average as `cls`."""
    strides = [info["reduction"] for info in net.feature_info]
    stride = 2 ** (stage + 1)
    if stride not in strides or len(set(strides)) == 1:
        raise RequestError(
            f"{request.spec}: no stage of stride {stride} among {sorted(set(strides))}; @stageK names the stage of stride 2^(K+1)"
        )
    if request.layers is not None:
        raise RequestError(f"{request.spec} names a stage already, found layers {request.layers}; give one of the two")
    index = len(strides) - 1 - strides[::-1].index(stride)

    def forward(x: Any) -> Features:
        (grid,) = net.forward_intermediates(
            x, indices=[index], norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        pooled = grid.mean(dim=(2, 3))
        return Features(pooled, pooled, (grid,))

    return forward, net.feature_info[index]["num_chs"], stride


def whole_forward(net: Any, request: Request) -> tuple[Any, int, int]:
    """(forward, dim, stride) of the whole network: image vector and the grids of the chosen layers in one pass."""
    from timm.layers import LayerNorm2d
    from torch import nn

    depth = len(net.feature_info)
    layers = choose_layers(request, depth)
    indices = sorted({*layers, depth - 1})
    token_norm = getattr(net, "fc_norm", None) or nn.Identity()
    has_class_token = getattr(net, "cls_token", None) is not None and getattr(net, "global_pool", None) != "map"
    head_norm = getattr(getattr(net, "head", None), "norm", None)
    map_norm = head_norm if isinstance(head_norm, LayerNorm2d) else nn.Identity()

    def normed(grid: Any) -> Any:
        return token_norm(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(x: Any) -> Features:
        last, grids = net.forward_intermediates(x, indices=indices, norm=True, output_fmt="NCHW")
        tokens = last.ndim == 3
        cls = token_norm(last[:, 0]) if tokens and has_class_token else net.forward_head(last, pre_logits=True)
        final = normed(grids[-1]) if tokens else map_norm(grids[-1])
        kept = [
            final if index == depth - 1 else normed(grid) if tokens else grid
            for index, grid in zip(indices, grids, strict=True)
            if index in layers
        ]
        return Features(cls, final.mean(dim=(2, 3)), tuple(kept))

    stride = max(info["reduction"] for info in net.feature_info)
    return forward, getattr(net, "head_hidden_size", net.num_features), stride
