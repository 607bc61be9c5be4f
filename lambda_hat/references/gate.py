"""One gate: a question to a reference, with its answer, and what to do where it failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LONGER = "Raise the HMC budget, so that more draws can be made"
FIRMER_TETHER = "raise posterior.gamma, so that the posterior is better connected"
"""What helps where a gate failed, as the end of a sentence."""


@dataclass(frozen=True)
class Gate:
    """One question to a reference, with its answer.

    Attributes:
        name: what is looked at.
        value: what was found; None where there was nothing to look at.
        threshold: what it is compared with.
        passed: the verdict: whether the reference may be trusted on this account.
        fixable_by_more_draws: whether more draws could make it pass, if it failed.
        sentence: what holds; or what failed, by how much and what to change.
    """

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    fixable_by_more_draws: bool
    sentence: str

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Gate:
        """A gate as ref.json has it."""
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__})

    def to_json(self) -> dict[str, Any]:
        """The same in strict JSON: a value that is not finite is null."""
        finite = self.value is not None and math.isfinite(self.value)
        return {**asdict(self), "value": self.value if finite else None}


def ask(
    name: str,
    value: float | None,
    threshold: float,
    passed: bool,
    *,
    holds: str,
    fails: str,
    fixable: bool = False,
) -> Gate:
    """The gate of a name, with the sentence of its verdict.

    Args:
        name: what is looked at.
        value: what was found.
        threshold: what it is compared with.
        passed: the verdict.
        holds: the sentence where it passed.
        fails: where it failed: by how much, and what to change.
        fixable: whether more draws could make it pass, if it failed.
    """
    measured = None if value is None else float(value)
    return Gate(name, measured, threshold, bool(passed), fixable, holds if passed else fails)


def no_estimate(
    name: str,
    sentence: str,
    *,
    fixable_by_more_draws: bool,
    value: float | None = None,
    threshold: float | None = None,
) -> Gate:
    """The one gate of an engine that has no number yet, which therefore failed.

    Args:
        name: `estimate`, or what there is too little of.
        sentence: why there is no number, and what to change.
        fixable_by_more_draws: whether there could be one after more draws.
        value: how many draws, sweeps or runs there are.
        threshold: how many there must be.
    """
    return Gate(name, value, threshold, False, fixable_by_more_draws, sentence)
