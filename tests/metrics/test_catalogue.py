"""docs/metrics.md is what the code prints, and every score of a dense task stands in it."""

from pathlib import Path

import numpy as np

from medprobe.metrics import catalogue, dense

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_page_is_what_the_code_prints() -> None:
    assert DOCS.read_text() == catalogue.page(), "run: python -m medprobe.metrics.catalogue > docs/metrics.md"


def test_every_score_of_a_dense_task_is_described(rng: np.random.Generator) -> None:
    pred, true = (rng.integers(0, 3, (6, 8, 9)) for _ in range(2))
    field = rng.normal(size=(3, 6, 8, 9)).astype(np.float32)
    keys = set()
    for values, classes in (
        (dense.segmentation_case(pred, true, 3, (1, 1, 1)), ("a", "b")),
        (dense.segmentation_case(pred[0], true[0], 3, (1, 1)), ("a", "b")),
        (dense.registration_case(field, pred, true, 3, (1, 1, 1)), ("a", "b")),
        (dense.instances_case(pred, true), ()),
    ):
        measure = dense.measure({name: np.asarray(value, dtype=float)[None] for name, value in values.items()}, np.array(["p"]), classes, "mm")
        keys |= set(measure.metrics)
        for key, score in measure.scores().items():
            entry = catalogue.ENTRIES[key]
            assert score.higher_is_better == entry.higher_is_better
            assert score.unit == ("mm" if entry.unit == catalogue.DISTANCE else entry.unit)
    spoken_of = {entry.key for entry in catalogue.CATALOGUE if "(Python only)" not in entry.formula}
    assert keys == spoken_of
