"""DICOM files to arrays: modality transform applied, display window and MONOCHROME1 kept as facts (extra `dicom`)."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, ExtraError
from medprobe.imaging.formats import Raw

LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ExtraError("pydicom", "dicom", "reading DICOM files") from error
    return pydicom


@lru_cache(maxsize=4096)
def _frames_of(path: Path, changed: int) -> int:
    dataset = _pydicom().dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames", "Rows"])
    if "Rows" not in dataset:
        raise CaseError(f"{path}: expected a DICOM image, found none of its pixels' header; check the file")
    return int(dataset.get("NumberOfFrames") or 1)


def count(path: Path) -> int:
    """Frames, from the header."""
    return _frames_of(path, path.stat().st_mtime_ns)


def read(path: Path) -> Raw:
    """All frames. `full_range` is the display window where the file has one, else what its bits can hold."""
    pydicom = _pydicom()
    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise CaseError(f"{path}: expected a DICOM image, found no pixel data; check the file")
    array = _pixels(dataset, path)
    colour = int(dataset.get("SamplesPerPixel", 1)) == 3
    frames = int(dataset.get("NumberOfFrames") or 1)
    pixels = array.reshape(frames, *array.shape[-3:] if colour else array.shape[-2:])
    if colour:
        return Raw(np.moveaxis(pixels, -1, 0), (0.0, 255.0) if array.dtype == np.uint8 else (0.0, 65535.0))
    plain = dataset.get("ModalityLUTSequence") is None and float(dataset.get("RescaleSlope", 1)) == 1 and float(dataset.get("RescaleIntercept", 0)) == 0
    values = pixels if plain else pydicom.pixels.apply_modality_lut(pixels, dataset).astype(np.float32)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        values = pydicom.pixels.apply_voi_lut(values if plain else values.astype(np.int32), dataset, prefer_lut=True)
        limits = (0.0, float(2 ** int(table.LUTDescriptor[2]) - 1))
    else:
        limits = _window(dataset) or _stored_range(dataset, values, plain)
    return Raw(values[None], limits, dataset.get("PhotometricInterpretation") == "MONOCHROME1", spacing=_spacing(dataset))


def _pixels(dataset: Any, path: Path) -> np.ndarray:
    if dataset.file_meta.TransferSyntaxUID in LOSSLESS_JPEG:
        try:
            import SimpleITK
        except ImportError as error:
            raise ExtraError("SimpleITK", "volumes", "reading lossless JPEG inside DICOM") from error
        image = SimpleITK.ReadImage(str(path))
        stored = SimpleITK.GetArrayFromImage(image).astype(np.float64)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        signed, bits = bool(dataset.get("PixelRepresentation", 0)), int(dataset.BitsAllocated)
        return np.rint((stored - intercept) / slope).astype(f"{'i' if signed else 'u'}{bits // 8}")
    return _pydicom().pixels.pixel_array(dataset)


def _window(dataset: Any) -> tuple[float, float] | None:
    """(low, high) of the first linear display window."""
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if center is None or width is None:
        return None
    first = [value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value for value in (center, width)]
    if float(first[1]) < 1:
        return None
    half = (float(first[1]) - 1) / 2
    middle = float(first[0]) - 0.5
    return (middle - half, middle + half) if half > 0 else (middle - 0.5, middle + 0.5)


def _stored_range(dataset: Any, values: np.ndarray, plain: bool) -> tuple[float, float]:
    if plain and not dataset.get("PixelRepresentation", 0):
        return 0.0, float(2 ** int(dataset.BitsStored) - 1)
    return float(values.min()), float(values.max())


def _spacing(dataset: Any) -> tuple[float, float, float] | None:
    """(z, y, x) in mm, where the file says; a single plane without thickness counts as 1 mm thick."""
    plane = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if plane is None:
        return None
    thickness = dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 1.0
    return float(thickness), float(plane[0]), float(plane[1])
