"""Runs all studies side by side over one pool, until they are done.

Each study starts when its own reference is there and keeps `batch_size` trials in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from lambda_hat.conf.checks import ConfigError
from lambda_hat.execution import DeadlineExceeded, TaskPool
from lambda_hat.execution.event_loop import EventLoop, Outcome, error_of, sentence
from lambda_hat.execution.pool import TaskFunction
from lambda_hat.execution.trials import LostTrial, Trials, deadline_of
from lambda_hat.store import Store, read_or_quarantine
from lambda_hat.store.reports import TrialReports
from lambda_hat.trial import REFERENCE_KEYS, ProblemItem, Reference, TrialResult
from lambda_hat.tuning.compile_ahead import CompileAhead
from lambda_hat.tuning.fingerprint import StudyChanged
from lambda_hat.tuning.groups import StudyGroup, groups_of
from lambda_hat.tuning.idle_workers import IdleWorkers
from lambda_hat.tuning.reference_plan import ReferencePlan
from lambda_hat.tuning.results import Results
from lambda_hat.tuning.study import Asked, Study


class Observer(Protocol):
    """Who is told what happens, as it happens."""

    def reference_started(self, problem: ProblemItem) -> None: ...
    def reference_ready(self, problem: ProblemItem, reference: Reference, reused: bool) -> None: ...
    def problem_failed(self, problem: ProblemItem, reason: str) -> None: ...
    def programs_failed(self, study: Study, reason: str) -> None: ...
    def study_began(self, study: Study) -> None: ...
    def trial_ended(self, study: Study, row: Mapping[str, Any]) -> None: ...
    def study_ended(self, study: Study) -> None: ...


class Scheduler:
    """Runs studies over a pool.

    Args:
        studies: All studies of the run; those of one problem share its reference.
        store: Where files are.
        results: Where the rows go.
        reference: How references are made.
        pool: Runs the tasks.
        run_reference: The reference function of the contracts.
        run_trial: The trial function of the contracts.
        run_help: Helps `run_reference` in another worker; None where nothing does.
        run_compile: Compiles a program of a study in a worker; None where trials do it all.
        observer: Is told what happens.
        warn: Is told what was found damaged.
        loop: Calls back as tasks end; by default a loop of its own.
        confirm: Called with each study that has ended, to begin what confirms it in the same loop.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        *,
        store: Store,
        results: Results,
        reference: ReferencePlan,
        pool: TaskPool,
        run_reference: TaskFunction,
        run_trial: TaskFunction,
        observer: Observer,
        warn: Callable[[str], None],
        loop: EventLoop | None = None,
        confirm: Callable[[Study], None] = lambda study: None,
        run_help: TaskFunction | None = None,
        run_compile: TaskFunction | None = None,
    ):
        self._groups: dict[ProblemItem, list[StudyGroup]] = {}
        for group in groups_of(studies):
            for study in group.studies:
                self._groups.setdefault(study.problem, []).append(group)
        self._store, self._results = store, results
        self._plan, self._pool = reference, pool
        self._run_reference, self._run_help = run_reference, run_help
        self._run_compile = run_compile
        self._trials = Trials(store, pool, run_trial, warn)
        self._observer, self._warn = observer, warn
        self._loop, self._confirm = loop or EventLoop(results.write), confirm
        self._idle = IdleWorkers(
            store,
            pool,
            self._loop,
            most=reference.settings.get("num_chains", 4) - 1,
            submit=self._submit_help,
        )
        self._ahead = CompileAhead(
            store, pool, self._loop, submit=self._submit_program, failed=observer.programs_failed
        )
        if run_help or run_compile or any(study.prunes for study in studies):
            self._loop.look_with(self._look)
        self._running: dict[Future, tuple[Study, Asked, TrialReports]] = {}
        """What may be stopped early."""
        self._failures: list[str] = []

    def run(self) -> Outcome:
        """Runs everything that is not done; ends early, and tidily, on a signal."""
        ending = self._loop.run(self._begin)
        return Outcome(tuple(self._failures)) + ending

    def _begin(self) -> None:
        for problem in self._groups:
            reference = self._stored_reference(problem)
            if reference is None:
                self._submit_reference(problem)
            else:
                self._use(problem, reference, reused=True)

    # References.

    def _stored_reference(self, problem: ProblemItem) -> Reference | None:
        """The reference of an earlier run, unless it is to be computed (further)."""
        stored = read_or_quarantine(self._store.reference(problem.pid), REFERENCE_KEYS, self._warn)
        reference = Reference.from_json(stored or {})
        there = reference.target in (None, self._store.target_id(problem.pid))
        return reference if there and self._plan.is_final(reference) else None

    def _submit_reference(self, problem: ProblemItem) -> None:
        self._store.reference(problem.pid).parent.mkdir(parents=True, exist_ok=True)
        future = self._submit_to(self._run_reference, problem, self._plan.budget_sec)
        self._observer.reference_started(problem)
        if self._run_help is not None:
            self._idle.reference_started(problem)
        if self._run_compile is not None:
            studies = [one for group in self._groups[problem] for one in group.studies]
            self._ahead.reference_started(one for one in studies if one.problem == problem)
        self._loop.follow(future, lambda done: self._reference_ended(problem, done))

    def _submit_help(self, problem: ProblemItem, seconds: float) -> Future:
        assert self._run_help is not None
        return self._submit_to(self._run_help, problem, seconds)

    def _submit_to(self, function: TaskFunction, problem: ProblemItem, seconds: float) -> Future:
        """Has a worker work on the reference of a problem for so many seconds."""
        return self._pool.submit(
            function,
            dict(problem.spec),
            str(self._store.reference(problem.pid)),
            budget_sec=seconds,
            settings=dict(self._plan.settings),
            artifacts_dir=str(self._store.artifacts),
            deadline_sec=deadline_of(seconds),
        )

    def _submit_program(self, study: Study, number: int) -> Future:
        assert self._run_compile is not None
        return self._trials.submit_program(self._run_compile, study.likely(), number)

    def _reference_ended(self, problem: ProblemItem, future: Future) -> None:
        self._idle.reference_ended(problem)
        self._ahead.reference_ended(problem)
        if (error := error_of(future)) is not None:
            longer = " Raise --hmc-budget" if isinstance(error, DeadlineExceeded) else ""
            self._fail(problem, f"its reference could not be computed: {sentence(error)}{longer}")
            return
        result = future.result()
        for notice in result.get("notices", ()):
            self._warn(notice)
        self._use(problem, Reference.from_json(result), reused=False)

    def _use(self, problem: ProblemItem, reference: Reference, *, reused: bool) -> None:
        """Begins the studies of a problem, if its reference may be used."""
        self._observer.reference_ready(problem, reference, reused)
        if objection := self._plan.objection(reference):
            self._fail(problem, objection)
        else:
            ready = [group for group in self._groups[problem] if group.hear(problem, reference)]
            self._fill([group for group in ready if self._take_up(group)])

    def _fail(self, problem: ProblemItem, reason: str) -> None:
        self._failures.append(f"{problem.label} ({problem.pid}) is not tuned: {reason}.")
        if any(group.is_joint for group in self._groups[problem]):
            self._failures.append("Nothing is tuned: optuna.joint needs every reference.")
        self._observer.problem_failed(problem, reason)

    # Trials.

    def _take_up(self, group: StudyGroup) -> bool:
        """Goes on with studies; False if they must not be continued."""
        try:
            again = group.begin()
        except (StudyChanged, ConfigError) as changed:
            self._failures.append(f"Study {group.name} is not continued: {changed}")
            return False
        for study in group.studies:
            self._results.add(study)
            self._observer.study_began(study)
        self._loop.changed()
        for study, asked in again:
            self._submit(group, study, asked)
        return True

    def _fill(self, groups: Sequence[StudyGroup]) -> None:
        """Asks each group in turn until all have enough in flight."""
        while eager := [g for g in groups if g.wants_more and not self._loop.stopping]:
            for group in eager:
                self._ask(group)
        for group in groups:
            if not group.in_flight and not group.wants_more:
                for study in group.studies:
                    self._end(study)

    def _ask(self, group: StudyGroup) -> None:
        try:
            runs = group.ask()
        except ConfigError as mistake:  # In a function that users edit.
            group.give_up(str(mistake))
            return
        for study, asked in runs:
            self._submit(group, study, asked)

    def _submit(self, group: StudyGroup, study: Study, asked: Asked) -> None:
        if asked.refused is not None:
            self._take(group, study, asked, LostTrial(asked.refused))
            return
        task = study.task(asked)

        def ended(future: Future) -> None:
            if (running := self._running.pop(future, None)) is not None:
                study.take_reports(asked, running[2])
            self._take(group, study, asked, self._trials.outcome_of(task, future))
            self._fill([group])

        future = self._trials.submit(task)
        if study.prunes:
            self._running[future] = study, asked, self._trials.reports(task)
        self._loop.follow(future, ended)

    def _look(self) -> None:
        """Takes up what running trials report, stops those that the pruner is done with, and has
        workers that would be idle compile and help."""
        self._ahead.look()
        self._idle.look()
        for study, asked, reports in self._running.values():
            study.look(asked, reports)

    def _take(
        self, group: StudyGroup, study: Study, asked: Asked, outcome: TrialResult | LostTrial
    ) -> None:
        try:
            rows = group.take(study, asked, outcome)
        except ConfigError as mistake:  # In a function that users edit.
            group.give_up(str(mistake), asked)
            return
        for told, row in rows:
            self._loop.changed()
            self._observer.trial_ended(told, row)

    def _end(self, study: Study) -> None:
        if failure := study.failure:
            self._failures.append(failure)
        self._observer.study_ended(study)
        if not study.given_up:
            self._confirm(study)
