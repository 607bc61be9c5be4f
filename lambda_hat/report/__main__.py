"""Command `python -m lambda_hat.report results`: writes the report of a results folder again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lambda_hat.report import write_report
from lambda_hat.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Writes report.html. Returns 0, or 2 if there is no table of trials."""
    parser = argparse.ArgumentParser(prog="python -m lambda_hat.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument(
        "--artifacts-dir", type=Path, metavar="D", help="default: artifacts beside the results"
    )
    args = parser.parse_args(argv)
    beside = args.results.absolute().parent / "artifacts"
    store = Store.at(args.artifacts_dir or beside, args.results)
    if not store.trials_table.exists():
        print(
            f"A results folder must hold {store.trials_table.name}, but {store.results} does not. "
            "Give the folder that parsl-optuna wrote to.",
            file=sys.stderr,
        )
        return 2
    print(write_report(store, anew=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
