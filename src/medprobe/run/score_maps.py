"""Label maps and displacement fields made elsewhere: one file per test case, named by its id."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.datasets._table import refusal
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.features.digests import file_sha256
from medprobe.files import digest_of
from medprobe.imaging import displacements, formats
from medprobe.imaging.labels import LabelMap, check_geometry, read_labels, resample_nearest
from medprobe.metrics import dense
from medprobe.run import results
from medprobe.run.label_numbers import Reading
from medprobe.run.references import check_on_image, on_fixed, reference, spacing_of
from medprobe.types import Case, Dataset, Source

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".h5", ".npz")

Progress = Callable[[int, int, str], None]


def measured(
    dataset: Dataset, tests: Mapping[int | None, Sequence[Case]], files: Mapping[str, Sequence[Path]], resample: bool, spaced: bool,
    progress: Progress, read: Reading,
) -> Iterator[tuple[int | None, results.CaseValues]]:
    """(fold, values per case) of every fold. RequestError lists every file that does not fit."""
    cases = [case for part in tests.values() for case in part]
    faults: list[str] = []
    values: dict[str, dense.Values] = {}
    for number, case in enumerate(cases):
        progress(number, len(cases), "scoring cases")
        try:
            values[case.id] = _of_case(dataset, case, files[case.id], resample, spaced, read)
        except (CaseError, RequestError) as error:
            faults.append(str(error) if str(files[case.id][0]) in str(error) or case.id in str(error) else f"{case.id}: {error}")
    progress(len(cases), len(cases), "scoring cases")
    if faults:
        raise refusal(folder_of(files), "the folder of predictions", faults)
    for fold, part in tests.items():
        ids = [case.id for case in part]
        yield fold, results.CaseValues.of(ids, [case.patient for case in part], [values[name] for name in ids])


def folder_of(files: Mapping[str, Sequence[Path]]) -> Path:
    return next(iter(files.values()))[0].parent


def facts_of(
    files: Mapping[str, Sequence[Path]], resample: bool, spaced: bool, labels: str | None
) -> dict[str, Any]:
    """What the scores depend on besides the dataset: the same in every fold, so that folds of two sets are never mixed."""
    digests = {name: [file_sha256(file) for file in group] for name, group in files.items()}
    said = {"labels": labels} if labels else {}
    return {"predictions_sha256": digest_of(digests), "resample": "nearest" if resample else None, "distance_unit": "mm" if spaced else "px", **said}


def matched(dataset: Dataset, cases: Sequence[Case], folder: Path) -> dict[str, list[Path]]:
    """Case id → its file, or its files in the order of the classes. RequestError, MissingError: what does not match.

    Files are `<case>.nii.gz`, `.png`, `.h5` (array `labels`), …; for several masks per case also `<case>.<class>.png`; for
    registration `<case>.disp.nii.gz`. A container (probabilities, say) beside a label map of the same name is left alone.
    """
    if folder.is_file():
        raise RequestError(f"--predictions: expected a folder, found a file at {folder}; give the folder it lies in")
    if not folder.is_dir():
        raise MissingError(f"--predictions: expected a folder at {folder}, found none; check the path")
    suffixes = tuple(f".disp{suffix}" for suffix in SUFFIXES) if dataset.kind == "registration" else SUFFIXES
    stems: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        suffix = next((one for one in suffixes if file.name.lower().endswith(one)), None)
        if suffix is not None and file.is_file() and not file.name.startswith("."):
            stems.setdefault(file.name[: -len(suffix)], []).append(file)
    for stem, group in stems.items():
        maps = [file for file in group if not file.name.endswith((".h5", ".npz"))]
        stems[stem] = maps or group
    found: dict[str, list[Path]] = {}
    missing, double = [], []
    for case in cases:
        name = case.id if case.id in stems or any(stem.startswith(f"{case.id}.") for stem in stems) else results.safe_name(case.id)
        wanted = [name]
        if dataset.multilabel and name not in stems:
            wanted = [f"{name}.{one if f'{name}.{one}' in stems else results.safe_name(one)}" for one in dataset.classes]
        absent = [one for one in wanted if one not in stems]
        if absent:
            missing.append(f"{absent[0]}{suffixes[0] if dataset.dims == 3 or dataset.kind == 'registration' else '.png'}")
        double += [", ".join(file.name for file in stems[stem]) for stem in wanted if len(stems.get(stem, [])) > 1]
        found[case.id] = [stems.pop(stem)[0] for stem in wanted if stem in stems]
    faults = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in (("missing", missing), ("that are not test cases", sorted(stems)), ("given twice", double)) if names]
    if faults:
        error = MissingError if len(missing) == len(cases) else RequestError
        raise error(f"{folder}: expected one prediction for each of the {len(cases)} test cases, found {' and '.join(faults)}; give exactly these, as <case>{suffixes[0]} or another of {', '.join(suffixes[1:])}")
    return found


def _of_case(dataset: Dataset, case: Case, files: Sequence[Path], resample: bool, spaced: bool, read: Reading) -> dense.Values:
    if dataset.kind == "registration":
        return _of_pair(dataset, case, files[0], spaced)
    check_on_image(dataset, case, case.target)
    true = reference(dataset, case.target)
    pred = _prediction(dataset, files, true.affine is None, read)
    if pred.affine is None and true.affine is not None and _is_turned(case.target[0]):
        raise RequestError(f"{files[0]}: expected a prediction with an affine, since the reference {case.target[0].path.name} is not stored along right, anterior, superior, found none; write it as .nii.gz with the affine of the image")
    if resample:
        pred = resample_nearest(pred, true, str(files[0]))
    check_geometry(pred, true, str(files[0]))
    if dataset.kind == "instances":
        return dense.instances_case(pred.labels, true.labels, ignore=(0,) if dataset.ignore is None else (0, dataset.ignore))
    axes = spacing_of(case, true, dataset.dims, spaced)
    return dense.segmentation_case(pred.labels, true.labels, len(dataset.classes), axes, multilabel=dataset.multilabel, volumes=spaced, regions=results.regions_of(dataset))


def _is_turned(source: Source) -> bool:
    """Whether the voxels of a source are turned when it is read, so that an array without affine cannot be laid on it."""
    grid = formats.grid(source)
    return grid is not None and grid.turned


def _prediction(dataset: Dataset, files: Sequence[Path], as_stored: bool, read: Reading) -> LabelMap:
    """Class indices. `as_stored`: NIfTI beside a reference without affine."""
    if dataset.kind == "instances":
        return read_labels(tuple(map(Source, files)), dims=dataset.dims, as_stored=as_stored)
    try:
        return read(dataset, files, as_stored)
    except CaseError as error:
        said = str(error).replace("name every value in `values`, one of them as `ignore`, or correct the mask", f"write the class indices 0 to {len(dataset.classes) - 1}")
        raise CaseError(said) from None


def _of_pair(dataset: Dataset, case: Case, file: Path, spaced: bool) -> dense.Values:
    """The moving labels, on the fixed grid if their own differs, warped by the displacement and held against the fixed ones."""
    fixed, moving = (reference(dataset, case.target[role]) for role in ("fixed", "moving"))
    placed = {role: labels.affine is not None for role, labels in (("fixed", fixed), ("moving", moving))}
    turned = [role for role in placed if placed[role] and _is_turned(case.target[role][0])]
    if turned and (not all(placed.values()) or not file.name.lower().endswith((".nii", ".nii.gz"))):
        raise RequestError(f"{case.id}: expected masks and displacement all with affines, since {turned[0]} is not stored along right, anterior, superior, found {'a displacement' if all(placed.values()) else 'a mask'} without; write them as .nii.gz")
    try:
        moving = on_fixed(moving, fixed)
    except CaseError as error:
        raise RequestError(f"{case.id}: {error}") from None
    field = displacements.read_displacement(Source(file), dims=dataset.dims, fixed=fixed)
    axes = spacing_of(case, fixed, dataset.dims, spaced)
    return dense.registration_case(field, np.maximum(moving.labels, 0), fixed.labels, len(dataset.classes), axes)
