"""Problem -> Reference: the gates a reference must pass, each with what to do where it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RHAT = 1.01
ESS_BULK = 400.0
RELATIVE_SE = 0.02
DIVERGENCE_RATE = 1e-3
VIRIAL_SIGMAS = 3.0
BELOW_MINIMUM = 1e-3
SHIFT_BIAS = 5e-3
AGREEMENT_SIGMAS = 3.0

_LONGER = "Raise the HMC budget, so that more draws can be made"
_TETHER = "raise posterior.gamma, so that the posterior is better connected"


@dataclass(frozen=True)
class Gate:
    """One question to a reference.

    Attributes:
        name: what is looked at.
        passed: whether the reference may be trusted on this account.
        mendable: whether more draws could make it pass.
        reason: what failed, by how much and what to change; empty if passed.
    """

    name: str
    passed: bool
    mendable: bool
    reason: str


def ask_gates(
    *,
    llc: float,
    se: float,
    diagnostics: Mapping[str, Any],
    evidence: Mapping[str, Any],
    float64: bool = True,
) -> list[Gate]:
    """All gates of a reference, in the order of the contract.

    Args:
        llc: the estimate.
        se: its standard error.
        diagnostics: as `lambda_hat.diagnostics.diagnose` gives them.
        evidence: why w* is a minimum (see `lambda_hat.problem`).
        float64: whether the draws were made in float64.
    """
    rhat, ess = diagnostics["rhat"], diagnostics["ess_bulk"]
    relative = se / llc if llc > 0 else math.inf
    gates = [
        _gate(
            "rhat", rhat <= RHAT, True,
            f"R-hat is {rhat:.4g}, above {RHAT}: the chains disagree. {_LONGER}, or {_TETHER}.",
        ),
        _gate(
            "ess_bulk", ess >= ESS_BULK, True,
            f"Bulk ESS is {ess:.0f}, below {ESS_BULK:.0f}: the chains mix slowly. "
            f"{_LONGER}, or {_TETHER}.",
        ),
        _gate(
            "relative_se", relative <= RELATIVE_SE, True,
            f"The relative standard error is {relative:.2%}, above {RELATIVE_SE:.0%}. {_LONGER}.",
        ),
        _gate(
            "divergences", diagnostics["divergence_rate"] < DIVERGENCE_RATE, False,
            f"{diagnostics['divergence_rate']:.2%} of the transitions diverged, "
            f"{DIVERGENCE_RATE:.1%} or more: parts of the posterior are too narrow for the step "
            f"size. Raise reference.target_accept, or {_TETHER}.",
        ),
        _gate(
            "positive", llc > 0, False,
            f"The LLC is {llc:.4g}, not positive: w* is no minimum. Raise training.restarts or "
            "training.steps.",
        ),
        _virial(diagnostics),
        _gate(
            "below_minimum", diagnostics["below_minimum_fraction"] <= BELOW_MINIMUM, False,
            f"{diagnostics['below_minimum_fraction']:.2%} of the draws have a loss below that of "
            f"w*, above {BELOW_MINIMUM:.1%}: a better minimum is within reach of the posterior. "
            "Raise training.restarts or training.steps, or raise posterior.gamma, so that the "
            "posterior stays nearer to w*.",
        ),
        _shift_bias(llc, evidence),
        _gate(
            "float64", float64, False,
            "The draws must be made in float64, but came in float32. Run them inside "
            "`jax.enable_x64(True)`.",
        ),
    ]  # fmt: skip
    return gates


def _virial(diagnostics: Mapping[str, Any]) -> Gate:
    ratio, error = diagnostics["virial_ratio"], diagnostics["virial_se"]
    off = abs(ratio - 1.0) / error if error else math.inf
    return _gate(
        "virial", off <= VIRIAL_SIGMAS, True,
        f"The virial ratio is {ratio:.4f} +- {error:.4f}, {off:.1f} standard errors from 1: the "
        f"draws are not from the posterior. {_LONGER}, or {_TETHER}.",
    )  # fmt: skip


def _shift_bias(llc: float, evidence: Mapping[str, Any]) -> Gate:
    """At a smooth point the gradient must be small; on a kink only the posterior can tell."""
    bias = evidence.get("shift_bias")
    if bias is None or evidence.get("status") in ("exact", "kink"):
        return Gate("shift_bias", True, False, "")
    share = abs(bias) / llc if llc > 0 else math.inf
    return _gate(
        "shift_bias", share <= SHIFT_BIAS, False,
        f"The gradient left at w* shifts the LLC by {share:.2%}, above {SHIFT_BIAS:.1%}. Raise "
        "training.steps or training.polish_steps.",
    )  # fmt: skip


def _gate(name: str, passed: bool, mendable: bool, reason: str) -> Gate:
    return Gate(name, bool(passed), mendable, "" if passed else reason)
