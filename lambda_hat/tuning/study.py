"""One study, which asks, tells and resumes.

A study is one method tuned on one problem. Its journal is the source of truth; this object is
what the journal says. It holds no rows: they are read from the journal when they are wanted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lambda_hat.conf.ranged_trial import Ranges
from lambda_hat.conf.search_space import Space
from lambda_hat.execution.trials import TrialTask
from lambda_hat.plugin import Plugin
from lambda_hat.store import Store
from lambda_hat.store.reports import TrialReports
from lambda_hat.trial import PRUNED, ProblemItem, Reference, TrialResult, TrialSpec, derive_seed
from lambda_hat.tuning.beginning import Beginning
from lambda_hat.tuning.functions import StudyFunctions
from lambda_hat.tuning.journal import Journal
from lambda_hat.tuning.objective import ERROR, objectives_of, penalty
from lambda_hat.tuning.progress import StudyProgress
from lambda_hat.tuning.proposals import Asked, Proposals
from lambda_hat.tuning.pruners import NONE
from lambda_hat.tuning.records import Ended, Records
from lambda_hat.tuning.recovery import study_id, unrecorded_trials
from lambda_hat.tuning.search_samplers import Proposers
from lambda_hat.tuning.settings import StudySettings
from lambda_hat.tuning.warm_start import Params, first_guesses

MAX_DEAD = 10
"""Trials in a row that no worker survived, or came to run, before a study gives up: by then it is
more likely the machines than the settings."""


class Study:
    """One method on one problem.

    Args:
        problem: The problem.
        method: A key of `space`.
        settings: Of the run.
        space: The search ranges, of all methods, that come before those of the functions.
        store: Where files are.
        functions: What is asked, and how it is scored.
        warn: Told what was found damaged.
    """

    def __init__(
        self,
        problem: ProblemItem,
        method: str,
        settings: StudySettings,
        space: Space,
        store: Store,
        *,
        functions: StudyFunctions,
        warn: Callable[[str], None],
    ):
        self.problem, self.method, self.settings = problem, method, settings
        self.name = f"{problem.pid}:{method}"
        self.in_flight: set[int] = set()
        self.reference = Reference(None, 0.0, "failed")
        self.progress = StudyProgress()
        self.stopped: str | None = None
        """Why the study ends before `max_trials`; None while it goes on."""
        self.given_up = False
        self._functions, self._store, self._warn = functions, store, warn
        study_seed = derive_seed("study", settings.seed, problem.pid, method)
        self._journal = Journal(
            store.journal(problem.pid, method),
            self.name,
            warn=warn,
            proposers=Proposers(settings.search, seed=study_seed),
            num_objectives=len(settings.objectives),
            pruner=settings.pruner,
        )
        ranges = Ranges(space.get(method, {}), problem.num_rows)
        new = Beginning(method, ranges, functions, settings, self._journal)
        self._beginning = new.taken_up()
        self._proposals = Proposals(
            problem,
            method,
            settings.seed,
            settings.method_budget,
            self._beginning.ranges,
            functions,
            self._journal,
        )
        self._records = Records(
            problem,
            method,
            settings,
            store,
            self._journal,
            self._proposals.spec,
            self.reference,
            warn,
        )
        self._num_trials = self._num_uncounted = self._dead_in_a_row = 0
        self._waiting: deque[FrozenTrial] = deque()
        self._worst = -math.inf
        """The largest score on this problem."""
        self._id = ""

    # Beginning.

    def changes(self) -> list[str]:
        """What differs between this run's settings and those the study was begun with."""
        return self._beginning.changes()

    def begin(self, reference: Reference) -> list[Asked]:
        """Takes up the study with its reference; returns the trials that must run again.

        Raises:
            StudyChanged: The study was begun with another reference.
        """
        self.reference, ranges, note = self._beginning.settle(reference)
        if note is not None:
            self._warn(f"{self.name}: {note}")
        self._beginning = replace(self._beginning, ranges=ranges)
        self._records = replace(self._records, reference=self.reference)
        self._id = study_id(self._journal.fingerprint or {})
        recorded = self._replay()
        unrecorded = unrecorded_trials(
            self._store, self.problem.pid, self.method, study=self._id, recorded=recorded
        )
        self._proposals = replace(self._proposals, ranges=ranges, unrecorded=unrecorded)
        if self._proposes:
            self._enqueue()
        trials = self._journal.trials()
        self._num_trials = len(trials)
        self._waiting = deque(t for t in trials if t.state == TrialState.WAITING)
        self._num_uncounted = len(self._waiting)
        again = [self._proposals.reopen(t) for t in trials if t.state == TrialState.RUNNING]
        self.in_flight = {asked.number for asked in again}
        return again

    @property
    def _proposes(self) -> bool:
        """Whether it asks by itself, and does not follow another study of a joint one."""
        joint = self.settings.joint
        return not joint or self.problem.pid == joint[0]

    def _enqueue(self) -> None:
        """Has the defaults and the guesses of the config asked first, unless they were."""
        fresh = not self._journal.trials()
        self._proposals = self._proposals.enqueue(self._first_guesses(), fresh=fresh)

    def _first_guesses(self) -> dict[str, Params]:
        return first_guesses(
            self.method,
            self.settings.enqueue,
            ranges=self._proposals.ranges,
            functions=self._functions,
            defaults=self.settings.enqueue_defaults,
        )

    def likely(self) -> list[TrialSpec]:
        """What its first trials may be, the likeliest first.

        Raises:
            ConfigError: A mistake in a function that users edit.
        """
        return self._proposals.likely(self._first_guesses().values())

    def _replay(self) -> set[str]:
        """Takes up the trials that the journal holds; returns their ids."""
        self.progress = StudyProgress(self.reference.se_ref, patience=self.settings.patience)
        recorded = set()
        for ended in self._records.ended():
            self._records.restore_metrics(ended)
            self._take(self._row(ended))
            if self.settings.joint and ended.result.estimate is not None:
                self.score(ended.result)
            recorded.add(ended.spec.trial_id)
        return recorded

    # Asking.

    @property
    def wants_more(self) -> bool:
        """Whether another trial is to be asked now: what was enqueued is run in any case."""
        if self.given_up or len(self.in_flight) >= self.settings.batch_size:
            return False
        counted = self._num_trials - self._num_uncounted - self.progress.num_lost
        goes_on = self.stopped is None and counted < self.settings.max_trials
        return goes_on or bool(self._waiting)

    @property
    def num_left(self) -> int:
        """How many trials have still to end, those in flight counted."""
        if self.given_up or self.stopped is not None:
            return len(self.in_flight)
        ended = self.progress.num_ended - self.progress.num_lost
        return max(len(self.in_flight), self.settings.max_trials - ended)

    def ask(self) -> Asked:
        """Begins the next trial: one that was enqueued, or a new one, drawn.

        A new one whose number the journal has lost is taken up from its own files.
        """
        if self._waiting:
            self._num_uncounted -= 1
            asked = self._proposals.claim(self._waiting.popleft())
        else:
            asked = self._proposals.ask(self._num_trials)
            self._num_trials += 1
        self.in_flight.add(asked.number)
        return asked

    @property
    def num_asked(self) -> int:
        """Trials that were asked, those that only wait to be not counted."""
        return self._num_trials - len(self._waiting)

    def params_of(self, number: int) -> Mapping[str, Any]:
        """The parameters of a trial."""
        return self._journal.trials()[number].params

    def told(self, number: int) -> float | None:
        """What Optuna was told of a trial; None if nothing, or a failure."""
        values = self._journal.trials()[number].values
        return values[0] if values else None

    def follow(self, params: Mapping[str, Any], number: int, refused: str | None = None) -> Asked:
        """Begins the trial that another study of a joint one has begun, with its parameters.

        Raises:
            ConfigError: This study has trials of its own.
        """
        asked = self._proposals.follow(params, number, refused)
        self._num_trials += 1
        self.in_flight.add(asked.number)
        return asked

    def task(self, asked: Asked) -> TrialTask:
        """What a worker is to run for a trial."""
        reference = self.reference
        known = (asked.spec, reference.llc_ref, reference.target)
        return TrialTask(*known, study=self._id, prunes=self.prunes)

    # Pruning.

    @property
    def prunes(self) -> bool:
        """Whether trials are stopped early."""
        return self.settings.pruner != NONE

    def take_reports(self, asked: Asked, reports: TrialReports) -> None:
        """Tells Optuna what a trial has reported so far."""
        for report in reports.read():
            self._journal.report(asked.trial, report.error, report.step)

    def look(self, asked: Asked, reports: TrialReports) -> None:
        """Takes up what a running trial has reported, and has it stopped if the pruner says so.

        It is judged once for each tenth, by the trials that have come that far before it.
        """
        for report in reports.read():
            if self._journal.report(asked.trial, report.error, report.step):
                if self._journal.is_done_with(asked.trial) and reports.pruned_at() is None:
                    reports.prune(report.step)

    # Telling.

    def tell(self, asked: Asked, result: TrialResult, score: float | None = None) -> dict[str, Any]:
        """Ends a trial with its result (a failed one with a penalty); returns its row.

        Args:
            asked: The trial.
            result: What its run came to.
            score: What Optuna is told; by default the `score` of the result.
        """
        if result.status == PRUNED:
            return self._tell_pruned(asked, result)
        judged = result.judged(self.reference.llc_ref, self.reference.se_ref)
        score = self.score(result) if score is None else score
        told = objectives_of(judged, score, self.settings.objectives, self.progress.worst)
        scored = replace(judged, objective=score, objectives=told)
        ended = Ended(asked.number, asked.spec, scored)
        self._journal.tell(asked.trial, list(told.values()), *self._records.to_keep(ended))
        if scored != result:
            self._records.write_metrics(asked.spec, scored)
        leaders = self.progress.leaders
        row = self._end(asked, scored)
        if result.objective is None:  # If told before, it may be the best of another folder.
            self._records.remove_traces((leaders | {asked.spec.trial_id}) - self.progress.leaders)
        return row

    def _tell_pruned(self, asked: Asked, result: TrialResult) -> dict[str, Any]:
        """Ends a trial that was stopped: it is told by its last running error."""
        last = self._journal.last_report(asked.trial)
        told = {} if last is None else {ERROR: last}
        scored = replace(result, objective=last, objectives=told)
        ended = Ended(asked.number, asked.spec, scored)
        self._journal.prune(asked.trial, *self._records.to_keep(ended))
        self._records.write_metrics(asked.spec, scored)
        return self._end(asked, scored)

    def score(self, result: TrialResult) -> float:
        """How good a result is on this problem, a penalty without an estimate.

        In a joint study it is a share of the reference, since it enters a mean over problems.
        """
        llc_ref, settings = self.reference.llc_ref or 0.0, self.settings
        how: dict[str, Any] = {"huber_delta": settings.huber_delta, "objective": settings.objective}
        judged = result.judged(self.reference.llc_ref, self.reference.se_ref)
        score = self._functions.score(judged.to_json(), llc_ref, **how)
        if not settings.joint:
            floor, worst = max(abs(llc_ref), 1.0), self.progress.worst.get(ERROR, -math.inf)
        else:
            score /= 1.0 if settings.objective == "relative" else abs(llc_ref) or 1.0
            floor, worst = 1.0, self._worst
        if not math.isfinite(score):
            return penalty(self._functions.score_of_error(floor, **how), worst)
        self._worst = max(self._worst, score)
        return score

    def lose(self, asked: Asked, reason: str) -> dict[str, Any]:
        """Ends a trial that nobody could run; another is asked in its place."""
        result = asked.spec.failure(reason, llc_ref=self.reference.llc_ref)
        ended = Ended(asked.number, asked.spec, result)
        self._journal.lose(asked.trial, *self._records.to_keep(ended))
        return self._end(asked, result)

    def give_up(self, reason: str, asked: Asked | None = None) -> None:
        """Ends the study early; a trial that could not be told stays to be told by the next run."""
        self.given_up, self.stopped = True, reason.rstrip(".")
        if asked is not None:
            self.in_flight.discard(asked.number)

    def _end(self, asked: Asked, result: TrialResult) -> dict[str, Any]:
        row = self._row(Ended(asked.number, asked.spec, result))
        self.in_flight.discard(asked.number)
        self._take(row)
        if asked.refused is None:
            self._count_dead(result)
        return row

    def _count_dead(self, result: TrialResult) -> None:
        """Gives up after too many trials in a row whose workers died, or that nobody could run."""
        dead = result.worker_died or (result.objective is None and result.status != PRUNED)
        self._dead_in_a_row = self._dead_in_a_row + 1 if dead else 0
        if self._dead_in_a_row >= MAX_DEAD:
            self.given_up = True
            reason = (result.error_msg or "").rstrip(".")
            self.stopped = f"{MAX_DEAD} trials in a row lost their workers, the last one: {reason}"

    def _take(self, row: Mapping[str, Any]) -> None:
        self.progress.take(row)
        if self.progress.converged and self.stopped is None:
            patience = self.settings.patience
            self.stopped = f"converged: no gain beyond the reference's error in {patience} trials"

    # What there is.

    @property
    def plugin(self) -> Plugin | None:
        """What workers need of the user's plugin, if anything."""
        return self._functions.shipped

    @property
    def failure(self) -> str | None:
        """Why the study, once ended, is no success, as a sentence."""
        if self.given_up:
            return f"Study {self.name} gave up: {self.stopped}."
        if self.progress.best is not None or self.progress.last is None:
            return None
        limit = self.settings.max_seconds
        if limit is not None and self.progress.num_failed < self.progress.num_ended:
            return f"Study {self.name} has no trial with an estimate within {limit:g} s."
        return (
            f"Study {self.name} has no result: all {self.progress.num_ended} trials failed, the "
            f"last one because {self.progress.last['error_msg']}"
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each trial that has ended, by number; each is made when it is its turn."""
        return map(self._row, self._records.ended())

    def _row(self, ended: Ended) -> dict[str, Any]:
        return self._records.row(ended, self.progress.front)

    def snapshot(self) -> None:
        """Refreshes the pickled study."""
        self._journal.snapshot(self._store.snapshot(self.problem.pid, self.method))
