"""What one engine of a reference gives: its estimate, the gates it was judged by, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lambda_hat.references.gate import Gate
from lambda_hat.traces import Trace


@dataclass(frozen=True)
class Cost:
    """Wall time by what it went into, and full-data gradient equivalents."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    work: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        names = [*self.seconds, *(name for name in other.seconds if name not in self.seconds)]
        seconds = {
            name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0) for name in names
        }
        return Cost(seconds, self.work + other.work)

    def until(self, later: Cost) -> Cost:
        """What was added from this cost to a later one."""
        return Cost(
            {name: value - self.seconds.get(name, 0.0) for name, value in later.seconds.items()},
            later.work - self.work,
        )

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Attempt:
    """Draws that an engine gave up for others with another tuning.

    Attributes:
        tuning: what they were made with, in JSON types.
        because: what failed, in the names of gates, or what was looked for.
        cost: theirs alone.
    """

    tuning: Mapping[str, Any]
    because: str
    cost: Cost

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Attempt:
        """An attempt as a checkpoint has it."""
        return cls(stored["tuning"], stored["because"], Cost(stored["seconds"], stored["work"]))

    def to_json(self) -> dict[str, Any]:
        """The same in JSON types."""
        told = {"tuning": dict(self.tuning), "because": self.because}
        return {**told, "seconds": dict(self.cost.seconds), "work": self.cost.work}


@dataclass(frozen=True)
class EngineResult:
    """An engine's estimate of the LLC of one problem, judged by its gates.

    Attributes:
        llc: the estimate; None where there is none, for the reason that a gate gives.
        se: its standard error.
        diagnostics: what the gates looked at and whatever else is worth knowing, in JSON types.
        gates: every gate that was checked, passed or not.
        cost: of all draws, those of earlier runs and of abandoned attempts counted.
        draws: how many there are, in the engine's own unit.
        attempts: what was tried before, whose draws are not used.
        finished: whether all draws that were asked for were made, or none can be any more. What
            gates say before says little: when they hold or fail depends on the clock.
        trace: what trace.nc holds of the draws; None where there are none to speak of.
    """

    llc: float | None
    se: float | None
    diagnostics: Mapping[str, Any]
    gates: tuple[Gate, ...]
    cost: Cost
    draws: int
    attempts: tuple[Attempt, ...] = ()
    finished: bool = True
    trace: Trace | None = field(default=None, compare=False, repr=False)

    @property
    def own_cost(self) -> Cost:
        """Of these draws, without what was tried before."""
        return sum((attempt.cost for attempt in self.attempts), Cost()).until(self.cost)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def passed(self) -> bool:
        """Whether every gate holds, with all draws that were asked for."""
        return self.finished and not self.failed

    @property
    def hopeless(self) -> bool:
        """Whether a gate failed that more draws cannot fix."""
        return not all(gate.fixable_by_more_draws for gate in self.failed)

    def to_json(self) -> dict[str, Any]:
        """As ref.json has it below `methods`."""
        return {
            "llc": self.llc,
            "se": self.se,
            "draws": self.draws,
            "seconds": dict(self.cost.seconds),
            "diagnostics": dict(self.diagnostics),
            "work": {"full_gradients": self.cost.work},
            "gates": [gate.to_json() for gate in self.gates],
            "attempts": [attempt.to_json() for attempt in self.attempts],
        }


Watch = Callable[[EngineResult], None]
"""Is told, while an engine runs, how it stands."""
