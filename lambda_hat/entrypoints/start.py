"""The first step of each command: its options are read before its imports, a second long.

So --help, --version and a misspelt option end at once, and a Ctrl-C is no traceback.
"""

from __future__ import annotations

import os
import sys

# PYTHONPATH=$PYTHONPATH:/mine has an empty entry, which is the current folder: no file of it may
# stand in for a module, not even for those that are imported next.
if "" in os.environ.get("PYTHONPATH", "/").split(os.pathsep):
    sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())]

import importlib  # noqa: E402
import traceback  # noqa: E402

from lambda_hat.entrypoints.environment import use_utf8  # noqa: E402

BAD_INPUT, INTERRUPTED = 2, 130


def parsl_optuna() -> int:
    """The script `parsl-optuna`; returns its exit code."""
    return _start("parsl_optuna")


def parsl_llc() -> int:
    """The script `parsl-llc`; returns its exit code."""
    return _start("parsl_llc")


def _start(command: str) -> int:
    try:
        use_utf8()
        from lambda_hat.entrypoints.options import PARSERS, module_of

        module = module_of(command, sys.argv[1:])
        args = PARSERS[module](sys.argv[1:])
        if "config" in args:
            # What is imported takes a second.
            print(f"Reading {args.config or args.winners_of} ..", flush=True)
        main = importlib.import_module(f"lambda_hat.entrypoints.{module}").main
    except KeyboardInterrupt:
        print("Interrupted before anything was started.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # A mistake in a file of the package that a user has edited.
        print(_mistake(error), file=sys.stderr)
        return BAD_INPUT
    return main()


def _mistake(error: Exception) -> str:
    """What is wrong with a file of the package, and where in it."""
    where = [frame for frame in traceback.extract_tb(error.__traceback__)][-1]
    path, line = where.filename, where.lineno
    said = str(error)
    if isinstance(error, SyntaxError):
        path, line, said = error.filename or path, error.lineno, error.msg
    return f"{path}, line {line}: {type(error).__name__}: {said}. Nothing was started."
