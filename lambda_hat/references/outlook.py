"""How long an engine must still run for its gates, at the rate it goes."""

from __future__ import annotations

import math
from typing import Any

from lambda_hat.references.engine import EngineResult
from lambda_hat.references.gate import Gate
from lambda_hat.references.gates import GROWTH

MARGIN = 1.25
"""A budget that would do is so much more than what the rate says."""


def seconds_to_gates(result: EngineResult) -> float | None:
    """More seconds of sampling until the gates hold; 0 where they do.

    Errors fall as one over the square root of the draws, R-hat's excess over one and everything
    that is counted as the draws themselves.

    Returns:
        Infinity where no number of draws would do, None where there is no estimate yet.
    """
    if result.llc is None:
        return None
    if result.hopeless:
        return math.inf
    sampled = result.own_cost.seconds.get("sample", 0.0)
    return max([0.0, *((_growth(gate) - 1.0) * sampled for gate in result.failed)])


def budget_that_would_do(result: EngineResult, spent: float) -> float | None:
    """Seconds in two digits, `spent` ones counted; None where that cannot be said."""
    more = seconds_to_gates(result)
    if more is None or math.isinf(more):
        return None
    seconds = spent + MARGIN * max(more, 1.0)
    digit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / digit) * digit


def progress(name: str, result: EngineResult, budget_sec: float) -> dict[str, Any]:
    """How an engine that runs stands: what `ref.json.partial` holds, before it is strict JSON.

    Args:
        name: of the engine.
        result: as its gates would judge it now.
        budget_sec: what all engines have.
    """
    found = result.diagnostics
    relative = result.se / result.llc if result.llc and result.se is not None else None
    return {
        "method": name,
        "llc": result.llc,
        "se": result.se,
        "relative_se": relative,
        "rhat": found.get("rhat"),
        "ess_bulk": found.get("ess_bulk"),
        "round_trips": found.get("round_trips"),
        "draws": result.draws,
        "failed_gates": [gate.name for gate in result.failed],
        "seconds": result.cost.total,
        "seconds_to_gates": seconds_to_gates(result),
        "budget_sec": budget_sec,
    }


def _growth(gate: Gate) -> float:
    """How many times as many draws a gate that failed asks for."""
    if gate.value is None or gate.threshold is None or not math.isfinite(gate.value):
        return math.inf
    value, threshold = gate.value, gate.threshold
    if gate.name == "rhat":
        return (value - 1.0) / (threshold - 1.0)
    if gate.name == "relative_se":
        return (value / threshold) ** 2
    if gate.name in ("ess_bulk", "round_trips"):
        return threshold / max(value, 0.5)
    return GROWTH
