"""What users' guide shows: its configs, commands, snippets and edits, each as it stands there."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import optuna
import pandas as pd
import polars as pl
import pytest
import yaml
from instant import FAKES, instant_trial, use_instant_runners
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from lambda_hat.conf import compose_problem, compose_sampler, ranged_trial
from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.llc_plan import read_llc_plan
from lambda_hat.entrypoints.parsl_optuna import TRIAL_RUNNER, main
from lambda_hat.entrypoints.plans import read_study_plan
from lambda_hat.plugin import Plugin
from lambda_hat.runners.given import own_settings, plain
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.store import read_json
from lambda_hat.tables.trials import trial_row, write_table
from lambda_hat.trial import ESTIMATED, TrialResult, TrialSpec
from lambda_hat.tuning.objective import huber_loss

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


# The config as YAML.


def test_merge_keys_work() -> None:
    text = """\
problems:
  - &first {model: small, data: small, teacher: _null, seed: 1}
  - &second {<<: *first, seed: 2}
  - {<<: [*second, *first], data: base}
methods: [vi]
"""
    specs = [item.spec for item in read_study_plan(write(text), [], {}).problems]
    assert [spec["seed"] for spec in specs] == [1, 2, 2]
    assert [spec["data"] for spec in specs] == ["small", "small", "base"]
    assert {spec["model"] for spec in specs} == {"small"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("010", "010 would be read in base 8: write 10, or '010' in quotes for text"),
        ("-0_7", "-0_7 would be read in base 8: write 7"),
        ("1:30", "1:30 would be read in base 60"),
        ("1:30.5", "1:30.5 would be read in base 60"),
    ],
)
def test_a_number_that_yaml_reads_in_another_base_is_refused(value: str, said: str) -> None:
    text = MY_RUN.split("optuna:")[0] + f"optuna:\n  seed: {value}\n"
    with pytest.raises(ConfigError) as refused:
        read_study_plan(write(text), [], {})
    assert said in str(refused.value) and "(line 12, column 9)" in str(refused.value)
    for sets, options in ([f"optuna.seed={value}"], {}), ([], {"max_trials": value}):
        with pytest.raises(ConfigError, match="must be given a YAML value: .* would be read"):
            read_study_plan(write(MY_RUN), sets, options)


def test_a_value_of_the_command_line_that_is_no_yaml_is_a_fault_among_others() -> None:
    with pytest.raises(ConfigError) as refused:
        read_study_plan(write(MY_RUN), ["a.b=["], {"max_trials": "[", "batch_size": "0"})
    assert [fault.split(" ")[0] for fault in refused.value.faults] == [
        "--set",
        "--max-trials",
        "`batch_size",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Methods": ["vi"]}, "Did you mean 'methods'?"),
        ({"methods": ["VI"]}, "Did you mean 'vi'?"),
        ({"problems": [{"model": "Small"}]}, "Did you mean 'small'?"),
        ({"problems": [{"model": "small", "Data": "base"}]}, "Did you mean 'data'?"),
        ({"search_space": {"vi": {"m": {"choices": [1]}}}}, "Did you mean 'M'?"),
        ({"optuna": {"HMC_BUDGET": 1}}, "Did you mean 'hmc_budget_sec'?"),
    ],
)
def test_a_name_that_differs_in_case_gets_a_suggestion(change: dict, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_study_plan(write({**yaml.safe_load(MY_RUN), **change}), [], {})
    assert said in str(refused.value)


# Folders.


def test_variables_in_folders_stand_for_what_they_hold(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(here / "scratch"))
    monkeypatch.setenv("HOME", str(here / "home"))
    raw = {**yaml.safe_load(MY_RUN), "artifacts_dir": "$SCRATCH/a", "results_dir": "~/r"}
    store = read_study_plan(write(raw), [], {}).store
    assert (store.artifacts, store.results) == (here / "scratch/a", here / "home/r")
    store = read_study_plan(write(raw), [], {"results_dir": "${SCRATCH}/2026-11-25"}).store
    assert store.results == here / "scratch/2026-11-25"
    raw["results_dir"] = "2026-11-25"
    assert read_study_plan(write(raw), [], {}).store.results == here / "2026-11-25"


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("$NOWHERE/a", "$NOWHERE is not set, in '$NOWHERE/a'"),
        ("${NOWHERE}/a", "${NOWHERE} is not set"),
        ("~nobody-of-that-name/a", "~nobody-of-that-name is not set"),
        ("a" * 300, "File name too long"),
        ("/".join(["a" * 200] * 30), "File name too long"),
        ("/".join(["a" * 200] * 19), "leave room for files"),
        ("\0", "holds a NUL"),
    ],
)
def test_a_folder_that_cannot_be_is_bad_input(
    capsys: pytest.CaptureFixture[str], folder: str, said: str, here: Path
) -> None:
    config = write(MY_RUN)
    assert main(["--config", str(config), "--local", "--results-dir", folder]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [config.name]


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


# What is said at the end.


def test_what_is_said_to_be_done_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_instant_runners(monkeypatch)
    fails, works = {"model": "linear", "seed": 1}, {"model": "quadratic"}
    raw = {"methods": ["vi"], "optuna": {"max_trials": 2}}
    assert main(["--config", str(write({**raw, "problems": [fails]})), "--local"]) == 1
    said = capsys.readouterr().out
    assert "is done" not in said and "To go on once this is fixed:" in said
    assert main(["--config", str(write({**raw, "problems": [fails, works]})), "--local"]) == 1
    assert "Everything else is done and written. To go on" in capsys.readouterr().out


# A row of the table goes back into the function that made it.


def rows_of(reader: str, path: str) -> list[dict[str, Any]]:
    """The rows of the table, each with its hyperparameters as this reader gives them."""
    if reader == "pandas":
        return [row._asdict() for row in pd.read_parquet(path).itertuples()]
    if reader == "pandas, flat":
        frame = pd.read_parquet(path).convert_dtypes()
        names = [name for name in frame if name.startswith("params_")]
        return [
            {**row, "hyperparams": {name.removeprefix("params_"): row[name] for name in names}}
            for _, row in frame.iterrows()
        ]
    if reader == "polars":
        return pl.read_parquet(path).to_dicts()
    if reader == "duckdb":
        return duckdb.sql(f"SELECT * FROM '{path}'").pl().to_dicts()
    return duckdb.sql(f"SELECT * FROM '{path}'").df().to_dict("records")


READERS = ["pandas", "pandas, flat", "polars", "duckdb", "duckdb, pandas"]
QUADRATIC = {"model": "quadratic", "data": "small", "seed": np.int64(3)}


@pytest.fixture
def table() -> str:
    """A table of two methods without references, as a run leaves it."""
    asked = {
        "vi": {"lr": 0.05, "M": 1, "r": 0, "steps": 50, "whitening_mode": "none"},
        "sgld": {"eta0": 1e-3, "batch": 32, "steps": 500, "precond_type": "none"},
    }
    rows = []
    for method, params in asked.items():
        spec = TrialSpec("p_1", QUADRATIC, method, params, 7, 600.0)
        result = spec.failure("It is made up.", llc_ref=None)
        rows.append(trial_row(spec, result, number=0, label="q", objective=None, reference=None))
    write_table(Path("trials.parquet"), rows)
    return "trials.parquet"


@pytest.mark.parametrize("reader", READERS)
def test_a_row_of_the_table_can_be_run_again(reader: str, table: str) -> None:
    found = {}
    for row in rows_of(reader, table):
        found[row["method"]] = run_method_trial(
            QUADRATIC,
            {"name": row["method"], **row["hyperparams"]},
            row["llc_ref"],
            "again.json",
            budget_sec=row["budget_sec"],
            seed=row["seed"],
        )
    for result in found.values():
        assert result["status"] in ESTIMATED, result["error_msg"]
        assert result["error"] is None and result["llc_ref"] is None and result["seed"] == 7
    assert found["sgld"]["hyperparams"]["batch"] == 32 and found["vi"]["hyperparams"]["r"] == 0


def test_settings_that_are_other_methods_are_left_out_and_mistakes_are_not() -> None:
    nan = float("nan")
    row = {"name": "vi", "lr": np.float32(0.5), "M": 2.0, "eta0": nan, "batch": None}
    assert own_settings(plain(row)) == {"name": "vi", "lr": 0.5, "M": 2.0}
    found = run_method_trial(QUADRATIC, {"name": "vi", "lr": nan}, pd.NA, "nan.json")
    assert found["error_msg"].startswith("`lr` must be a finite number")
    found = run_method_trial(QUADRATIC, {"name": "vi", "eta0": 0.1}, None, "other.json")
    assert "but got 'eta0'" in found["error_msg"]


def test_settings_are_checked_without_jax() -> None:
    code = "import sys, lambda_hat.runners.run_method; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# The edits it teaches, made on a copy of the package.

SMALL = {
    "problems": [{"model": "quadratic", "data": "small"}],
    "methods": ["vi"],
    "optuna": {"max_trials": 2, "batch_size": 2, "method_budget_sec": 600, "confirm_seeds": 0},
    "reference": {"num_draws": 200, "num_warmup": 100, "accept_unreliable": True},
}
OBJECTIVE = "    return diff\n"
HUBER = "    return huber_loss(diff, huber_delta=0.1)  # Set delta to ~2x HMC SE\n"
SUGGEST = "    return draw_params(trial, method_name)\n"
NARROWED = """\
    if method_name == "vi":
        return {
            "lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),  # Narrowed range
            "M": trial.suggest_categorical("M", [1]),
            "r": 0,
            "steps": 100,
            "entropy_bonus": trial.suggest_float("entropy_bonus", 0.0, 0.5),  # New param
        }
    return draw_params(trial, method_name)
"""
BUILD = '    settings = {key: value for key, value in method_cfg.items() if key != "name"}\n'
PASSED_ON = BUILD + '    settings["num_samples"] = 1 + int(10 * settings.pop("entropy_bonus"))\n'
COMMAND = "import sys; from lambda_hat.entrypoints import start; sys.exit(start.parsl_optuna())"


class Copy:
    """The package in a folder, to be edited and run from there."""

    files = {
        "parsl_optuna": "lambda_hat/entrypoints/parsl_optuna.py",
        "run_method": "lambda_hat/runners/run_method.py",
    }

    def __init__(self, folder: Path):
        shutil.copytree(ROOT / "lambda_hat", folder / "lambda_hat")
        self.folder, self.config = folder, write(SMALL)

    def edit(self, name: str, old: str, new: str) -> int:
        """Replaces a text that is there once; returns the line where the new one begins."""
        path = self.folder / self.files[name]
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        return text[: text.index(old)].count("\n") + 1

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(self.folder), "LAMBDA_HAT_WORKERS": "1"}
        argv = [sys.executable, "-c", COMMAND, "--config", str(self.config), "--local", *options]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=500)


@pytest.fixture
def copy(here: Path) -> Copy:
    return Copy(here)


def trials() -> pd.DataFrame:
    return pd.read_parquet("results/optuna_trials.parquet")


def check_edited_trials() -> None:
    """Trials with a narrowed range, a hyperparameter of the user's own and Huber's loss."""
    table = trials()
    assert len(table) == 2 and set(table.status) <= set(ESTIMATED), table.error_msg.tolist()
    assert table.params_lr.between(1e-4, 1e-2).all()
    for row in table.itertuples():
        path = Path("artifacts/runs", row.pid, "vi", row.trial_id, "metrics.json")
        result = TrialResult.from_json(read_json(path))
        scored_as = row.error if result.scored_as is None else result.scored_as
        assert row.objective == pytest.approx(huber_loss(scored_as, 0.1))
        settings = result.hyperparams  # As the worker built them.
        assert settings["num_samples"] == 1 + int(10 * row.params_entropy_bonus)


def test_edits_act_on_the_command_and_on_its_workers(copy: Copy) -> None:
    copy.edit("parsl_optuna", OBJECTIVE, HUBER)
    copy.edit("parsl_optuna", SUGGEST, NARROWED)
    copy.edit("run_method", BUILD, PASSED_ON)
    done = copy.run()
    assert done.returncode == 0, done.stdout + done.stderr
    check_edited_trials()


def test_a_hyperparameter_that_no_sampler_knows_is_refused_in_a_sentence(copy: Copy) -> None:
    copy.edit("parsl_optuna", SUGGEST, NARROWED)
    done = copy.run()
    assert done.returncode == 2 and not Path("results").exists()
    [said] = done.stderr.splitlines()
    assert "but got 'entropy_bonus' (proposed for vi)" in said


MISTAKES = {
    "suggest": ("parsl_optuna", SUGGEST, "    return {'lr': trail.x}\n", 0, "'trail'"),
    "objective": ("parsl_optuna", OBJECTIVE, "    return diff / delta\n", 0, "'delta'"),
    "builder": ("run_method", BUILD, BUILD + "    settings.pop('none')\n", 1, "KeyError: 'none'"),
    "syntax": ("parsl_optuna", OBJECTIVE, "    return (diff\n", 0, "SyntaxError"),
    "import": ("run_method", "import time\n", "import tiem\n", 0, "No module named 'tiem'"),
    "forgotten": ("parsl_optuna", SUGGEST, "    pass\n", None, "but returned None"),
    "no number": ("parsl_optuna", OBJECTIVE, "    return 'low'\n", None, "a number, but returned"),
}


@pytest.mark.parametrize(("name", "old", "new", "below", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_an_edit_is_a_sentence_with_its_place(
    copy: Copy, name: str, old: str, new: str, below: int | None, said: str
) -> None:
    line = copy.edit(name, old, new)
    done = copy.run("--dry-run")
    assert done.returncode == 2, done.stdout
    [sentence] = done.stderr.splitlines()
    assert said in sentence and f"{Copy.files[name]}, line" in sentence
    assert below is None or f"{Copy.files[name]}, line {line + below}:" in sentence


# The same without editing the package.

PLUGIN = f'''\
"""Functions of my own."""

from lambda_hat.conf.search_space import draw_params
from lambda_hat.tuning.objective import huber_loss


def suggest_method_params(trial, method_name):
{NARROWED}

def objective_from_metrics(metrics, ref_llc):
    diff = abs(metrics["llc_hat"] - ref_llc)
{HUBER}

def build_sampler_cfg(method_cfg):
{PASSED_ON}    return settings
'''


def test_a_plugin_acts_on_the_command_and_on_its_workers(copy: Copy) -> None:
    write(PLUGIN, "my_study.py")
    done = copy.run("--plugin", "my_study.py", "--set", "optuna.confirm_seeds=1")
    assert done.returncode == 0, done.stdout + done.stderr
    check_edited_trials()
    confirming = pd.read_parquet("results/llc_runs.parquet")
    assert set(confirming.status) <= set(ESTIMATED), confirming.error_msg.tolist()
    assert len(confirming) == 3  # Both trials' settings and the defaults.
    write(PLUGIN + "# Another text.\n", "my_study.py")
    again = copy.run("--plugin", "my_study.py")
    assert again.returncode == 2 and "plugin was" in again.stderr
    without = copy.run()
    assert without.returncode == 2 and "is now None" in without.stderr


PLUGINS = {
    "nothing": ("def objective_from_metric(): pass\n", "Did you mean 'objective_from_metrics'?"),
    "mistake": ("x = 1\ny = z\n", "my.py, line 2: NameError: name 'z' is not defined"),
    "syntax": ("def f(:\n", "my.py, line 1: SyntaxError"),
    "arguments": ("def suggest_method_params(trial): return {}\n", "my.py, line 1: TypeError"),
    "later": (
        "def objective_from_metrics(metrics, ref_llc):\n    return metrics['no']\n",
        "my.py, line 2: KeyError: 'no'",
    ),
}


@pytest.mark.parametrize(("text", "said"), PLUGINS.values(), ids=PLUGINS)
def test_a_mistake_in_a_plugin_is_a_sentence_with_its_place(
    capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    write(text, "my.py")
    config = str(write({**SMALL, "plugin": "my.py"}))
    assert main(["--config", config, "--local", "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_a_mistake_that_shows_late_ends_its_study_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_instant_runners(monkeypatch)
    text = """\
from lambda_hat.conf.search_space import draw_params

def suggest_method_params(trial, method_name):
    if method_name == "vi" and trial.number == 1:
        return draw_params(trial, method_nam)
    return draw_params(trial, method_name)
"""
    write(text, "my.py")
    raw = {**SMALL, "methods": ["vi", "sgld"]}
    argv = ["--config", str(write(raw)), "--local", "--plugin", "my.py"]
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "my.py, line 5: NameError" in out and "Traceback" not in out
    assert trials().groupby("method").size().to_dict() == {"sgld": 2, "vi": 1}


def test_a_plugin_that_builds_settings_is_part_of_a_trials_id() -> None:
    spec = TrialSpec("p_1", {}, "vi", {"lr": 0.1}, 0, 1.0)
    one, two = (replace(spec, plugin=Plugin("my.py", text)) for text in ("a", "b"))
    assert len({spec.trial_id, one.trial_id, two.trial_id}) == 3
    assert one.trial_id == replace(spec, plugin=Plugin("else.py", "a")).trial_id


# Warm start.


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    use_instant_runners(monkeypatch)


def tune(**optuna_section: Any) -> pd.DataFrame:
    """Runs the command with instant trials; returns the table by trial number."""
    raw = {"problems": [{"model": "small", "data": "small"}], "methods": ["vi"]}
    raw["optuna"] = {"max_trials": 3, "confirm_seeds": 0}
    raw["optuna"] |= {"enqueue_defaults": False, **optuna_section}
    assert main(["--config", str(write(raw)), "--local"]) == 0
    return trials().set_index("trial_number")


def journal() -> optuna.Study:
    """The study as a user opens it with Optuna alone; made if it is not there."""
    pid = compose_problem({"model": "small", "data": "small"}).pid
    path = Path("results/studies/optuna_llc", f"{pid}.vi.journal").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(path))
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    return optuna.create_study(storage=storage, study_name=f"{pid}:vi", load_if_exists=True)


FULL = {"lr": 0.01, "M": 4, "r": 1, "whitening_mode": "none", "steps": 5000, "batch_size": 64}
ENQUEUED = {"full": FULL, "partial": {"lr": 0.01}, "empty": {}, "out of range": {"lr": 1, "M": 2.0}}


def test_the_defaults_come_first_then_guesses_then_the_search(instant: None) -> None:
    guesses = [{"method": "vi", "params": {"lr": 0.02}}, {"method": "vi", "params": FULL}]
    table = tune(enqueue_defaults=True, enqueue=guesses, max_trials=4)
    defaults = asdict(compose_sampler("vi"))
    first = table.hyperparams[0]
    near = {name: defaults[name] for name in ("lr", "M", "r", "whitening_mode", "steps")}
    assert near.items() <= first.items() and first["batch_size"] in (64, 256)
    assert table.params_lr[1] == 0.02
    assert FULL.items() <= table.hyperparams[2].items() and len(table) == 4
    again = tune(enqueue_defaults=True, enqueue=guesses, max_trials=4)
    assert again.trial_id.tolist() == table.trial_id.tolist()
    more = tune(enqueue_defaults=True, enqueue=[{"method": "vi", "params": {"M": 8}}], max_trials=4)
    assert len(more) == 5 and more.params_M[4] == 8


def test_a_lost_journal_of_a_warm_start_is_rebuilt_as_it_was(instant: None) -> None:
    section = {"enqueue": [{"method": "vi", "params": {"lr": 0.02}}], "enqueue_defaults": True}
    table = tune(**section)
    [path] = Path("results").rglob("*.journal")
    path.unlink()
    for _ in range(2):
        assert tune(**section).trial_id.tolist() == table.trial_id.tolist()


@pytest.mark.parametrize("params", ENQUEUED.values(), ids=ENQUEUED)
@pytest.mark.parametrize("when", ["before the first run", "between two", "when all is done"])
def test_what_a_user_enqueues_is_run(instant: None, params: dict, when: str) -> None:
    if when != "before the first run":
        tune(max_trials=2)
    journal().enqueue_trial(params)
    table = tune(max_trials=2 if when == "when all is done" else 4)
    assert len(table) == (3 if when == "when all is done" else 4)
    number = 0 if when == "before the first run" else 2
    given = table.hyperparams[number]
    assert params.items() <= given.items() and isinstance(given["M"], int)
    assert table.index.tolist() == list(range(len(table)))
    before = table.trial_id.tolist()
    assert tune(max_trials=2 if when == "when all is done" else 4).trial_id.tolist() == before


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"M": 3}, "enqueued with M=3, but can have one of 1, 2, 4, 8"),
        ({"lr": "fast"}, "enqueued with lr='fast'"),
        ({"lr": -1.0}, "enqueued with lr=-1.0"),
        ({"lrr": 0.1}, "enqueued with lrr, which is not searched"),
    ],
)
def test_what_cannot_be_run_is_told_and_counts_for_nothing(
    instant: None, params: dict, said: str
) -> None:
    journal().enqueue_trial(params)
    table = tune()
    assert said in table.error_msg[0] and table.status[0] == "failed"
    assert (table.status == "complete").sum() == 3 and len(table) == 4
    assert journal().trials[0].state == optuna.trial.TrialState.FAIL


def test_trials_that_a_user_has_ended_count_as_what_they_are(instant: None) -> None:
    tune(max_trials=1)
    study = journal()
    ranges = study.trials[0].distributions
    params = {**FULL, "correction": "none", "ais_steps": 40}
    study.add_trial(optuna.trial.create_trial(value=0.5, params=params, distributions=ranges))
    study.tell(study.ask(ranges), state=optuna.trial.TrialState.PRUNED)
    study.tell(study.ask(ranges), state=optuna.trial.TrialState.FAIL)
    table = tune(max_trials=4)  # The failed one counts for nothing.
    assert table.status.tolist() == ["complete", "complete", "pruned", "failed", "complete"]
    own = table.loc[[1, 2, 3]]
    assert own.llc_hat.isna().all() and own.error_msg.str.contains("ended by hand").all()
    assert own.objective[1] == 0.5 and own.params_lr[1] == FULL["lr"]
    assert tune(max_trials=4).equals(table)
    best = yaml.safe_load(Path("results/optuna_best.yaml").read_text())
    assert [b["methods"]["vi"]["trial_number"] for b in best.values()] == [0]
    assert [trial.value for trial in journal().trials][1] == 0.5


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"method": "vi", "params": {"lr": 7.0}}, "`lr` must lie in its search range"),
        ({"method": "vi", "params": {"M": 3}}, "M=3, but can have one of 1, 2, 4, 8"),
        ({"method": "vi", "params": {"lrr": 1}}, "lrr, which is not searched"),
        ({"method": "sgld", "params": {}}, "`method` must be one of vi"),
        ({"method": "vi", "parms": {}}, "Did you mean 'params'?"),
    ],
)
def test_a_guess_that_cannot_be_is_bad_input(
    capsys: pytest.CaptureFixture[str], entry: dict, said: str
) -> None:
    raw = {"problems": [{"model": "small"}], "methods": ["vi"], "optuna": {"enqueue": [entry]}}
    assert main(["--config", str(write(raw)), "--local", "--dry-run"]) == 2
    assert said in capsys.readouterr().err


# Search what acts, and say how it went.


def test_batches_of_all_rows_are_one_choice(instant: None) -> None:
    raw = {"problems": [{"model": "small", "data": "small"}], "methods": ["sgld"]}
    raw["optuna"] = {"max_trials": 2, "confirm_seeds": 0}
    argv = ["--config", str(write(raw)), "--local"]
    assert main(argv) == 0
    [path] = Path("results").rglob("*.pkl")
    study = pickle.loads(path.read_bytes())
    assert study.trials[0].distributions["batch"].choices == (32, 128)
    big = {**raw, "problems": [{"model": "small", "data": "base"}], "results_dir": "big"}
    assert main(["--config", str(write(big)), "--local"]) == 0
    [path] = Path("big").rglob("*.pkl")
    study = pickle.loads(path.read_bytes())
    assert study.trials[0].distributions["batch"].choices == (32, 128, 512)


def test_a_study_that_was_begun_with_choices_that_coincide_goes_on(
    instant: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = {"problems": [{"model": "small", "data": "small"}], "methods": ["sgld"]}
    argv = ["--config", str(write(raw)), "--local"]
    with monkeypatch.context() as patch:
        patch.setattr(ranged_trial, "BATCHES", ())  # As it was before.
        assert main([*argv, "--max-trials", "2"]) == 0
    assert main([*argv, "--max-trials", "4"]) == 0
    assert len(trials()) == 4
    [path] = Path("results").rglob("*.pkl")
    choices = {t.distributions["batch"].choices for t in pickle.loads(path.read_bytes()).trials}
    assert choices == {(32, 128, 512)}


def diverging_trial(*args: Any, **kwargs: Any) -> dict:
    result = {**instant_trial(*args, **kwargs), "status": "failed"}
    return {**result, "llc_hat": None, "se_hat": None, "error_msg": "It diverged."}


def test_optunas_own_tools_see_how_a_trial_went(
    instant: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(max_trials=1)
    monkeypatch.setitem(FAKES, TRIAL_RUNNER, diverging_trial)
    tune(max_trials=2)
    first, second = (trial.user_attrs for trial in journal().trials)
    assert first["status"] == "complete" and first["llc_hat"] == pytest.approx(1.4)
    assert first["error"] == pytest.approx(0.1) and first["se_hat"] == 0.05
    assert first["problem"] == "small/small" and "error_msg" not in first
    assert second["status"] == "failed" and second["error_msg"] == "It diverged."
    assert "llc_hat" not in second
