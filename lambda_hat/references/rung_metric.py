"""The metric of each rung of a ladder, from the positions of its replicas in a round of adaptation.

A metric is kept as its root: the Cholesky factor of a covariance [d, d], or widths [d].
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

LEAST_DRAWS = 5
DRAWS_A_POSITION = 10.0
"""Positions of adaptation that count as one draw: they depend on each other."""


class Moments(NamedTuple):
    """Of the positions in one round of adaptation, as sums of shifts from w*."""

    seen: Float[Array, ""]
    """Positions of each rung."""
    shift: Float[Array, "moving d"]
    square: Array
    """Outer products [moving, d, d], or squares [moving, d]."""


def no_moments(root: Array) -> Moments:
    """Those of no position, for metrics like this one."""
    shift = jnp.zeros((root.shape[0], root.shape[-1]), root.dtype)
    return Moments(jnp.zeros((), root.dtype), shift, jnp.zeros_like(root))


def observe(moments: Moments, shift: Float[Array, "moving chains d"]) -> Moments:
    """The moments with one more position of every replica."""
    outer = moments.square.ndim == 3
    square = jnp.einsum("rci,rcj->rij", shift, shift) if outer else jnp.sum(shift**2, axis=1)
    return Moments(
        moments.seen + shift.shape[1],
        moments.shift + jnp.sum(shift, axis=1),
        moments.square + square,
    )


def covariance_of(moments: Moments, root: Array) -> Array:
    """Of the positions, mixed with the old metric where they are few."""
    mean = moments.shift / moments.seen
    d, outer = mean.shape[-1], root.ndim == 3
    centre = mean[:, :, None] * mean[:, None, :] if outer else mean**2
    old = root @ jnp.swapaxes(root, 1, 2) if outer else root**2
    share = (d + LEAST_DRAWS) if outer else LEAST_DRAWS
    share = share / (share + moments.seen / DRAWS_A_POSITION)
    return (1.0 - share) * (moments.square / moments.seen - centre) + share * old


def root_of(covariance: Array) -> Array:
    """Cholesky factors of matrices [.., d, d] with a leading axis, or square roots of widths."""
    return jnp.linalg.cholesky(covariance) if covariance.ndim == 3 else jnp.sqrt(covariance)


def times(root: Array, z: Float[Array, " d"]) -> Float[Array, " d"]:
    """The product with one rung's root."""
    return root @ z if root.ndim == 2 else root * z
