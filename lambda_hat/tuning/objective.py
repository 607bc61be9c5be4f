"""Losses that an objective is made of, and the score of a trial that failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lambda_hat.trial import TrialResult, finite

ERROR = "error"
"""The first objective of every study: the score of `objective_from_metrics`."""

COSTS: Mapping[str, Callable[[TrialResult], float | None]] = {
    "runtime_sec": lambda result: finite(result.runtime_sec),
    "full_gradients": lambda result: finite(result.work.get("full_gradients")),
    "se_hat": lambda result: finite(result.se_hat),
}
"""What can be minimised beside the error, from a trial's result; None where it is not known."""


def llc_error(metrics: Mapping[str, Any], ref_llc: float) -> float:
    """|llc_hat - llc_ref| of a trial, in units of LLC; infinity without an estimate."""
    estimate = TrialResult.from_json(metrics).estimate
    if estimate is None:
        return math.inf
    return abs(estimate - ref_llc)


def huber_loss(error: float, huber_delta: float) -> float:
    """Half the square of the error up to `huber_delta`, linear beyond (Huber 1964)."""
    if abs(error) <= huber_delta:
        return 0.5 * error**2
    return huber_delta * (abs(error) - 0.5 * huber_delta)


def root_mean_square(error: float, se: float | None) -> float:
    """sqrt(error^2 + se^2): what the error of another run with these settings would be.

    Args:
        error: Of the estimate.
        se: Its standard error; None, where it is not known, counts as 0.
    """
    return math.hypot(error, se or 0.0)


def penalty(floor: float, worst: float) -> float:
    """What a failed trial is told: the worst score so far, at least that of answering zero.

    Optuna forgets failed trials, so that a crashing region would be proposed again; and an
    infinite score says no more than a large one.

    Args:
        floor: The score of an estimate that is as wrong as 0.
        worst: The worst score that was told; not finite where there is none.
    """
    return max(floor, worst) if math.isfinite(worst) else floor


def objectives_of(
    result: TrialResult, score: float, names: Sequence[str], worst: Mapping[str, float]
) -> dict[str, float]:
    """What Optuna is told of a trial, by name: its score first, then its costs.

    A trial without an estimate has cost nothing that is worth anything: it is told the worst so
    far, or its own cost if that is worse.

    Args:
        result: The trial.
        score: Of its error; a penalty where it has no estimate.
        names: `error`, then keys of `COSTS`.
        worst: The largest value of each name so far.
    """
    told = {names[0]: score}
    for name in names[1:]:
        own = COSTS[name](result)
        if result.estimate is None or own is None:
            own = max(own or 0.0, worst.get(name, 0.0))
        told[name] = own
    return told
