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
MIN_RUNS = 3
"""SMC runs below which their spread says nothing."""
UNIQUE_ANCESTORS = 10
ACCEPTANCE = 0.3
LEFTOVER = 0.8
GROWTH = 1.5
"""How much longer chains get each time a gate that more draws can mend fails."""
MIXING = ("rhat", "ess_bulk", "relative_se")
"""HMC's gates that fail where chains mix slowly, and nothing else need be wrong."""

_LONGER = "Raise the HMC budget, so that more draws can be made"
_TETHER = "raise posterior.gamma, so that the posterior is better connected"


@dataclass(frozen=True)
class Gate:
    """One question to a reference.

    Attributes:
        name: what is looked at.
        passed: whether the reference may be trusted on this account.
        fixable_by_more_draws: whether more draws could make it pass.
        reason: what failed, by how much and what to change; empty if passed.
    """

    name: str
    passed: bool
    fixable_by_more_draws: bool
    reason: str


def check_gates(
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
    return [
        *_mixing(diagnostics),
        _relative_se(llc, se),
        _gate(
            "divergences", diagnostics["divergence_rate"] < DIVERGENCE_RATE, False,
            f"{diagnostics['divergence_rate']:.2%} of the transitions diverged, "
            f"{DIVERGENCE_RATE:.1%} or more: parts of the posterior are too narrow for the step "
            f"size. Raise reference.target_accept, or {_TETHER}.",
        ),
        _positive(llc),
        _virial(diagnostics),
        _below_minimum(diagnostics),
        _shift_bias(llc, evidence),
        _gate(
            "float64", float64, False,
            "The draws must be made in float64, but came in float32. Run them inside "
            "`jax.enable_x64(True)`.",
        ),
    ]  # fmt: skip


def check_gibbs_gates(
    *, llc: float, se: float, diagnostics: Mapping[str, Any], evidence: Mapping[str, Any]
) -> list[Gate]:
    """All gates of a reference made by Gibbs sampling, which has no step size that could fail.

    Args:
        llc: the estimate.
        se: its standard error.
        diagnostics: as `lambda_hat.references.gibbs` gives them.
        evidence: why w* is a minimum (see `lambda_hat.problem`).
    """
    return [
        *_mixing(diagnostics),
        _relative_se(llc, se),
        _positive(llc),
        _virial(diagnostics),
        _shift_bias(llc, evidence),
    ]


def check_smc_gates(
    *, llc: float, se: float, diagnostics: Mapping[str, Any], evidence: Mapping[str, Any]
) -> list[Gate]:
    """All gates of a reference made by SMC, once there are runs enough for a standard error.

    Args:
        llc: the estimate.
        se: its standard error, from the spread of the runs.
        diagnostics: as `lambda_hat.references.smc` gives them.
        evidence: why w* is a minimum (see `lambda_hat.problem`).
    """
    ancestors, acceptance = diagnostics["unique_ancestors"], diagnostics["acceptance_rate"]
    leftover = diagnostics["leftover_correlation"]
    return [
        _relative_se(llc, se),
        _positive(llc),
        _virial(diagnostics),
        _below_minimum(diagnostics),
        _shift_bias(llc, evidence),
        _gate(
            "diversity", ancestors >= UNIQUE_ANCESTORS, False,
            f"The particles of one run descend from {ancestors} draws of the tether, below "
            f"{UNIQUE_ANCESTORS}: they have seen little of it. Raise reference.num_particles.",
        ),
        _gate(
            "acceptance", acceptance >= ACCEPTANCE, False,
            f"The particles' moves were accepted at a rate of {acceptance:.2f}, below "
            f"{ACCEPTANCE}. Raise reference.target_accept, or {_TETHER}.",
        ),
        _gate(
            "moves", leftover <= LEFTOVER, False,
            f"After all their moves at one temperature particles correlate by {leftover:.2f} with "
            f"where they were, above {LEFTOVER}. Raise reference.num_integration_steps, or "
            f"{_TETHER}.",
        ),
    ]  # fmt: skip


def check_agreement(hmc: tuple[float, float], smc: tuple[float, float]) -> Gate:
    """Whether HMC and SMC, each (llc, se), give the same number."""
    difference, error = abs(hmc[0] - smc[0]), math.hypot(hmc[1], smc[1])
    off = difference / error if error else math.inf
    return _gate(
        "agreement", off <= AGREEMENT_SIGMAS, False,
        f"HMC gives {hmc[0]:.5g} +- {hmc[1]:.2g} and SMC {smc[0]:.5g} +- {smc[1]:.2g}, {off:.1f} "
        f"joint standard errors apart, above {AGREEMENT_SIGMAS:.0f}: one of them misses a part of "
        f"the posterior. Raise reference.num_particles, or {_TETHER}.",
    )  # fmt: skip


def _mixing(diagnostics: Mapping[str, Any]) -> list[Gate]:
    rhat, ess = diagnostics["rhat"], diagnostics["ess_bulk"]
    return [
        _gate(
            "rhat", rhat <= RHAT, True,
            f"R-hat is {rhat:.4g}, above {RHAT}: the chains disagree. {_LONGER}, or {_TETHER}.",
        ),
        _gate(
            "ess_bulk", ess >= ESS_BULK, True,
            f"Bulk ESS is {ess:.0f}, below {ESS_BULK:.0f}: the chains mix slowly. "
            f"{_LONGER}, or {_TETHER}.",
        ),
    ]  # fmt: skip


def _relative_se(llc: float, se: float) -> Gate:
    relative = se / llc if llc > 0 else math.inf
    return _gate(
        "relative_se", relative <= RELATIVE_SE, True,
        f"The relative standard error is {relative:.2%}, above {RELATIVE_SE:.0%}. {_LONGER}.",
    )  # fmt: skip


def _positive(llc: float) -> Gate:
    return _gate(
        "positive", llc > 0, False,
        f"The LLC is {llc:.4g}, not positive: w* is no minimum. Raise training.restarts or "
        "training.steps.",
    )  # fmt: skip


def _below_minimum(diagnostics: Mapping[str, Any]) -> Gate:
    share = diagnostics["below_minimum_fraction"]
    return _gate(
        "below_minimum", share <= BELOW_MINIMUM, False,
        f"{share:.2%} of the draws have a loss below that of w*, above {BELOW_MINIMUM:.1%}: a "
        "better minimum is within reach of the posterior. Raise training.restarts or "
        "training.steps, or raise posterior.gamma, so that the posterior stays nearer to w*.",
    )  # fmt: skip


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


def _gate(name: str, passed: bool, fixable_by_more_draws: bool, reason: str) -> Gate:
    return Gate(name, bool(passed), fixable_by_more_draws, "" if passed else reason)
