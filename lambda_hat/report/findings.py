"""Findings: each method's best settings, and whether they agree with the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from lambda_hat.report.formatting import (
    format_count,
    format_duration,
    format_estimate,
    format_number,
    format_percent,
    format_settings,
)
from lambda_hat.tables.best import GOOD_ERROR, Cost, Winner, shortlist_of, winner_of
from lambda_hat.tables.confirmation import Confirmation
from lambda_hat.tables.reading import read_table
from lambda_hat.trial import COMPLETE, ESTIMATED, NOISY
from lambda_hat.trial_gates import INTERVAL, SIGMAS, interval

Table = TypeVar("Table", pd.DataFrame, pd.Series)

AGREES, UNCERTAIN, OFF, NO_ESTIMATE = "agrees", "uncertain", "off", "no estimate"
VERDICTS = (AGREES, UNCERTAIN, OFF, NOISY, NO_ESTIMATE)
"""From the best to the worst."""
WITHIN = f"{GOOD_ERROR:.0%}".replace("%", " %")


@dataclass(frozen=True)
class Finding:
    """One method on one problem.

    Attributes:
        method: Name of the method.
        trials: Number of trials.
        noisy: Number of trials whose estimate failed a gate.
        failed: Number of trials without an estimate.
        agreeing: Number of complete trials whose difference to the reference is within its 95 %
            interval.
        winner: What the study has found; None if no trial gave an estimate.
        verdict: `agrees`, `uncertain` (consistent with the reference, but with too wide an
            interval to show agreement), `off`, `noisy`, or `no estimate`. It judges the
            confirmation if there is one, and the best trial otherwise.
        relative_difference: (llc_hat - llc_ref) / |llc_ref| of the judged estimate; NaN without.
    """

    method: str
    trials: int
    noisy: int
    failed: int
    agreeing: int
    winner: Winner | None
    verdict: str
    relative_difference: float

    @property
    def best(self) -> pd.Series | None:
        """The trial that had the best settings."""
        return None if self.winner is None else self.winner.best.row

    @property
    def confirmation(self) -> Confirmation | None:
        """What the best settings gave with other seeds; None if they have not run so."""
        return None if self.winner is None else self.winner.best.confirmation

    @property
    def judged(self) -> tuple[float, float]:
        """The LLC that the verdict is on, and its standard error: NaN where there is none."""
        shown = self.best if self.confirmation is None else self.confirmation
        if shown is None or shown.llc_hat is None:
            return math.nan, math.nan
        return float(shown.llc_hat), math.nan if shown.se_hat is None else float(shown.se_hat)

    @property
    def estimate(self) -> str:
        """The same as text."""
        value = format_estimate(*self.judged)
        if self.confirmation is None:
            return value
        return f"{value} with {format_count(self.confirmation.num_runs, 'other seed')}"

    @property
    def cost(self) -> str:
        """What it takes, as text: the cheapest settings that are good, else the best ones."""
        if self.winner is None:
            return ""
        if self.winner.cheapest is None:
            return f" in {format_cost(self.winner.best.cost)}"
        return f", within {WITHIN} after {format_cost(self.winner.cheapest.cost)}"


def format_cost(cost: Cost) -> str:
    """Seconds and gradients, such as `1.2 s and 3.4e4 gradients`; compilation is apart."""
    seconds = "unknown time" if cost.seconds is None else format_duration(cost.seconds)
    if cost.full_gradients is None:
        return seconds
    return f"{seconds} and {format_number(cost.full_gradients)} gradients"


def read_trials(path: Path) -> pd.DataFrame:
    """Reads the table of trials; missing numbers are NaN."""
    trials = pd.DataFrame(read_table(path))
    numbers = ["llc_hat", "se_hat", "llc_ref", "se_ref", "objective", "error", "runtime_sec"]
    return trials.astype(dict.fromkeys(numbers, float))


def select(table: Table, rows: Any) -> Table:
    """`table.loc[rows]`, typed: pandas' own stubs lose the type of the result."""
    return cast(Table, table.loc[rows])


def estimates_of(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that gave an estimate, complete or noisy."""
    return select(trials, trials.status.isin(ESTIMATED) & trials.llc_hat.notna())


def has_failed(trials: pd.DataFrame) -> pd.Series:
    """Whether a trial failed: it neither gave an estimate nor was it stopped early."""
    return trials.status == "failed"


def complete_error(trials: pd.DataFrame) -> pd.Series:
    """`relative_error` of the complete trials; NaN for all others."""
    return relative_error(trials).where(trials.status == COMPLETE)


def relative_error(trials: pd.DataFrame) -> pd.Series:
    """|llc_hat - llc_ref| / |llc_ref|; NaN for trials without an estimate."""
    scale = trials.llc_ref.abs()
    return trials.error / scale.where(scale > 0, 1.0)


def joint_se(trials: pd.DataFrame) -> pd.Series:
    """Standard error of llc_hat - llc_ref."""
    return (trials.se_hat.fillna(0.0) ** 2 + trials.se_ref.fillna(0.0) ** 2) ** 0.5


def agrees(trials: pd.DataFrame) -> pd.Series:
    """Whether a complete trial's difference to the reference is within its own 95 % interval."""
    return (trials.status == COMPLETE) & (trials.error <= SIGMAS * joint_se(trials))


def describe_trials(trials: pd.DataFrame) -> pd.Series:
    """One line on each trial: number, estimate, error, time and settings, or why it failed."""
    relative = relative_error(trials)
    return pd.Series(
        [
            _describe(row, error)
            for (_, row), error in zip(trials.iterrows(), relative, strict=True)
        ],
        index=trials.index,
        dtype=object,
    )


def _describe(row: pd.Series, relative: float) -> str:
    took = f", {format_duration(row.runtime_sec)}" if math.isfinite(row.runtime_sec) else ""
    found = str(row.error_msg or "no estimate")
    if math.isfinite(relative):
        error = f"error {format_percent(relative)}"
        noisy = f", {NOISY}" if row.status == NOISY else ""
        found = f"LLC {format_estimate(row.llc_hat, row.se_hat)}, {error}{noisy}"
    settings = format_settings(row.hyperparams)
    return f"{row.method}, trial {row.trial_number}: {found}{took}\n{settings}"


def findings(
    trials: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]] = (),
    chosen: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Summarizes each method on one problem, in the order of the table.

    Args:
        trials: All trials of the problem.
        runs: Rows of `llc_runs.parquet`; those that repeat settings of a study confirm them.
        chosen: The best joint trials over all problems, by method, as `chosen_jointly` has them.
    """
    chosen = chosen or {}
    return [
        _finding(str(name), rows, runs, chosen.get(str(name)))
        for name, rows in trials.groupby("method", sort=False)
    ]


def _finding(
    method: str, rows: pd.DataFrame, runs: Sequence[Mapping[str, Any]], chosen: int | None
) -> Finding:
    estimates = estimates_of(rows)
    num_noisy, agreeing = int((rows.status == NOISY).sum()), int(agrees(estimates).sum())
    counts = len(rows), num_noisy, int(has_failed(rows).sum()), agreeing
    winner = winner_of(shortlist_of(row for _, row in rows.iterrows()), runs, chosen=chosen)
    if winner is None:
        return Finding(method, *counts, None, NO_ESTIMATE, math.nan)
    best, confirmation = winner.best.row, winner.best.confirmation
    shown = confirmation or best
    verdict, difference = _judge(shown.llc_hat, shown.se_hat, best.llc_ref, best.se_ref)
    noisy = best.status == NOISY if confirmation is None else confirmation.is_noisy
    if noisy and verdict != NO_ESTIMATE:
        verdict = NOISY
    return Finding(method, *counts, winner, verdict, difference)


def _judge(llc: float | None, se: float | None, llc_ref: float, se_ref: float) -> tuple[str, float]:
    """Compares an estimate with the reference: the verdict and the relative difference."""
    if llc is None:
        return NO_ESTIMATE, math.nan
    scale = abs(llc_ref) or 1.0
    width, difference = interval(se, se_ref, llc_ref), (llc - llc_ref) / scale
    if abs(difference) > width:
        return OFF, difference
    return (AGREES if width <= INTERVAL else UNCERTAIN), difference


def reference_of(trials: pd.DataFrame) -> tuple[float, float]:
    """A problem's reference LLC and its standard error."""
    first = trials.iloc[0]
    return float(first.llc_ref), float(first.se_ref) if math.isfinite(first.se_ref) else 0.0
