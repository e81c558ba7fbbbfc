"""medprobe measures what a frozen vision encoder knows about medicine: one encoder, every task, one command."""

from medprobe import metrics
from medprobe.api import Results, convex_adam, evaluate, load_encoder
from medprobe.types import Case, Dataset, Encoder, Features, Head, Image, Sample, Score, State, Task

__version__ = "0.1.0"

__all__ = [
    "Case", "Dataset", "Encoder", "Features", "Head", "Image", "Results", "Sample", "Score", "State", "Task",
    "convex_adam", "evaluate", "load_encoder", "metrics",
]  # fmt: skip
