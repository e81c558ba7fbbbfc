"""Label maps and displacement fields made elsewhere: one file per test case, named by its id."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.features.digests import file_sha256
from medprobe.files import digest_of
from medprobe.imaging import displacements
from medprobe.imaging.labels import LabelMap, check_geometry, read_labels, resample_nearest
from medprobe.metrics import dense
from medprobe.run import results
from medprobe.types import Case, Dataset, Source

SUFFIXES = (".nii.gz", ".nii", ".png", ".tif", ".tiff", ".h5", ".npz")
SHOWN = 10

Progress = Callable[[int, int, str], None]


def measured(
    dataset: Dataset, tests: Mapping[int | None, Sequence[Case]], folder: Path, resample: bool, progress: Progress
) -> Iterator[tuple[int | None, results.CaseValues, dict[str, Any]]]:
    """(fold, values per case, facts) of every fold; all folds lie in one folder.

    Files are `<case>.nii.gz`, `.png`, `.h5` (array `labels`), …; for several masks per case also `<case>.<class>.png`; for
    registration `<case>.disp.nii.gz`. All that is missing, extra, double or does not fit is said at once.
    """
    cases = [case for part in tests.values() for case in part]
    files = _matched(dataset, cases, folder)
    faults: list[str] = []
    values: dict[str, dense.Values] = {}
    spaced = _all_have_spacing(dataset, cases)
    for number, case in enumerate(cases):
        progress(number, len(cases), "scoring cases")
        try:
            values[case.id] = _of_case(dataset, case, files[case.id], resample, spaced)
        except (CaseError, RequestError) as error:
            faults.append(str(error))
    progress(len(cases), len(cases), "scoring cases")
    if faults:
        more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        listed = "".join(f"\n  {place}. {said}" for place, said in enumerate(faults[:SHOWN], 1))
        raise RequestError(faults[0] if len(faults) == 1 else f"{len(faults)} of {len(cases)} predictions cannot be scored:{listed}{more}")
    for fold, part in tests.items():
        ids = [case.id for case in part]
        digests = {name: [file_sha256(file) for file in files[name]] for name in ids}
        facts = {"predictions_sha256": digest_of(digests), "resample": "nearest" if resample else None, "distance_unit": "mm" if spaced else "px"}
        yield fold, results.CaseValues.of(ids, [case.patient for case in part], [values[name] for name in ids]), facts


def _matched(dataset: Dataset, cases: Sequence[Case], folder: Path) -> dict[str, list[Path]]:
    """Case id → its file, or its files in the order of the classes. RequestError, MissingError: what does not match."""
    if not folder.is_dir():
        raise MissingError(f"--predictions: expected a folder at {folder}, found none; check the path")
    suffixes = tuple(f".disp{suffix}" for suffix in SUFFIXES) if dataset.kind == "registration" else SUFFIXES
    stems: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        suffix = next((one for one in suffixes if file.name.endswith(one)), None)
        if suffix is not None and file.is_file() and not file.name.startswith("."):
            stems.setdefault(file.name.removesuffix(suffix), []).append(file)
    found: dict[str, list[Path]] = {}
    missing, double = [], []
    for case in cases:
        name = results.safe_name(case.id)
        wanted = [name]
        if dataset.multilabel and name not in stems:
            wanted = [f"{name}.{results.safe_name(one)}" for one in dataset.classes]
        absent = [one for one in wanted if one not in stems]
        if absent:
            missing.append(f"{absent[0]}{suffixes[0] if dataset.dims == 3 or dataset.kind == 'registration' else '.png'}")
        double += [stem for stem in wanted if len(stems.get(stem, [])) > 1]
        found[case.id] = [stems.pop(stem)[0] for stem in wanted if stem in stems]
    faults = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in (("missing", missing), ("that are not test cases", sorted(stems)), ("given twice", double)) if names]
    if faults:
        error = MissingError if len(missing) == len(cases) else RequestError
        raise error(f"{folder}: expected one prediction for each of the {len(cases)} test cases, found cases {' and '.join(faults)}; give exactly these, as <case>{suffixes[0]} or another of {', '.join(suffixes[1:])}")
    return found


def _spacing(case: Case, labels: LabelMap) -> tuple[float, float, float] | None:
    """The case's own spacing, else that of its mask."""
    given = case.fields.get("spacing")
    if given is None:
        return labels.spacing
    z, y, x = (float(size) for size in given.split())
    return z, y, x


def _truth(dataset: Dataset, sources: Sequence[Source]) -> LabelMap:
    instances = dataset.kind == "instances"
    return read_labels(
        sources, dims=dataset.dims, classes=None if instances else dataset.classes, values=None if instances else dataset.values,
        ignore=None if instances else dataset.ignore, multilabel=dataset.multilabel,
    )  # fmt: skip


def _all_have_spacing(dataset: Dataset, cases: Sequence[Case]) -> bool:
    """Whether distances can be given in mm: every case states its spacing, or its reference is a format that holds one."""
    if dataset.kind == "instances":
        return True
    for case in cases:
        sources = case.target["fixed"] if dataset.kind == "registration" else case.target
        if case.fields.get("spacing") is None and not sources[0].path.name.lower().endswith((".nii", ".nii.gz")):
            return False
    return True


def _of_case(dataset: Dataset, case: Case, files: Sequence[Path], resample: bool, spaced: bool) -> dense.Values:
    if dataset.kind == "registration":
        return _of_pair(dataset, case, files[0], spaced)
    true = _truth(dataset, case.target)
    pred = _prediction(dataset, files, as_stored=true.affine is None)
    if pred.affine is None and true.affine is not None and _is_turned(case.target[0].path):
        raise RequestError(f"{files[0]}: expected a prediction with an affine, since the reference {case.target[0].path.name} is not stored along right, anterior, superior, found none; write it as .nii.gz with the affine of the image")
    if resample:
        pred = resample_nearest(pred, true, str(files[0]))
    check_geometry(pred, true, str(files[0]))
    if dataset.kind == "instances":
        return dense.instances_case(pred.labels, true.labels, ignore=(0,) if dataset.ignore is None else (0, dataset.ignore))
    sizes = _spacing(case, true) if spaced else None
    axes = (sizes or (1.0, 1.0, 1.0))[3 - dataset.dims :]
    return dense.segmentation_case(pred.labels, true.labels, len(dataset.classes), axes, multilabel=dataset.multilabel, volumes=spaced)


def _is_turned(path: Path) -> bool:
    """Whether a NIfTI file's voxels are turned when it is read, so that an array without affine cannot be laid on it."""
    import nibabel

    image: Any = nibabel.load(path)
    return nibabel.orientations.aff2axcodes(image.affine) != ("R", "A", "S")


def _prediction(dataset: Dataset, files: Sequence[Path], as_stored: bool) -> LabelMap:
    """Class indices; the mask values of the manifest are understood too. `as_stored`: NIfTI beside a reference without affine."""
    sources = tuple(Source(file) for file in files)
    if dataset.kind == "instances":
        return read_labels(sources, dims=dataset.dims, as_stored=as_stored)
    try:
        return read_labels(sources, dims=dataset.dims, classes=dataset.classes, multilabel=dataset.multilabel, as_stored=as_stored)
    except CaseError:
        if dataset.values is None or dataset.multilabel:
            raise
        return read_labels(sources, dims=dataset.dims, classes=dataset.classes, values=dataset.values, as_stored=as_stored)


def _of_pair(dataset: Dataset, case: Case, file: Path, spaced: bool) -> dense.Values:
    """The moving labels, on the fixed grid if their own differs, warped by the displacement and held against the fixed ones."""
    fixed, moving = (_truth(dataset, case.target[role]) for role in ("fixed", "moving"))
    if moving.affine is not None and fixed.affine is not None:
        moving = resample_nearest(moving, fixed, f"{case.id}: moving labels")
    elif moving.shape != fixed.shape:
        raise RequestError(f"{case.id}: expected moving labels of the shape of the fixed ones, {fixed.shape}, found {moving.shape} without affines; resample them onto the fixed grid")
    field = displacements.read_displacement(Source(file), dims=dataset.dims, fixed=fixed)
    sizes = _spacing(case, fixed) if spaced else None
    axes = (sizes or (1.0, 1.0, 1.0))[3 - dataset.dims :]
    return dense.registration_case(field, moving.labels, fixed.labels, len(dataset.classes), np.asarray(axes).tolist())
