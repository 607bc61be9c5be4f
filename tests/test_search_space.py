"""Method -> hyperparameters: the ranges, and how a config changes them."""

from __future__ import annotations

from typing import cast

import optuna
import pytest
from optuna.distributions import FloatDistribution

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.compose import compose_sampler
from lambda_hat.conf.ranged_trial import RangedTrial, Ranges
from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.conf.search_space import (
    SEARCH_SPACE,
    Categorical,
    Float,
    Int,
    bounds_of,
    draw_params,
    read_search_space,
)
from lambda_hat.entrypoints import parsl_optuna

CONTRACT = {
    "sgld": {"eta0", "gamma", "batch", "precond_type", "steps"},
    "vi": {"lr", "M", "r", "whitening_mode", "steps", "batch_size", "correction", "ais_steps"},
    "mclmc": {"step_size", "target_accept", "L", "steps"},
}


def test_every_sampler_but_the_reference_can_be_tuned_by_its_contract_names() -> None:
    assert set(SEARCH_SPACE) == set(SAMPLERS) - {"hmc"}
    assert {method: set(ranges) for method, ranges in SEARCH_SPACE.items()} == CONTRACT


@pytest.mark.parametrize("method", SEARCH_SPACE)
def test_no_end_of_a_range_is_refused_by_its_sampler(method: str) -> None:
    for name, entry in SEARCH_SPACE[method].items():
        for value in entry.probes:
            assert getattr(compose_sampler(method, {name: value}), name) == value


@pytest.mark.parametrize("method", SEARCH_SPACE)
def test_suggestions_are_settings_of_the_sampler(method: str) -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    params = parsl_optuna.suggest_method_params(trial, method)
    assert params == trial.params
    compose_sampler(method, params)


def test_a_config_changes_a_part_of_a_range_and_leaves_the_rest() -> None:
    space = read_search_space({"vi": {"lr": {"high": 0.01}, "M": {"choices": [1, 4]}}})
    assert space["vi"]["lr"] == Float(1e-4, 0.01, log=True)
    assert space["vi"]["M"] == Categorical((1, 4))
    assert space["vi"]["r"] == SEARCH_SPACE["vi"]["r"]
    assert space["sgld"] == SEARCH_SPACE["sgld"]


def test_any_setting_of_a_sampler_can_be_searched() -> None:
    mclmc = {
        "adjusted": {"choices": [False]},
        "target_accept": {"choices": [0.8]},
        "num_chains": {"low": 2, "high": 8},
    }
    space = read_search_space({"mclmc": mclmc})
    assert space["mclmc"]["adjusted"] == Categorical((False,))
    assert space["mclmc"]["num_chains"] == Int(2, 8)


def test_a_number_with_choices_can_be_searched_as_a_range() -> None:
    space = read_search_space({"vi": {"M": {"low": 1, "high": 16}}})
    assert space["vi"]["M"] == Int(1, 16)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"sgd": {}}, "Did you mean 'sgld'?"),
        ({"vi": {"lrr": {"low": 1}}}, "(search_space.vi). Did you mean 'lr'?"),
        ({"vi": {"lr": {"hihg": 1}}}, "(search_space.vi.lr). Did you mean 'high'?"),
        ({"vi": {"lr": {"low": "x"}}}, "`low` must be a finite number"),
        ({"vi": {"lr": {"low": 1, "high": 0.5}}}, "`low <= high` must hold"),
        ({"vi": {"lr": {"low": 0}}}, "set log: false"),
        ({"vi": {"r": {"low": -1, "high": 2}}}, "`r >= 0` must hold"),
        ({"sgld": {"batch": {"choices": [0]}}}, "`batch >= 1` must hold"),
        ({"sgld": {"batch": {"choices": []}}}, "`choices` must be a list with one value"),
        ({"sgld": {"precond_type": {"low": 1, "high": 3}}}, "must be one of choices"),
        ({"vi": {"M": {"low": 1}}}, "search_space.vi.M"),
        ({"mclmc": {"adjusted": {"choices": [True, False]}}}, "Plain MCLMC accepts all"),
        ({"vi": {"lr": 3}}, "must be a mapping"),
        ([1], "must be a mapping"),
    ],
)
def test_a_wrong_space_is_refused_with_a_sentence(raw: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_search_space(raw)
    assert said in str(caught.value)


def suggested(ranges: Ranges, low: float, high: float) -> FloatDistribution:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    RangedTrial(trial, ranges).suggest_float("eta0", low, high, log=True)
    return cast(FloatDistribution, trial.distributions["eta0"])


def test_a_problem_bounds_the_steps_of_sgld_unless_the_user_gave_a_range() -> None:
    bounds = bounds_of("sgld", 1234.0)
    assert bounds == {"eta0": 8.1e-4} and bounds_of("sgld", None) == bounds_of("vi", 1.0) == {}
    assert suggested(Ranges(most=bounds), 1e-7, 0.1) == FloatDistribution(1e-7, 8.1e-4, log=True)
    assert suggested(Ranges(most=bounds), 1e-3, 0.1).high == 0.1  # Somebody edited the range.
    given = {"eta0": Float(1e-5, 0.01, log=True)}
    assert suggested(Ranges(given, most=bounds), 1e-7, 0.1).high == 0.01


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mclmc'"):
        draw_params(optuna.create_study().ask(), "mclm")
