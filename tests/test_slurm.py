"""Claims about pools on a real SLURM: two virtual nodes, started on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lambda_hat.execution import Pool, open_pool
from lambda_hat.execution.config import run_token
from lambda_hat.store import read_json

pytestmark = pytest.mark.slurm

TESTS = Path(__file__).parent
CONFIG = TESTS.parent / "parsl_config_slurm.py"
SCRIPT = TESTS / "slurm_cluster.sh"
TIMEOUT = 120.0


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A cluster for these tests; they skip where there can be none, unless it is asked for."""
    reason = _start_fault()
    if reason and os.environ.get("LAMBDA_HAT_TEST_SLURM") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="lambda-hat-slurm-"))  # munge must be able to enter.
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_TEST_PORT", str(_free_ports()))
        patch.setenv("SLURM_CONF", str(folder / "slurm" / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, value in {
            "STATUS_PERIOD": 2,
            "LOST_AFTER": 15,
            "WORKERS_PER_NODE": 2,
            "PARTITION": "debug",
        }.items():
            patch.setenv(f"LAMBDA_HAT_SLURM_{name}", str(value))
        try:
            subprocess.run([SCRIPT, "up", folder / "slurm"], check=True, capture_output=True)
            yield
        finally:
            subprocess.run([SCRIPT, "down", folder / "slurm"], check=True)
            shutil.rmtree(folder)


def _start_fault() -> str:
    if os.geteuid() != 0:
        return "Only root can start a SLURM here."
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [c for c in ("slurmctld", "slurmd", "munged") if shutil.which(c, path=path) is None]
    if missing:
        return f"{', '.join(missing)} missing; `tests/slurm_cluster.sh install` installs SLURM."
    return ""


def _free_ports() -> int:
    """The first of three free ports in a row."""
    for first in range(16900, 17900, 3):
        if all(_is_free(first + i) for i in range(3)):
            return first
    raise RuntimeError("No three free ports in a row.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _jobs(run_dir: Path, *, states: str = "PENDING,RUNNING") -> set[str]:
    """Ids of the jobs in the queue that bear the name of a run folder."""
    command = ["squeue", "--noheader", f"--states={states}", "--format=%i %j"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split()[0] for line in lines.splitlines() if run_token(run_dir) in line}


def _started(pool: Pool, note: Path, *, seconds: float, **options: float) -> Future[float]:
    """A task that sleeps, once it has started."""
    future = pool.submit("toy_apps:sleep", seconds, note=str(note), **options)
    _wait_for(lambda: note.exists() or future.done())
    return future


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def _runs(note: Path) -> int:
    return len(note.read_text().splitlines())


def test_trials_run_inside_jobs_on_all_nodes(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_HAT_SLURM_NODES", "2")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path) as pool:
        assert pool.num_workers == 4
        assert pool.description == "SLURM debug: up to 1 job of 2 nodes with 2 workers each"
        futures = [pool.submit("toy_apps:meet", str(meeting), str(i), 3) for i in range(20)]
        assert len({future.result(TIMEOUT) for future in futures}) >= 4
        jobs = _jobs(tmp_path)
        reports = [pool.submit("toy_apps:whereabouts").result(TIMEOUT) for _ in range(2)]
        assert {report["job"] for report in reports} == jobs
    assert len(jobs) == 1
    assert _jobs(tmp_path) == set()
    hosts = {path.parent.name for path in tmp_path.glob("000/slurm-*/block-0/*/manager.log")}
    assert len(hosts) == 2  # A worker pool on each node.


def test_the_tasks_of_a_cancelled_job_run_again_in_the_next(slurm: None, tmp_path: Path) -> None:
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path) as pool:
        future = _started(pool, tmp_path / "note", seconds=4.0)
        (job,) = _jobs(tmp_path)
        start = time.monotonic()
        subprocess.run(["scancel", job], check=True)
        assert future.result(TIMEOUT) == 4.0
        assert time.monotonic() - start < 60
        assert job not in _jobs(tmp_path)
    assert _runs(tmp_path / "note") == 2


def test_a_walltime_that_ends_mid_trial_loses_nothing(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_HAT_SLURM_WALLTIME", "00:01:00")
    note = tmp_path / "note"
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path) as pool:
        quick = pool.submit("toy_apps:add", 1)
        slow = pool.submit("toy_apps:sleep_at_first", 150.0, note=str(note))
        assert quick.result(TIMEOUT) == 2
        assert slow.result(2 * TIMEOUT) == 2
    assert _runs(note) == 2


def test_a_drained_node_finishes_its_trial_and_gets_no_more(slurm: None, tmp_path: Path) -> None:
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path) as pool:
        node = pool.submit("toy_apps:whereabouts").result(TIMEOUT)["node"]
        future = _started(pool, tmp_path / "note", seconds=3.0)
        update = ["scontrol", "update", f"NodeName={node}"]
        subprocess.run([*update, "State=DRAIN", "Reason=test"], check=True)
        try:
            assert future.result(TIMEOUT) == 3.0
            assert _runs(tmp_path / "note") == 1
            (job,) = _jobs(tmp_path)
            subprocess.run(["scancel", job], check=True)
            _wait_for(lambda: job not in _jobs(tmp_path, states="RUNNING,COMPLETING"))
            assert pool.submit("toy_apps:whereabouts").result(TIMEOUT)["node"] != node
        finally:
            subprocess.run([*update, "State=RESUME"], check=True)


def test_the_next_start_cancels_the_jobs_of_a_killed_command(slurm: None, tmp_path: Path) -> None:
    note, run_dir = tmp_path / "note", tmp_path / "run"
    words = [CONFIG, run_dir, "toy_apps:sleep", 300, note]
    with subprocess.Popen([sys.executable, TESTS / "toy_driver.py", *map(str, words)]) as driver:
        _wait_for(lambda: note.exists() or driver.poll() is not None)
        (old,) = _jobs(run_dir)
        driver.send_signal(signal.SIGKILL)
    assert _jobs(run_dir) == {old}
    with open_pool(parsl_config=CONFIG, run_dir=run_dir) as pool:
        assert old not in _jobs(run_dir)
        assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2


def test_a_deadline_holds_on_a_node(slurm: None, tmp_path: Path) -> None:
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path) as pool:
        future = _started(pool, tmp_path / "note", seconds=60.0, deadline_sec=0.5)
        assert "at its deadline of 0.5 s" in str(future.exception(TIMEOUT))
        assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2
    assert _runs(tmp_path / "note") == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_reference_that_outlasts_its_jobs_goes_on_in_the_next(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_HAT_SLURM_WALLTIME", "00:01:00")  # SLURM ends it within 90 s.
    # One engine, on a posterior whose transitions do not diverge: what goes on is its own chains.
    settings, jobs = {"method": "hmc", "num_draws": 15_000, "relative_se": 0}, set()
    with open_pool(parsl_config=CONFIG, run_dir=tmp_path / "parsl") as pool:
        future = pool.submit(
            "lambda_hat.runners.hmc_reference:run_hmc_reference",
            {"model": "small", "data": "base", "overrides": {"data": {"n": 5_000}}},
            str(tmp_path / "artifacts" / "problems" / "p_0" / "ref.json"),
            budget_sec=1_200,
            settings=settings,
        )
        while not future.done():
            jobs |= _jobs(tmp_path / "parsl", states="RUNNING")
            time.sleep(0.5)
        reference = future.result()
    # Begun anew in each job, it would never end.
    assert reference["runtime_sec"] > 95 and len(jobs) >= 2
    assert reference["status"] == "ok", reference["reasons"]
    assert reference["methods"]["hmc"]["draws"] == settings["num_draws"]


LINE = {
    "problems": [{"model": "quadratic", "data": "small"}],
    "methods": ["sgld", "mclmc"],
    "optuna": {"max_trials": 4, "batch_size": 2, "hmc_budget_sec": 120, "method_budget_sec": 60}
    | {"confirm_seeds": 0},
    "reference": {"num_draws": 2_000},
    "search_space": {
        "sgld": {"steps": {"low": 5_000, "high": 9_000}, "eta0": {"low": 1e-5, "high": 1e-3}},
        "mclmc": {"steps": {"low": 500, "high": 1_000}, "L": {"low": 0.5, "high": 2.0}},
    },
}


def _line(folder: Path) -> subprocess.Popen[bytes]:
    """The command, as a user starts it on a head node."""
    command = Path(sys.executable).with_name("parsl-optuna")
    words = [command, "--config", folder / "study.yaml", "--parsl-config", CONFIG]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def _metrics(folder: Path) -> set[Path]:
    return set(folder.glob("artifacts/runs/*/*/*/metrics.json"))


def _assert_whole(folder: Path, trials: int) -> None:
    table = pd.read_parquet(folder / "results" / "optuna_trials.parquet")
    numbers = table.groupby("method").trial_number.apply(sorted).tolist()
    assert numbers == [list(range(trials))] * 2
    assert table.ref_status.eq("ok").all()
    assert {path.parent.name for path in _metrics(folder)} == set(table.trial_id)
    assert _jobs(folder / "results" / "parsl") == set()


def test_the_whole_line_outlives_a_cancelled_job_and_a_drained_node(
    slurm: None, tmp_path: Path
) -> None:
    line = {**LINE, "optuna": {**LINE["optuna"], "max_trials": 10}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(line))
    run_dir = tmp_path / "results" / "parsl"

    with _line(tmp_path) as command:

        def beyond(done: set[Path]) -> tuple[set[Path], str]:
            """Waits for another trial to end; what has ended, and the job that runs now."""
            _wait_for(lambda: len(_metrics(tmp_path)) > len(done) or command.poll() is not None)
            said = (tmp_path / "log.txt").read_text()
            assert command.poll() is None, said
            (job,) = _jobs(run_dir, states="RUNNING")
            return _metrics(tmp_path), job

        done, job = beyond(set())
        subprocess.run(["scancel", job], check=True)
        done, job = beyond(done)
        query = ["squeue", "--noheader", "--format=%N", f"--jobs={job}"]
        node = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
        update = ["scontrol", "update", f"NodeName={node}"]
        subprocess.run([*update, "State=DRAIN", "Reason=test"], check=True)
        try:
            subprocess.run(["scancel", job], check=True)
            assert command.wait(TIMEOUT) == 0, (tmp_path / "log.txt").read_text()
        finally:
            subprocess.run([*update, "State=RESUME"], check=True)
    _assert_whole(tmp_path, 10)


def test_the_whole_line_runs_in_jobs_and_survives_the_death_of_its_command(
    slurm: None, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(LINE))
    run_dir = tmp_path / "results" / "parsl"
    with _line(tmp_path) as killed:
        _wait_for(lambda: bool(_metrics(tmp_path)) or killed.poll() is not None)
        left = _jobs(run_dir)
        killed.send_signal(signal.SIGKILL)
    said = (tmp_path / "log.txt").read_text()
    assert killed.returncode == -signal.SIGKILL, said
    assert left, said
    done_before = {path: _of_the_run(path) for path in _metrics(tmp_path)}
    assert done_before
    with _line(tmp_path) as resumed:
        _wait_for(lambda: bool(_jobs(run_dir) - left) or resumed.poll() is not None)
        assert not left & _jobs(run_dir)
        assert resumed.wait(TIMEOUT) == 0, (tmp_path / "log.txt").read_text()
    assert {path: _of_the_run(path) for path in done_before} == done_before
    _assert_whole(tmp_path, 4)


def _of_the_run(path: Path) -> dict[str, Any]:
    """What only another run would change; the driver adds its judgement, once it takes it up."""
    metrics = read_json(path)
    names = ("llc_hat", "se_hat", "runtime_sec", "seconds", "work", "diagnostics", "versions")
    return {name: metrics[name] for name in names}
