"""A header for each frame of a DICOM file, whether a tag lies at the top, in the shared functional
groups or in the frame's own.

Enhanced CT, MR and PET keep there what classic files keep at the top: rescale, window, place,
direction, size of pixels. Planes of a dose (RTDOSE) are placed by their offsets and scaled by the
dose.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging.dicom_files import pydicom

SHARED, OWN = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
GROUPS = (
    "PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence",
    "PlaneOrientationSequence", "PlanePositionSequence", "MREchoSequence",
    "TemporalPositionSequence", "FrameContentSequence",
)  # fmt: skip
"""Functional groups whose tags are those of a classic file."""
TAGS = (
    "SeriesInstanceUID", "SeriesDescription", "ImageType", "Modality", "NumberOfFrames", "Rows",
    "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction", "WindowCenter",
    "WindowWidth", "DoseGridScaling", "DoseUnits", "GridFrameOffsetVector", "Units", "SUVType",
    "DecayCorrection", "PatientWeight", "SeriesDate", "SeriesTime", "AcquisitionDate",
    "AcquisitionTime", "RadiopharmaceuticalInformationSequence", "Manufacturer",
    "AcquisitionNumber", "EchoNumbers", "EchoTime", "EffectiveEchoTime",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime",
    "NominalCardiacTriggerDelayTime", "ContentTime", "InstanceNumber", SHARED, OWN,
)  # fmt: skip


def frames_of(dataset: Any, path: Path) -> list[Any]:
    """As many headers as the file has frames; frames that share everything share one."""
    total = int(dataset.get("NumberOfFrames") or 1)
    top = _top(dataset)
    for group in dataset.get(SHARED) or ():
        _add(top, group)
    own = dataset.get(OWN) or ()
    if own and len(own) != total:
        raise CaseError(
            f"{path}: expected functional groups for each of {total} frames, found {len(own)}; "
            "the file may be partial, fetch it again"
        )
    if own:
        return [_with(top, group) for group in own]
    offsets = dataset.get("GridFrameOffsetVector")
    if offsets is not None and total > 1 and len(np.atleast_1d(offsets)) == total:
        return _placed(top, np.array(offsets, float))
    return [top] * total


@lru_cache(maxsize=1)
def _tags() -> tuple[Any, ...]:
    """Of `TAGS` those that one value stands for."""
    tag = pydicom().tag.Tag
    return tuple(tag(keyword) for keyword in TAGS if keyword not in (SHARED, OWN))


def _top(dataset: Any) -> Any:
    header = pydicom().Dataset()
    header.set_original_encoding(*dataset.original_encoding)
    for tag in _tags():
        if tag in dataset:
            header[tag] = dataset[tag]
    if "DoseGridScaling" in header:
        header.add_new("RescaleSlope", "DS", header.DoseGridScaling)
    return header


def _with(top: Any, group: Any) -> Any:
    header = pydicom().Dataset()
    header.set_original_encoding(*top.original_encoding)
    header.update({element.tag: element for element in top})
    _add(header, group)
    return header


def _add(header: Any, group: Any) -> None:
    for name in GROUPS:
        for element in (group.get(name) or [()])[0]:
            header[element.tag] = element


def _placed(top: Any, offsets: np.ndarray) -> list[Any]:
    """Planes of a dose: offsets from the first, or, where that is not 0, places along the axis."""
    if "ImagePositionPatient" not in top or "ImageOrientationPatient" not in top:
        return [top] * len(offsets)
    normal = np.cross(*np.reshape(np.array(top.ImageOrientationPatient, float), (2, 3)))
    headers = []
    for offset in offsets - offsets[0]:
        header = _with(top, pydicom().Dataset())
        place = np.array(top.ImagePositionPatient, float) + offset * normal
        header.add_new("ImagePositionPatient", "DS", place.tolist())
        headers.append(header)
    return headers
