"""Claims about pools on PBS, with stand-ins for its commands (see pbs_stand_in.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_hat.conf.schema import ConfigError
from lambda_hat.execution import load_parsl_config, open_pool

TESTS = Path(__file__).parent
CONFIG = TESTS.parent / "parsl_config_pbs.py"
TIMEOUT = 60.0


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the stand-ins' job files; no job outlives the test."""
    commands, state = tmp_path / "bin", tmp_path / "jobs"
    commands.mkdir()
    state.mkdir()
    for name in ("qsub", "qstat", "qdel"):
        script = commands / name
        script.write_text(f"#!{sys.executable}\n" + (TESTS / "pbs_stand_in.py").read_text())
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PBS_STAND_IN", str(state))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in {"WORKERS_PER_NODE": "1", "STATUS_PERIOD": "1", "QUEUE": "batch"}.items():
        monkeypatch.setenv(f"LAMBDA_HAT_PBS_{name}", value)
    yield state
    subprocess.run(["qdel", *_running()], check=True)


def _running() -> list[str]:
    command = ["qstat", "-f", "-F", "json"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(json.loads(answer.stdout)["Jobs"])


def test_trials_run_inside_jobs(jobs: Path, tmp_path: Path) -> None:
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path / "run") as pool:
        assert pool.description == "PBSPRO batch: up to 1 job of 1 node with 1 worker each"
        assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2
        assert len(_running()) == 1
    assert _running() == []
    (job,) = (json.loads(path.read_text()) for path in jobs.glob("*.json"))
    assert job["options"] == ["-q", "batch"]
    assert "#PBS -l select=1:ncpus=1\n" in job["script"]
    assert "#PBS -l walltime=04:00:00\n" in job["script"]


def test_the_next_start_cancels_what_was_left(jobs: Path, tmp_path: Path) -> None:
    run_dir, note = tmp_path / "run", tmp_path / "note"
    words = [CONFIG, run_dir, "toy_apps:kill_driver", 60, note]
    driver = [sys.executable, str(TESTS / "toy_driver.py"), *map(str, words)]
    with subprocess.Popen(driver) as process:
        note.write_text(str(process.pid))
        assert process.wait(TIMEOUT) == -signal.SIGKILL
    (old,) = _running()
    with open_pool(parsl_config=CONFIG, run_dir=run_dir):
        assert old not in _running()


def test_a_cluster_without_its_commands_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(ConfigError, match="needs the command qsub, which is not on PATH here"):
        with open_pool(parsl_config=CONFIG, run_dir=tmp_path):
            pass


def test_gpus_are_asked_for_and_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for workers, each, pins, options in [
        ("4", "1", ["0", "1", "2", "3"], ":ngpus=4"),
        ("4", "0.5", ["0", "1", "2", "3"], ":ngpus=2"),
        ("2", "2", ["0,1", "2,3"], ":ngpus=4"),
    ]:
        monkeypatch.setenv("LAMBDA_HAT_PBS_WORKERS_PER_NODE", workers)
        monkeypatch.setenv("LAMBDA_HAT_PBS_GPUS_PER_WORKER", each)
        executor = load_parsl_config(CONFIG).executors[0]
        assert executor.available_accelerators == pins
        assert f":{executor.provider.select_options}" == options
    monkeypatch.setenv("LAMBDA_HAT_PBS_GPUS_PER_WORKER", "0.3")
    with pytest.raises(ConfigError, match="must fill whole GPUs, but got 2 workers with 0.3"):
        load_parsl_config(CONFIG)
