"""What runs inside a worker process: one task, under a deadline that holds.

The deadline is kept by a thread of `faulthandler` that is written in C: it needs no interpreter
lock, so it ends a process stuck in a compiler or a kernel, and it leaves a trace of where the
process was stuck in the task's marker file. That text is how the driver tells a task that was
ended by its deadline from a worker that was lost.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import logging
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_hat.execution.compile_cache import CompileCache
from lambda_hat.execution.errors import DiskFault, TaskFailed
from lambda_hat.execution.parsl_internals import WORKER_POOL_VARIABLE
from lambda_hat.store import is_disk_fault

logger = logging.getLogger(__name__)

RUNNERS = "lambda_hat.runners"
LATER = {f"{RUNNERS}.run_method": f"{RUNNERS}.trial_run"}
"""What a module that the driver has as well, and that brings no JAX, imports once it is called."""
IMPORT_SEC = 600.0
"""How long the imports of a worker's first task may take, which are no part of the task."""


def resolve(function_name: str) -> Callable[..., Any]:
    """The function that `module:name` names, imported."""
    module, _, name = function_name.partition(":")
    return getattr(importlib.import_module(module), name)


def call(function_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a function; what it raises, an exit included, becomes a TaskFailed or DiskFault."""
    try:
        return resolve(function_name)(*args, **kwargs)
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}"
        if is_disk_fault(error):
            raise DiskFault(f"A worker could not go on: {message}.") from None
        raise TaskFailed(message, traceback.format_exc()) from None


def run_task(
    function_name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    marker: str,
    deadline_sec: float | None,
) -> Any:
    """Runs one task in this worker process.

    Args:
        function_name: `module:name` of the function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        marker: Path of the file that says "this task is running here"; `@` and the worker pool's
            id are added. It is gone when the task ends by itself, and holds a trace when the
            deadline ended it.
        deadline_sec: Wall time after which this process is ended, counted from when our runners are
            imported; None for no limit.

    Raises:
        TaskFailed: The function raised.
    """
    cache = prepare_process()
    path = Path(f"{marker}@{os.environ.get(WORKER_POOL_VARIABLE, '')}")
    with path.open("w") as log:
        try:
            if deadline_sec is not None:
                ended_after = functools.partial(
                    faulthandler.dump_traceback_later, exit=True, file=log
                )
                ended_after(deadline_sec + IMPORT_SEC)
                import_runners(function_name)
                ended_after(deadline_sec)
            with cache:
                return call(function_name, args, kwargs)
        finally:
            faulthandler.cancel_dump_traceback_later()
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class NamedTask:
    """`run_task` for one function, under whose name Parsl's logs and monitoring know the task."""

    function_name: str

    @property
    def __name__(self) -> str:
        return self.function_name.partition(":")[2]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return run_task(self.function_name, *args, **kwargs)


def import_runners(function_name: str) -> None:
    """Imports what our runners need, JAX above all, before a task's clock begins.

    On a busy node or a slow file system this takes longer than a short trial's whole budget, and
    it is no part of the trial.
    """
    module = function_name.partition(":")[0]
    if module.startswith(f"{RUNNERS}."):
        with suppress(Exception):  # The task imports it again, and tells what is wrong.
            importlib.import_module(LATER.get(module, module))


@functools.cache
def prepare_process() -> CompileCache:
    """Fits this process for JAX, once, before anything imports it; what the user set stays."""
    os.environ.setdefault("NPROC", "1")  # Limits XLA's threads; nothing else does.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Workers share a GPU.
    try:  # Out of memory, the kernel shall choose a worker, which costs one task.
        Path("/proc/self/oom_score_adj").write_text("800")
    except OSError as error:
        logger.info("oom_score_adj stays as it is: %s", error)
    return CompileCache.for_this_process()
