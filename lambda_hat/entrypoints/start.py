"""The first step of each command: its options are read before its imports, a second long.

So --help, --version and a misspelt option end at once, and a Ctrl-C is no traceback.
"""

from __future__ import annotations

import importlib
import sys

INTERRUPTED = 130


def parsl_optuna() -> int:
    """The script `parsl-optuna`; returns its exit code."""
    return _start("parsl_optuna")


def parsl_llc() -> int:
    """The script `parsl-llc`; returns its exit code."""
    return _start("parsl_llc")


def _start(command: str) -> int:
    try:
        from lambda_hat.entrypoints.options import PARSERS

        PARSERS[command](sys.argv[1:])
        main = importlib.import_module(f"lambda_hat.entrypoints.{command}").main
    except KeyboardInterrupt:
        print("Interrupted before anything was started.", file=sys.stderr)
        return INTERRUPTED
    return main()
