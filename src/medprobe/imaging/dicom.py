"""DICOM files to arrays (extra `dicom`): frames are planes.

The modality transform is applied (Hounsfield units in CT). Black and white are the first display window, or else the range
of the stored bits after that transform. A VOI table or a sigmoid window is applied to the pixels, since no pair of numbers
can say it. MONOCHROME1 is kept as a fact; palettes and YBR become RGB. Where pydicom has no decoder (lossless and 12-bit
JPEG), SimpleITK reads the pixels (extra `volumes`).
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medprobe.errors import CaseError, ExtraError
from medprobe.imaging.raw import Raw, check_size, chosen, stamp
from medprobe.types import Source

LOSSY_12_BIT, LOSSLESS, LOSSLESS_FIRST_ORDER = (f"1.2.840.10008.1.2.4.{n}" for n in (51, 57, 70))


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ExtraError("pydicom", "dicom", "reading DICOM files") from error
    return pydicom


def header_of(path: Path, tags: Sequence[str]) -> Any:
    """Some tags of a file, without its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _pydicom().dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        list(dataset.iterall())  # values are parsed, and what is odd about them warned of, when they are first looked at
    return dataset


def is_grey(dataset: Any) -> bool:
    return int(dataset.get("SamplesPerPixel") or 1) == 1 and dataset.get("PhotometricInterpretation") != "PALETTE COLOR"


@lru_cache(maxsize=4096)
def _header(path: Path, changed: int) -> tuple[int, int]:
    """(frames, channels)."""
    dataset = header_of(path, ("NumberOfFrames", "Rows", "SamplesPerPixel", "PhotometricInterpretation"))
    if "Rows" not in dataset:
        raise CaseError(f"{path}: expected a DICOM image, found no rows in its header; check the file")
    return int(dataset.get("NumberOfFrames") or 1), 1 if is_grey(dataset) else 3


def count(source: Source) -> int:
    return _header(source.path, stamp(source.path))[0]


def channels(source: Source) -> int:
    return _header(source.path, stamp(source.path))[1]


def read(source: Source, start: int, stop: int | None) -> Raw:
    pydicom, path = _pydicom(), source.path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        if "PixelData" not in dataset:
            raise CaseError(f"{path}: expected a DICOM image, found no pixel data; give the image it describes, or compare its size with the source's")
        check_size(path, int(dataset.Rows), int(dataset.Columns))
        frames = int(dataset.get("NumberOfFrames") or 1)
        stored = _stored(dataset, path, chosen(source, frames, start, stop), frames)
        colour = stored.ndim == 4
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            stored, colour = pydicom.pixels.apply_color_lut(stored, dataset), True
        if colour:
            bits = 8 * stored.itemsize if dataset.SamplesPerPixel == 1 else int(dataset.BitsStored)
            return Raw(np.moveaxis(stored, -1, 0), (0.0, float(2**bits - 1)), spacing=_spacing(dataset))
        values, limits = _values(dataset, stored), limits_of(dataset)
    return Raw(values[None], limits, dataset.get("PhotometricInterpretation") == "MONOCHROME1", _spacing(dataset))


def _stored(dataset: Any, path: Path, places: Sequence[int], frames: int) -> np.ndarray:
    """(D, H, W) or (D, H, W, 3): some frames as the file has them, colours as RGB."""
    pydicom = _pydicom()
    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = pydicom.pixels.get_decoder(syntax)
    if not decoder.is_available or (syntax == LOSSY_12_BIT and dataset.BitsAllocated > 8):
        if syntax not in (LOSSY_12_BIT, LOSSLESS, LOSSLESS_FIRST_ORDER):
            raise ExtraError(f"a decoder of {syntax.name}", "dicom", "reading compressed DICOM files")
        return _through_simpleitk(path, frames)[list(places)]
    if frames == 1:
        return pydicom.pixels.pixel_array(dataset)[None][list(places)]
    planes = [pydicom.pixels.pixel_array(dataset, index=place) for place in places]
    return np.stack(planes) if planes else np.zeros((0, int(dataset.Rows), int(dataset.Columns)), np.uint8)


def _through_simpleitk(path: Path, frames: int) -> np.ndarray:
    """As stored: SimpleITK would apply the rescale and invert MONOCHROME1, so it reads a copy that asks for neither."""
    try:
        import SimpleITK
    except ImportError as error:
        raise ExtraError("SimpleITK", "volumes", "reading lossless or 12-bit JPEG inside DICOM") from error
    dataset = _pydicom().dcmread(path)
    if dataset.SamplesPerPixel == 1:
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PhotometricInterpretation = "1", "0", "MONOCHROME2"
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.dcm"
        dataset.save_as(copy)
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(copy)))
    return array.reshape(frames, int(dataset.Rows), int(dataset.Columns), *((3,) if dataset.SamplesPerPixel == 3 else ()))


def _values(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """After the modality transform, and after a VOI table or a sigmoid window."""
    pixels = _pydicom().pixels
    values = stored
    if dataset.get("ModalityLUTSequence") or _rescale(dataset) != (1.0, 0.0):
        values = pixels.apply_modality_lut(stored, dataset).astype(np.float32)
    if dataset.get("VOILUTSequence"):
        return np.asarray(pixels.apply_voi_lut(values.astype(np.int32), dataset, prefer_lut=True))
    if _window(dataset) is not None and dataset.get("VOILUTFunction") == "SIGMOID":
        return np.asarray(pixels.apply_voi_lut(values, dataset, prefer_lut=False).astype(np.float32))
    return values


def limits_of(dataset: Any) -> tuple[float, float]:
    """Which of the values of a grey image are black and white, by its header."""
    if dataset.get("VOILUTSequence"):
        return 0.0, float(2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    window, function = _window(dataset), str(dataset.get("VOILUTFunction") or "LINEAR")
    if window is None or function == "SIGMOID":
        return _bit_range(dataset)
    center, width = window
    if function == "LINEAR":  # part 3, C.11.2.1.2: half a step to the left and a step narrower than LINEAR_EXACT
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if width > 0 else _bit_range(dataset)


def _window(dataset: Any) -> tuple[float, float] | None:
    """Center and width of the first display window."""
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    return None if center is None or width is None else (float(np.atleast_1d(center)[0]), float(np.atleast_1d(width)[0]))


def _rescale(dataset: Any) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _bit_range(dataset: Any) -> tuple[float, float]:
    """What the stored bits can hold, after the modality transform."""
    table = dataset.get("ModalityLUTSequence")
    if table:
        return 0.0, float(2 ** int(table[0].LUTDescriptor[2]) - 1)
    bits, signed = int(dataset.BitsStored), bool(dataset.get("PixelRepresentation", 0))
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = _rescale(dataset)
    low, high = sorted(slope * end + intercept for end in ends)
    return low, high


def _spacing(dataset: Any) -> tuple[float, float, float] | None:
    """(z, y, x) in mm, where the file says; a plane without thickness counts as 1 mm thick."""
    plane = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if plane is None:
        return None
    thickness = dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 1.0
    return float(thickness), float(plane[0]), float(plane[1])
