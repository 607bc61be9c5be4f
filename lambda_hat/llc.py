"""Draws -> Estimate: the local learning coefficient, its standard error and what it cost.

    llc_hat = nbeta * (E_p[L_n(w)] - L_n(w*)),

with the weighted mean over draws in place of E_p. Its standard error is the draws' standard
deviation over the square root of their effective number (ArviZ, chains split); of eight chains or
more it is no less than what the spread of their own means says, which also knows of what is slower
than autocorrelations show. Where draws weigh differently, both are of the weighted deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lambda_hat.diagnostics import effective_draws
from lambda_hat.samplers.base import Draws


@dataclass(frozen=True)
class Estimate:
    """An LLC estimate.

    Attributes:
        llc_hat: the estimate, dimensionless.
        se_hat: its Monte Carlo standard error; it knows nothing of a sampler's own bias.
        ess: effective number of draws behind the mean.
        burn_in: draws of each chain left out at the start, by the trace itself.
        work: full-data gradient equivalents of the whole run.
    """

    llc_hat: float
    se_hat: float
    ess: float
    burn_in: int
    work: float


class NoEstimate(ValueError):
    """The draws hold no estimate; the text says why."""


MIN_DRAWS = 20
"""Draws of each chain below which neither an error nor R-hat means anything."""
FEWEST_CHAINS = 8
"""Whose spread counts: that of four is off by half, and errors would be a sixth too large."""


def estimate_llc(draws: Draws, *, nbeta: float, init_loss: float, trim: bool) -> Estimate:
    """The LLC and its standard error from the recorded losses.

    Args:
        draws: losses [draws, chains] with their weights.
        nbeta: n * beta.
        init_loss: L_n(w*), in the precision in which the draws' losses were computed.
        trim: whether to leave out a transient at the start, found by `burn_in`.

    Raises:
        NoEstimate: for too few draws, a loss that is not finite, or a chain that never moved.
    """
    loss = draws.loss
    if not np.isfinite(loss).all():
        raise NoEstimate(
            "The losses must stay finite, but the chains diverged. Take a smaller step."
        )
    if loss.shape[0] < MIN_DRAWS:
        raise NoEstimate(
            f"`draws >= {MIN_DRAWS}` must hold after warm-up, but got {loss.shape[0]}. "
            "Raise the budget or the steps."
        )
    if not draws.weight.any():
        raise NoEstimate("Some draw must count, but the budget ended before any did. Raise it.")
    start = burn_in(loss) if trim else 0
    loss, weight = loss[start:], draws.weight[start:]
    if np.ptp(loss, axis=0).min() == 0:
        raise NoEstimate(_why_none_moved(draws))
    weight = weight / weight.sum()
    # Differences first: a loss much larger than its changes would drown them in rounding.
    excess = loss - init_loss
    mean = float((weight * excess).sum())
    # Each draw with its own weight: the heaviest need not lie where the others do.
    deviations = weight * (excess - mean)
    variance = weight.size * float((deviations**2).sum())
    kish = 1.0 / float((weight**2).sum() * weight.size)
    squared_error = max(variance / effective_draws(excess), _between(deviations.sum(axis=0)))
    return Estimate(
        llc_hat=nbeta * mean,
        se_hat=nbeta * math.sqrt(squared_error),
        ess=kish * variance / squared_error,
        burn_in=start,
        work=draws.work_total,
    )


def _between(parts: np.ndarray) -> float:
    """Squared error of a sum of independent `parts` whose means are 0, [chains]; 0 for few."""
    chains = len(parts)
    return 0.0 if chains < FEWEST_CHAINS else float((parts**2).sum()) * chains / (chains - 1)


def _why_none_moved(draws: Draws) -> str:
    """What a chain without any movement came of, and what to do."""
    lowest = draws.acceptance.mean(axis=0).min()
    if not lowest < 0.5:  # Also where the method has none.
        return "Every chain must move, but one never did. Take a smaller step."
    return (
        f"Every chain must move, but one never did: its acceptance rate is {lowest:.2g}, the step "
        "that warm-up ended with being too large. Give warm-up more time: a larger budget, or "
        "shorter trajectories."
    )


def burn_in(loss: np.ndarray) -> int:
    """Draws to leave out at the start: the cut that minimises the marginal standard error.

    MSER (White 1997) on the mean trace of the chains, at most half of it, in 50 steps: the
    variance of what is kept over its length falls while a transient is being cut away, and
    rises once the cut only loses draws.

    Args:
        loss: [draws, chains].
    """
    trace = loss.mean(axis=1)
    cuts = np.unique(np.linspace(0, len(trace) // 2, 50).astype(int))
    errors = [trace[cut:].var() / (len(trace) - cut) for cut in cuts]
    return int(cuts[int(np.argmin(errors))])
