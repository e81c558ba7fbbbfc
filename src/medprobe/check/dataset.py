"""Does a dataset on disk keep what its page promises? Run on every registered dataset by our tests, and by anyone on their own."""

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medprobe.check.duplicates import duplicates, part_of
from medprobe.check.encoder import Finding
from medprobe.datasets._layout import cases_of, checksum, fingerprint, paths_of
from medprobe.errors import CaseError, MedprobeError
from medprobe.features.digests import Digests
from medprobe.imaging import formats, recipes
from medprobe.run import windows
from medprobe.run.progress import reporting
from medprobe.run.references import check_laid, check_on_image, on_fixed, reference
from medprobe.run.request import default_cache
from medprobe.run.results import DENSE
from medprobe.run.splits import shared_patients
from medprobe.types import Case, Dataset, Lattice

SAMPLED = 16
"""How many images are decoded, evenly over the cases."""
ROLES = ("fixed", "moving")


def check_dataset(dataset: Dataset, root: Path, window: str | None = None) -> list[Finding]:
    """All findings, in a fixed order; the copy under `root` is sound when every one is ok. `window`: that of a task, else the dataset's.

    Reads the bytes of every image once (remembered in the cache) and decodes a few. MissingError and RequestError of the
    reader pass through: a partial download has nothing to check.
    """
    cases = cases_of(dataset, root)
    found = counts_of(cases)
    with reporting() as progress:
        digests = Digests(default_cache()).of(paths_of(cases), progress)
    return [
        _counts(dataset, cases, found),
        *_checksums(dataset, cases, found),
        _ids(cases),
        _patients(dataset, cases),
        _classes(dataset, cases),
        _files(cases),
        _decoding(dataset, cases),
        *_pairs(dataset, cases),
        *_geometry(cases),
        *_window(cases, window or dataset.recipe),
        duplicates(dataset, cases, digests),
        _fingerprint(cases, digests),
        Finding("licence", True, dataset.licence),
        Finding("source", True, dataset.source),
        Finding("citation", True, dataset.citation),
        *([Finding("note", True, dataset.note)] if dataset.note else []),
    ]


def counts_of(cases: Sequence[Case]) -> dict[str, int]:
    """Cases per `train|val|test`, or per `fold0`, `fold1`, ...; under `cases` where they have neither."""
    order = ("train", "val", "test")
    counts = Counter(part_of(case) for case in cases)
    return dict(sorted(counts.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 3, item[0])))


def _counts(dataset: Dataset, cases: Sequence[Case], found: Mapping[str, int]) -> Finding:
    unlabelled = sum(case.target is None for case in cases)
    said = _written(found) + (f"; {unlabelled} unlabelled" if unlabelled else "")
    if not dataset.counts or found == dict(dataset.counts):
        return Finding("counts", bool(cases), said + (", as released" if dataset.counts else ""))
    if found == _twin_counts(dataset):
        return Finding("counts", True, f"{said}: the synthetic twin, where the release has {_written(dataset.counts)}")
    return Finding(
        "counts",
        False,
        f"expected {_written(dataset.counts)}, found {said}; the download may be partial, or the release has changed",
    )


def _written(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {count:,}" for part, count in counts.items()) or "no cases"


def _twin_counts(dataset: Dataset) -> dict[str, int] | None:
    """What the dataset's own twin holds; None where it has none, or cannot be written for want of an optional library."""
    if dataset.twin is None:
        return None
    logging.disable(logging.WARNING)  # what the reader has to say of the twin is no news
    try:
        with tempfile.TemporaryDirectory() as folder:
            dataset.twin(Path(folder), np.random.default_rng(0))
            return counts_of(list(dataset.cases(Path(folder))))
    except MedprobeError:
        return None
    finally:
        logging.disable(logging.NOTSET)


def _checksums(dataset: Dataset, cases: Sequence[Case], found: Mapping[str, int]) -> list[Finding]:
    """The ids of each part against the release; only where the counts are the release's."""
    if not dataset.checksums or found != dict(dataset.counts):
        return []
    ids = {part: [case.id for case in cases if part_of(case) == part] for part in dataset.checksums}
    wrong = [part for part, known in dataset.checksums.items() if checksum(ids[part]) != known]
    return [Finding("split", not wrong, f"other cases than released in {', '.join(wrong)}; fetch the lists and labels again" if wrong else "the cases of every part are those released")]


def _ids(cases: Sequence[Case]) -> Finding:
    doubles = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    return Finding("ids", not doubles, f"{len(doubles)} ids occur twice, first {doubles[0]}" if doubles else f"{len(cases):,} different ids")


def _patients(dataset: Dataset, cases: Sequence[Case]) -> Finding:
    count = len({case.patient for case in cases})
    leaks = [f"{len(patients)} between {pair} (first {patients[0]})" for pair, patients in shared_patients(cases).items()]
    said = f"{count:,} patients, {'shared: ' + ', '.join(leaks) if leaks else 'none in two parts'}"
    if dataset.official_leak:
        leak = f"the official split leaks: {dataset.official_leak}"
        return Finding("patients", True, f"warning, {said}; {leak}")
    return Finding("patients", not leaks, said + ("; give every patient one part" if leaks else ""))


def _classes(dataset: Dataset, cases: Sequence[Case]) -> Finding:
    """Every class is needed where models train and where they are scored; validation may do without. Masks are not opened."""
    if dataset.kind not in ("classification", "bags"):
        return Finding("classes", True, ", ".join(dataset.classes) + ": in masks, which are read when they are scored")
    lacking, parts = [], [part for part in counts_of(cases) if part != "val"]
    for part in parts:
        members = [case for case in cases if part_of(case) == part]
        present = {place for case in members for place in _present(dataset, case)}
        absent = [name for place, name in enumerate(dataset.classes) if place not in present]
        lacking += [f"{part} lacks {', '.join(absent)}"] if absent else []
    whole = f"all {len(dataset.classes)} have cases in {', '.join(parts)}"
    return Finding("classes", not lacking, "; ".join(lacking) or whole)


def _present(dataset: Dataset, case: Case) -> list[int]:
    targets = () if case.target is None else case.target if dataset.unit == "plane" else (case.target,)
    if dataset.multilabel:
        return [place for target in targets for place, value in enumerate(target) if value == 1]
    return list(targets)


def _files(cases: Sequence[Case]) -> Finding:
    paths = sorted(paths_of(cases))
    missing = [path for path in paths if not path.exists()]
    return Finding("files", not missing, f"{len(missing):,} of {len(paths):,} are missing, first {missing[0]}" if missing else f"{len(paths):,} are there")


def _decoding(dataset: Dataset, cases: Sequence[Case]) -> Finding:
    tried = [(case, role) for case in _sampled(cases) for role in case.images]
    faults, shapes = [], set()
    for case, role in tried:
        try:
            planes = recipes.planes(
                case.images[role], window=dataset.recipe, size=None, stop=1, crop=dataset.crop,
                colour=1 if dataset.grey else None,
            )  # fmt: skip
            shapes.add(planes.frame.shape)
            check_laid(case)
            _check_mask(dataset, case, role, planes.frame.shape)
        except MedprobeError as error:
            faults.append(str(error))
    if faults:
        said = f"{len(faults)} of {len(tried)} tried cannot be used, first: {faults[0]}"
        return Finding("images", False, said)
    ends = sorted(shapes) if len(shapes) < 3 else (min(shapes), max(shapes))
    sides = (" to " if len(shapes) > 2 else " and ").join(f"{height}x{width}" for height, width in ends)
    return Finding("images", True, f"{len(tried)} tried, all readable, {sides} pixels")


def _pairs(dataset: Dataset, cases: Sequence[Case]) -> list[Finding]:
    """Whether images that can be read are pairs to register; nothing for datasets of another kind."""
    if dataset.kind != "registration":
        return []
    chosen = _sampled(cases)
    faults = [fault for case in chosen if (fault := _fault_of_pair(dataset, case))]
    return [Finding("pairs", not faults, f"{len(faults)} of {len(chosen)} tried are none, first: {faults[0]}" if faults else f"{len(chosen)} tried, two images and the same classes in each")]


def _fault_of_pair(dataset: Dataset, case: Case) -> str | None:
    """Files of other sizes under one lattice, one image or mask twice, a class in one mask only."""
    images = [case.images[role][0] for role in ROLES]
    masks = [case.target[role] for role in ROLES] if case.target else []
    try:
        grids = [formats.grid(replace(image, grid=None)) for image in images if isinstance(image.grid, Lattice)]
        pixels = [formats.read(image).pixels for image in images]
        labels = [reference(dataset, mask) for mask in masks]
    except MedprobeError:  # said of each image
        return None
    sizes = [" x ".join(map(str, grid.shape)) for grid in grids if grid is not None]
    if len(set(sizes)) > 1:
        return f"{case.id}: expected fixed and moving image of one size, found {' and '.join(f'{image.path.name} {size}' for image, size in zip(images, sizes, strict=True))}; fetch them again"
    for what, files, arrays in (("images", images, pixels), ("masks", [mask[0] for mask in masks], [one.labels for one in labels])):
        if arrays and np.array_equal(arrays[0], arrays[1]):
            return f"{case.id}: expected two {what}, found the same in {files[0].path.name} and {files[1].path.name}; fetch them again"
    if not labels:
        return None
    try:
        on_fixed(labels[1], labels[0])
    except MedprobeError as error:
        return f"{case.id}: {error}"
    present = [set(range(len(dataset.classes))) & set(np.unique(one.labels).tolist()) for one in labels]
    lone = [f"{dataset.classes[place]} in that of the {ROLES[place in present[1]]} image alone" for place in sorted(present[0] ^ present[1])]
    return f"{case.id}: expected every class in both masks or in neither, found {' and '.join(lone)}; correct the masks" if lone else None


def _sampled(cases: Sequence[Case]) -> list[Case]:
    return [cases[place] for place in np.unique(np.linspace(0, len(cases) - 1, SAMPLED).astype(int))] if cases else []


def _geometry(cases: Sequence[Case]) -> list[Finding]:
    """What is read, but lies unevenly or tilted; nothing where all lies as it should."""
    sources = [source for case in _sampled(cases) for channels in case.images.values() for source in channels]
    said = [note for source in sources for note in formats.notes(source)]
    return [Finding("geometry", True, f"warning, in {len(sources)} images tried: {'; '.join(said[:3])}{f'; and {len(said) - 3} more' if len(said) > 3 else ''}")] if said else []


def _window(cases: Sequence[Case], window: str) -> list[Finding]:
    """Images whose numbers are not those the window is for; nothing where they are."""
    return [Finding("window", True, f"warning, {said}") for said in windows.findings(window, cases, SAMPLED // 2)]


def _check_mask(dataset: Dataset, case: Case, role: str, shape: tuple[int, int]) -> None:
    """CaseError: the mask of this image is not understood, or lies on another grid."""
    if dataset.kind not in DENSE or case.target is None:
        return
    sources = case.target[role] if dataset.kind == "registration" else case.target
    check_on_image(dataset, case, sources, role)
    size = reference(dataset, sources).shape
    if size[-2:] != shape:
        raise CaseError(f"{case.id}: expected a mask of the size of its image, {shape[0]} x {shape[1]}, found {size[-2]} x {size[-1]}; write the mask on the image's pixels")


def _fingerprint(cases: Sequence[Case], digests: Mapping[Path, str]) -> Finding:
    unread = sorted(path for path in paths_of(cases) if path not in digests)
    said = f"{len(unread)} files cannot be read, first {unread[0]}" if unread else fingerprint(cases, digests)
    return Finding("fingerprint", not unread, said)
