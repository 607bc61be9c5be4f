"""Tables of the report: every problem with every method, and the runs of `parsl-llc`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lambda_hat.report.findings import AGREES, NO_ESTIMATE, OFF, UNCERTAIN, Finding, reference_of
from lambda_hat.report.formatting import (
    format_estimate,
    format_number,
    format_percent,
    format_settings,
    format_transfer,
)
from lambda_hat.report.sentences import deviation
from lambda_hat.tables.best import is_joint
from lambda_hat.tables.confirmation import Confirmation
from lambda_hat.tables.transfer import Transfer, Transfers
from lambda_hat.trial import COMPLETE, ESTIMATED, NOISY
from lambda_hat.trial_gates import RHAT


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is shown.
        key: What the column is sorted by; empty cells sort last.
        mark: CSS class, such as `good` or `bad`; empty for none.
        link: Id of the section that the cell links to; empty for none.
    """

    text: str
    key: float | str | None = None
    mark: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Titles and rows of a table; the first `num_text` columns are aligned left."""

    titles: tuple[str, ...]
    rows: list[list[Cell]]
    num_text: int


ESTIMATES = ("error", "error %", "R-hat", "ESS", "gradients", "seconds")
"""Titles of the columns that every table of estimates ends with."""

MARKS = {AGREES: "good", UNCERTAIN: "", OFF: "bad", NOISY: "bad", NO_ESTIMATE: "bad"}


def results_table(problems: Iterable[tuple[pd.DataFrame, Sequence[Finding], Any]]) -> Table:
    """One row for each problem's reference and one for each method on it.

    Args:
        problems: For each problem its trials, its findings, and the content of its ref.json.
    """
    rows: list[list[Cell]] = []
    for trials, found, reference in problems:
        name = Cell(str(trials.problem.iloc[0]), link=str(trials.pid.iloc[0]))
        rows.append([name, *_reference_row(trials, reference)])
        rows += [[name, *_method_row(one)] for one in found]
    counts = ("trials", "noisy", "failed", "agree")
    titles = ("problem", "method", "verdict", "LLC", *ESTIMATES, *counts)
    return Table(titles, rows, 3)


def _reference_row(trials: pd.DataFrame, reference: Mapping[str, Any]) -> list[Cell]:
    llc, se = reference_of(trials)
    method = str(reference.get("method") or "").upper()
    status = str(trials.ref_status.iloc[-1])
    return [
        Cell(f"reference {f'({method})' if method else ''}"),
        Cell(status, mark="good" if status == "ok" else "bad"),
        Cell(format_estimate(llc, se), llc),
        Cell(""),
        Cell(""),
        *_cost_cells(reference),
        *[Cell("")] * 4,
    ]


def _method_row(one: Finding) -> list[Cell]:
    counts = [Cell(str(one.trials), one.trials), Cell(str(one.noisy), one.noisy)]
    counts.append(Cell(str(one.failed), one.failed, mark="bad" if one.failed else ""))
    counts.append(Cell(str(one.agreeing), one.agreeing))
    if one.best is None:
        return [Cell(one.method), Cell(one.verdict, mark="bad"), *[Cell("-")] * 7, *counts]
    verdict = deviation(one.relative_difference) if one.verdict == OFF else one.verdict
    llc, se, error = one.best.llc_hat, one.best.se_hat, one.best.error
    if one.confirmation is not None:
        found = one.confirmation
        llc, se, error = found.llc_hat, found.se_hat, found.error
    return [
        Cell(one.method),
        Cell(verdict, mark=MARKS[one.verdict]),
        *_estimate_cells(llc, se, error, one.best.llc_ref, one.best.se_ref),
        *(_confirmed_cells(one.confirmation) or _cost_cells(one.best.to_dict())),
        *counts,
    ]


def _estimate_cells(
    llc: float | None, se: float | None, error: float | None, llc_ref: Any, se_ref: Any
) -> list[Cell]:
    """LLC, error and relative error; the error's own standard error joins both."""
    if error is None or not math.isfinite(error):
        return [Cell(format_estimate(llc, se), llc), Cell("-"), Cell("-")]
    joint = math.hypot(finite_or_zero(se), finite_or_zero(se_ref))
    relative = error / (abs(llc_ref) or 1.0)
    return [
        Cell(format_estimate(llc, se), llc),
        Cell(format_estimate(error, joint), error),
        Cell(format_percent(relative), relative),
    ]


def _cost_cells(row: Mapping[str, Any]) -> list[Cell]:
    """R-hat, ESS, full gradients and seconds of a trial, a run, or a reference."""
    diagnostics, work = row.get("diagnostics") or {}, row.get("work") or {}
    rhat = diagnostics.get("rhat")
    ess = diagnostics.get("ess_bulk") or diagnostics.get("ess")
    return [
        _number_cell(rhat, "{:.3f}", mark="bad" if rhat and rhat > RHAT else ""),
        _number_cell(ess, "{:,.0f}"),
        _number_cell(work.get("full_gradients"), None),
        _number_cell(row.get("runtime_sec"), "{:.3g}"),
    ]


def _confirmed_cells(found: Confirmation | None) -> list[Cell] | None:
    """The same of runs with other seeds: the worst diagnostics, the mean cost."""
    if found is None or found.llc_hat is None:
        return None
    diagnostics = {"rhat": found.rhat, "ess_bulk": found.ess_bulk}
    work = {"full_gradients": found.full_gradients}
    row = {"diagnostics": diagnostics, "work": work, "runtime_sec": found.runtime_sec}
    return _cost_cells(row)


def _number_cell(value: float | None, shape: str | None, *, mark: str = "") -> Cell:
    if value is None or not math.isfinite(value):
        return Cell("-")
    return Cell(shape.format(value) if shape else format_number(value), value, mark)


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """The runs of `parsl-llc`, one row each."""
    rows = []
    for run in runs:
        failed = run["status"] not in ESTIMATED
        status = str(run["error_msg"] or run["status"]) if failed else str(run["status"])
        rows.append(
            [
                Cell(str(run["problem"])),
                Cell(str(run["method"])),
                Cell(status, mark="" if run["status"] == COMPLETE else "bad"),
                Cell(str(run["seed"]), run["seed"]),
                *_estimate_cells(
                    run["llc_hat"], run["se_hat"], run["error"], run["llc_ref"], run["se_ref"]
                ),
                *_cost_cells(run),
            ]
        )
    return Table(("problem", "method", "status", "seed", "LLC", *ESTIMATES), rows, 3)


def joint_table(problems: Sequence[tuple[str, Sequence[Finding]]]) -> Table | None:
    """What the best setting that was tuned for all problems gives on each; None if there is none.

    Args:
        problems: The label and the findings of each.
    """
    found: dict[str, dict[str, Finding]] = {}
    for label, findings in problems:
        for one in findings:
            if one.best is not None and is_joint(one.best):
                found.setdefault(one.method, {})[label] = one
    if not found:
        return None
    labels = [label for label, _ in problems]
    rows = [_joint_row(method, by_label, labels) for method, by_label in found.items()]
    return Table(("method", "settings", "mean", *labels), rows, 2)


def _joint_row(method: str, found: Mapping[str, Finding], labels: Sequence[str]) -> list[Cell]:
    off = {label: abs(one.relative_difference) for label, one in found.items()}
    best = next(one.best for one in found.values() if one.best is not None)
    whole = math.isfinite(sum(off.values())) and len(off) == len(labels)
    mean = statistics.fmean(off.values()) if whole else None
    return [
        Cell(method),
        Cell(format_settings(best.hyperparams)),
        Cell("-" if mean is None else format_percent(mean), mean),
        *(_share_cell(off.get(label, math.nan)) for label in labels),
    ]


def _share_cell(value: float) -> Cell:
    return Cell(format_percent(value), value) if math.isfinite(value) else Cell("-")


def transfer_table(found: Transfers) -> Table:
    """How each problem's winner does on every problem."""
    rows = [
        [Cell(winner.method), Cell(winner.problem), *map(_transfer_cell, cells)]
        for winner, cells in found.rows
    ]
    return Table(("method", "tuned on", *found.problems), rows, 2)


def _transfer_cell(found: Transfer | None) -> Cell:
    error = None if found is None else found.error
    return Cell(format_transfer(found), None if error is None else abs(error))


def finite_or_zero(value: Any) -> float:
    """A number, or zero if it is missing or not finite."""
    return float(value) if value is not None and math.isfinite(value) else 0.0
