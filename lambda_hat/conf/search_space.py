"""Search ranges of each method, and how a trial draws hyperparameters from them.

Edit `SEARCH_SPACE` to change a range for everybody, or give `search_space:` in a config to
change it for one run. The ranges suit problems from n = 100 to n = 20 000.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lambda_hat.conf.checks import ConfigError, check_keys, check_mapping, read_values, unknown_name
from lambda_hat.conf.compose import compose_sampler


class Suggests(Protocol):
    """The part of an Optuna trial that a range needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True)
class Float:
    """Real numbers in [low, high], evenly in the logarithm where `log` is set."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Suggests, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    @property
    def probes(self) -> tuple:
        return (self.low, self.high)


@dataclass(frozen=True)
class Int:
    """Whole numbers in [low, high], evenly in the logarithm where `log` is set."""

    low: int
    high: int
    log: bool = False

    def suggest(self, trial: Suggests, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    @property
    def probes(self) -> tuple:
        return (self.low, self.high)


@dataclass(frozen=True)
class Categorical:
    """One of a few choices, with no order between them."""

    choices: tuple[Any, ...]

    def suggest(self, trial: Suggests, name: str) -> Any:
        return trial.suggest_categorical(name, self.choices)

    @property
    def probes(self) -> tuple:
        return self.choices


Range = Float | Int | Categorical
Space = Mapping[str, Mapping[str, Range]]

_WHITENING = Categorical(("none", "rmsprop", "adam"))

SEARCH_SPACE: Space = {
    "sgld": {
        "eta0": Float(1e-7, 1e-1, log=True),
        "gamma": Float(0.0, 0.6),
        "batch": Categorical((32, 128, 512)),
        "precond_type": _WHITENING,
        "steps": Int(5_000, 200_000, log=True),
    },
    "vi": {
        "lr": Float(1e-4, 1e-1, log=True),
        "M": Categorical((1, 2, 4, 8)),
        "r": Categorical((0, 1, 2, 4)),
        "whitening_mode": _WHITENING,
        "steps": Int(1_000, 30_000, log=True),
        "batch_size": Categorical((64, 256)),
        "correction": Categorical(("none", "ais")),
        "ais_steps": Int(10, 200, log=True),
    },
    "mclmc": {
        "step_size": Float(1e-3, 1.0, log=True),
        "target_accept": Float(0.5, 0.95),
        "L": Float(0.1, 30.0, log=True),
        "steps": Int(500, 20_000, log=True),
    },
}
"""What is searched, for each method that can be tuned. HMC is the reference and is not.

What shapes a program (M, r, a batch) has few choices: each combination is compiled anew, at the
cost of many steps.
"""


STABLE_SHARE = 0.25
"""Of the step beyond which SGLD diverges in the stiffest direction, where it is inflated by a third
(docs/samplers.md); a preconditioner makes it stiffer still."""


def bounds_of(method_name: str, stiffness: float | None) -> dict[str, float]:
    """What a problem allows of a method's settings at most, by name.

    Args:
        method_name: The method.
        stiffness: nbeta times the largest curvature at w*, plus gamma; None where it is not known.
    """
    if method_name != "sgld" or stiffness is None:
        return {}
    return {"eta0": float(f"{STABLE_SHARE * 4 / stiffness:.2g}")}


def draw_params(trial: Suggests, method_name: str) -> dict[str, Any]:
    """Draws a method's hyperparameters for one trial from `SEARCH_SPACE`.

    Args:
        trial: An Optuna trial (or anything that suggests).
        method_name: A key of the space.

    Raises:
        ConfigError: The method has no search space.
    """
    if method_name not in SEARCH_SPACE:
        raise ConfigError([unknown_name("A method", method_name, SEARCH_SPACE, "search space")])
    return {name: entry.suggest(trial, name) for name, entry in SEARCH_SPACE[method_name].items()}


def read_search_space(raw: object, *, where: str = "search_space") -> Space:
    """`SEARCH_SPACE` with a user's `{method: {param: range}}` laid over it."""
    given = read_ranges(raw, where=where)
    return {method: {**ranges, **given[method]} for method, ranges in SEARCH_SPACE.items()}


def read_ranges(raw: object, *, where: str = "search_space") -> Space:
    """A user's `{method: {param: range}}`, those ranges only, for every method.

    A range is `{low, high, log}` (parts left out keep their default) or `{choices: [..]}`. Any
    setting of a sampler can be searched, not only those of `SEARCH_SPACE`.
    Every end of every range is tried on the sampler's own settings, so that no trial can meet
    a value that its sampler refuses.

    Raises:
        ConfigError: With every fault of the mapping.
    """
    faults: list[str] = []
    given = check_mapping(raw, where, faults)
    check_keys(given, SEARCH_SPACE, where, faults)
    space = {method: dict(ranges) for method, ranges in SEARCH_SPACE.items()}
    read: dict[str, dict[str, Range]] = {method: {} for method in SEARCH_SPACE}
    for method in SEARCH_SPACE:
        entries = check_mapping(given.get(method), f"{where}.{method}", faults)
        settings = asdict(compose_sampler(method))
        check_keys(entries, settings, f"{where}.{method}", faults)
        for name in [name for name in entries if name in settings]:
            place = f"{where}.{method}.{name}"
            default = space[method].get(name)
            if default is None or isinstance(default, Categorical):
                default = _kind(settings[name])
            entry = _read_range(default, entries[name], place, faults)
            if entry is not None:
                space[method][name] = read[method][name] = entry
                _probe(method, name, entry, place, faults)
        if not faults:
            _probe_pairs(method, entries, space[method], f"{where}.{method}", faults)
    if faults:
        raise ConfigError(faults)
    return read


def describe(space: Mapping[str, Range]) -> dict[str, Any]:
    """A method's ranges in JSON types, for a study's fingerprint and a person's eyes."""
    return json.loads(json.dumps({name: asdict(entry) for name, entry in space.items()}))


def _kind(value: object) -> type[Range]:
    """The kind of range for a setting that is not searched by default."""
    if isinstance(value, bool | str):
        return Categorical
    return Float if isinstance(value, float) else Int


def _read_range(
    default: Range | type[Range], raw: object, where: str, faults: list[str]
) -> Range | None:
    given = check_mapping(raw, where, faults)
    if not given:
        return None
    kind = default if isinstance(default, type) else type(default)
    if "choices" in given or not issubclass(kind, Float | Int):
        return _read_choices(given, where, faults)
    known = {} if isinstance(default, type) else asdict(default)
    values = read_values(kind, {**known, **given}, where, faults)
    if values is None:
        return None
    entry = kind(**values)
    ends = f"low={entry.low}, high={entry.high} ({where})"
    if not entry.low <= entry.high:
        faults.append(f"`low <= high` must hold, but got {ends}. Swap them.")
        return None
    if entry.log and entry.low <= 0:
        faults.append(
            f"`low > 0` must hold where log is true, but got {ends}. Raise low, or set log: false."
        )
        return None
    return entry


def _read_choices(given: Mapping, where: str, faults: list[str]) -> Categorical | None:
    check_keys(given, ["choices"], where, faults)
    choices = given.get("choices")
    if not isinstance(choices, list) or not choices:
        faults.append(
            f"`choices` must be a list with one value or more, but got {choices!r} ({where})."
        )
        return None
    if not all(isinstance(choice, str | int | float | bool) for choice in choices):
        faults.append(f"`choices` must be numbers or names, but got {choices!r} ({where}).")
        return None
    return Categorical(tuple(choices))


def _probe_pairs(
    method: str, names: Iterable[str], ranges: Mapping[str, Range], where: str, faults: list[str]
) -> None:
    """Tries the ends of the ranges `names` with those of every other range."""
    for name, other in itertools.product(names, ranges):
        both = itertools.product(ranges[name].probes, ranges[other].probes)
        for value, beside in both if name != other else ():
            try:
                compose_sampler(method, {name: value, other: beside}, where=where)
            except ConfigError as error:
                faults += error.faults
                return


def _probe(method: str, name: str, entry: Range, where: str, faults: list[str]) -> None:
    for value in entry.probes:
        try:
            compose_sampler(method, {name: value}, where=where)
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
