"""The options of a run as values, and what is wrong with them by themselves."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medprobe.errors import RequestError
from medprobe.features.planes import DEFAULT_BUDGET


@dataclass(frozen=True)
class Request:
    """The options of `medprobe run`, as values."""

    model: str
    task: str
    out: Path
    data: Path | None = None
    weights: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    folds: tuple[int, ...] | None = None
    image_size: int | None = None
    limit: int | None = None
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache: Path | None = None
    cache_budget: int | None = None
    planes_budget: int = DEFAULT_BUDGET
    max_ram: int = 8 << 30
    skip_unreadable: int = 0
    fail_fast: bool = False


def default_cache() -> Path:
    """MEDPROBE_CACHE, else the platform's user cache."""
    import platformdirs

    return Path(os.environ.get("MEDPROBE_CACHE") or platformdirs.user_cache_dir("medprobe"))


def check_options(request: Request) -> None:
    checks = {
        "--precision must be fp32 or bf16": request.precision in ("fp32", "bf16"),
        "--limit must be a whole number above 0": request.limit is None or request.limit > 0,
        "--image-size must be a whole number above 0": request.image_size is None or request.image_size > 0,
        "--batch-size must be auto or a whole number above 0": request.batch_size is None or request.batch_size > 0,
        "--skip-unreadable must be a whole number, 0 or more": request.skip_unreadable >= 0,
        "--seeds must be whole numbers, 0 or more, each once": bool(request.seeds) and min(request.seeds) >= 0 and len(set(request.seeds)) == len(request.seeds),
        "--folds must be whole numbers, each once": request.folds is None or len(set(request.folds)) == len(request.folds),
    }
    wrong = [said for said, holds in checks.items() if not holds]
    if wrong:
        raise RequestError("; ".join(wrong) + "; correct the option")
    for option, folder in (("--out", request.out), ("--cache", request.cache or default_cache())):
        check_folder(option, folder)


def check_folder(option: str, folder: Path) -> None:
    """Make a folder to write to. RequestError: it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"{option} must be a folder, found a file at {folder} or above it; choose another") from None
    except OSError as error:
        raise RequestError(f"{option} {folder} cannot be made ({error.strerror}); choose another, or change the permissions above it") from None
    if not os.access(folder, os.W_OK):
        raise RequestError(f"{option} {folder} cannot be written to; choose another, or change its permissions")
