"""Adaptive tempered SMC from the tether to the posterior, an engine in float64.

An independent route to the number HMC gives: it starts from exact draws, needs no chain to cross
a barrier, and takes its error from the spread of independent runs, which covers everything that
is random in one (see `lambda_hat.references.annealing`).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.intervals import error_of_mean
from lambda_hat.problems import Problem
from lambda_hat.references.annealing import Clock, OutOfTime, Run, compile_for
from lambda_hat.references.engine import Cost, EngineResult, Watch
from lambda_hat.references.gate import no_estimate
from lambda_hat.references.particle_gates import MIN_RUNS, check_smc_gates
from lambda_hat.store import digest, read_or_quarantine, write_json
from lambda_hat.traces import Trace

_LOG = logging.getLogger(__name__)


def sample_smc(
    problem: Problem,
    config: ReferenceConfig,
    *,
    budget_sec: float,
    seed: int,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> EngineResult:
    """The SMC part of a reference: estimate, diagnostics, gates and cost.

    Makes `num_runs` independent runs, checks the gates, and makes more while only gates fail that
    more runs can fix, until the deadline. A run that the deadline cuts is left out.

    Args:
        problem: what to sample.
        config: particles, runs, metric, acceptance.
        budget_sec: wall time for these runs, that of earlier ones counted.
        seed: of all runs.
        checkpoint: file of finished runs to go on from and to keep.
        watch: is told after every run how they stand.

    Returns:
        Its estimate, with draws counted as particles; without one a gate says why.
    """
    began = time.monotonic()
    identity = digest([problem.pid, problem.target_id, seed, _run_settings(config)])
    runs = _load(checkpoint, identity)
    clock = Clock(deadline=began + budget_sec - sum(run["seconds"] for run in runs))
    with jax.enable_x64(True):
        target = problem.target("float64")
        programs, compiling = compile_for(target, config)
        while True:
            result = _judge(runs, problem, config, compiling=compiling)
            if len(runs) >= config.num_runs and (result.hopeless or not result.failed):
                return result
            if watch:
                watch(result)
            started = time.monotonic()
            try:
                key = jax.random.fold_in(jax.random.key(seed), len(runs))
                run = Run(programs, target, config, key, clock).result()
            except OutOfTime:
                return result
            runs.append({**run, "seconds": time.monotonic() - started})
            if checkpoint is not None:
                write_json(checkpoint, {"identity": identity, "runs": runs})


def _judge(
    runs: list[dict[str, Any]], problem: Problem, config: ReferenceConfig, *, compiling: float
) -> EngineResult:
    """Estimate, diagnostics and gates of the runs so far."""
    seconds = {"sample": sum(run["seconds"] for run in runs), "compile": compiling}
    cost = Cost(seconds, sum(run["work"] for run in runs))
    draws = len(runs) * config.num_particles
    if len(runs) < MIN_RUNS:
        gate = no_estimate(
            "runs",
            f"{len(runs)} of {config.num_runs} SMC runs ended within the budget, below "
            f"{MIN_RUNS}. Raise the HMC budget, or lower reference.num_particles.",
            fixable_by_more_draws=True,
            value=len(runs),
            threshold=MIN_RUNS,
        )
        return EngineResult(None, None, {"num_runs": len(runs)}, (gate,), cost, draws)
    llc, se = _mean(runs, "llc")
    diagnostics = _diagnostics(runs, se)
    gates = check_smc_gates(llc=llc, se=se, diagnostics=diagnostics, evidence=problem.evidence)
    trace = Trace(np.array([[run["llc"]] for run in runs]), None, {})  # A run is a draw.
    return EngineResult(llc, se, diagnostics, tuple(gates), cost, draws, trace=trace)


def _diagnostics(runs: list[dict[str, Any]], se: float) -> dict[str, Any]:
    """Means over the runs, and the worst run where one is enough to doubt."""
    virial, virial_se = _mean(runs, "virial")
    slopes = [run["llc_from_log_z"] for run in runs if run["llc_from_log_z"] is not None]
    column = {
        name: np.array([run[name] for run in runs], float)
        for name in runs[0]
        if name != "llc_from_log_z"
    }
    return {
        "num_runs": len(runs),
        "ess": float(column["variance"].mean() / se**2) if se else None,
        "virial_ratio": virial,
        "virial_se": virial_se,
        "below_minimum_fraction": float(column["below"].mean()),
        "acceptance_rate": float(column["acceptance"].min()),
        "divergence_rate": float(column["divergence"].mean()),
        "unique_ancestors": int(column["unique_ancestors"].min()),
        "leftover_correlation": float(column["leftover"].max()),
        "log_z": float(column["log_z"].mean()),
        "llc_from_log_z": float(np.mean(slopes)) if slopes else None,
        "temperatures": float(column["temperatures"].mean()),
        "sweeps": float(column["sweeps"].mean()),
        "step_size": float(column["step_size"].mean()),
    }


def _mean(runs: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Mean over the runs and its standard error, widened for their small number."""
    values = np.array([run[name] for run in runs])
    return float(values.mean()), error_of_mean(values)


def _run_settings(config: ReferenceConfig) -> dict[str, Any]:
    """What a run depends on; their number is not part of it, so that there can be more."""
    names = ("num_particles", "target_accept", "num_integration_steps", "dense_metric_max_dim")
    return {name: getattr(config, name) for name in names}


def _load(checkpoint: Path | None, identity: str) -> list[dict[str, Any]]:
    """Finished runs of the same settings; a damaged file is set aside with a warning."""
    if checkpoint is None:
        return []
    stored = read_or_quarantine(checkpoint, ("identity", "runs"), _LOG.warning)
    return list(stored["runs"]) if stored and stored["identity"] == identity else []
