"""Second moments of the data: all that a squared loss of a linear network needs.

A network without activation is an affine map of its inputs, and the mean of its squared residuals
over n rows depends on the rows through second moments alone: exact, and no dearer for n = 1e6
than for n = 100.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Moments(NamedTuple):
    """Second moments of rows (x, y), around the affine map that fits them best."""

    root: Float[Any, "k columns"]
    """A root of the inputs' moments: root' root = mean of (x, 1)(x, 1)'."""
    fit: Float[Any, "out columns"]
    """The least-squares map of (x, 1) to y."""
    floor: Float[Any, " out"]
    """Mean squared residual of that map, for each output."""

    def mean_loss(self, form: Any, w: Float[Array, " d"]) -> Float[Array, ""]:
        """L_n(w), the mean of `form.losses` over the rows."""
        inputs = self.fit.shape[1] - 1
        probes = jnp.concatenate([jnp.zeros((1, inputs)), jnp.eye(inputs)]).astype(w.dtype)
        outputs = form.predict(w, probes)
        weights = jnp.concatenate([outputs[1:] - outputs[0], outputs[:1]]).T
        squares = self.floor + jnp.sum(((weights - self.fit) @ self.root.T) ** 2, axis=1)
        if form.loss == "mse":
            return jnp.mean(squares)
        scale = form.noise_scale
        return jnp.sum(0.5 * squares / scale**2 + math.log(scale * math.sqrt(2 * math.pi)))


class ProductLoss(NamedTuple):
    """A loss that is scale tr (P - fit) gram (P - fit)' up to a constant, P = W_L .. W_1."""

    widths: tuple[int, ...]
    """Inputs, hidden units, outputs."""
    scale: float
    fit: Float[np.ndarray, "out in"]
    gram: Float[np.ndarray, "in in"]


def moments(data: dict[str, np.ndarray]) -> Moments:
    """The moments of rows {x, y}."""
    x, y = data["x"], data["y"]
    design = np.column_stack([x, np.ones(len(x))])
    fit = np.linalg.lstsq(design, y, rcond=None)[0].T
    floor = np.mean((y - design @ fit.T) ** 2, axis=0)
    return Moments(np.linalg.qr(design / math.sqrt(len(x)), mode="r"), fit, floor)
