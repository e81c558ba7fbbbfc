"""For those who would rather import: load an encoder, evaluate it. Heavy libraries are imported when called."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def load_encoder(model: str, weights: str | Path | None = None, device: str = "cpu", image_size: int | None = None, **options: Any) -> Any:
    """The frozen encoder of a model name or spec: call it with (N, 3, H, W) values in [0, 1] to get `Features` on the CPU.

    `options` are those of `medprobe.encoders.load`: precision, layers, seed.
    """
    from medprobe import encoders
    from medprobe.errors import RequestError
    from medprobe.tasks import models

    file = Path(weights) if weights is not None else None
    encoder = encoders.load(models.resolve(model, file).spec, weights=file, device=device, image_size=image_size, **options)
    if encoder.faults:
        raise RequestError(encoder.faults[0])
    return encoder


def convex_adam(
    fixed: Any, moving: Any, *, grid_sp: Any = 6, disp_hw: int = 4, lambda_weight: float = 1.25, niter: int = 80, grid_sp_adam: Any = 2,
    ic: bool = True, selected_smooth: int = 0, learning_rate: float = 1.0, reference_scaling: bool = False,
) -> Any:  # fmt: skip
    """The displacement between two feature images (C, D, H, W), or (C, H, W) of pictures, numpy or torch, without training.

    (3, D, H, W) with components z, y, x, or (2, H, W) with y, x, float32 in voxels; `moving` is sampled at x + u(x). Channels come first:
    a grey volume (D, H, W) is `volume[None]`, else its planes are taken for channels of a picture. What the features measure is
    weighed against `lambda_weight`, so bring them to about unit mean square first (images to [0, 1] at least); `medprobe run` does.

    `grid_sp`: spacing in voxels of the grid of the search, a number or one for each axis; `disp_hw`: its cells that are searched to
    each side; `grid_sp_adam`: spacing of the grid on which Adam makes `niter` steps; `ic`: inverse consistency; `selected_smooth`: side of
    three final mean filters (0: none); `reference_scaling`: the conventions of the original program. RequestError: other shapes or NaN.
    """
    from medprobe.heads._convex_adam import convex_adam as register

    return register(
        fixed, moving, grid_sp=grid_sp, disp_hw=disp_hw, lambda_weight=lambda_weight, niter=niter, grid_sp_adam=grid_sp_adam, ic=ic,
        selected_smooth=selected_smooth, learning_rate=learning_rate, reference_scaling=reference_scaling,
    )  # fmt: skip


@dataclass(frozen=True)
class Results:
    """What `evaluate` found: `results` is the list of result documents, `scores` the combined scores.

    `scores` maps task name → model name → score key → the entry of summary.json (value, low, high, ...).
    """

    results: list[dict[str, Any]]
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]


def evaluate(model: str, task: str, data: str | Path | None = None, out: str | Path | None = None, **options: Any) -> Results:
    """Run models on tasks, as `medprobe run` does, and return what it wrote.

    `options` are the fields of `medprobe.run.request.Request` (seeds, folds, image_size, limit, device, precision, settings,
    cache, ...). Without `out` the results lie in a temporary folder. MedprobeError if a cell failed.
    """
    import json
    import tempfile

    from medprobe.errors import MedprobeError
    from medprobe.run import plan as planning
    from medprobe.run import results as files
    from medprobe.run.progress import reporting
    from medprobe.run.request import Request
    from medprobe.run.run import run

    with tempfile.TemporaryDirectory() as scratch, reporting(quiet=True) as progress:
        folder = Path(out) if out is not None else Path(scratch)
        weights = options.pop("weights", ())
        weights = (str(weights),) if isinstance(weights, str | Path) else tuple(weights)
        if options.get("cache") is not None:
            options["cache"] = Path(options["cache"])
        request = Request(model, task, folder, Path(data) if data is not None else None, weights, **options)
        plan = planning.make(request, progress)
        outcome = run(request, plan, progress)
        if outcome.failed:
            path, message = next(iter(outcome.failed.items()))
            raise MedprobeError(f"{len(outcome.failed)} of {len(outcome.failed) + len(outcome.done)} results failed, the first ({path.relative_to(folder / 'results')}) because: {message}")
        found = [document for path in outcome.done if (document := files.read_result(path)) is not None]
        scores: dict[str, dict[str, Mapping[str, Any]]] = {}
        for parent in sorted({path.parent for path in outcome.done}):
            summary = json.loads((parent / "summary.json").read_text())
            scores.setdefault(summary["task"]["name"], {})[summary["model"]["name"]] = summary["scores"]
        return Results(found, scores)
