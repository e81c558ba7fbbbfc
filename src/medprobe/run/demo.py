"""The demo: phantoms as a user's own data, two encoders without weights, two heads, the controls; the path of a real run."""

from pathlib import Path

import numpy as np

from medprobe.registry import DATASETS
from medprobe.run import plan as planning
from medprobe.run.progress import reporting, say
from medprobe.run.request import Request
from medprobe.run.run import closing_lines, describe, run

PHANTOMS = ("phantom-xray", "phantom-endoscopy")
MODELS = ("random:timm:resnet10t", "random:timm:resnet18d", "pixels", "mean-rgb")
HEADS = ("logreg", "knn")
IMAGE_SIZE = 96


def run_demo(out: Path) -> int:
    """Write phantoms, run every model on every task, and return how many results failed."""
    out.mkdir(parents=True, exist_ok=True)
    tasks = []
    for name in PHANTOMS:
        folder = out / "data" / name
        if not (folder / f"{name}.toml").exists():
            say(f"drawing synthetic patients: {name}")
            twin = DATASETS.get(name).twin
            assert twin is not None
            twin(folder, np.random.default_rng(0))
        tasks += [f"{folder / name}.toml/{head}" for head in HEADS]
    request = Request(",".join(MODELS), ",".join(tasks), out, image_size=IMAGE_SIZE, cache=out / "cache")
    with reporting() as progress:
        plan = planning.make(request, progress)
        for line in describe(plan):
            say(line)
        outcome = run(request, plan, progress)
    for line in closing_lines(outcome, out):
        say(line)
    return len(outcome.failed)
