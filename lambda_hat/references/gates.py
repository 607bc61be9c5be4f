"""The gates a reference must pass, each with what to do where it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

_LONGER = "Raise the HMC budget, so that more draws can be made"
_NO_GRADIENT_NEEDED = {
    "exact": "w* is a minimum in closed form.",
    "kink": "w* sits on a kink of the loss, where descent has stalled.",
}
"""What makes w* a minimum where its gradient need not vanish, or is known to."""
_TETHER = "raise posterior.gamma, so that the posterior is better connected"


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
        _relative_se(llc, se),
        _divergences(diagnostics),
        _positive(llc),
        _virial(diagnostics),
        _below_minimum(diagnostics),
        _shift_bias(llc, evidence),
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
        evidence: why w* is a minimum (see `lambda_hat.problems`).
    """
    return [
        _relative_se(llc, se),
        _positive(llc),
        _virial(diagnostics),
        _below_minimum(diagnostics),
        _shift_bias(llc, evidence),
        _diversity(diagnostics),
        _acceptance(diagnostics),
        _moves(diagnostics),
    ]


def check_round_trips(trips: Sequence[int]) -> Gate:
    """Whether the replicas of every ladder went from the posterior to the tether and back.

    Args:
        trips: by ladder.
    """
    least, told = min(trips), ", ".join(str(trip) for trip in trips)
    return _gate(
        "round_trips", least, ROUND_TRIPS, least >= ROUND_TRIPS, fixable=True,
        holds=f"The ladders forget where they began: their replicas made {told} round trips, at "
        f"least {ROUND_TRIPS} in each.",
        fails=f"The replicas of one ladder made {least} round trips between tether and posterior, "
        f"below {ROUND_TRIPS}: what they saw of the posterior depends on where they began. "
        f"{_LONGER}, or {_TETHER}.",
    )  # fmt: skip


def check_elsewhere(scatter: float, num_chains: int) -> Gate:
    """Whether short chains that began elsewhere give the LLC of chains that began around w*.

    Args:
        scatter: root mean square of their distances from it, in units of what they should be.
        num_chains: how many there are.
    """
    told = f"{num_chains} short chains that began elsewhere, where draws of the tether were "
    lie = f"annealed to, lie {scatter:.2f} of their standard errors from it (root mean square)"
    return _gate(
        "elsewhere", scatter, ELSEWHERE, scatter <= ELSEWHERE,
        holds=f"No part of the posterior was missed: {told}{lie}, at most {ELSEWHERE}.",
        fails=f"{told}{lie}, above {ELSEWHERE}: chains that begin around w* miss a part of the "
        "posterior. Raise the HMC budget, so that replica exchange can weigh its parts, or "
        f"{_TETHER}.",
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
    return _gate(
        "agreement", off, AGREEMENT_SIGMAS, off <= AGREEMENT_SIGMAS,
        holds=f"{both}, {off:.1f} joint standard errors apart, at most {AGREEMENT_SIGMAS:.0f}.",
        fails=f"{both}, {off:.1f} joint standard errors apart, above {AGREEMENT_SIGMAS:.0f}: one "
        f"of them misses a part of the posterior. Raise the HMC budget, or {_TETHER}.",
    )  # fmt: skip


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


def _mixing(diagnostics: Mapping[str, Any]) -> list[Gate]:
    rhat, ess = diagnostics["rhat"], diagnostics["ess_bulk"]
    return [
        _gate(
            "rhat", rhat, RHAT, rhat <= RHAT, fixable=True,
            holds=f"The chains agree: R-hat is {rhat:.4f}, at most {RHAT}.",
            fails=f"R-hat is {rhat:.4g}, above {RHAT}: the chains disagree. {_LONGER}, or "
            f"{_TETHER}.",
        ),
        _gate(
            "ess_bulk", ess, ESS_BULK, ess >= ESS_BULK, fixable=True,
            holds=f"The chains mix: bulk ESS is {ess:,.0f}, at least {ESS_BULK:.0f}.",
            fails=f"Bulk ESS is {ess:.0f}, below {ESS_BULK:.0f}: the chains mix slowly. "
            f"{_LONGER}, or {_TETHER}.",
        ),
    ]  # fmt: skip


def _relative_se(llc: float, se: float) -> Gate:
    relative = se / llc if llc > 0 else math.inf
    return _gate(
        "relative_se", relative, RELATIVE_SE, relative <= RELATIVE_SE, fixable=True,
        holds=f"It is precise: the relative standard error is {relative:.2%}, at most "
        f"{RELATIVE_SE:.0%}.",
        fails=f"The relative standard error is {relative:.2%}, above {RELATIVE_SE:.0%}. "
        f"{_LONGER}.",
    )  # fmt: skip


def _divergences(diagnostics: Mapping[str, Any]) -> Gate:
    rate = diagnostics["divergence_rate"]
    return _gate(
        "divergences", rate, DIVERGENCE_RATE, rate < DIVERGENCE_RATE,
        holds=f"{rate:.2%} of the transitions diverged, less than {DIVERGENCE_RATE:.1%}.",
        fails=f"{rate:.2%} of the transitions diverged, {DIVERGENCE_RATE:.1%} or more: parts of "
        "the posterior are too narrow for the step size. Raise reference.target_accept, or "
        f"{_TETHER}.",
    )  # fmt: skip


def _positive(llc: float) -> Gate:
    return _gate(
        "positive", llc, 0.0, llc > 0,
        holds="The LLC is positive.",
        fails=f"The LLC is {llc:.4g}, not positive: w* is no minimum. Raise training.restarts or "
        "training.steps.",
    )  # fmt: skip


def _virial(diagnostics: Mapping[str, Any]) -> Gate:
    ratio, error = diagnostics["virial_ratio"], diagnostics["virial_se"]
    off = abs(ratio - 1.0) / error if error else math.inf
    return _gate(
        "virial", off, VIRIAL_SIGMAS, off <= VIRIAL_SIGMAS, fixable=True,
        holds=f"The draws are from the posterior: the virial ratio is {ratio:.4f} +- {error:.4f}, "
        f"within {VIRIAL_SIGMAS:.0f} standard errors of 1.",
        fails=f"The virial ratio is {ratio:.4f} +- {error:.4f}, {off:.1f} standard errors from 1: "
        f"the draws are not from the posterior. {_LONGER}, or {_TETHER}.",
    )  # fmt: skip


def _below_minimum(diagnostics: Mapping[str, Any]) -> Gate:
    share = diagnostics["below_minimum_fraction"]
    return _gate(
        "below_minimum", share, BELOW_MINIMUM, share <= BELOW_MINIMUM,
        holds=f"w* is the minimum within reach: {share:.2%} of the draws have a smaller loss, at "
        f"most {BELOW_MINIMUM:.1%}.",
        fails=f"{share:.2%} of the draws have a loss below that of w*, above {BELOW_MINIMUM:.1%}: "
        "a better minimum is within reach of the posterior. Raise training.restarts or "
        "training.steps, or raise posterior.gamma, so that the posterior stays nearer to w*.",
    )  # fmt: skip


def _shift_bias(llc: float, evidence: Mapping[str, Any]) -> Gate:
    """At a smooth point the gradient must be small; on a kink only the posterior can tell."""
    bias, status = evidence.get("shift_bias"), evidence.get("status")
    if bias is None or status in _NO_GRADIENT_NEEDED:
        known = _NO_GRADIENT_NEEDED.get(str(status), "Nothing is known against w*.")
        return _gate("shift_bias", None, SHIFT_BIAS, True, holds=known, fails="")
    share = abs(bias) / llc if llc > 0 else math.inf
    return _gate(
        "shift_bias", share, SHIFT_BIAS, share <= SHIFT_BIAS,
        holds=f"w* is stationary: the gradient left there shifts the LLC by {share:.2%}, at most "
        f"{SHIFT_BIAS:.1%}.",
        fails=f"The gradient left at w* shifts the LLC by {share:.2%}, above {SHIFT_BIAS:.1%}. "
        "Raise training.steps or training.polish_steps.",
    )  # fmt: skip


def _precision(float64: bool) -> Gate:
    return _gate(
        "float64", 64.0 if float64 else 32.0, 64.0, float64,
        holds="The draws were made in float64.",
        fails="The draws must be made in float64, but came in float32. Run them inside "
        "`jax.enable_x64(True)`.",
    )  # fmt: skip


def _diversity(diagnostics: Mapping[str, Any]) -> Gate:
    ancestors = diagnostics["unique_ancestors"]
    return _gate(
        "diversity", ancestors, UNIQUE_ANCESTORS, ancestors >= UNIQUE_ANCESTORS,
        holds=f"The particles of each run descend from {ancestors} or more draws of the tether, "
        f"at least {UNIQUE_ANCESTORS}.",
        fails=f"The particles of one run descend from {ancestors} draws of the tether, below "
        f"{UNIQUE_ANCESTORS}: they have seen little of it. Raise reference.num_particles.",
    )  # fmt: skip


def _acceptance(diagnostics: Mapping[str, Any]) -> Gate:
    rate = diagnostics["acceptance_rate"]
    return _gate(
        "acceptance", rate, ACCEPTANCE, rate >= ACCEPTANCE,
        holds=f"The particles' moves were accepted at a rate of {rate:.2f}, at least {ACCEPTANCE}.",
        fails=f"The particles' moves were accepted at a rate of {rate:.2f}, below {ACCEPTANCE}. "
        f"Raise reference.target_accept, or {_TETHER}.",
    )  # fmt: skip


def _moves(diagnostics: Mapping[str, Any]) -> Gate:
    leftover = diagnostics["leftover_correlation"]
    return _gate(
        "moves", leftover, LEFTOVER, leftover <= LEFTOVER,
        holds=f"Particles forget where they were: they correlate with it by {leftover:.2f} after "
        f"their moves at one temperature, at most {LEFTOVER}.",
        fails=f"After all their moves at one temperature particles correlate by {leftover:.2f} "
        f"with where they were, above {LEFTOVER}. Raise reference.num_integration_steps, or "
        f"{_TETHER}.",
    )  # fmt: skip


def _gate(
    name: str,
    value: float | None,
    threshold: float,
    passed: bool,
    *,
    holds: str,
    fails: str,
    fixable: bool = False,
) -> Gate:
    measured = None if value is None else float(value)
    return Gate(name, measured, threshold, bool(passed), fixable, holds if passed else fails)
