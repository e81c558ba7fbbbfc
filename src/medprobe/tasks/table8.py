"""Table 8: five diseases in endoscopy whose masks overlap, a decoder on frozen grids; Dice over the images that hold the class."""

from medprobe.registry import TASKS
from medprobe.types import Task

TASKS.register("edd2020/conv2d")(Task("edd2020", "conv2d", image_size=512, main="dice.present", monitor="dice", table=8))
