"""Simulated coverage: of this test set's structure, and (a long check) of the structures in docs/metrics.md."""

from pathlib import Path

import numpy as np
import pytest

from medprobe.metrics import coverage, simulation
from medprobe.metrics.classification import measure


def confusion(rng, videos=20, classes=3, right=0.8, alike=0.2, cases=12):
    called = np.full((classes, classes), (1 - right) / (classes - 1))
    np.fill_diagonal(called, right)
    shares = rng.dirichlet(called[0] * (1 - alike) / alike, (videos, classes))
    for label in range(classes):
        shares[:, label] = np.roll(shares[:, label], label, axis=1)
    return rng.multinomial(cases, shares)


def test_the_confusion_of_a_measure_is_counted_by_patient(rng):
    true, called, groups = rng.integers(0, 3, 50), rng.integers(0, 3, 50), rng.integers(0, 5, 50)
    counts = measure(true, np.eye(3)[called], classes="abc", groups=groups).confusion()
    assert counts[groups[0], true[0], called[0]] == np.sum((groups == groups[0]) & (true == true[0]) & (called == called[0]))
    assert counts.sum() == 50
    assert measure(true % 2, np.eye(2)[called % 2], classes="ab").confusion() is None


def test_a_simple_structure_is_covered_and_the_answer_repeats(rng):
    counts = confusion(rng, videos=30)
    found = coverage.simulated([counts], ["f1.macro", "balanced_accuracy", "accuracy"], 200)
    assert set(found) == {"f1.macro", "balanced_accuracy"}
    assert all(0.9 <= share <= 1 for share in found.values())
    assert found == coverage.simulated([counts], ["f1.macro", "balanced_accuracy"], 200)


def test_how_alike_the_cases_of_a_patient_are_is_found_again(rng):
    for alike in (0.05, 0.4):
        found = [coverage._correlation(confusion(rng, 60, alike=alike)) for _ in range(10)]
        assert np.mean(found) == pytest.approx(alike, abs=0.06)


def test_folds_and_absent_classes_are_simulated_too(rng):
    folds = [confusion(rng, 6, 4) for _ in range(3)]
    folds[0][:, 3] = 0
    for fold in folds:
        fold[:, 2] = 0
    assert 0.8 <= coverage.simulated(folds, ["recall.macro"], 60)["recall.macro"] <= 1


def test_every_structure_stands_in_the_table():
    page = (Path(simulation.__file__).parent / "simulation.md").read_text()
    for each in simulation.structures():
        assert f"| {each.name} | {each.patients}{'' if each.enough else ' †'} | `{each.key}` |" in page


def test_the_simulation_repeats():
    (first, *_) = simulation.structures()
    assert simulation.coverage(first, "jackknife", 5) == simulation.coverage(first, "jackknife", 5)


@pytest.mark.accept
@pytest.mark.parametrize("each", [one for one in simulation.structures() if one.enough], ids=lambda one: f"{one.name}, {one.patients}, {one.key}")
def test_from_twenty_patients_on_intervals_hold_the_truth(each):
    held, width = simulation.coverage(each, "jackknife", 600)
    print(f"{each.name}, {each.patients}, {each.key}: {held:.3f}, width {width:.3f}")
    assert held >= 0.93


@pytest.mark.accept
@pytest.mark.parametrize("each", [one for one in simulation.structures() if "rare" in one.name or "11" in one.name], ids=lambda one: f"{one.patients}, {one.key}")
def test_rare_classes_are_covered_better_than_by_percentiles(each):
    held, drawn = (simulation.coverage(each, method, 200)[0] for method in ("jackknife", "percentile"))
    print(f"{each.name}, {each.patients}, {each.key}: {held:.3f}, by percentiles {drawn:.3f}")
    assert held >= 0.92
