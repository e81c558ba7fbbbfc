"""Table 7: instruments in robotic surgery, a decoder on frozen grids. The paper's Instrument IoU is the challenge IoU (methods sheet 5.1)."""

from medprobe.registry import TASKS
from medprobe.types import Task

TASKS.register("endovis18/conv2d")(Task("endovis18", "conv2d", image_size=512, main="challenge_iou", monitor="dice", table=7))
