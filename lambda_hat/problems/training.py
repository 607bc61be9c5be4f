"""Training: restarts of Adam, quasi-Newton polish, and shakes until nothing lower is found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.conf.schema import ProblemConfig, TrainingConfig
from lambda_hat.problems.curvature import Curvature, measure_curvature
from lambda_hat.problems.data import stream
from lambda_hat.problems.deadline import check_deadline, pieces
from lambda_hat.problems.descent import Descent, begin, go_on
from lambda_hat.problems.evidence import gather_evidence
from lambda_hat.problems.forms import ProblemForm
from lambda_hat.problems.kinks import settle
from lambda_hat.target import Form, mean_loss

_SETTLE_ROUNDS = 200
_POLISHED_MOST = 16
_POLISHED_WORK = 2e6
"""Rows times parameters times points of one round of polishing; the best points get it."""

_ADAM = optax.scale_by_adam()

Vector = Float[np.ndarray, " d"]
Points = Float[Array, "restarts d"]


def train(
    config: ProblemConfig,
    form: ProblemForm,
    data: dict[str, np.ndarray],
    *,
    draw: Callable[[np.random.Generator], Vector],
    start: Vector | None,
) -> tuple[Vector, dict[str, Any]]:
    """Trains to a local minimum of the mean loss over all data, in float64.

    Args:
        config: A problem of a family that listens to `training`.
        form: Its loss.
        data: The rows of `form`.
        draw: The initial point of a restart.
        start: The first restart's initial point (the teacher, where it has the student's
            architecture: its neighbourhood holds the lowest minimum known); None draws it.

    Returns:
        w* and the evidence that it is a local minimum, or against it.

    Raises:
        TrainingUnfinished: The deadline of the context passed first.
    """
    training = config.training
    if training is None:
        raise TypeError(f"A {config.model.title} model is not trained.")
    rng = stream(config.seed, "init")
    points = np.stack([draw(rng) for _ in range(training.restarts or 1)])
    if start is not None:
        points[0] = start
    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, data)
        points = _adam_restarts(config.seed, training, form, arrays, jnp.asarray(points))
        losses = np.asarray(_losses(form, arrays, points))
        rows = config.data.n * points.shape[1] * len(points)
        kept = max(1, min(_POLISHED_MOST, int(len(points) * min(1.0, _POLISHED_WORK / rows))))
        points = points[np.argsort(losses)[:kept]]  # NaN sorts last.
        rng = stream(config.seed, "shakes")
        w, polished = _polish_best(form, arrays, points, training)
        w, curvature, shaken = _shake(config, training, form, arrays, w, len(points), rng)
        check_deadline(f"{len(shaken)} rounds of shakes, before the evidence for the minimum")
        evidence = gather_evidence(
            form, arrays, w, curvature, rng, shift_bias_tol=training.shift_bias_tol
        )
        evidence |= {
            "adam_losses": _finite(losses),
            "polished_losses": _finite(polished),
            "shaken_losses": shaken,
            "started_at_teacher": start is not None,
        }
        return np.asarray(w), evidence


def _adam_restarts(
    seed: int, training: TrainingConfig, form: Form, arrays: dict, points: Points
) -> Points:
    keys = jax.random.split(jax.random.key(seed), len(points))
    steps, rate = jnp.asarray(training.steps), jnp.asarray(training.learning_rate)
    carry = (points, jax.vmap(_ADAM.init)(points))
    t = 0
    for stop in pieces(training.steps, f"steps of Adam from {len(points)} points"):
        until = (jnp.asarray(t), jnp.asarray(stop))
        carry = _adam(form, training.batch_size, keys, carry, arrays, until, steps, rate)
        carry, t = jax.block_until_ready(carry), stop
    return carry[0]


@partial(jax.jit, static_argnums=(0, 1))
def _adam(
    form: Form,
    batch: int | None,
    keys: PRNGKeyArray,
    carry: tuple[Points, Any],
    arrays: dict,
    until: tuple[Array, Array],
    steps: Array,
    learning_rate: Array,
) -> tuple[Points, Any]:
    """Steps [t, stop) of Adam of every point, the rate falling to zero as half a cosine.

    Step t uses `fold_in(key, t)`, so that the points are the same however it is cut into pieces.
    """

    def loss(w: Array, key: PRNGKeyArray) -> Array:
        if batch is None:
            return mean_loss(form, arrays, w)
        rows = jax.random.randint(key, (batch,), 0, jax.tree.leaves(arrays)[0].shape[0])
        return mean_loss(form, jax.tree.map(lambda leaf: leaf[rows], arrays), w)

    def one(key: PRNGKeyArray, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        def step(t: Array, carry: Any) -> Any:
            w, state = carry
            grad = jax.grad(loss)(w, jax.random.fold_in(key, t))
            update, state = _ADAM.update(grad, state)
            rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * t / steps))
            return optax.tree_utils.tree_add_scale(w, -rate, update), state

        return jax.lax.fori_loop(*until, step, carry)

    return jax.vmap(one)(keys, carry)


@partial(jax.jit, static_argnums=0)
def _losses(form: Form, arrays: dict, points: Points) -> Float[Array, " restarts"]:
    return jax.lax.map(lambda w: mean_loss(form, arrays, w), points)


@partial(jax.jit, static_argnums=0)
def _begin(form: Form, arrays: dict, points: Points) -> Descent:
    return jax.vmap(lambda w: begin(partial(mean_loss, form, arrays), w))(points)


@partial(jax.jit, static_argnums=0)
def _go_on(form: Form, arrays: dict, descents: Descent, stop: Array) -> Descent:
    return jax.vmap(lambda state: go_on(partial(mean_loss, form, arrays), state, stop))(descents)


def _polish_best(
    form: Form, arrays: dict, points: Points, training: TrainingConfig
) -> tuple[Array, np.ndarray]:
    """The lowest of the polished points, and the loss of each."""
    descents = _begin(form, arrays, points)
    for stop in pieces(training.polish_steps, f"steps of polishing {len(points)} points"):
        descents = jax.block_until_ready(_go_on(form, arrays, descents, jnp.asarray(stop)))
    losses = np.where(np.isfinite(descents.loss), descents.loss, np.inf)
    return descents.w[int(np.argmin(losses))], losses


def _shake(
    config: ProblemConfig,
    training: TrainingConfig,
    form: ProblemForm,
    arrays: dict,
    w: Array,
    num: int,
    rng: np.random.Generator,
) -> tuple[Array, Curvature, list[float]]:
    """Moves by the posterior's own width and descends again, until a round gains nothing.

    A gain counts if it moves the LLC by more than a tenth of what w* is allowed to be off by.

    Returns:
        The lowest point, its curvature, and the loss before and after each round that gained.
    """
    nbeta, gamma = config.nbeta, config.posterior.gamma
    curvature = measure_curvature(form, arrays, w, nbeta=nbeta, gamma=gamma, rng=rng)
    enough = 0.1 * training.shift_bias_tol * curvature.laplace_llc

    def settled(w: Array) -> tuple[Array, float]:
        if curvature.vectors is not None:
            stop = {"enough": 0.1 * enough, "rounds": min(training.polish_steps, _SETTLE_ROUNDS)}
            w = settle(form, arrays, w, rng, nbeta=nbeta, gamma=gamma, **stop)
        return w, float(_losses(form, arrays, w[None])[0])

    w, loss = settled(w)
    losses = [loss]
    for done in range(training.shakes):
        check_deadline(f"{done} of at most {training.shakes} rounds of shakes")
        curvature = measure_curvature(form, arrays, w, nbeta=nbeta, gamma=gamma, rng=rng)
        points = w[None] + curvature.posterior_moves(rng, num)
        lower, loss = settled(_polish_best(form, arrays, points, training)[0])
        if not nbeta * (losses[-1] - loss) > enough:
            break
        w = lower
        losses.append(loss)
    curvature = measure_curvature(form, arrays, w, nbeta=nbeta, gamma=gamma, rng=rng)
    return w, curvature, losses


def _finite(losses: np.ndarray) -> list[float | None]:
    return [float(loss) if np.isfinite(loss) else None for loss in losses]
