"""Official files of DINOv3: what their names promise, and which images they were trained on."""

from pathlib import Path

import pytest
import torch

from medprobe.encoders import checkpoints, dinov3, load
from medprobe.errors import MissingError

LARGE, SMALL, SEVEN = ("vit_large_patch16_dinov3", "vit_small_patch16_dinov3", "vit_7b_patch16_dinov3")
NAME = "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"


def tensors(width: int = 1024, satellite: bool = False, prefix: str = "") -> dict[str, torch.Tensor]:
    made = {f"{prefix}cls_token": torch.zeros(1, 1, width)}
    return made | ({f"{prefix}local_cls_norm.weight": torch.zeros(width)} if satellite else {})


def test_a_file_that_is_not_what_its_official_name_promises_is_refused(tmp_path: Path) -> None:
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / NAME)
    for spec in (f"timm:{SMALL}.lvd1689m", f"timm:{SMALL}", "transformers:facebook/dinov3-vits16-pretrain-lvd1689m"):
        with pytest.raises(MissingError, match=r"begins with 08c60483.*broken or another one"):
            load(spec, weights=tmp_path / NAME)


def test_the_right_digest_is_taken(tmp_path: Path) -> None:
    dinov3.check_data(f"{SMALL}.lvd1689m", Path(NAME), tensors(384), "08c60483" + "0" * 56)


def test_files_of_other_names_promise_nothing_or_are_said(tmp_path: Path) -> None:
    net = load("random:timm:test_resnet").net
    for name, said in (("w-0123abcd.pth", True), ("w-20240101.pth", False), ("w.pth", False), ("w-0123abcd.safetensors", False)):
        torch.save(net.state_dict(), tmp_path / name)
        notes = load("timm:test_resnet.r160_in1k", weights=tmp_path / name).notes
        assert bool(notes) == said, name
    assert checkpoints.WeightFile(tmp_path / "w-0123abcd.pth", {}, "0123abcd" + "0" * 56).doubt is None


@pytest.mark.parametrize(
    ("model", "name", "found", "sha256", "why"),
    [
        (f"{LARGE}.lvd1689m", "w.pth", tensors(satellite=True), "0" * 64, "local_cls_norm"),
        (f"{LARGE}.lvd1689m", "w.pth", tensors(satellite=True, prefix="teacher.backbone."), "0" * 64, "local_cls_norm"),
        (LARGE, "w.pth", tensors(satellite=True), "0" * 64, "local_cls_norm"),
        (f"{LARGE}.lvd1689m", "dinov3_vitl16_pretrain_sat493m.pth", tensors(), "0" * 64, "its name"),
        (LARGE, "dinov3-vitl16-pretrain-sat493m/model.safetensors", tensors(), "0" * 64, "its folder"),
        (f"{LARGE}.lvd1689m", "w.safetensors", tensors(), "eadcf0ff" + "0" * 56, "its sha256"),
        (f"{SEVEN}.lvd1689m", "w.pth", tensors(4096), "a6675841" + "0" * 56, "its sha256"),
        ("facebook/dinov3-vitl16-pretrain-lvd1689m", "w.pth", tensors(satellite=True), "0" * 64, "local_cls_norm"),
    ],
)
def test_weights_of_the_satellite_model_are_refused_and_their_own_model_named(model: str, name: str, found: dict, sha256: str, why: str) -> None:
    with pytest.raises(MissingError, match=f"those of sat493m.*{why}.*mean and std differ; run .*sat493m"):
        dinov3.check_data(model, Path(name), found, sha256)


@pytest.mark.parametrize(
    ("model", "found"),
    [(f"{SEVEN}.lvd1689m", tensors(4096, True)), (f"{LARGE}.sat493m", tensors(1024, True)), (f"{LARGE}.lvd1689m", tensors())],
)
def test_what_the_7b_model_always_holds_is_no_sign_and_its_own_model_takes_it(model: str, found: dict) -> None:
    dinov3.check_data(model, Path("w.pth"), found, "0" * 64)


def test_weights_of_the_other_images_are_refused_under_the_satellite_model() -> None:
    with pytest.raises(MissingError, match=r"run timm:vit_large_patch16_dinov3\.lvd1689m"):
        dinov3.check_data(f"{LARGE}.sat493m", Path("dinov3_vitl16_pretrain_lvd1689m.pth"), tensors(), "0" * 64)


def test_a_satellite_file_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    torch.save(tensors(satellite=True), tmp_path / "w.pth")
    with pytest.raises(MissingError, match=r"run timm:vit_large_patch16_dinov3\.sat493m"):
        load("timm:vit_large_patch16_dinov3.lvd1689m", weights=tmp_path / "w.pth")
