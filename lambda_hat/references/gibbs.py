"""Gibbs sampling of deep linear networks, an engine without step size or metric.

A route to the number that shares nothing with HMC but the problem (its moves are in
`lambda_hat.references.layers`). It is checkpointed: a run that is killed, or whose budget was too
short, goes on with the same random numbers.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.diagnostics import effective_draws, ess, rhat
from lambda_hat.problems import Problem
from lambda_hat.references.checkpoint import CHECKPOINT_SECONDS, load_arrays, save_arrays
from lambda_hat.references.engine import Cost, EngineResult, Watch
from lambda_hat.references.gate import no_estimate
from lambda_hat.references.gates import GROWTH, check_gibbs_gates
from lambda_hat.references.layers import Chain, Model, Swept, read_model
from lambda_hat.store import digest
from lambda_hat.traces import Trace

LEAST_SWEEPS = 20
"""Below these there is no estimate."""


def sample_gibbs(
    problem: Problem,
    config: ReferenceConfig,
    *,
    budget_sec: float,
    seed: int,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> EngineResult:
    """The Gibbs part of a reference: estimate, diagnostics, gates and cost.

    Makes `num_draws` sweeps of each chain after `num_warmup`, checks the gates, and makes more
    while only gates fail that more sweeps can fix, until the deadline.

    Args:
        problem: a deep linear network.
        config: chains, sweeps, warm-up.
        budget_sec: wall time, that of earlier runs counted.
        seed: of all chains.
        checkpoint: file to go on from and to keep.
        watch: is told whenever the gates are checked how the chains stand.

    Returns:
        Its estimate, with draws counted as sweeps by chain; without one a gate says why.
    """
    model, sweeps = read_model(problem), config.num_warmup + config.num_draws
    identity = digest([problem.pid, problem.target_id, seed, config.num_chains])
    chains = _Chains(model, config.num_chains, seed, identity, checkpoint)
    deadline = time.monotonic() + budget_sec - chains.seconds
    while True:
        while sweeps < chains.num_sweeps:  # Check where one run would.
            sweeps = math.ceil(GROWTH * sweeps)
        chains.sweep(sweeps, deadline)
        cost = Cost({"sample": chains.seconds})
        result = _judge(problem, model, chains.kept(config.num_warmup), cost)
        if chains.num_sweeps < sweeps or result.hopeless or not result.failed:
            return result
        if watch:
            watch(result)
        sweeps = math.ceil(GROWTH * sweeps)


class _Chains:
    """Chains side by side, all that is kept of their sweeps, and the file they go on from."""

    def __init__(self, model: Model, num_chains: int, seed: int, identity: str, path: Path | None):
        seeds = [[seed, chain] for chain in range(num_chains)]
        self._chains = [Chain(model, np.random.default_rng(parts)) for parts in seeds]
        self._rows: list[list[Swept]] = []
        self.seconds = 0.0
        """Wall time so far, that of earlier runs counted."""
        self._identity, self._path = identity, path
        if path is not None and (stored := load_arrays(path, identity=identity)):
            self._go_on(*stored)

    @property
    def num_sweeps(self) -> int:
        return len(self._rows)

    def kept(self, num_warmup: int) -> list[list[Swept]]:
        """By sweep after the warm-up, and by chain."""
        return self._rows[num_warmup:]

    def sweep(self, until: int, deadline: float) -> None:
        """Sweeps until there are `until` sweeps, or until the deadline."""
        before, began = self.seconds, time.monotonic()
        saved = began
        while len(self._rows) < until and time.monotonic() < deadline:
            self._rows.append([chain.sweep() for chain in self._chains])
            self.seconds = before + time.monotonic() - began
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        arrays = {"rows": np.array(self._rows)}
        for c, chain in enumerate(self._chains):
            arrays |= {f"layer_{c}_{s}": layer for s, layer in enumerate(chain.layers)}
        header = {
            "identity": self._identity,
            "seconds": self.seconds,
            "rngs": [chain.rng.bit_generator.state for chain in self._chains],
        }
        save_arrays(self._path, header, arrays)

    def _go_on(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.seconds = header["seconds"]
        self._rows = [[Swept(*chain) for chain in row] for row in arrays["rows"].tolist()]
        for c, chain in enumerate(self._chains):
            chain.rng.bit_generator.state = header["rngs"][c]
            chain.layers = [arrays[f"layer_{c}_{s}"] for s in range(len(chain.layers))]


def _judge(problem: Problem, model: Model, rows: list[list[Swept]], cost: Cost) -> EngineResult:
    """Estimate, diagnostics and gates of the sweeps so far."""
    if len(rows) < LEAST_SWEEPS:
        gate = no_estimate(
            "estimate",
            f"`sweeps >= {LEAST_SWEEPS}` must hold after warm-up, but got {len(rows)}. Raise the "
            "HMC budget.",
            fixable_by_more_draws=True,
            value=len(rows),
            threshold=LEAST_SWEEPS,
        )
        return EngineResult(None, None, {}, (gate,), cost, len(rows))
    kept = np.array(rows)
    llc = model.nbeta * (kept[..., 0] - model.excess(model.centre))
    diagnostics = _diagnostics(llc, kept[..., 1] / len(problem.w_star), kept[..., 2])
    mean, se = float(llc.mean()), float(llc.std()) / math.sqrt(diagnostics["ess"])
    gates = check_gibbs_gates(llc=mean, se=se, diagnostics=diagnostics, evidence=problem.evidence)
    trace = Trace(llc, kept[..., 2], {"virial": kept[..., 1]})
    return EngineResult(mean, se, diagnostics, tuple(gates), cost, len(rows), trace=trace)


def _diagnostics(llc: np.ndarray, virial: np.ndarray, square: np.ndarray) -> dict[str, Any]:
    """What the gates look at, from traces (sweeps, chains): LLC, virial ratio, |w - w*|^2."""
    return {
        "rhat": rhat(llc),
        "ess": effective_draws(llc),
        "ess_bulk": ess(llc, "bulk"),
        "ess_tail": ess(llc, "tail"),
        "num_draws": llc.size,
        "virial_ratio": float(virial.mean()),
        "virial_se": float(virial.std()) / math.sqrt(effective_draws(virial)),
        "mean_distance": float(np.sqrt(square.mean())),
    }
