"""Checks between keys: which ones a loss needs, and which contradict each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from lambda_hat.conf.distributions import LowdimManifold, Uniform
from lambda_hat.conf.families import ModelConfig
from lambda_hat.conf.schema import PosteriorConfig, ProblemConfig

_LOSS_KEYS = {"mse": (), "gaussian_nll": ("noise_scale",), "student_t_nll": ("noise_scale", "df")}
AUTO_GAMMA = 0.05
"""gamma / nbeta of `gamma: auto`."""
_LOSS_DEFAULTS = {"noise_scale": 0.1, "df": 4.0}


def settle_posterior(
    posterior: PosteriorConfig, over: Mapping, model: ModelConfig, where: str, faults: list[str]
) -> PosteriorConfig:
    """Fills in the keys of the loss, and refuses the keys of other losses."""
    loss, losses = posterior.loss or "mse", model.acts.losses
    if loss not in losses:
        faults.append(
            f"`loss` must be one of {', '.join(losses)} for a {model.family} model, whose exact "
            f"answer assumes a Gaussian, but got loss={loss!r} ({where})."
        )
    for key in ("noise_scale", "df"):
        if key not in _LOSS_KEYS[loss] and over.get(key) is not None:
            faults.append(f"`{key}` must be left out: it cannot act with loss {loss} ({where}).")
    acting = {key: getattr(posterior, key) or _LOSS_DEFAULTS[key] for key in _LOSS_KEYS[loss]}
    return PosteriorConfig(loss=loss, beta0=posterior.beta0, gamma=posterior.gamma, **acting)


def settle_gamma(posterior: PosteriorConfig, n: int) -> PosteriorConfig:
    """`auto` as a number: the tether is then as strong as a curvature of the loss of 0.05.

    Rounded to ten digits, so that no processor's logarithm makes another problem of it.
    """
    if posterior.gamma != "auto":
        return posterior
    gamma = AUTO_GAMMA * n * posterior.beta0 / math.log(n)
    return replace(posterior, gamma=float(f"{gamma:.10g}"))


def check_problem(config: ProblemConfig, where: str, faults: list[str]) -> None:
    """Checks that hold between keys of different groups, and within the model."""
    place = f"{where}.overrides"
    faults += config.model.conflicts(f"{place}.model")
    inputs = config.data.input
    if isinstance(inputs, Uniform) and not inputs.low < inputs.high:
        faults.append(
            f"`low < high` must hold, but got low={inputs.low}, high={inputs.high} "
            f"({place}.data.input)."
        )
    in_dim = config.model.sizes[0] if config.model.sizes else 0
    if isinstance(inputs, LowdimManifold) and in_dim and inputs.latent_dim > in_dim:
        faults.append(
            f"`latent_dim <= {in_dim}` must hold, the model's inputs, "
            f"but got latent_dim={inputs.latent_dim} ({place}.data.input)."
        )
