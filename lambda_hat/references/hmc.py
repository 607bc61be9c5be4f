"""HMC in float64, with the step sizes and trajectory lengths that its pilot asks for.

A pilot of the chains says what they need. Where too many transitions diverge, they start again
with half the distance between their target acceptance and one, which is to say with smaller
steps; where they mix too slowly for the gates, with longer trajectories. What was tried before
is counted in the cost, and its draws are not used. All of them begin around w*: `confirm_hmc` asks
short chains that begin elsewhere whether that was enough.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from lambda_hat.conf.samplers import HMCConfig, ReferenceConfig
from lambda_hat.problems import Problem
from lambda_hat.references.aids import metric_rank, surrogate_rows
from lambda_hat.references.annealing import OutOfTime
from lambda_hat.references.chain_files import CHECKED
from lambda_hat.references.chains import Chains, Task
from lambda_hat.references.checkpoint import Checkpoint, load_checkpoint
from lambda_hat.references.elsewhere import (
    Elsewhere,
    InOneProcess,
    ShortChains,
    look_elsewhere,
)
from lambda_hat.references.engine import Attempt, Cost, EngineResult, Watch
from lambda_hat.references.gates import check_elsewhere, not_checked_elsewhere
from lambda_hat.references.split import SplitChains, SplitShortChains, help_chains, is_dear
from lambda_hat.samplers import hmc
from lambda_hat.samplers.loop import Runner
from lambda_hat.store import digest

PILOT_DRAWS = 1_000
"""Draws of each chain after which divergences and mixing are looked at for the first time."""
HIGHEST_TARGET_ACCEPT = 0.98
SLOW = 0.02
"""Effective draws a draw below which trajectories are lengthened: 10 000 draws of 4 chains would
give 800 of the 400 that are asked for."""
LONGER = 4
"""Factor by which they are: chains that diffuse gain its square, and cost as much more as it is."""
MOST_INTEGRATION_STEPS = 400
_LAYOUT = 3
"""Of the chains' state in their file: those of another are begun anew."""
_ELSEWHERE_KEY = 1
"""What the key of chains from elsewhere is folded with; theirs is the seed's."""


class Tuning(NamedTuple):
    """What chains are run with, found by trying."""

    target_accept: float
    num_integration_steps: int
    surrogate_rows: int = 0
    """See `aids.surrogate_rows`; chains of earlier versions had none."""
    metric_rank: int = 0
    """See `aids.metric_rank`."""

    @property
    def smaller_steps(self) -> Tuning | None:
        """With half as many rejections; None where steps are as small as they get."""
        nearer = (1.0 + self.target_accept) / 2.0
        return self._replace(target_accept=nearer) if nearer <= HIGHEST_TARGET_ACCEPT else None

    @property
    def longer_trajectories(self) -> Tuning | None:
        """With more leapfrog steps; None where trajectories are as long as they get."""
        more = LONGER * self.num_integration_steps
        return self._replace(num_integration_steps=more) if more <= MOST_INTEGRATION_STEPS else None


def sample_hmc(
    problem: Problem,
    config: ReferenceConfig,
    *,
    budget_sec: float,
    seed: int,
    checkpoint: Path,
    watch: Watch | None = None,
) -> EngineResult:
    """The HMC part of a reference: estimate, diagnostics, gates and cost.

    Runs `num_draws` draws of each chain, checks the gates, and goes on until they hold, until one
    fails that more draws cannot fix, or until the deadline.

    Args:
        problem: what to sample.
        config: chains, draws, warm-up, metric.
        budget_sec: wall time for these chains, that of earlier runs counted.
        seed: of the chains.
        checkpoint: file to go on from and to keep.
        watch: is told from time to time how the chains stand.

    Returns:
        Its estimate, with draws counted by chain; without one a gate says why.
    """
    task = _task(problem, config, seed, checkpoint, watch)
    with jax.enable_x64(True):
        stored = load_checkpoint(checkpoint, identity=task.identity)
        tuning = Tuning(**stored.tuning) if stored else _first_tuning(problem, config)
        attempts = stored.attempts if stored else ()
        deadline = time.monotonic() + budget_sec - (stored.cost.total if stored else 0.0)
        while True:
            chains = _chains(task, tuning, attempts, stored)
            result, other = _run(chains, tuning, config.num_draws, deadline)
            if other is None:
                return result
            because = "divergences" if other.target_accept > tuning.target_accept else "ess_bulk"
            tuning, attempts, stored = other, chains.given_up(because), None


def confirm_hmc(
    problem: Problem,
    config: ReferenceConfig,
    result: EngineResult,
    *,
    budget_sec: float,
    seed: int,
    checkpoint: Path,
) -> EngineResult:
    """The result with one more gate: whether chains that begin elsewhere give the same number.

    Args:
        problem: what was sampled.
        config: as it was then.
        result: what `sample_hmc` gave.
        budget_sec: wall time for this alone.
        seed: of the chains.
        checkpoint: their file.
    """
    began, task = time.monotonic(), _task(problem, config, seed, checkpoint, None)
    stored = load_checkpoint(checkpoint, identity=task.identity)
    if stored is None or result.llc is None or result.se is None:
        return replace(result, gates=(*result.gates, not_checked_elsewhere()))
    found: dict[str, Any] = {}
    work, gate = 0.0, not_checked_elsewhere()
    with jax.enable_x64(True):
        tuning = Tuning(**stored.tuning)
        chains = _chains(task, tuning, stored.attempts, stored)
        key = jax.random.fold_in(jax.random.key(seed), _ELSEWHERE_KEY)
        try:
            short = _short_chains(task, tuning, chains.runner, key, began + budget_sec)
            other = look_elsewhere(short, chains.runner, result.llc, result.se)
        except OutOfTime:
            pass
        else:
            work, gate = sum(other.work.values()), check_elsewhere(other.scatter, len(other.llc))
            found = _told(other)
    cost = Cost({"elsewhere": time.monotonic() - began}, work)
    told = {"gates": (*result.gates, gate), "diagnostics": {**result.diagnostics, **found}}
    return replace(result, cost=result.cost + cost, **told)


def _short_chains(
    task: Task, tuning: Tuning, runner: Runner, key: PRNGKeyArray, deadline: float
) -> ShortChains:
    """Chains from elsewhere, in files where those that they check are."""
    given = {"key": key, "deadline": deadline}
    if is_dear(runner.target):
        config = _hmc_config(task, tuning._asdict())
        return SplitShortChains(task, config, tuning._asdict(), runner, **given)
    return InOneProcess(runner, target_accept=tuning.target_accept, **given)


def _told(other: Elsewhere) -> dict[str, Any]:
    """What the diagnostics have of chains from elsewhere."""
    return {
        "elsewhere_llc": float(other.llc.mean()),
        "elsewhere_llc_se": float(other.llc.std(ddof=1)) / math.sqrt(len(other.llc)),
        "elsewhere_draws": other.draws,
        "elsewhere_most_draws": other.most_draws,
        "elsewhere_temperatures": other.temperatures,
        "elsewhere_work": other.work,
    }


def help_hmc(
    problem: Problem, config: ReferenceConfig, *, budget_sec: float, seed: int, checkpoint: Path
) -> int:
    """Helps another process that runs `sample_hmc`, while it draws; see `help_chains`.

    Args:
        problem: what that one samples.
        config: as it has it.
        budget_sec: wall time of this process.
        seed: of the chains.
        checkpoint: that one's file.

    Returns:
        How many times it went on with a chain; 0 where there was nothing to do.
    """
    task = _task(problem, config, seed, checkpoint, None)
    return help_chains(task, functools.partial(_hmc_config, task), budget_sec=budget_sec)


def _first_tuning(problem: Problem, config: ReferenceConfig) -> Tuning:
    target = problem.target(hmc.DTYPE)
    rank = metric_rank(target, config.dense_metric_max_dim)
    steps = config.num_integration_steps
    rows = surrogate_rows(target, config.dense_metric_max_dim)
    return Tuning(config.target_accept, steps, rows, rank)


def _task(
    problem: Problem, config: ReferenceConfig, seed: int, checkpoint: Path, watch: Watch | None
) -> Task:
    return Task(problem, config, seed, checkpoint, identity_of(problem, config, seed), watch)


def identity_of(problem: Problem, config: ReferenceConfig, seed: int) -> str:
    """What the chains in a file are of; only the same are gone on with."""
    settings = {**_chain_settings(config), "layout": _LAYOUT}
    return digest([problem.pid, problem.target_id, seed, settings])


def _chains(
    task: Task, tuning: Tuning, attempts: tuple[Attempt, ...], stored: Checkpoint | None
) -> Chains:
    """Chains at their starts, or where `stored` left them."""
    config, resume = _hmc_config(task, tuning._asdict()), stored.rebuild if stored else None
    given = {"tuning": tuning._asdict(), "attempts": attempts, "resume": resume}
    if is_dear(task.problem.target(hmc.DTYPE)):
        return SplitChains(task, CHECKED, config, **given)
    return Chains(task, hmc, config, **given)


def _hmc_config(task: Task, tuning: Mapping[str, Any]) -> HMCConfig:
    steps = task.config.num_warmup + task.config.num_draws
    names = {field.name for field in fields(HMCConfig)}
    found = {name: value for name, value in tuning.items() if name in names}
    # Widths by gradients are narrow where some draws are, and those that could spread never do.
    given = {"steps": steps, "gradient_widths": False}
    return HMCConfig(**{**given, **_chain_settings(task.config), **found})


def _run(
    chains: Chains, tuning: Tuning, num_draws: int, deadline: float
) -> tuple[EngineResult, Tuning | None]:
    """Draws until gates or deadline; a tuning asks for a new start with it."""
    pilot = min(PILOT_DRAWS, num_draws)
    if chains.num_draws <= pilot:
        chains.draw(pilot, deadline)
        if chains.num_draws >= pilot:
            result = chains.check()
            if other := _better_tuning(chains, tuning, result, deadline):
                return result, other
    result = chains.run(num_draws, deadline)
    failed = result.finished and result.hopeless and "divergences" in _names(result)
    return result, tuning.smaller_steps if failed and time.monotonic() < deadline else None


def _better_tuning(
    chains: Chains, tuning: Tuning, result: EngineResult, deadline: float
) -> Tuning | None:
    """What the pilot says should be tried instead, if there is time for its own pilot."""
    left = deadline - time.monotonic()
    if "estimate" in _names(result) or left <= 0:
        return None
    if "divergences" in _names(result) and (smaller := tuning.smaller_steps):
        return smaller
    effective, size = chains.slowest_ess()
    if effective >= SLOW * size or left < LONGER * chains.seconds:
        return None
    return tuning.longer_trajectories


def _chain_settings(config: ReferenceConfig) -> dict[str, Any]:
    """What the chains depend on; their length is not part of it, so that they can grow."""
    names = ("num_chains", "num_warmup", "target_accept", "num_integration_steps")
    return {name: getattr(config, name) for name in (*names, "dense_metric_max_dim")}


def _names(result: EngineResult) -> set[str]:
    """Of the gates that failed."""
    return {gate.name for gate in result.failed}
