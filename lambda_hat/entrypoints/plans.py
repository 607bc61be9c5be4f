"""What `parsl-optuna` is to do, from YAML and command line, checked before anything starts.

The command line is laid over the file before the file is checked, so that a value is held to
the same rules wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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
    compose_reference,
)
from lambda_hat.conf.search_space import SEARCH_SPACE, Space, read_ranges
from lambda_hat.entrypoints.config_file import read_raw
from lambda_hat.entrypoints.config_parts import (
    LONGEST_SEC,
    collect,
    read_list,
    read_path,
    read_problems,
    read_store,
)
from lambda_hat.plugin import Plugin, read_plugin
from lambda_hat.store import Store
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.objective import COSTS, ERROR
from lambda_hat.tuning.pruners import NONE, PRUNERS
from lambda_hat.tuning.reference_plan import ReferencePlan
from lambda_hat.tuning.search_samplers import SearchSampler, read_search_sampler
from lambda_hat.tuning.settings import StudySettings
from lambda_hat.tuning.warm_start import Guess


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
    joint: bool = False
    """Whether one setting of each method is tuned for all problems, by its mean relative error."""
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
    reference = collect(faults, compose_reference, raw.get("reference"))
    problems = read_problems(raw, folder, faults, reference)
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
    space = collect(faults, read_ranges, raw.get("search_space"))
    methods = _methods(raw.get("methods"), SEARCH_SPACE, faults)
    plugin = _plugin(raw.get("plugin"), faults)
    store = read_store(raw, faults)
    if optuna is not None:
        _check_objective(optuna, faults)
        _check_objectives(optuna, search, faults)
        _check_joint(optuna, convergence, problems, faults)
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
        joint=tuple(problem.pid for problem in problems) if optuna.joint else (),
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


def _check_joint(
    optuna: OptunaSection,
    convergence: ConvergenceSection | None,
    problems: Sequence[ProblemItem],
    faults: list[str],
) -> None:
    """A joint trial is one number over several problems, known when all its runs have ended."""
    if not optuna.joint:
        return
    if len(problems) == 1:
        faults.append(
            "`joint` needs several problems, but got 1 (optuna). Leave it out, or add problems."
        )
    given = {
        "`objectives` with several": len(optuna.objectives) > 1,
        f"`pruner: {optuna.pruner}`": optuna.pruner != NONE,
        "`objective: huber`": optuna.huber_delta is not None or optuna.objective == "huber",
        "`max_seconds`": optuna.max_seconds is not None,
        "`convergence`": convergence is not None and convergence.patience is not None,
    }
    if names := [name for name, is_given in given.items() if is_given]:
        faults.append(f"`joint` does not go with {', '.join(names)} (optuna). Leave one out.")


def _methods(raw: object, space: Space | None, faults: list[str]) -> tuple[str, ...]:
    methods = read_list({"methods": raw}, "methods", faults)
    for index, method in enumerate(methods):
        if space is not None and method not in list(space):
            hint = " HMC is the reference and is not tuned." if method == "hmc" else ""
            faults.append(unknown_name("A method", method, space, f"methods[{index}]") + hint)
        if method in methods[:index]:
            faults.append(f"methods[{index}] is {method!r} a second time. Leave one out.")
    return tuple(methods)


def _guesses(raw: object, methods: object, faults: list[str]) -> tuple[Guess, ...]:
    guesses: list[Guess] = []
    for index, entry in enumerate(read_list({"enqueue": raw}, "enqueue", faults) if raw else []):
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
    return collect(faults, read_plugin, read_path("plugin", given, faults))
