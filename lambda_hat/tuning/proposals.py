"""Asks the trials of one study: new ones, those a killed run left, those its journal has lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, Trial

from lambda_hat.conf.ranged_trial import Ranges
from lambda_hat.conf.search_space import Suggests
from lambda_hat.trial import ProblemItem, TrialSpec, derive_seed
from lambda_hat.tuning.functions import StudyFunctions
from lambda_hat.tuning.journal import Journal


@dataclass(frozen=True)
class Asked:
    """A trial on its way."""

    number: int
    trial: Trial
    spec: TrialSpec


@dataclass(frozen=True)
class Proposals:
    """What one study asks for, decided by its seed, a trial's number and the trials told so far."""

    problem: ProblemItem
    method: str
    seed: int
    budget_sec: float
    """Of each trial."""
    ranges: Ranges
    functions: StudyFunctions
    journal: Journal
    unrecorded: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Trials that the journal has lost and that are not yet asked again: settings by seed."""

    def ask(self, number: int) -> Asked:
        """Draws the next trial, or takes up the one of its number that the journal has lost."""
        trial = self._restore(number) or self.journal.ask(self._seed("tpe", number))
        return self._draw(trial)

    def reopen(self, frozen: FrozenTrial) -> Asked:
        """A trial that a killed run left behind, as it was asked."""
        return self._draw(self.journal.reopen(frozen, self._seed("tpe", frozen.number)))

    def spec(self, number: int, hyperparams: Mapping[str, Any]) -> TrialSpec:
        """The trial of a number, with these settings."""
        return TrialSpec(
            pid=self.problem.pid,
            problem=self.problem.spec,
            method=self.method,
            hyperparams=hyperparams,
            seed=self._seed("trial", number),
            budget_sec=self.budget_sec,
            plugin=self.functions.shipped,
        )

    def _restore(self, number: int) -> Trial | None:
        hyperparams = self.unrecorded.pop(self._seed("trial", number), None)
        if hyperparams is None:
            return None
        fixed = FixedTrial(dict(hyperparams), number)
        try:
            if self._suggest(fixed) != hyperparams:
                return None
        except ValueError:
            return None  # What was suggested is not what the sampler was given.
        return self.journal.restore(fixed, self._seed("tpe", number))

    def _draw(self, trial: Trial) -> Asked:
        hyperparams = self._suggest(trial)
        return Asked(trial.number, trial, self.spec(trial.number, hyperparams))

    def _suggest(self, trial: Suggests) -> dict[str, Any]:
        return self.functions.suggest(trial, self.method, self.ranges)

    def _seed(self, use: str, number: int) -> int:
        return derive_seed(use, self.seed, self.problem.pid, self.method, number)
