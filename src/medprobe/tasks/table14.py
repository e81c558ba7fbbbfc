"""Table 14: tumours in CT, PET, and both, by `conv3d` (the text) and `linear3d` (the name of the rows, "Linear Probing").

Main scores: AutoPET II over the studies that hold a lesion, HECKTOR of primary tumour and nodes as one.
"""

from medprobe.datasets.autopet2 import AUTOPET2
from medprobe.datasets.hecktor2022 import HECKTOR2022
from medprobe.registry import TASKS
from medprobe.types import Task

for datasets, main in ((AUTOPET2, "dice.present"), (HECKTOR2022, "dice.tumour")):
    for dataset in datasets.values():
        for head in ("conv3d", "linear3d"):
            task = Task(dataset.name, head, image_size=512, window=dataset.recipe, main=main, monitor="dice", table=14)
            TASKS.register(task.name)(task)
