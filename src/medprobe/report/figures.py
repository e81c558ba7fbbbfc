"""Figures of a report, as matplotlib figures: heat-map of encoders and tasks, scores with intervals, scaling."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medprobe.report.read import Row, Tree, label_of
from medprobe.report.tables import MARK, heading, row_text

INK, SOFT, ACCENT = "#1f2933", "#8795a1", "#2b6cb0"


def figures(tree: Tree) -> Iterator[tuple[str, str, Any]]:
    """(name, caption, figure)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: Any = {"font.family": "sans-serif", "font.size": 9, "axes.edgecolor": SOFT, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "medprobe", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        yield "scores", "Main score of each model with its 95 % interval over patients; controls are hollow, † marks few patients.", _intervals(tree)
        yield "heatmap", "Main score of every model on every task, darker is better (fractions on one scale; tasks with a unit, or where lower is better, pale and each on its own); hatched cells have no score, for the reason in them, crossed ones failed.", _heatmap(tree)
        scaling = _scaling(tree)
        if scaling is not None:
            yield "scaling", "Main score against image size, one line per model and task (as the paper's Figure 1).", scaling
        pyplot.close("all")


def _end(score: Any, end: str) -> float:
    """An end of the interval, also one of 0; the value itself where there is no interval."""
    return score["value"] if score[end] is None else score[end]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width // 2 - 1]}…{text[-(width // 2) :]}"


def _shortened(labels: Sequence[str], width: int = 34) -> list[str]:
    """Each label short, but whole where two would look alike."""
    short = {label: _short(label, width) for label in labels}
    times = Counter(short.values())
    return [label if times[short[label]] > 1 else short[label] for label in labels]


def _intervals(tree: Tree) -> Any:
    from matplotlib import pyplot

    groups = [[row for row in tree.rows if row.task_name == task and row.score() and row.score()["value"] is not None] for task in tree.tasks]  # type: ignore[index]
    groups = [sorted(group, key=lambda row: row.order) for group in groups if group]
    columns = 2 if len(groups) in (2, 4) else min(3, max(1, len(groups)))
    same = len({group[0].main for group in groups}) == 1
    lines = max(1, -(-len(groups) // columns))
    tallest = max((len(group) for group in groups), default=1)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.2 * columns, lines * (0.34 * tallest + 1.0)), squeeze=False, layout="constrained", sharex=same)
    for axis, group in zip(axes.flat, groups, strict=False):
        for place, row in enumerate(group):
            score: Any = row.score()
            low, high = (_end(score, end) for end in ("low", "high"))
            colour = SOFT if row.control else ACCENT
            axis.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="round")
            axis.plot(score["value"], place, "o", ms=6, color=colour, mfc="white" if row.control else colour)
        marks = [f" {MARK}" if (row.score() or {}).get("small") else "" for row in group]
        names = [name + mark for name, mark in zip(_shortened([row.label for row in group]), marks, strict=True)]
        axis.set_yticks(range(len(group)), names)
        axis.set_ylim(len(group) - 0.5, -0.5)
        axis.set_title(group[0].task_name, loc="left", fontsize=9, fontweight="bold")
        axis.set_xlabel(heading(group, group[0].main))
        axis.tick_params(labelbottom=True)
        axis.grid(axis="x", color="#e4e7eb", lw=0.8)
        axis.set_axisbelow(True)
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_visible(False)
    return figure


def _heatmap(tree: Tree) -> Any:
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    grid = [[tree.get(task, label) for task in tree.tasks] for label in tree.models]
    values = np.array([[_value(row) for row in line] for line in grid])
    figure, axis = pyplot.subplots(figsize=(2.6 + 1.25 * len(tree.tasks), 1.5 + 0.42 * len(tree.models)), layout="constrained")
    shades = _shades(tree, values)
    axis.imshow(np.ma.masked_invalid(shades), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(grid):
        for x, row in enumerate(line):
            if np.isnan(values[y, x]):
                said = row_text(row).partition(" (")[0]
                axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="xx" if said == "failed" else "//", edgecolor=SOFT, lw=0))
                axis.text(x, y, said, ha="center", va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
            else:
                axis.text(x, y, f"{values[y, x]:.3f}", ha="center", va="center", color="white" if shades[y, x] > 0.6 else INK)
    heads = [heading([row for row in tree.rows if row.task_name == task], next(row.main for row in tree.rows if row.task_name == task)) for task in tree.tasks]
    axis.set_xticks(range(len(tree.tasks)), [f"{task}\n{head}".replace("/", "/\n", 1).replace(" (", "\n(").replace(", lower", ",\nlower") for task, head in zip(_shortened(tree.tasks, 40), heads, strict=True)], fontsize=8)
    axis.xaxis.tick_top()
    axis.set_yticks(range(len(tree.models)), _shortened(tree.models))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def _shades(tree: Tree, values: np.ndarray) -> np.ndarray:
    """0 (light) to 1 (dark, better): fractions to be raised on one scale, others pale, from 0.1 to 0.5 within their task."""
    rows = [next((row for row in tree.rows if row.task_name == task and row.score()), None) for task in tree.tasks]
    fraction = np.array([row is not None and row.sign > 0 and (row.score() or {}).get("unit") is None for row in rows])
    known = values[:, fraction][~np.isnan(values[:, fraction])]
    low, high = (min(known.min(), 0.5), max(known.max(), 0.5 + 1e-6)) if len(known) else (0.0, 1.0)
    shades = (values - low) / (high - low)
    for place in np.flatnonzero(~fraction):
        row = rows[place]
        column = values[:, place] * (row.sign if row is not None else 1)
        there = column[~np.isnan(column)]
        span = np.ptp(there) if len(there) else 0.0
        shades[:, place] = 0.1 + 0.4 * (column - there.min()) / span if span > 0 else np.where(np.isnan(column), np.nan, 0.3)
    return shades


def _value(row: Row | None) -> float:
    score = None if row is None else row.score()
    return float("nan") if score is None or score["value"] is None else score["value"]


def _scaling(tree: Tree) -> Any:
    """Score against image size, when a model was run at several with all else alike; None otherwise."""
    from matplotlib import pyplot

    series: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for row in tree.rows:
        score = row.score()
        if score and score["value"] is not None and row.model["image_size"]:
            others = {key: value for key, value in {**row.options, **row.shown}.items() if key != "image-size"}
            name = label_of(row.model["name"], others)
            series.setdefault((row.task_name, name), []).append((row.model["image_size"], score))
    series = {name: sorted(points, key=lambda point: point[0]) for name, points in series.items() if len({size for size, _ in points}) > 1}
    if not series:
        return None
    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    names = _shortened([name for _, name in series])
    for ((task, _), points), name in zip(series.items(), names, strict=True):
        sizes = [size for size, _ in points]
        axis.plot(sizes, [score["value"] for _, score in points], "o-", label=f"{name}, {task}")
        low, high = ([_end(score, end) for _, score in points] for end in ("low", "high"))
        axis.fill_between(sizes, low, high, alpha=0.15)
    axis.set_xlabel("image size (pixels)")
    axis.set_ylabel("main score")
    axis.legend(fontsize=7, frameon=False)
    return figure
