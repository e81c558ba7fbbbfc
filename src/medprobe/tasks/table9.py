"""Table 9: 18 findings in chest CT from the mean over axial slices, by linear probe and by k-NN; of the original release too, which stands in no table."""

from medprobe.registry import TASKS
from medprobe.types import Task

for head in ("knn", "linear"):
    TASKS.register(f"ctrate/{head}")(Task("ctrate", head, image_size=256, window="ct", table=9))
    TASKS.register(f"ctrate-original/{head}")(Task("ctrate-original", head, image_size=256, window="ct"))
