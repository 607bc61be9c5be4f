"""Functions that tests/test_execution.py and tests/test_slurm.py send to workers."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from pathlib import Path


def add(a: int, b: int = 1) -> int:
    return a + b


def whereabouts() -> dict[str, object]:
    """Who runs this: process, CPUs, block and the environment that JAX will see."""
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "job": os.environ.get("SLURM_JOB_ID"),
        "node": os.environ.get("SLURMD_NODENAME"),
        "jax": "jax" in sys.modules,
        "environment": dict(os.environ),
    }


def leave_note(note: str) -> None:
    """Adds a line to a file: how often was this run?"""
    with open(note, "a") as file:
        file.write(f"{os.getpid()}\n")


def sleep(seconds: float, note: str | None = None) -> float:
    if note:
        leave_note(note)
    time.sleep(seconds)
    return seconds


def meet(folder: str, name: str, others: int) -> int:
    """Waits until `others` more tasks are here, so that each has a worker to itself."""
    Path(folder, name).touch()
    while len(os.listdir(folder)) <= others:
        time.sleep(0.02)
    return os.getpid()


def hold_the_interpreter_lock(seconds: float, note: str) -> None:
    """Sleeps in native code without releasing the lock: no Python thread runs meanwhile."""
    leave_note(note)
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1e6)))


def spin(seconds: float, note: str) -> None:
    leave_note(note)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def kill_worker(note: str, times: int) -> int:
    """Kills the worker, as the kernel does out of memory, the first `times` times."""
    leave_note(note)
    runs = len(Path(note).read_text().splitlines())
    if runs <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs


def allocate_too_much() -> bytearray:
    return bytearray(1 << 60)


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.json")


def leave() -> None:
    sys.exit("enough")


class AwkwardError(Exception):
    """Cannot be read back from a pickle."""

    def __init__(self, a: int, b: int):
        super().__init__(f"{a} and {b}")


def raise_awkward_error() -> None:
    raise AwkwardError(1, 2)


def sleep_at_first(seconds: float, note: str) -> int:
    """Sleeps the first time, and returns the number of times it was run."""
    leave_note(note)
    runs = len(Path(note).read_text().splitlines())
    if runs == 1:
        time.sleep(seconds)
    return runs


def kill_driver(seconds: float, note: str) -> None:
    """Kills the command whose process id is in the note, as `kill -9` does."""
    os.kill(int(Path(note).read_text()), signal.SIGKILL)
    time.sleep(seconds)
