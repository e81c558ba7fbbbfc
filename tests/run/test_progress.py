"""What is said of the pace of long work."""

import pytest

from medprobe.run.progress import clock, pace_of


@pytest.mark.parametrize(("rate", "said"), [(0.0, "0.0/s"), (12.34, "12.3/s"), (0.5, "0.5/s"), (0.045, "22 s each")])
def test_slow_work_is_told_by_what_one_takes(rate: float, said: str) -> None:
    assert pace_of(rate) == said


@pytest.mark.parametrize(("seconds", "said"), [(90, "1:30"), (3725, "1:02:05"), (float("inf"), "unknown time")])
def test_times_are_read_as_on_a_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said
