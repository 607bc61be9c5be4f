"""Importances: how much each setting decides whether a trial is among the best (PED-ANOVA)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from lambda_hat.report.findings import select
from lambda_hat.report.settings import is_choice, is_log, searched_settings, values_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FEWEST = 10
"""Scored trials below which importances would be noise, and are not computed."""


def importances(trials: pd.DataFrame, method: str) -> dict[str, float]:
    """Share of each setting in the difference between the best trials and all, largest first.

    Watanabe, Bansal & Hutter (2023), as in Optuna. The best are the top tenth, but at least five.
    Failed trials count with the penalty that Optuna was told.

    Args:
        trials: Trials of one problem.
        method: The method.

    Returns:
        Shares that sum to 1, by setting; empty if there are too few trials, or if all scored alike.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    rows = select(trials, (trials.method == method) & trials.objective.notna())
    names = [
        name
        for name in searched_settings(rows.hyperparams, method)
        if values_of(rows, name).notna().all() and values_of(rows, name).nunique() > 1
    ]
    best = min(0.5, max(0.1, 5 / max(1, len(rows))))
    if len(rows) < FEWEST or not names or _all_are_best(rows.objective, best):
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # It would announce the study below.
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    distributions = {name: _distribution(rows, method, name) for name in names}
    for params, value in zip(rows.hyperparams, rows.objective, strict=True):
        chosen = {name: params[name] for name in names}
        trial = optuna.create_trial(params=chosen, distributions=distributions, value=value)
        study.add_trial(trial)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
    found = get_param_importances(study, evaluator=evaluator)
    return {name: share for name, share in found.items() if share == share}


def _all_are_best(objective: pd.Series, share: float) -> bool:
    """Whether ties put every trial among the best, so that nothing sets the best apart."""
    worst_of_best = objective.sort_values().iloc[math.ceil(share * len(objective)) - 1]
    return bool((objective <= worst_of_best).all())


def _distribution(rows: pd.DataFrame, method: str, name: str) -> BaseDistribution:
    """The range over which a setting was tried."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    values = values_of(rows, name)
    if is_choice(method, name, values):
        return CategoricalDistribution(list(dict.fromkeys(values.tolist())))
    return FloatDistribution(
        float(values.min()), float(values.max()), log=is_log(method, name, values)
    )
