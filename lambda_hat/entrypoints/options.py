"""The command line of both commands. Imports nothing slow, so that --help is at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse_optuna(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `parsl-optuna`; values are checked where the config is."""
    parser = _parser(
        "parsl-optuna", "Tunes every method on every problem against a reference.", "optuna_demo"
    )
    parser.add_argument("--max-trials", metavar="N", help="trials of each study")
    parser.add_argument("--batch-size", metavar="N", help="trials of each study in flight")
    parser.add_argument("--hmc-budget", metavar="S", help="seconds for each reference")
    parser.add_argument(
        "--max-seconds", metavar="S", help="the best is to have taken no longer than this"
    )
    parser.add_argument("--plugin", metavar="FILE", help="functions of your own")
    parser.epilog = "On what such a run has written: parsl-optuna " + " | ".join(VERBS)
    return parser.parse_args(argv)


def parse_llc(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `parsl-llc`; values are checked where the config is."""
    about = "Runs every problem with every sampler, once, with the settings that a config gives."
    parser = _parser("parsl-llc", about, "experiments")
    parser.add_argument(
        "--from",
        dest="winners_of",
        type=Path,
        metavar="PATH",
        help="run the winners of a results folder, or of its optuna_best.yaml, in place of the "
        "config's samplers; without --config, on the problems they were tuned on",
    )
    args = parser.parse_args(argv)
    if args.winners_of is not None and args.config is parser.get_default("config"):
        args.config = None
    return args


def parse_export(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `parsl-optuna export-studies`."""
    about = "Puts all studies of a results folder into one storage, which optuna-dashboard opens."
    parser = argparse.ArgumentParser(prog="parsl-optuna export-studies", description=about)
    parser.add_argument("file", type=Path, help="the SQLite file to make, such as all.db")
    parser.add_argument("--results-dir", metavar="D", default="results", help=_DEFAULT)
    return parser.parse_args(argv[1:])


def parse_status(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `parsl-optuna status`."""
    about = "Says how a run stands, from its files alone: from another terminal, or after a kill."
    parser = argparse.ArgumentParser(prog="parsl-optuna status", description=about)
    parser.add_argument("--results-dir", metavar="D", default="results", help=_DEFAULT)
    parser.add_argument("--artifacts-dir", metavar="D", help="default: that of the run")
    return parser.parse_args(argv[1:])


PARSERS = {
    "parsl_optuna": parse_optuna,
    "parsl_llc": parse_llc,
    "status": parse_status,
    "export_studies": parse_export,
}
"""By the module of the command."""
VERBS = {"status": "status", "export-studies": "export_studies"}
"""Words after `parsl-optuna` that are commands of their own, with their modules."""
_DEFAULT = "default: %(default)s"


def module_of(command: str, argv: Sequence[str]) -> str:
    """The module that runs a command line: that of the verb, if it begins with one."""
    verbs = VERBS if command == "parsl_optuna" else {}
    return verbs.get(argv[0], command) if argv else command


def _parser(prog: str, about: str, config: str) -> argparse.ArgumentParser:
    """A command with the options that both have."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--version", action=_Version, help="say the version, and do nothing")
    parser.add_argument("--config", type=Path, default=Path(f"config/{config}.yaml"), help=_DEFAULT)
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument("--local", action="store_true", help="run on this machine")
    workers.add_argument(
        "--parsl-config", type=Path, metavar="FILE", help="a file that defines fresh_config()"
    )
    parser.add_argument("--method-budget", metavar="S", help="seconds for each trial")
    parser.add_argument("--artifacts-dir", metavar="D")
    parser.add_argument("--results-dir", metavar="D")
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="A.B=C",
        help="lay a value over the config, as in optuna.seed=1",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, and write nothing"
    )
    return parser


class _Version(argparse.Action):
    """Looks the version up when asked for it, since that import costs more than all others."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('lambda-hat')}")
        parser.exit()
