"""A population of particles, tempered and moved by compiled programs.

    p_t(w) ~ N(w; w*, I/gamma) exp(-t nbeta (L_n(w) - L_n(w*))),    t from 0 to 1,

so that a temperature t is nothing but another nbeta. Weights, resampling and moves are BlackJAX's
(`smc.ess`, `smc.solver`, `smc.resampling`, `mcmc.hmc`). Unlike its adaptive tempered kernel, which
moves at the old temperature and then weighs, particles here are weighed, resampled and then moved
at the new one: they end as equally weighted draws, and metric and step belong to what they move in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax.mcmc.hmc as blackjax_hmc
import jax
import jax.numpy as jnp
from blackjax.mcmc.metrics import default_metric
from blackjax.smc.ess import ess, ess_solver
from blackjax.smc.resampling import systematic
from blackjax.smc.solver import dichotomy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lambda_hat.samplers.hmc import hamiltonian_draw
from lambda_hat.samplers.program import COMPILED
from lambda_hat.target import (
    Arrays,
    Form,
    Target,
    block_rows,
    logdensity,
    loss,
    num_rows,
    squared_distance,
)

TARGET_ESS = 0.5
"""Share of the particles that stays effective from one temperature to the next."""
BATCH_NUMBERS = {"cpu": 2**18}
"""Bounds the numbers that particles evaluated together keep: what a core's cache holds."""
ACCELERATOR_NUMBERS = 2**26
"""The same where there is memory bandwidth: half a GiB of float64."""


class Population(NamedTuple):
    """Equally weighted particles at one temperature."""

    position: Float[Array, "particles d"]
    excess: Float[Array, " particles"]
    """L_n(w) - L_n(w*)."""
    distance: Float[Array, " particles"]
    """|w - w*|^2."""
    root: Int[Array, " particles"]
    """Which draw of the tether each particle descends from."""
    temperature: Float[Array, ""]


class Weighing(NamedTuple):
    """What one change of temperature learned."""

    covariance: Array
    """Of the particles at the new temperature, [d, d] or its diagonal [d]: the metric."""
    log_z: Float[Array, ""]
    """Growth of log Z."""
    ess: Float[Array, ""]
    """Effective number of particles behind the new ones."""
    unique: Int[Array, ""]
    """Draws of the tether with a living descendant."""


class Moved(NamedTuple):
    """What one sweep over all particles measured."""

    acceptance: Float[Array, ""]
    divergence: Float[Array, ""]
    virial: Float[Array, ""]
    """Mean of (w - w*) . grad U, whose exact value is d."""
    excess: Float[Array, ""]
    excess_variance: Float[Array, ""]
    below: Float[Array, ""]
    """Share of the particles with a loss below that of w*."""


class Programs(NamedTuple):
    """The functions of one shape of target."""

    start: Callable[..., Population]
    """(key, arrays, init_loss) -> exact draws of the tether."""
    temper: Callable[..., tuple[Population, Weighing]]
    """(key, arrays, population) -> the population at the next temperature."""
    sweep: Callable[..., tuple[Population, Moved]]
    """(key, arrays, init_loss, population, covariance, step_size, length) -> every one moved."""


def shape_of(target: Target, *, num_particles: int, dense_metric_max_dim: int) -> tuple[int, bool]:
    """How many particles are evaluated together, and whether their metric is dense."""
    most = BATCH_NUMBERS.get(jax.default_backend(), ACCELERATOR_NUMBERS)
    rows = min(num_rows(target.form, target.arrays), block_rows())
    numbers = rows * math.sqrt(target.d) + target.d
    batch = max(1, min(num_particles, int(most / numbers)))
    return batch, target.d <= dense_metric_max_dim


@functools.lru_cache(maxsize=16)
def build(form: Form, num_particles: int, batch: int, dense: bool) -> Programs:
    """Jitted functions of populations on one form; arrays and temperatures are arguments."""
    kernel: Any = blackjax_hmc.build_kernel()

    def over_particles(function: Callable, *args: Array) -> Any:
        if batch >= num_particles:
            return jax.vmap(function)(*args)
        return jax.lax.map(lambda each: function(*each), args, batch_size=batch)

    def start(key: PRNGKeyArray, arrays: Arrays, init_loss: Array) -> Population:
        shape = (num_particles, arrays.w_star.shape[0])
        normal = jax.random.normal(key, shape, arrays.w_star.dtype)
        position = arrays.w_star + normal / jnp.sqrt(arrays.gamma)
        excess = over_particles(lambda w: loss(form, arrays, w), position) - init_loss
        distance = jax.vmap(lambda w: squared_distance(arrays, w))(position)
        return Population(
            position, excess, distance, jnp.arange(num_particles), jnp.zeros((), excess.dtype)
        )

    def temper(
        key: PRNGKeyArray, arrays: Arrays, population: Population
    ) -> tuple[Population, Weighing]:
        finite = jnp.isfinite(population.excess)
        loglikelihood = jnp.where(finite, -arrays.nbeta * population.excess, -jnp.inf)
        left = 1.0 - population.temperature
        delta = ess_solver(lambda given: given, loglikelihood, TARGET_ESS, left, dichotomy)
        log_weights = delta * loglikelihood
        weights = jax.nn.softmax(log_weights)
        effective = ess(log_weights)
        chosen = systematic(key, weights, num_particles)
        fields = jax.tree.map(lambda x: x[chosen], population._replace(temperature=chosen))
        # Exactly 1 at the end, where rounding would otherwise leave a last step of nothing.
        temperature = jnp.where(delta >= left, 1.0, population.temperature + delta)
        tempered = fields._replace(temperature=temperature)
        weighing = Weighing(
            covariance=weighted_covariance(population.position, weights, effective, dense),
            log_z=jax.nn.logsumexp(log_weights) - math.log(num_particles),
            ess=jnp.asarray(effective),
            unique=jnp.sum(jnp.bincount(tempered.root, length=num_particles) > 0),
        )
        return tempered, weighing

    def sweep(
        key: PRNGKeyArray,
        arrays: Arrays,
        init_loss: Array,
        population: Population,
        covariance: Array,
        step_size: Array,
        length: Array,
    ) -> tuple[Population, Moved]:
        tempered = arrays._replace(nbeta=population.temperature * arrays.nbeta)
        density = functools.partial(logdensity, form, tempered)
        metric = default_metric(covariance)  # Once for all particles: it factorises a matrix.

        def move(key: PRNGKeyArray, w: Array) -> Any:
            chain = blackjax_hmc.init(w, density)
            chain, info = kernel(key, chain, density, step_size, metric, length)
            return chain, info.acceptance_rate, info.is_divergent

        keys = jax.random.split(key, num_particles)
        chains, acceptance, divergent = over_particles(move, keys, population.position)
        draw = hamiltonian_draw(tempered, chains)
        excess = draw.loss - init_loss
        rounding = 1e-12 * (1.0 + jnp.abs(init_loss))
        moved = population._replace(position=chains.position, excess=excess, distance=draw.distance)
        return moved, Moved(
            acceptance=jnp.mean(acceptance),
            divergence=jnp.mean(divergent.astype(excess.dtype)),
            virial=jnp.mean(draw.virial),
            excess=jnp.mean(excess),
            excess_variance=jnp.var(excess),
            below=jnp.mean(excess < -rounding),
        )

    return Programs(jax.jit(start), jax.jit(temper), jax.jit(sweep))


def compile_programs(
    programs: Programs, target: Target, init_loss: Array
) -> tuple[Programs, float]:
    """The programs compiled for one shape of target, and the seconds that took."""
    before, arrays, key = COMPILED.seconds, target.arrays, jax.random.key(0)
    start = COMPILED.get(programs.start, key, arrays, init_loss)
    population = jax.eval_shape(programs.start, key, arrays, init_loss)
    temper = COMPILED.get(programs.temper, key, arrays, population)
    covariance = jax.eval_shape(programs.temper, key, arrays, population)[1].covariance
    numbers = (jnp.zeros((), init_loss.dtype), jnp.zeros((), jnp.int32))
    sweep = COMPILED.get(programs.sweep, key, arrays, init_loss, population, covariance, *numbers)
    return Programs(start, temper, sweep), COMPILED.seconds - before


def weighted_covariance(position: Any, weights: Any, effective: Any, dense: bool) -> Array:
    """Weighted covariance, shrunk to its diagonal where there are few particles a dimension."""
    centred = position - weights @ position
    diagonal = weights @ centred**2
    if not dense:
        return jnp.asarray(diagonal)
    d = position.shape[1]
    full = (centred * weights[:, None]).T @ centred
    share = d / (d + effective)
    return (1.0 - share) * full + share * jnp.diag(diagonal)
