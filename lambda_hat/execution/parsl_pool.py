"""A pool of Parsl's workers, with retries that can tell a deadline from a lost worker."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.execution import parsl_internals
from lambda_hat.execution.blocks import describe, end_blocks, is_known, num_workers
from lambda_hat.execution.errors import PoolLost
from lambda_hat.execution.monitoring import Guard
from lambda_hat.execution.pool import TaskFunction, check_deadline, name_of
from lambda_hat.execution.signals import blocked
from lambda_hat.execution.task import Task
from lambda_hat.execution.watchdog import Watchdog
from lambda_hat.execution.worker import NamedTask

if TYPE_CHECKING:
    from parsl.config import Config

logger = logging.getLogger(__name__)
logging.getLogger("parsl").addHandler(logging.NullHandler())  # Or it speaks on the terminal.

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
        except BaseException as error:
            with blocked(*INTERRUPTS):
                self._abandon()
                for executor in self._executors:
                    parsl_internals.drop_sockets(executor)
            if isinstance(error, parsl_internals.InterchangeEnded):
                raise PoolLost(f"No worker could be started: {error}.") from error
            raise

    @property
    def num_workers(self) -> int:
        """How many tasks run at once when all blocks are there."""
        return sum(num_workers(executor) for executor in self._executors)

    @property
    def num_busy(self) -> int:
        """How many workers run a task now, by the files that they keep meanwhile."""
        return min(self.num_workers, sum(1 for _ in self._markers.iterdir()))

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
        with blocked(signal.SIGINT, signal.SIGHUP):  # A Ctrl-C must not reach the interchange.
            self._kernel = parsl_internals.start_kernel(config)
            self._guard = Guard(config)
        self._folder = parsl_internals.run_folder(self._kernel)
        self._log = _log_to(self._folder / "parsl.log")
        self._markers = self._folder / "running"
        self._markers.mkdir()
        watched = [executor for executor in self._executors if is_known(executor.provider)]
        self._watchdogs = [Watchdog(e, self._markers, self._deadlines) for e in watched]
        for executor in self._executors:
            threading.Thread(target=self._watch, args=(executor,), daemon=True).start()

    def _stop(self) -> None:
        """Ends all processes, in Parsl's way if it gets there."""
        for watchdog in self._watchdogs:
            watchdog.stop()
        if not any(parsl_internals.interchange_has_ended(e) for e in self._executors):
            tidy = threading.Thread(target=self._clean_up, daemon=True)
            tidy.start()
            tidy.join(CLEAN_UP_SEC)  # It would wait for ever for an interchange that dies now.
            if not tidy.is_alive():
                self._guard.leave()
                return
        self._abandon()
        self._guard.strike()
        parsl_internals.forget(self._kernel)

    def _clean_up(self) -> None:
        for executor in self._executors:
            if executor.provider.label == "local" or parsl_internals.refuses_all(executor):
                end_blocks(executor)
        for watchdog in self._watchdogs:
            watchdog.join()
        self._kernel.cleanup()

    def _abandon(self) -> None:
        """Ends all processes without a word to the interchange, which may not answer."""
        for executor in self._executors:
            parsl_internals.refuse_all(executor, PoolLost("The pool is closed."))
            end_blocks(executor)
            parsl_internals.kill_interchange(executor)

    def _launch(self, task: Task) -> None:
        with self._lock:  # Parsl numbers its tasks without a lock.
            if self._lost or self._closed:
                self._finish(task, error=self._lost or PoolLost("The pool was closed."))
                return
            marker = str(self._markers / task.attempt)
            done = parsl_internals.submit(
                self._kernel,
                NamedTask(task.function_name),
                task.args,
                task.kwargs,
                marker=marker,
                deadline_sec=task.deadline_sec,
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
        ending = parsl_internals.ending_of(executor)
        with self._lock:
            if self._closed:
                return
            self._lost = PoolLost(f"{ending} (logs in {self._folder}).")
        self._fail_all(self._lost)


def _log_to(path: Path) -> logging.Handler:
    """Parsl's messages in a file, without the debugging that would grow by megabytes a day."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    parsl = logging.getLogger("parsl")
    parsl.setLevel(logging.INFO)
    parsl.addHandler(handler)
    return handler
