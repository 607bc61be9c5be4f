"""The figure of the Pareto fronts of one problem's studies, where they have several objectives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lambda_hat.report.findings import describe_trials, estimates_of, select
from lambda_hat.report.formatting import format_count, join_words
from lambda_hat.report.style import (
    colour_and_marker,
    draw_markers,
    legend,
    log_axis,
    new_figure,
    with_report_style,
)

SMALLEST = 1e-9
"""What is smaller is drawn here, since the axes are logarithmic."""
FAINT, PLAIN = 0.35, 1.0


def on_front(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials on the Pareto front of their study; none of studies with one objective."""
    if "pareto" not in trials:  # A table of an earlier version.
        return select(trials, trials.index[:0])
    return select(trials, trials.pareto == True)  # noqa: E712, None is neither.


@with_report_style
def pareto_fronts(trials: pd.DataFrame) -> Figure:
    """The error's score against each cost; trials on the front are joined by a line."""
    front, estimates = on_front(trials), estimates_of(select(trials, trials.pareto.notna()))
    error, *costs = [name for name, value in front.objectives.iloc[0].items() if value is not None]
    figure = new_figure(_title(front), 3.6)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        _panel(axes, estimates, front, cost, error)
    panels[0].set_ylabel("score of the error")
    methods = list(trials.method.unique())
    looks = [(method, colour_and_marker(method, methods)) for method in front.method.unique()]
    legend(
        panels[0],
        [Line2D([], [], color=look[0], marker=look[1], label=name) for name, look in looks],
    )
    return figure


def _title(front: pd.DataFrame) -> str:
    counts = Counter(front.method)
    words = [f"{format_count(count, 'trial')} of {method}" for method, count in counts.items()]
    return f"No other trial is better in every objective: {join_words(words)}"


def _panel(axes: Axes, estimates: pd.DataFrame, front: pd.DataFrame, cost: str, error: str) -> None:
    for method, rows in estimates.groupby("method", sort=False):
        colour, marker = colour_and_marker(str(method), list(estimates.method.unique()))
        look: dict[str, Any] = {"color": colour, "marker": marker}
        x, y = _values(rows, cost), _values(rows, error)
        draw_markers(axes, x, y, tips=describe_trials(rows), alpha=FAINT, **look)
        best = select(front, front.method == method)
        if len(best):
            x, y = _values(best, cost), _values(best, error)
            order = np.argsort(x)
            axes.plot(x[order], y[order], alpha=PLAIN, lw=1.2, **look)
    for which, name in (("x", cost), ("y", error)):
        values = _values(estimates, name)
        log_axis(axes, values.min(), values.max(), which=which)
    axes.set_xlabel(cost)


def _values(rows: pd.DataFrame, name: str) -> np.ndarray:
    values = [objectives[name] for objectives in rows.objectives]
    return np.clip(np.asarray(values, float), SMALLEST, None)
