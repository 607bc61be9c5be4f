"""Trials of one problem -> findings: what each method's best trial says about the reference."""

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
)
from lambda_hat.tables.confirmation import Confirmation, confirm
from lambda_hat.tables.trials import read_table

Table = TypeVar("Table", pd.DataFrame, pd.Series)

SIGMAS = 1.96
"""A 95 % interval is so many standard errors to either side."""
BLUNT = 0.1
"""An estimate whose interval is wider than this share of the reference confirms little."""
AGREES, BLURRED, OFF, NOTHING = "agrees", "blurred", "off", "nothing"


@dataclass(frozen=True)
class Finding:
    """One method on one problem.

    Attributes:
        method: its name.
        trials: how many trials were asked.
        failed: how many of them gave no estimate.
        agreeing: how many lie within the 95 % interval of the difference to the reference.
        best: the trial with the smallest objective; None if none gave an estimate.
        confirmation: what its settings give under other seeds; None if there are no such runs.
        verdict: of the confirmation, or of the best trial without one: `agrees`, `blurred` (it
            agrees, with an interval so wide that this says little), `off`, or `nothing` (there is
            no estimate).
        excess: (llc_hat - llc_ref) / |llc_ref| of the same; NaN without an estimate.
    """

    method: str
    trials: int
    failed: int
    agreeing: int
    best: pd.Series | None
    confirmation: Confirmation | None
    verdict: str
    excess: float

    @property
    def estimate(self) -> str:
        """The LLC that the verdict is of, with its standard error."""
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
        """What the best trial took."""
        taken = math.nan if self.best is None else self.best.runtime_sec
        return format_duration(taken) if math.isfinite(taken) else "-"


def read_trials(path: Path) -> pd.DataFrame:
    """The table of trials that `parsl-optuna` wrote, with None where a number is missing as NaN."""
    trials = pd.DataFrame(read_table(path))
    numbers = ["llc_hat", "se_hat", "llc_ref", "se_ref", "objective", "error", "runtime_sec"]
    return trials.astype(dict.fromkeys(numbers, float))


def pick(table: Table, rows: Any) -> Table:
    """The rows of a table or column by mask or labels, with the type that pandas' own lose."""
    return cast(Table, table.loc[rows])


def estimates_of(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that gave an estimate; all others failed."""
    return pick(trials, (trials.status == "complete") & trials.llc_hat.notna())


def relative_error(trials: pd.DataFrame) -> pd.Series:
    """|llc_hat - llc_ref| / |llc_ref|; NaN for trials without an estimate."""
    scale = trials.llc_ref.abs()
    return trials.error / scale.where(scale > 0, 1.0)


def joint_se(trials: pd.DataFrame) -> pd.Series:
    """Standard error of llc_hat - llc_ref."""
    return (trials.se_hat.fillna(0.0) ** 2 + trials.se_ref.fillna(0.0) ** 2) ** 0.5


def agrees(trials: pd.DataFrame) -> pd.Series:
    """Whether the difference to the reference is within its own 95 % interval."""
    return trials.error <= SIGMAS * joint_se(trials)


def findings(trials: pd.DataFrame, runs: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
    """What each method found on one problem, in the order of the table.

    Args:
        trials: of the problem.
        runs: rows of runs without tuning, some of which may confirm a best trial.
    """
    return [_finding(str(name), rows, runs) for name, rows in trials.groupby("method", sort=False)]


def _finding(method: str, rows: pd.DataFrame, runs: Sequence[Mapping[str, Any]]) -> Finding:
    estimates = estimates_of(rows)
    scored = pick(estimates, estimates.objective.notna())
    failed, agreeing = len(rows) - len(estimates), int(agrees(estimates).sum())
    if scored.empty:
        return Finding(method, len(rows), failed, agreeing, None, None, NOTHING, math.nan)
    best = scored.loc[scored.objective.idxmin()]
    confirmation = confirm(best.to_dict(), runs)
    shown = confirmation or best
    verdict, excess = _judge(shown.llc_hat, shown.se_hat, best.llc_ref, best.se_ref)
    return Finding(method, len(rows), failed, agreeing, best, confirmation, verdict, excess)


def _judge(llc: float | None, se: float | None, llc_ref: float, se_ref: float) -> tuple[str, float]:
    """The verdict of an estimate against a reference, and its relative excess."""
    if llc is None:
        return NOTHING, math.nan
    scale = abs(llc_ref) or 1.0
    errors = [error for error in (se, se_ref) if error is not None and math.isfinite(error)]
    width, excess = SIGMAS * math.hypot(*errors) / scale, (llc - llc_ref) / scale
    if abs(excess) > width:
        return OFF, excess
    return (AGREES if width <= BLUNT else BLURRED), excess


def reference_of(trials: pd.DataFrame) -> tuple[float, float]:
    """The LLC a problem's trials are scored against, and its standard error."""
    first = trials.iloc[0]
    return float(first.llc_ref), float(first.se_ref) if math.isfinite(first.se_ref) else 0.0


def summary(found: Sequence[Finding], reference: str) -> str:
    """What a problem's study found, in one sentence.

    Args:
        found: what each method found.
        reference: the reference with its standard error.
    """
    order = (AGREES, BLURRED, OFF, NOTHING)
    ranked = sorted(found, key=lambda one: (order.index(one.verdict), abs(one.excess)))
    clauses = []
    for finding in ranked:
        first = not any(one.verdict == AGREES for one in ranked[: len(clauses)])
        clauses.append(_clause(finding, reference if first else ""))
    if ranked[0].verdict != AGREES:
        return f"No method is shown to agree with the reference, {reference}: {'; '.join(clauses)}."
    return f"{'; '.join(clauses)}."


def _clause(finding: Finding, reference: str) -> str:
    """What one method found; the reference is named where it is given."""
    name, value, took = finding.method, finding.estimate, finding.seconds
    if finding.verdict == NOTHING and finding.best is not None:
        return f"{name} gave no estimate with other seeds than its best trial's"
    if finding.verdict == NOTHING:
        return f"{name} gave no estimate in {format_count(finding.trials, 'trial')}"
    if finding.verdict == AGREES:
        # The best of many trials may agree by luck: how many do is told in the same breath.
        share = f"{finding.agreeing} of {format_count(finding.trials, 'trial')}"
        if reference:
            agreement = f"{value} against {reference}; {share} do"
            return f"{name} agrees with the reference ({agreement}) in {took}"
        return f"{name} agrees too ({value}; {share}) in {took}"
    if finding.verdict == BLURRED:
        return f"{name} is too uncertain to tell ({value}) in {took}"
    return f"{name} is {deviation(finding.excess)} ({value}) in {took}"


def deviation(excess: float) -> str:
    """A relative difference in words: `66 % high`, `4.2 % low`, `more than 1000 % high`."""
    side = "high" if excess > 0 else "low"
    size = format_percent(abs(excess)) if abs(excess) <= 10 else "more than 1000 %"
    return f"{size} {side}"
