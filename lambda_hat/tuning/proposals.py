"""Asks the trials of one study: new ones, those a killed run left, those its journal has lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import FixedTrial, FrozenTrial, Trial

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.ranged_trial import NotInRange, Ranges
from lambda_hat.conf.search_space import Suggests
from lambda_hat.trial import ProblemItem, TrialSpec, derive_seed
from lambda_hat.tuning.functions import StudyFunctions, probe
from lambda_hat.tuning.journal import Journal
from lambda_hat.tuning.warm_start import Params

NUM_LIKELY = 16
"""Settings drawn at random to tell which programs trials will share."""


@dataclass(frozen=True)
class Asked:
    """A trial on its way."""

    number: int
    trial: Trial
    spec: TrialSpec
    refused: str | None = None
    """Why it cannot be run: it was enqueued with a value that its range cannot hold."""


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
    guesses: dict[str, Params] = field(default_factory=dict)
    """What was enqueued and is among these, by name."""

    def ask(self, number: int) -> Asked:
        """Draws the next trial, or takes up the one of its number that the journal has lost."""
        trial = self._restore(number) or self.journal.ask(self._seed("tpe", number))
        return self._draw(trial)

    def reopen(self, frozen: FrozenTrial) -> Asked:
        """A trial that a killed run left behind, as it was asked."""
        trial = self.journal.reopen(frozen, self._seed("tpe", frozen.number))
        return self._draw(trial, fixed_params(frozen))

    def claim(self, waiting: FrozenTrial) -> Asked:
        """A trial that was enqueued, by us or by the user."""
        trial = self.journal.claim(waiting, self._seed("tpe", waiting.number))
        return self._draw(trial, fixed_params(waiting))

    def follow(self, params: Mapping[str, Any], number: int, refused: str | None = None) -> Asked:
        """The trial that another problem's study of a joint one has asked, with its parameters.

        Raises:
            ConfigError: This study has trials of its own.
        """
        fixed = FixedTrial(dict(params), number)
        hyperparams = {} if refused else self._suggest(fixed)
        trial = self.journal.restore(fixed, self._seed("tpe", number))
        if trial.number != number:
            raise ConfigError(
                [
                    "The studies of a joint one must have the same trials, but "
                    f"{self.journal.name} has {trial.number} where {number} is asked. Give another "
                    "--results-dir."
                ]
            )
        return Asked(number, trial, self.spec(number, hyperparams), refused)

    def likely(self, guesses: Iterable[Params]) -> list[TrialSpec]:
        """What the first trials may be: the guesses, and a few at random; none is asked.

        Raises:
            ConfigError: A mistake in a function that users edit.
        """
        drawn = [*(probe(0, params) for params in guesses), *map(probe, range(NUM_LIKELY))]
        return [self.spec(0, self._suggest(trial)) for trial in drawn]

    def enqueue(self, guesses: Mapping[str, Params], *, fresh: bool) -> Proposals:
        """Has what was not tried yet asked next.

        Args:
            guesses: By name; what the journal has lost and has been run is taken up from there.
            fresh: Whether the journal has no trial: the defaults come first, or not at all.
        """
        lost = {}
        enqueued = self.journal.enqueued()
        for name, params in guesses.items():
            if name in enqueued or (name == "defaults" and not fresh):
                continue
            if any(params.items() <= dict(run).items() for run in self.unrecorded.values()):
                lost[name] = params
            elif name != "defaults" or not self.unrecorded:
                self.journal.enqueue(params, name=name)
        return replace(self, guesses=lost)

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
        names = [n for n, params in self.guesses.items() if params.items() <= hyperparams.items()]
        name = names[0] if names else None
        self.guesses.pop(name or "", None)
        return self.journal.restore(fixed, self._seed("tpe", number), name=name)

    def _draw(self, trial: Trial, fixed: Mapping[str, Any] | None = None) -> Asked:
        try:
            hyperparams = self._suggest(trial, fixed)
        except NotInRange as refusal:
            spec = self.spec(trial.number, {name: str(v) for name, v in (fixed or {}).items()})
            return Asked(trial.number, trial, spec, refused=str(refusal))
        return Asked(trial.number, trial, self.spec(trial.number, hyperparams))

    def _suggest(self, trial: Suggests, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self.functions.suggest(trial, self.method, self.ranges, fixed=fixed)

    def _seed(self, use: str, number: int) -> int:
        return derive_seed(use, self.seed, self.problem.pid, self.method, number)


def fixed_params(trial: FrozenTrial) -> Mapping[str, Any]:
    """What a trial was enqueued with."""
    return trial.system_attrs.get("fixed_params", {})
