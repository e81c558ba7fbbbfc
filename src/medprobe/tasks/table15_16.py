"""Tables 15 and 16: registration of end-diastole (moving) onto end-systole (fixed), CAMUS in pixels of 128 x 128 and ACDC in mm.

Planes reach an encoder at 512 px, 32 x 32 cells of 16 (methods 7.2). `convexadam` is what the tables print; `regnet` is the network of
Section 3.3, for which there is no row.
"""

from medprobe.registry import HEADS, TASKS
from medprobe.types import Task

SIGNED = {"acdc": {"voxelmorph": {"signed": True}, "regnet": {"signed": True}}}
"""ACDC is mapped to [-1, 1] (paper, Section 4)."""

for table, dataset in ((15, "camus"), (16, "acdc")):
    for head in ("convexadam", "voxelmorph", "identity", "regnet"):
        task = Task(
            dataset, head, SIGNED.get(dataset, {}).get(head, {}), image_size=512, reduce=getattr(HEADS.get(head), "reduce", None),
            main="dice", monitor="dice", table=None if head == "regnet" else table,
        )  # fmt: skip
        TASKS.register(task.name)(task)
