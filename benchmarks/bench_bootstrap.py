"""Patient-clustered bootstrap of the macro AUC: ours beside a scikit-learn loop, in one run.

The job is an interval on 14 labels, 25,000 cases of 2,800 patients, 2,000 resamples (the size of a chest X-ray test
set). scikit-learn scores a few of the same draws, taking turns with ours, in the faster of the two ways in which people
write this loop (copying the drawn rows; case weights); its time is scaled to all resamples. Both must give the same
values. BCa adds one evaluation for each patient.
"""

import argparse
import os
import time
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score

from medprobe.metrics.classification import measure
from medprobe.metrics.stats import bootstrap_weights, combine_folds

CASES, PATIENTS, LABELS = 25_000, 2_800, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--sklearn-resamples", type=int, default=5, help="timed with scikit-learn, then scaled")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    patients = rng.integers(PATIENTS, size=CASES)
    target = (rng.random((CASES, LABELS)) < rng.uniform(0.005, 0.25, LABELS)).astype(float)
    prob = 1 / (1 + np.exp(-(1.1 * target + rng.normal(size=target.shape) - 2)))
    classes = tuple(f"label {i}" for i in range(LABELS))

    seconds: dict[str, list[float]] = {"ours": [], "rows": [], "weights": []}
    for _ in range(options.repeats):
        start = time.perf_counter()
        one = measure(target, prob, classes=classes, multilabel=True, groups=patients)
        score = combine_folds([one], keys=["auroc"], resamples=options.resamples)["auroc"]
        seconds["ours"].append(time.perf_counter() - start)

        weights = next(bootstrap_weights(patients, options.sklearn_resamples, (0, 0)))
        for name, loop in (("rows", by_rows), ("weights", by_weights)):
            start = time.perf_counter()
            values = [loop(target, prob, weight) for weight in weights]
            seconds[name].append((time.perf_counter() - start) * options.resamples / len(weights))
            apart = np.abs(one(weights, ["auroc"])["auroc"] - values).max()
            assert apart < 1e-12, f"values of {name} differ by {apart}"

    start = time.perf_counter()
    bca = combine_folds([one], keys=["auroc"], resamples=options.resamples, method="bca")["auroc"]
    with_bca = time.perf_counter() - start

    fast, *loops = (float(np.median(each)) for each in seconds.values())
    slow = min(loops)
    size = f"{LABELS} labels, {CASES} cases, {PATIENTS} patients, {options.resamples} resamples"
    print(f"{size}, on {os.cpu_count()} cores")
    print(f"macro AUC {score.value:.4f} [{score.low:.4f}, {score.high:.4f}], BCa [{bca.low:.4f}, {bca.high:.4f}]")
    print(f"equal         in all {len(weights)} resamples compared, to 1e-12")
    print(f"medprobe      {fast:7.2f} s for all resamples (median of {options.repeats}); with BCa {with_bca:.2f} s")
    print(f"scikit-learn  {slow:7.2f} s, scaled from {len(weights)} resamples to {options.resamples}")
    print(f"              (rows copied {loops[0]:.2f} s, case weights {loops[1]:.2f} s; the faster counts)")
    print(f"ratio         {slow / fast:7.1f}")


def by_rows(target: np.ndarray, prob: np.ndarray, weight: np.ndarray) -> float:
    rows = np.repeat(np.arange(len(weight)), weight.astype(int))
    return float(roc_auc_score(target[rows], prob[rows]))


def by_weights(target: np.ndarray, prob: np.ndarray, weight: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(roc_auc_score(target, prob, sample_weight=weight))


if __name__ == "__main__":
    main()
