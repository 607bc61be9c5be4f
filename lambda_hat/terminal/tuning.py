"""Terminal output of `parsl-optuna`: plan, progress and final tables.

On a terminal the progress table is redrawn in place; elsewhere (a log file, a batch job) each
noteworthy event is printed as a line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.markup import escape

from lambda_hat.entrypoints.plans import StudyPlan
from lambda_hat.execution import Pool
from lambda_hat.execution.event_loop import Outcome
from lambda_hat.report.formatting import format_count, format_duration, format_estimate
from lambda_hat.store import Store
from lambda_hat.tables.reading import readable_rows
from lambda_hat.terminal.board import Board, counts_of
from lambda_hat.terminal.front import front_tables
from lambda_hat.terminal.printing import Terminal
from lambda_hat.terminal.tables import output_files, result_tables
from lambda_hat.trial import ProblemItem, Reference
from lambda_hat.tuning.settings import StudySettings
from lambda_hat.tuning.study import Study


def _then(confirm_seeds: int) -> str:
    if not confirm_seeds:
        return ""
    seeds = format_count(confirm_seeds, "other seed")
    return f", then the best three and the defaults with {seeds}"


def _on(settings: StudySettings) -> str:
    return "on all problems together" if settings.joint else "on each problem"


def _objectives(settings: StudySettings) -> dict[str, str]:
    """What is minimised, where it is more than the error; and what the best may take."""
    names, limit = settings.objectives, settings.max_seconds
    shown = {"objectives": ", ".join(names)} if len(names) > 1 else {}
    return shown | ({} if limit is None else {"the best": f"within {format_duration(limit)}"})


PLAIN_LINES = 10
"""About how many progress lines a study prints if the output is not a terminal."""


class Console(Terminal):
    """Shows how the studies proceed; the observer of the scheduler."""

    def __init__(self, file: Any = None, *, began: float | None = None):
        super().__init__(file, began=began)
        self._board: Board | None = None

    # Before and after.

    def show_plan(self, plan: StudyPlan, workers: Path | None, *, done: Sequence[str] = ()) -> None:
        """Shows what will run, and what is `done` of it, a line a problem."""
        settings = plan.settings
        self.show_facts(
            {
                "problems": [f"{item.label}  {item.pid}" for item in plan.problems],
                "methods": ", ".join(plan.methods),
                "trials": f"{settings.max_trials} of each method {_on(settings)}, "
                f"{settings.batch_size} in flight{_then(plan.confirm_seeds)}",
                **_objectives(settings),
                "budgets": f"{format_duration(plan.reference.budget_sec)} for a reference, "
                f"{format_duration(settings.method_budget)} for a trial",
                "workers": str(workers) if workers else "not said (--local or --parsl-config)",
                "artifacts": str(plan.store.artifacts),
                "results": str(plan.store.results),
                **({"done already": list(done)} if done else {}),
            }
        )

    def show_outcome(
        self, outcome: Outcome, studies: Sequence[Study], store: Store, *, resume: str
    ) -> None:
        """Shows the final tables, the failures, and the paths of the results."""
        self.out.print()
        runs = list(readable_rows(store.llc_table, self.warn))
        ended = [study for study in studies if study.progress.num_ended]
        for table in [*result_tables(ended, runs), *front_tables(ended)]:
            self.out.print(table)
        if not outcome.interrupted and any(study.progress.num_ended for study in studies):
            self.show_facts(output_files(store))
        any_done = any(study.progress.best is not None for study in studies)
        self.show_ending(outcome, resume, any_done=any_done)

    # Meanwhile.

    @contextmanager
    def watching(self, studies: Sequence[Study], store: Store) -> Iterator[None]:
        """Follows the studies while the block runs: on a terminal, on a board that is redrawn."""
        self._board = Board(studies, store)
        if not self.is_interactive:
            yield
            return
        with Live(self._board, console=self.out, refresh_per_second=4, transient=True):
            yield

    @property
    def board(self) -> Board:
        """The studies that are watched."""
        assert self._board is not None, "nothing is watched"
        return self._board

    def show_pool(self, pool: Pool) -> None:
        super().show_pool(pool)
        self.board.pool = pool

    def reference_started(self, problem: ProblemItem) -> None:
        self.board.waiting[problem.pid] = time.monotonic()
        said = f"{escape(problem.label)}: reference under way"
        self.note(said) if self.is_interactive else self.line(said)

    def reference_ready(self, problem: ProblemItem, reference: Reference, reused: bool) -> None:
        self.board.waiting.pop(problem.pid, None)
        if reference.llc_ref is None:
            return
        source = (
            "from an earlier run" if reused else f"in {format_duration(reference.runtime_sec or 0)}"
        )
        value = format_estimate(reference.llc_ref, reference.se_ref)
        self.line(
            f"{escape(problem.label)}: reference LLC {value}, {reference.status}, {source}",
            news=not reused,
        )
        if reference.status != "ok":
            self.warn(f"{problem.label}: {reference.why}")

    def problem_failed(self, problem: ProblemItem, reason: str) -> None:
        self.board.waiting.pop(problem.pid, None)
        self.line(f"[red]{escape(problem.label)} is not tuned: {escape(reason)}[/]")

    def programs_failed(self, study: Study, reason: str) -> None:
        said = f"programs could not be compiled ahead of its trials, which compile them: {reason}"
        self.note(f"{self._name(study)}: {escape(said)}")

    def study_began(self, study: Study) -> None:
        self.board.begun.add(study.name)
        if study.progress.num_ended:
            done = format_count(study.progress.num_ended, "trial")
            self.line(f"{self._name(study)}: {done} from earlier runs", news=False)

    def trial_ended(self, study: Study, row: Mapping[str, Any]) -> None:
        self.note(f"{self._name(study)}: {_trial(row)}")
        if self.is_interactive:
            return
        every = max(1, study.settings.max_trials // PLAIN_LINES)
        news = row is study.progress.best or row["objective"] is None
        if news or study.progress.num_ended % every == 0:
            self.line(f"{self._name(study)}: {self._progress(study)}")

    def study_ended(self, study: Study) -> None:
        why = f" ({study.stopped})" if study.stopped else ""
        self.line(f"{self._name(study)}: done, {self._progress(study)}{escape(why)}", news=False)

    def _progress(self, study: Study) -> str:
        done = f"{study.progress.num_ended} of {study.settings.max_trials} trials"
        parts = [done, *counts_of([study])]
        best = study.progress.best
        parts.append(
            f"best error {best['error']:.3g} in trial {best['trial_number']}"
            if best
            else "no estimate yet"
        )
        return ", ".join(parts + self.board.time_left([study]))

    def _name(self, study: Study) -> str:
        return f"{escape(study.problem.label)} {study.method}"


def _trial(row: Mapping[str, Any]) -> str:
    """What a trial came to, as markup."""
    took = "" if row["runtime_sec"] is None else f", {format_duration(row['runtime_sec'])}"
    said = f"trial {row['trial_number']} {row['status']}{took}"
    if row["llc_hat"] is not None:
        estimate = format_estimate(row["llc_hat"], row["se_hat"])
        return f"{said}: LLC {estimate}, error {row['error']:.3g}"
    return escape(f"{said}: {row['error_msg']}")
