"""Regions and the scores of cases that hold a class equal those of scikit-learn, medpy and MONAI, and are made again from a saved table."""

from pathlib import Path

import numpy as np
import pytest
from medpy.metric import binary
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medprobe.metrics import dense, stats
from medprobe.run.results import CaseValues

CLASSES = ("one", "two", "three")
SPACING = (3.0, 1.5, 2.0)


@pytest.fixture
def pairs(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, truth) of seven volumes of background and three classes; class two absent from some truths, all from one."""
    found = []
    for number in range(7):
        pred, true = (rng.choice(4, (5, 7, 6), p=(0.7, 0.1, 0.1, 0.1)) for _ in range(2))
        true[(true == 2) & (number % 3 == 0)] = 0
        pred[(pred == 2) & (number == 3)] = 0
        found.append((pred, true * (number != 5)))
    return found


def values_of(pairs: list[tuple[np.ndarray, np.ndarray]], **more: object) -> CaseValues:
    each = [dense.segmentation_case(p, t, 4, SPACING[-p.ndim :], **more) for p, t in pairs]  # type: ignore[arg-type]
    return CaseValues.of([f"c{n}" for n in range(len(each))], [f"p{n // 2}" for n in range(len(each))], each)


def test_a_region_is_one_mask_of_its_classes(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    scores = values_of(pairs, regions={"tumour": (1, 3), "organ": (2,)}).measure(CLASSES, "mm").scores()
    for region, numbers in (("tumour", (1, 3)), ("organ", (2,))):
        masks = [(np.isin(p, numbers), np.isin(t, numbers)) for p, t in pairs]
        either = [(p.ravel(), t.ravel()) for p, t in masks if p.any() or t.any()]
        expected = {
            "dice": [f1_score(t, p, zero_division=0) for p, t in either],
            "precision": [precision_score(t, p) for p, t in either if p.any()],
            "recall": [recall_score(t, p) for p, t in either if t.any()],
            "hd95": [binary.hd95(p, t, voxelspacing=SPACING) for p, t in masks if p.any() and t.any()],
        }
        for key, values in expected.items():
            found = scores[f"{key}.{region}"]
            assert found.value == pytest.approx(np.mean(values), rel=1e-12)
            assert (found.n_undefined, found.per_class) == (len(pairs) - len(values), {})
    assert (scores["hd95.tumour"].unit, scores["hd95.tumour"].higher_is_better) == ("mm", False)
    assert scores["dice.organ"].value == scores["dice"].per_class["two"]


def test_masks_that_overlap_have_regions_too(rng: np.random.Generator) -> None:
    pred, true = (rng.random((3, 5, 7, 6)) < 0.3 for _ in range(2))
    values = dense.segmentation_case(pred, true, 3, SPACING, multilabel=True, regions={"ends": (0, 2), "middle": (1,)})
    ends = [labels[0] | labels[2] for labels in (pred, true)]
    assert float(values["dice.ends"]) == pytest.approx(binary.dc(*ends), rel=1e-12)
    assert float(values["hd95.ends"]) == pytest.approx(binary.hd95(*ends, voxelspacing=SPACING), rel=1e-12)
    assert float(values["recall.middle"]) == pytest.approx(binary.recall(pred[1], true[1]), rel=1e-12)


@pytest.mark.equality("MONAI, compute_dice and compute_iou with ignore_empty; 1e-6")
def test_present_counts_the_cases_that_hold_the_class_as_monai_does(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    metrics = pytest.importorskip("monai.metrics")
    import torch

    scores = values_of(pairs).measure(CLASSES, "mm").scores()
    hot = [torch.from_numpy(np.stack([np.eye(4)[labels].transpose(3, 0, 1, 2) for labels in side])) for side in zip(*pairs, strict=True)]
    for key, theirs in (("dice.present", metrics.compute_dice), ("iou.present", metrics.compute_iou)):
        each = theirs(*hot, include_background=False, ignore_empty=True).double().numpy()
        assert list(scores[key].per_class.values()) == pytest.approx(np.nanmean(each, axis=0), rel=1e-6)
        assert scores[key].n_undefined == np.isnan(each).sum()
    for number, name in enumerate(CLASSES, 1):
        there = [(p.ravel() == number, t.ravel() == number) for p, t in pairs if (t == number).any()]
        expected = [precision_score(t, p) for p, t in there if p.any()]
        assert scores["precision.present"].per_class[name] == pytest.approx(np.mean(expected), rel=1e-12)
    assert scores["dice.present"].value > scores["dice"].value, "false alarms where nothing is cost Dice only"


def test_silence_costs_precision_where_something_is_there() -> None:
    """Perfect on one study of ten, silent on nine: scikit-learn's zero_division=0; silence on an empty study costs nothing."""
    true = np.zeros((4, 5, 6), int)
    true[1:3, 1:3, 1:3], empty = 1, np.zeros_like(true)
    pairs = [(true, true), *[(empty, true)] * 9, (empty, empty)]
    each = [dense.segmentation_case(p, t, 3, SPACING, regions={"tumour": (1, 2), "organ": (1,)}) for p, t in pairs]
    names = [f"c{number}" for number in range(len(pairs))]
    scores = CaseValues.of(names, names, each).measure(("gtvp", "gtvn"), "mm").scores()
    expected = np.mean([precision_score(t.ravel(), p.ravel(), zero_division=0) for p, t in pairs[:-1]])
    for key in ("precision.zero", "precision.zero.present", "precision.zero.tumour", "precision.zero.organ"):
        assert scores[key].value == pytest.approx(expected, rel=1e-12), key
    assert scores["precision"].value == scores["precision.present"].value == scores["precision.tumour"].value == 1
    assert np.isnan(scores["precision.zero"].per_class["gtvn"])


def test_pairs_of_images_have_the_spread_of_their_scores_beside_them(rng: np.random.Generator) -> None:
    pairs = [tuple(rng.integers(0, 3, (8, 9)) for _ in range(2)) for _ in range(6)]
    pairs[0] = (np.where(pairs[0][0] == 2, 0, pairs[0][0]), pairs[0][1])
    still = np.zeros((2, 8, 9), np.float32)
    each = [dense.registration_case(still, moving, fixed, 3, (1, 1)) for moving, fixed in pairs]
    names = [f"c{number}" for number in range(6)]
    measure = CaseValues.of(names, names, each).measure(("a", "b"), "px")
    for key in dense.SPREAD:
        of_pairs = [np.nanmean(one[key]) for one in each]
        score = measure.scores([f"{key}.sd"])[f"{key}.sd"]
        assert score.value == pytest.approx(np.std(of_pairs), rel=1e-12)
        twice = measure(np.array([[2.0, 1, 1, 0, 1, 1]]), [f"{key}.sd"])[f"{key}.sd"][0]
        assert twice == pytest.approx(np.std([of_pairs[0], *of_pairs[:3], *of_pairs[4:]]), rel=1e-9)
        assert score.unit == (None if key == "dice" else "px")


def test_m_iou_of_all_images_is_that_of_pooled_pixels(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    images = [(p[0], t[0]) for p, t in pairs] + [(np.zeros((7, 6), int), np.ones((7, 6), int))]
    scores = values_of(images).measure(CLASSES, "px").scores()
    pred, true = (np.concatenate([image.ravel() for image in side]) for side in zip(*images, strict=True))
    assert scores["m_iou.all"].value == pytest.approx(jaccard_score(true, pred, labels=(1, 2, 3), average="micro"), rel=1e-12)
    seen = [(p.ravel(), t.ravel()) for p, t in images if p.any()]
    pred, true = (np.concatenate(side) for side in zip(*seen, strict=True))
    assert scores["m_iou"].value == pytest.approx(jaccard_score(true, pred, labels=(1, 2, 3), average="micro"), rel=1e-12)


def test_a_saved_table_gives_every_score_again(pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path) -> None:
    values = values_of(pairs, regions={"tumour": (1, 3), "organ": (2,)})
    values.save(tmp_path / "s", CLASSES)
    one, two = (stats.combine_folds([each.measure(CLASSES, "mm")], resamples=50) for each in (values, CaseValues.load(tmp_path / "s", CLASSES)))
    assert str(one) == str(two)
    assert one["dice.tumour"].small == "no interval: 4 patients"
    assert np.isnan([one["dice.tumour"].low, one["dice.tumour"].high]).all()


@pytest.mark.equality("voreille/hecktor, aggregated Dice by its formula; 1e-12")
def test_volumes_of_voxels_of_several_sizes_are_added_as_hecktor_does(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    spacings = [(1.0 + n, 2.0, 0.5) for n in range(len(pairs))]
    each = [dense.segmentation_case(p, t, 4, spacing) for (p, t), spacing in zip(pairs, spacings, strict=True)]
    names = [str(n) for n in range(len(each))]
    scores = CaseValues.of(names, names, each).measure(CLASSES, "mm").scores()
    expected = []
    for number in (1, 2, 3):
        volumes = [(((p == number) & (t == number)).sum() * np.prod(s), ((p == number).sum() + (t == number).sum()) * np.prod(s)) for (p, t), s in zip(pairs, spacings, strict=True)]
        both, sizes = np.sum(volumes, axis=0)
        expected.append(2 * both / sizes)
    assert list(scores["dice.aggregated_mm3"].per_class.values()) == pytest.approx(expected, rel=1e-12)
    assert scores["dice.aggregated_mm3"].value == pytest.approx(np.mean(expected), rel=1e-12)
    assert scores["dice.aggregated_mm3"].value != scores["dice.aggregated"].value


def official_endovis(
    preds: list[np.ndarray], trues: list[np.ndarray], classes: int
) -> dict[str, float]:
    """The evaluation of ISINet as SurgicalSAM gives it, frame by frame, in its order."""
    challenge, either, inside, outside = [], [], 0, 0
    of_class: dict[int, list[float]] = {number: [] for number in range(1, classes + 1)}
    for pred, true in zip(preds, trues, strict=True):
        if not pred.any():
            if true.any():
                challenge.append(0.0)
                either.append(0.0)
                for number in np.unique(true[true > 0]):
                    of_class[number].append(0.0)
            continue
        frame = {}
        for number in range(1, classes + 1):
            both, union = (pred == number) & (true == number), (pred == number) | (true == number)
            if union.any():
                frame[number] = both.sum() / union.sum()
                of_class[number].append(frame[number])
                inside, outside = inside + both.sum(), outside + union.sum()
        either.append(float(np.mean(list(frame.values()))))
        there = [value for number, value in frame.items() if (true == number).any()]
        challenge += [float(np.mean(there))] if there else []
    classwise = [np.mean(values) for values in of_class.values() if values]
    means = {"challenge_iou": challenge, "isi_iou": either, "iou": classwise}
    return {key: float(np.mean(each)) for key, each in means.items()} | {"m_iou": inside / outside}


@pytest.mark.equality(
    "BCV-Uniandes/ISINet and wenxi-yue/SurgicalSAM, eval_endovis: challenge IoU, ISI IoU, "
    "mcIoU, mIoU; 1e-12 (5e-6 against its own rounding)"
)
@pytest.mark.parametrize("seed", range(6))
def test_frames_are_scored_as_the_evaluation_of_endovis(seed: int) -> None:
    """Seven instruments, some in no frame; frames empty in one, the other and both."""
    rng = np.random.default_rng(seed)
    preds, trues = [], []
    for number in range(16):
        there = rng.choice(np.arange(1, 7), 3, replace=False) * (number not in (1, 2))
        seen = np.append(there[:2], rng.integers(1, 8)) * (number not in (0, 2))
        frame = rng.choice(np.append(there, 0), (9, 11))
        trues.append(frame)
        kept = np.isin(frame, seen) & (rng.random(frame.shape) < 0.7)
        preds.append(np.where(kept, frame, rng.choice(np.append(seen, 0), frame.shape)))
    assert not preds[0].any()
    assert not trues[1].any()
    each = [dense.segmentation_case(p, t, 8, (1, 1)) for p, t in zip(preds, trues, strict=True)]
    names = [str(number) for number in range(len(each))]
    scores = CaseValues.of(names, names, each).measure(tuple("abcdefg"), "px").scores()
    expected = official_endovis(preds, trues, 7)
    assert {key: scores[key].value for key in expected} == pytest.approx(expected, rel=1e-12)
    assert len({round(value, 6) for value in expected.values()}) == 4
    assert scores["m_iou.all"].value < scores["m_iou"].value, "a frame without prediction counts"


@pytest.mark.equality(
    "voreille/hecktor, evaluate_segmentation2022: aggregated Dice of GTVp, GTVn and their mean, "
    "volumes by SimpleITK; 1e-12"
)
def test_hecktor_volumes_are_those_of_simpleitk(rng: np.random.Generator) -> None:
    """Patients without a primary, without nodes, without a prediction, on grids of their own."""
    sitk = pytest.importorskip("SimpleITK")
    volumes = np.zeros((2, 2))
    each = []
    for number in range(6):
        spacing = tuple(rng.uniform(0.7, 4, 3))
        shape = rng.integers(4, 9, 3)
        pred, true = (rng.choice(3, shape, p=(0.8, 0.1, 0.1)) for _ in range(2))
        true[true == number] = 0
        pred[(pred == number) & (number == 2)] = 0  # nodes are in neither
        pred *= number != 3
        each.append(dense.segmentation_case(pred, true, 3, spacing[::-1]))
        images = [sitk.GetImageFromArray(labels.astype(np.uint8)) for labels in (true, pred)]
        for image in images:
            image.SetSpacing(spacing)
        overlap, sizes = sitk.LabelOverlapMeasuresImageFilter(), sitk.LabelStatisticsImageFilter()
        overlap.Execute(*images)
        for place, label in enumerate((1, 2)):
            size = 0.0
            for image in images:
                sizes.Execute(image, image)
                if sizes.HasLabel(label):
                    size += sizes.GetCount(label) * np.prod(spacing)
            both = overlap.GetDiceCoefficient(label) * size / 2 if size else 0
            volumes[place] += both, size
    names = [str(number) for number in range(6)]
    measured = CaseValues.of(names, names, each).measure(("GTVp", "GTVn"), "mm")
    score = measured.scores(["dice.aggregated_mm3"])["dice.aggregated_mm3"]
    expected = 2 * volumes[:, 0] / volumes[:, 1]
    assert list(score.per_class.values()) == pytest.approx(expected, rel=1e-12)
    assert score.value == pytest.approx(expected.mean(), rel=1e-12)
