"""Quasi-Newton descent in float64, which also settles on kinks of the loss.

BFGS with a weak-Wolfe bisection line search (Lewis & Overton 2013, Nonsmooth optimization via
quasi-Newton methods) converges to kinks of piecewise smooth losses too. Small problems keep the
inverse Hessian whole, large ones in its limited-memory form (Nocedal & Wright, chapter 7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DENSE_MAX_DIM = 300
"""Up to this dimension the inverse Hessian is a matrix."""
_MEMORY = 20
_ARMIJO, _WOLFE = 1e-4, 0.9
_LINE_TRIES = 40
_PATIENCE = 2

Vector = Float[Array, " d"]
Value = Float[Array, ""]
Loss = Callable[[Vector], Value]


class Descent(NamedTuple):
    """Where a descent stands."""

    w: Vector
    loss: Value
    grad: Vector
    memory: Any
    steps: Array
    idle: Array
    """Steps in a row that gained nothing a float64 can tell."""


class _Dense(NamedTuple):
    inverse: Float[Array, "d d"]
    fresh: Array


class _Limited(NamedTuple):
    moves: Float[Array, "m d"]
    changes: Float[Array, "m d"]
    products: Float[Array, " m"]
    """moves . changes of each pair; 0 marks an empty slot."""


def begin(loss: Loss, w: Vector) -> Descent:
    """A descent that has not made a step."""
    value, grad = jax.value_and_grad(loss)(w)
    return Descent(w, value, grad, _forget(w), jnp.array(0), jnp.array(0))


def go_on(loss: Loss, state: Descent, stop: Array) -> Descent:
    """The descent after `stop` steps in all; fewer where nothing is gained any more."""

    def unfinished(state: Descent) -> Array:
        return (state.steps < stop) & (state.idle < _PATIENCE)

    return jax.lax.while_loop(unfinished, lambda state: _step(loss, state), state)


def _step(loss: Loss, state: Descent) -> Descent:
    direction = -_times_inverse(state.memory, state.grad)
    slope = direction @ state.grad
    downhill = slope < 0
    direction = jnp.where(downhill, direction, -state.grad)
    slope = jnp.where(downhill, slope, -state.grad @ state.grad)
    w, value, grad = _line_search(loss, state, direction, slope)
    gained = state.loss - value > 1e-15 * jnp.abs(state.loss)
    memory = _remember(state.memory, w - state.w, grad - state.grad)
    memory = jax.tree.map(lambda kept, new: jnp.where(gained, kept, new), memory, _forget(w))
    return Descent(w, value, grad, memory, state.steps + 1, jnp.where(gained, 0, state.idle + 1))


def _line_search(
    loss: Loss, state: Descent, direction: Vector, slope: Value
) -> tuple[Vector, Value, Vector]:
    """A step that decreases the loss enough and flattens the slope, by doubling and bisection."""

    def searching(carry: Any) -> Array:
        tries, _, _, _, found, *_ = carry
        return (tries < _LINE_TRIES) & ~found

    def bisect(carry: Any) -> Any:
        tries, low, high, step, _, best_w, best_loss, best_grad = carry
        w = state.w + step * direction
        value, grad = jax.value_and_grad(loss)(w)
        decreases = value <= state.loss + _ARMIJO * step * slope
        flattens = grad @ direction >= _WOLFE * slope
        better = decreases & (value <= best_loss)
        low = jnp.where(decreases, step, low)
        high = jnp.where(decreases, high, step)
        step = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * step)
        best_w, best_grad = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), (w, grad), (best_w, best_grad)
        )
        best_loss = jnp.where(better, value, best_loss)
        found = decreases & flattens
        return tries + 1, low, high, step, found, best_w, best_loss, best_grad

    one = jnp.ones((), state.w.dtype)
    first = (0, 0 * one, jnp.inf * one, one, jnp.array(False), state.w, state.loss, state.grad)
    return jax.lax.while_loop(searching, bisect, first)[5:]


def _forget(w: Vector) -> _Dense | _Limited:
    """A memory of nothing: the next direction is steepest descent."""
    if w.shape[0] <= DENSE_MAX_DIM:
        return _Dense(jnp.eye(w.shape[0], dtype=w.dtype), jnp.array(True))
    slots = jnp.zeros((_MEMORY, w.shape[0]), w.dtype)
    return _Limited(slots, slots, jnp.zeros(_MEMORY, w.dtype))


def _times_inverse(memory: _Dense | _Limited, grad: Vector) -> Vector:
    if isinstance(memory, _Dense):
        return memory.inverse @ grad
    return _two_loops(memory, grad)


def _two_loops(memory: _Limited, grad: Vector) -> Vector:
    """The limited-memory inverse times a gradient (Nocedal & Wright, algorithm 7.4)."""
    weights = jnp.where(memory.products > 0, 1 / jnp.maximum(memory.products, 1e-300), 0)

    def newest_first(vector: Vector, pair: Any) -> Any:
        move, change, weight = pair
        alpha = weight * (move @ vector)
        return vector - alpha * change, alpha

    def oldest_first(vector: Vector, pair: Any) -> Any:
        move, change, weight, alpha = pair
        return vector + move * (alpha - weight * (change @ vector)), None

    pairs = (memory.moves, memory.changes, weights)
    vector, alphas = jax.lax.scan(newest_first, grad, pairs, reverse=True)
    last = memory.changes[-1] @ memory.changes[-1]
    scale = jnp.where(last > 0, memory.products[-1] / jnp.maximum(last, 1e-300), 1.0)
    return jax.lax.scan(oldest_first, scale * vector, (*pairs, alphas))[0]


def _remember(memory: _Dense | _Limited, move: Vector, change: Vector) -> _Dense | _Limited:
    """The memory with one more pair, unless the pair does not curve upwards."""
    product = move @ change
    curved = product > 1e-12 * jnp.sqrt((move @ move) * (change @ change))
    if isinstance(memory, _Limited):
        parts = zip(memory, (move, change, product), strict=True)
        longer = [jnp.concatenate([old[1:], new[None]]) for old, new in parts]
        return _Limited(*(jnp.where(curved, n, o) for n, o in zip(longer, memory, strict=True)))
    safe = jnp.where(curved, product, 1.0)
    scale = jnp.where(memory.fresh, safe / jnp.maximum(change @ change, 1e-300), 1.0)
    inverse = scale * memory.inverse
    turned = inverse @ change
    outer = jnp.outer(move, turned)
    update = (1 + change @ turned / safe) * jnp.outer(move, move) / safe - (outer + outer.T) / safe
    return _Dense(jnp.where(curved, inverse + update, memory.inverse), memory.fresh & ~curved)
