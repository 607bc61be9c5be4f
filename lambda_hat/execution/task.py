"""One submitted call, what has become of it, and whether it is to run again."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lambda_hat.execution.errors import (
    BlocksLost,
    DeadlineExceeded,
    DiskFault,
    PoolLost,
    TaskFailed,
    WorkerLost,
)
from lambda_hat.execution.parsl_internals import is_pool_lost, is_worker_lost

MAX_WORKERS_LOST = 2
"""A task whose worker dies is run again so often: it may be what kills them."""
MAX_BLOCKS_LOST = 100
"""A task whose whole block goes away (walltime, a dead node) is run again so often."""


@dataclass
class Task:
    """One submitted call and what has become of it so far."""

    number: int
    function_name: str
    """`module:name`."""
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

    def judge(self, error: BaseException, markers: Path) -> Exception | None:
        """Takes note of what ended an attempt.

        Args:
            error: What Parsl's future ended with.
            markers: The folder of the marker files.

        Returns:
            What the task's own future ends with, or None when the task is to run again.
        """
        if isinstance(error, TaskFailed | DiskFault):
            return error
        trace = self._take_trace(markers)
        if trace:
            return DeadlineExceeded(self.deadline_sec, trace)
        logs = f"(logs in {markers.parent})"
        if is_worker_lost(error):
            self.workers_lost += 1
        elif is_pool_lost(error):
            self.blocks_lost += 1
        else:
            return PoolLost(f"{error} {logs}")
        if self.workers_lost > MAX_WORKERS_LOST:
            return WorkerLost(
                f"The worker died each of the {self.workers_lost} times it ran this task: out of "
                f"memory, crashed in native code, or killed {logs}."
            )
        if self.blocks_lost > MAX_BLOCKS_LOST:
            return BlocksLost(
                f"The task never came to its end: {self.blocks_lost} jobs, one after the other, "
                f"went away while it ran {logs}."
            )
        return None

    def _take_trace(self, markers: Path) -> str:
        """Removes this attempt's marker; the trace that a deadline left in it, or ''."""
        trace = ""
        for path in markers.glob(f"{self.attempt}@*"):
            trace = path.read_text() or trace
            path.unlink(missing_ok=True)
        return trace
