"""w* -> evidence: is it a local minimum, and by how much could the LLC be wrong if not quite?

A point with gradient g is off the minimum of its basin by a Newton step, which biases the LLC by

    shift_bias = nbeta * 1/2 g^T (H + gamma/nbeta)^-1 g.

It is compared with the Laplace-type LLC, sum_i 1/2 nbeta h_i / (nbeta h_i + gamma) over the
positive curvatures. On a kink the gradient need not vanish; there g is the smallest element of
the generalised gradient (the convex hull of the gradients around w*; Burke, Lewis & Overton 2005).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import nnls

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problem.data import stream
from lambda_hat.problem.forms import NetworkForm

EXACT_MAX_DIM = 600
"""Up to this dimension the Hessian is a matrix."""
_KINK_RADII = (1e-8, 1e-6, 1e-4)
_LANCZOS_STEPS, _LANCZOS_PROBES, _CG_STEPS = 30, 4, 200

Vector = Float[np.ndarray, " d"]


@dataclass(frozen=True)
class Curvature:
    """The curvature of the loss at a point, whole (`vectors`) or in a few directions.

    Attributes:
        values: Eigenvalues of the Hessian, ascending; Ritz values for large problems.
        vectors: Eigenvectors in columns, or None for large problems.
        laplace_llc: The Laplace-type LLC.
        ridge: gamma / nbeta.
        nbeta: Tempered number of data.
        d: Number of parameters.
    """

    values: Vector
    vectors: Float[np.ndarray, "d d"] | None
    laplace_llc: float
    ridge: float
    nbeta: float
    d: int

    def posterior_moves(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Moves [num, d] as wide as the Laplace posterior N(0, (nbeta H + gamma)^-1).

        For large problems as wide in every direction as it is in the steepest.
        """
        draws = rng.standard_normal((num, self.d))
        widths = 1 / np.sqrt(self.nbeta * (np.maximum(self.values, 0) + self.ridge))
        if self.vectors is None:
            return draws * widths.min()
        return (draws * widths) @ self.vectors.T


def measure_curvature(
    form: NetworkForm, arrays: dict, w: Array, config: ProblemConfig
) -> Curvature:
    """Eigenvalues of the Hessian at `w`, exact up to `EXACT_MAX_DIM` parameters."""
    nbeta = config.nbeta
    ridge = config.posterior.gamma / nbeta
    d = w.shape[0]

    def llc(h: np.ndarray) -> np.ndarray:
        return 0.5 * np.maximum(h, 0) / (np.maximum(h, 0) + ridge)

    if d <= EXACT_MAX_DIM:
        values, vectors = np.linalg.eigh(np.asarray(_hessian(form, arrays, w)))
        return Curvature(values, vectors, float(llc(values).sum()), ridge, nbeta, d)
    rng = stream(config.seed, "shakes")
    probes = rng.choice([-1.0, 1.0], (_LANCZOS_PROBES, d)) / np.sqrt(d)
    ritz, weights = _lanczos(form, arrays, w, probes)
    laplace = d * float(np.sum(weights * llc(ritz))) / _LANCZOS_PROBES
    return Curvature(np.sort(ritz.ravel()), None, laplace, ridge, nbeta, d)


def gather_evidence(
    form: NetworkForm, arrays: dict, w: Array, curvature: Curvature, config: ProblemConfig
) -> dict[str, Any]:
    """The evidence for `w` as JSON types; `status` is ok, kink or refused."""
    tol = config.training.shift_bias_tol if config.training else 0.0
    grad = np.asarray(_gradient(form, arrays, w))
    if not np.all(np.isfinite(grad)):
        return _refused(["The loss must stay finite in training. Lower training.learning_rate."])
    shift, kink_shift = _shift_bias(form, arrays, w, curvature, grad), None
    allowed = tol * curvature.laplace_llc
    if shift > allowed and form.has_kinks:
        kink_shift = _kink_shift_bias(form, arrays, w, curvature, config)
    least = shift if kink_shift is None else min(shift, kink_shift)
    reasons = []
    if not least <= allowed:
        reasons.append(
            f"w* must be a local minimum: predicted shift bias at most {tol:.3g} of the LLC "
            f"{curvature.laplace_llc:.4g}, but it is {least:.4g}. Raise training.polish_steps or "
            "training.restarts."
        )
    if curvature.values.min() + curvature.ridge <= 0:
        reasons.append(
            "w* must be a local minimum, but the loss curves downwards from it, by "
            f"{curvature.values.min():.3g} where the tether holds {curvature.ridge:.3g}. "
            "Raise training.shakes or training.restarts."
        )
    status = "refused" if reasons else "ok" if kink_shift is None else "kink"
    return {
        "status": status,
        "reasons": reasons,
        "grad_norm": float(np.linalg.norm(grad)),
        "shift_bias": least,
        "relative_shift_bias": least / curvature.laplace_llc if curvature.laplace_llc > 0 else 0.0,
        "smooth_shift_bias": shift,
        "laplace_llc": curvature.laplace_llc,
        "least_curvature": float(curvature.values.min()),
        "largest_curvature": float(curvature.values.max()),
    }


def _refused(reasons: list[str]) -> dict[str, Any]:
    return {"status": "refused", "reasons": reasons}


def _shift_bias(
    form: NetworkForm, arrays: dict, w: Array, curvature: Curvature, grad: Vector
) -> float:
    """The predicted shift bias; for large problems an upper bound by conjugate gradients."""
    if curvature.vectors is not None:
        damped = np.maximum(curvature.values, 0) + curvature.ridge
        return float(0.5 * curvature.nbeta * np.sum((curvature.vectors.T @ grad) ** 2 / damped))
    value = _solved(form, arrays, w, jnp.asarray(grad), jnp.asarray(curvature.ridge))
    return float(0.5 * curvature.nbeta * value)


def _kink_shift_bias(
    form: NetworkForm, arrays: dict, w: Array, curvature: Curvature, config: ProblemConfig
) -> float:
    """The least shift bias over the generalised gradient, from gradients around `w`."""
    rng, best = stream(config.seed, "shakes"), np.inf
    count = min(2 * curvature.d, 400)
    for radius in _KINK_RADII:
        size = radius * (1 + float(jnp.linalg.norm(w)) / np.sqrt(curvature.d))
        moves = rng.standard_normal((count, curvature.d)) * size
        grads = np.asarray(_gradients(form, arrays, w[None] + moves))
        small = _smallest_in_hull(grads, curvature)
        best = min(best, _shift_bias(form, arrays, w, curvature, small))
    return best


def _smallest_in_hull(grads: np.ndarray, curvature: Curvature) -> Vector:
    """The convex combination of gradients [k, d] that predicts the least shift bias.

    Large problems take the one of least norm.
    """
    metric = grads
    if curvature.vectors is not None:
        damped = np.maximum(curvature.values, 0) + curvature.ridge
        metric = (grads @ curvature.vectors) / np.sqrt(damped)
    metric = metric / np.linalg.norm(metric, axis=1).mean()
    rows = np.vstack([metric.T, np.full((1, len(grads)), 1e3)])  # The last row sums weights to 1.
    weights = nnls(rows, np.append(np.zeros(metric.shape[1]), 1e3), maxiter=50 * len(grads))[0]
    return weights / weights.sum() @ grads


def _loss(form: NetworkForm, arrays: dict, w: Array) -> Array:
    return jnp.mean(form.losses(w, arrays))


@functools.partial(jax.jit, static_argnums=0)
def _gradient(form: NetworkForm, arrays: dict, w: Array) -> Array:
    return jax.grad(_loss, argnums=2)(form, arrays, w)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(form: NetworkForm, arrays: dict, points: Array) -> Array:
    return jax.lax.map(lambda w: _gradient(form, arrays, w), points)


def _times_hessian(form: NetworkForm, arrays: dict, w: Array, vector: Array) -> Array:
    return jax.jvp(lambda w: _gradient(form, arrays, w), (w,), (vector,))[1]


@functools.partial(jax.jit, static_argnums=0)
def _hessian(form: NetworkForm, arrays: dict, w: Array) -> Array:
    rows = jax.lax.map(lambda e: _times_hessian(form, arrays, w, e), jnp.eye(w.shape[0]))
    return (rows + rows.T) / 2


@functools.partial(jax.jit, static_argnums=0)
def _solved(form: NetworkForm, arrays: dict, w: Array, grad: Array, ridge: Array) -> Array:
    """An upper bound of g^T (H + ridge)^-1 g, where H has no negative curvature."""

    def damped(vector: Array) -> Array:
        return _times_hessian(form, arrays, w, vector) + ridge * vector

    x = jax.scipy.sparse.linalg.cg(damped, grad, tol=1e-3, maxiter=_CG_STEPS)[0]
    left = grad - damped(x)
    return x @ grad + x @ left + left @ left / ridge


@functools.partial(jax.jit, static_argnums=0)
def _tridiagonal(form: NetworkForm, arrays: dict, w: Array, probe: Array) -> tuple[Array, Array]:
    """Lanczos coefficients of the Hessian from a unit vector, fully reorthogonalised."""

    def step(k: Array, carry: Any) -> Any:
        basis, alphas, betas = carry
        vector = _times_hessian(form, arrays, w, basis[k])
        alphas = alphas.at[k].set(vector @ basis[k])
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        norm = jnp.linalg.norm(vector)
        vector = jnp.where(norm > 1e-12, vector / jnp.maximum(norm, 1e-300), 0 * vector)
        return basis.at[k + 1].set(vector), alphas, betas.at[k].set(norm)

    basis = jnp.zeros((_LANCZOS_STEPS + 1, probe.shape[0])).at[0].set(probe)
    zeros = jnp.zeros(_LANCZOS_STEPS)
    return jax.lax.fori_loop(0, _LANCZOS_STEPS, step, (basis, zeros, zeros))[1:]


def _lanczos(
    form: NetworkForm, arrays: dict, w: Array, probes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values and quadrature weights of each probe (stochastic Lanczos quadrature)."""
    values, weights = [], []
    for probe in probes:
        alphas, betas = map(np.asarray, _tridiagonal(form, arrays, w, jnp.asarray(probe)))
        off = np.where(betas[:-1] > 1e-12, betas[:-1], 0)
        ritz, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(off, 1) + np.diag(off, -1))
        values.append(ritz)
        weights.append(vectors[0] ** 2)
    return np.stack(values), np.stack(weights)
