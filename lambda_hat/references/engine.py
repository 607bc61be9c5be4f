"""What one engine of a reference gives: its estimate, the gates it was judged by, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lambda_hat.references.gates import Gate


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

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())


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
    """

    llc: float | None
    se: float | None
    diagnostics: Mapping[str, Any]
    gates: tuple[Gate, ...]
    cost: Cost
    draws: int

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if not gate.passed)

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
        }


Watch = Callable[[EngineResult], None]
"""Is told, while an engine runs, how it stands."""
