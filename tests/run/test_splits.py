"""Parts by patient: nobody crosses, no class is lost, the same seed gives the same parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprobe.run.splits import folds_of, limited, parts_of, shared_patients, with_folds
from medprobe.types import Case


@st.composite
def cohorts(draw: st.DrawFn) -> list[Case]:
    patients = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=6, max_size=40))
    return [Case(f"{p}-{n}", f"p{p}", {}, target) for p, targets in enumerate(patients) for n, target in enumerate(targets)]


@pytest.mark.trap("protocol: a validation cut by patient can take the only patient of a class out of training")
@given(cohorts(), st.integers(0, 3))
def test_no_patient_crosses_folds_or_parts_and_no_case_is_lost(cases: list[Case], seed: int) -> None:
    cases = with_folds(cases, seed)
    assert not shared_patients(cases)
    assert with_folds(cases, seed) == cases
    tested = []
    for fold in folds_of(cases):
        parts = parts_of(cases, fold, seed)
        assert parts == parts_of(cases, fold, seed)
        assert sorted(parts.train + parts.val + parts.test) == list(range(len(cases)))
        patients = [{cases[index].patient for index in part} for part in (parts.train, parts.val, parts.test)]
        assert not patients[0] & patients[1]
        assert not (patients[0] | patients[1]) & patients[2]
        rest = {cases[index].target for index in parts.train + parts.val}
        assert {cases[index].target for index in parts.train} == rest
        tested += parts.test
    assert sorted(tested) == list(range(len(cases)))


@given(cohorts(), st.integers(1, 5))
def test_a_limit_keeps_so_many_of_every_fold(cases: list[Case], limit: int) -> None:
    cases = with_folds(cases, 0)
    kept = limited(cases, limit, 0)
    for fold in folds_of(cases):
        assert sum(case.fold == fold for case in kept) == min(limit, sum(case.fold == fold for case in cases))
    assert kept == [case for case in cases if case in kept]


def test_official_parts_are_kept_and_unlabelled_cases_are_in_none() -> None:
    cases = [Case(str(n), str(n), {}, None if n == 2 else n % 2, split) for n, split in enumerate(["train", "train", "train", "val", "test"])]  # type: ignore[arg-type]
    parts = parts_of(cases, None, 0)
    assert (parts.train, parts.val, parts.test, parts.validation) == ((0, 1), (3,), (4,), "given")
