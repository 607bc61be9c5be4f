"""Replica exchange: HMC at every temperature of a ladder, and swaps between neighbours.

    p_t(w) ~ N(w; w*, I/gamma) exp(-t nbeta (L_n(w) - L_n(w*))),    0 = t_0 < .. < t_R = 1,

from the tether, whose draws are exact and independent, to the posterior. Neighbours exchange their
states with probability min(1, exp((t' - t) nbeta (L_n(w') - L_n(w)))), pairs with an even and with
an odd index in turn, which takes a state up and down the ladder without reversing at random (Syed,
Bouchard-Cote, Deligiannidis & Doucet 2022, JRSS-B 84:321). What chains at t = 1 cannot cross, a
state that went down to the tether and came back has crossed. The kernel between swaps is
BlackJAX's HMC, in coordinates whitened by a metric of the temperature's own
(`lambda_hat.references.rung_metric`), its steps jittered.

It fills the interface of a sampler (`lambda_hat.samplers.base`); its chains are whole ladders, of
which a draw is what stands at t = 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax.mcmc.hmc as blackjax_hmc
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lambda_hat.references import ladder
from lambda_hat.references.rung_metric import (
    Moments,
    covariance_of,
    gradient_in_w,
    no_moments,
    observe,
    root_of,
    times,
)
from lambda_hat.samplers import warmup
from lambda_hat.samplers.base import Draw, Info, Plan, Sampler
from lambda_hat.samplers.surrogate import Stride, integrator_of, stride_of, work_of
from lambda_hat.target import Arrays, Form, Target, logdensity, loss

DTYPE = "float64"
DRAW_WORK = 0.0
"""Every state carries its loss: recording a draw costs nothing."""
TRIM_TRANSIENT = False
JITTER = 10.0
"""The largest step over the smallest; between them each transition draws its own, log-uniformly."""
FIRST_STEP_SIZE = 0.3
SWAPS = 4
"""Rounds of swaps in an iteration, by pairs with an even and with an odd index. They cost nothing
beside the transitions, and a state goes up and down as many rungs in the time of one."""


@dataclass(frozen=True)
class Config:
    """One run of ladders."""

    temperatures: tuple[float, ...]
    """From 0 to 1, where adaptation begins; their number stays."""
    num_chains: int
    """Ladders, independent of each other but for the adaptation that they share."""
    num_warmup: int
    """Iterations of adaptation."""
    steps: int
    """Iterations, those of the adaptation included."""
    target_accept: float
    step_scale: float
    """Steps after adaptation, in units of those that it found."""
    num_integration_steps: int
    dense_metric_max_dim: int


class Tuning(NamedTuple):
    """What adaptation finds. `moving` rungs are all but the tether, which needs no kernel."""

    temperatures: Float[Array, " rungs"]
    log_step_size: Float[Array, " moving"]
    root: Array
    """Of the metric: Cholesky factors of a covariance [moving, d, d], or widths [moving, d]."""


class Totals(NamedTuple):
    """Sums over the iterations of one round, and over all that follow adaptation."""

    iterations: Float[Array, " chains"]
    swap: Float[Array, "pairs chains"]
    """Probability of a swap."""
    acceptance: Float[Array, "moving chains"]
    divergence: Float[Array, "moving chains"]
    excess: Float[Array, "rungs chains"]
    """L_n(w) - L_n(w*)."""
    weight: Float[Array, "pairs chains"]
    """exp(-(t' - t) nbeta (L_n(w) - L_n(w*))), whose mean is the ratio of two normalisers."""


class Replicas(NamedTuple):
    """Where replicas stand, and what is known of the loss there."""

    position: Float[Array, "rungs chains d"]
    loss: Float[Array, "rungs chains"]
    slope: Float[Array, "rungs chains d"]
    """Gradient of the loss."""


class State(NamedTuple):
    """Replicas by rung and ladder, and what has been learned about the rungs."""

    replicas: Replicas
    last_end: Int[Array, "rungs chains"]
    """The end that a replica was at last: -1 the posterior, 1 the tether, 0 neither yet."""
    round_trips: Int[Array, " chains"]
    """Arrivals at the tether of replicas from the posterior."""
    init_loss: Float[Array, ""]
    tuning: Tuning
    moments: Moments
    totals: Totals


class Structure(NamedTuple):
    num_rungs: int
    num_chains: int
    dense_metric_max_dim: int


class Settings(NamedTuple):
    temperatures: tuple[float, ...]
    rounds: ladder.Rounds
    target_accept: float
    step_scale: float
    num_integration_steps: int


def plan(config: Config, target: Target) -> Plan:
    """Every iteration after adaptation is a draw."""
    return Plan(config.num_warmup, config.steps - config.num_warmup, 1)


def structure_of(config: Config, target: Target) -> Structure:
    """Rungs, ladders and kind of metric shape the program."""
    return Structure(len(config.temperatures), config.num_chains, config.dense_metric_max_dim)


def settings_of(config: Config) -> Settings:
    """Numeric settings, passed as traced arguments."""
    return Settings(
        config.temperatures,
        ladder.rounds_of(config.num_warmup),
        float(config.target_accept),
        float(config.step_scale),
        config.num_integration_steps,
    )


def refusal(target: Target, config: Config) -> str | None:
    """Replica exchange takes any target."""
    return None


def build(form: Form, structure: Structure) -> Sampler:
    """Replica exchange on the targets of one form."""
    moves = functools.partial(_move, form)

    def losses(arrays: Arrays, position: Array) -> tuple[Array, Array]:
        value_and_slope = jax.value_and_grad(lambda w: loss(form, arrays, w))
        return jax.vmap(jax.vmap(value_and_slope))(position)

    def init(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> State:
        temperatures = jnp.stack([jnp.asarray(t) for t in settings.temperatures])
        position, root = _starts(key, form, arrays, temperatures, structure)
        steps = jnp.full(len(temperatures) - 1, math.log(FIRST_STEP_SIZE), position.dtype)
        return State(
            Replicas(position, *losses(arrays, position)),
            last_end=jnp.zeros(position.shape[:2], jnp.int32),
            round_trips=jnp.zeros(structure.num_chains, jnp.int32),
            init_loss=loss(form, arrays, arrays.w_star),
            tuning=Tuning(temperatures, steps, root),
            moments=no_moments(root),
            totals=_no_totals(structure, position.dtype),
        )

    def step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        move_key, tether_key, swap_key = jax.random.split(key, 3)
        stride = stride_of(form, arrays, settings.num_integration_steps)
        scale = jnp.where(i < settings.rounds.end, 1.0, settings.step_scale)
        step_size = scale * jnp.exp(state.tuning.log_step_size)
        moved, info, energy = moves(move_key, arrays, state, step_size, stride)
        shape, dtype = moved.position.shape[1:], moved.position.dtype
        normal = jax.random.normal(tether_key, shape, dtype)
        exact = (arrays.w_star + normal / jnp.sqrt(arrays.gamma))[None]
        replicas = Replicas(exact, *losses(arrays, exact))
        replicas = jax.tree.map(lambda *x: jnp.concatenate(x), replicas, moved)
        state = state._replace(replicas=replicas)
        swap = _swap_probability(arrays, state)
        state = state._replace(totals=_add(arrays, state, swap, info))
        state = _sweep(swap_key, arrays, state, i)
        state = jax.lax.cond(
            i < settings.rounds.end,
            lambda: _adapt(arrays, state, settings, info.acceptance_rate, i),
            lambda: state,
        )
        moving, chains = info.acceptance_rate.shape
        work = jnp.full(chains, 1.0 + moving * work_of(form, arrays, stride))
        divergence = info.is_divergent[-1].astype(energy.dtype)
        return state, Info(info.acceptance_rate[-1], divergence, energy[-1], work)

    def draw(key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array) -> Draw:
        at_posterior = jax.tree.map(lambda x: x[-1], state.replicas)
        shift = at_posterior.position - arrays.w_star
        distance = jnp.sum(shift**2, axis=-1)
        pull = arrays.nbeta * jnp.sum(shift * at_posterior.slope, axis=-1)
        value = at_posterior.loss
        virial, nothing = pull + arrays.gamma * distance, jnp.full_like(value, jnp.nan)
        return Draw(value, jnp.ones_like(value), distance, virial, nothing)

    def summary(arrays: Arrays, settings: Settings, state: State) -> dict[str, Array]:
        return {"step_size": settings.step_scale * jnp.exp(state.tuning.log_step_size[-1])}

    return Sampler(init, step, draw, summary)


def part_of(state: State, ladders: slice) -> State:
    """The state of some ladders, which after adaptation have nothing to do with the others."""
    replicas, last_end = jax.tree.map(lambda x: x[:, ladders], (state.replicas, state.last_end))
    return state._replace(
        replicas=replicas,
        last_end=last_end,
        round_trips=state.round_trips[ladders],
        totals=jax.tree.map(lambda x: x[..., ladders], state.totals),
    )


def joined(parts: Sequence[State]) -> State:
    """The state of all ladders, from those of some each."""
    replicas, last_end = jax.tree.map(
        lambda *x: jnp.concatenate(x, axis=1), *((part.replicas, part.last_end) for part in parts)
    )
    return parts[0]._replace(
        replicas=replicas,
        last_end=last_end,
        round_trips=jnp.concatenate([part.round_trips for part in parts]),
        totals=jax.tree.map(
            lambda *x: jnp.concatenate(x, axis=-1), *(part.totals for part in parts)
        ),
    )


def _starts(
    key: PRNGKeyArray, form: Form, arrays: Arrays, temperatures: Array, structure: Structure
) -> tuple[Float[Array, "rungs chains d"], Array]:
    """Positions of all replicas, half of the ladders at w*; and roots of the Laplace metrics."""
    metric_key, start_key = jax.random.split(key)
    dense = arrays.w_star.shape[0] <= structure.dense_metric_max_dim

    def at(temperature: Array) -> tuple[Array, Array]:
        tempered = arrays._replace(nbeta=temperature * arrays.nbeta)
        covariance = warmup.laplace_covariance(metric_key, form, tempered, dense=dense)
        position = warmup.overdispersed_starts(
            start_key, form, tempered, covariance, num_chains=structure.num_chains, scale=1.0
        )
        return position, covariance

    # One temperature after the other: two batches of Cholesky factors at once, in a process of two
    # threads, wait for each other for good (jaxlib runs a batch on the threads that call it).
    position, covariance = jax.lax.map(at, temperatures)
    return position, root_of(covariance[1:])


def _move(
    form: Form,
    key: PRNGKeyArray,
    arrays: Arrays,
    state: State,
    step_size: Float[Array, " moving"],
    stride: Stride,
) -> tuple[Replicas, Any, Float[Array, "moving chains"]]:
    """One HMC transition of every replica but those of the tether: replicas, infos, energies.

    A replica at w_0 moves in coordinates z, w = w_0 + root z, in which the metric is the identity.
    The log density at its end gives the loss, and its gradient that of the loss.
    """
    tuning = state.tuning

    def one(key: PRNGKeyArray, temperature: Any, step_size: Any, root: Any, replica: Any) -> Any:
        position, value, slope = replica
        tempered = arrays._replace(nbeta=temperature * arrays.nbeta)

        def place(z: Array) -> Array:
            return position + times(root, z)

        def density(z: Array) -> Array:
            return logdensity(form, tempered, place(z))

        shift = position - arrays.w_star
        start = blackjax_hmc.HMCState(
            jnp.zeros_like(position),
            -tempered.nbeta * value - 0.5 * arrays.gamma * jnp.vdot(shift, shift),
            times(root.T, -tempered.nbeta * slope - arrays.gamma * shift),
        )
        jitter_key, kernel_key = jax.random.split(key)
        jitter = JITTER ** -jax.random.uniform(jitter_key, dtype=position.dtype)
        unit = jnp.ones_like(position)
        kernel: Any = blackjax_hmc.build_kernel(integrator_of(form, tempered, stride, place))
        end, info = kernel(kernel_key, start, density, jitter * step_size, unit, stride.length)
        energy = 0.5 * jnp.vdot(info.momentum, info.momentum) - start.logdensity
        moved = place(end.position)
        shift = moved - arrays.w_star
        pull = gradient_in_w(root, end.logdensity_grad) + arrays.gamma * shift
        height = end.logdensity + 0.5 * arrays.gamma * jnp.vdot(shift, shift)
        return Replicas(moved, -height / tempered.nbeta, -pull / tempered.nbeta), info, energy

    of_a_rung = jax.vmap(one, in_axes=(0, None, None, None, 0))
    return jax.vmap(of_a_rung)(
        jax.random.split(key, state.last_end[1:].shape),
        tuning.temperatures[1:],
        step_size,
        tuning.root,
        jax.tree.map(lambda x: x[1:], state.replicas),
    )


def _swap_probability(arrays: Arrays, state: State) -> Float[Array, "pairs chains"]:
    """min(1, exp((t' - t) nbeta (L' - L))); 0 where a loss is not finite."""
    apart = jnp.diff(state.tuning.temperatures)[:, None]
    log_ratio = apart * arrays.nbeta * jnp.diff(state.replicas.loss, axis=0)
    return jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))


def _sweep(key: PRNGKeyArray, arrays: Arrays, state: State, i: Array) -> State:
    """All swaps of one iteration, one after the other, and the trips that ended with them.

    A replica that goes through an end and leaves it in the same iteration has not been there: it
    is neither drawn anew nor recorded.
    """

    def exchange(turn: Array, state: State) -> State:
        probability = _swap_probability(arrays, state)
        return _exchange(jax.random.fold_in(key, turn), state, probability, turn)

    state = jax.lax.fori_loop(SWAPS * i, SWAPS * (i + 1), exchange, state)
    arrived = (state.last_end[0] == -1).astype(jnp.int32)
    return state._replace(
        last_end=state.last_end.at[0].set(1).at[-1].set(-1),
        round_trips=state.round_trips + arrived,
    )


def _exchange(
    key: PRNGKeyArray, state: State, probability: Float[Array, "pairs chains"], turn: Array
) -> State:
    """Swaps neighbours, pairs with an even lower index in even turns."""
    rungs, chains = state.last_end.shape
    paired = (jnp.arange(rungs - 1) % 2 == turn % 2)[:, None]
    swaps = paired & (jax.random.uniform(key, probability.shape, probability.dtype) < probability)
    none = jnp.zeros((1, chains), bool)
    upwards = jnp.concatenate([swaps, none]).astype(jnp.int32)
    downwards = jnp.concatenate([none, swaps]).astype(jnp.int32)
    source = jnp.arange(rungs)[:, None] + upwards - downwards

    def swapped(x: Array) -> Array:
        return jnp.take_along_axis(x, source if x.ndim == 2 else source[..., None], axis=0)

    replicas, last_end = jax.tree.map(swapped, (state.replicas, state.last_end))
    return state._replace(replicas=replicas, last_end=last_end)


def _add(arrays: Arrays, state: State, swap: Array, info: Any) -> Totals:
    """The totals with one more iteration."""
    excess = state.replicas.loss - state.init_loss
    apart = jnp.diff(state.tuning.temperatures)[:, None]
    new = Totals(
        iterations=jnp.ones(excess.shape[1], excess.dtype),
        swap=swap,
        acceptance=info.acceptance_rate,
        divergence=info.is_divergent.astype(excess.dtype),
        excess=excess,
        weight=jnp.exp(-apart * arrays.nbeta * excess[:-1]),
    )
    return jax.tree.map(jnp.add, state.totals, new)


def _no_totals(structure: Structure, dtype: Any) -> Totals:
    rungs, chains, _ = structure
    moving = jnp.zeros((rungs - 1, chains), dtype)
    excess = jnp.zeros((rungs, chains), dtype)
    return Totals(jnp.zeros(chains, dtype), moving, moving, moving, excess, moving)


def _adapt(arrays: Arrays, state: State, settings: Settings, acceptance: Array, i: Array) -> State:
    """One iteration of adaptation: steps always, metrics and temperatures where a round closes."""
    rounds, tuning = settings.rounds, state.tuning
    error = jnp.mean(acceptance, axis=1) - settings.target_accept
    steps = tuning.log_step_size + ladder.gain(rounds, i) * error
    nbeta = tuning.temperatures[1:, None, None] * arrays.nbeta
    pull = arrays.gamma * (state.replicas.position[1:] - arrays.w_star)
    moments = observe(state.moments, -nbeta * state.replicas.slope[1:] - pull)
    state = state._replace(tuning=tuning._replace(log_step_size=steps), moments=moments)
    closes = jnp.any(i == jnp.asarray(rounds.closes))
    return jax.lax.cond(closes, lambda: _close(state, i + 1 >= rounds.end), lambda: state)


def _close(state: State, last: Array) -> State:
    """The state at the end of a round: new temperatures and metrics, except after the last."""
    totals, old = state.totals, state.tuning
    rejection = 1.0 - jnp.mean(totals.swap / totals.iterations, axis=1)
    temperatures = ladder.equal_rejection(old.temperatures, rejection, len(rejection) + 1)
    between = ladder.Between.of(old.temperatures[1:], temperatures[1:])
    covariance = between.interpolate(covariance_of(state.moments, old.root))
    new = Tuning(temperatures, between.interpolate(old.log_step_size), root_of(covariance))
    return state._replace(
        tuning=jax.tree.map(lambda x, y: jnp.where(last, x, y), old, new),
        moments=jax.tree.map(jnp.zeros_like, state.moments),
        totals=jax.tree.map(jnp.zeros_like, totals),
        round_trips=jnp.zeros_like(state.round_trips),
    )
