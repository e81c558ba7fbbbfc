"""How often the paired test errs where two models do not differ, and how often its interval holds the true difference.

`python -m medprobe.metrics.paired_simulation` prints the table of docs/metrics.md in ten minutes or so. Two models of one kind
answer the same simulated patients: equal in the long run for the error, one better by a fixed step for the coverage, in
which the true difference is the mean over all repetitions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.metrics import classification, paired, percase
from medprobe.metrics.measure import Measure

SIZES = (6, 10, 20, 50, 100)
REPEATS = 2000
FLIPS = 999

Draw = Callable[[np.random.Generator, int, float], tuple[list[Measure], str]]
"""Generator, patients, and how much better A is → the measures of A and B, and the key."""


def means(rng: np.random.Generator, patients: int, step: float, missing: float = 0.0) -> tuple[list[Measure], str]:
    """Dice of one to four cases per patient; with `missing`, so many of the hard cases are undefined in either model."""
    group = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    hard = rng.normal(1.5, 1.0, patients)[group]
    sides = []
    for better in (step, 0.0):
        values = hard + better + 0.7 * rng.normal(size=patients)[group] + 0.5 * rng.normal(size=len(group))
        values = 1 / (1 + np.exp(-values))
        values = np.where((hard < 1.0) & (rng.random(len(group)) < missing), np.nan, values)
        sides.append(percase.measure_cases({"dice": values}, group))
    return sides, "dice"


def areas(rng: np.random.Generator, patients: int, step: float, ill: float = 0.4) -> tuple[list[Measure], str]:
    """AUC over one to three cases per patient, `ill` of the patients, two at least, with the finding."""
    sick = np.arange(patients) < max(2, round(ill * patients))
    group = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    target, shared = sick[group].astype(int), 0.7 * rng.normal(size=patients)[group]
    sides = []
    for better in (step, 0.0):
        own = 0.8 * rng.normal(size=patients)[group] + 0.5 * rng.normal(size=len(group))
        prob = 1 / (1 + np.exp(-((1.2 + better) * target + shared + own)))
        both = np.stack([1 - prob, prob], axis=1)
        sides.append(classification.measure(target, both, classes=("no", "yes"), groups=group))
    return sides, "auroc"


def phases(rng: np.random.Generator, patients: int, step: float) -> tuple[list[Measure], str]:
    """Macro F1 over five classes, the rarest a twentieth, of 20 to 60 frames per video."""
    group = np.repeat(np.arange(patients), rng.integers(20, 60, patients))
    share = rng.dirichlet([2.0, 1.0, 0.5, 0.3, 0.2], patients).cumsum(axis=1)
    target = np.minimum((rng.random(len(group))[:, None] > share[group]).sum(axis=1), 4)
    sides = []
    for better in (step, 0.0):
        score = rng.normal(size=(len(group), 5)) + 0.7 * rng.normal(size=(patients, 5))[group]
        score[np.arange(len(group)), target] += 1.5 + better
        prob = np.exp(score)
        prob /= prob.sum(axis=1, keepdims=True)
        sides.append(classification.measure(target, prob, classes=tuple("abcde"), groups=group))
    return sides, "f1.macro"


@dataclass(frozen=True)
class Structure:
    name: str
    draw: Draw
    folds: int = 1
    seeds: int = 1
    sizes: tuple[int, ...] = SIZES

    def difference(self, patients: int, step: float, repeat: int) -> paired.Difference:
        """Of one repetition; the patients are shared over folds, and the seeds are models of their own."""
        rng = np.random.default_rng([patients, repeat])
        pairs = []
        for _ in range(self.seeds):
            folds = [self.draw(rng, patients // self.folds, step) for _ in range(self.folds)]
            for number, (sides, _) in enumerate(folds):
                for side in sides:
                    side.groups = side.groups + 1000 * number
            pairs.append(([sides[0] for sides, _ in folds], [sides[1] for sides, _ in folds]))
        return paired.difference(pairs, folds[0][1], flips=FLIPS, seed=repeat)


STRUCTURES = (
    Structure("Dice, 1 to 4 cases a patient", means),
    Structure("Dice, a third of the hard cases undefined", lambda rng, n, step: means(rng, n, step, missing=1 / 3)),
    Structure("Dice, five folds", means, folds=5, sizes=(20, 50, 100)),
    Structure("AUC, 40 % of the patients ill", areas),
    Structure("AUC, 5 % ill, two at least", lambda rng, n, step: areas(rng, n, step, ill=0.05), sizes=(20, 50, 100)),
    Structure("AUC, five folds", areas, folds=5, sizes=(50, 100)),
    Structure("AUC, three seeds", areas, seeds=3, sizes=(10, 20, 50)),
    Structure("macro F1 over videos", phases, sizes=(6, 10, 20, 50)),
)


def error(structure: Structure, patients: int, repeats: int = REPEATS) -> float:
    """How often p is 0.05 or less where the models do not differ."""
    return float(np.mean([structure.difference(patients, 0.0, repeat).p <= 0.05 for repeat in range(repeats)]))


def coverage(structure: Structure, patients: int, repeats: int = REPEATS // 2) -> float:
    """How often the interval, where there is one, holds the difference of models that differ."""
    found = [structure.difference(patients, 0.5, repeat) for repeat in range(repeats)]
    true = np.mean([one.value for one in found])
    inside = [one.low <= true <= one.high for one in found if not np.isnan(one.low)]
    return float(np.mean(inside)) if inside else float("nan")


def table(structures: Sequence[Structure] = STRUCTURES) -> str:
    """Markdown: error and coverage of every structure and number of patients."""
    lines = [f"| score: error, coverage | {' | '.join(f'{size}' for size in SIZES)} |", f"| --- |{' --- |' * len(SIZES)}"]
    for structure in structures:
        cells = ["—"] * len(SIZES)
        for place, size in enumerate(SIZES):
            if size in structure.sizes:
                cells[place] = f"{error(structure, size):.3f}, {coverage(structure, size):.3f}"
        lines.append(f"| {structure.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
