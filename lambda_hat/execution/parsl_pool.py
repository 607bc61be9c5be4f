"""Tasks -> Futures by Parsl, with retries that can tell a deadline from a lost worker."""

from __future__ import annotations

import atexit
import itertools
import logging
import signal
import threading
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.execution.blocks import describe, end_blocks, num_workers
from lambda_hat.execution.errors import PoolLost
from lambda_hat.execution.pool import TaskFunction, check_deadline, name_of
from lambda_hat.execution.signals import blocked
from lambda_hat.execution.task import Task
from lambda_hat.execution.watchdog import Watchdog
from lambda_hat.execution.worker import run_task

if TYPE_CHECKING:
    from parsl.config import Config

logger = logging.getLogger(__name__)
logging.getLogger("parsl").addHandler(logging.NullHandler())  # Or it speaks on the terminal.

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SOCKETS_SEC = 2.0
"""How long a thread that reads a dead interchange's socket may take to notice."""
CLEAN_UP_SEC = 30.0
"""Parsl is given so long to end its processes; it takes a tenth of a second."""


class ParslPool:
    """Workers of Parsl's HighThroughputExecutor, on this machine or on a cluster.

    Create it in a thread that outlives it: the kernel ends Parsl's interchange with the thread.
    """

    def __init__(self, config: Config):
        """Starts the workers of a Config that `prepare_config` has prepared."""
        self._executors: list[Any] = list(config.executors)
        self._tasks: dict[int, Task] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._lost: PoolLost | None = None
        self._closed = False
        try:
            self._start(config)
        except BaseException:
            with blocked(*INTERRUPTS):
                self._abandon()
                for executor in self._executors:
                    _drop_sockets(executor)
            raise

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
        function: TaskFunction,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """See `Pool.submit`."""
        check_deadline(deadline_sec)
        task = Task(next(self._numbers), name_of(function), args, kwargs, deadline_sec)
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
        with blocked(*INTERRUPTS):
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            self._fail_all(PoolLost("The pool was closed before the task was done."))
            self._stop()
            logging.getLogger("parsl").removeHandler(self._log)
            self._log.close()

    def _start(self, config: Config) -> None:
        from parsl.dataflow.dflow import DataFlowKernel

        with blocked(signal.SIGINT, signal.SIGHUP):  # A Ctrl-C must not reach the interchange.
            self._dfk = DataFlowKernel(config)
        self._log = _log_to(Path(self._dfk.run_dir) / "parsl.log")
        self._markers = Path(self._dfk.run_dir) / "running"
        self._markers.mkdir()
        self._watchdogs = [Watchdog(e, self._markers, self._deadlines) for e in self._executors]
        for executor in self._executors:
            threading.Thread(target=self._watch, args=(executor,), daemon=True).start()

    def _stop(self) -> None:
        """Ends all processes, in Parsl's way if it gets there."""
        for watchdog in self._watchdogs:
            watchdog.stop()
        if not any(executor.interchange_proc.poll() is not None for executor in self._executors):
            tidy = threading.Thread(target=self._clean_up, daemon=True)
            tidy.start()
            tidy.join(CLEAN_UP_SEC)  # It would wait for ever for an interchange that dies now.
            if not tidy.is_alive():
                return
        self._abandon()
        atexit.unregister(self._dfk.atexit_cleanup)

    def _clean_up(self) -> None:
        for executor in self._executors:
            if executor.provider.label == "local" or executor.bad_state_is_set:
                end_blocks(executor)
        for watchdog in self._watchdogs:
            watchdog.join()
        self._dfk.cleanup()

    def _abandon(self) -> None:
        """Ends all processes without a word to the interchange, which may not answer."""
        for executor in self._executors:
            executor.set_bad_state_and_fail_all(PoolLost("The pool is closed."))  # No new blocks.
            end_blocks(executor)
            if executor.interchange_proc is not None:
                executor.interchange_proc.kill()
                executor.interchange_proc.wait()

    def _launch(self, task: Task) -> None:
        with self._lock:  # Parsl numbers its tasks without a lock.
            if self._lost or self._closed:
                self._finish(task, error=self._lost or PoolLost("The pool was closed."))
                return
            marker = str(self._markers / task.attempt)
            done = self._dfk.submit(
                run_task,
                app_args=(task.function_name, task.args, task.kwargs),
                app_kwargs={"marker": marker, "deadline_sec": task.deadline_sec},
                executors="all",
                cache=False,
                ignore_for_cache=None,
            )
        done.add_done_callback(lambda done: self._settle(task, done))

    def _settle(self, task: Task, done: Future[Any]) -> None:
        """Ends the task's future or runs the task again; called by Parsl's threads."""
        error = done.exception()
        if error is None:
            self._finish(task, value=done.result())
            return
        try:
            verdict = task.judge(error, self._markers)
        except Exception as fault:
            verdict = fault  # Raised here, it would be lost, and the future would never end.
        if verdict is None:
            logger.warning("A worker was lost (%s); its task runs again.", error)
            self._launch(task)
        else:
            self._finish(task, error=verdict)

    def _deadlines(self) -> dict[str, float | None]:
        with self._lock:
            return {task.attempt: task.deadline_sec for task in self._tasks.values()}

    def _finish(self, task: Task, *, value: Any = None, error: BaseException | None = None) -> None:
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


def _drop_sockets(executor: Any) -> None:
    """Closes the sockets of an executor whose start failed, unsent messages and all.

    Left to the garbage collector, they would wait for an interchange that is no more, and the
    command would never end.
    """
    reader = getattr(executor, "_result_queue_thread", None)
    if reader is not None:
        reader.join(SOCKETS_SEC)  # It ends by itself once the executor is in a bad state.
    for name in ("outgoing_q", "incoming_q", "command_client"):
        pipe = getattr(executor, name, None)
        if pipe is not None:
            pipe.zmq_context.destroy(linger=0)
