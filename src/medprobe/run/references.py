"""The masks that dense predictions are held against: read as the dataset describes them, with the unit of distances."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medprobe.errors import CaseError
from medprobe.imaging.labels import APART, LabelMap, corners_apart, read_labels
from medprobe.types import Case, Dataset, Source

Spacing = tuple[float, float, float]


def reference(dataset: Dataset, sources: Sequence[Source]) -> LabelMap:
    """Class indices (ids of instances as they are). CaseError: a mask that is not understood."""
    instances = dataset.kind == "instances"
    return read_labels(
        sources, dims=dataset.dims, classes=None if instances else dataset.classes, values=None if instances else dataset.values,
        ignore=None if instances else dataset.ignore, multilabel=dataset.multilabel,
    )  # fmt: skip


def check_on_image(dataset: Dataset, case: Case, sources: Sequence[Source]) -> None:
    """CaseError where image and mask are NIfTI files of other shapes or places; by their headers alone."""
    if not dataset.aligned:
        return
    image = case.images.get("image", ())
    nifti = [source.path for source in (*image[:1], *sources[:1]) if source.path.name.lower().endswith((".nii", ".nii.gz"))]
    if len(nifti) < 2 or nifti[0] == nifti[1]:
        return
    try:
        one, other = (_header(path) for path in nifti)
    except Exception:  # what cannot be read is named where it is read
        return
    shapes = tuple(one.shape[:3]), tuple(other.shape[:3])
    apart = corners_apart(shapes[0][::-1], one.affine, other.affine) if shapes[0] == shapes[1] else float("inf")
    if apart > APART:
        found = f"shape {' x '.join(map(str, shapes[1]))} beside {' x '.join(map(str, shapes[0]))}" if shapes[0] != shapes[1] else f"it {apart:.3g} voxels away"
        raise CaseError(f"{case.id}: expected the mask {nifti[1].name} on the grid of its image {nifti[0].name}, found {found}; correct the reference")


def _header(path: Path) -> Any:
    """Shape and affine of a NIfTI file, without its voxels."""
    import nibabel

    return nibabel.load(path)


def in_millimetres(dataset: Dataset, cases: Sequence[Case]) -> bool:
    """Whether distances can be given in mm: every case states its spacing, or its reference is a format that holds one."""
    if dataset.kind == "instances":
        return True
    for case in cases:
        sources = case.target["fixed"] if dataset.kind == "registration" else case.target
        if case.fields.get("spacing") is None and not sources[0].path.name.lower().endswith((".nii", ".nii.gz")):
            return False
    return True


def spacing_of(case: Case, labels: LabelMap, dims: int, millimetres: bool) -> tuple[float, ...]:
    """Voxel sizes in array order: the case's own, else its mask's; 1 where distances are in px."""
    given = case.fields.get("spacing")
    sizes = tuple(float(size) for size in given.split()) if given is not None else labels.spacing
    return (sizes if millimetres and sizes else (1.0, 1.0, 1.0))[3 - dims :]
