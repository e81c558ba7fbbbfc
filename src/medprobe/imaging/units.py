"""Windows of fixed units on files that say what their numbers are.

Hounsfield units and standardised uptake values do not depend on how a viewer shows them: under
such a window a file in other units is refused, activities become uptake values where the file says
all that is needed, and MONOCHROME1, VOI tables and sigmoid windows, which say how to show, do not
act.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.raw import Raw, Units

HU, SUV = "Hounsfield units", "uptake values (SUVbw)"


def measured(raw: Raw, wanted: str, window: str, path: Path) -> Raw:
    """The numbers in the unit of a window; CaseError where the file says that they are in
    another."""
    if raw.units is None or raw.units.name == wanted:
        return raw
    factor, why = (raw.units.uptake, raw.units.why) if wanted == SUV else (None, "")
    if factor is None:
        found = f"{raw.units.name} ({why})" if why else raw.units.name
        raise CaseError(
            f"{path}: expected {wanted} under the window {window}, found {found}; convert the "
            "file, or choose a window that suits it (task.window)"
        )
    low, high = raw.full_range
    pixels = (raw.pixels * np.float64(factor)).astype(np.float32)
    return replace(raw, pixels=pixels, full_range=(low * factor, high * factor), units=Units(SUV))
