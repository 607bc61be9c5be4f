"""What a pool of workers promises, and one that is a thread of this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from lambda_hat.execution.worker import call

TaskFunction = Callable[..., Any] | str
"""A module-level function, or "module:name" where importing it would bring JAX into the driver."""


class TaskPool(Protocol):
    """Where tasks run."""

    @property
    def num_workers(self) -> int:
        """How many tasks run at once, at most."""
        ...

    def submit(
        self,
        function: TaskFunction,
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
            DeadlineExceeded, WorkerLost, BlocksLost, PoolLost. It is set in another thread.
        """
        ...

    def close(self, *, cancel: bool = False) -> None:
        """Ends the workers, once all tasks are done, or at once with `cancel`."""
        ...


class Pool(TaskPool, Protocol):
    """Workers that are there."""

    @property
    def num_busy(self) -> int:
        """How many workers run a task now."""
        ...

    @property
    def description(self) -> str:
        """The workers, in words."""
        ...


class InProcessPool:
    """One thread of this process, without deadlines: for a program, and for tests."""

    num_workers = 1
    description = "one thread of this process, which no deadline ends"

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="in-process-pool")
        self._last: Future[Any] | None = None

    @property
    def num_busy(self) -> int:
        """See `Pool.num_busy`."""
        return int(self._last is not None and not self._last.done())

    def submit(
        self,
        function: TaskFunction,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """See `Pool.submit`; `deadline_sec` is checked and has no other effect."""
        check_deadline(deadline_sec)
        self._last = self._executor.submit(call, name_of(function), args, kwargs)
        return self._last

    def close(self, *, cancel: bool = False) -> None:
        """See `Pool.close`; the task that runs is always waited for."""
        self._executor.shutdown(cancel_futures=cancel)


def name_of(function: TaskFunction) -> str:
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


def check_deadline(deadline_sec: float | None) -> None:
    """Raises ValueError for a deadline that is not in the future."""
    if deadline_sec is not None and not deadline_sec > 0:
        raise ValueError(f"`deadline_sec > 0` must hold, but got {deadline_sec}.")
