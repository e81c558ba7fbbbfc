"""Which mean and std a model is given: of what it was trained under, never of what its architecture usually has."""

import json
from pathlib import Path

import pytest
import torch

from medprobe.encoders import load
from medprobe.encoders.base import Request
from medprobe.encoders.normalisation import of_config
from medprobe.encoders.open_clip_models import KNOWN_CONFIGS
from medprobe.encoders.timm_models import KNOWN_CONFIGS as KNOWN_TIMM
from medprobe.encoders.timm_models import normalised
from medprobe.errors import RequestError
from medprobe.tasks.models import IMAGENET, NAMED, NOTHING, Transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IN_THE_SHEET = {
    "uni": (MEAN, STD), "biomedclip": CLIP, "moco-v3": (MEAN, STD), "moco-v3-b": (MEAN, STD), "swav": (MEAN, STD),
    "simclr": (None, None), "byol": (MEAN, STD), "anatomix": (None, None), "mind": (None, None), "pixels": (None, None),
    "mean-rgb": (None, None), "conch": (None, None),
}  # fmt: skip
"""Of models without a tag of timm: the sheet of methods, which has them from the authors."""


def made(name: str, weights: Path | None = Path("somewhere/w.pth")):
    """What a named model of timm is given when its weights come from a file."""
    spec = NAMED[name].spec
    family, _, rest = spec.partition(":")
    architecture = KNOWN_TIMM[rest]["architecture"] if family == "hf-hub" else rest.partition("@")[0]
    return normalised(Request(spec, rest, weights), architecture)


@pytest.mark.parametrize("name", [name for name, model in NAMED.items() if model.spec.startswith(("timm:", "hf-hub:"))])
def test_every_named_model_of_timm_is_given_what_it_states_and_what_its_source_says(name: str) -> None:
    import timm

    stated = NAMED[name].transform
    found = made(name)
    assert (found.mean, found.std, found.note) == (stated.mean, stated.std, None)
    tag = NAMED[name].spec.removeprefix("timm:").partition("@")[0]
    if "." in tag:
        source = timm.get_pretrained_cfg(tag)
        assert (source.mean, source.std, source.interpolation) == (stated.mean, stated.std, stated.interpolation)
    else:
        assert (stated.mean, stated.std) == IN_THE_SHEET[name]


def test_no_named_model_is_left_out() -> None:
    for name, model in NAMED.items():
        tagged = model.spec.startswith("timm:") and "." in model.spec
        assert tagged or (model.transform.mean, model.transform.std) == IN_THE_SHEET[name], name
    assert KNOWN_CONFIGS[NAMED["biomedclip"].spec.removeprefix("open_clip:hf-hub:")]["preprocess_cfg"] == {"mean": CLIP[0], "std": CLIP[1]}
    assert Transform() == NOTHING
    assert IMAGENET.mean == MEAN


@pytest.mark.parametrize("name", ["moco-v3-b", "swav"])
def test_a_loaded_model_has_what_it_states(name: str) -> None:
    encoder = load(f"random:{NAMED[name].spec}")
    assert encoder.transform["mean"] == list(MEAN)
    assert encoder.transform["std"] == list(STD)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    torch.save(load("random:timm:test_vit").net.state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_a_file_without_a_tag_is_given_imagenets_numbers_with_a_warning(vit: Path) -> None:
    encoder = load("timm:test_vit", weights=vit)
    assert encoder.transform["mean"] == list(MEAN)
    (note,) = encoder.notes
    assert "ImageNet's are taken" in note
    assert "@half" in note


@pytest.mark.parametrize(("option", "mean"), [("@half", [0.5] * 3), ("@clip", list(CLIP[0])), ("@imagenet", list(MEAN)), ("@raw", None)])
def test_the_user_can_name_them(option: str, mean: list[float] | None, vit: Path) -> None:
    encoder = load(f"timm:test_vit{option}", weights=vit)
    assert encoder.transform["mean"] == mean
    assert encoder.notes == ()


def test_two_names_are_refused(vit: Path) -> None:
    with pytest.raises(RequestError, match="@clip and @raw; keep one"):
        load("timm:test_vit@clip@raw", weights=vit)


def test_a_tag_says_it(vit: Path) -> None:
    encoder = load("timm:test_vit.r160_in1k", weights=vit)
    assert (encoder.transform["mean"], encoder.notes) == ([0.5] * 3, ())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("config.json", {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.4, 0.4]}}),
        ("config.json", {"architecture": "test_vit", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.4, 0.4]}),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.4, 0.4]}}),
        ("preprocessor_config.json", {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.4, 0.4]}),
    ],
)
@pytest.mark.parametrize("spec", ["timm:test_vit", "timm:test_vit.r160_in1k"])
def test_a_configuration_beside_the_weights_is_read(name: str, config: dict, spec: str, vit: Path) -> None:
    (vit.parent / name).write_text(json.dumps(config))
    encoder = load(spec, weights=vit)
    assert encoder.transform["mean"] == [0.1, 0.2, 0.3]
    assert name in encoder.notes[0]


def test_a_configuration_of_another_model_is_not_read(vit: Path) -> None:
    config = {"architecture": "resnet50", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.1] * 3}}
    (vit.parent / "config.json").write_text(json.dumps(config))
    assert load("timm:test_vit", weights=vit).transform["mean"] == list(MEAN)


def test_a_folder_without_numbers_is_given_imagenets(vit: Path) -> None:
    (vit.parent / "config.json").write_text(json.dumps({"architecture": "test_vit", "model_args": {"img_size": 160}, "pretrained_cfg": {}}))
    vit.rename(vit.parent / "pytorch_model.bin")
    encoder = load(f"local-dir:{vit.parent}")
    assert encoder.transform["mean"] == list(MEAN)
    assert "ImageNet's are taken" in encoder.notes[0]


@pytest.mark.parametrize(
    ("rescaling", "mean", "std"),
    [
        ({}, 0.5, 0.25),
        ({"do_rescale": True, "rescale_factor": 0.00392156862745098}, 0.5, 0.25),
        ({"do_rescale": True, "rescale_factor": 2 / 255}, 1.0, 0.5),
        ({"do_rescale": False}, 127.5, 63.75),
        ({"do_rescale": False}, 0.5, 0.25),
        ({"do_rescale": True, "rescale_factor": 1.0}, 127.5, 63.75),
    ],
)
def test_numbers_of_transformers_are_brought_to_planes_from_0_to_1(rescaling: dict, mean: float, std: float) -> None:
    found = of_config({"do_normalize": True, "image_mean": [mean] * 3, "image_std": [std] * 3, **rescaling})
    assert found is not None
    assert found[0] == pytest.approx((0.5,) * 3)
    assert found[1] == pytest.approx((0.25,) * 3)


@pytest.mark.parametrize(("architecture", "mean", "warned"), [("resnet50", MEAN, False), ("vit_base_patch16_clip_224", CLIP[0], False), ("vit_large_patch16_224", MEAN, True), ("vit_small_patch16_dinov3", MEAN, False)])
def test_what_all_published_weights_agree_on_needs_no_warning(architecture: str, mean: tuple, warned: bool) -> None:
    found = normalised(Request(f"timm:{architecture}", architecture, Path("nowhere/w.pth")), architecture)
    assert found.mean == mean
    assert (found.note is not None) == warned


# --------------------------------------------------------------------------------- positions of DINOv2


def official_positions(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """facebookresearch/dinov2, `interpolate_pos_encoding` with offset 0.1 and without antialiasing, said again."""
    side = int((table.shape[1] - 1) ** 0.5)
    if rows == columns == side:
        return table
    square = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = (float(rows + 0.1) / side, float(columns + 0.1) / side)
    made = torch.nn.functional.interpolate(square, mode="bicubic", antialias=False, scale_factor=factors)
    assert made.shape[2:] == (rows, columns)
    return torch.cat([table[:, :1], made.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)


@pytest.mark.equality(
    "facebookresearch/dinov2, interpolate_pos_encoding: positions at other sizes; identical bits"
)
@pytest.mark.parametrize("size", [(70, 70), (98, 126), (518, 518), (532, 266)])
def test_dinov2_at_other_sizes_has_the_positions_of_the_official_model(size: tuple[int, int]) -> None:
    import timm

    from medprobe.encoders.timm_models import positions_as_dinov2

    net = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True, embed_dim=24, num_heads=2, depth=1).eval()
    plain = net._pos_embed
    torch.nn.init.normal_(net.pos_embed)
    table = net.pos_embed.detach()
    cells = torch.randn(1, size[0] // 14, size[1] // 14, 24)
    positions_as_dinov2(net)
    with torch.no_grad():
        found = net._pos_embed(cells)
        expected = torch.cat([net.cls_token, cells.flatten(1, 2)], dim=1) + official_positions(table, *cells.shape[1:3])
        antialiased = plain(cells)
    assert torch.equal(found, expected)
    assert torch.equal(net.pos_embed, table)
    assert torch.allclose(antialiased, expected, atol=1e-3) == (size == (518, 518))


def test_dinov2_says_so_in_its_transform_and_with_registers_it_is_as_timm_has_it() -> None:
    assert load("random:timm:vit_small_patch14_dinov2").transform["positions"] == "dinov2"
    assert "positions" not in load("random:timm:vit_small_patch14_reg4_dinov2").transform
