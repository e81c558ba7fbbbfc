"""Stored numbers of DICOM frames to what they stand for: modality transform, unit, and how the
file shows them.

A slope or intercept that is missing or empty is 1 or 0. Black and white are the first display
window, or else the range of the stored bits after the modality transform. A VOI table or sigmoid
window is a curve from values to black and white. Headers are those of dicom_frames.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.dicom_files import pydicom
from medprobe.imaging.dicom_suv import activity
from medprobe.imaging.raw import Curve, Units
from medprobe.imaging.units import HU

UNSPECIFIED = (None, "", "US")
"""Rescale types that say nothing."""


def number(header: Any, keyword: str) -> float | None:
    """The first value of a tag; None where it is missing or empty."""
    value = header.get(keyword)
    first = (
        value if value is None or isinstance(value, str) else next(iter(np.atleast_1d(value)), None)
    )
    return None if first is None or str(first).strip() == "" else float(first)


def rescale_of(header: Any, path: Path) -> tuple[float, float]:
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if slope == 0:
        raise CaseError(
            f"{path}: expected a rescale slope other than 0, found 0, which makes all pixels "
            "alike; correct the header"
        )
    return 1.0 if slope is None else slope, intercept or 0.0


def values_of(header: Any, stored: np.ndarray, path: Path) -> np.ndarray:
    """After the modality transform; as stored where there is none."""
    if header.get("ModalityLUTSequence"):
        return np.asarray(pydicom().pixels.apply_modality_lut(stored, header).astype(np.float32))
    slope, intercept = rescale_of(header, path)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


# ---------------------------------------- unit


def units_of(headers: Sequence[Any], path: Path) -> Units | None:
    """The unit of all frames or files of one image; None where it is not said. CaseError: they
    differ."""
    names = {_unit(header) for header in headers}
    if len(names) > 1:
        said = " and ".join(sorted(name or "none" for name in names))
        raise CaseError(
            f"{path}: expected one unit in all planes, found {said}; put each into a folder of "
            "its own"
        )
    name = names.pop()
    return (
        activity(headers)
        if headers[0].get("Modality") == "PT"
        else None
        if name is None
        else Units(name)
    )


def _unit(header: Any) -> str | None:
    table = header.get("ModalityLUTSequence")
    kind = table[0].get("ModalityLUTType") if table else header.get("RescaleType")
    modality = header.get("Modality")
    if modality == "PT":
        return f"PET units {header.get('Units') or kind} {header.get('SUVType') or ''}".strip()
    if modality == "RTDOSE":
        return f"a dose ({header.get('DoseUnits') or 'GY'})"
    if kind == "HU" or (modality == "CT" and kind in (None, "")):
        return HU
    return None if kind in UNSPECIFIED else f"rescale type {kind}"


# ---------------------------------------- display


def limits_of(headers: Sequence[Any], path: Path) -> tuple[float, float] | None:
    """Black and white of a grey image, the widest of its frames or files; None: the extremes
    of its values, which are floats."""
    limits = [_limits(header, path) for header in _apart(headers)]
    known = [pair for pair in limits if pair is not None]
    return (
        (min(low for low, _ in known), max(high for _, high in known))
        if len(known) == len(limits)
        else None
    )


def curve_of(headers: Sequence[Any], path: Path) -> Curve | None:
    """How the frames or files of one image are shown, where that is no straight line between
    black and white. Low values stay low."""
    headers = _apart(headers)
    if any(header.get("VOILUTSequence") for header in headers):
        curves = {_table(header) for header in headers}
        return curves.pop() if len(curves) == 1 else Curve(("several",), lambda _: _refused(path))
    if not all(_is_sigmoid(header) for header in headers):
        return None
    windows = [window for header in headers if (window := _window(header))]
    low = min(center - width / 2 for center, width in windows)
    high = max(center + width / 2 for center, width in windows)
    return Curve(
        ("sigmoid", low, high), lambda values: _sigmoid(values, (low + high) / 2, high - low)
    )


def _apart(headers: Sequence[Any]) -> list[Any]:
    """Frames that share a header count once."""
    return list({id(header): header for header in headers}.values())


def _limits(header: Any, path: Path) -> tuple[float, float] | None:
    window = _window(header)
    if window is None or header.get("VOILUTSequence") or _is_sigmoid(header):
        return _bit_range(header, path)
    center, width = window
    if str(header.get("VOILUTFunction") or "LINEAR") == "LINEAR":
        # part 3, C.11.2.1.2: half a step to the left and a step narrower than LINEAR_EXACT
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if width > 0 else _bit_range(header, path)


def _is_sigmoid(header: Any) -> bool:
    window = _window(header)
    return window is not None and window[1] > 0 and header.get("VOILUTFunction") == "SIGMOID"


def _sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    exponent = np.clip(-4 * (values.astype(np.float64) - center) / width, -700, 700)
    return np.asarray(1 / (1 + np.exp(exponent)), np.float32)


def _table(header: Any) -> Curve:
    """Of a frame with a VOI table, or without one."""
    if not header.get("VOILUTSequence"):
        return Curve(("none",), lambda values: values)
    item = header.VOILUTSequence[0]
    white = np.float32(2 ** int(item.LUTDescriptor[2]) - 1)

    def shown(values: np.ndarray) -> np.ndarray:
        table = pydicom().pixels.apply_voi_lut(values.astype(np.int32), header, prefer_lut=True)
        return np.clip(np.asarray(table, np.float32) / white, 0, 1)

    return Curve(("table", str(item.LUTDescriptor), str(item.LUTData)), shown)


def _refused(path: Path) -> np.ndarray:
    raise CaseError(
        f"{path}: expected one VOI table for all planes, found several, under which planes are "
        "not alike; choose a window of its values (task.window)"
    )


def _window(header: Any) -> tuple[float, float] | None:
    """Center and width of the first display window."""
    center, width = number(header, "WindowCenter"), number(header, "WindowWidth")
    return None if center is None or width is None else (center, width)


def _bit_range(header: Any, path: Path) -> tuple[float, float] | None:
    """What the stored bits can hold, after the modality transform."""
    table = header.get("ModalityLUTSequence")
    if table:
        return 0.0, float(2 ** int(table[0].LUTDescriptor[2]) - 1)
    if "BitsStored" not in header:
        return None
    bits, signed = int(header.BitsStored), bool(header.get("PixelRepresentation", 0))
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = rescale_of(header, path)
    low, high = sorted(slope * end + intercept for end in ends)
    return low, high
