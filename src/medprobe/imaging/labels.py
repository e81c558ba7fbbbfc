"""Masks: files to whole numbers per voxel, on the grid of the file, and back.

    .png .bmp           grey, palette (its indices), 1 bit; colours only where all channels are equal
    .tif .tiff          pages are planes (tiff.py says which); palettes as indices
    a folder            its pictures in natural order are planes
    .nii .nii.gz        turned to canonical axes as an image is, so that both lie on each other
    .mhd .mha .nrrd     the same (extra volumes)
    .h5 .npz .npy       (H, W), (D, H, W); `labels` where no array is named and there is one of that name

Whole numbers that a file keeps as floats, or scales to within 0.001 of whole ones, are taken; fractions come from smooth
resampling and are refused, and so are values that nobody named: a mask that is not understood must not be scored.

A source's `member` names an array, or the entry of a fourth axis (NIfTI, NRRD). Of a picture or TIFF it says what its numbers stand
for, `0=0,6=4` (others are refused) or `0=0,*=4`; several such sources are one mask, the last on top. `absent`: a mask of nothing.
On a source's `Lattice` a mask has the nearest values, and 0 outside.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError, RequestError
from medprobe.files import write_atomically
from medprobe.imaging import arrays, mask_pictures, nifti, simpleitk, tiff
from medprobe.imaging.formats import grid, identify, pictures_in
from medprobe.imaging.raw import check_finite, check_size, chosen, said_plainly
from medprobe.imaging.resample import flat_axis, turned_array, turned_grid
from medprobe.types import Lattice, Source

IGNORED = -1
"""Index of voxels that are not scored."""
MEMBER = "labels"
ABSENT = "absent"
"""`member` of a picture or TIFF, image or mask, on whose grid nothing is marked: a class without a file of its own."""
MEANINGS = re.compile(r"\d+=\d+(,\d+=\d+)*(,\*=\d+)?")
WHOLE = 1e-3
APART = 0.01
"""How far, in voxels, the corners of two grids may lie apart and still be the same grid."""
TIE = 1e-6
TABLE = 1 << 16


@dataclass(frozen=True)
class LabelMap:
    """Whole numbers (D, H, W) or (H, W); with `multilabel` a map of 0 and 1 for each class, (K, D, H, W) or (K, H, W).

    `spacing` is (z, y, x) in mm, `affine` the 4x4 matrix from (x, y, z) indices to world; None where a file has none.
    """

    labels: np.ndarray
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None
    multilabel: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) or (H, W)."""
        return self.labels.shape[1:] if self.multilabel else self.labels.shape


# ---------------------------------------------------------------------------------------------- files


def read_labels(
    sources: Sequence[Source], *, dims: int, classes: Sequence[str] | None = None, values: Sequence[int] | None = None,
    ignore: int | None = None, multilabel: bool = False, as_stored: bool = False,
) -> LabelMap:  # fmt: skip
    """The mask of a case, as class indices 0…K-1 and -1 where it holds `ignore`; CaseError for one that is not understood.

    `values` are the mask values of the classes, 0…K-1 if None; of two classes, 0 and 255 are understood too, and 1-bit masks
    whatever `values` say. A value that belongs to a class is that class, also if it is `ignore`. Without `classes` the numbers
    of instances stay as they are, unsigned, up to 2^64-1, and `ignore` is left to the metric.

    `multilabel`: one source per class, or a single one whose first axis (NIfTI: the last) is the class. `as_stored`: a
    volume's voxels in the order of the file, for scoring against a reference that has no affine.
    """
    if not sources or (len(sources) > 1 and not multilabel and not all(map(_meanings, sources))):
        raise CaseError(f"{sources[0].path if sources else 'a mask'}: expected one mask, found {len(sources)}; write all classes into one file, or set multilabel = true")
    path = sources[0].path
    if multilabel:
        return _read_each(sources, dims, tuple(classes or (source.path.name for source in sources)), ignore, as_stored)
    found = _read(sources[0], dims, as_stored)
    for source in sources[1:]:
        found = _laid_over(found, _read(source, dims, as_stored), source.path)
    return replace(found, labels=_ids(found.labels, path) if classes is None else _indices(found.labels, classes, values, ignore, path))


def numbers_of(source: Source, dims: int, multilabel: bool = False) -> np.ndarray:
    """The different numbers of a mask as they are stored, not yet understood; False and True of 1 bit."""
    if multilabel:
        return np.unique(np.concatenate([np.unique(part.labels) for part in _read_stack(source, dims, as_stored=True)]))
    return np.unique(_read(source, dims, as_stored=True).labels)


def meaning_of(numbers: np.ndarray, classes: Sequence[str], values: Sequence[int] | None, ignore: int | None, source: Source) -> np.ndarray:
    """Class indices of the numbers (n,) of a mask, as `read_labels` gives them; CaseError for one that means nothing."""
    return _indices(_meant(source, numbers[None]), classes, values, ignore, source.path)[0]


def stated_meaning(source: Source, member: str | None) -> Source:
    """The source with what its numbers stand for, if `member` says so and its format has such a statement."""
    stated = replace(source, member=member)
    return stated if MEANINGS.fullmatch(member or "") and "*" not in str(member) and identify(source.path) in ("pictures", "tiff") else source


def write_labels(path: Path, labels: LabelMap, like: Path | None = None) -> None:
    """By suffix: .nii.gz or .nii, .png for a plane of 0 to 65,535, .h5 (array `labels`); in the smallest type that holds it.

    What `read_labels` reads; ITK-SNAP, 3D Slicer and SimpleITK find the volume where the image was. Maps of several classes
    at once have the class as first axis in HDF5, as fourth in NIfTI. `like`: a NIfTI file of this grid, in whose order of axes
    NIfTI is written.
    """
    name, array = path.name.lower(), _smallest(labels.labels, path)
    if name.endswith(nifti.SUFFIXES):
        stack = array if labels.multilabel else array[None]
        stack = stack if stack.ndim == 4 else stack[:, None]
        nifti.save(path, np.moveaxis(stack, 0, -1) if labels.multilabel else stack[0], labels.affine, labels.spacing, like=like)
    elif name.endswith(arrays.HDF5):
        arrays.save(path, MEMBER, array, labels.spacing, labels.affine)
    elif name.endswith(".png"):
        from PIL import Image as Pillow

        if array.ndim != 2 or array.dtype not in (np.uint8, np.uint16):
            raise CaseError(f"{path}: expected a plane of labels from 0 to 65535 in PNG, found shape {array.shape} from {array.min()} to {array.max()}; write .nii.gz or .h5")
        buffer = io.BytesIO()
        Pillow.fromarray(array).save(buffer, "PNG")
        write_atomically(path, buffer.getvalue())
    else:
        raise RequestError(f"{path}: expected .nii.gz, .png or .h5 to write labels to, found {path.suffix or 'no suffix'}; choose another name")


def _read_each(sources: Sequence[Source], dims: int, classes: Sequence[str], ignore: int | None, as_stored: bool) -> LabelMap:
    """A 0/1 map per class, from a file each or from one file with a further axis."""
    if len(sources) == 1 != len(classes):
        parts, paths = _read_stack(sources[0], dims, as_stored), [sources[0].path] * len(classes)
    else:
        parts, paths = [_read(source, dims, as_stored) for source in sources], [source.path for source in sources]
    first = parts[0]
    if len(parts) != len(classes):
        raise CaseError(f"{paths[0]}: expected {len(classes)} masks, one per class, found {len(parts)}; give every class a mask, an empty one where it is absent")
    for part, path in zip(parts, paths, strict=True):
        if part.shape != first.shape or corners_apart(part.shape, part.affine, first.affine) > APART:
            raise CaseError(f"{path}: expected the grid of {paths[0].name}, {_size(first)} with {_place(first)}, found {_size(part)} with {_place(part)}; write the masks of a case on one grid")
    masks = [_indices(part.labels, ("absent", name), None, ignore, path) for part, name, path in zip(parts, classes, paths, strict=True)]
    return LabelMap(np.stack(masks), first.spacing, first.affine, multilabel=True)


def _read(source: Source, dims: int, as_stored: bool) -> LabelMap:
    """Whole numbers on `dims` axes, not yet understood."""
    with said_plainly(source.path):
        found = _stored(source, as_stored or source.divided, further_axes=False)
        found = _on_lattice(replace(found, labels=_whole(found.labels, source.path)), source)
        array = found.labels
        if source.frames is not None:
            array = array[None] if array.ndim == 2 else array
            array = array[list(chosen(source, len(array), 0, None))]
        return _on_axes(replace(found, labels=_meant(source, array)), dims, source.path)


def _laid_over(under: LabelMap, over: LabelMap, path: Path) -> LabelMap:
    if over.shape != under.shape:
        raise CaseError(f"{path}: expected the size of the other masks of its case, {_size(under)}, found {_size(over)}; write them on one grid")
    return replace(under, labels=np.where(over.labels != 0, over.labels, under.labels))


def _meanings(source: Source) -> dict[str, int]:
    """Number in the file, `*` for any other, → what it stands for, where `member` says so."""
    if not MEANINGS.fullmatch(source.member or "") or identify(source.path) not in ("pictures", "tiff"):
        return {}
    return {number: int(meaning) for number, meaning in (pair.split("=") for pair in str(source.member).split(","))}


def _meant(source: Source, array: np.ndarray) -> np.ndarray:
    """What the numbers of the file stand for."""
    if not (meanings := _meanings(source)):
        return array
    other = meanings.pop("*", None)
    result, strange = _looked_up(array, {int(number): meaning for number, meaning in meanings.items()}, np.int64)
    if strange and other is None:
        raise CaseError(f"{source.path}: expected the mask values {', '.join(meanings)}, found {strange[0]} in {np.count_nonzero(array == strange[0]):,} voxels, of which it is not said what it stands for; correct the mask")
    if strange:
        result[np.isin(array, strange)] = other
    return result


def _read_stack(source: Source, dims: int, as_stored: bool) -> list[LabelMap]:
    """One mask after the other from a file that holds those of all classes."""
    with said_plainly(source.path):
        found = _stored(source, as_stored or source.divided, further_axes=True)
        parts = [_on_lattice(replace(found, labels=_whole(part, source.path)), source) for part in found.labels]
        return [_on_axes(part, dims, source.path) for part in parts]


def _on_lattice(found: LabelMap, source: Source) -> LabelMap:
    """On the lattice of the source, if it has one: at each voxel the value of the voxel it lies in, of two the one of higher index."""
    if not isinstance(source.grid, Lattice):
        return found
    if source.grid.spacing is None:
        y, x = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(source.grid.shape[1:], found.labels.shape[-2:], strict=True))
        return LabelMap(found.labels[..., y[:, None], x])
    place = grid(source)
    if found.affine is None or place is None or place.affine is None:
        raise CaseError(f"{source.path}: expected an affine, to lay the mask on a grid in mm, found none; write it as NIfTI")
    result, overlap = _nearest(found.labels.reshape(1, *_three(found.labels.shape)), np.linalg.inv(found.affine) @ place.affine, place.shape)
    if not overlap:
        raise CaseError(f"{source.path}: expected a mask that overlaps the window it is laid in, {_place(LabelMap(result[0], affine=place.affine))}, found {_place(found)}; correct its header")
    return LabelMap(result[0], place.spacing, place.affine)


def _stored(source: Source, as_stored: bool, further_axes: bool) -> LabelMap:
    path, kind = source.path, identify(source.path)
    if source.member == ABSENT and kind in ("pictures", "tiff"):
        shape = tiff.size(Source(path)) if kind == "tiff" else mask_pictures.size(path)
        return LabelMap(np.zeros(shape, np.uint8))
    if kind in ("nifti", "simpleitk"):
        array, spacing, affine, _ = (nifti if kind == "nifti" else simpleitk).volume(path, as_stored=as_stored, further_axes=further_axes, member=source.member)
        return LabelMap(np.moveaxis(array.reshape(*array.shape[:3], -1), -1, 0) if further_axes else array, spacing, affine)
    if kind == "arrays":
        with arrays.opened(arrays.named(source, MEMBER)) as array:
            if len(array.shape) < 2:
                raise CaseError(f"{path}: expected a mask of two axes or more, found shape {array.shape}; store (H, W) or (D, H, W)")
            check_size(path, *array.shape[-2:])
            return LabelMap(np.asarray(array[...]), *arrays.geometry(array))
    if kind == "folder":
        files = pictures_in(path)
        planes = [_stored(Source(file), as_stored, further_axes=False).labels for file in files]
        planes = [plane.reshape(-1, *plane.shape[-2:]) for plane in planes]
        sizes = sorted({plane.shape[-2:] for plane in planes})
        if len(sizes) != 1:
            said = " and ".join(map(str, sizes)) or "none"
            raise CaseError(
                f"{path}: expected masks of one size as planes, found {said}; correct the folder"
            )
        return LabelMap(np.concatenate(planes))
    if kind == "tiff":
        raw = tiff.read_indices(_whole_part(source))
        if raw.inverted and raw.pixels.dtype != np.bool_:
            raise CaseError(f"{path}: expected labels that count from 0, found MINISWHITE, in which 0 is white; save it as MINISBLACK")
        return LabelMap(mask_pictures.one_channel(~raw.pixels if raw.inverted else raw.pixels, path))
    if kind == "pictures" and (stored := mask_pictures.format_of(path)) in mask_pictures.LOSSLESS:
        return LabelMap(mask_pictures.picture(path))
    found = path.suffix or kind
    if kind == "pictures" and found.lower().endswith(("png", "bmp")):
        found = f"{stored} in a file called {found}"
    raise CaseError(
        f"{path}: expected a mask as .png, .tif, .nii.gz, .nrrd, .mha, .h5 or .npz, found {found}, "
        "which can change or hide its values; save the class indices as one of these"
    )


def _whole_part(source: Source) -> Source:
    """The part of a TIFF that a mask names, with all its planes."""
    part = (source.member or "").strip("/").isdecimal()
    return Source(source.path, source.member if part else None)


def _on_axes(found: LabelMap, dims: int, path: Path) -> LabelMap:
    """Axes of length 1 added or left out in front, of a plane at the end or wherever its volume is
    thin; memory that can be written to."""
    array = found.labels
    if dims == 2 and array.ndim == 3 and found.affine is not None:
        axis = flat_axis(array.shape)
        found = LabelMap(turned_array(array, axis), *turned_grid(found.spacing, found.affine, axis))
    elif dims == 2 and array.ndim > 2 and array.shape[-1] == 1:
        found = replace(found, labels=array[..., 0])
    shape = (1,) * (dims - found.labels.ndim) + found.labels.shape
    if 0 in shape or any(size != 1 for size in shape[:-dims]):
        raise CaseError(f"{path}: expected a mask of {dims} axes, found shape {array.shape}; " + ("write one plane into a file, or set dims = 3" if dims == 2 else "write one volume into a file"))
    labels = np.require(found.labels.reshape(shape[-dims:]), requirements=("C", "W"))
    return replace(found, labels=labels)


def _smallest(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.dtype.kind not in "bui" or not labels.size:
        raise CaseError(f"{path}: expected whole numbers as labels, found {labels.dtype} of shape {labels.shape}; round or threshold the prediction")
    low, high = int(labels.min()), int(labels.max())
    types = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64)
    return labels.astype(next(kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))


# --------------------------------------------------------------------------------------------- values


def _whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Integers or bool in this machine's byte order."""
    check_finite(array, path)
    if array.dtype.kind != "f":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    whole = np.rint(array)
    fractions = array[np.abs(array - whole) > WHOLE]
    if fractions.size:
        raise CaseError(f"{path}: expected whole numbers in a mask, found {fractions.size} fractions such as {fractions[0]:g}; resample masks to the nearest value, or threshold them")
    exact = 2.0 ** min(np.finfo(array.dtype).nmant + 1, 53)
    if array.size and np.abs(whole).max() > exact:
        raise CaseError(f"{path}: expected labels up to {exact:.0f} in {array.dtype}, found {np.abs(whole).max():.0f}, where neighbours cannot be told apart; save integers")
    return whole.astype(np.int64)


def _ids(array: np.ndarray, path: Path) -> np.ndarray:
    """Unsigned numbers."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "i" and array.min() < 0:
        raise CaseError(f"{path}: expected instances numbered from 0 on, found {array.min()} in {np.count_nonzero(array < 0)} voxels; number them anew")
    return array.view(f"u{array.dtype.itemsize}")


def _indices(array: np.ndarray, classes: Sequence[str], values: Sequence[int] | None, ignore: int | None, path: Path) -> np.ndarray:
    """Class indices in the smallest type, signed where something may be ignored."""
    given = tuple(range(len(classes)) if values is None else values)
    if len(given) != len(classes):
        raise RequestError(f"{path}: expected a mask value for each of the {len(classes)} classes, found {len(given)} values; correct `values`")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255 if set(given) == {0, 255} else 1)
    elif given == (0, 1) and ignore != 255 and array.max() == 255:
        given = (0, 255)
    names = dict(zip(given, classes, strict=True))
    meaning = {value: index for index, value in enumerate(given)}
    if ignore is not None:
        meaning.setdefault(ignore, IGNORED)
        names.setdefault(ignore, "ignored")
    types = (np.uint8, np.uint16) if ignore is None else (np.int8, np.int16, np.int32)
    result, strange = _looked_up(array, meaning, next(kind for kind in types if len(classes) - 1 <= np.iinfo(kind).max))
    if strange:
        expected = ", ".join(f"{value} ({name})" for value, name in list(names.items())[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        found = ", ".join(f"{value} in {np.count_nonzero(array == value):,} voxels" for value in strange[:5]) + (f" and {len(strange) - 5} more values" if len(strange) > 5 else "")
        raise CaseError(f"{path}: expected the mask values {expected}, found {found}; name every value in `values`, one of them as `ignore`, or correct the mask")
    return result


def _looked_up(array: np.ndarray, meaning: Mapping[int, int], dtype: type) -> tuple[np.ndarray, list[int]]:
    """Every value's meaning, and the values that have none."""
    result: np.ndarray = np.zeros(array.shape, dtype)
    low, high = int(array.min()), int(array.max())
    if high - low >= TABLE:
        for value, index in meaning.items():
            result[array == value] = index
        return result, [int(value) for value in np.unique(array) if int(value) not in meaning]
    table: np.ndarray = np.zeros(high - low + 1, dtype)
    known, present = np.zeros(len(table), bool), np.zeros(len(table), bool)
    for value, index in meaning.items():
        if low <= value <= high:
            table[value - low], known[value - low] = index, True
    base = np.array(low, array.dtype).astype(np.int64)
    for plane, to in zip(array, result, strict=True):
        codes = plane.astype(np.int64) - base
        present[codes] = True
        to[...] = table[codes]
    return result, [low + int(place) for place in np.flatnonzero(present & ~known)]


# ------------------------------------------------------------------------------------------- geometry


def check_geometry(pred: LabelMap, true: LabelMap, what: str) -> None:
    """RequestError unless both lie on one grid: equal shapes, and corners within a hundredth of a voxel where both know
    where they are. `what` names the prediction."""
    if pred.multilabel != true.multilabel or (true.multilabel and len(pred.labels) != len(true.labels)):
        raise RequestError(f"{what}: expected masks of {_classes_said(true)}, found {_classes_said(pred)}; write one mask for each class")
    advice = "resample it (--resample nearest), or write it on the grid of the reference" if _shared_space(pred, true) else "write it on the grid of the reference"
    if pred.shape != true.shape:
        raise RequestError(f"{what}: expected the shape of the reference, {_size(true)}, found {_size(pred)}; {advice}")
    if (distance := corners_apart(true.shape, pred.affine, true.affine)) > APART:
        raise RequestError(f"{what}: expected the place of the reference, {_place(true)}, found {_place(pred)}, {distance:.3g} voxels away; {advice}")


def resample_nearest(pred: LabelMap, like: LabelMap, what: str = "the prediction") -> LabelMap:
    """The prediction on the grid of `like`: at each voxel centre the value of the voxel it lies in, 0 outside.

    Centres on the border of two voxels (to a millionth) take the one of higher index. Planes without affines are taken to
    show the same picture from edge to edge; of planes with affines, what lies across them does not count. Where one affine is
    unknown and the shapes are equal, there is nothing to resample.
    """
    if not _shared_space(pred, like) and pred.shape == like.shape:
        return replace(pred, spacing=like.spacing, affine=like.affine)
    if not _shared_space(pred, like):
        raise RequestError(f"{what}: expected a prediction and a reference with affines to resample between, found {'none in ' + ('either' if pred.affine is like.affine else 'one of them')}; write it on the grid of the reference")
    if len(pred.shape) != len(like.shape):
        raise RequestError(f"{what}: expected {len(like.shape)} axes like the reference, found {len(pred.shape)}; write it on the grid of the reference")
    result, overlap = _nearest(pred.labels.reshape(-1, *_three(pred.shape)), _between(pred, like), _three(like.shape))
    if not overlap:
        raise RequestError(f"{what}: expected a prediction that overlaps the reference at {_place(like)}, found it at {_place(pred)}; write it with the affine of the image")
    return LabelMap(result.reshape(*pred.labels.shape[: len(pred.labels.shape) - len(pred.shape)], *like.shape), like.spacing, like.affine, pred.multilabel)


def _nearest(source: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """(n, z, y, x) on another grid, and whether the two overlap. `matrix` takes its (x, y, z) indices to those of `source`."""
    result = np.zeros((len(source), *shape), source.dtype)
    y, x = np.mgrid[: result.shape[2], : result.shape[3]]
    overlap = False
    for z in range(result.shape[1]):
        places = [np.floor(row[0] * x + row[1] * y + row[2] * z + row[3] + 0.5 + TIE) for row in matrix[2::-1]]
        inside = np.logical_and.reduce([(place >= 0) & (place < size) for place, size in zip(places, source.shape[1:], strict=True)])
        overlap |= bool(inside.any())
        result[:, z][:, inside] = source[:, *(place[inside].astype(np.int64) for place in places)]
    return result, overlap


def _between(pred: LabelMap, like: LabelMap) -> np.ndarray:
    """4x4 from (x, y, z) indices of `like` to those of `pred`."""
    if pred.affine is not None and like.affine is not None:
        matrix = np.linalg.inv(pred.affine) @ like.affine
        if len(like.shape) == 2:
            matrix[2] = 0
        return matrix
    ratios = [old / new for old, new in zip(_three(pred.shape)[::-1], _three(like.shape)[::-1], strict=True)]
    matrix = np.diag([*ratios, 1.0])
    matrix[:3, 3] = [ratio / 2 - 0.5 for ratio in ratios]
    return matrix


def _shared_space(a: LabelMap, b: LabelMap) -> bool:
    if a.affine is None or b.affine is None:
        return a.affine is b.affine and len(a.shape) == len(b.shape) == 2
    return True


def corners_apart(shape: tuple[int, ...], affine: np.ndarray | None, other: np.ndarray | None) -> float:
    """The greatest distance between corresponding corners of two grids of one shape, in voxels of the second; 0 where one has no affine."""
    if affine is None or other is None:
        return 0.0
    ends = [(0, size - 1) for size in _three(shape)[::-1]]
    corners = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]], float)
    apart = np.linalg.norm(corners @ (affine - other)[:3].T, axis=1).max()
    return float(apart / np.linalg.norm(other[:3, :3], axis=0).min())


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + shape


def _classes_said(labels: LabelMap) -> str:
    return f"{len(labels.labels)} classes" if labels.multilabel else "classes that exclude each other"


def _size(labels: LabelMap) -> str:
    return " x ".join(map(str, labels.shape))


def _place(labels: LabelMap) -> str:
    if labels.affine is None:
        return "no known place"
    first = ", ".join(f"{position:.6g}" for position in labels.affine[:3, 3])
    return f"first voxel at ({first}) with sides {', '.join(f'{side:.6g}' for side in np.linalg.norm(labels.affine[:3, :3], axis=0))}"
