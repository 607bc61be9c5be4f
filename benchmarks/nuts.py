"""NUTS of other libraries on the targets of references: BlackJAX's, and NumPyro's if installed.

NumPyro is no dependency of this project: `pip install numpyro` has `benchmarks/references.py
--nuts` run it as well. Both have 4 chains, a warm-up of 1000 transitions with each chain's own
window adaptation (a dense metric up to 256 parameters), and start at w*, give or take 0.001.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.diagnostics import ess, rhat
from lambda_hat.problems import Problem
from lambda_hat.target import Target, logdensity, squared_distance

CHAINS, WARMUP, CHUNK = 4, 1_000, 25
"""Chains, as many as a reference has; draws between two looks at the clock."""
DENSE_UP_TO = 256
TARGET_ACCEPT = 0.8
COLUMNS = ("ESS/s", "ESS/1000 gradients", "R-hat", "divergences")


class Drawn(NamedTuple):
    """Of one transition, or of the warm-up."""

    position: Any
    steps: Any
    """Leapfrog steps."""
    divergent: Any


class Nuts(NamedTuple):
    """One chain of a library: functions to be compiled, for many keys at a time."""

    warm_up: Callable[[Any, Any], tuple[Any, Any]]
    """(key, start) -> state, leapfrog steps of the warm-up."""
    draw: Callable[[Any, Any], tuple[Any, Drawn]]
    """(key, state) -> state, one draw."""


def by_blackjax(target: Target, density: Callable) -> Nuts:
    """`blackjax.nuts` after `blackjax.window_adaptation`."""
    adapt: Any = blackjax.window_adaptation(
        blackjax.nuts,
        density,
        is_mass_matrix_diagonal=target.d > DENSE_UP_TO,
        target_acceptance_rate=TARGET_ACCEPT,
    )
    kernel = blackjax.nuts.build_kernel()

    def warm_up(key: Any, start: Any) -> Any:
        (state, parameters), info = adapt.run(key, start, num_steps=WARMUP)
        return (state, parameters), info.info.num_integration_steps.sum()

    def draw(key: Any, carried: Any) -> Any:
        state, parameters = carried
        state, info = kernel(key, state, density, **parameters)
        drawn = Drawn(state.position, info.num_integration_steps, info.is_divergent)
        return (state, parameters), drawn

    return Nuts(warm_up, draw)


def by_numpyro(target: Target, density: Callable) -> Nuts:
    """`numpyro.infer.hmc.hmc(algo="NUTS")`, which keeps its key and adaptation in its state."""
    library = importlib.import_module("numpyro.infer.hmc")
    init, step = library.hmc(lambda w: -density(w), algo="NUTS")

    def warm_up(key: Any, start: Any) -> Any:
        state = init(
            start,
            WARMUP,
            dense_mass=target.d <= DENSE_UP_TO,
            target_accept_prob=TARGET_ACCEPT,
            rng_key=key,
        )

        def one(state: Any, _: Any) -> Any:
            state = step(state)
            return state, state.num_steps

        state, steps = jax.lax.scan(one, state, length=WARMUP)
        return state, steps.sum()

    def draw(key: Any, state: Any) -> Any:
        state = step(state)
        return state, Drawn(state.z, state.num_steps, state.diverging)

    return Nuts(warm_up, draw)


LIBRARIES: dict[str, Callable[[Target, Callable], Nuts]] = {
    "blackjax": by_blackjax,
    "numpyro": by_numpyro,
}


def is_installed(library: str) -> bool:
    """Whether it can be run here."""
    return importlib.util.find_spec(library) is not None


def run_nuts(
    library: str, problem: Problem, seed: int, seconds: float, path: Path
) -> dict[str, float]:
    """What a library's NUTS gives in so many seconds of warm-up and draws; kept in a file."""
    if path.exists():
        return json.loads(path.read_text())
    with jax.enable_x64(True):
        losses, cost = _losses(LIBRARIES[library], problem, seed, seconds)
    found = {"ess": float(ess(losses, "bulk")), "rhat": float(rhat(losses)), **cost}
    path.write_text(json.dumps(found))
    return found


def cells(found: Mapping[str, float]) -> list[str]:
    """Of what NUTS came to, for `COLUMNS`."""
    return [
        f"{found['ess'] / found['seconds']:.3g}",
        f"{1000 * found['ess'] / found['gradients']:.3g}",
        f"{found['rhat']:.4f}",
        f"{100 * found['divergences']:.2g} %",
    ]


def _losses(
    make: Callable[[Target, Callable], Nuts], problem: Problem, seed: int, seconds: float
) -> tuple[np.ndarray, dict[str, float]]:
    """Losses [draws, chains] after the warm-up, and what all cost; seconds without compiling."""
    target = problem.target("float64")
    form, arrays = target.form, target.arrays
    density = functools.partial(logdensity, form, arrays)
    nuts = make(target, density)

    def draws(key: Any, state: Any) -> Any:
        def one(state: Any, key: Any) -> Any:
            state, drawn = nuts.draw(key, state)
            pull = 0.5 * arrays.gamma * squared_distance(arrays, drawn.position)
            loss = -(density(drawn.position) + pull) / arrays.nbeta
            return state, (loss, drawn.steps, drawn.divergent)

        return jax.lax.scan(one, state, jax.random.split(key, CHUNK))

    keys = jax.random.split(jax.random.key(seed), CHAINS)
    starts = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (target.d,)))(keys)
    starts = arrays.w_star + 1e-3 * starts
    programs = jax.jit(jax.vmap(nuts.warm_up)), jax.jit(jax.vmap(draws))
    warmed = programs[0].lower(keys, starts).compile()
    drawn = programs[1].lower(keys, jax.eval_shape(programs[0], keys, starts)[0]).compile()
    began, rows = time.monotonic(), []
    state, work = jax.block_until_ready(warmed(keys, starts))
    gradients = float(jnp.sum(work))
    while not rows or time.monotonic() - began < seconds:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, len(rows)))(keys)
        state, row = jax.block_until_ready(drawn(keys, state))
        rows.append([np.asarray(values).T for values in row])
    took = time.monotonic() - began
    losses, steps, divergent = (np.concatenate(values) for values in zip(*rows, strict=True))
    gradients += float(steps.sum())
    return losses, {
        "seconds": took,
        "gradients": gradients,
        "divergences": float(divergent.mean()),
    }
