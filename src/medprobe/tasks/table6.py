"""Table 6: surgical phases frame by frame, linear probe; headline is per video, then per phase, unrelaxed."""

from medprobe.registry import TASKS
from medprobe.types import Task

TASKS.register("autolaparo/linear")(Task("autolaparo", "linear", image_size=256, main="jaccard.phase", table=6))
