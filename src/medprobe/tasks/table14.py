"""Table 14: tumours in CT, PET, and both, by `conv3d` (the text) and `linear3d` (the name of the rows, "Linear Probing").

AdamW at 1e-4, linear warm-up and cosine are the paper's, for the supervised networks too; how long it warms up is not stated.
Main scores: AutoPET II over the studies that hold a lesion, HECKTOR of primary tumour and nodes as one.
"""

from medprobe.datasets.autopet2 import AUTOPET2
from medprobe.datasets.hecktor2022 import HECKTOR2022
from medprobe.registry import TASKS
from medprobe.types import Task

TRAINING = {"learning_rate": 1e-4, "warm_up": 0.05}

for datasets, main in ((AUTOPET2, "dice.present"), (HECKTOR2022, "dice.tumour")):
    for dataset in datasets.values():
        for head in ("conv3d", "linear3d"):
            task = Task(
                dataset.name, head, TRAINING, image_size=512, window=dataset.recipe, main=main,
                monitor="dice", table=14,
            )  # fmt: skip
            TASKS.register(task.name)(task)
