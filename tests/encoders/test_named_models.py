"""The named models of `medprobe.tasks.models`."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medprobe.errors import MissingError, RequestError
from medprobe.tasks.models import NAMED, resolve

PROMISED = [
    "dinov3-s",
    "dinov3-splus",
    "dinov3-b",
    "dinov3-l",
    "dinov3-hplus",
    "dinov3-7b",
    "dinov3-convnext-tiny",
    "dinov3-convnext-small",
    "dinov3-convnext-base",
    "dinov3-convnext-large",
    "dinov2-s",
    "dinov2-b",
    "dinov2-l",
    "resnet50",
    "biomedclip",
    "uni",
    "conch",
    "mae-b",
    "mae-l",
    "moco-v3",
    "swav",
    "simclr",
    "byol",
    "pixels",
    "mean-rgb",
]


def test_every_promised_name_is_there_with_its_terms() -> None:
    assert set(PROMISED) <= set(NAMED)
    for name, model in NAMED.items():
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        if model.spec not in ("pixels", "mean-rgb"):
            assert model.licence
            assert model.source.startswith("https://")
    assert {name for name, model in NAMED.items() if model.gated} == {
        name for name in NAMED if name.startswith(("dinov3", "uni", "conch"))
    }


def test_every_timm_name_exists_in_timm() -> None:
    import timm

    for model in NAMED.values():
        if model.spec.startswith("timm:"):
            name = model.spec.removeprefix("timm:").partition("@")[0]
            assert timm.get_pretrained_cfg(name) is not None, name


def test_methods_are_those_of_the_published_table(samples: Path) -> None:
    table = samples.parent / "published_results.csv"
    if not table.is_file():
        pytest.skip(f"no published table at {table}")
    with table.open() as file:
        published = {row["method"] for row in csv.DictReader(file)}
    assert {method for model in NAMED.values() for method in model.methods} <= published
    encoders = {
        "DINOv3-S",
        "DINOv3-B/16",
        "BiomedCLIP",
        "UNI",
        "CONCH",
        "ResNet50 (ImageNet)",
        "MAE-ViT-L/16",
        "SimCLR",
        "BYOL",
        "SwAV",
        "MoCo-v3",
    }
    assert encoders <= {method for model in NAMED.values() for method in model.methods}


def test_names_specs_random_and_sums_resolve() -> None:
    assert resolve("dinov3-s").spec == "timm:vit_small_patch16_dinov3.lvd1689m"
    assert resolve("timm:resnet18").spec == "timm:resnet18"
    assert resolve("random:dinov3-s").spec == "random:timm:vit_small_patch16_dinov3.lvd1689m"
    assert resolve("random:dinov3-s").licence is None
    both = resolve("dinov3-b+pixels")
    assert (both.name, both.spec) == ("dinov3-b+pixels", "timm:vit_base_patch16_dinov3.lvd1689m+pixels")
    assert both.gated


def test_a_misspelt_name_is_answered() -> None:
    with pytest.raises(RequestError, match="no model named 'dinov3-z'; did you mean dinov3-"):
        resolve("dinov3-z")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("byol", "JAX checkpoints only.*torchvision's key names"),
        ("simclr", "TensorFlow.*lightly-ai"),
        ("swav", "swav_800ep_pretrain"),
        ("moco-v3", "r-50-1000ep"),
    ],
)
def test_models_without_a_readable_publication_say_which_file_they_need(name: str, words: str) -> None:
    with pytest.raises(MissingError, match=words):
        resolve(name)
    assert resolve(name, weights=Path("w.pth")).spec.startswith("timm:resnet50")
    assert resolve(f"random:{name}").spec.startswith("random:timm:resnet50")


def test_conch_names_its_own_package_even_with_weights() -> None:
    for weights in (None, Path("w.pth")):
        with pytest.raises(MissingError, match=r"own package.*file\.py:make_encoder"):
            resolve("conch", weights)


def test_resolving_a_name_imports_no_torch() -> None:
    code = "import sys; from medprobe.tasks.models import resolve; resolve('dinov3-s'); resolve('pixels'); assert not {'torch', 'timm', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_simclr_sees_planes_without_mean_and_std(tmp_path: Path) -> None:
    import torch

    from medprobe.encoders import load

    torch.save(load("random:timm:resnet50").net.state_dict(), tmp_path / "w.pth")
    encoder = load(resolve("simclr", tmp_path / "w.pth").spec, weights=tmp_path / "w.pth")
    assert encoder.transform["mean"] is None


def test_official_files_are_known_by_what_their_names_state_of_their_digest() -> None:
    stated = [digest for model in NAMED.values() for digest in model.digests]
    assert len(stated) == len(set(stated)) == 10
    assert all(len(digest) == 8 and int(digest, 16) for digest in stated)
    assert NAMED["dinov3-s"].digests == ("08c60483",)
    satellite = {"eadcf0ff", "a6675841"}
    assert not satellite & set(stated)
