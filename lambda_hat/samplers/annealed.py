"""Particles on their way from VI's q to the posterior: what q gets wrong, moves put right.

    p_t(w) ~ q(w)^(1-t) exp(-t U(w)),    t from 0 to 1

Annealed importance sampling (Neal 2001) with resampling, which makes it SMC (Del Moral, Doucet &
Jasra 2006): at each temperature particles are weighed, resampled within their group where half of
them would carry the weight, and moved by HMC in coordinates as wide as the particles lie, or, where
there are many parameters, as their gradients say as well (`lambda_hat.samplers.warmup`). At t = 1
the moves leave the posterior as it is, and the particles are drawn from. Groups know nothing of
each other but the step and the widths, so that their spread is an honest error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import blackjax.mcmc.hmc as blackjax_hmc
import jax
import jax.numpy as jnp
from blackjax.smc.ess import ess
from blackjax.smc.resampling import systematic
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.samplers import warmup
from lambda_hat.samplers.base import Draw, Info
from lambda_hat.samplers.mixture import Density, Mixture, density_of, draws_of, log_density
from lambda_hat.target import Arrays, Form, Target, num_rows, potential

GROUPS = 8
"""Independent groups of particles: the chains of the estimate."""
PARTICLES = (64, 16, 4)
"""In each group, where a gradient is cheap, dear and very dear. However many they are, they take as
many moves to forget where they came from: where moves are dear, they are few."""
DEAR = (25_000, 500_000)
"""What a gradient costs that is dear, and very dear: rows times parameters."""
LEAST_ESS = 0.5
"""Share of a group's particles that must carry its weight."""
ACCEPTANCE = 0.8
"""What the step size is adapted towards, while the temperature rises."""
FIRST_STEP = 0.3
"""In units of the particles' widths."""
TRAJECTORY = 1.5
"""Mean length of a trajectory in the same units: a quarter turn of a Gaussian."""
MOST_STEPS = 32
"""Of leapfrog in a trajectory."""


class Particles(NamedTuple):
    """All groups, in the coordinates z = (w - w*) / S."""

    z: Float[Array, "groups particles d"]
    log_weight: Float[Array, "groups particles"]
    log_ratio: Float[Array, "groups particles"]
    """log p - log q where a particle is."""
    potential: Float[Array, "groups particles"]
    """U where it is."""
    virial: Float[Array, "groups particles"]
    """z . grad of the tempered energy: (w - w*) . grad U once t is 1."""
    temperature: Float[Array, ""]
    """t; below 0 where there are no particles yet."""
    step_size: Float[Array, ""]
    metric: Float[Array, " d"]
    """Squared widths of the particles when they were last adapted to."""
    score: Float[Array, " d"]
    """Variances of the tempered log density's gradient where the particles are."""


def particles_of(target: Target) -> int:
    """How many particles a group has on this target."""
    summed = target.arrays.statistics is not None  # A product of matrices stands for the rows.
    rows = target.d**0.5 if summed else num_rows(target.form, target.arrays)
    return PARTICLES[sum(rows * target.d > limit for limit in DEAR)]


def none_yet(d: int, dtype: Any, *, each: int) -> Particles:
    """Particles before they are drawn, `each` of them in each group."""
    none = jnp.zeros((GROUPS, each), dtype)
    z = jnp.zeros((GROUPS, each, d), dtype)
    number = jnp.ones((), dtype)
    ones = jnp.ones(d, dtype)
    return Particles(z, none, none, none, none, -number, FIRST_STEP * number, ones, ones)


def start(
    key: PRNGKeyArray, form: Form, arrays: Arrays, scale: Array, q: Mixture, *, each: int
) -> Particles:
    """Draws of q, at temperature 0, `each` of them in each group."""
    d, r = scale.shape[0], q.loading.shape[1]
    noise = jax.random.normal(key, (GROUPS * each, 1 + d + r), scale.dtype)
    z = draws_of(q, noise).reshape(GROUPS, each, d)
    empty = none_yet(d, scale.dtype, each=each)
    density = density_of(q)
    energy, ratio = jax.lax.map(jax.vmap(lambda z: _weigh(form, arrays, scale, density, z)), z)
    score = jax.lax.map(jax.vmap(jax.grad(lambda z: log_density(density, z))), z)
    zero = jnp.zeros_like(empty.temperature)
    return empty._replace(
        z=z, potential=energy, log_ratio=ratio, temperature=zero, score=_variance(score)
    )


def move(
    key: PRNGKeyArray,
    form: Form,
    arrays: Arrays,
    scale: Array,
    q: Mixture,
    particles: Particles,
    *,
    rise: Array,
    adapting: Array,
) -> tuple[Particles, Info]:
    """One temperature further, by `rise`, and one HMC transition of every particle there.

    `adapting` says whether the step size and the metric follow the particles.
    """
    kernel: Any = blackjax_hmc.build_kernel()
    density, each = density_of(q), particles.z.shape[1]
    before = particles.temperature
    now = jnp.minimum(before + rise, 1.0)
    now = jnp.where(now > 1.0 - 0.5 * rise, 1.0, now)  # Rounding leaves no last step of nothing.
    length_key, group_key = jax.random.split(key)
    widths = _variance(particles.z)
    if scale.shape[0] > warmup.MANY:
        widths = jnp.sqrt(widths / particles.score)
    metric = jnp.where(adapting, widths, particles.metric)
    jitter = 2.0 * jax.random.uniform(length_key, dtype=scale.dtype)
    length = jnp.ceil(jitter * TRAJECTORY / particles.step_size)
    length = jnp.clip(length, 1, MOST_STEPS).astype(jnp.int32)

    def energy(z: Array) -> Array:
        """Log density at the new temperature."""
        own = -potential(form, arrays, arrays.w_star + scale * z)
        # All particles have the same temperature: once it is 1, nothing of q is evaluated.
        left = jax.lax.cond(
            now < 1.0,
            lambda z: (1.0 - now) * log_density(density, z),
            lambda z: jnp.zeros((), z.dtype),
            z,
        )
        return now * own + left

    def one(key: PRNGKeyArray, z: Array) -> Any:
        chain = blackjax_hmc.init(z, energy)
        chain, info = kernel(key, chain, energy, particles.step_size, metric, length)
        height, ratio = _weigh(form, arrays, scale, density, chain.position)
        virial = -jnp.vdot(chain.position, chain.logdensity_grad)
        moved = (chain.position, ratio, height, virial, chain.logdensity_grad)
        return moved, (info.acceptance_rate, info.is_divergent.astype(z.dtype))

    def group(given: tuple[PRNGKeyArray, Array, Array, Array]) -> Any:
        key, z, log_weight, log_ratio = given
        choose_key, move_key = jax.random.split(key)
        log_weight = log_weight + (now - before) * log_ratio
        chosen = systematic(choose_key, jax.nn.softmax(log_weight), each)
        # At the posterior, particles are to weigh the same.
        uneven = (ess(log_weight) < LEAST_ESS * each) | (now >= 1.0)
        z = jnp.where(uneven & (now > before), z[chosen], z)
        log_weight = jnp.where(uneven, 0.0, log_weight)
        moved, measured = jax.vmap(one)(jax.random.split(move_key, each), z)
        return moved, log_weight, jax.tree.map(jnp.mean, measured)

    keys = jax.random.split(group_key, GROUPS)
    given = (keys, particles.z, particles.log_weight, particles.log_ratio)
    (z, ratio, height, virial, score), log_weight, (acceptance, divergence) = jax.lax.map(
        group, given
    )
    adapted = particles.step_size * jnp.exp(jnp.mean(acceptance) - ACCEPTANCE)
    step_size = jnp.where(adapting, adapted, particles.step_size)
    work = each * (length + 1 + 1 / 3)
    info = Info(
        acceptance=acceptance,
        divergence=divergence,
        energy=jnp.full_like(acceptance, jnp.nan),
        work=jnp.full_like(acceptance, work),
    )
    score = _variance(score)
    return Particles(z, log_weight, ratio, height, virial, now, step_size, metric, score), info


def means(arrays: Arrays, scale: Array, particles: Particles) -> Draw:
    """Those of each group: a draw, which counts once the posterior is reached."""
    distance = jnp.mean(jnp.sum((scale * particles.z) ** 2, axis=-1), axis=1)
    loss = (jnp.mean(particles.potential, axis=1) - 0.5 * arrays.gamma * distance) / arrays.nbeta
    weight = jnp.full_like(loss, particles.temperature >= 1.0)
    virial, nothing = jnp.mean(particles.virial, axis=1), jnp.full_like(loss, jnp.nan)
    return Draw(loss, weight, distance, virial, nothing)


def _variance(values: Float[Array, "groups particles d"]) -> Float[Array, " d"]:
    return jnp.var(values, axis=(0, 1))


def _weigh(
    form: Form, arrays: Arrays, scale: Array, density: Density, z: Array
) -> tuple[Array, Array]:
    """U at z, and log p - log q."""
    height = potential(form, arrays, arrays.w_star + scale * z)
    return height, -height - log_density(density, z)
