"""The conformance kit passes what conforms, and each of its checks can fail."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medprobe.check.encoder import check_encoder
from medprobe.encoders import load
from medprobe.errors import RequestError
from medprobe.types import Features

NAMES = [
    "shapes",
    "dtype",
    "determinism",
    "batch invariance",
    "normalisation",
    "size rule",
    "fixed size",
    "grey",
    "grid orientation",
    "frozen",
]


@pytest.mark.parametrize(
    "spec",
    [
        "pixels",
        "mean-rgb",
        "random:timm:test_vit",
        "random:timm:test_vit3",
        "random:timm:test_convnext",
        "random:timm:test_resnet",
        "random:timm:test_efficientnet",
        "random:timm:test_mambaout",
        "random:timm:vit_small_patch16_dinov3",
        "random:timm:resnet50.tv_in1k@stage3",
        "random:timm:test_convnext+mean-rgb",
        "random:timm:cait_xxs24_224",
    ],
)
def test_encoders_of_every_kind_conform(spec: str) -> None:
    findings = check_encoder(load(spec))
    assert [finding.name for finding in findings] == NAMES
    assert [finding for finding in findings if not finding.ok] == []


def test_bfloat16_conforms_within_its_own_tolerance() -> None:
    assert all(finding.ok for finding in check_encoder(load("random:timm:test_vit", precision="bf16")))


class Toy:
    """A small conforming encoder with one fault switched on by a subclass: 8x8 patches, their mean colours mixed."""

    name, dims, channels, image_size, multiple = "toy", 2, 3, None, 8

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Conv2d(3, 6, 8, 8).requires_grad_(False).eval()
        self.net.weight.copy_(torch.randn(self.net.weight.shape, generator=generator))

    def __call__(self, x: Any) -> Features:
        x = self.prepare(torch.as_tensor(x))
        return self.finish(self.net(x.expand(-1, 3, -1, -1)))

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 8 or x.shape[3] % 8:
            raise RequestError(f"toy: image is {x.shape[2]}x{x.shape[3]} but sides must be multiples of 8")
        return x

    def finish(self, grid: torch.Tensor) -> Features:
        return Features(grid.mean(dim=(2, 3)), grid.mean(dim=(2, 3)), (grid,))


def failed(encoder: Any) -> list[str]:
    return [finding.name for finding in check_encoder(encoder) if not finding.ok]


def broken(**methods: Callable[..., Any]) -> Any:
    return type("Broken", (Toy,), methods)()


def test_the_toy_itself_conforms() -> None:
    assert failed(Toy()) == []


def plain(self: Any, grid: torch.Tensor) -> Features:
    return Toy.finish(self, grid)


def test_wrong_shapes_are_found() -> None:
    assert "shapes" in failed(broken(finish=lambda self, grid: Features(grid, None, (grid,))))
    assert "shapes" in failed(broken(finish=lambda self, grid: Features(None, None, (grid,))))
    assert "shapes" in failed(broken(__call__=lambda self, x: torch.zeros(2, 3)))
    stated = broken()
    stated.dim = 5
    assert failed(stated) == ["shapes"]


def test_half_precision_features_are_found() -> None:
    assert failed(broken(finish=lambda self, grid: plain(self, grid.double()))) == ["dtype"]


def test_dropout_left_on_is_found() -> None:
    found = failed(broken(finish=lambda self, grid: plain(self, nn.functional.dropout(grid, 0.5, training=True))))
    assert "determinism" in found


def test_batch_statistics_are_found() -> None:
    assert (
        failed(broken(finish=lambda self, grid: plain(self, grid - grid.mean(dim=0, keepdim=True) * 0.01)))[0]
        == "batch invariance"
    )


def test_a_division_by_the_planes_own_spread_is_found() -> None:
    def spread(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = Toy.prepare(self, x)
        return (x - x.mean(dim=(1, 2, 3), keepdim=True)) / x.std(dim=(1, 2, 3), keepdim=True)

    assert failed(broken(prepare=spread)) == ["normalisation"]


def test_an_encoder_that_sees_nothing_is_found() -> None:
    assert "normalisation" in failed(broken(finish=lambda self, grid: plain(self, torch.zeros_like(grid))))


def test_a_silent_crop_to_a_multiple_is_found() -> None:
    def crop(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : x.shape[2] // 8 * 8, : x.shape[3] // 8 * 8]

    assert failed(broken(prepare=crop)) == ["size rule"]


def test_an_unclear_refusal_is_found() -> None:
    def unclear(self: Any, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 8:
            raise ValueError("bad")
        return x

    assert failed(broken(prepare=unclear)) == ["size rule"]


def test_a_tied_encoder_that_takes_another_size_is_found() -> None:
    assert failed(broken(image_size=64)) == ["fixed size"]


def test_grey_that_is_not_replicated_is_found() -> None:
    def first_only(self: Any, x: Any) -> Features:
        x = self.prepare(torch.as_tensor(x))
        if x.shape[1] == 1:
            x = torch.cat([x, torch.zeros_like(x), torch.zeros_like(x)], dim=1)
        return self.finish(self.net(x))

    assert failed(broken(__call__=first_only)) == ["grey"]


@pytest.mark.parametrize(
    "turn", [lambda grid: grid.transpose(2, 3), lambda grid: grid.flip(2), lambda grid: grid.flip(3)]
)
def test_a_turned_grid_is_found(turn: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert "grid orientation" in failed(broken(finish=lambda self, grid: plain(self, turn(grid))))


def test_a_trainable_or_training_network_is_found() -> None:
    trainable, training = Toy(), Toy()
    trainable.net.requires_grad_(True)
    assert "frozen" in failed(trainable)
    training.net.train()
    assert failed(training) == ["frozen"]


def test_a_network_that_changes_when_called_is_found() -> None:
    def drift(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.net.bias.add_(1e-9)
        self.net.weight[0, 0, 0, 0] += 1e-6
        return Toy.prepare(self, x)

    assert "frozen" in failed(broken(prepare=drift))


def test_volumes_are_checked_along_three_axes() -> None:
    class Volume:
        name, dims, channels, image_size, multiple = "volume", 3, 1, None, 4

        def __call__(self, x: Any) -> Features:
            x = torch.as_tensor(x)
            if any(side % 4 for side in x.shape[2:]):
                raise RequestError("sides must be multiples of 4")
            grid = nn.functional.avg_pool3d(x, 4)
            return Features(None, grid.mean(dim=(2, 3, 4)), (grid,))

    assert failed(Volume()) == []
    turned = type("Turned", (Volume,), {"__call__": lambda self, x: _turn(Volume.__call__(self, x))})()
    assert failed(turned) == ["grid orientation"]


def _turn(made: Features) -> Features:
    return Features(None, made.patch_mean, (made.grid.transpose(2, 4),))


def test_numpy_features_are_as_good_as_torch_ones() -> None:
    class Numpy(Toy):
        def finish(self, grid: torch.Tensor) -> Features:
            made = super().finish(grid)
            return Features(np.asarray(made.cls), np.asarray(made.patch_mean), (np.asarray(made.grid),))

    assert failed(Numpy()) == []
