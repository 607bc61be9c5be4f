"""Files -> how a run stands: `parsl-optuna status`, the log of events, and what a dry run says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from instant import InstantPool, use_instant_runners

from lambda_hat.entrypoints import parsl_llc, parsl_optuna, status
from lambda_hat.store import Store, lock_folder, write_json
from lambda_hat.terminal.event_log import EventLog
from lambda_hat.tuning.optuna_internals import plain_storage

PROBLEMS = [{"model": "quadratic"}, {"model": "linear", "seed": 1}]
CONFIG = {"problems": PROBLEMS, "methods": ["vi", "sgld"], "optuna": {"max_trials": 3}}
ARGS = ["--config", "c.yaml", "--local"]
STORE = Store(Path("artifacts"), Path("results"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a config, and instant runners."""
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    Path("c.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """What `status` says now."""

    def ask(*options: str) -> str:
        capsys.readouterr()
        assert status.main(["status", *options]) == 0
        return capsys.readouterr().out

    return ask


def pid_of(label: str) -> str:
    problems = json.loads(STORE.planned.read_text())["problems"]
    return next(pid for pid, said in problems.items() if said.startswith(label))


def test_a_run_that_has_ended_is_told_whole(said: Any) -> None:
    assert parsl_optuna.main(ARGS) == 1  # The second problem's reference is unreliable.
    out = said()
    assert "none: the last command has ended" in out
    assert "reference  1.300 ± 0.010 ok" in out
    assert re.search(r"vi +3 of 3 trials +LLC 1.400 ± 0.02\d +error 0.1 confirmed +\S+ s ago", out)
    assert "unreliable: `R-hat <= 1.01` must hold, but it is 1.4" in out
    assert out.count("0 of 3 trials") == 2 and "not begun" in out


def test_status_names_the_driver_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def look() -> None:
        if not seen:
            capsys.readouterr()
            assert status.main(["status"]) == 0
            seen.append(capsys.readouterr().out)

    monkeypatch.setattr(InstantPool, "on_trial", staticmethod(look))
    parsl_optuna.main(ARGS)
    assert f"process {os.getpid()} on" in seen[0] and "is at work" in seen[0]
    assert re.search(r"0 of 3 trials +\d running", seen[0])


def test_status_tells_of_a_run_that_was_killed(said: Any) -> None:
    code = f"""
import instant, os, pytest
from lambda_hat.entrypoints import parsl_optuna
left = [1, 1, 0]  # The third trial ends it.
instant.InstantPool.on_trial = staticmethod(lambda: left.pop(0) or os.kill(os.getpid(), 9))
instant.use_instant_runners(pytest.MonkeyPatch())
parsl_optuna.main({ARGS!r})
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    out = said()
    assert re.search(r"none: process \d+ on \S+ was killed; the same command goes on", out)
    assert "cut off" in out
    parsl_optuna.main(ARGS)
    assert "was killed" not in said() and "3 of 3 trials" in said()


PARTIAL = {"method": "hmc", "llc": 5.9, "se": 0.1, "relative_se": 0.017, "rhat": 1.021}
PARTIAL |= {"ess_bulk": 312.0, "seconds_to_gates": 95.0, "budget_sec": 120.0}


def test_a_reference_under_way_is_told_by_its_partial_file(said: Any) -> None:
    parsl_optuna.main(ARGS)
    write_json(STORE.partial_reference(pid_of("linear")), PARTIAL)
    words = "hmc, LLC 5.90 ± 0.10, R-hat 1.021, ESS 312, relative SE 1.7 %, 1:35 min more needed"
    assert f"not finished: {words}" in said()
    with lock_folder(STORE.results):
        assert f"under way: {words}" in said()


def test_status_writes_nothing_and_needs_no_right_to(said: Any, here: Path) -> None:
    parsl_optuna.main(ARGS)
    files = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    (here / "results" / ".lock").chmod(0o444)
    said()
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == files


def test_status_finds_the_artifacts_of_the_run(said: Any, here: Path) -> None:
    parsl_optuna.main([*ARGS, "--artifacts-dir", "elsewhere"])
    assert str(here / "elsewhere") in said() and "1.300 ± 0.010 ok" in said()
    assert "there is none" in said("--artifacts-dir", "artifacts")


def test_a_best_trial_that_nothing_confirms_is_told_as_such(said: Any) -> None:
    parsl_optuna.main([*ARGS, "--set", "optuna.confirm_seeds=0"])
    assert re.search(r"vi +3 of 3 trials +LLC 1.400 ± 0.050 +error 0.1 +\S+ s ago", said())


def test_a_damaged_file_of_the_best_confirms_nothing(said: Any) -> None:
    parsl_optuna.main(ARGS)
    STORE.best.write_text("{")
    assert "error 0.1" in said() and "confirmed" not in said()


def test_trials_of_every_status_are_counted(said: Any) -> None:
    parsl_optuna.main([*ARGS, "--set", "optuna.confirm_seeds=0"])
    name = f"{pid_of('quadratic')}:vi"
    storage = plain_storage(STORE.journal(*name.split(":")).absolute())
    study = optuna.load_study(study_name=name, storage=storage)
    for kind in ("noisy", "failed"):
        trial = study.ask()
        trial.set_user_attr("status", kind)
        study.tell(trial, 9.0)
    study.tell(study.ask(), state=optuna.trial.TrialState.PRUNED)
    study.ask()
    assert re.search(r"vi +6 of 3 trials +1 noisy, 1 pruned, 1 failed, 1 cut off +LLC", said())


def test_a_folder_where_no_run_began_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["status"]) == 2
    assert "none has. Give its --results-dir" in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_dry_run_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsl_optuna.main([*ARGS, "--dry-run"]) == 0
    assert "done already" not in capsys.readouterr().out
    parsl_optuna.main(ARGS)
    capsys.readouterr()
    assert parsl_optuna.main([*ARGS, "--dry-run", "--max-trials", "7"]) == 0
    out = capsys.readouterr().out
    assert "reference ok, 3 of 7 trials of vi, 3 of 7 trials of sgld" in out
    assert "reference unreliable, 0 of 7 trials of vi" in out


def test_a_dry_run_of_fixed_runs_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    fixed = {"problems": PROBLEMS[:1], "samplers": [{"name": "vi"}, {"name": "sgld"}]}
    Path("llc.yaml").write_text(yaml.safe_dump(fixed))
    args = ["--config", "llc.yaml", "--local"]
    assert parsl_llc.main(args) == 0
    capsys.readouterr()
    assert parsl_llc.main([*args, "--dry-run"]) == 0
    assert "; 2 done already" in capsys.readouterr().out


# The log of events.


def test_every_event_is_a_line_of_the_log() -> None:
    parsl_optuna.main(ARGS)
    lines = STORE.events.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \S", line) for line in lines)
    text = "\n".join(lines)
    assert text.count(": trial ") == 6 and text.count("reference under way") == 2
    assert "trial 0 complete, 0.1 s: LLC 1.400 ± 0.050, error 0.1" in text
    assert lines[0].endswith(f"parsl-optuna {' '.join(ARGS)} ({_process()})")
    assert "ended with 1 failure" in text and "is not tuned" in text


def _process() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def test_a_run_with_nothing_to_do_adds_no_line() -> None:
    Path("c.yaml").write_text(yaml.safe_dump({**CONFIG, "problems": PROBLEMS[:1]}))
    assert parsl_optuna.main(ARGS) == 0
    before = STORE.events.read_text()
    assert parsl_optuna.main(ARGS) == 0
    assert STORE.events.read_text() == before


def test_what_is_no_news_is_written_with_the_first_news(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.log")
    log.write("found done", news=False)
    assert not (tmp_path / "e.log").exists()
    log.write("[red]a trial[/] \\[x] ended\nbadly")
    log.write("the end", news=False)
    texts = [line[25:] for line in (tmp_path / "e.log").read_text().splitlines()]
    assert texts == ["found done", "a trial [x] ended badly", "the end"]


# The first output.


@pytest.fixture
def started() -> Iterator[subprocess.Popen[str]]:
    command = [str(Path(sys.executable).with_name("parsl-optuna")), *ARGS, "--dry-run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.communicate(timeout=60)


def test_the_first_output_comes_within_a_second(started: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    assert started.stdout is not None
    assert started.stdout.readline() == "Reading c.yaml ..\n"
    assert time.monotonic() - began < 1.0
