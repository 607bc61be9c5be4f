"""The exact moves of Gibbs sampling on a deep linear network: one chain.

A squared loss of the product W_L .. W_1 is quadratic in each layer, so that a layer given the
others is Gaussian and is drawn exactly, whatever its scale. Layers pin each other down, though:
along W_{s+1} G^-1, G W_s the loss does not change, and drawing layers in turn would creep. There
the tether alone decides. It is quadratic in the shears G = I + sum_i t_i e_i e_j', which are
drawn exactly too (a Gibbs step along the orbits of a group, Liu & Sabatti 2000; shears have
determinant 1), and scalings of one coordinate take an accept step. What is kept of a sweep is the
loss expected of each layer given the others, which varies less than the loss itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lambda_hat.problems import Problem

Matrix = Float[np.ndarray, "out in"]

SCALING = 0.3
"""Standard deviation of the logarithm of a proposed scaling."""


class Model(NamedTuple):
    """U = nbeta scale tr (P - fit) gram (P - fit)' + gamma/2 |w - w*|^2, P the layers' product."""

    scale: float
    fit: Matrix
    gram: Matrix
    centre: tuple[Matrix, ...]
    """The layers of w*, the first one first."""
    nbeta: float
    gamma: float

    def excess(self, layers: Sequence[Matrix]) -> float:
        """The loss above that of `fit`."""
        gap = _product(layers, len(self.gram)) - self.fit
        return float(self.scale * np.sum((gap @ self.gram) * gap))


class Swept(NamedTuple):
    """What is kept of one sweep."""

    excess: float
    """Loss above that of `fit`, expected of each layer given the others; mean over layers."""
    virial: float
    """(w - w*) . grad U, layer by layer."""
    distance: float
    """|w - w*|^2."""


def read_model(problem: Problem) -> Model:
    """The problem as a quadratic function of the product of its layers."""
    loss, config = problem.form.product_loss(problem.data), problem.config
    if loss is None:
        raise TypeError(f"Gibbs sampling is for deep linear networks, but got {problem.form}.")
    widths = loss.widths
    sizes = [a * b for a, b in zip(widths[:-1], widths[1:], strict=True)]
    parts = np.split(problem.w_star, np.cumsum(sizes)[:-1])
    shapes = zip(parts, widths[1:], widths[:-1], strict=True)
    centre = tuple(part.reshape(out, inputs) for part, out, inputs in shapes)
    return Model(loss.scale, loss.fit, loss.gram, centre, config.nbeta, config.posterior.gamma)


class Chain:
    """One chain; it starts at w*, from which the first sweep frees it."""

    def __init__(self, model: Model, rng: np.random.Generator):
        self._model, self.rng = model, rng
        self.layers = [layer.copy() for layer in model.centre]

    def sweep(self) -> Swept:
        """Draws every layer, then moves along the group between each two."""
        drawn = [self._draw_layer(s) for s in range(len(self.layers))]
        for s in range(len(self.layers) - 1):
            for j in range(len(self.layers[s])):
                self._shear(s, j)
                self._scale(s, j)
        pairs = zip(self.layers, self._model.centre, strict=True)
        distance = sum(float(np.sum((w - centre) ** 2)) for w, centre in pairs)
        excess, virial = np.array(drawn).T
        return Swept(float(excess.mean()), float(virial.sum()), distance)

    def _draw_layer(self, s: int) -> tuple[float, float]:
        """Draws layer s given the others; its expected excess loss and its part of the virial.

        In the eigenvectors of what comes after and before it, its elements are independent.
        """
        model, layers = self._model, self.layers
        before = _product(layers[:s], len(model.gram))
        after = _product(layers[s + 1 :], layers[s].shape[0])
        a, left = np.linalg.eigh(after.T @ after)
        b, right = np.linalg.eigh(before @ model.gram @ before.T)
        curvature = np.maximum(a, 0)[:, None] * np.maximum(b, 0)
        pull = left.T @ (after.T @ model.fit @ model.gram @ before.T) @ right
        centre = left.T @ model.centre[s] @ right
        tempered = 2 * model.nbeta * model.scale
        precision = tempered * curvature + model.gamma
        mean = (tempered * pull + model.gamma * centre) / precision
        draw = mean + self.rng.standard_normal(mean.shape) / np.sqrt(precision)
        layers[s] = left @ draw @ right.T
        constant = np.sum((model.fit @ model.gram) * model.fit)
        excess = np.sum(curvature * (mean**2 + 1 / precision)) - 2 * np.sum(mean * pull) + constant
        virial = np.sum((draw - centre) * precision * (draw - mean))
        return float(model.scale * excess), float(virial)

    def _shear(self, s: int, j: int) -> None:
        """Draws t in W_s[i] += t_i W_s[j], W_{s+1}[:, j] -= sum_i t_i W_{s+1}[:, i]."""
        low, high = self.layers[s], self.layers[s + 1]
        others = np.arange(len(low)) != j
        row, columns = low[j], high[:, others]
        precision = row @ row * np.eye(columns.shape[1]) + columns.T @ columns
        slope = (low[others] - self._model.centre[s][others]) @ row
        slope -= columns.T @ (high[:, j] - self._model.centre[s + 1][:, j])
        root = np.linalg.cholesky(precision)
        noise = self.rng.standard_normal(len(slope)) / math.sqrt(self._model.gamma)
        t = np.linalg.solve(root.T, noise - np.linalg.solve(root, slope))
        low[others] += t[:, None] * row
        high[:, j] -= columns @ t

    def _scale(self, s: int, i: int) -> None:
        """Tries W_s[i] *= exp(t), W_{s+1}[:, i] /= exp(t)."""
        low, high = self.layers[s], self.layers[s + 1]
        low_centre, high_centre = self._model.centre[s][i], self._model.centre[s + 1][:, i]
        factor = math.exp(SCALING * self.rng.standard_normal())
        row, column = factor * low[i], high[:, i] / factor
        rise = _square(row - low_centre) - _square(low[i] - low_centre)
        rise += _square(column - high_centre) - _square(high[:, i] - high_centre)
        volume = (low.shape[1] - high.shape[0]) * math.log(factor)
        if math.log(self.rng.random()) < volume - self._model.gamma / 2 * rise:
            low[i], high[:, i] = row, column


def _product(layers: Sequence[Matrix], size: int) -> Matrix:
    """The layers' product, the last one leftmost; without layers the identity of that size."""
    product = np.eye(size)
    for layer in layers:
        product = layer @ product
    return product


def _square(vector: np.ndarray) -> float:
    return float(vector @ vector)
