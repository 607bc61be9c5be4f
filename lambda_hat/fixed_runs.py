"""Problems x samplers -> llc_runs.parquet: each pair once, with settings that are given.

The line of a study without ask and tell: the same problems, runners, store and table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from lambda_hat.execution import DeadlineExceeded, TaskPool, WorkerLost
from lambda_hat.execution.event_loop import EventLoop, error_of, sentence
from lambda_hat.store import Store, read_or_quarantine
from lambda_hat.tables.trials import same_rows, trial_row, write_table
from lambda_hat.trial import (
    RESULT_KEYS,
    ProblemItem,
    Reference,
    TrialResult,
    TrialSpec,
    is_complete,
    is_of,
)
from lambda_hat.tuning.results import readable_rows
from lambda_hat.tuning.scheduler import REFERENCE_KEYS, Outcome, Runner, ended_for, grace_sec


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
        run_trial: The trial runner of the contracts.
        watcher: Is told what happens.
        warn: Is told what was found damaged.
    """

    def __init__(
        self,
        specs: Mapping[ProblemItem, Sequence[TrialSpec]],
        *,
        store: Store,
        pool: TaskPool,
        build: Runner,
        run_trial: Runner,
        watcher: Watcher,
        warn: Callable[[str], None],
    ):
        self._specs, self._store, self._pool = specs, store, pool
        self._build, self._run_trial = build, run_trial
        self._watcher, self._warn = watcher, warn
        self._order = [(item, spec) for item, group in specs.items() for spec in group]
        self._results: dict[str, TrialResult] = {}
        self._references: dict[str, Reference | None] = {}
        self._targets: dict[str, str | None] = {}
        """The target of each problem, once it is there."""
        self._loop = EventLoop(self._write)
        self.outcome = Outcome()
        self.failed: list[str] = []
        """A sentence for each run that ended without an estimate."""

    def run(self) -> Outcome:
        """Runs what is not done; ends early, and tidily, on a signal."""
        lost = self._loop.run(self._begin)
        if lost is not None:
            self.outcome.failures.append(str(lost))
            self.outcome.cut_short = True
        self.outcome.interrupted = self._loop.stopping
        return self.outcome

    def rows(self) -> list[dict[str, Any]]:
        """One row a run that has ended, in the config's order, below those of other configs."""
        own = {spec.trial_id for _, spec in self._order}
        earlier = [row for row in self._earlier() if row["trial_id"] not in own]
        return earlier + [
            self._row(item, spec, number)
            for number, (item, spec) in enumerate(self._order)
            if spec.trial_id in self._results
        ]

    def _row(self, item: ProblemItem, spec: TrialSpec, number: int) -> dict[str, Any]:
        return trial_row(
            spec,
            self._results[spec.trial_id],
            number=number,
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

    def _begin(self) -> None:
        for item, specs in self._specs.items():
            self._take_up(item, specs, built=False)

    def _take_up(self, item: ProblemItem, specs: Sequence[TrialSpec], *, built: bool) -> None:
        """Submits what is not done of a problem, or first what makes its target."""
        target = self._targets[item.pid] = self._store.target_id(item.pid)
        reference = read_or_quarantine(self._store.reference(item.pid), REFERENCE_KEYS, self._warn)
        same = reference is not None and is_of(reference, target)
        self._references[item.pid] = Reference.from_json(reference) if reference and same else None
        results = [(spec, self._stored(spec)) for spec in specs]
        if target is None and not built and any(result is None for _, result in results):
            self._build_first(item, specs)
            return
        for spec, result in results:
            if result is None:
                self._submit(item, spec)
            else:
                self._keep(item, spec, result)

    def _build_first(self, item: ProblemItem, specs: Sequence[TrialSpec]) -> None:
        future = self._pool.submit(self._build, dict(item.spec), str(self._store.artifacts))

        def built(done: Future) -> None:
            if (error := error_of(done)) is not None:
                reason = sentence(error)
                self.outcome.failures.append(f"{item.label} ({item.pid}) is not run: {reason}")
                self._watcher.problem_failed(item, reason)
                return
            for notice in done.result():
                self._warn(notice)
            self._watcher.problem_built(item)
            self._take_up(item, specs, built=True)

        self._loop.follow(future, built)

    def _stored(self, spec: TrialSpec) -> TrialResult | None:
        path = self._store.metrics(spec.pid, spec.method, spec.trial_id)
        result = read_or_quarantine(path, RESULT_KEYS, self._warn)
        return result if result and is_of(result, self._targets[spec.pid]) else None

    def _llc_ref(self, item: ProblemItem) -> float | None:
        reference = self._references[item.pid]
        return reference.llc_ref if reference else None

    def _keep(self, item: ProblemItem, spec: TrialSpec, result: TrialResult) -> None:
        self._results[spec.trial_id] = result
        if not is_complete(result):
            name = f"{item.label} {spec.method} ({spec.trial_id})"
            self.failed.append(f"{name} failed: {result['error_msg']}")

    def _submit(self, item: ProblemItem, spec: TrialSpec) -> None:
        spec.write_manifest(self._store)
        llc_ref = self._llc_ref(item)
        future = self._pool.submit(
            self._run_trial,
            dict(spec.problem),
            spec.method_cfg,
            math.nan if llc_ref is None else llc_ref,
            str(self._store.metrics(spec.pid, spec.method, spec.trial_id)),
            budget_sec=spec.budget_sec,
            seed=spec.seed,
            artifacts_dir=str(self._store.artifacts),
            deadline_sec=spec.budget_sec + grace_sec(spec.budget_sec),
        )
        self._loop.follow(future, lambda done: self._ended(item, spec, done))

    def _ended(self, item: ProblemItem, spec: TrialSpec, future: Future) -> None:
        error = error_of(future)
        if error is None:
            result = future.result()
        elif (stored := self._stored(spec)) is not None:
            result = stored  # It was written before the worker ended.
        elif isinstance(error, DeadlineExceeded | WorkerLost):
            result = ended_for(error, spec, self._store, llc_ref=self._llc_ref(item))
        else:
            name = f"{item.label} {spec.method} {spec.trial_id}"
            self.outcome.failures.append(f"{name} was not run to its end: {sentence(error)}")
            return
        for notice in result.get("notices", ()):
            self._warn(notice)
        if not is_of(result, self._targets[item.pid]):
            self.outcome.failures.append(
                f"{item.label} {spec.method} {spec.trial_id} is of another target than the runs "
                "before it: it was built again while they ran. Run the command again."
            )
            return
        self._keep(item, spec, result)
        self._loop.changed()
        row = self._row(item, spec, self._order.index((item, spec)))
        self._watcher.run_ended(row, len(self._results), len(self._order))
