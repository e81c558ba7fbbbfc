"""Surgical phases: scores per video first, then means; three conventions side by side, each under its own name.

    accuracy.video                      accuracy of each video, mean over videos (headline, with the next line)
    precision|recall|jaccard|f1.phase   of each phase in each video, undefined where the phase is absent from the ground
                                        truth of that video; mean over the videos that have it, then over phases
    precision.phase_nan_ignored         the same without videos where a phase is never predicted (above, they count 0)
    *_relaxed_matlab, *_relaxed_fixed   10-frame relaxed boundary of the Cholec80 scripts, with and without their bug
    accuracy, precision.macro, ...      all frames pooled: everything of `classification`, with videos as patients

The relaxed variants (TMRNet, Surgformer: Evaluate.m; datasets sheet 7) forgive, within each ground-truth segment, a
prediction that lags by one phase in the first 10 frames (by up to two in phases 6 and 7) or runs ahead by one in the
last 10 (by up to two from phase 4 on). The scripts test the last 10 frames but by an indexing error forgive the first
10 in their place; `matlab` keeps this, `fixed` forgives the frames tested. In both, as there, the true positives of a
phase are the forgiven or right ones of its predicted and true frames together, so precision and recall can pass 1 and
are cut to 1; F1 comes from the uncut two; precision x/0 is cut to 1; 0/0, and F1 of 0/0 or of x/0, are left out. The
rules name seven phases in order, so other numbers of phases have no relaxed scores. Frames are a second apart.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medprobe.errors import MedprobeError
from medprobe.metrics import classification
from medprobe.metrics.measure import Measure, Metric, Value, Weighted, mean_defined, some_of
from medprobe.metrics.stats import Method, combine_folds
from medprobe.types import Score

MARGIN = 10
"""Frames of the relaxed boundary, at one frame per second."""
PHASES = 7
"""The relaxed rules name phases 1 to 7."""


def relaxed_right(true: np.ndarray, predicted: np.ndarray, fixed: bool) -> np.ndarray:
    """Which frames (n,) of one video, in order, are right or forgiven; phases are 0-based here.

    `fixed` forgives the last frames of a segment where the scripts forgive the first.
    """
    difference = predicted - true
    borders = np.flatnonzero(np.diff(true)) + 1
    for segment in np.split(np.arange(len(true)), borders):
        phase, margin = true[segment[0]] + 1, min(MARGIN, len(segment))
        first, last = segment[:margin], segment[-margin:]
        late = (-1, -2) if phase >= 6 else (-1,)
        early = (1, 2) if phase >= 4 else (1,)
        difference[first[np.isin(difference[first], late)]] = 0
        difference[(last if fixed else first)[np.isin(difference[last], early)]] = 0
    return difference == 0


def video_scores(true: np.ndarray, predicted: np.ndarray, right: np.ndarray, phases: int) -> dict[str, np.ndarray]:
    """One video: `accuracy` (), and `precision`, `recall`, `jaccard`, `f1` (phases,), NaN where the phase is absent.

    true, predicted: (n,) phases; right: (n,) bool, the frames held to be right. Precision is NaN where a phase is never
    predicted. Values above 1 (possible with forgiven frames) are cut to 1.
    """
    is_true, is_predicted = (part[:, None] == np.arange(phases) for part in (true, predicted))
    hits = (right[:, None] & (is_true | is_predicted)).sum(axis=0)
    called, there, either = (part.sum(axis=0) for part in (is_predicted, is_true, is_true | is_predicted))
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = {
            "precision": hits / called,
            "recall": hits / there,
            "jaccard": hits / either,
            "f1": 2 * hits / (called + there),
        }
    cut = {name: np.where(there > 0, np.minimum(value, 1.0), np.nan) for name, value in fractions.items()}
    return {"accuracy": right.mean(), **cut}


class Videos:
    """Which frames are whose. All frames of a video weigh the same, so its weight is that of its first frame."""

    def __init__(self, videos: np.ndarray, frames: np.ndarray) -> None:
        self.names, member = np.unique(videos, return_inverse=True)
        self.rows = [np.flatnonzero(member == video) for video in range(len(self.names))]
        self.rows = [rows[np.argsort(frames[rows], kind="stable")] for rows in self.rows]
        for name, rows in zip(self.names, self.rows, strict=True):
            if len(np.unique(frames[rows])) < len(rows):
                raise MedprobeError(f"expected each frame of video {name} once, found a frame twice; check the labels")
        self._first = [rows[0] for rows in self.rows]

    def weights(self, w: Weighted) -> np.ndarray:
        """(B, videos)."""
        return w.by_case[self._first].T

    def frames_of(self, videos: np.ndarray) -> np.ndarray:
        """(videos,) bool to (frames,)."""
        found = np.zeros(sum(map(len, self.rows)), dtype=bool)
        for rows, chosen in zip(self.rows, videos, strict=True):
            found[rows] = chosen
        return found


@dataclass(frozen=True, eq=False)
class VideoMean:
    """Values (videos,): their mean; or (videos, phases): the mean over videos, then over phases, NaN left out.

    `zero` of the values were undefined and count as 0. `there` (videos, phases): the phase is in the truth, so that an
    undefined value means that it was missed.
    """

    videos: Videos
    values: np.ndarray
    there: np.ndarray | None = None
    zero: int = 0
    cases: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        return ~np.isnan(self.values)

    def __call__(self, w: Weighted) -> Value:
        weights = self.videos.weights(w)
        undefined = int((~self.known).sum()) + self.zero
        if self.values.ndim == 1:
            return Value(mean_defined(self.values, weights), undefined, cases=self.cases)
        phases = mean_defined(self.values.T, weights[:, None, :])
        return Value(mean_defined(phases), undefined, phases, self.cases)

    def kept(self, entries: np.ndarray) -> "VideoMean":
        cases = self.videos.frames_of(some_of(entries))
        return VideoMean(self.videos, np.where(entries, self.values, np.nan), cases=cases)

    def charged(self) -> "VideoMean":
        there = self.known if self.there is None else self.there
        return VideoMean(self.videos, np.where(there & ~self.known, 0.0, self.values))


def measure_phases(
    target: np.ndarray, prob: np.ndarray, *, classes: Sequence[str], videos: np.ndarray, frames: np.ndarray
) -> Measure:
    """Phase scores as functions of frame weights, headline first.

    target: (n,) phase indices; prob: (n, phases), of which the most probable is predicted (ties: the first);
    videos: (n,) names; frames: (n,) numbers that order the frames of a video.
    """
    pooled = classification.measure(target, prob, classes=classes, groups=videos)
    true, predicted, frames = np.asarray(target), np.argmax(prob, axis=1), np.asarray(frames)
    if frames.shape != true.shape:
        raise MedprobeError(f"expected one frame number per case, found {frames.shape} for {true.shape}")
    each = Videos(pooled.groups, frames)

    def table(right: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        parts = [(true[rows], predicted[rows]) for rows in each.rows]
        scores = [video_scores(*part, right(*part), len(classes)) for part in parts]
        return {name: np.array([score[name] for score in scores]) for name in scores[0]}

    plain = table(np.equal)
    there = ~np.isnan(plain["recall"])
    never = np.isnan(plain["precision"]) & there
    mean = partial(VideoMean, each)
    metrics: dict[str, Metric] = {
        "accuracy.video": mean(plain["accuracy"]),
        "precision.phase": mean(np.where(never, 0.0, plain["precision"]), zero=int(never.sum())),
        "recall.phase": mean(plain["recall"]),
        "jaccard.phase": mean(plain["jaccard"]),
        "f1.phase": mean(plain["f1"]),
        "precision.phase_nan_ignored": mean(plain["precision"], there),
    }
    for variant in ("relaxed_matlab", "relaxed_fixed") if len(classes) == PHASES else ():
        relaxed = table(partial(relaxed_right, fixed=variant == "relaxed_fixed"))
        relaxed["f1"] = np.where((relaxed["recall"] == 0) | never, np.nan, relaxed["f1"])
        for name, values in relaxed.items():
            average = "video" if name == "accuracy" else "phase"
            metrics[f"{name}.{average}_{variant}"] = mean(values, there if values.ndim == 2 else None)
    bounds = {**dict.fromkeys(metrics, (0.0, 1.0)), **pooled.bounds}
    overall = {key for key in metrics if key.startswith("accuracy")} | pooled.overall
    together = {**metrics, **pooled.metrics}
    return Measure(together, pooled.groups, tuple(classes), None, None, pooled.parts, bounds, overall, pooled.calls)


def evaluate_phases(
    target: np.ndarray,
    prob: np.ndarray,
    *,
    classes: Sequence[str],
    videos: np.ndarray,
    frames: np.ndarray,
    keys: Collection[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    method: Method = "jackknife",
) -> dict[str, Score]:
    """Phase scores with intervals over videos; arguments as of `measure_phases` and `stats.combine_folds`."""
    one = measure_phases(target, prob, classes=classes, videos=videos, frames=frames)
    return combine_folds([one], keys=keys, resamples=resamples, seed=seed, confidence=confidence, method=method)
