"""A trial whose suggestions keep to a user's ranges, and to choices that differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.search_space import Categorical, Float, Int, Range, Suggests

BATCHES = ("batch", "batch_size")
"""Settings that count rows of the data: from n on, all of them are the full batch."""


@dataclass(frozen=True)
class Ranges:
    """What comes before the ranges that a function suggests from."""

    given: Mapping[str, Range] = field(default_factory=dict)
    """By name: a user's own, from the config."""
    num_rows: int | None = None
    """Rows of the problem's data: batches from there on are one choice. None leaves them be."""
    most: Mapping[str, float] = field(default_factory=dict)
    """By name: what no range that is asked for goes beyond; those that are given do."""


class NotInRange(ConfigError):
    """A value was enqueued that its range cannot hold."""


class RangedTrial:
    """An Optuna trial on which given ranges win over those that it is asked for.

    What it returns has the type of its range, also where a trial was enqueued with 1 for 1.0.

    Args:
        trial: The trial.
        ranges: What comes before the ranges that it is asked for.
        fixed: Values that it was enqueued with.
    """

    def __init__(self, trial: Suggests, ranges: Ranges, fixed: Mapping[str, Any] | None = None):
        self._trial, self._ranges, self._fixed = trial, ranges, fixed or {}
        self._asked: set[str] = set()

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._ranges.given or step is None:
            return self._suggest(name, Float(low, high, log))
        self._asked.add(name)
        return float(self._trial.suggest_float(name, low, high, step=step, log=log))  # type: ignore

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if name in self._ranges.given or step == 1:
            return self._suggest(name, Int(low, high, log))
        self._asked.add(name)
        return int(self._trial.suggest_int(name, low, high, step=step, log=log))  # type: ignore

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, Categorical(tuple(choices)))

    def draw_rest(self) -> dict[str, Any]:
        """The given ranges that nobody has asked for."""
        rest = [name for name in self._ranges.given if name not in self._asked]
        drawn = {name: self._suggest(name, self._ranges.given[name]) for name in rest}
        if idle := [name for name in self._fixed if name not in self._asked]:
            raise NotInRange([f"It was enqueued with {', '.join(idle)}, which is not searched."])
        return drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)  # Its number, say.

    def _suggest(self, name: str, asked: Range) -> Any:
        self._asked.add(name)
        entry = self._ranges.given.get(name, asked)
        if name in BATCHES and self._ranges.num_rows is not None:
            entry = _distinct(entry, self._ranges.num_rows)
        if name not in self._ranges.given and name in self._ranges.most:
            entry = _up_to(entry, self._ranges.most[name])
        if name in self._fixed and not _can_hold(entry, self._fixed[name]):
            value, can = self._fixed[name], _shown(entry)
            raise NotInRange([f"It was enqueued with {name}={value!r}, but can have {can}."])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A value that was enqueued may lie out of its range.
            value = entry.suggest(self._trial, name)
        if isinstance(entry, Categorical):
            return entry.choices[entry.choices.index(value)]
        return float(value) if isinstance(entry, Float) else int(value)


def _shown(entry: Range) -> str:
    if isinstance(entry, Categorical):
        return "one of " + ", ".join(map(str, entry.choices))
    return "a number above 0" if entry.log else "a number"


def _can_hold(entry: Range, value: Any) -> bool:
    """Whether a value can be recorded in a range: as a choice of it, or as a number."""
    if isinstance(entry, Categorical):
        return value in entry.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and (value > 0 or not entry.log)


def _up_to(entry: Range, most: float) -> Range:
    """A range without what is beyond a bound; one that lies beyond it whole is left as it is."""
    if not isinstance(entry, Float) or not entry.low < most < entry.high:
        return entry
    return replace(entry, high=most)


def _distinct(entry: Range, num_rows: int) -> Range:
    """A range of batch sizes without those that come to the same full batch as a smaller one."""
    if isinstance(entry, Int) and entry.low < num_rows < entry.high:
        return Int(entry.low, num_rows, entry.log)
    if not isinstance(entry, Categorical) or not all(type(c) is int for c in entry.choices):
        return entry
    full = min((choice for choice in entry.choices if choice >= num_rows), default=None)
    return Categorical(tuple(c for c in entry.choices if c < num_rows or c == full))
