"""The models of a request, loaded: one draw of weights, and one choice of layers, each."""

import fnmatch
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medprobe import encoders
from medprobe.encoders.combined import apart
from medprobe.errors import Faults, RequestError
from medprobe.run.request import Request
from medprobe.tasks import models

Progress = Callable[[int, int, str], None]
Grids = tuple[tuple[int, ...] | None, int]
"""Layers by number, or None; how many at even distances then."""
LAST: Grids = (None, 1)


@dataclass(frozen=True)
class Loaded:
    """A model of the request with one draw of its weights."""

    name: str
    spec: str
    encoder: Any
    seeds: tuple[int, ...]
    weights_file: Path | None
    random: bool
    licence: str | None
    grids: Grids = LAST

    @property
    def control(self) -> bool:
        return self.spec in ("pixels", "mean-rgb")

    @cached_property
    def apart(self) -> tuple[Any, tuple[Callable[[np.ndarray], np.ndarray], ...]]:
        """What of the encoder takes planes, if anything, and what describes whole images: for pairs, which are looked at voxel by voxel."""
        return apart(self.encoder)


def load_models(request: Request, faults: Faults, progress: Progress, wanted: Sequence[Grids] = (LAST,)) -> list[Loaded]:
    """Every model of the request, once for each way its grids are wanted."""
    names: list[str] = []
    for part in filter(None, (piece.strip() for piece in request.model.split(","))):
        matches = fnmatch.filter(models.NAMED, part) if any(mark in part for mark in "*?[") else [part]
        if not matches:
            faults.found.append(RequestError(f"no model matches {part!r}; see: medprobe list models"))
        names += [name for name in matches if name not in names]
    if not names:
        faults.found.append(RequestError("expected at least one model after --model, found none; see: medprobe list models"))
    weights = _weights(request.weights, names, faults)
    loaded = []
    for number, name in enumerate(names):
        progress(number, len(names), "loading encoders")
        with faults.collected():
            named = models.resolve(name, weights.get(name))
            random = "random:" in named.spec
            for seeds, grids in itertools.product([(seed,) for seed in request.seeds] if random else [request.seeds], wanted):
                encoder = encoders.load(
                    named.spec, weights=weights.get(name), device=device_of(request.device), precision=request.precision,  # type: ignore[arg-type]
                    image_size=request.image_size, seed=child_seed(seeds[0], "encoder") if random else 0,
                    layers=grids[0], levels=grids[1],
                )  # fmt: skip
                faults.found += [RequestError(said) for said in encoder.faults if said not in map(str, faults.found)]
                loaded.append(Loaded(name, named.spec, encoder, seeds, weights.get(name), random, named.licence, grids))
    return loaded


def _weights(given: Sequence[str], names: Sequence[str], faults: Faults) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if equals and name in names:
            found[name] = Path(file)
        elif equals and not Path(text).exists():
            faults.found.append(RequestError(f"--weights {text}: {name!r} is not among the models {', '.join(names)}; name one of them"))
        elif len(names) == 1:
            found[names[0]] = Path(text)
        else:
            faults.found.append(RequestError(f"--weights {text} does not say for which of the {len(names)} models; write NAME=FILE"))
    return found


def child_seed(root: int, name: str) -> int:
    """The seed of one component: the same root and name give the same number, other names another."""
    return int(np.random.SeedSequence([root, *name.encode()]).generate_state(1)[0])


def device_of(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
