"""Files to arrays: every format gives planes in their own number type, with the range their values may take.

Files are known by their bytes where these tell, else by these suffixes (kinds.py):

    .png .jpg .jpeg .bmp .webp   one plane, grey or RGB                                              (pictures.py)
    .tif .tiff                   pages are planes; of parts of other sizes one is named, file.tif:/1 (tiff.py)
    .dcm .dicom, no suffix       after the modality transform; frames are planes, in order of place  (dicom.py, extra dicom)
    .mp4 .avi .mov .mkv .webm    RGB frames by decoded index                                         (video.py, extra video)
    .nii .nii.gz                 canonical axes, axial slices are planes                             (nifti.py)
    .mhd .mha .nrrd .nhdr        the same                                                            (simpleitk.py, extra volumes)
    .npy .npz:/name .h5:/name    (H, W), (D, H, W), (C, D, H, W); uint8 with a last axis of 3 is RGB (arrays.py);
                                 where a case is one plane, (H, W, C) and (C, H, W) of any number type
    a folder                     its pictures in natural order are planes                            (folder.py)
    a folder of DICOM files      a series: the order of its planes is that of their places           (series.py, extra dicom)

Each of these modules has three functions: `count` and `channels` from headers, and `read`; those of volumes also `grid`.
"""

import importlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from medprobe.errors import CaseError, MedprobeError, ShapeError
from medprobe.imaging import arrays, dicom, nifti, png, simpleitk
from medprobe.imaging.canonical import Grid, planes_of, raws_of
from medprobe.imaging.folder import natural, pictures_in
from medprobe.imaging.kinds import SUFFIXES, identify
from medprobe.imaging.raw import Raw, check_finite, chosen, said_plainly, stamp
from medprobe.imaging.resample import (
    PLACES,
    divided,
    flat_axis,
    on_grid,
    placed_at,
    rescaled,
    turned,
    upright,
)
from medprobe.types import Axis, Lattice, Source

__all__ = ["Grid", "Raw", "count_planes", "files_of", "grid", "identify", "is_grey", "lies", "notes", "pictures_in", "prepare", "read", "slices_in"]

MANY = 256
"""Files from which on it pays to load compiled loops for them."""
VOLUMES = ("nifti", "simpleitk", "series")
"""Formats that always say where their voxels lie."""
NOTED = ("series", "dicom", "tiff")
"""Formats of which a user may have to hear something."""
ADVICE = {
    "arrays": "store (H, W), (H, W, 3) or (3, H, W)", "tiff": "name a page as `frame`", "video": "name a frame as `frame`",
    "dicom": "name a frame as `frame`", "folder": "name one of its files",
}  # fmt: skip
"""Format → what else makes one plane of a file of many."""


class Reader(Protocol):
    """What a module of a format offers; all of it may raise anything on a damaged file."""

    def count(self, source: Source) -> int:
        """Planes in the file, from its header."""
        ...

    def channels(self, source: Source) -> int:
        """1 or 3, any number in arrays, from the header."""
        ...

    def read(self, source: Source, start: int, stop: int | None) -> Raw:
        """Planes start…stop of the source, after its `frames`."""
        ...


class VolumeReader(Reader, Protocol):
    """What a module of a format of volumes offers besides."""

    def grid(self, source: Source) -> Grid | None:
        """Where the voxels lie on canonical axes, from the header; None where it does not say."""
        ...


class NotedReader(Reader, Protocol):
    """What a module of a format offers whose files may be odd and yet be read."""

    def notes(self, source: Source) -> tuple[str, ...]:
        """A sentence for each oddity."""
        ...


def read(source: Source, start: int = 0, stop: int | None = None) -> Raw:
    """Planes start…stop of a source (after its `frames`), C x D x H x W in the file's number type and byte order of this machine,
    or in that of `Source.rescale` or `Source.grid`.

    CaseError, naming the file, for anything that cannot be used; a range without planes is one.
    """
    if source.plane:
        count_planes(source)
    with said_plainly(source.path):
        raw = _part(source, start, stop)
        if not raw.pixels.shape[1]:
            raise CaseError(f"{source.path}: expected planes {start} to {'the last' if stop is None else stop}, found none; the file may be partial")
        check_finite(raw.pixels, source.path)
        return replace(raw, pixels=raw.pixels.astype(raw.pixels.dtype.newbyteorder("="), copy=False))


def prepare(sources: Iterable[Source]) -> None:
    """Load what reads many files of one kind fast: once, before processes that read them are forked."""
    if sum(source.path.suffix.lower() == ".png" for source in sources) >= MANY:
        png.load()


def changed(source: Source) -> tuple[int, ...]:
    """The modification times of all its files: what was kept for a source is not used for other bytes of the same names."""
    found = []
    for path in source.paths:
        with said_plainly(path):
            found.append(stamp(path))
    return tuple(found)


def _part(source: Source, start: int, stop: int | None) -> Raw:
    raw = _along(source, _axis(source), start, stop)
    return upright(raw) if source.orientation == "radiological" else raw


def _along(source: Source, axis: Axis, start: int, stop: int | None) -> Raw:
    """Planes across an axis, on canonical axes where the file has any."""
    if source.grid is not None or axis != "axial":
        whole = replace(source, frames=None, window=None, axis=axis, orientation="canonical")
        raw = _whole(whole, changed(source))
        places = chosen(source, raw.pixels.shape[1], start, stop)
        return replace(raw, pixels=raw.pixels[:, places.start : places.stop] if isinstance(places, range) else raw.pixels[:, list(places)])
    return _by_reader(source, start, stop)


def _by_reader(source: Source, start: int = 0, stop: int | None = None) -> Raw:
    raw = _reader(source.path).read(source, start, stop)
    return raw if source.rescale is None else rescaled(raw, *source.rescale)


def _axis(source: Source) -> Axis:
    """The axis across the planes of a source; of a single slice, that along which it is thin."""
    if not source.plane or source.frames is not None or not lies(source):
        return source.axis
    if isinstance(source.grid, Lattice):
        return flat_axis(source.grid.shape)
    laid = Source(source.path, source.member) if source.grid is None else Source(source.grid)
    with said_plainly(source.path):
        return flat_axis(_geometry(laid, *changed(laid))[0])


def lies(source: Source) -> bool:
    """Whether a source says where its voxels lie, by its kind, in DICOM by its header: such planes
    can be turned to face the viewer."""
    if isinstance(source.grid, Lattice):
        return not source.divided
    try:
        kind = identify(source.path)
        placed = kind in VOLUMES or (kind == "dicom" and grid(source) is not None)
        return placed or source.grid is not None
    except (MedprobeError, OSError):
        return False


@lru_cache(maxsize=2)
def _whole(source: Source, changed: tuple[int, ...]) -> Raw:
    """A volume on its grid and turned: neither can be done plane by plane, so the last two are kept, as CT and PET are read in turns."""
    own = replace(source, grid=None, axis="axial")
    raw = _as_stored(own) if source.divided else _by_reader(own)
    check_finite(raw.pixels, source.path)
    if isinstance(source.grid, Lattice):
        raw = _on_lattice(raw, source, source.grid)
    elif source.grid is not None:
        raw = on_grid(raw, *_geometry(Source(source.grid), changed[1]), source.path, source.grid)
    return turned(raw, source.axis)


def _as_stored(source: Source) -> Raw:
    """Planes in the order of the file, rows and columns of the picture it shows, whatever its header says of left and right."""
    kind = identify(source.path)
    if kind not in ("nifti", "simpleitk"):
        return read(source)
    with said_plainly(source.path):
        volume = (nifti if kind == "nifti" else simpleitk).volume(source.path, as_stored=True, further_axes=True)
        raw = planes_of(raws_of(volume, source.path), source, 0, None)
        check_finite(raw.pixels, source.path)
        return raw if source.rescale is None else rescaled(raw, *source.rescale)


def _on_lattice(raw: Raw, source: Source, lattice: Lattice) -> Raw:
    """A volume on its lattice; black and white are the extremes of the whole volume, so that what lies outside is black."""
    if source.divided:
        laid = divided(raw, lattice.shape, source.path)
    else:
        place = _lattice(source, lattice)
        laid = on_grid(raw, place.shape, place.affine, source.path, lattice.around or source.path)
    limits = float(raw.pixels.min()), float(raw.pixels.max())
    return replace(laid, full_range=limits, spacing=lattice.spacing, curve=None)


def _lattice(source: Source, lattice: Lattice) -> Grid:
    """Where the lattice of a source lies."""
    if lattice.spacing is None:
        return Grid(lattice.shape, None, None, turned=False)
    file = Source(source.path, source.member) if lattice.around is None else Source(lattice.around)
    return _lattice_along(file, lattice, *changed(file))


@lru_cache(maxsize=4096)
def _lattice_along(file: Source, lattice: Lattice, changed: int) -> Grid:
    """A lattice along the axes of a file."""
    assert lattice.spacing is not None
    shape, affine = _geometry(file, changed)
    if affine is None:
        raise CaseError(f"{file.path}: expected an affine, to lay a grid in mm along its axes, found none; write it as NIfTI")
    middle = (np.array(shape) - 1) / 2
    if lattice.around is not None:
        _, y, x = np.nonzero(np.rint(read(file).pixels[0]) == lattice.label)
        if not len(y):
            raise CaseError(f"{file.path}: expected label {lattice.label}, around which the window is laid, found none; correct the mask")
        middle[1:] = y.mean(), x.mean()
    return Grid(lattice.shape, lattice.spacing, placed_at(lattice.shape, lattice.spacing, affine, middle), turned=False)


@lru_cache(maxsize=4096)
def _geometry(source: Source, changed: int) -> tuple[tuple[int, int, int], np.ndarray | None]:
    """Shape (z, y, x) and affine of a file as its reader gives it; from the header, where the reader knows how."""
    with said_plainly(source.path):
        reader = _reader(source.path)
        found = reader.grid(source) if hasattr(reader, "grid") else None
        if found is not None:
            return found.shape, found.affine
        raw = reader.read(source, 0, None)
        depth, height, width = raw.pixels.shape[1:]
        return (depth, height, width), raw.affine


def count_planes(source: Source) -> int:
    """How many planes `read` would give, from headers only. CaseError: there are none."""
    count = len(source.frames) if source.frames is not None else _counted(source, changed(source))
    if count < 1:
        raise CaseError(f"{source.path}: expected at least one plane, found none; mend or remove the file")
    if source.plane and count > 1:
        kind = identify(source.path)
        what = {"arrays": "array", "video": "video", "folder": "folder"}.get(kind, "file")
        raise ShapeError(
            f"{source.path}: dims = 2, and this {what} is {count} planes{_size(source)}; "
            f"{ADVICE.get(kind, 'write one slice into a file')}, or set dims = 3"
        )
    return count


def _size(source: Source) -> str:
    """Height and width of a plane, in words; nothing where the header does not give them at once."""
    with suppress(Exception):
        if (kind := identify(source.path)) == "arrays":
            return " of {} x {}".format(*arrays.shape_of(source)[-2:])
        if kind in VOLUMES and source.grid is None and (place := grid(source)) is not None:
            return " of {} x {}".format(*(place.shape[axis] for axis in PLACES[_axis(source)][1:]))
    return ""


@lru_cache(maxsize=1 << 16)
def _counted(source: Source, stamps: tuple[int, ...]) -> int:
    with said_plainly(source.path):
        axis = _axis(source)
        if isinstance(source.grid, Lattice):
            return source.grid.shape[PLACES[axis][0]]
        if source.plane and axis != "axial":
            _reader(source.path).count(source)  # which refuses a fourth axis
        if source.grid is not None or axis != "axial":
            laid = Source(source.grid) if source.grid is not None else Source(source.path, source.member)
            return _geometry(laid, *changed(laid))[0][PLACES[axis][0]]
        return _reader(source.path).count(source)


def is_grey(source: Source) -> bool:
    """Whether a source has one channel, from headers; a file that cannot be read counts as grey and is met when it is decoded."""
    try:
        with said_plainly(source.path):
            return _reader(source.path).channels(source) == 1
    except CaseError:
        return True


def grid(source: Source) -> Grid | None:
    """Where the voxels of a file, or of its lattice, lie on canonical axes, by its header; None where it does not say."""
    if isinstance(source.grid, Lattice):
        return _lattice(source, source.grid)
    kind = identify(source.path)
    with said_plainly(source.path):
        if kind in (*VOLUMES, "dicom"):
            return cast(VolumeReader, _reader(source.path)).grid(source)
        return arrays.grid_beside(source) if kind == "arrays" else None


def is_shown(source: Source) -> bool:
    """Whether a file says where its plane lies and is read as it is shown all the same: a DICOM
    file of a single frame."""
    with said_plainly(source.path):
        return identify(source.path) == "dicom" and dicom.is_shown(source)


def notes(source: Source) -> tuple[str, ...]:
    """What a user should hear of a source that can be read, a sentence for each; of one that cannot, decoding says it."""
    try:
        if identify(source.path) not in NOTED:
            return ()
        with said_plainly(source.path):
            return cast(NotedReader, _reader(source.path)).notes(source)
    except MedprobeError:
        return ()


def slices_in(folder: Path) -> list[Path]:
    """The arrays and volumes of a folder, each of which is to be one plane, in natural order."""
    kinds = ("arrays", "nifti", "simpleitk")
    suffixes = tuple(suffix for kind in kinds for suffix in SUFFIXES[kind])
    named = [path for path in folder.iterdir() if path.name.lower().endswith(suffixes)]
    return sorted((path for path in named if not path.name.startswith(".")), key=natural)


def files_of(path: Path) -> tuple[Path, ...]:
    """All files whose bytes a path stands for, in a fixed order."""
    if path.is_dir():
        return tuple(sorted(child for child in path.iterdir() if child.is_file()))
    return simpleitk.files_of(path) if path.name.lower().endswith(SUFFIXES["simpleitk"]) else (path,)


def _reader(path: Path) -> Reader:
    return cast(Reader, importlib.import_module(f"medprobe.imaging.{identify(path)}"))
