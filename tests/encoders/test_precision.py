"""bf16 in networks of every origin: close to fp32, never equal to it, and none of an encoder object's own affairs."""

import json
from pathlib import Path

import numpy as np
import pytest

from medprobe.encoders import load
from medprobe.encoders.base import without_tf32

torch = pytest.importorskip("torch")

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    multiple = 8
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, 8)
        self.layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first={norm_first}), 2, enable_nested_tensor=False)
        self.out = nn.Parameter(torch.randn(64, 32))
    def forward(self, x):
        return self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1) @ self.out

def make():
    return Net()
"""
OBJECT = """
import torch
from medprobe.types import Features

class Own:
    name, dims, channels, image_size, multiple = "own", 2, 3, None, 8
    def __init__(self):
        self.net = torch.nn.Conv2d(3, 8, 8, 8)
    def __call__(self, x):
        return Features(cls=self.net(x.float()).mean((2, 3)).detach().numpy())

def make():
    return Own()
"""


def alike(name: str, planes: torch.Tensor, **more: object) -> float:
    """Least cosine of vectors in fp32 and bf16."""
    exact, half = (load(name, precision=precision, **more)(planes) for precision in ("fp32", "bf16"))
    one, other = (made.patch_mean if made.cls is None else made.cls for made in (exact, half))
    assert other.dtype == torch.float32
    return float(torch.nn.functional.cosine_similarity(one, other).min())


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_network_of_torchs_own_layers(tmp_path: Path, norm_first: bool) -> None:
    (tmp_path / "net.py").write_text(NETWORK.format(norm_first=norm_first))
    assert 0.999 < alike(f"{tmp_path / 'net.py'}:make", torch.rand(3, 3, 32, 32)) < 1 - 1e-9


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "timm:test_convnext", "timm:test_efficientnet"])
def test_networks_of_timm(name: str) -> None:
    assert 0.999 < alike(f"random:{name}", torch.rand(3, 3, 160, 160)) < 1 - 1e-9


def test_networks_of_transformers_and_open_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="4.56")
    pytest.importorskip("open_clip")
    folder = tmp_path / "dinov2"
    transformers.Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14).save_pretrained(folder)
    assert 0.999 < alike(f"random:transformers:{folder}", torch.rand(3, 3, 56, 56)) < 1 - 1e-9
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    assert 0.999 < alike(f"random:open_clip:local-dir:{tmp_path}", torch.rand(3, 3, 64, 64)) < 1 - 1e-9


def test_pictures_and_volumes_of_anatomix(rng: np.random.Generator) -> None:
    exact, half = (load("random:anatomix", precision=precision).describe for precision in ("fp32", "bf16"))
    for image in (rng.random((1, 32, 48)).astype(np.float32), rng.random((1, 4, 32, 32)).astype(np.float32)):
        one, other = exact(image), half(image)
        assert other.dtype == np.float32
        assert 0.999 < (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other) < 1 - 1e-9


def test_an_encoder_object_keeps_its_own_precision(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OBJECT)
    planes = torch.rand(2, 3, 16, 16)
    with torch.random.fork_rng(devices=[]):
        exact, half = (load(f"{tmp_path / 'own.py'}:make", precision=precision)(planes) for precision in ("fp32", "bf16"))
    assert torch.equal(exact.cls, half.cls)


def test_convolutions_on_a_gpu_are_of_fp32_and_the_setting_is_put_back() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with without_tf32(torch.device("cuda")):
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (*before[:3], False)
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
    with without_tf32(torch.device("cpu")):
        assert cudnn.allow_tf32 == before[3]
