"""Runs every problem with every sampler once, with given settings: what `parsl-llc` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
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


class LLCRuns:
    """Runs every spec once.

    Args:
        specs: The runs, by problem.
        store: Where files are.
        pool: Runs the tasks.
        build: Makes a problem's target before its runs, so that no run's budget pays for it.
        run_trial: The trial function of the contracts.
        watcher: Is told what happens.
        warn: Is told what was found damaged.
    """

    def __init__(
        self,
        specs: Mapping[ProblemItem, Sequence[TrialSpec]],
        *,
        store: Store,
        pool: TaskPool,
        build: TaskFunction,
        run_trial: TaskFunction,
        watcher: Watcher,
        warn: Callable[[str], None],
    ):
        self._specs, self._store, self._pool, self._build = specs, store, pool, build
        self._watcher, self._warn = watcher, warn
        self._trials = Trials(store, pool, run_trial, warn)
        self._order = [(item, spec) for item, group in specs.items() for spec in group]
        self._numbers = {spec.trial_id: number for number, (_, spec) in enumerate(self._order)}
        self._results: dict[str, TrialResult] = {}
        self._references: dict[str, Reference | None] = {}
        self._loop = EventLoop(self._write)
        self._failures: list[str] = []

    def run(self) -> Outcome:
        """Runs what is not done; ends early, and tidily, on a signal."""
        ending = self._loop.run(self._begin)
        return Outcome(tuple(self._failures)) + ending

    @property
    def without_estimate(self) -> list[str]:
        """A sentence for each run that ended without an estimate."""
        ended = [(*pair, self._results.get(pair[1].trial_id)) for pair in self._order]
        return [
            f"{_name(item, spec)} failed: {result.error_msg}"
            for item, spec, result in ended
            if result is not None and result.estimate is None
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One row a run that has ended, in the config's order, below those of other configs."""
        own = {spec.trial_id for _, spec in self._order}
        earlier = [row for row in self._earlier() if row["trial_id"] not in own]
        return earlier + [
            self._row(item, spec) for item, spec in self._order if spec.trial_id in self._results
        ]

    def _row(self, item: ProblemItem, spec: TrialSpec) -> dict[str, Any]:
        return trial_row(
            spec,
            self._results[spec.trial_id],
            number=self._numbers[spec.trial_id],
            label=item.label,
            objective=None,
            reference=self._references[spec.pid],
        )

    def _write(self) -> None:
        rows = self.rows()
        if not (same_rows(rows, self._earlier()) and self._store.llc_table.exists()):
            write_table(self._store.llc_table, rows)

    def _earlier(self) -> Iterator[dict[str, Any]]:
        return readable_rows(self._store.llc_table, self._warn)

    # Problems.

    def _begin(self) -> None:
        for item in self._specs:
            self._take_up(item, built=False)

    def _take_up(self, item: ProblemItem, *, built: bool) -> None:
        """Submits what is not done of a problem, or first what makes its target."""
        target = self._store.target_id(item.pid)
        reference = self._references[item.pid] = self._reference(item, target)
        llc_ref = reference.llc_ref if reference else None
        tasks = [TrialTask(spec, llc_ref, target) for spec in self._specs[item]]
        stored = [(task, self._trials.stored(task)) for task in tasks]
        if target is None and not built and any(result is None for _, result in stored):
            self._build_first(item)
            return
        for task, result in stored:
            if result is None:
                self._submit(item, task)
            else:
                self._results[task.spec.trial_id] = result

    def _reference(self, item: ProblemItem, target: str | None) -> Reference | None:
        """The stored reference of a problem, if it is of its target."""
        stored = read_or_quarantine(self._store.reference(item.pid), REFERENCE_KEYS, self._warn)
        reference = Reference.from_json(stored) if stored else None
        return reference if reference and reference.is_of(target) else None

    def _build_first(self, item: ProblemItem) -> None:
        future = self._pool.submit(self._build, dict(item.spec), str(self._store.artifacts))
        self._loop.follow(future, lambda done: self._built(item, done))

    def _built(self, item: ProblemItem, future: Future) -> None:
        if (error := error_of(future)) is not None:
            reason = sentence(error)
            self._failures.append(f"{item.label} ({item.pid}) is not run: {reason}")
            self._watcher.problem_failed(item, reason)
            return
        for notice in future.result():
            self._warn(notice)
        self._watcher.problem_built(item)
        self._take_up(item, built=True)

    # Runs.

    def _submit(self, item: ProblemItem, task: TrialTask) -> None:
        def ended(future: Future) -> None:
            self._run_ended(item, task.spec, self._trials.outcome_of(task, future))

        self._loop.follow(self._trials.submit(task), ended)

    def _run_ended(
        self, item: ProblemItem, spec: TrialSpec, outcome: TrialResult | LostTrial
    ) -> None:
        if isinstance(outcome, LostTrial):
            self._failures.append(f"{_name(item, spec)} has no result: {outcome.reason}")
            return
        self._results[spec.trial_id] = outcome
        self._loop.changed()
        row = self._row(item, spec)
        self._watcher.run_ended(row, len(self._results), len(self._order))


def _name(item: ProblemItem, spec: TrialSpec) -> str:
    return f"{item.label} {spec.method} ({spec.trial_id})"
