"""Encoders whose features mean nothing: numbers of other units, and answers that change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medprobe.check.encoder import check_encoder
from medprobe.encoders import load
from medprobe.encoders.sound import Watch, of_transform
from medprobe.errors import MedprobeError, RequestError
from medprobe.features.encode import Pipeline, Preprocessing
from medprobe.features.store import Encoding
from medprobe.run import plan as planning
from medprobe.run.request import Request

NET = """
import torch
from torch import nn

class Net(nn.Module):
    {attributes}
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.calls = 0
    def forward(self, x):
        {body}

def make():
    return Net()
"""
STEADY = "return x.mean(dim=(2, 3))"
CHANGING = {
    "dropout": "return nn.functional.dropout(x.mean(dim=(2, 3)), 0.2)",
    "random numbers": "return x.mean(dim=(2, 3)) + 0.01 * torch.rand(3)",
    "a counter": "self.calls += 1\n        return x.mean(dim=(2, 3)) * self.calls",
    "running statistics": "return self.norm.train()(x).mean(dim=(2, 3)) + self.norm.running_mean",
}
TOGETHER = {
    "batch normalisation before a mean": "return nn.functional.batch_norm(x, None, None, training=True).mean(dim=(2, 3)) + 0.1",
    "batch normalisation": "return nn.functional.batch_norm(x, None, None, training=True).amax(dim=(2, 3))",
    "the mean of the batch": "return (x - x.mean(dim=0, keepdim=True)).amax(dim=(2, 3))",
    "least and greatest values of the batch": "return ((x - x.min()) / (x.max() - x.min())).mean(dim=(2, 3))",
    "random numbers under a seed": "torch.manual_seed(0)\n        return nn.functional.dropout(x.mean(dim=(2, 3)), 0.5)",
    "the place in the batch": "return x.mean(dim=(2, 3)) * torch.arange(1, len(x) + 1).view(-1, 1).flip(0)",
}


def encoder_of(folder: Path, body: str, attributes: str = ""):
    path = folder / "enc.py"
    path.write_text(NET.format(body=body, attributes=attributes))
    return load(f"{path}:make", image_size=32)


@pytest.mark.parametrize(
    "attributes",
    [
        "mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)",
        "mean = (123.675, 116.28, 103.53)",
        "std = (58.395, 57.12, 57.375)",
        "mean, std = (0.5, 0.5, 0.5), (0.0, 0.2, 0.2)",
        "std = (-0.2, 0.2, 0.2)",
        "mean = (float('nan'), 0.5, 0.5)",
        "std = (0.2, float('inf'), 0.2)",
        "mean = (-0.1, 0.5, 0.5)",
    ],
)
def test_mean_and_std_of_other_units_are_a_fault_of_check_and_refused_by_run(attributes: str, tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, STEADY, attributes)
    assert any("planes from 0 to 1" in said for said in encoder.faults)
    (finding,) = (finding for finding in check_encoder(encoder) if finding.name == "normalisation")
    assert not finding.ok
    (tmp_path / "nothing.toml").touch()
    with pytest.raises(RequestError, match="planes from 0 to 1"):
        planning.make(Request(f"{tmp_path}/enc.py:make", "demo", tmp_path / "out"), lambda *said: None)


@pytest.mark.parametrize("numbers", [([0.0] * 3, [1.0] * 3), ([0.0] * 3, [1 / 255] * 3), ([0.485, 0.456, 0.406], None)])
def test_numbers_that_bring_planes_to_another_range_are_no_fault(numbers: tuple) -> None:
    assert of_transform({"mean": numbers[0], "std": numbers[1]}) == []


def test_the_units_of_a_part_and_of_a_configuration_are_looked_at(tmp_path: Path) -> None:
    wrong = encoder_of(tmp_path, STEADY, "mean = (123.675, 116.28, 103.53)")
    both = load(f"{tmp_path}/enc.py:make+mean-rgb")
    assert both.faults == wrong.faults
    assert of_transform(both.transform)
    config = {"architecture": "test_vit", "pretrained_cfg": {"mean": [127.5] * 3, "std": [127.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert len(load(f"random:local-dir:{tmp_path}").faults) == 2


@pytest.mark.parametrize("body", CHANGING.values(), ids=CHANGING)
def test_an_encoder_that_answers_the_same_planes_otherwise_is_refused(body: str, tmp_path: Path) -> None:
    (said,) = encoder_of(tmp_path, body).faults
    assert "the same planes twice differ" in said
    assert "dropout" in said


@pytest.mark.parametrize("body", TOGETHER.values(), ids=TOGETHER)
def test_an_encoder_that_looks_at_the_other_planes_of_a_batch_is_refused(body: str, tmp_path: Path) -> None:
    (said,) = encoder_of(tmp_path, body).faults
    assert "depend on the batch" in said


@pytest.mark.parametrize(
    "body", ["return ((x - 123.675) / 58.395).mean(dim=(2, 3))", "return (x / 255).mean(dim=(2, 3)) + 1", "return x[:, :, 0, 0] * 0 + 1"]
)
def test_an_encoder_to_which_all_planes_are_nearly_one_is_a_fault_of_check_and_said_by_run(body: str, tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, body)
    assert any("black, white and noise give features" in note for note in encoder.notes)
    (finding,) = (finding for finding in check_encoder(encoder) if finding.name == "normalisation")
    assert not finding.ok


def test_a_vector_that_never_changes_is_a_fault_of_check_though_the_dense_map_does(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, "return torch.ones(len(x), 3)", "forward_dense = lambda self, x: x[:, :, ::8, ::8]")
    (finding,) = (finding for finding in check_encoder(encoder) if finding.name == "normalisation")
    assert not finding.ok
    assert "the same cls" in finding.detail


OWN = "return ((x - torch.as_tensor(self.mean).view(3, 1, 1)) / torch.as_tensor(self.std).view(3, 1, 1)).mean(dim=(2, 3))"


@pytest.mark.parametrize(
    "attributes", ["mean, std = (0.4, 0.5, 0.4), [0.2, 0.2, 0.3]", "mean, std = torch.full((3, 1, 1), 0.4), torch.full((1, 3, 1, 1), 0.2)"]
)
def test_a_mean_that_the_module_takes_off_by_itself_too_is_refused(attributes: str, tmp_path: Path) -> None:
    faults = encoder_of(tmp_path, OWN, attributes).faults
    assert len(faults) == 2
    assert "its forward uses mean" in faults[0]
    left = encoder_of(tmp_path, STEADY, attributes)
    assert left.faults == []
    assert left.transform["mean"][0] == pytest.approx(0.4)


def test_an_encoder_that_writes_into_its_planes_changes_nothing_for_others(tmp_path: Path) -> None:
    encoder_of(tmp_path, "return x.mul_(0.5).mean(dim=(2, 3))")
    planes = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    kept = planes.copy()
    both = load(f"{tmp_path}/enc.py:make+mean-rgb")(planes)
    assert np.array_equal(planes, kept)
    assert torch.equal(both.cls[:, 3:], load("mean-rgb")(kept).cls)


def test_an_encoder_of_single_planes_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="failed on planes of noise with AssertionError"):
        encoder_of(tmp_path, "assert len(x) == 1\n        return x.mean(dim=(2, 3))")


def test_a_module_of_torchscript_is_taken(tmp_path: Path) -> None:
    (tmp_path / "enc.py").write_text(
        "import torch, warnings\nfrom torch import nn\ndef make():\n    warnings.simplefilter('ignore')\n"
        "    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()))\n"
    )
    encoder = load(f"{tmp_path}/enc.py:make")
    assert encoder.faults == []
    assert encoder.dim == 4


def test_a_steady_encoder_has_no_faults(tmp_path: Path) -> None:
    assert encoder_of(tmp_path, STEADY).faults == []
    assert encoder_of(tmp_path, "return self.norm(x).mean(dim=(2, 3))").faults == []


def pipeline_of(encoder, folder: Path):
    """The way of eight pictures through an encoder, in batches of two."""
    from PIL import Image

    from medprobe.features.store import Entry
    from medprobe.types import Source

    sources, entries = {}, []
    for number in range(8):
        path = folder / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(path)
        sources[str(number)] = (Source(path),)
        entries.append(Entry(str(number), 1))
    preprocessing = Preprocessing("full-range", (32, 32), colour=3)
    return Pipeline(encoder, preprocessing, False, batch_size=2, workers=0), entries, sources


def test_what_changes_only_after_a_while_is_caught_at_the_end_of_encoding(tmp_path: Path) -> None:
    from medprobe.features.encode import complete

    late = "self.calls += 1\n        return x.mean(dim=(2, 3)) * (1 if self.calls < 15 else 2)"
    for body, wrong in ((STEADY, False), (late, True)):
        encoder = encoder_of(tmp_path, body)
        assert encoder.faults == []
        pipeline, entries, sources = pipeline_of(encoder, tmp_path)
        encoding = Encoding(tmp_path / f"cache{wrong}", {"wrong": wrong})
        shards = encoding.plan(entries, alone=False)
        if wrong:
            with pytest.raises(MedprobeError, match="encoded again in the end differ"):
                complete(pipeline, shards, sources, lambda *said: None)
        else:
            complete(pipeline, shards, sources, lambda *said: None)


def test_the_watch_looks_at_the_first_planes_alone(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, STEADY)
    watch = Watch(encoder)
    assert watch.last() is None
    assert watch.first(torch.rand(4, 3, 32, 32)) is None
    assert watch.first(torch.full((2, 3, 32, 32), 0.5)) is None
    assert len(watch.planes) == 2
    assert watch.last() is None
