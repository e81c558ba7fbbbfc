"""Patient-clustered bootstrap of the macro AUC: ours beside a scikit-learn loop, in one run.

The job is an interval on 14 labels, 25,000 cases of 2,800 patients, 1,000 resamples (the size of a chest X-ray test
set). scikit-learn runs a few of the same draws, taking turns with ours; its time is extrapolated to all of them.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score

from medprobe.metrics.classification import measure
from medprobe.metrics.stats import bootstrap_weights, combine_folds

CASES, PATIENTS, LABELS = 25_000, 2_800, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--sklearn-resamples", type=int, default=5, help="timed with scikit-learn, then extrapolated")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    patients = rng.integers(PATIENTS, size=CASES)
    target = (rng.random((CASES, LABELS)) < rng.uniform(0.005, 0.25, LABELS)).astype(float)
    prob = 1 / (1 + np.exp(-(1.1 * target + rng.normal(size=target.shape) - 2)))
    classes = tuple(f"label {i}" for i in range(LABELS))

    ours, theirs = [], []
    for _ in range(options.repeats):
        start = time.perf_counter()
        one = measure(target, prob, classes=classes, multilabel=True, groups=patients)
        score = combine_folds([one], keys=["auroc"], resamples=options.resamples)["auroc"]
        ours.append(time.perf_counter() - start)

        start = time.perf_counter()
        weights = next(bootstrap_weights(patients, options.sklearn_resamples, (0, 0)))
        values = [sklearn_auroc(target, prob, weight) for weight in weights]
        theirs.append((time.perf_counter() - start) * options.resamples / options.sklearn_resamples)

    assert np.allclose(one(weights, ["auroc"])["auroc"], values, atol=1e-12)
    fast, slow = np.median(ours), np.median(theirs)
    print(f"macro AUC {score.value:.4f} [{score.low:.4f}, {score.high:.4f}]")
    print(f"{LABELS} labels, {CASES} cases, {PATIENTS} patients")
    print(f"medprobe      {fast:7.2f} s for {options.resamples} resamples (median of {options.repeats})")
    print(f"scikit-learn  {slow:7.2f} s, extrapolated from {options.sklearn_resamples} resamples")
    print(f"ratio         {slow / fast:7.1f}")


def sklearn_auroc(target: np.ndarray, prob: np.ndarray, weight: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(roc_auc_score(target, prob, sample_weight=weight))


if __name__ == "__main__":
    main()
