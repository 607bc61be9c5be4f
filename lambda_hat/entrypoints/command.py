"""What both commands share: where workers run, the folders, and the exit code."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.environment import defined_environment, platform_fault
from lambda_hat.entrypoints.shipped import here_or_shipped
from lambda_hat.entrypoints.start import INTERRUPTED
from lambda_hat.store import FolderBusy, Store, remove_leftover_files, write_bytes

DONE, FAILED, BAD_INPUT = 0, 1, 2
NOT_PASSED_ON = (
    "not passed on to the workers, since results must not depend on a shell's variables. "
    "Where you mean it, set it in the worker_init of a Parsl file."
)


def workers_file(args: argparse.Namespace, *, run_dir: Path, trial_sec: float) -> Path | None:
    """The file that says where workers run, loaded once to see that it can be.

    Returns:
        None for a dry run that does not say where.

    Raises:
        ConfigError: Neither option was given, or the file defines no configuration.
    """
    from lambda_hat.execution import local_config_path

    if args.local:
        path = local_config_path()
        if fault := platform_fault():
            raise ConfigError([fault])
    elif args.parsl_config:
        path = args.parsl_config
    elif args.dry_run:
        return None
    else:
        raise ConfigError(
            [
                "Where to run must be given, but neither --local nor --parsl-config is. "
                "Add --local to run on this machine."
            ]
        )
    return checked_workers(path, run_dir=run_dir, trial_sec=trial_sec)


def checked_workers(path: Path, *, run_dir: Path, trial_sec: float) -> Path:
    """A Parsl file, here or the package's own of that name, loaded once to see that it can be.

    Raises:
        ConfigError: It defines no configuration, or one that cannot work.
    """
    from lambda_hat.execution import load_parsl_config
    from lambda_hat.execution.config import check_config

    path = here_or_shipped(path).absolute()
    check_config(load_parsl_config(path), run_dir=run_dir, trial_sec=trial_sec)
    return path


def make_folders(store: Store) -> None:
    """Makes both folders and removes what killed runs left half written in them.

    Raises:
        ConfigError: One cannot be written to, though it looked as if.
    """
    for folder in (store.results, store.artifacts):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / ".writable", b"")
            (folder / ".writable").unlink()
        except OSError as error:
            raise ConfigError(
                [f"{folder} must be a folder to write to, but: {error.strerror}."]
            ) from error
        remove_leftover_files(folder)


def exit_code(command: Callable[[], int], argv: Sequence[str]) -> int:
    """Runs a command; what a user can cause ends in a sentence, not in a traceback."""
    _terminate_like_ctrl_c()
    logging.raiseExceptions = False  # A full disk is one sentence, not one for each log line.
    with defined_environment() as left_out:
        code = _code_of(command, argv)
        if left_out and code != BAD_INPUT:
            print(f"{', '.join(left_out)}: {NOT_PASSED_ON}", file=sys.stderr)
        return code


def _code_of(command: Callable[[], int], argv: Sequence[str]) -> int:
    try:
        return command()
    except ConfigError as error:
        return _say(error.faults, BAD_INPUT)
    except FolderBusy as busy:
        return _say([str(busy)], BAD_INPUT)
    except KeyboardInterrupt:
        return _say([f"Interrupted. Everything is kept; to go on: {again(argv)}"], INTERRUPTED)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror or error}{where}"
        return _say(
            [f"Stopped: {reason}. What is done is kept; mend this, then: {again(argv)}"], FAILED
        )


def again(argv: Sequence[str]) -> str:
    """The command as it was given, for the user to give again."""
    return shlex.join([sys.argv[0], *argv])


def _terminate_like_ctrl_c() -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for kind in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(kind) == signal.SIG_DFL:
                signal.signal(kind, interrupt)


def _say(sentences: Sequence[str], code: int) -> int:
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return code
