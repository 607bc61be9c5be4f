"""Trajectories that follow a part of the data in float32, and are kicked by the rest now and then.

The potential is split into that of a few rows, which is followed with small steps, and what is left
of it, which is small and is added as kicks between many of them:

    p += c h / 2 (grad U_S(w) - grad U(w)),   c leapfrog steps of U_S,   p += the same at their end

(Shahbaba, Lan, Johnson & Neal 2014, Stat. Comput. 24:339; Tuckerman, Berne & Martyna 1992). Every
part conserves volume and can be reversed, and proposals are accepted by the energies over all data
in float64: the draws are exact, however far the rows are off. U_S has the slope of U at w*, and is
evaluated in float32. Where it is of all rows, nothing is left but digits, and there are no kicks on
the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc.integrators import velocity_verlet
from jaxtyping import Array, Float

from lambda_hat.target import Arrays, Form, Target, mean_loss, num_rows, squared_distance

STEPS_A_KICK = 10
"""Leapfrog steps between two kicks. On two networks (d 45 and 967, n 20 000) 5 to 20 are within a
third of the best; kicks farther apart than half a period of the fastest direction would resonate
with it, and make steps smaller."""


class Surrogate(NamedTuple):
    """L_S(w) + (grad L_n(w*) - grad L_S(w*)) . (w - w*), of the rows S."""

    data: Any
    """The rows, in float32."""
    slope: Float[Array, " d"]
    """What the gradient of L_S lacks at w*."""


def with_surrogate(target: Target, rows: int) -> Target:
    """The same target, with a surrogate of `rows` of its rows, evenly spaced."""
    form, arrays = target.form, target.arrays
    index = np.arange(rows) * num_rows(form, arrays) // rows
    part = jax.tree.map(lambda leaf: leaf[index], arrays.data)
    gradient = jax.jit(jax.grad(mean_loss, argnums=2), static_argnums=0)
    slope = gradient(form, arrays.data, arrays.w_star) - gradient(form, part, arrays.w_star)
    surrogate = Surrogate(jax.tree.map(_in_float32, part), slope)
    return replace(target, arrays=arrays._replace(surrogate=surrogate))


def _in_float32(leaf: Array) -> Array:
    return leaf.astype("float32") if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def surrogate_logdensity(form: Form, arrays: Arrays, w: Float[Array, " d"]) -> Float[Array, ""]:
    """log p(w) up to a constant, with the surrogate's loss in place of L_n."""
    given: Surrogate = arrays.surrogate
    near = mean_loss(form, given.data, _in_float32(w)).astype(w.dtype)
    loss = near + given.slope @ (w - arrays.w_star)
    return -arrays.nbeta * loss - 0.5 * arrays.gamma * squared_distance(arrays, w)


class Stride(NamedTuple):
    """How a trajectory goes."""

    steps: Any
    """Leapfrog steps of the surrogate between two kicks, if there is one."""
    length: Any
    """Steps of the integrator, each with its kicks."""


def stride_of(form: Form, arrays: Arrays, steps: Any) -> Stride:
    """A trajectory of `steps` leapfrog steps, or of the tens that hold them.

    A surrogate of all rows lacks nothing but digits: it is followed to the end.
    """
    if arrays.surrogate is None:
        return Stride(1, steps)
    if _rows(arrays) == num_rows(form, arrays):
        return Stride(steps, 1)
    return Stride(STEPS_A_KICK, -(-steps // STEPS_A_KICK))


def _rows(arrays: Arrays) -> int:
    return jax.tree.leaves(arrays.surrogate.data)[0].shape[0]


def integrator_of(
    form: Form, arrays: Arrays, stride: Stride, place: Callable[[Array], Array] = lambda z: z
) -> Callable:
    """BlackJAX's integrator: leapfrog steps, or kicks with steps of the surrogate between them.

    Args:
        form: which program computes the loss.
        arrays: of the target.
        stride: how the trajectory goes.
        place: w of the coordinates that trajectories move in.
    """
    if arrays.surrogate is None:
        return velocity_verlet

    def near(z: Array) -> Array:
        return surrogate_logdensity(form, arrays, place(z))

    def integrator(logdensity: Callable, kinetic_energy: Callable) -> Callable:
        steps: Any = velocity_verlet(near, kinetic_energy)

        def kicked(state: Any, step_size: Any) -> Any:
            half = 0.5 * stride.steps * step_size
            value, slope = jax.value_and_grad(near)(state.position)
            momentum = state.momentum + half * (state.logdensity_grad - slope)
            state = state._replace(momentum=momentum, logdensity=value, logdensity_grad=slope)
            state = jax.lax.fori_loop(0, stride.steps, lambda _, s: steps(s, step_size), state)
            value, slope = jax.value_and_grad(logdensity)(state.position)
            momentum = state.momentum + half * (slope - state.logdensity_grad)
            return state._replace(momentum=momentum, logdensity=value, logdensity_grad=slope)

        return kicked

    return integrator


def work_of(form: Form, arrays: Arrays, stride: Stride) -> Array:
    """Full-data gradients of a trajectory; one in float32 counts as one."""
    length = jnp.asarray(stride.length, arrays.w_star.dtype)
    if arrays.surrogate is None:
        return length
    share = _rows(arrays) / num_rows(form, arrays)
    return length * (1.0 + (stride.steps + 1) * share)
