"""Checkpoint files: every wrapper a training program leaves around weights, and every way a file can be wrong."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medprobe.encoders import load
from medprobe.encoders.checkpoints import fit, flattened, read
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
    assert {f"state_dict.module.{name}" for name in new} <= set(old)
    assert all(torch.equal(old[f"state_dict.module.{name}"], tensor) for name, tensor in new.items())


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
    import fractions
    import subprocess
    import sys

    torch.save({"state_dict": state, "args": fractions.Fraction(1, 10)}, tmp_path / "old.pth")
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
    with pytest.raises(MissingError, match=r"found a web page.*fetch the file itself"):
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


def test_what_is_not_a_weight_is_left_out() -> None:
    weight = torch.ones(1)
    assert flattened([1, 2]) == {}
    assert list(flattened({"epoch": 1, "w": weight, "optimizer": {"exp_avg": {"w": weight}}})) == ["w"]
    assert list(flattened({"a": [{"b.w": weight}]})) == ["a.0.b.w"]


def test_what_sharding_and_compiling_put_into_names_is_taken_out(state, tmp_path: Path) -> None:
    for place, wrapper in (("layer1.", "_orig_mod."), ("layer2.0.", "_fsdp_wrapped_module."), ("", "_orig_mod.")):
        named = {f"_forward_module.{name.replace(place, place + wrapper, 1)}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": named}, tmp_path / "w.pth")
        assert same_weights(tmp_path / "w.pth", state)


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


WRAPPED = [
    "module.", "backbone.", "teacher.backbone.", "student.", "student.module.backbone.", "model.", "encoder.",
    "visual.", "visual.trunk.", "trunk.", "net.", "momentum_encoder.", "target_encoder.", "module.encoder_q.",
    "state_dict.model.backbone.", "_orig_mod.", "module._orig_mod.model.", "a_name_nobody_thought_of.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", WRAPPED)
def test_whatever_prefix_lies_before_all_names_is_taken_away(prefix: str, state, tmp_path: Path) -> None:
    others = {"loss.weight": torch.ones(3), "teacher_temperature": torch.ones(1)}
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()} | others, tmp_path / "w.pth")
    assert same_weights(tmp_path / "w.pth", state)


def other(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


def below(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("teacher.backbone.", "student.backbone."),
        ("teacher.backbone.", "student.module.backbone."),
        ("model_ema.", "model."),
        ("state_dict_ema.", "state_dict."),
        ("ema.", "model."),
        ("target_encoder.module.", "encoder.module."),
        ("online_network.", "target_network."),
        ("backbone.", "backbone_momentum."),
        ("encoder_q.", "encoder_k."),
        ("model.", "optimizer.exp_avg."),
        ("", "student."),
        ("ema.", ""),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_of_several_copies_the_one_that_is_meant_for_use_is_taken(
    taken: str, left: str, nested: bool, state, tmp_path: Path
) -> None:
    both = below(left, other(state)) | below(taken, state)
    if nested:
        both = {"model": both, "epoch": 3}
    torch.save(both, tmp_path / "w.pth")
    assert same_weights(tmp_path / "w.pth", state)


def test_copies_of_one_rank_that_differ_are_refused_and_equal_ones_are_not(state, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "model": state}, tmp_path / "same.pth")
    assert same_weights(tmp_path / "same.pth", state)
    torch.save({"first": state, "second": other(state)}, tmp_path / "two.pth")
    with pytest.raises(MissingError, match=r"under first\. and second\. with other values"):
        load(RESNET, weights=tmp_path / "two.pth")


@pytest.mark.parametrize(("used", "unused"), [("teacher_model.", "student_model."), ("model_EMA.", "model."), ("EMA.", "net.")])
def test_copies_are_told_apart_by_longer_names_too(used: str, unused: str, state, tmp_path: Path) -> None:
    torch.save({**below(used, state), **below(unused, other(state))}, tmp_path / "c.pth")
    assert same_weights(tmp_path / "c.pth", state)


@pytest.mark.parametrize("kind", ["int8", "complex64", "sparse", "nan", "infinity"])
@pytest.mark.parametrize("names", [1, None])
def test_numbers_that_are_not_those_of_the_network_are_refused(kind: str, names: int | None, state, tmp_path: Path) -> None:
    made = {
        "int8": lambda tensor: (tensor * 100).to(torch.int8), "complex64": lambda tensor: tensor.to(torch.complex64),
        "sparse": lambda tensor: tensor.to_sparse(), "nan": lambda tensor: tensor * torch.nan,
        "infinity": lambda tensor: tensor / torch.zeros(()),
    }[kind]  # fmt: skip
    chosen = [name for name in state if name.endswith("weight")][:names]
    torch.save({**state, **{name: made(state[name]) for name in chosen}}, tmp_path / "c.pth")
    with pytest.raises(MissingError, match="expected weights as plain real numbers"):
        load(RESNET, weights=tmp_path / "c.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_floats_of_every_width_are_read(dtype: torch.dtype, state, tmp_path: Path) -> None:
    narrow = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save(narrow, tmp_path / "c.pth")
    assert same_weights(tmp_path / "c.pth", {name: tensor.to(state[name].dtype) for name, tensor in narrow.items()})


def test_the_choice_among_copies_is_said(state, tmp_path: Path) -> None:
    torch.save({"model": below("student.backbone.", other(state)) | below("teacher.backbone.", state)}, tmp_path / "w.pth")
    (note,) = load(f"{RESNET}.r160_in1k", weights=tmp_path / "w.pth").notes
    assert "under model.teacher.backbone. of the file, which fit beside model.student.backbone." in note


def test_what_is_missing_under_a_prefix_is_named_with_it(state, tmp_path: Path) -> None:
    wrapped = below("teacher.backbone.", state)
    del wrapped["teacher.backbone.conv1.0.weight"]
    torch.save({"model": wrapped}, tmp_path / "w.pth")
    said = rf"under model\.teacher\.backbone\. 1 of the model's {len(state)} tensors are missing \(conv1\.0\.weight\)"
    with pytest.raises(MissingError, match=said):
        load(RESNET, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_blocks_that_dinov2_trains_in_chunks_are_numbered_as_in_the_model(prefix: str, tmp_path: Path) -> None:
    net = load("random:timm:test_vit", seed=3).net
    chunked = {}
    for name, tensor in net.state_dict().items():
        parts = name.split(".")
        chunked[f"blocks.{int(parts[1]) // 4}.{'.'.join(parts[1:])}" if parts[0] == "blocks" else name] = tensor
    torch.save({"model": below(prefix, chunked)}, tmp_path / "w.pth")
    loaded = load("timm:test_vit", weights=tmp_path / "w.pth").net.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())


def test_dinov3_weights_in_training_layout_are_read(tmp_path: Path) -> None:
    import timm

    from medprobe.encoders import checkpoints, dinov3
    from medprobe.encoders.timm_models import spelling

    small = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    net = timm.create_model("vit_small_patch16_dinov3", num_classes=0, **small)
    plain = net.state_dict()
    official = {}
    for name, tensor in plain.items():
        name = name.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        official[name] = tensor
    official["blocks.0.attn.qkv.bias"] = torch.zeros(72)
    official["mask_token"] = torch.zeros(1, 24)
    assert dinov3.is_official(official)
    both = {"model": below("student.backbone.", other(official)) | below("teacher.backbone.", official)}
    torch.save(both, tmp_path / "w.pth")
    file = checkpoints.read(tmp_path / "w.pth")
    part = checkpoints.part_of(file, spelling("vit_small_patch16_dinov3", **small), "it")
    assert part.prefix == "model.teacher.backbone."
    assert all(torch.equal(part.tensors[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("name", ["w.bin", "w.pth", "w.pt", "w", "w.ckpt"])
def test_safetensors_are_known_by_their_bytes(name: str, state, tmp_path: Path) -> None:
    save_file(state, tmp_path / name)
    assert same_weights(tmp_path / name, state)


def test_torch_files_named_safetensors_are_read_and_cut_ones_damaged(state, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.safetensors")
    assert same_weights(tmp_path / "w.safetensors", state)
    save_file(state, tmp_path / "v.safetensors")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "v.safetensors").read_bytes()[:-50])
    with pytest.raises(MissingError, match="cannot be read"):
        load(RESNET, weights=tmp_path / "cut.bin")


def test_the_arguments_of_a_training_do_not_hinder(state, tmp_path: Path) -> None:
    import argparse

    torch.save({"model": state, "args": argparse.Namespace(lr=0.1, names=["a"])}, tmp_path / "mae.pth")
    assert same_weights(tmp_path / "mae.pth", state)


def zipped(*names: str) -> bytes:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 40)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5, as Keras writes weights"),
        (zipped("config.json", "metadata.json", "model.weights.h5"), "a model of Keras"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(50), "a model of ONNX"),
        (b"\x81\xa6params\x82\xa3foo" + bytes(50), "MessagePack, as Flax writes weights"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94" + bytes(50), "a pickle that torch did not write"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>log in</html>", "a web page"),
        (zipped("resnet/data.txt", "resnet/w.pth"), "a ZIP archive of other files"),
        (zipped("a.npy", "b.npy"), "an archive of NumPy arrays"),
        (zipped("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "a TorchScript archive"),
        (b"\x1f\x8b\x08" + bytes(50), "a file packed by gzip"),
        (bytes(257) + b"ustar" + bytes(300), "a TAR archive"),
        (b'{"error": "not found"}', "JSON text"),
        (b"GGUF" + bytes(50), "a model of GGML"),
        (b"some text about the weights\n", "bytes that neither of them writes"),
        (bytes(64), "bytes that neither of them writes"),
    ],
)
def test_other_kinds_of_files_are_refused_by_what_they_are(data: bytes, kind: str, tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MissingError) as error:
            load(RESNET, weights=tmp_path / name)
        assert f"found {kind}" in str(error.value)
        assert "fetch it again" not in str(error.value)


@pytest.mark.accept
def test_the_conversion_of_a_torchscript_archive_works(state, tmp_path: Path) -> None:
    import subprocess
    import sys
    import warnings

    net = load(f"random:{RESNET}", seed=3).net
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 64, 64)), tmp_path / "w.pt")
    with pytest.raises(MissingError) as error:
        load(RESNET, weights=tmp_path / "w.pt")
    code = str(error.value).split('python -c "')[1].split('")')[0]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
    assert same_weights(tmp_path / "converted.safetensors", state)


def test_a_whole_archive_that_torch_cannot_read_is_not_damaged(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(zipped("archive/data.pkl", "archive/version"))
    with pytest.raises(MissingError, match="an archive that is whole"):
        load(RESNET, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("wrong", ["missing", "shape"])
@pytest.mark.parametrize(("better", "taken"), [("teacher.", "student."), ("ema.", "model.")])
def test_a_better_copy_that_does_not_fit_is_named(
    better: str, taken: str, wrong: str, state, tmp_path: Path
) -> None:
    first, *rest = state
    spoilt = {name: state[name] for name in rest}
    if wrong == "shape":
        spoilt[first] = torch.ones(3)
    torch.save(below(better, spoilt) | below(taken, state), tmp_path / "w.pth")
    (note,) = load(f"{RESNET}.r160_in1k", weights=tmp_path / "w.pth").notes
    assert f"under {taken} of the file, since {better} is incomplete or of another shape" in note
    torch.save(below(better, state) | below(taken, state), tmp_path / "w.pth")
    assert "since" not in " ".join(load(f"{RESNET}.r160_in1k", weights=tmp_path / "w.pth").notes)
