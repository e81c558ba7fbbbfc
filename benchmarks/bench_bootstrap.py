"""Patient-clustered bootstrap of the macro AUC: an interval beside a scikit-learn loop.

The job is an interval on 14 labels, 25,000 cases of 2,800 patients, 2,000 resamples (the size of a chest X-ray test
set). scikit-learn scores a few of the same draws in each of the two ways in which people write this loop (copying the
drawn rows; case weights); its time is scaled to all resamples. Both must give the same values. BCa adds one evaluation
for each patient.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.metrics import roc_auc_score

from _bench import in_turns, note, parser, row, timed
from medprobe.metrics.classification import measure
from medprobe.metrics.stats import bootstrap_weights, combine_folds

CASES, PATIENTS, LABELS = 25_000, 2_800, 14
ROUNDS = 3


def main() -> None:
    options = parser(__doc__, "a hundred resamples")
    options.add_argument("--resamples", type=int, default=2000)
    options.add_argument("--sklearn-resamples", type=int, default=5, help="timed with scikit-learn, then scaled")
    asked = options.parse_args()
    resamples = 100 if asked.quick else asked.resamples

    rng = np.random.default_rng(0)
    patients = rng.integers(PATIENTS, size=CASES)
    target = (rng.random((CASES, LABELS)) < rng.uniform(0.005, 0.25, LABELS)).astype(float)
    prob = 1 / (1 + np.exp(-(1.1 * target + rng.normal(size=target.shape) - 2)))
    classes = tuple(f"label {i}" for i in range(LABELS))
    measured = partial(measure, target, prob, classes=classes, multilabel=True, groups=patients)
    interval = partial(combine_folds, keys=["auroc"], resamples=resamples, method="percentile")
    one = measured()
    weights = next(bootstrap_weights(patients, asked.sklearn_resamples, (0, 0)))
    scale = resamples / len(weights)

    def scores(loop: Callable[..., float]) -> list[float]:
        return [loop(target, prob, weight) for weight in weights]

    for name, loop in (("drawn rows copied", by_rows), ("case weights", by_weights)):
        pairs = in_turns(lambda: interval([measured()])["auroc"], partial(scores, loop), ROUNDS, warm=False)
        apart = np.abs(one(weights, ["auroc"])["auroc"] - pairs.other).max()
        assert apart < 1e-12, f"values of {name} differ by {apart}"
        row(
            f"interval of the macro AUC, {LABELS} labels, {CASES} cases, {PATIENTS} patients, {resamples} resamples; {ROUNDS} pairs",
            f"scikit-learn, {name}, scaled from {len(weights)} resamples",
            pairs.ratio * scale,
            spread=(pairs.range[0] * scale, pairs.range[1] * scale),
            equality=f"largest difference of the {len(weights)} resamples {apart:.0e}",
            limit=f"{pairs.ours:.3g} s against {pairs.theirs * scale:.3g} s",
        )
    seconds, bca = timed(lambda: interval([one], method="bca")["auroc"])
    score = pairs.mine
    left_out_seconds, left_out = timed(lambda: combine_folds([one], keys=["auroc"])["auroc"])
    note(
        f"Leaving patients out, as scores have it, gives [{left_out.low:.4f}, {left_out.high:.4f}] "
        f"in {left_out_seconds:.2f} s."
    )
    note(f"Macro AUC {score.value:.4f} [{score.low:.4f}, {score.high:.4f}]; by BCa [{bca.low:.4f}, {bca.high:.4f}], in {seconds:.2f} s.")


def by_rows(target: np.ndarray, prob: np.ndarray, weight: np.ndarray) -> float:
    rows = np.repeat(np.arange(len(weight)), weight.astype(int))
    return float(roc_auc_score(target[rows], prob[rows]))


def by_weights(target: np.ndarray, prob: np.ndarray, weight: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(roc_auc_score(target, prob, sample_weight=weight))


if __name__ == "__main__":
    main()
