"""Checkpoint files: every wrapper a training program leaves around weights, and every way a file can be wrong."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medprobe.encoders import load
from medprobe.encoders.checkpoints import fit, read, unwrap
from medprobe.errors import MissingError

RESNET = "timm:test_resnet"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """The weights of a small ResNet with heads that a feature extractor does not have."""
    net = load(f"random:{RESNET}", seed=3).net
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same_weights(path: Path, state: dict[str, torch.Tensor]) -> bool:
    loaded = load(RESNET, weights=path).net.state_dict()
    return all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("container", ["state_dict", "model", "teacher", None])
def test_weights_are_found_inside_their_container(container: str | None, state, tmp_path: Path) -> None:
    torch.save({container: state, "epoch": 3, "optimizer": {"lr": 0.1}} if container else state, tmp_path / "c.pt")
    assert same_weights(tmp_path / "c.pt", state)


def test_moco_v3_keys_give_the_base_encoder_not_the_momentum_one(state, tmp_path: Path) -> None:
    wrapped = {f"module.momentum_encoder.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    wrapped |= {f"module.base_encoder.{name}": tensor for name, tensor in state.items()}
    wrapped |= {"module.base_encoder.fc.0.weight": torch.ones(2, 2), "module.predictor.0.weight": torch.ones(2, 2)}
    torch.save({"epoch": 1000, "arch": "resnet50", "state_dict": wrapped}, tmp_path / "moco.pth.tar")
    assert same_weights(tmp_path / "moco.pth.tar", state)


def test_moco_v3_momentum_keys_alone_are_read(state, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {f"module.momentum_encoder.{name}": tensor for name, tensor in state.items()}},
        tmp_path / "m.pth",
    )
    assert same_weights(tmp_path / "m.pth", state)


def test_swav_keys_leave_projection_and_prototypes_out(state, tmp_path: Path) -> None:
    heads = {"module.projection_head.0.weight": torch.ones(2, 2), "module.prototypes.weight": torch.ones(2, 2)}
    torch.save({f"module.{name}": tensor for name, tensor in state.items()} | heads, tmp_path / "swav.pth")
    assert same_weights(tmp_path / "swav.pth", state)


def test_a_distillation_teacher_inside_a_backbone_is_read(state, tmp_path: Path) -> None:
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()} | {
        "dino_head.mlp.0.weight": torch.ones(2, 2)
    }
    torch.save({"teacher": teacher}, tmp_path / "teacher.pth")
    assert same_weights(tmp_path / "teacher.pth", state)


def test_safetensors_and_pth_of_the_same_weights_give_the_same_features(state, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.bin")
    x = torch.rand(1, 3, 64, 64)
    one, other = (load(RESNET, weights=tmp_path / name) for name in ("w.safetensors", "w.bin"))
    assert torch.equal(one(x).cls, other(x).cls)
    assert one.weights_sha256 != other.weights_sha256, "the digest is that of the file"


def test_an_old_torch_file_is_read(samples: Path) -> None:
    folder = samples / "weights_small"
    old = read(folder / "resnet20-12fca82f.th").tensors
    new = read(folder / "resnet20_cifar10.safetensors").tensors
    assert set(new) <= set(old)
    assert all(torch.equal(old[name], tensor) for name, tensor in new.items())


def test_batch_counters_may_be_missing(state, tmp_path: Path) -> None:
    torch.save({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    load(RESNET, weights=tmp_path / "old.pth")


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_inside_a_checkpoint_is_never_run_and_the_error_says_how_to_convert(
    zipped: bool, state, tmp_path: Path
) -> None:
    torch.save(
        {"state_dict": state, "args": Hostile(tmp_path / "marker")},
        tmp_path / "bad.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(MissingError, match=r"would run code.*save_file.*converted\.safetensors") as error:
        load(RESNET, weights=tmp_path / "bad.pth")
    assert error.value.exit_status == 3
    assert not (tmp_path / "marker").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert (tmp_path / "marker").exists(), "the file was hostile"


def test_the_conversion_that_the_error_names_works(state, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse
    import subprocess
    import sys

    torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "old.pth")
    with pytest.raises(MissingError) as error:
        load(RESNET, weights=tmp_path / "old.pth")
    code = str(error.value).split('python -c "')[1].split('" and give')[0]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert same_weights(tmp_path / "converted.safetensors", state)


@pytest.mark.parametrize("keep", [0, 150, 0.5, -40])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_checkpoint_is_named_as_damaged(keep: float, zipped: bool, state, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(state, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    cut = int(keep * len(data)) if 0 < keep < 1 else int(keep)
    (tmp_path / "cut.pth").write_bytes(data[:cut])
    with pytest.raises(MissingError, match=r"cut\.pth.*cannot be read|found none"):
        load(RESNET, weights=tmp_path / "cut.pth")


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_a_file_that_is_no_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("<html>please log in to download</html>")
    with pytest.raises(MissingError, match="whole checkpoint"):
        load(RESNET, weights=tmp_path / name)


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(MissingError, match="expected tensors"):
        read(tmp_path / "empty.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nothing\.pth"):
        load(RESNET, weights=tmp_path / "nothing.pth")


def test_every_kind_of_misfit_is_counted_and_named(state, tmp_path: Path) -> None:
    wrong = dict(state)
    names = [name for name in state if name.endswith("conv1.weight")]
    del wrong[names[0]]
    wrong[names[1]] = torch.ones(2, 2)
    wrong["surprise.weight"] = torch.ones(3)
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(MissingError) as error:
        load(RESNET, weights=tmp_path / "wrong.pth")
    message = str(error.value)
    assert f"1 of the model's {len(state)} tensors are missing ({names[0]})" in message
    assert f"1 have another shape ({names[1]} 2x2 for " in message
    assert "are unknown to the model (surprise.weight)" in message


def test_a_position_table_of_another_size_is_a_misfit_not_a_silent_resampling(tmp_path: Path) -> None:
    net = load("random:timm:test_vit").net
    wrong = dict(net.state_dict())
    wrong["pos_embed"] = torch.zeros(1, 1 + 14 * 14, 64)
    torch.save(wrong, tmp_path / "v.pth")
    with pytest.raises(MissingError, match="pos_embed 1x197x64 for 1x101x64"):
        load("timm:test_vit", weights=tmp_path / "v.pth")


def test_the_checkpoint_of_another_model_is_refused(state, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "resnet.pth")
    for spec in ("timm:test_vit", "timm:test_convnext", "timm:vit_small_patch16_dinov3"):
        with pytest.raises(MissingError, match="does not fit"):
            load(spec, weights=tmp_path / "resnet.pth")


def test_official_convnext_keys_fit_the_timm_model(tmp_path: Path) -> None:
    """DINOv3's own ConvNeXt names (downsample_layers, stages.i.j.dwconv, norms.3), for a small ConvNeXt."""
    net = load("random:timm:test_convnext", seed=5).net
    official = {}
    for name, tensor in net.state_dict().items():
        for ours, theirs in (
            ("stem.", "downsample_layers.0."),
            (".conv_dw.", ".dwconv."),
            (".mlp.fc1.", ".pwconv1."),
            (".mlp.fc2.", ".pwconv2."),
            ("head.norm.", "norms.3."),
        ):
            name = name.replace(ours, theirs)
        parts = name.split(".")
        if parts[0] == "stages":
            name = (
                f"downsample_layers.{parts[1]}.{'.'.join(parts[3:])}"
                if parts[2] == "downsample"
                else name.replace(".blocks", "")
            )
        official[name] = tensor
    official |= {"norm.weight": official["norms.3.weight"], "norm.bias": official["norms.3.bias"]}
    torch.save(official, tmp_path / "convnext.pth")
    loaded = load("timm:test_convnext", weights=tmp_path / "convnext.pth")
    assert all(torch.equal(loaded.net.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def test_unwrap_ignores_what_is_not_a_tensor() -> None:
    assert unwrap([1, 2]) == {}
    assert list(unwrap({"epoch": 1, "w": torch.ones(1)})) == ["w"]


def test_fit_leaves_the_network_alone_when_it_refuses() -> None:
    net = torch.nn.Linear(2, 2)
    before = net.weight.clone()
    with pytest.raises(MissingError):
        fit(net, {"weight": torch.ones(2, 2)}, Path("x.pth"), "a layer")
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize(("side", "fits"), [(10, True), (14, False)])
def test_official_dinov2_keys_with_registers_are_converted_but_never_resampled(side: int, fits: bool) -> None:
    """Official files add positions to the class token at run time; timm has them added beforehand."""
    import timm

    from medprobe.encoders.timm_models import filtered

    net = timm.create_model("test_vit", num_classes=0, reg_tokens=2, no_embed_class=True)
    table = torch.rand(1, 1 + side * side, 64)
    official = {
        name: tensor.clone() for name, tensor in net.state_dict().items() if name not in ("reg_token", "pos_embed")
    }
    official |= {"register_tokens": torch.rand(1, 2, 64), "mask_token": torch.zeros(1, 64), "pos_embed": table}
    made = filtered(net, official)
    if fits:
        fit(net, made, Path("dinov2.pth"), "DINOv2")
        assert torch.equal(net.pos_embed, table[:, 1:])
        assert torch.equal(net.cls_token[:, 0], official["cls_token"][:, 0] + table[:, 0])
        assert torch.equal(net.reg_token, official["register_tokens"])
    else:
        with pytest.raises(MissingError, match="pos_embed 1x197x64 for 1x100x64"):
            fit(net, made, Path("dinov2.pth"), "DINOv2")
