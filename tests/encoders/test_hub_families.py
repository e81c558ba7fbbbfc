"""`transformers:` and `open_clip:` from local folders and files; nothing is downloaded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medprobe.encoders import load
from medprobe.errors import MissingError, RequestError

DINOV2 = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers", minversion="4.56")
    net = transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2))
    net.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.equality(
    "transformers, DINOv2 from its own folder: class token and dense map at another size; 1e-5"
)
def test_a_dinov2_folder_gives_what_transformers_gives_at_any_multiple_of_14(dinov2: Path) -> None:
    import transformers

    encoder = load(f"transformers:{dinov2}")
    net = transformers.Dinov2Model.from_pretrained(dinov2).eval()
    x = torch.rand(2, 3, 56, 84)
    with torch.no_grad():
        tokens = net(
            (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        ).last_hidden_state
    made = encoder(x)
    assert (encoder.multiple, encoder.image_size, encoder.dim) == (14, None, 48)
    assert torch.allclose(made.cls, tokens[:, 0], atol=1e-5)
    assert torch.allclose(made.grid.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)
    assert len(load(f"transformers:{dinov2}", layers=(0, 1))(x).grids) == 2


@pytest.mark.parametrize("around", ["", "model.", "teacher.backbone.", "dinov2."])
def test_weights_of_a_training_fit_a_model_of_transformers(around: str, dinov2: Path, tmp_path: Path) -> None:
    state = load(f"transformers:{dinov2}").net.state_dict()
    others = {f"student.{name}": tensor + 1 for name, tensor in state.items()}
    wrapped = {f"{around}{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": wrapped | others}, tmp_path / "w.ckpt")
    encoder = load(f"transformers:{dinov2}", weights=tmp_path / "w.ckpt")
    loaded = encoder.net.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items() if "mask_token" not in name)
    if around:
        assert "student." in encoder.notes[0]


def test_random_weights_need_only_the_configuration(dinov2: Path) -> None:
    (dinov2 / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="expected one of"):
        load(f"transformers:{dinov2}")
    assert (
        load(f"random:transformers:{dinov2}", seed=1).weights_sha256
        == load(f"random:transformers:{dinov2}", seed=1).weights_sha256
    )


def test_a_vit_with_a_learned_table_is_tied_to_its_size_and_interpolates(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="4.56")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=64, patch_size=16
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(MissingError, match="mean and std are unknown"):
        load(f"transformers:{tmp_path}")
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    )
    encoder = load(f"transformers:{tmp_path}")
    assert (encoder.image_size, encoder.interpolates) == (64, True)
    assert encoder.transform["mean"] == [0.5, 0.5, 0.5]
    assert load(f"transformers:{tmp_path}", image_size=96)(torch.rand(1, 3, 96, 96)).grid.shape == (1, 48, 6, 6)


def test_a_dinov3_convnext_gives_its_pooled_token_and_map(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="4.56")
    transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    ).save_pretrained(tmp_path)
    made = load(f"transformers:{tmp_path}")(torch.rand(2, 3, 64, 96))
    assert (made.cls.shape, made.grid.shape) == ((2, 16), (2, 16, 2, 3))


def test_a_checkpoint_of_another_model_is_a_misfit(dinov2: Path, tmp_path: Path) -> None:
    save_file({"embeddings.cls_token": torch.ones(1, 1, 48), "surprise": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(MissingError, match=r"does not fit.*tensors are missing.*unknown to the model \(surprise\)"):
        load(f"transformers:{dinov2}", weights=tmp_path / "other.safetensors")


BIOMEDCLIP = "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def test_biomedclip_from_a_local_file_is_the_768_d_trunk_before_the_projection(tmp_path: Path) -> None:
    import timm

    trunk = timm.create_model("vit_base_patch16_224", num_classes=0)
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    state |= {
        "visual.head.proj.weight": torch.ones(512, 768),
        "text.transformer.x": torch.ones(2),
        "logit_scale": torch.ones(()),
    }
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    encoder = load(BIOMEDCLIP, weights=tmp_path / "open_clip_pytorch_model.bin")
    x = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(encoder.transform[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = trunk.eval().forward_features((x - mean) / std)
    made = encoder(x)
    assert made.cls.shape == (1, 768)
    assert torch.allclose(made.cls, tokens[:, 0], atol=1e-5)
    assert encoder.transform["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert (encoder.image_size, encoder.interpolates) == (224, True)


def test_open_clips_own_tower_gives_tokens_before_the_projection(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    }
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    tower = open_clip.model._build_vision_tower(16, config["vision_cfg"])
    save_file(
        {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    encoder = load(f"open_clip:local-dir:{tmp_path}")
    made = encoder(torch.rand(2, 3, 64, 64))
    assert (made.cls.shape, made.grid.shape) == ((2, 64), (2, 64, 4, 4))
    with torch.no_grad():
        x = torch.full((1, 3, 64, 64), 0.25)
        assert torch.allclose(encoder(x).cls @ tower.proj, tower.eval()((x - 0.5) / 0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("open_clip:ViT-B-23/openai", "did you mean ViT-B-32"), ("open_clip:ViT-B-32/opnai", "did you mean openai")],
)
def test_misspelt_open_clip_names_are_answered(spec: str, message: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(RequestError, match=message):
        load(spec)


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def saved(net: torch.nn.Module, folder: Path) -> str:
    net.save_pretrained(folder)
    numbers = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(numbers))
    return f"transformers:{folder}"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTMAE", {**SMALL, "image_size": 32, "patch_size": 8, "mask_ratio": 0.0}),
        ("ViTMAE", {**SMALL, "image_size": 32, "patch_size": 8}),
        ("Swin", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 4}),
        ("Bert", {**SMALL, "vocab_size": 50}),
    ],
)
def test_a_network_without_a_token_for_each_patch_in_its_place_is_refused(
    name: str, settings: dict, tmp_path: Path
) -> None:
    """A masked autoencoder shuffles its patches, also where none is masked."""
    transformers = pytest.importorskip("transformers", minversion="4.56")
    net = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))
    with pytest.raises(RequestError, match=f"token for each patch.*found {name}Model: "):
        load(saved(net, tmp_path))


def test_a_vit_of_transformers_is_taken(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="4.56")
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    made = load(saved(transformers.ViTModel(config), tmp_path))(torch.rand(2, 3, 32, 32))
    assert made.grid.shape == (2, 32, 4, 4)
