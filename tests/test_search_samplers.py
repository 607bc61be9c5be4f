"""What proposes the trials: every sampler that a config can name, over instant trials."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_study import Line

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.plans import OptunaSection, read_study_plan
from lambda_hat.tuning.search_samplers import KINDS, Proposers, SearchSampler, read_search_sampler

SMALL: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "cmaes": {"popsize": 3},
    "nsgaii": {"population_size": 4},
}
"""Settings with which a sampler leaves chance behind within a dozen trials."""


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def there(name: str) -> bool:
    needs = KINDS[name].needs
    return needs is None or importlib.util.find_spec(needs) is not None


NAMES = [
    pytest.param(n, marks=pytest.mark.skipif(not there(n), reason=f"{n} needs a package"))
    for n in KINDS
]


def search(name: str) -> SearchSampler:
    return SearchSampler(name, KINDS[name].settings(**SMALL.get(name, {})))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_study_proposes_what_an_uninterrupted_one_would_have(
    name: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"methods": ("sgld",), "batch_size": 1, "search": search(name)}
    whole, parts = Line(tmp_path / "whole"), Line(tmp_path / "parts")
    whole.run(max_trials=14, **settings)
    for end in (5, 9, 14):
        parts.run(max_trials=end, **settings)
        if end == 9:
            parts.studies[0].ask()  # Killed while this one runs.
    assert list(whole.table.trial_id) == list(parts.table.trial_id)
    assert len(set(whole.table.trial_id)) == 14


@pytest.mark.parametrize("name", NAMES)
def test_trials_side_by_side_differ(name: str, line: Line) -> None:
    line.run(methods=("vi",), max_trials=12, batch_size=4, search=search(name))
    bred = name == "nsgaii"  # A child may have its parent's settings.
    assert line.table.params_lr.nunique() >= (7 if bred else 12)


def test_every_sampler_proposes_its_own(tmp_path: Path) -> None:
    proposed = {}
    for name in filter(there, KINDS):
        line = Line(tmp_path / name)
        line.run(methods=("sgld",), max_trials=12, batch_size=1, search=search(name))
        proposed[name] = tuple(line.table.params_eta0)
    assert len(set(proposed.values())) == len(proposed)


def test_the_search_gains_over_chance(tmp_path: Path) -> None:
    mean = {}
    for name in ("random", "tpe", "cmaes"):
        line = Line(tmp_path / name)
        line.run(methods=("sgld",), max_trials=40, batch_size=1, search=search(name))
        mean[name] = line.table.error.tail(20).mean()
    assert mean["tpe"] < mean["random"] and mean["cmaes"] < mean["random"]


def test_cma_es_leaves_no_pickle_in_the_journal(line: Line) -> None:
    line.run(methods=("sgld",), max_trials=14, batch_size=1, search=search("cmaes"))
    text = line.store.journal(line.problem.pid, "sgld").read_text()
    assert "cma:generation" in text and "cma:optimizer" not in text


def test_a_scrambled_sequence_is_the_studys_own() -> None:
    def points(seed: int) -> list[float]:
        proposers, study = Proposers(search("qmc"), seed=seed), optuna.create_study()
        found = []
        for number in range(4):
            study.sampler = proposers.of(number)
            trial = study.ask()
            found.append(trial.suggest_float("x", 0.0, 1.0))
            study.tell(trial, 0.0)
        return found[1:]  # The first is drawn before there is a space.

    assert points(1) == points(1) != points(2)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("bayes", {}, "`sampler` must be one of cmaes, gp, nsgaii, qmc, random, tpe"),
        ("TPE", {}, "Did you mean 'tpe'?"),
        ("tpe", {"n_startup_trial": 3}, "Did you mean 'n_startup_trials'?"),
        ("tpe", {"n_startup_trials": -1}, "`n_startup_trials >= 0` must hold"),
        ("qmc", {"qmc_type": "sobel"}, "Did you mean 'sobol'?"),
        ("random", {"seed": 3}, "must be left out for random, which has none, but got seed"),
    ],
)
def test_what_no_sampler_can_be_is_a_sentence(name: str, given: dict, said: str) -> None:
    faults: list[str] = []
    assert read_search_sampler(name, given, faults) is None
    assert len(faults) == 1 and said in faults[0]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.needs])
def test_a_missing_package_is_said_with_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    faults: list[str] = []
    assert read_search_sampler(name, {}, faults) is None
    assert f"uv pip install {KINDS[name].needs}" in faults[0]


def test_a_config_names_its_sampler(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "problems: [{model: small}]\nmethods: [vi]\n"
        "optuna: {sampler: nsgaii, sampler_settings: {population_size: 8}}\n"
        f"artifacts_dir: {tmp_path}/a\nresults_dir: {tmp_path}/r\n"
    )
    plan = read_study_plan(path, [], {})
    assert plan.settings.search.name == "nsgaii"
    assert asdict(plan.settings.search.settings)["population_size"] == 8
    with pytest.raises(ConfigError, match="must be one of"):
        read_study_plan(path, ["optuna.sampler_settings.popsize=4"], {})


def test_the_default_is_one_that_is_known() -> None:
    default = next(f.default for f in fields(OptunaSection) if f.name == "sampler")
    assert default == SearchSampler().name and SearchSampler().described() == {}


def test_a_study_does_not_go_on_with_another_sampler(line: Line) -> None:
    line.run(methods=("vi",), max_trials=3)
    line.run(methods=("vi",), max_trials=3, search=search("random"))
    assert "optuna.sampler was None and is now random" in line.studies[0].changes()
