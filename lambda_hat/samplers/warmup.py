"""Adaptation shared by the Hamiltonian samplers: one step size and one metric for all chains.

Chains pool what they learn: the step size follows their mean acceptance (dual averaging,
Hoffman & Gelman 2014), and the metric what they saw in Stan's windows. A dense metric is their
joint covariance, and a diagonal one their variances or, where it is asked for,
sqrt(var(w) / var(grad log p)), which brings the scores nearest to those of a standard normal
distribution (Seyboldt, Carlson & Carpenter 2026, arXiv:2603.18845): a parameter that is stiff
together with others is narrower in it than its variance says. The parts are BlackJAX's; pooling and
running them step by step, so that a deadline can come between, is ours.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
from blackjax.adaptation.step_size import dual_averaging_adaptation
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.samplers.metric import spread
from lambda_hat.target import Arrays, Form, hessian_vector_product, loss, potential

Scalar = Any
"""A number, traced or not: BlackJAX annotates its own as float and takes arrays."""
MAX_WINDOWS = 16
SETTLED = 20
"""Updates of a step size after which its average counts. It begins by trying steps ten times as
large as the one before, and its first few averages are of those."""
MANY = 256
"""Parameters above which a trial's diagonal metric comes from gradients too. In few dimensions a
narrower one spares little, and keeps trajectories of a given length from crossing to other basins.
"""
NUM_PROBES = 32
"""Rademacher probes of the Hessian's diagonal where the Hessian itself is too large."""


class Windows(NamedTuple):
    """Stan's warm-up schedule as numbers a program can take as arguments."""

    begin: int
    end: int
    closes: np.ndarray
    """[MAX_WINDOWS] last step of each slow window, padded with -1."""


class Adaptation(NamedTuple):
    """What warm-up carries from step to step."""

    averaging: Any
    metric: Any
    score: Any
    """The variances of grad log p where a diagonal metric is to have a part in them; else None."""


def windows_of(num_warmup: int) -> Windows:
    """The slow windows of a warm-up of `num_warmup` steps: each twice as long as the one before.

    The schedule of Stan, and of BlackJAX, whose own makes an array a length, which costs a
    compilation a run.
    """
    closes = np.full(MAX_WINDOWS, -1, np.int32)
    if num_warmup < 20:
        return Windows(0, 0, closes)
    begin, size, after = 75, 25, 50
    if begin + size + after > num_warmup:
        begin, after = int(0.15 * num_warmup), int(0.1 * num_warmup)
        size = num_warmup - begin - after
    end, close = num_warmup - after, begin
    for window in range(MAX_WINDOWS):
        left = end - close
        if left == 0:
            break
        last = 3 * size > left
        close += left if last else size
        closes[window] = close - 1
        size *= 2
    return Windows(begin, end, closes)


def start(
    step_size: Scalar, inverse_mass_matrix: Array, target_accept: Scalar, *, from_scores: bool
) -> Adaptation:
    """An adaptation that begins at `step_size` and `inverse_mass_matrix` ([d] or [d, d]).

    `from_scores` says whether a diagonal metric is to come from gradients as well as positions.
    """
    diagonal, dtype = inverse_mass_matrix.ndim == 1, inverse_mass_matrix.dtype
    d = inverse_mass_matrix.shape[0]
    metric_init, _, _ = mass_matrix_adaptation(diagonal)
    metric = _as_dtype(metric_init(d, inverse_mass_matrix), dtype)
    averaging = _as_dtype(_averaging(step_size, target_accept), dtype)
    return Adaptation(averaging, metric, metric if diagonal and from_scores else None)


def _averaging(step_size: Scalar, target_accept: Scalar) -> Any:
    """Dual averaging from `step_size` on, which is also its average until there is another.

    BlackJAX's is 1 before the first update, and a budget may end warm-up just there.
    """
    init, _, _ = dual_averaging_adaptation(target_accept)
    return init(step_size)._replace(log_step_size_avg=jnp.log(step_size))


def _as_dtype(tree: Any, dtype: Any) -> Any:
    """Numbers of one dtype, so that the state has the same types after every step."""
    return jax.tree.map(
        lambda x: (
            x
            if jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer) and not isinstance(x, (int, float))
            else jnp.asarray(x, dtype)
        ),
        tree,
    )


def update(
    adaptation: Adaptation,
    *,
    i: Array,
    windows: Windows,
    positions: Float[Array, "chains d"],
    scores: Float[Array, "chains d"],
    acceptance: Float[Array, " chains"],
    target_accept: Scalar,
) -> Adaptation:
    """One warm-up step: the step size always, the metric inside its windows.

    `positions` and `scores`, the gradients of log p there, are in the coordinates of the metric.
    """
    _, da_update, da_final = dual_averaging_adaptation(target_accept)
    diagonal = adaptation.metric.inverse_mass_matrix.ndim == 1
    _, metric_update, metric_final = mass_matrix_adaptation(diagonal)
    like = adaptation

    averaging = da_update(adaptation.averaging, jnp.mean(acceptance))
    slow = (i >= windows.begin) & (i < windows.end)

    def collected(seen: Any, values: Array) -> Any:
        add = functools.partial(jax.lax.scan, lambda seen, x: (metric_update(seen, x), None))
        return jax.lax.cond(slow, lambda: add(seen, values)[0], lambda: seen)

    metric = collected(adaptation.metric, positions)
    score = None if adaptation.score is None else collected(adaptation.score, scores)

    def close(_: None) -> Adaptation:
        restarted, closed = _averaging(da_final(averaging), target_accept), metric_final(metric)
        if score is None:
            return _cast_like(Adaptation(restarted, closed, None), like)
        of_scores = metric_final(score)
        ratio = closed.inverse_mass_matrix / of_scores.inverse_mass_matrix
        closed = closed._replace(inverse_mass_matrix=jnp.sqrt(ratio))
        return _cast_like(Adaptation(restarted, closed, of_scores), like)

    def keep(_: None) -> Adaptation:
        return _cast_like(Adaptation(averaging, metric, score), like)

    return jax.lax.cond(jnp.any(i == windows.closes), close, keep, None)


def _cast_like(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), tree, like)


def frozen(adaptation: Adaptation, step_size: Scalar, inverse_mass_matrix: Array) -> Adaptation:
    """An adaptation that has ended, with these instead of what it found."""
    given = {"log_step_size_avg": jnp.log(step_size), "step": SETTLED + 1}
    averaging = adaptation.averaging._replace(**given)
    metric = adaptation.metric._replace(inverse_mass_matrix=inverse_mass_matrix)
    return _cast_like(adaptation._replace(averaging=averaging, metric=metric), adaptation)


def current_step_size(adaptation: Adaptation, adapting: Array) -> Array:
    """The step size now: the wandering one while adapting, its average afterwards.

    A budget may end adaptation anywhere: soon after a window, the step is no larger than that with
    which the window closed.
    """
    averaging = adaptation.averaging
    begun = averaging.mu - jnp.log(10.0)
    average = averaging.log_step_size_avg
    unsettled = averaging.step <= SETTLED
    found = jnp.where(unsettled, jnp.minimum(average, begun), average)
    return jnp.exp(jnp.where(adapting, averaging.log_step_size, found))


def laplace_covariance(key: PRNGKeyArray, form: Form, arrays: Arrays, *, dense: bool) -> Array:
    """Covariance of the Laplace approximation at w*: a first metric, [d, d] or its diagonal [d].

    Negative curvature counts as none, so that the tether bounds every width. The diagonal
    comes from Hutchinson's estimate where the dense Hessian would be too large.
    """
    d = arrays.w_star.shape[0]

    def hvp(v: Array) -> Array:
        return hessian_vector_product(lambda w: loss(form, arrays, w), arrays.w_star, v)

    if dense:
        hessian = jax.lax.map(hvp, jnp.eye(d, dtype=arrays.w_star.dtype))
        values, vectors = jnp.linalg.eigh((hessian + hessian.T) / 2)
        widths = 1.0 / (arrays.nbeta * jnp.maximum(values, 0.0) + arrays.gamma)
        return (vectors * widths) @ vectors.T
    probes = jax.random.rademacher(key, (NUM_PROBES, d), arrays.w_star.dtype)
    diagonal = jnp.mean(jax.lax.map(lambda v: v * hvp(v), probes), axis=0)
    return 1.0 / (arrays.nbeta * jnp.maximum(diagonal, 0.0) + arrays.gamma)


SHRINK = 0.8
"""Factor by which a start that lies too high is drawn nearer to w*, again and again."""
MOST_SHRINKS = 60
"""Times that this is done at most: to a millionth of the distance."""


def overdispersed_starts(
    key: PRNGKeyArray,
    form: Form,
    arrays: Arrays,
    covariance: Array,
    *,
    num_chains: int,
    scale: float,
) -> Float[Array, "chains d"]:
    """Half of the chains start at w*, the others at `scale` Laplace widths around it.

    On a quadratic loss such starts lie `scale^2 d / 2` above w* in U, give or take. A singular
    loss rises faster than its Laplace approximation says, by orders of magnitude; there they are
    drawn nearer until they lie no higher than twice that.
    """
    d = arrays.w_star.shape[0]
    normal = jax.random.normal(key, (num_chains, d), arrays.w_star.dtype)
    away = (jnp.arange(num_chains) % 2).astype(arrays.w_star.dtype)[:, None]
    highest = potential(form, arrays, arrays.w_star) + scale**2 * d

    def too_high(shift: Array) -> Array:
        height = jax.vmap(lambda shift: potential(form, arrays, arrays.w_star + shift))(shift)
        return ~(height <= highest)[:, None]

    def lower(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tries, shift, high = carry
        shift = jnp.where(high, SHRINK * shift, shift)
        return tries + 1, shift, too_high(shift)

    # Not without end: where the loss is no number, nothing ever lies low enough.
    first = scale * away * spread(arrays, covariance, normal)
    _, shift, _ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[2]) & (carry[0] < MOST_SHRINKS),
        lower,
        (jnp.asarray(0), first, too_high(first)),
    )
    return arrays.w_star + shift
