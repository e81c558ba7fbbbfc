"""The printed numbers of the paper: their values and digits, and how far apart they stand.

`published.csv` has the 911 numbers; 42 of them, the scores of registration, have a standard deviation printed beside
them, which is a number of its own here ("dice sd").
"""

import csv
import math
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from itertools import combinations
from pathlib import Path

Cell = Mapping[str, str]
SD = " sd"
"""Ends the metric of a printed standard deviation."""
SIZES = tuple(f"{family}-{size}" for family in ("DINOv3", "DINO") for size in ("S", "B", "L"))


@cache
def published() -> tuple[dict[str, str], ...]:
    """The 911 printed numbers."""
    with (Path(__file__).parent / "published.csv").open(newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def cells() -> tuple[dict[str, str], ...]:
    """Every printed number, standard deviations after the scores that they belong to."""
    found = []
    for cell in published():
        found.append(cell)
        if cell["std"]:
            found.append({**cell, "metric": cell["metric"] + SD, "value": cell["std"], "std": ""})
    return tuple(found)


def _exact(cell: Cell) -> Decimal:
    return Decimal(cell["value"]).scaleb(-2 if cell["unit"] == "percent" else 0)


def value_of(cell: Cell) -> float:
    """The printed number as a fraction; as it is where it is none."""
    return float(_exact(cell))


def text_of(cell: Cell) -> str:
    """The printed number with every digit that is printed, percent as a fraction."""
    return "nan" if _exact(cell).is_nan() else f"{_exact(cell):f}"


def step_of(cell: Cell) -> float:
    """One unit of the last printed digit."""
    exponent = _exact(cell).as_tuple().exponent
    return 10.0**exponent if isinstance(exponent, int) else math.nan


def column_of(cell: Cell) -> tuple[str, ...]:
    """What is printed below each other: table, dataset, task (Table 14: modality) and metric."""
    return tuple(cell[name] for name in ("table", "dataset", "task", "metric"))


def is_dinov3(cell: Cell) -> bool:
    """Whether the row is one of the sizes S, B and L."""
    return cell["method"].partition("+")[0].removesuffix("/16") in SIZES


@cache
def _sizes(column: tuple[str, ...]) -> tuple[Cell, ...]:
    """The rows of DINOv3 in a column."""
    return tuple(cell for cell in cells() if column_of(cell) == column and is_dinov3(cell))


def tolerance(cell: Cell) -> float:
    """How far from the printed number ours may lie: below half the distance of the sizes of DINOv3 in its column.

    Of a row of DINOv3 it is half the distance to the nearest other size, less one unit of the last digit, by which the
    prints of both may be rounded; so no size agrees with the number of another. Of other rows, half the smallest
    distance of two sizes that the digits tell apart. 0 where the digits leave nothing.
    """
    value, step = value_of(cell), step_of(cell)
    sizes = _sizes(column_of(cell))
    if is_dinov3(cell):
        alike = [one for one in sizes if one["adaptation"] == cell["adaptation"]]
        gaps = [abs(value_of(one) - value) for one in alike if one is not cell]
    else:
        pairs = [abs(value_of(one) - value_of(other)) for one, other in combinations(sizes, 2)]
        gaps = [gap for gap in pairs if gap > step + 1e-9]
    half = (min(gaps, default=math.nan) - step) / 2
    return half if half > 1e-9 else 0.0
