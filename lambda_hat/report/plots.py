"""Figures of the report, one function each; they also work in a notebook.

Each function takes the trials of one problem, as returned by `read_trials`, and returns a Figure
whose title states the finding. None of them uses pyplot or changes the caller's style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lambda_hat.report.cost_plots import shade_reference_error
from lambda_hat.report.findings import (
    AGREES,
    NO_ESTIMATE,
    OFF,
    SIGMAS,
    Finding,
    complete_error,
    describe_trials,
    estimates_of,
    findings,
    reference_of,
    relative_error,
    select,
)
from lambda_hat.report.formatting import format_count, format_number, join_words
from lambda_hat.report.sentences import deviation
from lambda_hat.report.style import (
    BACKGROUND,
    BAND,
    MUTED,
    TEXT,
    ErrorScale,
    colour_and_marker,
    draw_markers,
    footnote,
    jitter,
    legend,
    marker_size,
    new_figure,
    with_report_style,
)
from lambda_hat.tables.best import best_of
from lambda_hat.trial import NOISY


@with_report_style
def estimates(trials: pd.DataFrame, found: Sequence[Finding] | None = None) -> Figure:
    """LLC estimates of each method (faint), the best settings' with a 95 % interval, the reference.

    The right panel shows the same close to the reference.

    Args:
        trials: Of one problem.
        found: What `findings` says of them; by default, without runs with other seeds.
    """
    found = findings(trials) if found is None else found
    figure = new_figure(_verdicts(found), 1.55 + 0.72 * len(found))
    wide, near = _windows(trials, found)
    panels = figure.subplots(1, 2 if near else 1, sharey=True, squeeze=False)[0]
    for axes, half in zip(panels, (wide, near), strict=False):
        _estimate_panel(axes, trials, found, half)
    panels[0].set_yticks(
        range(len(found)),
        [f"{one.method}\n{_failures(one)}" for one in found],
    )
    panels[0].set_ylim(len(found) - 0.45, -0.55)
    panels[0].set_title("all trials", color=MUTED)
    if near:
        panels[1].set_title("near the reference", color=MUTED)
    values = estimates_of(trials).llc_hat
    outside = values[(values - reference_of(trials)[0]).abs() > wide]
    if len(outside):
        farthest = outside[outside.abs().idxmax()]
        note = f"{format_count(len(outside), 'trial')} beyond the axis"
        footnote(figure, [f"▶ {note}, up to an LLC of {format_number(farthest)}"])
    return figure


def _failures(one: Finding) -> str:
    parts = [
        f"{number} {word}"
        for number, word in ((one.noisy, "noisy"), (one.failed, "failed"))
        if number
    ]
    return f"{', '.join(parts)} of {one.trials}" if parts else format_count(one.trials, "trial")


def _verdicts(found: Sequence[Finding]) -> str:
    agreeing = [one.method for one in found if one.verdict == AGREES]
    words = [
        f"{one.method} is {deviation(one.relative_difference)}"
        for one in found
        if one.verdict == OFF
    ]
    words += [f"{one.method} is noisy" for one in found if one.verdict == NOISY]
    words += [f"{one.method} gave no estimate" for one in found if one.verdict == NO_ESTIMATE]
    verb = "agrees" if len(agreeing) == 1 else "agree"
    head = f"{join_words(agreeing)} {verb} with the reference" if agreeing else "none agrees"
    return f"Best settings: {'; '.join([head, *words])}"


def _windows(trials: pd.DataFrame, found: Sequence[Finding]) -> tuple[float, float]:
    """Half widths of the two panels: all trials, and close to the reference (0 for no panel)."""
    llc, se = reference_of(trials)
    off = (estimates_of(trials).llc_hat - llc).abs()
    cap = 2.0 * (abs(llc) or 1.0)
    reaches = [3 * SIGMAS * se, 0.1 * cap, *off[off <= cap]]
    close = []
    for one in found:
        value, own = one.judged
        if math.isfinite(value):
            spread = SIGMAS * (own if math.isfinite(own) else 0.0)
            reach = abs(value - llc) + spread
            reaches.append(min(reach, cap))
            close += [reach] if one.verdict == AGREES else []
    wide = 1.06 * max(reaches)
    near = 1.25 * max([*close, 3 * SIGMAS * se, 0.01 * cap])
    return wide, near if near < 0.5 * wide else 0.0


def _estimate_panel(
    axes: Axes, trials: pd.DataFrame, found: Sequence[Finding], half: float
) -> None:
    llc, se = reference_of(trials)
    low, high = llc - half, llc + half
    axes.set_xlim(low, high)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.axvspan(llc - SIGMAS * se, llc + SIGMAS * se, color=BAND, alpha=0.7, lw=0, zorder=0.5)
    axes.axvline(llc, color=TEXT, lw=0.9, zorder=1)
    for place, one in enumerate(found):
        colour, marker = colour_and_marker(one.method, list(trials.method.unique()))
        rows = estimates_of(select(trials, trials.method == one.method))
        y = place + 0.22 + 0.3 * jitter(rows.trial_number)
        tips, faint_size = describe_trials(rows), marker_size(len(rows)) - 1.5
        faint: dict[str, Any] = {"color": colour, "alpha": 0.4, "markersize": faint_size}
        for side, (mark, edge) in {"low": (8, low), "high": (9, high)}.items():
            out = rows.llc_hat < low if side == "low" else rows.llc_hat > high
            style = {**faint, "marker": mark, "clip_on": False, "tips": select(tips, out)}
            draw_markers(axes, [edge] * int(out.sum()), y[out], **style)
        inside = rows.llc_hat.between(low, high)
        style = {**faint, "marker": marker, "tips": select(tips, inside)}
        draw_markers(axes, rows.llc_hat[inside], y[inside], **style)
        if math.isfinite(one.judged[0]):
            _draw_best(axes, one, place - 0.14, colour, marker)
    axes.set_xlabel("LLC (the band is the reference's 95 % interval)")
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _draw_best(axes: Axes, one: Finding, y: float, colour: str, marker: str) -> None:
    """Draws the judged estimate with interval and label, at the edge if it is outside the axis."""
    low, high = axes.get_xlim()
    value, se = one.judged
    shown = min(max(value, low), high)
    if low <= value <= high:
        spread = SIGMAS * se if math.isfinite(se) else 0.0
        axes.errorbar(value, y, xerr=spread, color=colour, lw=2, capsize=3.5, zorder=3)
        draw_markers(axes, [value], [y], color=colour, marker=marker, markersize=7.5, zorder=4)
    else:
        mark = 8 if value < low else 9
        draw_markers(
            axes, [shown], [y], color=colour, marker=mark, markersize=9, clip_on=False, zorder=4
        )
    place = (shown - low) / (high - low)
    side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
    axes.annotate(
        one.estimate,
        (shown, y),
        xytext=(0, 6),
        textcoords="offset points",
        ha=side,
        color=colour,
        bbox={"facecolor": BACKGROUND, "alpha": 0.85, "lw": 0, "pad": 0.5},
    )


@with_report_style
def history(trials: pd.DataFrame) -> Figure:
    """Error of each trial in the order of proposal, and the best so far, for each method."""
    relative = relative_error(trials)
    gains: list[str] = []
    figure = new_figure("", 3.7)
    axes, scale = figure.subplots(), ErrorScale(relative)
    scale.format_axis(axes)
    handles = [shade_reference_error(axes, trials)]
    for method, rows in trials.groupby("method", sort=False):
        rows = rows.sort_values("trial_number")
        colour, marker = colour_and_marker(str(method), list(trials.method.unique()))
        errors = select(relative, rows.index)
        style: dict[str, Any] = {"color": colour, "marker": marker}
        tips = describe_trials(rows)
        scale.draw(axes, rows.trial_number, errors, tips, alpha=0.45, **style)
        best = (
            select(complete_error(trials), rows.index).cummin().ffill().clip(scale.low, scale.top)
        )
        axes.step(rows.trial_number, best, where="post", color=colour, lw=2, zorder=3)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=2, label=str(method)))
        if (leader := best_of(row for _, row in rows.iterrows())) is not None:
            gains.append(f"{method} in trial {leader.trial_number}")
    last = int(trials.trial_number.max())
    improved = f"Best of the search: {', '.join(gains)} (of trials 0 to {last})"
    title = improved if gains else "No trial gave an estimate"
    figure.suptitle(title, x=0.01, ha="left")
    axes.set_xlabel("trial number (lines: best so far)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, handles)
    footnote(figure, [scale.outlier_note(relative)])
    return figure
