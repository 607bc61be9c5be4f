"""Functions that tests/test_execution.py and tests/test_slurm.py send to workers."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path


def add(a: int, b: int = 1) -> int:
    return a + b


def environment(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()
