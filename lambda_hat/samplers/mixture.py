"""A mixture of factor analysers: its density without a d x d matrix, and its draws.

z ~ sum_m pi_m N(mu_m, A_m A_m^T + diag(s_m^2)), as in Ghahramani & Hinton (1996), The EM
algorithm for mixtures of factor analyzers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


class Mixture(NamedTuple):
    """M components of rank r in d dimensions; pi = softmax(logits)."""

    logits: Float[Array, " M"]
    shift: Float[Array, "M d"]
    """mu_m."""
    loading: Float[Array, "M r d"]
    """A_m, transposed: rows of length d are contiguous."""
    log_scale: Float[Array, "M d"]
    """log s_m."""


def pack(q: Mixture) -> Float[Array, "M p"]:
    """One row a component: logit, mu, log s, A."""
    loading = q.loading.reshape(q.loading.shape[0], -1)
    return jnp.concatenate([q.logits[:, None], q.shift, q.log_scale, loading], axis=1)


def unpack(flat: Float[Array, "M p"], d: int) -> Mixture:
    """The inverse of `pack`."""
    loading = flat[:, 1 + 2 * d :].reshape(flat.shape[0], -1, d)
    return Mixture(flat[:, 0], flat[:, 1 : 1 + d], loading, flat[:, 1 + d : 1 + 2 * d])


class Density(NamedTuple):
    """What log q(z) needs of a mixture: made once, evaluated at many z."""

    log_weight: Float[Array, " M"]
    """Of each component, its normaliser included."""
    shift: Float[Array, "M d"]
    inverse_scale: Float[Array, "M d"]
    explained: Float[Array, "M r d"]
    """What the factors explain of a residual in units of s; its square is taken off."""


def density_of(q: Mixture) -> Density:
    """The mixture's density; the largest matrix factorised is r x r (Woodbury)."""
    inverse_scale = jnp.exp(-q.log_scale)
    log_volume = jnp.sum(q.log_scale, axis=-1) + 0.5 * q.shift.shape[1] * jnp.log(2.0 * jnp.pi)
    factors = q.loading * inverse_scale[:, None, :]
    if rank := q.loading.shape[1]:
        unit = jnp.eye(rank, dtype=factors.dtype)
        root = jnp.linalg.cholesky(unit + factors @ factors.mT)
        # Inverting r x r once is 100 times faster on a CPU than solving for d right-hand sides.
        inverse_root = jax.vmap(lambda root: solve_triangular(root, unit, lower=True))(root)
        factors = inverse_root @ factors
        log_volume += jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=-1)
    log_weight = jax.nn.log_softmax(q.logits) - log_volume
    return Density(log_weight, q.shift, inverse_scale, factors)


def log_density(density: Density, z: Float[Array, " d"]) -> Float[Array, ""]:
    """log q(z)."""
    residual = (z - density.shift) * density.inverse_scale
    explained = (density.explained @ residual[:, :, None])[..., 0]
    square = jnp.sum(residual**2, axis=-1) - jnp.sum(explained**2, axis=-1)
    return jax.nn.logsumexp(density.log_weight - 0.5 * square)


def draws_of(q: Mixture, noise: Float[Array, "n 1+d+r"]) -> Float[Array, "n d"]:
    """Draws of the mixture from standard normals: the first of each chooses its component."""
    below = jnp.cumsum(jax.nn.softmax(q.logits))
    which = jnp.sum(below <= jax.scipy.special.ndtr(noise[:, :1]), axis=1)
    # Rounding can leave the last sum below 1: what lies beyond is the heaviest component's.
    which = jnp.where(which < len(below), which, jnp.argmax(q.logits))
    return jax.vmap(lambda m, x: place(x, *(leaf[m] for leaf in q[1:])))(which, noise[:, 1:])


def place(
    noise: Float[Array, "*s d+r"], shift: Array, loading: Array, log_scale: Array
) -> Float[Array, "*s d"]:
    """Whitened draws mu + s eps + A eta of one component, from standard normal (eps, eta)."""
    d = shift.shape[0]
    return shift + jnp.exp(log_scale) * noise[..., :d] + noise[..., d:] @ loading
