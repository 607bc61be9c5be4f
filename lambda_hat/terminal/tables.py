"""Tables for the terminal: progress of the studies and final results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from lambda_hat.report import report_path
from lambda_hat.report.formatting import (
    format_estimate,
    format_number,
    format_settings,
    format_transfer,
)
from lambda_hat.store import Store
from lambda_hat.tables.best import Winner, chosen_jointly, shortlist_of, winner_of
from lambda_hat.tables.confirmation import Confirmation
from lambda_hat.tables.transfer import Transfers
from lambda_hat.trial import ESTIMATED, NOISY
from lambda_hat.trial_gates import RHAT
from lambda_hat.tuning.study import Study

COST = ("R-hat", "ESS", "gradients", "s")
"""Titles of the columns of `_cost`."""


def result_tables(studies: Sequence[Study], runs: Sequence[Mapping[str, Any]]) -> list[Table]:
    """For each problem, a table of best trials and one of what other seeds say of them.

    Args:
        studies: The studies to show.
        runs: Rows of `llc_runs.parquet`; those that repeat settings of a study confirm them.
    """
    problems: dict[str, list[tuple[Study, Winner | None]]] = {}
    lists = {(one.problem.pid, one.method): shortlist_of(one.rows()) for one in studies}
    chosen = chosen_jointly(lists, runs)
    for study in studies:
        shortlist = lists[study.problem.pid, study.method]
        winner = winner_of(shortlist, runs, chosen=chosen.get(study.method))
        problems.setdefault(study.problem.pid, []).append((study, winner))
    tables = []
    for group in problems.values():
        tables.append(_result_table(group))
        confirmed = [(s, w, w.best.confirmation) for s, w in group if w and w.best.confirmation]
        tables += [_confirmed_table(confirmed)] if confirmed else []
    return tables


def _result_table(group: Sequence[tuple[Study, Winner | None]]) -> Table:
    problem, reference = group[0][0].problem, group[0][0].reference
    title = f"[bold]{escape(problem.label)}[/] [dim]{problem.pid}[/]"
    if reference.llc_ref is not None:
        title += f"  reference LLC {format_estimate(reference.llc_ref, reference.se_ref)}"
    if reference.status != "ok":
        title += f" [red]{reference.status}[/]"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for name in ("trials", "LLC", "error", *COST):
        # Where the terminal is narrow, counts are broken into lines, and no number is.
        table.add_column(name, justify="right", no_wrap=name != "trials")
    best = [(study, winner.best.row if winner else None) for study, winner in group]
    for study, row in best:
        table.add_row(study.method, *_result(study, row))
    doubts = reference.status != "ok" and reference.reasons
    lines = [f"[red]{escape(reference.why)}[/]"] if doubts else []
    lines += [f"  best {study.method}: {_settings(row)}" for study, row in best]
    table.caption, table.caption_justify, table.caption_style = "\n".join(lines), "left", ""
    return table


RUNS = len("4 noisy")
"""Width at which counts of runs can still be read, broken into lines."""


def _confirmed_table(group: Sequence[tuple[Study, Winner, Confirmation]]) -> Table:
    title = "Best settings with other seeds"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for name in ("runs", "LLC", "error", "defaults' LLC", "tuned is", "gradients"):
        narrow = RUNS if name == "runs" else None
        table.add_column(name, justify="right", no_wrap=narrow is None, min_width=narrow)
    for study, winner, confirmation in group:
        joint = math.hypot(confirmation.se_hat or 0.0, study.reference.se_ref)
        counts = ((confirmation.num_noisy, "noisy"), (confirmation.num_failed, "failed"))
        parts = ", ".join(f"{number} {word}" for number, word in counts if number)
        failed = f" ({parts})" if parts else ""
        untuned, cost = winner.untuned, winner.best.cost
        table.add_row(
            study.method,
            f"{confirmation.num_runs}{failed}",
            format_estimate(confirmation.llc_hat, confirmation.se_hat),
            format_estimate(confirmation.error, joint),
            format_estimate(untuned.llc_hat, untuned.se_hat) if untuned else "-",
            winner.gain.verdict if winner.gain else "-",
            "-" if cost.full_gradients is None else format_number(cost.full_gradients),
        )
    return table


def _result(study: Study, best: Mapping[str, Any] | None) -> tuple[str, ...]:
    progress = study.progress
    counts = (
        (progress.num_noisy, "noisy"),
        (progress.num_pruned, "pruned"),
        (progress.num_failed, "failed"),
    )
    parts = ", ".join(f"{number} {word}" for number, word in counts if number)
    trials = f"{progress.num_ended} ({parts})" if parts else f"{progress.num_ended}"
    if best is None:
        return trials, *["-"] * (2 + len(COST))
    joint = math.hypot(best["se_hat"] or 0.0, study.reference.se_ref)
    return (
        trials,
        format_estimate(best["llc_hat"], best["se_hat"]),
        format_estimate(best["error"], joint),
        *_cost(best),
    )


def _settings(best: Mapping[str, Any] | None) -> str:
    """The hyperparameters of a study's best trial, in one line."""
    if best is None:
        return "no trial gave an estimate"
    settings = escape(format_settings(best["hyperparams"]))
    return f"[red]noisy:[/] {settings}" if best["status"] == NOISY else settings


def _cost(row: Mapping[str, Any]) -> tuple[str, ...]:
    """R-hat, bulk ESS, full-data gradients and seconds of a trial."""
    diagnostics, work = row.get("diagnostics") or {}, row.get("work") or {}
    rhat, ess = diagnostics.get("rhat"), diagnostics.get("ess_bulk")
    gradients, seconds = work.get("full_gradients"), row["runtime_sec"]
    shown = "-" if rhat is None else f"{rhat:.3f}"
    return (
        f"[red]{shown}[/]" if rhat is not None and rhat > RHAT else shown,
        "-" if ess is None else f"{ess:,.0f}",
        "-" if gradients is None else format_number(gradients),
        "-" if seconds is None else f"{seconds:.3g}",
    )


def llc_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The estimates of `parsl-llc`: a table a problem, one line a run."""
    problems: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        problems.setdefault(row["pid"], []).append(row)
    return [_llc_table(group) for group in problems.values()]


def _llc_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    first = rows[0]
    title = f"[bold]{escape(first['problem'])}[/] [dim]{first['pid']}[/]"
    if first["llc_ref"] is not None:
        title += f"  reference LLC {format_estimate(first['llc_ref'], first['se_ref'])}"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for name in ("sampler", "seed"):
        table.add_column(name, no_wrap=True)
    for name in ("LLC", "error", *COST):
        table.add_column(name, justify="right", no_wrap=name != "LLC")
    for row in rows:
        noisy = " [red]noisy[/]" if row["status"] == NOISY else ""
        joint = math.hypot(row["se_hat"] or 0.0, row["se_ref"] or 0.0)
        table.add_row(
            row["method"],
            str(row["seed"]),
            format_estimate(row["llc_hat"], row["se_hat"]) + noisy
            if row["status"] in ESTIMATED
            else "failed",
            format_estimate(row["error"], joint),
            *_cost(row),
        )
    return table


def transfer_table(found: Transfers) -> Table:
    """How each problem's winner does on every problem, one line each."""
    title = "Winners on each problem: relative error"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    table.add_column("tuned on")
    for name in found.problems:
        table.add_column(escape(name), justify="right")
    for winner, cells in found.rows:
        table.add_row(winner.method, escape(winner.problem), *map(format_transfer, cells))
    return table


def output_files(store: Store) -> dict[str, str | list[str]]:
    """The files that a user looks at next, by name."""
    return {
        "the report": f"{report_path(store)}",
        "every trial": f"{store.trials_table}",
        "the best": f"{store.best}",
        "studies": f"{store.studies} (parsl-optuna export-studies: for optuna-dashboard)",
        "artifacts": f"{store.artifacts}",
    }
