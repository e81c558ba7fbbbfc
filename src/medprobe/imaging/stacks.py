"""Planes that say where they lie (files of a DICOM series, frames of a DICOM file) as one volume.

They are put in order by their places along their common normal, never by name or number. What is
no volume is refused: planes of several directions, two at one place, a place without one, spacing
that is far from even. Planes that are somewhat unevenly spaced, or that lie on a tilted line, are
read, and `notes` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.canonical import Grid, from_lps, grid_of, orientation, volume_of

TOLERANCE = 0.01
"""How far from even a volume is read without a note: gaps, of the median gap; sideways, of the
length of the stack."""
ROUNDED = 0.015
"""mm that a gap may be off because positions are written to two decimals."""
SAME, SAME_MM = 0.1, 0.25
"""Two planes this near, in median gaps and in mm, are at one place."""
THIN, MISSING = 0.25, 1.5
"""Gaps, in median gaps, below and from which on a stack is not read as if even; nor is one of
which a plane is off by half a gap."""
PARALLEL = 1e-3
"""How far the components of directions, and sizes of pixels in mm, may differ in one volume."""
REASONS = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers",
    "EchoTime", "EffectiveEchoTime", "TriggerTime", "NominalCardiacTriggerDelayTime",
    "ImageType", "AcquisitionTime", "ContentTime", "InstanceNumber",
)  # fmt: skip
"""What may tell two planes at one place apart, first the most telling."""


@dataclass(frozen=True)
class Stack:
    """`order` of the planes along the third axis, which is never turned round; `shape`,
    `affine` of stored (x, y, z) indices."""

    order: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    notes: tuple[str, ...]

    def grid(self, path: Path) -> Grid:
        return grid_of(self.shape, self.affine, path)

    def along_z(self, path: Path) -> bool:
        """Whether its planes are those of the volume, so that no other need be decoded."""
        return bool(orientation(self.affine, path)[2, 0] == 2)

    def volume(self, planes: np.ndarray, path: Path) -> np.ndarray:
        """(1, D, H, W) on canonical axes, from planes (n, H, W) in their order."""
        return volume_of(planes.T, self.affine, path).array[None]


def stacked(headers: Sequence[Any], names: Sequence[str], path: Path, apart: str) -> Stack:
    """The volume of planes that have places and directions. `apart`: what to do with planes
    that are not of one volume."""
    first = headers[0]
    _check_parallel(headers, names, path, apart)
    directions = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    normal = np.cross(*directions)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = [int(place) for place in np.argsort(positions @ normal, kind="stable")]
    positions = positions[order]
    _check_gaps(
        [headers[place] for place in order],
        [names[place] for place in order],
        positions @ normal,
        path,
        apart,
    )
    y, x = (float(size) for size in first.PixelSpacing)
    if len(order) > 1:
        step = (positions[-1] - positions[0]) / (len(order) - 1)
    else:
        step = normal * thickness(first)
    affine = _affine(directions[0] * x, directions[1] * y, step, positions[0])
    if orientation(affine, path)[2, 1] < 0:
        order, affine = (
            order[::-1],
            _affine(directions[0] * x, directions[1] * y, -step, positions[-1]),
        )
    shape = int(first.Columns), int(first.Rows), len(order)
    return Stack(tuple(order), shape, affine, _notes(path, positions, normal))


def thickness(header: Any) -> float:
    """mm from one plane to the next; 1 where the file does not say."""
    return (
        abs(float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0)) or 1.0
    )


def _affine(x: np.ndarray, y: np.ndarray, z: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.stack([x, y, z, origin], axis=1)
    return from_lps(affine)


# ---------------------------------------- refused


def _check_parallel(headers: Sequence[Any], names: Sequence[str], path: Path, apart: str) -> None:
    first = headers[0]
    for name, header in zip(names, headers, strict=True):
        if np.allclose(_sizes(header), _sizes(first), rtol=0, atol=PARALLEL):
            continue
        said = f"found others in {name} than in {names[0]}"
        if (lean := _lean(header, first)) > PARALLEL:
            said += f", {np.degrees(lean):.1f} degrees apart"
        kinds = {
            one: other.get("ImageType") or () for one, other in zip(names, headers, strict=True)
        }
        scout = next((one for one, kind in kinds.items() if "LOCALIZER" in kind), None)
        said += f" ({scout} is a localizer)" if scout else ""
        raise CaseError(
            f"{path}: expected parallel planes with pixels of one size, {said}; {apart}"
        )


def _sizes(header: Any) -> list[float]:
    return [float(value) for value in (*header.ImageOrientationPatient, *header.PixelSpacing)]


def _lean(header: Any, other: Any) -> float:
    """The greatest angle between rows, columns or normals, in radians."""
    axes = []
    for one in (header, other):
        row, column = np.reshape(np.array(one.ImageOrientationPatient, float), (2, 3))
        axes.append(np.stack([row, column, np.cross(row, column)]))
    cosines, sines = (axes[0] * axes[1]).sum(1), np.linalg.norm(np.cross(axes[0], axes[1]), axis=1)
    return float(np.arctan2(sines, cosines).max())


def _check_gaps(
    headers: Sequence[Any], names: Sequence[str], heights: np.ndarray, path: Path, apart: str
) -> None:
    """CaseError: two planes at one place, a place without one, or spacing that is far from
    even."""
    gaps = np.diff(heights)
    if not len(gaps):
        return
    usual, near, far = float(np.median(gaps)), int(np.argmin(gaps)), int(np.argmax(gaps))
    if gaps[near] <= min(SAME_MM, SAME * usual) or gaps[near] <= ROUNDED:
        why = _difference(headers[near], headers[near + 1])
        raise CaseError(
            f"{path}: expected every plane at a place of its own, found {names[near]} and "
            f"{names[near + 1]} {gaps[near]:.4g} mm apart{why}; {apart}"
        )
    off = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max()
    if gaps[near] > THIN * usual and gaps[far] < MISSING * usual and off <= usual / 2:
        return
    if few := _missing(gaps, usual):
        where = f"none for {gaps[far]:.4g} mm between {names[far]} and {names[far + 1]}"
        raise CaseError(
            f"{path}: expected a plane every {usual:.4g} mm, found {where}, {few} missing in all; "
            "fetch those that are missing, or resample it"
        )
    said = _gaps_said(gaps, heights) + _acquisitions(headers)
    raise CaseError(
        f"{path}: expected evenly spaced planes, found {said}; resample them to even spacing, or "
        "write each part as a volume of its own"
    )


def _missing(gaps: np.ndarray, usual: float) -> int:
    """Planes left out, where single gaps, or two in a row, hold whole numbers of the usual
    one; else 0."""
    steps = np.rint(gaps / usual).astype(int)
    whole = (
        np.abs(gaps - steps * usual) <= np.maximum(0.1 * usual, ROUNDED)
    ).all() and steps.min() > 0
    wide = "".join("w" if step > 1 else "." for step in steps)
    return int((steps - 1).sum()) if whole and "www" not in wide else 0


def _gaps_said(gaps: np.ndarray, heights: np.ndarray) -> str:
    """Runs of like gaps: 2.5 mm from z to z, 5 mm from z to z."""
    starts = [0] + [
        place
        for place in range(1, len(gaps))
        if abs(gaps[place] - gaps[place - 1]) > max(ROUNDED, TOLERANCE * gaps[place])
    ]
    ends = [*starts[1:], len(gaps)]
    runs = [
        f"{gaps[start]:.4g} mm from {heights[start]:.6g} to {heights[end]:.6g}"
        for start, end in zip(starts, ends, strict=True)
    ]
    return (
        "gaps of "
        + ", ".join(runs[:4])
        + (f" and {len(runs) - 4} changes more" if len(runs) > 4 else "")
    )


def _acquisitions(headers: Sequence[Any]) -> str:
    numbers = {header.get("AcquisitionNumber") for header in headers} - {None}
    return f" in {len(numbers)} acquisitions" if len(numbers) > 1 else ""


def _difference(one: Any, other: Any) -> str:
    """In which tag two planes at one place differ."""
    for keyword in REASONS:
        values = one.get(keyword), other.get(keyword)
        if None not in values and str(values[0]) != str(values[1]):
            return f", which differ in {keyword} ({values[0]} and {values[1]})"
    return ""


# ---------------------------------------- noted


def _notes(path: Path, positions: np.ndarray, normal: np.ndarray) -> tuple[str, ...]:
    found: list[str] = []
    if len(positions) < 2:
        return ()
    line = positions[-1] - positions[0]
    steps = np.diff(positions, axis=0)
    usual = np.median(steps, axis=0)
    gaps = steps @ normal
    off = np.linalg.norm(steps - usual, axis=1)
    if off.max() > max(TOLERANCE * float(np.linalg.norm(usual)), ROUNDED):
        even = float(np.linalg.norm(line)) / len(steps)
        found.append(
            f"{path}: its planes are not evenly spaced ({gaps.min():.4g} to {gaps.max():.4g} mm "
            f"apart, mostly {float(np.median(gaps)):.4g}) and are read as if {even:.4g} mm apart"
        )
    height = float(line @ normal)
    sideways = float(np.linalg.norm(line - height * normal))
    if sideways > max(TOLERANCE * height, ROUNDED):
        found.append(
            f"{path}: its planes are tilted by {np.degrees(np.arctan2(sideways, height)):.1f} "
            "degrees against the line they lie on, as with a tilted gantry, and are read as they "
            "are: the affine holds the shear"
        )
    return tuple(found)
