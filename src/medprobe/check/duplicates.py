"""Identical pictures in two parts, or of two patients: a model is then tested on what it was trained on."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medprobe.check.encoder import Finding
from medprobe.errors import MedprobeError
from medprobe.imaging import formats
from medprobe.types import Case, Dataset, Source

COMPARED = 1000
"""Pictures of which pixels are compared at most; of more, and of volumes, the bytes of files."""


def duplicates(dataset: Dataset, cases: Sequence[Case], digests: Mapping[Path, str]) -> Finding:
    """Cases whose images are the same, channel by channel; masks do not count.

    In two parts it is a fault of one's own data, and a warning for a release; of two patients it is a warning.
    """
    pixels = dataset.dims == 2 and len(cases) <= COMPARED
    alike: dict[tuple[str, ...], list[Case]] = defaultdict(list)
    for case in cases:
        sources = [source for channels in case.images.values() for source in channels]
        keys = tuple(_key(source, digests, pixels) for source in sources)
        if all(keys):
            alike[keys].append(case)
    groups = [group for group in alike.values() if len(group) > 1]
    crossing = [group for group in groups if len({part_of(case) for case in group}) > 1]
    shared = [group for group in groups if len({case.patient for case in group}) > 1]
    by = "pixels" if pixels else "bytes"
    if crossing:
        owned = dataset.root is not None and dataset.official_leak is None
        said = f"{_counted(crossing)} in two parts by {by}, {_first(crossing, part_of)}"
        advice = "; leave copies out, or give their cases one patient and one part"
        return Finding("duplicates", not owned, said + advice if owned else f"warning, {said}")
    if shared:
        said = f"warning, {_counted(shared)} of two patients by {by}, "
        return Finding("duplicates", True, said + _first(shared, lambda case: case.patient))
    return Finding("duplicates", True, f"no image is in two parts or of two patients by {by}")


def part_of(case: Case) -> str:
    return case.split or ("cases" if case.fold is None else f"fold{case.fold}")


def _counted(groups: Sequence[Sequence[Case]]) -> str:
    return "1 image is" if len(groups) == 1 else f"{len(groups):,} images are"


def _first(groups: Sequence[Sequence[Case]], of) -> str:
    one = groups[0][0]
    other = next(case for case in groups[0] if of(case) != of(one))
    return f"first those of {one.id} ({of(one)}) and {other.id} ({of(other)})"


def _key(source: Source, digests: Mapping[Path, str], pixels: bool) -> str:
    """What images that are the same have in common; empty where an image says nothing."""
    if pixels:
        try:
            array = formats.read(replace(source, grid=None)).pixels
        except MedprobeError:  # said where it is decoded
            return ""
        if len(array) == 3 and (array == array[:1]).all():  # grey, kept as a picture of colours
            array = array[:1]
        if not array.size or (array == array.flat[0]).all():
            return ""
        return hashlib.sha256(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
    facts = (source.member, source.frames, source.rescale, source.window, source.axis)
    return f"{digests[source.path]} {facts}" if source.path in digests else ""
