"""The gates of a trial: may its estimate be believed, and if not, how uncertain is it?

A trial is asked less than a reference is, and the same kind of question: do the chains agree, are
there draws enough, and is the interval narrow enough to tell the estimate from the reference? One
that fails a gate is `noisy`. All thresholds, and what noise costs in the score, are in this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lambda_hat.references.gate import Gate

RHAT = 1.05
ESS_BULK = 100.0
KHAT = 0.7
"""Tail of importance ratios beyond which their means cannot be trusted (Vehtari et al. 2024)."""
INTERVAL = 0.1
"""Largest half width of the joint 95 % interval, relative to the reference."""
SIGMAS = 1.96
"""Half width of a 95 % interval in standard errors."""


def interval(se: float | None, se_ref: float | None, llc_ref: float) -> float:
    """Half width of the joint 95 % interval of llc_hat - llc_ref, relative to the reference.

    1.96 sqrt(se^2 + se_ref^2) / |llc_ref|: how far the interval reaches to each side. Where the
    reference is 0 it is not relative. An error that is not known, or not finite, counts as 0.
    """
    known = [one for one in (se, se_ref) if one is not None and math.isfinite(one)]
    return SIGMAS * math.hypot(*known) / (abs(llc_ref) or 1.0)


def check_trial(
    diagnostics: Mapping[str, Any],
    *,
    se: float | None,
    llc_ref: float | None,
    se_ref: float | None,
) -> tuple[Gate, ...]:
    """The gates of a trial that has an estimate.

    Args:
        diagnostics: as metrics.json has them. A key that is missing (results of an earlier version)
            is no question; one that is null is an R-hat or ESS that could not be computed, and
            fails.
        se: the estimate's standard error.
        llc_ref: the reference; None where there is none, and then no interval is asked for.
        se_ref: its standard error.
    """
    gates = []
    if "rhat" in diagnostics:
        gates.append(_rhat(_number(diagnostics["rhat"], math.inf)))
    if "ess_bulk" in diagnostics:
        gates.append(_ess(_number(diagnostics["ess_bulk"], 0.0)))
    if "khat" in diagnostics:
        gates.append(_khat(_number(diagnostics["khat"], math.inf)))
    if llc_ref is not None:
        gates.append(_interval(interval(se, se_ref, llc_ref)))
    return tuple(gates)


def noise(gates: tuple[Gate, ...]) -> float:
    """How uncertain a noisy estimate is, relative to the reference.

    The largest of: its interval's half width; 10 % times how far R - 1 is beyond what is allowed;
    10 % times k-hat over what is allowed; 10 % times the square root of how many times too few its
    effective draws are. It is 10 % where a gate is just missed, and grows with what is missing, so
    that more draws always score better.
    """
    measured = {gate.name: math.inf if gate.value is None else gate.value for gate in gates}
    rhat, ess = measured.get("rhat", 1.0), measured.get("ess_bulk", math.inf)
    return max(
        measured.get("interval", 0.0),
        INTERVAL * (rhat - 1.0) / (RHAT - 1.0),
        INTERVAL * max(0.0, measured.get("khat", 0.0)) / KHAT,
        INTERVAL * math.sqrt(ESS_BULK / ess) if ess > 0 else math.inf,
    )


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _rhat(rhat: float) -> Gate:
    passed = rhat <= RHAT
    holds = f"The chains agree: R-hat is {rhat:.4f}, at most {RHAT}."
    fails = f"R-hat is {rhat:.4g}, above {RHAT}: the chains disagree. Take more steps."
    return Gate("rhat", rhat, RHAT, passed, True, holds if passed else fails)


def _ess(ess: float) -> Gate:
    passed = ess >= ESS_BULK
    holds = f"The chains mix: bulk ESS is {ess:,.0f}, at least {ESS_BULK:.0f}."
    fails = f"Bulk ESS is {ess:.3g}, below {ESS_BULK:.0f}: too few draws. Take more steps."
    return Gate("ess_bulk", ess, ESS_BULK, passed, True, holds if passed else fails)


def _khat(khat: float) -> Gate:
    passed = khat <= KHAT
    holds = f"The weights hold: k-hat is {khat:.2f}, at most {KHAT}."
    fails = (
        f"k-hat is {khat:.2f}, above {KHAT}: a few draws carry the weight, as the mixture "
        "is too far from the posterior. Take a better fit, or `correction: ais`."
    )
    return Gate("khat", khat, KHAT, passed, False, holds if passed else fails)


def _interval(width: float) -> Gate:
    passed = width <= INTERVAL
    wide = f"to each side the joint 95 % interval is {width:.2%} of the reference"
    holds = f"It is precise: {wide}, at most {INTERVAL:.0%}."
    fails = f"It is imprecise: {wide}, above {INTERVAL:.0%}. Take more steps."
    return Gate("interval", width, INTERVAL, passed, True, holds if passed else fails)
