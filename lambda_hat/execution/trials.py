"""Submits trials to a pool, and says what each came to: a result, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lambda_hat.execution.errors import DeadlineExceeded, WorkerLost
from lambda_hat.execution.event_loop import error_of, sentence
from lambda_hat.execution.pool import TaskFunction, TaskPool
from lambda_hat.store import Store, read_or_quarantine, write_json
from lambda_hat.store.reports import TrialReports
from lambda_hat.trial import PRUNED, RESULT_KEYS, TrialResult, TrialSpec


def deadline_of(budget_sec: float) -> float:
    """Seconds after which the pool ends a task of this budget, which ends by itself before."""
    return budget_sec + 60.0 + 0.1 * budget_sec


@dataclass(frozen=True)
class TrialTask:
    """A trial as it goes to a worker: what is run, and what its result is compared with."""

    spec: TrialSpec
    llc_ref: float | None
    """The reference's LLC, if there is a reference."""
    target: str | None
    """The target that the result must be of; None where any will do."""
    study: str | None = None
    """The `study_id` of the study that asks, if one does."""
    prunes: bool = False
    """Whether that study may have it stopped."""


@dataclass(frozen=True)
class LostTrial:
    """A trial that was not run to its end, through no fault of its own."""

    reason: str


@dataclass(frozen=True)
class Trials:
    """Runs trials over a pool; a result that lies in the store already is not computed again."""

    store: Store
    pool: TaskPool
    run_trial: TaskFunction
    """The trial function of the contracts."""
    warn: Callable[[str], None]
    """Told what was found damaged, here or by a worker."""

    def stored(self, task: TrialTask) -> TrialResult | None:
        """The result that a run has written already, for the same target."""
        content = read_or_quarantine(self._metrics(task), RESULT_KEYS, self.warn)
        result = TrialResult.from_json(content) if content else None
        if result is None or not result.is_of(task.target):
            return None
        return result if result.status != PRUNED or self._was_pruned_by(task) else None

    def _was_pruned_by(self, task: TrialTask) -> bool:
        """Whether this task's study had the trial stopped: another one wants it whole."""
        return task.prunes and self.reports(task).pruned_at() is not None

    def reports(self, task: TrialTask) -> TrialReports:
        """What the trial tells while it runs."""
        return TrialReports(self._metrics(task).parent, task.study or "")

    def submit(self, task: TrialTask) -> Future:
        """Sends a trial to the pool; the future of a stored result is done."""
        if (stored := self.stored(task)) is not None:
            done: Future = Future()
            done.set_result(stored.to_json())
            return done
        spec = task.spec
        spec.write_manifest(self.store, study=task.study)
        return self.pool.submit(
            self.run_trial,
            dict(spec.problem),
            spec.method_cfg,
            math.nan if task.llc_ref is None else task.llc_ref,
            str(self._metrics(task)),
            budget_sec=spec.budget_sec,
            seed=spec.seed,
            artifacts_dir=str(self.store.artifacts),
            deadline_sec=deadline_of(spec.budget_sec),
            **_shipped(spec),
            **({"study": task.study} if task.prunes else {}),
        )

    def submit_program(
        self, compile_programs: TaskFunction, likely: Sequence[TrialSpec], number: int
    ) -> Future:
        """Has a worker compile one of the programs that trials like these will need.

        Args:
            compile_programs: As `lambda_hat.runners.compile_programs` has it.
            likely: Of one study.
            number: Of the program.
        """
        spec = likely[0]
        return self.pool.submit(
            compile_programs,
            dict(spec.problem),
            spec.method,
            [dict(one.hyperparams) for one in likely],
            number,
            artifacts_dir=str(self.store.artifacts),
            deadline_sec=deadline_of(spec.budget_sec),
            **_shipped(spec),
        )

    def outcome_of(self, task: TrialTask, future: Future) -> TrialResult | LostTrial:
        """What a trial came to.

        Raises:
            PoolLost: It says nothing about the trial, and concerns all tasks.
        """
        error = error_of(future)
        if error is None:
            return self._checked(task, future.result())
        if (stored := self.stored(task)) is not None:
            return self._checked(task, stored.to_json())  # It was written before the worker ended.
        if isinstance(error, DeadlineExceeded | WorkerLost):
            return self._ended_with_worker(task, error)
        return LostTrial(sentence(error))

    def _checked(self, task: TrialTask, returned: object) -> TrialResult | LostTrial:
        """What a worker returned, if it is a result and of the right target."""
        if not isinstance(returned, Mapping) or not all(key in returned for key in RESULT_KEYS):
            return LostTrial("the worker returned no result")
        result = TrialResult.from_json(returned)
        for notice in result.notices:
            self.warn(notice)
        if not result.is_of(task.target):
            return LostTrial(
                f"it is of the target {result.target}, built while this run went on, and not "
                f"of {task.target} like the rest. Run the command again"
            )
        return result

    def _ended_with_worker(
        self, task: TrialTask, error: DeadlineExceeded | WorkerLost
    ) -> TrialResult:
        """Writes the metrics of a trial that was ended with its worker, in the worker's place.

        Its settings are what did it: they stood still past the deadline, or killed each worker.
        """
        result = task.spec.failure(sentence(error), llc_ref=task.llc_ref)
        if isinstance(error, DeadlineExceeded):
            result = replace(
                result,
                runtime_sec=deadline_of(task.spec.budget_sec),
                budget_exhausted=True,
                traceback=error.trace,
            )
        else:
            result = replace(result, worker_died=True)
        write_json(self._metrics(task), result.to_json())
        return result

    def _metrics(self, task: TrialTask) -> Path:
        return self.store.metrics(task.spec.pid, task.spec.method, task.spec.trial_id)


def _shipped(spec: TrialSpec) -> dict[str, Mapping[str, str]]:
    """The plugin that a worker is to build a trial's settings with, if any."""
    return {} if spec.plugin is None else {"plugin": asdict(spec.plugin)}
