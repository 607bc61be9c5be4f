"""Opens the pool of workers that a Parsl file describes, for the time of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lambda_hat.execution.blocks import cancel_leftovers
from lambda_hat.execution.config import check_config, load_parsl_config, prepare_config
from lambda_hat.execution.parsl_pool import ParslPool
from lambda_hat.execution.pool import InProcessPool, Pool, TaskFunction
from lambda_hat.execution.signals import raised_as_exit


@contextmanager
def open_pool(
    *, parsl_config: Path | None, run_dir: Path, trial_sec: float | None = None
) -> Iterator[Pool]:
    """A pool for the time of a `with` block; left by an exception, it drops what runs.

    The caller holds the lock of the results folder: jobs that an earlier command with the same
    `run_dir` left behind are cancelled.

    Args:
        parsl_config: A file that defines `fresh_config()`; None for the in-process debug pool.
        run_dir: Parsl's logs and marker files; on a cluster, a folder that all nodes see.
        trial_sec: The longest a trial may take; blocks near their walltime take no more tasks.

    Raises:
        ConfigError: The file, or what it defines, cannot work; nothing was started.
    """
    with raised_as_exit():
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
    check_config(config, run_dir=run_dir, trial_sec=trial_sec)
    token = prepare_config(config, run_dir, trial_sec=trial_sec)
    for executor in config.executors:
        cancel_leftovers(executor, token)
    return ParslPool(config)


class LazyPool:
    """A pool that is opened when its first task comes: with nothing to do, no worker starts.

    Args:
        opening: Opens the pool and closes it, as `open_pool` does.
        opened: Told when it is open.
    """

    def __init__(self, opening: AbstractContextManager[Pool], opened: Callable[[Pool], None]):
        self._opening, self._opened = opening, opened
        self._stack = ExitStack()
        self._pool: Pool | None = None

    def __enter__(self) -> LazyPool:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    @property
    def num_workers(self) -> int:
        """See `TaskPool.num_workers`; none before the first task."""
        return 0 if self._pool is None else self._pool.num_workers

    def submit(self, function: TaskFunction, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `TaskPool.submit`."""
        if self._pool is None:
            self._pool = self._stack.enter_context(self._opening)
            self._opened(self._pool)
        return self._pool.submit(function, *args, **kwargs)

    def close(self, *, cancel: bool = False) -> None:
        """See `TaskPool.close`."""
        if self._pool is not None:
            self._pool.close(cancel=cancel)
