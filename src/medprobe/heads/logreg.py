"""`logreg`: standardised logistic regression, fitted to convergence: the default head, without a seed.

Features are standardised with the training mean and population standard deviation. With C in scikit-learn's
convention, each problem of n labelled samples minimises

    mean over samples of -log p(label)  +  |w|^2 / (2 n C)         (the intercept is not penalised)

Exclusive classes: one multinomial problem (two classes: one logistic problem). Multilabel: one logistic problem per
label over its labelled samples, all with the same C. C is chosen on validation over `grid`, ascending, each fit
starting from the one before (`methods.md` asks for L-BFGS and a grid of powers of ten, as DINOv3's
eval/log_regression.py; here without its refit on training and validation). Ties go to the lower log
loss on validation, then to the smaller C. Without a validation part C is 1.

How it is fast: the problems of all labels share each matrix product, and L-BFGS runs in coordinates in which the
Hessian is near the identity: the principal axes of the training features, scaled by the curvature expected from each
label's prevalence. The minimiser is the same; the number of iterations falls by an order of magnitude.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medprobe.heads import _pooled
from medprobe.registry import HEADS
from medprobe.types import Context, Samples, State

STOP_PATH, STOP = 1e-5, 1e-8
"""L-BFGS stops when no component of the gradient, in its own coordinates, is larger: on the way, and at the chosen C."""
CONVERGED = 1e-6
"""A fit whose largest component of the gradient stays above this is reported."""


@dataclass(frozen=True)
class LogisticRegression:
    """`grid` holds the values of C tried, `max_iterations` bounds L-BFGS for each."""

    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    grid: tuple[float, ...] = tuple(10.0**power for power in range(-6, 3))
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        grid = self.grid
        good = isinstance(grid, list | tuple) and grid and all(_pooled.is_number(c) and c > 0 for c in grid)
        _pooled.require(bool(good), "logreg", "grid", "a list of positive numbers", grid)
        object.__setattr__(self, "grid", tuple(sorted({float(c) for c in grid})))
        most = self.max_iterations
        _pooled.require(_pooled.is_count(most), "logreg", "max_iterations", "a whole number >= 1", most)

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        """State: `weight` (C, D) on standardised features, `intercept` (C,), `mean`, `scale` (D,); all float64."""
        x, y = _pooled.read_training("logreg", train, ctx)
        chosen_by = _pooled.read_validation("logreg", val, ctx, x.shape[1], "so C = 1")
        link = "sigmoid" if y.ndim == 2 else "softmax"
        mean, scale = _pooled.moments(x)
        problem = _Problem((x - mean) * scale, y, _pooled.n_classes(y, ctx))
        theta, c, scores, losses = problem.start(), 1.0, list[float](), list[float]()
        if chosen_by:
            x_val, score = chosen_by
            x_val = (x_val - mean) * scale
            path = []
            for done, c_tried in enumerate(self.grid):
                ctx.progress(done, len(self.grid), "logreg: values of C")
                theta, _, _ = problem.minimise(c_tried, theta, STOP_PATH, self.max_iterations)
                path.append(theta)
                weight, intercept = problem.spread(theta)
                prediction = _pooled.probabilities(x_val @ weight.T + intercept, link)
                scores.append(score(prediction))
                losses.append(_pooled.log_loss(prediction, val.targets if val is not None else y))
            best = _pooled.first_best("logreg", scores, ctx, "so C = 1", losses)
            theta, c = (problem.start(), 1.0) if best is None else (path[best], self.grid[best])
        theta, gradient, iterations = problem.minimise(c, theta, STOP, self.max_iterations)
        if gradient > CONVERGED:
            ctx.warn(
                f"logreg: at C = {c:g} not converged after {iterations} iterations: the largest gradient component is "
                f"{gradient:.1e}, expected at most {CONVERGED:g}; raise max_iterations or lower the values of grid"
            )
        weight, intercept = problem.spread(theta)
        facts = {"C": c, "gradient_norm": gradient, "iterations": iterations, "link": link, "grid": list(self.grid)}
        tensors = {"weight": weight, "intercept": intercept, "mean": mean, "scale": scale}
        return State(tensors, facts | {"monitor": _pooled.or_none(scores)})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        """(C,) float64 per sample: class probabilities that sum to 1, or one probability per label."""
        tensors = state.tensors
        x = _pooled.read_features("logreg", "test", samples, ctx, tensors["weight"].shape[1])
        logits = ((x - tensors["mean"]) * tensors["scale"]) @ tensors["weight"].T + tensors["intercept"]
        yield from _pooled.probabilities(logits, state.meta["link"])


class _Problem:
    """The objective in preconditioned coordinates, for all its logits (m) at once.

    The m logits are: one per class (three or more exclusive classes present), one (two classes present), or one per
    label that shows both values. Parameters are (r + 1, m): weights on the r principal axes, last row the intercepts.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int) -> None:
        labels = _pooled.indicators(y, classes)
        self.classes, self.share = classes, _pooled.prevalence(labels)
        self.exclusive = y.ndim == 1
        self.columns = np.flatnonzero((self.share > 0) & (self.share < 1) & ~np.isnan(labels).all(axis=0))
        self.softmax = self.exclusive and len(self.columns) > 2
        if self.exclusive and not self.softmax:
            self.columns = self.columns[1:]
        labels = labels[:, self.columns]
        known = ~np.isnan(labels)
        self.count = known.sum(axis=0).astype(np.float64)
        self.labels, self.share_of_mean = np.where(known, labels, 0).astype(np.float64), known / self.count

        # The solution lies in the span of the samples: when they are fewer than the features, so are the coordinates.
        span = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else None
        reduced = x if span is None else x @ span
        variance, axes = np.linalg.eigh(reduced.T @ reduced / len(x))
        self.variance, self.z = variance.clip(min=0)[:, None], reduced @ axes
        self.axes = axes if span is None else span @ axes

    def start(self) -> np.ndarray:
        """Zero weights and the intercepts of the prevalence."""
        share = self.share[self.columns]
        intercept = np.log(share) if self.softmax else np.log(share / (1 - share))
        return np.vstack([np.zeros((self.z.shape[1], len(self.columns))), intercept])

    def minimise(self, c: float, start: np.ndarray, stop: float, most: int) -> tuple[np.ndarray, float, int]:
        """The minimiser at C = c, its largest gradient component, and the iterations taken from `start`."""
        from scipy.optimize import minimize
        from scipy.special import expit, logsumexp

        penalty = 1 / (self.count * c)
        share = self.share[self.columns]
        curvature = np.maximum(share * (1 - share), 1e-3)
        unit = np.vstack([1 / np.sqrt(curvature * self.variance + penalty), 1 / np.sqrt(curvature)[None]])

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            theta = flat.reshape(unit.shape) * unit
            logits = self.z @ theta[:-1] + theta[-1]
            if self.softmax:
                normaliser = logsumexp(logits, axis=1, keepdims=True)
                loss = self.share_of_mean * self.labels * (normaliser - logits)
                p = np.exp(logits - normaliser)
            else:
                loss = self.share_of_mean * (np.logaddexp(0, logits) - self.labels * logits)
                p = expit(logits)
            residual = self.share_of_mean * (p - self.labels)
            total = loss.sum() + (penalty * theta[:-1] ** 2).sum() / 2
            gradient = np.vstack([self.z.T @ residual + penalty * theta[:-1], residual.sum(axis=0)[None]]) * unit
            return float(total), gradient.ravel()

        options = {"maxiter": most, "maxfun": 2 * most, "maxcor": 20, "ftol": 0.0, "gtol": stop}
        found = minimize(objective, (start / unit).ravel(), jac=True, method="L-BFGS-B", options=options)
        return found.x.reshape(unit.shape) * unit, float(np.abs(found.jac).max()), int(found.nit)

    def spread(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (C, D) and intercepts (C,) of all classes; what could not be learnt gets its prevalence."""
        weight, intercept = np.zeros((self.classes, len(self.axes))), np.zeros(self.classes)
        intercept[self.share == 0] = -np.inf
        if not self.exclusive:
            intercept[self.share == 1] = np.inf
        weight[self.columns], intercept[self.columns] = (self.axes @ theta[:-1]).T, theta[-1]
        if self.softmax:
            intercept[self.columns] -= theta[-1].mean()
        return weight, intercept


HEADS.register("logreg")(LogisticRegression)
