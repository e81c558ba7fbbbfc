"""The conformance kit for encoders: what every number downstream relies on, checked on noise in seconds.

`check_encoder(encoder)` works for any `Encoder`, loaded by us or written elsewhere. Planes are as small as the encoder
allows: four cells of its grid a side, or the size it is tied to.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from medprobe.encoders import fit_size
from medprobe.encoders.sound import of_transform, parts, relative, row, sees_little
from medprobe.errors import MedprobeError, RequestError
from medprobe.types import Features

BATCH_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""Largest difference between features of a plane alone and within a batch of 7, relative to their largest magnitude."""


class Finding(NamedTuple):
    """One check: its name, whether it holds, and what was seen."""

    name: str
    ok: bool
    detail: str

    @property
    def word(self) -> str:
        """What stands before it on a line of its own: ok, FAULT, or warning where it holds but is doubtful."""
        if not self.ok:
            return "FAULT"
        return "warning" if self.detail.startswith("warning, ") else "ok"


def check_encoder(encoder: Any, *, tolerance: float | None = None) -> list[Finding]:
    """All findings, in a fixed order; the encoder conforms when every one is ok.

    `tolerance` bounds batch invariance (default by precision: fp32 1e-4, bf16 2e-2, relative to the largest feature).
    """
    if hasattr(encoder, "features_of"):
        raise RequestError(
            f"{encoder.name} holds features made elsewhere and sees no pixels; there is nothing to check"
        )
    if tolerance is None:
        tolerance = BATCH_TOLERANCE[getattr(encoder, "precision", "fp32")]
    kit = Kit(encoder, tolerance)
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("shapes", kit.shapes),
        ("dtype", kit.dtype),
        ("determinism", kit.determinism),
        ("batch invariance", kit.batch_invariance),
        ("normalisation", kit.normalisation),
        ("size rule", kit.size_rule),
        ("fixed size", kit.fixed_size),
        ("grey", kit.grey),
        ("grid orientation", kit.grid_orientation),
        ("frozen", kit.frozen),
    )
    return [run(name, check) for name, check in checks]


class Fault(Exception):
    """A check that does not hold; its message says what was expected and found."""


def run(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except Fault as fault:
        return Finding(name, False, str(fault))
    except Exception as error:  # whatever an encoder raises on a legal input is a finding
        return Finding(name, False, f"raised {type(error).__name__}: {error}")


class Kit:
    """The checks of one encoder; each returns what it saw, or raises `Fault`."""

    def __init__(self, encoder: Any, tolerance: float) -> None:
        self.encoder, self.tolerance = encoder, tolerance
        self.dims = encoder.dims
        self.multiple = getattr(encoder, "multiple", 1)
        self.size = fit_size(encoder, max(4 * self.multiple, 64))
        self.rng = np.random.default_rng(0)
        self.state = digest(encoder)

    def planes(self, count: int, channels: int | None = None, size: int | None = None) -> np.ndarray:
        sides = [size or self.size] * self.dims
        return self.rng.random((count, channels or self.encoder.channels or 3, *sides), dtype=np.float32)

    def shapes(self) -> str:
        made = self.encoder(self.planes(2))
        expect(isinstance(made, Features), f"expected Features, found {type(made).__name__}")
        expect(made.cls is not None or made.patch_mean is not None, "expected cls or patch_mean, found neither")
        for name, array in arrays(made):
            axes = 2 + self.dims if name.startswith("grid") else 2
            expect(
                array.ndim == axes and len(array) == 2,
                f"expected {name} with {axes} axes and 2 rows, found shape {array.shape}",
            )
        if self.dims == 2 and made.grids and self.free:
            wide = np.concatenate([self.planes(1), self.planes(1)], axis=3)
            rows, columns = made.grid.shape[2:]
            seen = tuple(self.encoder(wide).grid.shape[2:])
            expect(
                seen == (rows, 2 * columns),
                f"a plane twice as wide must have a grid of {rows}x{2 * columns}, found {seen[0]}x{seen[1]}",
            )
        dim = getattr(self.encoder, "dim", None)
        if made.cls is not None and dim is not None:
            expect(made.cls.shape[1] == dim, f"the encoder states dim {dim}, found {made.cls.shape[1]}")
        return ", ".join(f"{name} {'x'.join(map(str, array.shape[1:]))}" for name, array in arrays(made))

    def dtype(self) -> str:
        made = self.encoder(self.planes(1))
        for name, value in parts(made):
            expect(
                str(getattr(value, "dtype", "")).removeprefix("torch.") == "float32",
                f"expected float32, found {name} of {value.dtype}",
            )
            expect(
                str(getattr(value, "device", "cpu")) == "cpu",
                f"expected features on the cpu, found {name} on {getattr(value, 'device', '')}",
            )
        return "float32 on the cpu"

    def determinism(self) -> str:
        x = self.planes(2)
        difference = relative(self.encoder(x), self.encoder(x))
        allowed = 0.0 if on_cpu(self.encoder) else self.tolerance
        expect(difference <= allowed, f"the same planes twice differ by {difference:.1e}, allowed {allowed:g}")
        return f"the same planes twice differ by {difference:.1e}"

    def batch_invariance(self) -> str:
        x = self.planes(7) * np.linspace(0.25, 1, 7, dtype=np.float32).reshape(-1, 1, *[1] * self.dims)
        together = self.encoder(x)
        difference = max(relative(self.encoder(x[i : i + 1]), row(together, i)) for i in (0, 3, 6))
        expect(
            difference <= self.tolerance,
            f"a plane alone and in a batch of 7 differ by {difference:.1e}, allowed {self.tolerance:g}",
        )
        return f"batch 1 and 7 differ by {difference:.1e}, allowed {self.tolerance:g}"

    def normalisation(self) -> str:
        wrong = of_transform(getattr(self.encoder, "transform", {}))
        expect(not wrong, "; ".join(wrong))
        for value in (0.0, 0.5, 1.0):
            made = self.encoder(np.full_like(self.planes(1), value))
            for name, array in arrays(made):
                expect(bool(np.isfinite(array).all()), f"a constant plane of {value} gives NaN or infinity in {name}")
        dark, bright = self.encoder(self.planes(1) * 0.2), self.encoder(self.planes(1) * 0.2 + 0.8)
        for (name, one), (_, other) in zip(arrays(dark), arrays(bright), strict=True):
            expect(not np.array_equal(one, other), f"a dark and a bright plane give the same {name}")
        little = sees_little(self.encoder, self.planes(1))
        expect(little is None, str(little))
        said = ("planes from 0 to 1 are accepted, constant ones give finite features", *getattr(self.encoder, "notes", ()))
        return "; ".join(said)

    @property
    def free(self) -> bool:
        return self.encoder.image_size is None or getattr(self.encoder, "interpolates", False)

    def size_rule(self) -> str:
        if self.multiple == 1:
            if self.free:
                self.encoder(self.planes(1, size=self.size + 1))
            return "any side is accepted" if self.free else "one size only"
        message = self.refusal(self.planes(1, size=self.size + 1))
        if self.free:
            expect(
                str(self.multiple) in message,
                f"the error for a side of {self.size + 1} must name the multiple {self.multiple}, found: {message}",
            )
        return f"sides that are no multiple of {self.multiple} are refused"

    def fixed_size(self) -> str:
        if self.encoder.image_size is None:
            return "not tied to a size"
        expect(self.size == self.encoder.image_size, f"expected planes of {self.encoder.image_size}, found {self.size}")
        self.encoder(self.planes(1))
        other = self.size + self.multiple
        if self.free:
            self.encoder(self.planes(1, size=other))
            return f"{self.size}, and interpolates to others"
        message = self.refusal(self.planes(1, size=other))
        expect(str(self.size) in message, f"the error for {other} must name the size {self.size}, found: {message}")
        return f"tied to {self.size}, others are refused"

    def refusal(self, x: np.ndarray) -> str:
        """The message of the error that these planes must raise."""
        try:
            self.encoder(x)
        except MedprobeError as error:
            return str(error)
        except Exception as error:
            raise Fault(
                f"planes of {x.shape[-1]} must be refused with a clear error, found {type(error).__name__}: {error}"
            ) from None
        raise Fault(f"planes of {x.shape[-1]} must be refused, and were accepted")

    def grey(self) -> str:
        if self.encoder.channels != 3:
            return "not a three-channel encoder"
        x = self.planes(2, channels=1)
        difference = relative(self.encoder(x), self.encoder(np.repeat(x, 3, axis=1)))
        expect(difference <= self.tolerance, f"a grey plane and its three copies differ by {difference:.1e}")
        return f"one channel and its three copies differ by {difference:.1e}"

    def grid_orientation(self) -> str:
        """Along every axis, a bright square near the start changes cells nearer the start than one near the end does."""
        if self.encoder_grid_is_trivial():
            return "no grid of more than one cell"
        base = self.planes(1) * 0.1 + 0.45
        for axis in range(self.dims):
            first, last = (self.centre(base, axis, end) for end in (False, True))
            name = ("depth", "rows", "columns")[axis + 3 - self.dims]
            expect(
                last[axis] > first[axis],
                f"a square moved along the {name} moves the grid's response from {first[axis]:.2f} to {last[axis]:.2f}",
            )
            others = [abs(last[k] - first[k]) for k in range(self.dims) if k != axis]
            expect(
                all(last[axis] - first[axis] > other for other in others),
                f"a square moved along the {name} moves the grid's response along another axis",
            )
        return "a moved square moves the response the same way"

    def encoder_grid_is_trivial(self) -> bool:
        grids = self.encoder(self.planes(1)).grids
        return not grids or min(grids[-1].shape[2:]) < 2

    def centre(self, base: np.ndarray, axis: int, end: bool) -> list[float]:
        """Where, in fractions of the grid per axis, the response to a bright square lies."""
        x = base.copy()
        third = self.size // 3
        places = [slice(third, 2 * third)] * self.dims
        places[axis] = slice(self.size - third, self.size) if end else slice(0, third)
        x[(slice(None), slice(None), *places)] = 1.0
        change = np.asarray(self.encoder(x).grid, dtype=np.float64) - np.asarray(
            self.encoder(base).grid, dtype=np.float64
        )
        weight = np.square(change).sum(axis=1)[0]
        weight = weight / max(weight.sum(), 1e-300)
        return [
            float(
                (
                    weight * np.linspace(0, 1, weight.shape[k]).reshape([-1 if j == k else 1 for j in range(self.dims)])
                ).sum()
            )
            for k in range(self.dims)
        ]

    def frozen(self) -> str:
        """Last, so that every call above has had its chance to change something."""
        made = self.encoder(self.planes(1))
        expect(
            not any(getattr(value, "requires_grad", False) for _, value in parts(made)), "the features carry a gradient"
        )
        nets = list(networks(self.encoder))
        for net in nets:
            expect(
                not any(parameter.requires_grad for parameter in net.parameters()),
                "a parameter of the network requires a gradient",
            )
            expect(not any(module.training for module in net.modules()), "a module of the network is in training mode")
        expect(digest(self.encoder) == self.state, "calling the encoder changed its weights or buffers")
        return "no gradients, evaluation mode, weights unchanged" if nets else "no gradients"


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Fault(otherwise)


def arrays(made: Features) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(value)) for name, value in parts(made)]


def networks(encoder: Any) -> Iterator[Any]:
    """The torch modules an encoder, or a part of it, holds as attributes."""
    from torch import nn

    for holder in (encoder, *getattr(encoder, "parts", ())):
        yield from (value for value in vars(holder).values() if isinstance(value, nn.Module))


def digest(encoder: Any) -> str:
    from medprobe.encoders.base import digest_state

    return " ".join(digest_state(net.state_dict().items()) for net in networks(encoder))


def on_cpu(encoder: Any) -> bool:
    return all(parameter.device.type == "cpu" for net in networks(encoder) for parameter in net.parameters())
