"""The figure of error against cost: seconds without compilation, and full-data gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lambda_hat.report.findings import (
    SIGMAS,
    WITHIN,
    Finding,
    agrees,
    complete_error,
    describe_trials,
    findings,
    format_cost,
    reference_of,
    relative_error,
    select,
)
from lambda_hat.report.style import (
    BACKGROUND,
    BAND,
    MUTED,
    TEXT,
    ErrorScale,
    colour_and_marker,
    draw_markers,
    footnote,
    legend,
    log_axis,
    new_figure,
    with_report_style,
)
from lambda_hat.tables.best import Setting

COSTS = {"seconds": "wall time without compilation (seconds)", "gradients": "full-data gradients"}


@with_report_style
def errors_by_cost(trials: pd.DataFrame, found: Sequence[Finding] | None = None) -> Figure:
    """Relative error against the cost of each trial, with the Pareto front over all methods.

    Args:
        trials: Of one problem.
        found: What `findings` says of them; by default, without runs with other seeds.
    """
    found = findings(trials) if found is None else found
    known = {name: costs for name in COSTS if (costs := cost_of(trials, name)).notna().any()}
    if not known:
        return new_figure("No trial has a known cost", 1.0)
    relative = relative_error(trials)
    figure, scale = new_figure(_cheapest_within(found), 3.9), ErrorScale(relative)
    panels = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    handles: list[Any] = []
    for axes, (name, costs) in zip(panels, known.items(), strict=True):
        handles = _panel(axes, trials, costs, scale)
        _draw_confirmed(axes, found, name, scale)
        axes.set_xlabel(COSTS[name])
        if axes is not panels[0]:
            axes.set_ylabel("")
    methods = [one for one in handles if one.get_label() in set(trials.method)]
    rest = [one for one in handles if one not in methods]
    if len(panels) > 1:  # One legend of all would be wider than its panel.
        legend(panels[0], methods)
        legend(panels[1], rest)
    else:
        legend(panels[0], rest + methods)
    ringed = any(one.confirmation for one in found)
    notes = ["ringed: the best settings with other seeds"] if ringed else []
    hollow = f"hollow: within {SIGMAS} joint standard errors"
    footnote(figure, [hollow, *notes, scale.outlier_note(relative)])
    return figure


def cost_of(trials: pd.DataFrame, name: str) -> pd.Series:
    """What each trial took, in `seconds` without compilation or in `gradients`; NaN if unknown."""
    known = [Setting(row).cost for _, row in trials.iterrows()]
    if name == "gradients":
        work = pd.Series([one.full_gradients for one in known], trials.index, dtype=float)
        return work.where(work > 0)  # Where none was taken, the trial failed before.
    seconds = pd.Series([one.seconds for one in known], trials.index, dtype=float)
    return seconds.clip(lower=1e-3)


def _cheapest_within(found: Sequence[Finding]) -> str:
    words = []
    for one in found:
        cheapest = one.winner.cheapest if one.winner else None
        words.append(f"{one.method} {format_cost(cheapest.cost) if cheapest else 'none'}")
    return f"Cheapest settings surely within {WITHIN} of the reference: {', '.join(words)}"


def _panel(axes: Axes, trials: pd.DataFrame, costs: pd.Series, scale: ErrorScale) -> list[Any]:
    """Draws every trial of known cost and the front; returns what the legend shows."""
    relative, tips = relative_error(trials), describe_trials(trials)
    log_axis(axes, float(costs.min()), float(costs.max()), most=4)
    scale.format_axis(axes)
    handles = [shade_reference_error(axes, trials)]
    for method, rows in trials.groupby("method", sort=False):
        colour, marker = colour_and_marker(str(method), list(trials.method.unique()))
        style: dict[str, Any] = {"color": colour, "marker": marker}
        noise, told = agrees(rows), select(costs, rows.index).notna()
        for sort, face in ((~noise & told, {}), (noise & told, {"mfc": BACKGROUND})):
            some = rows.index[sort]
            shown = (select(costs, some), select(relative, some), select(tips, some))
            scale.draw(axes, *shown, **style, **face)
        handles.append(Line2D([], [], ls="none", label=str(method), **style))
    return [*handles, *_draw_front(axes, pareto_front(costs, complete_error(trials)), scale)]


def _draw_front(axes: Axes, front: pd.Series, scale: ErrorScale) -> list[Any]:
    if not len(front):
        return []
    edge = axes.get_xlim()[1]
    x, y = [*front.index, edge], np.clip([*front, front.iloc[-1]], scale.low, scale.top)
    axes.step(x, y, where="post", color=MUTED, lw=1.2, zorder=1)
    axes.set_xlim(right=edge)
    return [Line2D([], [], color=MUTED, lw=1.2, label="Pareto front")]


def _draw_confirmed(axes: Axes, found: Sequence[Finding], name: str, scale: ErrorScale) -> None:
    """Draws what each method's best settings gave and cost with other seeds."""
    for one in found:
        if one.winner is None or one.confirmation is None or one.confirmation.error is None:
            continue
        cost = one.winner.best.cost
        x = cost.seconds if name == "seconds" else cost.full_gradients
        if x is None:
            continue
        colour, marker = colour_and_marker(one.method, [each.method for each in found])
        y = float(np.clip(abs(one.relative_difference), scale.low, scale.top))
        look: dict[str, Any] = {"color": colour, "marker": marker, "mec": TEXT, "mew": 1.4}
        draw_markers(axes, [max(x, 1e-3)], [y], markersize=9, zorder=4, **look)


def pareto_front(costs: pd.Series, relative: pd.Series) -> pd.Series:
    """The smallest error so far by cost, at the costs where it improves."""
    by_cost = relative.set_axis(costs)
    by_cost = select(by_cost, by_cost.index.notna()).dropna().sort_index()
    least = by_cost.cummin()
    least = select(least, ~least.index.duplicated(keep="last"))
    return select(least, ~least.duplicated())


def shade_reference_error(axes: Axes, trials: pd.DataFrame) -> Any:
    """Shades errors that are within the reference's own 95 % interval."""
    llc, se = reference_of(trials)
    level = SIGMAS * se / (abs(llc) or 1.0)
    label = "within the reference's 95 % interval"
    return axes.axhspan(0, level, color=BAND, alpha=0.45, lw=0, zorder=0.5, label=label)
