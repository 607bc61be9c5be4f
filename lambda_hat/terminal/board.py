"""The board that is redrawn while studies run: workers, references, trials, and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lambda_hat.execution import Pool
from lambda_hat.report.formatting import format_count, format_duration, format_estimate
from lambda_hat.store import Store
from lambda_hat.terminal.status import engine_words
from lambda_hat.trial import NOISY, ProblemItem
from lambda_hat.tuning.standing import reference_of
from lambda_hat.tuning.study import Study

WIDE = 100
"""Columns from which on a line has room for the best LLC, and for a longer bar."""
READ_SEC = 2.0
"""How often the files of references under way are read."""


def seconds_left(studies: Iterable[Study], num_workers: int) -> float | None:
    """How long the trials of all studies still take, going by those that have ended.

    Where a study has none yet, its trials count as those of the others do. All workers are taken
    to be busy, but a study has no more than its `batch_size` in flight.

    Returns:
        Seconds; None as long as no trial has ended.
    """
    studies = list(studies)
    num_timed = sum(study.progress.num_timed for study in studies)
    if not num_timed:
        return None
    typical = sum(study.progress.seconds for study in studies) / num_timed
    work, longest = 0.0, 0.0
    for study in studies:
        mean = study.progress.mean_seconds
        own = study.num_left * (typical if mean is None else mean)
        work += own
        longest = max(longest, own / min(num_workers, study.settings.batch_size))
    return max(work / num_workers, longest)


@dataclass
class Board:
    """Draws how studies stand.

    Args:
        studies: All studies of the run, those of one problem together.
        store: Where the references under way tell how they stand.
    """

    studies: Sequence[Study]
    store: Store
    pool: Pool | None = None
    """The workers, once they are there."""
    begun: set[str] = field(default_factory=set)
    """Names of the studies whose reference is ready."""
    waiting: dict[str, float] = field(default_factory=dict)
    """Start times of references under way (monotonic seconds), by pid."""
    _told: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        problems: dict[ProblemItem, list[Study]] = {}
        for study in self.studies:
            problems.setdefault(study.problem, []).append(study)
        shown = self._shown(problems, options.max_height - 3)
        yield _line(self.summary, "bold")
        for problem in shown:
            yield _line(f"{problem.label}{self._reference(problem)}")
            yield _grid([s for s in problems[problem] if s.name in self.begun], wide=wide)
        if left_out := len(problems) - len(shown):
            yield _line(f"and {format_count(left_out, 'more problem')}", "dim")

    @property
    def summary(self) -> str:
        """Workers, trials and the time left, in a line."""
        parts = [self._workers()] if self.pool else []
        done = sum(study.progress.num_ended for study in self.studies)
        left = sum(study.num_left for study in self.studies)
        parts.append(f"{done} of {format_count(done + left, 'trial')}")
        return ", ".join([*parts, *self.time_left(self.studies), *counts_of(self.studies)])

    def _workers(self) -> str:
        assert self.pool is not None
        return f"{self.pool.num_busy} of {format_count(self.pool.num_workers, 'worker')} busy"

    def time_left(self, studies: Sequence[Study]) -> list[str]:
        """How long these studies still take, once that is known, in words."""
        seconds = seconds_left(studies, self.pool.num_workers) if self.pool else None
        if not seconds:
            return []
        waits = any(study.problem.pid in self.waiting for study in studies)
        after = " after the references" if waits else ""
        return [f"about {format_duration(seconds)} left{after}"]

    def _shown(
        self, problems: Mapping[ProblemItem, Sequence[Study]], room: int
    ) -> list[ProblemItem]:
        """The problems that there is room for: those at work before all others."""

        def rests(problem: ProblemItem) -> bool:
            in_flight = any(study.in_flight for study in problems[problem])
            return problem.pid not in self.waiting and not in_flight

        chosen: set[str] = set()
        for problem in sorted(problems, key=rests):
            room -= 1 + len(problems[problem])
            if room >= 0 or not chosen:
                chosen.add(problem.pid)
        return [problem for problem in problems if problem.pid in chosen]

    def _reference(self, problem: ProblemItem) -> str:
        """What is to be said of a problem's reference while its studies wait for it."""
        if (began := self.waiting.get(problem.pid)) is None:
            return ""
        elapsed = format_duration(time.monotonic() - began)
        return f": reference under way for {elapsed}{self._engine(problem.pid)}"

    def _engine(self, pid: str) -> str:
        """How the engine stands, read from its file now and then."""
        read_at, said = self._told.get(pid, (-READ_SEC, ""))
        if time.monotonic() - read_at >= READ_SEC:
            partial = reference_of(self.store, pid).partial
            said = f": {engine_words(partial)}" if partial else ""
            self._told[pid] = time.monotonic(), said
        return said


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _grid(studies: Sequence[Study], *, wide: bool) -> Table:
    """A line for each study."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(6):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    for study in studies:
        progress, total = study.progress, study.progress.num_ended + study.num_left
        bar = ProgressBar(max(1, total), progress.num_ended, width=20 if wide else 8)
        count = f"{progress.num_ended}/{total}"
        best = _best(study)[: 2 if wide else 1]
        grid.add_row(f"  {study.method}", bar, count, ", ".join(counts_of([study])), *best)
    return grid


def _best(study: Study) -> tuple[str, ...]:
    best = study.progress.best
    if best is None:
        return ("no estimate yet",) if study.progress.num_ended else ()
    noisy = " noisy" if best["status"] == NOISY else ""
    estimate = format_estimate(best["llc_hat"], best["se_hat"])
    return f"error {best['error']:.2g}{noisy}", f"LLC {estimate}"


def counts_of(studies: Iterable[Study]) -> list[str]:
    """How many trials are at work or ended otherwise than complete, in words."""
    studies = list(studies)
    counts: Mapping[str, int] = {
        "running": sum(len(study.in_flight) for study in studies),
        "noisy": sum(study.progress.num_noisy for study in studies),
        "pruned": sum(study.progress.num_pruned for study in studies),
        "failed": sum(study.progress.num_failed for study in studies),
    }
    return [f"{count} {name}" for name, count in counts.items() if count]
