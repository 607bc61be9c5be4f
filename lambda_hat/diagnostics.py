"""Draws -> Diagnostics: may an estimate be believed?

R-hat and effective sample sizes are ArviZ's, rank-normalised and on split chains (Vehtari et
al. 2021). The virial identity E[(w - w*) . grad U] = d holds for the exact posterior of any
loss, singular or not, so its ratio to d tells a wrong sampler without knowing the answer.
"""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from lambda_hat.samplers.base import Draws
from lambda_hat.target import Target

with warnings.catch_warnings():  # ArviZ 0.23 announces its next version at every import.
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

_STATS = importlib.import_module("arviz_stats.base") if find_spec("arviz_stats") else None
"""Where ArviZ has Pareto smoothing from its version 1 on."""
LEFT_BASIN = 2.0
"""A chain has left the basin when its own LLC exceeds this many times d."""


def effective_draws(values: np.ndarray) -> float:
    """Effective number of draws for the mean of `values` [draws, chains]; at least 1."""
    return max(1.0, _finite(arviz.ess(_chains_first(values), method="mean"), 1.0))


def rhat(values: np.ndarray) -> float:
    """Rank-normalised split R-hat of `values` [draws, chains]; infinity where undefined."""
    return _finite(arviz.rhat(_chains_first(values), method="rank"), math.inf)


def ess(values: np.ndarray, kind: str) -> float:
    """Rank-normalised effective sample size, `kind` "bulk" or "tail"; 0 where undefined."""
    # ArviZ 1 has no default for the two quantiles of the tail.
    quantiles: dict[str, Any] = {"prob": (0.05, 0.95)} if kind == "tail" else {}
    return _finite(arviz.ess(_chains_first(values), method=kind, **quantiles), 0.0)


def weighed(draws: Draws) -> tuple[Draws, dict[str, float]]:
    """Draws of an approximation with the weights that make them draws of the posterior.

    Their importance ratios are Pareto-smoothed (Vehtari, Simpson, Gelman, Yao & Gabry 2024). The
    shape of the ratios' tail, k-hat, says whether that works: above 0.7 it does not.

    Returns:
        The draws, and `khat`; draws without ratios as they are, and nothing.
    """
    ratios = draws.log_ratio
    if not ratios.size or np.isnan(ratios).all():
        return draws, {}
    centred = ratios.ravel() - np.nanmax(ratios)
    # ArviZ 1 takes log likelihoods, whose ratios are the inverse; ArviZ 0.23 log ratios.
    smoothed: Any = _STATS.array_stats.psislw(-centred) if _STATS else arviz.psislw(centred)
    log_weights, khat = smoothed
    weights = np.exp(log_weights - np.max(log_weights)).reshape(ratios.shape)
    return replace(draws, weight=weights), {"khat": _finite(khat, math.inf)}


def diagnose(draws: Draws, *, target: Target, init_loss: float) -> dict[str, Any]:
    """Everything that speaks for or against the draws, as plain numbers (None: not applicable).

    Args:
        draws: at least 4 draws of each chain, all losses finite.
        target: what was sampled.
        init_loss: L_n(w*), in the draws' own precision.
    """
    excess = draws.loss - init_loss
    rounding = 1e-12 if draws.loss_dtype == "float64" else 1e-5
    below = excess < -rounding * (1.0 + abs(init_loss))
    virial = _virial(draws.virial, target.d)
    return {
        "rhat": rhat(draws.loss),
        "ess": effective_draws(draws.loss),
        "ess_bulk": ess(draws.loss, "bulk"),
        "ess_tail": ess(draws.loss, "tail"),
        "num_draws": int(draws.loss.size),
        "divergences": int(round(float(draws.divergence.sum()) * draws.thin)),
        "divergence_rate": float(draws.divergence.mean()),
        "acceptance_rate": _mean_or_none(draws.acceptance),
        "ebfmi": ebfmi(draws.energy),
        "virial_ratio": virial[0],
        "virial_se": virial[1],
        "below_minimum_fraction": float(below.mean()),
        "mean_distance": float(np.sqrt(draws.distance.mean())),
        "chains_left_basin": left_basin(excess, target),
    }


def ebfmi(energy: np.ndarray) -> float | None:
    """Smallest energy Bayesian fraction of missing information of the chains (Betancourt 2016)."""
    if not np.isfinite(energy).all() or len(energy) < 3:
        return None
    spread = np.square(energy - energy.mean(axis=0)).sum(axis=0)
    change = np.square(np.diff(energy, axis=0)).sum(axis=0)
    return float((change / np.maximum(spread, np.finfo(float).tiny)).min())


def left_basin(excess: np.ndarray, target: Target) -> int:
    """Chains that wander where the loss is too high to belong to the posterior around w*.

    By the virial identity a loss that is homogeneous of degree D >= 1 around w* has an LLC of at
    most d / D, so a chain whose own LLC is twice d is not drawing from there.

    Args:
        excess: L_n(w) - L_n(w*), [draws, chains].
        target: what was sampled.
    """
    return int((target.nbeta * excess.mean(axis=0) > LEFT_BASIN * target.d).sum())


def _virial(virial: np.ndarray, d: int) -> tuple[float | None, float | None]:
    if not np.isfinite(virial).all():
        return None, None
    error = float(virial.std() / math.sqrt(effective_draws(virial)))
    return float(virial.mean()) / d, error / d


def _mean_or_none(values: np.ndarray) -> float | None:
    return float(values.mean()) if np.isfinite(values).all() else None


def _chains_first(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.T)


def _finite(value: Any, otherwise: float) -> float:
    number = float(value)
    return number if math.isfinite(number) else otherwise
