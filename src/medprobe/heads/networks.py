"""A network on the planes themselves as a head: what those of MONAI, and a user's own, have in common.

One's own is one line (docs/add-a-head.md).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from medprobe.heads import _pooled
from medprobe.heads._dense import Segmenter, VolumeSegmenter
from medprobe.registry import HEADS


@dataclass(frozen=True)
class PixelNetwork(Segmenter):
    """Trained from nothing on the last grid, which of the encoder `pixels` is the plane: the supervised baselines.

    The plane is brought to `side`, where it is larger (antialiased bilinear), and to a multiple of `multiple`, twice it at
    least; the network sees patches of that shape.
    """

    supervised: ClassVar[bool] = True
    multiple: ClassVar[int] = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5

    @abstractmethod
    def make(self, channels: int, outputs: int, patch: tuple[int, ...]) -> Any:
        """A torch module from (N, channels, *patch) to logits (N, outputs, *patch); patch is (H, W) or (D, H, W)."""

    def network(self, widths: Sequence[int], grid: tuple[int, int], outputs: int, side: int) -> Any:
        from torch import nn
        from torch.nn.functional import interpolate

        def fitted(length: int) -> int:
            return max(2, -(-min(length, side) // self.multiple)) * self.multiple

        plane = fitted(grid[0]), fitted(grid[1])
        patch = plane if self.pieces is None else (self.pieces, *plane)
        made = self.make(widths[-1], outputs, patch)

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = made

            def forward(self, grids: Any) -> Any:
                x = grids[-1]
                if tuple(x.shape[-2:]) != plane:
                    flat = x.flatten(1, -3) if x.ndim == 5 else x
                    flat = interpolate(flat, size=plane, mode="bilinear", antialias=True, align_corners=False)
                    x = flat.reshape(*x.shape[:-2], *plane)
                return self.net(x)

        return Network()


@dataclass(frozen=True)
class VolumeNetwork(PixelNetwork, VolumeSegmenter):
    """As `PixelNetwork`, of volumes."""

    batch_size: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.depth % self.multiple == 0
        _pooled.require(fits, type(self).__name__.lower(), "depth", f"a multiple of {self.multiple}", self.depth)


def network(name: str, make: Callable[[int, int, tuple[int, ...]], Any], *, dims: int = 3, multiple: int = 16) -> Any:
    """Register a network as the head `name`, and return the head; `multiple`: of what its sides must be.

    `make(channels, outputs, patch)` gives a torch module from (N, channels, *patch) to logits (N, outputs, *patch).
    """
    base = VolumeNetwork if dims == 3 else PixelNetwork
    head = type(name, (base,), {"multiple": multiple, "make": lambda self, *given: make(*given), "__module__": __name__})
    return HEADS.register(name)(dataclass(frozen=True)(head))


def monai(module: str, name: str) -> Any:
    """A class of `monai.networks.nets`; importing it warns of what does not concern us."""
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(f"monai.networks.nets.{module}"), name)
