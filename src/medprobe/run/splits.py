"""Which cases train, validate and test: official splits and folds kept, what they leave open drawn by patient.

Test is the fold asked for; validation is 15 % of the remaining patients, from a fixed seed, so that every model and
every seed of a task meets the same parts. No patient crosses a part unless the official split itself does so.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medprobe.errors import RequestError
from medprobe.types import Case

VALIDATION_SHARE = 0.15
FOLDS = 5


@dataclass(frozen=True)
class Parts:
    """Positions of the cases of each part; `validation` says where the validation part comes from."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    validation: str


def folds_of(cases: Sequence[Case]) -> list[int | None]:
    """The folds of the cases in order; a single None when the cases carry a split."""
    return [*sorted({case.fold for case in cases if case.fold is not None})] or [None]


def with_folds(cases: Sequence[Case], seed: int) -> list[Case]:
    """Cases that carry neither split nor fold get five patient-wise folds, balanced by class; others stay as they are."""
    if any(case.split is not None or case.fold is not None for case in cases):
        return list(cases)
    patients = sorted({case.patient for case in cases})
    if len(patients) < FOLDS:
        raise RequestError(f"five patient-wise folds need at least {FOLDS} patients, found {len(patients)}; give a split or fold column in the cases file")
    classes: dict[str, list[Hashable]] = defaultdict(list)
    for case in cases:
        classes[case.patient].append(_label(case))
    order = np.random.default_rng(seed).permutation(len(patients))
    totals: list[Counter] = [Counter() for _ in range(FOLDS)]
    sizes = [0] * FOLDS
    fold_of: dict[str, int] = {}
    for index in sorted(order, key=lambda place: -len(classes[patients[place]])):
        patient = patients[index]
        fold = min(range(FOLDS), key=lambda f: (sum(totals[f][label] for label in classes[patient]), sizes[f], f))
        totals[fold].update(classes[patient])
        sizes[fold] += len(classes[patient])
        fold_of[patient] = fold
    return [replace(case, fold=fold_of[case.patient]) for case in cases]


def parts_of(cases: Sequence[Case], fold: int | None, seed: int) -> Parts:
    """The parts of one fold, or of the split the cases carry. Unlabelled cases are in no part."""
    labelled = [index for index, case in enumerate(cases) if case.target is not None]
    if fold is not None:
        test = [index for index in labelled if cases[index].fold == fold]
        rest = [index for index in labelled if cases[index].fold not in (fold, None)]
        val: list[int] = []
    else:
        test = [index for index in labelled if cases[index].split == "test"]
        val = [index for index in labelled if cases[index].split == "val"]
        rest = [index for index in labelled if cases[index].split == "train"]
    if val:
        return Parts(tuple(rest), tuple(val), tuple(test), "given")
    drawn = _draw_validation(cases, rest, seed)
    train = [index for index in rest if index not in drawn]
    said = f"{len(drawn)} cases: 15 % of the training patients, seed {seed}" if drawn else "none: too few training patients"
    return Parts(tuple(train), tuple(sorted(drawn)), tuple(test), said)


def _draw_validation(cases: Sequence[Case], rest: Sequence[int], seed: int) -> set[int]:
    """15 % of the patients, in seeded order; a patient whose move would leave a class without training patients stays."""
    members: dict[str, list[int]] = defaultdict(list)
    for index in rest:
        members[cases[index].patient].append(index)
    patients = sorted(members)
    wanted = round(VALIDATION_SHARE * len(patients))
    holders: dict[Hashable, set[str]] = defaultdict(set)
    for patient, indices in members.items():
        for index in indices:
            for label in _labels(cases[index]):
                holders[label].add(patient)
    drawn: set[int] = set()
    for place in np.random.default_rng([seed, 15]).permutation(len(patients)):
        if wanted == 0:
            break
        patient = patients[place]
        labels = {label for index in members[patient] for label in _labels(cases[index])}
        if any(holders[label] == {patient} for label in labels):
            continue
        for label in labels:
            holders[label].discard(patient)
        drawn.update(members[patient])
        wanted -= 1
    return drawn


def limited(cases: Sequence[Case], limit: int | None, seed: int) -> list[Case]:
    """At most `limit` cases of every split or fold, drawn in seeded order and kept in their own."""
    if limit is None:
        return list(cases)
    kept: set[int] = set()
    counts: Counter = Counter()
    for index in np.random.default_rng([seed, 7]).permutation(len(cases)):
        group = (cases[index].split, cases[index].fold)
        if counts[group] < limit:
            counts[group] += 1
            kept.add(int(index))
    return [case for index, case in enumerate(cases) if index in kept]


def shared_patients(cases: Sequence[Case]) -> Mapping[str, list[str]]:
    """"train/test" (or "fold0/fold1") → patients that are in both: empty unless a split leaks."""
    groups: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        name = f"fold{case.fold}" if case.fold is not None else case.split
        if name is not None:
            groups[name].add(case.patient)
    names = sorted(groups)
    pairs = {f"{a}/{b}": sorted(groups[a] & groups[b]) for a in names for b in names if a < b}
    return {pair: patients for pair, patients in pairs.items() if patients}


def _label(case: Case) -> Hashable:
    target = case.target
    return target if isinstance(target, int | type(None)) else str(target)


def _labels(case: Case) -> list[Hashable]:
    """The classes a case stands for: its class, its positive labels, or the classes of its planes."""
    target = case.target
    if isinstance(target, int):
        return [target]
    if isinstance(target, tuple) and target and all(isinstance(value, int | float) for value in target):
        if set(target) <= {0.0, 1.0} or any(value != value for value in target):
            return [("label", place) for place, value in enumerate(target) if value == 1]
        return sorted(set(target))
    return []
