"""`transformers:org/name` or `transformers:FOLDER`: vision models of transformers (DINOv3ViTModel, Dinov2Model, ViTModel, …).

`cls` is the first token of the last hidden state (DINOv3: after the final norm; transformers' `pooler_output` there),
the grid the patch tokens behind it, `patch_mean` their mean. Mean and std come from `preprocessor_config.json`; DINOv3
and DINOv2 without that file take ImageNet's. A local checkpoint may have official DINOv3 keys or transformers' own.
"""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medprobe.encoders import checkpoints, dinov3, hub
from medprobe.encoders.base import IMAGENET_MEAN, IMAGENET_STD, LoadedEncoder, Request, choose_layers, under_seed
from medprobe.encoders.normalisation import SAT493M_MEAN, SAT493M_STD, of_config
from medprobe.encoders.sound import Watch
from medprobe.errors import ExtraError, MissingError, RequestError
from medprobe.registry import ENCODERS
from medprobe.types import Features

IMAGENET_MODELS = ("dinov3_vit", "dinov3_convnext", "dinov2", "dinov2_with_registers")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@ENCODERS.register("transformers")
def transformers_model(request: Request) -> LoadedEncoder:
    """A vision model of transformers: `transformers:facebook/dinov3-vits16-pretrain-lvd1689m`, or a local folder."""
    try:
        import transformers
    except ImportError:
        raise ExtraError("transformers", "hub", request.spec) from None
    file = checkpoints.read(request.weights) if request.weights else None
    if file and "dinov3" in request.rest:
        dinov3.check_data(request.rest, file.path, file.tensors, file.sha256)
    config = configuration(request, plain(file) if file else {})
    mean, std = normalisation(request, config.model_type)
    if file is None and not request.random:
        folder = Path(request.rest)
        path = (
            hub.weights_in(folder, request.spec)
            if folder.is_dir()
            else hub.fetch(request.rest, WEIGHT_FILES, request.spec)
        )
        file = checkpoints.read(path)
    transformers.logging.set_verbosity_error()
    net = under_seed(lambda: transformers.AutoModel.from_config(config), request.seed)
    part = checkpoints.part_of(file, spelling(net), request.spec) if file else checkpoints.Part({})
    if file and not any(checkpoints.misfits(*spelling(net)(part.tensors))):
        checkpoints.refuse_encoded(net.state_dict(), part.tensors, file.path)
        net.load_state_dict(dict(part.tensors), strict=False)
    elif file:
        tensors = plain(file)
        tensors = dinov3.to_transformers(tensors) if dinov3.is_official(tensors) else tensors
        net = filled(net, config, tensors, file.path, request.spec)
    stride = int(getattr(config, "patch_size", 32) if config.model_type != "dinov3_convnext" else 32)
    table = config.model_type not in IMAGENET_MODELS
    asks = "interpolate_pos_encoding" in inspect.signature(net.forward).parameters
    norm: Any = getattr(net, "norm", None) or getattr(net, "layernorm", None)
    several = request.levels > 1 and norm is not None and hasattr(config, "num_hidden_layers")
    layers = choose_layers(request, config.num_hidden_layers) if request.layers is not None or several else None
    if layers is not None and norm is None:
        raise RequestError(f"{request.spec} has no final norm to apply to inner layers; leave the layers out")

    def forward(x: Any) -> Features:
        rows, columns = x.shape[2] // stride, x.shape[3] // stride
        made = net(
            x, output_hidden_states=layers is not None, **({"interpolate_pos_encoding": True} if asks and table else {})
        )

        def grid(tokens: Any) -> Any:
            return tokens[:, tokens.shape[1] - rows * columns :].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

        last = made.last_hidden_state
        if last.ndim == 4:
            return Features(made.pooler_output.flatten(1), last.mean(dim=(2, 3)), (last,))
        grids = tuple(grid(norm(made.hidden_states[layer + 1])) for layer in layers) if layers else (grid(last),)
        cls = last[:, 0] if last.shape[1] > rows * columns else made.pooler_output
        return Features(cls, last[:, last.shape[1] - rows * columns :].mean(dim=1), grids)

    size = int(getattr(config, "image_size", 224) or 224)
    encoder = LoadedEncoder(
        request,
        forward,
        dim=int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1]),
        net=net,
        mean=mean,
        std=std,
        tied_size=size if table else None,
        interpolates=asks or not table,
        multiple=stride,
        default_size=size,
        weights_sha256=file.sha256 if file else None,
        source=None
        if Path(request.rest).is_dir() or request.weights or request.random
        else f"https://huggingface.co/{request.rest}",
    )
    encoder.notes = tuple(filter(None, (part.note, file.doubt if file else None)))
    if table:
        refuse_unlike(encoder, type(net).__name__)
    return encoder


def refuse_unlike(encoder: LoadedEncoder, network: str) -> None:
    """RequestError for a network that does not answer planes with a token for each patch, in their
    places: models of text, of windows, of several parts, and those that mask or shuffle patches."""
    import torch

    size = encoder.default_size
    planes = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        fault = Watch(encoder).first(planes)
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        fault = f"its answer to planes cannot be used ({said})"
    if fault:
        raise RequestError(
            f"{encoder.spec}: expected a vision model with a token for each patch, such as DINOv3, "
            f"DINOv2 or ViT, found {network}: {fault.removeprefix(f'{encoder.spec}: ')}; take its "
            "timm: or open_clip: version, or a Python file that returns the features"
        )


def spelling(net: Any) -> checkpoints.Spelled:
    """Tensors of a file as this version of transformers names them, beside those that a network needs."""
    names = net.state_dict()
    needed = {name: tensor for name, tensor in names.items() if not unneeded(name)}

    def spelled(tensors: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        if dinov3.is_official(tensors):
            tensors = dinov3.to_transformers(tensors)
        moved = {name if name in names else f"model.{name}": name for name in tensors}
        found = {new if new in names else old: tensors[old] for new, old in moved.items()}
        return needed, {name: tensor for name, tensor in found.items() if not unneeded(name)}

    return spelled


def unneeded(name: str) -> bool:
    """Whether features do without a tensor."""
    return name.endswith(("mask_token", "periods")) or name.startswith("pooler.")


def plain(file: checkpoints.WeightFile) -> Mapping[str, Any]:
    """The tensors without what a training program put around them: where official names are found, else below the prefix
    that all share; the library takes its own prefixes away."""
    found = checkpoints.prefixes_of(file.tensors, len(file.tensors) // 4)
    for prefix in sorted(found, key=checkpoints.rank):
        tensors = checkpoints.under(file, prefix)
        if dinov3.is_official(tensors) or dinov3.is_transformers(tensors):
            return tensors
    return checkpoints.under(file, checkpoints.shared_prefix(file))


def configuration(request: Request, tensors: Mapping[str, Any]) -> Any:
    """The model's configuration: from the folder, from our table of DINOv3's sizes, or from the hub."""
    from transformers import AutoConfig, DINOv3ViTConfig

    folder = Path(request.rest)
    if (folder / "config.json").is_file():
        return AutoConfig.from_pretrained(folder)
    if folder.is_dir():
        raise MissingError(
            f"{request.spec}: expected config.json in {folder}, found none; give a folder written by save_pretrained"
        )
    size = re.search(r"dinov3-(vit[a-z0-9]+)-", request.rest)
    if size and size[1] in dinov3.CONFIGS:
        config = DINOv3ViTConfig(**dinov3.CONFIGS[size[1]], num_register_tokens=4, image_size=224)
        if dinov3.is_official(tensors):
            config.query_bias = config.value_bias = "blocks.0.attn.qkv.bias" in tensors
        return config
    path = hub.fetch(request.rest, ("config.json",), request.spec, cached_only=request.random)
    return AutoConfig.from_pretrained(path.parent)


def normalisation(request: Request, model_type: str) -> tuple[list[float], list[float]]:
    """Mean and std that travel with the weights."""
    path = Path(request.rest) / "preprocessor_config.json"
    if request.weights is not None and (request.weights.parent / path.name).is_file():
        path = request.weights.parent / path.name
    if not path.is_file() and model_type in IMAGENET_MODELS:
        if "sat493m" in request.rest:
            return list(SAT493M_MEAN), list(SAT493M_STD)
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    if not path.is_file():
        if Path(request.rest).is_dir():
            raise MissingError(
                f"{request.spec}: expected preprocessor_config.json beside config.json, found none; without it mean and std are unknown"
            )
        path = hub.fetch(request.rest, ("preprocessor_config.json",), request.spec, cached_only=request.random)
    found = of_config(json.loads(path.read_text()))
    if found is None:
        raise MissingError(f"{request.spec}: expected image_mean and image_std in {path}, found neither; write them there")
    return list(found[0]), list(found[1])


def filled(net: Any, config: Any, tensors: Mapping[str, Any], path: Path, spec: str) -> Any:
    """The network with these tensors; transformers renames keys of older files, the misfits are ours to name."""
    names = net.state_dict()
    checkpoints.refuse_encoded(names, tensors, path)
    if any(name in tensors for name in names if name.startswith(("embeddings.", "encoder.", "model.layer."))) and all(
        name in tensors for name in names
    ):
        checkpoints.fit(net, tensors, path, spec)
        return net
    try:
        loaded, report = type(net).from_pretrained(
            None, config=config, state_dict=dict(tensors), output_loading_info=True
        )
    except RuntimeError as error:
        raise MissingError(
            f"{path} does not fit {spec}: {str(error).splitlines()[0][:200]}; give the checkpoint of this model"
        ) from None
    missing = sorted(name for name in report["missing_keys"] if not unneeded(name))
    misshapen = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    unknown = sorted(
        name
        for name in report["unexpected_keys"]
        if not checkpoints.training_only(name) and not name.endswith("periods")
    )
    if missing or misshapen or unknown:
        parts = [f"{len(found)} {what} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
                 for found, what in ((missing, f"of the model's {len(names)} tensors are missing"), (misshapen, "have another shape"), (unknown, "are unknown to the model")) if found]  # fmt: skip
        raise MissingError(
            f"{path} does not fit {spec}: {'; '.join(parts)}; give the checkpoint of this model, or the model of this checkpoint"
        )
    return loaded
