"""Coordinates that a mixture is fitted in: widths from the loss gradient's moments near w*.

The gradient is probed on minibatches at random points around w*, nearer or farther as the moments
so far say, so that a width is right at the distance that it gives; docs/vi_mfa.md derives it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.target import Arrays, Form, Minibatch, loss_on

NUM_PROBES = 1_000
"""Minibatch gradients behind the widths."""
MEMORY = {"none": 0.0, "rmsprop": 0.99, "adam": 0.999}
"""Decay of the second moment per probe."""
GUIDE_MEMORY = 0.9
"""Decay of the moment that says how far from w* to probe."""


def width(arrays: Arrays, second_moment: Float[Array, " d"]) -> Float[Array, " d"]:
    """The S_i > 0 that solves S_i (nbeta sqrt(v_i) + gamma S_i) = 1.

    It is the virial identity E[(w - w*)_i dU/dw_i] = 1 with root-mean-square sizes for its two
    factors; on a diagonal quadratic, probed at that width, 1/sqrt(nbeta h_i + gamma).
    """
    pull = arrays.nbeta * jnp.sqrt(second_moment)
    return 2.0 / (pull + jnp.sqrt(pull**2 + 4.0 * arrays.gamma))


def whitening(
    key: PRNGKeyArray,
    form: Form,
    arrays: Arrays,
    minibatch: Callable[[PRNGKeyArray], Minibatch],
    *,
    num_probes: Array | int,
    memory: Array | float,
    corrected: Array | int,
) -> Float[Array, " d"]:
    """The diagonal of S, from moments of the minibatch loss gradient.

    Args:
        key: of the probes.
        form: of the target.
        arrays: its numbers.
        minibatch: draws one.
        num_probes: gradients; without any, S is 1.
        memory: decay of the second moment per probe, which starts at 1.
        corrected: 1 where it is corrected for that start.
    """

    def probe(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        guide, moment = carry
        batch_key, point_key = jax.random.split(jax.random.fold_in(key, t))
        batch = minibatch(batch_key)
        shift = width(arrays, guide) * jax.random.normal(point_key, guide.shape, guide.dtype)
        g = jax.grad(lambda w: loss_on(form, arrays, batch, w))(arrays.w_star + shift)
        guide = GUIDE_MEMORY * guide + (1.0 - GUIDE_MEMORY) * g**2
        return guide, memory * moment + (1.0 - memory) * g**2

    ones = jnp.ones_like(arrays.w_star)
    _, moment = jax.lax.fori_loop(0, num_probes, probe, (ones, ones))
    left = corrected * memory**num_probes
    moment = jnp.maximum(moment - left, 0.0) / (1.0 - left)
    return jnp.where(num_probes > 0, width(arrays, moment), ones)
