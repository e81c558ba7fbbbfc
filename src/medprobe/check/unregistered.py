"""Every reading of the row "Unregistered" of a registration table: which classes, which distance, which direction, slices or volumes.

The row needs no method, so the reading nearest to the printed one says how a table was measured (methods 7.8).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.metrics import overlap
from medprobe.metrics.surface import measure_surface
from medprobe.run.references import Masks, in_millimetres, spacing_of
from medprobe.types import Case, Dataset

HD, ASD = ("hd95", "hd"), ("asd moving to fixed", "asd fixed to moving", "assd")
PRINTED = ("dice", "hd95", "asd")


@dataclass(frozen=True)
class Reading:
    """Means over pairs: of `classes` (a class, or all), with distances `hd` and `asd`, per volume or per slice; how far it lies from
    the printed row, as the mean relative difference of its three numbers."""

    classes: str
    extent: str
    hd: str
    asd: str
    values: tuple[float, float, float]
    distance: float

    def __str__(self) -> str:
        dice, hd, asd = self.values
        return f"{self.classes}, by {self.extent}: Dice {dice:.4f}, {self.hd} {hd:.4f}, {self.asd} {asd:.4f}"


def readings(dataset: Dataset, cases: Sequence[Case], printed: Mapping[str, float]) -> list[Reading]:
    """All readings of these labelled pairs, the nearest to the printed numbers (`dice`, `hd95`, `asd`) first."""
    masks, millimetres = Masks(dataset), in_millimetres(dataset, cases)
    tables: dict[str, list[dict[str, np.ndarray]]] = {extent: [] for extent in ("volume", "slice")[: dataset.dims - 1]}
    for case in cases:
        pair = masks(case.target)
        fixed, moving = (np.maximum(pair[role].labels, 0) for role in ("fixed", "moving"))
        axes = spacing_of(case, pair["fixed"], dataset.dims, millimetres)
        tables["volume"].append(_measured(moving, fixed, len(dataset.classes), axes))
        if dataset.dims == 3:
            planes = [_measured(one, other, len(dataset.classes), axes[1:]) for one, other in zip(moving, fixed, strict=True) if one.any() or other.any()]
            tables["slice"].append({key: _mean(np.stack([plane[key] for plane in planes])) for key in planes[0]} if planes else {})
    found = []
    for extent, rows in tables.items():
        rows = [row for row in rows if row]
        each = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        names = {"all classes": slice(None), **{name: slice(place, place + 1) for place, name in enumerate(dataset.classes[1:])}}
        for (classes, chosen), hd, asd in itertools.product(names.items(), HD, ASD):
            values = tuple(float(_mean(_mean(each[key][:, chosen].T))) for key in ("dice", hd, asd))
            away = [abs(value - printed[key]) / printed[key] for key, value in zip(PRINTED, values, strict=True) if key in printed]
            found.append(Reading(classes, extent, hd, asd, values, float(np.mean(away)) if away else math.nan))  # type: ignore[arg-type]
    return sorted(found, key=lambda one: one.distance) if printed else found


def _measured(moving: np.ndarray, fixed: np.ndarray, classes: int, spacing: Sequence[float]) -> dict[str, np.ndarray]:
    there, back = (measure_surface(*pair, spacing, range(1, classes), ("hd", "hd95", "asd", "assd")) for pair in ((moving, fixed), (fixed, moving)))
    dice = overlap.overlap(moving, fixed, classes).dice[1:]
    return {"dice": dice, "hd": there["hd"], "hd95": there["hd95"], ASD[0]: there["asd"], ASD[1]: back["asd"], "assd": there["assd"]}


def _mean(rows: np.ndarray) -> np.ndarray:
    """Over the first axis, of what is defined; NaN where nothing is."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, rows, 0).sum(axis=0) / known.sum(axis=0))
