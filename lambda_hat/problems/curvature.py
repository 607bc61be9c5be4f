"""Curvature of the loss: the whole Hessian where it fits, Hessian-vector products elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.target import Form, Target, hessian_vector_product, loss, mean_loss

EXACT_MAX_DIM = 600
"""Up to this dimension the Hessian is a matrix."""
_LANCZOS_STEPS, _LANCZOS_PROBES, _CG_STEPS = 30, 4, 200

Vector = Float[np.ndarray, " d"]


@dataclass(frozen=True)
class Curvature:
    """The curvature of the loss at a point.

    Attributes:
        values: Eigenvalues of the Hessian, ascending; for large problems, Ritz values.
        vectors: Eigenvectors in columns; None for large problems.
        laplace_llc: sum_i 1/2 nbeta h_i / (nbeta h_i + gamma) over the positive eigenvalues.
        nbeta: Tempered number of data.
        ridge: gamma / nbeta.
        d: Number of parameters.
    """

    values: Vector
    vectors: Float[np.ndarray, "d d"] | None
    laplace_llc: float
    nbeta: float
    ridge: float
    d: int

    def posterior_moves(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Moves [num, d] as wide as the Laplace posterior N(0, (nbeta H + gamma)^-1).

        For large problems as wide in every direction as it is in the steepest.
        """
        draws = rng.standard_normal((num, self.d))
        if self.vectors is None:
            return draws / np.sqrt(self.nbeta * self._damped.max())
        return (draws / np.sqrt(self.nbeta * self._damped)) @ self.vectors.T

    def newton_step(self, grad: Vector) -> Vector:
        """(H + ridge)^-1 g without negative curvature; for large problems g as steep allows."""
        if self.vectors is None:
            return grad / self._damped.max()
        return self.vectors @ ((self.vectors.T @ grad) / self._damped)

    def downhill(self) -> np.ndarray:
        """Moves [k, d] both ways along the most negative curvature, as wide as the tether.

        None (k = 0) where the curvature is not negative, or the problem is large.
        """
        if self.vectors is None or self.values[0] >= 0:
            return np.zeros((0, self.d))
        move = self.vectors[:, 0] / np.sqrt(self.nbeta * self.ridge)
        return np.stack([move, -move])

    def whiten(self, grads: np.ndarray) -> np.ndarray:
        """Gradients [k, d] in coordinates whose squared norm is g^T (H + ridge)^-1 g.

        For large problems, the gradients as they are.
        """
        return grads if self.vectors is None else (grads @ self.vectors) / np.sqrt(self._damped)

    @property
    def _damped(self) -> Vector:
        return np.maximum(self.values, 0) + self.ridge


def measure_curvature(
    form: Form,
    arrays: dict,
    w: Array,
    *,
    nbeta: float,
    gamma: float,
    rng: np.random.Generator,
) -> Curvature:
    """The curvature at `w`: exact up to `EXACT_MAX_DIM` parameters, stochastic Lanczos above."""
    ridge, d = gamma / nbeta, w.shape[0]

    def llc(h: np.ndarray) -> np.ndarray:
        return 0.5 * np.maximum(h, 0) / (np.maximum(h, 0) + ridge)

    if d <= EXACT_MAX_DIM:
        values, vectors = np.linalg.eigh(np.asarray(_hessian(form, arrays, w)))
        return Curvature(values, vectors, float(llc(values).sum()), nbeta, ridge, d)
    probes = rng.choice([-1.0, 1.0], (_LANCZOS_PROBES, d)) / np.sqrt(d)
    ritz, weights = _lanczos(form, arrays, w, probes)
    laplace = d * float(np.sum(weights * llc(ritz))) / _LANCZOS_PROBES
    return Curvature(np.sort(ritz.ravel()), None, laplace, nbeta, ridge, d)


def largest_curvature(target: Target) -> float:
    """Largest eigenvalue of the Hessian of L_n at w*, by Lanczos from a random vector.

    Args:
        target: in float64; where L_n has statistics, its rows are not passed over.
    """
    probe = np.random.default_rng(0).standard_normal(target.d)
    unit = jnp.asarray(probe / np.linalg.norm(probe))
    given = (target.form, target.arrays, target.arrays.w_star)
    return float(_ritz(_tridiagonal(loss, *given, unit))[0].max())


def shift_bias(form: Form, arrays: dict, w: Array, curvature: Curvature, grad: Vector) -> float:
    """nbeta * 1/2 g^T (H + gamma/nbeta)^-1 g; an upper bound for large problems.

    The bound is exact conjugate gradients plus what their residual leaves open, and holds where H
    has no negative curvature.
    """
    if curvature.vectors is not None:
        return float(0.5 * curvature.nbeta * grad @ curvature.newton_step(grad))
    value = _solved(form, arrays, w, jnp.asarray(grad), jnp.asarray(curvature.ridge))
    return float(0.5 * curvature.nbeta * value)


@functools.partial(jax.jit, static_argnums=0)
def gradient(form: Form, arrays: dict, w: Array) -> Array:
    """The gradient of L_n at `w`."""
    return jax.grad(lambda w: mean_loss(form, arrays, w))(w)


def _times_hessian(form: Form, arrays: dict, w: Array, vector: Array) -> Array:
    return hessian_vector_product(lambda w: mean_loss(form, arrays, w), w, vector)


@functools.partial(jax.jit, static_argnums=0)
def _hessian(form: Form, arrays: dict, w: Array) -> Array:
    rows = jax.lax.map(lambda e: _times_hessian(form, arrays, w, e), jnp.eye(w.shape[0]))
    return (rows + rows.T) / 2


@functools.partial(jax.jit, static_argnums=0)
def _solved(form: Form, arrays: dict, w: Array, grad: Array, ridge: Array) -> Array:
    """An upper bound of g^T (H + ridge)^-1 g."""

    def damped(vector: Array) -> Array:
        return _times_hessian(form, arrays, w, vector) + ridge * vector

    x = jax.scipy.sparse.linalg.cg(damped, grad, tol=1e-3, maxiter=_CG_STEPS)[0]
    left = grad - damped(x)
    return x @ grad + x @ left + left @ left / ridge


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tridiagonal(
    loss_of: Callable[[Form, Any, Array], Array], form: Form, arrays: Any, w: Array, probe: Array
) -> tuple[Array, Array]:
    """Lanczos coefficients of the Hessian from a unit vector, fully reorthogonalised.

    `loss_of` is `mean_loss` with arrays of data, or `loss` with those of a target.
    """

    def step(k: Array, carry: Any) -> Any:
        basis, alphas, betas = carry
        vector = hessian_vector_product(lambda w: loss_of(form, arrays, w), w, basis[k])
        alphas = alphas.at[k].set(vector @ basis[k])
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        norm = jnp.linalg.norm(vector)
        vector = jnp.where(norm > 1e-12, vector / jnp.maximum(norm, 1e-300), 0 * vector)
        return basis.at[k + 1].set(vector), alphas, betas.at[k].set(norm)

    basis = jnp.zeros((_LANCZOS_STEPS + 1, probe.shape[0])).at[0].set(probe)
    zeros = jnp.zeros(_LANCZOS_STEPS)
    return jax.lax.fori_loop(0, _LANCZOS_STEPS, step, (basis, zeros, zeros))[1:]


def _ritz(coefficients: tuple[Array, Array]) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the tridiagonal matrix."""
    alphas, betas = map(np.asarray, coefficients)
    off = np.where(betas[:-1] > 1e-12, betas[:-1], 0)
    return np.linalg.eigh(np.diag(alphas) + np.diag(off, 1) + np.diag(off, -1))


def _lanczos(
    form: Form, arrays: dict, w: Array, probes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values and quadrature weights of each probe (stochastic Lanczos quadrature)."""
    values, weights = [], []
    for probe in probes:
        ritz, vectors = _ritz(_tridiagonal(mean_loss, form, arrays, w, jnp.asarray(probe)))
        values.append(ritz)
        weights.append(vectors[0] ** 2)
    return np.stack(values), np.stack(weights)
