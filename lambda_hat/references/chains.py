"""Chains of one engine with one tuning: their gates, and the file they go on from.

A run that is killed, or whose budget was too short, continues from its checkpoint: step i uses
the same random numbers whenever it runs, so that the draws are those of an uninterrupted run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.diagnostics import diagnose, ess
from lambda_hat.llc import NoEstimate, estimate_llc
from lambda_hat.problems import Problem
from lambda_hat.references.aids import aided
from lambda_hat.references.checkpoint import CHECKPOINT_SECONDS, save_checkpoint
from lambda_hat.references.engine import Attempt, Cost, EngineResult, Watch
from lambda_hat.references.gate import Gate, no_estimate
from lambda_hat.references.gates import check_gates
from lambda_hat.references.stopping import is_precise, looks
from lambda_hat.samplers.base import Draws
from lambda_hat.samplers.loop import Progress, Runner
from lambda_hat.target import Target
from lambda_hat.traces import trace_of


@dataclass(frozen=True)
class Task:
    """What an engine made of chains is asked for.

    Attributes:
        problem: what to sample.
        config: chains, draws, warm-up, metric.
        seed: of the chains.
        checkpoint: file to go on from and to keep.
        identity: what the chains are of; only the same are gone on with.
        watch: is told from time to time how they stand.
    """

    problem: Problem
    config: ReferenceConfig
    seed: int
    checkpoint: Path
    identity: str
    watch: Watch | None = None


Measure = Callable[[Any, Target], tuple[dict[str, Any], list[Gate]]]
"""What an engine adds to the diagnostics and gates that all chains have, from their state."""


class Chains:
    """Chains with one tuning.

    Args:
        task: what they are for.
        method: a sampler's module.
        config: its settings.
        tuning: what was found by trying; kept in the file, and told with the diagnostics.
        attempts: chains with other tunings before these.
        resume: rebuilds the progress of a file.
        measure: diagnostics and gates of the engine's own.
    """

    def __init__(
        self,
        task: Task,
        method: Any,
        config: Any,
        *,
        tuning: dict[str, Any],
        attempts: tuple[Attempt, ...],
        resume: Callable[[Any], Progress] | None,
        measure: Measure | None = None,
    ):
        self._task, self._tuning, self._attempts = task, tuning, attempts
        self._measure, self._saved = measure, time.monotonic()
        target, seconds = aided(task.problem, method.DTYPE, tuning)
        key = jax.random.key(task.seed)
        self._runner = Runner(method, target, config, key=key, resume=resume)
        self._runner.progress.seconds["compile"] += seconds

    @property
    def num_draws(self) -> int:
        """Draws of each chain so far."""
        return self._runner.progress.num_draws

    @property
    def seconds(self) -> float:
        """What these chains have cost so far."""
        return sum(self._runner.progress.seconds.values())

    @property
    def runner(self) -> Runner:
        """What runs them."""
        return self._runner

    @property
    def state(self) -> Any:
        """Where the chains stand."""
        return self._runner.progress.state

    def slowest_ess(self) -> tuple[float, int]:
        """Effective draws of losses or distances from w*, whichever are fewer, and all draws."""
        draws = self._runner.draws()
        return min(ess(draws.loss, "bulk"), ess(draws.distance, "bulk")), draws.loss.size

    def draw(self, num_draws: int, deadline: float) -> None:
        """Draws until each chain has `num_draws`, or until the deadline."""
        self._runner.run(
            deadline=deadline, num_draws=num_draws, on_chunk=self._look, cut_warmup=False
        )

    def run(self, wanted: int, deadline: float) -> EngineResult:
        """Draws `wanted` draws of each chain, or fewer if they are precise enough before.

        It goes on until the gates hold, and ends at the deadline or where a gate fails that more
        draws cannot fix.
        """
        # One run would have gone on where these chains have more draws.
        left = itertools.dropwhile(lambda look: look < self.num_draws, looks(wanted))
        while True:
            self.draw(look := next(left), deadline)
            result, drawn = self.check(), self.num_draws >= look
            precise = drawn and is_precise(result, self._task.config.relative_se)
            complete = drawn and look >= wanted
            ends = complete and (not result.failed or result.hopeless)
            if precise or ends or not drawn or time.monotonic() >= deadline:
                self.save()
                stopped = self._runner.progress.diverged
                return replace(result, finished=precise or complete or stopped)

    def check(self) -> EngineResult:
        """Estimate, diagnostics and gates of all draws so far."""
        runner, problem = self._runner, self._task.problem
        draws = runner.draws()
        own = Cost(dict(runner.progress.seconds), draws.work_total)
        cost = sum((attempt.cost for attempt in self._attempts), own)
        nothing = EngineResult(None, None, {}, (), cost, len(draws.loss), self._attempts)
        try:
            estimate = estimate_llc(
                draws, nbeta=runner.target.nbeta, init_loss=problem.init_loss, trim=False
            )
        except NoEstimate as reason:
            fixable = not runner.progress.diverged
            gate = no_estimate("estimate", str(reason), fixable_by_more_draws=fixable)
            return replace(nothing, gates=(gate,))
        found = replace(nothing, llc=estimate.llc_hat, se=estimate.se_hat)
        return self._judged(found, draws)

    def _judged(self, found: EngineResult, draws: Draws) -> EngineResult:
        runner, problem = self._runner, self._task.problem
        assert found.llc is not None and found.se is not None
        own, gates = self._measure(self.state, runner.target) if self._measure else ({}, [])
        diagnostics = {
            **diagnose(draws, target=runner.target, init_loss=problem.init_loss),
            **runner.summary(),
            **self._tuning,
            **own,
        }
        common = check_gates(
            llc=found.llc,
            se=found.se,
            diagnostics=diagnostics,
            evidence=problem.evidence,
            float64=str(runner.target.arrays.w_star.dtype) == "float64",
        )
        trace = trace_of(draws, nbeta=runner.target.nbeta, init_loss=problem.init_loss)
        return replace(found, diagnostics=diagnostics, gates=(*common, *gates), trace=trace)

    def given_up(self, because: str) -> tuple[Attempt, ...]:
        """These chains and those before them, as attempts."""
        cost = self.check().own_cost
        return (*self._attempts, Attempt(self._tuning, because, cost))

    def save(self) -> None:
        """Writes the file."""
        save_checkpoint(
            self._task.checkpoint,
            identity=self._task.identity,
            tuning=self._tuning,
            attempts=self._attempts,
            progress=self._to_save(),
        )
        self._saved = time.monotonic()

    def _to_save(self) -> Progress:
        """What of their progress the file has."""
        return self._runner.progress

    def _look(self, progress: Progress) -> None:
        """Between two chunks: writes the file and tells how the chains stand, now and then."""
        if time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            self.save()
            if self._task.watch:
                self._task.watch(self.check())
