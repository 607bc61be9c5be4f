"""The metric of each rung of a ladder, from the gradients that its replicas met in a round.

It is the inverse of the second moment of grad log p_t, which is the mean curvature of -log p_t
(Titsias 2023, arXiv:2305.14442). The covariance of the positions is the same for a normal
distribution. Where narrow directions turn from place to place, it is wide in all of them, and
steps must be as small as the narrowest is in its units: with 45 parameters and gamma 1 six times
as small.

A metric is kept as its root: R with R R' = M, the covariance [d, d]; or widths [d].
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

LEAST_DRAWS = 5
DRAWS_A_POSITION = 10.0
"""Positions of adaptation that count as one draw: they depend on each other."""


class Moments(NamedTuple):
    """Of the gradients in one round of adaptation, as sums."""

    seen: Float[Array, ""]
    """Positions of each rung."""
    square: Array
    """Outer products [moving, d, d], or squares [moving, d]."""


def no_moments(root: Array) -> Moments:
    """Those of no position, for metrics like this one."""
    return Moments(jnp.zeros((), root.dtype), jnp.zeros_like(root))


def observe(moments: Moments, score: Float[Array, "moving chains d"]) -> Moments:
    """The moments with grad log p_t at one more position of every replica."""
    outer = moments.square.ndim == 3
    square = jnp.einsum("rci,rcj->rij", score, score) if outer else jnp.sum(score**2, axis=1)
    return Moments(moments.seen + score.shape[1], moments.square + square)


def covariance_of(moments: Moments, root: Array) -> Array:
    """The metric M of these moments, mixed with the old one where they are few."""
    outer = root.ndim == 3
    old = jnp.linalg.inv(root @ jnp.swapaxes(root, 1, 2)) if outer else root**-2
    share = (root.shape[-1] + LEAST_DRAWS) if outer else LEAST_DRAWS
    share = share / (share + moments.seen / DRAWS_A_POSITION)
    precision = (1.0 - share) * moments.square / moments.seen + share * old
    return jnp.linalg.inv(precision) if outer else 1.0 / precision


def root_of(covariance: Array) -> Array:
    """Cholesky factors of matrices [.., d, d] with a leading axis, or square roots of widths."""
    return jnp.linalg.cholesky(covariance) if covariance.ndim == 3 else jnp.sqrt(covariance)


def times(root: Array, z: Float[Array, " d"]) -> Float[Array, " d"]:
    """The product with one rung's root."""
    return root @ z if root.ndim == 2 else root * z


def gradient_in_w(root: Array, in_z: Float[Array, " d"]) -> Float[Array, " d"]:
    """The gradient with respect to w, of one with respect to z, w = root z."""
    return solve_triangular(root, in_z, trans="T", lower=True) if root.ndim == 2 else in_z / root
