"""The figures of the page for one problem, in order, with their titles and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lambda_hat.report.cost_plots import errors_by_cost
from lambda_hat.report.findings import Finding, findings, select
from lambda_hat.report.front_plot import on_front, pareto_fronts
from lambda_hat.report.importance import importances
from lambda_hat.report.plots import estimates, history
from lambda_hat.report.settings_plots import hyperparameters, important_settings

ESTIMATES_CAPTION = (
    "Upper marks: the best settings with a 95 % interval, of the runs with other seeds where there "
    "are any, and else of the trial. Faint marks: all trials. The grey band is the reference."
)
COST_CAPTION = (
    "Left: wall time of a trial in its worker without compilation, which is paid once for a shape. "
    "Right: its work in gradients of the loss over all data, over all chains. The line is the "
    "smallest error of any single trial at that cost or less, which is partly luck."
)
FRONT_CAPTION = (
    "Joined by a line: the trials of each study that no other one beats in every objective. Faint "
    "marks: all trials with an estimate."
)
HISTORY_CAPTION = (
    "Trials in the order in which they were proposed, by their error; lines are the best so far. "
    "In the grey band the reference itself may be wrong by as much."
)
SETTINGS_CAPTION = (
    "Each trial's error against each of its settings. Crosses are failed trials; choices are "
    "spread a little, so that marks do not hide each other."
)
IMPORTANCE_CAPTION = (
    "Left: how much each setting decides whether a trial is among the best (PED-ANOVA, over all "
    "trials with a score). Right: the error over the two most important settings, interpolated "
    "between trials; a failed trial counts as an error of 1000 %."
)


@dataclass(frozen=True)
class Drawing:
    """A figure with its title in the page and its caption."""

    title: str
    caption: str
    figure: Figure


def draw_all(trials: pd.DataFrame, found: Sequence[Finding] | None = None) -> list[Drawing]:
    """Every figure of the report for one problem, in order.

    Args:
        trials: Of the problem.
        found: What `findings` says of them; by default, without runs with other seeds.
    """
    found = findings(trials) if found is None else found
    best = {one.method: one.best for one in found}
    drawings = [
        Drawing("Estimates", ESTIMATES_CAPTION, estimates(trials, found)),
        Drawing("Error and cost", COST_CAPTION, errors_by_cost(trials, found)),
        Drawing("Optimisation history", HISTORY_CAPTION, history(trials)),
    ]
    if len(on_front(trials)):
        drawings.insert(2, Drawing("Pareto front", FRONT_CAPTION, pareto_fronts(trials)))
    for method in trials.method.unique():
        if any(select(trials, trials.method == method).hyperparams):
            figure = hyperparameters(trials, method, best[method])
            drawings.append(Drawing(f"Settings of {method}", SETTINGS_CAPTION, figure))
        if importances(trials, method):
            figure = important_settings(trials, method)
            drawings.append(Drawing(f"What matters for {method}", IMPORTANCE_CAPTION, figure))
    return drawings
