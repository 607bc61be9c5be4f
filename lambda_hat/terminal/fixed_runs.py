"""Terminal output of `parsl-llc`: plan, progress and final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from lambda_hat.entrypoints.llc_plan import LLCPlan
from lambda_hat.execution.event_loop import Outcome
from lambda_hat.report.formatting import format_count, format_duration, format_estimate
from lambda_hat.store import Store
from lambda_hat.tables.transfer import Transfers
from lambda_hat.terminal.printing import Terminal
from lambda_hat.terminal.tables import llc_tables, transfer_table
from lambda_hat.trial import ESTIMATED, NOISY, ProblemItem


class LLCConsole(Terminal):
    """Shows how the runs proceed; the watcher of `LLCRuns`."""

    def show_plan(self, plan: LLCPlan, workers: Path | None, *, done: int = 0) -> None:
        """Shows what will run, and how many runs are done already."""
        known = f"; {done} done already" if done else ""
        self.show_facts(
            {
                "problems": [f"{item.label}  {item.pid}" for item in plan.problems],
                "samplers": [f"{item.name}, seed {item.seed}" for item in plan.samplers],
                "runs": f"{len(plan.problems) * len(plan.samplers)}, "
                f"{format_duration(plan.method_budget)} at most for each{known}",
                "workers": str(workers) if workers else "not said (--local or --parsl-config)",
                "artifacts": str(plan.store.artifacts),
                "results": str(plan.store.results),
            }
        )

    def problem_built(self, problem: ProblemItem) -> None:
        self.line(f"{escape(problem.label)}: target ready")

    def problem_failed(self, problem: ProblemItem, reason: str) -> None:
        self.line(f"[red]{escape(problem.label)} is not run: {escape(reason)}[/]")

    def run_ended(self, row: Mapping[str, Any], done: int, total: int) -> None:
        runs = f"{done} of {format_count(total, 'run')}"
        self.line(f"{escape(row['problem'])} {row['method']}: {_outcome(row)} ({runs})")

    def show_outcome(
        self,
        outcome: Outcome,
        rows: Sequence[Mapping[str, Any]],
        store: Store,
        *,
        resume: str,
        moved: Transfers | None,
    ) -> None:
        """Shows the final tables, failures, and the paths of the results."""
        if rows:
            for table in llc_tables(rows):
                self.out.print(table)
            if moved is not None:
                self.out.print(transfer_table(moved))
            self.show_facts({"every run": f"{store.llc_table}", "artifacts": f"{store.artifacts}"})
        any_done = any(row["status"] in ESTIMATED for row in rows)
        self.show_ending(outcome, resume, any_done=any_done)


class ConfirmingConsole:
    """Shows how the runs proceed that confirm studies, between the lines of the studies.

    Args:
        console: Where the studies are shown.
    """

    def __init__(self, console: Terminal):
        self._console = console

    def problem_built(self, problem: ProblemItem) -> None:
        pass  # The studies have had it built.

    def problem_failed(self, problem: ProblemItem, reason: str) -> None:
        self._console.line(f"[red]{escape(problem.label)} is not confirmed: {escape(reason)}[/]")

    def run_ended(self, row: Mapping[str, Any], done: int, total: int) -> None:
        runs = f"{done} of {format_count(total, 'run')} with other seeds"
        self._console.line(f"{escape(row['problem'])} {row['method']}: {_outcome(row)} ({runs})")


def _outcome(row: Mapping[str, Any]) -> str:
    """What a run came to, as markup."""
    if row["status"] not in ESTIMATED:
        return escape(f"failed: {row['error_msg']}")
    noisy = ", noisy" if row["status"] == NOISY else ""
    return f"LLC {format_estimate(row['llc_hat'], row['se_hat'])}{noisy}"
