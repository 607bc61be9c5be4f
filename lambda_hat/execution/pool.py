"""Tasks -> Futures: a pool of workers, Parsl's or this process, behind one interface."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lambda_hat.execution.config import check_config, load_parsl_config, prepare_config
from lambda_hat.execution.worker import TaskFailed, call, run_task

if TYPE_CHECKING:
    from parsl.config import Config

logger = logging.getLogger(__name__)

MAX_WORKERS_LOST = 2
"""A task whose worker dies is run again so often: it may be what kills them."""
MAX_BLOCKS_LOST = 100
"""A task whose whole block goes away (walltime, a dead node) is run again so often."""


class WorkerLost(Exception):
    """The worker died while it ran the task, each time the task was tried."""


class DeadlineExceeded(Exception):
    """The task was ended at its deadline; the text says where it was stuck."""


class PoolLost(Exception):
    """The pool itself is gone or was closed; the task may be submitted to another."""


class Pool(Protocol):
    """Where tasks run."""

    @property
    def num_workers(self) -> int:
        """How many tasks run at once, at most."""
        ...

    @property
    def description(self) -> str:
        """The workers, in words."""
        ...

    def submit(
        self,
        function: Callable[..., Any] | str,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """Has a worker call a function.

        Args:
            function: A module-level function of an importable module, or its name as
                "module:name", which spares the driver the import.
            args: Its positional arguments.
            deadline_sec: Wall time, from when a worker takes the task, after which the worker
                is ended and the task with it; queueing does not count.
            kwargs: Its keyword arguments.

        Returns:
            A future of the function's value, or of one of TaskFailed (the function raised),
            DeadlineExceeded, WorkerLost, PoolLost. It is set in another thread.
        """
        ...

    def close(self, *, cancel: bool = False) -> None:
        """Ends the workers, once all tasks are done, or at once with `cancel`."""
        ...


class InProcessPool:
    """One thread of this process: for tests and debugging, without deadlines."""

    num_workers = 1
    description = "this process (for debugging: no deadlines)"

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="in-process-pool")

    def submit(
        self,
        function: Callable[..., Any] | str,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """See `Pool.submit`; `deadline_sec` is checked and has no other effect."""
        _check_deadline(deadline_sec)
        return self._executor.submit(call, target_name(function), args, kwargs)

    def close(self, *, cancel: bool = False) -> None:
        """See `Pool.close`; the task that runs is always waited for."""
        self._executor.shutdown(cancel_futures=cancel)


@dataclass
class _Task:
    """One submitted call and what has become of it so far."""

    number: int
    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    deadline_sec: float | None
    future: Future[Any] = field(default_factory=Future)
    workers_lost: int = 0
    blocks_lost: int = 0

    @property
    def marker(self) -> str:
        """Names this attempt's marker file."""
        return f"{self.number:06d}.{self.workers_lost + self.blocks_lost}"


class ParslPool:
    """Workers of Parsl's HighThroughputExecutor, on this machine or on a cluster.

    Create it in a thread that outlives it: the kernel ends Parsl's interchange with the thread.
    """

    def __init__(self, config: Config, run_dir: Path):
        """Starts the workers of a prepared Config.

        Args:
            config: From `prepare_config`; Parsl loads it only once.
            run_dir: Where Parsl's logs and our marker files go, in a numbered folder a run.
        """
        self._executors: list[Any] = list(config.executors)
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._broken: PoolLost | None = None
        self._closed = False
        self._dfk = self._start(config)
        self._markers = Path(self._dfk.run_dir) / "running"
        self._markers.mkdir()
        for executor in self._executors:
            threading.Thread(target=self._watch, args=(executor,), daemon=True).start()

    @property
    def num_workers(self) -> int:
        """How many tasks run at once when all blocks are there."""
        return sum(_num_workers(e) for e in self._executors)

    @property
    def description(self) -> str:
        """The workers, in words."""
        return " + ".join(_describe(e) for e in self._executors)

    def submit(
        self,
        function: Callable[..., Any] | str,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """See `Pool.submit`."""
        _check_deadline(deadline_sec)
        task = _Task(next(self._numbers), target_name(function), args, kwargs, deadline_sec)
        task.future.set_running_or_notify_cancel()  # It cannot be cancelled by itself.
        with self._lock:
            if self._closed:
                raise RuntimeError("This pool is closed.")
            self._tasks[task.number] = task
        self._launch(task)
        return task.future

    def close(self, *, cancel: bool = False) -> None:
        """See `Pool.close`; a second call does nothing."""
        if not cancel:
            wait([task.future for task in list(self._tasks.values())])
        with _blocked(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            self._fail_all(PoolLost("The pool was closed before the task was done."))
            _end_local_blocks(self._executors)
            if self._broken:
                _abandon(self._dfk, self._executors)
            else:
                self._dfk.cleanup()

    def _start(self, config: Config) -> Any:
        from parsl.dataflow.dflow import DataFlowKernel

        with _blocked(signal.SIGINT, signal.SIGHUP):  # Children inherit the blocked signals.
            try:
                return DataFlowKernel(config)
            except BaseException:
                _end_local_blocks(self._executors)
                _abandon(None, self._executors)
                raise

    def _launch(self, task: _Task) -> None:
        marker = str(self._markers / task.marker)
        with self._lock:  # Parsl numbers its tasks without a lock.
            if self._broken or self._closed:
                self._finish(task, error=self._broken or PoolLost("The pool was closed."))
                return
            future = self._dfk.submit(
                run_task,
                app_args=(task.target, task.args, task.kwargs),
                app_kwargs={"marker": marker, "deadline_sec": task.deadline_sec},
                executors="all",
                cache=False,
                ignore_for_cache=None,
            )
        future.add_done_callback(lambda done: self._settle(task, done))

    def _settle(self, task: _Task, done: Future[Any]) -> None:
        """Ends the task's future, or runs the task again; called by Parsl's threads."""
        error = done.exception()
        try:
            verdict = None if error is None else self._judge(task, error)
        except Exception as fault:
            verdict = fault  # Or the future would never end.
        if verdict is None and error is not None:
            self._launch(task)
        else:
            self._finish(task, value=None if error else done.result(), error=verdict)

    def _judge(self, task: _Task, error: BaseException) -> Exception | None:
        """What the task's future ends with, or None when the task is to run again."""
        from parsl.executors.high_throughput.errors import ManagerLost
        from parsl.executors.high_throughput.errors import WorkerLost as ParslWorkerLost

        if isinstance(error, TaskFailed):
            return error
        trace = self._take_trace(task)
        if trace:
            return DeadlineExceeded(f"Ended after {task.deadline_sec:g} s. {trace}")
        if isinstance(error, ParslWorkerLost):
            task.workers_lost += 1
        elif isinstance(error, ManagerLost):
            task.blocks_lost += 1
        else:
            return PoolLost(f"The workers are gone: {error} (logs in {self._dfk.run_dir})")
        if task.workers_lost > MAX_WORKERS_LOST or task.blocks_lost > MAX_BLOCKS_LOST:
            times = task.workers_lost + task.blocks_lost
            return WorkerLost(
                f"The worker died each of the {times} times it ran this task: killed, out of "
                f"memory, or crashed in native code (logs in {self._dfk.run_dir})."
            )
        logger.warning("A worker was lost (%s); its task runs again.", error)
        return None

    def _take_trace(self, task: _Task) -> str:
        """Removes the markers of this attempt; the trace that a deadline left in one, or ''."""
        trace = ""
        for path in self._markers.glob(f"{task.marker}@*"):
            trace = path.read_text() or trace
            path.unlink(missing_ok=True)
        return trace

    def _finish(self, task: _Task, *, value: Any = None, error: BaseException | None) -> None:
        with self._lock:
            if self._tasks.pop(task.number, None) is None:
                return
        if error is None:
            task.future.set_result(value)
        else:
            task.future.set_exception(error)

    def _fail_all(self, error: PoolLost) -> None:
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            self._finish(task, error=error)

    def _watch(self, executor: Any) -> None:
        """Fails all tasks when an interchange dies, which Parsl itself does not see."""
        code = executor.interchange_proc.wait()
        with self._lock:
            if self._closed:
                return
            self._broken = PoolLost(
                f"Parsl's interchange ended with exit code {code} (logs in {self._dfk.run_dir})."
            )
        self._fail_all(self._broken)


@contextmanager
def open_pool(
    *, parsl_config: Path | None, run_dir: Path, trial_sec: float | None = None
) -> Iterator[Pool]:
    """A pool for the time of a `with` block; left by an exception, it drops what runs.

    The caller holds the results folder's lock: left-over jobs of `run_dir` are cancelled.

    Args:
        parsl_config: A file that defines `fresh_config()`; None for the in-process debug pool.
        run_dir: Parsl's logs and marker files; on a cluster, a folder that all nodes see.
        trial_sec: The longest a trial may take; blocks near their walltime take no more trials.

    Raises:
        ConfigError: The file, or what it defines, cannot work; nothing was started.
    """
    with _signals_that_exit():
        pool = _make_pool(parsl_config, Path(run_dir).absolute(), trial_sec)
        try:
            yield pool
        except BaseException:
            pool.close(cancel=True)
            raise
        pool.close()


def _make_pool(parsl_config: Path | None, run_dir: Path, trial_sec: float | None) -> Pool:
    if parsl_config is None:
        return InProcessPool()
    config = load_parsl_config(parsl_config)
    check_config(config, trial_sec=trial_sec)
    prepare_config(config, run_dir, trial_sec=trial_sec)
    return ParslPool(config, run_dir)


def target_name(function: Callable[..., Any] | str) -> str:
    """`function` as "module:name".

    Raises:
        ValueError: A worker could not import it under that name.
    """
    if isinstance(function, str):
        if function.count(":") != 1:
            raise ValueError(f'A function\'s name must read "module:name", but got {function!r}.')
        return function
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not function:
        raise ValueError(f"{module}:{name} must be a module-level function of a module.")
    return f"{module}:{name}"


def _check_deadline(deadline_sec: float | None) -> None:
    if deadline_sec is not None and not deadline_sec > 0:
        raise ValueError(f"`deadline_sec > 0` must hold, but got {deadline_sec}.")


def _num_workers(executor: Any) -> int:
    provider = executor.provider
    return int(executor.workers_per_node) * provider.nodes_per_block * provider.max_blocks


def _describe(executor: Any) -> str:
    provider, each = executor.provider, int(executor.workers_per_node)
    if provider.label == "local":
        return f"{each} worker{'s' * (each != 1)} on this machine"
    queue = getattr(provider, "partition", None) or getattr(provider, "queue", None)
    return (
        f"{provider.label}{f' {queue}' if queue else ''}: up to {provider.max_blocks} blocks of "
        f"{provider.nodes_per_block} nodes with {each} workers each"
    )


def _end_local_blocks(executors: list[Any]) -> None:
    """Ends the process groups of blocks on this machine; Parsl's way needs `ps`."""
    from parsl.providers import LocalProvider

    for executor in executors:
        if isinstance(executor.provider, LocalProvider):
            for job in executor.provider.resources.values():
                try:
                    os.killpg(os.getpgid(job["remote_pid"]), signal.SIGTERM)
                except ProcessLookupError:
                    pass  # It is gone already.


def _abandon(dfk: Any, executors: list[Any]) -> None:
    """Ends what is left of a Parsl whose interchange no longer answers."""
    for executor in executors:
        if executor.provider.label != "local" and executor.blocks_to_job_id:
            executor.provider.cancel(list(executor.blocks_to_job_id.values()))
        if executor.interchange_proc is not None:
            executor.interchange_proc.kill()
            executor.interchange_proc.wait()
    if dfk is not None:
        atexit.unregister(dfk.atexit_cleanup)


@contextmanager
def _blocked(*signals: int) -> Iterator[None]:
    """Holds signals back; they arrive at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals_that_exit() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP unwind the stack, so that the pool is closed on the way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chosen = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) == signal.SIG_DFL]
    for number in chosen:
        signal.signal(number, _exit_on)
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, signal.SIG_DFL)


def _exit_on(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
