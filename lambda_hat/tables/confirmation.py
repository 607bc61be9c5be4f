"""Trials -> Confirmation: a study's best settings under seeds that its search has not seen.

The best of many trials was chosen for being near the reference, and is nearer than its settings
deserve. The same settings with other seeds were not chosen: their mean is what they give, and its
distance from the reference is their error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.compose import compose_sampler

Row = Mapping[str, Any]
"""A row of the table of trials, or of that of `parsl-llc`."""


@dataclass(frozen=True)
class Confirmation:
    """What the best settings of a study give under other seeds.

    Attributes:
        num_runs: How many runs there are, failed ones counted.
        num_failed: How many of them gave no estimate, and are no part of the rest.
        llc_hat: Mean of the estimates; None if there is none.
        se_hat: Its standard error: from the spread between the runs, widened for their small number
            so that 1.96 of it make a 95 % interval, and no less than the runs' own errors make.
        error: |llc_hat - llc_ref|.
    """

    num_runs: int
    num_failed: int
    llc_hat: float | None
    se_hat: float | None
    error: float | None


def confirm(best: Row, runs: Iterable[Row]) -> Confirmation | None:
    """What runs without tuning say of a study's best trial.

    Args:
        best: The trial.
        runs: Rows of `llc_runs.parquet`; those of its target, settings and budget count, with
            any seed but its own.

    Returns:
        None where no run is one of it.
    """
    like = {name: best.get(name) for name in ("pid", "target", "method", "budget_sec")}
    alike = [run for run in runs if all(run.get(name) == value for name, value in like.items())]
    if not alike:
        return None
    try:
        settings = full_settings(best["method"], best["hyperparams"])
    except ConfigError:
        return None  # The sampler has changed since, and no run has been made with it.
    found = [run for run in alike if run["hyperparams"] == settings and run["seed"] != best["seed"]]
    return _summed_up(found, best["llc_ref"]) if found else None


def _summed_up(runs: Sequence[Row], llc_ref: float | None) -> Confirmation:
    complete = [run for run in runs if run["status"] == "complete"]
    num_failed = len(runs) - len(complete)
    if not complete:
        return Confirmation(len(runs), num_failed, None, None, None)
    values = [run["llc_hat"] for run in complete]
    mean = statistics.fmean(values)
    error = None if llc_ref is None else abs(mean - llc_ref)
    own = math.hypot(*(run["se_hat"] or 0.0 for run in complete)) / len(values)
    return Confirmation(len(runs), num_failed, mean, max(own, _spread(values)), error)


def _spread(values: Sequence[float]) -> float:
    """Standard error of the mean, such that 1.96 of it cover what Student's t asks for."""
    if len(values) == 1:
        return 0.0
    from scipy.stats import t as student_t

    widening = float(student_t.ppf(0.975, len(values) - 1)) / 1.96
    return widening * statistics.stdev(values) / math.sqrt(len(values))


def full_settings(method: str, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the sampler, those not searched too: what `parsl-llc` gives its runs."""
    return asdict(compose_sampler(method, dict(hyperparams), where="the best settings"))
