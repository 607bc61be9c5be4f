"""Runs the engines that a reference asks for, and decides which of them gives the number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problem import Problem
from lambda_hat.references.engine import Cost, EngineResult
from lambda_hat.references.gates import MIXING, Gate, check_agreement
from lambda_hat.references.gibbs import sample_gibbs
from lambda_hat.references.hmc import sample_hmc
from lambda_hat.references.smc import sample_smc


@dataclass(frozen=True)
class Engine:
    """One way to sample a posterior.

    Attributes:
        label: how sentences call it.
        checkpoint: name of the file beside ref.json that it goes on from.
        sample: runs it, for (problem, config), a budget, a seed and the file.
    """

    label: str
    checkpoint: str
    sample: Callable[..., EngineResult]


ENGINES = {
    "hmc": Engine("HMC", "hmc_chains.ckpt", sample_hmc),
    "smc": Engine("SMC", "smc_runs.json", sample_smc),
    "gibbs": Engine("Gibbs", "gibbs_chains.ckpt", sample_gibbs),
}
"""Engine by its name in `reference.method`."""


@dataclass(frozen=True)
class Verdict:
    """Which engine gives the number, and every gate that this rests on.

    Attributes:
        method: the engine that gives the number.
        gates: what was checked; a reference is `ok` where all of them passed.
        parts: what each engine gave, by its name.
    """

    method: str
    gates: tuple[Gate, ...]
    parts: Mapping[str, EngineResult]

    @property
    def number(self) -> tuple[float | None, float | None]:
        """The estimate and its standard error; None where there is none."""
        chosen = self.parts[self.method]
        return _finite(chosen.llc), _finite(chosen.se)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that speak against it."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def cost(self) -> Cost:
        """Of all engines together."""
        return sum((part.cost for part in self.parts.values()), Cost())


def sample_reference(
    problem: Problem, config: ReferenceConfig, *, budget_sec: float, seed: int, folder: Path
) -> Verdict:
    """Runs what `config.method` asks for and decides.

    With `both`, HMC has the first half of the budget and SMC what is left.

    Args:
        problem: what to sample.
        config: methods and their settings.
        budget_sec: wall time of all, that of earlier runs counted.
        seed: of chains and particles.
        folder: where the chains' and the runs' checkpoints lie.
    """
    began = time.monotonic()
    names = ("hmc", "smc") if config.method == "both" else (config.method,)
    parts: dict[str, EngineResult] = {}
    for name in names:
        left = budget_sec - (time.monotonic() - began)
        parts[name] = ENGINES[name].sample(
            problem,
            config,
            budget_sec=left / 2 if name != names[-1] else left,
            seed=seed,
            checkpoint=folder / ENGINES[name].checkpoint,
        )
    return decide(parts)


def decide(parts: Mapping[str, EngineResult]) -> Verdict:
    """The verdict on one engine's result, or on those of HMC and SMC.

    Of two, HMC gives the number and both must pass and agree; where only HMC's chains mix too
    slowly and SMC passes, SMC takes over.

    Args:
        parts: what each engine gave, by its name.
    """
    if len(parts) == 1:
        ((name, part),) = parts.items()
        return Verdict(name, part.gates, parts)
    hmc, smc = parts["hmc"], parts["smc"]
    if hmc.failed and not smc.failed and all(gate.name in MIXING for gate in hmc.failed):
        return Verdict("smc", smc.gates, parts)
    gates = tuple(_labelled(gate, name) for name, part in parts.items() for gate in part.gates)
    if not hmc.failed and not smc.failed:
        gates += (check_agreement(_estimate(hmc), _estimate(smc)),)
    return Verdict("hmc", gates, parts)


def _labelled(gate: Gate, name: str) -> Gate:
    """The gate, with its sentence saying which engine it is of."""
    return replace(gate, sentence=f"{ENGINES[name].label}: {gate.sentence}")


def _estimate(part: EngineResult) -> tuple[float, float]:
    """Number and standard error of an engine whose gates passed, and which therefore has both."""
    assert part.llc is not None and part.se is not None
    return part.llc, part.se


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
