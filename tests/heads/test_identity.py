"""The head that moves nothing."""

import numpy as np
import pytest

from medprobe.errors import CaseError
from medprobe.registry import HEADS
from medprobe.types import Context, Image, Sample, SampleList


def pair(fixed: tuple[int, ...], moving: tuple[int, ...]) -> SampleList:
    return SampleList([Sample("a", "p", images={"fixed": Image(np.ones(fixed, np.float32)), "moving": Image(np.zeros(moving, np.float32))})])


@pytest.mark.parametrize(("dims", "shape", "found"), [(2, (3, 1, 5, 7), (2, 5, 7)), (3, (1, 1, 5, 7), (3, 1, 5, 7)), (3, (2, 4, 5, 7), (3, 4, 5, 7))])
def test_nothing_moves(dims: int, shape: tuple[int, ...], found: tuple[int, ...]) -> None:
    head = HEADS.get("identity")()
    data, ctx = pair(shape, shape), Context(0, dims=dims)
    (moved,) = head.predict(head.fit(data, None, ctx), data, ctx)
    assert moved.shape == found
    assert moved.dtype == np.float32
    assert not moved.any()


def test_images_of_two_shapes_are_refused() -> None:
    head, ctx = HEADS.get("identity")(), Context(0, dims=2)
    data = pair((1, 1, 5, 7), (1, 1, 7, 5))
    with pytest.raises(CaseError, match=r"one shape, found 5 x 7 .* and 7 x 5"):
        list(head.predict(head.fit(data, None, ctx), data, ctx))
