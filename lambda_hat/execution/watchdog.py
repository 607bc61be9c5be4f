"""Replaces a block of workers that holds tasks and runs none of them.

Idle workers of Parsl wait for tasks under one lock. A worker that is killed while it holds the
lock takes it along: the others never see a task again, and heartbeats go on. So the tasks that
the interchange gave to a worker pool are compared with the marker files of those that run there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lambda_hat.execution.blocks import end_block
from lambda_hat.execution.parsl_internals import WorkerPool, job_of, worker_pools

logger = logging.getLogger(__name__)

GRACE_SEC = {"local": 30.0}
"""How long a task may wait in a worker pool before it starts; starting workers takes a while."""
DEFAULT_GRACE_SEC = 180.0
"""The same on a cluster, whose file system may show a marker late."""


class Watchdog:
    """Watches one executor from a thread of its own until it is stopped."""

    def __init__(
        self, executor: Any, markers: Path, deadlines: Callable[[], dict[str, float | None]]
    ):
        """Starts watching.

        Args:
            executor: A running HighThroughputExecutor.
            markers: The folder of marker files, `<attempt>@<worker pool>`.
            deadlines: Gives the deadline of each attempt that is not done.
        """
        self._executor = executor
        self._markers = markers
        self._deadlines = deadlines
        self._grace = GRACE_SEC.get(executor.provider.label, DEFAULT_GRACE_SEC)
        self._late: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._walk, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Has the thread end after its round."""
        self._stopped.set()

    def join(self) -> None:
        """Waits for the thread."""
        self._thread.join()

    def _walk(self) -> None:
        while not self._stopped.wait(self._grace / 6):
            running = self._running()
            overdue = self._overdue(running)
            for pool in worker_pools(self._executor):
                waiting = pool.num_tasks > sum(name == pool.name for name in running.values())
                if self._is_late(pool.name, waiting) or pool.name in overdue:
                    self._end(pool)

    def _running(self) -> dict[str, str]:
        """The worker pool of each attempt that has started and is not done."""
        names = [path.name.split("@") for path in self._markers.glob("*@*")]
        known = self._deadlines()
        return {attempt: pool for attempt, pool in names if attempt in known}

    def _overdue(self, running: dict[str, str]) -> set[str]:
        """Worker pools with a task that its deadline should have ended long ago."""
        now, deadlines = time.monotonic(), self._deadlines()
        self._seen = {attempt: self._seen.get(attempt, now) for attempt in running}
        late = set()
        for attempt, pool in running.items():
            deadline = deadlines.get(attempt)
            if deadline and now - self._seen[attempt] > deadline + self._grace:
                late.add(pool)
        return late

    def _is_late(self, pool: str, waiting: bool) -> bool:
        if not waiting:
            self._late.pop(pool, None)
            return False
        return time.monotonic() - self._late.setdefault(pool, time.monotonic()) > self._grace

    def _end(self, pool: WorkerPool) -> None:
        logger.warning("block %s holds tasks and runs none; it is replaced", pool.block_id)
        self._late.pop(pool.name, None)
        if (job_id := job_of(self._executor, pool.block_id)) is not None:
            end_block(self._executor, job_id)
