"""SGLD: w <- w - eta_t/2 P (nbeta g_B(w) + gamma (w - w*)) + sqrt(eta_t P) N(0, I).

Welling & Teh (2011), with a diagonal preconditioner P = 1/(sqrt(v) + eps) as in Li et al.
(2016). The moments v are those of the minibatch loss gradient g_B alone (neither noise nor
tether) and start at 1; `rmsprop` uses them as they are, `adam` with the longer memory of that
optimiser and, from when they are frozen, corrected for their start. A moving preconditioner would
bias the stationary law, so P is frozen after warm-up. The first moment of Adam is not used: it
would make the drift a momentum, whose stationary law is another. Steps decay as
eta_t = eta0 (1 + t/t0)^-gamma, and a draw weighs its step size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.conf.samplers import SGLDConfig as Config
from lambda_hat.samplers.base import Draw, Info, Plan, Sampler
from lambda_hat.samplers.recording import affordable_draws
from lambda_hat.samplers.shapes import rows_of
from lambda_hat.target import (
    Arrays,
    Form,
    Target,
    draw_minibatch,
    loss,
    loss_on,
    num_rows,
    squared_distance,
)

DTYPE = "float32"
DRAW_WORK = 1 / 3
TRIM_TRANSIENT = True
EPSILON = 1e-5
"""Keeps the preconditioner finite where a gradient vanishes."""
MEMORY = {"none": 1.0, "rmsprop": 0.99, "adam": 0.999}
"""Decay of the second moment per step."""
SHARED_ROWS = 128
"""Room for rows in a program that trials share."""


class State(NamedTuple):
    """All chains: positions and second moments, each [chains, d]."""

    position: Float[Array, "chains d"]
    second_moment: Float[Array, "chains d"]


class Structure(NamedTuple):
    num_chains: int
    rows: int


class Settings(NamedTuple):
    num_warmup: int
    batch: int
    memory: float
    preconditioned: int
    """0 where P is 1."""
    corrected: int
    """1 where the second moment is corrected for its start at 1."""
    eta0: float
    gamma: float
    t0: float


def num_warmup_of(config: Config) -> int:
    """Steps before the first draw that counts."""
    return max(1, round(config.warmup_fraction * config.steps))


def plan(config: Config, target: Target) -> Plan:
    """Draws evenly spaced after warm-up: `max_draws`, or as many as cost what the steps do."""
    num_warmup, chains = num_warmup_of(config), config.num_chains
    steps = config.steps - num_warmup
    affordable = affordable_draws(target, steps * chains * config.batch, chains)
    thin = max(1, -(-steps // min(config.max_draws, affordable)))
    return Plan(num_warmup, steps // thin, thin)


def structure_of(config: Config, target: Target) -> Structure:
    """Chains, and room for rows, shape the program."""
    return Structure(config.num_chains, rows_of(target, config.batch, least=SHARED_ROWS))


def settings_of(config: Config) -> Settings:
    """Numeric settings, passed as traced arguments: the preconditioners are one program."""
    kind = config.precond_type
    return Settings(
        num_warmup_of(config),
        config.batch,
        MEMORY[kind],
        int(kind != "none"),
        int(kind == "adam"),
        float(config.eta0),
        float(config.gamma),
        max(1.0, config.decay_fraction * config.steps),
    )


def refusal(target: Target, config: Config) -> str | None:
    """SGLD takes any target."""
    return None


def eta(settings: Settings, i: Array) -> Array:
    """Step size of step i."""
    t = i.astype(jnp.result_type(settings.eta0))
    return settings.eta0 * (1.0 + t / settings.t0) ** -settings.gamma


def preconditioner(settings: Settings, second_moment: Array, i: Array | int) -> Array:
    """P of step i: the moment is corrected for its start once it is frozen.

    At w*, where chains start, gradients vanish: corrected from the first step on, their moments
    would make steps of any size.
    """
    frozen = settings.corrected * (i >= settings.num_warmup)
    left = frozen * settings.memory**settings.num_warmup
    moment = jnp.maximum(second_moment - left, 0.0) / (1.0 - left)
    return jnp.where(settings.preconditioned, 1.0 / (jnp.sqrt(moment) + EPSILON), 1.0)


def build(form: Form, structure: Structure) -> Sampler:
    """SGLD on the targets of one form."""

    def gradient(key: PRNGKeyArray, arrays: Arrays, settings: Settings, w: Array) -> Array:
        batch = draw_minibatch(form, arrays, key, settings.batch, structure.rows)
        return jax.grad(lambda w: loss_on(form, arrays, batch, w))(w)

    def init(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> State:
        position = jnp.tile(arrays.w_star, (structure.num_chains, 1))
        return State(position, jnp.ones_like(position))

    def step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        batch_key, noise_key = jax.random.split(key)
        w, v = state
        keys = jax.random.split(batch_key, structure.num_chains)
        g = jax.vmap(lambda key, w: gradient(key, arrays, settings, w))(keys, w)
        adapting = i < settings.num_warmup
        moved = settings.memory * v + (1.0 - settings.memory) * g**2
        v = jnp.where(adapting, moved, v)
        p = preconditioner(settings, v, i)
        scaled = eta(settings, i) * p
        drift = arrays.nbeta * g + arrays.gamma * (w - arrays.w_star)
        noise = jax.random.normal(noise_key, w.shape, w.dtype)
        w = w - 0.5 * scaled * drift + jnp.sqrt(scaled) * noise
        return State(w, v), _info(form, arrays, structure, settings)

    def draw(key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array) -> Draw:
        w = state.position
        losses = jax.vmap(lambda w: loss(form, arrays, w))(w)
        distance = jax.vmap(lambda w: squared_distance(arrays, w))(w)
        weight = jnp.full_like(losses, eta(settings, i))
        nothing = jnp.full_like(losses, jnp.nan)
        return Draw(losses, weight, distance, nothing, nothing)

    def summary(arrays: Arrays, settings: Settings, state: State) -> dict[str, Array]:
        p = preconditioner(settings, state.second_moment, settings.num_warmup)
        return {"preconditioner_min": p.min(), "preconditioner_max": p.max()}

    return Sampler(init, step, draw, summary)


def _info(form: Form, arrays: Arrays, structure: Structure, settings: Settings) -> Info:
    share = jnp.minimum(1.0, settings.batch / num_rows(form, arrays))
    zero = jnp.zeros(structure.num_chains, arrays.w_star.dtype)
    nan = zero + jnp.nan
    return Info(acceptance=nan, divergence=zero, energy=nan, work=zero + share)
