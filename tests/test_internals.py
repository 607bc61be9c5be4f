"""Claims about what Parsl and Optuna do not promise: each has what we use of its inner parts.

These tests run first. Where one fails, that package has moved, and what fails after it may well
come from that: mend the one file that is named, then look further.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial
from packaging.requirements import Requirement
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider, PBSProProvider, SlurmProvider, TorqueProvider

from lambda_hat.execution.local import local_config
from lambda_hat.execution.parsl_internals import (
    INTERCHANGE_MODULE,
    SOCKETS,
    WORKER_POOL_VARIABLE,
)
from lambda_hat.tuning.optuna_internals import (
    ENTRY_KEYS,
    LOCK_SUFFIX,
    JournalFile,
    Replay,
    add_unchecked,
    begin_enqueued,
    is_entry,
    open_trial,
)

ROOT = Path(__file__).parents[1]


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def text_of(module: str) -> str:
    """The source of a module, which is not run."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"there is no module {module}"
    return Path(spec.origin).read_text()


def part(name: str) -> Any:
    """What `module:name` is in Parsl."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"parsl.{module}"), attribute)


KERNEL = "dataflow.dflow:DataFlowKernel"
ERRORS, PIPES = "executors.high_throughput.errors", "executors.high_throughput.zmq_pipes"


def moved(package: str, what: str, where: str) -> str:
    return (
        f"{package} {metadata.version(package)} has moved: it has no {what} as we use it. "
        f"Mend lambda_hat/{where}, or lower the bound on {package} in pyproject.toml."
    )


@pytest.mark.parametrize("package", ["parsl", "optuna"])
def test_versions_are_bounded_on_both_sides(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [needed] = [r for r in map(Requirement, project["dependencies"]) if r.name == package]
    assert {bound.operator for bound in needed.specifier} == {">=", "<"}
    assert metadata.version(package) in needed.specifier


# Parsl


def executor() -> HighThroughputExecutor:
    """One that has not been started."""
    return local_config(workers=1).executors[0]  # type: ignore[return-value]


def start_text() -> str:
    return inspect.getsource(HighThroughputExecutor)


def status(state: str) -> Any:
    return part("jobs.states:JobStatus")(part("jobs.states:JobState")[state])


PARSL: dict[str, Callable[[], bool]] = {
    "DataFlowKernel.submit and its parameters": lambda: (
        {"func", "app_args", "executors", "cache", "ignore_for_cache", "app_kwargs"}
        <= set(parameters(part(KERNEL).submit))
    ),
    "DataFlowKernel.cleanup and .atexit_cleanup": lambda: (
        callable(part(KERNEL).cleanup)
        and "atexit.register(self.atexit_cleanup)" in inspect.getsource(part(KERNEL))
    ),
    "DataFlowKernel.job_status_poller, a Timer with close(timeout)": lambda: (
        "self.job_status_poller = JobStatusPoller(" in inspect.getsource(part(KERNEL).__init__)
        and issubclass(part("jobs.job_status_poller:JobStatusPoller"), part("utils:Timer"))
        and parameters(part("utils:Timer").close) == ["self", "timeout"]
    ),
    "DataFlowKernel.run_dir": lambda: (
        "self.run_dir = make_rundir(config.run_dir)" in inspect.getsource(part(KERNEL).__init__)
    ),
    "MonitoringHub.dbm_proc and executor.zmq_monitoring, with .process": lambda: (
        "self.dbm_proc = SpawnProcess(" in text_of("parsl.monitoring.monitoring")
        and executor().zmq_monitoring is None
        and "self.process = process" in text_of("parsl.monitoring.radios.zmq_router")
    ),
    "errors WorkerLost and ManagerLost": lambda: (
        issubclass(part(f"{ERRORS}:WorkerLost"), Exception)
        and issubclass(part(f"{ERRORS}:ManagerLost"), Exception)
    ),
    "executor.interchange_launch_cmd, started as it stands": lambda: (
        isinstance(executor().interchange_launch_cmd, list)
        and "self.interchange_proc = subprocess.Popen(self.interchange_launch_cmd" in start_text()
    ),
    "executor.interchange_proc, None before the start": lambda: executor().interchange_proc is None,
    "an interchange module that runs as __main__": lambda: (
        'if __name__ == "__main__":' in text_of(INTERCHANGE_MODULE)
    ),
    "executor.all_addresses": lambda: executor().all_addresses == {"127.0.0.1"},
    "executor.drain_period, .label, .encrypted, .address, .provider": lambda: all(
        hasattr(executor(), name)
        for name in (
            "drain_period",
            "label",
            "encrypted",
            "address",
            "provider",
            "workers_per_node",
        )
    ),
    "executor._result_queue_thread": lambda: (
        executor()._result_queue_thread is None
        and "self._result_queue_thread = threading.Thread(" in start_text()
    ),
    f"executor.{', .'.join(SOCKETS)}, .command_client": lambda: all(
        f"self.{name} = zmq_pipes." in start_text() for name in (*SOCKETS, "command_client")
    ),
    "zmq_context of each socket, with destroy(linger)": lambda: (
        all(
            "self.zmq_context = " in inspect.getsource(part(f"{PIPES}:{name}").__init__)
            for name in ("CommandClient", "TasksOutgoing", "ResultsIncoming")
        )
        and "linger" in parameters(part("curvezmq:ClientContext").destroy)
    ),
    "executor.connected_managers() with manager, block_id and tasks": lambda: (
        parameters(HighThroughputExecutor.connected_managers) == ["self"]
        and all(f"'{key}': " in text_of(INTERCHANGE_MODULE) for key in ("manager", "tasks"))
        and "'block_id': m['block_id']" in text_of(INTERCHANGE_MODULE)
    ),
    f"{WORKER_POOL_VARIABLE} in a worker's environment": lambda: (
        f"os.environ['{WORKER_POOL_VARIABLE}']"
        in text_of("parsl.executors.high_throughput.process_worker_pool")
    ),
    "executor.blocks_to_job_id": lambda: executor().blocks_to_job_id == {},
    "the executor's label in the names of its jobs": lambda: (
        'f"parsl.{self.label}.block-' in inspect.getsource(HighThroughputExecutor._launch_block)
    ),
    "executor.set_bad_state_and_fail_all(exception) and .bad_state_is_set": lambda: (
        parameters(HighThroughputExecutor.set_bad_state_and_fail_all) == ["self", "exception"]
        and executor().bad_state_is_set is False
    ),
    "executor.block_error_handler(executor, status)": lambda: (
        "self.block_error_handler(self, status)"
        in inspect.getsource(HighThroughputExecutor.handle_errors)
    ),
    "windowed_error_handler(executor, status, threshold)": lambda: (
        parameters(part("jobs.error_handlers:windowed_error_handler"))
        == ["executor", "status", "threshold"]
    ),
    "JobState SCALED_IN, MISSING and CANCELLED, and JobStatus.terminal": lambda: (
        {"SCALED_IN", "MISSING", "CANCELLED"} <= set(part("jobs.states:JobState").__members__)
        and status("CANCELLED").terminal
        and not status("RUNNING").terminal
    ),
    "provider.resources, and the labels local, slurm, pbspro and torque": lambda: (
        all(
            provider.label == label and provider.resources == {}
            for label, provider in {
                "local": LocalProvider(),
                "slurm": SlurmProvider(),
                "pbspro": PBSProProvider(),
                "torque": TorqueProvider(),
            }.items()
        )
        and hasattr(SlurmProvider(), "clusters")
    ),
    "status of a job in resources, and the remote_pid of a local one": lambda: (
        all(
            re.search(r"self\.resources\[job_id\] = \{.*'status':", inspect.getsource(cls), re.S)
            for cls in (LocalProvider, SlurmProvider, PBSProProvider, TorqueProvider)
        )
        and "'remote_pid': remote_pid" in inspect.getsource(LocalProvider.submit)
    ),
    "provider.status_polling_interval, a property": lambda: all(
        isinstance(inspect.getattr_static(cls, "status_polling_interval"), property)
        for cls in (SlurmProvider, PBSProProvider)
    ),
}


@pytest.mark.parametrize("what", PARSL)
def test_parsl_has_the_inner_parts_that_we_use(what: str) -> None:
    try:
        there = PARSL[what]()
    except (ImportError, AttributeError, TypeError, KeyError):
        there = False
    assert there, moved("parsl", what, "execution/parsl_internals.py")


# Optuna

OPTUNA = "tuning/optuna_internals.py"


def study_in(backend: BaseJournalBackend, name: str = "a") -> optuna.Study:
    return optuna.create_study(storage=JournalStorage(backend), study_name=name)


def optunas_own(path: Path) -> JournalFileBackend:
    return JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))


def test_optuna_has_the_inner_parts_that_we_use(tmp_path: Path) -> None:
    assert BaseJournalBackend.__abstractmethods__ == {"read_logs", "append_logs"}, moved(
        "optuna", "journal backend of read_logs and append_logs alone", OPTUNA
    )
    assert parameters(BaseJournalBackend.read_logs) == ["self", "log_number_from"], moved(
        "optuna", "read_logs(log_number_from)", OPTUNA
    )
    lock = JournalFileOpenLock(str(tmp_path / "j"))
    lock.acquire()
    there = (tmp_path / f"j{LOCK_SUFFIX}").exists()
    lock.release()
    assert there, moved("optuna", f"lock file that ends in {LOCK_SUFFIX}", OPTUNA)


def test_optunas_own_journal_has_the_lines_that_we_read(tmp_path: Path) -> None:
    study = study_in(optunas_own(tmp_path / "j"))
    trial = study.ask()
    trial.suggest_float("lr", 1e-3, 1.0, log=True)
    trial.set_user_attr("record", "text")
    study.tell(trial, 1.0)
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    assert all(map(is_entry, lines)), moved("optuna", f"{set(ENTRY_KEYS)} in each line", OPTUNA)
    [record] = [log for log in map(json.loads, lines) if "user_attr" in log]
    assert record["trial_id"] == 0 and record["user_attr"] == {"record": "text"}, moved(
        "optuna", "line of trial_id and user_attr for a user attribute", OPTUNA
    )
    assert not is_entry(lines[0][:-1]) and not is_entry(b"{}\n")
    replay = Replay()
    assert all(map(replay.takes, lines)), moved("optuna", "JournalStorageReplayResult", OPTUNA)
    damaged = [line.replace(b'"trial_id"', b'"tsial_id"') for line in lines]
    assert damaged != lines
    replay = Replay()
    assert [replay.takes(line) for line in damaged] == [
        a == b for a, b in zip(damaged, lines, strict=True)
    ]


def test_what_one_of_both_journals_writes_the_other_reads(tmp_path: Path) -> None:
    ours, theirs = JournalFile(tmp_path / "j", record="record"), optunas_own(tmp_path / "j")
    study = study_in(ours)
    for value in (1.0, 2.0):
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        trial.set_user_attr("record", "text")
        study.tell(trial, value)
    other = optuna.load_study(storage=JournalStorage(theirs), study_name="a")
    other.add_trial(create_trial(value=3.0))
    assert [t.value for t in study.get_trials()] == [t.value for t in other.get_trials()]
    assert other.trials[0].user_attrs == {"record": "text"}
    assert ours.record_of(study.trials[0].user_attrs) == "text"


def test_a_trial_is_reopened_by_its_id() -> None:
    study = optuna.create_study()
    study.ask().suggest_float("x", 0.0, 1.0)
    [frozen] = study.get_trials()
    again = open_trial(study, frozen)
    x = again.suggest_float("x", 0.0, 1.0)
    study.tell(again, x)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE], moved(
        "optuna", "FrozenTrial._trial_id that reopens a trial", OPTUNA
    )


def test_a_certain_one_of_the_enqueued_trials_is_begun() -> None:
    study = optuna.create_study()
    for x in (0.1, 0.2):
        study.enqueue_trial({"x": x})
    begin_enqueued(study, study.get_trials()[1])
    assert [t.state for t in study.trials] == [TrialState.WAITING, TrialState.RUNNING], moved(
        "optuna", "storage that begins a trial by its id", OPTUNA
    )


def test_a_finished_trial_out_of_its_range_is_added_as_it_is() -> None:
    study, uniform = optuna.create_study(), FloatDistribution(0.0, 1.0)
    trial = create_trial(value=1.0, params={"x": 0.5}, distributions={"x": uniform})
    trial.params = {"x": 2.0}
    add_unchecked(study, trial)
    assert study.trials[0].params == {"x": 2.0}, moved(
        "optuna", "storage that takes a trial as a template", OPTUNA
    )


def test_the_samplers_have_the_inner_parts_that_ours_replace() -> None:
    from optuna.samplers import CmaEsSampler, QMCSampler

    asked = inspect.getsource(CmaEsSampler.sample_relative)
    for text in (
        "self._restore_optimizer(completed_trials)",
        "self._init_optimizer(trans, study.direction)",
        "self._get_solution_trials(completed_trials, optimizer.generation)",
    ):
        assert text in asked, moved("optuna", f"CmaEsSampler that calls {text}", OPTUNA)
    assert "self._find_sample_id(study, search_space)" in inspect.getsource(
        QMCSampler._sample_qmc
    ), moved("optuna", "QMCSampler._find_sample_id", OPTUNA)


# Ours

PRIVATE = {
    "execution/parsl_internals.py": """interchange_proc interchange_launch_cmd blocks_to_job_id
        all_addresses bad_state_is_set set_bad_state_and_fail_all connected_managers
        _result_queue_thread atexit_cleanup zmq_context JobState JobStatus job_status_poller""",
    OPTUNA: """_trial_id _study_id _storage JournalFileBackend JournalFileOpenLock
        _restore_optimizer _init_optimizer _get_solution_trials _find_sample_id""",
}


@pytest.mark.parametrize("home", PRIVATE)
def test_no_other_module_reaches_into_another_package(home: str) -> None:
    private = set(PRIVATE[home].split())
    for path in (ROOT / "lambda_hat").rglob("*.py"):
        if path != ROOT / "lambda_hat" / home:
            used = {
                node.attr if isinstance(node, ast.Attribute) else node.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute | ast.alias)
            }
            assert not used & private, f"{path} uses {used & private}: it belongs into {home}"
