"""TrialResult -> objective: what a good trial is. Edit here; `huber_delta` is set in the YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lambda_hat.trial import finite, is_complete


def objective_from_metrics(
    metrics: Mapping[str, Any], ref_llc: float, *, huber_delta: float | None = None
) -> float:
    """Scores a trial against its reference; the study minimises it.

    Args:
        metrics: What the trial's metrics.json holds.
        ref_llc: The reference LLC of its problem.
        huber_delta: With a value, errors beyond it count linearly and smaller ones squared
            (Huber 1964); without, the objective is the absolute error.

    Returns:
        The score, in units of LLC (LLC squared below `huber_delta`); infinity for a trial
        without an estimate, which the study tells Optuna as a finite penalty.
    """
    estimate = finite(metrics.get("llc_hat"))
    if estimate is None or not is_complete(metrics):
        return math.inf
    return loss(abs(estimate - ref_llc), huber_delta)


def loss(error: float, huber_delta: float | None) -> float:
    """The absolute error, or Huber's loss of it."""
    if huber_delta is None:
        return error
    if error <= huber_delta:
        return 0.5 * error**2
    return huber_delta * (error - 0.5 * huber_delta)


def penalty(ref_llc: float, worst: float, *, huber_delta: float | None = None) -> float:
    """What a failed trial is told: the worst score so far, at least that of answering zero.

    Optuna forgets failed trials, so that a crashing region would be proposed again; and an
    infinite score says no more than a large one.
    """
    floor = loss(max(abs(ref_llc), 1.0), huber_delta)
    return max(floor, worst) if math.isfinite(worst) else floor
