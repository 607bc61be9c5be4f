"""Settings to try first: a method's defaults and a user's guesses, as the search has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.compose import compose_sampler
from lambda_hat.conf.ranged_trial import NotInRange, Ranges
from lambda_hat.store import canonical_json
from lambda_hat.tuning.functions import StudyFunctions, probe

Params = dict[str, Any]


@dataclass(frozen=True)
class Guess:
    """Settings of one method that a user wants tried; those left out are drawn."""

    method: str
    params: Params


def first_guesses(
    method: str,
    guesses: Iterable[Guess],
    *,
    ranges: Ranges,
    functions: StudyFunctions,
    defaults: bool,
) -> dict[str, Params]:
    """What a study tries first, each as near to what was meant as its ranges have it.

    Args:
        method: The study's.
        guesses: Of all methods.
        ranges: What comes before the ranges of the functions.
        functions: What is searched.
        defaults: Whether the method's defaults come first.

    Returns:
        By a name that a guess keeps from run to run.
    """
    trial = probe(seed=0)
    functions.suggest(trial, method, ranges)
    meant = [guess.params for guess in guesses if guess.method == method]
    named = {canonical_json(params): params for params in meant}
    if defaults:
        named = {"defaults": asdict(compose_sampler(method)), **named}
    return {name: _settle(params, trial.distributions) for name, params in named.items()}


def check_guess(guess: Guess, *, ranges: Ranges, functions: StudyFunctions) -> None:
    """Tries a guess.

    Raises:
        ConfigError: It has a setting that is not searched, a value out of its range, or one that
            the sampler refuses.
    """
    trial = probe(0, guess.params)
    try:
        hyperparams = functions.suggest(trial, guess.method, ranges, fixed=guess.params)
    except NotInRange as refusal:
        said = f"A guess for {guess.method} cannot be tried (optuna.enqueue). {refusal}"
        raise ConfigError([said]) from None
    faults = [
        f"`{name}` must lie in its search range, {trial.distributions[name]}, but got {value!r} "
        f"(optuna.enqueue, {guess.method}). Widen it in `search_space`."
        for name, value in guess.params.items()
        if not _holds(trial.distributions[name], value)
    ]
    if faults:
        raise ConfigError(faults)
    functions.build(guess.method, hyperparams)


def _holds(range_: BaseDistribution, value: Any) -> bool:
    try:
        return bool(range_._contains(range_.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False


def _settle(params: Params, ranges: Mapping[str, BaseDistribution]) -> Params:
    """The parameters that are searched, each at the nearest value that its range holds."""
    near = {name: _nearest(ranges[name], params[name]) for name in ranges if name in params}
    return {name: value for name, value in near.items() if value is not None}


def _nearest(range_: Any, value: Any) -> Any:
    if _holds(range_, value):
        return value
    numeric = isinstance(value, int | float)
    if not isinstance(range_, CategoricalDistribution):
        return min(max(value, range_.low), range_.high) if numeric else None
    choices = [c for c in range_.choices if isinstance(c, int | float) and c > 0]
    if not numeric or value <= 0 or not choices:
        return None
    return min(choices, key=lambda choice: (abs(math.log(choice / value)), -choice))
