"""The winners of earlier studies as samplers of `parsl-llc`: what `--from` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.config_file import load_yaml
from lambda_hat.store import BrokenFile, Store, read_json
from lambda_hat.tables.confirmation import settings_of
from lambda_hat.tables.transfer import Tuned

BEST = "optuna_best.yaml"
NUM_SEEDS = 4
"""Runs of each winner on each problem."""


Winners = Sequence[tuple[Tuned, Mapping[str, Any]]]
"""Each with its entry in the file."""


def read_winners(source: Path) -> Winners:
    """The winners in a results folder, or in an `optuna_best.yaml` from one.

    Raises:
        ConfigError: There is no such file, or it is none of ours.
    """
    path = source / BEST if source.is_dir() else source
    if not path.exists():
        said = f"`--from` must name a results folder of parsl-optuna or its {BEST}, but there is no"
        raise ConfigError([f"{said} {path}."])
    winners = []
    try:
        for pid, problem in load_yaml(path).items():
            for method, entry in problem["methods"].items():
                settings = settings_of({"method": method, "hyperparams": entry["hyperparams"]})
                winners.append((Tuned(method, pid, problem["problem"], settings), entry))
    except (AttributeError, KeyError, TypeError) as error:
        said = f"`--from` must name the {BEST} of a results folder, but {path} is none"
        raise ConfigError([f"{said} ({type(error).__name__}: {error})."]) from None
    if not winners:
        raise ConfigError([f"`--from` must name winners, but {path} has none."])
    return winners


def with_winners(raw: Mapping[str, Any], winners: Winners) -> dict[str, Any]:
    """A config of `parsl-llc` with the winners in place of its samplers.

    Args:
        raw: The config. Where it has no problems, the winners' own are taken, from their manifests
            in its artifacts folder.
        winners: As `read_winners` returns them.

    Raises:
        ConfigError: No manifest has the problem of a winner.
    """
    samplers: list[dict[str, Any]] = []
    for winner, _ in winners:
        for seed in range(NUM_SEEDS):
            entry = {"name": winner.method, "seed": seed, "overrides": dict(winner.settings)}
            samplers += [] if entry in samplers else [entry]
    config = {**raw, "samplers": samplers}
    if "problems" in raw:
        return config
    budget = max(float(entry.get("budget_sec") or 0.0) for _, entry in winners)
    llc = {**({"method_budget_sec": budget} if budget else {}), **(raw.get("llc") or {})}
    return {**config, "problems": _problems(raw, winners), "llc": llc}


def _problems(raw: Mapping[str, Any], winners: Winners) -> list[Any]:
    """The problems of the winners, each once, as the config of their study spelled them."""
    store = Store.at(raw.get("artifacts_dir", "artifacts"), raw.get("results_dir", "results"))
    found: dict[str, Any] = {}
    for winner, entry in winners:
        path = store.manifest(winner.pid, winner.method, str(entry["trial_id"]))
        try:
            found.setdefault(winner.pid, read_json(path, ("problem",))["problem"])
        except (FileNotFoundError, BrokenFile):
            continue
    if missing := {winner.pid for winner, _ in winners} - found.keys():
        raise ConfigError(
            [
                f"The artifacts folder must hold the trials of the winners, but {store.artifacts} "
                f"has none of {', '.join(sorted(missing))}. Name it with --artifacts-dir, or name "
                "the problems to run on with --config."
            ]
        )
    return list(found.values())
