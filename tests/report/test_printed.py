"""The printed numbers: every digit, the standard deviations, and tolerances that tell the sizes of DINOv3 apart."""

import math
from itertools import permutations

import pytest

from medprobe.report.printed import SD, cells, column_of, is_dinov3, published, step_of, text_of, tolerance, value_of


def of(table: str, method: str, metric: str, dataset: str = "", adaptation: str = "") -> dict[str, str]:
    return next(cell for cell in cells() if (cell["table"], cell["method"], cell["metric"]) == (table, method, metric) and dataset in cell["dataset"] and cell["adaptation"].startswith(adaptation))


def test_there_are_911_numbers_and_42_standard_deviations() -> None:
    assert len(published()) == 911
    spreads = [cell for cell in cells() if cell["metric"].endswith(SD)]
    assert len(spreads) == 42
    assert {cell["table"] for cell in spreads} == {"15", "16"}
    assert text_of(of("16", "DINO-L+MIND+ConvexAdam", "hd95 sd")) == "4.7769"


@pytest.mark.parametrize(
    ("table", "method", "metric", "text"),
    [("15", "Unregistered", "hd95", "7.0401"), ("16", "VoxelMorph", "asd", "3.4038"), ("15", "VoxelMorph", "dice sd", "0.0500"), ("2", "BiomedCLIP", "accuracy", "0.4820"), ("6", "DINOv3-S", "jaccard", "0.5739"), ("10", "DINOv3-S", "dice", "0.652")],
)
def test_no_printed_digit_is_cut_or_made_up(table: str, method: str, metric: str, text: str) -> None:
    cell = of(table, method, metric)
    assert text_of(cell) == text
    assert value_of(cell) == pytest.approx(float(text), rel=1e-12)


def test_every_text_is_its_value_with_the_digits_of_the_print() -> None:
    for cell in cells():
        if math.isnan(value_of(cell)):
            assert text_of(cell) == "nan"
        else:
            assert float(text_of(cell)) == value_of(cell)
            digits = len(cell["value"].partition(".")[2]) + (2 if cell["unit"] == "percent" else 0)
            assert len(text_of(cell).partition(".")[2]) == digits
            assert step_of(cell) == pytest.approx(10.0**-digits)


def test_tolerances_are_below_half_the_distance_of_two_sizes() -> None:
    assert tolerance(of("2", "DINOv3-S", "auc", "NIH")) == pytest.approx((0.7833 - 0.7788 - 0.0001) / 2)
    assert tolerance(of("2", "DINOv3-B", "auc", "NIH")) == pytest.approx((0.7865 - 0.7833 - 0.0001) / 2)
    assert tolerance(of("2", "DINOv3-S", "auc", "RSNA")) == 0, "B is printed one unit of the last digit beside it"
    assert tolerance(of("2", "DINOv3-L", "auc", "RSNA")) == pytest.approx((0.8708 - 0.8667 - 0.0001) / 2)
    assert tolerance(of("2", "BiomedCLIP", "auc", "NIH")) == pytest.approx((0.7865 - 0.7833 - 0.0001) / 2)
    assert tolerance(of("9", "DINOv3-S", "auc", adaptation="k-NN")) == pytest.approx((0.716 - 0.709 - 0.001) / 2)
    assert tolerance(of("15", "DINO-S+ConvexAdam", "hd95")) == pytest.approx((5.4670 - 5.4652 - 0.0001) / 2)


def test_no_size_is_within_the_tolerance_of_another() -> None:
    columns: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for cell in cells():
        if is_dinov3(cell):
            columns.setdefault((*column_of(cell), cell["adaptation"]), []).append(cell)
    assert len(columns) > 80
    for sizes in columns.values():
        assert len(sizes) in (2, 3)
        for one, other in permutations(sizes, 2):
            if not math.isnan(value_of(one) - value_of(other)):
                assert not tolerance(one) or abs(value_of(one) - value_of(other)) > tolerance(one)
