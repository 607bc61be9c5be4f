"""The command `parsl-optuna export-studies`: all studies of a results folder in one storage."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.command import DONE, exit_code
from lambda_hat.entrypoints.options import parse_export
from lambda_hat.store import Store, lock_folder, unwritable
from lambda_hat.tuning.export import export_studies, storage_url


def main(argv: Sequence[str] | None = None) -> int:
    """The command `parsl-optuna export-studies`; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: run(parse_export(argv)), argv)


def run(args: argparse.Namespace) -> int:
    """Makes the file, and says how to look at it.

    Raises:
        ConfigError: There is nothing to export, or no place for the file.
        FolderBusy: A run is writing the studies.
    """
    store, database = Store.at("artifacts", args.results_dir), args.file.absolute()
    journals = store.journals()
    if not journals:
        raise ConfigError(
            [f"{store.studies} must hold studies, but has none. Give --results-dir of a run."]
        )
    if database.exists():
        raise ConfigError([f"{args.file} must be a new file, but exists. Give another name."])
    if reason := unwritable(database.parent):
        raise ConfigError([f"{database.parent} must be a folder to write to, but {reason}."])
    with lock_folder(store.results):
        names = export_studies(journals, database)
    many = "study" if len(names) == 1 else "studies"
    print(f"{args.file} has {len(names)} {many}. To look at them in a browser:")
    print(f"  {dashboard_command(database)}")
    return DONE


def dashboard_command(database: Path) -> str:
    """What shows the studies; by its path where it is installed, so that any shell finds it."""
    beside = Path(sys.executable).with_name("optuna-dashboard")
    program = [str(beside)] if beside.exists() else ["uvx", "optuna-dashboard"]
    return shlex.join([*program, storage_url(database)])


if __name__ == "__main__":
    sys.exit(main())
