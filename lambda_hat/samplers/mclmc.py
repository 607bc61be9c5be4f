"""MCLMC: microcanonical Langevin dynamics, x' = u, u' = -(1 - u u^T) grad U / (d - 1), |u| = 1.

Robnik, De Luca, Silverstein & Seljak (2023); by default its Metropolis-adjusted form, whose
trajectories of length L start from a fresh direction and are accepted or not (Robnik, Cohn-Gordon
& Seljak 2025). The kernels are BlackJAX's. Lengths are in units of sqrt(d) in coordinates
whitened by a diagonal metric, so that the same numbers fit targets of any size and scale: L = 1
crosses a standard normal's typical set once. In warm-up the metric adapts, from the tether's
widths on, and, where adjusted, the step size from `step_size` towards `target_accept`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import blackjax.mcmc.adjusted_mclmc as blackjax_adjusted
import blackjax.mcmc.mclmc as blackjax_plain
import jax
import jax.numpy as jnp
from blackjax.mcmc.integrators import IntegratorState, isokinetic_mclachlan
from blackjax.util import generate_unit_vector
from jaxtyping import Array, PRNGKeyArray

from lambda_hat.conf.samplers import MCLMCConfig as Config
from lambda_hat.samplers import warmup
from lambda_hat.samplers.base import Draw, Info, Plan, Sampler
from lambda_hat.samplers.hmc import hamiltonian_draw
from lambda_hat.target import Arrays, Form, Target, logdensity

DTYPE = "float64"
DRAW_WORK = 0.0
TRIM_TRANSIENT = True
GRADIENTS_PER_STEP = 2
"""McLachlan's integrator evaluates two gradients per step."""
MAX_INTEGRATION_STEPS = 256
"""Bound on L / step_size, so that a step size adapted to almost nothing cannot stall a trial."""
FIRST_INTEGRATION_STEPS = 32
"""The same until the first window closes: the metric is not yet worth long trajectories."""


class State(NamedTuple):
    """All chains, and the adaptation they share."""

    chains: Any
    adaptation: warmup.Adaptation


class Structure(NamedTuple):
    num_chains: int
    adjusted: bool


class Settings(NamedTuple):
    num_warmup: int
    step_size: float
    target_accept: float
    L: float
    windows: warmup.Windows


def num_warmup_of(config: Config) -> int:
    """Transitions of adaptation."""
    return max(20, round(config.warmup_fraction * config.steps))


def plan(config: Config, target: Target) -> Plan:
    """At most `max_draws` draws, evenly spaced after warm-up."""
    num_warmup = num_warmup_of(config)
    thin = max(1, -(-(config.steps - num_warmup) // config.max_draws))
    longer = int(warmup.windows_of(num_warmup).closes[0]) + 1
    return Plan(num_warmup, (config.steps - num_warmup) // thin, thin, turns=(longer,))


def structure_of(config: Config, target: Target) -> Structure:
    """Chains and kind of kernel shape the program."""
    return Structure(config.num_chains, config.adjusted)


def settings_of(config: Config) -> Settings:
    """Numeric settings, passed as traced arguments."""
    num_warmup = num_warmup_of(config)
    return Settings(
        num_warmup,
        float(config.step_size),
        float(config.target_accept),
        float(config.L),
        warmup.windows_of(num_warmup),
    )


def refusal(target: Target, config: Config) -> str | None:
    """The dynamics live on a sphere of directions: one dimension has none."""
    if target.d >= 2:
        return None
    return f"`d >= 2` must hold for mclmc, but got d={target.d}. Use hmc or sgld."


def build(form: Form, structure: Structure) -> Sampler:
    """MCLMC on the targets of one form."""
    transitions = _adjusted if structure.adjusted else _plain
    transition = transitions(form, structure)

    def init(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> State:
        # Not the curvature at w*: stiff there, a parameter may still be as free as the tether lets
        # it be, together with others. On deep networks its widths mislead by orders of magnitude.
        metric = jnp.full_like(arrays.w_star, 1.0) / arrays.gamma
        keys = jax.random.split(key, structure.num_chains)

        def start(key: PRNGKeyArray) -> Any:
            density = functools.partial(logdensity, form, arrays)
            if structure.adjusted:
                return blackjax_adjusted.init(arrays.w_star, density)
            return blackjax_plain.init(arrays.w_star, density, key)

        adaptation = warmup.start(
            settings.step_size,
            metric,
            settings.target_accept,
            from_scores=arrays.w_star.shape[0] > warmup.MANY,
        )
        return State(jax.vmap(start)(keys), adaptation)

    def step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        adapting = i < settings.num_warmup
        chains, info = transition(key, arrays, settings, state, i)
        adaptation = jax.lax.cond(
            adapting,
            lambda: warmup.update(
                state.adaptation,
                i=i,
                windows=settings.windows,
                positions=chains.position,
                scores=chains.logdensity_grad,
                acceptance=jnp.nan_to_num(info.acceptance),
                target_accept=settings.target_accept,
            ),
            lambda: state.adaptation,
        )
        return State(chains, adaptation), info

    def draw(key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array) -> Draw:
        return hamiltonian_draw(arrays, state.chains)

    def summary(arrays: Arrays, settings: Settings, state: State) -> dict[str, Array]:
        adapted = warmup.current_step_size(state.adaptation, jnp.asarray(False))
        return {"step_size": adapted if structure.adjusted else jnp.asarray(settings.step_size)}

    return Sampler(init, step, draw, summary)


def _adjusted(form: Form, structure: Structure) -> Any:
    """Trajectories of length L, jittered between 0 and 2 L, accepted or not."""

    def transition(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[Any, Info]:
        length_key, chain_key = jax.random.split(key)
        step_size = warmup.current_step_size(state.adaptation, i < settings.num_warmup)
        unknown = i <= settings.windows.closes[0]
        most = jnp.where(unknown, FIRST_INTEGRATION_STEPS, MAX_INTEGRATION_STEPS)
        jittered = 2.0 * settings.L * jax.random.uniform(length_key, dtype=step_size.dtype)
        length = jnp.clip(jnp.ceil(jittered / step_size), 1, most)
        metric = state.adaptation.metric.inverse_mass_matrix
        unit = jnp.sqrt(jnp.asarray(metric.shape[0], step_size.dtype))

        def one(key: PRNGKeyArray, chain: Any) -> Any:
            density = functools.partial(logdensity, form, arrays)
            return _trajectory(key, chain, density, step_size * unit, length, metric)

        chains, info = jax.vmap(one)(
            jax.random.split(chain_key, structure.num_chains), state.chains
        )
        work = jnp.full(structure.num_chains, GRADIENTS_PER_STEP * length, metric.dtype)
        diverged = info.is_divergent.astype(metric.dtype)
        return chains, Info(info.acceptance_rate, diverged, jnp.full_like(work, jnp.nan), work)

    return transition


def _trajectory(
    key: PRNGKeyArray, chain: Any, density: Any, step_size: Array, length: Array, metric: Array
) -> Any:
    """One chain's trajectory of `length` steps and whether it is accepted: (chain, info).

    It is BlackJAX's kernel with `L_proposal_factor` infinite, without the two normal vectors that
    the kernel draws in each integration step and, at infinity, throws away: the numbers are the
    same, in about half the time.
    """
    momentum_key, proposal_key = jax.random.split(key)
    momentum = generate_unit_vector(momentum_key, chain.position)
    deterministic: Any = isokinetic_mclachlan(density, metric)
    num_steps: Any = length.astype(jnp.int32)
    propose: Any = blackjax_adjusted.adjusted_mclmc_proposal(
        lambda state, step_size, _, key: deterministic(state, step_size),
        step_size,
        L_proposal_factor=jnp.inf,
        num_integration_steps=num_steps,
    )
    start = IntegratorState(chain.position, momentum, chain.logdensity, chain.logdensity_grad)
    end, info, _ = propose(proposal_key, start)
    return chain._replace(
        position=end.position, logdensity=end.logdensity, logdensity_grad=end.logdensity_grad
    ), info


def _plain(form: Form, structure: Structure) -> Any:
    """One integration step a transition, directions refreshed over a length L, never rejected."""
    kernel: Any = blackjax_plain.build_kernel()

    def transition(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[Any, Info]:
        metric = state.adaptation.metric.inverse_mass_matrix
        unit = jnp.sqrt(jnp.asarray(metric.shape[0], metric.dtype))

        def one(key: PRNGKeyArray, chain: Any) -> Any:
            return kernel(
                rng_key=key,
                state=chain,
                logdensity_fn=functools.partial(logdensity, form, arrays),
                inverse_mass_matrix=metric,
                L=settings.L * unit,
                step_size=settings.step_size * unit,
            )

        chains, info = jax.vmap(one)(jax.random.split(key, structure.num_chains), state.chains)
        ones = jnp.ones(structure.num_chains, metric.dtype)
        failed = 1.0 - info.nonans.astype(metric.dtype)
        return chains, Info(ones * jnp.nan, failed, ones * jnp.nan, GRADIENTS_PER_STEP * ones)

    return transition
