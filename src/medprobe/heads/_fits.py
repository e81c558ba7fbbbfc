"""What long fits of a network share: their precision, their progress kept and gone on from, and how long a step takes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medprobe.heads import _pooled
from medprobe.types import Context, State

PATIENCE = 1.0
"""Seconds of measuring after which one call is enough."""
SAVE_AFTER = 20.0
"""Seconds after which the progress of a fit is kept again."""
MOMENTS = ("exp_avg", "exp_avg_sq")


def precision(ctx: Context) -> Any:
    """Under --precision bf16 convolutions are computed in it; weights, loss and steps stay fp32."""
    import torch

    return torch.autocast(torch.device(ctx.device).type, torch.bfloat16, enabled=ctx.precision == "bf16")


def copied(net: Any) -> dict[str, Any]:
    """The tensors of a module as they are now."""
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def keep(net: Any, optimiser: Any, best: Mapping[str, Any], curve: Sequence[float], epochs: int, fit: Mapping[str, Any], ctx: Context) -> None:
    """Save a fit after so many epochs: its network, the best one so far, Adam's moments and the validation curve. `fit` says which it is."""
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()} | {f"best.{name}": value for name, value in best.items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{name}.{number}": state[name] for name in ("step", *MOMENTS)}
    arrays = {name: np.atleast_1d(value.detach().cpu().numpy()) for name, value in tensors.items()}
    ctx.checkpoint.save(State(arrays, {"fit": dict(fit), "epochs": epochs, "curve": _pooled.or_none(list(curve))}))


def resume(net: Any, optimiser: Any, best: dict[str, Any], curve: list[float], fit: Mapping[str, Any], ctx: Context) -> int:
    """Go on from what was kept of this very fit; returns the epochs done."""
    import torch

    found = ctx.checkpoint.load()
    if found is None or found.meta.get("fit") != dict(fit):
        return 0
    tensors = {name: torch.as_tensor(array) for name, array in found.tensors.items()}
    net.load_state_dict({name: tensors[f"net.{name}"].reshape(value.shape) for name, value in net.state_dict().items()})
    best.update({name: tensors[f"best.{name}"].reshape(value.shape).to(value.device) for name, value in net.state_dict().items()})
    state = optimiser.state_dict()
    state["state"] = {
        number: {"step": tensors[f"step.{number}"].reshape(()), **{name: tensors[f"{name}.{number}"].reshape(parameter.shape) for name in MOMENTS}}
        for number, parameter in enumerate(net.parameters())
        if f"step.{number}" in tensors  # a parameter that the loss does not reach has no moments
    }
    optimiser.load_state_dict(state)
    curve += [math.nan if score is None else score for score in found.meta["curve"]]
    return int(found.meta["epochs"])


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call, after one that is not counted: the least of up to three, since what delays one is not the call's."""
    call()
    found: list[float] = []
    while len(found) < 3 and sum(found) < PATIENCE:
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)
