"""How often the paired test errs where models do not differ, and how often its interval holds the true difference."""

import re
from pathlib import Path

import pytest

from medprobe.metrics import paired_simulation
from medprobe.metrics.paired_simulation import SIZES, STRUCTURES, coverage, error, table

STORED = Path(paired_simulation.__file__).with_suffix(".md").read_text()


def numbers(text: str) -> dict[tuple[str, int], tuple[float, float]]:
    """(score, patients) → error and coverage."""
    found = {}
    for line in text.splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for size, cell in zip(SIZES, cells, strict=True):
            if cell != "—":
                found[name, size] = tuple(map(float, re.findall(r"[\d.]+", cell)))
    return found


def test_the_stored_table_keeps_the_bounds_for_every_structure_and_size() -> None:
    found = numbers(STORED)
    assert set(found) == {(one.name, size) for one in STRUCTURES for size in one.sizes}
    for (name, size), (wrong, _) in found.items():
        assert wrong <= (0.065 if size < 50 else 0.055), (name, size)
    assert all(held >= 0.93 for (_, size), (_, held) in found.items() if size >= 10)


@pytest.mark.parametrize("structure", [STRUCTURES[1], STRUCTURES[4]], ids=lambda one: one.name)
def test_equal_models_are_rarely_called_different_and_intervals_hold_the_difference(structure: paired_simulation.Structure) -> None:
    assert error(structure, 20, 120) <= 0.1
    assert coverage(structure, 20, 60) >= 0.85


@pytest.mark.accept
def test_the_stored_table_is_what_the_simulation_gives() -> None:
    assert numbers(table()) == {key: pytest.approx(value, abs=0.004) for key, value in numbers(STORED).items()}
