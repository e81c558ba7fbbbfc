"""Displacement fields: where the moving image is sampled for each voxel of the fixed one, x + u(x), in voxels.

In memory (3, D, H, W) with components z, y, x, or (2, H, W) with y, x; float32.

    .disp.nii.gz .nii.gz .nii   (X, Y, Z, 1, 3), intent 1007 (vector), on the grid and with the affine of the fixed image; a plane
                                is (X, Y, 1, 1, 2). (X, Y, Z, 3) is read too. The first component on disk is along the third
                                axis, the last along the first: z, y, x as in memory. They are voxels of the axes as the file
                                stores them, and turn with those when a file is brought to canonical axes.
    .h5:/displacement .npz      as in memory

A program that writes millimetres, or x first, must be converted: the numbers alone cannot tell.
"""

import io
from pathlib import Path

import numpy as np

from medprobe.errors import CaseError, RequestError
from medprobe.files import write_atomically
from medprobe.imaging import arrays, nifti
from medprobe.imaging.formats import identify
from medprobe.imaging.labels import APART, LabelMap, corners_apart
from medprobe.imaging.raw import check_finite, said_plainly
from medprobe.imaging.resample import PLACES, flat_axis, stretched, turned_array, turned_grid
from medprobe.types import Source

MEMBER = "displacement"
INTENT = "vector"


def read_displacement(source: Source, *, dims: int, fixed: LabelMap | None = None) -> np.ndarray:
    """(3, D, H, W), components z, y, x, or (2, H, W), components y, x: float32, in voxels.

    CaseError where the field is not finite or has another number of components than `dims`. `fixed` is what it must lie on:
    RequestError for another grid; where it has no affine, a NIfTI file's voxels are taken in the order of the file.
    """
    path = source.path
    with said_plainly(path):
        as_stored = fixed is not None and fixed.affine is None
        vectors, affine = _turned(path, dims, as_stored) if identify(path) == "nifti" else _array(source)
        vectors = _checked(vectors, dims, path)
    if fixed is not None and vectors.shape[1:] != fixed.shape:
        raise RequestError(f"{path}: expected a displacement for every voxel of the fixed image, {fixed.shape}, found {vectors.shape[1:]}; write it on that grid")
    if fixed is not None and (apart := corners_apart(fixed.shape, affine, fixed.affine)) > APART:
        raise RequestError(f"{path}: expected a displacement field where the fixed image is, found it {apart:.3g} voxels away; write it with the affine of the fixed image")
    return vectors


def displacement_on(vectors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A displacement (3, D, H, W) on the grid of `shape` over the same extent, in its voxels."""
    ratio = np.array(shape) / vectors.shape[1:]
    scale = ratio.astype(np.float32).reshape(-1, *[1] * len(shape))
    return np.asarray(stretched(vectors, shape) * scale, np.float32)


def write_displacement(path: Path, vectors: np.ndarray, affine: np.ndarray | None = None, spacing: tuple[float, float, float] | None = None) -> None:
    """By suffix: .disp.nii.gz (or .nii.gz, .nii), .h5, .npz; whole or not at all. Affine and spacing (z, y, x) are those of the fixed image."""
    name, vectors = path.name.lower(), _checked(vectors, len(vectors), path)
    if name.endswith(nifti.SUFFIXES):
        last = np.moveaxis(vectors if len(vectors) == 3 else vectors[:, None], 0, -1)[:, :, :, None]
        nifti.save(path, last, affine, spacing, INTENT)
    elif name.endswith(arrays.HDF5):
        arrays.save(path, MEMBER, vectors, spacing, affine)
    elif name.endswith(".npz"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, displacement=vectors)
        write_atomically(path, buffer.getvalue())
    else:
        raise RequestError(f"{path}: expected .disp.nii.gz, .h5 or .npz to write a displacement field to, found {path.suffix or 'no suffix'}; choose another name")


def _array(source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    if identify(source.path) != "arrays":
        raise CaseError(f"{source.path}: expected a displacement field as .nii.gz, .h5 or .npz, found {source.path.suffix}; convert it")
    with arrays.opened(arrays.named(source, MEMBER)) as array:
        return np.asarray(array[...]), arrays.geometry(array)[1]


def _turned(path: Path, dims: int, as_stored: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """NIfTI on canonical axes, its components with them; and the affine."""
    array, _, affine, turned = nifti.volume(path, as_stored=as_stored, further_axes=True)
    *space, components = (*array.shape[:3], *(size for size in array.shape[3:] if size != 1), 1)[:4]
    if components != dims or array.size != np.prod(space) * components:
        raise CaseError(f"{path}: expected {dims} components on the fifth axis, {'z, y, x' if dims == 3 else 'y, x'}, found shape {(*array.shape[2::-1], *array.shape[3:])}; write (X, Y, Z, 1, 3), or (X, Y, 1, 1, 2) in 2D")
    axis = flat_axis(space) if dims == 2 else "axial"
    across, *along = PLACES[axis]
    order = [2 - place for place in ((across, *along) if dims == 3 else along)]  # of components, by axes of which 0 is x
    if dims == 2 and (space[across] != 1 or set(turned[:2, 0]) != set(order)):
        raise CaseError(f"{path}: expected a plane whose third axis is across it, found {space[across]} planes along axis {turned[2, 0]}; write (X, Y, 1, 1, 2)")
    stored = np.moveaxis(array.reshape(*space, dims), -1, 0)
    vectors = np.empty(stored.shape, np.result_type(stored.dtype, np.float32))
    for place in range(dims):  # the component along a stored axis is that along the axis it became
        became, sign = turned[place]
        vectors[order.index(became)] = stored[dims - 1 - place] * sign
    return (vectors if dims == 3 else turned_array(vectors, axis)[:, 0]), turned_grid(None, affine, axis)[1]


def _checked(vectors: np.ndarray, dims: int, path: Path) -> np.ndarray:
    """Finite float32, one component per axis."""
    if vectors.ndim != dims + 1 or len(vectors) != dims or dims not in (2, 3) or not vectors.size:
        wanted = "(2, H, W)" if dims == 2 else "(3, D, H, W)"
        raise CaseError(f"{path}: expected a displacement field {wanted}, one component per axis, found shape {vectors.shape}; put the components, {'y, x' if dims == 2 else 'z, y, x'}, first")
    check_finite(vectors, path)
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(vectors, dtype=np.float32)
    check_finite(single, path)
    return single
