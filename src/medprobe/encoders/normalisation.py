"""Which mean and std planes are given before an encoder sees them, and where that is known from.

An architecture says nothing of it: ViT-B/16 was trained under three pairs of numbers. So they come, in this order, from
what the user names, a configuration beside the weights, the tag of published weights; an architecture of which all
published weights agree; and else from ImageNet, with a warning.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.encoders.base import IMAGENET_MEAN, IMAGENET_STD
from medprobe.errors import MissingError, RequestError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAT493M_MEAN, SAT493M_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
BY_NAME: dict[str, tuple[tuple[float, ...] | None, tuple[float, ...] | None]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "clip": (CLIP_MEAN, CLIP_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "sat493m": (SAT493M_MEAN, SAT493M_STD),
    "raw": (None, None),
}
"""What a user can name after `@`."""
CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json")
"""Files of timm, open_clip and transformers that lie beside weights."""


@dataclass(frozen=True)
class Normalisation:
    """`note`: where the numbers are from, if the user should hear it."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    note: str | None = None


def named(options: frozenset[str], spec: str) -> Normalisation | None:
    """What the user names."""
    chosen = sorted(options & BY_NAME.keys())
    if len(chosen) > 1:
        raise RequestError(f"{spec} names several normalisations, {' and '.join('@' + name for name in chosen)}; keep one")
    return Normalisation(*BY_NAME[chosen[0]]) if chosen else None


def beside(folder: Path, architecture: str | None = None) -> Normalisation | None:
    """What the first configuration of a folder says that is of this architecture, as far as it names one."""
    for name in CONFIGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            config = json.loads(path.read_text())
        except ValueError as error:
            raise MissingError(f"{path}: expected JSON, found {error}; mend or remove it, since mean and std are read from it") from None
        if not isinstance(config, dict):
            continue
        theirs = config.get("architecture")
        if architecture is not None and isinstance(theirs, str) and base(theirs) != base(architecture):
            continue
        found = of_config(config)
        if found is not None:
            return Normalisation(*found, f"mean {text(found[0])} and std {text(found[1])} are those of {path}")
    return None


def of_config(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std as timm, open_clip or transformers write them."""
    places = (config.get("pretrained_cfg"), config.get("preprocess_cfg"), config)
    for place in places:
        if not isinstance(place, Mapping):
            continue
        if place.get("do_normalize") is False:
            return (0.0,) * 3, (1.0,) * 3
        for mean, std in (("mean", "std"), ("image_mean", "image_std")):
            if isinstance(place.get(mean), list | tuple) and isinstance(place.get(std), list | tuple):
                white = white_of(place)
                return tuple(float(value) / white for value in place[mean]), tuple(float(value) / white for value in place[std])
    return None


def white_of(config: Mapping[str, Any]) -> float:
    """What white is where transformers takes mean off: it multiplies 8-bit values by `rescale_factor` first, or not at all."""
    if config.get("do_rescale", True):
        white = 255 * float(config.get("rescale_factor", 1 / 255))
        return 1.0 if abs(white - 1) < 1e-3 else white
    return 255.0 if max(map(float, config["image_mean"])) > 1 else 1.0


def of_timm(name: str, from_file: bool) -> Normalisation:
    """What timm knows of a name: its tag's, or without one that of the weights it publishes by default; of the user's own
    file what all published weights of the architecture agree on, else ImageNet's."""
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    if not from_file or "." in name:
        return Normalisation(tuple(config.mean), tuple(config.std))
    published: list[Any] = [timm.get_pretrained_cfg(each) for each in timm.list_pretrained(f"{name}.*")]
    known = {(tuple(each.mean), tuple(each.std)) for each in published if each.architecture == config.architecture}
    if len(known) == 1 and len(published) > 1:
        return Normalisation(*known.pop())
    note = None
    if known - {(IMAGENET_MEAN, IMAGENET_STD)}:
        note = (
            f"nothing says which mean and std {name} was trained under, so ImageNet's are taken; "
            f"write {name}.TAG, or {name}@half (0.5), @clip or @raw (none) where that is wrong, or put config.json beside the file"
        )
    return Normalisation(IMAGENET_MEAN, IMAGENET_STD, note)


def base(architecture: str) -> str:
    return re.split(r"[.@]", architecture)[0]


def text(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in numbers)
