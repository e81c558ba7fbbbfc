"""Tables 10 and 11: the ten tasks of the Decathlon, five folds, both readings of what decodes the stacked grids of slices.

The rows are called "Linear Fine-tuning" (`linear3d`), the text describes a decoder with skips (`conv3d`).
"""

from medprobe.datasets.msd import MSD
from medprobe.registry import TASKS
from medprobe.types import Task

for place, dataset in enumerate(MSD.values()):
    for head in ("conv3d", "linear3d"):
        task = Task(dataset.name, head, image_size=512, window=dataset.recipe, main="dice", monitor="dice", table=10 + place // 5)
        TASKS.register(task.name)(task)
