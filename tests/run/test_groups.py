"""Which encodings hold what others do."""

import pytest

from medprobe.encoders import load
from medprobe.run.groups import contains

FACTS = {"encoder": "a", "weights": "1", "size": [32, 32], "layers": None, "grids": False}


@pytest.mark.parametrize(
    ("wide", "narrow", "holds"),
    [
        ({}, {}, True),
        ({"grids": True}, {}, True),
        ({"grids": True, "layers": "4 levels"}, {}, True),
        ({"grids": True, "layers": "4 levels"}, {"grids": True}, True),
        ({}, {"grids": True}, False),
        ({"grids": True}, {"grids": True, "layers": "4 levels"}, False),
        ({"grids": True, "layers": [3, 11]}, {"grids": True}, False),
        ({"grids": True, "layers": [3, 11]}, {}, False),
        ({"grids": True}, {"layers": [3, 11]}, False),
        ({"grids": True, "weights": "2"}, {}, False),
        ({"grids": True, "channels": "rgb"}, {}, False),
    ],
)
def test_vectors_and_the_last_grid_are_in_every_encoding_with_more(wide: dict, narrow: dict, holds: bool) -> None:
    assert contains(FACTS | wide, FACTS | narrow) is holds


def test_encoders_side_by_side_keep_how_many_grids_were_asked_for() -> None:
    """Two encodings of one key would take the features of each other."""
    one, four = (load("pixels+mean-rgb", levels=levels).layers for levels in (1, 4))
    assert (one, four) == (None, "4 levels")
