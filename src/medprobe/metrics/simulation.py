"""How often intervals hold the truth, by structure of the test set and number of patients; fixed seeds.

`python -m medprobe.metrics.simulation > src/medprobe/metrics/simulation.md` makes the table of docs/metrics.md in a few
minutes. Every structure draws test sets from a population whose score is known, from a formula or a large sample.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from medprobe.metrics.classification import measure
from medprobe.metrics.measure import Measure
from medprobe.metrics.percase import measure_cases
from medprobe.metrics.phases import measure_phases
from medprobe.metrics.stats import Method, combine_folds

SIMULATIONS = 400
Rng = np.random.Generator


@dataclass(frozen=True)
class Structure:
    """A kind of test set: `draw` gives its folds, `truth` the score of the population."""

    name: str
    patients: str
    key: str
    truth: Callable[[], float]
    draw: Callable[[Rng], list[Measure]]
    enough: bool = True
    """Whether it is large enough to go without a mark, or has 20 patients, and 10 of each outcome."""


def structures() -> Iterator[Structure]:
    """All of them, small ones too."""
    for positive, patients in ((5, 100), (10, 100), (20, 200), (10, 20)):
        name, said = "AUC, few patients positive", f"{patients}, {positive} positive"
        yield Structure(name, said, "auroc", partial(_normal, 1.5), partial(_ranking, positive, patients), positive >= 10)
    for patients in (10, 20, 50):
        draw = partial(_clustered, patients)
        yield Structure("AUC, 6 cases of a patient", str(patients), "auroc", partial(_normal, 1.2), draw, patients >= 20)
    for patients in (7, 10, 20, 50):
        videos = np.array([1.0, 0.9, 0.8, 0.6])
        frames, right = np.array([10, 10, 8, 8]), np.array([0.9, 0.8, 0.7, 0.6])
        draw = partial(_frames, patients, np.ceil(videos * patients).astype(int), frames, right, 0.2)
        confusion = np.ceil(videos * patients) * frames
        for key in ("accuracy", "f1.macro"):
            truth = partial(_score_of, confusion, right, key)
            yield Structure("frames of videos, 4 classes", str(patients), key, truth, draw, patients >= 20)
    for patients in (5, 7, 10, 20, 50):
        yield Structure("Dice, two classes", str(patients), "dice", lambda: 0.75, partial(_dice, patients), patients >= 20)
    for patients in (7, 10, 20, 50):
        draw = partial(_distances, patients)
        yield Structure("HD95, a fifth undefined", str(patients), "hd95", lambda: float(np.exp(0.75**2 / 2)), draw, patients >= 20)
    for patients in (7, 20, 40):
        for key in ("accuracy.video", "jaccard.phase"):
            truth = partial(_phases_of_many, key)
            yield Structure("phases of videos", str(patients), key, truth, partial(_phases, patients), patients >= 20)
    for patients in (3, 4, 10):
        draw = partial(_folds, patients)
        yield Structure("Dice, mean of 5 folds", f"5 × {patients}", "dice", lambda: 0.75, draw, patients >= 4)
    videos, frames, right = KVASIR
    for key in ("f1.macro", "precision.macro", "jaccard.macro", "recall.macro"):
        draw = partial(_frames, 40, videos, frames, right, 0.15)
        truth = partial(_score_of, videos * frames, right, key)
        yield Structure("11 classes, 6 of them in 1 to 4 videos", "40", key, truth, draw, False)
    for rare in (1, 2, 5):
        videos, frames, right = np.array([30, 28, rare]), np.array([10, 10, 8]), np.array([0.99, 0.98, 0.95])
        truth = partial(_score_of, videos * frames, right, "f1.macro")
        draw = partial(_frames, 30, videos, frames, right, 0.05)
        yield Structure("near-perfect, one class rare", f"30, {rare} of the rare class", "f1.macro", truth, draw, False)
    yield Structure("macro AUC, 3 labels", "80; 40, 20 and 5 positive", "auroc", partial(_normal, 1.5), _labels, False)


KVASIR = (
    np.array([38, 25, 30, 30, 3, 3, 2, 3, 1, 2, 4]),
    np.array([60, 12, 8, 15, 20, 12, 6, 15, 20, 20, 15]),
    np.array([0.95, 0.7, 0.8, 0.8, 0.5, 0.4, 0.4, 0.6, 0.8, 0.7, 0.6]),
)
"""Videos of each class, frames in each, share of right calls."""


def _normal(apart: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(apart / np.sqrt(2)))


def _two(score: np.ndarray) -> np.ndarray:
    positive = 1 / (1 + np.exp(-score))
    return np.column_stack([1 - positive, positive])


def _ranking(positive: int, patients: int, rng: Rng) -> list[Measure]:
    target = (np.arange(patients) < positive).astype(int)
    return [measure(target, _two(rng.normal(size=patients) + 1.5 * target), classes=("no", "yes"))]


def _clustered(patients: int, rng: Rng) -> list[Measure]:
    patient = np.repeat(np.arange(patients), 6)
    tends = np.repeat(rng.random(patients) < 0.5, 6)
    target = (rng.random(6 * patients) < np.where(tends, 0.8, 0.1)).astype(int)
    score = np.sqrt(0.5) * (rng.normal(size=patients)[patient] + rng.normal(size=6 * patients)) + 1.2 * target
    return [measure(target, _two(score), classes=("no", "yes"), groups=patient)]


def _labels(rng: Rng) -> list[Measure]:
    target = np.stack([rng.permutation(80) < positive for positive in (40, 20, 5)], axis=1).astype(float)
    score = 1 / (1 + np.exp(-(rng.normal(size=target.shape) + 1.5 * target)))
    return [measure(target, score, classes="abc", multilabel=True)]


def _called(cases: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Shares of calls of each class: wrong ones fall on the others by their size."""
    others = np.tile(cases.astype(float), (len(cases), 1))
    np.fill_diagonal(others, 0)
    return others / others.sum(axis=1, keepdims=True) * (1 - right)[:, None] + np.diag(right)


def _frames(patients: int, videos: np.ndarray, frames: np.ndarray, right: np.ndarray, alike: float, rng: Rng) -> list[Measure]:
    called = _called(videos * frames, right)
    rows = []
    for label, number in enumerate(videos):
        for video in rng.choice(patients, number, replace=False):
            many = max(1, round(frames[label] * np.exp(0.8 * rng.normal() - 0.32)))
            shares = rng.dirichlet(np.maximum(called[label], 1e-9) * (1 - alike) / alike)
            calls = np.repeat(np.arange(len(videos)), rng.multinomial(many, shares))
            rows.append(np.column_stack([np.full(many, video), np.full(many, label), calls]))
    video, target, call = np.concatenate(rows).T
    classes = tuple(f"class {number}" for number in range(len(videos)))
    return [measure(target, np.eye(len(videos))[call], classes=classes, groups=video)]


def _score_of(cases: np.ndarray, right: np.ndarray, key: str) -> float:
    """Of a population with these shares, as weights of one case for each pair of truth and call."""
    target, call = (index.ravel() for index in np.indices((len(cases), len(cases))))
    one = measure(target, np.eye(len(cases))[call], classes=tuple(map(str, range(len(cases)))))
    return float(one((cases[:, None] * _called(cases, right)).reshape(1, -1), [key])[key][0])


def _dice_values(patients: int, rng: Rng) -> np.ndarray:
    shared = rng.normal(scale=0.5, size=(patients, 1))
    uniform = np.argsort(np.argsort(shared + rng.normal(size=(patients, 2)), axis=0), axis=0)
    return np.sort(rng.beta((8, 7), (2, 3), (patients, 2)), axis=0)[uniform, [0, 1]]


def _dice(patients: int, rng: Rng) -> list[Measure]:
    return [measure_cases({"dice": _dice_values(patients, rng)}, np.arange(patients), ("liver", "tumour"))]


def _folds(patients: int, rng: Rng) -> list[Measure]:
    names = [np.arange(patients) + fold * patients for fold in range(5)]
    return [measure_cases({"dice": _dice_values(patients, rng)}, each, ("liver", "tumour")) for each in names]


def _distances(patients: int, rng: Rng) -> list[Measure]:
    values = np.exp(0.75 * rng.normal(size=patients))
    values[rng.random(patients) < 0.2] = np.nan
    return [measure_cases({"hd95": values}, np.arange(patients), facts={"hd95": ("mm", False)})]


def _phases(videos: int, rng: Rng) -> list[Measure]:
    target = np.tile(np.repeat(np.arange(7), 12), (videos, 1))
    right = rng.random(target.shape) < rng.beta(8, 2, (videos, 1)) * np.linspace(1, 0.7, 7)[target]
    call = np.where(right, target, (target + rng.choice([1, 6], target.shape)) % 7)
    names, frames = np.indices(target.shape)
    classes = tuple(f"phase {number}" for number in range(7))
    return [
        measure_phases(
            target.ravel(), np.eye(7)[call.ravel()], classes=classes, videos=names.ravel(), frames=frames.ravel()
        )
    ]


@cache
def _phases_of_many(key: str) -> float:
    (one,) = _phases(2000, np.random.default_rng(1))
    return one.scores([key])[key].value


def coverage(structure: Structure, method: Method, simulations: int = SIMULATIONS) -> tuple[float, float]:
    """How many of the intervals there are hold the truth, and their mean width."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(simulations):
        folds = structure.draw(rng)
        score = combine_folds(folds, keys=[structure.key], method=method, resamples=200)[structure.key]
        found.append((score.low, score.high))
    low, high = np.array([ends for ends in found if not np.isnan(ends).any()]).T
    truth = structure.truth()
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(high - low))


def table(simulations: int = SIMULATIONS) -> Iterator[str]:
    """The lines of the table, as they are known."""
    yield "| test set | patients | score | coverage | mean width | percentiles: coverage | mean width |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for each in structures():
        ours, theirs = (coverage(each, method, simulations) for method in ("jackknife", "percentile"))
        numbers = " | ".join(f"{number:.3f}" for number in (*ours, *theirs))
        yield f"| {each.name} | {each.patients}{'' if each.enough else ' †'} | `{each.key}` | {numbers} |"


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else SIMULATIONS):
        print(line, flush=True)
