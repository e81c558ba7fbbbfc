"""The named models of the paper, and the controls: a short name, the encoder spec it stands for, and its terms.

`resolve` turns what the user typed into a spec. Nothing here imports torch; nothing is downloaded until a model is loaded.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from medprobe.encoders import parts_of
from medprobe.encoders.normalisation import BY_NAME
from medprobe.errors import MissingError, RequestError
from medprobe.registry import ENCODERS, did_you_mean


@dataclass(frozen=True)
class Transform:
    """What planes in [0, 1] become before a model sees them, and the filter its authors resize with, where that is known."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None


IMAGENET = Transform(*BY_NAME["imagenet"])
IMAGENET_BICUBIC = replace(IMAGENET, interpolation="bicubic")
NOTHING = Transform()


@dataclass(frozen=True)
class NamedModel:
    """A name the user may type.

    `methods` are the names of this encoder in the published tables; `gated`: access must be asked for; `needs` says
    which file has to be given as weights, because none is published in a form that can be read as it is; a model
    with `spec` "" cannot be loaded at all, and `needs` says what to do instead. `digests` are the first eight hex digits
    of the sha256 of its official files, as far as their names state them.
    """

    name: str
    spec: str
    licence: str | None = None
    gated: bool = False
    source: str | None = None
    methods: tuple[str, ...] = ()
    note: str | None = None
    needs: str | None = None
    digests: tuple[str, ...] = ()
    transform: Transform = NOTHING


def _dinov3(
    name: str, timm_name: str, digest: str, methods: tuple[str, ...] = ()
) -> NamedModel:
    return NamedModel(
        name,
        f"timm:{timm_name}",
        "DINOv3 License",
        True,
        "https://github.com/facebookresearch/dinov3",
        methods,
        "official .pth files fit as they are: --weights FILE",
        digests=(digest,),
        transform=IMAGENET_BICUBIC,
    )


def _dinov2(name: str, size: str) -> NamedModel:
    return NamedModel(
        name,
        f"timm:vit_{size}_patch14_dinov2.lvd142m",
        "Apache-2.0",
        False,
        "https://github.com/facebookresearch/dinov2",
        note="sides in multiples of 14",
        transform=IMAGENET_BICUBIC,
    )


def _mae(name: str, size: str, method: str) -> NamedModel:
    return NamedModel(
        name,
        f"timm:vit_{size}_patch16_224.mae",
        "CC-BY-NC-4.0",
        False,
        "https://github.com/facebookresearch/mae",
        (method,),
        "tied to 224 px; --image-size interpolates",
        transform=IMAGENET_BICUBIC,
    )


MOCO, SWAV = "https://github.com/facebookresearch/moco-v3", "https://github.com/facebookresearch/swav"
RESNET50, CONCH = "https://huggingface.co/timm/resnet50.tv_in1k", "https://huggingface.co/MahmoodLab/CONCH"
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
SIMCLR, BYOL = (
    "https://github.com/google-research/simclr",
    "https://github.com/google-deepmind/deepmind-research/tree/master/byol",
)

NAMED: dict[str, NamedModel] = {
    model.name: model
    for model in (
        _dinov3("dinov3-s", "vit_small_patch16_dinov3.lvd1689m", "08c60483", ("DINOv3-S", "DINOv3-S/16")),
        _dinov3("dinov3-splus", "vit_small_plus_patch16_dinov3.lvd1689m", "4057cbaa"),
        _dinov3("dinov3-b", "vit_base_patch16_dinov3.lvd1689m", "73cec8be", ("DINOv3-B", "DINOv3-B/16")),
        _dinov3("dinov3-l", "vit_large_patch16_dinov3.lvd1689m", "8aa4cbdd", ("DINOv3-L", "DINOv3-L/16")),
        _dinov3("dinov3-hplus", "vit_huge_plus_patch16_dinov3.lvd1689m", "7c1da9a5"),
        _dinov3("dinov3-7b", "vit_7b_patch16_dinov3.lvd1689m", "a955f4ea"),
        _dinov3("dinov3-convnext-tiny", "convnext_tiny.dinov3_lvd1689m", "21b726bb"),
        _dinov3("dinov3-convnext-small", "convnext_small.dinov3_lvd1689m", "296db49d"),
        _dinov3("dinov3-convnext-base", "convnext_base.dinov3_lvd1689m", "801f2ba9"),
        _dinov3("dinov3-convnext-large", "convnext_large.dinov3_lvd1689m", "61fa432d"),
        _dinov2("dinov2-s", "small"),
        _dinov2("dinov2-b", "base"),
        _dinov2("dinov2-l", "large"),
        _dinov2("dinov2-g", "giant"),
        NamedModel("resnet50", "timm:resnet50.tv_in1k", "BSD-3-Clause", False, RESNET50, ("ResNet50 (ImageNet)",), "2048-d, last stage",
                   transform=replace(IMAGENET, interpolation="bilinear")),
        NamedModel("resnet50-stage3", "timm:resnet50.tv_in1k@stage3", "BSD-3-Clause", False, RESNET50, ("ResNet50 (ImageNet)",),
                   "1024-d third stage, the ResNet50 of the whole-slide literature", transform=replace(IMAGENET, interpolation="bilinear")),
        NamedModel("biomedclip", f"open_clip:hf-hub:{BIOMEDCLIP}", "MIT", False, f"https://huggingface.co/{BIOMEDCLIP}", ("BiomedCLIP",),
                   "768-d, before the projection; tied to 224 px, --image-size interpolates", transform=Transform(*BY_NAME["clip"], "bicubic")),
        NamedModel("uni", "hf-hub:MahmoodLab/uni", "CC-BY-NC-ND-4.0", True, "https://huggingface.co/MahmoodLab/uni", ("UNI",), "tied to 224 px; --image-size interpolates", transform=IMAGENET),
        NamedModel("conch", "", "CC-BY-NC-ND-4.0", True, CONCH, ("CONCH",), "needs its own package",
                   f"conch needs its authors' own package: install it, ask for the weights at {CONCH}, and wrap "
                   "encode_image(x, proj_contrast=False, normalize=False) in file.py:make_encoder"),
        _mae("mae-b", "base", "MAE-ViT-B/16"),
        _mae("mae-l", "large", "MAE-ViT-L/16"),
        NamedModel("moco-v3", "timm:resnet50@imagenet", "CC-BY-NC-4.0", False, MOCO, ("MoCo-v3",), "ResNet50, 1000 epochs; the paper names no backbone",
                   f"moco-v3 takes the official r-50-1000ep.pth.tar of {MOCO}: give it with --weights FILE", transform=IMAGENET),
        NamedModel("moco-v3-b", "timm:vit_base_patch16_224@imagenet", "CC-BY-NC-4.0", False, MOCO, (), "ViT-B/16, 300 epochs",
                   f"moco-v3-b takes the official vit-b-300ep.pth.tar of {MOCO}: give it with --weights FILE", transform=IMAGENET),
        NamedModel("swav", "timm:resnet50@imagenet", "CC-BY-NC-4.0", False, SWAV, ("SwAV",), "ResNet50, 800 epochs",
                   f"swav takes the official swav_800ep_pretrain.pth.tar of {SWAV}: give it with --weights FILE", transform=IMAGENET),
        NamedModel("simclr", "timm:resnet50@raw", "Apache-2.0", False, SIMCLR, ("SimCLR",), "ResNet50 1x; inputs in [0, 1] without mean and std",
                   "simclr is published as TensorFlow checkpoints: convert the ResNet50 1x to torchvision's key names (conv1, bn1, layer1.0.conv1, …; "
                   "lightly-ai/simclrv1-imagenet1k-resnet50-1x on the model hub is such a conversion) and give it with --weights FILE"),
        NamedModel("byol", "timm:resnet50@imagenet", "Apache-2.0", False, BYOL, ("BYOL",), "ResNet50 1x",
                   f"byol is published as JAX checkpoints only ({BYOL}): convert the ResNet50 1x online network to torchvision's key names "
                   "(conv1, bn1, layer1.0.conv1, …) and give it with --weights FILE", transform=IMAGENET),
        NamedModel("pixels", "pixels", note="control: the plane itself, at 32x32 as a vector"),
        NamedModel("mean-rgb", "mean-rgb", note="control: the mean colour"),
        NamedModel("anatomix", "anatomix", "MIT", False, "https://github.com/neel-dey/anatomix", (), "3D U-Net, 16 features of every voxel; official anatomix.pth: --weights FILE"),
        NamedModel("mind", "mind", "Apache-2.0", False, "https://doi.org/10.1007/978-3-642-40811-3_24", (), "self-similarity descriptors of every voxel; no weights"),
    )
}  # fmt: skip


def resolve(text: str, weights: Path | None = None) -> NamedModel:
    """The model behind what the user typed: a name, a spec, `random:` before either, or several joined by `+`.

    A spec comes back as a `NamedModel` whose name is the spec. RequestError: no such name. MissingError: the model needs
    a file that was not given as `weights` (a random one needs none).
    """
    parts = [_resolve_one(part, weights) for part in parts_of(text)]
    if len(parts) == 1:
        return parts[0]
    return NamedModel(
        text,
        "+".join(part.spec for part in parts),
        " + ".join(dict.fromkeys(part.licence for part in parts if part.licence)) or None,
        any(part.gated for part in parts),
    )


def _resolve_one(text: str, weights: Path | None) -> NamedModel:
    name = text.removeprefix("random:")
    random = name != text
    if name not in NAMED:
        if name.endswith(".py"):
            raise RequestError(f"expected FILE:FUNCTION, found {name!r}; write {name}:make_encoder, with the name of your function")
        if ":" not in name and name not in ENCODERS:
            raise RequestError(
                f"no model named {name!r}; {did_you_mean(name, list(NAMED))} (medprobe list models; a spec is FAMILY:NAME)"
            )
        return NamedModel(text, text)
    model = NAMED[name]
    if model.needs and (not model.spec or not (random or weights)):
        raise MissingError(model.needs)
    return (
        NamedModel(text, f"random:{model.spec}", note=f"untrained weights of {name}, drawn from the seed")
        if random
        else model
    )
