"""Tasks -> Futures by Parsl, with retries that can tell a deadline from a lost worker."""

from __future__ import annotations

import atexit
import itertools
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.execution.blocks import describe, end_blocks, num_workers
from lambda_hat.execution.patrol import Patrol
from lambda_hat.execution.pool import (
    DeadlineExceeded,
    PoolLost,
    WorkerLost,
    check_deadline,
    target_name,
)
from lambda_hat.execution.signals import blocked
from lambda_hat.execution.worker import TaskFailed, run_task

if TYPE_CHECKING:
    from parsl.config import Config

logger = logging.getLogger(__name__)

MAX_WORKERS_LOST = 2
"""A task whose worker dies is run again so often: it may be what kills them."""
MAX_BLOCKS_LOST = 100
"""A task whose whole block goes away (walltime, a dead node) is run again so often."""


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
    def attempt(self) -> str:
        """Names this attempt's marker file."""
        return f"{self.number:06d}.{self.workers_lost + self.blocks_lost}"


class ParslPool:
    """Workers of Parsl's HighThroughputExecutor, on this machine or on a cluster.

    Create it in a thread that outlives it: the kernel ends Parsl's interchange with the thread.
    """

    def __init__(self, config: Config):
        """Starts the workers of a Config that `prepare_config` has prepared."""
        self._executors: list[Any] = list(config.executors)
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._lost: PoolLost | None = None
        self._closed = False
        self._dfk = self._start(config)
        self._log = _log_to(Path(self._dfk.run_dir) / "parsl.log")
        self._markers = Path(self._dfk.run_dir) / "running"
        self._markers.mkdir()
        self._patrols = [Patrol(e, self._markers, self._deadlines) for e in self._executors]
        for executor in self._executors:
            threading.Thread(target=self._watch, args=(executor,), daemon=True).start()

    @property
    def num_workers(self) -> int:
        """How many tasks run at once when all blocks are there."""
        return sum(num_workers(executor) for executor in self._executors)

    @property
    def description(self) -> str:
        """The workers, in words."""
        return " + ".join(describe(executor) for executor in self._executors)

    def submit(
        self,
        function: Callable[..., Any] | str,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """See `Pool.submit`."""
        check_deadline(deadline_sec)
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
        with blocked(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            self._fail_all(PoolLost("The pool was closed before the task was done."))
            self._stop()
            logging.getLogger("parsl").removeHandler(self._log)
            self._log.close()

    def _start(self, config: Config) -> Any:
        from parsl.dataflow.dflow import DataFlowKernel

        with blocked(signal.SIGINT, signal.SIGHUP):  # A Ctrl-C must not reach the interchange.
            try:
                return DataFlowKernel(config)
            except BaseException:
                self._abandon()
                raise

    def _stop(self) -> None:
        """Ends all processes; Parsl's own way would hang without an interchange."""
        for patrol in self._patrols:
            patrol.stop()
        if self._lost:
            self._abandon()
            atexit.unregister(self._dfk.atexit_cleanup)
            return
        for executor in self._executors:
            if executor.provider.label == "local" or executor.bad_state_is_set:
                end_blocks(executor)
        for patrol in self._patrols:
            patrol.join()
        self._dfk.cleanup()

    def _abandon(self) -> None:
        for executor in self._executors:
            end_blocks(executor)
            if executor.interchange_proc is not None:
                executor.interchange_proc.kill()
                executor.interchange_proc.wait()

    def _launch(self, task: _Task) -> None:
        with self._lock:  # Parsl numbers its tasks without a lock.
            if self._lost or self._closed:
                self._finish(task, error=self._lost or PoolLost("The pool was closed."))
                return
            marker = str(self._markers / task.attempt)
            done = self._dfk.submit(
                run_task,
                app_args=(task.target, task.args, task.kwargs),
                app_kwargs={"marker": marker, "deadline_sec": task.deadline_sec},
                executors="all",
                cache=False,
                ignore_for_cache=None,
            )
        done.add_done_callback(lambda done: self._settle(task, done))

    def _settle(self, task: _Task, done: Future[Any]) -> None:
        """Ends the task's future or runs the task again; called by Parsl's threads."""
        error = done.exception()
        if error is None:
            self._finish(task, value=done.result())
            return
        try:
            verdict = self._judge(task, error)
        except Exception as fault:
            verdict = fault  # Raised here, it would be lost, and the future would never end.
        if verdict is None:
            logger.warning("A worker was lost (%s); its task runs again.", error)
            self._launch(task)
        else:
            self._finish(task, error=verdict)

    def _judge(self, task: _Task, error: BaseException) -> Exception | None:
        """What the task's future ends with, or None when the task is to run again."""
        from parsl.executors.high_throughput import errors

        if isinstance(error, TaskFailed):
            return error
        trace = self._take_trace(task)
        if trace:
            return DeadlineExceeded(task.deadline_sec, trace)
        if isinstance(error, errors.WorkerLost):
            task.workers_lost += 1
        elif isinstance(error, errors.ManagerLost):
            task.blocks_lost += 1
        else:
            return PoolLost(f"{error} (logs in {self._dfk.run_dir})")
        if task.workers_lost > MAX_WORKERS_LOST or task.blocks_lost > MAX_BLOCKS_LOST:
            times = task.workers_lost + task.blocks_lost
            return WorkerLost(
                f"The worker died each of the {times} times it ran this task: killed, out of "
                f"memory, or crashed in native code (logs in {self._dfk.run_dir})."
            )
        return None

    def _take_trace(self, task: _Task) -> str:
        """Removes this attempt's marker; the trace that a deadline left in it, or ''."""
        trace = ""
        for path in self._markers.glob(f"{task.attempt}@*"):
            trace = path.read_text() or trace
            path.unlink(missing_ok=True)
        return trace

    def _deadlines(self) -> dict[str, float | None]:
        with self._lock:
            return {task.attempt: task.deadline_sec for task in self._tasks.values()}

    def _finish(
        self, task: _Task, *, value: Any = None, error: BaseException | None = None
    ) -> None:
        with self._lock:
            if self._tasks.pop(task.number, None) is None:
                return  # The pool was closed meanwhile.
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
        """Fails all tasks when the interchange dies, which Parsl itself does not see."""
        code = executor.interchange_proc.wait()
        with self._lock:
            if self._closed:
                return
            self._lost = PoolLost(
                f"Parsl's interchange ended with exit code {code} (logs in {self._dfk.run_dir})."
            )
        self._fail_all(self._lost)


def _log_to(path: Path) -> logging.Handler:
    """Parsl's messages in a file, without the debugging that would grow by megabytes a day."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    parsl = logging.getLogger("parsl")
    parsl.setLevel(logging.INFO)
    parsl.addHandler(handler)
    return handler
