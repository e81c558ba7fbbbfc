"""Files to arrays: every format gives planes in their own number type, with the range their values may take.

    .png .jpg .jpeg .bmp .webp   one plane, grey or RGB. Alpha is dropped, not blended; EXIF orientation is applied
    .tif .tiff                   pages of equal size are planes
    .dcm (or no suffix)          after the modality transform; frames are planes                     (extra: dicom)
    .mp4 .avi .mov .mkv .webm    frames, RGB                                                         (extra: video)
    .nii .nii.gz                 canonical axes, axial slices are planes; header scaling applied
    .npy, .npz:/name, .h5:/name  (H, W), (D, H, W), (C, D, H, W); uint8 with a last axis of 3 is RGB
    a folder                     its image files in natural order are planes
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError, MedprobeError
from medprobe.types import Source

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IGNORED = (".DS_Store", "Thumbs.db", "__MACOSX")


@dataclass(frozen=True)
class Raw:
    """Decoded planes: `pixels` (C, D, H, W) in the file's number type; C is 1 (grey) or 3 (RGB) except for arrays.

    `full_range` are the values that mean black and white. `inverted`: low values are bright (MONOCHROME1).
    `windowed`: already float32 in [0, 1].
    """

    pixels: np.ndarray
    full_range: tuple[float, float]
    inverted: bool = False
    windowed: bool = False
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None


def identify(path: Path) -> str:
    """The format by suffix, in any case: picture, tiff, dicom, video, nifti, numpy, hdf5 or folder."""
    name = path.name.lower()
    for kind, suffixes in FORMATS.items():
        if name.endswith(suffixes):
            return kind
    if path.is_dir():
        return "folder"
    if "." not in name or re.fullmatch(r"[\d.]+", name):
        return "dicom"
    known = " ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
    raise CaseError(f"{path}: expected one of {known}, found {path.suffix!r}; convert the file")


FORMATS = {
    "picture": PICTURES, "tiff": (".tif", ".tiff"), "dicom": (".dcm", ".dicom"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm"), "nifti": (".nii", ".nii.gz"), "numpy": (".npy", ".npz"),
    "hdf5": (".h5", ".hdf5", ".hdf"),
}  # fmt: skip


def read(source: Source, start: int = 0, stop: int | None = None) -> Raw:
    """Planes start…stop of a source (after its `frames`). CaseError, naming the file, for anything that cannot be used."""
    path = source.path
    try:
        if not path.exists():
            raise CaseError(f"{path}: expected an image file, found nothing there; check the path")
        raw = _readers()[identify(path)](source, start, stop)
    except MedprobeError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CaseError(f"{path}: expected a readable image, found a damaged one ({said[:160]}); fetch the file again") from error
    if not raw.pixels.size:
        raise CaseError(f"{path}: expected planes {start} to {stop}, found none; check the file")
    if raw.pixels.dtype.kind not in "bui" and (raw.pixels.dtype.kind != "f" or not np.isfinite(raw.pixels).all()):
        found = "NaN or infinite pixels" if raw.pixels.dtype.kind == "f" else f"{raw.pixels.dtype} pixels"
        raise CaseError(f"{path}: expected finite real pixels, found {found}; correct the file")
    return raw


def count_planes(source: Source) -> int:
    """How many planes `read` would give, from headers only."""
    if source.frames is not None:
        return len(source.frames)
    path = source.path
    try:
        kind = identify(path)
        if kind == "picture":
            return 1
        if kind == "folder":
            return len(pictures_in(path))
        if kind == "tiff":
            import tifffile

            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                return int(np.prod([n for n, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXSC"], dtype=int))
        if kind == "dicom":
            from medprobe.imaging import dicom

            return dicom.count(path)
        if kind == "video":
            from medprobe.imaging import video

            return video.count(path)
        if kind == "nifti":
            import nibabel

            shape = nibabel.load(path).shape  # type: ignore[attr-defined]
            return int(shape[2]) if len(shape) > 2 else 1
        shape, dtype = _array_header(source)
        return _as_planes(np.broadcast_to(np.zeros((), dtype), shape), path).shape[1]
    except MedprobeError:
        raise
    except Exception as error:
        raise CaseError(f"{path}: expected a readable image, found a damaged header ({error}); fetch the file again") from error


def pictures_in(folder: Path) -> list[Path]:
    """The image files of a folder in natural order, without the leavings of other programs."""
    files = [path for path in folder.iterdir() if path.name not in IGNORED and not path.name.startswith("._")]
    return sorted((path for path in files if path.suffix.lower() in (*PICTURES, ".tif", ".tiff", ".dcm")), key=natural)


def natural(path: Path) -> list:
    """Sorting key in which 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def open_picture(path: Path):  # type: ignore[no-untyped-def]
    """A loaded PIL image of mode L, RGB, I;16 or F."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file) if file.getexif().get(0x0112, 1) != 1 else file.copy() if file.mode in ("L", "RGB") else file
            if image.mode in ("1", "LA", "La"):
                return image.convert("L")
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")
            if image.mode in ("L", "RGB", "F") or image.mode.startswith("I"):
                return image if image is not file else image.copy()
            return image.convert("RGB")


def range_of(array: np.ndarray) -> tuple[float, float]:
    """Black and white of an array: its type's for unsigned 8 and 16 bit, 0 and 1 where it keeps to them, else its own."""
    if array.dtype == np.bool_:
        return 0.0, 1.0
    if array.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(array.dtype).max)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    return (0.0, 1.0) if array.dtype.kind == "f" and low >= 0 and high <= 1 else (low, high)


def _picture(source: Source, start: int, stop: int | None) -> Raw:
    array = np.asarray(open_picture(source.path))
    if array.dtype == np.int32:
        array = array.astype(np.uint16) if array.min() >= 0 and array.max() <= 65535 else array
    array = array.astype(array.dtype.newbyteorder("="))
    pixels = array[None, None] if array.ndim == 2 else np.moveaxis(array, -1, 0)[:, None]
    return Raw(pixels[:, _chosen(source, 1, start, stop)], range_of(array))


def _tiff(source: Source, start: int, stop: int | None) -> Raw:
    import tifffile

    with tifffile.TiffFile(source.path) as file:
        series = file.series[0]
        axes, level = series.axes, series.levels[0]
        try:
            array = level.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error) and "requires" not in str(error):
                raise
            return _picture(source, start, stop)
    colour = axes[-1] in "SC" and array.shape[-1] in (2, 3, 4)
    if colour:
        array = np.moveaxis(array[..., : 3 if array.shape[-1] > 2 else 1], -1, 0)
    elif axes[0] in "SC" and array.ndim > 2 and array.shape[0] in (3, 4):
        array = array[:3]
    else:
        array = array[None]
    pixels = array.reshape(array.shape[0], -1, *array.shape[-2:])
    return Raw(pixels[:, _chosen(source, pixels.shape[1], start, stop)], range_of(array))


def _nifti(source: Source, start: int, stop: int | None) -> Raw:
    import nibabel

    volume = nibabel.as_closest_canonical(nibabel.load(source.path))  # type: ignore[attr-defined]
    array = np.asanyarray(volume.dataobj)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise CaseError(f"{source.path}: expected a volume of three axes, found shape {array.shape}; split the channels into files")
    pixels = np.flip(array.T, axis=1)[None]
    x, y, z = (float(size) for size in volume.header.get_zooms()[:3])
    limits = range_of(pixels)
    return Raw(pixels[:, _chosen(source, pixels.shape[1], start, stop)], limits, spacing=(z, y, x), affine=volume.affine)


def _array_header(source: Source) -> tuple[tuple[int, ...], np.dtype]:
    if source.path.suffix.lower() in FORMATS["hdf5"]:
        import h5py

        with h5py.File(source.path) as file:
            dataset = file[_member(source, list(file))]
            return dataset.shape, dataset.dtype
    array = _open_numpy(source)
    return array.shape, array.dtype


def _member(source: Source, names: list[str]) -> str:
    member = (source.member or "").strip("/")
    if not member and len(names) == 1:
        return names[0]
    if member.split("/")[0] not in names:
        raise CaseError(f"{source.path}: expected an array named {member or '(none given)'!r}, found {', '.join(sorted(names)[:6]) or 'none'}; write {source.path.name}:/NAME")
    return member


def _open_numpy(source: Source) -> np.ndarray:
    if source.path.suffix.lower() == ".npy":
        return np.load(source.path, mmap_mode="r", allow_pickle=False)
    with np.load(source.path, allow_pickle=False) as file:
        return file[_member(source, list(file.files))]


def _as_planes(array: np.ndarray, path: Path) -> np.ndarray:
    """(C, D, H, W) by the rule of this module's first lines."""
    if array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 0)
        return array[:, None] if array.ndim == 3 else array
    if array.ndim not in (2, 3, 4):
        raise CaseError(f"{path}: expected an array of 2 to 4 axes, found shape {array.shape}; store (H, W), (D, H, W) or (C, D, H, W)")
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _array(source: Source, start: int, stop: int | None) -> Raw:
    if source.path.suffix.lower() in FORMATS["hdf5"]:
        import h5py

        with h5py.File(source.path) as file:
            array = np.asarray(file[_member(source, list(file))])
    else:
        array = _open_numpy(source)
    pixels = _as_planes(array, source.path)
    limits = range_of(pixels)
    return Raw(np.ascontiguousarray(pixels[:, _chosen(source, pixels.shape[1], start, stop)]), limits)


def _folder(source: Source, start: int, stop: int | None) -> Raw:
    files = pictures_in(source.path)
    chosen = [files[place] for place in _places(source, len(files), start, stop)]
    parts = [read(Source(file)) for file in chosen]
    shapes = {part.pixels.shape for part in parts}
    if len(shapes) > 1:
        raise CaseError(f"{source.path}: expected frames of one size, found {' and '.join(map(str, sorted(shapes)))}; resize them to one")
    return replace(parts[0], pixels=np.concatenate([part.pixels for part in parts], axis=1))


def _dicom(source: Source, start: int, stop: int | None) -> Raw:
    from medprobe.imaging import dicom

    raw = dicom.read(source.path)
    return replace(raw, pixels=raw.pixels[:, _chosen(source, raw.pixels.shape[1], start, stop)])


def _video(source: Source, start: int, stop: int | None) -> Raw:
    from medprobe.imaging import video

    total = video.count(source.path) if source.frames is None else 0
    return Raw(video.frames(source.path, _places(source, total, start, stop)), (0.0, 255.0))


def _places(source: Source, total: int, start: int, stop: int | None) -> list[int]:
    """Indices in the file of planes start…stop."""
    frames = source.frames if source.frames is not None else range(total)
    chosen = list(frames[start:stop])
    if total and chosen and max(chosen) >= total:
        raise CaseError(f"{source.path}: expected at least {max(chosen) + 1} planes, found {total}; the file may be partial")
    return chosen


def _chosen(source: Source, total: int, start: int, stop: int | None) -> slice | list[int]:
    return slice(start, stop) if source.frames is None else _places(source, total, start, stop)


def _readers() -> dict[str, Callable[[Source, int, int | None], Raw]]:
    return {"picture": _picture, "tiff": _tiff, "dicom": _dicom, "video": _video, "nifti": _nifti, "numpy": _array, "hdf5": _array, "folder": _folder}


def is_grey(source: Source) -> bool:
    """Whether a source has one channel, by its header; arrays count by their shape."""
    kind = identify(source.path)
    if kind == "picture":
        from PIL import Image

        try:
            with Image.open(source.path) as file:
                return file.mode in ("1", "L", "LA", "F") or file.mode.startswith("I")
        except Exception:  # unreadable files are met and counted when they are decoded
            return True
    if kind in ("nifti", "dicom"):
        return kind == "nifti" or read(source, 0, 1).pixels.shape[0] == 1
    if kind == "video":
        return False
    if kind == "folder":
        return is_grey(Source(pictures_in(source.path)[0]))
    return read(source, 0, 1).pixels.shape[0] == 1
