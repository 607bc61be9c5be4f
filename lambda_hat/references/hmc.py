"""Problem -> Reference: HMC in float64 until its gates hold, checkpointed so that it goes on.

A run that is killed, or whose budget was too short, continues from its checkpoint: step i uses
the same random numbers whenever it runs, so that the draws are those of an uninterrupted run.
A pilot of the chains says what they need. Where too many transitions diverge, they start again
with half the distance between their target acceptance and one, which is to say with smaller
steps; where they mix too slowly for the gates, with longer trajectories. What was tried before
is counted in the cost, and its draws are not used.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lambda_hat.conf.samplers import HMCConfig, ReferenceConfig
from lambda_hat.diagnostics import diagnose, ess
from lambda_hat.llc import NoEstimate, estimate_llc
from lambda_hat.problem import Problem
from lambda_hat.references.checkpoint import CHECKPOINT_SECONDS, load_checkpoint, save_checkpoint
from lambda_hat.references.engine import Cost, EngineResult
from lambda_hat.references.gates import GROWTH, check_gates, no_estimate
from lambda_hat.samplers import hmc
from lambda_hat.samplers.loop import Progress, Runner
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


class Tuning(NamedTuple):
    """What chains are run with, found by trying."""

    target_accept: float
    num_integration_steps: int

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
    problem: Problem, config: ReferenceConfig, *, budget_sec: float, seed: int, checkpoint: Path
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

    Returns:
        Its estimate, with draws counted by chain; without one a gate says why.
    """
    identity = digest([problem.pid, problem.target_id, seed, _chain_settings(config)])
    with jax.enable_x64(True):
        stored = load_checkpoint(checkpoint, identity=identity)
        first = Tuning(config.target_accept, config.num_integration_steps)
        tuning = Tuning(**stored.tuning) if stored else first
        abandoned = stored.abandoned if stored else Cost()
        deadline = time.monotonic() + budget_sec - (stored.cost.total if stored else 0.0)
        while True:
            chains = _Chains(problem, config, tuning, seed, identity, checkpoint, abandoned)
            chains.start(stored.rebuild if stored else None)
            result, other = chains.run(deadline)
            if other is None:
                return result
            stored, tuning = None, other
            abandoned = result.cost


class _Chains:
    """The chains with one tuning."""

    def __init__(
        self,
        problem: Problem,
        config: ReferenceConfig,
        tuning: Tuning,
        seed: int,
        identity: str,
        checkpoint: Path,
        abandoned: Cost,
    ):
        self._problem, self._config, self._tuning = problem, config, tuning
        self._seed, self._identity, self._path = seed, identity, checkpoint
        self._abandoned = abandoned
        self._saved = time.monotonic()

    def start(self, resume: Any) -> None:
        """Puts the chains at their starts, or where `resume` left them."""
        settings = _chain_settings(self._config) | self._tuning._asdict()
        steps = self._config.num_warmup + self._config.num_draws
        self._runner = Runner(
            hmc,
            self._problem.target(hmc.DTYPE),
            HMCConfig(**{"steps": steps, **settings}),
            key=jax.random.key(self._seed),
            resume=resume,
        )

    def run(self, deadline: float) -> tuple[EngineResult, Tuning | None]:
        """Draws until gates or deadline; a tuning asks for a new start with it."""
        wanted, pilot = self._config.num_draws, min(PILOT_DRAWS, self._config.num_draws)
        if self._runner.progress.num_draws <= pilot:
            self._draw(pilot, deadline)
            result = self._judge()
            if other := self._better_tuning(result, deadline):
                return result, other
        while True:
            while wanted < self._runner.progress.num_draws:  # Check where one run would.
                wanted = math.ceil(wanted * GROWTH)
            self._draw(wanted, deadline)
            result = self._judge()
            done = self._runner.progress.num_draws < wanted or not result.failed
            if done or _over(deadline) or result.hopeless:
                self._save(self._runner.progress)
                retry = not (done or _over(deadline)) and "divergences" in _names(result)
                return result, self._tuning.smaller_steps if retry else None
            wanted = math.ceil(wanted * GROWTH)

    def _better_tuning(self, result: EngineResult, deadline: float) -> Tuning | None:
        """What the pilot says should be tried instead, if there is time for its own pilot."""
        left = deadline - time.monotonic()
        if "estimate" in _names(result) or left <= 0:
            return None
        if "divergences" in _names(result) and (smaller := self._tuning.smaller_steps):
            return smaller
        if self._mixes(result) or left < LONGER * sum(self._runner.progress.seconds.values()):
            return None
        return self._tuning.longer_trajectories

    def _mixes(self, result: EngineResult) -> bool:
        """Whether losses and distances from w* change fast enough for the gates."""
        distance = self._runner.draws().distance
        slowest = min(result.diagnostics["ess_bulk"], ess(distance, "bulk"))
        return slowest >= SLOW * distance.size

    def _draw(self, num_draws: int, deadline: float) -> None:
        self._runner.run(
            deadline=deadline, num_draws=num_draws, on_chunk=self._checkpoint, cut_warmup=False
        )

    def _judge(self) -> EngineResult:
        """Estimate, diagnostics and gates of all draws so far."""
        runner, problem = self._runner, self._problem
        draws = runner.draws()
        cost = self._abandoned + Cost(runner.progress.seconds, draws.work_total)
        try:
            estimate = estimate_llc(
                draws, nbeta=runner.target.nbeta, init_loss=problem.init_loss, trim=False
            )
        except NoEstimate as reason:
            fixable = not runner.progress.diverged
            gate = no_estimate("estimate", str(reason), fixable_by_more_draws=fixable)
            return EngineResult(None, None, {}, (gate,), cost, len(draws.loss))
        llc, se = estimate.llc_hat, estimate.se_hat
        diagnostics = {
            **diagnose(draws, target=runner.target, init_loss=problem.init_loss),
            **runner.summary(),
            **self._tuning._asdict(),
        }
        gates = check_gates(
            llc=llc,
            se=se,
            diagnostics=diagnostics,
            evidence=problem.evidence,
            float64=str(runner.target.arrays.w_star.dtype) == "float64",
        )
        return EngineResult(llc, se, diagnostics, tuple(gates), cost, len(draws.loss))

    def _checkpoint(self, progress: Progress) -> None:
        if time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        save_checkpoint(
            self._path,
            identity=self._identity,
            tuning=self._tuning._asdict(),
            abandoned=self._abandoned,
            progress=progress,
        )
        self._saved = time.monotonic()


def _chain_settings(config: ReferenceConfig) -> dict[str, Any]:
    """What the chains depend on; their length is not part of it, so that they can grow."""
    names = ("num_chains", "num_warmup", "target_accept", "num_integration_steps")
    return {name: getattr(config, name) for name in (*names, "dense_metric_max_dim")}


def _names(result: EngineResult) -> set[str]:
    """Of the gates that failed."""
    return {gate.name for gate in result.failed}


def _over(deadline: float) -> bool:
    return time.monotonic() >= deadline
