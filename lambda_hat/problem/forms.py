"""Problem -> loss: the program that computes L_n for each family of models.

A form is static (hashable, no arrays); parameters are one flat vector `w`, data an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lambda_hat.conf.schema import Activation, ProblemConfig

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class NetworkForm:
    """A fully connected network with a regression loss; no hidden layer is linear regression.

    The parameters are, layer after layer, the weights [out, in] row by row, then the biases.
    """

    sizes: tuple[int, ...]
    """Inputs, widths of the hidden layers, outputs."""
    bias: bool
    activation: Activation
    loss: str
    """mse (mean over outputs), gaussian_nll or student_t_nll (sum over outputs)."""
    noise_scale: float = 1.0
    df: float = 1.0

    @property
    def has_rows(self) -> bool:
        """Data are rows {x [n, in], y [n, out]}."""
        return True

    @property
    def has_kinks(self) -> bool:
        """Whether the loss is only piecewise smooth, so that a minimum may sit on a kink."""
        return self.activation == "relu" and len(self.sizes) > 2

    def predict(
        self, w: Float[Array, " d"], x: Float[Array, "rows in"]
    ) -> Float[Array, "rows out"]:
        """The network's outputs."""
        # Rows of data lie along the last axis within, where a processor has them side by side:
        # with four units a layer this is up to four times as fast.
        activation, start, hidden = _ACTIVATIONS[self.activation], 0, x.T
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        for layer, (fan_in, fan_out) in enumerate(pairs):
            stop = start + fan_in * fan_out
            hidden = w[start:stop].reshape(fan_out, fan_in) @ hidden
            if self.bias:
                hidden = hidden + w[stop : stop + fan_out, None]
            hidden = activation(hidden) if layer < len(pairs) - 1 else hidden
            start = stop + fan_out * self.bias
        return hidden.T

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " rows"]:
        """Loss of each row."""
        residual = self.predict(w, data["x"]) - data["y"]
        if self.loss == "mse":
            return jnp.mean(residual**2, axis=1)
        z, scale, df = residual / self.noise_scale, self.noise_scale, self.df
        if self.loss == "gaussian_nll":
            return jnp.sum(0.5 * z**2 + math.log(scale * math.sqrt(2 * math.pi)), axis=1)
        norm = math.lgamma(df / 2) - math.lgamma((df + 1) / 2) + 0.5 * math.log(df * math.pi)
        return jnp.sum(0.5 * (df + 1) * jnp.log1p(z**2 / df) + norm + math.log(scale), axis=1)


@dataclass(frozen=True)
class QuadraticForm:
    """L = 1/2 sum_i h_i w_i^2; data {curvature [1, d]}."""

    has_rows = False
    has_kinks = False

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " 1"]:
        """The one population loss."""
        return 0.5 * data["curvature"] @ w**2


@dataclass(frozen=True)
class NormalCrossingForm:
    """L = prod_i w_i^(2 k_i); no data."""

    powers: tuple[int, ...]

    has_rows = False
    has_kinks = False

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " 1"]:
        """The one population loss."""
        factors = [w[i] ** (2 * power) for i, power in enumerate(self.powers)]
        return jnp.prod(jnp.stack(factors), keepdims=True)


@dataclass(frozen=True)
class DeepLinearForm:
    """L = 1/2 |W_L .. W_1 - W*|^2; data {product [1, H_{L+1}, H_1]}, layers as in NetworkForm."""

    widths: tuple[int, ...]

    has_rows = False
    has_kinks = False

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " 1"]:
        """The one population loss."""
        network = NetworkForm(self.widths, False, "identity", "mse")
        product = network.predict(w, jnp.eye(self.widths[0], dtype=w.dtype)).T
        return 0.5 * jnp.sum((product - data["product"]) ** 2, axis=(1, 2))


ProblemForm = NetworkForm | QuadraticForm | NormalCrossingForm | DeepLinearForm


def make_form(config: ProblemConfig) -> ProblemForm:
    """The form of a problem's family."""
    model = config.model
    if model.family == "quadratic":
        return QuadraticForm()
    if model.family == "normal_crossing":
        return NormalCrossingForm(model.powers)
    if model.family == "deep_linear" and model.population:
        return DeepLinearForm(model.widths)
    loss = {
        "loss": config.posterior.loss or "mse",
        "noise_scale": config.posterior.noise_scale or 1.0,
        "df": config.posterior.df or 1.0,
    }
    if model.family == "deep_linear":
        return NetworkForm(model.widths, False, "identity", **loss)
    if model.family == "linear":
        return NetworkForm((model.in_dim, 1), model.bias, "identity", **loss)
    sizes = (model.in_dim, *(model.widths or ()), model.out_dim)
    return NetworkForm(sizes, model.bias, model.activation, **loss)
