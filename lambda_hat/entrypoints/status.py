"""The command `parsl-optuna status`: how a run stands, from its files alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.command import DONE, exit_code
from lambda_hat.entrypoints.options import parse_status
from lambda_hat.store import Store
from lambda_hat.terminal.status import StatusConsole
from lambda_hat.tuning.standing import Planned, studies_of


def main(argv: Sequence[str] | None = None) -> int:
    """The command `parsl-optuna status`; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: run(parse_status(argv)), argv)


def run(args: argparse.Namespace) -> int:
    """Prints how the last run in a results folder stands; writes nothing.

    Raises:
        ConfigError: No run has begun there.
    """
    store = Store.at(args.artifacts_dir or "artifacts", args.results_dir)
    planned = Planned.read(store)
    if planned and not args.artifacts_dir:
        store = Store.at(planned.artifacts, store.results)
    studies = studies_of(store, planned)
    if not studies:
        raise ConfigError(
            [f"A run must have begun in {store.results}, but none has. Give its --results-dir."]
        )
    StatusConsole().show(store, studies)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
