"""Starts Parsl's interchange such that it dies with the command that started it.

Parsl starts it in the command's process group and leaves it running when the command is killed.
Here it leaves that group, so that Ctrl-C does not reach it and the command can still talk to it
while closing, and the kernel kills it when the command dies, however it dies.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

from lambda_hat.execution.parsl_internals import INTERCHANGE_MODULE

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread of `parent` that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("The command that started this interchange is gone.")


if __name__ == "__main__":
    parent, log = sys.argv[1:]
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), sys.stderr.fileno())
    os.setsid()
    die_with(int(parent))
    runpy.run_module(INTERCHANGE_MODULE, run_name="__main__")
