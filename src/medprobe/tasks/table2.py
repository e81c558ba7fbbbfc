"""Table 2: chest X-rays, linear probe at 256 x 256 (paper, Section 3.1). Learning rate, batch and epochs are the head's defaults."""

from medprobe.registry import TASKS
from medprobe.types import Task

for dataset, window in (("nih14", "full-range"), ("rsna", "max")):
    TASKS.register(f"{dataset}/linear")(Task(dataset, "linear", image_size=256, window=window, main="auroc", table=2))
