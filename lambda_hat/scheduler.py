"""Problems x methods -> studies side by side over one pool, until all are done.

The loop waits for events (a future that ended, a signal) and never polls. Each study starts
when its own reference is there and keeps `batch_size` trials in flight.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from lambda_hat.execution import DeadlineExceeded, Pool, PoolLost
from lambda_hat.fingerprint import StudyChanged
from lambda_hat.results import Results
from lambda_hat.store import Store, read_if_whole, write_json
from lambda_hat.study import Asked, Study
from lambda_hat.trial import RESULT_KEYS, ProblemItem, Reference, TrialResult

CHECKPOINT_SEC = 30.0
"""Least time between two writings of the table and the snapshots; the journal is always up to
date. Where writing takes long, it is done less often: at most a twentieth of the time."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Each ends the run between two events, unless it is ignored (as under nohup)."""

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


@dataclass(frozen=True)
class _Ended:
    """A task's future is done: `on_end` takes it."""

    on_end: Callable[[Future], None]
    future: Future


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
        say: Is told what was found damaged.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        *,
        store: Store,
        results: Results,
        reference: ReferencePlan,
        pool: Pool,
        run_reference: Runner,
        run_trial: Runner,
        observer: Observer,
        say: Callable[[str], None],
    ):
        self._studies: dict[ProblemItem, list[Study]] = {}
        for study in studies:
            self._studies.setdefault(study.problem, []).append(study)
        self._store, self._results = store, results
        self._plan, self._pool = reference, pool
        self._run_reference, self._run_trial = run_reference, run_trial
        self._observer, self._say = observer, say
        self._events: SimpleQueue[_Ended | None] = SimpleQueue()
        self._outstanding = 0
        self._stopping = False
        self._changed = False
        self._checkpoint_due = time.monotonic() + CHECKPOINT_SEC
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs everything that is not done; ends early, and tidily, on a signal."""
        with self._signals_stop():
            for problem in self._studies:
                self._start(problem)
            try:
                while self._outstanding and not self._stopping:
                    self._take(self._next_event())
            except PoolLost as lost:  # What was under way stays so, and is run again next time.
                self.outcome.failures.append(str(lost))
        self.outcome.interrupted = self._stopping
        self._results.write()
        return self.outcome

    # Events.

    @contextmanager
    def _signals_stop(self) -> Iterator[None]:
        """A signal ends the loop between two events, so that no write is torn."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: object) -> None:
            if self._stopping:
                raise KeyboardInterrupt
            self._stopping = True
            self._events.put(None)

        kinds = [k for k in STOP_SIGNALS if signal.getsignal(k) is not signal.SIG_IGN]
        before = {kind: signal.signal(kind, stop) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _next_event(self) -> _Ended | None:
        if not self._changed:
            return self._events.get()
        try:
            return self._events.get(timeout=max(0.0, self._checkpoint_due - time.monotonic()))
        except Empty:
            return None

    def _take(self, event: _Ended | None) -> None:
        if event is not None and not self._stopping:
            self._outstanding -= 1
            event.on_end(event.future)
        if self._changed and time.monotonic() >= self._checkpoint_due:
            self._checkpoint()

    def _checkpoint(self) -> None:
        begun = time.monotonic()
        self._results.write()
        ended = time.monotonic()
        self._checkpoint_due = ended + max(CHECKPOINT_SEC, 20 * (ended - begun))
        self._changed = False

    def _await(self, future: Future, on_end: Callable[[Future], None]) -> None:
        self._outstanding += 1
        future.add_done_callback(lambda done: self._events.put(_Ended(on_end, done)))

    # References.

    def _start(self, problem: ProblemItem) -> None:
        path = self._store.reference(problem.pid)
        stored = read_if_whole(path, REFERENCE_KEYS, self._say)
        if stored is not None and self._stands(Reference.from_json(stored)):
            self._judge(problem, Reference.from_json(stored), reused=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        budget = self._plan.budget_sec
        future = self._pool.submit(
            self._run_reference,
            dict(problem.spec),
            str(path),
            budget_sec=budget,
            settings=dict(self._plan.settings),
            deadline_sec=budget + grace_sec(budget),
        )
        self._observer.reference_started(problem)
        self._await(future, lambda done: self._referenced(problem, done))

    def _stands(self, reference: Reference) -> bool:
        """Whether a stored reference is used as it is, and not computed (further)."""
        given = {key: v for key, v in self._plan.settings.items() if key != "accept_unreliable"}
        known = reference.settings
        if any(key in known and known[key] != value for key, value in given.items()):
            return False
        if reference.status == "unreliable" and not self._plan.accept_unreliable:
            return self._plan.budget_sec <= (reference.budget_sec or 0.0)
        return reference.status in ("ok", "unreliable")

    def _referenced(self, problem: ProblemItem, future: Future) -> None:
        error = _error(future)
        if error is not None:
            self._fail(problem, f"its reference could not be computed: {_sentence(error)}")
            return
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
            for study in self._studies[problem]:
                self._begin(study, reference)

    def _fail(self, problem: ProblemItem, reason: str) -> None:
        self.outcome.failures.append(f"{problem.label} ({problem.pid}) is not tuned: {reason}.")
        self._observer.problem_failed(problem, reason)

    # Trials.

    def _begin(self, study: Study, reference: Reference) -> None:
        try:
            again = study.begin(reference)
        except StudyChanged as changed:
            self.outcome.failures.append(f"Study {study.name} is not continued: {changed}")
            return
        self._results.add(study)
        self._changed = True
        self._observer.study_began(study)
        for asked in again:
            self._submit(study, asked)
        self._fill(study)

    def _fill(self, study: Study) -> None:
        while study.wants_more and not self._stopping:
            self._submit(study, study.ask())
        if not study.in_flight and not study.wants_more:
            self._end(study)

    def _end(self, study: Study) -> None:
        if study.given_up:
            self.outcome.failures.append(f"Study {study.name} gave up: {study.stopped}.")
        elif study.best is None and study.rows:
            last = study.rows[max(study.rows)]["error_msg"]
            self.outcome.failures.append(
                f"Study {study.name} has no result: all {len(study.rows)} trials failed, the "
                f"last one because {last}"
            )
        self._observer.study_ended(study)

    def _submit(self, study: Study, asked: Asked) -> None:
        """Sends a trial to the pool, unless its result lies in the store already."""
        if (stored := study.stored(asked)) is not None:
            future: Future = Future()
            future.set_result(stored)
        else:
            spec = asked.spec
            spec.write_manifest(self._store)
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
        self._await(future, lambda done: self._trial_ended(study, asked, done))

    def _trial_ended(self, study: Study, asked: Asked, future: Future) -> None:
        try:
            row = study.tell(asked, self._result(study, asked, future))
        except _Lost as lost:
            row = study.lose(asked, str(lost))
        self._changed = True
        self._observer.trial_ended(study, row)
        self._fill(study)

    def _result(self, study: Study, asked: Asked, future: Future) -> TrialResult:
        """What the trial came to; raises `_Lost` if that says nothing about the trial."""
        error = _error(future)
        if error is None:
            result = future.result()
            if isinstance(result, Mapping) and all(key in result for key in RESULT_KEYS):
                return dict(result)
            raise _Lost("the worker returned no result")
        if (stored := study.stored(asked)) is not None:
            return stored  # It was written before the worker ended.
        if not isinstance(error, DeadlineExceeded):
            raise _Lost(_sentence(error))
        spec = asked.spec
        result = spec.failure(
            _sentence(error),
            llc_ref=study.reference.llc_ref,
            runtime_sec=spec.budget_sec + grace_sec(spec.budget_sec),
        )
        write_json(self._store.metrics(spec.pid, spec.method, spec.trial_id), result)
        return result


class _Lost(Exception):
    """A trial that was not run to its end, through no fault of its own."""


def _error(future: Future) -> BaseException | None:
    """What the task ended with; raises PoolLost, which concerns them all."""
    error = PoolLost("The task was cancelled.") if future.cancelled() else future.exception()
    if isinstance(error, PoolLost):
        raise error
    return error


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
