"""What `parsl-llc` is to do, from YAML and command line, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lambda_hat.conf.checks import (
    ConfigError,
    bounded,
    check_keys,
    check_mapping,
    read,
    unknown_name,
)
from lambda_hat.conf.compose import compose_sampler
from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.entrypoints.config_file import read_raw
from lambda_hat.entrypoints.config_parts import (
    LONGEST_SEC,
    collect,
    read_list,
    read_problems,
    read_store,
)
from lambda_hat.entrypoints.winners import Winners, with_winners
from lambda_hat.store import Store
from lambda_hat.trial import ProblemItem


@dataclass(frozen=True)
class SamplerItem:
    """A sampler of `config/experiments.yaml` with all its settings fixed."""

    name: str
    hyperparams: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class LLCPlan:
    """What `parsl-llc` does: every problem with every sampler, once."""

    problems: tuple[ProblemItem, ...]
    samplers: tuple[SamplerItem, ...]
    method_budget: float
    store: Store


@dataclass(frozen=True)
class LLCSection:
    """`llc:` in a config of `parsl-llc`."""

    method_budget_sec: float = bounded(6000.0, above=0, below=LONGEST_SEC)
    """Seconds for each run, compilation included."""


def read_llc_plan(
    path: Path | None,
    sets: Iterable[str],
    options: Mapping[str, Any],
    *,
    winners: Winners = (),
) -> LLCPlan:
    """Reads a config of `parsl-llc`; errors as `read_study_plan`.

    Args:
        path: The YAML file; None where the problems are those of the winners.
        sets: As there.
        options: As there.
        winners: Of earlier studies, which run in place of the config's samplers.
    """
    raw, faults = read_raw(path, sets, options, section="llc")
    raw = with_winners(raw, winners) if winners else raw
    keys = ("problems", "samplers", "llc", "artifacts_dir", "results_dir")
    check_keys(raw, keys, str(path or "--set"), faults)
    problems = read_problems(raw, path.parent if path else Path(), faults)
    section = read(LLCSection, check_mapping(raw.get("llc"), "llc", faults), "llc", faults)
    samplers = _samplers(raw.get("samplers"), faults)
    store = read_store(raw, faults)
    if faults or section is None:
        raise ConfigError(faults)
    return LLCPlan(problems, samplers, section.method_budget_sec, store)


@dataclass(frozen=True)
class _SamplerSection:
    name: str
    seed: int = bounded(0, least=0)


def _samplers(raw: object, faults: list[str]) -> tuple[SamplerItem, ...]:
    items: list[SamplerItem] = []
    for index, entry in enumerate(read_list({"samplers": raw}, "samplers", faults)):
        where = f"samplers[{index}]"
        given = dict(check_mapping(entry, where, faults))
        overrides = check_mapping(given.pop("overrides", None), f"{where}.overrides", faults)
        section = read(_SamplerSection, given, where, faults)
        if section is None:
            continue
        if section.name not in SAMPLERS:
            faults.append(unknown_name("`name`", section.name, SAMPLERS, where))
            continue
        compose = partial(compose_sampler, section.name, where=f"{where}.overrides")
        composed = collect(faults, compose, overrides)
        if composed is None:
            continue
        item = SamplerItem(section.name, asdict(composed), section.seed)
        if item in items:
            faults.append(f"{where} is the same as samplers[{items.index(item)}]. Leave one out.")
        items.append(item)
    return tuple(items)
