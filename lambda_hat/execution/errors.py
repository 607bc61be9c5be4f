"""The errors that a task ends with when it has no value."""

from __future__ import annotations


class TaskFailed(Exception):
    """The function raised; `args` are the message and the trace.

    The exception itself stays in the worker: reading it back would import its module (JAX, say)
    into the driver.
    """

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def trace(self) -> str:
        """The worker's traceback as text."""
        return str(self.args[1])


class DeadlineExceeded(Exception):
    """The task was ended at its deadline; `args` are the seconds and where it was stuck."""

    def __str__(self) -> str:
        return f"The task was ended at its deadline of {self.args[0]:g} s."

    @property
    def trace(self) -> str:
        """Where each thread of the worker was, as text."""
        return str(self.args[1])


class WorkerLost(Exception):
    """The worker died while it ran the task, each time it was tried: the task is what kills it."""


class BlocksLost(Exception):
    """The task never came to its end, since the jobs that its workers were in kept going away."""


class PoolLost(Exception):
    """The pool itself is gone or was closed; the task may be submitted to another."""


class DiskFault(PoolLost):
    """The disk is full, read-only or gone, for this task as for all others."""
