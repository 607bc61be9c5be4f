"""Hamiltonian Monte Carlo: w' = leapfrog^k(w, p), accepted with min(1, exp(H - H')).

Neal (2011), MCMC using Hamiltonian dynamics; the kernel is BlackJAX's. Each transition draws
its number of leapfrog steps k uniformly from 1 to twice the mean, the same for all chains, so
that no trajectory length resonates with a direction of the target.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import blackjax.mcmc.hmc as blackjax_hmc
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from lambda_hat.conf.samplers import HMCConfig as Config
from lambda_hat.samplers import warmup
from lambda_hat.samplers.base import Draw, Info, Plan, Sampler
from lambda_hat.samplers.metric import coordinates, metric_of, momentum_root
from lambda_hat.samplers.surrogate import integrator_of, stride_of, work_of
from lambda_hat.target import Arrays, Form, Target, logdensity, squared_distance

DTYPE = "float64"
DRAW_WORK = 0.0
"""The potential at hand gives the loss: recording a draw costs nothing."""
TRIM_TRANSIENT = False
OVERDISPERSION = 2.0
FIRST_STEP_SIZE = 0.1
LONG_ENOUGH = 1.2
"""Mean length of a trajectory, in units of the tether's width, where widths are of the metric."""


class State(NamedTuple):
    """All chains, and the adaptation they share."""

    chains: blackjax_hmc.HMCState
    adaptation: warmup.Adaptation
    momentum_root: Array
    """Root of the mass matrix, or its diagonal, in the metric's coordinates."""

    @classmethod
    def of(cls, chains: blackjax_hmc.HMCState, adaptation: warmup.Adaptation) -> State:
        """Chains with the root that their metric has."""
        return cls(chains, adaptation, momentum_root(adaptation.metric.inverse_mass_matrix))


class Structure(NamedTuple):
    num_chains: int
    dense_metric_max_dim: int
    gradient_widths: bool


class Settings(NamedTuple):
    num_warmup: int
    target_accept: float
    num_integration_steps: int
    windows: warmup.Windows


def plan(config: Config, target: Target) -> Plan:
    """Every transition after warm-up is a draw."""
    return Plan(config.num_warmup, config.steps - config.num_warmup, 1)


def structure_of(config: Config, target: Target) -> Structure:
    """Chains and kind of metric shape the program."""
    return Structure(config.num_chains, config.dense_metric_max_dim, config.gradient_widths)


def settings_of(config: Config) -> Settings:
    """Numeric settings, passed as traced arguments."""
    return Settings(
        config.num_warmup,
        float(config.target_accept),
        config.num_integration_steps,
        warmup.windows_of(config.num_warmup),
    )


def refusal(target: Target, config: Config) -> str | None:
    """HMC takes any target."""
    return None


def build(form: Form, structure: Structure) -> Sampler:
    """HMC on the targets of one form."""

    def from_scores(arrays: Arrays) -> bool:
        many = arrays.w_star.shape[0] > warmup.MANY
        return structure.gradient_widths and many and arrays.narrow is None

    def init(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> State:
        metric_key, start_key = jax.random.split(key)
        dense = arrays.w_star.shape[0] <= structure.dense_metric_max_dim
        covariance = (
            warmup.laplace_covariance(metric_key, form, arrays, dense=dense)
            if arrays.narrow is None
            else arrays.narrow.variance
        )
        positions = warmup.overdispersed_starts(
            start_key,
            form,
            arrays,
            covariance,
            num_chains=structure.num_chains,
            scale=OVERDISPERSION,
        )
        step_size = jnp.asarray(FIRST_STEP_SIZE, arrays.w_star.dtype)
        return State.of(
            jax.vmap(lambda w: blackjax_hmc.init(w, functools.partial(logdensity, form, arrays)))(
                positions
            ),
            warmup.start(
                step_size, covariance, settings.target_accept, from_scores=from_scores(arrays)
            ),
        )

    def step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        length_key, chain_key = jax.random.split(key)
        adapting = i < settings.num_warmup
        step_size = warmup.current_step_size(state.adaptation, adapting)
        mean = settings.num_integration_steps
        if arrays.narrow is not None:
            mean = jnp.clip(jnp.ceil(LONG_ENOUGH / step_size).astype(jnp.int32), 1, mean)
        stride = stride_of(form, arrays, jax.random.randint(length_key, (), 1, 2 * mean + 1))
        metric = metric_of(arrays, state.adaptation.metric.inverse_mass_matrix, state.momentum_root)
        kernel: Any = blackjax_hmc.build_kernel(integrator_of(form, arrays, stride))

        def transition(key: PRNGKeyArray, chain: Any) -> Any:
            density = functools.partial(logdensity, form, arrays)
            return kernel(key, chain, density, step_size, metric, stride.length)

        keys = jax.random.split(chain_key, structure.num_chains)
        chains, info = jax.vmap(transition)(keys, state.chains)
        adaptation = jax.lax.cond(
            adapting,
            lambda: warmup.update(
                state.adaptation,
                i=i,
                windows=settings.windows,
                positions=coordinates(arrays, chains.position),
                scores=chains.logdensity_grad,
                acceptance=info.acceptance_rate,
                target_accept=settings.target_accept,
            ),
            lambda: state.adaptation,
        )
        root = jax.lax.cond(
            adapting & jnp.any(i == settings.windows.closes),
            lambda: momentum_root(adaptation.metric.inverse_mass_matrix),
            lambda: state.momentum_root,
        )
        work = jnp.full(structure.num_chains, work_of(form, arrays, stride))
        kinetic = jax.vmap(metric.kinetic_energy)(info.momentum)
        measured = Info(
            acceptance=info.acceptance_rate,
            divergence=info.is_divergent.astype(work.dtype),
            energy=jnp.asarray(kinetic - state.chains.logdensity),
            work=work,
        )
        return State(chains, adaptation, root), measured

    def draw(key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array) -> Draw:
        return hamiltonian_draw(arrays, state.chains)

    def summary(arrays: Arrays, settings: Settings, state: State) -> dict[str, Array]:
        return {"step_size": warmup.current_step_size(state.adaptation, jnp.asarray(False))}

    return Sampler(init, step, draw, summary)


def part_of(state: State, chains: slice) -> State:
    """The state of some chains, which after adaptation have nothing to do with the others."""
    return state._replace(chains=jax.tree.map(lambda x: x[chains], state.chains))


def joined(parts: Sequence[State]) -> State:
    """The state of all chains, from those of some each."""
    chains = jax.tree.map(lambda *x: jnp.concatenate(x), *(part.chains for part in parts))
    return parts[0]._replace(chains=chains)


def hamiltonian_draw(arrays: Arrays, chains: Any) -> Draw:
    """A draw from states that carry log p and its gradient: no further evaluation needed."""
    distance = jax.vmap(lambda w: squared_distance(arrays, w))(chains.position)
    loss = (-chains.logdensity - 0.5 * arrays.gamma * distance) / arrays.nbeta
    shift = chains.position - arrays.w_star
    virial = -jnp.sum(shift * chains.logdensity_grad, axis=-1)
    return Draw(loss, jnp.ones_like(loss), distance, virial, jnp.full_like(loss, jnp.nan))
