"""Figures of one method's settings: error against each, importances, and the two that matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lambda_hat.report.findings import describe_trials, relative_error, select
from lambda_hat.report.formatting import format_percent
from lambda_hat.report.importance import FEWEST, importances
from lambda_hat.report.settings import (
    choices_of,
    is_choice,
    is_log,
    most_concentrated,
    searched_settings,
    values_of,
)
from lambda_hat.report.style import (
    BACKGROUND,
    TEXT,
    ErrorScale,
    colour_and_marker,
    draw_markers,
    footnote,
    jitter,
    log_axis,
    new_figure,
    with_report_style,
)
from lambda_hat.tables.best import best_of


@with_report_style
def hyperparameters(trials: pd.DataFrame, method: str, best: pd.Series | None = None) -> Figure:
    """Relative error against each searched setting, for one method.

    The x axis is logarithmic where the search was. A ring marks the best trial.

    Args:
        trials: Of one problem.
        method: The method.
        best: The trial with the best settings, as `findings` has it; by default, of the search.

    Raises:
        ValueError: The method has no trials.
    """
    rows = select(trials, trials.method == method)
    if rows.empty:
        raise ValueError(f"`method` must have trials, but got {method!r}.")
    names = searched_settings(rows.hyperparams, method)
    relative = relative_error(rows)
    if best is None:
        best = best_of(row for _, row in rows.iterrows())
    ring = None if best is None else best.name
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(most_concentrated(rows, method), 1.0 + 2.05 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    scale, look = ErrorScale(relative), colour_and_marker(method, list(trials.method.unique()))
    for axes, name in zip(grid.flat, names, strict=False):
        _setting_panel(axes, rows, relative, name, scale, look, ring)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("relative error")
    footnote(figure, ["○ the best settings", scale.outlier_note(relative)])
    return figure


def _setting_panel(
    axes: Axes,
    rows: pd.DataFrame,
    relative: pd.Series,
    name: str,
    scale: ErrorScale,
    look: tuple[str, str],
    ring: Any,
) -> None:
    colour, marker = look
    values = _setting_axis(axes, rows, name)
    scale.format_axis(axes, "")
    tips = describe_trials(rows)
    scale.draw(axes, values, relative, tips, color=colour, marker=marker, alpha=0.6)
    if ring is not None:
        place = [values[ring]], [min(max(relative[ring], scale.low), scale.top)]
        draw_markers(axes, *place, marker="o", markersize=11, mfc="none", mec=TEXT, mew=1.2)


def _setting_axis(axes: Axes, rows: pd.DataFrame, name: str, which: str = "x") -> pd.Series:
    """Makes x or y the axis of a setting; returns each trial's place, choices spread a little."""
    method, values = str(rows.method.iloc[0]), values_of(rows, name)
    axes.set(**{f"{which}label": name})
    if is_choice(method, name, values):
        choices = choices_of(method, name, values)
        labels = [str(choice) for choice in choices]
        axes.set(**{f"{which}lim": (-0.5, len(choices) - 0.5), f"{which}ticks": range(len(labels))})
        axes.set(**{f"{which}ticklabels": labels})
        places = values.map(choices.index, na_action="ignore")
        return places + 0.4 * jitter(rows.trial_number)
    if is_log(method, name, values):
        log_axis(axes, float(values.min()), float(values.max()), most=4, which=which)
    else:
        whole = bool(values.map(lambda value: isinstance(value, int)).all())
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(MaxNLocator(5, integer=whole))
    return values.astype(float)


SHADES = (0.85, 0.55, 0.3, 0.12, 0.0)
"""Opacity of the shades of the contour: darkest where the error is smallest."""


@with_report_style
def important_settings(trials: pd.DataFrame, method: str) -> Figure:
    """Importances of the settings, and the error over the two most important ones.

    The contour is interpolated between trials; failed trials count as an error of 1000 %.
    """
    rows = select(trials, trials.method == method)
    shares = importances(trials, method)
    if not shares:
        text = f"{method}: importances need {FEWEST} scored trials and a setting that varies"
        return new_figure(text, 0.6)
    first = next(iter(shares))
    title = f"{method}: {first} decides most ({format_percent(shares[first])})"
    figure = new_figure(title, 3.4)
    bars, plane = figure.subplots(1, 2, width_ratios=(2, 3))
    colour, marker = colour_and_marker(method, list(trials.method.unique()))
    names = list(shares)
    bars.barh(range(len(names)), [100 * shares[name] for name in names], color=colour, height=0.6)
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.set_xlabel("importance (%)")
    if len(names) < 2:
        plane.remove()
        return figure
    steps = _contour(plane, rows, (names[0], names[1]), colour, marker)
    levels = ", ".join(format_percent(level) for level in steps)
    footnote(figure, [f"darker: smaller error, steps at {levels}", "× failed"])
    return figure


def _contour(
    axes: Axes, rows: pd.DataFrame, names: tuple[str, str], colour: str, marker: str
) -> list[float]:
    """Shades the error over two settings, and draws the trials; returns where shades change."""
    x, y = _setting_axis(axes, rows, names[0]), _setting_axis(axes, rows, names[1], "y")
    errors, tips = relative_error(rows), describe_trials(rows)
    for some, style in (
        (errors.notna(), {"color": colour, "marker": marker, "mec": BACKGROUND}),
        (errors.isna(), {"color": TEXT, "marker": "x", "alpha": 0.7}),
    ):
        draw_markers(axes, x[some], y[some], tips=select(tips, some), **style)
    limits = axes.get_xlim(), axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(np.column_stack([x, y]))
    field = _interpolate(places, np.asarray(errors.fillna(10.0).clip(1e-6, 10.0)))
    grid = np.linspace(0.0, 1.0, field.shape[0])
    steps = _steps(field)
    shades = SHADES[: len(steps)] + SHADES[-1:]
    style: dict[str, Any] = {"levels": [0.0, *steps, math.inf], "alpha": shades}
    style["colors"] = [colour] * len(shades)
    axes.contourf(grid, grid, field, transform=axes.transAxes, zorder=0.5, **style)
    axes.set(xlim=limits[0], ylim=limits[1])
    return steps


def _steps(field: np.ndarray) -> list[float]:
    """Up to four errors that part a field into shades, each with one digit that is not 0."""
    shares = np.linspace(0.0, 1.0, len(SHADES) + 1)[1:-1]
    return sorted({float(f"{step:.0e}") for step in np.quantile(field, shares)})


def _interpolate(places: np.ndarray, errors: np.ndarray, size: int = 60) -> np.ndarray:
    """Errors on a grid over the unit square, by inverse distance weighting of their logarithms.

    Args:
        places: Where the trials are in the unit square, shape (trials, 2).
        errors: Their relative errors, shape (trials,).
        size: Points of the grid in each direction.

    Returns:
        Relative errors, shape (size, size), rows from bottom to top.
    """
    axis = np.linspace(0.0, 1.0, size)
    across = (axis[:, None] - places[:, 0]) ** 2
    lines = []
    for height in axis:  # A line at a time, so that many trials need little memory.
        weights = (np.sqrt(across + (height - places[:, 1]) ** 2) + 0.02) ** -3
        lines.append(10 ** (weights @ np.log10(errors) / weights.sum(-1)))
    return np.stack(lines)
