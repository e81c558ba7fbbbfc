"""`open_clip:hf-hub:org/name`, `open_clip:local-dir:FOLDER` or `open_clip:ARCHITECTURE/TAG`: the image tower of a CLIP model.

The vector is the tower's before its projection into the space shared with text (BiomedCLIP: the 768-d class token),
because a probe asks what the encoder knows, not what survived the projection. The text tower is never built.
Position tables are learned: an encoder is tied to its size, unless its tower (timm's) interpolates them.
"""

import json
from pathlib import Path
from typing import Any

from medprobe.encoders import checkpoints, hub, normalisation
from medprobe.encoders.base import LoadedEncoder, Request, only_last_layer, under_seed
from medprobe.encoders.normalisation import CLIP_MEAN, CLIP_STD, Normalisation
from medprobe.encoders.timm_models import network, whole_forward
from medprobe.errors import ExtraError, MissingError, RequestError
from medprobe.registry import ENCODERS, did_you_mean
from medprobe.types import Features

CONFIG = "open_clip_config.json"
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD},
    },
}
"""Configurations we know, so that a local checkpoint (or `random:`) needs nothing else."""


@ENCODERS.register("open_clip")
def open_clip_model(request: Request) -> LoadedEncoder:
    """The image tower of a CLIP model: `open_clip:hf-hub:microsoft/BiomedCLIP-…`, `open_clip:ViT-B-32/openai`."""
    model, preprocess, source = configuration(request)
    path = request.weights or (None if request.random else weights(request))
    vision = model["vision_cfg"]
    timm_trunk = bool(vision.get("timm_model_name"))
    pool = {"global_pool": vision["timm_pool"]} if vision.get("timm_pool") else {}
    net = under_seed(
        lambda: network(vision["timm_model_name"], **pool) if timm_trunk else tower(model, request), request.seed
    )
    file = checkpoints.read(path) if path else None
    part = checkpoints.Part({})
    if file:
        part = checkpoints.part_of(file, lambda tensors: (net.state_dict(), tensors), request.spec)
        checkpoints.fit(net, part.tensors, file.path, request.spec, part.prefix)
    if timm_trunk:
        forward, dim, stride = whole_forward(net, request)
    else:
        only_last_layer(request)
        forward, dim, stride = clip_forward(net), vision["width"], vision["patch_size"]
    size = vision.get("image_size", 224)
    scaled = normalised(request, preprocess)
    encoder = LoadedEncoder(
        request,
        forward,
        dim=dim,
        net=net,
        mean=scaled.mean,
        std=scaled.std,
        tied_size=size,
        interpolates=bool(getattr(net, "dynamic_img_size", False)),
        multiple=stride,
        default_size=size,
        weights_sha256=file.sha256 if file else None,
        source=None if request.weights or request.random else source,
    )
    encoder.notes = tuple(filter(None, (part.note, scaled.note, file.doubt if file else None)))
    return encoder


def normalised(request: Request, preprocess: dict[str, Any]) -> Normalisation:
    """Mean and std: of a configuration beside the weights, of the model's, of what all published weights of it agree on, else
    CLIP's, which open_clip takes where nothing is said."""
    beside = normalisation.beside(request.weights.parent) if request.weights else None
    if beside is not None or "mean" in preprocess:
        return beside or Normalisation(preprocess["mean"], preprocess["std"])
    architecture, _, tag = request.rest.partition("/")
    if request.weights is None or tag or request.rest.startswith(("hf-hub:", "local-dir:")):
        return Normalisation(CLIP_MEAN, CLIP_STD)
    open_clip = library(request)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = {
        (tuple(config.get("mean") or CLIP_MEAN), tuple(config.get("std") or CLIP_STD))
        for config in (open_clip.get_pretrained_cfg(architecture, each) for each in tags)
    }
    if len(known) == 1:
        return Normalisation(*known.pop())
    said = f"nothing says which mean and std {request.rest} was trained under, so CLIP's are taken; write {architecture}/TAG"
    return Normalisation(CLIP_MEAN, CLIP_STD, said)


def configuration(request: Request) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """(model configuration, mean and std, page)."""
    kind, _, name = request.rest.partition(":")
    if kind == "hf-hub":
        page = f"https://huggingface.co/{name}"
        beside = request.weights.parent / CONFIG if request.weights else None
        if beside and beside.is_file():
            return *_parsed(beside), page
        if name in KNOWN_CONFIGS and (request.weights or request.random):
            return KNOWN_CONFIGS[name], KNOWN_CONFIGS[name]["preprocess_cfg"], page
        return *_parsed(hub.fetch(name, (CONFIG,), request.spec, cached_only=request.random)), page
    if kind == "local-dir":
        path = Path(name) / CONFIG
        if not path.is_file():
            raise MissingError(
                f"{request.spec}: expected {CONFIG} in {name}, found none; give a folder in open_clip's layout"
            )
        return *_parsed(path), None
    open_clip = library(request)
    architecture, _, tag = request.rest.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise RequestError(f"no open_clip model named {architecture!r}; {did_you_mean(architecture, known)}")
    preprocess = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if tag and not preprocess:
        raise RequestError(
            f"open_clip model {architecture} has no weights tagged {tag!r}; {did_you_mean(tag, open_clip.list_pretrained_tags_by_model(architecture))}"
        )
    if preprocess.get("quick_gelu"):
        architecture = architecture if architecture.endswith("-quickgelu") else f"{architecture}-quickgelu"
    return (
        open_clip.get_model_config(architecture),
        {key: preprocess[key] for key in ("mean", "std") if key in preprocess},
        None,
    )


def _parsed(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config = json.loads(path.read_text())
    return config.get("model_cfg", config), config.get("preprocess_cfg", {})


def weights(request: Request) -> Path:
    """The published weight file."""
    kind, _, name = request.rest.partition(":")
    if kind == "hf-hub":
        return hub.fetch(name, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), request.spec)
    if kind == "local-dir":
        return hub.weights_in(Path(name), request.spec)
    open_clip = library(request)
    architecture, _, tag = request.rest.partition("/")
    if not tag:
        raise RequestError(
            f"{request.spec} names no weights; {did_you_mean('', open_clip.list_pretrained_tags_by_model(architecture))} (open_clip:{architecture}/TAG), or give --weights FILE"
        )
    repository = open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", "").strip("/")
    if not repository:
        raise MissingError(
            f"open_clip publishes {architecture}/{tag} outside the hub; fetch the file yourself and give --weights FILE"
        )
    return hub.fetch(repository, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), request.spec)


def library(request: Request) -> Any:
    """open_clip, needed for its own towers and its list of names; models with a trunk of timm do without."""
    try:
        import open_clip
    except ImportError:
        raise ExtraError("open_clip_torch", "hub", request.spec) from None
    return open_clip


def tower(model: dict[str, Any], request: Request) -> Any:
    """open_clip's own vision transformer."""
    library(request)
    from open_clip.model import _build_vision_tower
    from open_clip.transformer import VisionTransformer

    net = _build_vision_tower(model["embed_dim"], model["vision_cfg"], quick_gelu=model.get("quick_gelu", False))
    if not isinstance(net, VisionTransformer) or net.attn_pool is not None:
        raise RequestError(
            f"{request.spec} has an image tower without a class token before the projection; wrap it in file.py:make_encoder"
        )
    return net


def clip_forward(net: Any) -> Any:
    """Class token and patches after the last norm, before the projection."""

    def forward(x: Any) -> Features:
        made = net.forward_intermediates(
            x, indices=1, normalize_intermediates=True, intermediates_only=True, output_extra_tokens=True
        )
        (grid,), (prefix,) = made["image_intermediates"], made["image_intermediates_prefix"]
        return Features(prefix[:, 0], grid.mean(dim=(2, 3)), (grid,))

    return forward
