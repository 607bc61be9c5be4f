"""The first step of each command: a Ctrl-C during its imports, a second long, is no traceback."""

from __future__ import annotations

import importlib
import sys

INTERRUPTED = 130


def parsl_optuna() -> int:
    """The script `parsl-optuna`; returns its exit code."""
    return _start("lambda_hat.entrypoints.parsl_optuna")


def parsl_llc() -> int:
    """The script `parsl-llc`; returns its exit code."""
    return _start("lambda_hat.entrypoints.parsl_llc")


def _start(module: str) -> int:
    try:
        main = importlib.import_module(module).main
    except KeyboardInterrupt:
        print("Interrupted before anything was started.", file=sys.stderr)
        return INTERRUPTED
    return main()
