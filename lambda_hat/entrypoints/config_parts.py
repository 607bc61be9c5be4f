"""Reads what the configs of both commands have: problems, lists, folders and paths.

Each reader adds its faults to a list, so that all faults of a file are told at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.compose import check_reference, compose_problem
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.entrypoints.labels import item_of
from lambda_hat.entrypoints.own_losses import check_own_losses, is_own, located
from lambda_hat.store import Store, unwritable
from lambda_hat.trial import ProblemItem

LONGEST_SEC = 10**9
"""Budgets stay below this, about thirty years: infinity is no budget."""


def collect(faults: list[str], compose: Any, given: object, **where: str) -> Any:
    """Calls a composer; its faults join the others, and None stands for what it refused."""
    try:
        return compose(given, **where)
    except ConfigError as error:
        faults += error.faults
        return None


def read_problems(
    raw: Mapping[str, Any],
    folder: Path,
    faults: list[str],
    reference: ReferenceConfig | None = None,
) -> tuple[ProblemItem, ...]:
    """The problems that can be composed, and for which the reference's method is one."""
    items: list[ProblemItem] = []
    for index, spec in enumerate(read_list(raw, "problems", faults)):
        where = f"problems[{index}]"
        if not isinstance(spec, Mapping):
            faults.append(f"`{where}` must be a mapping (model, data, ..), but got {spec!r}.")
            continue
        spec = located(spec, folder)
        config = collect(faults, compose_problem, spec, where=where)
        if config is None:
            continue
        pids = [item.pid for item in items]
        if config.pid in pids:
            twin = f"problems[{pids.index(config.pid)}]"
            faults.append(f"{where} is the same problem as {twin}. Leave one out.")
        item = item_of(spec, config)
        if reference is not None:
            check = partial(check_reference, reference)
            collect(faults, check, config, where=f"reference, {item.label}")
        items.append(item)
    faults += check_own_losses([item.spec for item in items if is_own(item.spec)])
    return tuple(items)


def read_list(raw: Mapping[str, Any], name: str, faults: list[str]) -> list[Any]:
    value = raw.get(name)
    if isinstance(value, list) and value:
        return value
    faults.append(f"`{name}` must be a list with one entry or more, but got {name}={value!r}.")
    return []


def read_store(raw: Mapping[str, Any], faults: list[str]) -> Store:
    folders = {}
    for name in ("artifacts", "results"):
        folders[name] = read_path(f"{name}_dir", raw.get(f"{name}_dir", name), faults)
        if reason := unwritable(folders[name]):
            faults.append(f"`{name}_dir` must be a folder to write to, but {reason}.")
    return Store.at(**folders)


def read_path(name: str, value: object, faults: list[str]) -> Path:
    """A path as the user gave it, with `~` and `$NAME` replaced by what they stand for."""
    if not isinstance(value, str) or not value:
        faults.append(f"`{name}` must be a path, but got {value!r}. Quote it.")
        return Path(".")
    expanded = os.path.expanduser(os.path.expandvars(value))
    if unset := re.findall(r"\$\w+|\$\{[^}]*\}|^~[^/]*", expanded):
        faults.append(f"`{name}` must be a path, but {unset[0]} is not set, in {value!r}.")
        return Path(".")
    return Path(expanded)
