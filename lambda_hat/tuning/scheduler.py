"""Problems x methods -> studies side by side over one pool, until all are done.

Each study starts when its own reference is there and keeps `batch_size` trials in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from lambda_hat.execution import DeadlineExceeded, TaskPool, WorkerLost
from lambda_hat.execution.event_loop import EventLoop, error_of, sentence
from lambda_hat.store import Store, read_or_quarantine, write_json
from lambda_hat.trial import RESULT_KEYS, ProblemItem, Reference, TrialResult, TrialSpec, is_of
from lambda_hat.tuning.fingerprint import StudyChanged
from lambda_hat.tuning.results import Results
from lambda_hat.tuning.study import Asked, Study

REFERENCE_KEYS = ("llc_ref", "status")

Runner = Callable[..., Mapping[str, Any]] | str
"""A function, or `module:name` where importing it would bring JAX into this process."""


def grace_sec(budget_sec: float) -> float:
    """What a task may take beyond its budget before the pool ends it."""
    return 60.0 + 0.1 * budget_sec


class Observer(Protocol):
    """Who is told what happens, as it happens."""

    def reference_started(self, problem: ProblemItem) -> None: ...
    def reference_ready(self, problem: ProblemItem, reference: Reference, reused: bool) -> None: ...
    def problem_failed(self, problem: ProblemItem, reason: str) -> None: ...
    def study_began(self, study: Study) -> None: ...
    def trial_ended(self, study: Study, row: Mapping[str, Any]) -> None: ...
    def study_ended(self, study: Study) -> None: ...


@dataclass(frozen=True)
class ReferencePlan:
    """How references are computed and when they are accepted."""

    budget_sec: float = 36000.0
    accept_unreliable: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`reference:` of the config, with its defaults."""


@dataclass
class Outcome:
    """How a run ended."""

    failures: list[str] = field(default_factory=list)
    interrupted: bool = False
    cut_short: bool = False
    """Whether the pool was lost with work left to do."""

    def add(self, later: Outcome) -> None:
        """Takes up how a later part of the run ended."""
        self.failures += later.failures
        self.interrupted |= later.interrupted
        self.cut_short |= later.cut_short


class Scheduler:
    """Runs studies over a pool.

    Args:
        studies: All studies of the run; those of one problem share its reference.
        store: Where files are.
        results: Where the rows go.
        reference: How references are made.
        pool: Runs the tasks.
        run_reference: The reference runner of the contracts.
        run_trial: The trial runner of the contracts.
        observer: Is told what happens.
        warn: Is told what was found damaged.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        *,
        store: Store,
        results: Results,
        reference: ReferencePlan,
        pool: TaskPool,
        run_reference: Runner,
        run_trial: Runner,
        observer: Observer,
        warn: Callable[[str], None],
    ):
        self._studies: dict[ProblemItem, list[Study]] = {}
        for study in studies:
            self._studies.setdefault(study.problem, []).append(study)
        self._store, self._results = store, results
        self._plan, self._pool = reference, pool
        self._run_reference, self._run_trial = run_reference, run_trial
        self._observer, self._warn = observer, warn
        self._loop = EventLoop(results.write)
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs everything that is not done; ends early, and tidily, on a signal."""
        lost = self._loop.run(self._begin_all)
        if lost is not None:
            self.outcome.failures.append(str(lost))
            self.outcome.cut_short = True
        self.outcome.interrupted = self._loop.stopping
        return self.outcome

    def _begin_all(self) -> None:
        for problem in self._studies:
            self._start(problem)

    # References.

    def _start(self, problem: ProblemItem) -> None:
        path = self._store.reference(problem.pid)
        stored = read_or_quarantine(path, REFERENCE_KEYS, self._warn)
        reference = Reference.from_json(stored or {})
        if self._stands(reference) and self._target_stands(problem, reference):
            self._judge(problem, reference, reused=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        budget = self._plan.budget_sec
        future = self._pool.submit(
            self._run_reference,
            dict(problem.spec),
            str(path),
            budget_sec=budget,
            settings=dict(self._plan.settings),
            artifacts_dir=str(self._store.artifacts),
            deadline_sec=budget + grace_sec(budget),
        )
        self._observer.reference_started(problem)
        self._loop.follow(future, lambda done: self._referenced(problem, done))

    def _stands(self, reference: Reference) -> bool:
        """Whether a stored reference is used as it is, and not computed (further)."""
        given = {key: v for key, v in self._plan.settings.items() if key != "accept_unreliable"}
        known = reference.settings
        if any(key in known and known[key] != value for key, value in given.items()):
            return False
        if reference.status == "unreliable" and not self._plan.accept_unreliable:
            return self._plan.budget_sec <= (reference.budget_sec or 0.0)
        return reference.status in ("ok", "unreliable")

    def _target_stands(self, problem: ProblemItem, reference: Reference) -> bool:
        return reference.target in (None, self._store.target_id(problem.pid))

    def _referenced(self, problem: ProblemItem, future: Future) -> None:
        error = error_of(future)
        if error is not None:
            self._fail(problem, f"its reference could not be computed: {sentence(error)}")
            return
        self._pass_on(future.result())
        self._judge(problem, Reference.from_json(future.result()), reused=False)

    def _judge(self, problem: ProblemItem, reference: Reference, *, reused: bool) -> None:
        self._observer.reference_ready(problem, reference, reused)
        if reference.status == "failed":
            self._fail(problem, f"there is no reference: {reference.why}")
        elif reference.status != "ok" and not self._plan.accept_unreliable:
            self._fail(
                problem,
                f"its reference is unreliable: {reference.why}. Give it more time with "
                "--hmc-budget (it goes on where it stopped), raise posterior.gamma, or tune "
                "against it all the same with --set reference.accept_unreliable=true",
            )
        else:
            begun = [s for s in self._studies[problem] if self._begin(s, reference)]
            self._fill(begun)

    def _fail(self, problem: ProblemItem, reason: str) -> None:
        self.outcome.failures.append(f"{problem.label} ({problem.pid}) is not tuned: {reason}.")
        self._observer.problem_failed(problem, reason)

    def _pass_on(self, result: Mapping[str, Any]) -> None:
        """Says what a worker noticed."""
        for notice in result.get("notices", ()):
            self._warn(notice)

    # Trials.

    def _begin(self, study: Study, reference: Reference) -> bool:
        """Takes up a study; False if it must not be continued."""
        try:
            again = study.begin(reference)
        except StudyChanged as changed:
            self.outcome.failures.append(f"Study {study.name} is not continued: {changed}")
            return False
        self._results.add(study)
        self._loop.changed()
        self._observer.study_began(study)
        for asked in again:
            self._submit(study, asked)
        return True

    def _fill(self, studies: Sequence[Study]) -> None:
        """Asks each study in turn until all have enough in flight."""
        while eager := [s for s in studies if s.wants_more and not self._loop.stopping]:
            for study in eager:
                self._submit(study, study.ask())
        for study in studies:
            if not study.in_flight and not study.wants_more:
                self._end(study)

    def _end(self, study: Study) -> None:
        progress = study.progress
        if study.given_up:
            self.outcome.failures.append(f"Study {study.name} gave up: {study.stopped}.")
        elif progress.best is None and progress.last is not None:
            self.outcome.failures.append(
                f"Study {study.name} has no result: all {progress.num_ended} trials failed, the "
                f"last one because {progress.last['error_msg']}"
            )
        self._observer.study_ended(study)

    def _submit(self, study: Study, asked: Asked) -> None:
        """Sends a trial to the pool, unless its result lies in the store already."""
        if (stored := study.stored(asked)) is not None:
            future: Future = Future()
            future.set_result(stored)
        else:
            spec = asked.spec
            study.write_manifest(asked)
            future = self._pool.submit(
                self._run_trial,
                dict(spec.problem),
                spec.method_cfg,
                study.reference.llc_ref,
                str(self._store.metrics(spec.pid, spec.method, spec.trial_id)),
                budget_sec=spec.budget_sec,
                seed=spec.seed,
                artifacts_dir=str(self._store.artifacts),
                deadline_sec=spec.budget_sec + grace_sec(spec.budget_sec),
            )
        self._loop.follow(future, lambda done: self._trial_ended(study, asked, done))

    def _trial_ended(self, study: Study, asked: Asked, future: Future) -> None:
        try:
            row = study.tell(asked, self._result(study, asked, future))
        except _Lost as lost:
            row = study.lose(asked, str(lost))
        self._loop.changed()
        self._observer.trial_ended(study, row)
        self._fill([study])

    def _result(self, study: Study, asked: Asked, future: Future) -> TrialResult:
        """What the trial came to; raises `_Lost` if that says nothing about the trial."""
        error = error_of(future)
        if error is None:
            result = future.result()
            if isinstance(result, Mapping) and all(key in result for key in RESULT_KEYS):
                self._pass_on(result)
                if not is_of(result, study.reference.target):
                    raise _Lost(
                        f"it is of the target {result['target']}, built while this run went on, "
                        f"and its reference of {study.reference.target}. Run the command again"
                    )
                return dict(result)
            raise _Lost("the worker returned no result")
        if (stored := study.stored(asked)) is not None:
            return stored  # It was written before the worker ended.
        if not isinstance(error, DeadlineExceeded | WorkerLost):
            raise _Lost(sentence(error))
        return ended_for(error, asked.spec, self._store, llc_ref=study.reference.llc_ref)


def ended_for(
    error: DeadlineExceeded | WorkerLost, spec: TrialSpec, store: Store, *, llc_ref: float | None
) -> TrialResult:
    """Writes the metrics of a trial that was ended with its worker, in the worker's place.

    Its settings are what did it: they stood still past the deadline, or killed each worker.
    """
    result = spec.failure(sentence(error), llc_ref=llc_ref)
    if isinstance(error, DeadlineExceeded):
        result["runtime_sec"] = spec.budget_sec + grace_sec(spec.budget_sec)
        result |= {"budget_exhausted": True, "traceback": error.trace}
    else:
        result["worker_died"] = True
    write_json(store.metrics(spec.pid, spec.method, spec.trial_id), result)
    return result


class _Lost(Exception):
    """A trial that was not run to its end, through no fault of its own."""
