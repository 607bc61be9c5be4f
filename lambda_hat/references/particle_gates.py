"""The gates of a reference made by SMC, whose particles have no chains that could agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambda_hat.references.gate import FIRMER_TETHER, Gate, ask
from lambda_hat.references.gates import (
    check_below_minimum,
    check_positive,
    check_relative_se,
    check_shift_bias,
    check_virial,
)

MIN_RUNS = 3
"""SMC runs below which their spread says nothing."""
UNIQUE_ANCESTORS = 10
ACCEPTANCE = 0.3
LEFTOVER = 0.8


def check_smc_gates(
    *, llc: float, se: float, diagnostics: Mapping[str, Any], evidence: Mapping[str, Any]
) -> list[Gate]:
    """All gates of a reference made by SMC, once there are runs enough for a standard error.

    Args:
        llc: the estimate.
        se: its standard error, from the spread of the runs.
        diagnostics: as `lambda_hat.references.smc` gives them.
        evidence: why w* is a minimum (see `lambda_hat.problems`).
    """
    return [
        check_relative_se(llc, se),
        check_positive(llc),
        check_virial(diagnostics),
        check_below_minimum(diagnostics),
        check_shift_bias(llc, evidence),
        _diversity(diagnostics),
        _acceptance(diagnostics),
        _moves(diagnostics),
    ]


def _diversity(diagnostics: Mapping[str, Any]) -> Gate:
    ancestors = diagnostics["unique_ancestors"]
    return ask(
        "diversity", ancestors, UNIQUE_ANCESTORS, ancestors >= UNIQUE_ANCESTORS,
        holds=f"The particles of each run descend from {ancestors} or more draws of the tether, "
        f"at least {UNIQUE_ANCESTORS}.",
        fails=f"The particles of one run descend from {ancestors} draws of the tether, below "
        f"{UNIQUE_ANCESTORS}: they have seen little of it. Raise reference.num_particles.",
    )  # fmt: skip


def _acceptance(diagnostics: Mapping[str, Any]) -> Gate:
    rate = diagnostics["acceptance_rate"]
    return ask(
        "acceptance", rate, ACCEPTANCE, rate >= ACCEPTANCE,
        holds=f"The particles' moves were accepted at a rate of {rate:.2f}, at least {ACCEPTANCE}.",
        fails=f"The particles' moves were accepted at a rate of {rate:.2f}, below {ACCEPTANCE}. "
        f"Raise reference.target_accept, or {FIRMER_TETHER}.",
    )  # fmt: skip


def _moves(diagnostics: Mapping[str, Any]) -> Gate:
    leftover = diagnostics["leftover_correlation"]
    return ask(
        "moves", leftover, LEFTOVER, leftover <= LEFTOVER,
        holds=f"Particles forget where they were: they correlate with it by {leftover:.2f} after "
        f"their moves at one temperature, at most {LEFTOVER}.",
        fails=f"After all their moves at one temperature particles correlate by {leftover:.2f} "
        f"with where they were, above {LEFTOVER}. Raise reference.num_integration_steps, or "
        f"{FIRMER_TETHER}.",
    )  # fmt: skip
