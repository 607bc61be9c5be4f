"""Replica exchange between the tether and the posterior.

For posteriors that chains at one temperature cannot cross (see `lambda_hat.references.exchange`).
A short pilot measures the barrier between tether and posterior, which says how many rungs there
must be, and whether steps must be smaller, so that transitions do not diverge. What was tried is
counted in the cost, and its draws are not used.

Besides draws of the posterior a run gives log Z and the LLC at every temperature.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problems import Problem
from lambda_hat.references import exchange, ladder
from lambda_hat.references.aids import surrogate_rows
from lambda_hat.references.chain_files import LADDERS
from lambda_hat.references.chains import Chains, Task
from lambda_hat.references.checkpoint import load_checkpoint
from lambda_hat.references.engine import Attempt, EngineResult, Watch
from lambda_hat.references.gate import Gate
from lambda_hat.references.gates import DIVERGENCE_RATE, check_round_trips
from lambda_hat.references.split import SplitChains, help_chains, is_dear
from lambda_hat.store import digest
from lambda_hat.target import Target, loss

PILOT_RUNGS = 8
PILOT_DRAWS = 250
PILOT_WARMUP = 4
"""The pilot's adaptation is so many times shorter."""
FIRST_DRAWS = 1_000
"""Iterations after which divergences are looked at again."""
DRAWS_A_CHECK = 5
"""Gates are checked first after so many times fewer iterations than draws of a plain chain: one
iteration moves every rung, and swaps make its draws nearly independent."""
TETHER_DRAWS = 256
TARGET_ACCEPT = 0.9
"""Of steps that differ by a factor of ten; the largest would be accepted less often."""
LEAST_FACTOR = 1 / 16
"""A rate that was measured on few draws makes steps no smaller than that, at once."""
SMALLEST_SCALE = 1 / 256
_LAYOUT = 3
"""Of the ladders' state in their file: those of another are begun anew."""


class Tuning(NamedTuple):
    """What ladders are run with, found by trying."""

    temperatures: tuple[float, ...]
    step_scale: float
    pilot: bool
    surrogate_rows: int = 0

    def after(self, result: EngineResult, temperatures: tuple[float, ...]) -> Tuning:
        """With these temperatures, and with steps so small that transitions do not diverge."""
        smaller = _smaller(self.step_scale, result)
        return self._replace(temperatures=temperatures, step_scale=smaller, pilot=False)


def sample_tempering(
    problem: Problem,
    config: ReferenceConfig,
    *,
    budget_sec: float,
    seed: int,
    checkpoint: Path,
    watch: Watch | None = None,
) -> EngineResult:
    """The replica-exchange part of a reference: estimate, diagnostics, gates and cost.

    Checks the gates after a fifth of `num_draws` iterations, and goes on until they hold, until
    one fails that more draws cannot fix, or until the deadline.

    Args:
        problem: what to sample.
        config: ladders (`num_chains`), iterations, warm-up, metric.
        budget_sec: wall time for these ladders, that of earlier runs counted.
        seed: of the ladders.
        checkpoint: file to go on from and to keep.
        watch: is told from time to time how the ladders stand.

    Returns:
        Its estimate, with draws counted by ladder; without one a gate says why.
    """
    task = _task(problem, config, seed, checkpoint, watch)
    with jax.enable_x64(True):
        stored = load_checkpoint(checkpoint, identity=task.identity)
        tuning = _stored_tuning(stored.tuning) if stored else _first_tuning(task)
        attempts = stored.attempts if stored else ()
        deadline = time.monotonic() + budget_sec - (stored.cost.total if stored else 0.0)
        resume = stored.rebuild if stored else None
        while True:
            chains = _chains(task, tuning, attempts, resume)
            result, other = _run(chains, tuning, config, deadline)
            if other is None:
                return result
            because = "pilot" if tuning.pilot else "divergences"
            tuning, attempts, resume = other, chains.given_up(because), None


def help_tempering(
    problem: Problem, config: ReferenceConfig, *, budget_sec: float, seed: int, checkpoint: Path
) -> int:
    """Helps another process that runs `sample_tempering`, while it draws; see `help_chains`.

    Args:
        problem: what that one samples.
        config: as it has it.
        budget_sec: wall time of this process.
        seed: of the ladders.
        checkpoint: that one's file.

    Returns:
        How many times it went on with a ladder; 0 where there was nothing to do.
    """

    def settings(tuning: dict[str, Any]) -> exchange.Config:
        return _exchange_config(config, _stored_tuning(tuning))

    task = _task(problem, config, seed, checkpoint, None)
    return help_chains(task, settings, budget_sec=budget_sec)


def _task(
    problem: Problem, config: ReferenceConfig, seed: int, checkpoint: Path, watch: Watch | None
) -> Task:
    identity = digest([_LAYOUT, problem.pid, problem.target_id, seed, _ladder_settings(config)])
    return Task(problem, config, seed, checkpoint, identity, watch)


def _run(
    chains: Chains, tuning: Tuning, config: ReferenceConfig, deadline: float
) -> tuple[EngineResult, Tuning | None]:
    """Draws until gates or deadline; a tuning asks for a new start with it."""
    if tuning.pilot:
        chains.draw(PILOT_DRAWS, deadline)
        result = chains.check()
        if chains.num_draws < PILOT_DRAWS:
            chains.save()
            return replace(result, finished=False), None
        return result, tuning.after(result, _wanted_temperatures(chains.state))
    if chains.num_draws <= FIRST_DRAWS:
        chains.draw(FIRST_DRAWS, deadline)
        if (result := chains.check()).llc is not None and time.monotonic() < deadline:
            other = tuning.after(result, tuning.temperatures)
            if other != tuning:
                return result, other
    result = chains.run(max(config.num_draws // DRAWS_A_CHECK, FIRST_DRAWS), deadline)
    other = tuning.after(result, tuning.temperatures)
    retry = result.hopeless and other != tuning and time.monotonic() < deadline
    return result, other if retry else None


def _smaller(step_scale: float, result: EngineResult) -> float:
    """A scale of the steps at which fewer transitions diverge than the gate allows.

    The share that diverges falls at least as the square of the steps (2.3 on w1^2 w2^4).
    """
    rate = result.diagnostics.get("divergence_rate", 0.0)
    if rate < DIVERGENCE_RATE:
        return step_scale
    smaller = math.sqrt(0.3 * DIVERGENCE_RATE / rate)
    return max(min(max(smaller, LEAST_FACTOR), 0.5) * step_scale, SMALLEST_SCALE)


def _first_tuning(task: Task) -> Tuning:
    """The pilot's: rungs by equal factors, from where the loss begins to be felt."""
    target = task.problem.target(exchange.DTYPE)
    temperatures = ladder.first_temperatures(_coldest(target, task.seed), PILOT_RUNGS)
    rows = surrogate_rows(target, task.config.dense_metric_max_dim)
    return Tuning(temperatures, 1.0, True, rows)


def _coldest(target: Target, seed: int) -> float:
    """The temperature at which draws of the tether have a median excess nbeta L of one."""
    form, arrays = target.form, target.arrays
    shape = (TETHER_DRAWS, target.d)
    normal = jax.random.normal(jax.random.key(seed), shape, arrays.w_star.dtype)
    losses = jax.jit(lambda arrays, w: jax.lax.map(lambda w: loss(form, arrays, w), w))
    excess = losses(arrays, arrays.w_star + normal / jnp.sqrt(arrays.gamma)) - target.init_loss
    median = float(np.nanmedian(np.abs(np.asarray(excess))))
    return min(0.5, max(1.0 / (target.nbeta * median), 1e-12)) if median > 0 else 0.5


def _wanted_temperatures(state: exchange.State) -> tuple[float, ...]:
    """As many as the pilot's barrier asks for, where it says that they should be."""
    temperatures = np.asarray(state.tuning.temperatures)
    rejection = _rejection(state.totals)
    count = ladder.num_rungs(ladder.barrier_of(rejection))
    moved = ladder.equal_rejection(jnp.asarray(temperatures), jnp.asarray(rejection), count)
    return tuple(np.asarray(moved).tolist())


def _chains(task: Task, tuning: Tuning, attempts: tuple[Attempt, ...], resume: Any) -> Chains:
    """Ladders at their starts, or where they were left; a pilot has too few draws to split."""
    settings = _exchange_config(task.config, tuning)
    measure = functools.partial(_measure, tuning.step_scale)
    given = {"tuning": tuning._asdict(), "attempts": attempts, "resume": resume, "measure": measure}
    if is_dear(task.problem.target(exchange.DTYPE)) and not tuning.pilot:
        return SplitChains(task, LADDERS, settings, **given)
    return Chains(task, exchange, settings, **given)


def _exchange_config(config: ReferenceConfig, tuning: Tuning) -> exchange.Config:
    num_warmup = config.num_warmup // (PILOT_WARMUP if tuning.pilot else 1)
    return exchange.Config(
        temperatures=tuning.temperatures,
        num_chains=config.num_chains,
        num_warmup=num_warmup,
        steps=num_warmup + config.num_draws,
        target_accept=TARGET_ACCEPT,
        step_scale=tuning.step_scale,
        num_integration_steps=config.num_integration_steps,
        dense_metric_max_dim=config.dense_metric_max_dim,
    )


def _measure(
    step_scale: float, state: exchange.State, target: Target
) -> tuple[dict[str, Any], list[Gate]]:
    """What ladders have besides chains: rungs, round trips, log Z."""
    totals, trips = state.totals, np.asarray(state.round_trips)
    temperatures, count = np.asarray(state.tuning.temperatures), np.asarray(totals.iterations)
    acceptance = np.asarray(totals.acceptance) / count
    llc = temperatures[:, None] * target.nbeta * np.asarray(totals.excess) / count
    log_z = np.log(np.asarray(totals.weight) / count).sum(axis=0)
    rejection = _rejection(totals)
    found = {
        "temperatures": temperatures.tolist(),
        "llc_by_temperature": llc.mean(axis=1).tolist(),
        "llc_by_temperature_se": _error(llc).tolist(),
        "swap_rejection": rejection.tolist(),
        "barrier": float(rejection.sum()),
        "acceptance_by_temperature": acceptance.mean(axis=1).tolist(),
        "step_sizes": (step_scale * np.exp(np.asarray(state.tuning.log_step_size))).tolist(),
        "round_trips": trips.tolist(),
        "log_z": float(log_z.mean()),
        "log_z_se": float(_error(log_z)),
    }
    return found, [check_round_trips(trips.tolist())]


def _rejection(totals: exchange.Totals) -> np.ndarray:
    """Share of the swaps of each pair of neighbours that were rejected."""
    return 1.0 - np.mean(np.asarray(totals.swap) / np.asarray(totals.iterations), axis=1)


def _error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over ladders, the last axis."""
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])


def _stored_tuning(stored: dict[str, Any]) -> Tuning:
    return Tuning(**{**stored, "temperatures": tuple(stored["temperatures"])})


def _ladder_settings(config: ReferenceConfig) -> dict[str, Any]:
    """What the ladders depend on; their length is not part of it, so that they can grow."""
    names = ("num_chains", "num_warmup", "num_integration_steps")
    return {name: getattr(config, name) for name in (*names, "dense_metric_max_dim")}
