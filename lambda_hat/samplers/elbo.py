"""E_q[log q + U] of a mixture, and its gradient, from noise that is given.

The expectation is stratified: it is sum_m pi_m E_{q_m}[..], so that the weights have exact
derivatives (Morningstar et al. 2021). Draws are reparametrised and log q holds its own parameters
fixed, "sticking the landing" (Roeder, Wu & Duvenaud 2017): where q is the posterior, the gradient
vanishes draw by draw.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lambda_hat.samplers.mixture import density_of, log_density, place, unpack
from lambda_hat.target import Arrays, Form, Minibatch, loss_on, squared_distance


def elbo_gradient(
    form: Form,
    arrays: Arrays,
    batch: Minibatch,
    flat: Float[Array, "M p"],
    scale: Float[Array, " d"],
    noise: Float[Array, "M samples k"],
    *,
    num_used: Array | int,
    group: int,
) -> tuple[Float[Array, "M p"], Float[Array, " 3"]]:
    """The gradient by `flat` on a minibatch; E_q[log q + U], E_q[log q] and E_q[L].

    Each component has the gradient of its own part, times its weight in the sum.

    Args:
        form: of the target.
        arrays: its numbers.
        batch: rows that the loss is of.
        flat: the `Mixture` of z = (w - w*) / S, packed.
        scale: the diagonal of S.
        noise: what `place` makes draws of each component of, after one number to choose by.
        num_used: components of the mixture, which may have room for more.
        group: components that are gone through together; as many groups as are used.
    """
    d = scale.shape[0]
    fixed = unpack(flat, d)
    density, weights = density_of(fixed), jax.nn.softmax(fixed.logits)

    def one(z: Array) -> Array:
        w = arrays.w_star + scale * z
        value = loss_on(form, arrays, batch, w)
        energy = arrays.nbeta * value + 0.5 * arrays.gamma * squared_distance(arrays, w)
        logq = log_density(density, z)
        return jnp.stack([logq + energy, logq, value])

    def mean(row: Array, noise: Array) -> tuple[Array, Array]:
        _, shift, loading, log_scale = (leaf[0] for leaf in unpack(row[None], d))
        found = jax.vmap(one)(place(noise[:, 1:], shift, loading, log_scale)).mean(axis=0)
        return found[0], found

    def move(g: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        first = g * group

        def mine(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, group)

        (_, found), own = jax.vmap(jax.value_and_grad(mean, has_aux=True))(mine(flat), mine(noise))
        news = (mine(weights)[:, None] * own, found)
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, first, 0), carry, news
        )

    nothing = jnp.zeros_like(flat), jnp.zeros((flat.shape[0], 3), scale.dtype)
    gradient, parts = jax.lax.fori_loop(0, -(-num_used // group), move, nothing)
    means = weights @ parts
    return gradient.at[:, 0].set(weights * (parts[:, 0] - means[0])), means


def scale_gradient(
    flat: Float[Array, "M p"], gradient: Float[Array, "M p"], d: int
) -> Float[Array, ""]:
    """Derivative along z -> (1 + e) z for all of q at once."""
    by_size = jnp.vdot(flat[:, 1:], gradient[:, 1:])
    scales = slice(1 + d, 1 + 2 * d)
    return by_size + jnp.sum((1.0 - flat[:, scales]) * gradient[:, scales])
