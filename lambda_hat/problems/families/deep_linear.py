"""The family `deep_linear`: a network of linear layers W_L .. W_1 that learns a product W*."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.data import inputs_of, noisy, stream
from lambda_hat.problems.exact import (
    aoyagi,
    product_llc,
    quadratic_llc,
    regression_curvature,
    two_layer_llc,
)
from lambda_hat.problems.forms import NetworkForm, PopulationForm, network_form
from lambda_hat.problems.moments import ProductLoss
from lambda_hat.problems.problem import EXACT, Problem, make_problem


@dataclass(frozen=True)
class DeepLinearForm(PopulationForm):
    """L = 1/2 |W_L .. W_1 - W*|^2; data {product [1, H_{L+1}, H_1]}, layers as in NetworkForm."""

    widths: tuple[int, ...]

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " 1"]:
        """The one population loss."""
        network = NetworkForm(self.widths, False, "identity", "mse")
        product = network.predict(w, jnp.eye(self.widths[0], dtype=w.dtype)).T
        return 0.5 * jnp.sum((product - data["product"]) ** 2, axis=(1, 2))

    def product_loss(self, data: Any) -> ProductLoss:
        """As the loss has it."""
        return ProductLoss(self.widths, 0.5, data["product"][0], np.eye(self.widths[0]))


def make_form(config: ProblemConfig) -> DeepLinearForm | NetworkForm:
    """The population's loss, or a network's over rows."""
    model = config.model
    if model.population:
        return DeepLinearForm(model.widths)
    return network_form(model, config.posterior)


def build(config: ProblemConfig) -> Problem:
    """The minimum is the true product's deepest point, or the nearest one under label noise."""
    model = config.model
    layers = _block_diagonal(stream(config.seed, "teacher"), model)
    product = reduce(lambda product, layer: layer @ product, layers)
    if model.population:
        return make_problem(config, {"product": product[None]}, _flat(layers), EXACT)
    x = inputs_of(config, model.widths[0])
    y = noisy(config, x, x @ product.T)
    if config.data.noise is not None and config.data.noise.kind != "none":
        layers = _balanced(_reduced_rank(x, y, min(model.widths)), model.widths)
    return make_problem(config, {"x": x, "y": y}, _flat(layers), EXACT)


def llc_exact(problem: Problem) -> float | None:
    """Known of one layer, and of a population of rank 0 with two layers or one hidden unit each."""
    config, model = problem.config, problem.config.model
    nbeta, gamma, widths = config.nbeta, config.posterior.gamma, model.widths
    if len(widths) == 2 and model.population:
        return quadratic_llc(np.ones(widths[0] * widths[1]), nbeta, gamma)
    if len(widths) == 2:
        h = regression_curvature(problem.data["x"], widths[1], config.posterior)
        return quadratic_llc(h, nbeta, gamma)
    if not model.population or model.rank > 0:
        return None
    if set(widths[1:-1]) == {1}:  # |W_L .. W_1| is a product of the layers' norms.
        dims = (widths[0], *(1,) * (len(widths) - 3), widths[-1])
        return product_llc(nbeta, gamma, dims=dims, powers=(1,) * len(dims), scale=0.5)
    return two_layer_llc(widths, nbeta, gamma) if len(widths) == 3 else None


def rlct(config: ProblemConfig) -> tuple[float, int]:
    """Aoyagi's theorem."""
    return aoyagi(config.model.widths, config.model.rank)


def _block_diagonal(rng: np.random.Generator, model: Any) -> list[np.ndarray]:
    """Layers diag(A_s, 0) with A_s a random rotation: the deepest point of the true fibre."""
    layers = []
    for fan_in, fan_out in zip(model.widths[:-1], model.widths[1:], strict=True):
        layer = np.zeros((fan_out, fan_in))
        layer[: model.rank, : model.rank] = np.linalg.qr(
            rng.standard_normal((model.rank, model.rank))
        )[0]
        layers.append(layer)
    return layers


def _reduced_rank(x: np.ndarray, y: np.ndarray, rank: int) -> np.ndarray:
    """The product [out, in] of at most `rank` with the least squared error (Izenman 1975)."""
    least_squares = np.linalg.lstsq(x, y, rcond=None)[0].T
    fitted = np.linalg.svd(x @ least_squares.T, full_matrices=False)[2][:rank]
    return fitted.T @ fitted @ least_squares


def _balanced(product: np.ndarray, widths: tuple[int, ...]) -> list[np.ndarray]:
    """Layers of this product with equal singular values, |w|^2 least among all that have it.

    Label noise leaves no block-diagonal minimum. This is the point of the empirical fibre
    nearest to the block-diagonal one up to rotations of the hidden layers, which change neither
    the loss nor the tether.
    """
    left, values, right = np.linalg.svd(product, full_matrices=False)
    rank, depth = min(*widths, len(values)), len(widths) - 1
    root = values[:rank] ** (1 / depth)
    layers = []
    for index, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        ins = right[:rank] if index == 0 else np.eye(rank, fan_in)
        outs = left[:, :rank] if index == depth - 1 else np.eye(fan_out, rank)
        layers.append(outs @ (root[:, None] * ins))
    return layers


def _flat(layers: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([layer.ravel() for layer in layers])
