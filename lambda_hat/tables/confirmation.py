"""Confirmation: settings of a study, run again with seeds that the search did not use.

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
from lambda_hat.intervals import error_of_difference, error_of_mean
from lambda_hat.trial import ESTIMATED, NOISY, derive_seed, finite
from lambda_hat.trial_gates import SIGMAS

Row = Any
"""A row of the table of trials or of the table of `parsl-llc` runs."""


@dataclass(frozen=True)
class Confirmation:
    """What settings of a study give with other seeds.

    Attributes:
        num_runs: Number of runs, including failed ones.
        num_failed: Number of runs without an estimate; they do not enter the rest.
        num_noisy: Number of runs that are noisy; they do enter it.
        llc_hat: Mean of the estimates; None if every run failed.
        se_hat: Standard error of the mean, from the spread between runs. It is widened for small
            numbers of runs so that mean ± 1.96 se_hat is a 95 % interval by Student's t, and it is
            at least what the runs' own standard errors imply.
        error: |llc_hat - llc_ref|.
        rms_error: Root mean square of the runs' own errors: how far off one more run will be.
        errors: llc_hat - llc_ref of each run.
        rhat: The largest of the runs.
        ess_bulk: The smallest of the runs.
        full_gradients: Mean work of a run.
        runtime_sec: Mean wall time of a run, compilation included.
        compile_sec: Mean time that a run compiled for.
    """

    num_runs: int
    num_failed: int
    num_noisy: int
    llc_hat: float | None = None
    se_hat: float | None = None
    error: float | None = None
    rms_error: float | None = None
    errors: tuple[float, ...] = ()
    rhat: float | None = None
    ess_bulk: float | None = None
    full_gradients: float | None = None
    runtime_sec: float | None = None
    compile_sec: float | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether as many runs are noisy as not."""
        return self.num_noisy > 0 and 2 * self.num_noisy >= self.num_runs - self.num_failed

    @property
    def rank(self) -> tuple[float, bool, float]:
        """What makes one confirmation better than another: smaller is better.

        The settings that fail least often come first, then those that are not noisy, and of these
        the ones whose next run will be nearest to the reference.
        """
        rms = math.inf if self.rms_error is None else self.rms_error
        return self.num_failed / self.num_runs, self.is_noisy, rms

    def to_json(self) -> dict[str, Any]:
        """For the file of the best settings."""
        return {**asdict(self), "errors": list(self.errors)}


@dataclass(frozen=True)
class Gain:
    """How much nearer to the reference tuned settings are than a method's defaults.

    Both were run with other seeds than the search's, each with its own: the interval is a joint
    one (Welch's t over both sets of runs), not one of pairs. The reference's own error is added as
    far as it moves the two apart.

    Attributes:
        gain: Mean |error| of a run of the defaults, less that of a run of the tuned settings.
        margin: Half width of its 95 % interval.
    """

    gain: float
    margin: float

    @property
    def verdict(self) -> str:
        """`better` or `worse`, where the interval says so, and `unclear` otherwise."""
        if abs(self.gain) <= self.margin:
            return "unclear"
        return "better" if self.gain > 0 else "worse"


def confirm(best: Row, runs: Iterable[Row]) -> Confirmation | None:
    """Summarizes the runs that repeat a trial with other seeds.

    Args:
        best: The trial.
        runs: Rows of `llc_runs.parquet`. Those with the same target, settings and budget and a
            different seed are used.

    Returns:
        None if no run matches.
    """
    return _confirm(settings_of(best), best, runs)


def confirm_defaults(best: Row, runs: Iterable[Row]) -> Confirmation | None:
    """The same of the method's defaults, on the target and with the budget of a trial."""
    return _confirm(full_settings(best["method"], {}), best, runs)


def _confirm(settings: Mapping[str, Any], like: Row, runs: Iterable[Row]) -> Confirmation | None:
    found = _repeating(settings, like, runs)
    return _summed_up(found, like["llc_ref"]) if found else None


def _repeating(settings: Mapping[str, Any], like: Row, runs: Iterable[Row]) -> list[Row]:
    """The runs of these settings on a trial's target, with its budget and other seeds."""
    same = {name: like.get(name) for name in ("pid", "target", "method", "budget_sec")}
    return [
        run
        for run in runs
        if all(run.get(name) == value for name, value in same.items())
        and is_run_of(settings, run)
        and run["seed"] != like["seed"]
    ]


def confirming_seed(name: str, number: int) -> int:
    """The seed of a run that confirms a trial, by the trial's id."""
    return derive_seed("confirm", name, number)


def comparable_runs(trials: Sequence[Row], runs: Sequence[Row]) -> list[Row]:
    """The runs that a choice between trials goes by.

    They are the ones that confirm each, and of others those with seeds that all of them have run
    with. Runs of the best alone, as `parsl-llc --from` makes them, would have it lose to luck that
    nobody has looked at again.

    Args:
        trials: Of one study, with different settings.
        runs: Rows of `llc_runs.parquet`.
    """
    found = [(trial, _repeating(settings_of(trial), trial, runs)) for trial in trials]
    seeds = [{run["seed"] for run in some} for _, some in found if some]
    shared = set.intersection(*seeds) if seeds else set()
    kept = []
    for trial, some in found:
        own = {confirming_seed(trial["trial_id"], number) for number in range(len(some))}
        kept += [run for run in some if run["seed"] in own | shared]
    return kept


def is_run_of(settings: Mapping[str, Any], run: Row) -> bool:
    """Whether a run had these settings, as far as it says.

    A table has no settings that are null, and none that its version did not know of.
    """
    return all(settings.get(name) == value for name, value in run["hyperparams"].items())


def _summed_up(runs: Sequence[Row], llc_ref: float | None) -> Confirmation:
    estimated = [run for run in runs if run["status"] in ESTIMATED]
    counts = len(runs), len(runs) - len(estimated), sum(run["status"] == NOISY for run in runs)
    if not estimated:
        return Confirmation(*counts)
    values = [run["llc_hat"] for run in estimated]
    own = math.hypot(*(run["se_hat"] or 0.0 for run in estimated)) / len(values)
    errors = () if llc_ref is None else tuple(value - llc_ref for value in values)
    return Confirmation(
        *counts,
        llc_hat=statistics.fmean(values),
        se_hat=max(own, error_of_mean(values)),
        error=abs(statistics.fmean(errors)) if errors else None,
        rms_error=math.sqrt(statistics.fmean(e * e for e in errors)) if errors else None,
        errors=errors,
        rhat=max(_known(estimated, "diagnostics", "rhat"), default=None),
        ess_bulk=min(_known(estimated, "diagnostics", "ess_bulk"), default=None),
        full_gradients=_mean(_known(estimated, "work", "full_gradients")),
        runtime_sec=_mean(
            [t for run in estimated if (t := finite(run["runtime_sec"])) is not None]
        ),
        compile_sec=_mean(_known(estimated, "seconds", "compile")),
    )


def _known(runs: Sequence[Row], column: str, key: str) -> list[float]:
    """One key of a column of mappings, of the runs that have it."""
    values = (finite((run.get(column) or {}).get(key)) for run in runs)
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def gain_over(untuned: Confirmation, tuned: Confirmation, se_ref: float | None) -> Gain | None:
    """How much nearer to the reference tuned settings are than untuned ones.

    Returns:
        None where there are fewer than two estimates of either.
    """
    if min(len(untuned.errors), len(tuned.errors)) < 2:
        return None
    off = [[abs(error) for error in one.errors] for one in (untuned, tuned)]
    sides = [statistics.fmean(math.copysign(1, e) for e in c.errors) for c in (untuned, tuned)]
    moved = abs(sides[0] - sides[1]) * (finite(se_ref) or 0.0)
    gain = statistics.fmean(off[0]) - statistics.fmean(off[1])
    return Gain(gain, SIGMAS * math.hypot(error_of_difference(off[0], off[1]), moved))


def settings_of(row: Row) -> dict[str, Any]:
    """All settings of a trial, as a run without tuning has them."""
    try:
        return full_settings(row["method"], row["hyperparams"])
    except ConfigError:
        return dict(row["hyperparams"])  # A user's own `build_sampler_cfg` takes them.


def full_settings(method: str, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the sampler, including those not searched, as `parsl-llc` passes them."""
    return asdict(compose_sampler(method, dict(hyperparams), where="the best settings"))
