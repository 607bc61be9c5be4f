"""What each command is to do, from YAML and command line, checked before anything starts.

The command line is laid over the file before the file is checked, so that a value is held to
the same rules wherever it comes from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lambda_hat.conf.checks import (
    ConfigError,
    bounded,
    check_keys,
    check_mapping,
    read,
    unknown_name,
)
from lambda_hat.conf.compose import (
    check_reference,
    compose_problem,
    compose_reference,
    compose_sampler,
)
from lambda_hat.conf.samplers import SAMPLERS, ReferenceConfig
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.conf.search_space import SEARCH_SPACE, Space, read_ranges
from lambda_hat.entrypoints.config_file import read_raw
from lambda_hat.entrypoints.own_losses import check_own_losses, is_own, located
from lambda_hat.entrypoints.winners import with_winners
from lambda_hat.plugin import Plugin, read_plugin
from lambda_hat.store import Store, unwritable
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.objective import COSTS, ERROR
from lambda_hat.tuning.pruners import NONE, PRUNERS
from lambda_hat.tuning.reference_plan import ReferencePlan
from lambda_hat.tuning.search_samplers import SearchSampler, read_search_sampler
from lambda_hat.tuning.study import StudySettings
from lambda_hat.tuning.warm_start import Guess

GROUPS = ("model", "data", "teacher", "training", "posterior")
LONGEST_SEC = 10**9
"""Budgets stay below this, about thirty years: infinity is no budget."""


@dataclass(frozen=True)
class OptunaSection:
    """`optuna:` in a config."""

    max_trials: int = bounded(200, least=1)
    """Trials of each (problem, method) study."""
    batch_size: int = bounded(32, least=1)
    """Trials of each study in flight."""
    hmc_budget_sec: float = bounded(36000.0, above=0, below=LONGEST_SEC)
    """Seconds for each reference."""
    method_budget_sec: float = bounded(6000.0, above=0, below=LONGEST_SEC)
    """Seconds for each trial, compilation included."""
    seed: int = bounded(0, least=0)
    """Decides every proposal, and the seed of every trial."""
    objective: Literal["abs", "huber", "relative", "rmse"] | None = None
    """What a trial's score is; null is huber where `huber_delta` has a number, and else abs."""
    huber_delta: float | None = bounded(None, above=0)
    """With a number, the objective is Huber's loss of the error; null is its absolute value."""
    confirm_seeds: int = bounded(4, least=0)
    """Other seeds that each study's best settings, and the defaults, run with as it ends."""
    enqueue_defaults: bool = True
    """Whether a study that begins tries its method's defaults first."""
    objectives: tuple[str, ...] = (ERROR,)
    """What is minimised: `error`, and with it `runtime_sec`, `full_gradients` or `se_hat`."""
    max_seconds: float | None = bounded(None, above=0)
    """A trial that took longer is not the best; null is no limit."""
    pruner: str = NONE
    """What stops trials early: `median`, `hyperband`, `patience` or `none`."""
    sampler: str = "tpe"
    """What proposes trials: `tpe`, `random`, `gp`, `cmaes`, `qmc` or `nsgaii`."""


@dataclass(frozen=True)
class ConvergenceSection:
    """`optuna.convergence:` in a config."""

    patience: int | None = bounded(None, least=1)
    """Ends a study after so many trials without a gain beyond the reference's standard error."""


@dataclass(frozen=True)
class StudyPlan:
    """What `parsl-optuna` does."""

    problems: tuple[ProblemItem, ...]
    methods: tuple[str, ...]
    settings: StudySettings
    reference: ReferencePlan
    space: Space
    """The user's own ranges."""
    confirm_seeds: int
    store: Store
    plugin: Plugin | None


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


def read_study_plan(path: Path, sets: Iterable[str], options: Mapping[str, Any]) -> StudyPlan:
    """Reads a config of `parsl-optuna`.

    Args:
        path: The YAML file.
        sets: `a.b=c` assignments, laid over the file.
        options: The command line's other options by name (None where not given), laid over
            both: `max_trials` and its like, `artifacts_dir`, `results_dir`, `plugin`.

    Raises:
        ConfigError: With every fault of the file and the command line.
    """
    raw, faults = read_raw(path, sets, options, section="optuna")
    return study_plan(raw, folder=path.parent, where=str(path), faults=faults)


def study_plan(
    raw: Mapping[str, Any], *, folder: Path, where: str, faults: Sequence[str] = ()
) -> StudyPlan:
    """Makes a plan of a config that has been read.

    Args:
        raw: What a YAML of `parsl-optuna` holds.
        folder: Where the paths of external problems begin.
        where: What messages call the config.
        faults: Those found before.

    Raises:
        ConfigError: With every fault.
    """
    faults = list(faults)
    keys = ("problems", "methods", "optuna", "reference", "search_space", "plugin")
    check_keys(raw, [*keys, "artifacts_dir", "results_dir"], where, faults)
    reference = _collect(faults, compose_reference, raw.get("reference"))
    problems = _problems(raw, folder, faults, reference)
    section = check_mapping(raw.get("optuna"), "optuna", faults)
    known = [field.name for field in fields(OptunaSection)]
    known += ["convergence", "enqueue", "sampler_settings"]
    check_keys(section, known, "optuna", faults)
    section = {key: value for key, value in section.items() if key in known}
    converge = check_mapping(section.pop("convergence", None), "optuna.convergence", faults)
    guesses = _guesses(section.pop("enqueue", None), raw.get("methods"), faults)
    given = check_mapping(section.pop("sampler_settings", None), "optuna.sampler_settings", faults)
    optuna = read(OptunaSection, section, "optuna", faults)
    search = optuna and read_search_sampler(optuna.sampler, given, faults)
    convergence = read(ConvergenceSection, converge, "optuna.convergence", faults)
    space = _collect(faults, read_ranges, raw.get("search_space"))
    methods = _methods(raw.get("methods"), SEARCH_SPACE, faults)
    plugin = _plugin(raw.get("plugin"), faults)
    store = _store(raw, faults)
    if optuna is not None:
        _check_objective(optuna, faults)
        _check_objectives(optuna, search, faults)
    if faults or optuna is None or convergence is None or search is None:
        raise ConfigError(faults)
    settings = StudySettings(
        max_trials=optuna.max_trials,
        batch_size=optuna.batch_size,
        method_budget=optuna.method_budget_sec,
        seed=optuna.seed,
        huber_delta=optuna.huber_delta,
        objective=optuna.objective or ("abs" if optuna.huber_delta is None else "huber"),
        patience=convergence.patience,
        enqueue_defaults=optuna.enqueue_defaults,
        enqueue=guesses,
        search=search,
        objectives=optuna.objectives,
        pruner=optuna.pruner,
        max_seconds=optuna.max_seconds,
    )
    plan = ReferencePlan(optuna.hmc_budget_sec, reference.accept_unreliable, asdict(reference))
    return StudyPlan(problems, methods, settings, plan, space, optuna.confirm_seeds, store, plugin)


def _check_objective(optuna: OptunaSection, faults: list[str]) -> None:
    """`huber` and `huber_delta` go together."""
    given, delta = optuna.objective, optuna.huber_delta
    if given == "huber" and delta is None:
        faults.append("`huber_delta` must be a number where `objective` is huber. Give one.")
    elif given not in (None, "huber") and delta is not None:
        faults.append(
            f"`objective` must be huber where `huber_delta` has a number, but got {given!r}. "
            "Leave one of them out."
        )


def _check_objectives(
    optuna: OptunaSection, search: SearchSampler | None, faults: list[str]
) -> None:
    """The error comes first, costs follow, and the sampler takes as many."""
    names = optuna.objectives
    known = [ERROR, *COSTS]
    unknown = [name for name in names if name not in known]
    faults += [unknown_name("`objectives`", name, known, "optuna") for name in unknown]
    if not unknown and (names[:1] != (ERROR,) or len(set(names)) < len(names)):
        faults.append(
            f"`objectives` must begin with {ERROR} and name each once, but got {list(names)} "
            "(optuna)."
        )
    if optuna.pruner not in PRUNERS:
        faults.append(unknown_name("`pruner`", optuna.pruner, PRUNERS, "optuna"))
    elif len(names) > 1 and optuna.pruner != NONE:
        faults.append(
            f"`pruner` must be none where `objectives` has several, but got {optuna.pruner!r} "
            "(optuna). Leave one of them out."
        )
    if len(names) > 1 and search is not None and not search.kind.many_objectives:
        faults.append(
            f"`objectives` must be one for the sampler {search.name}, but got {list(names)} "
            "(optuna). Take tpe or nsgaii."
        )


def read_llc_plan(
    path: Path | None,
    sets: Iterable[str],
    options: Mapping[str, Any],
    *,
    winners_of: Path | None = None,
) -> LLCPlan:
    """Reads a config of `parsl-llc`; errors as `read_study_plan`.

    Args:
        path: The YAML file; None where the problems are those of the winners.
        sets: As there.
        options: As there.
        winners_of: A results folder whose winners run in place of the config's samplers.
    """
    raw, faults = read_raw(path, sets, options, section="llc")
    raw = with_winners(raw, winners_of) if winners_of else raw
    keys = ("problems", "samplers", "llc", "artifacts_dir", "results_dir")
    check_keys(raw, keys, str(path or "--set"), faults)
    problems = _problems(raw, path.parent if path else Path(), faults)
    section = read(LLCSection, check_mapping(raw.get("llc"), "llc", faults), "llc", faults)
    samplers = _samplers(raw.get("samplers"), faults)
    store = _store(raw, faults)
    if faults or section is None:
        raise ConfigError(faults)
    return LLCPlan(problems, samplers, section.method_budget_sec, store)


@dataclass(frozen=True)
class LLCSection:
    """`llc:` in a config of `parsl-llc`."""

    method_budget_sec: float = bounded(6000.0, above=0, below=LONGEST_SEC)
    """Seconds for each run, compilation included."""


def _collect(faults: list[str], compose: Any, given: object, **where: str) -> Any:
    """Calls a composer; its faults join the others, and None stands for what it refused."""
    try:
        return compose(given, **where)
    except ConfigError as error:
        faults += error.faults
        return None


def _problems(
    raw: Mapping[str, Any],
    folder: Path,
    faults: list[str],
    reference: ReferenceConfig | None = None,
) -> tuple[ProblemItem, ...]:
    """The problems that can be composed, and for which the reference's method is one."""
    items: list[ProblemItem] = []
    for index, spec in enumerate(_list(raw, "problems", faults)):
        where = f"problems[{index}]"
        if not isinstance(spec, Mapping):
            faults.append(f"`{where}` must be a mapping (model, data, ..), but got {spec!r}.")
            continue
        spec = located(spec, folder)
        config = _collect(faults, compose_problem, spec, where=where)
        if config is None:
            continue
        pids = [item.pid for item in items]
        if config.pid in pids:
            twin = f"problems[{pids.index(config.pid)}]"
            faults.append(f"{where} is the same problem as {twin}. Leave one out.")
        item = item_of(spec, config)
        if reference is not None:
            check = partial(check_reference, reference)
            _collect(faults, check, config, where=f"reference, {item.label}")
        items.append(item)
    faults += check_own_losses([item.spec for item in items if is_own(item.spec)])
    return tuple(items)


def item_of(spec: Mapping[str, Any], config: ProblemConfig) -> ProblemItem:
    """A problem as the steering knows it, from what was written and what that is, composed."""
    has_rows = config.data.input is not None or config.data.file is not None
    num_rows = config.data.n if has_rows else None
    return ProblemItem(config.pid, dict(spec), label_of(spec), num_rows)


def label_of(spec: Mapping[str, Any]) -> str:
    """A problem in a few words: its presets, and what was overridden."""
    inline = {name: spec[name] for name in GROUPS if isinstance(spec.get(name), Mapping)}
    if inline:
        rest = {key: value for key, value in spec.items() if key not in inline}
        return label_of({**rest, "overrides": {**(spec.get("overrides") or {}), **inline}})
    if is_own(spec):
        return _label_of_own(spec)
    words = f"{spec.get('model', 'small')}/{spec.get('data', 'small')}"
    for group, default in (("teacher", "_null"), ("training", "default"), ("posterior", "default")):
        if spec.get(group, default) != default:
            words += f" {group}={spec[group]}"
    if spec.get("seed"):
        words += f" seed={spec['seed']}"
    overrides = _leaves(spec.get("overrides") or {})
    return words + "".join(f" {name}={value}" for name, value in overrides if name != "data.path")


def _label_of_own(spec: Mapping[str, Any]) -> str:
    """An external problem by its loss, parameters and data, wherever they lie."""
    over = {name: dict(group or {}) for name, group in spec["overrides"].items()}
    named = [("model", "loss"), ("model", "params"), ("data", "file")]
    words = " ".join(str(over.get(group, {}).pop(key, "?")) for group, key in named)
    for key in ("family", "path"):
        over["model"].pop(key, None)
    if over["model"].pop("pickled", None) is not None:
        words = words.partition("@")[0]  # A function of a session; its files are named by hash.
    seed = f" seed={spec['seed']}" if spec.get("seed") else ""
    return words + seed + "".join(f" {name}={value}" for name, value in _leaves(over))


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _list(raw: Mapping[str, Any], name: str, faults: list[str]) -> list[Any]:
    value = raw.get(name)
    if isinstance(value, list) and value:
        return value
    faults.append(f"`{name}` must be a list with one entry or more, but got {name}={value!r}.")
    return []


def _methods(raw: object, space: Space | None, faults: list[str]) -> tuple[str, ...]:
    methods = _list({"methods": raw}, "methods", faults)
    for index, method in enumerate(methods):
        if space is not None and method not in list(space):
            hint = " HMC is the reference and is not tuned." if method == "hmc" else ""
            faults.append(unknown_name("A method", method, space, f"methods[{index}]") + hint)
        if method in methods[:index]:
            faults.append(f"methods[{index}] is {method!r} a second time. Leave one out.")
    return tuple(methods)


@dataclass(frozen=True)
class _SamplerSection:
    name: str
    seed: int = bounded(0, least=0)


def _samplers(raw: object, faults: list[str]) -> tuple[SamplerItem, ...]:
    items: list[SamplerItem] = []
    for index, entry in enumerate(_list({"samplers": raw}, "samplers", faults)):
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
        composed = _collect(faults, compose, overrides)
        if composed is None:
            continue
        item = SamplerItem(section.name, asdict(composed), section.seed)
        if item in items:
            faults.append(f"{where} is the same as samplers[{items.index(item)}]. Leave one out.")
        items.append(item)
    return tuple(items)


def _store(raw: Mapping[str, Any], faults: list[str]) -> Store:
    folders = {}
    for name in ("artifacts", "results"):
        folders[name] = _path(f"{name}_dir", raw.get(f"{name}_dir", name), faults)
        if reason := unwritable(folders[name]):
            faults.append(f"`{name}_dir` must be a folder to write to, but {reason}.")
    return Store.at(**folders)


def _guesses(raw: object, methods: object, faults: list[str]) -> tuple[Guess, ...]:
    guesses: list[Guess] = []
    for index, entry in enumerate(_list({"enqueue": raw}, "enqueue", faults) if raw else []):
        where = f"optuna.enqueue[{index}]"
        given = check_mapping(entry, where, faults)
        check_keys(given, ("method", "params"), where, faults)
        params = check_mapping(given.get("params"), f"{where}.params", faults)
        known = methods if isinstance(methods, list) else []
        if (method := given.get("method")) not in known:
            faults.append(unknown_name("`method`", method, map(str, known), where))
        guess = Guess(str(method), dict(params))
        if guess in guesses:
            faults.append(f"{where} is the same as enqueue[{guesses.index(guess)}]. Leave one out.")
        guesses.append(guess)
    return tuple(guesses)


def _plugin(given: object, faults: list[str]) -> Plugin | None:
    if given is None:
        return None
    return _collect(faults, read_plugin, _path("plugin", given, faults))


def _path(name: str, value: object, faults: list[str]) -> Path:
    """A path as the user gave it, with `~` and `$NAME` replaced by what they stand for."""
    if not isinstance(value, str) or not value:
        faults.append(f"`{name}` must be a path, but got {value!r}. Quote it.")
        return Path(".")
    expanded = os.path.expanduser(os.path.expandvars(value))
    if unset := re.findall(r"\$\w+|\$\{[^}]*\}|^~[^/]*", expanded):
        faults.append(f"`{name}` must be a path, but {unset[0]} is not set, in {value!r}.")
        return Path(".")
    return Path(expanded)
