"""DICOM files to arrays (extra `dicom`): frames are planes.

The modality transform is applied (Hounsfield units in CT), from wherever the file keeps it
(dicom_frames.py). Frames that say where they lie are one volume, ordered and turned as a series is
(stacks.py). MONOCHROME1 is kept as a fact; palettes and YBR become RGB. Where pydicom has no
decoder (lossless and 12-bit JPEG), SimpleITK reads the pixels (extra `volumes`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medprobe.errors import CaseError, ExtraError
from medprobe.imaging import dicom_units
from medprobe.imaging.canonical import Grid
from medprobe.imaging.dicom_files import dataset_of, header_of, pydicom
from medprobe.imaging.dicom_frames import OWN, SHARED, TAGS, frames_of
from medprobe.imaging.raw import Raw, check_size, chosen, range_of, stamp
from medprobe.imaging.stacks import Stack, stacked, thickness
from medprobe.types import Source

LOSSY_12_BIT, LOSSLESS, LOSSLESS_FIRST_ORDER = (f"1.2.840.10008.1.2.4.{n}" for n in (51, 57, 70))
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
APART = "write each as a file of its own, or name the planes (frame)"


SIZE = ("NumberOfFrames", "Rows", "SamplesPerPixel", "PhotometricInterpretation")


def is_grey(header: Any) -> bool:
    samples = int(header.get("SamplesPerPixel") or 1)
    return samples == 1 and header.get("PhotometricInterpretation") != "PALETTE COLOR"


@lru_cache(maxsize=1 << 16)
def _size(path: Path, changed: int) -> tuple[int, int]:
    """(frames, channels)."""
    header = header_of(path, SIZE)
    return int(header.get("NumberOfFrames") or 1), 1 if is_grey(header) else 3


@lru_cache(maxsize=1024)
def _stack(path: Path, changed: int) -> Stack | None:
    """The volume that grey frames are, where they all say where they lie."""
    if _size(path, changed)[0] == 1 or _size(path, changed)[1] == 3:
        return None
    headers = frames_of(header_of(path, TAGS), path)
    if not all(header.get(name) for header in headers for name in PLACE):
        return None
    return stacked(headers, [f"frame {place}" for place in range(len(headers))], path, APART)


def _stack_of(source: Source) -> Stack | None:
    """Frames that are no volume are refused, but for a source that names its planes: they are then
    counted as the file has them."""
    try:
        return _stack(source.path, stamp(source.path))
    except CaseError:
        if source.frames is None:
            raise
        return None


def count(source: Source) -> int:
    stack = _stack_of(source)
    if stack is None:
        return _size(source.path, stamp(source.path))[0]
    return stack.grid(source.path).shape[0]


def channels(source: Source) -> int:
    return _size(source.path, stamp(source.path))[1]


def grid(source: Source) -> Grid | None:
    """Where the frames of a volume lie; None of other files."""
    stack = _stack_of(source)
    return stack.grid(source.path) if stack else None


def is_shown(source: Source) -> bool:
    """Whether the plane says where it lies, which a file of one frame is not read by."""
    header = frames_of(header_of(source.path, TAGS), source.path)[0]
    return _stack_of(source) is None and all(header.get(name) for name in PLACE)


def notes(source: Source) -> tuple[str, ...]:
    stack = _stack_of(source)
    return stack.notes if stack else ()


def read(source: Source, start: int, stop: int | None) -> Raw:
    path, stack = source.path, _stack_of(source)
    places = list(chosen(source, count(source), start, stop))
    if stack is None:
        return _frames(path, places)
    place = stack.grid(path)
    if stack.along_z(path):
        raw = _frames(path, [stack.order[number] for number in places])
        pixels = stack.volume(raw.pixels[0], path)
    else:
        raw = _volume(path, stamp(path))
        pixels = raw.pixels[:, places]
    return replace(raw, pixels=pixels, spacing=place.spacing, affine=place.affine)


@lru_cache(maxsize=1)
def _volume(path: Path, changed: int) -> Raw:
    stack = _stack(path, changed)
    assert stack is not None
    raw = _frames(path, stack.order)
    return replace(raw, pixels=stack.volume(raw.pixels[0], path))


def _frames(path: Path, places: Sequence[int]) -> Raw:
    """Some frames, counted and laid as the file has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dataset_of(path)
        check_size(path, int(dataset.Rows), int(dataset.Columns))
        frames = frames_of(dataset, path)
        spacing = _spacing(frames[0])
        if not is_grey(dataset):
            return _coloured(dataset, path, places, spacing)
        pixels = _values(dataset, frames, path, places)
        limits = dicom_units.limits_of(frames, path)
        if limits is None:
            limits = range_of(_values(dataset, frames, path, range(len(frames))))
        units, curve = dicom_units.units_of(frames, path), dicom_units.curve_of(frames, path)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    return Raw(pixels[None], limits, inverted, spacing, units=units, curve=curve)


def _values(dataset: Any, frames: Sequence[Any], path: Path, places: Sequence[int]) -> np.ndarray:
    """(n, H, W) after the modality transform of each."""
    stored = _stored(dataset, path, places, len(frames))
    if OWN not in dataset:
        return dicom_units.values_of(frames[0], stored, path)
    planes = [
        dicom_units.values_of(frames[place], plane, path)
        for place, plane in zip(places, stored, strict=True)
    ]
    return np.stack(planes) if planes else stored


def _coloured(
    dataset: Any, path: Path, places: Sequence[int], spacing: tuple[float, float, float] | None
) -> Raw:
    stored = _stored(dataset, path, places, int(dataset.get("NumberOfFrames") or 1))
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        stored = pydicom().pixels.apply_color_lut(stored, dataset)
    bits = 8 * stored.itemsize if dataset.SamplesPerPixel == 1 else int(dataset.BitsStored)
    return Raw(np.moveaxis(stored, -1, 0), (0.0, float(2**bits - 1)), spacing=spacing)


def _stored(dataset: Any, path: Path, places: Sequence[int], frames: int) -> np.ndarray:
    """(n, H, W) or (n, H, W, 3): some frames as the file has them, colours as RGB."""
    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = pydicom().pixels.get_decoder(syntax)
    if not decoder.is_available or (syntax == LOSSY_12_BIT and dataset.BitsAllocated > 8):
        if syntax not in (LOSSY_12_BIT, LOSSLESS, LOSSLESS_FIRST_ORDER):
            raise ExtraError(
                f"a decoder of {syntax.name}", "dicom", "reading compressed DICOM files"
            )
        return _through_simpleitk(path, frames)[list(places)]
    if frames == 1:
        return _decoded(dataset)[None][list(places)]
    planes = [_decoded(dataset, index=place) for place in places]
    return (
        np.stack(planes)
        if planes
        else np.zeros((0, int(dataset.Rows), int(dataset.Columns)), np.uint8)
    )


def _decoded(dataset: Any, **which: Any) -> np.ndarray:
    """Without the bits that no sample uses, above it (overlays) or below it."""
    bits, used = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    below = int(dataset.get("HighBit") or 0) + 1 - used
    if below <= 0 or "PixelData" not in dataset:
        return np.asarray(pydicom().pixels.pixel_array(dataset, **which))
    stored = np.array(pydicom().pixels.pixel_array(dataset, correct_unused_bits=False, **which))
    return np.right_shift(np.left_shift(stored, bits - used - below), bits - used)


def _through_simpleitk(path: Path, frames: int) -> np.ndarray:
    """As stored: SimpleITK would apply the rescale and invert MONOCHROME1, so it reads a copy that
    asks for neither."""
    try:
        import SimpleITK
    except ImportError as error:
        raise ExtraError(
            "SimpleITK", "volumes", "reading lossless or 12-bit JPEG inside DICOM"
        ) from error
    dataset = dataset_of(path)
    if dataset.SamplesPerPixel == 1:
        _as_capture(dataset, frames)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.dcm"
        dataset.save_as(copy)
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(copy)))
    return array.reshape(
        frames,
        int(dataset.Rows),
        int(dataset.Columns),
        *((3,) if dataset.SamplesPerPixel == 3 else ()),
    )


def _as_capture(dataset: Any, frames: int) -> None:
    """Make it a picture of no modality, whose numbers no reader rescales or turns round."""
    uids = pydicom().uid
    kind = uids.SecondaryCaptureImageStorage
    if frames > 1:
        kind = uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    for keyword in (SHARED, OWN, "DoseGridScaling", "ModalityLUTSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.PhotometricInterpretation = "MONOCHROME2"


def _spacing(header: Any) -> tuple[float, float, float] | None:
    """(z, y, x) in mm, where the file says; a plane without thickness counts as 1 mm thick."""
    plane = next(
        (
            header.get(name)
            for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
            if header.get(name)
        ),
        None,
    )
    return None if plane is None else (thickness(header), float(plane[0]), float(plane[1]))
