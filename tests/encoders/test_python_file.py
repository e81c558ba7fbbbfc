"""`file.py:make_encoder`: a module or an encoder of one's own, and every way to get it wrong."""

import re
from pathlib import Path

import pytest
import torch

from medprobe.check.encoder import check_encoder
from medprobe.encoders import load
from medprobe.errors import MissingError, RequestError


def test_a_trained_network_from_a_file_conforms(resnet56: Path) -> None:
    encoder = load(f"{resnet56}:make_encoder")
    made = encoder(torch.rand(2, 3, 64, 96))
    assert (encoder.dim, encoder.params) == (64, 853_018 - 650)
    assert made.grid.shape == (2, 64, 16, 24)
    assert torch.allclose(made.cls, made.patch_mean, atol=1e-5)
    assert [finding for finding in check_encoder(encoder) if not finding.ok] == []


def test_a_trained_network_separates_two_textures_better_than_chance(resnet56: Path) -> None:
    """Weights are really in: smooth and noisy planes lie far apart, against the spread within each kind."""
    generator = torch.Generator().manual_seed(0)
    noisy = torch.rand(8, 3, 32, 32, generator=generator)
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    encoder = load(f"{resnet56}:make_encoder")
    one, other = encoder(noisy).cls, encoder(smooth).cls
    assert (one.mean(0) - other.mean(0)).norm() > one.std(0).norm()


def test_the_bytes_of_the_file_enter_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "enc.py"
    path.write_text(MODULE.format(body="return x.mean(dim=(2, 3))"))
    first = load(f"{path}:make")
    assert load(f"{path}:make").weights_sha256 == first.weights_sha256
    path.write_text(path.read_text() + "# a remark\n")
    assert load(f"{path}:make").weights_sha256 != first.weights_sha256


MODULE = """
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        {body}

def make():
    return Net()
"""

ENCODER = """
from medprobe import types

class Own:
    name, dims, channels, image_size = "own", 2, 1, None
    def __call__(self, x):
        return types.Features(cls=x.mean(dim=(2, 3)))

def make():
    return Own()
"""


DENSE = """
from torch import nn

class Net(nn.Module):
    calls = 0
    def forward_dense(self, x):
        Net.calls += 1
        return x[:, :, ::4, ::4]
    def forward(self, x):
        {body}

def make():
    return Net()
"""


@pytest.mark.parametrize(("body", "calls"), [("return self.forward_dense(x).amax((2, 3))", 1), ("return self.forward_dense(x / 2).amax((2, 3))", 2), ("return x.amax((2, 3))", 1)])
def test_planes_pass_the_trunk_once_where_the_vector_comes_from_the_dense_map(tmp_path: Path, body: str, calls: int) -> None:
    path = tmp_path / "dense.py"
    path.write_text(DENSE.format(body=body))
    encoder = load(f"{path}:make")
    net = type(encoder.net)
    for planes in (torch.rand(2, 3, 16, 16), torch.rand(3, 3, 8, 16)):
        net.calls = 0
        made = encoder(planes)
        assert net.calls == calls
        assert torch.equal(made.grid, planes[:, :, ::4, ::4])
        assert torch.allclose(made.patch_mean, made.grid.mean((2, 3)))


def test_an_encoder_object_is_taken_as_it_is_and_its_input_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(ENCODER)
    encoder = load(f"{path}:make")
    x = torch.rand(2, 1, 20, 30)
    assert torch.equal(encoder(x).cls, x.mean(dim=(2, 3)))
    with pytest.raises(RequestError, match="channels"):
        encoder(torch.rand(2, 3, 20, 30))


def test_weights_drawn_inside_the_function_follow_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "enc.py"
    path.write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))\n"
    )
    one, same, other = load(f"{path}:make", seed=1), load(f"{path}:make", seed=1), load(f"{path}:make", seed=2)
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256


def test_a_relative_path_and_a_neighbouring_module_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neighbour_of_enc.py").write_text(MODULE.format(body="return x.mean(dim=(2, 3))"))
    (tmp_path / "enc.py").write_text("from neighbour_of_enc import make\n")
    monkeypatch.chdir(tmp_path)
    assert load("enc.py:make").name == "enc.py:make"


def test_a_tied_size_is_read_from_the_module(tmp_path: Path) -> None:
    path = tmp_path / "enc.py"
    path.write_text(
        MODULE.format(body="return x.mean(dim=(2, 3))").replace("def forward", "image_size = 48\n    def forward")
    )
    encoder = load(f"{path}:make")
    assert encoder.image_size == 48
    with pytest.raises(RequestError, match="image is 64x64 but the encoder is tied to 48x48; resize to 48x48"):
        encoder(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def mkae(): pass", "no function 'make'; did you mean mkae"),
        ("x = 1", "no function 'make'; it defines no function"),
        ("def make(): return 3", "must return an Encoder or a torch.nn.Module, found int"),
        ("def make(): raise ValueError('no such thing')", "failed with ValueError: no such thing"),
        ("import not_a_library", "failed with ModuleNotFoundError"),
        ("def make(:", "failed with SyntaxError"),
        (MODULE.format(body="return x"), r"forward must return \(N, D\), found shape \(1, 3, 224, 224\)"),
        (MODULE.format(body="return [x]"), r"forward must return \(N, D\), found list"),
        (MODULE.format(body="return x.reshape(1, 2, 3)"), "failed on a grey 224x224 plane with RuntimeError"),
        (
            MODULE.format(body="return x.mean(dim=(2, 3))").replace("def forward", "mean = (0.5,)\n    def forward"),
            "mean must hold three numbers",
        ),
        (
            MODULE.format(body="return x.mean(dim=(2, 3))") + "\nNet.forward_dense = lambda self, x: x[0]",
            r"forward_dense must return \(N, D, h, w\)",
        ),
    ],
)
def test_what_is_wrong_with_the_file_is_said_before_any_data_are_read(code: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "enc.py"
    path.write_text(code)
    with pytest.raises(RequestError, match=message):
        load(f"{path}:make")


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=re.escape(str(tmp_path))):
        load("nowhere.py:make")


def test_what_it_imports_from_its_folder_enters_the_digest(tmp_path: Path) -> None:
    digests = []
    for number, body in enumerate(("return x.mean(dim=(2, 3))", "return x.amax(dim=(2, 3))")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"helper_of_it_{number}.py").write_text(MODULE.format(body=body))
        (folder / "enc.py").write_text(f"from helper_of_it_{number} import make\n")
        before = load(f"{folder}/enc.py:make").weights_sha256
        (folder / f"helper_of_it_{number}.py").write_text(MODULE.format(body=body) + "# a remark\n")
        assert load(f"{folder}/enc.py:make").weights_sha256 != before
        digests.append(before)
    assert len(set(digests)) == 2


def test_weights_that_an_encoder_object_reads_by_itself_enter_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(ENCODER.replace("x.mean(dim=(2, 3))", f"x.mean(dim=(2, 3)) * float(__import__('pathlib').Path({str(tmp_path / 'w')!r}).read_text())"))
    digests = []
    for weight in ("1.0", "2.0", "1.0"):
        (tmp_path / "w").write_text(weight)
        digests.append(load(f"{path}:make").weights_sha256)
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return x.reshape(-1, 3)", "one row for each of 1 planes"),
        ("return x.mean(dim=(2, 3)).repeat(2 if len(x) > 1 else 1, 1)", "one row for each of 2 planes, found shape (4, 3)"),
        ("return x.mean(dim=(2, 3))[:1]", "one row for each of 2 planes, found shape (1, 3)"),
        ("return x.mean(dim=(2, 3))[:, :1].repeat(1, len(x))", "cls of 1 numbers as before, found 2"),
        ("import torch\n        return torch.complex(x, x).mean(dim=(2, 3))", "expected real numbers"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_features_that_would_go_to_the_wrong_images_are_refused(tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "enc.py"
    path.write_text(MODULE.format(body=body))
    with pytest.raises(RequestError, match=re.escape(said)):
        load(f"{path}:make")(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize(("attribute", "said"), [("mean = 'abc'", "three numbers"), ("image_size = '32'", "whole number above 0"), ("multiple = 0", "whole number above 0")])
def test_attributes_of_a_wrong_kind_are_named(tmp_path: Path, attribute: str, said: str) -> None:
    path = tmp_path / "enc.py"
    path.write_text(MODULE.format(body="return x.mean(dim=(2, 3))").replace("class Net(nn.Module):", f"class Net(nn.Module):\n    {attribute}"))
    with pytest.raises(RequestError, match=said):
        load(f"{path}:make")


def test_a_file_that_ends_the_program_is_a_wrong_request(tmp_path: Path) -> None:
    path = tmp_path / "enc.py"
    path.write_text("def make():\n    raise SystemExit(0)\n")
    with pytest.raises(RequestError, match="failed with SystemExit"):
        load(f"{path}:make")


def test_a_plus_in_the_path_joins_nothing(tmp_path: Path) -> None:
    from medprobe.tasks.models import resolve

    (tmp_path / "a+b").mkdir()
    path = tmp_path / "a+b" / "enc.py"
    path.write_text(MODULE.format(body="return x.mean(dim=(2, 3))"))
    assert load(resolve(f"{path}:make").spec).dim == 3
    with pytest.raises(RequestError, match=r"enc\.py:make_encoder"):
        resolve(str(path))
