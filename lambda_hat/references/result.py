"""What ref.json holds: a reference with its gates, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lambda_hat.references.gate import Gate
from lambda_hat.store import strict

_OLD_NAMES = {"mendable": "fixable_by_more_draws"}
"""Keys of earlier versions, and what they are called now."""


@dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """The reference of one problem: each field is a key of ref.json, in this order."""

    pid: str | None = None
    """The problem's id."""
    target: str | None = None
    """Which target it is of (see `Problem.target_id`); None where there is none."""
    llc_ref: float | None = None
    """The LLC; None where there is no number."""
    se_ref: float | None = None
    """Its standard error."""
    method: str | None = None
    """The engine that gave the number."""
    methods: Mapping[str, Any] = field(default_factory=dict)
    """What each engine that ran gave by itself, as `EngineResult.to_json` says it."""
    llc_exact: float | None = None
    """The exact answer at this n and gamma, where it is known."""
    rlct: Mapping[str, Any] | None = None
    """The limit for large n, {value, multiplicity}, where it is known."""
    status: str = "unreliable"
    """`ok`, or `unreliable`."""
    reasons: Sequence[str] = ()
    """A sentence for each gate that failed, or why there is no number."""
    notices: Sequence[str] = ()
    """What the worker warned of."""
    fixable_by_more_draws: bool = True
    """Whether more time could make it `ok`."""
    gates: Sequence[Gate] = ()
    """Every gate that the status rests on; none in files of earlier versions."""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    """Of the engine that gave the number."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What it depends on beside the problem."""
    budget_sec: float | None = None
    """The budget it had, in seconds."""
    needed_budget_sec: float | None = None
    """One that would do, going by the rate; None where this one did, or where that is not known."""
    runtime_sec: float | None = None
    """The sum of `seconds`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by what it went into, of all engines and earlier runs."""
    work: Mapping[str, float] = field(default_factory=lambda: {"full_gradients": 0.0})
    """Full-data gradient equivalents of the same."""
    n: int | None = None
    """Number of data."""
    d: int | None = None
    """Number of parameters."""
    beta: float | None = None
    """beta0 / log n."""
    nbeta: float | None = None
    """n beta."""
    gamma: float | None = None
    """The tether."""
    init_loss: float | None = None
    """L_n(w*)."""
    problem: Mapping[str, Any] = field(default_factory=dict)
    """The composed problem, which the pid is the hash of."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    """Of what computed it."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Why w* passes for a minimum."""
    traceback: str | None = None
    """Of a fault that nobody foresaw."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ReferenceResult:
        """Reads a ref.json: keys that an earlier version lacks are as if nothing were known."""
        known = {_OLD_NAMES.get(name, name): value for name, value in stored.items()}
        given = {one.name: known[one.name] for one in fields(cls) if one.name in known}
        return cls(**{**given, "gates": tuple(map(Gate.from_json, known.get("gates") or ()))})

    def to_json(self) -> dict[str, Any]:
        """What is written, in strict JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return strict({**values, "gates": [gate.to_json() for gate in self.gates]})

    def is_final(self, budget_sec: float) -> bool:
        """Whether it would come out the same if it were computed again within a budget."""
        if self.status == "ok":
            return True
        if self.traceback is not None:
            return False  # A fault of the machine or of the code, and not of the draws.
        return not self.fixable_by_more_draws or budget_sec <= (self.budget_sec or 0.0)
