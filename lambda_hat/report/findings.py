"""Findings: each method's best trial, its confirmation, and if it agrees with the reference."""

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
    format_percent,
    format_settings,
)
from lambda_hat.tables.best import best_of
from lambda_hat.tables.confirmation import Confirmation, confirm
from lambda_hat.tables.reading import read_table
from lambda_hat.trial import COMPLETE, ESTIMATED, NOISY
from lambda_hat.trial_gates import INTERVAL, SIGMAS, interval

Table = TypeVar("Table", pd.DataFrame, pd.Series)

AGREES, UNCERTAIN, OFF, NO_ESTIMATE = "agrees", "uncertain", "off", "no estimate"
VERDICTS = (AGREES, UNCERTAIN, OFF, NOISY, NO_ESTIMATE)
"""From the best to the worst."""


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
        best: The best trial; None if no trial gave an estimate.
        confirmation: The best settings run with other seeds; None if there are no such runs.
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
    best: pd.Series | None
    confirmation: Confirmation | None
    verdict: str
    relative_difference: float

    @property
    def estimate(self) -> str:
        """The judged LLC estimate with its standard error, as text."""
        if self.best is None:
            return "-"
        if self.confirmation is None:
            return format_estimate(self.best.llc_hat, self.best.se_hat)
        seeds = format_count(self.confirmation.num_runs, "other seed")
        return (
            f"{format_estimate(self.confirmation.llc_hat, self.confirmation.se_hat)} with {seeds}"
        )

    @property
    def seconds(self) -> str:
        """Wall time of the best trial, as text."""
        taken = math.nan if self.best is None else self.best.runtime_sec
        return format_duration(taken) if math.isfinite(taken) else "-"


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


def findings(trials: pd.DataFrame, runs: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
    """Summarizes each method on one problem, in the order of the table.

    Args:
        trials: All trials of the problem.
        runs: Rows of `llc_runs.parquet`; those that repeat a best trial confirm it.
    """
    return [_finding(str(name), rows, runs) for name, rows in trials.groupby("method", sort=False)]


def _finding(method: str, rows: pd.DataFrame, runs: Sequence[Mapping[str, Any]]) -> Finding:
    estimates = estimates_of(rows)
    num_noisy, agreeing = int((rows.status == NOISY).sum()), int(agrees(estimates).sum())
    counts = len(rows), num_noisy, len(rows) - len(estimates), agreeing
    best = best_of(row for _, row in rows.iterrows())
    if best is None:
        return Finding(method, *counts, None, None, NO_ESTIMATE, math.nan)
    confirmation = confirm(best.to_dict(), runs)
    shown = confirmation or best
    verdict, difference = _judge(shown.llc_hat, shown.se_hat, best.llc_ref, best.se_ref)
    noisy = best.status == NOISY or (confirmation is not None and confirmation.is_noisy)
    if noisy and verdict != NO_ESTIMATE:
        verdict = NOISY
    return Finding(method, *counts, best, confirmation, verdict, difference)


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


def summary(found: Sequence[Finding], reference: str) -> str:
    """The findings of one problem in one sentence.

    Args:
        found: The findings of all methods.
        reference: The reference with its standard error, as text.
    """
    ranked = sorted(
        found, key=lambda one: (VERDICTS.index(one.verdict), abs(one.relative_difference))
    )
    clauses = []
    for finding in ranked:
        first = not any(one.verdict == AGREES for one in ranked[: len(clauses)])
        clauses.append(_clause(finding, reference if first else ""))
    if ranked[0].verdict != AGREES:
        return f"No method is shown to agree with the reference, {reference}: {'; '.join(clauses)}."
    return f"{'; '.join(clauses)}."


def _clause(finding: Finding, reference: str) -> str:
    """The part of the sentence about one method; it names the reference if it is given."""
    name, value, took = finding.method, finding.estimate, finding.seconds
    if finding.verdict == NO_ESTIMATE and finding.best is not None:
        return f"{name} gave no estimate with other seeds than its best trial's"
    if finding.verdict == NO_ESTIMATE:
        return f"{name} gave no estimate in {format_count(finding.trials, 'trial')}"
    if finding.verdict == AGREES:
        # The best of many trials may agree by luck, so the sentence also says how many agree.
        share = f"{finding.agreeing} of {format_count(finding.trials, 'trial')}"
        if reference:
            agreement = f"{value} against {reference}; {share} do"
            return f"{name} agrees with the reference ({agreement}) in {took}"
        return f"{name} agrees too ({value}; {share}) in {took}"
    if finding.verdict == NOISY:
        verb = "is" if finding.noisy == 1 else "are"
        share = f"{finding.noisy} of {format_count(finding.trials, 'trial')} {verb}"
        return f"{name} is too noisy to tell ({share})"
    if finding.verdict == UNCERTAIN:
        return f"{name} is too uncertain to tell ({value}) in {took}"
    return f"{name} is {deviation(finding.relative_difference)} ({value}) in {took}"


def deviation(difference: float) -> str:
    """A relative difference as text: `66 % high`, `4.2 % low`, `more than 1000 % high`."""
    side = "high" if difference > 0 else "low"
    size = format_percent(abs(difference)) if abs(difference) <= 10 else "more than 1000 %"
    return f"{size} {side}"
