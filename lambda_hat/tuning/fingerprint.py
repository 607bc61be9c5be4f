"""Settings -> fingerprint: what a study's scores depend on, so that none are ever mixed."""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import distribution_to_json

from lambda_hat.conf.compose import compose_sampler
from lambda_hat.conf.search_space import Space, suggest_method_params
from lambda_hat.tuning.objective import objective_from_metrics

ADVICE = (
    "Scores of both must not be mixed: undo the change, or give another --results-dir "
    "(a finished trial with the same settings, seed and budget is reused there)."
)


class StudyChanged(ValueError):
    """A study on disk was begun with other settings than this run's."""


def fingerprint(
    method: str, space: Space, *, seed: int, huber_delta: float | None, method_budget: float
) -> dict[str, Any]:
    """What decides the proposals and scores of a study, apart from its reference.

    The search space and the objective are tried, not read: an edit of `suggest_method_params`
    or `objective_from_metrics` shows too.

    Raises:
        ConfigError: The search proposes a setting that the sampler refuses.
    """
    probe = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    compose_sampler(method, suggest_method_params(probe, method, space), where="search space")
    ranges = {
        name: json.loads(distribution_to_json(entry))["attributes"]
        for name, entry in probe.distributions.items()
    }
    example = {"status": "complete", "se_hat": 0.1, "runtime_sec": 1.0, "diagnostics": {}}
    scores = {
        f"of error {error:g}": objective_from_metrics(
            {**example, "llc_hat": 1.0 + error}, 1.0, huber_delta=huber_delta
        )
        for error in (0.1, 10.0)
    }
    return {
        "search_space": json.loads(json.dumps(ranges)),
        "optuna": {
            "seed": seed,
            "huber_delta": huber_delta,
            "method_budget": float(method_budget),
        },
        "objective": scores,
    }


def differences(old: object, new: object, name: str = "") -> list[str]:
    """The leaves in which two nested mappings differ, as phrases."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        prefix = f"{name}." if name else ""
        return [
            phrase
            for key in keys
            for phrase in differences(old.get(key), new.get(key), f"{prefix}{key}")
        ]
    return [f"{name} was {old} and is now {new}"]
