"""What users' guide shows: its configs, commands, snippets and edits, each as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.parsl_optuna import main
from lambda_hat.entrypoints.settings import read_llc_plan, read_study_plan

ROOT = Path(__file__).resolve().parents[1]

MY_RUN = """\
problems:
  - model: small
    data: base
    teacher: _null
    seed: 42

methods:
  - vi
  - sgld

optuna:
  max_trials: 100          # Trials per (problem, method)
  batch_size: 16           # Concurrent trials
  hmc_budget_sec: 7200     # HMC reference: 2 hours
  method_budget_sec: 600   # Method trial: 10 minutes
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(config: object, name: str = "my_optuna_run.yaml") -> Path:
    Path(name).write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return Path(name)


# The config.


def test_its_config_is_taken_as_it_stands() -> None:
    plan = read_study_plan(write(MY_RUN), [], {})
    assert (plan.settings.max_trials, plan.settings.batch_size) == (100, 16)
    assert (plan.reference.budget_sec, plan.settings.method_budget) == (7200.0, 600.0)
    assert plan.methods == ("vi", "sgld") and plan.problems[0].spec["seed"] == 42


def test_the_shipped_quickstart_is_its_config() -> None:
    shipped = yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text())
    asked = yaml.safe_load(MY_RUN)
    assert shipped["problems"] == asked["problems"] and shipped["methods"] == asked["methods"]
    assert asked["optuna"].items() <= shipped["optuna"].items()
    assert main(["--config", str(ROOT / "config/quickstart.yaml"), "--local", "--dry-run"]) == 0


def test_its_defaults_hold() -> None:
    raw = yaml.safe_load(MY_RUN)
    plan = read_study_plan(write({"problems": raw["problems"], "methods": ["mclmc"]}), [], {})
    assert (plan.settings.max_trials, plan.settings.batch_size) == (200, 32)
    assert (plan.reference.budget_sec, plan.settings.method_budget) == (36000.0, 6000.0)


def test_its_overrides_of_a_problem_are_taken() -> None:
    raw = yaml.safe_load(MY_RUN)
    raw["problems"][0]["overrides"] = {"model": {"depth": 3, "target_params": 5000}}
    assert len(read_study_plan(write(raw), [], {}).problems) == 1


BUDGETS = [
    ("hmc_budget: 9", [], {}),
    ("hmc_budget_sec: 9", [], {}),
    ("hmc_budget_sec: 7", ["optuna.hmc_budget=9"], {}),
    ("hmc_budget: 7", ["optuna.hmc_budget_sec=9"], {}),
    ("hmc_budget: 7", ["optuna={hmc_budget: 9}"], {}),
    ("hmc_budget: 7", ["optuna.hmc_budget=8"], {"hmc_budget": "9"}),
    ("hmc_budget_sec: 7", [], {"hmc_budget": "9"}),
]


@pytest.mark.parametrize(("line", "sets", "options"), BUDGETS)
def test_a_budget_has_a_long_and_a_short_name(line: str, sets: list, options: dict) -> None:
    raw = {**yaml.safe_load(MY_RUN), "optuna": yaml.safe_load(line)}
    assert read_study_plan(write(raw), sets, options).reference.budget_sec == 9.0


def test_a_budget_is_given_by_one_of_its_names() -> None:
    raw = {**yaml.safe_load(MY_RUN), "optuna": {"hmc_budget": 1, "hmc_budget_sec": 1}}
    with pytest.raises(ConfigError) as refused:
        read_study_plan(write(raw), [], {"max_trials": "3"})
    assert refused.value.faults == [
        "`optuna` must have `hmc_budget_sec` or `hmc_budget`, but has both. Leave one out."
    ]


@pytest.mark.parametrize("name", ["method_budget", "method_budget_sec"])
def test_runs_without_tuning_have_the_same_names(name: str) -> None:
    raw = {"problems": [{"model": "small"}], "samplers": [{"name": "vi"}], "llc": {name: 9}}
    assert read_llc_plan(write(raw), [], {}).method_budget == 9.0
