"""`load`: specs, seeds, sizes, the input contract, and what happens without a network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medprobe.encoders import fit_size, load, parse
from medprobe.encoders.base import nearest_multiple
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.types import Encoder

VIT = "random:timm:test_vit"
FREE = "random:timm:test_convnext"


def planes(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_a_vision_transformer_gives_class_token_patch_mean_and_grid() -> None:
    encoder = load(VIT)
    made = encoder(planes(2, 3, 160, 160))
    assert isinstance(encoder, Encoder)
    assert (made.cls.shape, made.patch_mean.shape, made.grid.shape) == ((2, 64), (2, 64), (2, 64, 10, 10))
    assert torch.allclose(made.patch_mean, made.grid.mean(dim=(2, 3)), atol=1e-6)
    tokens = encoder.net.forward_features((planes(2, 3, 160, 160) - 0.5) / 0.5)
    assert torch.allclose(made.cls, tokens[:, 0], atol=1e-6)
    assert torch.allclose(made.grid.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-6)


def test_a_convolutional_network_gives_its_global_average_as_both_vectors() -> None:
    made = load("random:timm:test_resnet")(planes(2, 3, 64, 96))
    assert made.grid.shape == (2, 96, 2, 3)
    assert torch.allclose(made.cls, made.patch_mean, atol=1e-6)


def test_convnext_follows_dinov3_norm_of_the_average_and_average_of_normed_patches() -> None:
    encoder = load(FREE)
    x = planes(2, 3, 64, 96)
    made = encoder(x)
    config = encoder.net.pretrained_cfg
    raw = encoder.net.forward_features(
        (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    )
    norm = encoder.net.head.norm
    assert torch.allclose(made.cls, norm(raw.mean(dim=(2, 3), keepdim=True)).flatten(1), atol=1e-5)
    assert torch.allclose(made.grid, norm(raw), atol=1e-5)


def test_the_third_stage_of_resnet50_is_1024_d_at_stride_16() -> None:
    encoder = load("random:timm:resnet50.tv_in1k@stage3")
    made = encoder(planes(1, 3, 64, 64))
    assert (encoder.dim, encoder.multiple) == (1024, 16)
    assert made.grid.shape == (1, 1024, 4, 4)
    assert torch.allclose(made.cls, made.grid.mean(dim=(2, 3)))


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="no stage of stride 64"):
        load("random:timm:test_resnet@stage5")
    with pytest.raises(RequestError, match="no stage"):
        load("random:timm:test_vit@stage3")


def test_models_pooled_by_attention_or_without_class_token_give_the_pooled_vector() -> None:
    for spec in (
        "random:timm:test_vit2",
        "random:timm:test_vit3",
        "random:timm:test_mambaout",
        "random:timm:test_efficientnet",
    ):
        encoder = load(spec)
        made = encoder(planes(2, 3, 160, 160))
        assert made.cls.shape == (2, encoder.dim)
        assert made.cls.isfinite().all()


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = load(VIT, seed=1), load(VIT, seed=1), load(VIT, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    x = planes(1, 3, 160, 160)
    assert torch.equal(one(x).cls, same(x).cls)
    assert not torch.equal(one(x).cls, other(x).cls)
    assert one.licence is None, "weights of nobody's carry no licence"


def test_a_plus_b_puts_vectors_side_by_side_and_grids_on_the_finer_frame() -> None:
    combined = load(f"{FREE}+mean-rgb")
    x = planes(2, 3, 64, 96)
    one, two, made = load(FREE)(x), load("mean-rgb")(x), combined(x)
    assert made.cls.shape == (2, 64 + 3)
    assert torch.equal(made.cls[:, :64], one.cls)
    assert torch.equal(made.cls[:, 64:], two.cls)
    assert made.grid.shape == (2, 64 + 3, 4, 6)
    assert torch.equal(made.grid[:, 64:], two.grid), "the finer grid is not touched"
    upsampled = torch.nn.functional.interpolate(one.grid, size=(4, 6), mode="bilinear", align_corners=False)
    assert torch.equal(made.grid[:, :64], upsampled)
    assert (combined.dim, combined.multiple, combined.params) == (67, 32, load(FREE).params)
    json.dumps(combined.transform)


def test_parts_tied_to_different_sizes_are_refused_until_a_common_size_is_given() -> None:
    spec = "random:timm:vit_tiny_patch16_224+random:timm:test_vit"
    with pytest.raises(RequestError, match="one size"):
        load(spec)
    assert fit_size(load(spec, image_size=96)) == 96


def test_one_checkpoint_goes_to_the_only_part_that_takes_one(tmp_path: Path) -> None:
    torch.save(load("random:timm:test_convnext", seed=9).net.state_dict(), tmp_path / "w.pth")
    combined = load("timm:test_convnext+mean-rgb", weights=tmp_path / "w.pth")
    assert torch.equal(
        combined(planes(1, 3, 64, 64)).cls[:, :64],
        load("timm:test_convnext", weights=tmp_path / "w.pth")(planes(1, 3, 64, 64)).cls,
    )
    with pytest.raises(RequestError, match="2 parts"):
        load("timm:test_convnext+timm:test_resnet", weights=tmp_path / "w.pth")


def test_pixels_hand_the_plane_through_for_any_number_of_channels() -> None:
    for channels in (1, 2, 5):
        x = planes(2, channels, 64, 96)
        made = load("pixels")(x)
        assert torch.equal(made.grid, x)
        assert made.cls.shape == (2, channels * 1024)
        assert torch.allclose(made.cls[1].reshape(channels, 32, 32)[0, 0, 0], x[1, 0, :2, :3].mean())
        assert torch.equal(made.patch_mean, made.cls)


def test_mean_rgb_is_the_mean_colour_and_the_mean_colour_of_each_patch() -> None:
    x = planes(2, 3, 32, 48)
    made = load("mean-rgb")(x)
    assert torch.allclose(made.cls, x.mean(dim=(2, 3)))
    assert torch.allclose(made.grid[0, :, 1, 2], x[0, :, 16:32, 32:48].mean(dim=(1, 2)))


def test_numpy_and_torch_planes_give_the_same_features() -> None:
    x = planes(1, 3, 64, 64)
    encoder = load(FREE)
    assert torch.equal(encoder(x).cls, encoder(x.numpy().astype(np.float64)).cls)


def test_features_can_be_used_to_train_on() -> None:
    made = load(FREE)(planes(1, 3, 64, 64))
    layer = torch.nn.Linear(64, 1)
    layer(made.cls).sum().backward()
    assert layer.weight.grad is not None


def test_the_encoder_returns_to_evaluation_mode_by_itself() -> None:
    encoder = load("random:timm:test_resnet")
    x = planes(2, 3, 64, 64)
    before = encoder(x).cls
    encoder.net.train()
    assert torch.equal(encoder(x).cls, before)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(3, 64, 64), "4 axes"),
        (torch.rand(1, 2, 64, 64), "3 channels, or 1"),
        (torch.rand(0, 3, 64, 64), "at least one plane"),
        (torch.rand(1, 3, 40, 32), "image is 40x32 but sides must be multiples of 32; resize to 32x32"),
        (torch.rand(1, 3, 64, 64) * 255, r"\[0, 1\]"),
        (torch.rand(1, 3, 64, 64) - 2, r"\[0, 1\]"),
    ],
)
def test_planes_that_break_the_contract_are_refused_with_what_to_do(x: torch.Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(FREE)(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_plane_that_is_not_finite_is_a_case_that_cannot_be_used(value: float) -> None:
    x = planes(2, 3, 64, 64)
    x[1, 0, 5, 5] = value
    with pytest.raises(CaseError, match="NaN or infinity"):
        load(FREE)(x)


def test_the_size_rule_prefers_the_user_then_the_encoder_then_the_task_then_the_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert fit_size(load(VIT, image_size=96), 224) == 96
    assert fit_size(load(VIT), 256) == 160, "tied by its position table"
    assert fit_size(load(FREE), 256) == 256
    assert fit_size(load(FREE)) == 160
    assert not caplog.messages


def test_a_size_that_is_no_multiple_goes_to_the_nearest_one_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    encoder = load("random:timm:vit_small_patch14_reg4_dinov2.lvd142m", image_size=256)
    assert encoder.image_size == 252
    assert "multiples of 14, so planes are 252 instead of 256" in caplog.text
    caplog.clear()
    assert fit_size(load("random:timm:vit_small_patch14_dinov2.lvd142m"), 256) == 252
    assert "252 instead of 256" in caplog.text


def test_a_fixed_encoder_refuses_another_size_unless_it_interpolates() -> None:
    spec = "random:timm:cait_xxs24_224"
    with pytest.raises(RequestError, match="takes 224x224 planes only, found image size 256"):
        load(spec, image_size=256)
    assert load(spec, image_size=224).image_size == 224
    assert load(VIT, image_size=64)(planes(1, 3, 64, 64)).grid.shape == (1, 64, 4, 4)


def test_dinov3_takes_any_size_and_keeps_the_published_default() -> None:
    encoder = load("random:timm:vit_small_patch16_dinov3.lvd1689m")
    assert (encoder.image_size, encoder.default_size, encoder.multiple) == (None, 256, 16)


@given(st.integers(1, 2000), st.integers(1, 64))
def test_the_nearest_multiple_is_a_multiple_and_nearest(size: int, multiple: int) -> None:
    fitted = nearest_multiple(size, multiple)
    assert fitted >= multiple
    assert fitted % multiple == 0
    assert abs(fitted - size) <= multiple // 2 or fitted == multiple


def test_layers_are_named_from_either_end_and_checked() -> None:
    made = load(VIT, layers=(0, -1))(planes(1, 3, 160, 160))
    assert len(made.grids) == 2
    with pytest.raises(RequestError, match="has layers 0 to"):
        load(VIT, layers=(99,))
    with pytest.raises(RequestError, match="last grid only"):
        load("pixels", layers=(0,))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transfomers:x", "did you mean transformers"),
        ("timm:vit_smal_patch16_224", "no timm model named.*did you mean"),
        ("timm:test_vit.nope", "no weights tagged 'nope'.*r160_in1k"),
        ("random:pixels", "no weights to draw"),
        ("random:file.py:make", "no weights to draw"),
    ],
)
def test_a_wrong_spec_is_named(spec: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(spec)


def test_a_wrong_precision_or_device_is_named() -> None:
    with pytest.raises(RequestError, match="precision must be"):
        load("pixels", precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="device must be"):
        load("pixels", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="no CUDA"):
            load("pixels", device="cuda:0")


def test_weights_for_an_encoder_without_any_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(RequestError, match="no weights to load"):
        load("mean-rgb", weights=tmp_path / "w.pth")
    with pytest.raises(RequestError, match="draws its weights"):
        load(VIT, weights=tmp_path / "w.pth")


def test_a_spec_is_read_the_same_way_everywhere() -> None:
    assert parse("random:timm:x.y") == ("timm", "x.y", True)
    assert parse("open_clip:hf-hub:a/b") == ("open_clip", "hf-hub:a/b", False)
    assert parse("my/enc.py:make") == ("file", "my/enc.py:make", False)
    assert parse("pixels") == ("pixels", "", False)


def refuse(asked: list[object], address: object) -> None:
    """Note who was asked for a connection, and open none."""
    asked.append(address)
    raise ConnectionRefusedError(address)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "spec",
    [
        "timm:test_vit",
        "hf-hub:MahmoodLab/uni",
        "open_clip:hf-hub:org/x",
        "transformers:facebook/dinov3-vits16-pretrain-lvd1689m",
    ],
)
def test_without_a_network_the_error_comes_at_once_and_says_how_to_get_the_weights(
    spec: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medprobe.encoders import hub

    if spec.startswith("transformers"):
        pytest.importorskip("transformers")
    asked: list[object] = []
    monkeypatch.setattr(hub, "reachable", lambda endpoint: bool(asked.append(endpoint)))
    monkeypatch.setattr("socket.socket.connect", lambda self, address: refuse(asked, address))
    with pytest.raises(
        MissingError, match=r"cannot be reached; fetch \S+ from https://huggingface.co/\S+ .*--weights FILE"
    ):
        load(spec)
    assert len(asked) == 1


def test_the_offline_switch_is_respected(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingError, match="HF_HUB_OFFLINE is set"):
        load("timm:test_vit")


def test_gated_weights_say_where_to_ask(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    from medprobe.encoders import hub

    class Gated(GatedRepoError):
        def __init__(self) -> None:
            Exception.__init__(self, "gated")

    def refuse(*args: object, **kwargs: object) -> str:
        raise Gated

    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(
        MissingError, match=r"is gated: accept its licence at https://huggingface.co/MahmoodLab/uni and set HF_TOKEN"
    ):
        load("hf-hub:MahmoodLab/uni")


def test_an_unreachable_host_is_noticed_without_the_hubs_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    from medprobe.encoders import hub

    asked: list[object] = []
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("socket.create_connection", lambda address, timeout: refuse(asked, (address, timeout)))
    assert not hub.reachable("http://127.0.0.1:9")
    assert asked == [(("127.0.0.1", 9), 5.0)]


def test_random_weights_of_an_uncached_hub_model_download_nothing(empty_cache: Path) -> None:
    with pytest.raises(MissingError, match="random: downloads nothing"):
        load("random:hf-hub:org/unknown")


def test_published_weights_are_read_from_the_cache_without_a_network(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as the hub's client leaves it: refs/main names the snapshot folder."""
    from safetensors.torch import save_file

    from medprobe.encoders import hub

    monkeypatch.setattr(hub, "reachable", lambda endpoint: pytest.fail("the network was asked"))
    repository = empty_cache / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    net = load(VIT, seed=4).net
    save_file(
        net.state_dict() | {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)},
        snapshot / "model.safetensors",
    )
    encoder = load("timm:test_vit")
    assert torch.equal(encoder.net.cls_token, net.cls_token)
    assert encoder.licence == "apache-2.0"
    assert encoder.source == "https://huggingface.co/timm/test_vit.r160_in1k"


def test_a_local_folder_in_timms_layout_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "license": "mit",
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "fixed_input_size": True,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingError, match=r"expected one of model\.safetensors"):
        load(f"local-dir:{tmp_path}")
    net = load(VIT, seed=4).net
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    encoder = load(f"local-dir:{tmp_path}")
    assert torch.equal(encoder.net.cls_token, net.cls_token)
    assert encoder.transform["mean"] == [0.1, 0.2, 0.3]
    assert encoder.licence == "mit"
    with pytest.raises(MissingError, match=r"expected config\.json"):
        load(f"local-dir:{tmp_path / 'nowhere'}")


def test_layer_scale_in_the_checkpoint_is_built_into_the_model(tmp_path: Path) -> None:
    """UNI's repository does not say that its blocks have layer scale; its keys do."""
    import timm

    net = timm.create_model("test_vit", num_classes=0, init_values=0.3)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = load("timm:test_vit", weights=tmp_path / "pytorch_model.bin")
    assert float(encoder.net.blocks[0].ls1.gamma.mean()) == pytest.approx(0.3)


def test_a_network_may_write_into_its_planes(tmp_path: Path) -> None:
    """Grey is one plane seen three times: what is written into one channel must not show in the others."""
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        x[:, 0] += 1.0\n"
        "        return x.mean(dim=(2, 3))\n"
        "def make_encoder():\n"
        "    return Net()\n"
    )
    encoder = load(f"{tmp_path}/own.py:make_encoder")
    found = encoder(torch.full((2, 1, 8, 8), 0.25)).cls
    np.testing.assert_allclose(found, [[1.25, 0.25, 0.25]] * 2)


def test_folders_in_the_layout_of_transformers_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(RequestError, match="transformers:"):
        load(f"local-dir:{tmp_path}")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(MissingError, match=r"in several \(model.safetensors.index.json"):
        load(f"transformers:{tmp_path}")
