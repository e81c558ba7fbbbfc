"""Table 5: capsule endoscopy, linear probe on 11 classes; official two folds, mean of both."""

from medprobe.registry import TASKS
from medprobe.types import Task

TASKS.register("kvasir-capsule/linear")(Task("kvasir-capsule", "linear", image_size=256, main="f1.macro", table=5))
