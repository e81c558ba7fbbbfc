"""Laws of paired differences, of signed ranks and of Holm's correction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medprobe.errors import MedprobeError
from medprobe.metrics import dense, paired
from medprobe.metrics.classification import measure
from medprobe.metrics.paired import difference, holm, paired_difference, swapped, wilcoxon
from medprobe.metrics.percase import measure_cases
from medprobe.metrics.phases import measure_phases
from medprobe.metrics.stats import combine_folds

CLASSES = ("no", "yes")


def predictions(rng, n=120, strength=1.0):
    target = rng.integers(0, 2, n)
    positive = 1 / (1 + np.exp(-(strength * (2 * target - 1) + rng.normal(size=n))))
    return target, np.column_stack([1 - positive, positive])


def square(side: int, at: int, size: int = 20) -> np.ndarray:
    """A mask of class 1 whose corner lies at (at, at); nothing where `side` is 0."""
    mask = np.zeros((size, size), np.uint8)
    mask[at : at + side, at : at + side] = 1
    return mask


def masks(pairs, classes=2, **more):
    """Scores of (prediction, truth) of one case per patient, without what pictures of instruments add."""
    each = [dense.segmentation_case(pred, true, classes, (1.0, 1.0), **more) for pred, true in pairs]
    values = {name: np.stack([one[name] for one in each]) for name in each[0]}
    return values, dense.measure(values, np.arange(len(each)), [f"c{n}" for n in range(1, classes)], "px")


def hard_and_easy(shift_of_hard):
    """Six hard cases, shifted so far, or missed (None), and fourteen that are shifted by a pixel or two."""
    hard = [(square(0 if shift_of_hard is None else 6, 2 + (shift_of_hard or 0)), square(6, 2)) for _ in range(6)]
    return hard + [(square(6, 4 + n % 2), square(6, 3)) for n in range(14)]


def test_who_predicts_nothing_on_the_hard_cases_does_not_win():
    _, silent = masks(hard_and_easy(None))
    _, brave = masks(hard_and_easy(8))
    assert silent.scores(["hd95"])["hd95"].value < brave.scores(["hd95"])["hd95"].value - 2, "each over its own cases"
    for key in ("hd", "hd95", "asd", "assd", "precision"):
        found = paired_difference([silent], [brave], keys=[key])[key]
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1), key
        assert (found.n_undefined, found.n_entries, found.n_cases, found.n_patients_left_out) == ((6, 0, 0), 14, 14, 6)
    charged = difference([([silent], [brave])], "hd95", charged=True)
    worst = 20 * np.sqrt(2) - brave.metric("hd95").values[0, 0]
    assert charged.value == pytest.approx(6 * worst / 20)
    assert (charged.low > 0, charged.p < 0.05, charged.n_patients) == (True, True, 20)
    back = difference([([brave], [silent])], "hd95", charged=True)
    assert (back.value, back.low, back.high, back.p) == pytest.approx((-charged.value, -charged.high, -charged.low, charged.p))


def test_only_classes_defined_in_both_count_class_by_class():
    """Class 2 is missed by one model in half the cases, class 1 by the other in one; both are means over classes."""
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 12, 2)) * 10
    a[:6, 1], b[0, 0] = np.nan, np.nan
    sides = [measure_cases({"hd95": each}, np.arange(12), ("one", "two")) for each in (a, b)]
    found = paired_difference(sides[:1], sides[1:])["hd95"]
    each = [np.mean((a - b)[1:, 0]), np.mean((a - b)[6:, 1])]
    assert found.value == pytest.approx(np.mean(each))
    assert found.per_class == pytest.approx(dict(zip(("one", "two"), each, strict=True)))
    assert (found.n_undefined, found.n_entries, found.n_patients_left_out) == ((6, 1, 0), 17, 1)
    a[:, 1] = np.nan
    one = measure_cases({"hd95": a}, np.arange(12), ("one", "two"))
    assert paired_difference([one], sides[1:])["hd95"].value == pytest.approx(each[0]), "a class without a pair is in neither"


@pytest.mark.parametrize(("key", "missed", "called"), [("precision", -0.5, 0.5), ("dice", None, 0.5), ("iou", None, 0.5), ("binary_iou", None, 0.5), ("isi_iou", None, 0.5)])
def test_what_is_rightly_left_empty_beats_a_false_call_where_it_is_charged(key, missed, called):
    """Half of the cases are empty: silence is right there, and wrong in the others."""
    true = [square(0, 0) if n % 2 else square(6, 3) for n in range(10)]
    false_calls = [(square(6, 3), each) for each in true]
    right = [(each, each) for each in true]
    silent = [(square(0, 0), each) for each in true]
    sides = {name: masks(pairs, classes=3)[1] for name, pairs in (("right", right), ("calls", false_calls), ("silent", silent))}
    found = difference([([sides["right"]], [sides["calls"]])], key, charged=True)
    assert found.value == pytest.approx(called)
    if missed is not None:
        assert difference([([sides["silent"]], [sides["right"]])], key, charged=True).value == pytest.approx(missed * 2)
        assert difference([([sides["silent"]], [sides["calls"]])], key, charged=True).value == pytest.approx(0.0)


def test_sums_over_cases_leave_out_a_class_that_one_model_never_calls_and_images_it_is_silent_in(rng):
    true = rng.integers(0, 3, (12, 8, 8))
    good = np.where(rng.random(true.shape) < 0.8, true, 0)
    never = np.where(good == 2, 0, good)
    silent = good * (np.arange(12) % 3 > 0)[:, None, None]
    a, b, c = (masks(list(zip(pred, true, strict=True)), classes=3)[1] for pred in (good, never, silent))
    found = paired_difference([b], [a], keys=["precision.aggregated", "m_iou"])
    per_class = [side.metric("precision.aggregated").kept(np.ones((12, 2), bool)) for side in (b, a)]
    assert list(found["precision.aggregated"].per_class) == ["c1", "c2"]
    assert np.isnan(found["precision.aggregated"].per_class["c2"])
    assert found["precision.aggregated"].n_undefined == (12, 0, 0)
    assert len(per_class) == 2
    charged = difference([([b], [a])], "precision.aggregated", charged=True)
    assert charged.per_class["c2"] == pytest.approx(-a.scores(["precision.aggregated"])["precision.aggregated"].per_class["c2"])
    seen = paired_difference([c], [a], keys=["m_iou", "m_iou.all"])
    assert (seen["m_iou"].value, seen["m_iou"].n_undefined) == (0, (4, 0, 0)), "on the images in which both say something"
    everywhere = difference([([c], [a])], "m_iou", charged=True)
    assert everywhere.value == pytest.approx(seen["m_iou.all"].value)
    assert everywhere.value < -0.1


def test_regions_and_single_values_are_paired_and_charged_as_classes_are():
    true = square(6, 2) + square(3, 12)
    values, a = masks([(np.where(np.arange(20)[:, None] < (10 if n < 3 else 20), true, 0), true) for n in range(12)], classes=3, regions={"all": (1, 2), "one": (1,)})
    _, b = masks([(np.roll(true, 1, 0), true)] * 12, classes=3, regions={"all": (1, 2), "one": (1,)})
    assert paired_difference([a], [b], keys=["hd95.all"])["hd95.all"].n_undefined == (0, 0, 0)
    nothing = {name: np.where(np.arange(12).reshape(-1, *(1,) * (value.ndim - 1)) < 3, np.nan, value) if name in ("hd95.all", "precision.all") else value for name, value in values.items()}
    missed = dense.measure(nothing, np.arange(12), ["c1", "c2"], "px")
    assert difference([([missed], [a])], "hd95.all", charged=True).value == pytest.approx(3 / 12 * (20 * np.sqrt(2) - values["hd95.all"][0]))
    assert difference([([missed], [a])], "precision.all", charged=True).value == pytest.approx(-3 / 12 * values["precision.all"][0])


def test_a_displacement_that_loses_a_label_and_instances_that_are_not_found_are_charged():
    moving = square(6, 2)
    away, still = np.full((2, 20, 20), 30.0), np.zeros((2, 20, 20))
    lost, kept = ([dense.registration_case(field if n < 4 else still, moving, moving, 2, (2.0, 2.0)) for n in range(10)] for field in (away, still))
    a, b = (dense.measure({name: np.stack([one[name] for one in each]) for name in each[0]}, np.arange(10), ["c1"], "mm") for each in (lost, kept))
    assert paired_difference([a], [b], keys=["asd"])["asd"].n_undefined == (4, 0, 0)
    assert difference([([a], [b])], "asd", charged=True).value == pytest.approx(0.4 * 40 * np.sqrt(2))
    nothing, found = np.zeros((4, 8, 8), int), np.zeros((4, 8, 8), int)
    found[1:3, 2:6, 2:6] = 7
    true = [found if n % 2 else nothing for n in range(10)]
    a, b = ([dense.instances_case(pred, each, ignore=()) for each in true] for pred in (nothing, found))
    a, b = (dense.measure({name: np.stack([one[name] for one in each]) for name in each[0]}, np.arange(10), [], "mm") for each in (a, b))
    assert paired_difference([a], [b], keys=["ap"])["ap"].value == pytest.approx(paired_difference([a], [b], keys=["ap"])["ap"].value)


def test_a_phase_that_one_model_never_calls_is_left_out_of_both_and_charged_0(rng):
    videos, frames = np.repeat(np.arange(8), 30), np.tile(np.arange(30), 8)
    target = np.tile(np.repeat(np.arange(3), 10), 8)
    good = np.eye(3)[np.where(rng.random(240) < 0.8, target, (target + 1) % 3)]
    never = good.copy()
    never[(videos < 4) & (good[:, 2] == 1)] = [1, 0, 0]
    a, b = (measure_phases(target, prob, classes=tuple("xyz"), videos=videos, frames=frames) for prob in (never, good))
    key = "precision.phase_nan_ignored"
    found = paired_difference([a], [b], keys=[key])[key]
    assert (found.n_undefined, found.n_entries, found.n_patients) == ((4, 0, 0), 20, 8)
    assert found.per_class["z"] == pytest.approx(0.0, abs=1e-12), "in the videos where both call it they agree"
    assert difference([([a], [b])], key, charged=True).value == pytest.approx(paired_difference([a], [b], keys=["precision.phase"])["precision.phase"].value)


def test_results_without_diagonals_have_no_charged_reading_and_say_so():
    values, a = masks(hard_and_easy(None))
    old = dense.measure({name: value for name, value in values.items() if name != "diagonal"}, a.groups, ["c1"], "px")
    _, b = masks(hard_and_easy(8))
    found = difference([([old], [b])], "hd95", charged=True)
    assert np.isnan(found.value)
    assert "run or score again" in found.reason
    assert difference([([old], [b])], "precision", charged=True).value == pytest.approx(difference([([a], [b])], "precision", charged=True).value)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6, 9])
def test_few_patients_have_no_p_or_no_interval_and_a_reason(rng, n):
    a, b = (measure_cases({"x": rng.random(n) + shift}, np.arange(n)) for shift in (5, 0))
    found = paired_difference([a], [b])["x"]
    change = a.metric("x").values - b.metric("x").values
    assert found.value == pytest.approx(change.mean())
    assert found.small == (f"no interval: {n} patient{'s' if n > 1 else ''}" if n < 5 else f"{n} patients")
    if n < 5:
        assert np.isnan([found.low, found.high, found.p]).all()
        assert "below 5 there is no interval and no p" in found.reason
    else:
        assert found.p == pytest.approx(2 / 2**n), "all changes have one sign"
        assert np.isnan(found.low) == (n == 5) == bool(found.reason)
    if n == 6:
        assert (found.low, found.high) == pytest.approx((change.min(), change.max()))


@pytest.mark.equality("scipy, permutation_test of pairs; 1e-9")
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(6, 12), st.booleans())
def test_swapping_whole_patients_is_the_permutation_test_of_scipy(seed, n, rounded):
    rng = np.random.default_rng(seed)
    change = rng.normal(0.4, 1, n)
    change = np.round(change) if rounded else change
    theirs = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    a, b = (measure_cases({"x": each}, np.arange(n)) for each in (change + 3, np.full(n, 3.0)))
    found = paired_difference([a], [b])["x"]
    assert found.p == pytest.approx(theirs, abs=1e-9)
    low, high, p = swapped(np.full(n, 1 / n), change / n)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, p), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(6, 40), st.sampled_from([0.9, 0.95, 0.99]))
def test_p_falls_below_alpha_exactly_where_the_interval_leaves_0(seed, n, confidence):
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(n, 5.0))
    change = share * rng.normal(0.5, 1, n)
    low, high, p = swapped(share, change, 499, seed, confidence)
    assert (p <= 1 - confidence + 1e-9) == (low > 0 or high < 0)
    assert low <= change.sum() <= high
    less = swapped(share, change - share * low, 499, seed, confidence)[2] if np.isfinite(low) else 1
    assert less >= 1 - confidence - 2 / 499, "the end of the interval is not rejected"


def test_p_can_stay_small_after_the_correction_for_many_comparisons(rng):
    a, b = (measure_cases({"x": rng.normal(shift, 0.1, 40)}, np.arange(40)) for shift in (1, 0))
    assert holm([paired_difference([a], [b])["x"].p] * 200)[0] < 0.05
    assert holm([difference([([a], [b])], "x", flips=99_999).p] * 2000)[0] < 0.05


def test_folds_and_seeds_are_averaged_and_a_patient_is_swapped_in_all_of_them(rng):
    truth = rng.random((2, 2, 8))
    sides = [[[measure_cases({"x": truth[seed, fold] + shift}, [f"{fold}-{n}" for n in range(8)]) for fold in range(2)] for shift in (rng.normal(0, 0.1, 8), 0)] for seed in range(2)]
    found = difference([(one, other) for one, other in sides], "x")
    each = [paired_difference(one, other)["x"].value for one, other in sides]
    assert found.value == pytest.approx(np.mean(each))
    assert (found.n_patients, found.n_cases) == (16, 16)
    twice = difference([(sides[0][0], sides[0][1])] * 2, "x")
    assert (twice.value, twice.low, twice.high, twice.p) == pytest.approx((lambda one: (one.value, one.low, one.high, one.p))(paired_difference(*sides[0])["x"]))


def test_a_patient_without_a_pair_in_one_seed_still_counts_in_the_other():
    values = np.arange(16.0).reshape(2, 8)
    values[0, :3] = np.nan
    zero = measure_cases({"x": np.zeros(8)}, np.arange(8))
    found = difference([([measure_cases({"x": each}, np.arange(8))], [zero]) for each in values], "x")
    assert found.value == pytest.approx(np.mean([values[0, 3:].mean(), values[1].mean()]))
    assert (found.n_patients, found.n_patients_left_out, found.n_undefined) == (8, 0, (3, 0, 0))


@pytest.mark.parametrize("without", [(0, 1), (3,), (9,)])
def test_a_patient_without_a_pair_in_one_seed_is_swapped_in_the_other_alone(rng, without):
    values = rng.normal(0.3, 1, (2, 10))
    values[0, list(without)] = np.nan
    zero = measure_cases({"x": np.zeros(10)}, np.arange(10))
    found = difference([([measure_cases({"x": each}, np.arange(10))], [zero]) for each in values], "x")
    known = ~np.isnan(values)
    parts = known / known.sum(axis=1, keepdims=True) / 2
    worked = swapped(parts.sum(axis=0), np.where(known, parts * values, 0).sum(axis=0))
    assert (found.low, found.high, found.p) == pytest.approx(worked)


@pytest.mark.parametrize("thirds", [
    (6, -1, 3, -2, 0, 2, -2, 3, 7, 7, 3), (-1, -1, 6, -1, 5, 4, 6, -1, 6, -2, 4), (1, 2, 6, 2, 2, 7, -2, -1, 5, -2, 2, 1),
])  # fmt: skip
def test_an_end_that_only_rounding_tells_from_0_is_0(thirds):
    """The mean over three cases each; p is above 0.05, so 0 belongs to the interval."""
    n = len(thirds)
    low, _, p = swapped(np.full(n, 1 / n), np.array(thirds) / 3 / n)
    assert (low, p > 0.05) == (0, True)


def test_many_patients_are_left_out_in_groups(rng, monkeypatch):
    target, prob = predictions(rng, 300)
    sides = [measure(target, each, classes=CLASSES) for each in (prob, np.clip(prob + rng.normal(scale=0.2, size=(300, 1)) * [-1, 1], 0, 1))]
    single = paired_difference(sides[:1], sides[1:], keys=["auroc"])["auroc"]
    monkeypatch.setattr(paired, "GROUPS", 60)
    grouped = paired_difference(sides[:1], sides[1:], keys=["auroc"])["auroc"]
    assert grouped.value == single.value
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.25)


def test_an_area_that_hangs_on_five_patients_is_judged_by_five(rng):
    """Five ill of a hundred, all alike: swapping them alone gives 0.06, taking all hundred for as good 0.0001."""
    target = (np.arange(100) < 5).astype(int)
    good = np.where(target == 1, 0.8 + 0.02 * np.arange(100), rng.random(100) * 0.7).clip(0, 1)
    bad = np.where(target == 1, 0.3, good)
    a, b = (measure(target, np.stack([1 - p, p], 1), classes=CLASSES) for p in (good, bad))
    found = paired_difference([a], [b], keys=["auroc"])["auroc"]
    assert found.value > 0.3
    assert found.p > 0.005
    assert found.small == "5 patients with yes"


def test_cases_in_another_order_are_not_paired(rng):
    names = np.array([f"c{n}" for n in range(8)])
    a, b = (measure_cases({"x": rng.random(8)}, np.zeros(8)).named(each) for each in (names, names[::-1]))
    with pytest.raises(MedprobeError, match="c0 beside c7"):
        paired_difference([a], [b])


def test_a_paired_difference_is_sharper_than_its_two_intervals(rng):
    target, good = predictions(rng, 300, strength=1.0)
    worse = good + rng.normal(scale=0.15, size=(300, 1)) * [-1, 1]
    worse = np.clip(worse, 0, 1)
    a, b = (measure(target, prob, classes=CLASSES) for prob in (good, worse))
    change = paired_difference([a], [b], keys=["auroc"], flips=999)["auroc"]
    one, other = (combine_folds([m], keys=["auroc"], resamples=500)["auroc"] for m in (a, b))
    assert change.value == pytest.approx(one.value - other.value)
    assert change.low < change.value < change.high
    assert change.high - change.low < 0.7 * (one.high - one.low)
    back = paired_difference([b], [a], keys=["auroc"], flips=999)["auroc"]
    assert (back.low, back.high, back.p) == pytest.approx((-change.high, -change.low, change.p))


def test_a_model_does_not_differ_from_itself(rng):
    one = measure(*predictions(rng), classes=CLASSES)
    for change in paired_difference([one, one], [one, one], flips=99).values():
        assert (change.value, change.low, change.high, change.p) == (0, 0, 0, 1)


def test_paired_differences_need_the_same_patients(rng):
    target, prob = predictions(rng)
    a, b = measure(target, prob, classes=CLASSES), measure(target[:100], prob[:100], classes=CLASSES)
    with pytest.raises(MedprobeError, match="120 and 100 cases"):
        paired_difference([a], [b])
    with pytest.raises(MedprobeError, match="in every fold of both"):
        paired_difference([a, a], [a])
    with pytest.raises(MedprobeError, match="at least one fold"):
        combine_folds([])


def test_equal_models_are_rarely_called_different(rng):
    p = []
    for _ in range(80):
        target, left = predictions(rng, 80)
        positive = 1 / (1 + np.exp(-(2 * target - 1 + rng.normal(size=80))))
        sides = [measure(target, prob, classes=CLASSES) for prob in (left, np.column_stack([1 - positive, positive]))]
        p.append(paired_difference(sides[:1], sides[1:], keys=["auroc"], flips=199)["auroc"].p)
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) < 0.15


def test_holm_on_an_example_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02, float("nan"), 0.03])[::2] == pytest.approx([0.04, 0.04])
    assert np.isnan(holm([0.02, float("nan")])[1])
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    adjusted = np.array(holm(p))
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@pytest.mark.equality("scipy, wilcoxon; 1e-6")
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 70), st.booleans())
def test_signed_ranks_of_one_case_per_patient_are_those_of_scipy(seed, n, coarse):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n), rng.random(n)
    if coarse:
        a, b = np.round(a * 8) / 8, np.round(b * 8) / 8
    found = wilcoxon(a, b, np.arange(n))
    assert (found.n_patients, found.n_zero, found.n_undefined) == (n, (a == b).sum(), 0)
    if found.n_zero == n:
        assert np.isnan([found.statistic, found.p]).all()
    else:
        assert (found.statistic, found.p) == pytest.approx(stats.wilcoxon(a, b))
        back = wilcoxon(b, a, np.arange(n))
        assert (back.statistic, back.p) == (found.statistic, found.p)


def test_signed_ranks_rank_patients_by_their_mean_over_cases_defined_in_both():
    groups = np.array(list("aabbccddee"))
    a = np.array([0.9, 0.7, 0.8, np.nan, 0.6, 0.6, 0.5, 0.4, np.nan, 0.2])
    b = np.array([0.8, 0.6, 0.5, 0.1, 0.7, 0.5, 0.7, 0.6, 0.3, np.nan])
    found = wilcoxon(a, b, groups)
    assert (found.n_patients, found.n_zero, found.n_undefined) == (4, 1, 3)
    assert found.statistic == 2, "of +0.1, +0.3, 0 (but for rounding), -0.2 the negative has rank 2"
    assert found.p == pytest.approx(2 * 3 / 8)
    order = np.random.default_rng(0).permutation(10)
    assert wilcoxon(a[order], b[order], groups[order]) == found


def test_differences_that_only_rounding_tells_apart_are_tied():
    a, b = np.array([0.3, 0.7, 0.9, 1.1, 0.5]), np.array([0.2, 0.6, 0.8, 1.2, 0.1])
    assert wilcoxon(a, b, np.arange(5)).statistic == 2.5
    assert wilcoxon(a * 1000, b * 1000, np.arange(5)).statistic == 2.5


def test_nothing_to_rank_is_undefined():
    same = wilcoxon(np.ones(4), np.ones(4), np.arange(4))
    assert np.isnan([same.statistic, same.p]).all()
    assert (same.n_patients, same.n_zero) == (4, 4)
    none = wilcoxon(np.full(3, np.nan), np.ones(3), np.arange(3))
    assert np.isnan([none.statistic, none.p]).all()
    assert (none.n_patients, none.n_zero, none.n_undefined) == (0, 0, 3)


def test_signed_ranks_need_one_finite_value_per_case():
    with pytest.raises(MedprobeError, match=r"found \(3,\), \(2,\) and \(3,\)"):
        wilcoxon(np.ones(3), np.ones(2), np.arange(3))
    with pytest.raises(MedprobeError, match="one metric of one class"):
        wilcoxon(np.ones((3, 2)), np.ones((3, 2)), np.arange(3))
    with pytest.raises(MedprobeError, match="infinite"):
        wilcoxon(np.array([1, np.inf]), np.ones(2), np.arange(2))
