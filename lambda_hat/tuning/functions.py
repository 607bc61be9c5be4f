"""The functions that users edit, as a study calls them: by one signature, and checked."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.ranged_trial import RangedTrial, Ranges
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.conf.search_space import Suggests
from lambda_hat.plugin import Plugin, build_settings, call_edited, refuse_value
from lambda_hat.trial import TrialResult

NUM_PROBES = 5
"""Proposals that are tried before a study begins, for what they ask of the sampler."""


@dataclass(frozen=True)
class StudyFunctions:
    """What is asked for, what settings that makes, and how good the outcome is.

    The objective and the settings of a trial depend on nothing else that a user can edit.
    """

    suggest_method_params: Callable[[Any, str], Mapping[str, Any]]
    objective_from_metrics: Callable[..., float]
    build_sampler_cfg: Callable[[Mapping[str, Any]], Any]
    plugin: Plugin | None = None
    """Where some of them come from, if not from the package."""

    def with_plugin(self, plugin: Plugin | None) -> StudyFunctions:
        """The same with the functions that a plugin defines in their place."""
        if plugin is None:
            return self

        def own(name: str) -> Callable[..., Any]:
            return plugin.function(name) or getattr(self, name)

        return StudyFunctions(
            own("suggest_method_params"),
            own("objective_from_metrics"),
            own("build_sampler_cfg"),
            plugin,
        )

    @property
    def shipped(self) -> Plugin | None:
        """What workers need of the plugin: all of it where it builds settings, else nothing."""
        builds = self.plugin is not None and self.plugin.function("build_sampler_cfg") is not None
        return self.plugin if builds else None

    def suggest(
        self,
        trial: Suggests,
        method: str,
        ranges: Ranges,
        *,
        fixed: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A trial's hyperparameters.

        Args:
            trial: An Optuna trial, or anything that suggests.
            method: The method.
            ranges: What comes before the ranges of the function.
            fixed: Values that the trial was enqueued with.

        Raises:
            ConfigError: A mistake in the function, with file and line.
            NotInRange: A value that was enqueued cannot be.
        """
        ranged = RangedTrial(trial, ranges, fixed)
        function = self.suggest_method_params
        given = call_edited(function, ranged, method)
        if not isinstance(given, Mapping) or not all(map(_is_plain, given.values())):
            rule = f"a mapping of settings, each a number or a name, for {method!r}"
            raise refuse_value(function, rule, given)
        return {**given, **ranged.draw_rest()}

    def score(
        self,
        metrics: Mapping[str, Any],
        ref_llc: float,
        *,
        huber_delta: float | None,
        objective: str = "abs",
    ) -> float:
        """What a trial is told: the objective of its metrics; infinity without an estimate.

        A noisy trial is scored as if it were off by its error and its uncertainty together, so that
        luck cannot win under any objective.

        Raises:
            ConfigError: A mistake in the function, with file and line.
        """
        result = TrialResult.from_json(metrics)
        if result.estimate is None:
            return math.inf
        score = self._call_objective(metrics, ref_llc, huber_delta=huber_delta, objective=objective)
        if (error := result.scored_as) is None:
            return score
        off = {**metrics, "llc_hat": ref_llc + error, "error": error}
        return max(
            score, self._call_objective(off, ref_llc, huber_delta=huber_delta, objective=objective)
        )

    def _call_objective(
        self,
        metrics: Mapping[str, Any],
        ref_llc: float,
        *,
        huber_delta: float | None,
        objective: str = "abs",
    ) -> float:
        function = self.objective_from_metrics
        known = inspect.signature(function).parameters
        settings = {"huber_delta": huber_delta, "objective": objective}
        given = {name: value for name, value in settings.items() if name in known}
        value = call_edited(function, metrics, ref_llc, **given)
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise refuse_value(function, "a number", value) from None
        return math.inf if math.isnan(score) else score

    def score_of_error(
        self, error: float, *, huber_delta: float | None, objective: str = "abs"
    ) -> float:
        """What a made-up trial with this error is told."""
        metrics = {**_EXAMPLE, "llc_hat": 1.0 + error}
        return self.score(metrics, 1.0, huber_delta=huber_delta, objective=objective)

    def build(self, method: str, hyperparams: Mapping[str, Any]) -> SamplerConfig:
        """The settings that a worker will make of a trial's hyperparameters.

        Raises:
            ConfigError: The sampler refuses them, or a mistake in the function.
        """
        try:
            return build_settings(self.build_sampler_cfg, {"name": method, **hyperparams})
        except ConfigError as error:
            place = f"(proposed for {method})"
            raise ConfigError([f.replace("(method_cfg)", place) for f in error.faults]) from error

    def check(self, method: str, ranges: Ranges) -> None:
        """Tries some proposals, so that no trial meets what its sampler refuses.

        Raises:
            ConfigError: Of the first that is refused.
        """
        for seed in range(NUM_PROBES):
            self.build(method, self.suggest(probe(seed), method, ranges))


def probe(seed: int, params: Mapping[str, Any] | None = None) -> optuna.Trial:
    """A trial of no study, drawn at random but for the given parameters."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    if params:
        study.enqueue_trial(dict(params))
    return study.ask()


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _numbers(**known: float) -> Mapping[str, float]:
    return defaultdict(lambda: 1.0, known)


_EXAMPLE: dict[str, Any] = {
    "status": "complete",
    "se_hat": 0.1,
    "runtime_sec": 1.0,
    "diagnostics": _numbers(ess=100.0, rhat=1.0),
    "seconds": _numbers(sample=1.0),
    "work": _numbers(full_gradients=100.0),
    "llc_ref": 1.0,
    "budget_exhausted": False,
    "hyperparams": {},
}
