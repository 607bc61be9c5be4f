"""The metric of HMC: a dense or diagonal covariance, or widths along a few narrow directions.

In a large network most directions are as wide as the tether, and a few hundred are narrower by
orders of magnitude, along no axis. `Narrow` has the latter: leading eigenvectors U of the Hessian
at w*. With variances a along them, the metric is that of the covariance

    1/gamma I + U diag(a - 1/gamma) U^T,

whose products cost two with U. Momenta and energies of the other kinds are BlackJAX's.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc.metrics import Metric, gaussian_euclidean
from blackjax.util import generate_gaussian_noise
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.target import Arrays, Form, Target, hessian_vector_product, mean_loss, num_rows

ROWS = 2_000
"""Rows of data that the Hessian is of: a metric need not be exact."""
ROUNDS = 3
"""Of the subspace iteration, before eigenvectors are taken."""
AT_ONCE = 16
"""Products with the Hessian evaluated together."""


class Narrow(NamedTuple):
    """Directions in which the posterior is narrow, narrowest first."""

    basis: Float[Array, "d rank"]
    """Orthonormal."""
    variance: Float[Array, " rank"]
    """Along them, by the Laplace approximation at w*."""


def with_narrow(target: Target, rank: int, key: PRNGKeyArray) -> Target:
    """The same target, with its `rank` narrowest directions at w*.

    By subspace iteration from random ones (Halko, Martinsson & Tropp 2011), which separates large
    eigenvalues well and small ones, which matter less, not so well.
    """
    rows = num_rows(target.form, target.arrays)
    data = jax.tree.map(lambda leaf: leaf[:: max(1, rows // ROWS)], target.arrays.data)
    curvature, basis = _leading(target.form, rank, data, target.arrays.w_star, key)
    arrays = target.arrays
    variance = 1.0 / (arrays.nbeta * jnp.maximum(curvature, 0.0) + arrays.gamma)
    return replace(target, arrays=arrays._replace(narrow=Narrow(basis, variance)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _leading(
    form: Form, rank: int, data: Any, w: Float[Array, " d"], key: PRNGKeyArray
) -> tuple[Float[Array, " rank"], Float[Array, "d rank"]]:
    """Eigenvalues of the Hessian of the mean loss at `w`, the largest first, and eigenvectors."""

    def loss(w: Array) -> Array:
        return mean_loss(form, data, w)

    def times(vectors: Float[Array, "d rank"]) -> Float[Array, "d rank"]:
        product = functools.partial(hessian_vector_product, loss, w)
        return jax.lax.map(product, vectors.T, batch_size=AT_ONCE).T

    basis = jax.random.normal(key, (w.shape[0], rank), w.dtype)
    for _ in range(ROUNDS):
        basis = jnp.linalg.qr(times(basis))[0]
    projected = basis.T @ times(basis)
    values, vectors = jnp.linalg.eigh((projected + projected.T) / 2)
    return values[::-1], (basis @ vectors)[:, ::-1]


def coordinates(arrays: Arrays, positions: Float[Array, "chains d"]) -> Float[Array, "chains k"]:
    """What the metric's covariance is of: all parameters, or shifts along narrow directions."""
    if arrays.narrow is None:
        return positions
    return (positions - arrays.w_star) @ arrays.narrow.basis


def spread(arrays: Arrays, covariance: Array, normal: Float[Array, "chains d"]) -> Array:
    """Draws of the metric's covariance, from standard normal ones.

    Args:
        arrays: of the target.
        covariance: of its `coordinates`: [k, k], or its diagonal [k].
        normal: standard normal draws.
    """
    if arrays.narrow is not None:
        return _along(arrays, normal, jnp.sqrt(covariance), 1.0 / jnp.sqrt(arrays.gamma))
    if covariance.ndim == 1:
        return normal * jnp.sqrt(covariance)
    return normal @ jnp.linalg.cholesky(covariance).T


def _along(arrays: Arrays, vectors: Array, narrow: Array, others: Array) -> Array:
    """`vectors` times factors along narrow directions, and times one along all others."""
    basis = arrays.narrow.basis
    return others * vectors + ((narrow - others) * (vectors @ basis)) @ basis.T


def momentum_root(inverse_mass_matrix: Array) -> Array:
    """R with R R^T = M, from the inverse of M: [d, d] or diagonals [d].

    XLA solves triangular systems in a loop over rows, which takes longer than a whole trajectory
    of a small problem: it is done where the metric changes, and not for each momentum.
    """
    if inverse_mass_matrix.ndim == 1:
        return 1.0 / jnp.sqrt(inverse_mass_matrix)
    root = jnp.linalg.cholesky(inverse_mass_matrix)
    return solve_triangular(root, jnp.eye(len(root), dtype=root.dtype), lower=True, trans=1)


def metric_of(arrays: Arrays, inverse_mass_matrix: Array, root: Array) -> Metric:
    """BlackJAX's metric, whose momenta are drawn with a root that is known (`momentum_root`)."""
    metric = gaussian_euclidean(inverse_mass_matrix)
    if arrays.narrow is None:
        return metric._replace(
            sample_momentum=lambda key, position: generate_gaussian_noise(key, position, sigma=root)
        )
    wide = 1.0 / arrays.gamma

    def sample_momentum(key: PRNGKeyArray, position: Array) -> Array:
        normal = jax.random.normal(key, position.shape, position.dtype)
        return _along(arrays, normal, root, jnp.sqrt(arrays.gamma))

    def kinetic_energy(momentum: Array, position: Any = None) -> Array:
        along = momentum @ arrays.narrow.basis
        return 0.5 * (wide * momentum @ momentum + (inverse_mass_matrix - wide) @ along**2)

    return metric._replace(sample_momentum=sample_momentum, kinetic_energy=kinetic_energy)
