"""Config -> Config: infers what was left to be inferred, and checks keys against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lambda_hat.conf.distributions import LowdimManifold, Uniform
from lambda_hat.conf.schema import (
    DeepLinearConfig,
    MLPConfig,
    MLPTeacher,
    NormalCrossingConfig,
    PosteriorConfig,
    ProblemConfig,
    QuadraticConfig,
    num_mlp_params,
)

_LOSS_KEYS = {"mse": (), "gaussian_nll": ("noise_scale",), "student_t_nll": ("noise_scale", "df")}
_LOSS_DEFAULTS = {"noise_scale": 0.1, "df": 4.0}


def resolve_widths(
    network: Any,
    over: Mapping,
    where: str,
    faults: list[str],
    *,
    sizes: tuple[int, int] | None = None,
) -> Any:
    """Settles the hidden widths of a network, so that `target_params` is used up.

    Args:
        network: An MLPConfig or MLPTeacher; anything else is returned as it is.
        over: What the user set, to refuse keys that could not act.
        where: The place, for messages.
        faults: Collects faults.
        sizes: Inputs and outputs, where `network` does not have them itself.
    """
    if not isinstance(network, MLPConfig | MLPTeacher):
        return network
    if isinstance(network, MLPConfig):
        sizes = (network.in_dim, network.out_dim)
    widths = network.widths
    if widths is None:
        widths = _infer_widths(network, sizes or (1, 1), where, faults)
    elif "target_params" in over and over["target_params"] is not None:
        faults.append(f"`target_params` must be left out where `widths` are given ({where}).")
    elif "depth" in over and network.depth not in (None, len(widths)):
        faults.append(
            f"`depth` must be the number of `widths`, but got depth={network.depth} and "
            f"widths={list(widths)} ({where}). Leave `depth` out."
        )
    if isinstance(network, MLPConfig) and widths == ():
        faults.append(f"`widths` must not be empty ({where}). `model: linear` has no hidden layer.")
    network = replace(network, depth=None, widths=widths, target_params=None)
    return replace(network, activation="identity") if widths == () else network


def _infer_widths(
    network: Any, sizes: tuple[int, int], where: str, faults: list[str]
) -> tuple[int, ...]:
    depth, target = network.depth, network.target_params
    if depth == 0:
        return ()
    if depth is None or target is None:
        faults.append(f"`widths`, or `depth` and `target_params`, must be given ({where}).")
        return (1,)

    def params(width: int) -> int:
        return num_mlp_params((sizes[0], *[width] * depth, sizes[1]), bias=network.bias)

    if params(1) > 2 * target:
        faults.append(
            f"`target_params >= {params(1)}` must hold for depth {depth}, {sizes[0]} inputs and "
            f"{sizes[1]} outputs, but got target_params={target} ({where}). Raise it."
        )
        return (1,)
    width = 1
    while params(width + 1) <= target:
        width += 1
    if abs(params(width + 1) - target) < abs(params(width) - target):
        width += 1
    return (width,) * depth


def settle_posterior(
    posterior: PosteriorConfig,
    over: Mapping,
    losses: tuple[str, ...],
    model: Any,
    where: str,
    faults: list[str],
) -> PosteriorConfig:
    """Fills in the keys of the loss, and refuses the keys of other losses."""
    loss = posterior.loss or "mse"
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


def check_problem(config: ProblemConfig, where: str, faults: list[str]) -> None:
    """Checks that hold between keys of different groups."""
    model, place = config.model, f"{where}.overrides"
    if isinstance(model, DeepLinearConfig):
        _check_deep_linear(model, f"{place}.model", faults)
    for key in ("curvature", "powers"):
        if (
            isinstance(model, QuadraticConfig | NormalCrossingConfig)
            and getattr(model, key, 1) == ()
        ):
            faults.append(f"`{key}` must have one number or more, but is empty ({place}.model).")
    inputs, in_dim = config.data.input, getattr(model, "in_dim", None)
    if isinstance(inputs, Uniform) and not inputs.low < inputs.high:
        faults.append(
            f"`low < high` must hold, but got low={inputs.low}, high={inputs.high} "
            f"({place}.data.input)."
        )
    if isinstance(model, DeepLinearConfig):
        in_dim = model.widths[0] if model.widths else None
    if isinstance(inputs, LowdimManifold) and in_dim and inputs.latent_dim > in_dim:
        faults.append(
            f"`latent_dim <= {in_dim}` must hold, the model's inputs, "
            f"but got latent_dim={inputs.latent_dim} ({place}.data.input)."
        )


def _check_deep_linear(model: DeepLinearConfig, where: str, faults: list[str]) -> None:
    if len(model.widths) < 2:
        faults.append(
            f"`widths` must have inputs and outputs, but got {list(model.widths)} ({where})."
        )
    elif model.rank > min(model.widths):
        faults.append(
            f"`rank <= {min(model.widths)}` must hold, the smallest of `widths`, "
            f"but got rank={model.rank} ({where})."
        )
