"""The gates a reference must pass, each with what to do where it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lambda_hat.references.gate import FIRMER_TETHER, LONGER, Gate, ask

RHAT = 1.01
ESS_BULK = 400.0
RELATIVE_SE = 0.02
DIVERGENCE_RATE = 1e-3
VIRIAL_SIGMAS = 3.0
BELOW_MINIMUM = 1e-3
SHIFT_BIAS = 5e-3
AGREEMENT_SIGMAS = 3.0
ROUND_TRIPS = 10
"""Of replicas between tether and posterior, in each ladder."""
GROWTH = 1.5
"""How much longer chains get each time a gate fails that more draws can fix."""
OF_THE_TARGET = ("positive", "below_minimum", "shift_bias", "float64")
"""Gates that fail for every engine, once its chains mix: w* is not what it should be."""
ELSEWHERE = 1.5
"""How far short chains from elsewhere may scatter around an LLC, in units of their errors."""
MIXING = ("rhat", "ess_bulk", "relative_se")
"""HMC's gates that fail where chains mix slowly, and nothing else need be wrong."""

_NO_GRADIENT_NEEDED = {
    "exact": "w* is a minimum in closed form.",
    "kink": "w* sits on a kink of the loss, where descent has stalled.",
}
"""What makes w* a minimum where its gradient need not vanish, or is known to."""


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
        evidence: why w* is a minimum (see `lambda_hat.problems`).
        float64: whether the draws were made in float64.
    """
    return [
        *_mixing(diagnostics),
        check_relative_se(llc, se),
        _divergences(diagnostics),
        check_positive(llc),
        check_virial(diagnostics),
        check_below_minimum(diagnostics),
        check_shift_bias(llc, evidence),
        _precision(float64),
    ]


def check_gibbs_gates(
    *, llc: float, se: float, diagnostics: Mapping[str, Any], evidence: Mapping[str, Any]
) -> list[Gate]:
    """All gates of a reference made by Gibbs sampling, which has no step size that could fail.

    Args:
        llc: the estimate.
        se: its standard error.
        diagnostics: as `lambda_hat.references.gibbs` gives them.
        evidence: why w* is a minimum (see `lambda_hat.problems`).
    """
    return [
        *_mixing(diagnostics),
        check_relative_se(llc, se),
        check_positive(llc),
        check_virial(diagnostics),
        check_shift_bias(llc, evidence),
    ]


def check_round_trips(trips: Sequence[int]) -> Gate:
    """Whether the replicas of every ladder went from the posterior to the tether and back.

    Args:
        trips: by ladder.
    """
    least, told = min(trips), ", ".join(str(trip) for trip in trips)
    return ask(
        "round_trips", least, ROUND_TRIPS, least >= ROUND_TRIPS, fixable=True,
        holds=f"The ladders forget where they began: their replicas made {told} round trips, at "
        f"least {ROUND_TRIPS} in each.",
        fails=f"The replicas of one ladder made {least} round trips between tether and posterior, "
        f"below {ROUND_TRIPS}: what they saw of the posterior depends on where they began. "
        f"{LONGER}, or {FIRMER_TETHER}.",
    )  # fmt: skip


def check_elsewhere(scatter: float, num_chains: int) -> Gate:
    """Whether short chains that began elsewhere give the LLC of chains that began around w*.

    Args:
        scatter: root mean square of their distances from it, in units of what they should be.
        num_chains: how many there are.
    """
    told = f"{num_chains} short chains that began elsewhere, where draws of the tether were "
    lie = f"annealed to, lie {scatter:.2f} of their standard errors from it (root mean square)"
    return ask(
        "elsewhere", scatter, ELSEWHERE, scatter <= ELSEWHERE,
        holds=f"No part of the posterior was missed: {told}{lie}, at most {ELSEWHERE}.",
        fails=f"{told}{lie}, above {ELSEWHERE}: chains that begin around w* miss a part of the "
        "posterior. Raise the HMC budget, so that replica exchange can weigh its parts, or "
        f"{FIRMER_TETHER}.",
    )  # fmt: skip


def not_checked_elsewhere() -> Gate:
    """The gate of chains whose budget was spent before any could begin elsewhere."""
    sentence = (
        "The budget ended before short chains that begin elsewhere could show whether a part of "
        "the posterior was missed. Raise the HMC budget by half."
    )
    return Gate("elsewhere", None, ELSEWHERE, False, True, sentence)


def check_agreement(
    labels: tuple[str, str], one: tuple[float, float], other: tuple[float, float]
) -> Gate:
    """Whether two engines, each (llc, se), give the same number."""
    difference, error = abs(one[0] - other[0]), math.hypot(one[1], other[1])
    off = difference / error if error else math.inf
    numbers = [f"{llc:.5g} +- {se:.2g}" for llc, se in (one, other)]
    both = f"{labels[0]} gives {numbers[0]} and {labels[1]} {numbers[1]}"
    return ask(
        "agreement", off, AGREEMENT_SIGMAS, off <= AGREEMENT_SIGMAS,
        holds=f"{both}, {off:.1f} joint standard errors apart, at most {AGREEMENT_SIGMAS:.0f}.",
        fails=f"{both}, {off:.1f} joint standard errors apart, above {AGREEMENT_SIGMAS:.0f}: one "
        f"of them misses a part of the posterior. Raise the HMC budget, or {FIRMER_TETHER}.",
    )  # fmt: skip


def _mixing(diagnostics: Mapping[str, Any]) -> list[Gate]:
    rhat, ess = diagnostics["rhat"], diagnostics["ess_bulk"]
    return [
        ask(
            "rhat", rhat, RHAT, rhat <= RHAT, fixable=True,
            holds=f"The chains agree: R-hat is {rhat:.4f}, at most {RHAT}.",
            fails=f"R-hat is {rhat:.4g}, above {RHAT}: the chains disagree. {LONGER}, or "
            f"{FIRMER_TETHER}.",
        ),
        ask(
            "ess_bulk", ess, ESS_BULK, ess >= ESS_BULK, fixable=True,
            holds=f"The chains mix: bulk ESS is {ess:,.0f}, at least {ESS_BULK:.0f}.",
            fails=f"Bulk ESS is {ess:.0f}, below {ESS_BULK:.0f}: the chains mix slowly. "
            f"{LONGER}, or {FIRMER_TETHER}.",
        ),
    ]  # fmt: skip


def check_relative_se(llc: float, se: float) -> Gate:
    relative = se / llc if llc > 0 else math.inf
    return ask(
        "relative_se", relative, RELATIVE_SE, relative <= RELATIVE_SE, fixable=True,
        holds=f"It is precise: the relative standard error is {relative:.2%}, at most "
        f"{RELATIVE_SE:.0%}.",
        fails=f"The relative standard error is {relative:.2%}, above {RELATIVE_SE:.0%}. "
        f"{LONGER}.",
    )  # fmt: skip


def _divergences(diagnostics: Mapping[str, Any]) -> Gate:
    rate = diagnostics["divergence_rate"]
    return ask(
        "divergences", rate, DIVERGENCE_RATE, rate < DIVERGENCE_RATE,
        holds=f"{rate:.2%} of the transitions diverged, less than {DIVERGENCE_RATE:.1%}.",
        fails=f"{rate:.2%} of the transitions diverged, {DIVERGENCE_RATE:.1%} or more: parts of "
        "the posterior are too narrow for the step size. Raise reference.target_accept, or "
        f"{FIRMER_TETHER}.",
    )  # fmt: skip


def check_positive(llc: float) -> Gate:
    return ask(
        "positive", llc, 0.0, llc > 0,
        holds="The LLC is positive.",
        fails=f"The LLC is {llc:.4g}, not positive: w* is no minimum. Raise training.restarts or "
        "training.steps.",
    )  # fmt: skip


def check_virial(diagnostics: Mapping[str, Any]) -> Gate:
    ratio, error = diagnostics["virial_ratio"], diagnostics["virial_se"]
    off = abs(ratio - 1.0) / error if error else math.inf
    return ask(
        "virial", off, VIRIAL_SIGMAS, off <= VIRIAL_SIGMAS, fixable=True,
        holds=f"The draws are from the posterior: the virial ratio is {ratio:.4f} +- {error:.4f}, "
        f"within {VIRIAL_SIGMAS:.0f} standard errors of 1.",
        fails=f"The virial ratio is {ratio:.4f} +- {error:.4f}, {off:.1f} standard errors from 1: "
        f"the draws are not from the posterior. {LONGER}, or {FIRMER_TETHER}.",
    )  # fmt: skip


def check_below_minimum(diagnostics: Mapping[str, Any]) -> Gate:
    share = diagnostics["below_minimum_fraction"]
    return ask(
        "below_minimum", share, BELOW_MINIMUM, share <= BELOW_MINIMUM,
        holds=f"w* is the minimum within reach: {share:.2%} of the draws have a smaller loss, at "
        f"most {BELOW_MINIMUM:.1%}.",
        fails=f"{share:.2%} of the draws have a loss below that of w*, above {BELOW_MINIMUM:.1%}: "
        "a better minimum is within reach of the posterior. Raise training.restarts or "
        "training.steps, or raise posterior.gamma, so that the posterior stays nearer to w*.",
    )  # fmt: skip


def check_shift_bias(llc: float, evidence: Mapping[str, Any]) -> Gate:
    """At a smooth point the gradient must be small; on a kink only the posterior can tell."""
    bias, status = evidence.get("shift_bias"), evidence.get("status")
    if bias is None or status in _NO_GRADIENT_NEEDED:
        known = _NO_GRADIENT_NEEDED.get(str(status), "Nothing is known against w*.")
        return ask("shift_bias", None, SHIFT_BIAS, True, holds=known, fails="")
    share = abs(bias) / llc if llc > 0 else math.inf
    return ask(
        "shift_bias", share, SHIFT_BIAS, share <= SHIFT_BIAS,
        holds=f"w* is stationary: the gradient left there shifts the LLC by {share:.2%}, at most "
        f"{SHIFT_BIAS:.1%}.",
        fails=f"The gradient left at w* shifts the LLC by {share:.2%}, above {SHIFT_BIAS:.1%}. "
        "Raise training.steps or training.polish_steps.",
    )  # fmt: skip


def _precision(float64: bool) -> Gate:
    return ask(
        "float64", 64.0 if float64 else 32.0, 64.0, float64,
        holds="The draws were made in float64.",
        fails="The draws must be made in float64, but came in float32. Run them inside "
        "`jax.enable_x64(True)`.",
    )  # fmt: skip
