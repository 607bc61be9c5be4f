"""Forms: the program that computes a loss, what it must provide, and the form of a network.

A form is static (hashable, no arrays); parameters are one flat vector `w`, data an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.conf.families import NetworkConfig
from lambda_hat.conf.networks import Activation
from lambda_hat.conf.schema import PosteriorConfig
from lambda_hat.problems.moments import Moments, ProductLoss, moments
from lambda_hat.target import Form, Statistics

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "identity": lambda x: x,
}


class ProblemForm(Form, Protocol):
    """A loss whose minimum can be looked for; a class of its own derives from this one."""

    @property
    def has_kinks(self) -> bool:
        """Whether the loss is only piecewise smooth, so that a minimum may sit on a kink."""
        return False

    def statistics(self, data: Any) -> Statistics | None:
        """All that the mean loss needs of the rows of `data`, where that is less than the rows."""
        return None

    def product_loss(self, data: Any) -> ProductLoss | None:
        """The loss as a function of the product of the layers, where it is quadratic in that."""
        return None


class PopulationForm(ProblemForm):
    """A loss without rows."""

    @property
    def has_rows(self) -> bool:
        """No batch is smaller than the whole."""
        return False


@dataclass(frozen=True)
class NetworkForm(ProblemForm):
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
        """Where a hidden unit can be off."""
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

    @property
    def _is_squared_and_linear(self) -> bool:
        linear = self.activation == "identity" or len(self.sizes) == 2
        return linear and self.loss in ("mse", "gaussian_nll")

    def statistics(self, data: dict[str, np.ndarray]) -> Moments | None:
        """A network without activation is an affine map; its squared residuals have moments."""
        return moments(data) if self._is_squared_and_linear else None

    def product_loss(self, data: dict[str, np.ndarray]) -> ProductLoss | None:
        """Without biases, that map is the product of the layers."""
        if self.bias or not self._is_squared_and_linear:
            return None
        scale = 1.0 / self.sizes[-1] if self.loss == "mse" else 0.5 / self.noise_scale**2
        x, y = data["x"], data["y"]
        fit = np.linalg.lstsq(x, y, rcond=None)[0].T
        return ProductLoss(self.sizes, scale, fit, x.T @ x / len(x))


def network_form(model: NetworkConfig, posterior: PosteriorConfig) -> NetworkForm:
    """The form of a network under the loss of `posterior`."""
    loss, scale, df = posterior.loss or "mse", posterior.noise_scale or 1.0, posterior.df or 1.0
    return NetworkForm(model.sizes, model.bias, model.activation, loss, scale, df)
