"""Claims about pools: values come back, deadlines hold, and nothing hangs or stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import toy_apps

from lambda_hat.conf.schema import ConfigError
from lambda_hat.execution import (
    DeadlineExceeded,
    Pool,
    PoolLost,
    TaskFailed,
    WorkerLost,
    load_parsl_config,
    local_config_path,
    open_pool,
    watchdog,
)
from lambda_hat.execution.blocks import cancel_leftovers
from lambda_hat.execution.config import check_config, prepare_config, run_token
from lambda_hat.execution.local import deal_cores, local_config, physical_cores
from lambda_hat.execution.settings import setting

TESTS = Path(__file__).parent
TIMEOUT = 60.0

CONFIG = """
from lambda_hat.execution import local_config

def fresh_config():
    config = local_config(workers=2)
    config.executors[0].heartbeat_period = 1
    config.executors[0].heartbeat_threshold = 6
    return config
"""
"""This machine, with shorter heartbeats than a person would want."""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration whose workers find toy_apps."""
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("XDG_CACHE_HOME", str(path.parent / "cache"))
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        patch.delenv("LAMBDA_HAT_WORKERS", raising=False)
        yield path


@pytest.fixture(scope="module")
def parsl_pool(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    run_dir = tmp_path_factory.mktemp("run") / "spaces; touch misread $(touch misread) `and` 'more"
    with open_pool(parsl_config=config_file, run_dir=run_dir) as pool:
        yield pool


@pytest.fixture(params=["parsl", "in process"])
def any_pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    if request.param == "parsl":
        yield request.getfixturevalue("parsl_pool")
    else:
        with open_pool(parsl_config=None, run_dir=tmp_path) as pool:
            yield pool


def lines(note: Path) -> list[str]:
    return note.read_text().splitlines() if note.exists() else []


# Any pool


@pytest.mark.parametrize("function", [toy_apps.add, "toy_apps:add"])
def test_a_value_comes_back(any_pool: Pool, function: Callable[..., int] | str) -> None:
    assert any_pool.submit(function, 2, b=5).result(TIMEOUT) == 7


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("toy_apps:allocate_too_much", "MemoryError: "),
        ("toy_apps:leave", "SystemExit: enough"),
        ("toy_apps:raise_awkward_error", "AwkwardError: 1 and 2"),
        ("toy_apps:no_such_name", "AttributeError: module 'toy_apps' has no attribute"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_a_function_raises_is_told_in_a_sentence(
    any_pool: Pool, function: str, sentence: str
) -> None:
    error = any_pool.submit(function).exception(TIMEOUT)
    assert isinstance(error, TaskFailed)
    assert str(error).startswith(sentence)
    assert "Traceback" in error.trace
    assert any_pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2


def test_a_full_disk_is_nothing_that_a_task_did(any_pool: Pool) -> None:
    error = any_pool.submit("toy_apps:fill_the_disk").exception(TIMEOUT)
    assert isinstance(error, PoolLost)
    assert str(error).startswith("A worker could not go on: OSError: [Errno 28] No space left")
    assert "metrics.json" in str(error)


def test_a_function_that_workers_cannot_import_is_refused(any_pool: Pool) -> None:
    with pytest.raises(ValueError, match="must be a module-level function"):
        any_pool.submit(lambda: 1)
    with pytest.raises(ValueError, match='must read "module:name"'):
        any_pool.submit("add")
    with pytest.raises(ValueError, match="`deadline_sec > 0` must hold, but got 0"):
        any_pool.submit("toy_apps:add", 1, deadline_sec=0)


def test_a_closed_pool_takes_no_tasks(tmp_path: Path) -> None:
    with open_pool(parsl_config=None, run_dir=tmp_path) as pool:
        future = pool.submit("toy_apps:sleep", 0.1)
    assert future.result(0) == 0.1
    with pytest.raises(RuntimeError):
        pool.submit("toy_apps:add", 1)


# Workers on this machine


def test_each_worker_has_its_own_core_and_stays(parsl_pool: Pool, tmp_path: Path) -> None:
    assert parsl_pool.description == "2 workers on this machine"
    folder = tmp_path / "here"
    folder.mkdir()
    pair = [parsl_pool.submit("toy_apps:meet", str(folder), name, 1) for name in "ab"]
    pids = {future.result(TIMEOUT) for future in pair}
    reports = [parsl_pool.submit("toy_apps:whereabouts").result(TIMEOUT) for _ in range(4)]
    assert len(pids) == 2
    assert {report["pid"] for report in reports} <= pids
    if len(physical_cores()) >= 2:
        assert all(len(report["cpus"]) < len(os.sched_getaffinity(0)) for report in reports)


def test_workers_find_what_jax_needs_in_their_environment(parsl_pool: Pool) -> None:
    report = parsl_pool.submit("toy_apps:whereabouts").result(TIMEOUT)
    seen = report["environment"]
    assert seen["NPROC"] == str(max(1, len(physical_cores()) // 2))
    assert seen.get("JAX_PLATFORMS") == os.environ.get("JAX_PLATFORMS")
    assert seen["JAX_COMPILATION_CACHE_DIR"].startswith(os.environ["XDG_CACHE_HOME"])
    assert seen["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert seen["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert not report["jax"]


def test_a_workers_first_task_does_not_pay_for_jax() -> None:
    code = (
        "import sys, time; from lambda_hat.execution.worker import import_runners\n"
        "import_runners('toy_apps:add'); assert 'jax' not in sys.modules\n"
        "import_runners('lambda_hat.runners.run_method:run_method_trial')\n"
        "assert {'jax', 'lambda_hat.runners.trial_run'} <= set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("stuck", ["sleep", "hold_the_interpreter_lock", "spin"])
def test_a_deadline_ends_any_code_once_and_for_all(
    parsl_pool: Pool, tmp_path: Path, stuck: str
) -> None:
    note = tmp_path / "note"
    start = time.monotonic()
    future = parsl_pool.submit(f"toy_apps:{stuck}", 60.0, note=str(note), deadline_sec=0.5)
    error = future.exception(TIMEOUT)
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "The task was ended at its deadline of 0.5 s."
    assert f"in {stuck}" in error.trace
    assert time.monotonic() - start < 20
    assert len(lines(note)) == 1
    assert not psutil.pid_exists(int(lines(note)[0]))


def test_queueing_does_not_count_against_a_deadline(parsl_pool: Pool) -> None:
    futures = [parsl_pool.submit("toy_apps:sleep", 0.5, deadline_sec=2.0) for _ in range(12)]
    assert [future.result(TIMEOUT) for future in futures] == [0.5] * 12


def test_a_lost_worker_costs_a_retry_of_its_task_alone(parsl_pool: Pool, tmp_path: Path) -> None:
    neighbour = parsl_pool.submit("toy_apps:sleep", 4.0, note=str(tmp_path / "neighbour"))
    unlucky = parsl_pool.submit("toy_apps:kill_worker", str(tmp_path / "unlucky"), 1)
    assert unlucky.result(TIMEOUT) == 2
    assert neighbour.result(TIMEOUT) == 4.0
    assert len(lines(tmp_path / "neighbour")) == 1


def test_a_task_that_kills_its_workers_is_given_up(parsl_pool: Pool, tmp_path: Path) -> None:
    future = parsl_pool.submit("toy_apps:kill_worker", str(tmp_path / "note"), 99)
    with pytest.raises(WorkerLost, match="died each of the 3 times"):
        future.result(TIMEOUT)
    assert len(lines(tmp_path / "note")) == 3
    assert parsl_pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2


def test_markers_go_with_their_tasks(parsl_pool: Pool) -> None:
    assert parsl_pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2
    assert list(parsl_pool._markers.iterdir()) == []  # type: ignore[attr-defined]


# What dies


def test_a_killed_idle_worker_does_not_hang_the_pool(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a worker may hold the lock under which the others wait for tasks."""
    monkeypatch.setitem(watchdog.GRACE_SEC, "local", 6.0)
    with open_pool(parsl_config=config_file, run_dir=tmp_path) as pool:
        for attempt in range(2):  # One of the two workers holds the lock.
            folder = tmp_path / str(attempt)
            folder.mkdir()
            pair = [pool.submit("toy_apps:meet", str(folder), name, 1) for name in "ab"]
            os.kill(sorted(f.result(TIMEOUT) for f in pair)[attempt], signal.SIGKILL)
            assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2


def test_a_killed_worker_pool_is_replaced(config_file: Path, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with open_pool(parsl_config=config_file, run_dir=tmp_path) as pool:
        worker_pool = pool.submit("toy_apps:whereabouts").result(TIMEOUT)["ppid"]
        future = pool.submit("toy_apps:sleep", 2.0, note=str(note))
        _wait_for(lambda: len(lines(note)) == 1)
        processes = [psutil.Process(worker_pool), *psutil.Process(worker_pool).children()]
        assert len(processes) >= 4  # Two workers, and what serves them their queues.
        os.kill(worker_pool, signal.SIGKILL)
        assert future.result(TIMEOUT) == 2.0
    assert len(lines(note)) == 2
    assert _survivors(processes, within=2.0) == []


def test_a_killed_interchange_ends_every_future(config_file: Path, tmp_path: Path) -> None:
    polling = _num_threads("JobStatusPoller")
    with open_pool(parsl_config=config_file, run_dir=tmp_path) as pool:
        assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2
        futures = [pool.submit("toy_apps:sleep", 60.0) for _ in range(4)]
        interchange = pool._executors[0].interchange_proc.pid  # type: ignore[attr-defined]
        processes = _processes_of(psutil.Process(interchange), tmp_path)
        os.kill(interchange, signal.SIGKILL)
        for future in futures:
            with pytest.raises(PoolLost, match="interchange ended with exit code -9"):
                future.result(TIMEOUT)
        with pytest.raises(PoolLost):
            pool.submit("toy_apps:add", 1).result(TIMEOUT)
    assert _survivors(processes, within=5.0) == []
    _wait_for(lambda: _num_threads("JobStatusPoller") <= polling)


def test_workers_that_cannot_start_are_reported(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(
        CONFIG.replace(
            "    return config",
            "    config.executors[0].provider.worker_init = 'exit 3'\n"
            "    config.strategy_period = 0.2\n"
            "    return config",
        )
    )
    with open_pool(parsl_config=config, run_dir=tmp_path) as pool:
        error = pool.submit("toy_apps:add", 1).exception(TIMEOUT)
    assert isinstance(error, PoolLost)
    assert "EXIT CODE: 3" in str(error)


@pytest.fixture
def driver(config_file: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, list]]:
    """A command at work, called by absolute path without an activated environment."""
    note = tmp_path / "note"
    words = [config_file, tmp_path / "run", "toy_apps:hold_the_interpreter_lock", 120, note]
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "toy_driver.py"), *map(str, words)],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS), "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        _wait_for(lambda: len(lines(note)) == 2 or process.poll() is not None)
        processes = _processes_of(psutil.Process(process.pid), tmp_path / "run")
        yield process, processes
        for straggler in _survivors(processes, within=0.0):
            straggler.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_at_once_and_leaves_nothing(
    driver: tuple[subprocess.Popen, list], number: signal.Signals
) -> None:
    process, processes = driver
    start = time.monotonic()
    os.killpg(process.pid, number)  # As a terminal does.
    output, _ = process.communicate(timeout=TIMEOUT)
    assert time.monotonic() - start < 4.0
    assert (output, process.returncode) == ("interrupted\n", 130)
    assert len(processes) >= 6
    assert _survivors(processes, within=2.0) == []


def test_an_interrupt_while_the_workers_start_leaves_nothing(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parsl.executors import HighThroughputExecutor

    start, started = HighThroughputExecutor.start, []

    def start_and_interrupt(self: HighThroughputExecutor) -> None:
        start(self)
        assert self.interchange_proc is not None
        started.append(psutil.Process(self.interchange_proc.pid))
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(HighThroughputExecutor, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        with open_pool(parsl_config=config_file, run_dir=tmp_path):
            pytest.fail("The pool was opened in spite of a Ctrl-C.")
    assert len(started) == 1
    assert _survivors(started, within=1.0) == []


def test_an_interchange_that_dies_while_closing_does_not_hang_it(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_hat.execution.parsl_pool.CLEAN_UP_SEC", 2.0)
    with open_pool(parsl_config=config_file, run_dir=tmp_path) as pool:
        assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2
        executor = pool._executors[0]  # type: ignore[attr-defined]
        processes = _processes_of(psutil.Process(executor.interchange_proc.pid), tmp_path)
        monkeypatch.setattr(executor.interchange_proc, "poll", lambda: None)  # Not seen yet.
        os.kill(executor.interchange_proc.pid, signal.SIGSTOP)
    assert _survivors(processes, within=2.0) == []


def test_a_killed_command_leaves_nothing_for_long(driver: tuple[subprocess.Popen, list]) -> None:
    process, processes = driver
    process.kill()
    assert _survivors(processes, within=30.0) == []


def test_the_next_start_ends_what_a_killed_command_left(
    driver: tuple[subprocess.Popen, list], tmp_path: Path
) -> None:
    process, processes = driver
    process.kill()
    assert cancel_leftovers(local_config().executors[0], run_token(tmp_path / "run"))
    assert _survivors(processes, within=3.0) == []


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _processes_of(driver: psutil.Process, run_dir: Path) -> list[psutil.Process]:
    """The driver's children, and the worker pools of its run folder with theirs."""
    token = run_token(run_dir)
    found = driver.children(recursive=True)
    for process in psutil.process_iter(["cmdline"]):
        if any(token in word for word in process.info["cmdline"] or ()):
            found += [process, *process.children(recursive=True)]
    return found


def _survivors(processes: list[psutil.Process], *, within: float) -> list[psutil.Process]:
    end = time.monotonic() + within
    while alive := [p for p in processes if _is_alive(p)]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Parsl's monitoring


@pytest.fixture
def monitored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_HAT_MONITORING", "1")


def test_one_switch_has_parsl_keep_a_database_of_all_tasks(
    monitored: None, config_file: Path, tmp_path: Path
) -> None:
    with open_pool(parsl_config=config_file, run_dir=tmp_path / "run") as pool:
        assert pool.submit("toy_apps:add", 1).result(TIMEOUT) == 2
        assert isinstance(pool.submit("toy_apps:absent").exception(TIMEOUT), TaskFailed)
    with closing(sqlite3.connect(tmp_path / "run" / "monitoring.db")) as database:
        tasks = database.execute("SELECT task_func_name, task_time_returned FROM task").fetchall()
        ran = database.execute("SELECT hostname, task_try_time_running FROM try").fetchall()
        (memory,) = database.execute(
            "SELECT max(psutil_process_memory_resident) FROM resource"
        ).fetchone()
        (workers,) = database.execute("SELECT max(worker_count) FROM node").fetchone()
    assert sorted(name for name, _ in tasks) == ["absent", "add"]
    assert all(returned for _, returned in tasks)
    assert len(ran) == 2 and all(host and began for host, began in ran)
    assert memory > 1e7 and workers == 2


def test_a_killed_command_leaves_no_monitoring(
    monitored: None, config_file: Path, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    words = [config_file, tmp_path / "run", "toy_apps:hold_the_interpreter_lock", 120, note]
    command = [sys.executable, str(TESTS / "toy_driver.py"), *map(str, words)]
    with subprocess.Popen(command, start_new_session=True) as process:
        _wait_for(lambda: len(lines(note)) == 2 or process.poll() is not None)
        processes = _processes_of(psutil.Process(process.pid), tmp_path / "run")
        names = [" ".join(one.cmdline()) for one in processes]
        assert sum("monitoring" in name or "spawn_main" in name for name in names) >= 2, names
        process.kill()
        assert _survivors(processes, within=30.0) == []


def test_a_switch_that_is_none_is_told_in_a_sentence(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_HAT_MONITORING", "on")
    with pytest.raises(ConfigError, match="LAMBDA_HAT_MONITORING must be a whole number, but got"):
        load_parsl_config(config_file)


# Configurations


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "must be a file, but there is none."),
        ("x = 1", "must define a function fresh_config() that returns a parsl Config."),
        ("fresh_config = 1", "must define a function fresh_config() that returns a parsl Config."),
        ("def fresh_config(): return {}", "must return a parsl Config, but got dict."),
        ("\n\nimport no_such_module", "(line 3): ModuleNotFoundError: No module named"),
        ("def f(:", "could not be loaded: SyntaxError: invalid syntax"),
        ("def fresh_config(): return 1 / 0", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_defines_no_config_is_told_in_a_sentence(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_parsl_config(path)
    assert len(caught.value.faults) == 1
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_config_that_would_hang_or_leak_is_refused() -> None:
    config = local_config()
    config.strategy = "none"
    config.executors[0].encrypted = False
    config.executors[0].address = None
    config.executors[0].provider.walltime = "00:10:00"
    with pytest.raises(ConfigError) as caught:
        check_config(config, run_dir=Path("/tmp"), trial_sec=600.0)
    strategy, encrypted, walltime = caught.value.faults
    assert "strategy must be 'simple'" in strategy
    assert "must have encrypted=True" in encrypted
    assert walltime.endswith("the budget of a trial (600 s) by 60 s, but got 600 s.")


def test_a_block_near_its_end_takes_no_trial_it_could_not_finish(tmp_path: Path) -> None:
    config = local_config()
    config.executors[0].provider.walltime = "01:00:00"
    check_config(config, run_dir=tmp_path, trial_sec=600.0)
    prepare_config(config, tmp_path, trial_sec=600.0)
    assert config.executors[0].drain_period == 3600 - 600 - 60


def test_a_run_folder_keeps_its_token(tmp_path: Path) -> None:
    assert run_token(tmp_path / "a") == run_token(tmp_path / "a") != run_token(tmp_path / "b")


def test_a_run_folder_that_a_shell_would_misread_is_refused_on_a_cluster() -> None:
    config = local_config()
    config.executors[0].provider._label = "elsewhere"
    with pytest.raises(ConfigError, match="must have a run folder without spaces"):
        check_config(config, run_dir=Path("/tmp/a b"), trial_sec=None)


def test_threads_of_the_driver_are_no_workers() -> None:
    from parsl.config import Config

    with pytest.raises(ConfigError, match="must be a HighThroughputExecutor"):
        check_config(Config(), run_dir=Path("/tmp"), trial_sec=None)


def test_local_means_the_file_of_this_folder_or_the_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMBDA_HAT_WORKERS", "3")
    assert load_parsl_config(local_config_path()).executors[0].max_workers_per_node == 3
    shutil.copy(TESTS.parent / "parsl_config_local.py", tmp_path)
    assert local_config_path() == tmp_path / "parsl_config_local.py"
    assert load_parsl_config(local_config_path()).executors[0].max_workers_per_node == 3


def test_the_default_is_one_worker_a_physical_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMBDA_HAT_WORKERS", raising=False)
    assert local_config().executors[0].max_workers_per_node == len(physical_cores())


def test_a_worker_gets_all_threads_of_its_cores() -> None:
    cores = [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert deal_cores(cores, 4) == "list:0,4:1,5:2,6:3,7"
    assert deal_cores(cores, 2) == "list:0,4,2,6:1,5,3,7"
    assert deal_cores(cores[:1], 2) == "list:0,4:0,4"


@pytest.mark.parametrize(
    ("text", "default", "sentence"),
    [
        ("two", 1, "LAMBDA_HAT_X must be a whole number, but got 'two'."),
        ("0", 1, "LAMBDA_HAT_X must be 1 or more, but got 0."),
        ("a b", "name", "LAMBDA_HAT_X must be one word of plain characters, but got 'a b'."),
        ("$(rm)", "name", "LAMBDA_HAT_X must be one word of plain characters, but got '$(rm)'."),
    ],
)
def test_a_setting_that_does_not_fit_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, text: str, default: int | str, sentence: str
) -> None:
    monkeypatch.setenv("LAMBDA_HAT_X", text)
    with pytest.raises(ConfigError) as caught:
        setting("LAMBDA_HAT_X", default, least=1)
    assert str(caught.value) == sentence


def test_the_driver_imports_neither_jax_nor_parsl() -> None:
    code = "import sys, lambda_hat.execution; sys.exit(bool({'jax', 'parsl'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_workers_listen_on_loopback_only_and_a_shell_misreads_no_folder(parsl_pool: Pool) -> None:
    folder = parsl_pool.submit("os:getcwd").result(TIMEOUT)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [s for process in processes for s in process.net_connections("inet")]
    listening = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert not Path("misread").exists() and not Path(folder, "misread").exists()


def test_workers_run_side_by_side(parsl_pool: Pool, tmp_path: Path) -> None:
    done, _ = wait(
        [parsl_pool.submit("toy_apps:meet", str(tmp_path), name, 1) for name in "ab"], TIMEOUT
    )
    assert len(done) == 2


# Providers that are neither this machine nor SLURM nor PBS

ELSEWHERE = """
import os, signal
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from lambda_hat.execution.local import worker_init


class Elsewhere(LocalProvider):
    _label, walltime = "elsewhere", "an hour"

    def __init__(self, **options):
        super().__init__(**options)
        self._label = "elsewhere"

    def cancel(self, job_ids):
        for job_id in job_ids:
            try:
                os.killpg(os.getpgid(self.resources[job_id]["remote_pid"]), signal.SIGKILL)
            except ProcessLookupError:
                pass
        return [True] * len(job_ids)


def fresh_config():
    provider = Elsewhere(init_blocks=1, max_blocks=1, worker_init=worker_init())
    executor = HighThroughputExecutor(
        label="elsewhere", address="127.0.0.1", max_workers_per_node=1, provider=provider
    )
    return Config(executors=[executor], strategy="simple", strategy_period=1)
"""


def test_another_provider_is_used_with_one_warning_and_not_as_if_it_were_pbs(
    config_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "elsewhere.py"
    path.write_text(ELSEWHERE)
    before = _num_threads("watchdog")
    with open_pool(parsl_config=path, run_dir=tmp_path / "run", trial_sec=100.0) as pool:
        assert pool.description == "ELSEWHERE: up to 1 job of 1 node with 1 worker each"
        worker = psutil.Process(pool.submit("toy_apps:whereabouts").result(TIMEOUT)["pid"])
        watching = _num_threads("watchdog")
    assert watching == before
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("lambda_hat")]
    assert len(ours) == 1 and "runs on Elsewhere, and only this machine, SLURM and PBS" in ours[0]
    assert _survivors([worker], within=5.0) == []


def _num_threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())
