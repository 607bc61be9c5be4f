"""What a study's scores depend on, kept with the study so that none are ever mixed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import distribution_to_json

from lambda_hat.conf.ranged_trial import Ranges
from lambda_hat.trial import SCHEMA_OF, Reference
from lambda_hat.tuning.functions import StudyFunctions, probe
from lambda_hat.tuning.pruners import NONE
from lambda_hat.tuning.settings import StudySettings

ADVICE = (
    "Scores of both must not be mixed: undo the change, or give another --results-dir "
    "(a finished trial with the same settings, seed and budget is reused there)."
)


class StudyChanged(ValueError):
    """A study on disk was begun with other settings than this run's."""


def fingerprint(
    method: str,
    ranges: Ranges,
    functions: StudyFunctions,
    settings: StudySettings,
) -> dict[str, Any]:
    """What decides the proposals and scores of a study, apart from its reference.

    The search space and the objective are tried, not read: an edit of `suggest_method_params`
    or `objective_from_metrics` shows too.

    A plugin is part of it by its text.

    Raises:
        ConfigError: A mistake in one of the functions.
    """
    trial = probe(seed=0)
    functions.suggest(trial, method, ranges)
    searched = {
        name: json.loads(distribution_to_json(entry))["attributes"]
        for name, entry in trial.distributions.items()
    }
    scores = {
        f"of error {error:g}": functions.score_of_error(
            error, huber_delta=settings.huber_delta, objective=settings.objective
        )
        for error in (0.1, 10.0)
    }
    plugin = {} if functions.plugin is None else {"plugin": functions.plugin.digest}
    # The two objectives that earlier versions had are told by `huber_delta`, in their studies too.
    named = settings.objective not in ("abs", "huber")
    several = len(settings.objectives) > 1
    return {
        "search_space": json.loads(json.dumps(searched)),
        "optuna": {
            "seed": settings.seed,
            "huber_delta": settings.huber_delta,
            **({"objective": settings.objective} if named else {}),
            "method_budget": float(settings.method_budget),
            **({"objectives": list(settings.objectives)} if several else {}),
            **settings.search.described(),
            **({} if settings.pruner == NONE else {"pruner": settings.pruner}),
            **({"joint": list(settings.joint)} if settings.joint else {}),
        },
        "objective": scores,
        **({"method_schema": SCHEMA_OF[method]} if method in SCHEMA_OF else {}),
        **plugin,
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


def identity(reference: Reference) -> dict[str, Any]:
    """What a fingerprint holds of the reference that a study's trials are scored against."""
    return {
        "target": reference.target,
        "llc_ref": reference.llc_ref,
        "se_ref": reference.se_ref,
    }


def reference_to_keep(was: Mapping[str, Any], reference: Reference) -> tuple[Reference, str | None]:
    """The reference that a study goes on with: in its value the one that it was begun with.

    Args:
        was: The `identity` of the reference it was begun with; older studies name no target.
        reference: The one that there is now.

    Returns:
        The reference, and what to tell the user where the two differ within their errors.

    Raises:
        StudyChanged: They are of two targets, or their values do not agree.
    """
    now = identity(reference)
    if was == now or reference.llc_ref is None:
        return reference, None
    if was.get("target", now["target"]) != now["target"]:
        raise StudyChanged(
            f"its target was {was['target']} and is now {now['target']}, which training on "
            "another processor or JAX can come to. Scores of both must not be mixed: put the "
            "first one's target.json and target.npz back, or give another --results-dir."
        )
    change = f"its reference was {_value(was)} and is now {_value(now)}"
    gap = abs(was["llc_ref"] - reference.llc_ref)
    if gap > 3 * math.hypot(was["se_ref"], reference.se_ref):
        raise StudyChanged(f"{change}. {ADVICE}")
    kept = replace(reference, llc_ref=was["llc_ref"], se_ref=was["se_ref"])
    return kept, f"{change}, which agree; the study keeps the first."


def _value(reference: Mapping[str, Any]) -> str:
    return f"{reference['llc_ref']:.6g} (se {reference['se_ref']:.2g})"
