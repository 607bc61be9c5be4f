"""Runs with given settings: what `parsl-llc` runs, and what confirms a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from lambda_hat.execution import TaskPool
from lambda_hat.execution.event_loop import EventLoop, Outcome, error_of, sentence
from lambda_hat.execution.pool import TaskFunction
from lambda_hat.execution.trials import LostTrial, Trials, TrialTask
from lambda_hat.store import Store, read_or_quarantine
from lambda_hat.tables.reading import readable_rows
from lambda_hat.tables.trials import same_rows, trial_row, write_table
from lambda_hat.trial import REFERENCE_KEYS, ProblemItem, Reference, TrialResult, TrialSpec


class Watcher(Protocol):
    """Who is told what happens."""

    def problem_built(self, problem: ProblemItem) -> None: ...
    def problem_failed(self, problem: ProblemItem, reason: str) -> None: ...
    def run_ended(self, row: Mapping[str, Any], done: int, total: int) -> None: ...


@dataclass(frozen=True)
class _Run:
    """One run that was asked for."""

    item: ProblemItem
    spec: TrialSpec
    number: int
    """Its place in what was asked for."""


class LLCRuns:
    """Runs specs, each once: those of a config, or those that confirm a study as it ends.

    Args:
        store: Where files are.
        pool: Runs the tasks.
        build: Makes a problem's target before its runs, so that no run's budget pays for it.
        run_trial: The trial function of the contracts.
        watcher: Is told what happens.
        warn: Is told what was found damaged.
        loop: Calls back as runs end; by default a loop of its own, which `run` enters.
        order: (pid, method) as the rows are to be ordered, whichever were asked for first.
    """

    def __init__(
        self,
        *,
        store: Store,
        pool: TaskPool,
        build: TaskFunction,
        run_trial: TaskFunction,
        watcher: Watcher,
        warn: Callable[[str], None],
        loop: EventLoop | None = None,
        order: Sequence[tuple[str, str]] = (),
    ):
        self._store, self._pool, self._build = store, pool, build
        self._watcher, self._warn = watcher, warn
        self._trials = Trials(store, pool, run_trial, warn)
        self._asked: dict[str, _Run] = {}
        """Every run by its id, in the order in which they were asked for."""
        self._rank = {key: rank for rank, key in enumerate(order)}
        self._results: dict[str, TrialResult] = {}
        self._references: dict[str, Reference | None] = {}
        self._loop = loop or EventLoop(self.write)
        self.failures: list[str] = []
        """A sentence for each run that has no result."""

    def run(self, specs: Mapping[ProblemItem, Sequence[TrialSpec]]) -> Outcome:
        """Runs what is not done; ends early, and tidily, on a signal."""

        def begin() -> None:
            for item, group in specs.items():
                self.take_up(item, group, first=len(self._asked))

        ending = self._loop.run(begin)
        return Outcome(tuple(self.failures)) + ending

    def take_up(self, item: ProblemItem, specs: Sequence[TrialSpec], *, first: int = 0) -> None:
        """Begins runs of one problem; `first` is the number of the first of them."""
        for number, spec in enumerate(specs, start=first):
            self._asked[spec.trial_id] = _Run(item, spec, number)
        self._begin(item, specs, built=False)

    @property
    def without_estimate(self) -> list[str]:
        """A sentence for each run that ended without an estimate."""
        ended = [(run, self._results.get(name)) for name, run in self._asked.items()]
        return [
            f"{_name(run)} failed: {result.error_msg}"
            for run, result in ended
            if result is not None and result.estimate is None
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One row a run that has ended, in order, below those of others that the table has.

        Where the table has them all, they stay where they are: two commands that have nothing to
        do do not take turns in moving their rows to its end.
        """
        ended = [run for name, run in self._asked.items() if name in self._results]
        last = len(self._rank)
        ended.sort(key=lambda run: self._rank.get((run.spec.pid, run.spec.method), last))
        own = {run.spec.trial_id: self._row(run) for run in ended}
        earlier = list(self._earlier())
        if own.keys() <= {row["trial_id"] for row in earlier}:
            return [own.get(row["trial_id"], row) for row in earlier]
        return [row for row in earlier if row["trial_id"] not in self._asked] + list(own.values())

    def _row(self, run: _Run) -> dict[str, Any]:
        return trial_row(
            run.spec,
            self._results[run.spec.trial_id],
            number=run.number,
            label=run.item.label,
            objective=None,
            reference=self._references[run.spec.pid],
        )

    def write(self) -> None:
        """Writes the table, if a run was asked for and there is news."""
        rows = self.rows() if self._asked else []
        if self._asked and not (
            same_rows(rows, self._earlier()) and self._store.llc_table.exists()
        ):
            write_table(self._store.llc_table, rows)

    def _earlier(self) -> Iterator[dict[str, Any]]:
        return readable_rows(self._store.llc_table, self._warn)

    # Problems.

    def _begin(self, item: ProblemItem, specs: Sequence[TrialSpec], *, built: bool) -> None:
        """Submits what is not done of a problem, or first what makes its target."""
        target = self._store.target_id(item.pid)
        reference = self._references[item.pid] = self._reference(item, target)
        llc_ref = reference.llc_ref if reference else None
        tasks = [TrialTask(spec, llc_ref, target) for spec in specs]
        stored = [(task, self._trials.stored(task)) for task in tasks]
        if target is None and not built and any(result is None for _, result in stored):
            self._build_first(item, specs)
            return
        for task, result in stored:
            if result is None:
                self._submit(task)
            else:
                self._results[task.spec.trial_id] = result

    def _reference(self, item: ProblemItem, target: str | None) -> Reference | None:
        """The stored reference of a problem, if it is of its target."""
        stored = read_or_quarantine(self._store.reference(item.pid), REFERENCE_KEYS, self._warn)
        reference = Reference.from_json(stored) if stored else None
        return reference if reference and reference.is_of(target) else None

    def _build_first(self, item: ProblemItem, specs: Sequence[TrialSpec]) -> None:
        future = self._pool.submit(self._build, dict(item.spec), str(self._store.artifacts))
        self._loop.follow(future, lambda done: self._built(item, specs, done))

    def _built(self, item: ProblemItem, specs: Sequence[TrialSpec], future: Future) -> None:
        if (error := error_of(future)) is not None:
            reason = sentence(error)
            self.failures.append(f"{item.label} ({item.pid}) is not run: {reason}")
            self._watcher.problem_failed(item, reason)
            return
        for notice in future.result():
            self._warn(notice)
        self._watcher.problem_built(item)
        self._begin(item, specs, built=True)

    # Runs.

    def _submit(self, task: TrialTask) -> None:
        def ended(future: Future) -> None:
            self._run_ended(task.spec.trial_id, self._trials.outcome_of(task, future))

        self._loop.follow(self._trials.submit(task), ended)

    def _run_ended(self, name: str, outcome: TrialResult | LostTrial) -> None:
        run = self._asked[name]
        if isinstance(outcome, LostTrial):
            self.failures.append(f"{_name(run)} has no result: {outcome.reason}")
            return
        self._results[name] = outcome
        self._loop.changed()
        self._watcher.run_ended(self._row(run), len(self._results), len(self._asked))


def _name(run: _Run) -> str:
    return f"{run.item.label} {run.spec.method} ({run.spec.trial_id})"
