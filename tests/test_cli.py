"""argv -> exit code: both commands at their edge, with instant runners behind it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import instant
import pandas as pd
import pytest
import yaml
from instant import FAKES, InstantPool, instant_trial, use_instant_runners

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints import parsl_llc, parsl_optuna, start
from lambda_hat.entrypoints.plans import read_study_plan
from lambda_hat.execution import DeadlineExceeded
from lambda_hat.store import Store, read_json, write_json
from lambda_hat.tuning.settings import StudySettings

ROOT = Path(__file__).resolve().parents[1]
PROBLEM = {"model": "quadratic"}
CONFIG = {"problems": [PROBLEM], "methods": ["vi", "sgld"], "optuna": {"max_trials": 3}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to run in, with a config, and instant runners."""
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    write(CONFIG)
    return tmp_path


def write(config: object, name: str = "c.yaml") -> None:
    Path(name).write_text(config if isinstance(config, str) else yaml.safe_dump(config))


def run(*options: str, config: str = "c.yaml", local: bool = True) -> int:
    return parsl_optuna.main(["--config", config, *(["--local"] if local else []), *options])


def test_a_run_ends_with_0_and_says_where_everything_is(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    for said in ("quadratic/small", "3 of each method", "reference LLC 1.300 ± 0.010"):
        assert said in out
    assert all(title in out for title in ("R-hat", "ESS", "gradients"))
    assert str(here / "results" / "optuna_trials.parquet") in out
    assert len(pd.read_parquet("results/optuna_trials.parquet")) == 6
    assert run() == 0
    assert "3 trials from earlier runs" in capsys.readouterr().out
    assert len(pd.read_parquet("results/optuna_trials.parquet")) == 6


def test_a_run_with_nothing_to_do_starts_no_worker_and_writes_no_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run() == 0
    write(LLC_CONFIG, "llc.yaml")
    llc = ["--config", "llc.yaml", "--local"]
    assert parsl_llc.main(llc) == 0 and run() == 0, "its runs of the defaults confirm as well"

    def times() -> dict[Path, int]:
        files = [path for path in Path().rglob("*") if path.is_file() and path.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in files}

    def no_pool(**kwargs: Any) -> Any:
        @contextmanager
        def opening() -> Iterator[InstantPool]:
            raise AssertionError("there is nothing to do")
            yield

        return opening()

    use_instant_runners(monkeypatch, no_pool)
    before = times()
    assert run() == 0 and parsl_llc.main(llc) == 0
    assert times() == before
    Path("results/optuna_best.yaml").unlink()
    assert run() == 0
    assert set(times()) == set(before), "what was deleted is made again"


BAD = {
    "unknown key": ({"metods": ["vi"]}, "Did you mean 'methods'?"),
    "unknown group": ({"problems": [{"model": "smal"}]}, "Did you mean 'small'?"),
    "unknown method": ({"methods": ["sgdl"]}, "Did you mean 'sgld'?"),
    "unknown optuna key": ({"optuna": {"max_trails": 3}}, "Did you mean 'max_trials'?"),
    "unknown reference key": ({"reference": {"num_drws": 3}}, "Did you mean 'num_draws'?"),
    "no method": ({"methods": [{"vi": 1}]}, "A method must be one of"),
    "hmc tuned": ({"methods": ["hmc"]}, "HMC is the reference"),
    "wrong type": ({"optuna": {"max_trials": "many"}}, "`max_trials` must be a whole number"),
    "negative budget": ({"optuna": {"hmc_budget_sec": -1}}, "`hmc_budget_sec > 0` must hold"),
    "endless budget": (
        {"optuna": {"method_budget": 1e300}},
        "`method_budget_sec < 1000000000` must hold",
    ),
    "no problems": ({"problems": []}, "`problems` must be a list"),
    "problem twice": ({"problems": [PROBLEM, PROBLEM]}, "problems[1] is the same problem"),
    "method twice": ({"methods": ["vi", "vi"]}, "methods[1] is 'vi' a second time"),
    "convergence": ({"optuna": {"convergence": {"patience": 0}}}, "`patience >= 1` must hold"),
    "no mapping": ({"optuna": [1]}, "must be a mapping"),
    "folder": ({"results_dir": "c.yaml"}, "is a file"),
    "search space": ({"search_space": {"vi": {"lr": {"low": -1}}}}, "`low > 0` must hold"),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_2_before_anything_starts(
    capsys: pytest.CaptureFixture[str], here: Path, change: dict, said: str
) -> None:
    write({**CONFIG, **change})
    assert run() == 2
    err = capsys.readouterr().err
    assert said in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["c.yaml"]


def test_all_faults_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    write({**CONFIG, "methods": ["sgdl"], "reference": {"x": 1}})
    assert run("--max-trials", "0", "--batch-size", "x") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("problems: [", "is no YAML"),
        ("- 1", "must hold a mapping"),
        ("optuna: {seed: 1, seed: 2}", "the key 'seed' is given twice"),
        ("a: !!python/object:os.system x", "is no YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    write(text)
    assert run() == 2
    assert said in capsys.readouterr().err


def test_a_missing_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config="none.yaml") == 2
    assert "there is no none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "neither --local nor --parsl-config is"),
        (("--parsl-config", "none.py"), "there is none"),
        (("--parsl-config", "empty.py"), "must define a function fresh_config()"),
        (("--parsl-config", "wrong.py"), "must return a parsl Config, but got int"),
    ],
)
def test_a_parsl_config_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], options: tuple, said: str
) -> None:
    Path("empty.py").touch()
    Path("wrong.py").write_text("def fresh_config():\n    return 1\n")
    assert run(*options, local=False) == 2
    assert said in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert run("--dry-run", local=False) == 0
    assert "quadratic/small" in capsys.readouterr().out
    assert [path.name for path in here.iterdir()] == ["c.yaml"]


def test_the_command_line_comes_before_the_file_and_the_file_before_defaults() -> None:
    options = {"max_trials": "7", "batch_size": None, "method_budget": "1e3"}
    write({**CONFIG, "optuna": {"max_trials": 3, "batch_size": 2}})
    plan = read_study_plan(Path("c.yaml"), ["optuna.seed=4"], options)
    assert plan.settings == StudySettings(max_trials=7, batch_size=2, method_budget=1000.0, seed=4)
    assert plan.reference.budget_sec == 36000.0


def test_contract_defaults() -> None:
    write({"problems": [PROBLEM], "methods": ["vi"]})
    plan = read_study_plan(Path("c.yaml"), [], {})
    assert plan.settings == StudySettings(200, 32, 6000.0, 0, None, None)
    assert plan.reference.budget_sec == 36000.0


def test_set_reads_values_as_yaml_does() -> None:
    sets = [
        "problems.0.model=small",
        "problems.0.overrides.posterior.gamma=1e1",
        "methods=[mclmc]",
        "search_space.mclmc.L.low=1e-1",
        "optuna.huber_delta=0.5",
    ]
    plan = read_study_plan(Path("c.yaml"), sets, {})
    assert plan.problems[0].spec["overrides"] == {"posterior": {"gamma": 10.0}}
    assert plan.methods == ("mclmc",) and plan.settings.huber_delta == 0.5


@pytest.mark.parametrize(
    ("given", "objective"),
    [
        ({}, "abs"),
        ({"huber_delta": 0.5}, "huber"),
        ({"objective": "huber", "huber_delta": 0.5}, "huber"),
        ({"objective": "rmse"}, "rmse"),
    ],
)
def test_an_objective_is_what_is_said_and_a_delta_means_huber(given: dict, objective: str) -> None:
    write({"problems": [PROBLEM], "methods": ["vi"], "optuna": given})
    assert read_study_plan(Path("c.yaml"), [], {}).settings.objective == objective


@pytest.mark.parametrize("given", [["objective=huber"], ["objective=abs", "huber_delta=0.5"]])
def test_huber_and_its_delta_go_together(given: list[str]) -> None:
    write({"problems": [PROBLEM], "methods": ["vi"]})
    with pytest.raises(ConfigError, match="huber"):
        read_study_plan(Path("c.yaml"), [f"optuna.{one}" for one in given], {})


@pytest.mark.parametrize("assignment", ["a", "=1", "problems.5.model=small", "methods.x=1", "a.=1"])
def test_a_wrong_set_is_refused(capsys: pytest.CaptureFixture[str], assignment: str) -> None:
    assert run("--set", assignment) == 2
    assert "--set" in capsys.readouterr().err


def test_a_second_run_on_the_same_results_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").mkdir()
    with Path("results/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run() == 2
    assert "One run at a time may write" in capsys.readouterr().err
    assert run() == 0


def test_a_changed_study_is_refused_with_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    capsys.readouterr()
    assert run("--set", "optuna.seed=1") == 2
    err = capsys.readouterr().err
    assert err.count("optuna.seed was 0 and is now 1") == 2 and "--results-dir" in err
    assert run("--set", "optuna.seed=1", "--results-dir", "other") == 0
    assert run("--max-trials", "5") == 0
    assert len(pd.read_parquet("results/optuna_trials.parquet")) == 10


def test_a_problem_that_fails_ends_with_1_and_the_others_are_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write({**CONFIG, "problems": [{"model": "linear", "seed": 1}, PROBLEM]})
    assert run() == 1
    out = capsys.readouterr().out
    assert "its reference is unreliable: `R-hat <= 1.01` must hold" in out
    assert len(pd.read_parquet("results/optuna_trials.parquet")) == 6
    assert run("--set", "reference.accept_unreliable=true") == 0
    out = capsys.readouterr().out
    assert "unreliable" in out[out.index("method") :], "the warning stays in the final table"
    table = pd.read_parquet("results/optuna_trials.parquet")
    assert table.groupby("problem").ref_status.unique().str[0].tolist() == ["unreliable", "ok"]


def test_an_interrupt_while_the_command_is_imported_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["parsl-optuna"])
        patch.setattr("importlib.import_module", interrupted)
        assert (start.parsl_optuna(), start.parsl_llc()) == (130, 130)
    assert capsys.readouterr().err == "Interrupted before anything was started.\n" * 2


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_the_command_to_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    calls = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 4:
            threading.Thread(target=os.kill, args=(os.getpid(), kind)).start()
            threading.Event().wait(0.2)  # The signal arrives here.

    monkeypatch.setattr(InstantPool, "on_trial", staticmethod(interrupt))
    assert run("--batch-size", "1", "--max-trials", "50") == 130
    out = capsys.readouterr().out
    assert "everything is kept" in out and "--config c.yaml --local --batch-size 1" in out
    monkeypatch.setattr(InstantPool, "on_trial", None)
    assert run("--batch-size", "1", "--max-trials", "50") == 0
    table = pd.read_parquet("results/optuna_trials.parquet")
    assert len(table) == 100 and table.trial_id.is_unique


LLC_CONFIG = {
    "problems": [PROBLEM, {"model": "linear"}],
    "samplers": [
        {"name": "hmc", "seed": 1},
        {"name": "vi", "overrides": {"M": 1}},
        {"name": "vi", "overrides": {"M": 2}},
    ],
}


def test_llc_runs_every_pair_once(capsys: pytest.CaptureFixture[str]) -> None:
    write(LLC_CONFIG)
    argv = ["--config", "c.yaml", "--local"]
    assert parsl_llc.main(argv) == 0
    table = pd.read_parquet("results/llc_runs.parquet")
    assert len(table) == 6 and table.trial_id.is_unique
    assert sorted(table.method) == ["hmc"] * 2 + ["vi"] * 4
    assert table[table.method == "hmc"].seed.tolist() == [1, 1]
    before = table.trial_id.tolist()
    assert parsl_llc.main(argv) == 0
    assert pd.read_parquet("results/llc_runs.parquet").trial_id.tolist() == before
    write({**LLC_CONFIG, "samplers": [{"name": "sgld"}]})
    assert parsl_llc.main(argv) == 0
    assert len(pd.read_parquet("results/llc_runs.parquet")) == 8


CAME_OUT: list[str] = []
"""The target of each trial of `trial_of_a_target`, as it ran."""


def trial_of_a_target(*args: Any, **kwargs: Any) -> dict:
    metrics = {**instant_trial(*args, **kwargs), "target": os.environ["TEST_TARGET"]}
    CAME_OUT.append(metrics["target"])
    write_json(Path(args[3]), metrics)
    return metrics


def test_llc_runs_are_of_the_target_that_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = "lambda_hat.runners.run_method:run_method_trial"
    monkeypatch.setitem(FAKES, runner, trial_of_a_target)
    monkeypatch.setattr(Store, "target_id", lambda self, pid: there)
    write(LLC_CONFIG)
    there: str | None

    def run(came_out: str) -> tuple[int, int]:
        CAME_OUT.clear()
        monkeypatch.setenv("TEST_TARGET", came_out)
        return parsl_llc.main(["--config", "c.yaml", "--local"]), len(CAME_OUT)

    for there in ("t_1", "t_2"):
        assert (run(there), run(there)) == ((0, 6), (0, 0))
        assert set(pd.read_parquet("results/llc_runs.parquet").target) == {there}
    there = None  # Where all is done, it is not built again.
    assert run("t_2") == (0, 0)
    there = "t_3"
    capsys.readouterr()
    assert run("t_4") == (1, 6)
    assert "it is of the target t_4, built while this run went on" in capsys.readouterr().out


def test_an_llc_run_that_its_deadline_ended_is_not_run_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(InstantPool):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future:
            if FAKES[function] is not instant_trial:
                return super().submit(function, *args, **kwargs)
            stuck.append(args)
            future: Future = Future()
            future.set_exception(DeadlineExceeded(70.0, "in compile"))
            return future

    stuck: list[tuple] = []
    monkeypatch.setattr(instant, "InstantPool", Stuck)
    write({**LLC_CONFIG, "problems": [PROBLEM], "samplers": [{"name": "vi"}]})
    for _ in range(2):
        assert parsl_llc.main(["--config", "c.yaml", "--local"]) == 1
        assert "ended at its deadline of 70 s" in capsys.readouterr().out
    assert len(stuck) == 1
    row = pd.read_parquet("results/llc_runs.parquet").iloc[0]
    path = Path("artifacts/runs", row.pid, "vi", row.trial_id, "metrics.json")
    assert read_json(path)["traceback"] == "in compile" and row.status == "failed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samplers": [{"name": "hcm"}]}, "Did you mean 'hmc'?"),
        ({"samplers": [{"name": "vi", "overides": {}}]}, "A key must be one of"),
        ({"samplers": [{"name": "vi", "overrides": {"lr": -1}}]}, "(samplers[0].overrides)"),
        ({"samplers": [{"name": "vi"}, {"name": "vi"}]}, "samplers[1] is the same as"),
        ({"samplers": [{"name": "vi", "seed": -1}]}, "`seed >= 0` must hold"),
        ({"llc": {"method_budget": 0}}, "`method_budget_sec > 0` must hold"),
        ({"methods": ["vi"]}, "but got 'methods'"),
    ],
)
def test_llc_refuses_bad_input(capsys: pytest.CaptureFixture[str], change: dict, said: str) -> None:
    write({**LLC_CONFIG, **change})
    assert parsl_llc.main(["--config", "c.yaml", "--local"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("results").exists()


@pytest.mark.parametrize("name", ["optuna_demo", "first_study", "quickstart", "experiments"])
def test_the_configs_that_are_shipped_are_valid(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    main = parsl_llc.main if name == "experiments" else parsl_optuna.main
    assert main(["--config", str(ROOT / "config" / f"{name}.yaml"), "--dry-run"]) == 0


def test_the_commands_start_without_jax() -> None:
    code = (
        "import sys, lambda_hat.entrypoints.parsl_optuna, lambda_hat.entrypoints.parsl_llc;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
