"""The masks that dense predictions are held against: read as the dataset describes them, with the unit of distances."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medprobe.errors import CaseError
from medprobe.imaging import arrays, formats
from medprobe.imaging.labels import APART, MEMBER, LabelMap, corners_apart, read_labels, resample_nearest
from medprobe.imaging.resample import turned_array, turned_grid, upright_array, upright_grid
from medprobe.types import Case, Dataset, Lattice, Source

Spacing = tuple[float, float, float]


def reference(dataset: Dataset, sources: Sequence[Source]) -> LabelMap:
    """Class indices (ids of instances as they are). CaseError: a mask that is not understood."""
    instances = dataset.kind == "instances"
    return read_labels(
        sources, dims=dataset.dims, classes=None if instances else dataset.classes, values=None if instances else dataset.values,
        ignore=None if instances else dataset.ignore, multilabel=dataset.multilabel,
    )  # fmt: skip


class Masks:
    """The masks of a dataset, each read once for all folds, models and epochs: they are kept packed, at a hundredth of their size."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: dict[Sequence[Source], tuple[bytes, LabelMap]] = {}

    def read(self, sources: Sequence[Source] | Mapping[str, Sequence[Source]]) -> None:
        """Read a mask, or those of a pair, if they are not read yet. CaseError: it is not understood."""
        if isinstance(sources, Mapping):
            for each in sources.values():
                self.read(each)
        elif (sources := stored(sources)) not in self._kept:
            mask = reference(self._dataset, sources)
            like = replace(mask, labels=np.broadcast_to(np.zeros((), mask.labels.dtype), mask.labels.shape))
            self._kept[sources] = zlib.compress(mask.labels.tobytes(), 1), like

    def planes(self, sources: Sequence[Source]) -> int:
        """Of the mask of a volume. CaseError: it is not understood."""
        self.read(sources)
        return int(self._kept[stored(sources)][1].labels.shape[-3])

    def __call__(self, sources: Sequence[Source] | Mapping[str, Sequence[Source]]) -> Any:
        """A LabelMap, turned as its sources say; of a pair one by role, the moving labels on the fixed grid. CaseError: they cannot be
        laid on it."""
        if isinstance(sources, Mapping):
            fixed, moving = (self._unpacked(sources[role]) for role in ("fixed", "moving"))
            pair = {"fixed": fixed, "moving": on_fixed(moving, fixed)}
            return {role: turned(labels, sources[role][0]) for role, labels in pair.items()}
        return turned(self._unpacked(sources), sources[0])

    def _unpacked(self, sources: Sequence[Source]) -> LabelMap:
        """On the axes of the file, whatever its sources say of how it is turned."""
        self.read(sources)
        packed, like = self._kept[stored(sources)]
        return replace(like, labels=np.frombuffer(bytearray(zlib.decompress(packed)), like.labels.dtype).reshape(like.labels.shape))


def stored(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources of a mask without what a run says of how it is turned."""
    return tuple(replace(source, axis="axial", orientation="canonical") for source in sources)


def turned(mask: LabelMap, like: Source) -> LabelMap:
    """A mask or prediction with its planes across the axis and in the orientation of a source, as the image of its case is read."""
    labels, spacing, affine = mask.labels, mask.spacing, mask.affine
    if like.axis != "axial":
        labels = turned_array(labels, like.axis)
        spacing, affine = turned_grid(spacing, affine, like.axis)
    if like.orientation == "radiological":
        labels, affine = upright_array(labels), upright_grid(labels.shape[-2:], affine)
    return LabelMap(np.ascontiguousarray(labels), spacing, affine, mask.multilabel)


def turned_back(predicted: np.ndarray, like: Source, *, field: bool = False) -> np.ndarray:
    """A label map, or a `field` of displacements, of an image that was read as a source says, on the axes of its file."""
    if like.orientation == "radiological":
        predicted = upright_array(predicted)
        if field:  # the last two components are those along rows and columns
            signs = np.array([1] * (len(predicted) - 2) + [-1, -1], predicted.dtype)
            predicted = predicted * signs.reshape(-1, *[1] * (predicted.ndim - 1))
    if like.axis != "axial":
        predicted = turned_array(predicted, like.axis, back=True)
    return np.ascontiguousarray(predicted)


def on_fixed(moving: LabelMap, fixed: LabelMap) -> LabelMap:
    """Moving labels on the grid of the fixed ones, nearest. CaseError: other shapes, and nothing says where they lie."""
    if moving.affine is not None and fixed.affine is not None:
        return resample_nearest(moving, fixed, "moving labels")
    if moving.shape != fixed.shape:
        raise CaseError(f"expected moving labels of the shape of the fixed ones, {fixed.shape}, found {moving.shape} without affines; resample them onto the fixed grid")
    return moving


def check_pair(case: Case) -> None:
    """CaseError where a moving image or mask lies on another grid than the fixed one, and cannot be put there as the other is."""
    placed, differ = {}, {}
    pairs = {"images": case.images, "masks": case.target}
    for kind, roles in pairs.items():
        try:
            fixed, moving = (_grid(roles[role][0]) for role in ("fixed", "moving"))
        except Exception:  # what cannot be read is named where it is read
            return
        known = fixed is not None and moving is not None and fixed.affine is not None and moving.affine is not None
        placed[kind] = known
        differ[kind] = known and (fixed.shape != moving.shape or corners_apart(moving.shape, moving.affine, fixed.affine) > APART)  # type: ignore[union-attr]
    for kind, other in (("images", "masks"), ("masks", "images")):
        if differ[kind] and not placed[other]:
            raise CaseError(f"{case.id}: expected images and masks that all say where they lie, since the two {kind} lie on different grids, found {other} without an affine; write all four as .nii.gz")
    source = case.images["fixed"][0]
    if differ["images"] and source.grid is None and formats.identify(source.path) == "arrays":
        raise CaseError(f"{case.id}: expected arrays of a container on one grid, found the moving one elsewhere than the fixed one, {source.path.name}; write both as .nii.gz, or resample them")


def check_on_image(dataset: Dataset, case: Case, sources: Sequence[Source], role: str = "image") -> None:
    """CaseError where the image of a role and its mask both say where they lie, and have other shapes or places, or where files of a case
    cannot be laid on one another (`check_laid`); by their headers alone. Where planes are divided evenly their sizes alone must agree."""
    images = case.images.get(role, ())[:1]
    pair = [_lain(source) for source in (*images, *sources[:1])]
    if len(pair) < 2 or pair[0].path == pair[1].path:
        return
    try:
        image, mask = (_grid(source) for source in pair)
    except Exception:  # what cannot be read is named where it is read
        return
    if images[0].divided:
        image, mask = (one and one._replace(affine=np.eye(4), turned=False) for one in (image, mask))
    else:
        check_laid(case, sources[:1])
    if image is None or mask is None or image.affine is None or mask.affine is None:
        return
    alike = image.shape == mask.shape
    apart = corners_apart(mask.shape, image.affine, mask.affine) if alike else float("inf")
    if apart > APART:
        found = f"it {apart:.3g} voxels away" if alike else f"shape {' x '.join(map(str, mask.shape))} beside {' x '.join(map(str, image.shape))}"
        raise CaseError(f"{case.id}: expected the mask {pair[1].path.name} on the grid of its image {pair[0].path.name}, found {found}; correct the reference")


def check_laid(case: Case, masks: Sequence[Source] = ()) -> None:
    """CaseError where some files of a case (its images, and these masks) say where they lie and
    others do not, and those that do are turned when they are read, or the others are single DICOM
    files, which are read as they are shown, not where their headers say."""
    images = (source for sources in case.images.values() for source in sources)
    files = list(dict.fromkeys(_lain(source) for source in (*images, *masks)))
    if len(files) < 2:
        return
    try:
        grids = {file: _grid(file) for file in files}
    except Exception:  # what cannot be read is named where it is read
        return
    placed = {file: one for file, one in grids.items() if one and one.affine is not None}
    loose = [file for file in files if file not in placed]
    if not placed or not loose:
        return
    turned_one = next((file for file, one in placed.items() if one.turned), None)
    shown = next((file for file in loose if formats.is_shown(file)), None)
    if shown is not None:
        raise CaseError(
            f"{case.id}: expected files that all say where they lie, or pictures and arrays alone, "
            f"found {next(iter(placed)).path.name} beside the single DICOM file {shown.path.name}, "
            "which is read as it is shown; put it into a folder of its own, where it is read as "
            "its header places it, or write the others as .png"
        )
    if turned_one is not None:
        raise CaseError(
            f"{case.id}: expected {_what(case, masks)} that both say where they lie, since "
            f"{turned_one.path.name} is not stored along right, anterior, superior, found "
            f"{loose[0].path.name} without; write both in one format, such as .nii.gz"
        )


def _what(case: Case, masks: Sequence[Source]) -> str:
    several = len(case.images) > 1 or any(len(sources) > 1 for sources in case.images.values())
    return "images" + (" and masks" if masks else "") if several else "image and mask"


def _lain(source: Source) -> Source:
    """Whose header says where a source lies: the file on whose grid it is read, else its own. A lattice follows from that."""
    if isinstance(source.grid, Lattice):
        return Source(source.path, source.member)
    return source if source.grid is None else Source(source.grid)


def in_millimetres(dataset: Dataset, cases: Sequence[Case]) -> bool:
    """Whether distances can be given in mm: every case states its spacing, or its reference does."""
    if dataset.kind == "instances":
        return True
    for case in cases:
        sources = case.target["fixed"] if dataset.kind == "registration" else case.target
        if case.fields.get("spacing") is None and not _holds_spacing(sources[0]):
            return False
    return True


def _grid(source: Source) -> formats.Grid | None:
    """What a file says of where its voxels lie, of an array of masks too."""
    return formats.grid(arrays.named(source, MEMBER) if formats.identify(source.path) == "arrays" else source)


def _holds_spacing(source: Source) -> bool:
    """Formats that always do are not opened."""
    if isinstance(source.grid, Lattice):
        return source.grid.spacing is not None
    try:
        kind = formats.identify(source.path)
        found = _grid(source) if kind == "arrays" else None
    except Exception:  # said where it is read
        return False
    return kind in formats.VOLUMES or (found is not None and found.spacing is not None)


def spacing_of(case: Case, labels: LabelMap, dims: int, millimetres: bool) -> tuple[float, ...]:
    """Voxel sizes in array order: the case's own, else its mask's; 1 where distances are in px."""
    given = case.fields.get("spacing")
    sizes = tuple(float(size) for size in given.split()) if given is not None else labels.spacing
    return (sizes if millimetres and sizes else (1.0, 1.0, 1.0))[3 - dims :]
