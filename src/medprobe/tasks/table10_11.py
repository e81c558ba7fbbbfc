"""Tables 10 and 11: the ten tasks of the Decathlon, five folds, both readings of what decodes the stacked grids of slices.

The rows are called "Linear Fine-tuning" (`linear3d`), the text describes a decoder with skips (`conv3d`). AdamW at 1e-4 and
cosine, no warm-up, are the paper's, for the supervised networks of the tables too.
"""

from medprobe.datasets.msd import MSD
from medprobe.registry import TASKS
from medprobe.types import Task

TRAINING = {"learning_rate": 1e-4, "warm_up": 0.0}

for place, dataset in enumerate(MSD.values()):
    for head in ("conv3d", "linear3d"):
        task = Task(
            dataset.name, head, TRAINING, image_size=512, window=dataset.recipe, main="dice",
            monitor="dice", table=10 + place // 5,
        )  # fmt: skip
        TASKS.register(task.name)(task)
