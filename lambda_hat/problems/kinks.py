"""Kinks of a piecewise smooth loss: its generalised gradient, and descent along it.

At a kink the gradient jumps, and quasi-Newton steps can end where the loss still falls along the
kink. The generalised gradient is the convex hull of the gradients around the point; its smallest
element vanishes at a minimum, and is a descent direction elsewhere (gradient sampling: Burke,
Lewis & Overton 2005). "Small" is measured by the predicted shift bias, so in LLC units.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import nnls

from lambda_hat.problems.curvature import Curvature, gradient, measure_curvature, shift_bias
from lambda_hat.problems.deadline import check_deadline
from lambda_hat.problems.forms import ProblemForm
from lambda_hat.target import Form, mean_loss

_DESCENT_RADII = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
_RADII = (1e-4, 1e-6, 1e-8)
_SAMPLES = 400
_STEPS = 2.0 ** -np.arange(24)

Vector = Float[np.ndarray, " d"]


def kink_shift_bias(
    form: Form,
    arrays: dict,
    w: Array,
    curvature: Curvature,
    rng: np.random.Generator,
) -> float:
    """The least shift bias over the generalised gradient at `w`, in LLC units."""
    grads = (_sampled_gradient(form, arrays, w, curvature, rng, radius) for radius in _RADII)
    return min(shift_bias(form, arrays, w, curvature, grad) for grad in grads)


def settle(
    form: ProblemForm,
    arrays: dict,
    w: Array,
    rng: np.random.Generator,
    *,
    nbeta: float,
    gamma: float,
    enough: float,
    rounds: int,
) -> Array:
    """Second-order descent, along kinks too, until nothing gains more than `enough` LLC units.

    Each step is a damped Newton step for the smallest generalised gradient at the widest radius
    that still gains, or a move along the most negative curvature; the loss itself decides how far.
    """
    radii = list(_DESCENT_RADII if form.has_kinks else (0.0,))
    value = float(_loss(form, arrays, w))
    for done in range(rounds):
        check_deadline(f"{done} of at most {rounds} rounds of settling")
        curvature = measure_curvature(form, arrays, w, nbeta=nbeta, gamma=gamma, rng=rng)
        lowest, gain = w, 0.0
        while radii and gain <= enough:
            grad = _sampled_gradient(form, arrays, w, curvature, rng, radii[0])
            lowest, gain = _best_move(form, arrays, w, value, -curvature.newton_step(grad)[None])
            gain *= nbeta
            radii = radii if gain > enough else radii[1:]
        if gain <= enough:
            lowest, gain = _best_move(form, arrays, w, value, curvature.downhill())
            gain *= nbeta
        if gain <= enough:
            break
        w, value = lowest, value - gain / nbeta
    return w


def escape_gain(form: Form, arrays: dict, w: Array, curvature: Curvature) -> float:
    """By how many LLC units the loss falls from `w` along its most negative curvature.

    None of it where a kink is in the way.
    """
    value = float(_loss(form, arrays, w))
    return curvature.nbeta * _best_move(form, arrays, w, value, curvature.downhill())[1]


def _best_move(
    form: Form, arrays: dict, w: Array, value: float, directions: np.ndarray
) -> tuple[Array, float]:
    """The lowest point on rays [k, d] from `w`, and how much lower than `value` it is."""
    if not len(directions):
        return w, 0.0
    points = w[None] + (_STEPS[:, None, None] * directions).reshape(-1, w.shape[0])
    losses = np.asarray(_losses(form, arrays, points))
    losses = np.where(np.isfinite(losses), losses, np.inf)
    best = int(np.argmin(losses))
    return points[best], value - float(losses[best])


def _sampled_gradient(
    form: Form,
    arrays: dict,
    w: Array,
    curvature: Curvature,
    rng: np.random.Generator,
    radius: float,
) -> Vector:
    """The smallest element of the generalised gradient, sampled within `radius` of `w`."""
    if radius == 0:
        return np.asarray(gradient(form, arrays, w))
    count = min(2 * curvature.d, _SAMPLES)
    size = radius * (1 + float(jnp.linalg.norm(w)) / np.sqrt(curvature.d))
    moves = size * rng.standard_normal((count, curvature.d))
    grads = np.asarray(_gradients(form, arrays, jnp.concatenate([w[None], w[None] + moves])))
    whitened = curvature.whiten(grads)
    whitened = whitened / np.maximum(np.linalg.norm(whitened, axis=1).mean(), 1e-300)
    rows = np.vstack([whitened.T, np.full((1, len(grads)), 1e3)])  # Weights that sum to 1.
    goal = np.append(np.zeros(whitened.shape[1]), 1e3)
    weights = nnls(rows, goal, maxiter=50 * len(grads))[0]
    return weights / weights.sum() @ grads


@functools.partial(jax.jit, static_argnums=0)
def _gradients(form: Form, arrays: dict, points: Array) -> Array:
    return jax.lax.map(lambda w: gradient(form, arrays, w), points)


@functools.partial(jax.jit, static_argnums=0)
def _losses(form: Form, arrays: dict, points: Array) -> Array:
    return jax.lax.map(lambda w: _loss(form, arrays, w), points)


@functools.partial(jax.jit, static_argnums=0)
def _loss(form: Form, arrays: dict, w: Array) -> Array:
    return mean_loss(form, arrays, w)
