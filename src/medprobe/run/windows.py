"""Whether the numbers of the images are those that a window is for: a look at one plane of a few images, before hours are spent.

Air lies below most windows of Hounsfield units, and a background of one value below any, so neither counts as outside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.imaging import formats
from medprobe.imaging.recipes import RELATIVE, UNITS, WINDOWS, windows_of
from medprobe.imaging.units import measured
from medprobe.types import Case, Source

TRIED = 4
"""Images that a plan looks at."""
AIR = -1100.0
"""Hounsfield units below which there is nothing; scanners pad with a single value."""
NO_AIR = -300.0
"""An image with nothing below this holds neither air nor lung."""
MOST, ALL, FLAT, DARK = 0.5, 0.95, 1 / 20, 1 / 8
"""Shares: of pixels beside the background, and of all, that lie outside; of a window that values span; of the range of a number
type that they reach."""


class _Look(NamedTuple):
    """At one plane: `share` of pixels outside (0: they lie inside), least and greatest value, and what is black and white."""

    share: float
    least: float
    greatest: float
    limits: tuple[float, float]


def findings(window: str, cases: Sequence[Case], tried: int = TRIED) -> list[str]:
    """A sentence for each window that most of a few images do not fit; none for windows that follow the image."""
    chosen = (
        [cases[place] for place in np.unique(np.linspace(0, len(cases) - 1, tried).astype(int))]
        if cases
        else []
    )
    looks: dict[str, list[_Look]] = {}
    for case in chosen:
        for name, look in _looks(window, case):
            looks.setdefault(name, []).append(look)
    return [said for name, found in looks.items() if (said := _said(name, found))]


def _looks(window: str, case: Case) -> Iterator[tuple[str, _Look]]:
    for sources in case.images.values():
        for source, names in zip(sources, windows_of(sources, window), strict=True):
            if set(names) & set(RELATIVE) or len(names) > 1:
                continue
            try:
                bare = replace(source, grid=None, window=None)
                look = _look(bare, names[0], formats.changed(bare))
            except MedprobeError:  # said where it is decoded
                continue
            if look is not None:
                yield names[0], look


@lru_cache(maxsize=256)
def _look(source: Source, name: str, changed: tuple[int, ...]) -> _Look | None:
    """At the middle plane of a source, once for all tasks; None of videos and of colours of 8 bit, whose range is never in doubt."""
    if formats.identify(source.path) == "video":
        return None
    middle = formats.count_planes(source) // 2
    raw = formats.read(source, middle, middle + 1)
    if name in UNITS:
        raw = measured(raw, UNITS[name], name, source.path)
    values = raw.pixels.astype(np.float64).ravel()
    least, greatest = float(values.min()), float(values.max())
    rule = WINDOWS[name]
    low, high = raw.full_range if rule is None else rule([])
    if len(raw.pixels) > 1 and (rule is not None or high <= 255):
        return None
    if rule is None:
        if raw.curve is not None or least == greatest:
            return None
        dark = raw.pixels.dtype.kind in "iu" and greatest - low < DARK * (high - low)
        return _Look(float(dark), least, greatest, (low, high))
    return _Look(
        _outside(values, low, high, hounsfield=name != "suv"), least, greatest, (low, high)
    )


def _outside(values: np.ndarray, low: float, high: float, *, hounsfield: bool) -> float:
    """The share of pixels outside a window of a fixed unit, 0 where its unit may be theirs."""
    least, greatest = values.min(), values.max()
    beside = values[values > least] if greatest > least else values
    floor = min(low, AIR) if hounsfield else -np.inf
    shares = [(float(((beside > high) | (beside < floor)).mean()), MOST)]
    shares.append((float(((values < low) | (values > high)).mean()), ALL))
    if (
        hounsfield and least > NO_AIR
    ):  # no air: numbers as they are stored, of which the brighter half is the body
        shares.append((float((values[values > values.mean()] > high).mean()), MOST))
    if 0 < greatest - least < FLAT * (high - low):
        shares.append((1.0, MOST))
    return max((share for share, limit in shares if share > limit), default=0.0)


def _said(name: str, looks: Sequence[_Look]) -> str | None:
    """One line, where most of the looks are at something else than the window is for."""
    off = [look for look in looks if look.share]
    if len(off) <= len(looks) / 2:
        return None
    low, high = off[0].limits
    least, greatest = min(look.least for look in off), max(look.greatest for look in off)
    counts = f"in {len(off)} of {len(looks)} images tried"
    if WINDOWS[name] is None:
        reason, advice = _dim(greatest, high), "use --set task.window=max, minmax or percentile"
        return f"{counts} no pixel is brighter than {greatest:g}, where the window full-range is white at {high:g}: {reason}; {advice}"
    span = f"values {least:g} to {greatest:g}, window {name} {low:g} to {high:g}"
    if least < greatest < least + FLAT * (high - low):
        return f"{counts} all pixels lie within a twentieth of the window ({span}): they were scaled before; use another window"
    share = np.mean([look.share for look in off])
    reason = _reason(name, least, greatest)
    return f"{counts} most pixels ({share:.0%} beside the background) lie outside the window ({span}): {reason}; correct them, or use another window"


def _dim(greatest: float, white: float) -> str:
    if white <= 255:
        return "class numbers rather than an image, perhaps"
    return f"{max(8, int(greatest).bit_length())}-bit numbers in {int(white).bit_length()}-bit files, perhaps"


def _reason(name: str, least: float, greatest: float) -> str:
    """What such numbers most likely are."""
    if name == "suv":
        return "Bq/ml rather than SUV, perhaps"
    if least > NO_AIR:
        bits = max(12, int(greatest).bit_length())
        return f"{bits}-bit numbers as stored rather than Hounsfield units, perhaps: the rescale is missing"
    if greatest <= AIR + 1000 or least < 2 * AIR:
        return "Hounsfield units rescaled twice, perhaps"
    return "no Hounsfield units, perhaps"
