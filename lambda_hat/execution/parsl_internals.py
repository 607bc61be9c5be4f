"""What is used of Parsl beyond its documentation, all in one place.

tests/test_internals.py asks Parsl for each of these names, and pyproject.toml bounds its version.
Importing this imports no Parsl.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from parsl.config import Config
    from parsl.dataflow.dflow import DataFlowKernel

INTERCHANGE_MODULE = "parsl.executors.high_throughput.interchange"
WORKER_POOL_VARIABLE = "PARSL_WORKER_POOL_ID"
"""Set in each worker: the id of its worker pool, which `worker_pools` gives too."""
SOCKETS = ("outgoing_q", "incoming_q")
SOCKETS_SEC = 2.0
"""How long a thread that reads a dead interchange's socket may take to notice."""
LOOK_SEC = 0.1
"""Between two looks at an interchange that is starting."""
FAILED_BLOCKS_IN_A_ROW = 3
"""After so many blocks whose workers never came up, no more are asked for."""


# The kernel, to which tasks are submitted.

_FORGOTTEN: list[DataFlowKernel] = []
"""Kept: a thread may still wait on a socket of theirs, which would be closed with them."""


def start_kernel(config: Config) -> DataFlowKernel:
    """Starts the executors of a Config without making it the one of this process.

    Raises:
        InterchangeEnded: An interchange ended before it said where workers find it. Parsl itself
            would wait two minutes for its answer.
    """
    from parsl.dataflow.dflow import DataFlowKernel

    started = threading.Event()
    threading.Thread(target=_stop_waiting, args=(config.executors, started), daemon=True).start()
    try:
        return DataFlowKernel(config)
    except Exception as error:
        for executor in config.executors:
            if interchange_pid(executor) is not None and interchange_has_ended(executor):
                raise InterchangeEnded(ending_of(executor)) from error
        raise
    finally:
        started.set()


def _stop_waiting(executors: Sequence[Any], started: threading.Event) -> None:
    """Ends the wait for an answer from an interchange that has died."""
    while not started.wait(LOOK_SEC):
        for executor in executors:
            if interchange_pid(executor) is not None and interchange_has_ended(executor):
                executor.command_client.ok = False  # Its context is ended here, and only here.
                executor.command_client.zmq_context.term()  # Whoever waits on it gets an error.
                return


class InterchangeEnded(Exception):
    """An interchange has died; its text says with which exit code and with what last words."""


def run_folder(kernel: DataFlowKernel) -> Path:
    """The folder of this start within the Config's `run_dir`."""
    return Path(kernel.run_dir)


def submit(kernel: DataFlowKernel, function: Any, *args: Any, **kwargs: Any) -> Future[Any]:
    """Submits a call to any executor; neither its result nor its code is memoized."""
    return kernel.submit(
        function,
        app_args=args,
        app_kwargs=kwargs,
        executors="all",
        cache=False,
        ignore_for_cache=None,
    )


def forget(kernel: DataFlowKernel) -> None:
    """Has Parsl look at nothing more and clean up nothing at exit: its processes have ended."""
    from parsl.utils import Timer

    atexit.unregister(kernel.atexit_cleanup)
    # The poller's own `close` would ask the interchange how many workers there are.
    Timer.close(kernel.job_status_poller, 0.0)
    _FORGOTTEN.append(kernel)


def is_worker_lost(error: BaseException) -> bool:
    """Whether a worker died with its task, as its worker pool has seen."""
    from parsl.executors.high_throughput.errors import WorkerLost

    return isinstance(error, WorkerLost)


def is_pool_lost(error: BaseException) -> bool:
    """Whether a whole worker pool is gone, with its block or its node."""
    from parsl.executors.high_throughput.errors import ManagerLost

    return isinstance(error, ManagerLost)


def monitoring_pids(config: Config) -> list[int]:
    """The processes that keep the database of a started Config's monitoring, if it has one."""
    if config.monitoring is None:
        return []
    executors: Sequence[Any] = config.executors
    routers = [e.zmq_monitoring.process for e in executors if e.zmq_monitoring is not None]
    return [one.pid for one in (config.monitoring.dbm_proc, *routers) if one.pid is not None]


# The interchange: the process between this one and the workers.


def use_interchange(executor: Any, module: str, *args: str, log: Path) -> None:
    """Has an executor start its interchange by another module, before it is started.

    Args:
        executor: A HighThroughputExecutor.
        module: Its name; no file of the current folder stands in for it.
        args: What it is given, before the path of `log`.
        log: The file to which it writes its errors.
    """
    executor.interchange_launch_cmd = [sys.executable, "-P", "-m", module, *args, str(log)]


def ending_of(executor: Any) -> str:
    """How an interchange ended, in words: its exit code and the last line of its errors."""
    code = wait_for_interchange(executor)
    log = Path(executor.interchange_launch_cmd[-1])
    words = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(words) if line.strip()), "")
    return f"Parsl's interchange ended with exit code {code}" + (f": {last}" if last else "")


def use_addresses(executor: Any, addresses: set[str]) -> None:
    """Has the workers of an executor try these; left to Parsl, it would ask an internet service."""
    executor.all_addresses = addresses


def interchange_pid(executor: Any) -> int | None:
    """The interchange's process; None before it has been started."""
    process = executor.interchange_proc
    return None if process is None else process.pid


def interchange_has_ended(executor: Any) -> bool:
    """Whether it died by itself."""
    return executor.interchange_proc.poll() is not None


def wait_for_interchange(executor: Any) -> int:
    """Waits until it has ended; returns its exit code."""
    return executor.interchange_proc.wait()


def kill_interchange(executor: Any) -> None:
    """Ends it at once, if it was started."""
    if executor.interchange_proc is not None:
        executor.interchange_proc.kill()
        executor.interchange_proc.wait()


def drop_sockets(executor: Any) -> None:
    """Closes the sockets of an executor whose start failed, unsent messages and all.

    Left to the garbage collector, they would wait for an interchange that is no more, and the
    command would never end.
    """
    reader = getattr(executor, "_result_queue_thread", None)
    if reader is not None:
        reader.join(SOCKETS_SEC)  # It ends by itself once the executor is in a bad state.
    for name in SOCKETS:
        pipe = getattr(executor, name, None)
        if pipe is not None:
            pipe.zmq_context.destroy(linger=0)
    client = getattr(executor, "command_client", None)
    if client is not None:
        client.zmq_socket.close()  # It lingers for nothing.
        if client.ok:
            client.zmq_context.term()


class WorkerPool(NamedTuple):
    """The workers of one node, as the interchange sees them."""

    name: str
    block_id: str
    num_tasks: int
    """Tasks that it was given and has not brought back."""


def worker_pools(executor: Any) -> list[WorkerPool]:
    """The worker pools that are connected to the interchange."""
    return [
        WorkerPool(pool["manager"], pool["block_id"], pool["tasks"])
        for pool in executor.connected_managers()
    ]


# Blocks: the jobs that hold the workers.


def job_ids(executor: Any) -> list[str]:
    """The jobs of all blocks so far, ended ones too."""
    return list(executor.provider.resources)


def job_of(executor: Any, block_id: str) -> str | None:
    """The job of a block, if it was submitted."""
    return executor.blocks_to_job_id.get(block_id)


def has_job_ended(executor: Any, job_id: str) -> bool:
    """Whether a job was seen to have ended; for providers whose `resources` say so."""
    return executor.provider.resources[job_id]["status"].terminal


def local_pid(executor: Any, job_id: str) -> int:
    """The process that a LocalProvider's job is."""
    return executor.provider.resources[job_id]["remote_pid"]


def note_cancelled(executor: Any, job_id: str) -> None:
    """Has Parsl see that a job was cancelled without it."""
    from parsl.jobs.states import JobState, JobStatus

    executor.provider.resources[job_id]["status"] = JobStatus(JobState.CANCELLED)


def refuse_all(executor: Any, error: Exception) -> None:
    """Has an executor fail all its tasks and start no more blocks."""
    executor.set_bad_state_and_fail_all(error)


def refuses_all(executor: Any) -> bool:
    """Whether an executor has given up."""
    return executor.bad_state_is_set


def stop_when_no_block_starts(executor: Any, status: dict[str, Any]) -> None:
    """Gives up when the newest blocks all ended before a worker came up.

    An executor's `block_error_handler`. Parsl's own also gives up when the only block was killed
    at work.
    """
    from parsl.jobs.error_handlers import windowed_error_handler
    from parsl.jobs.states import JobState

    wanted = {block: s for block, s in status.items() if s.state != JobState.SCALED_IN}
    newest = sorted(wanted, key=int)[-FAILED_BLOCKS_IN_A_ROW:]
    if all(wanted[block].state == JobState.MISSING for block in newest):
        windowed_error_handler(executor, wanted, FAILED_BLOCKS_IN_A_ROW)
