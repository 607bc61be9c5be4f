"""Confirmation: a study's best settings, run again with seeds that the search did not use.

The best of many trials was selected for being close to the reference, so its error is biased
downwards (winner's curse). Runs of the same settings with other seeds were not selected: their mean
estimates what the settings give, and its distance from the reference is their error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.compose import compose_sampler
from lambda_hat.intervals import error_of_mean
from lambda_hat.trial import ESTIMATED, NOISY

Row = Mapping[str, Any]
"""A row of the table of trials or of the table of `parsl-llc` runs."""


@dataclass(frozen=True)
class Confirmation:
    """What the best settings of a study give with other seeds.

    Attributes:
        num_runs: Number of runs, including failed ones.
        num_failed: Number of runs without an estimate; they do not enter the mean.
        num_noisy: Number of runs that are noisy; they do enter it.
        llc_hat: Mean of the estimates; None if every run failed.
        se_hat: Standard error of the mean, from the spread between runs. It is widened for small
            numbers of runs so that mean ± 1.96 se_hat is a 95 % interval by Student's t, and it is
            at least what the runs' own standard errors imply.
        error: |llc_hat - llc_ref|.
    """

    num_runs: int
    num_failed: int
    num_noisy: int
    llc_hat: float | None
    se_hat: float | None
    error: float | None

    @property
    def is_noisy(self) -> bool:
        """Whether as many runs are noisy as not."""
        return self.num_noisy > 0 and 2 * self.num_noisy >= self.num_runs - self.num_failed


def confirm(best: Row, runs: Iterable[Row]) -> Confirmation | None:
    """Summarizes the runs that repeat a study's best trial with other seeds.

    Args:
        best: The trial.
        runs: Rows of `llc_runs.parquet`. Those with the same target, settings and budget and a
            different seed are used.

    Returns:
        None if no run matches.
    """
    like = {name: best.get(name) for name in ("pid", "target", "method", "budget_sec")}
    alike = [run for run in runs if all(run.get(name) == value for name, value in like.items())]
    if not alike:
        return None
    try:
        settings = full_settings(best["method"], best["hyperparams"])
    except ConfigError:
        settings = dict(best["hyperparams"])  # A user's own `build_sampler_cfg` takes them.
    found = [run for run in alike if run["hyperparams"] == settings and run["seed"] != best["seed"]]
    return _summed_up(found, best["llc_ref"]) if found else None


def _summed_up(runs: Sequence[Row], llc_ref: float | None) -> Confirmation:
    estimated = [run for run in runs if run["status"] in ESTIMATED]
    counts = len(runs), len(runs) - len(estimated), sum(run["status"] == NOISY for run in runs)
    if not estimated:
        return Confirmation(*counts, None, None, None)
    values = [run["llc_hat"] for run in estimated]
    mean = statistics.fmean(values)
    error = None if llc_ref is None else abs(mean - llc_ref)
    own = math.hypot(*(run["se_hat"] or 0.0 for run in estimated)) / len(values)
    return Confirmation(*counts, mean, max(own, error_of_mean(values)), error)


def full_settings(method: str, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the sampler, including those not searched, as `parsl-llc` passes them."""
    return asdict(compose_sampler(method, dict(hyperparams), where="the best settings"))
